"""Tokenizing texts: the settings that a task needs, truncation and windows, and counts of tokens."""

import logging
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

import datasets
import numpy as np
import pyarrow.compute as pc
from transformers import BatchEncoding, PreTrainedTokenizerBase

from ..data.sources import Origin
from ..data.storage import cache_key
from ..scoring.tags import TagConstraints, TagScheme, find_scheme, tag_constraints
from ..tokenization.shortening import shorten, shorten_pairs
from ..version import __version__
from .corruption import Noise
from .windows import check_overlap

logger = logging.getLogger(__name__)

# A row, and rows as columns.
Row = dict[str, Any]
Rows = dict[str, list]
Answer = dict[str, Any]
# Columns that `tokenize` adds to count the tokens that did not fit; no model input.
OVERFLOW_COLUMNS = ("document", "cut", "shortened")
# The longest sequence that may be asked for, in tokens: Arrow counts the tokens of a row in 32 bits. The
# model_max_length of a tokenizer without a limit, 1e30, is beyond the integers of tokenizers.
MAX_LENGTH = 2**31 - 1
# Settings that do not change encoded rows.
NOT_ENCODED = (
    *("origins", "bleu_tokenize", "top_k", "probabilities", "tag_scheme", "decode_tags"),
    *("label_thresholds", "abstain_threshold", "abstain_score"),
)


@dataclass(frozen=True)
class Settings:
    """The settings of a run that a task needs; they do not change.

    Args:
        tokenizer: turns texts into tokens and back.
        labels: the label names, in the order of their ids; empty for language models.
        problem_type: the problem type of sequence classification.
        max_length: longest sequence in tokens, or the block length of a causal language model.
        max_source_length: longest source, in tokens.
        max_target_length: longest target, in tokens, with its end token.
        token_types: whether the model reads token_type_ids.
        seed: decides what is masked or cut out in evaluation.
        origins: the sources of the rows of each split, for messages.
        overflow: how a longer text is read: `truncate`, or `window` for several overlapping sequences.
        overlap: the tokens that two neighbouring windows share; None is a quarter of max_length.
        noise: how much of a text masked-lm and denoising corrupt.
        adds_special_tokens_to_targets: whether targets get the tokenizer's special tokens, with which a converted
            checkpoint was trained; else an end token.
        pack_documents: whether a causal language model reads documents as separate sequences.
        bleu_tokenize: the sacrebleu tokenizer of BLEU; None chooses it by the script of the references.
        top_k: the number of labels, or of tokens for a mask, in an answer, the most probable first.
        probabilities: whether an answer lists the probability of every label.
        tag_scheme: the scheme of the tags in the model's configuration.
        decode_tags: how tags are chosen: `legal` or `greedy`; see tags.py.
        label_thresholds: of several labels, the probability above which each is predicted; None: 0.5.
        abstain_threshold: of one label, the score below which an answer abstains; None: none does.
        abstain_score: that score, `probability` or `energy`; see `answer_scores`.
    """

    tokenizer: PreTrainedTokenizerBase
    labels: list[str]
    problem_type: str | None
    max_length: int
    max_source_length: int
    max_target_length: int
    token_types: bool
    seed: int
    origins: dict[str, Origin] = field(default_factory=dict)
    overflow: str = "truncate"
    overlap: int | None = None
    noise: Noise = field(default_factory=Noise)
    adds_special_tokens_to_targets: bool = False
    pack_documents: bool = False
    bleu_tokenize: str | None = None
    top_k: int = 5
    probabilities: bool = False
    tag_scheme: str | None = None
    decode_tags: str = "legal"
    label_thresholds: list[float] | None = None
    abstain_threshold: float | None = None
    abstain_score: str = "probability"

    @classmethod
    def for_scoring(cls, labels: list[str], problem_type: str | None, tag_scheme: str | None) -> "Settings":
        """What scoring reads of the settings: there is no tokenizer, and the lengths are 0."""
        return cls(None, labels, problem_type, 0, 0, 0, token_types=False, seed=0, tag_scheme=tag_scheme)

    @cached_property
    def scheme(self) -> TagScheme | None:
        """The scheme of the labels as tags."""
        return find_scheme(self.labels, self.tag_scheme)

    @cached_property
    def tag_constraints(self) -> TagConstraints | None:
        """The legal sequences of tags; None if each tag is chosen by itself."""
        return tag_constraints(self.labels, self.scheme, self.decode_tags)

    @cached_property
    def label_ids(self) -> dict[str, int]:
        """The id of each label."""
        return {name: index for index, name in enumerate(self.labels)}

    def source_of(self, split: str) -> str:
        """The files or the data set of a split, for messages; without origins the split's name."""
        return str(self.origins.get(split, split))

    def place_of(self, split: str, index: int) -> str:
        """The place of a row of a split, for messages."""
        if split in self.origins:
            return self.origins[split].row(index + 1)
        return f"{split}: row {index + 1}"

    @property
    def stride(self) -> int:
        """The overlap; tokenizers name it `stride`."""
        return self.max_length // 4 if self.overlap is None else self.overlap

    @property
    def windows(self) -> bool:
        """Whether a long text becomes several sequences."""
        return self.overflow == "window"


def encoding_key(settings: Settings) -> str:
    """Cache key of encoded rows: a hash of the tokenizer's files, the version and all settings but NOT_ENCODED."""
    names = [each.name for each in fields(settings) if each.name not in ("tokenizer", *NOT_ENCODED)]
    with tempfile.TemporaryDirectory() as directory, no_truncation(settings.tokenizer):
        files = settings.tokenizer.save_pretrained(directory)
        return cache_key(files, __version__, [getattr(settings, name) for name in names])


@contextmanager
def no_truncation(tokenizer: PreTrainedTokenizerBase) -> Iterator[None]:
    """Inside, a fast tokenizer has no truncation and no padding; otherwise it saves those of its last call."""
    if not tokenizer.is_fast:
        yield
        return
    backend = tokenizer.backend_tokenizer
    truncation, padding = backend.truncation, backend.padding
    backend.no_truncation()
    backend.no_padding()
    try:
        yield
    finally:
        if truncation is not None:
            backend.enable_truncation(**truncation)
        if padding is not None:
            backend.enable_padding(**padding)


def tokenize(
    settings: Settings, texts: list, pairs: list | None = None, max_length: int | None = None, **kwargs: Any
) -> BatchEncoding:
    """Tokenize texts, or pairs of texts, with special tokens. An empty sequence becomes one end token.

    Returns:
        One sequence for each text, or for each window; `document`, the index of its text; `cut`, the number of tokens
        of the text that are in no sequence; and `shortened`, whether `cut` is a lower bound, because the text was
        shortened before it was tokenized.
    """
    max_length = max_length or settings.max_length
    unsure = [0] * len(texts)
    if not kwargs.get("is_split_into_words"):
        texts, pairs, unsure = shorten_texts(settings, texts, pairs, max_length)
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
    cut = [0] * len(document)
    if not windows:
        counts = count_cut_tokens(settings, inputs, features, max_length, **kwargs)
        cut = [count - other for count, other in zip(counts, unsure, strict=True)]
    end = {"input_ids": settings.tokenizer.eos_token_id, "attention_mask": 1, "special_tokens_mask": 1}
    for row in (row for row, ids in enumerate(features["input_ids"]) if not ids):
        for name in features:
            features[name][row] = [end.get(name, 0)]
    features.update(document=document, cut=cut, shortened=[unsure[row] > 0 for row in document])
    return features


def shorten_texts(
    settings: Settings, texts: list[str], pairs: list[str] | None, max_length: int
) -> tuple[list[str], list[str] | None, list[int]]:
    """The texts, or pairs of texts, that the tokenizer gets for sequences of max_length tokens.

    Returns:
        The texts; the second ones of pairs; and for each the number of tokens that may differ, see `shorten`.
    """
    if settings.windows:
        return texts, pairs, [0] * len(texts)
    if pairs is not None:
        return shorten_pairs(settings.tokenizer, texts, pairs, max_length)
    shortened, unsure = shorten(settings.tokenizer, texts, max_length)
    return shortened, None, unsure


def count_cut_tokens(
    settings: Settings, inputs: dict[str, list], features: BatchEncoding, max_length: int, **kwargs: Any
) -> list[int]:
    """The number of tokens of each text, or pair of texts, that were cut off at max_length."""
    tokenizer, kept = settings.tokenizer, features["input_ids"]
    full = [row for row, ids in enumerate(kept) if len(ids) >= max_length]

    def count(rows: list[int]) -> dict[int, int]:
        texts = {name: [values[row] for row in rows] for name, values in inputs.items()}
        whole = tokenizer(**texts, verbose=False, **kwargs)["input_ids"] if rows else []
        return {row: len(ids) - len(kept[row]) for row, ids in zip(rows, whole, strict=True)}

    cut = count(full[:1])
    if tokenizer.is_fast and len(inputs) == 1:
        # The encoding has the parts that were cut off, each with special tokens. For pairs their sum is wrong.
        special = tokenizer.num_special_tokens_to_add() if kwargs.get("add_special_tokens", True) else 0
        parts = {row: sum(len(part) - special for part in features.encodings[row].overflowing) for row in full}
        # Older versions have some of the parts only, which the first row shows.
        if all(parts[row] == cut[row] for row in full[:1]):
            return [parts.get(row, 0) for row in range(len(kept))]
    cut |= count(full[1:])
    return [cut.get(row, 0) for row in range(len(kept))]


def with_cut(found: list, count: int, default: Any, tokenizer: PreTrainedTokenizerBase) -> list:
    """What was found for the words or masks that were read, and a default for those that were cut off.

    Args:
        found: for each that was read.
        count: the number of all in the text.
        default: for each that was cut off.
        tokenizer: has the side on which texts are cut.
    """
    missing = [default] * (count - len(found))
    return [*missing, *found] if tokenizer.truncation_side == "left" else [*found, *missing]


def leading_special_tokens(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The special tokens before a text, such as `<s>` of Llama; none if the tokenizer appends one, too."""
    if appends_special_token(tokenizer):
        return []
    return list(tokenizer("")["input_ids"])


def appends_special_token(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer puts a special token after a text; it would end a text that is to be continued."""
    mask = tokenizer("a", return_special_tokens_mask=True)["special_tokens_mask"]
    return bool(mask) and mask[-1] == 1


def count_tokens(rows: Iterable[dict[str, Any]], columns: tuple[str, ...]) -> np.ndarray:
    """The number of tokens (N,) that each row has in these columns together."""
    if isinstance(rows, datasets.Dataset):
        # Arrow counts without making a Python list for each row.
        tables = rows.select_columns(list(columns)).with_format("arrow").iter(10_000)
        counts = [sum(pc.list_value_length(table[column]).to_numpy() for column in columns) for table in tables]
        return np.concatenate(counts)
    return np.array([sum(len(row[column]) for column in columns) for row in rows])


def fill(totals: np.ndarray, max_tokens: int) -> list[int]:
    """Fill batches with rows, in order, as long as they fit. Returns the first row of each batch.

    Args:
        totals: cumulative sum of the numbers of tokens in the rows (N,).
        max_tokens: maximum number of tokens in a batch; no row has more.
    """
    starts, end, before = [], 0, 0
    while end < len(totals):
        starts.append(end)
        end = int(np.searchsorted(totals, before + max_tokens, side="right"))
        before = totals[end - 1]
    return starts
