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
        tag: the index of the tag's column; None if tags are not read.
        universal: whether the file is CoNLL-U, which numbers the words of each sentence and has comments.
    """

    token: int
    tag: int | None
    universal: bool = False

    def replace_with(self, token: int | None, tag: int | None) -> "WordColumns":
        """A copy with the indices that the user gave; None keeps an index."""
        return self._replace(token=self.token if token is None else token, tag=self.tag if tag is None else tag)


CONLL = WordColumns(token=0, tag=-1)
CONLL_U = WordColumns(token=1, tag=3, universal=True)


def read_sentences(lines: Lines, columns: WordColumns) -> Iterator[dict[str, Any]]:
    """Yield the tokens of each sentence, and its tags, None if not read. A line of spaces and tabs only is blank.

    In CoNLL a line that begins with `-DOCSTART-` separates documents, and there are no comments: `#` is a word.
    In CoNLL-U a line that begins with `#` is a comment; multiword tokens and empty nodes are skipped.

    Raises:
        InputError: a line has too few columns or no tag; lines differ in their number of columns while columns are
            counted from the last; in CoNLL-U, the words of a sentence are not numbered from 1.
    """
    splitter = UniversalLines(lines, columns) if columns.universal else PlainLines(lines, columns)
    has_tags = columns.tag is not None
    tokens: list[str] = []
    tags: list[str] = []
    for text in map(strip_line_end, lines):
        if splitter.ends_sentence(text):
            if tokens:
                yield {"tokens": tokens, "tags": tags if has_tags else None}
                lines.row, tokens, tags = lines.row + 1, [], []
        elif cells := splitter.cells(text, len(tokens) + 1):
            tokens.append(cells[columns.token])
            if not has_tags:
                continue
            tags.append(cells[columns.tag])
            if not tags[-1] or tags[-1] != tags[-1].strip(" "):
                raise lines.error(
                    f"the tag of {tokens[-1]!r} is {tags[-1]!r}, but a tag must not be empty or have spaces around it"
                )
    if tokens:
        yield {"tokens": tokens, "tags": tags if has_tags else None}


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
        read = [index for index in (self.columns.token, self.columns.tag) if index is not None]
        names, separator = " and ".join(map(str, read)), "tabs" if self.has_tabs else "white space"
        if width < max(len(read), *(index + 1 if index >= 0 else -index for index in read)):
            needed = f"columns {names} are" if len(read) > 1 else f"column {names} is"
            raise self.lines.error(f"{width} columns between {separator}, but {needed} needed")
        if len({index % width for index in read}) < len(read):
            raise self.lines.error(f"columns {names} of {width} columns are the same")
        if self.width and min(read) < 0:
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
