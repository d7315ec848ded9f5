"""Scripts: those that put no space between words, and what texts are mostly written in."""

from collections.abc import Iterable

import regex

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
