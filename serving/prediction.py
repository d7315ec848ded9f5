"""Predict rows without labels, in their order, batched by length, in constant memory."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from ..data.errors import RowError
from ..tasks.base import Task
from ..tasks.encoding import OVERFLOW_COLUMNS, Answer, Row, Settings
from ..tasks.models import continues
from ..tasks.windows import OverflowCounts
from .engines import Writer

# The number of characters that are read ahead, and the number that a row counts in addition to its own.
READ_AHEAD, ROW = 2**18, 64
# The number of positions in the cache of generated text that count as one token of a batch.
WRITTEN = 4


@dataclass
class EncodedRows:
    """Rows as inputs of the model, one sequence each, or several windows.

    Args:
        rows: as they were read.
        inputs: the model's inputs by name, one list a sequence.
        positions: where each sequence is predicted, if not everywhere.
        document: index of each sequence's row.
        cut: the number of tokens of its text that each sequence does not have, because it was too long.
    """

    rows: list[Row]
    inputs: dict[str, list[list[int]]]
    positions: list[np.ndarray]
    document: list[int]
    cut: list[int] = field(default_factory=list)

    @property
    def lengths(self) -> list[int]:
        """The number of tokens of each sequence."""
        return [len(ids) for ids in self.inputs["input_ids"]]


@dataclass
class RowPredictor:
    """Answers rows with a saved model: encode, compute, decode.

    Rows that were encoded apart can be computed together. Encoding and decoding use the tokenizer, which is not safe
    in several threads at a time; computing does not.

    Args:
        task: the task of the model.
        model: the model, in evaluation mode.
        settings: the settings of the task.
        max_tokens: the most that a batch costs (see `cost`), unless it is a single sequence.
        generation: arguments of `model.generate`.
        overflow: counts the rows that were too long.
    """

    task: Task
    model: PreTrainedModel
    settings: Settings
    max_tokens: int
    generation: dict[str, Any] = field(default_factory=dict)
    overflow: OverflowCounts = field(default_factory=OverflowCounts)

    def answers(self, rows: Iterable[Row]) -> Iterator[Answer]:
        """One answer per row, in the order of the rows; its first entry is the row's input.

        Raises:
            RowError: a row cannot be read.
        """
        count = 0
        for chunk in read_ahead(rows):
            try:
                encoded = self.encode(chunk)
                (outputs,) = self.compute([encoded])
                answers = self.decode(encoded, outputs)
            except RowError as error:
                raise RowError(count + error.row, error.reason) from error
            count += len(chunk)
            for row, answer in zip(chunk, answers, strict=True):
                inputs = [row["text"]] if "spans" in row else [row[name] for name in self.task.inputs if name in row]
                yield {"input": inputs[0] if len(inputs) == 1 else inputs, **answer}

    def encode(self, rows: list[Row]) -> EncodedRows:
        """Rows of a reader as inputs of the model. Raises RowError if a row cannot be read."""
        self.task.check_rows(rows, self.settings)
        features = self.task.read_rows(rows, self.settings)
        self.overflow.add(**{name: features[name] for name in OVERFLOW_COLUMNS})
        names = (*self.settings.tokenizer.model_input_names, "token_type_ids")
        inputs = {name: features[name] for name in names if name in features}
        positions = features.get("positions", [np.empty(0, dtype=int)] * len(features["input_ids"]))
        return EncodedRows(rows, inputs, positions, features["document"], features["cut"])

    @torch.inference_mode()
    def compute(
        self,
        parts: Sequence[EncodedRows],
        generation: Mapping[str, Any] | None = None,
        begin_batch: Callable[[list[int]], dict[str, Any]] | None = None,
    ) -> list[list[Any]]:
        """The outputs of the model, one a sequence, for rows that are computed together.

        Args:
            parts: rows that were encoded together, or apart.
            generation: arguments of `model.generate` in place of those of this predictor.
            begin_batch: is called before each batch with the indices of its sequences among all; returns further
                arguments of `model.generate`.

        Raises:
            RowError: a sequence is too long for the model, or its output is not finite; the row is counted among those
                of all parts.
        """
        arguments = dict(self.generation if generation is None else generation)
        inputs = {name: [ids for part in parts for ids in part.inputs[name]] for name in parts[0].inputs}
        positions = [each for part in parts for each in part.positions]
        # The row of each sequence.
        firsts = itertools.accumulate((len(part.rows) for part in parts), initial=0)
        rows = [first + row for first, part in zip(firsts, parts, strict=False) for row in part.document]
        outputs: list[Any] = [None] * len(positions)
        for batch in self.batches([length for part in parts for length in part.lengths], arguments):
            padded = self.settings.tokenizer.pad(
                {name: [values[index] for index in batch] for name, values in inputs.items()},
                padding_side=self.task.padding_side,
                return_tensors="pt",
            ).to(self.model.device)
            if begin_batch is not None:
                arguments |= begin_batch(batch)
            try:
                if isinstance(self.model, Writer):
                    found: list[Any] = self.model.write(padded, arguments)
                else:
                    where = [positions[index] for index in batch]
                    found = self.task.run_model(self.model, padded, where, self.settings, arguments)
            except RowError as error:
                raise RowError(rows[batch[error.row]], error.reason) from error
            if "num_return_sequences" in arguments:
                count = arguments["num_return_sequences"]
                found = [found[start : start + count] for start in range(0, len(found), count)]
            for index, output in zip(batch, found, strict=True):
                outputs[index] = output
        for row, output in zip(rows, outputs, strict=True):
            if not is_finite(output):
                raise RowError(row, "the output of the model is not finite (NaN or infinity)")
        remaining = iter(outputs)
        return [list(itertools.islice(remaining, len(part.positions))) for part in parts]

    def batches(self, lengths: list[int], generation: Mapping[str, Any]) -> Iterator[list[int]]:
        """Batches of sequences of similar length, as indices, which cost at most `max_tokens` each or are single."""
        order = np.argsort(lengths, kind="stable")
        ascending, start, counts_prompt = np.asarray(lengths)[order], 0, self.counts_prompt(generation)
        for end in range(1, len(order) + 1):
            if (
                end == len(order)
                or self.cost(ascending[start : end + 1], generation) > self.max_tokens
                or (counts_prompt and ascending[start] != ascending[end])
            ):
                yield order[start:end].tolist()
                start = end

    def counts_prompt(self, generation: Mapping[str, Any]) -> bool:
        """Whether an answer depends on the length of the prompt with its padding, which transformers counts, too."""
        return continues(self.task) and bool(generation.get("min_length") or self.model.generation_config.min_length)

    def cost(self, lengths: Sequence[int] | np.ndarray, generation: Mapping[str, Any]) -> int:
        """The number of tokens that sequences count together in a batch.

        Those that are read have no padding. Generated text has a cache of keys and values for each beam, which is as
        long for all rows.

        Args:
            lengths: of the sequences, in tokens.
            generation: arguments of `model.generate`.
        """
        if self.task.generation is None:
            return int(np.sum(lengths))
        beams = generation.get("num_beams") or self.model.generation_config.num_beams or 1
        return -(-len(lengths) * beams * int(np.max(lengths) + self.new_tokens(generation)) // WRITTEN)

    def new_tokens(self, generation: Mapping[str, Any]) -> int:
        """The most tokens that are generated for a row with these arguments of `model.generate`."""
        own = self.model.generation_config
        return generation.get("max_new_tokens") or own.max_new_tokens or own.max_length or 20

    def decode(self, encoded: EncodedRows, outputs: list[Any], settings: Settings | None = None) -> list[Answer]:
        """The answers to rows, from the outputs of their sequences; `settings` replace those of this predictor."""
        return self.task.to_answers(outputs, encoded.document, encoded.rows, settings or self.settings)


def is_finite(output: Any) -> bool:
    """Whether all numbers in an output of a model are finite."""
    if isinstance(output, list | tuple):
        return all(map(is_finite, output))
    return bool(np.isfinite(output).all()) if isinstance(output, float | np.ndarray) else True


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
