"""The documentation names what exists: links, files, make targets, commands with their flags; its Python runs.

tests/test_readme.py runs both READMEs whole.
"""

import ast
import configparser
import contextlib
import dataclasses
import importlib.util
import re
import shlex

import options_page
import pytest
import transformers
import yaml
from datasets import Dataset
from huggingface_hub import constants
from pages import PAGES, ROOT, blocks_of, commands_in, lines_of
from test_server import load, serving
from test_train_command import (
    CLASSIFY,
    TAG,
    TRANSLATE,
    plain_cards,  # noqa: F401 - a fixture
    quick_and_quiet,  # noqa: F401 - a fixture
    run,
    write,
)
from transformers import AutoModelForTokenClassification, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers import Seq2SeqTrainingArguments as TheirArguments

from seqblend.__main__ import COMMANDS
from seqblend.data.errors import InputError
from seqblend.training.arguments import BlendTrainingArguments, DataArguments, ModelArguments
from seqblend.training.command_line import parse_arguments

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
FOLDERS = sorted(path.name for path in ROOT.iterdir() if path.is_dir() and path.name[0].isalpha())
# Folders that are written by commands.
WRITTEN = ("build", "dist", "runs")
TARGETS = {*re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)}


def prose_of(page):
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


# --- Links ---


def anchors_of(page):
    """The anchors of the headings of a page, as GitHub and the site make them."""
    titles = re.findall(r"^#+ (.+)$", prose_of(page), re.MULTILINE)
    plain = [re.sub(r"\[([^]]+)\]\([^)]*\)|[`*]", r"\1", title) for title in titles]
    return [re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in plain]


@every_page
def test_links_lead_to_files_and_headings(page):
    for link in re.findall(r"\]\(([^)]+)\)", prose_of(page)):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors_of(target), link


def test_every_page_is_on_the_readmes():
    """But for the lecture, of which each has the page in its language."""
    pages = {page for page in PAGES if page.parent == ROOT / "docs" and page.stem.partition(".")[0] != "lecture"}
    for readme in PAGES[:2]:
        assert pages <= {ROOT / link.partition("#")[0] for link in re.findall(r"\]\(([^)]+)\)", prose_of(readme))}


# --- Names ---


@every_page
def test_names_of_files_modules_and_targets(page):
    text = page.read_text(encoding="utf-8")
    # What a line with another repository names is there.
    text = re.sub(r"^.*https://github.com.*$", "", text, flags=re.MULTILINE)
    files = re.findall(rf"(?<![\w/.-])((?:{'|'.join(FOLDERS)})/[\w./-]*\.(?:py|md|yaml|json|jsonl|png|html))\b", text)
    files = [name for name in files if name.split("/")[0] not in WRITTEN]
    modules = [name.replace(".", "/") for name in re.findall(r"python -m seqblend\.([\w.]+)", text)]
    missing = [name for name in files if not ((ROOT / name).exists() or (page.parent / name).exists())]
    missing += [name for name in modules if not {*ROOT.glob(f"{name}.py"), *ROOT.glob(f"{name}/__main__.py")}]
    missing += sorted({*re.findall(r"`make ([a-z-]+)", text)} - TARGETS)
    assert not missing


def test_the_workflows_run_targets_that_exist():
    found = set()
    for path in (ROOT / ".github/workflows").glob("*.yml"):
        for job in yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"].values():
            found |= {*job.get("strategy", {}).get("matrix", {}).get("target", [])}
            found |= {*re.findall(r"^make ([a-z-]+)$", "\n".join(step.get("run", "") for step in job["steps"]), re.M)}
    assert {"check", "test", "test-oldest", "test-browser", "test-dist", "docs"} <= found <= TARGETS


@every_page
def test_flags_exist(page):
    """Each flag that a page names in its prose is one of a command, or of a script or another program beside it."""
    ours = {each for command in COMMANDS if command != "data" for each in flags_of(command)}
    named = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", prose_of(page)))
    scripts = "".join(path.read_text(encoding="utf-8") for pattern in SCRIPTS for path in ROOT.glob(pattern))
    assert {name for name in named - ours if f'"{name}"' not in scripts} <= OF_OTHERS.get(page.name, set())


SCRIPTS = ("benchmarks/*.py", "lecture/*.py", "examples/*.py", "tests/*.py")
# Flags of torchrun, of accelerate, and of transformers' own commands.
OF_OTHERS = {
    "scale.md": {"--standalone", "--nproc-per-node", "--cpu"},
    "clients.md": {"--continuous-batching", "--cb-num-blocks", "--cb-max-batch-tokens", "--trust-remote-code"},
}


def flags_of(command):
    """The flags of a command, of training also those of transformers."""
    return {each for action in options_page.parser_of(command)._actions for each in action.option_strings}


# --- Commands ---

# What stands for a file of options that the reader writes.
PLACEHOLDERS = ("my.yaml", "SETTINGS.yaml", "FILE.yaml")


def parse(command, arguments):
    """Parse a command line with the parser of the command. Raises SystemExit or InputError for one that is wrong."""
    if "--help" in arguments:
        return
    if command not in ("train", "data"):
        options_page.parser_of(command).parse_args(arguments)
        return
    words = [str(ROOT / each) if each.startswith("examples/") else each for each in arguments]
    words = [each for each in words if each not in PLACEHOLDERS]
    if "--output_dir" not in words:
        words += ["--output_dir", "runs/report"]  # which `seqblend data` does without
    parse_arguments(words)


@every_page
def test_commands_parse(page):
    for block in blocks_of(page):
        for command, *arguments in commands_in(block.text) if not block.language else ():
            if command not in ("--help", "--version"):
                assert command in COMMANDS
                try:
                    parse(command, arguments)
                except (SystemExit, InputError) as error:
                    pytest.fail(f"{shlex.join([command, *arguments])}: {error}")


@every_page
def test_commands_in_sentences_have_flags_that_exist(page):
    for text in re.findall(r"`(seqblend [^`]+)`", prose_of(page)):
        command, *words = text.split()[1:]
        if command.startswith("-") or command == "COMMAND":
            continue
        assert command in COMMANDS, text
        flags = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert flags <= {"--help", *flags_of("train" if command == "data" else command)}, text


@every_page
def test_scripts_exist(page):
    for block in blocks_of(page):
        for line in lines_of(block.text) if not block.language else ():
            for script in re.findall(r"\bpython (?!-)([\w/.]+\.py)", line):
                assert (ROOT / script).exists(), line


def skip_other_versions():
    """Leave out a test of what another version of transformers has in another form."""
    if f"transformers=={transformers.__version__}" not in (ROOT / "constraints.txt").read_text().splitlines():
        pytest.skip("another version of transformers than that of constraints.txt")


# --- The page of options ---


def test_the_page_of_options_is_that_of_the_code():
    """`make options` writes it. It quotes transformers' help, so it is compared where the tested version is."""
    skip_other_versions()
    assert (ROOT / "docs/options.md").read_text(encoding="utf-8") == options_page.page()


def test_it_has_all_flags_of_ours():
    """Also those that belong to no group of the help."""
    page = (ROOT / "docs/options.md").read_text(encoding="utf-8")
    theirs = {field.name for field in dataclasses.fields(TheirArguments)}
    ours = {
        field.name
        for each in (ModelArguments, DataArguments, BlendTrainingArguments)
        for field in dataclasses.fields(each)
    }
    assert [name for name in sorted(ours - theirs) if f"`--{name}" not in page] == []


def test_the_page_of_installation_has_every_extra():
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    table = (ROOT / "docs/install.md").read_text(encoding="utf-8")
    assert [name for name in settings["options.extras_require"] if f"`{name}`" not in table] == []


def test_how_much_faster_fine_tuning_is():
    """The READMEs and the first lines of the page have the figures of its table."""
    page = (ROOT / "docs/performance.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.split("|")] for line in page.partition("### finetune")[2].splitlines()]
    (head,) = (row for row in rows if "ours faster by" in row)
    column = head.index("ours faster by")
    found = [float(row[column]) for row in rows if len(row) == len(head) and re.fullmatch(r"[\d.]+", row[column])]
    padded, grouped = found[::2], found[1::2]
    lead = " ".join(page.partition("```")[0].split())
    for ratio in (*padded, *grouped):
        assert f"{ratio} times" in lead or f"{ratio} and" in lead, ratio
    for readme in PAGES[:2]:
        text = readme.read_text(encoding="utf-8")
        assert all(f"{ratio:.1f}" in text for ratio in padded) and max(grouped) < 1.1


# --- Python ---

# Pages whose Python is only compiled, because it needs a push or minutes; and a package that others need.
COMPILED = ("README.md", "README.ko.md", "clients.md", "conversion.md")
NEEDED = {"serving.md": "onnxscript"}


def has_python(page):
    return any(block.language == "python" for block in blocks_of(page))


@every_page
def test_python_compiles(page):
    for block in blocks_of(page):
        if block.language == "python":
            compile(block.text, f"{page}:{block.line}", "exec")


@pytest.fixture(scope="module")
def world(tmp_path_factory, plain_cards):  # noqa: F811
    """A directory with the models that the pages name."""
    directory = tmp_path_factory.mktemp("world")
    text, label = ["Marie Curie moved to Paris .", "Kim lives in Seoul ."], ["a", "b"]
    rows = {
        TAG: [{"tokens": each.split(), "tags": ["B-PER"] + ["O"] * (len(each.split()) - 1)} for each in text],
        CLASSIFY: [{"text": each, "label": name} for each, name in zip(text, label, strict=True)],
        TRANSLATE: [{"source": "jeudi 6 mars 2031", "target": "2031-03-06"}] * 2,
    }
    targets = {TAG: "runs/my-tagger", CLASSIFY: "runs/base", TRANSLATE: "you/model"}
    for task, target in targets.items():
        train = write(directory / f"{task}.jsonl", rows[task] * 8)
        # That of a tagger is the default, WordPiece.
        tokenizer = {"tokenizer_type": None} if task == TAG else {}
        run(directory / target, task=task, train_file=train, validation_file=None, max_length=None, **tokenizer)
    lora = {"model_name_or_path": directory / "runs/base", "lora_rank": 2, "tokenizer_type": None}
    if importlib.util.find_spec("peft"):
        train = directory / f"{CLASSIFY}.jsonl"
        run(directory / "runs/adapter", task=CLASSIFY, train_file=train, **lora, config_overrides=None)
    return directory


def can_be_imported(text):
    """Whether all modules are there that a block imports."""
    names: list[str] = []
    for each in ast.walk(ast.parse(text)):
        if isinstance(each, ast.ImportFrom):
            names.append(each.module)
        elif isinstance(each, ast.Import):
            names += [name.name for name in each.names]
    try:
        return all(importlib.util.find_spec(name) for name in names)
    except ModuleNotFoundError:  # of a package that has the module
        return False


def names_before(page, world):
    """What the first block of a page takes for given."""
    if page.stem == "prediction":
        return {"dataset": Dataset.from_dict({"text": ["Kim lives in Seoul ."] * 2})}
    if page.stem != "tools":
        return {}
    tokenizer = AutoTokenizer.from_pretrained(world / "runs/my-tagger")
    rows = [{**tokenizer(["Kim", "lives"], is_split_into_words=True)}]
    rows[0]["labels"] = [0] * len(rows[0]["input_ids"])
    model = AutoModelForTokenClassification.from_pretrained(world / "runs/my-tagger")
    return {"model": model, "tokenizer": tokenizer, "base": model, "words": ["Kim", "lives"], "rows": rows}


@contextlib.contextmanager
def server_of(page, world):
    """The address of the model that docs/server.md asks; for other pages none."""
    if page.stem != "server":
        yield ""
        return
    with serving({"intents": load(world / "runs/base")["0"]}) as address:
        yield f"{address}/models/intents"


@pytest.mark.parametrize(
    "page", [page for page in PAGES if has_python(page) and page.name not in COMPILED], ids=lambda page: page.stem
)
def test_python_runs(page, world, monkeypatch):
    """The blocks of a page, one after the other; those that need a package that is not installed are left out."""
    if page.name in NEEDED:
        pytest.importorskip(NEEDED[page.name])
    if page.name == "tools.md":  # its exporters are new in transformers
        skip_other_versions()
    monkeypatch.chdir(world)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # a client refuses this machine, too, without
    pushed = []
    for uploader in (PreTrainedModel, PreTrainedTokenizerBase):
        monkeypatch.setattr(uploader, "push_to_hub", lambda self, repo_id: pushed.append(repo_id))
    names = names_before(page, world)
    for block in blocks_of(page):
        if block.language == "python" and can_be_imported(block.text):
            with server_of(page, world) as address:
                text = block.text.replace("http://127.0.0.1:8000/models/intents", address)
                exec(compile(text, f"{page}:{block.line}", "exec"), names)
    assert pushed == (["you/my-dates"] * 2 if page.stem == "models" else [])
