"""Facts about metrics that need no metric library: whether higher values are better, and perplexity."""

import math

# All metrics that evaluations of this package report.
GREATER_IS_BETTER = {
    **dict.fromkeys(("loss", "perplexity", "mse", "word_error_rate", "character_error_rate"), False),
    **dict.fromkeys(("accuracy", "macro_f1", "micro_f1", "subset_accuracy", "matthews_correlation"), True),
    **dict.fromkeys(("precision", "recall", "f1", "pearson", "spearman", "bleu", "chrf", "exact_match"), True),
}


def greater_is_better(name: str) -> bool | None:
    """Whether higher values of a metric are better; None for a metric that is not of this package.

    Args:
        name: with or without the prefix of its split, as in `f1`, `eval_f1` and `eval_german_f1`.
    """
    known = (better for metric, better in GREATER_IS_BETTER.items() if f"_{name}".endswith(f"_{metric}"))
    return next(known, None)


def perplexity(loss: float) -> float:
    """Perplexity of a mean cross-entropy in nats; infinite where it exceeds the range of a float."""
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf
