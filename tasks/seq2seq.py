"""Sequence to sequence: generate a target text from a source text, token by token."""

import logging
from collections.abc import Callable
from typing import Any

import datasets
import numpy as np
import torch
from transformers import (
    AutoModelForSeq2SeqLM,
    BatchEncoding,
    DataCollatorForSeq2Seq,
    EvalPrediction,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ..data.columns import Schema
from ..data.kinds import ONE_TARGET, REFERENCES, TEXT
from ..scoring.row_metrics import RowSums, sums_of_texts
from ..tokenization.kinds import as_plain_text, is_trained_here
from ..tokenization.shortening import shorten
from .base import Positions, Task, Written, generate, mean_probabilities, row_slices, written_answers
from .corruption import IGNORE
from .encoding import Answer, Row, Rows, Settings, count_cut_tokens, tokenize

logger = logging.getLogger(__name__)


class Seq2Seq(Task):
    """Generate a target text from a source text."""

    name = "seq2seq-lm"
    auto_class = AutoModelForSeq2SeqLM
    architecture = "encoder-decoder"
    inputs = ("source",)
    reference = "target"
    text_columns = ("source", "target")
    options = ("bleu_tokenize",)
    generates = True
    generation = {}

    def make_schema(self, problem_type: str | None) -> Schema:
        """A source and a target; in validation and test a target may be a list of references."""
        return Schema(
            {"source": TEXT, "target": ONE_TARGET}, evaluation_kinds={"target": REFERENCES}, answers=("target",)
        )

    def check(self, rows: datasets.Dataset, settings: Settings, split: str) -> None:
        """Warn about targets that the tokenizer cannot restore exactly: no prediction can equal them.

        A target far longer than max_target_length is shortened before, as in training.
        """
        tokenizer, changed, example = settings.tokenizer, 0, ("", "")
        for batch in rows.select_columns("target").iter(1000):
            texts, _ = shorten_targets(tokenizer, first_targets(batch["target"]), settings.max_target_length)
            decoded = decode(tokenizer, encode_targets(tokenizer, texts, verbose=False)["input_ids"])
            different = [pair for pair in zip(texts, decoded, strict=True) if pair[0] != pair[1]]
            example = different[0] if different and not changed else example
            changed += len(different)
        if changed:
            message = "%s: the tokenizer changes %d of %d targets: %r becomes %r"
            logger.warning(message, settings.source_of(split), changed, len(rows), *example)

    def encode(self, batch: Rows, settings: Settings) -> Rows:
        """Sources; the labels are the tokens of the target (the first one of several references) and the end token."""
        tokenizer, special = settings.tokenizer, settings.adds_special_tokens_to_targets
        features = tokenize(settings, batch["source"], max_length=settings.max_source_length)
        end = [] if special else [tokenizer.eos_token_id]
        limit = settings.max_target_length - len(end)
        texts, unsure = shorten_targets(tokenizer, first_targets(batch["target"]), limit)
        targets = encode_targets(tokenizer, texts, special, truncation=True, max_length=limit)
        cut = count_cut_tokens(settings, {"text_target": texts}, targets, limit, add_special_tokens=special)
        cut = [count - other for count, other in zip(cut, unsure, strict=True)]
        features["cut"] = [sum(both) for both in zip(features["cut"], cut, strict=True)]
        features["shortened"] = [any(both) for both in zip(features["shortened"], unsure, strict=True)]
        return {**features, "labels": [[*ids, *end] for ids in targets["input_ids"]]}

    def make_collator(self, settings: Settings) -> Callable[[list[Row]], dict[str, torch.Tensor]]:
        """Pads sources and labels."""
        return DataCollatorForSeq2Seq(settings.tokenizer)

    def answer(self, predicted: EvalPrediction, rows: datasets.Dataset, settings: Settings) -> list[Answer]:
        """The generated texts."""
        tokenizer = settings.tokenizer
        tokens = np.where(predicted.predictions == IGNORE, tokenizer.pad_token_id, predicted.predictions)
        return [{"prediction": text} for text in decode(tokenizer, tokens)]

    def score(self, answers: list[Answer], rows: datasets.Dataset, settings: Settings) -> dict[str, float | str]:
        """BLEU, chrF, exact match and error rates."""
        from ..scoring.metrics import Seq2SeqMetric

        predictions = [answer["prediction"] for answer in answers]
        return Seq2SeqMetric().compute(
            predictions=predictions, references=list(rows["target"]), bleu_tokenize=settings.bleu_tokenize
        )

    def main_metric(self, settings: Settings) -> str:
        """chrF, which tells models apart that write no text exactly, whatever the script."""
        return "chrf"

    def row_sums(self, predictions: list[Any], references: list[Any], settings: Settings) -> dict[str, RowSums]:
        """Exact match and error rates."""
        return sums_of_texts(predictions, references)

    def read_rows(self, rows: list[Row], settings: Settings) -> BatchEncoding:
        """Sources."""
        return tokenize(settings, [row["source"] for row in rows], max_length=settings.max_source_length)

    def run_model(
        self,
        model: PreTrainedModel,
        inputs: BatchEncoding,
        positions: Positions,
        settings: Settings,
        generation: dict[str, Any],
    ) -> list[Written]:
        """The generated tokens of each sequence, and the geometric mean of their probabilities."""
        sequences, inputs = generate(model, inputs, generation)
        generated, scores = sequences[:, 1:], []
        for rows in row_slices(len(sequences), generated.shape[1] * model.config.decoder.vocab_size):
            part = {name: values[rows] for name, values in inputs.items()}
            logits = model(**part, decoder_input_ids=sequences[rows, :-1], use_cache=False).logits
            scores += mean_probabilities(logits, generated[rows], model.generation_config.eos_token_id)
        return list(zip(generated.tolist(), scores, strict=True))

    def to_answers(
        self, outputs: list[Written | list[Written]], document: list[int], rows: list[Row], settings: Settings
    ) -> list[Answer]:
        """The generated texts and their scores."""
        return written_answers(outputs, settings.tokenizer)

    def answer_options(self, problem_type: str | None) -> tuple[str, ...]:
        """The number of texts."""
        return ("num_answers",)


def first_targets(targets: list[str | list[str]]) -> list[str]:
    """The target of each row, or the first of its references."""
    return [each if isinstance(each, str) else each[0] for each in targets]


def encode_targets(
    tokenizer: PreTrainedTokenizerBase, texts: list[str], add_special_tokens: bool = False, **kwargs: Any
) -> BatchEncoding:
    """The tokens of targets, by default without an end token.

    A tokenizer trained here reads a target that spells a special token, such as "[SEP]", as plain text, because
    decoding skips special tokens. Other tokenizers read the special token, as the user may have put it there.
    """
    as_text = is_trained_here(tokenizer)
    texts = as_plain_text(tokenizer, texts) if as_text else texts
    given = {"add_special_tokens": add_special_tokens, "split_special_tokens": as_text}
    return tokenizer(text_target=texts, **given, **kwargs)


def shorten_targets(tokenizer: PreTrainedTokenizerBase, texts: list[str], room: int) -> tuple[list[str], list[int]]:
    """As `shorten`, for `encode_targets`."""
    return shorten(tokenizer, texts, room, split_special_tokens=is_trained_here(tokenizer))


def decode(tokenizer: PreTrainedTokenizerBase, tokens: list[list[int]] | np.ndarray) -> list[str]:
    """The texts of tokens (B, T), without special tokens."""
    return tokenizer.batch_decode(tokens, skip_special_tokens=True)
