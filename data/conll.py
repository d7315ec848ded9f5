"""Files with one word per line and a blank line between sentences: CoNLL and CoNLL-U."""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from .files import Lines, strip_line_end

# Separates columns in files without tabs. Other whitespace, such as U+00A0, is text.
SPACE = re.compile("[ \t]+")
DOCUMENT = re.compile("-DOCSTART-(?![^ \t])")
UNIVERSAL_COLUMNS = 10
# Ids of multiword tokens, such as 3-4, and of empty nodes, such as 3.1. Neither is a word of the sentence.
NOT_A_WORD = re.compile(r"\d+-\d+|\d+\.\d+")


class WordColumns(NamedTuple):
    """The columns of the word and the tag in a line; negative indices count from the last column.

    Args:
        token: the index of the word's column.
        tag: the index of the tag's column.
        universal: whether the file is CoNLL-U, which numbers the words of each sentence and has comments.
    """

    token: int
    tag: int
    universal: bool = False

    def replace_with(self, token: int | None, tag: int | None) -> "WordColumns":
        """A copy with the indices that the user gave; None keeps an index."""
        return self._replace(token=self.token if token is None else token, tag=self.tag if tag is None else tag)


CONLL = WordColumns(token=0, tag=-1)
CONLL_U = WordColumns(token=1, tag=3, universal=True)


def read_sentences(lines: Lines, columns: WordColumns) -> Iterator[dict[str, Any]]:
    """Yield the tokens and tags of each sentence. A line of spaces and tabs only is blank.

    In CoNLL a line that begins with `-DOCSTART-` separates documents, and there are no comments: `#` is a word.
    In CoNLL-U a line that begins with `#` is a comment; multiword tokens and empty nodes are skipped.

    Raises:
        InputError: a line has too few columns or no tag; lines differ in their number of columns while columns are
            counted from the last; in CoNLL-U, the words of a sentence are not numbered from 1.
    """
    splitter = UniversalLines(lines, columns) if columns.universal else PlainLines(lines, columns)
    tokens: list[str] = []
    tags: list[str] = []
    for text in map(strip_line_end, lines):
        if splitter.ends_sentence(text):
            if tokens:
                yield {"tokens": tokens, "tags": tags}
                lines.row, tokens, tags = lines.row + 1, [], []
        elif cells := splitter.cells(text, len(tokens) + 1):
            tokens.append(cells[columns.token])
            tags.append(cells[columns.tag])
            if not tags[-1] or tags[-1] != tags[-1].strip(" "):
                raise lines.error(
                    f"the tag of {tokens[-1]!r} is {tags[-1]!r}, but a tag must not be empty or have spaces around it"
                )
    if tokens:
        yield {"tokens": tokens, "tags": tags}


class PlainLines:
    """Splits the lines of CoNLL: at tabs if the first line with a word has one, else at spaces and tabs.

    Args:
        lines: the lines, for messages.
        columns: the columns that are needed.
    """

    def __init__(self, lines: Lines, columns: WordColumns):
        self.lines, self.columns = lines, columns
        self.width, self.has_tabs = 0, False

    def ends_sentence(self, text: str) -> bool:
        """Whether the line ends a sentence: it is blank, or separates documents."""
        return not text.strip(" \t") or DOCUMENT.match(text) is not None

    def cells(self, text: str, number: int) -> list[str]:
        """The columns of a line with a word. Raises InputError for a wrong number of columns."""
        if not self.width:
            self.has_tabs = "\t" in text
        cells = text.split("\t") if self.has_tabs else SPACE.split(text.strip(" \t"))
        if len(cells) != self.width:
            self._check_width(len(cells))
            self.width = self.width or len(cells)
        return cells

    def _check_width(self, width: int) -> None:
        """Raises InputError for too few columns, or for a number that differs from the first line's and matters.

        It matters if a column is counted from the last one.
        """
        token, tag = self.columns.token, self.columns.tag
        needed = max(2, *(index + 1 if index >= 0 else -index for index in (token, tag)))
        separator = "tabs" if self.has_tabs else "white space"
        if width < needed:
            raise self.lines.error(f"{width} columns between {separator}, but columns {token} and {tag} are needed")
        if token % width == tag % width:
            raise self.lines.error(f"columns {token} and {tag} of {width} columns are the same")
        if self.width and min(token, tag) < 0:
            raise self.lines.error(f"{width} columns between {separator}, but the first line has {self.width}")


class UniversalLines(PlainLines):
    """Splits the lines of CoNLL-U: ten columns between tabs; the first one numbers the words of a sentence."""

    def ends_sentence(self, text: str) -> bool:
        """Whether the line is blank. CoNLL-U marks documents in comments."""
        return not text.strip(" \t")

    def cells(self, text: str, number: int) -> list[str]:
        """The columns of a line, an empty list if it has no word."""
        if text.startswith("#"):
            return []
        cells = text.split("\t")
        if len(cells) != UNIVERSAL_COLUMNS:
            raise self.lines.error(f"{len(cells)} columns between tabs, but CoNLL-U has {UNIVERSAL_COLUMNS}")
        if not self.width:
            self._check_width(len(cells))
            self.width = len(cells)
        if cells[0] != str(number):
            if NOT_A_WORD.fullmatch(cells[0]):
                return []
            raise self.lines.error(f"the word is numbered {cells[0]!r}, but is number {number} of its sentence")
        return cells
