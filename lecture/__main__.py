"""Measure the claims of the lecture: `python -m seqblend.lecture`.

It writes figures.jsonl, and from it the page README.md and its pictures.
"""

import argparse
import itertools
import json
import multiprocessing
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path

import torch

from .experiments import LEARNING, Figure, cache_sizes, learn, step_times
from .page import Run, cores, machine, write_page

SEEDS = (0, 1, 2)
FIGURES = "figures.jsonl"


def main(arguments: list[str] | None = None) -> None:
    """Run all experiments and write the page."""
    parser = argparse.ArgumentParser(prog="python -m seqblend.lecture", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("docs/lecture"), metavar="DIR")
    parser.add_argument("--quick", action="store_true", help="one seed")
    parser.add_argument("--page_only", action="store_true", help="make the page again from figures.jsonl")
    given = parser.parse_args(arguments)
    path = given.output / FIGURES
    if not given.page_only:
        begin, seeds = time.time(), SEEDS[:1] if given.quick else SEEDS
        given.output.mkdir(parents=True, exist_ok=True)
        figures = [*step_times(len(seeds)), *cache_sizes(), *learn_all(seeds)]
        run = Run(len(seeds), (time.time() - begin) / 60, machine())
        path.write_text("".join(f"{json.dumps(asdict(each))}\n" for each in (run, *figures)), encoding="utf-8")
    head, *lines = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    write_page([Figure(**line) for line in lines], given.output, Run(**head))


def learn_all(seeds: Iterable[int]) -> Iterator[Figure]:
    """The figures of all models that learn, each of which has a process and one core."""
    settings = [(name, setting) for name, learning in LEARNING.items() for setting in learning.settings]
    jobs = [(name, setting, seed) for (name, setting), seed in itertools.product(settings, seeds)]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(cores(), context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for job, figures in zip(jobs, pool.map(learn, *zip(*jobs, strict=True)), strict=True):
            print(*job, " ".join(f"{each.at:g}:{each.value:.3f}" for each in figures), file=sys.stderr, flush=True)
            yield from figures


if __name__ == "__main__":
    main()
