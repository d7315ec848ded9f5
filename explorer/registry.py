"""How each task is explored."""

from .reading import Classes, Masks, Words
from .shapes import Shape
from .writing import Continued, Written

# By the name of the task.
SHAPES: dict[str, Shape] = {
    "sequence-classification": Classes(),
    "token-classification": Words(),
    "masked-lm": Masks(),
    "seq2seq-lm": Written(),
    "causal-lm": Continued(),
}
