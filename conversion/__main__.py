"""`python -m seqblend.conversion --list`: print the architectures that can be converted, and their heads."""

import argparse
import sys

from .registry import ARCHITECTURES


def main(argv: list[str] | None = None) -> int:
    """Run the command line; the exit code is 0."""
    parser = argparse.ArgumentParser(prog="seqblend convert", description=__doc__)
    parser.add_argument("--list", action="store_true", required=True, help="print architectures and stock classes")
    parser.parse_args(argv)
    for architecture in ARCHITECTURES.values():
        print(architecture.model_type)
        for auto_class, head in architecture.heads.items():
            print(f"  {auto_class:36} {head.stock}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
