"""Attack runs from outside: change something under a resume, kill them at any moment.

`python tests/attacks.py changes` and `python tests/attacks.py kills` print the tables.
"""

import functools
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from seqblend import train

FORK = multiprocessing.get_context("fork")
Options = dict[str, Any]
STEPS, DONE = 6, 4
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
BASE: Options = {
    "task": "sequence-classification",
    "train_file": "train.jsonl",
    "tokenizer_type": "char",
    "max_steps": STEPS,
    "save_strategy": "steps",
    "save_steps": 2,
    "per_device_train_batch_size": 2,
    "disable_tqdm": True,
    "use_cpu": True,
    "report_to": "none",
}
TEXTS = [("ab" * i + "c" * (i % 5)) or "a" for i in range(1, 15)]


# --- A run in a process of its own ---


def command(place: Path, options: Options, sizes: dict[str, Any] | None = None) -> list[str]:
    """A command line of train.py; an option that is None is left out."""
    overrides = ",".join(f"{name}={value}" for name, value in {**SIZES, **(sizes or {})}.items())
    options = {"config_overrides": overrides, "output_dir": place / "out", **options}
    words = []
    for name, value in options.items():
        values = value if isinstance(value, list) else [value]
        if name.endswith("_file"):
            values = [place / each for each in values]
        words += [] if value is None else [f"--{name}", *map(str, values)]
    return words


def in_child(words: list[str], log: Path) -> None:
    """Run train.py; what it says goes into a file."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1), os.dup2(descriptor, 2)
    sys.exit(train.main(words))


def start(words: list[str], log: Path) -> Any:
    """A process that runs train.py."""
    process = FORK.Process(target=in_child, args=(words, log))
    process.start()
    return process


def run(place: Path, options: Options, sizes: dict[str, Any] | None = None) -> tuple[int, str]:
    """The exit code of a run, and what it said."""
    process = start(command(place, options, sizes), place / "log")
    process.join()
    return process.exitcode, (place / "log").read_text()


# --- Changes under a resume ---


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def edited(edit: Callable[[list[dict[str, Any]]], list[dict[str, Any]]], name: str = "train.jsonl") -> Callable:
    """Something that is done to the rows of a file."""

    def act(place: Path) -> None:
        write_rows(place / name, edit(rows_of(place / name)))

    return act


def relabelled(names: dict[str, str]) -> Callable:
    return edited(lambda rows: [{**row, "label": names[row["label"]]} for row in rows])


def in_last(act: Callable[[Path], Any]) -> Callable[[Path], None]:
    """Something that is done to the last checkpoint."""
    return lambda place: act(place / "out" / f"checkpoint-{DONE}")


def without(*names: str) -> Callable[[Path], None]:
    def act(checkpoint: Path) -> None:
        for name in names:
            (checkpoint / name).unlink()

    return in_last(act)


def with_manifest(content: str) -> Callable[[Path], None]:
    return in_last(lambda checkpoint: (checkpoint / "manifest.json").write_text(content))


def flipped(name: str) -> Callable[[Path], None]:
    def act(checkpoint: Path) -> None:
        content = bytearray((checkpoint / name).read_bytes())
        content[len(content) // 2] ^= 1
        (checkpoint / name).write_bytes(content)

    return in_last(act)


@dataclass
class Attack:
    """Something that is otherwise when a run is resumed.

    Args:
        name: what.
        words: what the run has to say of it.
        options: that are given otherwise.
        sizes: of config_overrides that are given otherwise.
        act: what is done before.
        base: options that the first run had besides.
        refused: whether the run is refused; else it goes on and says so.
    """

    name: str
    words: str
    options: Options = field(default_factory=dict)
    sizes: dict[str, Any] = field(default_factory=dict)
    act: Callable[[Path], Any] = lambda place: None
    base: Options = field(default_factory=dict)
    refused: bool = True


def option(name: str, value: Any, words: str | None = None, base: Options | None = None, **options: Any) -> Attack:
    """An option that decides the steps."""
    return Attack(f"{name} {value}", words or name, {name: value, **options}, base=base or {})


def size(words: str | None = None, **sizes: Any) -> Attack:
    """A field of the configuration."""
    name = next(iter(sizes))
    return Attack(f"{name} {sizes[name]}", words or name, sizes=sizes)


def free(name: str, value: Any, base: Options | None = None) -> Attack:
    """An option that changes no step."""
    return Attack(f"{name} {value}", f"{name} {value}, was", {name: value}, base=base or {}, refused=False)


def damaged(name: str, act: Callable[[Path], Any], words: str) -> Attack:
    """A checkpoint that is passed over."""
    return Attack(name, f"checkpoint-{DONE} is damaged: {words}", act=act, refused=False)


SEVERAL = {"problem_type": "multi_label_classification"}
EVALUATED = {"validation_file": "train.jsonl", "eval_strategy": "steps", "eval_steps": 2}
BEST = {**EVALUATED, "load_best_model_at_end": True, "metric_for_best_model": "accuracy"}
STREAM = {"streaming": True, "train_file": ["a.jsonl", "b.jsonl"], "tokenizer_name_or_path": "tokenizer"}
STREAM |= {"tokenizer_type": None}
MASKED = {"task": "masked-lm"}
DATA, STREAMED = "train_dataset has other rows", "has other rows"

CHANGES = [
    *(
        option(name, value)
        for name, value in {
            "learning_rate": 1e-3,
            "weight_decay": 0.1,
            "adam_beta1": 0.8,
            "adam_beta2": 0.9,
            "adam_epsilon": 1e-6,
            "max_grad_norm": 0.5,
            "optim": "adamw_torch",
            "lr_scheduler_type": "cosine",
            "warmup_steps": 3,
            "neftune_noise_alpha": 5,
            "per_device_train_batch_size": 4,
            "gradient_accumulation_steps": 2,
            "train_sampling_strategy": "group_by_length",
            "dataloader_drop_last": True,
            "max_tokens_per_batch": 64,
            "seed": 1,
            "data_seed": 1,
            "bf16": True,
            "full_determinism": True,
            "class_weights": "balanced",
        }.items()
    ),
    option("label_smoothing_factor", 0.1, "label_smoothing"),
    option("max_length", 4, DATA),
    option("overflow", "window", DATA, max_length=8, base={"max_length": 8}),
    option("max_train_samples", 7, DATA),
    option("tokenizer_type", "byte-bpe", "tokenizer is another one"),
    option("metric_for_best_model", "f1", base=BEST),
    option("mask_probability", 0.5, "collator[noise]", base=MASKED),
    option("mask_whole_words", True, "collator[noise]", base=MASKED),
    size(hidden_dropout=0.3),
    size(attention_dropout=0.3),
    size(classifier_dropout=0.3),
    size(num_attention_heads=4),
    size(sliding_window=2, layer_types="[sliding_attention,full_attention]"),
    size(pooling="mean"),
    size(norm_eps=1e-3),
    size(hidden_act="relu"),
    size(position_type="alibi"),
    size(norm_position="post"),
    size(label_smoothing=0.1),
    Attack(
        "problem_type regression", "problem_type", {"problem_type": "regression"}, act=relabelled({"x": 1, "y": 2})
    ),
    Attack("a text", DATA, act=edited(lambda rows: [{**rows[0], "text": "ba"}, *rows[1:]])),
    Attack("a label", DATA, act=edited(lambda rows: [{**rows[0], "label": "y"}, *rows[1:]])),
    Attack("labels renamed", "id2label", act=relabelled({"x": "p", "y": "q"})),
    Attack("labels swapped", DATA, act=relabelled({"x": "y", "y": "x"})),
    Attack("rows in another order", DATA, act=edited(lambda rows: rows[::-1])),
    Attack("a row more", DATA, act=edited(lambda rows: [*rows, rows[0]])),
    Attack("a row less", DATA, act=edited(lambda rows: rows[:-1])),
    Attack("a new letter", "tokenizer is another one", act=edited(lambda rows: [{**rows[0], "text": "d"}, *rows[1:]])),
    Attack(
        "validation rows, which choose the best",
        "eval_dataset",
        {"validation_file": "dev.jsonl"},
        act=lambda place: write_rows(place / "dev.jsonl", rows_of(place / "train.jsonl")[:5]),
        base=BEST,
    ),
    option("train_file", ["b.jsonl", "a.jsonl"], STREAMED, base=STREAM),
    option("train_file", ["a.jsonl"], STREAMED, base=STREAM),
    option("streaming", None, "train_dataset", base=STREAM),
    Attack(
        "a stream's text, as many bytes",
        STREAMED,
        act=lambda place: [
            edited(lambda rows: [{**row, "text": row["text"][::-1]} for row in rows], name)(place)
            for name in ("a.jsonl", "b.jsonl")
        ],
        base=STREAM,
    ),
    Attack("a stream's row more", STREAMED, act=edited(lambda rows: [*rows, rows[0]], "a.jsonl"), base=STREAM),
    free("max_steps", STEPS + 2),
    free("logging_steps", 3),
    free("save_steps", 1),
    free("save_total_limit", 3),
    free("dataloader_num_workers", 1),
    free("eval_steps", 1, EVALUATED),
    free("per_device_eval_batch_size", 3, EVALUATED),
    Attack(
        "another place",
        "the run continues in another directory",
        {"resume": None, "resume_from_checkpoint": f"moved/checkpoint-{DONE}"},
        act=lambda place: (place / "out").rename(place / "moved"),
        refused=False,
    ),
    damaged("manifest gone", without("manifest.json"), "manifest.json is missing"),
    damaged("manifest and weights gone", without("manifest.json", "model.safetensors"), "manifest.json is missing"),
    damaged("manifest and position gone", without("manifest.json", "position.pt"), "manifest.json is missing"),
    damaged("identity gone", without("run.json"), "run.json is missing"),
    damaged("manifest of no file", with_manifest("{}"), "manifest.json does not name"),
    damaged("manifest null", with_manifest("null"), "manifest.json is not what was written"),
    damaged("a bit of the weights", flipped("model.safetensors"), "model.safetensors is not what was written"),
    damaged("a bit of the optimizer", flipped("optimizer.pt"), "optimizer.pt is not what was written"),
    damaged("a bit of the schedule", flipped("scheduler.pt"), "scheduler.pt is not what was written"),
]


def make_place(place: Path, base: Options) -> None:
    """A directory with the files of a run, and the run, as it was when it was killed after DONE steps."""
    place.mkdir()
    rows = [{"text": text, "label": "xy"[number % 2]} for number, text in enumerate(TEXTS)]
    for name, part in {"train.jsonl": rows, "a.jsonl": rows[:7], "b.jsonl": rows[7:]}.items():
        write_rows(place / name, part)
    if base.get("streaming"):
        code, said = run(place, {**BASE, "max_steps": 1, "save_strategy": "no", "output_dir": place / "tokenizer"})
        assert code == 0, said
    code, said = run(place, given(place, base))
    assert code == 0, said
    (place / "out" / "model.safetensors").rename(place / "whole.safetensors")
    shutil.rmtree(place / "out" / f"checkpoint-{STEPS}")


def given(place: Path, *options: Options) -> Options:
    """The options of a run; a tokenizer or a checkpoint is named from the place."""
    together = functools.reduce(lambda one, other: {**one, **other}, options, BASE)
    for name in ("tokenizer_name_or_path", "resume_from_checkpoint"):
        if together.get(name):
            together = {**together, name: place / together[name]}
    return together


def withstand(attack: Attack, saved: Path, place: Path) -> str:
    """What came of a change: `refused` or `said`, or in bold what should not have happened."""
    shutil.copytree(saved, place)
    attack.act(place)
    before = {path: path.stat().st_mtime_ns for path in place.rglob("*.*") if path.is_file()}
    code, said = run(place, given(place, attack.base, {"resume": "auto"}, attack.options), attack.sizes)
    after = {path: path.stat().st_mtime_ns for path in before if path.exists()}
    weights = place / "out" / "model.safetensors"
    is_equal = weights.exists() and weights.read_bytes() == (place / "whole.safetensors").read_bytes()
    faults = {
        "traceback": "Traceback" in said,
        f"exit code {code}": code != (2 if attack.refused else 0),
        "not said": attack.words not in said,
        "something changed": attack.refused and attack.words != STREAMED and (weights.exists() or before != after),
        "other weights": not attack.refused and "max_steps" not in attack.options and not is_equal,
    }
    found = [name for name, wrong in faults.items() if wrong]
    if found:
        sys.stderr.write(f"--- {attack.name}\n{said[-3000:]}\n")
    return f"**{', '.join(found)}**" if found else "refused" if attack.refused else "said"


def changes(words: list[str]) -> bool:
    """Print what came of every change; whether all were withstood."""
    print("| changed under a resume | outcome |", "|---|---|", sep="\n", flush=True)
    withstood = True
    with tempfile.TemporaryDirectory() as root:
        for number, attack in enumerate(CHANGES):
            if words and not any(word in attack.name for word in words):
                continue
            saved = Path(root, re.sub(r"\W+", "-", str(attack.base)) or "base")
            if not saved.exists():
                make_place(saved, attack.base)
            outcome = withstand(attack, saved, Path(root, str(number)))
            withstood = withstood and "*" not in outcome
            print(f"| {attack.name} | {outcome} |", flush=True)
    return withstood


# --- Kills ---

KILLS = 60
# So that training takes as long as what comes before and after it.
LONGER = {"max_steps": 60, "save_steps": 5, "eval_strategy": "steps", "eval_steps": 10}
# Rows of tasks whose runs are killed, with validation and test rows, results and cards.
WHOLE: dict[str, Options] = {
    "sequence-classification": {},
    "token-classification": {"task": "token-classification"},
    "seq2seq-lm": {"task": "seq2seq-lm", "generation_max_length": 8},
}
# What of a result is a time, or follows from it.
TIMES = re.compile(r"runtime|per_second|total_flos|seconds|machine")
LINES = re.compile(r"^\| (time|begun|hardware|versions) \|.*$|--output_dir \S+|/\S*| --resume auto", re.MULTILINE)


def whole_rows(task: str) -> list[dict[str, Any]]:
    """Rows of a task."""
    if task == "sequence-classification":
        return [{"text": text, "label": "xy"[number % 2]} for number, text in enumerate(TEXTS)]
    words = [list(text[:6]) for text in TEXTS]
    if task == "token-classification":
        return [{"tokens": each, "tags": ["B-X" if word == "a" else "O" for word in each]} for each in words]
    return [{"source": "".join(each), "target": "".join(each[::-1])} for each in words]


def left_by(out: Path) -> dict[str, Any]:
    """What a run has left that must be the same, by file."""
    found: dict[str, Any] = {}
    for path in sorted(each for each in out.rglob("*") if each.is_file() and "checkpoint-" not in str(each)):
        name = path.relative_to(out).as_posix()
        if name.endswith("_results.json"):
            found[name] = {key: value for key, value in json.loads(path.read_text()).items() if not TIMES.search(key)}
            found[name].pop("command", None)
        elif name == "README.md":
            found[name] = LINES.sub("", path.read_text())
        elif name not in ("trainer_state.json", "training_args.bin"):
            # A mark of transformers, which depends on whether an evaluation came before.
            found[name] = re.sub(rb'"_from_model_config": \w+', b"", path.read_bytes())
    return found


@contextmanager
def cards_without_processes() -> Iterator[None]:
    """Inside, the code of a card is not run in a fresh process, which takes longer than all the rest of a run."""
    with mock.patch("seqblend.hub_card.card.run_checked", lambda *given: "printed"):
        yield


def kill_once(place: Path, options: Options, seconds: float) -> tuple[str, str]:
    """Kill a run at a random moment and let it end: how far it was, and how what it left differs from `whole`."""
    shutil.rmtree(place / "out", ignore_errors=True)
    process = start(command(place, options), place / "log")
    time.sleep(random.uniform(0, seconds))
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    if process.exitcode == 0:
        return "over", ""
    names = {path.name for path in (place / "out").glob("*")} if (place / "out").exists() else set()
    stages = {"README.md": "card", "predictions.jsonl": "card", "train_results.json": "results"}
    stages |= {"model.safetensors": "results", "run.json": "training"}
    stage = next((stage for name, stage in stages.items() if name in names), "start")
    code, said = run(place, {**options, "resume": "auto"})
    if code or "Traceback" in said:
        return stage, f"exit code {code}: {said[-2000:]}"
    left, expected = left_by(place / "out"), left_by(place / "whole")
    differing = [name for name in {**left, **expected} if left.get(name) != expected.get(name)]
    return stage, ", ".join(f"{name} ({first_difference(left.get(name), expected.get(name))})" for name in differing)


def first_difference(left: Any, expected: Any) -> str:
    """Where two files differ, for the log."""
    lines = [str(each).replace(",", "\n").splitlines() for each in (left, expected)]
    return next((f"{one!r}, not {other!r}" for one, other in zip(*lines, strict=False) if one != other), "length")


def kills(words: list[str]) -> bool:
    """Print what came of killing whole runs; whether all ended as one that was left alone."""
    random.seed(0)
    print("| run | killed | at the start | in training | in results | in card | equal |", "|---" * 7 + "|", sep="\n")
    withstood = True
    with tempfile.TemporaryDirectory() as root, cards_without_processes():
        for task, more in WHOLE.items():
            place = Path(root, task)
            place.mkdir()
            for split in ("train", "validation", "test"):
                write_rows(place / f"{split}.jsonl", whole_rows(task))
            files = {f"{split}_file": f"{split}.jsonl" for split in ("train", "validation", "test")}
            options = {**BASE, **files, **LONGER, **more}
            code, said = run(place, options)
            assert code == 0, said
            shutil.rmtree(place / "out")
            begun = time.monotonic()
            assert run(place, options)[0] == 0
            seconds = time.monotonic() - begun
            (place / "out").rename(place / "whole")
            stages: list[str] = []
            equal = True
            while len(stages) < KILLS // len(WHOLE):
                stage, differing = kill_once(place, options, seconds)
                if stage == "over":
                    continue
                stages.append(stage)
                if differing:
                    equal = False
                    sys.stderr.write(f"--- {task}, killed in {stage}: {differing}\n")
            counts = [stages.count(name) for name in ("start", "training", "results", "card")]
            cells = [task, len(stages), *counts, "all" if equal else "**NO**"]
            print(f"| {' | '.join(map(str, cells))} |", flush=True)
            withstood = withstood and equal
    return withstood
