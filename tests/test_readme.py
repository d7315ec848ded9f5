"""The README's Python blocks run as they stand, one after the other in one place; all pages name what exists."""

import csv
import json
import re
import shlex
from functools import partial
from pathlib import Path

import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from seqblend.__main__ import COMMANDS, main
from seqblend.hub_card.card import write_card

README = Path(__file__).parents[1] / "README.md"


def test_the_examples_run(tmp_path, monkeypatch):
    pushed = []
    for uploader in (PreTrainedModel, PreTrainedTokenizerBase):
        monkeypatch.setattr(
            uploader, "push_to_hub", lambda self, repo_id: pushed.append((type(self).__name__, repo_id))
        )
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        exec(compile(block, str(README), "exec"), {})
    assert (tmp_path / "runs/my-model/modeling_encoder.py").exists()
    # Of a clone, git knows to ignore it.
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    assert [repo for _, repo in pushed] == ["you/my-dates", "you/my-dates"]


KOREAN = README.with_name("README.ko.md")
SENTENCES = ["정말 재미있게 봤어요", "배우들의 연기가 훌륭하다", "지루하고 시간이 아깝다", "다시는 보고 싶지 않다"]


def commands_of(page):
    """The words of each command `seqblend …` on a page."""
    blocks = re.findall(r"```\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line)[1:] for line in lines if line.startswith("seqblend ")]


def test_the_commands_of_the_korean_page_run(tmp_path, monkeypatch, capfd):
    """With a small model; what needs a published checkpoint, or goes on for ever, is read only."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("seqblend.training.publisher.write_card", partial(write_card, complete=False))
    for name in ("train", "dev"):
        rows = [{"text": text, "label": "긍정" if index < 2 else "부정"} for index, text in enumerate(SENTENCES)]
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows * 8]
        (tmp_path / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    (tmp_path / "texts.txt").write_text("\n".join(SENTENCES), encoding="utf-8")
    small = ["--config_overrides", "hidden_size=32,num_hidden_layers=1", "--num_train_epochs", "20"]
    ran = []
    for command in commands_of(KOREAN):
        assert command[0] in COMMANDS
        if command[0] == "serve" or "--model_name_or_path" in command:
            continue
        more = small if command[0] == "train" else []
        assert main([*command, *more]) == 0, command
        ran.append(command[0])
    assert ran == ["train", "predict", "predict", "explore", "publish"]
    with (tmp_path / "answers.csv").open(encoding="utf-8", newline="") as file:
        answers = [row["prediction"] for row in csv.DictReader(file)]
    assert answers == ["긍정", "긍정", "부정", "부정"]
    assert "긍정" in (tmp_path / "explore.html").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", KOREAN.read_text(encoding="utf-8"), re.DOTALL)
    assert blocks and all(block in README.read_text(encoding="utf-8") for block in blocks)


PAGES = [README, KOREAN, *sorted(README.parent.glob("docs/*.md")), README.parent / "examples/README.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_to_files(page):
    for link in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
        assert link.startswith("https://") or (page.parent / link.partition("#")[0]).exists(), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_name_what_exists(page):
    root, text = README.parent, page.read_text(encoding="utf-8")
    files = re.findall(r"\b((?:examples|tests)/[\w/]+\.(?:py|yaml))", text)
    modules = [name.replace(".", "/") for name in re.findall(r"python -m seqblend\.([\w.]+)", text)]
    missing = [name for name in files if not (root / name).exists()]
    missing += [name for name in modules if not {*root.glob(f"{name}.py"), *root.glob(f"{name}/__main__.py")}]
    targets = re.findall(r"^([a-z-]+):", (root / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    missing += sorted({*re.findall(r"`make ([a-z-]+)", text)} - {*targets})
    assert not missing
