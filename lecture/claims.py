"""The claims of the lecture that are measured, in its order, and two for the other side."""

from .blending_claims import BLENDING_CLAIMS
from .experiments import LEARNING, SIZE
from .recurrence_claims import OTHER_SIDE_CLAIMS, RECURRENCE_CLAIMS

CLAIMS = (*RECURRENCE_CLAIMS, *BLENDING_CLAIMS, *OTHER_SIDE_CLAIMS)
LOGARITHMIC = [claim.experiment for claim in CLAIMS if claim.is_logarithmic]


def setup(experiment: str) -> str:
    """How the models of an experiment are trained, in a sentence."""
    learning = LEARNING[experiment]
    layers = "1 layer" if learning.layers == 1 else f"{learning.layers} layers"
    grows = "; in the first half of training the numbers grow" if learning.task.grows else ""
    return (
        f"{layers} of {SIZE} features, {learning.steps} steps of {learning.rows} sequences, learning rate "
        f"{learning.learning_rate:g}{grows}."
    )
