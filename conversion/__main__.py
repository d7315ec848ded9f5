"""`seqblend convert SOURCE TARGET`: convert a checkpoint of another architecture, or a converted model back."""

import argparse
import sys
from pathlib import Path

from ..data.errors import print_error
from .converting import HEADS, convert
from .origin import FOLDER
from .registry import ARCHITECTURES

DESCRIPTION = f"""\
Convert a checkpoint of another architecture (BERT, GPT-2, Llama, BART …) to a model of seqblend with the same
outputs, or such a model, trained or not, back to its original format. The direction follows from SOURCE.

A model of seqblend is written with its code, its tokenizer and {FOLDER}/, which holds what has no counterpart.
A model of sentence-transformers stays one in both directions. TARGET is compared with SOURCE on random tokens
before it gets its name; if anything fails, nothing is left behind."""
EXAMPLES = """\
examples:
  seqblend convert bert-base-uncased my-bert
  seqblend convert bert-base-uncased my-tagger --head token-classification
  seqblend convert runs/my-tagger their-tagger
  seqblend convert --list"""


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "seqblend convert",
        usage="seqblend convert SOURCE TARGET [options]\n       seqblend convert --list",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("source", nargs="?", metavar="SOURCE", help="a directory, or a repository of the Hub")
    parser.add_argument("target", nargs="?", metavar="TARGET", help="the directory to write")
    parser.add_argument("--list", action="store_true", help="print the architectures and their classes, and exit")
    parser.add_argument(
        "--head",
        choices=HEADS,
        metavar="HEAD",
        help=f"{', '.join(HEADS)}; default: that of the class in config.json, or the one that sentence-transformers "
        "loads. A head that a checkpoint of another architecture does not have is initialized randomly",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace TARGET if it holds a model and no other files"
    )
    parser.add_argument("--revision", help="a branch, a tag or a commit of the repository")
    ours = parser.add_argument_group("from another architecture to seqblend")
    ours.add_argument("--model_type", help="the architecture, if config.json does not name it; --list prints them")
    ours.add_argument("--gguf_file", metavar="FILE", help="the file in SOURCE, for a checkpoint in GGUF")
    ours.add_argument(
        "--dtype",
        choices=("float32", "float64", "float16", "bfloat16"),
        help="type of the weights; default: that of the checkpoint, but float32 for half precision",
    )
    theirs = parser.add_argument_group("from seqblend to the original architecture")
    theirs.add_argument(
        "--legacy_keys",
        action="store_true",
        help="also write keys of config.json that transformers no longer writes and CTranslate2 reads",
    )
    theirs.add_argument(
        "--original_files",
        metavar="MODEL",
        help=f"a converted model whose {FOLDER}/ is used if SOURCE has none: code that runs without seqblend does not "
        "save the folder",
    )
    return parser


def print_architectures() -> None:
    """Print each architecture and its stock classes."""
    for architecture in ARCHITECTURES.values():
        print(architecture.model_type + (f" ({architecture.variant})" if architecture.variant else ""))
        for auto_class, head in architecture.heads.items():
            print(f"  {auto_class:36} {head.stock}")


def main(argv: list[str] | None = None) -> int:
    """Run the command line; the exit code is 2 if the source or the target causes an error."""
    parser = make_parser()
    given = vars(parser.parse_args(argv))
    source, target = given.pop("source"), given.pop("target")
    if given.pop("list"):
        print_architectures()
        return 0
    if source is None or target is None:
        parser.error("give SOURCE and TARGET, or --list")
    try:
        conversion = convert(source, Path(target), **given)
    except (ValueError, OSError) as error:
        return print_error(error)
    print(conversion)
    for note in conversion.notes:
        print(f"note: {note}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
