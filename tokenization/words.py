"""Splitting a text into words for tagging: the rules, and finding the rule that a tagger's training data follows.

tokenizer_config.json holds the rule as `word_splitting`. transformers does not read this field, but keeps it when the
tokenizer is saved again.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import regex
from transformers import PreTrainedTokenizerBase

from ..data.errors import InputError
from .kinds import is_trained_here

# Character classes of the scripts that are recognized.
SCRIPTS = {
    "Chinese": r"\p{Han}",
    "Japanese": r"\p{Hiragana}\p{Katakana}",
    "Korean": r"\p{Hangul}",
    "unspaced": r"\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}",
}
LETTERS = {name: regex.compile(rf"[[{characters}]&&\p{{L}}]", regex.V1) for name, characters in SCRIPTS.items()}
LETTER = regex.compile(r"\p{L}")
# Characters without spaces between words. Korean has spaces.
UNSPACED = regex.compile(
    rf"[{''.join(SCRIPTS[name] for name in SCRIPTS if name != 'Korean')}\u3000-\u303f\uff00-\uffef]"
)
# About half of the letters of Japanese are kana (fewer in names and headlines), none in Chinese.
MIN_KANA_SHARE = 0.1

# The name of the field in tokenizer_config.json.
KEY = "word_splitting"
# The splitting rules. With `words`, a word is a run of letters, digits and their marks, or any other single grapheme
# (an emoji may have several code points). U+200C and U+200D are part of words in Persian and Indian scripts.
WORDS = {
    "characters": regex.compile(r"(?s)."),
    "words": regex.compile(r"[\p{L}\p{N}_][\p{L}\p{N}\p{M}_\u200c\u200d]*|(?!\s)\X"),
    "spaces": regex.compile(r"\S+"),
}
DEFAULT = "words"
# Punctuation without a space before it, and without a space after it.
CLOSES, OPENS = regex.compile(r"[\p{Po}\p{Pe}\p{Pf}]"), regex.compile(r"[\p{Ps}\p{Pi}]")
# The rule is found from this many sentences.
SENTENCES = 1000


def main_script(texts: Iterable[str]) -> str | None:
    """The script of more than half of all letters: one of SCRIPTS, or None for other scripts and without letters.

    Han characters count as Japanese if the texts have kana too.
    """
    counts, letters = dict.fromkeys(SCRIPTS, 0), 0
    for text in texts:
        if text.isascii():
            letters += sum(map(str.isalpha, text))
            continue
        letters += len(LETTER.findall(text))
        for name, pattern in LETTERS.items():
            counts[name] += len(pattern.findall(text))
    han_and_kana = counts["Chinese"] + counts["Japanese"]
    if counts["Japanese"] > MIN_KANA_SHARE * han_and_kana:
        counts["Japanese"], counts["Chinese"] = han_and_kana, 0
    name = max(counts, key=lambda each: counts[each])
    return name if 2 * counts[name] > letters else None


class WordSplitting(NamedTuple):
    """How texts were split into the words of the training data.

    Args:
        rule: one of WORDS, the one that restores most of the training words.
        share: the share of the training words that it restores, 0 to 1.
    """

    rule: str
    share: float

    def __str__(self) -> str:
        if self.share == 1:
            return f"{self.rule!r} restores all words of training"
        return f"{self.rule!r} restores most words of training, {self.share:.1%}; no rule restores all"


def word_spans(text: str, rule: str) -> list[tuple[int, int]]:
    """Start and end of each word in a text."""
    return [match.span() for match in WORDS[rule].finditer(text)]


def split_text(text: str, rule: str) -> dict[str, Any]:
    """Split a text into words by a rule of WORDS.

    Returns:
        A row with the text, its words as `tokens`, and `spans`, the start and end of each word in the text.
    """
    spans = word_spans(text, rule)
    return {"text": text, "tokens": [text[start:stop] for start, stop in spans], "spans": spans}


def join_words(words: Iterable[str], rule: str) -> tuple[str, list[tuple[int, int]]]:
    """Join words to a text. Returns the text, and start and end of each word in it.

    With the rule `characters` there are no spaces. Else words are joined by a space, except between words of a script
    without spaces, before closing and after opening punctuation.
    """
    text, spans = "", []
    for word in words:
        has_no_space = (
            rule == "characters"
            or not (text and word)
            or (UNSPACED.match(text[-1]) and UNSPACED.match(word))
            or CLOSES.match(word)
            or OPENS.match(text[-1])
        )
        text += word if has_no_space else f" {word}"
        spans.append((len(text) - len(word), len(text)))
    return text, spans


def find_splitting(sentences: Iterable[list[str]]) -> WordSplitting | None:
    """The rule that restores most words when sentences are joined to texts and split again.

    Of equally good rules the first in WORDS is returned; None if there are no words.
    """
    restored, count = dict.fromkeys(WORDS, 0), 0
    for words in sentences:
        count += len(words)
        for rule in WORDS:
            text, spans = join_words(words, rule)
            restored[rule] += len({*spans} & {*word_spans(text, rule)})
    best = max(WORDS, key=lambda rule: restored[rule])
    return WordSplitting(best, restored[best] / count) if count else None


def set_splitting(tokenizer: PreTrainedTokenizerBase, splitting: WordSplitting | None) -> None:
    """Set the `word_splitting` field of the tokenizer's configuration, or remove it (None)."""
    tokenizer.init_kwargs.pop(KEY, None)
    if splitting is not None:
        tokenizer.init_kwargs[KEY] = splitting._asdict()


def read_splitting(config: dict) -> WordSplitting | None:
    """The `word_splitting` field of a tokenizer's configuration (`init_kwargs`); None if it is missing.

    Raises:
        InputError: the field is invalid.
    """
    value = config.get(KEY)
    if not value:
        return None
    try:
        rule, share = WordSplitting(**value)
        known = rule in WORDS and 0 <= share <= 1
    except TypeError:  # not a mapping, or with other names
        known = False
    if not known:
        must = f"a rule ({', '.join(WORDS)}) and a share from 0 to 1"
        raise InputError(f"{KEY} in tokenizer_config.json: must hold {must}, but is {value!r:.80}")
    return WordSplitting(rule, share)


# --- From words to the tokenizer ---


def needs_spaces(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the words of a list need the space before them to have the tokens that they have in a text.

    Those of RoBERTa, GPT-2 and ModernBERT do, unless the tokenizer is loaded with add_prefix_space=True. A tokenizer
    that was trained here reads words as in its training, by characters without the spaces between them.
    """
    if is_trained_here(tokenizer):
        return False
    plain = {"add_special_tokens": False}
    text = tokenizer("a b", **plain)["input_ids"]
    lists = [tokenizer(["a", word], is_split_into_words=True, **plain)["input_ids"] for word in ("b", " b")]
    return [each == text for each in lists] == [False, True]


def with_spaces(words: list[str], rule: str) -> list[str]:
    """The words, each with the space before it that it has in a text; see join_words."""
    text, spans = join_words(words, rule)
    ends = [end for _, end in spans]
    return [text[start:end] for start, end in zip([0, *ends], ends, strict=False)]
