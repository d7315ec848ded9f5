"""Verifying a checkpoint: no file is missing or changed, and each holds what a Trainer writes."""

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
# Files that a checkpoint also has, except with save_only_model: their names, and patterns of them.
FOR_RESUMING = {POSITION: r"^position\.pt$", "rng_state.pth": r"^rng_state[^/]*\.pth$"}
# The same, but not with DeepSpeed, which has their content in other files.
NOT_OF_DEEPSPEED = {"optimizer.pt": r"^optimizer", "scheduler.pt": r"^scheduler\.pt$"}
OF_DEEPSPEED = re.compile(r"_states\.pt$")


def fault_of(checkpoint: str | Path) -> str | None:
    """What is wrong with a checkpoint, as a message; None if it is good.

    The files are compared with the manifest, which each checkpoint of a BlendTrainer has. A checkpoint of
    transformers' own Trainer has none: its files are opened. In both cases the content of the small files is checked.
    """
    checkpoint = Path(checkpoint)
    if not (checkpoint / STATE).is_file():
        return f"{STATE} is missing"
    if (checkpoint / MANIFEST).is_file():
        return changed_file(checkpoint) or wrong_content(checkpoint) or unnamed_file(checkpoint)
    if any((checkpoint / name).is_file() for name in OURS):
        return f"{MANIFEST} is missing"
    if not any(map(WEIGHTS.search, map(str, files_of(checkpoint)))):
        return "it has no weights"
    return unreadable(checkpoint) or wrong_content(checkpoint)


# --- The files ---


def changed_file(checkpoint: Path) -> str | None:
    """The first file that differs from the manifest, as a message; None if none does."""
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
    """How a file differs from its entry in the manifest, as a message; None if it does not."""
    if not path.is_file():
        return f"{path.name} is missing"
    if path.stat().st_size != expected["bytes"]:
        return f"{path.name} has {path.stat().st_size} bytes, not {expected['bytes']}"
    return None if digest(path) == expected["sha256"] else f"{path.name} is not what was written"


def unnamed_file(checkpoint: Path) -> str | None:
    """A file that a BlendTrainer writes and the manifest does not name, as a message; None if there is none."""
    names = load_object(checkpoint / MANIFEST)
    if IDENTITY not in names:
        # An earlier version did not write it.
        return f"{MANIFEST} does not name {IDENTITY}" if names_run(load_object(checkpoint / STATE)) else None
    wanted = {"the weights": WEIGHTS.pattern}
    if not load_object(checkpoint / IDENTITY)["facts"].get("save_only_model"):
        wanted |= FOR_RESUMING if any(map(OF_DEEPSPEED.search, names)) else {**FOR_RESUMING, **NOT_OF_DEEPSPEED}
    missing = [name for name, pattern in wanted.items() if not any(re.search(pattern, each) for each in names)]
    return f"{MANIFEST} does not name {missing[0]}" if missing else None


def names_run(state: dict[str, Any]) -> bool:
    """Whether trainer_state.json has the name of a run; then the checkpoint was written with the run's facts."""
    entry = state.get("stateful_callbacks", {}).get(RunRecord.__name__, {})
    return isinstance(entry, dict) and "run" in (entry.get("attributes", {}).get("facts") or {})


def unreadable(checkpoint: Path) -> str | None:
    """The first file of a checkpoint that cannot be opened, and why, as a message; None if all can."""
    for path in files_of(checkpoint):
        try:
            READERS.get(path.suffix, Path.stat)(path)
        except Exception as error:  # safetensors, zipfile and json raise errors of their own
            return f"{path.name} cannot be read ({error})"
    return None


def read_header(path: Path) -> None:
    """Raises SafetensorError if the length of a file does not agree with its header."""
    with safe_open(path, "pt"):
        pass


def read_zip(path: Path) -> None:
    """Raises BadZipFile or ValueError if a file of torch.save is cut off or damaged."""
    with zipfile.ZipFile(path) as file:
        if file.testzip() is not None:
            raise ValueError(f"{file.testzip()} is damaged")


def read_json(path: Path) -> None:
    """Raises ValueError if a file is not JSON."""
    json.loads(path.read_text(encoding="utf-8"))


READERS: dict[str, Callable[[Path], Any]] = {
    ".safetensors": read_header,
    ".json": read_json,
    **dict.fromkeys((".pt", ".pth", ".bin"), read_zip),
}


def files_of(directory: Path) -> Iterator[Path]:
    """The files in a directory and below it, in the order of their paths."""
    return (path for path in sorted(directory.rglob("*")) if path.is_file())


def digest(path: Path) -> str:
    """The SHA-256 of a file."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            found.update(block)
    return found.hexdigest()


# --- The content of the files ---


class Kind(NamedTuple):
    """The kind of a value.

    Args:
        words: the kind in a message, as in "a number".
        holds: whether a value is of this kind.
    """

    words: str
    holds: Callable[[Any], bool]


def is_whole(value: Any) -> bool:
    """Whether a value is a number of steps, rows or the like: an integer of 0 or more that fits into 64 bits."""
    return type(value) is int and 0 <= value < 2**63


def is_number(value: Any) -> bool:
    return type(value) in (int, float)


def is_callback_state(value: Any) -> bool:
    """Whether a value is the state of a callback, with its arguments and attributes, or a list of states."""
    parts = value if isinstance(value, list) else [value]
    return all(
        isinstance(part, dict) and all(isinstance(part.get(name, {}), dict) for name in ("args", "attributes"))
        for part in parts
    )


def is_record(value: Any) -> bool:
    """Whether a value is the state of RunRecord."""
    facts = value.get("attributes", {}).get("facts", {}) if isinstance(value, dict) else None
    if not isinstance(facts, dict):
        return False
    return is_number(facts.get("seconds", 0)) and isinstance(facts.get("changes", []), list)


def are_callback_states(value: Any) -> bool:
    """Whether a value is a mapping of callbacks' names to their states."""
    is_dict = isinstance(value, dict) and all(map(is_callback_state, value.values()))
    return is_dict and (RunRecord.__name__ not in value or is_record(value[RunRecord.__name__]))


WHOLE = Kind("a whole number", is_whole)
NUMBER = Kind("a number", is_number)
# More epochs or batches than these would take years.
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
    "stateful_callbacks": Kind("the states of callbacks", are_callback_states),
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
    """The first small file whose content would break a run, as a message; None if there is none."""
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
    """The first field that is missing or of another kind, as a message; None if there is none.

    Args:
        content: the content of a file.
        kinds: the kinds of the fields, by the names of the fields.
        needed: the fields that must be there.
    """
    if not isinstance(content, dict):
        return f"must hold fields, but is {describe(content)}"
    if missing := [name for name in needed if name not in content]:
        return f"has no {missing[0]}"
    wrong = [name for name, kind in kinds.items() if name in content and not kind.holds(content[name])]
    if not wrong:
        return None
    return f"has {wrong[0]} that is {describe(content[wrong[0]]):.80}, not {kinds[wrong[0]].words}"


def wrong_state(path: Path) -> str | None:
    """What is wrong with trainer_state.json; None if nothing is. Raises OSError and ValueError: it cannot be read."""
    content = load_object(path)
    known = {field.name for field in fields(TrainerState)}
    if unknown := sorted(content.keys() - known):
        return f"has fields that transformers does not know: {', '.join(unknown):.80}"
    return wrong_fields(content, STATE_KINDS, ("global_step", "train_batch_size"))


def wrong_facts(path: Path) -> str | None:
    """What is wrong with run.json; see wrong_state."""
    facts = load_object(path).get("facts")
    return None if isinstance(facts, dict) and facts else "has no facts"


def wrong_config(path: Path) -> str | None:
    """None for config.json: transformers checks its fields. Raises ValueError: it is no JSON object."""
    load_object(path)


def wrong_position(path: Path) -> str | None:
    """What is wrong with position.pt; see wrong_state. Without run.json it is of an earlier version and not read."""
    if not (path.parent / IDENTITY).is_file():
        return None
    content = load_saved(path)
    reason = wrong_fields(content, POSITION_KINDS, POSITION_KINDS)
    if reason is None and content.get("losses") is not None:
        return wrong_fields(content["losses"], LOSSES_KINDS, LOSSES_KINDS)
    return reason


def wrong_random_state(path: Path) -> str | None:
    """What is wrong with rng_state.pth; see wrong_state. Each state is loaded into a generator of its kind."""
    content = load_saved(path)
    setters = {
        "python": random.Random().setstate,
        "numpy": np.random.RandomState(0).set_state,
        "cpu": torch.Generator().set_state,
    }
    if reason := wrong_fields(content, {}, setters):
        return reason
    for name, set_state in setters.items():
        try:
            set_state(content[name])
        except Exception as error:  # random, NumPy and torch raise errors of their own
            return f"has {name} that is no state of a generator ({error_line(error)})"
    return None


def wrong_schedule(path: Path) -> str | None:
    """What is wrong with scheduler.pt; see wrong_state."""
    return wrong_fields(load_saved(path), {"last_epoch": WHOLE}, ("last_epoch",))


def load_saved(path: Path, mmap: bool = False) -> Any:
    """The content of a file of torch.save, loaded without running code in it.

    Args:
        path: of the file.
        mmap: whether the data of tensors is read only when it is used.

    Raises:
        ValueError: it cannot be loaded.
    """
    try:
        with safe_globals():
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # torch.load and pickle raise whatever they meet
        raise ValueError(f"cannot be loaded ({error_line(error):.200})") from error


CONTENTS: dict[str, Callable[[Path], str | None]] = {
    STATE: wrong_state,
    IDENTITY: wrong_facts,
    "config.json": wrong_config,
    POSITION: wrong_position,
    "rng_state*.pth": wrong_random_state,
    "scheduler.pt": wrong_schedule,
}
