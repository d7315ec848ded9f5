"""The built-in data set: calendar dates as fifty languages write them, from the CLDR calendars in Babel.

One row serves three tasks on the same input: text → language, character → field, text → ISO date.
Texts are exactly those of Babel: Gregorian calendar, Latin digits (Babel formats no others in dates), and with CLDR's
invisible characters (U+202F in Russian, U+200C in Persian), because real text has them too.
"""

import datetime
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, lru_cache

import babel
from babel.dates import DateTimeFormat, get_date_format, tokenize_pattern
from datasets import (
    Dataset,
    DatasetDict,
    Features,
    List,
    NamedSplit,
    Value,
    disable_progress_bars,
    enable_progress_bars,
)
from datasets.fingerprint import Hasher
from datasets.utils import are_progress_bars_disabled

LANGUAGES = (
    *("ar", "be", "bg", "bs", "ca", "cs", "cy", "da", "de", "el", "en", "es", "et", "eu", "fa", "fi", "fr", "gl"),
    *("he", "hi", "hr", "hu", "hy", "id", "is", "it", "ja", "ka", "ko", "lt", "lv", "mk", "nb", "nl"),
    *("nn", "pl", "pt", "ro", "ru", "sk", "sl", "sr", "sr_Latn", "sv", "ta", "th", "tr", "uk", "vi", "zh"),
)
STYLES = ("full", "long")  # CLDR's names: with and without the weekday
_PAIRS = [(language, style) for language in LANGUAGES for style in STYLES]

_VERSION = 1  # increase it when the rows change, so that no old cache is read
_FIRST_DAY, _LAST_DAY = datetime.date(1900, 1, 1), datetime.date(2099, 12, 31)
_SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}  # of all days from _FIRST_DAY to _LAST_DAY
_FEATURES = Features(
    text=Value("string"),
    label=Value("string"),
    tokens=List(Value("string")),
    tags=List(Value("string")),
    source=Value("string"),
    target=Value("string"),
)
_FIELD_TAGS = {"y": "YEAR", "M": "MONTH", "L": "MONTH", "d": "DAY", "E": "WEEKDAY", "c": "WEEKDAY"}
_MONDAY = datetime.date(2000, 1, 3)


def load_dates(
    seed: int = 0,
    num_train: int = 25_000,
    num_validation: int = 2_000,
    num_test: int = 2_000,
    cache_dir: str | None = None,
) -> DatasetDict:
    """The three splits, generated once and then read from the cache of `datasets`.

    The days of each split are fixed and do not depend on seed or sizes: a model trained on one seed may be tested on
    another. Languages are equally frequent; days and styles are drawn uniformly, with replacement.

    Args:
        seed: of the draws from each split's days.
        num_train: rows of `train`; the default is 500 per language, about forty for each of its months.
        num_validation: rows of `validation`.
        num_test: rows of `test`.
        cache_dir: directory of the Arrow files; None is the cache of `datasets`.

    Returns:
        Splits train, validation and test, with the columns of `date_row`.

    Raises:
        ValueError: a size is below 1.
    """
    sizes = {"train": num_train, "validation": num_validation, "test": num_test}
    for split, size in sizes.items():
        if size < 1:
            raise ValueError(f"num_{split}={size!r} must be at least 1")
    with _no_progress_bars():
        return DatasetDict({split: _load_split(split, seed, size, cache_dir) for split, size in sizes.items()})


def date_row(date: datetime.date, language: str, style: str = "full") -> dict[str, str | list[str]]:
    """One row of the data set.

    Returns:
        `text` and `source`: the date as written; `label`: the language; `tokens`: the characters of the text;
        `tags`: one BIO tag per character (YEAR, MONTH, DAY, WEEKDAY, O), from CLDR's pattern; a month is
        CLDR's whole name, so Korean "3월" is one MONTH; `target`: the date as YYYY-MM-DD.

    Raises:
        ValueError: the language or the style is not one of LANGUAGES, STYLES.
    """
    for field, value, known in (("language", language, LANGUAGES), ("style", style, STYLES)):
        if value not in known:
            raise ValueError(f"{field}={value!r} must be one of {', '.join(known)}")
    pieces = _pieces(date, language, style)
    text = "".join(piece for piece, _ in pieces)
    tags = [tag for piece, field in pieces for tag in _piece_tags(piece, field)]
    return {
        "text": text,
        "label": language,
        "tokens": list(text),
        "tags": tags,
        "source": text,
        "target": date.isoformat(),
    }


def language_ceiling(split: Dataset) -> float:
    """The expected accuracy of the best possible classifier of `label` by `text` on these texts.

    Languages share some texts: "4 mars 1987" is French or Swedish, among others, and the text does not tell which.
    Languages and styles are equally likely, so a text that n pairs of language and style write belongs to each of
    them with probability 1/n, and the best answer is the language with most pairs. The ceiling is the mean of the
    probability of the best answer over the rows. A finite split may score above or below it. Only the row's own date
    is tried: no text of this data set means two dates (tested by tests/test_dates.py).

    Args:
        split: rows with `text` and `target`, as `load_dates` makes them.

    Raises:
        ValueError: no language writes a text for its date; or there are no rows.
    """
    if len(split) == 0:
        raise ValueError("split has no rows")
    total = 0.0
    for text, target in zip(split["text"], split["target"], strict=True):
        date = datetime.date.fromisoformat(target)
        writers = Counter(language for language, style in _PAIRS if _text(date, language, style) == text)
        if not writers:
            raise ValueError(f"text={text!r} is no date {target} in any of {', '.join(LANGUAGES)}")
        total += max(writers.values()) / writers.total()
    return total / len(split)


def _load_split(split: str, seed: int, size: int, cache_dir: str | None) -> Dataset:
    draw = {"split": split, "seed": seed, "size": size}
    return Dataset.from_generator(
        _generate_rows,
        features=_FEATURES,
        cache_dir=cache_dir,
        gen_kwargs=draw,
        split=NamedSplit(split),
        # By default `datasets` hashes the function by its name only: with a new Babel it would return the old rows.
        fingerprint=Hasher.hash((_VERSION, babel.__version__, sorted(draw.items()))),
    )


def _generate_rows(split: str, seed: int, size: int) -> Iterator[dict]:
    rng = random.Random(f"dates-{seed}-{split}")  # a str seed does not depend on PYTHONHASHSEED
    days = _days_of_splits()[split]
    languages = [LANGUAGES[row % len(LANGUAGES)] for row in range(size)]
    rng.shuffle(languages)
    for language in languages:
        yield date_row(rng.choice(days), language, rng.choice(STYLES))


@lru_cache(maxsize=1)
def _days_of_splits() -> dict[str, list[datetime.date]]:
    num_days = (_LAST_DAY - _FIRST_DAY).days + 1
    days = [_FIRST_DAY + datetime.timedelta(days=day) for day in range(num_days)]
    random.Random("dates-splits").shuffle(days)
    splits, start = {}, 0
    for split, share in _SHARES.items():
        stop = start + int(share * num_days)
        splits[split] = days[start:stop]
        start = stop
    return splits


@cache
def _pattern(language: str, style: str) -> list[tuple[str, str]]:
    """The parts of CLDR's pattern: kind (`chars`, or a pattern letter) and the part as written ("de", "MMMM")."""
    tokens = tokenize_pattern(get_date_format(style, language).pattern)
    return [(kind, value) if kind == "chars" else (value[0], value[0] * value[1]) for kind, value in tokens]


@lru_cache(maxsize=1_000)
def _dates_by_letter(date: datetime.date) -> dict[str, datetime.date]:
    """For each pattern letter a date that depends on its field only: all dates with the same day share one for `d`."""
    month, weekday = date.replace(year=2000, day=1), _MONDAY + datetime.timedelta(days=date.weekday())
    return {
        "G": _MONDAY,  # the era; Thai writes it
        "y": date.replace(month=1, day=1),
        "M": month,
        "L": month,
        "d": date.replace(year=2000, month=1),
        "E": weekday,
        "c": weekday,
    }


@lru_cache(maxsize=100_000)
def _field_text(date: datetime.date, language: str, field: str) -> str:
    return DateTimeFormat(date, language)[field]


def _pieces(date: datetime.date, language: str, style: str) -> list[tuple[str, str | None]]:
    """The pieces of the text, each with its field: YEAR, MONTH, DAY, WEEKDAY or None."""
    dates = _dates_by_letter(date)
    return [
        (part, None) if kind == "chars" else (_field_text(dates[kind], language, part), _FIELD_TAGS.get(kind))
        for kind, part in _pattern(language, style)
    ]


def _text(date: datetime.date, language: str, style: str) -> str:
    return "".join(piece for piece, _ in _pieces(date, language, style))


def _piece_tags(piece: str, field: str | None) -> list[str]:
    if field is None:
        return ["O"] * len(piece)
    return [f"B-{field}"] + [f"I-{field}"] * (len(piece) - 1)


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    if are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()
