"""docs/lecture.md and its Korean page: fourteen claims, and for each the code, a test, a picture and a figure."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from seqblend.lecture.__main__ import FIGURES, PAGES, read
from seqblend.lecture.claims import CLAIMS, LOGARITHMIC
from seqblend.lecture.marked import MARKED, value_of
from seqblend.lecture.results import Results

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
CLAIM = range(1, 15)
every_page = pytest.mark.parametrize("page", PAGES)
every_claim = pytest.mark.parametrize("number", CLAIM)
# `file`: `name` in a link to the file; `file::test` in one; a picture; a link to a section of the measured page.
CODE = re.compile(r"\[`([\w/]+\.py)`: `([\w.]+)`\]\(\.\./([\w/]+\.py)\)")
TEST = re.compile(r"\[`(tests/\w+\.py)::(test_\w+)`\]\(\.\./(tests/\w+\.py)\)")
PICTURE = re.compile(r"!\[[^\n]+\]\(lecture/([\w-]+\.png)\)")
SECTION = re.compile(r"\]\(lecture/README\.md#([^)]*)\)")


@cache
def text(page: str) -> str:
    return (DOCS / page).read_text(encoding="utf-8")


@cache
def results() -> Results:
    return Results(read(DOCS / "lecture" / FIGURES)[1], LOGARITHMIC)


def sections(page: str) -> dict[int, str]:
    """What each page says of the claims, by their numbers, in its order."""
    parts = re.split(r"(?m)^## ", text(page))[1:]
    numbered = [(re.match(r"(\d+)\. ", part), part) for part in parts]
    return {int(found[1]): part for found, part in numbered if found}


@cache
def defined(path: str) -> set[str]:
    """The names of functions, classes and constants of a file, and of what classes contain: `Class.method`."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    names = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{each.name}" for each in node.body if isinstance(each, ast.FunctionDef)}
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


@every_page
def test_fourteen_claims_in_order(page):
    numbers = re.findall(r"(?m)^## (\d+)\. \S", text(page))
    assert numbers == [str(number) for number in CLAIM]


@every_page
@every_claim
def test_code_and_tests_of_a_claim_exist(page, number):
    section = sections(page)[number]
    for kind in (CODE, TEST):
        found = kind.findall(section)
        assert found
        for path, name, link in found:
            assert path == link and (ROOT / path).exists(), path
            assert name in defined(path), f"{path} does not define {name}"
    # Nothing that looks like code or a test is written in another form, which would not be looked at here.
    assert section.count(".py`: `") == len(CODE.findall(section))
    assert section.count(".py::") == len(TEST.findall(section))


@every_page
@every_claim
def test_pictures_and_figures_of_a_claim(page, number):
    """The pictures are those of the experiments whose figures the claim has, which are those that test it."""
    section = sections(page)[number]
    pictures, figures = PICTURE.findall(section), MARKED.findall(section)
    assert pictures and figures
    shown = {claim.experiment for claim in CLAIMS if f"{claim.experiment.replace(' ', '_')}.png" in pictures}
    assert all((DOCS / "lecture" / picture).exists() for picture in pictures)
    assert len(shown) == len(pictures) and shown <= {experiment for _, experiment, *_ in figures}
    tested = [claim for claim in CLAIMS if str(number) in claim.numbers.split(", ")]
    assert shown & {claim.experiment for claim in tested}
    for written, *asked in figures:
        assert written == value_of(results(), *asked), asked


@every_page
def test_no_figure_is_without_a_marker(page):
    """But for numbers of the experiments themselves: whole ones, a share of a chain that can be known, years."""
    plain = re.sub(r"```.*?```|`[^`]*`|\]\([^)]*\)", "", MARKED.sub("", text(page)), flags=re.DOTALL)
    assert set(re.findall(r"\d+\.\d+", plain)) <= {"0.6"}
    assert text(page).count("<!--") == len(MARKED.findall(text(page)))


@every_page
def test_links_lead_to_sections_of_the_measured_page(page):
    measured = text("lecture/README.md")
    titles = re.findall(r"(?m)^## (.+)$", measured)
    anchors = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
    found = SECTION.findall(text(page))
    assert found and set(found) <= anchors


@every_claim
def test_both_pages_say_the_same(number):
    english, korean = (sections(page)[number] for page in PAGES)
    for pattern in (CODE, TEST, PICTURE, SECTION):
        assert pattern.findall(english) == pattern.findall(korean)
    # The order of words differs.
    assert sorted(MARKED.findall(english)) == sorted(MARKED.findall(korean))


def test_the_pages_lead_to_each_other():
    for page, other in (PAGES, PAGES[::-1]):
        assert f"]({other})" in text(page)


def test_every_claim_is_measured():
    numbers = {number for claim in CLAIMS for number in claim.numbers.split(", ")}
    assert numbers == {*map(str, CLAIM), "for recurrence"}
