"""The text of each token: the part of a text that it comes from, or that it adds."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import regex
from transformers import BatchEncoding, PreTrainedTokenizerBase

GRAPHEME = regex.compile(r"\X")
# The most characters of a letter with its marks that are looked at behind the last token.
MOST_MARKS = 64


@dataclass(frozen=True)
class Token:
    """A token as it is shown.

    Args:
        text: its text, which names it on an axis.
        follows_space: whether there is white space between it and the token before it.
        overlap: the number of characters at the start of its text that the tokens before it have, too: those of a
            letter that consists of several tokens.
        is_special: whether it is a special token, such as [CLS].
        is_unknown: whether the model reads the unknown token in its place.
    """

    text: str
    follows_space: bool = False
    overlap: int = 0
    is_special: bool = False
    is_unknown: bool = False


class Span(NamedTuple):
    """A part of one of the texts.

    Args:
        text: index of the text.
        start: its start in the text, in characters.
        end: its end.
    """

    text: int
    start: int
    end: int


@dataclass(frozen=True)
class SplitText:
    """A text and the words that a tokenizer got.

    Args:
        text: the text.
        spans: start and end of each word in the text.
        words: as the tokenizer got them, perhaps with white space before them.
    """

    text: str
    spans: Sequence[tuple[int, int]]
    words: Sequence[str]

    def span(self, word: int, start: int, end: int) -> tuple[int, int]:
        """Start and end in the text of a part of a word."""
        first, last = self.spans[word]
        shift = first - (len(self.words[word]) - (last - first))
        return tuple(min(max(place + shift, first), last) for place in (start, end))  # type: ignore[return-value]


def input_tokens(
    tokenizer: PreTrainedTokenizerBase, inputs: BatchEncoding, texts: Sequence[str] | SplitText
) -> list[Token]:
    """The tokens of an input; each has the slice of the text that it comes from, see `token_text`.

    A letter and its combining marks are never split: each of their tokens has all of them.

    Args:
        tokenizer: the tokenizer of the inputs.
        inputs: one sequence of tokens.
        texts: what was tokenized: a text, a pair of texts, or the words of a text.
    """
    ids = inputs["input_ids"][0]
    encoding = inputs.encodings[0] if inputs.encodings else None
    if encoding is None or len(encoding.ids) != len(ids):
        # A slow tokenizer has no offsets, and an empty text has an end token that is not in its encoding.
        return written_tokens(tokenizer, ids)[0]
    spans: list[Span | None] = []
    for sequence, word, (start, end) in zip(encoding.sequence_ids, encoding.word_ids, encoding.offsets, strict=True):
        if sequence is None:
            spans.append(None)
        elif isinstance(texts, SplitText):
            spans.append(Span(0, *texts.span(word, start, end)))
        else:
            spans.append(Span(sequence, start, end))
    return tokens_of(tokenizer, ids, [texts.text] if isinstance(texts, SplitText) else texts, spans)


def written_tokens(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> tuple[list[Token], list[str]]:
    """Tokens that were generated, and the text after each of them.

    Each token has the slice of the decoded text that it adds, see `token_text`. If a character consists of several
    tokens, each of them has the whole character; the text has it after the last of them.
    """
    decode = partial(tokenizer.decode, skip_special_tokens=True)
    text, special = decode(ids), set(tokenizer.all_special_ids)
    texts = [decode(ids[:count]) for count in range(1, len(ids) + 1)]
    # How much of the text is final after each token. An incomplete character decodes to replacement characters, with
    # some decoders also complete ones before it.
    ends = [0]
    for so_far in texts:
        ends.append(max(ends[-1], common_prefix_length(so_far, text)))
    spans: list[Span | None] = []
    for token, start, end, so_far in zip(ids, ends, ends[1:], texts, strict=False):
        begins_next = so_far.endswith("\ufffd") and so_far != text[:end]
        if start == end and not begins_next and so_far.endswith("\ufffd"):
            # Several bytes that are no character make one replacement character.
            start -= 1
        elif start == end or begins_next:
            # A later token completes the character that this one begins, or is a part of.
            end = next((each for each in ends if each > end), end)
        spans.append(None if token in special else Span(0, start, end))
    return tokens_of(tokenizer, ids, [text], spans), [text[:end] for end in ends[1:]]


def tokens_of(
    tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], texts: Sequence[str], spans: Sequence[Span | None]
) -> list[Token]:
    """The tokens with the parts of the texts that they come from; None for special tokens."""
    lasts = [
        max((span.end for span in spans if span and span.text == index), default=0) for index in range(len(texts))
    ]
    # A letter may end behind the last token.
    bounds = [grapheme_bounds(text[: last + MOST_MARKS]) for text, last in zip(texts, lasts, strict=True)]
    tokens: list[Token] = []
    previous: Span | None = None
    # How much of each text the tokens so far show.
    ends = [0] * len(texts)
    for token, span in zip(ids, spans, strict=True):
        part, before, overlap = "", "", 0
        if span is not None:
            text = texts[span.text]
            span = Span(span.text, *whole_graphemes(bounds[span.text], span.start, span.end))
            part = text[span.start : span.end]
            if previous is not None and previous.text == span.text:
                before = text[previous.end : span.start]
        shown = token_text(tokenizer, token, part)
        if span is not None and shown.strip() and shown == part.strip():
            overlap = len(part[: max(0, ends[span.text] - span.start)].strip())
            ends[span.text] = max(ends[span.text], span.end)
        last = tokens[-1].text if tokens else ""
        tokens.append(
            Token(
                shown,
                follows_space=bool(shown.strip())
                and (before.isspace() or before[-1:].isspace() or part[:1].isspace())
                and not (last.isspace() and not before),
                overlap=overlap,
                is_special=token in tokenizer.all_special_ids and token != tokenizer.unk_token_id,
                is_unknown=token == tokenizer.unk_token_id,
            )
        )
        previous = span
    return tokens


def grapheme_bounds(text: str) -> list[int]:
    """Where letters, each with its combining marks, start; and the length of the text."""
    return [*(match.start() for match in GRAPHEME.finditer(text)), len(text)]


def whole_graphemes(bounds: list[int], start: int, end: int) -> tuple[int, int]:
    """Start and end of a part of a text, moved outwards until no letter is split from its combining marks."""
    if start >= end:
        return start, end
    return bounds[bisect_right(bounds, start) - 1], bounds[bisect_left(bounds, end)]


def common_prefix_length(first: str, second: str) -> int:
    """The length of the common prefix of two texts, in characters."""
    pairs = zip(first, second, strict=False)
    return next((position for position, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))


def token_text(tokenizer: PreTrainedTokenizerBase, token: int, part: str) -> str:
    """The text to show for a token.

    Args:
        tokenizer: of the token.
        token: its id.
        part: the part of a text that the token comes from, or adds.

    Returns:
        The part without spaces around it; one space for a token that only starts a word; the name of a special token,
        and of the unknown token without a part; the number of an id that the tokenizer does not have.
    """
    (name,) = tokenizer.convert_ids_to_tokens([token])
    if name is None:
        return str(token)
    if token == tokenizer.unk_token_id and part.strip():
        return part.strip()
    if token in tokenizer.all_special_ids:
        return name
    alone = tokenizer.decode([token])
    if not alone.strip():
        return part if part.isspace() else " "
    # A part of a space of several bytes is not blank alone.
    return part.strip() or part or alone
