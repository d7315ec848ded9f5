"""How a text is divided into words to be tagged: the rules, and the one that a tagger's training words follow.

Which one that is stands in tokenizer_config.json, as `word_splitting`. transformers does not read it, and keeps it
when the tokenizer is saved again.
"""

from collections.abc import Iterable
from typing import NamedTuple

import regex
from transformers import PreTrainedTokenizerBase

from ..data.errors import InputError

# Classes of characters, by the name of a language or script that they tell.
CLASSES = {
    "Chinese": r"\p{Han}",
    "Japanese": r"\p{Hiragana}\p{Katakana}",
    "Korean": r"\p{Hangul}",
    "unspaced": r"\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}",
}
LETTERS = {name: regex.compile(rf"[[{characters}]&&\p{{L}}]", regex.V1) for name, characters in CLASSES.items()}
LETTER = regex.compile(r"\p{L}")
# Characters that have no space between them; Hangul has.
UNSPACED = regex.compile(
    rf"[{''.join(CLASSES[name] for name in CLASSES if name != 'Korean')}\u3000-\u303f\uff00-\uffef]"
)
# Japanese writes about half of its letters in kana, Chinese none; names and headlines have less.
LEAST_KANA = 0.1

# What the tokenizer's configuration calls it.
KEY = "word_splitting"
# In `words`, a run of letters, digits and what belongs to them, or another character as it is seen (an emoji is one,
# of however many code points). The two joiners stand inside words of Persian and of Indian scripts.
WORDS = {
    "characters": regex.compile(r"(?s)."),
    "words": regex.compile(r"[\p{L}\p{N}_][\p{L}\p{N}\p{M}_\u200c\u200d]*|(?!\s)\X"),
    "spaces": regex.compile(r"\S+"),
}
DEFAULT = "words"
# Punctuation that stands close to the word before it, and to the one behind it.
CLOSES, OPENS = regex.compile(r"[\p{Po}\p{Pe}\p{Pf}]"), regex.compile(r"[\p{Ps}\p{Pi}]")
# So many sentences tell the rule.
SENTENCES = 1000


def main_script(texts: Iterable[str]) -> str | None:
    """What more than half of all letters are of: one of CLASSES; None for other scripts, and where there is no letter.

    Han is Japanese where kana stands among it.
    """
    counts, letters = dict.fromkeys(CLASSES, 0), 0
    for text in texts:
        if text.isascii():
            letters += sum(map(str.isalpha, text))
            continue
        letters += len(LETTER.findall(text))
        for name, pattern in LETTERS.items():
            counts[name] += len(pattern.findall(text))
    han_and_kana = counts["Chinese"] + counts["Japanese"]
    if counts["Japanese"] > LEAST_KANA * han_and_kana:
        counts["Japanese"], counts["Chinese"] = han_and_kana, 0
    name = max(counts, key=lambda each: counts[each])
    return name if 2 * counts[name] > letters else None


class WordSplitting(NamedTuple):
    """How the words of training were divided.

    Args:
        rule: one of WORDS, that which gives back most of them.
        share: how many it gives back, from 0 to 1.
    """

    rule: str
    share: float

    def __str__(self) -> str:
        if self.share == 1:
            return f"{self.rule!r} gives back the words of training"
        return f"{self.rule!r} gives back most words of training, {self.share:.1%}, and no rule gives back all"


def word_spans(text: str, rule: str) -> list[tuple[int, int]]:
    """From where to where in a text each of its words stands."""
    return [match.span() for match in WORDS[rule].finditer(text)]


def write_text(words: Iterable[str], rule: str) -> tuple[str, list[tuple[int, int]]]:
    """Words as a text, and from where to where in it each stands.

    Characters have nothing between them. Other words have a space, but where both belong to a script that has none,
    before punctuation that closes, and behind such as opens.
    """
    text, spans = "", []
    for word in words:
        is_close = (
            rule == "characters"
            or not (text and word)
            or (UNSPACED.match(text[-1]) and UNSPACED.match(word))
            or CLOSES.match(word)
            or OPENS.match(text[-1])
        )
        text += word if is_close else f" {word}"
        spans.append((len(text) - len(word), len(text)))
    return text, spans


def find_splitting(sentences: Iterable[list[str]]) -> WordSplitting | None:
    """The rule that gives back most words of sentences when these are written as texts; of equal ones WORDS' first.

    None where there is no word.
    """
    found, count = dict.fromkeys(WORDS, 0), 0
    for words in sentences:
        count += len(words)
        for rule in WORDS:
            text, spans = write_text(words, rule)
            found[rule] += len({*spans} & {*word_spans(text, rule)})
    best = max(WORDS, key=lambda rule: found[rule])
    return WordSplitting(best, found[best] / count) if count else None


def record_splitting(tokenizer: PreTrainedTokenizerBase, splitting: WordSplitting | None) -> None:
    """Let the tokenizer's configuration tell how words were divided, or tell nothing."""
    tokenizer.init_kwargs.pop(KEY, None)
    if splitting is not None:
        tokenizer.init_kwargs[KEY] = splitting._asdict()


def read_splitting(config: dict) -> WordSplitting | None:
    """How words were divided, by a tokenizer's configuration (`init_kwargs`); None where it does not tell.

    Raises:
        InputError: it tells something else.
    """
    told = config.get(KEY)
    if not told:
        return None
    try:
        rule, share = WordSplitting(**told)
        known = rule in WORDS and 0 <= share <= 1
    except TypeError:  # of another kind, or with other names
        known = False
    if not known:
        must = f"a rule ({', '.join(WORDS)}) and a share from 0 to 1"
        raise InputError(f"{KEY} in tokenizer_config.json: must hold {must}, but is {told!r:.80}")
    return WordSplitting(rule, share)
