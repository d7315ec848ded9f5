"""Measure the claims of the lecture: `python -m seqblend.lecture`.

It writes figures.jsonl, and from it the page README.md, its pictures, and the figures in the pages lecture.md and
lecture.ko.md beside the directory, if they are there.
"""

import argparse
import itertools
import json
import multiprocessing
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path

import torch

from .claims import LOGARITHMIC
from .experiments import LEARNING, Figure, learn
from .marked import fill_in
from .page import Run, cores, machine, write_page
from .results import Results
from .untrained import UNTRAINED

SEEDS = (0, 1, 2)
FIGURES = "figures.jsonl"
PAGES = ("lecture.md", "lecture.ko.md")


def main(arguments: list[str] | None = None) -> None:
    """Run experiments and write the pages."""
    names = (*UNTRAINED, *LEARNING)
    parser = argparse.ArgumentParser(prog="python -m seqblend.lecture", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("docs/lecture"), metavar="DIR")
    parser.add_argument("--quick", action="store_true", help="one seed; does not change lecture.md")
    parser.add_argument("--page_only", action="store_true", help="measure nothing; write the pages from figures.jsonl")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=names,
        metavar="NAME",
        help=f"measure only these experiments and keep all other figures: {', '.join(names)}",
    )
    given = parser.parse_args(arguments)
    path = given.output / FIGURES
    for name in ("page_only", "only"):
        if getattr(given, name) and not path.exists():
            parser.error(f"--{name}: {path} does not exist; it has the figures that are not measured again")
    if not given.page_only:
        begin, seeds = time.time(), SEEDS[:1] if given.quick else SEEDS
        given.output.mkdir(parents=True, exist_ok=True)
        figures = list(measure(given.only or names, seeds))
        experiments = list(dict.fromkeys(figure.experiment for figure in figures))
        run = Run(len(seeds), (time.time() - begin) / 60, machine(), experiments)
        runs, kept = read(path) if given.only else ([], [])
        write(path, [*runs, run], [*(each for each in kept if each.experiment not in experiments), *figures])
    runs, figures = read(path)
    results = Results(figures, LOGARITHMIC)
    write_page(results, given.output, runs)
    if not given.quick:
        fill_in(filter(Path.exists, (given.output.parent / page for page in PAGES)), results)


def measure(names: Iterable[str], seeds: Sequence[int]) -> Iterator[Figure]:
    """The figures of experiments, by their names."""
    for name, function in UNTRAINED.items():
        if name in names:
            yield from function(seeds)
    yield from learn_all([name for name in LEARNING if name in names], seeds)


def learn_all(names: Iterable[str], seeds: Iterable[int]) -> Iterator[Figure]:
    """The figures of all models that learn, each of which has a process and one core."""
    settings = [(name, setting) for name in names for setting in LEARNING[name].settings]
    jobs = [(name, setting, seed) for (name, setting), seed in itertools.product(settings, seeds)]
    if not jobs:
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(cores(), context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for job, figures in zip(jobs, pool.map(learn, *zip(*jobs, strict=True)), strict=True):
            print(*job, " ".join(f"{each.at:g}:{each.value:.3f}" for each in figures), file=sys.stderr, flush=True)
            yield from figures


def write(path: Path, runs: Iterable[Run], figures: Iterable[Figure]) -> None:
    """Write the runs, then the figures, one in a line; of the runs those that have measured a figure that is left."""
    measured: set[str] = set()
    needed = []
    for run in reversed(list(runs)):
        if not measured.issuperset(run.experiments):
            needed.append(run)
        measured.update(run.experiments)
    lines = (json.dumps(asdict(each)) for each in (*reversed(needed), *figures))
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def read(path: Path) -> tuple[list[Run], list[Figure]]:
    """The runs and the figures of a file."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    runs = [Run(**line) for line in lines if "minutes" in line]
    return runs, [Figure(**line) for line in lines if "minutes" not in line]


if __name__ == "__main__":
    main()
