"""The explorer: what a model answers to a row, and what it blends for it, as the data of a page."""

import json
from dataclasses import dataclass, replace
from typing import Any

from transformers import PreTrainedModel

from ..data.errors import InputError
from ..modeling.attention import Role
from ..tasks.base import Task
from ..tasks.encoding import Row, Settings
from ..tasks.models import part_configs
from .packing import pack_layers
from .recording import SEQUENCES, Layer
from .registry import SHAPES
from .shapes import CLASSES, EncodedRow, Result, Setup, TokenSequence, as_json

# The most tokens of a sequence that are read: the memory for attention weights grows with the square.
MOST_READ = 1024
TITLES: dict[Role, tuple[str, str]] = {
    "self": ("Self-attention", "Each token (row) takes from every token (column)."),
    "masked self": ("Masked self-attention", "Each token (row) takes from itself and the tokens before it (columns)."),
    "cross": ("Cross-attention", "Each target token (row) takes from the source tokens (columns)."),
}
PARTS: dict[Role, str] = {"self": "Encoder: ", "masked self": "Decoder: ", "cross": "Decoder to encoder: "}


@dataclass(frozen=True)
class Limits:
    """How much a page shows.

    Args:
        tokens: the most tokens of each sequence.
        size: the most bytes of weights and vectors.

    Raises:
        InputError: a number is too small.
    """

    tokens: int = 64
    size: int = 900_000

    def __post_init__(self) -> None:
        if not isinstance(self.tokens, int) or self.tokens < 2:
            raise InputError(f"max_tokens: must be 2 or more, got {self.tokens!r}")
        if not isinstance(self.size, int) or self.size < 0:
            raise InputError(f"max_size: must be a number of bytes, got {self.size!r}")


DEFAULT_LIMITS = Limits()


class Explorer:
    """Explores rows with a saved model.

    A tokenizer is not safe in several threads at a time, and computing needs none: so `read` and `data` may run in
    one thread and `compute` in another.

    Args:
        model: in evaluation mode.
        task: of the model.
        settings: of the task.
        generation: arguments of `model.generate`.
        name: of the model, for the page.
        limits: how much a page shows.

    Raises:
        InputError: the task, or the engine of the model, cannot be explored.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        task: Task,
        settings: Settings,
        generation: dict[str, Any],
        name: str,
        limits: Limits = DEFAULT_LIMITS,
    ):
        if task.name not in SHAPES:
            raise InputError(f"{name}: models of {task.name} cannot be explored; those of {', '.join(SHAPES)} can")
        if not isinstance(model, PreTrainedModel):
            raise InputError(f"{name}: is no single model of torch, so that there is no attention to show")
        self.reads_windows = settings.windows
        length = min(settings.max_length, MOST_READ)
        settings = replace(
            settings,
            max_length=length,
            max_source_length=length,
            overflow="truncate",
            probabilities=False,
            top_k=CLASSES,
        )
        self.shape, self.name, self.limits = SHAPES[task.name], name, limits
        self.setup = Setup(model, task, settings, generation, limits.tokens)

    def explore(self, row: Row) -> dict[str, Any]:
        """The data of the page of a row. Raises RowError if it cannot be read."""
        encoded = self.read(row)
        return self.data(encoded, self.compute(encoded))

    def read(self, row: Row) -> EncodedRow:
        """Tokenize a row. Raises RowError if it cannot be read."""
        return self.shape.read(row, self.setup)

    def compute(self, encoded: EncodedRow) -> Result:
        """Compute the answer, and what it came from."""
        return self.shape.compute(encoded, self.setup)

    def data(self, encoded: EncodedRow, result: Result) -> dict[str, Any]:
        """The data of the page, which can be written as JSON."""
        answer = self.shape.answer(encoded, result, self.setup)
        try:
            json.dumps(answer, allow_nan=False)
        except ValueError as error:
            raise InputError(f"{self.name}: the answer has a number that is not finite") from error
        sequences = self.shape.sequences(encoded, result, self.setup.settings)
        kinds = {role: layers for role in SEQUENCES if (layers := result.recording.of(role))}
        carried, notes = pack_layers(list(kinds.values()), self.limits.size)
        attention = [
            {**self.describe(role, layers, sequences, result.visible), "layers": entries}
            for (role, layers), entries in zip(kinds.items(), carried, strict=True)
        ]
        return {
            "model": self.name,
            "about": self.about(),
            "kind": self.shape.kind,
            "answer": answer,
            "attention": attention,
            "notes": [*self.shape.notes(result, self.setup), *self.notes(encoded, result, sequences), *notes],
        }

    def describe(
        self,
        role: Role,
        layers: list[Layer],
        sequences: dict[Role, TokenSequence],
        visible: dict[Role, slice],
    ) -> dict[str, Any]:
        """One kind of attention: its title, its axes, and the sizes of its vectors."""
        queries, keys = (sequences[name] for name in SEQUENCES[role])
        rows, columns = (visible[name] for name in SEQUENCES[role])
        title, text = TITLES[role]
        is_pair = self.setup.model.config.is_encoder_decoder
        return {
            "role": role,
            "title": PARTS[role] + title.lower() if is_pair else title,
            "text": text,
            "rows": as_json((queries.queries or queries.keys)[rows]),
            "columns": as_json(keys.keys[columns]),
            "rowName": f"{queries.name} that is written" if queries.queries else queries.name,
            "columnName": keys.name,
            "rowsShown": [rows.start, queries.total],
            "columnsShown": [columns.start, keys.total],
            "heads": layers[0].weights.shape[0],
            "keyHeads": layers[0].keys.shape[0],
            "headSize": layers[0].keys.shape[2],
            "scaling": layers[0].scaling,
            "hasBiases": layers[0].biases is not None,
        }

    def about(self) -> str:
        """What the model is, in a line."""
        config = self.setup.model.config
        parts = [
            f"{counted(part.num_hidden_layers, 'layer')} × "
            + (part.mixer_type.upper() if part.is_recurrent else counted(part.num_attention_heads, "head"))
            for part in part_configs(config)
        ]
        kind = config.model_type.removeprefix("blend_").replace("_", "-")
        return f"{kind}, {' and '.join(parts)}, {self.setup.model.num_parameters():,} parameters"

    def notes(self, encoded: EncodedRow, result: Result, sequences: dict[Role, TokenSequence]) -> list[str]:
        """Sentences on what is not shown."""
        notes = []
        if cut := encoded.features["cut"][0]:
            number = f"At least {cut}" if encoded.features["shortened"][0] else f"{cut}"
            notes.append(f"{number} tokens of the input were not read: it has more than {len(encoded.tokens)}.")
            if self.reads_windows:
                part = "end" if self.setup.settings.tokenizer.truncation_side == "left" else "beginning"
                notes.append(f"Prediction reads such a text in windows; the answer on this page is about its {part}.")
        for role, sequence in sequences.items():
            shown, total = result.visible[role], sequence.total
            if shown.stop - shown.start < total:
                notes.append(
                    f"{sequence.name.capitalize()}s {shown.start + 1} to {shown.stop} of {total} are shown. Each row "
                    "sums to 100 % over all tokens, including those that are not shown."
                )
        parts = part_configs(self.setup.model.config)
        if recurrent := sorted({part.mixer_type.upper() for part in parts if part.is_recurrent}):
            notes.append(f"{' and '.join(recurrent)} layers read step by step and have no self-attention to show.")
        # Both stacks may read the same tokens.
        return list(dict.fromkeys(notes))


def counted(number: int, name: str) -> str:
    """`1 layer`, `2 layers`."""
    return f"{number} {name}" if number == 1 else f"{number} {name}s"
