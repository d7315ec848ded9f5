"""`python -m seqblend.conversion --list`: print the architectures that can be converted, and their heads."""

import argparse

from .registry import ARCHITECTURES


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m seqblend.conversion", description=__doc__)
    parser.add_argument("--list", action="store_true", required=True, help="print architectures and stock classes")
    parser.parse_args()
    for architecture in ARCHITECTURES.values():
        print(architecture.model_type)
        for auto_class, head in architecture.heads.items():
            print(f"  {auto_class:36} {head.stock}")


if __name__ == "__main__":
    main()
