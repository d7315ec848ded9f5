"""The command line: `seqblend train …`, and the other COMMANDS; `seqblend COMMAND --help` lists the flags of one."""

import argparse
import importlib
import os
import signal
import sys
from collections.abc import Callable

from seqblend.data.errors import InputError, check_choice, print_error
from seqblend.version import __version__

# Each command: the module that has its `main`, and what it does.
COMMANDS = {
    "train": ("seqblend.train", "train, evaluate and predict"),
    "tune": ("seqblend.tune", "search for good values of training options"),
    "predict": ("seqblend.predict", "predict files and pipes with a saved model"),
    "explore": ("seqblend.explore", "write a page that shows what a model blends for its answer to a text"),
    "serve": ("seqblend.server.command", "answer HTTP requests with saved models, on a page and as JSON"),
    "publish": ("seqblend.hub_card.publish", "push a saved model to the Hub"),
    "verify": ("seqblend.hub_card.verify", "check that a model gives the outputs it had when it was saved"),
    "export": ("seqblend.serving.export", "write a saved model for ONNX Runtime or CTranslate2"),
    "data": ("seqblend.reports.data", "report what a data set contains, before training"),
    "errors": ("seqblend.reports.errors", "report where a trained model is wrong"),
    "compare": ("seqblend.reports.compare", "compare runs: intervals and tests over seeds and test rows"),
    "init": ("seqblend.listing", "print a file of options for a task, to be edited"),
    "tasks": ("seqblend.listing", "list the tasks, their columns and architectures"),
    "recipes": ("seqblend.listing", "list the recipes of new models"),
    "models": ("seqblend.listing", "list the architectures whose checkpoints are converted"),
    "convert": ("seqblend.conversion.__main__", "convert a checkpoint of another architecture, or a model back to it"),
}


def usage() -> str:
    """What `seqblend --help` prints."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {purpose}" for name, (_, purpose) in COMMANDS.items()]
    example = "  seqblend train --task token-classification --train_file train.jsonl --output_dir runs/my-tagger"
    return "\n".join(
        [
            "usage: seqblend COMMAND …",
            "",
            "Train, use, inspect, serve and publish Transformers. For example:",
            "",
            example,
            "",
            *lines,
            "",
            "seqblend COMMAND --help lists its flags, seqblend --version the version.",
        ]
    )


def verify_command(argv: list[str]) -> int:
    """`seqblend verify DIR_OR_REPOSITORY`: print the largest difference of each output."""
    from transformers.utils.logging import disable_progress_bar

    from seqblend.hub_card.verify import verify

    purpose = f"{COMMANDS['verify'][1].capitalize()}."
    parser = argparse.ArgumentParser("seqblend verify", description=purpose, allow_abbrev=False)
    parser.add_argument("model", help="a directory with reference.safetensors, or a repository of the Hub")
    parser.add_argument("--revision", help="a branch, a tag or a commit of the repository")
    arguments = parser.parse_args(argv)
    disable_progress_bar()
    try:
        errors = verify(arguments.model, arguments.revision)
    except (ValueError, OSError) as error:
        return print_error(error)
    for name, error in errors.items():
        print(f"{name}: equal" if error == 0 else f"{name}: differs by {error:.1e} of its standard deviation")
    return 0


def command_of(name: str) -> Callable[[list[str]], int]:
    """The function that runs a command. Raises InputError for an unknown one."""
    module = importlib.import_module(COMMANDS[check_choice("command", name, COMMANDS)][0])
    if name == "verify":
        return verify_command
    # A module of several commands has them by name.
    return module.COMMANDS[name] if hasattr(module, "COMMANDS") else module.main


def main(argv: list[str] | None = None) -> int:
    """Run a command; the exit code is the command's, 2 for an unknown one, or 130 after Ctrl-C."""
    words = sys.argv[1:] if argv is None else argv
    if not words or words[0] in ("-h", "--help"):
        print(usage())
        return 0 if words else 2
    if words[0] == "--version":
        print(__version__)
        return 0
    try:
        return command_of(words[0])(words[1:])
    except InputError as error:
        return print_error(error)
    except KeyboardInterrupt:
        # Commands with something to say about it, such as train, end by themselves.
        print(f"Ctrl-C: seqblend {words[0]} has ended", file=sys.stderr)
        return 128 + signal.SIGINT
    except BrokenPipeError:
        # The reader of the output, such as `head`, has ended. The rest of the buffers is discarded.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


if __name__ == "__main__":
    sys.exit(main())
