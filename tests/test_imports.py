"""Imports run one way (docs/architecture.md), and what is exported stays exportable: read from the source, by ast."""

import ast
import re
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import seqblend

ROOT = Path(seqblend.__file__).parent
FOLDERS = ("configuration", "modeling", "conversion", "training", "hub_card", "benchmarks")
EXPORTED = ("configuration", "modeling")
LEAVES = ("normalization", "positions", "feed_forward", "packing", "losses", "heads", "cache", "hooks")
# Each may import from those before it. Within a group only where the group is named in AMONG_THEMSELVES.
ORDER = [
    {"configuration.recipes"},
    {"configuration.base"},
    {"configuration.encoder", "configuration.decoder"},
    {"configuration.encoder_decoder"},
    {f"modeling.{leaf}" for leaf in LEAVES},
    {"modeling.patterns"},
    {"modeling.attention"},
    {"modeling.layers"},
    {"modeling.base"},
    {"modeling.encoder", "modeling.decoder"},
    {"modeling.encoder_decoder"},
    {"modeling.families"},
    {"conversion.table"},
    {f"conversion.{name}" for name in ("bart", "bert", "gpt", "llama", "modernbert", "checkpoint")},
    {"conversion.registry"},
    {"conversion.origin", "conversion.tensors"},
    {"conversion.reading"},
    {"conversion.writing"},
    {"conversion", "conversion.__main__"},
    {"pipelines"},
    {
        "",
        "version",
        *(f"{f}.{path.stem}" for f in ("training", "hub_card") for path in (ROOT / f).glob("[!_]*.py")),
    },
    {"train", "predict"},
    {f"benchmarks.{path.stem}" for path in (ROOT / "benchmarks").glob("*.py")},
]
RANK = {module: rank for rank, group in enumerate(ORDER) for module in group}
AMONG_THEMSELVES = {RANK["modeling.losses"], RANK["version"], RANK["benchmarks.cases"]}

SOURCES = {
    **{"" if path.stem == "__init__" else path.stem: path for path in ROOT.glob("*.py")},
    **{f"{f}.{path.stem}": path for f in FOLDERS for path in (ROOT / f).glob("*.py") if path.stem != "__init__"},
    "conversion": ROOT / "conversion" / "__init__.py",
}
every_exported = pytest.mark.parametrize("module", [name for name in SOURCES if name.partition(".")[0] in EXPORTED])


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(SOURCES[module].read_text(encoding="utf-8"))


def imports(module: str) -> list[tuple[ast.stmt, str]]:
    """Every import in the module, wherever it stands, with the full name of what it imports from."""
    found = []
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            found += [(node, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level:
            parts = module.split(".")
            package = ["seqblend", *(parts if SOURCES[module].stem == "__init__" and module else parts[:-1])]
            above = package[: len(package) - node.level + 1]
            found.append((node, ".".join([*above, *([node.module] if node.module else [])])))
        elif isinstance(node, ast.ImportFrom):
            found.append((node, node.module))
    return found


def of_package(module: str) -> set[str]:
    """What a module imports of this package: names as in SOURCES."""
    names = {name for _, name in imports(module) if name.split(".")[0] == "seqblend"}
    return {name.removeprefix("seqblend").removeprefix(".") for name in names}


@pytest.mark.parametrize("module", SOURCES)
def test_imports_run_one_way(module):
    assert module in RANK, f"{module} has no place in the order"
    for name in of_package(module):
        assert name in SOURCES, f"{module} imports from {name!r}, which is no module"
        assert RANK[name] < RANK[module] or (RANK[name] == RANK[module] and RANK[name] in AMONG_THEMSELVES), (
            f"{module} imports from {name}"
        )


def test_no_module_imports_itself_in_the_end():
    order = TopologicalSorter({module: of_package(module) for module in SOURCES})
    assert set(order.static_order()) == set(SOURCES)


@every_exported
def test_exported_files_need_little(module):
    known = {"torch", "transformers", "huggingface_hub"} | sys.stdlib_module_names
    for _, name in imports(module):
        assert name.split(".")[0] in known | {"seqblend"}, f"{module} imports {name}"


@every_exported
def test_hub_loader_can_follow_every_import(module):
    """It copies what lines of the form `from .sibling import name` say, wherever they stand, and nothing else."""
    top_level = tree(module).body
    for node, name in imports(module):
        assert name != "__future__", "with it, annotations are strings, and transformers reads config_class from one"
        if name.split(".")[0] != "seqblend":
            continue
        assert isinstance(node, ast.ImportFrom) and node.level, f"{name} is not imported relatively"
        assert any(node is statement for statement in top_level), f"{name} is not imported unconditionally"
        assert node.module, f"a name is imported from the folder of {name}, not from the module that defines it"
        assert name.removeprefix("seqblend.") in SOURCES, f"{name} is not a module"
    written = re.findall(r"^\s*from\s+\.+\S*\s+import", SOURCES[module].read_text(encoding="utf-8"), re.MULTILINE)
    relative = [node for node, _ in imports(module) if isinstance(node, ast.ImportFrom) and node.level]
    assert len(written) == len(relative), "a line of text looks like an import"


@every_exported
def test_exported_files_do_not_ask_for_our_config_classes(module):
    """From a local directory AutoConfig's class and the model's config_class are two copies."""
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "isinstance":
            asked = {each.id for each in ast.walk(node.args[1]) if isinstance(each, ast.Name)}
            assert not any(re.fullmatch(r"(Blend|Recipe)\w*Config", name) for name in asked), ast.unparse(node)


def test_no_file_for_odds_and_ends():
    names = {path.stem for folder in (ROOT, *(ROOT / f for f in FOLDERS)) for path in folder.glob("*.py")}
    assert names.isdisjoint({"util", "utils", "common", "helpers", "misc"})


def test_folders_are_flat_and_their_init_is_empty():
    for folder in FOLDERS:
        inner = [path.name for path in (ROOT / folder).iterdir() if path.is_dir() and path.name != "__pycache__"]
        assert inner == [], folder
        # What a user calls stands in conversion's.
        if folder != "conversion":
            assert (ROOT / folder / "__init__.py").read_text(encoding="utf-8").strip() == "", folder


def test_tests_are_no_package():
    """The root is one: pytest would import the tests as a part of it."""
    assert not (Path(__file__).parent / "__init__.py").exists()
