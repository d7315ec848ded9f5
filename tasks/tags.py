"""Tag schemes: how tags mark spans of words. They are found by the names of the labels, and read into spans."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from seqeval.metrics.sequence_labeling import get_entities

from ..data.errors import one_line

# The letters of each scheme; the first that has all letters found is taken. IOB1 and IOB2 are read alike, as are IOE1
# and IOE2: a span begins where B says so, or where another type or an outside word stands before it.
SCHEMES = {
    "IO": "I",
    "IOB": "BI",
    "IOE": "IE",
    "IOBES": "BIES",
    "BILOU": "BILU",
    "BMES": "BMES",
    "BMEWO": "BMEW",
}
# Letters that seqeval does not know: last, unit and whole, middle.
SEQEVAL_LETTERS = {"L": "E", "U": "S", "W": "S", "M": "I"}
OUTSIDE = ("O", "o")
USUAL = re.compile(r"(?P<letter>[BILMESUW])-(?P<type>.*)", re.DOTALL)
# Lower case, an underscore, the letter behind the type, or no type at all. Labels of other kinds look like this too:
# two letters are needed, B among them.
OTHERS = [
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
        name: one of SCHEMES, or what letters were found where they are of no single one.
        pattern: takes a tag apart into `letter` and `type`.
    """

    name: str
    pattern: re.Pattern

    def to_iobes(self, tags: list[str]) -> list[str]:
        """The tags of a sentence as seqeval reads them."""
        return [self._to_iobes(tag) for tag in tags]

    def _to_iobes(self, tag: str) -> str:
        parts = None if tag in OUTSIDE else self.pattern.fullmatch(tag)
        if parts is None:
            return "O"
        letter = parts["letter"].upper()
        letter = SEQEVAL_LETTERS.get(letter, letter)
        return f"{letter}-{parts['type']}" if parts["type"] else letter

    def spans(self, tags: list[str]) -> list[tuple[str, int, int]]:
        """Type, first word and last word of each span; the type is `_` where tags have none."""
        return get_entities(self.to_iobes(tags))


def find_scheme(labels: Iterable[str]) -> TagScheme | None:
    """The scheme of a set of tags; None where they mark no spans, as parts of speech."""
    tags = set(labels) - set(OUTSIDE)
    if not tags:
        return None
    for pattern in (USUAL, *OTHERS):
        parts = [pattern.fullmatch(tag) for tag in tags]
        if None in parts:
            continue
        letters = {each["letter"].upper() for each in parts}
        name = next((name for name, known in SCHEMES.items() if letters <= set(known)), None)
        if pattern is USUAL and letters - {"M", "W"}:
            return TagScheme(name or f"a mix of {', '.join(sorted(letters))}", pattern)
        if name is not None and len(letters) > 1 and "B" in letters:
            return TagScheme(name, pattern)
    return None


def describe_scheme(labels: list[str]) -> str:
    """One line on the scheme of the labels, and how it is scored."""
    scheme = find_scheme(labels)
    if scheme is not None:
        tags = [tag for tag in labels if tag not in OUTSIDE]
        shown = ", ".join(map(one_line, tags[:4])) + (", …" if len(tags) > 4 else "")
        return f"The tags are {scheme.name} ({shown}) and are scored as spans: precision, recall and F1"
    usual = [tag for tag in labels if USUAL.fullmatch(tag)]
    others = [tag for tag in labels if tag not in usual and tag not in OUTSIDE]
    reason = f"; {others[0]!r} is no tag of a span, as {usual[0]!r} is" if usual and others else ""
    return f"The tags mark no spans, and each word is scored by itself: accuracy and macro F1{reason}"
