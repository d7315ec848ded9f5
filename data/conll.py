"""Files of one word a line and a blank line between sentences: CoNLL and CoNLL-U."""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from .files import Lines, without_line_end

# What separates columns where no tab does. Other white space, such as U+00A0, is text.
SPACE = re.compile("[ \t]+")
DOCUMENT = re.compile("-DOCSTART-(?![^ \t])")
UNIVERSAL_COLUMNS = 10
# A multiword token, such as 3-4, and an empty node, such as 3.1: neither is a word of the sentence.
NO_WORD = re.compile(r"\d+-\d+|\d+\.\d+")


class WordColumns(NamedTuple):
    """Where a line has its word and the tag; negative indexes count from the last column.

    Args:
        token: the index of the word's column.
        tag: the index of the tag's column.
        universal: whether the file is CoNLL-U, which numbers the words of a sentence and has comments.
    """

    token: int
    tag: int
    universal: bool = False

    def chosen(self, token: int | None, tag: int | None) -> "WordColumns":
        """The same with the columns that the user named, if any."""
        return self._replace(token=self.token if token is None else token, tag=self.tag if tag is None else tag)


CONLL = WordColumns(token=0, tag=-1)
CONLL_U = WordColumns(token=1, tag=3, universal=True)


def read_sentences(lines: Lines, columns: WordColumns) -> Iterator[dict[str, Any]]:
    """Yield the tokens and tags of each sentence. A line of nothing but spaces and tabs is blank.

    In CoNLL a line that begins with `-DOCSTART-` stands between documents, and there are no comments: `#` is a word.
    In CoNLL-U a line that begins with `#` is a comment, and of multiword tokens only the words are read.

    Raises:
        InputError: a line has too few columns or no tag; the lines have not equally many columns where these are
            counted from the last; in CoNLL-U, the words of a sentence are not numbered from 1.
    """
    split = UniversalLines(lines, columns) if columns.universal else PlainLines(lines, columns)
    tokens: list[str] = []
    tags: list[str] = []
    for text in map(without_line_end, lines):
        if split.is_between(text):
            if tokens:
                yield {"tokens": tokens, "tags": tags}
                lines.row, tokens, tags = lines.row + 1, [], []
        elif cells := split.cells(text, len(tokens) + 1):
            tokens.append(cells[columns.token])
            tags.append(cells[columns.tag])
            if not tags[-1] or tags[-1] != tags[-1].strip(" "):
                raise lines.broken(
                    f"the tag of {tokens[-1]!r} is {tags[-1]!r}, but no tag is empty or has space around it"
                )
    if tokens:
        yield {"tokens": tokens, "tags": tags}


class PlainLines:
    """Splits the lines of CoNLL: at tabs if the first word's line has one, else at white space.

    Args:
        lines: for messages.
        columns: those that are needed.
    """

    def __init__(self, lines: Lines, columns: WordColumns):
        self.lines, self.columns = lines, columns
        self.width, self.has_tabs = 0, False

    def is_between(self, text: str) -> bool:
        """Whether the line ends a sentence."""
        return not text.strip(" \t") or DOCUMENT.match(text) is not None

    def cells(self, text: str, number: int) -> list[str]:
        """The columns of a line, which are enough."""
        if not self.width:
            self.has_tabs = "\t" in text
        cells = text.split("\t") if self.has_tabs else SPACE.split(text.strip(" \t"))
        if len(cells) != self.width:
            self._check_width(len(cells))
        return cells

    def _check_width(self, width: int) -> None:
        """Raises InputError for too few columns, and for another number where that shifts those that are needed."""
        token, tag = self.columns.token, self.columns.tag
        needed = max(2, *(index + 1 if index >= 0 else -index for index in (token, tag)))
        separator = "tabs" if self.has_tabs else "white space"
        if width < needed:
            raise self.lines.broken(f"{width} columns between {separator}, but columns {token} and {tag} are needed")
        if token % width == tag % width:
            raise self.lines.broken(f"of {width} columns {token} and {tag} are the same")
        if self.width and min(token, tag) < 0:
            raise self.lines.broken(f"{width} columns between {separator}, but the first line has {self.width}")
        self.width = self.width or width


class UniversalLines(PlainLines):
    """Splits the lines of CoNLL-U: ten columns between tabs, of which the first numbers the words of a sentence."""

    def is_between(self, text: str) -> bool:
        """See `PlainLines`. There are no documents but in comments."""
        return not text.strip(" \t")

    def cells(self, text: str, number: int) -> list[str]:
        """The columns of a line, none if it holds no word."""
        if text.startswith("#"):
            return []
        cells = text.split("\t")
        if len(cells) != UNIVERSAL_COLUMNS:
            raise self.lines.broken(f"{len(cells)} columns between tabs, but CoNLL-U has {UNIVERSAL_COLUMNS}")
        if not self.width:
            self._check_width(len(cells))
        if cells[0] != str(number):
            if NO_WORD.fullmatch(cells[0]):
                return []
            raise self.lines.broken(f"the word is numbered {cells[0]!r}, but is number {number} of its sentence")
        return cells
