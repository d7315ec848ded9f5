"""Temperature scaling: one number that makes the probabilities of a trained classifier true on average."""

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from .measures import ClassifierOutputs, negative_log_likelihood

# The range of temperatures; at its ends the probabilities say nothing about the rows.
LOWEST, HIGHEST = 0.05, 20.0


def fit_temperature(outputs: ClassifierOutputs) -> float | None:
    """The temperature with the lowest negative log-likelihood.

    Returns:
        None if there is none inside the range: the model makes no error, or knows nothing.

    Source: Guo et al. 2017, "On Calibration of Modern Neural Networks", section 4.2.
    """
    if outputs.decisions[1].all():
        # The likelihood rises until all probabilities are 0 or 1.
        return None
    # It takes long to load.
    from scipy.optimize import minimize_scalar

    bounds = np.log([LOWEST, HIGHEST])
    # The likelihood has one maximum as a function of 1 / T, and so as one of log T.
    found = minimize_scalar(
        lambda value: negative_log_likelihood(outputs.scaled(float(np.exp(value)))),
        bounds=tuple(bounds),
        method="bounded",
        options={"xatol": 1e-6},
    )
    is_inside = bounds[0] + 0.01 < found.x < bounds[1] - 0.01
    return float(np.exp(found.x)) if is_inside else None


def last_projection(model: PreTrainedModel) -> nn.Linear:
    """The projection onto the labels."""
    return model.score if hasattr(model, "score") else model.classifier


@torch.no_grad()
def divide_logits(model: PreTrainedModel, temperature: float) -> None:
    """Divide the logits by a temperature: in the weights, so that every client gets the same probabilities."""
    projection = last_projection(model)
    projection.weight.div_(temperature)
    if projection.bias is not None:
        projection.bias.div_(temperature)
    model.config.calibration_temperature = temperature
