"""Shortening texts that are far too long for one sequence before they are tokenized.

A tokenizer needs hundreds of bytes of memory per byte of text, and time for the whole text, even if most tokens are
dropped. So only the beginning of the text is tokenized (or its end), if this does not change the tokens that are kept:

- The text is cut at whitespace, where words end. The rest of the text may change the tokens of words next to the cut,
  for example by an added token with a space in it, but not of words farther away than SLACK words.
- All tokens needed must be in words farther away. If they are not, as with a tokenizer that drops whitespace, the part
  is made four times as long, up to the whole text.

Some tokenizers treat a text as one word, as those of Llama and Gemma. If spaces occur only at the beginning of their
tokens, words are taken from space to space. Other such tokenizers, and slow ones, get the whole text.

By the same rule, a text that is needed as a whole is tokenized in pieces.
"""

import functools
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

from tokenizers.pre_tokenizers import Metaspace
from transformers import BatchEncoding, PreTrainedTokenizerBase

# The first part has CHARACTERS_PER_TOKEN characters for each token needed, and each next part GROWTH times as many.
# Only texts of more than LONG_FACTOR times as many characters are shortened.
CHARACTERS_PER_TOKEN, LONG_FACTOR, GROWTH = 8, 2, 4
# The number of words next to a cut whose tokens may change.
SLACK = 8
# Characters of a piece, and of its overlap with the next piece. Two pieces are joined at a word that both have.
PIECE, OVERLAP = 2**17, 2**12
WHITE_SPACE = " \n\t\r"
PLAIN = {"add_special_tokens": False, "verbose": False}
# SentencePiece's character for a space.
SPACE = "▁"


class Part(NamedTuple):
    """A text, or a part of it with the same tokens as far as they are needed.

    Args:
        text: the text, or the part of it.
        size: number of tokens of the part; 0 if it was not tokenized.
        unsure: number of its tokens next to the cut, which may differ from those of the whole text; 0 if it is whole.
    """

    text: str
    size: int = 0
    unsure: int = 0


def shorten(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], needed: int, **kwargs: Any
) -> tuple[list[str], list[int]]:
    """Shorten texts so that their first tokens stay the same (the last ones if the tokenizer truncates at the left).

    Args:
        tokenizer: of the texts.
        texts: any texts.
        needed: number of tokens that must stay the same. A text that may have fewer is not shortened.
        kwargs: arguments of the later call of the tokenizer.

    Returns:
        The texts, and for each the number of its tokens that may differ from those of the whole text; 0 if it was not
        shortened.
    """
    parts = [shortest_part(tokenizer, text, needed, **kwargs) for text in texts]
    return [part.text for part in parts], [part.unsure for part in parts]


def shorten_pairs(
    tokenizer: PreTrainedTokenizerBase, firsts: Sequence[str], seconds: Sequence[str], needed: int
) -> tuple[list[str], list[str], list[int]]:
    """Shorten pairs of texts that share one sequence, where truncation takes tokens from the longer text first.

    The text with more tokens keeps more tokens than the other. If both are shortened, the one with more characters
    counts as longer: if an odd number of tokens is kept, it may get one token that would belong to the other.
    """
    new_firsts, new_seconds, unsure = list(firsts), list(seconds), []
    for row, pair in enumerate(zip(firsts, seconds, strict=True)):
        short, long = sorted(pair, key=len)
        if not is_long(long, needed):
            unsure.append(0)
            continue
        short_part = shortest_part(tokenizer, short, needed)
        size = short_part.size if short_part.unsure else len(word_numbers(tokenizer, short))
        long_part = shortest_part(tokenizer, long, max(needed, size + 1))
        parts = (short_part, long_part) if short is pair[0] else (long_part, short_part)
        new_firsts[row], new_seconds[row] = (part.text for part in parts)
        unsure.append(long_part.unsure + short_part.unsure)
    return new_firsts, new_seconds, unsure


def token_ids_of(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """The token ids of texts, without special tokens. Long texts are tokenized in pieces, to save memory."""
    long = [row for row, text in enumerate(texts) if len(text) > LONG_FACTOR * PIECE]
    short = ["" if row in long else text for row, text in enumerate(texts)]
    ids = tokenizer(short, **PLAIN)["input_ids"]
    for row in long:
        joined = tokenize_in_pieces(tokenizer, texts[row]) if tokenizer.is_fast else None
        ids[row] = tokenizer(texts[row], **PLAIN)["input_ids"] if joined is None else joined
    return ids


def tokenize_in_pieces(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int] | None:
    """The token ids of a text, tokenized in overlapping pieces.

    None if two neighbouring pieces share no word that is more than SLACK words away from both their ends.
    """
    spaces, start = " " if is_unsplit(tokenizer) else WHITE_SPACE, 0
    # `ids` are final, `last` are those of the previous piece after them. `ends` are the places in the text where the
    # previous piece can be joined to the next one, each with its index in `last`.
    ids: list[int] = []
    last: list[int] = []
    ends: dict[int, int] = {}
    while True:
        part = text[start : start + LONG_FACTOR * PIECE]
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
    """For each offset in the text where a word begins, the index of its first token and of the word."""
    starts: dict[int, tuple[int, int]] = {}
    words, offsets = word_numbers_of_encoding(tokenizer, encoding), encoding.encodings[0].offsets
    for token, (before, word) in enumerate(itertools.pairwise([None, *words])):
        if word != before:
            starts.setdefault(offsets[token][0], (token, word - words[0]))
    return starts


def is_long(text: str, needed: int) -> bool:
    """Whether a text has so many characters that it may be shortened."""
    return len(text) > LONG_FACTOR * CHARACTERS_PER_TOKEN * needed


def shortest_part(tokenizer: PreTrainedTokenizerBase, text: str, needed: int, **kwargs: Any) -> Part:
    """The shortest part tried that has this number of tokens unchanged, or the whole text."""
    if not is_long(text, needed) or not tokenizer.is_fast:
        return Part(text)
    from_end, size = tokenizer.truncation_side == "left", CHARACTERS_PER_TOKEN * needed
    spaces = " " if is_unsplit(tokenizer) else WHITE_SPACE
    while size * LONG_FACTOR < len(text):
        part = end_of(text, size, spaces) if from_end else beginning_of(text, size, spaces)
        words = word_numbers(tokenizer, part, **kwargs)
        if len(words) > needed:
            sure = [word >= words[0] + SLACK if from_end else word <= words[-1] - SLACK for word in words]
            if sum(sure) > needed:
                return Part(part, len(words), unsure=len(words) - sum(sure))
        size *= GROWTH
    return Part(text)


def beginning_of(text: str, size: int, spaces: str) -> str:
    """The first `size` characters at most, cut at the last space in their second half; empty without such a space."""
    return text[: max(0, *(text.rfind(space, size // 2, size) for space in spaces))]


def end_of(text: str, size: int, spaces: str) -> str:
    """The last `size` characters at most, cut at the first space in their first half; empty without such a space."""
    start = len(text) - size
    found = [at for space in spaces if (at := text.find(space, start, start + size // 2)) >= 0]
    return text[min(found) :] if found else ""


def word_numbers(tokenizer: PreTrainedTokenizerBase, text: str, **kwargs: Any) -> list[int]:
    """For each token of a text, without special tokens, the index of its word."""
    return word_numbers_of_encoding(tokenizer, tokenizer(text, **{**kwargs, **PLAIN}))


def word_numbers_of_encoding(tokenizer: PreTrainedTokenizerBase, encoding: BatchEncoding) -> list[int]:
    """As `word_numbers`, for the encoding of a text."""
    if is_unsplit(tokenizer) and spaces_begin_tokens(tokenizer):
        return list(itertools.accumulate(token.startswith(SPACE) for token in encoding.tokens()))
    return encoding.word_ids()


def is_unsplit(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a tokenizer treats a text as one word."""
    splitter = tokenizer.backend_tokenizer.pre_tokenizer
    return splitter is None or (isinstance(splitter, Metaspace) and not splitter.split)


@functools.lru_cache(maxsize=4)
def spaces_begin_tokens(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether spaces occur only at the beginning of tokens, so that no token reaches across a space."""
    return not any(SPACE in token.lstrip(SPACE) for token in tokenizer.backend_tokenizer.get_vocab(False))
