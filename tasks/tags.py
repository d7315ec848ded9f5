"""Tag schemes such as IOB2: finding the scheme of a set of labels, and reading tags as spans of words."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from ..data.errors import printable

# The letters of each scheme; the first scheme with all letters of the labels is chosen. IOB1 and IOB2 are read alike,
# as are IOE1 and IOE2: a span begins at B, or after a tag of another type or outside of spans.
SCHEMES = {
    "IO": "I",
    "IOB": "BI",
    "IOE": "IE",
    "IOBES": "BIES",
    "BILOU": "BILU",
    "BMES": "BMES",
    "BMEWO": "BMEW",
}
# Letters that seqeval does not know, and its own for them: last, unit, whole, middle.
SEQEVAL_LETTERS = {"L": "E", "U": "S", "W": "S", "M": "I"}
OUTSIDE = ("O", "o")
PREFIX_TAG = re.compile(r"(?P<letter>[BILMESUW])-(?P<type>.*)", re.DOTALL)
# Other forms: lower case, an underscore, the letter after the type, or no type. Labels that are no span tags may look
# like this too, so at least two letters are required, one of them B.
OTHER_TAGS = [
    re.compile(pattern, re.DOTALL | re.IGNORECASE)
    for pattern in (
        r"(?P<letter>[BILMESUW])[-_](?P<type>.+)",
        r"(?P<type>.+)[-_](?P<letter>[BILMESUW])",
        r"(?P<letter>[BILMESUW])(?P<type>)",
    )
]


@dataclass(frozen=True)
class TagScheme:
    """How tags mark spans.

    Args:
        name: one of SCHEMES, or a list of the letters if they fit no single scheme.
        pattern: splits a tag into the groups `letter` and `type`.
    """

    name: str
    pattern: re.Pattern

    def to_iobes(self, tags: list[str]) -> list[str]:
        """The tags of a sentence in seqeval's letters."""
        return [self._to_iobes(tag) for tag in tags]

    def _to_iobes(self, tag: str) -> str:
        parts = None if tag in OUTSIDE else self.pattern.fullmatch(tag)
        if parts is None:
            return "O"
        letter = parts["letter"].upper()
        letter = SEQEVAL_LETTERS.get(letter, letter)
        return f"{letter}-{parts['type']}" if parts["type"] else letter

    def spans(self, tags: list[str]) -> list[tuple[str, int, int]]:
        """Type, first word and last word of each span; the type is `_` if tags have none."""
        # It loads scikit-learn, which most runs do not need.
        from seqeval.metrics.sequence_labeling import get_entities

        return get_entities(self.to_iobes(tags))


def find_scheme(labels: Iterable[str]) -> TagScheme | None:
    """The scheme of a set of tags; None if they mark no spans, as parts of speech."""
    tags = set(labels) - set(OUTSIDE)
    if not tags:
        return None
    for pattern in (PREFIX_TAG, *OTHER_TAGS):
        parts = [pattern.fullmatch(tag) for tag in tags]
        if None in parts:
            continue
        letters = {each["letter"].upper() for each in parts}
        name = next((name for name, known in SCHEMES.items() if letters <= set(known)), None)
        if pattern is PREFIX_TAG and letters - {"M", "W"}:
            return TagScheme(name or f"a mix of {', '.join(sorted(letters))}", pattern)
        if name is not None and len(letters) > 1 and "B" in letters:
            return TagScheme(name, pattern)
    return None


def describe_scheme(labels: list[str]) -> str:
    """One line for the log: the scheme of the labels, and how they are scored."""
    scheme = find_scheme(labels)
    if scheme is not None:
        tags = [tag for tag in labels if tag not in OUTSIDE]
        shown = ", ".join(map(printable, tags[:4])) + (", …" if len(tags) > 4 else "")
        return f"The tags are {scheme.name} ({shown}) and are scored as spans: precision, recall and F1"
    usual = [tag for tag in labels if PREFIX_TAG.fullmatch(tag)]
    others = [tag for tag in labels if tag not in usual and tag not in OUTSIDE]
    reason = f"; {others[0]!r} is not a span tag, but {usual[0]!r} is" if usual and others else ""
    return f"The tags mark no spans, and words are scored one by one: accuracy and macro F1{reason}"
