"""The README's Python blocks run as they stand, one after the other in one place."""

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
    assert (tmp_path / "my-tagger" / "modeling_encoder.py").exists()
    assert [repo for _, repo in pushed] == ["you/my-dates", "you/my-dates"]


@pytest.mark.parametrize("name", re.findall(r"\]\(([\w/]+\.md)\)", README.read_text(encoding="utf-8")))
def test_the_linked_pages_exist(name):
    assert (README.parent / name).exists()
