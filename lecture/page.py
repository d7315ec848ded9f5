"""The page of the measured lecture, docs/lecture/README.md. Every figure on it comes from figures.jsonl."""

import os
import platform
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from .claims import CLAIMS, setup
from .experiments import LEARNING, TEST_ROWS
from .results import LEAST_DIFFERENCE, Mean, Results, readable
from .verdicts import Claim, Verdict, shown_curve

INTRODUCTION = f"""# The lecture, measured

This page tests the claims of the lecture by experiments. Each section describes an experiment, says whether the claim
is confirmed, and shows a picture and a table of the results. Two further claims name cases in which recurrence is
better than attention. [lecture.md](../lecture.md) lists the fourteen claims of the lecture in order.

`make lecture` measures [figures.jsonl](figures.jsonl), and writes this page and its pictures from it. No figure is
typed in by hand.

Trained models that are compared have about the same number of parameters (the size of the recurrent state is chosen
for that), and the same data, number of steps and learning rate. Each seed has its own initial weights and data, and
tests {TEST_ROWS} new sequences for each value on the horizontal axis.

The tables show the mean over seeds (for step time: over repetitions) and, in brackets, its 95 % interval by Student's
t. If the vertical axis is logarithmic, both are computed from the logarithms. A difference counts if the two intervals
do not overlap; if one of them has no interval, it counts if it is larger than {LEAST_DIFFERENCE:g}.
"""


@dataclass(frozen=True)
class Run:
    """How figures were measured.

    Args:
        seeds: number of seeds.
        minutes: that it took.
        machine: cores, processor and versions.
        experiments: that were measured.
    """

    seeds: int
    minutes: float
    machine: str
    experiments: Sequence[str]

    def __str__(self) -> str:
        seeds = "1 seed" if self.seeds == 1 else f"{self.seeds} seeds"
        return f"With {seeds} in {self.minutes:.0f} minutes on {self.machine}: {', '.join(self.experiments)}."


def write_page(results: Results, directory: Path, runs: Iterable[Run]) -> None:
    """Write the page and its pictures into a directory."""
    from .pictures import draw

    verdicts = {claim: claim.judge(results) for claim in CLAIMS}
    lines = [INTRODUCTION, f"{count(verdicts)} of {len(verdicts)} claims are confirmed.\n"]
    lines += ["| claim | section | confirmed |", "|---|---|---|"]
    for claim, verdict in verdicts.items():
        # As GitHub makes it of a heading.
        anchor = re.sub(r"[^\w -]", "", claim.title.lower()).replace(" ", "-")
        lines.append(f"| {claim.numbers} | [{claim.title}](#{anchor}) | {'yes' if verdict.confirmed else '**no**'} |")
    for claim, verdict in verdicts.items():
        name = f"{claim.experiment.replace(' ', '_')}.png"
        draw(claim, results, directory / name)
        outcome = "The claim is confirmed." if verdict.confirmed else "**The claim is not confirmed.**"
        lines += ["", f"## {claim.title}", "", claim.text, ""]
        if claim.experiment in LEARNING:
            lines += [setup(claim.experiment), ""]
        lines += [f"![{claim.title}]({name})", "", f"{outcome} {verdict.because}", "", *table(claim, results)]
    lines += [
        "",
        "## How it was measured",
        "",
        "If several runs measured the same experiment, the page shows the figures of the last one.",
        "",
    ]
    lines += [*(f"- {run}" for run in runs), ""]
    (directory / "README.md").write_text("\n".join(lines), encoding="utf-8")


def count(verdicts: dict[Claim, Verdict]) -> int:
    """The number of claims that are confirmed."""
    return sum(verdict.confirmed for verdict in verdicts.values())


def table(claim: Claim, results: Results) -> list[str]:
    """The lines of a table of all means."""
    settings = results.settings(claim.experiment)
    numbers = list(results.curve(claim.experiment, settings[0]))
    lines = [f"| {claim.x} | {' | '.join(f'{number:g}' for number in numbers)} | parameters |"]
    lines.append("|---" * (len(numbers) + 2) + "|")
    for setting in settings:
        curve = shown_curve(claim, results, setting)
        cells = " | ".join(cell(curve[number]) for number in numbers)
        lines.append(f"| {setting} | {cells} | {results.parameters[claim.experiment, setting]:,} |")
    return lines


def cell(mean: Mean) -> str:
    """A mean, and its interval if there is one."""
    interval = f" ({readable(mean.low)} to {readable(mean.high)})" if mean.low < mean.high else ""
    return readable(mean.value) + interval


def machine() -> str:
    """Cores, processor and versions of this machine."""
    path = Path("/proc/cpuinfo")
    found = re.findall(r"(?m)^model name\s*: (.+)$", path.read_text(encoding="utf-8")) if path.exists() else []
    names = ", ".join(f"{package} {version(package)}" for package in ("torch", "transformers"))
    number = f"{cores()} {'core' if cores() == 1 else 'cores'}"
    return f"{number} of {found[0] if found else platform.processor()}; {names}"


def cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
