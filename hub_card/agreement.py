"""Whether the code on a card says of test rows what the run said of them: tried on rows of every label."""

import json
from collections import Counter
from itertools import groupby
from typing import Any

from .saved import Saved
from .usage import LONGEST

# The most rows of each label that are tried, and of all labels together.
ROWS_OF_LABEL, MOST_ROWS = 3, 100
# What stands between the output of the card's code and what the rows were told.
MARK = "--- test rows ---"
TRIAL = """
import json

def try_row(code):
    lines = []
    try:
        exec(code, {{**globals(), "print": lambda *words: lines.append(words)}})
    except Exception as error:
        return str(error)
    return lines

print({mark!r})
print(json.dumps([try_row(code) for code in {codes!r}], default=str))
"""


def rows_of_each_label(saved: Saved) -> list[dict[str, Any]]:
    """Some of the test rows that got each label; short ones, which nothing was cut off of.

    One of every label comes before the second of any, so that many labels leave none out.
    """
    if not saved.head.classifies:
        return []
    rest = [row for row in saved.predictions if is_short(row["input"])]
    rows, counts = [], Counter[str]()
    for most in range(1, ROWS_OF_LABEL + 1):
        left = []
        for row in rest:
            labels = labels_of(row)
            wanted = len(rows) < MOST_ROWS and any(counts[name] < most for name in labels)
            (rows if wanted else left).append(row)
            counts.update(labels if wanted else ())
        rest = left
    return rows


def told_rows(rows: list[dict[str, Any]], labels: int) -> str:
    """How many rows were tried, and of how many of the model's labels; of numbers there are none to tell of."""
    tried = set().union(*map(labels_of, rows))
    count = f"{len(rows)} test row{'s' * (len(rows) > 1)}"
    if tried == {""}:
        return count
    return f"{count}, which got {'all' if len(tried) == labels else f'{len(tried)} of the'} {labels} labels,"


def is_short(example: str | list[str]) -> bool:
    """Whether a text, a pair of texts, or words have no more than LONGEST characters."""
    return sum(map(len, example)) <= LONGEST


def labels_of(row: dict[str, Any]) -> set[str]:
    """The labels that a row got; of several that are not exclusive the most probable; of numbers one for all."""
    if isinstance(row["prediction"], list) and "scores" not in row and isinstance(row["input"], list):
        return {str(tag) for tag in row["prediction"]}
    return {max(row["scores"], key=row["scores"].get)} if row.get("scores") else {""}


def trial_code(codes: list[str]) -> str:
    """Lines behind those of the card that print what each of `codes` prints."""
    return TRIAL.format(mark=MARK, codes=codes) if codes else ""


def count_agreeing(rows: list[dict[str, Any]], printed: str) -> int:
    """Of how many rows the code said what the run said, from what `trial_code` printed."""
    return sum(agrees(row, lines) for row, lines in zip(rows, json.loads(printed), strict=True))


def agrees(row: dict[str, Any], lines: list[list[Any]] | str) -> bool:
    """Whether the printed lines of a row, each a list of what was printed, say the same as its prediction."""
    if isinstance(lines, str):
        return False
    said = lines[0][0] if lines else None
    if said is None or isinstance(said, str):
        return [line[1] for line in lines] in (tags_told(row["prediction"]), groups_told(row["prediction"]))
    said = said[0] if isinstance(said, list) else said
    if row.get("scores"):
        return {said["label"]} == labels_of(row)
    numbers = row["prediction"] if isinstance(row["prediction"], list) else [row["prediction"]]
    return abs(said["score"] - max(numbers)) <= 1e-3 * max(1.0, abs(max(numbers)))


def tags_told(tags: list[str]) -> list[str]:
    """The tags that a pipeline tells of, word by word."""
    return [tag for tag in tags if tag != "O"]


def groups_told(tags: list[str]) -> list[str]:
    """The types of the spans that a pipeline groups tags of IOB into."""
    numbered, number, last = [], 0, None
    for tag in tags:
        kind = tag.partition("-")[2]
        number += tag.startswith("B-") or kind != last
        numbered.append((number, kind))
        last = kind
    return [kind for (_, kind), _ in groupby(numbered) if kind]
