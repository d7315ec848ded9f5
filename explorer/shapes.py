"""What is computed and shown of a row: the base class of reading.py and writing.py."""

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from transformers import BatchEncoding, PreTrainedModel

from ..modeling.attention import Role
from ..tasks.base import Task
from ..tasks.encoding import Answer, Row, Settings, shorten_texts
from .recording import Recording
from .tokens import SplitText, Token, input_tokens, token_text

# The most classes that gradients are computed for, and the number of next tokens that are shown at each step.
CLASSES = NEXT = 5
# The kinds of self-attention, which name the two stacks.
ENCODER: Role = "self"
DECODER: Role = "masked self"


@dataclass(frozen=True)
class Setup:
    """A model and how it is used.

    Args:
        model: in evaluation mode.
        task: of the model.
        settings: of the task.
        generation: arguments of `model.generate`.
        most: the most tokens of each sequence that are shown.
    """

    model: PreTrainedModel
    task: Task
    settings: Settings
    generation: Mapping[str, Any]
    most: int


@dataclass
class EncodedRow:
    """A row as input of the model.

    Args:
        row: as the task reads it.
        features: what `Task.read_rows` returned for it.
        tokens: of the input.
    """

    row: Row
    features: BatchEncoding
    tokens: list[Token]

    @property
    def ids(self) -> list[int]:
        """The ids of the input."""
        (ids,) = self.features["input_ids"]
        return list(ids)

    def inputs(self, setup: Setup) -> BatchEncoding:
        """The tensors (1, S) that the model reads."""
        names = (*setup.settings.tokenizer.model_input_names, "token_type_ids")
        known = {name: self.features[name] for name in names if name in self.features}
        return BatchEncoding(known, tensor_type="pt").to(setup.model.device)


@dataclass
class Result:
    """What was computed for a row.

    Args:
        output: of `Task.run_model`.
        recording: of the forward pass.
        visible: the tokens of each stack that are shown.
        more: what the shape needs besides.
    """

    output: Any
    recording: Recording
    visible: dict[Role, slice]
    more: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TokenSequence:
    """The tokens of a stack.

    Args:
        name: of its axis.
        keys: the tokens that it reads, as far as they may be shown.
        total: the number of all tokens that it reads.
        queries: the tokens that name its queries: those that are written, or None for those that it reads.
    """

    name: str
    keys: list[Token]
    total: int
    queries: list[Token] | None = None


class Shape(abc.ABC):
    """How the rows of a task are read, computed and shown.

    Attributes:
        kind: which part of the page shows the answer.
    """

    kind: ClassVar[str]

    def texts(self, row: Row, settings: Settings) -> Sequence[str] | SplitText:
        """What the tokenizer gets of a row."""
        return shorten_texts(settings, [row["text"]], None, settings.max_length)[0]

    def read(self, row: Row, setup: Setup) -> EncodedRow:
        """Tokenize a row."""
        features = setup.task.read_rows([row], setup.settings)
        texts = self.texts(row, setup.settings)
        return EncodedRow(row, features, input_tokens(setup.settings.tokenizer, features, texts))

    @abc.abstractmethod
    def compute(self, encoded: EncodedRow, setup: Setup) -> Result:
        """Compute the answer to a row, and record the attention."""

    @abc.abstractmethod
    def answer(self, encoded: EncodedRow, result: Result, setup: Setup) -> dict[str, Any]:
        """The answer as the page shows it."""

    def sequences(self, encoded: EncodedRow, result: Result, settings: Settings) -> dict[Role, TokenSequence]:
        """The tokens of each stack: of the input, which the decoder may read shifted by one."""
        found = {}
        for role, ids in result.recording.ids.items():
            tokens = encoded.tokens
            if ids != encoded.ids:
                tokens = [start_of(ids, settings), *tokens[:-1]]
            found[role] = TokenSequence("token", tokens, len(tokens))
        return found

    def notes(self, result: Result, setup: Setup) -> list[str]:
        """Sentences on how the answer came about, where that is not obvious."""
        return []


def to_answer(encoded: EncodedRow, output: Any, setup: Setup) -> Answer:
    """The answer of `seqblend predict`."""
    (answer,) = setup.task.to_answers([output], [0], [encoded.row], setup.settings)
    return answer


def as_json(tokens: Sequence[Token]) -> list[dict[str, Any]]:
    """Tokens for the page, without the fields that are False or 0."""
    return [{name: value for name, value in vars(token).items() if value or name == "text"} for token in tokens]


def start_of(ids: list[int], settings: Settings) -> Token:
    """The start token, which a decoder reads first."""
    return Token(token_text(settings.tokenizer, ids[0], ""), is_special=True)
