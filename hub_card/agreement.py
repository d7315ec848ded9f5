"""Running the code on a card, and whether it gives the predictions of the run: tested on rows of every label."""

import json
import tempfile
from collections import Counter
from itertools import groupby
from pathlib import Path
from typing import Any

from .saved import SavedModel
from .usage import MAX_EXAMPLE_LENGTH
from .verify import run_isolated

# The largest number of rows of one label that are tested, and of all rows together.
ROWS_PER_LABEL, MAX_ROWS = 3, 100
# The line between the output of the card's code and the results of the test rows.
SEPARATOR = "--- test rows ---"
TRIAL = """
import json

def try_row(code):
    lines = []
    try:
        exec(code, {{**globals(), "print": lambda *words: lines.append(words)}})
    except Exception as error:  # the code on the card calls transformers and torch
        return str(error)
    return lines

print({separator!r})
print(json.dumps([try_row(code) for code in {codes!r}], default=str))
"""


def run_usage(code: str, repo_id: str, directory: Path) -> str:
    """Run the example code unchanged in a process without seqblend, and return its output.

    In the working directory of the process, `repo_id` is a link to `directory`; transformers loads it like the
    repository.

    Raises:
        ValueError: the code fails.
    """
    with tempfile.TemporaryDirectory() as temporary:
        link = Path(temporary, repo_id)
        if Path(temporary).resolve() not in link.resolve().parents:
            raise ValueError(f"repo_id: {repo_id!r} is not the name of a repository")
        try:
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(Path(directory).absolute(), target_is_directory=True)
        except OSError as error:  # Windows allows links only with a special permission
            raise ValueError(str(error)) from error
        done = run_isolated(["-"], Path(temporary), code)
    if done.returncode:
        raise ValueError((done.stderr.strip().splitlines() or ["the process ended without a message"])[-1])
    return done.stdout.rstrip("\n")


def rows_of_each_label(saved: SavedModel) -> list[dict[str, Any]]:
    """Select test rows for every predicted label. Only short rows, which are not truncated.

    The first row of every label is selected before the second row of any label, so that the limit leaves out as few
    labels as possible.
    """
    if not saved.head.classifies:
        return []
    rest = [row for row in saved.predictions if is_short(row["input"])]
    rows, counts = [], Counter[str]()
    for limit in range(1, ROWS_PER_LABEL + 1):
        skipped = []
        for row in rest:
            labels = predicted_labels(row)
            is_selected = len(rows) < MAX_ROWS and any(counts[name] < limit for name in labels)
            (rows if is_selected else skipped).append(row)
            counts.update(labels if is_selected else ())
        rest = skipped
    return rows


def describe_rows(rows: list[dict[str, Any]], num_labels: int) -> str:
    """The number of tested rows and, for models with label names, of the labels predicted for them."""
    labels = set().union(*map(predicted_labels, rows))
    count = f"{len(rows)} test row{'s' * (len(rows) > 1)}"
    if labels == {""}:
        return count
    return f"{count} (with {'all' if len(labels) == num_labels else f'{len(labels)} of the'} {num_labels} labels)"


def is_short(example: str | list[str]) -> bool:
    """Whether a text, a pair of texts, or a list of words has at most MAX_EXAMPLE_LENGTH characters."""
    return sum(map(len, example)) <= MAX_EXAMPLE_LENGTH


def predicted_labels(row: dict[str, Any]) -> set[str]:
    """The labels predicted for a row: its tags, or the most probable label; {""} for regression."""
    if isinstance(row["prediction"], list) and "scores" not in row and isinstance(row["input"], list):
        return {str(tag) for tag in row["prediction"]}
    return {max(row["scores"], key=row["scores"].get)} if row.get("scores") else {""}


def trial_code(codes: list[str]) -> str:
    """Code to append to that of the card: it prints, as JSON, what each of `codes` prints."""
    return TRIAL.format(separator=SEPARATOR, codes=codes) if codes else ""


def count_agreeing(rows: list[dict[str, Any]], output: str) -> int:
    """The number of rows for which the code gives the prediction of the run; `output` is that of `trial_code`."""
    return sum(agrees(row, lines) for row, lines in zip(rows, json.loads(output), strict=True))


def agrees(row: dict[str, Any], lines: list[list[Any]] | str) -> bool:
    """Whether the output for a row equals its prediction.

    Args:
        row: of predictions.jsonl.
        lines: the arguments of each call of print, or the message of an error.
    """
    if isinstance(lines, str):
        return False
    first = lines[0][0] if lines else None
    if first is None or isinstance(first, str):
        tags = [line[1] for line in lines]
        return tags in (expected_tags(row["prediction"]), expected_groups(row["prediction"]))
    answers = first if isinstance(first, list) else [line[0] for line in lines]
    if isinstance(row["prediction"], str):
        return answers[0]["label"] == row["prediction"]
    found = {answer["label"]: answer["score"] for answer in answers}
    if scores := row.get("scores"):
        # Of any number of labels: which ones are predicted depends on all scores.
        return found.keys() == scores.keys() and all(map(is_near, found.values(), map(scores.get, found)))
    numbers = row["prediction"] if isinstance(row["prediction"], list) else [row["prediction"]]
    # A pipeline gives the largest number first.
    return len(found) == len(numbers) and all(map(is_near, found.values(), sorted(numbers, reverse=True)))


def is_near(found: float, expected: float) -> bool:
    """Whether a score is that of the run, but for rounding."""
    return abs(found - expected) <= 1e-3 * max(1.0, abs(expected))


def expected_tags(tags: list[str]) -> list[str]:
    """The tags that a pipeline returns word by word: all but O."""
    return [tag for tag in tags if tag != "O"]


def expected_groups(tags: list[str]) -> list[str]:
    """The types of the spans into which a pipeline groups IOB tags."""
    numbered, number, last = [], 0, None
    for tag in tags:
        kind = tag.partition("-")[2]
        number += tag.startswith("B-") or kind != last
        numbered.append((number, kind))
        last = kind
    return [kind for (_, kind), _ in groupby(numbered) if kind]
