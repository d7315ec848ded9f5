"""The claims of the lecture that are measured, in its order, and two in favour of recurrence."""

from .blending_claims import BLENDING_CLAIMS
from .experiments import LEARNING, SIZE
from .recurrence_claims import CLAIMS_FOR_RECURRENCE, RECURRENCE_CLAIMS

CLAIMS = (*RECURRENCE_CLAIMS, *BLENDING_CLAIMS, *CLAIMS_FOR_RECURRENCE)
LOGARITHMIC = [claim.experiment for claim in CLAIMS if claim.is_logarithmic]


def setup(experiment: str) -> str:
    """How the models of an experiment are trained, in one or two sentences."""
    learning = LEARNING[experiment]
    layers = "1 layer" if learning.layers == 1 else f"{learning.layers} layers"
    grows = " Training starts with short sequences; longer ones are added during its first half."
    return (
        f"Training: {layers} of {SIZE} features, {learning.steps} steps with batches of {learning.rows} sequences, "
        f"learning rate {learning.learning_rate:g}.{grows if learning.task.grows else ''}"
    )
