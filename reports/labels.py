"""Names of labels that may be wrong: spellings of one name, blank names, and marks of a missing label."""

import logging
import unicodedata
from collections import defaultdict

from .texts import MISSING_VALUES

logger = logging.getLogger(__name__)

# Labels that may mean that a row has none; -100 is a position without a label in transformers.
MISSING = {*MISSING_VALUES, "-1", "-100"}


def spellings_of_one_name(labels: list[str]) -> list[list[str]]:
    """The groups of labels that differ only in case, in spaces around them, or in Unicode form."""
    groups = defaultdict(list)
    for label in labels:
        groups[unicodedata.normalize("NFC", label).strip().casefold()].append(label)
    return [group for group in groups.values() if len(group) > 1]


def missing_labels(labels: list[str]) -> list[str]:
    """The labels that are blank or may mean that a row has no label."""
    return [label for label in labels if not label.strip() or label.strip() in MISSING]


def doubtful_labels(labels: list[str]) -> list[str]:
    """The labels that `warn_about_labels` names."""
    return sorted({*missing_labels(labels)}.union(*spellings_of_one_name(labels)))


def warn_about_labels(labels: list[str]) -> None:
    """Log one line about the labels that may be wrong; each of them is a class of its own."""
    reasons = []
    if groups := spellings_of_one_name(labels):
        names = "; ".join(", ".join(map(repr, group)) for group in groups)
        reasons.append(f"{names} differ only in case, outer spaces or Unicode form")
    if missing := missing_labels(labels):
        reasons.append(f"{', '.join(map(repr, missing))} may mean that a row has no label")
    if reasons:
        logger.warning("labels: each is a class of its own, but %s", "; ".join(reasons))
