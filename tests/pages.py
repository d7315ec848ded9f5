"""The pages of the documentation as tests read them: their fenced blocks, and the commands in these."""

import re
import shlex
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
README, KOREAN = ROOT / "README.md", ROOT / "README.ko.md"
GUIDES = [ROOT / name for name in ("CONTRIBUTING.md", "SECURITY.md")]
PAGES = [
    *(README, KOREAN, *GUIDES),
    *sorted(ROOT.glob("docs/*.md")),
    *(ROOT / "docs/lecture/README.md", ROOT / "examples/README.md"),
]


class Block(NamedTuple):
    """A fenced block.

    Attributes:
        language: what stands after the fence; empty for none.
        text: without the fences.
        line: of the page, from 1, at which the text begins.
    """

    language: str
    text: str
    line: int


def blocks_of(page: Path) -> list[Block]:
    """The fenced blocks of a page, in their order."""
    text = page.read_text(encoding="utf-8")
    found = re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [Block(each[1], each[2], text.count("\n", 0, each.start(2)) + 1) for each in found]


def lines_of(text: str) -> list[str]:
    """The command lines in a text of a shell; a line that ends with a backslash goes on in the next."""
    return text.replace("\\\n", " ").splitlines()


def commands_in(text: str) -> list[list[str]]:
    """The arguments of each command `seqblend …` or `python -m seqblend …` in a text of a shell."""
    found = []
    for line in lines_of(text):
        if "seqblend" not in line:
            continue
        words = shlex.split(line, comments=True)
        for index, word in enumerate(words):
            if word == "seqblend" and (not index or words[index - 1] in ("-m", "|")):
                rest = words[index + 1 :]
                end = next((place for place, each in enumerate(rest) if each in ("|", ">")), len(rest))
                found.append(rest[:end])
    return found
