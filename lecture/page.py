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

The claims of the lecture, each with its experiment, its picture and whether it came out, and two claims for the other
side; [lecture.md](../lecture.md) has all fourteen in order. `make lecture` writes this page and its pictures from
[figures.jsonl](figures.jsonl), which it measures first; no figure is typed in by hand. Where models are trained, those
that are compared have equally many parameters (the size of a recurrent state is chosen for that) and the same data,
steps and learning rate; seeds differ in weights and data, and each tests {TEST_ROWS} new sequences for each number.
Intervals are 95 % intervals of the mean over seeds (of step time: over repetitions), by Student's t; of figures on
logarithmic axes, of the mean logarithm. "Above" means beyond both intervals, or with one seed by {LEAST_DIFFERENCE:g}.
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
    lines = [INTRODUCTION, f"{len(verdicts)} claims, of which {count(verdicts)} came out.\n"]
    lines += ["| claim | section | came out |", "|---|---|---|"]
    for claim, verdict in verdicts.items():
        # As GitHub makes it of a heading.
        anchor = re.sub(r"[^\w -]", "", claim.title.lower()).replace(" ", "-")
        lines.append(f"| {claim.numbers} | [{claim.title}](#{anchor}) | {'yes' if verdict.came_out else '**no**'} |")
    for claim, verdict in verdicts.items():
        name = f"{claim.experiment.replace(' ', '_')}.png"
        draw(claim, results, directory / name)
        outcome = "The claim came out." if verdict.came_out else "**The claim did not come out.**"
        lines += ["", f"## {claim.title}", "", claim.text, ""]
        if claim.experiment in LEARNING:
            lines += [setup(claim.experiment), ""]
        lines += [f"![{claim.title}]({name})", "", f"{outcome} {verdict.because}", "", *table(claim, results)]
    lines += [
        "",
        "## How it was measured",
        "",
        "If two runs have measured an experiment, the later one counts.",
        "",
    ]
    lines += [*(f"- {run}" for run in runs), ""]
    (directory / "README.md").write_text("\n".join(lines), encoding="utf-8")


def count(verdicts: dict[Claim, Verdict]) -> int:
    """The number of claims that came out."""
    return sum(verdict.came_out for verdict in verdicts.values())


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
