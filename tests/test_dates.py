import datetime
import hashlib
import json
import os
import random
from collections import Counter, defaultdict

import pytest
from babel.dates import format_date, get_day_names, get_month_names
from datasets import Dataset
from datasets.exceptions import DatasetGenerationError
from datasets.utils import are_progress_bars_disabled, enable_progress_bars
from template import TEMPLATE

from seqblend.data import dates
from seqblend.data.dates import LANGUAGES, STYLES, date_row, language_ceiling, load_dates

SMALL = {"num_train": 300, "num_validation": 60, "num_test": 60}
CONTEXTS = ("format", "stand-alone")  # the two cases in which CLDR spells a name
PAIRS = [(language, style) for language in LANGUAGES for style in STYLES]


def sample_dates(count: int, seed: int = 0) -> list[datetime.date]:
    rng = random.Random(seed)
    return [datetime.date(1900, 1, 1) + datetime.timedelta(days=rng.randrange(73_049)) for _ in range(count)]


def every_row(days: list[datetime.date]) -> list[dict]:
    return [date_row(day, language, style) for day in days for language, style in PAIRS]


def digest(splits) -> str:
    rows = {name: split.to_list() for name, split in splits.items()}
    return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory):
    return str(tmp_path_factory.mktemp("dates"))


@pytest.fixture(scope="module")
def splits(cache_dir):
    return load_dates(**SMALL, cache_dir=cache_dir)


def spans(row: dict) -> list[tuple[str, str]]:
    """The fields that the tags mark, with their text: [("WEEKDAY", "Mittwoch"), ("DAY", "4"), …]."""
    found = []
    for token, tag in zip(row["tokens"], row["tags"], strict=True):
        prefix, _, field = tag.partition("-")
        if prefix == "B":
            found.append((field, token))
        elif prefix == "I":
            assert found[-1][0] == field, f"I-{field} does not continue a field in {row}"
            found[-1] = (field, found[-1][1] + token)
    return found


# What is written


@pytest.mark.parametrize("style", STYLES)
def test_texts_are_babels_for_every_language(style):
    for day in sample_dates(50):
        for language in LANGUAGES:
            assert date_row(day, language, style)["text"] == format_date(day, style, language), (day, language)


def test_tags_spell_the_date():
    for day in sample_dates(20, seed=1):
        for language, style in PAIRS:
            row = date_row(day, language, style)
            fields = dict(spans(row))
            assert len(spans(row)) == len(fields) == (4 if style == "full" else 3), row
            assert fields["YEAR"] == row["target"][:4]
            assert int(fields["DAY"]) == int(row["target"][8:])
            months = [str(day.month), *(get_month_names("wide", context, language)[day.month] for context in CONTEXTS)]
            assert fields["MONTH"] in months, row
            if style == "full":
                weekdays = [get_day_names("wide", context, language)[day.weekday()] for context in CONTEXTS]
                assert fields["WEEKDAY"] in weekdays, row


def test_korean_row_is_the_one_of_the_lecture():
    row = date_row(datetime.date(2031, 3, 6), "ko")
    assert row["text"] == row["source"] == "".join(row["tokens"]) == "2031년 3월 6일 목요일"
    assert (row["label"], row["target"]) == ("ko", "2031-03-06")
    assert spans(row) == [("YEAR", "2031"), ("MONTH", "3월"), ("DAY", "6"), ("WEEKDAY", "목요일")]


def test_no_text_means_two_dates():
    """`language_ceiling` looks only at the row's own date, and `target` is a function of `source`."""
    days_of = defaultdict(set)
    for number in range(366):
        day = datetime.date(2024, 1, 1) + datetime.timedelta(days=number)
        for row in every_row([day]):
            days_of[row["text"]].add(day)
    assert [text for text, days in days_of.items() if len(days) > 1] == []


# Which rows


def test_columns_and_languages(splits):
    assert {name: split.num_rows for name, split in splits.items()} == {"train": 300, "validation": 60, "test": 60}
    for split in splits.values():
        assert split.column_names == ["text", "label", "tokens", "tags", "source", "target"]
    assert len(set(LANGUAGES)) == len(LANGUAGES) >= 40
    assert set(Counter(splits["train"]["label"]).values()) == {300 // len(LANGUAGES)}
    close = ["da", "nb", "sv", "hr", "sr", "sr_Latn", "sl", "bs", "cs", "sk", "es", "pt", "ca", "gl"]
    assert set(close) <= set(LANGUAGES)


def test_rows_are_the_same_in_another_process_and_differ_by_seed(splits, cache_dir, tmp_path):
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); from test_dates import SMALL, digest, load_dates; "
        "print(digest(load_dates(**SMALL, cache_dir=sys.argv[2])))"
    )
    run = TEMPLATE.run(program, os.path.dirname(__file__), tmp_path, cwd=tmp_path, env={**os.environ})
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == [digest(splits)]
    assert run.stderr == ""
    assert digest(load_dates(seed=1, **SMALL, cache_dir=cache_dir)) != digest(splits)


def test_splits_share_no_date_whatever_the_seed(splits, cache_dir):
    other = load_dates(seed=1, num_train=400, num_validation=90, num_test=90, cache_dir=cache_dir)
    days = {name: set(splits[name]["target"]) | set(other[name]["target"]) for name in splits}
    assert len(days["train"]) > 600
    assert not days["train"] & days["validation"]
    assert not days["train"] & days["test"]
    assert not days["validation"] & days["test"]


def test_second_load_reads_the_cache_unless_size_or_babel_differ(splits, cache_dir, monkeypatch):
    def refuse(**_):
        raise RuntimeError("generated again")

    monkeypatch.setattr(dates, "_generate_rows", refuse)
    assert digest(load_dates(**SMALL, cache_dir=cache_dir)) == digest(splits)
    with pytest.raises(DatasetGenerationError):
        load_dates(**{**SMALL, "num_test": 61}, cache_dir=cache_dir)
    monkeypatch.setattr(dates.babel, "__version__", "0")
    with pytest.raises(DatasetGenerationError):
        load_dates(**SMALL, cache_dir=cache_dir)


def test_loading_prints_nothing_and_leaves_progress_bars_on(tmp_path, capfd):
    enable_progress_bars()
    load_dates(**SMALL, cache_dir=str(tmp_path))
    assert capfd.readouterr() == ("", "")
    assert not are_progress_bars_disabled()


# The ceiling


def test_ceiling_is_what_an_optimal_classifier_scores():
    days = sample_dates(8, seed=2)
    written = [(language, format_date(day, style, language)) for day in days for language, style in PAIRS]
    languages_of = defaultdict(Counter)
    for language, text in written:
        languages_of[text][language] += 1
    best = {text: languages.most_common(1)[0][0] for text, languages in languages_of.items()}
    accuracy = sum(best[text] == language for language, text in written) / len(written)
    assert accuracy < 1
    assert language_ceiling(Dataset.from_list(every_row(days))) == pytest.approx(accuracy, abs=1e-12)


def test_ceiling_of_one_text():
    day = datetime.date(2026, 3, 4)
    assert date_row(day, "nb", "long")["text"] == date_row(day, "nn", "long")["text"] == "4. mars 2026"
    writers = [pair for pair in PAIRS if format_date(day, pair[1], pair[0]) == "4. mars 2026"]
    assert len(writers) >= 2
    assert language_ceiling(Dataset.from_list([date_row(day, "nn", "long")])) == 1 / len(writers)
    assert language_ceiling(Dataset.from_list([date_row(day, "ko", "long")])) == 1


def test_ceiling_of_the_default_test_split(cache_dir):
    test = load_dates(num_train=50, num_validation=50, cache_dir=cache_dir)["test"]
    assert test.num_rows == 2_000
    assert 0.9 <= language_ceiling(test) < 0.95


# What is refused


@pytest.mark.parametrize("name", ["num_train", "num_validation", "num_test"])
def test_sizes_below_one_are_refused(name):
    with pytest.raises(ValueError, match=f"{name}=0 must be at least 1"):
        load_dates(**{name: 0})


def test_unknown_language_and_style_are_refused():
    day = datetime.date(2000, 1, 1)
    with pytest.raises(ValueError, match=r"language='tlh' must be one of ar, .*, zh"):
        date_row(day, "tlh")
    with pytest.raises(ValueError, match="style='short' must be one of full, long"):
        date_row(day, "ko", "short")


def test_ceiling_refuses_other_texts():
    row = date_row(datetime.date(2000, 1, 1), "ko")
    with pytest.raises(ValueError, match=r"text='tomorrow' is no date 2000-01-01 in any of ar, .*, zh"):
        language_ceiling(Dataset.from_list([{**row, "text": "tomorrow"}]))
    with pytest.raises(ValueError, match="split has no rows"):
        language_ceiling(Dataset.from_list([row]).select([]))
