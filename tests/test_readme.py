"""Both READMEs run as they stand, block after block in one place, with small data of the test.

Checkpoints of the Hub that they name are directories here, and the server has a port of its own.
"""

import contextlib
import csv
import json
from functools import partial

import pytest
from huggingface_hub import constants
from pages import KOREAN, README, blocks_of, commands_in
from stock import stock_model
from test_server import load, serving
from transformers import AutoModelForSequenceClassification, BertForSequenceClassification

from seqblend import train_tokenizer
from seqblend.__main__ import main
from seqblend.conversion.registry import ARCHITECTURES
from seqblend.hub_card.card import write_card
from seqblend.tasks.registry import TASKS

TEXTS = {
    README: {
        "balance": ["how much money do I have", "what is left on my account"],
        "flight": ["book a flight to Seoul", "I need a plane on Monday"],
    },
    KOREAN: {
        "긍정": ["정말 재미있게 봤어요", "배우들의 연기가 훌륭하다"],
        "부정": ["지루하고 시간이 아깝다", "다시는 보고 싶지 않다"],
    },
}
CHECKPOINTS = {README: "google-bert/bert-base-uncased", KOREAN: "klue/bert-base"}
RUNS = {README: "runs/intents", KOREAN: "runs/reviews"}
ADDRESS = "http://127.0.0.1:8000"
# What makes a small model of few rows know them.
SMALL = ["--num_train_epochs", "20", "--learning_rate", "5e-3", "--max_length", "32"]


def prepare(page, directory):
    """The files and the checkpoint that a README reads."""
    rows = [{"text": text, "label": label} for label, texts in TEXTS[page].items() for text in texts]
    words = [{"tokens": row["text"].split(), "tags": ["O"] * len(row["text"].split())} for row in rows]
    for row in words:
        row["tags"][0] = "B-PER"
    files = {"train": rows * 8, "dev": rows * 4, "words": words * 8, "words_dev": words}
    for name, each in files.items():
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in each]
        (directory / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    (directory / "texts.txt").write_text("\n".join(row["text"] for row in rows), encoding="utf-8")
    tokenizer = train_tokenizer([row["text"] for row in rows], "wordpiece", 90)
    tokenizer.save_pretrained(directory / CHECKPOINTS[page])
    model = stock_model("bert", "AutoModelForMaskedLM", vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id)
    model.save_pretrained(directory / CHECKPOINTS[page])


@pytest.mark.parametrize("page", [README, KOREAN], ids=lambda page: page.stem)
def test_the_blocks_run(page, tmp_path, monkeypatch, capfd, forked):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("seqblend.training.publisher.write_card", partial(write_card, complete=False))
    monkeypatch.setattr("seqblend.hub_card.original.write_card", partial(write_card, complete=False))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # the client refuses this machine, too, without
    prepare(page, tmp_path)
    given = {path.name for path in tmp_path.iterdir()}
    ran, address = [], None
    with contextlib.ExitStack() as servers:
        for block in blocks_of(page):
            if block.language == "python":
                text = block.text.replace(ADDRESS, address or ADDRESS)
                exec(compile(text, str(page), "exec"), {})
            for command in commands_in(block.text) if not block.language else ():
                ran.append(command[0])
                if command[0] == "serve":
                    predictor = load(*command[1:])["0"]
                    address = servers.enter_context(serving({command[1].rpartition("/")[2]: predictor}))
                else:
                    assert main([*command, *(SMALL if command[0] == "train" else ())]) == 0, command
    assert ran == ["train", "data", "train", "predict", "predict", "explore", "serve", "publish"]
    # Of a clone, git knows to ignore what is written into runs/.
    assert {path.name for path in tmp_path.iterdir()} - given == {"runs", "answers.csv", "explore.html"}
    with (tmp_path / "answers.csv").open(encoding="utf-8", newline="") as file:
        answers = [row["prediction"] for row in csv.DictReader(file)]
    assert answers == [label for label, texts in TEXTS[page].items() for _ in texts]
    assert next(iter(TEXTS[page])) in (tmp_path / "explore.html").read_text(encoding="utf-8")
    printed = capfd.readouterr().out
    assert "README.md" in printed and "TextClassificationOutputElement" in printed
    for path in (tmp_path / "runs/my-bert", tmp_path / RUNS[page] / "original"):
        loaded = AutoModelForSequenceClassification.from_pretrained(path)
        assert isinstance(loaded, BertForSequenceClassification)
    for name in ("README.md", "data_report.md", "model.safetensors", "modeling_encoder.py"):
        assert (tmp_path / RUNS[page] / name).exists()


@pytest.mark.parametrize("page", [README, KOREAN], ids=lambda page: page.stem)
def test_the_rows_that_are_shown_are_read(page):
    shown = [json.loads(block.text) for block in blocks_of(page) if block.text.startswith("{")]
    assert [sorted(row) for row in shown] == [["label", "text"]]


def test_both_have_the_same_blocks():
    """In the same order; only texts, names and comments differ."""
    ours, theirs = (
        [(block.language, block.text.count("\n")) for block in blocks_of(page)] for page in (README, KOREAN)
    )
    assert ours == theirs


def test_they_count_what_there_is():
    assert (len({each.model_type for each in ARCHITECTURES.values()}), len(TASKS)) == (29, 6)
    for page, words in {
        README: ("Twenty-nine architectures", "six tasks"),
        KOREAN: ("스물아홉 가지", "여섯 가지"),
    }.items():
        assert all(word in page.read_text(encoding="utf-8") for word in words)
