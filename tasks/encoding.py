"""From texts to tokens: what a task needs to know of a run, where a text is cut, and how rows become sequences."""

import logging
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

import datasets
import numpy as np
import pyarrow.compute as pc
from datasets.fingerprint import Hasher
from transformers import BatchEncoding, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ..data.storage import cache_key, map_cached
from ..data.streams import RowStream
from ..version import __version__
from .corruption import Noise
from .shortening import shorten, shorten_pairs
from .windows import OverflowCounts, check_overlap

SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]

logger = logging.getLogger(__name__)

Rows = dict[str, list]
Encoder = Callable[[Rows], Rows]
Answer = dict[str, Any]
# Columns that `tokenize` adds to count what did not fit; the model does not read them.
OVERFLOW_COLUMNS = ("document", "cut", "shortened")
# Settings that change nothing of what is encoded.
NOT_ENCODED = ("where", "bleu_tokenize")


@dataclass(frozen=True)
class Settings:
    """What a task needs to know of this run.

    Args:
        tokenizer: turns texts into tokens and back.
        labels: the label names, in the order of their ids; empty for language models.
        problem_type: of sequence classification.
        max_length: longest sequence in tokens, or block of a causal language model.
        max_source_length: of a source.
        max_target_length: of a target, with its end token.
        token_types: whether the model reads token_type_ids.
        seed: decides what is masked or cut out in evaluation.
        where: the file that each split comes from, for messages.
        overflow: what becomes of a text longer than that: `truncate`, or `window`, several sequences.
        overlap: how many tokens of a text two windows have in common; None is a quarter of max_length.
        noise: what a language model is to put back.
        pack_documents: whether the documents of a causal language model are kept apart.
        bleu_tokenize: the tokenizer of sacrebleu that BLEU counts by; None is that of the references' script.
    """

    tokenizer: PreTrainedTokenizerBase
    labels: list[str]
    problem_type: str | None
    max_length: int
    max_source_length: int
    max_target_length: int
    token_types: bool
    seed: int
    where: dict[str, str] = field(default_factory=dict)
    overflow: str = "truncate"
    overlap: int | None = None
    noise: Noise = field(default_factory=Noise)
    pack_documents: bool = False
    bleu_tokenize: str | None = None

    @property
    def label_ids(self) -> dict[str, int]:
        return {name: index for index, name in enumerate(self.labels)}

    @property
    def stride(self) -> int:
        """What tokenizers call the overlap."""
        return self.max_length // 4 if self.overlap is None else self.overlap

    @property
    def windows(self) -> bool:
        return self.overflow == "window"

    @cached_property
    def key(self) -> str:
        """Equal for equal settings, by which what was encoded before is found again; NOT_ENCODED does not matter."""
        if self.tokenizer.is_fast:
            # What the last call left there, which the next one sets anew.
            self.tokenizer.backend_tokenizer.no_truncation()
            self.tokenizer.backend_tokenizer.no_padding()
        facts = [getattr(self, each.name) for each in fields(self) if each.name not in ("tokenizer", *NOT_ENCODED)]
        with tempfile.TemporaryDirectory() as directory:
            return cache_key(self.tokenizer.save_pretrained(directory), __version__, facts)


def encode_rows(
    rows: datasets.Dataset, split: str, settings: Settings, function: Encoder, workers: int | None = None
) -> datasets.Dataset:
    """Apply `function` to batches of rows; nothing else of the rows stays. What did not fit is told in one line.

    Args:
        rows: as read.
        split: for messages.
        settings: those that `function` was made with.
        function: may give several sequences of a row; a column `document` then says which row each is of.
        workers: how many processes share the rows; None is this one alone.
    """

    def encode(batch: Rows, indices: list[int]) -> Rows:
        features = function(batch)
        if "document" in features:
            features = {**features, "document": [indices[row] for row in features["document"]]}
        return features

    encoded = map_cached(
        rows,
        encode,
        # Calling a tokenizer changes it, and with it the fingerprint that would be made of the function.
        Hasher.hash([rows._fingerprint, function.__qualname__, settings.key, OVERFLOW_COLUMNS]),
        batched=True,
        with_indices=True,
        remove_columns=rows.column_names,
        num_proc=workers,
        desc=f"Tokenizing {split}",
    )
    if "cut" not in encoded.column_names:
        return encoded
    overflow = OverflowCounts()
    overflow.add(**encoded.select_columns(OVERFLOW_COLUMNS).with_format("numpy")[:])
    if overflow.long:
        logger.warning("%s: %s", split, overflow)
    return encoded.remove_columns([name for name in OVERFLOW_COLUMNS if name != "document" or not settings.windows])


def encode_blocks(rows: RowStream, split: str, function: Encoder) -> RowStream:
    """Apply `function` to each block of rows, when it is read. What did not fit is told now and then, in one line."""
    overflow, blocks = OverflowCounts(), 0

    def encode(block: Rows) -> Rows:
        nonlocal blocks
        features = function(block)
        if "cut" not in features:
            return features
        blocks += 1
        overflow.add(**{name: features[name] for name in OVERFLOW_COLUMNS})
        # After the first block, the second, the fourth, the eighth and so on.
        if overflow.long and blocks & (blocks - 1) == 0:
            logger.warning("%s, so far: %s", split, overflow)
        return {name: column for name, column in features.items() if name not in OVERFLOW_COLUMNS}

    return rows.map(encode)


def tokenize(
    settings: Settings, texts: list, pairs: list | None = None, max_length: int | None = None, **kwargs: Any
) -> BatchEncoding:
    """Tokens with the special tokens that the tokenizer adds; where there would be none, the end token alone.

    Returns:
        One sequence for each text, or for each window; `document`, the index of the text that it is of; `cut`, the
        number of tokens of the text that are in no sequence; and `shortened`, whether they are more, as not all of the
        text was tokenized.
    """
    max_length = max_length or settings.max_length
    shortened = [False] * len(texts)
    if not settings.windows and not kwargs.get("is_split_into_words"):
        if pairs is None:
            texts, shortened = shorten(settings.tokenizer, texts, max_length)
        else:
            texts, pairs, shortened = shorten_pairs(settings.tokenizer, texts, pairs, max_length)
    inputs = {"text": texts} if pairs is None else {"text": texts, "text_pair": pairs}
    windows = {}
    if settings.windows:
        check_overlap(settings.tokenizer, max_length, settings.stride, pairs is not None)
        windows = {"stride": settings.stride, "return_overflowing_tokens": True}
    features = settings.tokenizer(
        **inputs,
        truncation=True,
        max_length=max_length,
        return_token_type_ids=settings.token_types,
        **windows,
        **kwargs,
    )
    document = features.pop("overflow_to_sample_mapping", list(range(len(texts))))
    cut = [0] * len(document) if windows else cut_off(settings, inputs, features, max_length, **kwargs)
    end = {"input_ids": settings.tokenizer.eos_token_id, "attention_mask": 1, "special_tokens_mask": 1}
    for row in (row for row, ids in enumerate(features["input_ids"]) if not ids):
        for name in features:
            features[name][row] = [end.get(name, 0)]
    features.update(document=document, cut=cut, shortened=[shortened[row] for row in document])
    return features


def cut_off(
    settings: Settings, inputs: dict[str, list], features: BatchEncoding, max_length: int, **kwargs: Any
) -> list[int]:
    """How many tokens of each text, or pair of texts, are more than max_length."""
    tokenizer, kept = settings.tokenizer, features["input_ids"]
    cut = [0] * len(kept)
    full = [row for row, ids in enumerate(kept) if len(ids) >= max_length]
    if tokenizer.is_fast and len(inputs) == 1:
        # It has cut off parts that have special tokens of their own. Those of a pair tell nothing.
        special = tokenizer.num_special_tokens_to_add() if kwargs.get("add_special_tokens", True) else 0
        for row in full:
            cut[row] = sum(len(part) - special for part in features.encodings[row].overflowing)
    elif full:
        texts = {name: [values[row] for row in full] for name, values in inputs.items()}
        for row, ids in zip(full, tokenizer(**texts, verbose=False, **kwargs)["input_ids"], strict=True):
            cut[row] = len(ids) - len(kept[row])
    return cut


def count_tokens(rows: Iterable[dict[str, Any]], columns: tuple[str, ...]) -> np.ndarray:
    """How many tokens each row has in these columns together."""
    if isinstance(rows, datasets.Dataset):
        # Without making a list of every row.
        tables = rows.select_columns(list(columns)).with_format("arrow").iter(10_000)
        counts = [sum(pc.list_value_length(table[column]).to_numpy() for column in columns) for table in tables]
        return np.concatenate(counts)
    return np.array([sum(len(row[column]) for column in columns) for row in rows])


def fill(totals: np.ndarray, max_tokens: int) -> list[int]:
    """Where each batch begins if it takes as many rows as fit.

    Args:
        totals: the tokens of each row and all before it (N,).
        max_tokens: of a batch; no row has more.
    """
    starts, end, before = [], 0, 0
    while end < len(totals):
        starts.append(end)
        end = int(np.searchsorted(totals, before + max_tokens, side="right"))
        before = totals[end - 1]
    return starts


def is_trained_here(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether `train_tokenizer` made it, in this run or an earlier one: its class and special tokens tell."""
    first = tokenizer.convert_ids_to_tokens(range(min(len(tokenizer), len(SPECIAL_TOKENS))))
    ends = (tokenizer.bos_token, tokenizer.eos_token)
    return type(tokenizer) is PreTrainedTokenizerFast and first == SPECIAL_TOKENS and ends == ("[CLS]", "[SEP]")
