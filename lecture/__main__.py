"""Measure the claims of the lecture: `python -m seqblend.lecture`.

It writes the page docs/lecture/README.md, its pictures, and figures.jsonl, from which both are made.
"""

import argparse
import json
import multiprocessing
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path

import torch

from .claims import Results
from .experiments import LEARNING, Figure, cache_sizes, learn, step_times
from .page import write_page

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
    if given.page_only:
        head, *lines = path.read_text(encoding="utf-8").splitlines()
        write_page(Results(Figure(**json.loads(line)) for line in lines), given.output, **json.loads(head))
        return
    begin, seeds = time.time(), SEEDS[:1] if given.quick else SEEDS
    figures = [*step_times(repeats=len(seeds)), *cache_sizes(), *learn_all(seeds)]
    head = {"seconds": time.time() - begin, "seeds": len(seeds)}
    given.output.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(each) for each in (head, *map(asdict, figures))]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    write_page(Results(figures), given.output, **head)


def learn_all(seeds: tuple[int, ...]) -> list[Figure]:
    """The figures of all models that learn, each of which has a process and one core."""
    jobs = [(name, setting, seed) for name, each in LEARNING.items() for setting in each.settings for seed in seeds]
    context = multiprocessing.get_context("spawn")
    figures: list[Figure] = []
    with ProcessPoolExecutor(os.cpu_count(), context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        done = pool.map(learn, *zip(*jobs, strict=True))
        for job, found in zip(jobs, done, strict=True):
            print(*job, " ".join(f"{each.at:g}:{each.value:.3f}" for each in found), file=sys.stderr, flush=True)
            figures += found
    return figures


if __name__ == "__main__":
    main()
