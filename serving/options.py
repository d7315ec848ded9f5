"""The options of prediction: the flags of `seqblend predict`, and the keyword arguments of `Predictor`."""

import dataclasses
import typing
from dataclasses import dataclass
from typing import Any

from ..data.columns import Columns
from ..data.errors import InputError, check_choice, describe
from ..scoring.tags import resolve_decoding
from ..tasks.encoding import MAX_LENGTH
from ..tokenization.words import WORDS
from ..training.arguments import DataArguments

LEAST = {"max_length": 2, "overlap": 0, "max_tokens_per_batch": 1, "max_new_tokens": 1, "num_beams": 1, "top_k": 1}
LEAST |= {"num_answers": 1, "threshold": 0}
OF_TRAINING = {field.name: field for field in dataclasses.fields(DataArguments)}


def option(help: str, default: Any = None) -> Any:
    """A field with its help."""
    return dataclasses.field(default=default, metadata={"help": help})


def as_in_training(name: str) -> Any:
    """A field with the default and the help of the same option of training."""
    return dataclasses.field(default=OF_TRAINING[name].default, metadata=OF_TRAINING[name].metadata)


@dataclass(frozen=True)
class PredictionOptions:
    """How texts are read and answered.

    Raises:
        InputError: a value is out of range.
    """

    words: str | None = option(
        "How a tagger splits texts into words: words, spaces or characters; default: as in its training data."
    )
    max_tokens_per_batch: int = option("Maximum number of tokens in a batch; default: 4096.", 4096)
    max_new_tokens: int | None = option(
        "Maximum number of tokens to generate; default: the model's, or 64, or 256 of a chat model."
    )
    num_beams: int | None = option("Number of beams in generation; default: the model's.")
    top_k: int | None = option("Number of labels, or of tokens for a mask, with scores in an answer; default: 5.")
    num_answers: int | None = option(
        "Number of generated texts, the best first, with their scores; there are at least as many beams."
    )
    threshold: float | None = option(
        "For several labels, the probability above which a label is predicted; for a single label, the probability "
        "below which the model abstains. Default: as chosen in training; otherwise 0.5 for several labels."
    )
    probabilities: bool = option("Give the probability of every label; for a tagger, for each word.", False)
    decode_tags: str | None = as_in_training("decode_tags")
    max_length: int | None = option(
        "Maximum length of a sequence in tokens; overflow says what happens to longer texts; default: that of the "
        "training run."
    )
    overflow: str = as_in_training("overflow")
    overlap: int | None = as_in_training("overlap")
    text_column: str | None = as_in_training("text_column")
    messages_column: str | None = as_in_training("messages_column")
    text_pair_column: str | None = as_in_training("text_pair_column")
    tokens_column: str = as_in_training("tokens_column")
    source_column: str = as_in_training("source_column")

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value, kinds = getattr(self, field.name), typing.get_args(field.type) or (field.type,)
            # bool is a kind of int; a whole number is a kind of float.
            kinds += (int,) if float in kinds else ()
            if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
                wanted = " or ".join(getattr(kind, "__name__", str(kind)) for kind in kinds if kind is not type(None))
                raise InputError(f"{field.name}: must be {wanted}, but is {describe(value)}")
        for name, least in LEAST.items():
            value = getattr(self, name)
            # Not a number is not less.
            if value is not None and not value >= least:
                raise InputError(f"{name}: must be {least} or more, got {value}")
        if self.max_length is not None and self.max_length > MAX_LENGTH:
            raise InputError(f"max_length: must be at most {MAX_LENGTH}, got {self.max_length}")
        if self.threshold is not None and self.threshold > 1:
            raise InputError(f"threshold: must be a probability, from 0 to 1, got {self.threshold}")
        if self.num_answers is not None and self.num_beams is not None and self.num_beams < self.num_answers:
            raise InputError(f"num_answers: {self.num_answers} need as many beams, but num_beams is {self.num_beams}")
        if self.words is not None:
            check_choice("words", self.words, WORDS)
        resolve_decoding(self.decode_tags)

    @property
    def columns(self) -> Columns:
        """The user's names of the columns."""
        names = [name for name in vars(self) if name.endswith("_column")]
        return Columns(**{name.removesuffix("_column"): getattr(self, name) for name in names})
