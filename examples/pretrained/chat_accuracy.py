"""Count the answers of `seqblend predict` that are those of the chats."""

import argparse
import json
import sys
from pathlib import Path

from seqblend.data.errors import InputError, print_error


def read_rows(path: Path) -> list[dict]:
    """The rows of a .jsonl file. Raises InputError if it cannot be read."""
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from error


def main(arguments: list[str] | None = None) -> int:
    """Print the number and the share of right answers. The exit code is 2 if the files cannot be compared."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("chats", type=Path, help="the chats that were asked, with their answers")
    parser.add_argument("answers", type=Path, help="what `seqblend predict` wrote")
    args = parser.parse_args(arguments)
    try:
        chats, answers = read_rows(args.chats), read_rows(args.answers)
        if not chats or len(chats) != len(answers):
            raise InputError(f"{args.answers}: has {len(answers)} rows, and {args.chats} has {len(chats)}")
        right = sum(
            chat["messages"][-1]["content"] == answer["prediction"].strip()
            for chat, answer in zip(chats, answers, strict=True)
        )
    except KeyError as error:
        return print_error(InputError(f"{args.answers} and {args.chats}: a row has no {error}"))
    except InputError as error:
        return print_error(error)
    print(f"{right} of {len(chats)} answers are right ({100 * right / len(chats):.1f} %)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
