"""The page of the measured lecture, docs/lecture/README.md. Every figure on it comes from a file of results."""

import math
import platform
import re
from pathlib import Path

import torch
import transformers

from .claims import CLAIMS, Claim, Mean, Results, Verdict

INTRODUCTION = """# The lecture, measured

Each claim of the lecture that can be measured, with its experiment, its picture and whether it came out. `make
lecture` writes this page and its pictures; no figure is typed in by hand. In each experiment the models have equally
many parameters and differ only in what the section names; seeds differ in weights and data. An error is half the width
of the 95 % interval of the mean over seeds (Student's t).
"""


def write_page(results: Results, directory: Path, seconds: float, seeds: int) -> None:
    """Write the page and its pictures into a directory."""
    from .pictures import draw

    directory.mkdir(parents=True, exist_ok=True)
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
        lines += ["", f"## {claim.title}", "", claim.text, "", f"![{claim.title}]({name})", ""]
        lines += [f"{outcome} {verdict.because}", "", *table(claim, results)]
    lines += ["", machine(seconds, seeds), ""]
    (directory / "README.md").write_text("\n".join(lines), encoding="utf-8")


def count(verdicts: dict[Claim, Verdict]) -> int:
    """The number of claims that came out."""
    return sum(verdict.came_out for verdict in verdicts.values())


def table(claim: Claim, results: Results) -> list[str]:
    """The lines of a table of all means."""
    settings = results.settings(claim.experiment)
    curves = {setting: results.curve(claim.experiment, setting) for setting in settings}
    numbers = list(next(iter(curves.values())))
    lines = [f"| {claim.x} | {' | '.join(f'{number:g}' for number in numbers)} | parameters |"]
    lines.append("|---" * (len(numbers) + 2) + "|")
    for setting, curve in curves.items():
        cells = " | ".join(cell(curve[number]) for number in numbers)
        lines.append(f"| {setting} | {cells} | {results.parameters[claim.experiment, setting]:,} |")
    return lines


def cell(mean: Mean) -> str:
    """A mean and its error, to three digits."""
    return f"{mean.value:.3g}" if math.isnan(mean.error) else f"{mean.value:.3g} ± {mean.error:.2g}"


def machine(seconds: float, seeds: int) -> str:
    """What it was measured on."""
    return (
        f"{seeds} {'seed' if seeds == 1 else 'seeds'}; {torch.get_num_threads()} threads of {processor()}; "
        f"torch {torch.__version__}, transformers {transformers.__version__}; {seconds / 60:.0f} minutes."
    )


def processor() -> str:
    """The name of the processor."""
    path = Path("/proc/cpuinfo")
    found = re.findall(r"(?m)^model name\s*: (.+)$", path.read_text(encoding="utf-8")) if path.exists() else []
    return found[0] if found else platform.processor()
