"""Figures in pages that are written by hand: each has a marker behind it that says what it is.

A marker is a comment of HTML, which is not shown: `0.0124<!-- recall | rnn | 128 -->` is the mean of the experiment
`recall`, the setting `rnn`, at the number 128.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from .results import Results, readable

# The figure, or a question mark where there is none yet; the experiment, the setting and the number.
MARKED = re.compile(r"([\d.,e+-]+|\?)<!-- ([^|<>]+) \| ([^|<>]+) \| ([\d.]+) -->")


def value_of(results: Results, experiment: str, setting: str, at: str) -> str:
    """The mean that a marker asks for, as it is written on every page.

    Raises:
        ValueError: there is no such figure.
    """
    try:
        return readable(results.curve(experiment, setting)[float(at)].value)
    except KeyError as error:
        raise ValueError(f"no figure of {experiment!r}, {setting!r} at {at}") from error


def fill_in(pages: Iterable[Path], results: Results) -> None:
    """Write the figures before their markers again."""

    def fresh(found: re.Match[str]) -> str:
        return f"{value_of(results, *found.groups()[1:])}{found[0].removeprefix(found[1])}"

    for page in pages:
        page.write_text(MARKED.sub(fresh, page.read_text(encoding="utf-8")), encoding="utf-8")
