"""Predict a folder of Parquet files on many machines: `python examples/ray_predict.py MODEL INPUT OUTPUT --workers N`.

Needs Ray: `pip install "ray[data]"`. Started on a machine of a cluster, it uses the whole cluster; MODEL, INPUT and
OUTPUT must then lie where every machine finds them. The files are predicted in groups. A group is complete when its
folder has its name, so a run that was killed goes on with the next group when it is started again.
"""

import argparse
import json
import shutil
from collections.abc import Iterable
from pathlib import Path

import ray

import seqblend

FILES = "_files.json"


class Worker(seqblend.Predictor):
    """A process that predicts: it loads the model once and answers one batch after the other."""

    def __call__(self, batch):
        """The columns of the batch, with those of the answers. Raises ValueError if both have one of the same name."""
        answers = super().__call__(batch)
        if both := sorted(batch.keys() & answers.keys()):
            raise ValueError(f"column {both[0]!r} of the input would be lost: answers have this name; rename it")
        return {**batch, **answers}


def groups(files: list[Path], size: int) -> Iterable[tuple[str, dict[str, int]]]:
    """The files in groups, each with its name; a group has the names of its files, and their sizes in bytes."""
    for start in range(0, len(files), size):
        yield f"group-{start // size:05d}", {file.name: file.stat().st_size for file in files[start : start + size]}


def predict(given: argparse.Namespace, members: dict[str, int], part: Path) -> None:
    """Predict the files of a group of the input into the folder `part`."""
    shutil.rmtree(part, ignore_errors=True)
    # Ray writes nothing if the files have no rows.
    part.mkdir()
    rows = ray.data.read_parquet([str(given.input / name) for name in members])
    answers = rows.map_batches(
        Worker,
        fn_constructor_args=(given.model,),
        batch_size=given.batch_rows,
        # A worker that dies is started again, and its batch with it.
        compute=ray.data.ActorPoolStrategy(size=given.workers),
        num_cpus=given.cpus,
        max_restarts=-1,
        max_task_retries=-1,
    )
    answers.write_parquet(str(part))
    (part / FILES).write_text(json.dumps(members), encoding="utf-8")


def main() -> None:
    """Predict what has not been predicted yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a saved model, or a repository of the Hub")
    parser.add_argument("input", type=Path, help="folder of Parquet files")
    parser.add_argument("output", type=Path, help="folder to write")
    parser.add_argument("--workers", type=int, default=2, help="processes, each with the model")
    parser.add_argument(
        "--cpus", type=float, default=1, help="CPU cores of a worker; all together must leave one for reading files"
    )
    parser.add_argument("--group_files", type=int, default=100, help="files that are predicted at a time")
    parser.add_argument("--batch_rows", type=int, default=1024, help="rows that a worker gets at a time")
    given = parser.parse_args()
    files = sorted(given.input.glob("*.parquet"))
    if not files:
        parser.error(f"{given.input}: has no files *.parquet")
    given.output.mkdir(parents=True, exist_ok=True)
    for name, members in groups(files, given.group_files):
        place = given.output / name
        if place.exists():
            if json.loads((place / FILES).read_text(encoding="utf-8")) != members:
                parser.error(f"{place}: was made of other files; choose another output, or the same --group_files")
            continue
        part = given.output / f".{name}.part"
        predict(given, members, part)
        part.rename(place)
        print(f"{place}: {len(members)} files", flush=True)


if __name__ == "__main__":
    main()
