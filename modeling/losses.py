"""The losses: the sum over the real targets divided by their number.

A target is what the Trainer counts: a row; for several labels per row, each row × label; a token whose label is not
-100. `num_items_in_batch` is the number of targets in all batches whose gradients are accumulated, so the gradient
equals that of one large batch; without it, the targets of this batch are counted. It is never a sum of weights.

Class weights and label smoothing act in training only, so that evaluation losses can be compared.
"""

import torch
from torch.nn import functional
from transformers.configuration_utils import PreTrainedConfig

IGNORE = -100


def token_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    config: PreTrainedConfig,
    training: bool,
    num_items_in_batch: torch.Tensor | int | None = None,
    weight: torch.Tensor | None = None,
) -> torch.Tensor:
    """Cross-entropy with one class per target: the loss of language models.

    Args:
        logits: (..., C).
        labels: class indices (...) of any integer dtype, -100 for no target.
        config: configuration with `label_smoothing`.
        training: whether label smoothing is used.
        num_items_in_batch: divisor of the sum; None: the number of targets in labels.
        weight: class weights (C). The smoothed share of a class has that class's weight, as in torch.

    Returns:
        A scalar, 0 if there is no target.

    Source: label smoothing, Szegedy et al. 2016, §7.
    """
    labels = labels.flatten().to(logits.device)
    if not labels.is_floating_point():
        labels = labels.long()  # torch accepts no other integer dtype here
    smoothing = config.label_smoothing if training else 0.0
    total = functional.cross_entropy(
        upcast(logits).flatten(0, -2),
        labels,
        weight=weight,
        ignore_index=IGNORE,
        reduction="sum",
        label_smoothing=smoothing,
    )
    return total / divisor(labels != IGNORE, num_items_in_batch)


def class_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    config: PreTrainedConfig,
    training: bool,
    num_items_in_batch: torch.Tensor | int | None = None,
) -> torch.Tensor:
    """token_loss with the config's class weights: the loss of sequence and token classification."""
    logits = upcast(logits)
    return token_loss(logits, labels, config, training, num_items_in_batch, class_weights(logits, config, training))


def multi_label_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    config: PreTrainedConfig,
    training: bool,
    num_items_in_batch: torch.Tensor | int | None = None,
) -> torch.Tensor:
    """Binary cross-entropy of each label; logits and labels (B, C), labels 0 or 1, or -100 for unknown."""
    logits, labels = upcast(logits), labels.to(logits.device)
    known = labels != IGNORE
    smoothing = config.label_smoothing if training else 0.0
    targets = torch.where(known, labels, 0).to(logits.dtype) * (1 - smoothing) + smoothing / 2
    losses = functional.binary_cross_entropy_with_logits(
        logits, targets, weight=class_weights(logits, config, training), reduction="none"
    )
    return torch.where(known, losses, 0).sum() / divisor(known, num_items_in_batch)


def regression_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    config: PreTrainedConfig,
    training: bool,
    num_items_in_batch: torch.Tensor | int | None = None,
) -> torch.Tensor:
    """Squared error; logits (B, C), labels (B, C), or (B) if C is 1. Raises ValueError for labels of another shape."""
    logits = upcast(logits)
    if labels.shape != logits.shape and labels.shape != logits.squeeze(1).shape:
        raise ValueError(f"labels of a regression must have shape {tuple(logits.shape)}, got {tuple(labels.shape)}")
    errors = (logits - labels.to(logits).view_as(logits)) ** 2
    return errors.sum() / divisor(torch.ones_like(errors, dtype=torch.bool), num_items_in_batch)


def sequence_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    config: PreTrainedConfig,
    training: bool,
    num_items_in_batch: torch.Tensor | int | None = None,
) -> torch.Tensor:
    """The loss of a sequence classifier by `config.problem_type`; logits (B, C).

    Without a problem type, as in transformers: one output is a regression, integer labels are classes, and float
    labels are multi-label.
    """
    problem_type = config.problem_type
    if problem_type is None:
        if config.num_labels == 1:
            problem_type = "regression"
        else:
            whole = not labels.is_floating_point()
            problem_type = "single_label_classification" if whole else "multi_label_classification"
    return SEQUENCE_LOSSES[problem_type](logits, labels, config, training, num_items_in_batch)


def class_weights(logits: torch.Tensor, config: PreTrainedConfig, training: bool) -> torch.Tensor | None:
    """The config's class weights (C) in training; else None."""
    if not training or config.class_weights is None:
        return None
    return logits.new_tensor(config.class_weights)


def divisor(is_target: torch.Tensor, num_items_in_batch: torch.Tensor | int | None) -> torch.Tensor | int:
    """The divisor of a sum over targets; at least 1."""
    if num_items_in_batch is None:
        return is_target.sum().clamp(min=1)
    if isinstance(num_items_in_batch, torch.Tensor):
        return num_items_in_batch.to(is_target.device).clamp(min=1)
    return max(1, num_items_in_batch)


def upcast(logits: torch.Tensor) -> torch.Tensor:
    """Convert half-precision logits to float32; other dtypes are unchanged."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


SEQUENCE_LOSSES = {
    "single_label_classification": class_loss,
    "multi_label_classification": multi_label_loss,
    "regression": regression_loss,
}
