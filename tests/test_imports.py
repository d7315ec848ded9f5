"""Imports run one way (docs/architecture.md), and what is exported stays exportable: read from the source, by ast."""

import ast
import re
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import seqblend
from seqblend.tasks.registry import TASKS

ROOT = Path(seqblend.__file__).parent
FOLDERS = (
    *(
        "configuration",
        "modeling",
        "data",
        "conversion",
        "tokenization",
        "scoring",
        "tasks",
        "explorer",
        "hub_card",
        "checkpoints",
        "training",
        "calibration",
        "serving",
        "reports",
        "tuning",
        "server",
        "lecture",
    ),
    "benchmarks",
)
EXPORTED = ("configuration", "modeling")
MOST_MODULES = 16
MOST_LINES, MOST_PARAMETERS = 60, 12
# Inside the folders that are exported each module may import from those in earlier rows only.
MODEL = [
    {"configuration.recipes", "configuration.checks"},
    {"configuration.recipe_config"},
    {"configuration.heads"},
    {"configuration.base"},
    {"configuration.encoder", "configuration.decoder"},
    {"configuration.encoder_decoder"},
    {
        "modeling.normalization",
        "modeling.positions",
        "modeling.packing",
        "modeling.losses",
        "modeling.heads",
        "modeling.cache",
        "modeling.hooks",
    },
    {"modeling.patterns"},
    {"modeling.attention", "modeling.recurrence"},
    {"modeling.layers"},
    {"modeling.base"},
    {"modeling.encoder", "modeling.decoder"},
    {"modeling.encoder_decoder"},
    {"modeling.families"},
]
MODEL_RANK = {module: rank for rank, group in enumerate(MODEL) for module in group}
# The leaves of the model: heads read losses.
AMONG_THEMSELVES = MODEL_RANK["modeling.losses"]
# Modules of the root that stand before the folders, and behind them: the package itself, then its commands.
FIRST, LAST = ("version",), ("pipelines", "", "train", "tune", "predict", "explore", "listing", "__main__")


def rank(module: str) -> int:
    """The place of a module's folder in the order of imports; the root's modules have one each."""
    order = (*FIRST, *FOLDERS[:-1], *LAST, FOLDERS[-1])
    return order.index(module if module in (*FIRST, *LAST) else module.partition(".")[0])


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
    """From one folder to those before it, and inside a folder in any order without a circle."""
    for name in of_package(module):
        assert name in SOURCES, f"{module} imports from {name!r}, which is no module"
        assert rank(name) <= rank(module), f"{module} imports from {name}"


@every_exported
def test_imports_inside_the_model_run_one_way(module):
    assert module in MODEL_RANK, f"{module} has no place in the order"
    for name in of_package(module):
        ranks = MODEL_RANK[name], MODEL_RANK[module]
        assert ranks[0] < ranks[1] or ranks == (AMONG_THEMSELVES,) * 2, f"{module} imports from {name}"


@pytest.mark.parametrize("module", [name for name in SOURCES if not name.startswith("tasks.")])
def test_nothing_outside_of_tasks_asks_which_task_it_is(module):
    """A task says itself what is its own: see CONTRIBUTING.md."""
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Compare | ast.MatchValue):
            constants = {each.value for each in ast.walk(node) if isinstance(each, ast.Constant)}
            assert constants.isdisjoint(TASKS), ast.unparse(node)


@pytest.mark.parametrize("folder", FOLDERS)
def test_folders_are_small(folder):
    modules = [name for name in SOURCES if name.startswith(f"{folder}.")]
    assert folder == "conversion" or len(modules) <= MOST_MODULES, sorted(modules)


def test_no_module_imports_itself_in_the_end():
    order = TopologicalSorter({module: of_package(module) for module in SOURCES})
    assert set(order.static_order()) == set(SOURCES)


# Libraries that plot or compute metrics: slow to import, and not needed to tokenize or train.
LOADED_LATE = {"evaluate", "jiwer", "matplotlib", "sacrebleu", "scipy.stats", "seqeval", "sklearn"}


def test_importing_loads_no_plotting_and_no_metric_library():
    """Of tasks and of tokenizers, which is all that a tokenizer needs to be trained."""
    # Older transformers loads some of them itself.
    code = "import sys; from transformers import GenerationMixin; before = set(sys.modules)\n"
    code += "import seqblend.tasks.registry, seqblend.tokenization.training; print(*{*sys.modules} - before)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not LOADED_LATE & set(loaded)


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


def test_matplotlib_is_loaded_when_a_picture_is_drawn():
    """Only functions import the modules that need it."""
    drawing = {"hub_card.pictures", "hub_card.glyphs", "lecture.pictures", "tuning.picture"}
    assert all(any(name.startswith("matplotlib") for _, name in imports(module)) for module in drawing)
    for module in SOURCES.keys() - drawing:
        for node, name in imports(module):
            is_needed = name.startswith("matplotlib") or name.removeprefix("seqblend.") in drawing
            assert not (is_needed and node in tree(module).body), f"{module} imports {name}"


def test_no_file_for_odds_and_ends():
    names = {path.stem for folder in (ROOT, *(ROOT / f for f in FOLDERS)) for path in folder.glob("*.py")}
    assert names.isdisjoint({"util", "utils", "common", "helpers", "misc"})


@pytest.mark.parametrize("module", SOURCES)
def test_functions_are_short_and_take_few_arguments(module):
    """60 lines of code and 12 parameters at the most; a forward has as many as transformers gives it."""
    for node in ast.walk(tree(module)):
        if not isinstance(node, ast.FunctionDef) or node.name == "forward":
            continue
        documented = ast.get_docstring(node) is not None
        body = node.body[1:] if documented else node.body
        lines = body[-1].end_lineno - body[0].lineno + 1 if body else 0
        arguments = node.args
        count = len(arguments.posonlyargs + arguments.args + arguments.kwonlyargs)
        assert lines <= MOST_LINES and count <= MOST_PARAMETERS, f"{node.name}: {lines} lines, {count} parameters"


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
