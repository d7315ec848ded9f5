"""Texts far too long for one sequence: what cannot be a part of it is cut off before the text is tokenized.

A tokenizer takes hundreds of bytes for a byte of text, and time for all of it, whatever is kept. So a beginning is
tokenized first, or an end, and taken for the text where that makes no difference to the tokens that are kept:

- It is cut at white space, where words end. What a text is beyond that can change how the words next to the cut are
  taken, as of an added token with a space in it, but none farther off than SLACK of them.
- The tokens needed are all in words farther off. If they are not, as where a tokenizer drops white space, the part is
  made four times as long, and in the end it is the whole text.

A tokenizer may take a text for one word, as Llama's and Gemma's do. Where a space can only begin a token, its words
are from space to space. Any other such tokenizer, and one that is none of the fast ones, is given whole texts.

By the same rule a text that is needed whole is tokenized in pieces.
"""

import functools
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

from tokenizers.pre_tokenizers import Metaspace
from transformers import BatchEncoding, PreTrainedTokenizerBase

# So many characters a token are tried first, and only in texts of LONG times as many.
CHARACTERS, LONG, GROWTH = 8, 2, 4
# Words whose tokens may differ because of what is cut off.
SLACK = 8
# Characters of a piece, and how many of them the next one has too; the two are joined where both have a word.
PIECE, OVERLAP = 2**17, 2**12
WHITE_SPACE = " \n\t\r"
PLAIN = {"add_special_tokens": False, "verbose": False}
# SentencePiece's space.
SPACE = "▁"


class Part(NamedTuple):
    """A text, or a part of one that does in its place.

    Args:
        text: the text, or the part of it.
        size: how many tokens it has; as far as that is known, 0 where nobody has looked.
        shortened: whether it is a part.
    """

    text: str
    size: int = 0
    shortened: bool = False


def shorten(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], needed: int, **kwargs: Any
) -> tuple[list[str], list[bool]]:
    """Texts of which the first tokens, or the last if the tokenizer cuts at the left, are those of the given ones.

    Args:
        tokenizer: reads them.
        texts: any.
        needed: how many tokens; a text that may have fewer stays whole.
        kwargs: of the call that is to come.

    Returns:
        The texts, and whether each is only a part.
    """
    parts = [part_of(tokenizer, text, needed, **kwargs) for text in texts]
    return [part.text for part in parts], [part.shortened for part in parts]


def shorten_pairs(
    tokenizer: PreTrainedTokenizerBase, firsts: Sequence[str], seconds: Sequence[str], needed: int
) -> tuple[list[str], list[str], list[bool]]:
    """As shorten, of texts that share one sequence: the one of more tokens is cut to the length of the other first.

    So it stays the one of more tokens. Where both are cut, that is the one of more characters: if an odd number of
    tokens is kept, it may thus get one that would be the other's.
    """
    one, other, shortened = list(firsts), list(seconds), []
    for row, pair in enumerate(zip(firsts, seconds, strict=True)):
        short, long = sorted(pair, key=len)
        if not is_long(long, needed):
            shortened.append(False)
            continue
        least = part_of(tokenizer, short, needed)
        size = least.size if least.shortened else len(words_of(tokenizer, short))
        most = part_of(tokenizer, long, max(needed, size + 1))
        parts = (least, most) if short is pair[0] else (most, least)
        one[row], other[row] = (part.text for part in parts)
        shortened.append(most.shortened or least.shortened)
    return one, other, shortened


def ids_of(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """The tokens of texts, without special ones; a long text is read in pieces, which take less memory."""
    long = [row for row, text in enumerate(texts) if len(text) > LONG * PIECE]
    short = ["" if row in long else text for row, text in enumerate(texts)]
    ids = tokenizer(short, **PLAIN)["input_ids"]
    for row in long:
        joined = joined_pieces(tokenizer, texts[row]) if tokenizer.is_fast else None
        ids[row] = tokenizer(texts[row], **PLAIN)["input_ids"] if joined is None else joined
    return ids


def joined_pieces(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int] | None:
    """The tokens of a text, piece by piece; None where two have no word in common that is far from their ends."""
    spaces, start = " " if is_unsplit(tokenizer) else WHITE_SPACE, 0
    # Those that are sure, and those of the last piece from there on, with the words that they could be cut at.
    ids: list[int] = []
    last: list[int] = []
    ends: dict[int, int] = {}
    while True:
        part = text[start : start + LONG * PIECE]
        is_last = start + len(part) == len(text)
        part = part if is_last else beginning_of(part, PIECE, spaces)
        shared = end_of(part, OVERLAP, spaces)
        if not (is_last or shared):
            return None
        encoding = tokenizer(part, **PLAIN)
        starts = word_starts(tokenizer, encoding)
        places = [start + place for place, (_, word) in starts.items() if word >= SLACK]
        joint = next((place for place in places if place in ends), None)
        begin = 0 if start == 0 else None if joint is None else starts[joint - start][0]
        if begin is None:
            return None
        ids += last[: ends.get(joint, 0)]
        last = encoding["input_ids"][begin:]
        if is_last:
            return ids + last
        most = max((word for _, word in starts.values()), default=0) - SLACK
        sure = {place: token for place, (token, word) in starts.items() if word <= most and token >= begin}
        ends = {start + place: token - begin for place, token in sure.items()}
        start += len(part) - len(shared)


def word_starts(tokenizer: PreTrainedTokenizerBase, encoding: BatchEncoding) -> dict[int, tuple[int, int]]:
    """For each place where a word begins, the number of its first token, and its own; of several the first."""
    starts: dict[int, tuple[int, int]] = {}
    words, offsets = words_in(tokenizer, encoding), encoding.encodings[0].offsets
    for token, (before, word) in enumerate(itertools.pairwise([None, *words])):
        if word != before:
            starts.setdefault(offsets[token][0], (token, word - words[0]))
    return starts


def is_long(text: str, needed: int) -> bool:
    """Whether it has so many characters that it is worth a look."""
    return len(text) > LONG * CHARACTERS * needed


def part_of(tokenizer: PreTrainedTokenizerBase, text: str, needed: int, **kwargs: Any) -> Part:
    """The shortest part tried that does for so many tokens, or the text."""
    if not is_long(text, needed) or not tokenizer.is_fast:
        return Part(text)
    at_left, size = tokenizer.truncation_side == "left", CHARACTERS * needed
    spaces = " " if is_unsplit(tokenizer) else WHITE_SPACE
    while size * LONG < len(text):
        part = end_of(text, size, spaces) if at_left else beginning_of(text, size, spaces)
        words = words_of(tokenizer, part, **kwargs)
        if len(words) > needed:
            sure = [word >= words[0] + SLACK if at_left else word <= words[-1] - SLACK for word in words]
            if sum(sure) > needed:
                return Part(part, len(words), shortened=True)
        size *= GROWTH
    return Part(text)


def beginning_of(text: str, size: int, spaces: str) -> str:
    """At most so many characters, up to the last space in the latter half of them; nothing if there is none."""
    return text[: max(0, *(text.rfind(space, size // 2, size) for space in spaces))]


def end_of(text: str, size: int, spaces: str) -> str:
    """At most so many characters, from the first space in the former half of them; nothing if there is none."""
    start = len(text) - size
    found = [at for space in spaces if (at := text.find(space, start, start + size // 2)) >= 0]
    return text[min(found) :] if found else ""


def words_of(tokenizer: PreTrainedTokenizerBase, text: str, **kwargs: Any) -> list[int]:
    """For each token of a text, without special ones, the number of the word that it is of."""
    return words_in(tokenizer, tokenizer(text, **{**kwargs, **PLAIN}))


def words_in(tokenizer: PreTrainedTokenizerBase, encoding: BatchEncoding) -> list[int]:
    """As words_of, of what the tokenizer made of a text."""
    if is_unsplit(tokenizer) and begins_with_spaces(tokenizer):
        return list(itertools.accumulate(token.startswith(SPACE) for token in encoding.tokens()))
    return encoding.word_ids()


def is_unsplit(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a tokenizer takes a text for one word."""
    splitter = tokenizer.backend_tokenizer.pre_tokenizer
    return splitter is None or (isinstance(splitter, Metaspace) and not splitter.split)


@functools.lru_cache(maxsize=4)
def begins_with_spaces(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether no token has a space behind another character: so the tokens before a space are what they are."""
    return not any(SPACE in token.lstrip(SPACE) for token in tokenizer.backend_tokenizer.get_vocab(False))
