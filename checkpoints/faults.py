"""What is wrong with a checkpoint: a file that is gone or changed, or one that holds what no Trainer writes."""

import hashlib
import json
import random
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import safe_open
from transformers import TrainerState
from transformers.trainer_pt_utils import safe_globals

from ..data.errors import describe, error_line
from ..data.objects import load_object
from ..hub_card.record import RunRecord

MANIFEST = "manifest.json"
STATE = "trainer_state.json"
# Files that only a BlendTrainer writes: the facts of the run, and its position in the data.
IDENTITY, POSITION = "run.json", "position.pt"
OURS = (IDENTITY, POSITION)
# Files that may hold weights: of a model, of an adapter, of several processes.
WEIGHTS = re.compile(r"\.safetensors$|_model[^/]*\.bin$|\.distcp$|_states\.pt$")
# What a checkpoint has besides, unless it is the model alone.
BESIDE = {POSITION: r"^position\.pt$", "rng_state.pth": r"^rng_state[^/]*\.pth$"}
# DeepSpeed keeps these among its own files.
NOT_OF_DEEPSPEED = {"optimizer.pt": r"^optimizer", "scheduler.pt": r"^scheduler\.pt$"}
OF_DEEPSPEED = re.compile(r"_states\.pt$")


def fault_of(checkpoint: str | Path) -> str | None:
    """What is wrong with a checkpoint; None if nothing is.

    Its files are compared with the manifest, without which no checkpoint of a BlendTrainer is good. One that
    transformers' own Trainer wrote has none: of that, every file is opened. Then the small files are read.
    """
    checkpoint = Path(checkpoint)
    if not (checkpoint / STATE).is_file():
        return f"{STATE} is missing"
    if (checkpoint / MANIFEST).is_file():
        return damage(checkpoint) or wrong_content(checkpoint) or left_out(checkpoint)
    if any((checkpoint / name).is_file() for name in OURS):
        return f"{MANIFEST} is missing"
    if not any(map(WEIGHTS.search, map(str, files_of(checkpoint)))):
        return "it has no weights"
    return unreadable(checkpoint) or wrong_content(checkpoint)


# --- The files ---


def damage(checkpoint: Path) -> str | None:
    """Which file is not what the manifest has; None if each is."""
    try:
        expected = load_object(checkpoint / MANIFEST)
        if STATE not in expected:
            return f"{MANIFEST} does not name {STATE}"
        return next(filter(None, (difference(checkpoint / name, each) for name, each in expected.items())), None)
    except OSError as error:
        return f"{MANIFEST}, or what it names, cannot be read ({error})"
    except (ValueError, KeyError, TypeError):  # JSON of another form than write_manifest gives it
        return f"{MANIFEST} is not what was written"


def difference(path: Path, expected: dict[str, Any]) -> str | None:
    """How a file differs from what the manifest has; None if it does not."""
    if not path.is_file():
        return f"{path.name} is missing"
    if path.stat().st_size != expected["bytes"]:
        return f"{path.name} has {path.stat().st_size} bytes, not {expected['bytes']}"
    return None if digest(path) == expected["sha256"] else f"{path.name} is not what was written"


def left_out(checkpoint: Path) -> str | None:
    """Which file the manifest does not name, though a BlendTrainer would have written it; None if there is none."""
    names = load_object(checkpoint / MANIFEST)
    if IDENTITY not in names:
        # An earlier version wrote none.
        return f"{MANIFEST} does not name {IDENTITY}" if names_run(load_object(checkpoint / STATE)) else None
    wanted = {"the weights": WEIGHTS.pattern}
    if not load_object(checkpoint / IDENTITY)["facts"].get("save_only_model"):
        wanted |= BESIDE if any(map(OF_DEEPSPEED.search, names)) else {**BESIDE, **NOT_OF_DEEPSPEED}
    missing = [name for name, pattern in wanted.items() if not any(re.search(pattern, each) for each in names)]
    return f"{MANIFEST} does not name {missing[0]}" if missing else None


def names_run(state: dict[str, Any]) -> bool:
    """Whether trainer_state.json has the name that a run with facts has."""
    kept = state.get("stateful_callbacks", {}).get(RunRecord.__name__, {})
    return isinstance(kept, dict) and "run" in (kept.get("attributes", {}).get("facts") or {})


def unreadable(checkpoint: Path) -> str | None:
    """Which of a checkpoint's files cannot be opened, and why; None if all can."""
    for path in files_of(checkpoint):
        try:
            READERS.get(path.suffix, Path.stat)(path)
        except Exception as error:  # every format raises its own
            return f"{path.name} cannot be read ({error})"
    return None


def read_header(path: Path) -> None:
    """Raises if a file of tensors is not as long as its header says."""
    with safe_open(path, "pt"):
        pass


def read_zip(path: Path) -> None:
    """Raises if what torch.save wrote is cut off, or a part of it is not what was written."""
    with zipfile.ZipFile(path) as file:
        if file.testzip() is not None:
            raise ValueError(f"{file.testzip()} is damaged")


def read_json(path: Path) -> None:
    """Raises if a file is no JSON."""
    json.loads(path.read_text(encoding="utf-8"))


READERS: dict[str, Callable[[Path], Any]] = {
    ".safetensors": read_header,
    ".json": read_json,
    **dict.fromkeys((".pt", ".pth", ".bin"), read_zip),
}


def files_of(directory: Path) -> Iterator[Path]:
    """The files of a directory and of those in it, in order."""
    return (path for path in sorted(directory.rglob("*")) if path.is_file())


def digest(path: Path) -> str:
    """The SHA-256 of a file."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            found.update(block)
    return found.hexdigest()


# --- What is in them ---


class Kind(NamedTuple):
    """What a value must be.

    Args:
        words: for a message.
        holds: whether it is so.
    """

    words: str
    holds: Callable[[Any], bool]


def is_whole(value: Any) -> bool:
    """Whether a value is a whole number of steps, rows or the like."""
    return type(value) is int and 0 <= value < 2**63


def is_number(value: Any) -> bool:
    return type(value) in (int, float)


def is_kept(value: Any) -> bool:
    """Whether a value is what a callback is made with and remembers, or a list of such."""
    parts = value if isinstance(value, list) else [value]
    return all(
        isinstance(part, dict) and all(isinstance(part.get(name, {}), dict) for name in ("args", "attributes"))
        for part in parts
    )


def is_record(value: Any) -> bool:
    """Whether a value is what RunRecord remembers."""
    facts = value.get("attributes", {}).get("facts", {}) if isinstance(value, dict) else None
    if not isinstance(facts, dict):
        return False
    return is_number(facts.get("seconds", 0)) and isinstance(facts.get("changes", []), list)


def are_callbacks(value: Any) -> bool:
    """Whether a value is what all callbacks remember."""
    is_dict = isinstance(value, dict) and all(map(is_kept, value.values()))
    return is_dict and (RunRecord.__name__ not in value or is_record(value[RunRecord.__name__]))


WHOLE = Kind("a whole number", is_whole)
NUMBER = Kind("a number", is_number)
# One of a state that a process could come to: more epochs or batches would take years.
COUNT = Kind("a number of at most 2147483647", lambda value: is_whole(value) and value < 2**31)


def or_none(kind: Kind) -> Kind:
    return Kind(f"{kind.words} or null", lambda value: value is None or kind.holds(value))


STATE_KINDS = {
    "global_step": WHOLE,
    "train_batch_size": WHOLE,
    "max_steps": WHOLE,
    "num_train_epochs": WHOLE,
    "epoch": or_none(NUMBER),
    "total_flos": NUMBER,
    "num_input_tokens_seen": NUMBER,
    "best_metric": or_none(NUMBER),
    "best_global_step": or_none(WHOLE),
    "best_model_checkpoint": or_none(Kind("a path", lambda value: isinstance(value, str))),
    "log_history": Kind(
        "a list of objects", lambda value: isinstance(value, list) and all(isinstance(each, dict) for each in value)
    ),
    "stateful_callbacks": Kind("what callbacks remember", are_callbacks),
}
POSITION_KINDS = {
    "epoch": COUNT,
    "batches": COUNT,
    "ended": Kind("true or false", lambda value: isinstance(value, bool)),
    "stream": Kind("a state", lambda value: True),
}
LOSSES_KINDS = {
    "total": NUMBER,
    "pending": Kind("a tensor of one number", lambda value: torch.is_tensor(value) and value.numel() == 1),
    "logged": WHOLE,
}


def wrong_content(checkpoint: Path) -> str | None:
    """What a small file holds that no Trainer writes, and would break or mislead a run; None if there is nothing."""
    for path in files_of(checkpoint):
        check = next((check for pattern, check in CONTENTS.items() if path.match(pattern)), None)
        if check is None or path.parent != checkpoint:
            continue
        try:
            reason = check(path)
        except (OSError, ValueError) as error:
            reason = str(error)
        if reason is not None:
            return f"{path.name} {reason}"
    return None


def wrong_fields(content: Any, kinds: dict[str, Kind], needed: Iterable[str]) -> str | None:
    """Which of the fields are missing or of another kind; None if all are as they must be."""
    if not isinstance(content, dict):
        return f"must hold fields, but is {describe(content)}"
    if missing := [name for name in needed if name not in content]:
        return f"has no {missing[0]}"
    wrong = [name for name, kind in kinds.items() if name in content and not kind.holds(content[name])]
    if not wrong:
        return None
    return f"has {wrong[0]} that is {describe(content[wrong[0]]):.80}, not {kinds[wrong[0]].words}"


def wrong_state(path: Path) -> str | None:
    """Of trainer_state.json."""
    content = load_object(path)
    known = {field.name for field in fields(TrainerState)}
    if unknown := sorted(content.keys() - known):
        return f"has fields that transformers does not know: {', '.join(unknown):.80}"
    return wrong_fields(content, STATE_KINDS, ("global_step", "train_batch_size"))


def wrong_facts(path: Path) -> str | None:
    """Of run.json."""
    facts = load_object(path).get("facts")
    return None if isinstance(facts, dict) and facts else "has no facts"


def no_object(path: Path) -> str | None:
    """Of config.json, which transformers looks through when it is loaded."""
    load_object(path)


def wrong_position(path: Path) -> str | None:
    """Of position.pt; that of an earlier version, which knows no facts of its run, is not read."""
    if not (path.parent / IDENTITY).is_file():
        return None
    content = load_saved(path)
    reason = wrong_fields(content, POSITION_KINDS, POSITION_KINDS)
    if reason is None and content.get("losses") is not None:
        return wrong_fields(content["losses"], LOSSES_KINDS, LOSSES_KINDS)
    return reason


def wrong_random_state(path: Path) -> str | None:
    """Of rng_state.pth; each state is given to a generator of its kind."""
    content = load_saved(path)
    takers = {
        "python": random.Random().setstate,
        "numpy": np.random.RandomState(0).set_state,
        "cpu": torch.Generator().set_state,
    }
    if reason := wrong_fields(content, {}, takers):
        return reason
    for name, take in takers.items():
        try:
            take(content[name])
        except Exception as error:  # each generator raises its own
            return f"has {name} that is no state of a generator ({error_line(error)})"
    return None


def wrong_schedule(path: Path) -> str | None:
    """Of scheduler.pt."""
    return wrong_fields(load_saved(path), {"last_epoch": WHOLE}, ("last_epoch",))


def load_saved(path: Path, mmap: bool = False) -> Any:
    """What torch.save wrote, of which no code runs; `mmap`: of tensors nothing is read before it is asked for.

    Raises:
        ValueError: it cannot be loaded.
    """
    try:
        with safe_globals():
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # torch and pickle raise whatever they meet
        raise ValueError(f"cannot be loaded ({error_line(error):.200})") from error


CONTENTS: dict[str, Callable[[Path], str | None]] = {
    STATE: wrong_state,
    IDENTITY: wrong_facts,
    "config.json": no_object,
    POSITION: wrong_position,
    "rng_state*.pth": wrong_random_state,
    "scheduler.pt": wrong_schedule,
}
