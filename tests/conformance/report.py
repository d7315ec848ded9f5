"""Write docs/conformance.md from the results of transformers' own classes and ours: `python report.py DIRECTORY`."""

import sys
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

# Our test class, and beside it whose results, in which file.
PAIRS = {"TestEncoder": ("BERT", "bert"), "TestDecoder": ("GPT-2", "gpt2"), "TestEncoderDecoder": ("BART", "bart")}

HEAD = """# Conformance

transformers' own common tests, run on our classes and on the classes of transformers that are nearest to them.
`make conformance TRANSFORMERS=PATH` runs both and writes this page; counted are names, not subtests.

| ours | passed | failed | skipped | beside | passed | failed | skipped |
|---|--:|--:|--:|---|--:|--:|--:|"""


def results(path: Path, test_class: str) -> dict[str, tuple[str, str]]:
    """Of each test of a class, by name: `passed`, `skipped` or `failed`, and the reason."""
    found: dict[str, tuple[str, str]] = {}
    for case in ElementTree.parse(path).iter("testcase"):
        name, outcomes = case.get("name", ""), {each.tag: each.get("message", "") for each in case}
        if not case.get("classname", "").endswith(test_class) or found.get(name, ("",))[0] == "failed":
            continue
        if "failure" in outcomes or "error" in outcomes:
            found[name] = ("failed", outcomes.get("failure", outcomes.get("error", "")))
        else:
            found[name] = ("skipped", outcomes["skipped"]) if "skipped" in outcomes else ("passed", "")
    return found


def counted(found: dict[str, tuple[str, str]]) -> str:
    counts = Counter(outcome for outcome, _ in found.values())
    return " | ".join(str(counts[outcome]) for outcome in ("passed", "failed", "skipped"))


def missed(ours: dict[str, tuple[str, str]], theirs: dict[str, tuple[str, str]]) -> list[str]:
    """A line for each test that passes for theirs and not for ours."""
    lines = []
    for name, (outcome, _) in sorted(theirs.items()):
        mine, reason = ours.get(name, ("not there", "a test of their file, or of a mixin that asks for `generate`"))
        if outcome == "passed" and mine != "passed":
            lines.append(f"- `{name}`: {mine}; {' '.join(reason.split())}")
    return lines


def main() -> None:
    directory = Path(sys.argv[1])
    rows, sections = [], []
    for test_class, (name, file) in PAIRS.items():
        ours = results(directory / "ours.xml", test_class)
        theirs = results(directory / f"{file}.xml", "ModelTest")
        rows.append(f"| `{test_class}` | {counted(ours)} | {name} | {counted(theirs)} |")
        sections += [f"\n## Passes for {name} and not for `{test_class}`\n", *missed(ours, theirs)]
    print("\n".join([HEAD, *rows, *sections]))


if __name__ == "__main__":
    main()
