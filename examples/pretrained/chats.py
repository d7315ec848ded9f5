"""Write chats for smollm2_intents.yaml: requests of CLINC150, answered by the names of their intents."""

import argparse
import json
import random
import sys
from pathlib import Path

from seqblend.data.errors import InputError, print_error
from seqblend.data.writing import write_atomically

# Without a system message, the chat template writes a longer one of its own.
SYSTEM = "Name the intent of the request."
# Chats of each of the 150 intents.
CHATS = {"train": 10, "validation": 2, "test": 5}


def read_intents(path: Path) -> dict[str, list[str]]:
    """The requests of each intent, in the order of the file. Raises InputError if the file cannot be read."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; examples/README.md names the source of the data") from error
    intents: dict[str, list[str]] = {}
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            intents.setdefault(row["label"], []).append(row["text"])
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: row {number}: is no object with text and label") from error
    return intents


def draw_chats(intents: dict[str, list[str]], number: int) -> list[dict[str, list[dict[str, str]]]]:
    """Random chats of every intent, the same in each call.

    Args:
        intents: the requests of each intent.
        number: how many of each, at the most.
    """
    rng = random.Random(0)
    chats = [
        chat(text, intent)
        for intent, texts in sorted(intents.items())
        for text in rng.sample(texts, min(number, len(texts)))
    ]
    rng.shuffle(chats)
    return chats


def chat(text: str, intent: str) -> dict[str, list[dict[str, str]]]:
    """A chat with one request and its answer."""
    contents = {"system": SYSTEM, "user": text, "assistant": intent.replace("_", " ")}
    return {"messages": [{"role": role, "content": content} for role, content in contents.items()]}


def main(arguments: list[str] | None = None) -> int:
    """Write train, validation and test files. The exit code is 2 if the data cannot be read."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="?", type=Path, default=Path("../shared/data/clinc150"), metavar="CLINC150")
    parser.add_argument("output_dir", nargs="?", type=Path, default=Path("runs/pretrained/chats"))
    args = parser.parse_args(arguments)
    try:
        splits = {split: read_intents(args.data / f"{split}.jsonl") for split in CHATS}
    except InputError as error:
        return print_error(error)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    for split, intents in splits.items():
        chats = draw_chats(intents, CHATS[split])
        write_atomically(args.output_dir / f"{split}.jsonl", "".join(f"{json.dumps(each)}\n" for each in chats))
        print(f"{args.output_dir / split}.jsonl: {len(chats)} chats of {len(intents)} intents")
    return 0


if __name__ == "__main__":
    sys.exit(main())
