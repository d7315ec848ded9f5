"""What each lever of quality gives on validation: `python -m seqblend.benchmarks.levers VALIDATION_FILE RUNS STORE`.

RUNS holds finished runs that differ in one thing, `RUNS/LEVER_SEED`. Measured are the runs as they are, all runs of a
lever together, and the mean of the last checkpoints of the runs of the lever `base` that have kept them
(`--save_strategy epoch --save_total_limit 12 --load_best_model_at_end false`). STORE is a JSON file, which
`benchmarks.results` reads. What is measured is added to a STORE that exists; a base run among RUNS must then give the
value that is stored, so that old and new values can be compared.
In STORE, `names` may say how a lever is called on the page, and `notes` what else is to be known of it.
"""

import argparse
import json
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import datasets
import torch

from ..checkpoints.averaging import average
from ..checkpoints.store import checkpoints_in
from ..data.objects import read_object
from ..serving.predictor import Predictor

BASE, TOGETHER = "base", ", together"
# How many of the last checkpoints are averaged.
COUNTS = (3, 5, 8)
NAME = re.compile(r"(?P<lever>.+)_(?P<seed>\d+)")


def value_of(predictor: Predictor, rows: list[dict[str, Any]]) -> float:
    """The accuracy of a predictor, or the exact match of what it writes."""
    reader = predictor.make_reader()
    read = [reader.read(row, "validation", number, None) for number, row in enumerate(rows, 1)]
    answers = list(predictor.answers(read))
    metrics = predictor.task.score(answers, datasets.Dataset.from_list(rows), predictor.rows.settings)
    return next(metrics[name] for name in ("accuracy", "exact_match") if name in metrics)


def averaged(run: Path, count: int) -> Predictor:
    """The predictor of a run with the mean of its last checkpoints. Raises ValueError if there are fewer."""
    predictor, checkpoints = Predictor(run), checkpoints_in(run)[-count:]
    if len(checkpoints) < count:
        raise ValueError(f"{run}: has {len(checkpoints)} of {count} checkpoints")
    average(predictor.rows.model, [Path(each) for each in checkpoints])
    return predictor


def measure(runs: Path, rows: list[dict[str, Any]]) -> Iterator[tuple[str, int | None, float]]:
    """The lever, the seed (None: all together) and the value of each measurement."""
    by_lever: dict[str, list[Path]] = defaultdict(list)
    for run in sorted(runs.iterdir()):
        if (found := NAME.fullmatch(run.name)) and (run / "all_results.json").exists():
            by_lever[found["lever"]].append(run)
    for lever, members in by_lever.items():
        for run in members:
            yield lever, int(run.name.rpartition("_")[2]), value_of(Predictor(run), rows)
        if len(members) > 1:
            yield f"{lever}{TOGETHER}", None, value_of(Predictor(members), rows)
    for count in COUNTS:
        for run in by_lever[BASE]:
            if checkpoints_in(run):
                seed = int(run.name.rpartition("_")[2])
                yield f"mean of the last {count} checkpoints", seed, value_of(averaged(run, count), rows)


def write(found: Iterable[tuple[str, int | None, float]], runs: Path, store: Path) -> None:
    """Add the values by lever, and the commands of the runs, to the store.

    Raises:
        ValueError: a base run does not give the value that is stored, or a lever has a seed that base has not.
    """
    stored = {"values": {}, "commands": {}, **read_object(store)}
    values: dict[str, dict[str, float]] = defaultdict(dict, stored["values"])
    for lever, seed, value in found:
        alone = lever.removesuffix(TOGETHER)
        if seed is None and not all((runs / f"{alone}_{each}").exists() for each in values[alone]):
            # Only some of the runs of this lever are here.
            continue
        name = "together" if seed is None else str(seed)
        known = values[lever].get(name, value)
        if lever == BASE and known != value:
            raise ValueError(f"{store}: has {known} for {BASE}_{seed}, but the run in {runs} gives {value}")
        values[lever][name] = value
        print(lever, seed, f"{value:.4f}", file=sys.stderr, flush=True)
    for lever, seeds in values.items():
        if missing := seeds.keys() - {"together"} - values[BASE].keys():
            raise ValueError(f"{lever}: there is no {BASE} run with the seed {', '.join(sorted(missing))}")
    results = {run.name: read_object(run / "all_results.json") for run in sorted(runs.iterdir())}
    commands = {name: each["command"] for name, each in results.items() if "command" in each}
    content = {**stored, "values": values, "commands": {**stored["commands"], **commands}}
    store.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> None:
    """Measure and store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("validation", type=Path, help="the rows, as JSON lines")
    parser.add_argument("runs", type=Path, help="holds the runs")
    parser.add_argument("store", type=Path, help="the JSON file to write")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = [json.loads(line) for line in given.validation.read_text(encoding="utf-8").splitlines()]
    write(measure(given.runs, rows), given.runs, given.store)


if __name__ == "__main__":
    main()
