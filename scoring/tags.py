"""Tag schemes such as IOB2: finding the scheme of a set of labels, reading tags as spans, and legal sequences of tags.

A sequence of tags is legal if it can be written in the scheme: in IOB2, for example, I-PER follows B-PER or I-PER.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from ..data.errors import check_choice, printable


class Rules(NamedTuple):
    """The legal sequences of a scheme, in the letters B (begin), I (inside), E (end) and S (single).

    Args:
        letters: the letters of the labels, as the scheme spells them.
        begins: letters after a word outside of spans, after a tag of another type, and at the start.
        ends: letters before a word outside of spans, before a tag of another type, and at the end.
        pairs: two letters of tags of one type, one after the other.
    """

    letters: str
    begins: str
    ends: str
    pairs: tuple[str, ...]


OF_FOUR = ("BI", "BE", "II", "IE", "EB", "ES", "SB", "SS")
# The first scheme with all letters of the labels is chosen; of schemes with the same letters, the one that has more of
# the training sentences.
SCHEMES = {
    "IO": Rules("I", "I", "I", ("II",)),
    "IOB2": Rules("BI", "B", "BI", ("BI", "BB", "II", "IB")),
    # B only separates a span from one of the same type before it.
    "IOB1": Rules("BI", "I", "BI", ("BI", "BB", "II", "IB")),
    "IOE2": Rules("IE", "IE", "E", ("IE", "EE", "II", "EI")),
    # E only separates a span from one of the same type after it.
    "IOE1": Rules("IE", "IE", "I", ("IE", "EE", "II", "EI")),
    "IOBES": Rules("BIES", "BS", "ES", OF_FOUR),
    "BILOU": Rules("BILU", "BS", "ES", OF_FOUR),
    "BMES": Rules("BMES", "BS", "ES", OF_FOUR),
    "BMEWO": Rules("BMEW", "BS", "ES", OF_FOUR),
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
# How tags are chosen: the best legal sequence, or the most probable tag of each word.
DECODINGS = ("legal", "greedy")
# Replaces NaN and minus infinity in scores, so that only forbidden transitions have minus infinity.
LOWEST = -1e30


@dataclass(frozen=True)
class TagScheme:
    """How tags mark spans.

    Args:
        name: one of SCHEMES, or a list of the letters if they fit no single scheme.
        pattern: splits a tag into the groups `letter` and `type`.
    """

    name: str
    pattern: re.Pattern

    @property
    def rules(self) -> Rules | None:
        """Its rules; None for a mix of letters."""
        return SCHEMES.get(self.name)

    def parse(self, tag: str) -> tuple[str, str] | None:
        """The letter of a tag, one of B, I, E and S, and its type; None for a word outside of spans."""
        parts = None if tag in OUTSIDE else self.pattern.fullmatch(tag)
        if parts is None:
            return None
        letter = parts["letter"].upper()
        return SEQEVAL_LETTERS.get(letter, letter), parts["type"]

    def to_iobes(self, tags: list[str]) -> list[str]:
        """The tags of a sentence in seqeval's letters."""
        parsed = map(self.parse, tags)
        return ["O" if parts is None else "-".join(filter(None, parts)) for parts in parsed]

    def spans(self, tags: list[str]) -> list[tuple[str, int, int]]:
        """Type, first word and last word of each span; the type is `_` if tags have none."""
        # It loads scikit-learn, which most runs do not need.
        from seqeval.metrics.sequence_labeling import get_entities

        return get_entities(self.to_iobes(tags))


class TagConstraints:
    """The legal sequences of labels, and the best of them for given scores.

    Args:
        labels: the labels, in the order of their ids.
        scheme: of the labels; one of SCHEMES.
    """

    def __init__(self, labels: Sequence[str], scheme: TagScheme):
        rules, parsed = scheme.rules, [scheme.parse(label) for label in labels]
        assert rules is not None
        # (C): the labels that may be at the start and at the end.
        self.start_allowed = np.array([tag is None or tag[0] in rules.begins for tag in parsed])
        self.end_allowed = np.array([tag is None or tag[0] in rules.ends for tag in parsed])
        letters = np.array(["O" if tag is None else tag[0] for tag in parsed], dtype=object)
        kinds = np.array([None if tag is None else tag[1] for tag in parsed], dtype=object)
        is_pair = np.isin((letters[:, None] + letters).astype(str), (*rules.pairs, "OO"))
        # (C, C): at [i, j] whether label j may follow label i.
        self.transition_allowed = np.where(
            kinds[:, None] == kinds, is_pair, self.end_allowed[:, None] & self.start_allowed
        )

    @cached_property
    def is_used(self) -> np.ndarray:
        """Whether each label is in any legal sequence, (C)."""
        return reachable(self.start_allowed, self.transition_allowed) & reachable(
            self.end_allowed, self.transition_allowed.T
        )

    def repeatable(self) -> np.ndarray:
        """The labels of which any number, one after the other, is a legal sequence."""
        return np.flatnonzero(self.start_allowed & self.end_allowed & self.transition_allowed.diagonal())

    def is_legal(self, tags: np.ndarray) -> bool:
        """Whether a sequence of label ids (n) is legal; one without words is."""
        if not len(tags):
            return True
        return bool(
            self.start_allowed[tags[0]]
            and self.end_allowed[tags[-1]]
            and self.transition_allowed[tags[:-1], tags[1:]].all()
        )

    def viterbi(self, scores: np.ndarray) -> np.ndarray:
        """The legal sequence with the highest sum of scores.

        Args:
            scores: of each label for each word, (n, C): logits, or logarithms of probabilities.

        Returns:
            Label ids (n); the best label of each word if no sequence of this length is legal.

        Source: Viterbi 1967, "Error bounds for convolutional codes and an asymptotically optimum decoding algorithm".
        """
        greedy = scores.argmax(-1)
        if self.is_legal(greedy):
            return greedy
        scores = np.nan_to_num(scores.astype(np.float64), nan=LOWEST, neginf=LOWEST)
        steps = np.where(self.transition_allowed, 0.0, -np.inf)  # (C, C)
        total = np.where(self.start_allowed, scores[0], -np.inf)  # (C)
        came_from = np.empty(scores.shape, dtype=int)
        for word in range(1, len(scores)):
            sums = total[:, None] + steps
            came_from[word] = sums.argmax(0)
            total = sums.max(0) + scores[word]
        total = np.where(self.end_allowed, total, -np.inf)
        if not np.isfinite(total.max()):
            return greedy
        tags = np.empty(len(scores), dtype=int)
        tags[-1] = total.argmax()
        for word in range(len(scores) - 1, 0, -1):
            tags[word - 1] = came_from[word, tags[word]]
        return tags


def reachable(first: np.ndarray, follows: np.ndarray) -> np.ndarray:
    """The labels on a path from one of the first labels (C) by steps (C, C), as a mask (C)."""
    found = first
    while not np.array_equal(found, more := found | follows[found].any(0)):
        found = more
    return found


def choose_tags(scores: np.ndarray, legal: TagConstraints | None) -> np.ndarray:
    """The ids of the tags of a sentence (n), from the scores of its words (n, C)."""
    return scores.argmax(-1) if legal is None else legal.viterbi(scores)


# --- Finding the scheme ---


def find_scheme(
    labels: Iterable[str], known: str | None = None, sentences: Iterable[list[str]] = ()
) -> TagScheme | None:
    """The scheme of a set of tags; None if they mark no spans, as parts of speech.

    Args:
        labels: the tags.
        known: the name of the scheme in the configuration of a model; ignored if the labels have other letters.
        sentences: tags of training, which tell IOB1 from IOB2.
    """
    tags = set(labels) - set(OUTSIDE)
    if not tags:
        return None
    for pattern in (PREFIX_TAG, *OTHER_TAGS):
        parts = [pattern.fullmatch(tag) for tag in tags]
        if None in parts:
            continue
        letters = {each["letter"].upper() for each in parts}
        names = [name for name, rules in SCHEMES.items() if letters <= set(rules.letters)]
        if not mark_spans(letters, pattern is PREFIX_TAG, bool(names)):
            continue
        if not names:
            return TagScheme(f"a mix of {', '.join(sorted(letters))}", pattern)
        if known in names:
            return TagScheme(known, pattern)
        same = [name for name in names if SCHEMES[name].letters == SCHEMES[names[0]].letters]
        return most_legal([TagScheme(name, pattern) for name in same], tags, sentences)
    return None


def mark_spans(letters: set[str], is_prefix: bool, is_known: bool) -> bool:
    """Whether labels with these letters mark spans; others, such as points of the compass, only look like tags.

    Args:
        letters: of the labels.
        is_prefix: whether they are capital letters with a hyphen before the type.
        is_known: whether they are the letters of a scheme.
    """
    if is_prefix:
        return bool(letters - {"M", "W"})
    return is_known and len(letters) > 1 and "B" in letters


def most_legal(schemes: list[TagScheme], tags: Iterable[str], sentences: Iterable[list[str]]) -> TagScheme:
    """The scheme with the most legal sentences, then with the most labels in legal sequences; else the first."""
    if len(schemes) == 1:
        return schemes[0]
    labels = [*sorted(tags), OUTSIDE[0]]
    ids = {label: index for index, label in enumerate(labels)}
    rows = [np.array([ids.get(tag, ids[OUTSIDE[0]]) for tag in sentence], dtype=int) for sentence in sentences]

    def count(scheme: TagScheme) -> tuple[int, int]:
        legal = TagConstraints(labels, scheme)
        return sum(map(legal.is_legal, rows)), int(legal.is_used.sum())

    return max(schemes, key=count)


def resolve_decoding(given: str | None) -> str:
    """How tags are chosen, by default legally. Raises InputError for an unknown value."""
    return DECODINGS[0] if given is None else check_choice("decode_tags", given, DECODINGS)


def tag_constraints(
    labels: Sequence[str], scheme: TagScheme | None, decoding: str = DECODINGS[0]
) -> TagConstraints | None:
    """The legal sequences of labels; None if tags are chosen one by one: by option, or because there are no rules."""
    if decoding == "greedy" or scheme is None or scheme.rules is None:
        return None
    return TagConstraints(labels, scheme)


def describe_scheme(labels: Sequence[str], scheme: TagScheme | None, decoding: str = DECODINGS[0]) -> str:
    """One line for the log: the scheme of the labels, how they are scored, and how they are chosen."""
    if scheme is not None:
        tags = [tag for tag in labels if tag not in OUTSIDE]
        shown = ", ".join(map(printable, tags[:4])) + (", …" if len(tags) > 4 else "")
        scored = f"The tags are {scheme.name} ({shown}) and are scored as spans: precision, recall and F1"
        legal = tag_constraints(labels, scheme, decoding)
        if legal is None:
            return f"{scored}; seqblend predicts the most probable tag of each word"
        unused = [printable(tag) for tag, is_used in zip(labels, legal.is_used, strict=True) if not is_used]
        note = f"; never predicted, because no legal sequence has them: {', '.join(unused)}" if unused else ""
        return f"{scored}; seqblend predicts the most probable legal sequence{note}"
    usual = [tag for tag in labels if PREFIX_TAG.fullmatch(tag)]
    others = [tag for tag in labels if tag not in usual and tag not in OUTSIDE]
    reason = f"; {others[0]!r} is not a span tag, but {usual[0]!r} is" if usual and others else ""
    return f"The tags mark no spans, and words are scored one by one: accuracy and macro F1{reason}"
