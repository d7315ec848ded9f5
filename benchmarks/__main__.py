"""Compare the speed of seqblend with its peers: `python -m seqblend.benchmarks [NAME ...]`."""

import argparse
import json
import sys
import traceback
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from ..configuration.checks import unknown_name_message
from ..data.errors import print_error
from .cases import BENCHMARKS, DTYPES, plan_for
from .compare import Plan, Result
from .finetuning import missing_file
from .lengths import load_corpora
from .report import environment, table


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the named benchmarks, or all, print their tables and write their rows as JSON.

    The rows of a size are written as soon as it is measured. A benchmark that fails does not stop those after it.

    Returns:
        The exit code: 1 if a benchmark failed, 2 if a dataset is missing, else 0.
    """
    args = parse(arguments)
    try:
        corpora = load_corpora(args.data)
    except FileNotFoundError as error:
        return print_error(error)
    print(environment(args.device), *(f"{kind}: {corpus.name}" for kind, corpus in corpora.items()), sep="\n")
    options = {"data": args.data, "checkpoint": args.checkpoint, "whole_epochs": args.whole_epochs}
    plan = replace(plan_for(args.device, corpora, quick=args.quick), **options)
    rows: list[Result] = []
    failed = []
    for name in args.names or BENCHMARKS:
        start = len(rows)
        try:
            measure(name, plan, rows, args.json)
        except Exception:
            traceback.print_exc()
            failed.append(name)
        print(f"\n{name}\n\n{table(rows[start:])}", flush=True)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


def measure(name: str, plan: Plan, rows: list[Result], file: Path | None) -> None:
    """Run one benchmark: add its rows to `rows`, and write all of them to the file after each size."""
    for size in plan.sizes[name]:
        rows += BENCHMARKS[name](replace(plan, sizes={name: (size,)}))
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line. Exits with a message that lists the valid values if a value is wrong."""
    parser = argparse.ArgumentParser(prog="python -m seqblend.benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(BENCHMARKS)}; default: all")
    parser.add_argument("--device", choices=DTYPES, default="cpu")
    parser.add_argument("--json", type=Path, metavar="FILE", help="file for the rows")
    parser.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="directory of the datasets whose row lengths are used, and whose rows finetune trains on; "
        "default: calendar dates, and for finetune random rows of the datasets' lengths",
    )
    parser.add_argument(
        "--checkpoint",
        type=Path,
        metavar="DIR",
        help="checkpoint that finetune starts from; default: a BERT of MiniLM's size with random weights",
    )
    parser.add_argument(
        "--whole_epochs",
        action="store_true",
        help="finetune: epochs of all rows, which take minutes, and the accuracy after each of them",
    )
    parser.add_argument(
        "--quick", action="store_true", help="a tiny size, to see that all runs; its figures say nothing about speed"
    )
    args = parser.parse_args(arguments)
    for name in args.names:
        if name not in BENCHMARKS:
            parser.error(unknown_name_message("benchmark", name, list(BENCHMARKS)))
    if args.checkpoint is not None and not (args.checkpoint / "config.json").is_file():
        parser.error(f"--checkpoint: {args.checkpoint} has no config.json")
    if "finetune" in (args.names or BENCHMARKS) and (missing := missing_file(args.data, args.whole_epochs)):
        parser.error(f"--data: {missing} does not exist, and finetune needs it")
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no GPU; valid here: cpu")
    return args


if __name__ == "__main__":
    sys.exit(main())
