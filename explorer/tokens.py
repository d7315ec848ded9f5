"""The text of each token: the part of a text that it comes from, or that it adds."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import regex
from transformers import BatchEncoding, PreTrainedTokenizerBase

GRAPHEME = regex.compile(r"\X")


@dataclass(frozen=True)
class Token:
    """A token as it is shown.

    Args:
        text: its text, which names it on an axis.
        follows_space: whether there is white space between it and the token before it.
        repeats: whether the token before it has the same text: one letter that consists of several tokens.
        is_special: whether it is a special token, such as [CLS].
        is_unknown: whether the model reads the unknown token in its place.
    """

    text: str
    follows_space: bool = False
    repeats: bool = False
    is_special: bool = False
    is_unknown: bool = False


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
        inputs: a sequence of tokens, without a dimension for the batch or with one of size 1.
        texts: what was tokenized: a text, a pair of texts, or the words of a text.
    """
    ids = inputs["input_ids"][0]
    ids = ids if isinstance(ids, list) else ids.tolist()
    encoding = inputs.encodings[0] if inputs.encodings else None
    if encoding is None or len(encoding.ids) != len(ids):
        # A slow tokenizer has no offsets, and an empty text has an end token that is not in its encoding.
        return written_tokens(tokenizer, ids)
    tokens, previous = [], (None, 0, 0)
    for token, sequence, word, (start, end) in zip(
        ids, encoding.sequence_ids, encoding.word_ids, encoding.offsets, strict=True
    ):
        text = ""
        if sequence is not None and isinstance(texts, SplitText):
            text, (start, end) = texts.text, texts.span(word, start, end)
        elif sequence is not None:
            text = texts[sequence]
        start, end = whole_graphemes(text, start, end)
        part = text[start:end]
        before = text[previous[2] : start] if sequence == previous[0] else ""
        tokens.append(
            Token(
                token_text(tokenizer, token, part),
                follows_space=(before + part[:1]).isspace() or before[-1:].isspace() or part[:1].isspace(),
                repeats=bool(part) and (sequence, start, end) == previous,
                is_special=token in tokenizer.all_special_ids and token != tokenizer.unk_token_id,
                is_unknown=token == tokenizer.unk_token_id,
            )
        )
        previous = (sequence, start, end)
    return tokens


def written_tokens(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[Token]:
    """Tokens that were generated; each has the slice of the decoded text that it adds, see `token_text`.

    If a character consists of several tokens, each of them has the whole character.
    """
    texts = written_texts(tokenizer, ids)
    tokens, text = [], texts[-1]
    for token, before, after in zip(ids, texts, texts[1:], strict=False):
        start, end = common_prefix_length(before, text), common_prefix_length(after, text)
        is_partial = end < len(after)  # it ends with the replacement character, for the first part of a character
        part = text[start : end + is_partial]
        tokens.append(
            Token(
                token_text(tokenizer, token, part),
                follows_space=part[:1].isspace() or (bool(part) and text[:start][-1:].isspace()),
                repeats=bool(part) and before.endswith("\ufffd"),
                is_special=token in tokenizer.all_special_ids,
            )
        )
    return tokens


def written_texts(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[str]:
    """The text after no token, after the first, after the second …: one more than there are tokens."""
    decode = partial(tokenizer.decode, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return [decode(ids[:count]) for count in range(len(ids) + 1)]


def whole_graphemes(text: str, start: int, end: int) -> tuple[int, int]:
    """Start and end of a part of a text, moved outwards until no letter is split from its combining marks."""
    if start >= end:
        return start, end
    spans = [match.span() for match in GRAPHEME.finditer(text)]
    touched = [span for span in spans if span[0] < end and start < span[1]]
    return (touched[0][0], touched[-1][1]) if touched else (start, end)


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
    return part.strip() or alone
