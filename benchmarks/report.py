"""Write results of benchmarks into their sections of a page, or compare them with it.

The command is `python -m seqblend.benchmarks.report FILE.json …`.
"""

import argparse
import json
import platform
import re
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from .finetuning import RANDOM_WEIGHTS
from .lengths import load_corpora
from .systems import OURS

PAGE = Path("docs/performance.md")
BEGIN, END = "<!-- tables -->", "<!-- end of tables -->"
# Where the sections of a device begin and end on the page. What else stands there is replaced by the first sections.
MARKERS = {"cpu": (BEGIN, END), "cuda": ("<!-- cuda tables -->", "<!-- end of cuda tables -->")}
# What follows the name of a benchmark in the heading of its section.
ON_DEVICE = {"cpu": "", "cuda": " on a GPU"}
# A heading, and its section of the page.
SECTION = re.compile(r"^### (.+)\n((?:(?!### ).*\n?)*)", re.MULTILINE)
PACKAGES = ("torch", "transformers", "x-transformers")
HEADINGS = {
    "benchmark": "benchmark",
    "profiled": "step of",
    "size": "size",
    "dtype": "dtype",
    "recipe": "recipe",
    "data": "data",
    "checkpoint": "checkpoint",
    "architecture": "architecture",
    "attention": "attention",
    "tokens": "tokens",
    "batch": "batch",
    "beams": "beams",
    "batches": "batches",
    "epoch_batches": "of",
    "fill": "fill",
    "system": "system",
    "group": "part of the step",
    "milliseconds": "ms",
    "real_tokens_per_second": "real tokens / s",
    "peak_memory_mib": "MiB",
    "ours_faster_by": "ours faster by",
    "times_stock": "times as fast as stock",
    "equal": "equal rows",
    "train_loss": "train loss",
    "accuracy": "validation accuracy, %",
    "of_floor": "of the floor",
    "utilisation": "utilisation",
    "share": "share",
}
# What is measured; the other columns say what it was measured on.
FIGURES = {
    *("milliseconds", "real_tokens_per_second", "peak_memory_mib", "ours_faster_by", "times_stock", "equal"),
    *("train_loss", "accuracy", "of_floor", "utilisation", "share"),
}
# A ratio may be this part below that on the page: the machine is shared.
SLACK = 0.1
DIGITS = {
    **{"milliseconds": 1, "real_tokens_per_second": 0, "peak_memory_mib": 0},
    **{"ours_faster_by": 2, "of_floor": 2, "times_stock": 2, "share": 2},
}


def table(rows: list[dict[str, Any]]) -> str:
    """The rows of one benchmark as a Markdown table with aligned columns."""
    keys = [key for key in HEADINGS if key != "benchmark" and any(key in row for row in rows)]
    lines = [[HEADINGS[key] for key in keys], *([cell(row, key) for key in keys] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(keys))]
    lines.insert(1, ["-" * width for width in widths])
    padded = [[text.ljust(width) for text, width in zip(line, widths, strict=True)] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in padded)


def cell(row: dict[str, Any], key: str) -> str:
    """A value of a row, formatted for the table; empty if the row has none."""
    value = row.get(key)
    if value is None:
        return ""
    return f"{value:,.{DIGITS[key]}f}" if key in DIGITS else str(value)


def environment(device: str) -> str:
    """The machine and the package versions of a run."""
    return f"{machine(device)}; {', '.join(versions())}"


def machine(device: str) -> str:
    """The GPU, or the CPU with its instruction set and the number of threads."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    cpu_info = Path("/proc/cpuinfo")
    lines = cpu_info.read_text(encoding="utf-8").splitlines() if cpu_info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = models[0] if models else platform.processor() or platform.machine()
    return f"{name} ({torch.backends.cpu.get_cpu_capability()}), {torch.get_num_threads()} threads"


def versions() -> list[str]:
    """The installed ones of the compared packages, with versions."""
    found = []
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return found


def read_environment(file: Path) -> str:
    """As environment(), of the machine that a file of environment.py describes."""
    described = json.loads(file.read_text(encoding="utf-8"))
    return f"{described['machine']}; {', '.join(described['versions'])}"


def sections(
    rows: list[dict[str, Any]], device: str, data: Path | None, measured_on: str | None = None
) -> dict[str, str]:
    """For each benchmark of the rows its heading, and its command, the machine, and its table.

    Args:
        rows: rows of benchmarks, or of profiling.py.
        device: the device of the run.
        data: the directory of its datasets, or None.
        measured_on: machine and versions of the run; None: those here.
    """
    measured_on = environment(device) if measured_on is None else measured_on
    corpora = [f"Lengths of {kind}: {corpus.name}." for kind, corpus in load_corpora(data).items()]
    found = {}
    for name in dict.fromkeys(row["benchmark"] for row in rows):
        own = [row for row in rows if row["benchmark"] == name]
        options = [f"--device {device}"] * (device != "cpu") + ["--data DIR"] * (data is not None)
        options += ["--checkpoint DIR"] * any(row.get("checkpoint", RANDOM_WEIGHTS) != RANDOM_WEIGHTS for row in own)
        options += ["--whole_epochs"] * any("batches" in row and row["batches"] == row["epoch_batches"] for row in own)
        module = "seqblend.benchmarks.profiling" if name == "profile" else f"seqblend.benchmarks {name}"
        command = f"`python -m {' '.join([module, *options, '--json FILE'])}`"
        heading = name + ON_DEVICE[device]
        found[heading] = "\n\n".join([command, " ".join([f"{measured_on}.", *corpora]), table(own)])
    return found


def replace_sections(page: Path, new: dict[str, str], device: str) -> None:
    """Replace or add sections between the page's markers of a device; the rest of the page is unchanged.

    Raises:
        ValueError: the page does not have each marker once, in order.
    """
    first, last = MARKERS[device]
    before, begin, rest = page.read_text(encoding="utf-8").partition(first)
    content, end, after = rest.partition(last)
    if not (begin and end) or first in rest or last in before + after:
        raise ValueError(f"{page} must have {first} and then {last}, once each")
    old = {name: text.strip() for name, text in SECTION.findall(content)}
    text = "\n\n".join(f"### {name}\n\n{each}" for name, each in (old | new).items())
    page.write_text(f"{before}{first}\n\n{text}\n\n{last}{after}", encoding="utf-8")


def page_rows(page: Path, device: str = "cpu") -> list[dict[str, str]]:
    """The rows of the page's tables of a device: the cells by their headings."""
    first, last = MARKERS[device]
    text = page.read_text(encoding="utf-8").partition(first)[2].partition(last)[0]
    rows = []
    for name, content in SECTION.findall(text):
        table_lines = [line for line in content.splitlines() if line.startswith("|")]
        heading, _, *lines = [[each.strip() for each in line.strip("| ").split("|")] for line in table_lines]
        name = name.removesuffix(ON_DEVICE[device])
        rows += [{"benchmark": name, **dict(zip(heading, line, strict=False))} for line in lines]
    return rows


def fallen_ratios(rows: list[dict[str, Any]], page: Path, device: str = "cpu") -> list[str]:
    """A line for each ratio of our model or of its engines that is more than a tenth below that on the page.

    Raises:
        ValueError: no row is on the page.
    """
    known = page_rows(page, device)
    fallen, compared = [], 0
    for row in rows:
        identity = {HEADINGS[key]: cell(row, key) for key in HEADINGS if key in row and key not in FIGURES}
        for before in known:
            if any(before.get(heading) != value for heading, value in identity.items()):
                continue
            compared += 1
            # Of an engine of ours, being slower than our model in torch is its own affair.
            is_engine = row.get("system", "").startswith(f"{OURS} ")
            ratios = ("times_stock",) if is_engine else ("ours_faster_by", "of_floor")
            for key in ratios:
                old, new = before.get(HEADINGS[key]), row.get(key)
                if old and new is not None and new < (1 - SLACK) * float(old):
                    named = ", ".join(value for value in identity.values() if value)
                    fallen.append(f"{named}: {HEADINGS[key]} {new:.2f}, on the page {old}")
    if not compared:
        raise ValueError(f"{page} has none of these rows")
    return fallen


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the rows of files into the page, or compare them with it; the exit code is 1 if a ratio fell."""
    parser = argparse.ArgumentParser(prog="python -m seqblend.benchmarks.report", description=__doc__)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE.json", help="written by the benchmarks")
    parser.add_argument(
        "--device", choices=tuple(MARKERS), default="cpu", help="device of the run, whose tables are written"
    )
    parser.add_argument(
        "--environment",
        type=Path,
        metavar="FILE.json",
        help="written by seqblend.benchmarks.environment on the machine of the run; default: this machine",
    )
    parser.add_argument("--data", type=Path, metavar="DIR", help="--data of the run")
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument(
        "--check",
        action="store_true",
        help="write nothing, but fail if a ratio is more than 10 %% below that on the page",
    )
    args = parser.parse_args(arguments)
    rows = [row for file in args.files for row in json.loads(file.read_text(encoding="utf-8"))]
    if args.check:
        fallen = fallen_ratios(rows, args.page, args.device)
        print(*fallen or ["no ratio fell"], sep="\n")
        return int(bool(fallen))
    measured_on = None if args.environment is None else read_environment(args.environment)
    replace_sections(args.page, sections(rows, args.device, args.data, measured_on), args.device)
    return 0


if __name__ == "__main__":
    sys.exit(main())
