"""Predict rows without labels, in their order, batched by length, in constant memory."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from ..data.errors import RowError
from ..tasks.base import Task
from ..tasks.encoding import OVERFLOW_COLUMNS, Answer, Row, Settings, fill
from ..tasks.windows import OverflowCounts
from .engines import Writer

# The number of characters that are read ahead, and the number that a row counts in addition to its own.
READ_AHEAD, ROW = 2**18, 64


@dataclass
class RowPredictor:
    """Answers rows with a saved model.

    Args:
        task: the task of the model.
        model: the model, in evaluation mode.
        settings: the settings of the task.
        max_tokens: maximum number of tokens, without padding, in a batch; a longer sequence is a batch of its own.
        generation: arguments of `model.generate`.
        overflow: counts the rows that were too long.
    """

    task: Task
    model: PreTrainedModel
    settings: Settings
    max_tokens: int
    generation: dict[str, int] = field(default_factory=dict)
    overflow: OverflowCounts = field(default_factory=OverflowCounts)

    def answers(self, rows: Iterable[Row]) -> Iterator[Answer]:
        """One answer per row, in the order of the rows; its first entry is the row's input.

        Raises:
            RowError: a row cannot be read.
        """
        count = 0
        for chunk in read_ahead(rows):
            try:
                answers = self.answer(chunk)
            except RowError as error:
                raise RowError(count + error.row, error.reason) from error
            count += len(chunk)
            for row, answer in zip(chunk, answers, strict=True):
                inputs = [row["text"]] if "spans" in row else [row[name] for name in self.task.inputs if name in row]
                yield {"input": inputs[0] if len(inputs) == 1 else inputs, **answer}

    @torch.inference_mode()
    def answer(self, rows: list[Row]) -> list[Answer]:
        """The answers to rows that are processed together."""
        tokenizer = self.settings.tokenizer
        features = self.task.read_rows(rows, self.settings)
        self.overflow.add(**{name: features[name] for name in OVERFLOW_COLUMNS})
        sequences = {
            name: features[name] for name in (*tokenizer.model_input_names, "token_type_ids") if name in features
        }
        positions = features.get("positions", [np.empty(0, dtype=int)] * len(features["input_ids"]))
        outputs: list[Any] = [None] * len(positions)
        for batch in batches_of([len(ids) for ids in features["input_ids"]], self.max_tokens):
            inputs = tokenizer.pad(
                {name: [values[index] for index in batch] for name, values in sequences.items()},
                padding_side=self.task.padding_side,
                return_tensors="pt",
            ).to(self.model.device)
            if isinstance(self.model, Writer):
                found: list[Any] = self.model.write(inputs, self.generation)
            else:
                where = [positions[index] for index in batch]
                found = self.task.run_model(self.model, inputs, where, self.settings, self.generation)
            for index, output in zip(batch, found, strict=True):
                outputs[index] = output
        return self.task.to_answers(outputs, features["document"], rows, self.settings)


def read_ahead(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """Chunks of rows with at least READ_AHEAD characters each; the last chunk may be smaller."""
    chunk, size = [], 0
    for row in rows:
        chunk.append(row)
        size += sum(ROW + count_characters(value) for value in row.values())
        if size >= READ_AHEAD:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def count_characters(value: str | list) -> int:
    """The number of characters of a text, of words or of messages; a pair, such as a span, counts two."""
    if isinstance(value, str):
        return len(value)
    return sum(sum(map(len, each.values())) if isinstance(each, dict) else len(each) for each in value)


def batches_of(lengths: list[int], max_tokens: int) -> list[list[int]]:
    """Batches of sequences of similar length, as indices, with at most max_tokens each."""
    order = np.argsort(lengths, kind="stable")
    totals = np.asarray(lengths)[order].cumsum()
    starts = fill(totals, max(max_tokens, max(lengths)))
    return [batch.tolist() for batch in np.split(order, starts[1:])]
