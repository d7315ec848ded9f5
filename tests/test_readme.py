"""The README's Python blocks run as they stand, one after the other in one place; all pages name what exists."""

import re
from pathlib import Path

import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerBase

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


PAGES = [README, *sorted(README.parent.glob("docs/*.md")), README.parent / "examples/README.md"]


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
