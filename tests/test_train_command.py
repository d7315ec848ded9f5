"""The command line, from the user's files to what stands in the output directory, or to an error in one line."""

import csv
import dataclasses
import errno
import functools
import gc
import gzip
import importlib.metadata
import io
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet
import pytest
import safetensors.torch
import torch
import transformers
import yaml
from transformers import AutoConfig, AutoTokenizer, DebertaV2Config, GenerationConfig, Seq2SeqTrainingArguments

from seqblend import FAMILIES
from seqblend.hub_card.card import write_card
from seqblend.tasks.registry import TASKS
from seqblend.train import main, prepare
from seqblend.training.arguments import BlendTrainingArguments
from seqblend.training.checks import resolve_generation_config, wanted_checkpoint
from seqblend.training.command_line import parse_arguments, parse_pairs
from seqblend.training.models import ARCHITECTURES
from seqblend.training.run_options import CHECKPOINTING
from seqblend.training.trainer import BlendTrainer

ROOT = Path(__file__).parent.parent
CLASSIFY, TAG, TRANSLATE = "sequence-classification", "token-classification", "seq2seq-lm"
SMALL = "hidden_size=16,num_hidden_layers=1,num_attention_heads=2,intermediate_size=16"
OPTIONS = {
    "task": CLASSIFY,
    "tokenizer_type": "char",
    "config_overrides": SMALL,
    "max_length": 16,
    "max_steps": 1,
    "save_strategy": "no",
    "eval_strategy": "no",
    "disable_tqdm": True,
    "use_cpu": True,
}
ROWS = {
    CLASSIFY: [{"text": f"row {i} " + "ab"[i % 2] * i, "label": "xy"[i % 2]} for i in range(5)],
    TAG: [{"tokens": ["a", "bc", "d"][: 1 + i % 3], "tags": ["O", "B-x", "I-x"][: 1 + i % 3]} for i in range(5)],
    TRANSLATE: [{"source": "ab" * i, "target": "ba" * i} for i in range(5)],
    "causal-lm": [{"text": f"line {i}"} for i in range(5)],
    "masked-lm": [{"text": f"line {i}"} for i in range(5)],
    "denoising": [{"text": f"line {i}"} for i in range(5)],
}
PAIRS = [{"text": f"row {i}", "text_pair": "b", "label": i / 2} for i in range(5)]
SEVERAL = [{"text": f"row {i}", "label": ["x", "y"][: i % 3]} for i in range(5)]
SPLITS = ("train", "validation", "test")


@pytest.fixture(scope="module", autouse=True)
def quick_and_quiet():
    """Imports are not gone through by each garbage collection; no progress bars between the lines of errors."""
    gc.freeze()
    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    yield
    transformers.utils.logging.enable_progress_bar()
    datasets.enable_progress_bars()
    gc.unfreeze()


@pytest.fixture(scope="module", autouse=True)
def plain_cards():
    """Cards without pictures and without running their code; tests/test_card.py has both."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("seqblend.training.publisher.write_card", functools.partial(write_card, complete=False))
        yield


def flags(output_dir, options):
    """A command line; an option that is None is left out."""
    options = {**OPTIONS, "output_dir": output_dir, **options}
    return [word for name, value in options.items() if value is not None for word in (f"--{name}", str(value))]


def run(output_dir, **options):
    assert main(flags(output_dir, options)) == 0
    return output_dir


def prepared(output_dir, **options):
    return prepare(flags(output_dir, options))


def from_model(path, **options):
    """Options that start from a saved model."""
    return {"model_name_or_path": path, "tokenizer_type": None, "config_overrides": None, **options}


def read(path):
    return json.loads(path.read_text())


def predictions(directory):
    return [json.loads(line) for line in (directory / "predictions.jsonl").read_text().splitlines()]


def write(path, rows):
    """The rows in the format that the name says; a list in a cell is written as JSON."""
    kind = [suffix for suffix in path.suffixes if suffix != ".gz"][-1]
    if kind == ".parquet":
        buffer = io.BytesIO()
        pyarrow.parquet.write_table(pa.Table.from_pylist(rows), buffer)
        data = buffer.getvalue()
    elif kind in (".csv", ".tsv"):
        cells = [[cell if isinstance(cell, str) else json.dumps(cell) for cell in row.values()] for row in rows]
        text = io.StringIO()
        # Quotes are plain characters in .tsv.
        style = {} if kind == ".csv" else {"delimiter": "\t", "quoting": csv.QUOTE_NONE, "quotechar": None}
        csv.writer(text, **style).writerows([list(rows[0]), *cells])
        data = text.getvalue().encode()
    else:
        lines = [row["text"] if kind == ".txt" else json.dumps(row) for row in rows]
        data = (json.dumps(rows) if kind == ".json" else "".join(f"{line}\n" for line in lines)).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def files(directory, rows, splits=SPLITS, suffix=".jsonl"):
    """Options that name the files of the splits, each with the same rows."""
    return {f"{split}_file": write(directory / f"{split}{suffix}", rows) for split in splits}


@pytest.fixture(scope="module")
def model_of(tmp_path_factory):
    """The directory of a model for a task, trained and tested on the task's rows."""

    @functools.cache
    def train(task):
        root = tmp_path_factory.mktemp(task)
        return run(root / "model", task=task, **files(root, ROWS[task], ["train", "test"]))

    return train


# --- What a run reads ---


def test_without_bars_none_is_drawn_where_rows_are_read_and_encoded(tmp_path, capfd, monkeypatch):
    """Those of the library are others than the Trainer's; in a file of what was printed, each state is a line."""
    drawn = []
    for number, (disabled, terminal) in enumerate([(False, True), (True, True), (False, False)]):
        datasets.enable_progress_bars()
        monkeypatch.setattr(sys.stderr, "isatty", lambda terminal=terminal: terminal)
        options = {"disable_tqdm": disabled, "max_length": 8 + number}
        prepared(tmp_path, **options, **files(tmp_path, ROWS[CLASSIFY], ["train"]))
        drawn.append("Tokenizing" in capfd.readouterr().err)
    assert drawn == [True, False, False]


@pytest.mark.parametrize("main_process", [True, False])
def test_of_several_processes_one_says_what_all_know(main_process, tmp_path, caplog, monkeypatch):
    caplog.set_level("INFO", logger="seqblend")
    monkeypatch.setattr(BlendTrainingArguments, "should_log", main_process)
    prepared(tmp_path, task=TAG, **files(tmp_path, ROWS[TAG], ["train"]))
    assert bool(caplog.messages) == main_process


@pytest.mark.parametrize("compressed", ["", ".gz"])
@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".csv", ".tsv", ".parquet"])
def test_every_format_trains_and_predicts(suffix, compressed, tmp_path):
    out = run(tmp_path / "out", task=TAG, **files(tmp_path, ROWS[TAG], suffix=suffix + compressed))
    entries = predictions(out)
    assert [entry["input"] for entry in entries] == [row["tokens"] for row in ROWS[TAG]]
    assert [entry["reference"] for entry in entries] == [row["tags"] for row in ROWS[TAG]]


@pytest.mark.parametrize("compressed", ["", ".gz"])
def test_lines_of_text_train(compressed, tmp_path):
    rows = ROWS["causal-lm"]
    out = run(tmp_path / "out", task="causal-lm", **files(tmp_path, rows, suffix=".txt" + compressed))
    assert read(out / "all_results.json")["train_samples"] == len(rows)


@pytest.mark.parametrize("task", TASKS)
def test_columns_may_have_other_names(task, tmp_path):
    rows = [{f"my {name}": value for name, value in row.items()} for row in ROWS[task]]
    names = {f"{name}_column": f"my {name}" for name in ROWS[task][0]}
    job = prepared(tmp_path / "out", task=task, **names, **files(tmp_path, rows, ["train"]))
    assert job.splits["train"].rows.to_list() == ROWS[task]


def test_fewer_samples_may_be_taken(tmp_path):
    job = prepared(tmp_path / "out", max_train_samples=4, max_eval_samples=2, **files(tmp_path, ROWS[CLASSIFY]))
    assert {name: len(split.features) for name, split in job.splits.items()} == {
        "train": 4,
        "validation": 2,
        "test": 2,
    }


def test_empty_texts_and_words_that_look_like_nothing_stay(tmp_path):
    rows = [{"text": text, "label": label} for text in ("", "NA", "null", "None", "nan") for label in ("NA", "None")]
    job = prepared(tmp_path / "out", **files(tmp_path, rows, ["train"], ".csv"))
    assert job.splits["train"].rows.to_list() == rows
    assert (
        list(job.trainer.model.config.id2label.values()) == ["NA", "None"] and len(job.splits["train"].features) == 10
    )
    job.run()


def test_bare_quotes_in_tsv_keep_every_row(tmp_path):
    texts = ['"open', 'close"', 'a "b" c', '"', '""']
    path = tmp_path / "train.tsv"
    path.write_text("text\tlabel\n" + "".join(f"{text}\t{i % 2}\n" for i, text in enumerate(texts)))
    out = run(tmp_path / "out", train_file=path, test_file=path)
    assert [entry["input"] for entry in predictions(out)] == texts


# --- What a run writes ---

FIGURES = {
    CLASSIFY: {"accuracy", "macro_f1", "matthews_correlation"},
    TAG: {"accuracy", "precision", "recall", "f1"},
    TRANSLATE: {"bleu", "bleu_note", "bleu_signature", "chrf", "chrf_signature", "exact_match"}
    | {"word_error_rate", "character_error_rate"},
    "causal-lm": {"perplexity"},
    "masked-lm": {"perplexity"},
    "denoising": {"perplexity"},
}
SPEEDS = {"runtime", "samples", "samples_per_second", "steps_per_second"}
FACTS = {"command", "versions", "machine", "parameters", "recipe", "dataset", "max_length", "card_data", "task"}
FACTS |= {"dataset_id", "overflow", "decode_tags"}
LEAKAGE = {"eval_leakage", "test_leakage"}
CASES = {
    **{task: (task, None, ROWS[task], FIGURES[task]) for task in TASKS},
    "pairs": (CLASSIFY, "regression", PAIRS, {"pearson", "spearman", "mse"}),
    "several": (CLASSIFY, "multi_label_classification", SEVERAL, {"micro_f1", "macro_f1", "subset_accuracy"}),
}


@pytest.mark.parametrize("task, problem_type, rows, figures", CASES.values(), ids=CASES.keys())
def test_a_run_writes_what_the_examples_of_transformers_write(task, problem_type, rows, figures, tmp_path):
    out = run(tmp_path / "out", task=task, problem_type=problem_type, **files(tmp_path, rows))
    results = {name: read(out / f"{name}_results.json") for name in ("train", "eval", "test", "run", "all")}
    # The Trainer's printer takes total_flos away.
    tokens = {"num_input_tokens_seen"}
    assert set(results["train"]) - {"total_flos"} == {"epoch", "train_loss"} | tokens | {f"train_{n}" for n in SPEEDS}
    for split in ("eval", "test"):
        expected = {f"{split}_{name}" for name in SPEEDS | figures | {"loss"}}
        assert set(results[split]) == expected | ({"epoch"} | tokens) & set(results[split])
        assert results[split][f"{split}_samples"] == len(rows)
    assert set(results["run"]) == FACTS | LEAKAGE
    assert results["all"] == {key: value for part in list(results.values())[:-1] for key, value in part.items()}
    assert read(out / "trainer_state.json")["global_step"] == 1
    assert AutoTokenizer.from_pretrained(out)("a").input_ids
    model = TASKS[task].auto_class.from_pretrained(out)
    assert model.num_parameters() == results["all"]["parameters"]
    code = {path.name for path in out.glob("*.py")}
    expected = {f"{name}_results.json" for name in results} | {"trainer_state.json", "training_args.bin", "run.json"}
    expected |= {"README.md", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    expected |= {"generation_config.json"} if model.can_generate() else set()
    expected |= {"data_report.md", "data_report.json"}
    errors = {f"error_report.{ending}" for ending in ("md", "json", "html")}
    expected |= {"predictions.jsonl", *errors} if TASKS[task].has_answers else set()
    assert {path.name for path in out.iterdir()} - code == expected


SCORES = {"x", "y"}
ANSWERS = {
    CLASSIFY: lambda entry: entry["prediction"] in SCORES and set(entry["scores"]) == SCORES,
    TAG: lambda entry: len(entry["prediction"]) == len(entry["reference"]),
    TRANSLATE: lambda entry: isinstance(entry["prediction"], str),
    "pairs": lambda entry: isinstance(entry["prediction"], float),
    "several": lambda entry: set(entry["prediction"]) <= SCORES and set(entry["scores"]) == SCORES,
}


@pytest.mark.parametrize("name", ANSWERS)
def test_predictions_are_one_object_a_row_in_order(name, tmp_path):
    task, problem_type, rows, _ = CASES[name]
    out = run(
        tmp_path / "out",
        task=task,
        problem_type=problem_type,
        per_device_eval_batch_size=2,
        train_sampling_strategy="group_by_length",
        **files(tmp_path, rows, ["train", "test"]),
    )
    entries = predictions(out)
    inputs = [[row[name] for name in TASKS[task].inputs if name in row] for row in rows]
    assert [entry["input"] for entry in entries] == [each[0] if len(each) == 1 else each for each in inputs]
    assert [entry["reference"] for entry in entries] == [row[TASKS[task].reference] for row in rows]
    keys = {"input", "prediction", "reference"} | ({"scores"} if name in (CLASSIFY, "several") else set())
    assert all(set(entry) == keys and ANSWERS[name](entry) for entry in entries)


@pytest.mark.parametrize(
    "said, done",
    [
        ({}, (True, True, True)),
        ({"do_train": False}, (False, True, True)),
        ({"do_eval": False}, (True, False, True)),
        ({"do_eval": False, "eval_strategy": "epoch"}, (True, False, True)),
        ({"eval_strategy": "epoch"}, (True, True, True)),
        ({"do_train": True}, (True, False, False)),
        ({"do_predict": True}, (False, False, True)),
        ({"do_predict": True, "eval_strategy": "epoch"}, (False, False, True)),
        ({"do_train": True, "do_predict": True}, (True, False, True)),
        ({"do_train": False, "do_predict": False}, (False, True, False)),
    ],
    ids=str,
)
def test_what_was_said_is_done(said, done, model_of, tmp_path):
    options = from_model(model_of(CLASSIFY), **said, **files(tmp_path, ROWS[CLASSIFY]))
    args = prepared(tmp_path / "out", **options).trainer.args
    assert (args.do_train, args.do_eval, args.do_predict) == done


def test_rows_are_dropped_in_training_alone(tmp_path):
    """Five rows in batches of two."""
    sizes = {"per_device_train_batch_size": 2, "per_device_eval_batch_size": 2, "dataloader_drop_last": True}
    job = prepared(tmp_path / "out", max_steps=-1, num_train_epochs=1, **sizes, **files(tmp_path, ROWS[CLASSIFY]))
    job.run()
    assert job.trainer.state.global_step == 2 and len(predictions(tmp_path / "out")) == 5


def test_batches_of_tokens_need_no_size(tmp_path):
    """All five rows are in one batch, and the card tells of no other size."""
    options = {"max_tokens_per_batch": 99, "per_device_train_batch_size": 2, "max_steps": -1, "num_train_epochs": 2}
    out = run(tmp_path / "out", **options, **files(tmp_path, ROWS[CLASSIFY]))
    assert read(out / "trainer_state.json")["global_step"] == 2
    card = (out / "README.md").read_text()
    assert "| `max_tokens_per_batch` | 99 |" in card and "| `per_device_train_batch_size`" not in card


@pytest.mark.parametrize(
    "written, stays",
    [("# Mine\n", True), ("# Mine, café\n".encode("latin-1"), True), ("license: [More Information Needed]\n", False)],
    ids=["by the user", "in another encoding", "by transformers"],
)
def test_a_card_that_somebody_wrote_stays(written, stays, tmp_path, caplog):
    (tmp_path / "out").mkdir()
    card = tmp_path / "out" / "README.md"
    before = written if isinstance(written, bytes) else written.encode()
    card.write_bytes(before)
    run(tmp_path / "out", **files(tmp_path, ROWS[CLASSIFY], ["train"]))
    assert (card.read_bytes() == before) is stays
    assert (f"{card} is kept" in caplog.text) is stays


def test_a_new_model_leaves_no_results_of_an_old_one(tmp_path):
    whole, train = files(tmp_path, ROWS[CLASSIFY]), files(tmp_path, ROWS[CLASSIFY], ["train"])
    out = run(tmp_path / "out", max_steps=2, save_strategy="steps", save_steps=1, **whole)
    run(out, max_steps=2, resume_from_checkpoint=out / "checkpoint-1", **train)
    assert (out / "test_results.json").exists() and (out / "predictions.jsonl").exists()
    run(out, overwrite_output_dir=True, **train)
    assert {path.stem for path in out.glob("*_results.json")} == {"train_results", "run_results", "all_results"}
    assert not (out / "predictions.jsonl").exists()
    assert set(read(out / "all_results.json")) == set(read(out / "train_results.json")) | FACTS


@pytest.mark.parametrize("splits", [["train"], ["train", "validation"], ["train", "test"]])
def test_splits_that_do_not_exist_are_skipped(splits, tmp_path):
    out = run(tmp_path / "out", **files(tmp_path, ROWS[CLASSIFY], splits))
    written = {name for name in ("train", "eval", "test") if (out / f"{name}_results.json").exists()}
    assert written == {{"validation": "eval"}.get(split, split) for split in splits}
    assert (out / "predictions.jsonl").exists() == ("test" in splits)


@pytest.mark.parametrize("task", [CLASSIFY, TAG, TRANSLATE])
def test_a_saved_model_predicts_what_it_did_when_it_was_trained(task, model_of, tmp_path):
    files_of_test = files(tmp_path, ROWS[task], ["test"])
    out = run(tmp_path / "out", task=task, **from_model(model_of(task)), **files_of_test)
    assert predictions(out) == predictions(model_of(task))
    expected = {"predictions.jsonl", "test_results.json", "run_results.json", "all_results.json"}
    expected |= {f"error_report.{ending}" for ending in ("md", "json", "html")}
    assert {path.name for path in out.iterdir()} == expected


def test_the_best_model_is_saved(tmp_path):
    """The best one by a metric of ours; a checkpoint is a complete model."""
    options = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1, "max_steps": 3}
    options |= {"load_best_model_at_end": True, "metric_for_best_model": "accuracy", "learning_rate": 0.5}
    out = run(tmp_path / "out", **options, **files(tmp_path, ROWS[CLASSIFY]))
    best = Path(read(out / "trainer_state.json")["best_model_checkpoint"])
    assert (best / "model.safetensors").read_bytes() == (out / "model.safetensors").read_bytes()
    assert TASKS[CLASSIFY].auto_class.from_pretrained(best).config.id2label == {0: "x", 1: "y"}


def test_a_run_resumes_exactly(tmp_path):
    options = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "per_device_train_batch_size": 2}
    options |= {"task": "masked-lm", **files(tmp_path, ROWS["masked-lm"], ["train"])}
    out = run(tmp_path / "out", **options)
    whole = (out / "model.safetensors").read_bytes()
    shutil.rmtree(out / "checkpoint-4")
    (out / "model.safetensors").unlink()
    run(out, resume_from_checkpoint=True, **options)
    assert (out / "model.safetensors").read_bytes() == whole


def test_a_run_goes_on_by_itself_from_the_newest_good_checkpoint(tmp_path, caplog):
    options = {"max_steps": 3, "save_strategy": "steps", "save_steps": 1, "per_device_train_batch_size": 2}
    options |= {"resume": "auto", **files(tmp_path, ROWS["masked-lm"], ["train"]), "task": "masked-lm"}
    # Where there is none, it begins.
    out = run(tmp_path / "out", **options)
    whole = (out / "model.safetensors").read_bytes()
    (out / "model.safetensors").unlink()
    (out / "checkpoint-3" / "optimizer.pt").write_bytes(b"")
    run(out, **options)
    assert (out / "model.safetensors").read_bytes() == whole
    assert "checkpoint-3 is damaged: optimizer.pt has 0 bytes" in caplog.text
    # Where it is finished already, its time is not that of doing nothing.
    trained = read(out / "train_results.json")
    run(out, **options)
    assert read(out / "train_results.json") == trained
    assert trained.items() <= read(out / "all_results.json").items()


def contents(directory):
    """The files of a directory, with their bytes."""
    return {path.relative_to(directory): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_an_earlier_run_is_neither_lost_nor_mixed_with_the_next(tmp_path, capsys, caplog):
    options = {"save_strategy": "steps", "save_steps": 1, "save_total_limit": 9}
    options |= files(tmp_path, ROWS[CLASSIFY], ["train"])
    out = run(tmp_path / "out", max_steps=3, **options)
    (out / "notes.txt").write_text("mine")
    before = contents(out)
    refused = [{}, {"resume_from_checkpoint": run(tmp_path / "other", **options) / "checkpoint-1"}]
    refused += [{"overwrite_output_dir": True, **from_model(out)}, {"overwrite_output_dir": True, "learning_rate": -1}]
    for more in refused:
        assert main(flags(out, {**options, **more})) == 2
    lines = capsys.readouterr().err.splitlines()
    assert ["--resume auto" in line and "--overwrite_output_dir true" in line for line in lines[:2]] == [True, True]
    assert lines[0].startswith("error: output_dir: ") and "checkpoint-1" in lines[0]
    assert "model_name_or_path" in lines[2] and contents(out) == before
    both = {"overwrite_output_dir": True, "resume": "auto"}
    run(out, **{**options, **both}, max_steps=4)
    assert {path.name for path in out.glob("checkpoint-*")} == {f"checkpoint-{n}" for n in (1, 2, 3, 4)}
    caplog.clear()
    run(out, **{**options, **both}, learning_rate=1e-4)
    (line,) = [message for message in caplog.messages if "starts over" in message]
    assert "overwrite_output_dir deletes the earlier one" in line and "learning_rate" in line
    run(out, **options, overwrite_output_dir=True)
    assert [path.name for path in out.glob("checkpoint-*")] == ["checkpoint-1"]
    assert (out / "notes.txt").read_text() == "mine" and read(out / "trainer_state.json")["global_step"] == 1


def test_where_a_run_is_others_may_evaluate_and_predict(model_of, tmp_path):
    out = shutil.copytree(model_of(CLASSIFY), tmp_path / "out")
    for splits in (["validation"], ["test"], ["validation"]):
        run(out, **from_model(out, **files(tmp_path, ROWS[CLASSIFY], splits)))
    assert (out / "eval_results.json").exists() and len(predictions(out)) == len(ROWS[CLASSIFY])


def test_an_evaluation_leaves_what_is_said_of_the_training(tmp_path):
    """Predictions and the card read it. The evaluation has the length of the training, so that its figures agree."""
    rows = [{"text": "word " * 20 + str(i), "label": "xy"[i % 2]} for i in range(20)]
    splits = files(tmp_path, rows, ["train", "validation"])
    out = run(tmp_path / "out", max_length=8, **splits)
    before = read(out / "all_results.json")
    evaluated = {"validation_file": splits["validation_file"], "max_length": None}
    run(out, **from_model(out, **evaluated))
    after = read(out / "all_results.json")
    names = ("dataset", "max_length", "recipe", "command", "parameters", "eval_loss")
    assert [after[name] for name in names] == [pytest.approx(before[name]) for name in names]
    run(out, **from_model(out, **{**evaluated, "max_length": 64}))
    assert read(out / "all_results.json")["max_length"] == 8


@pytest.mark.parametrize(
    "given", [{"tokenizer_normalization": "nfd"}, {"vocab_size": 300}, {"tokenizer_type": "char"}]
)
def test_options_of_a_new_tokenizer_are_refused_for_a_saved_one(given, model_of, tmp_path, capsys):
    assert main(flags(tmp_path / "out", from_model(model_of(CLASSIFY), **given))) == 2
    assert f"error: {next(iter(given))}: is for a new tokenizer" in capsys.readouterr().err


def test_ctrl_c_has_an_exit_code_of_its_own_and_says_how_to_go_on(tmp_path, caplog, monkeypatch):
    """It comes in the first step, before any checkpoint."""
    take = BlendTrainer.training_step

    def interrupted(self, *args, **kwargs):
        os.kill(os.getpid(), signal.SIGINT)
        return take(self, *args, **kwargs)

    options = {"max_steps": 2, **files(tmp_path, ROWS[CLASSIFY], ["train"])}
    with monkeypatch.context() as patch:
        patch.setattr(BlendTrainer, "training_step", interrupted)
        assert main(flags(tmp_path / "out", options)) == 130
    assert caplog.messages[-1] == "Ctrl-C: step 1 is saved; resume with --resume auto"
    assert read(run(tmp_path / "out", resume="auto", **options) / "trainer_state.json")["global_step"] == 2


def test_a_run_that_cannot_go_on_has_an_exit_code_of_its_own(tmp_path, capsys, monkeypatch):
    def fail(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("seqblend.checkpoints.writer.commit", fail)
    options = {"save_strategy": "steps", "save_steps": 1, **files(tmp_path, ROWS[CLASSIFY], ["train"])}
    assert main(flags(tmp_path / "out", options)) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and "No space left" in error and "there is no checkpoint" in error


def test_a_checkpoint_of_another_model_is_refused(tmp_path, capsys):
    options = {"save_strategy": "steps", "save_steps": 1, **files(tmp_path, ROWS[CLASSIFY], ["train"])}
    out = run(tmp_path / "out", **options)
    capsys.readouterr()
    options |= {"config_overrides": f"{SMALL},position_type=learned", "resume_from_checkpoint": out / "checkpoint-1"}
    assert main(flags(out, options)) == 2
    error = capsys.readouterr().err.splitlines()
    assert (
        len(error) == 1
        and "was written by another run: " in error[0]
        and "position_type learned, was rotary" in error[0]
    )
    changed = ["position_type", "rope_parameters", "trained_parameters"]
    assert main([*flags(out, options), "--allow_changed", *changed]) == 2
    assert "model.embed_positions.weight" in capsys.readouterr().err.splitlines()[-1]


def test_parallel_text_and_several_files_are_learnt_from(tmp_path):
    sides = {side: tmp_path / f"a.{side}" for side in ("source", "target")}
    for side, path in sides.items():
        path.write_text("".join(f"{row[side]}\n" for row in ROWS[TRANSLATE]))
    tests = [str(write(tmp_path / f"{name}.jsonl", ROWS[TRANSLATE])) for name in "ba"]
    options = {"task": TRANSLATE, **{f"train_{side}_file": path for side, path in sides.items()}}
    job = prepare([*flags(tmp_path / "out", options), "--test_file", *tests])
    assert (
        job.splits["train"].rows.to_list() == ROWS[TRANSLATE]
        and job.splits["test"].rows.to_list() == ROWS[TRANSLATE] * 2
    )
    assert job.facts["dataset"] == "a.source, a.target" and "--test_file b.jsonl a.jsonl" in job.facts["command"]


# --- Options ---


@pytest.mark.parametrize("suffix", [".yaml", ".yml", ".json"])
def test_flags_win_over_the_file(suffix, tmp_path):
    settings = {"task": CLASSIFY, "max_steps": 7, "learning_rate": "2e-3", "seed": 5, "bf16": None, "eval_steps": 0.5}
    settings |= {"train_file": "a.csv", "lr_scheduler_kwargs": {"num_cycles": 2}, "include_for_metrics": ["loss"]}
    path = tmp_path / f"run{suffix}"
    path.write_text(json.dumps(settings) if suffix == ".json" else yaml.safe_dump(settings))
    _, data, training = parse_arguments([str(path), "--max_steps", "3", "--train_file", "b.csv"])
    assert (data.task, data.train_file) == (CLASSIFY, ["b.csv"])
    assert (training.max_steps, training.learning_rate, training.seed, training.eval_steps) == (3, 2e-3, 5, 0.5)
    assert training.lr_scheduler_kwargs == {"num_cycles": 2} and training.include_for_metrics == ["loss"]


def test_a_file_of_options_may_begin_with_a_byte_order_mark(tmp_path):
    path = tmp_path / "run.json"
    path.write_text('{"seed": 7}', encoding="utf-8-sig")
    assert parse_arguments([str(path)])[2].seed == 7


def test_a_second_file_of_options_is_refused(tmp_path, capsys):
    for name in ("a.yaml", "b.yaml"):
        (tmp_path / name).write_text("seed: 1")
    assert main([str(tmp_path / "a.yaml"), str(tmp_path / "b.yaml")]) == 2
    assert "b.yaml: a file of options comes before the flags, and there is only one" in capsys.readouterr().err


def test_paths_of_settings_and_checkpoints_may_begin_with_a_tilde(tmp_path, monkeypatch):
    """A shell does not expand it after a =."""
    monkeypatch.setenv("HOME", str(tmp_path))
    GenerationConfig(num_beams=3).save_pretrained(tmp_path / "settings")
    (tmp_path / "checkpoint-1").mkdir()
    (tmp_path / "checkpoint-1" / "trainer_state.json").write_text("{}")
    _, _, args = parse_arguments(["--generation_config=~/settings", "--resume_from_checkpoint=~/checkpoint-1"])
    resolve_generation_config(args)
    assert args.generation_config.num_beams == 3
    assert wanted_checkpoint(args) == str(tmp_path / "checkpoint-1")


def test_numbers_are_written_as_in_json(tmp_path):
    """YAML 1.1, which PyYAML reads, takes 1e-5 for a text; and a text of 300 characters is the name of no file."""
    path = tmp_path / "run.yaml"
    path.write_text("lr_scheduler_kwargs: {min_lr: 1e-5}\nconfig_overrides: norm_eps=1E-6\nlearning_rate: 2e-3")
    model, _, training = parse_arguments([str(path)])
    assert training.lr_scheduler_kwargs == {"min_lr": 1e-5} and training.learning_rate == 2e-3
    assert parse_pairs(model.config_overrides, "config_overrides") == {"norm_eps": 1e-6}
    long = json.dumps({"min_lr": 0.0, "name": "x" * 300})
    assert parse_arguments(["--lr_scheduler_kwargs", long])[2].lr_scheduler_kwargs["min_lr"] == 0


def test_overrides_in_a_file_may_be_a_mapping(tmp_path):
    path = tmp_path / "run.yaml"
    overrides = {"hidden_size": 16, "layer_types": ["full_attention", "sliding_attention"], "num_hidden_layers": 2}
    path.write_text(yaml.safe_dump({"config_overrides": {**overrides, "sliding_window": 3}}))
    options = {"config_overrides": None, **files(tmp_path, ROWS[CLASSIFY], ["train"])}
    config = prepare([str(path), *flags(tmp_path / "out", options)]).trainer.model.config
    assert (config.hidden_size, config.layer_types[1], config.sliding_window) == (16, "sliding_attention", 3)


@pytest.mark.parametrize("text", ["no", "false", '"no"'])
def test_no_in_a_file_is_no(text, tmp_path):
    """YAML reads it as false."""
    path = tmp_path / "run.yaml"
    names = ("eval_strategy", "save_strategy", "logging_strategy", "resume_from_checkpoint", "do_eval")
    path.write_text("".join(f"{name}: {text}\n" for name in names if text != '"no"' or "strategy" in name))
    job = prepare([str(path), *flags(tmp_path / "out", {"save_strategy": None, **files(tmp_path, ROWS[CLASSIFY])})])
    args = job.trainer.args
    assert args.eval_strategy == args.save_strategy == args.logging_strategy == "no"
    assert args.resume_from_checkpoint is None and args.do_eval == (text == '"no"')


def test_yes_and_no_in_a_file_may_be_labels(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("class_weights: {yes: 1, no: 3}\ncard_data: {language: no}\n")
    rows = [{"text": f"a {i}", "label": ("yes", "no")[i % 2]} for i in range(8)]
    job = prepare([str(path), *flags(tmp_path / "out", files(tmp_path, rows, ["train"]))])
    assert job.trainer.model.config.class_weights == [3.0, 1.0]
    assert job.facts["card_data"]["language"] in ("no", ["no"])


def test_an_option_of_one_value_takes_no_mapping(tmp_path, capsys):
    path = tmp_path / "run.yaml"
    path.write_text("optim_args: {rank: 8}")
    assert main([str(path), *flags(tmp_path / "out", files(tmp_path, ROWS[CLASSIFY], ["train"]))]) == 2
    assert "optim_args: must be a single value, but is an object" in capsys.readouterr().err


def test_overrides_in_a_file_may_not_be_a_list(tmp_path, capsys):
    path = tmp_path / "run.yaml"
    path.write_text("config_overrides: [a, b]")
    options = {"config_overrides": None, **files(tmp_path, ROWS[CLASSIFY], ["train"])}
    assert main([str(path), *flags(tmp_path / "out", options)]) == 2
    assert "config_overrides: must be a mapping of names to values, but is a list" in capsys.readouterr().err


# Flags that need a value of some form. None: what asks for other hardware, processes or packages.
VALUES = {
    "report_to": "none",
    "lr_scheduler_kwargs": '{"num_cycles": 2}',
    "gradient_checkpointing_kwargs": '{"use_reentrant": false}',
    "activation_checkpointing_kwargs": '{"use_reentrant": false}',
    "accelerator_config": '{"split_batches": true}',
    "include_for_metrics": "inputs",
    "include_num_input_tokens_seen": "true",
    "label_names": "labels",
    "dataloader_pin_memory": "false",
    "log_level": "info",
    "log_level_replica": "info",
    "dataloader_multiprocessing_context": "fork",
    "train_sampling_strategy": "sequential",
    "debug": "underflow_overflow",
    "local_rank": "-1",
    "warmup_steps": "10",
    "dataloader_prefetch_factor": None,
    "load_best_model_at_end": None,
    "generation_config": None,
    "resume_from_checkpoint": None,
    **dict.fromkeys(["deepspeed", "fsdp", "fsdp_config", "parallelism_config", "ddp_backend"]),
    **dict.fromkeys(["tf32", "liger_kernel_config"]),
}


@pytest.mark.filterwarnings("ignore:.*is deprecated:FutureWarning")
def test_every_flag_of_the_training_arguments_is_taken():
    for field in dataclasses.fields(Seq2SeqTrainingArguments):
        members = list(getattr(field.type, "__members__", {}).values())
        if field.type in (bool, bool | None):
            value = "true"
        else:
            value = members[1].value if members else "x" if "str" in str(field.type) else "1"
        value = VALUES.get(field.name, value)
        if value is not None:
            arguments = parse_arguments([f"--{field.name}", value, "--use_cpu", "true"])[2]
            taken = getattr(arguments, field.name)
            assert field.name in VALUES or str(getattr(taken, "value", taken)).lower() in (value, f"{value}.0"), field


@pytest.mark.parametrize(
    "options",
    [
        {"batch_eval_metrics": True},
        {"eval_do_concat_batches": False},
        {"include_for_metrics": "inputs"},
        {"label_names": "label"},
        {"remove_unused_columns": False},
        {CHECKPOINTING: True},
        {"eval_accumulation_steps": 1},
        {"predict_with_generate": True},
    ],
    ids=str,
)
def test_flags_about_how_change_no_prediction(options, model_of, tmp_path):
    out = run(tmp_path / "out", **options, **files(tmp_path, ROWS[CLASSIFY], ["train", "test"]))
    assert predictions(out) == predictions(model_of(CLASSIFY))


def test_with_the_loss_alone_there_are_no_predictions(tmp_path):
    out = run(tmp_path / "out", prediction_loss_only=True, **files(tmp_path, ROWS[CLASSIFY]))
    assert "test_loss" in read(out / "test_results.json") and not (out / "predictions.jsonl").exists()


def test_label_smoothing_moves_into_the_model(tmp_path):
    """Training smooths as the flag says, whatever a saved model was trained with; else the model stays as it is."""
    train, test = (
        {f"{split}_file": write(tmp_path / f"{split}.jsonl", ROWS[CLASSIFY])} for split in ("train", "test")
    )
    out = run(tmp_path / "out", label_smoothing_factor=0.25, **train)
    for options, smoothing in [
        ({"label_smoothing_factor": 0.5, **train}, 0.5),
        (train, 0.0),
        ({"config_overrides": "label_smoothing=0.125", "label_smoothing_factor": 0.5, **train}, 0.125),
        (test, 0.25),
        ({"label_smoothing_factor": 0.5, **test}, 0.25),
    ]:
        job = prepared(tmp_path / "next", **from_model(out, **options))
        assert job.trainer.model.config.label_smoothing == smoothing
        assert job.trainer.args.label_smoothing_factor == 0 and job.trainer.label_smoother is None


def test_a_secret_is_not_written(tmp_path):
    out = run(tmp_path / "out", hub_token="hf_secret", **files(tmp_path, ROWS[CLASSIFY], ["train"]))
    assert not [path for path in out.glob("*.json") if "hf_secret" in path.read_text()]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("task", TASKS)
def test_every_architecture_does_the_tasks_that_it_has_a_head_for(task, architecture, tmp_path, capsys):
    options = {"task": task, "architecture": architecture, **files(tmp_path, ROWS[task], ["train"])}
    heads = FAMILIES[ARCHITECTURES[architecture]]
    if TASKS[task].auto_class in heads:
        assert type(prepared(tmp_path / "out", **options).trainer.model) is heads[TASKS[task].auto_class]
    else:
        assert main(flags(tmp_path / "out", options)) == 2
        error = capsys.readouterr().err
        assert f"{architecture} has no head for task {task}" in error and TASKS[task].architecture in error


def test_lengths_of_learned_positions_are_those_of_the_task(tmp_path):
    """A sequence-to-sequence model has a source and a target, and nothing of max_length."""
    overrides = f"{SMALL},position_type=learned,max_position_embeddings=16"
    options = {"task": TRANSLATE, "max_length": 512, "max_source_length": 16, "max_target_length": 16}
    run(tmp_path / "out", config_overrides=overrides, **options, **files(tmp_path, ROWS[TRANSLATE]))


# --- From a saved model ---


@pytest.mark.parametrize(
    "source, task, rows, dropped, new",
    [
        ("masked-lm", CLASSIFY, ROWS[CLASSIFY], "head.dense.weight head.norm.weight", "score.bias score.weight"),
        (CLASSIFY, TAG, ROWS[TAG], "score.bias score.weight", "classifier.bias classifier.weight"),
        (CLASSIFY, "masked-lm", ROWS["masked-lm"], "score.bias score.weight", "head.dense.weight head.norm.weight"),
        (CLASSIFY, CLASSIFY, ROWS[CLASSIFY], "", ""),
        ("causal-lm", CLASSIFY, ROWS[CLASSIFY], "", "score.bias score.weight"),
        (TRANSLATE, TAG, ROWS[TAG], "", "classifier.bias classifier.weight"),
    ],
)
def test_a_head_starts_from_the_model_of_another(
    source, task, rows, dropped, new, model_of, tmp_path, caplog, monkeypatch
):
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    path = model_of(source)
    job = prepared(tmp_path / "out", task=task, **from_model(path), **files(tmp_path, rows, ["train"]))
    messages = [message for message in caplog.messages if message.startswith(f"{path}: ")]
    expected = {"newly initialized": new, "dropped": dropped}
    assert messages == [f"{path}: {what}: {', '.join(names.split())}" for what, names in expected.items() if names]
    # Which says the same with codes of colours.
    assert "LOAD REPORT" not in caplog.text
    state = job.trainer.model.state_dict()
    saved = safetensors.torch.load_file(path / "model.safetensors")
    shared = set(saved) - set(dropped.split()) - set(new.split())
    assert shared and all(torch.equal(state[name], saved[name]) for name in shared)
    assert set(state) - shared - set(new.split()) <= {
        name for name in state if "embed_tokens" in name or name == "lm_head.weight"
    }
    job.run()


def test_the_whole_reason_of_a_broken_configuration_is_told(model_of, tmp_path, capsys):
    """It stands in the second line of the library's message."""
    model = shutil.copytree(model_of(CLASSIFY), tmp_path / "model")
    config = read(model / "config.json")
    (model / "config.json").write_text(json.dumps({**config, "hidden_dropout": 7}))
    options = from_model(model, **files(tmp_path, ROWS[CLASSIFY], ["train"]))
    assert_refused(tmp_path, options, ["model_name_or_path", "hidden_dropout", "must be in [0, 1), got 7"], capsys)


@pytest.mark.parametrize("damage", ["missing", "renamed", "of another shape"])
def test_weights_that_do_not_fit_are_refused(damage, model_of, tmp_path, capsys):
    model, name = shutil.copytree(model_of(CLASSIFY), tmp_path / "model"), "model.layers.0.mlp.up_proj.weight"
    tensors = safetensors.torch.load_file(model / "model.safetensors")
    tensor = tensors.pop(name)
    if damage == "renamed":
        tensors["model.layers.0.mlp.upper.weight"] = tensor
    if damage == "of another shape":
        tensors[name] = tensor[1:].clone()
    safetensors.torch.save_file(tensors, model / "model.safetensors", {"format": "pt"})
    options = {**from_model(model), **files(tmp_path, ROWS[CLASSIFY], ["train"])}
    words = ["model_name_or_path", str(model), name, "missing" if damage == "renamed" else damage]
    assert_refused(tmp_path, options, words, capsys)


OTHER = [{"text": f"row {i}", "label": "xzy1"[i % 4]} for i in range(4)]
BOTH = [{**row, "label": [row["label"]]} for row in OTHER]


NUMBERS = [{"text": f"row {i}", "label": [i / 2, -i]} for i in range(3)]
SINGLE = "single_label_classification"


@pytest.mark.parametrize(
    "source, saved, rows, asked, kept, new, dropped",
    [
        (ROWS[CLASSIFY], {}, OTHER[:2], {}, "x", "z", "y"),
        (ROWS[CLASSIFY], {}, OTHER, {}, "x, y", "1, z", ""),
        (OTHER, {}, ROWS[CLASSIFY], {"class_weights": "2,3"}, "x, y", "", "1, z"),
        (ROWS[CLASSIFY], {}, BOTH, {"problem_type": "multi_label_classification"}, "x, y", "1, z", ""),
        (ROWS[TAG], {"task": TAG}, [{"tokens": ["a", "b"], "tags": ["B-x", "B-y"]}], {}, "B-x", "B-y", "O, I-x"),
        (NUMBERS, {"problem_type": "regression"}, OTHER[:2], {"problem_type": SINGLE}, "", "x, z", ""),
    ],
    ids=["as many", "more", "fewer", "several", "tags", "numbers"],
)
def test_the_rows_of_a_head_follow_the_names_of_the_labels(
    source, saved, rows, asked, kept, new, dropped, tmp_path, caplog
):
    options = {"task": CLASSIFY, **saved}
    path = run(tmp_path / "a", **options, **files(tmp_path, source, ["train"]))
    job = prepared(tmp_path / "b", **from_model(path, **{**options, **asked}), **files(tmp_path, rows, ["train"]))
    parts = {"kept": kept, "newly initialized": new, "dropped": dropped}
    said = "; ".join(f"{what}: {names}" for what, names in parts.items() if names)
    assert f"{path}: labels {said}" in caplog.messages
    heads = [labelled_rows(TASKS[options["task"]].auto_class.from_pretrained(path)), labelled_rows(job.trainer.model)]
    for label, row in heads[1].items():
        same = [name for name, other in heads[0].items() if torch.equal(row, other)]
        assert same == ([label] if label in kept.split(", ") else [])
    job.trainer.model.save_pretrained(tmp_path / "c")
    again = labelled_rows(TASKS[options["task"]].auto_class.from_pretrained(tmp_path / "c"))
    assert all(torch.equal(again[label], row) for label, row in heads[1].items()) and len(again) == len(heads[1])


def labelled_rows(model):
    """The weights and the bias of each label, by its name."""
    head = model.score if hasattr(model, "score") else model.classifier
    rows = torch.cat((head.weight, head.bias[:, None]), dim=1)
    return dict(zip(model.config.id2label.values(), rows, strict=True))


def test_labels_that_nobody_has_named_follow_their_numbers(tmp_path, caplog):
    numbered = [{"text": f"row {i}", "label": str(i % 2)} for i in range(4)]
    path = run(tmp_path / "a", **files(tmp_path, numbered, ["train"]))
    config = read(path / "config.json")
    unnamed = {"id2label": {str(i): f"LABEL_{i}" for i in range(2)}, "label2id": {f"LABEL_{i}": i for i in range(2)}}
    (path / "config.json").write_text(json.dumps({**config, **unnamed}))
    job = prepared(tmp_path / "b", **from_model(path), **files(tmp_path, numbered, ["train"]))
    saved = safetensors.torch.load_file(path / "model.safetensors")
    assert torch.equal(job.trainer.model.score.weight, saved["score.weight"])
    assert job.trainer.model.config.id2label == {0: "0", 1: "1"}


def test_class_weights_do_not_pass_to_other_labels(tmp_path, caplog):
    weighted = f"{SMALL},class_weights=[1,2]"
    model = run(tmp_path / "a", config_overrides=weighted, **files(tmp_path, ROWS[CLASSIFY], ["train"]))
    same = prepared(tmp_path / "b", **from_model(model), **files(tmp_path, ROWS[CLASSIFY], ["train"]))
    assert same.trainer.model.config.class_weights == [1, 2]
    other = prepared(tmp_path / "c", task=TAG, **from_model(model), **files(tmp_path, ROWS[TAG], ["train"]))
    assert other.trainer.model.config.class_weights is None and "class_weights" in caplog.text


def test_overrides_change_a_saved_model_and_its_parts(model_of, tmp_path):
    options = from_model(model_of(TRANSLATE), config_overrides="hidden_dropout=0.3,label_smoothing=0.2")
    config = prepared(
        tmp_path / "out", task=TRANSLATE, **options, **files(tmp_path, ROWS[TRANSLATE])
    ).trainer.model.config
    assert config.encoder.hidden_dropout == config.decoder.hidden_dropout == 0.3 and config.label_smoothing == 0.2


def test_a_part_of_a_saved_model_may_be_overridden(model_of, tmp_path):
    options = from_model(model_of(TRANSLATE), config_overrides="encoder={hidden_dropout: 0.2}")
    config = prepared(
        tmp_path / "out", task=TRANSLATE, **options, **files(tmp_path, ROWS[TRANSLATE])
    ).trainer.model.config
    assert (config.encoder.hidden_dropout, config.decoder.hidden_dropout) == (0.2, 0.3)


@pytest.mark.parametrize(
    "options, beams, length",
    [
        ({}, 3, 9),
        ({"generation_num_beams": 2}, 2, 9),
        ({"max_target_length": 5}, 3, 6),
        ({"max_length": 7}, 3, 8),
        ({"train_file": "train.jsonl"}, 3, 17),
    ],
    ids=str,
)
def test_a_saved_model_generates_as_it_did(options, beams, length, model_of, tmp_path):
    """Unless the flags say otherwise. A model that is trained writes texts as long as those that it is trained on."""
    model = shutil.copytree(model_of(TRANSLATE), tmp_path / "model")
    generation = GenerationConfig.from_pretrained(model)
    generation.num_beams, generation.max_length = 3, 9
    generation.save_pretrained(model)
    paths = files(tmp_path, ROWS[TRANSLATE], ["train", "test"])
    options = {name: paths[name] if name == "train_file" else value for name, value in options.items()}
    length_of_training = 16 if "train_file" in options else None
    options = {"max_length": length_of_training, "test_file": paths["test_file"], **options}
    job = prepared(tmp_path / "out", task=TRANSLATE, **from_model(model, **options))
    assert (job.trainer.model.generation_config.num_beams, job.trainer.model.generation_config.max_length) == (
        beams,
        length,
    )


def test_the_problem_type_is_that_of_the_model(tmp_path, capsys):
    model = run(tmp_path / "a", problem_type="regression", **files(tmp_path, PAIRS, ["train"]))
    test = write(tmp_path / "test.jsonl", PAIRS)
    assert "test_mse" in read(run(tmp_path / "b", **from_model(model, test_file=test)) / "test_results.json")
    other = {"test_file": ("t.jsonl", '{"text": "a", "text_pair": "b", "label": "x"}\n')}
    assert_refused(tmp_path, from_model(model, **in_directory(tmp_path, other)), ["--problem_type", "'x'"], capsys)


def test_a_prompt_is_not_closed(model_of):
    """A pipeline would have the model go on after the end."""
    tokenizer = AutoTokenizer.from_pretrained(model_of("causal-lm"))
    assert tokenizer("line")["input_ids"] == tokenizer("line", add_special_tokens=False)["input_ids"]
    assert not set(tokenizer("line")["input_ids"]) & set(tokenizer.all_special_ids)


def test_a_recipe_with_one_layer_slides_no_more(tmp_path):
    options = {"task": "causal-lm", "recipe": "gpt3", **files(tmp_path, ROWS["causal-lm"], ["train"])}
    assert prepared(tmp_path / "out", **options).trainer.model.config.sliding_window is None


def test_the_order_of_a_models_labels_stays(model_of, tmp_path):
    model = shutil.copytree(model_of(CLASSIFY), tmp_path / "model")
    config = AutoConfig.from_pretrained(model)
    config.id2label, config.label2id = {0: "y", 1: "x"}, {"y": 0, "x": 1}
    config.save_pretrained(model)
    job = prepared(tmp_path / "out", **from_model(model), **files(tmp_path, ROWS[CLASSIFY]))
    assert list(job.trainer.model.config.id2label.values()) == ["y", "x"] and job.trainer.model.config.id2label == {
        0: "y",
        1: "x",
    }


def test_without_training_the_labels_are_the_models(model_of, tmp_path):
    """A training file with other labels must not replace the head that is evaluated."""
    train = write(tmp_path / "train.jsonl", [{"text": "a", "label": label} for label in "xyz"])
    test = write(tmp_path / "test.jsonl", ROWS[CLASSIFY])
    options = from_model(model_of(CLASSIFY), train_file=train, test_file=test, do_predict=True)
    assert predictions(run(tmp_path / "out", **options)) == predictions(model_of(CLASSIFY))


# --- Bad input ---


def assert_refused(directory, options, words, capsys):
    """One line names what is wrong; nothing is written."""
    before = sorted(directory.rglob("*"))
    capsys.readouterr()
    assert main(flags(directory / "out", options)) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), lines
    assert not [word for word in words if word not in lines[0]], lines[0]
    assert sorted(directory.rglob("*")) == before


TRAIN = "train.jsonl"
WORDS, NO_WORDS = '{"tokens": ["a"], "tags": ["X"]}\n', '{"tokens": [], "tags": []}\n'
WHOLE = {"architecture": "encoder-decoder"}
VALIDATION = {"validation_file": ("v.jsonl", '{"text": "a", "label": "x"}\n')}
# Values that would stop the Trainer after it has begun, and what the message must say beside the option's name.
STOPPING = [
    *((name, value, ["0 or more"]) for name in ("learning_rate", "weight_decay") for value in ("-1", "nan", "inf")),
    ("warmup_steps", "nan", ["0 or more"]),
    *((name, "nan", ["0 or more"]) for name in ("max_grad_norm", "eval_delay", "neftune_noise_alpha")),
    *((name, "-1", ["0 or more"]) for name in ("eval_delay", "neftune_noise_alpha")),
    *((name, "-5", ["above 0"]) for name in ("logging_steps", "save_steps")),
    ("save_steps", "0", ["above 0"]),
    ("num_train_epochs", "0", ["above 0"]),
    ("num_train_epochs", "-3", ["above 0"]),
    ("max_steps", "0", ["-1, or 1 or more"]),
    ("max_steps", "-2", ["-1, or 1 or more"]),
    ("per_device_train_batch_size", "0", ["1 or more"]),
    ("per_device_eval_batch_size", "0", ["1 or more"]),
    ("max_tokens_per_batch", "0", ["1 or more"]),
    ("max_tokens_per_batch", "8", ["row 5 of the 5", "has 12 tokens", "max_length"]),
    ("gradient_accumulation_steps", "0", ["1 or more"]),
    ("eval_accumulation_steps", "0", ["1 or more"]),
    ("generation_num_beams", "0", ["1 or more"]),
    ("generation_max_length", "1", ["from 2 to"]),
    ("max_length", "1", ["from 2 to"]),
    ("max_length", str(2**64), ["from 2 to"]),
    ("max_source_length", "9", ["is for task seq2seq-lm"]),
    ("target_lang", "de_DE", ["is for a saved tokenizer"]),
    ("dataloader_num_workers", "-1", ["0 or more"]),
    ("dataloader_drop_last", "true", ["smaller than a batch"]),
    *((name, "-1", ["4294967295"]) for name in ("seed", "data_seed")),
    ("use_liger_kernel", "true", ["liger-kernel", "models of seqblend"]),
    ("torch_compile_mode", "foo", ["foo"]),
    ("torch_compile_backend", "inductr", ["valid are inductor, "]),
    ("eval_on_start", "true", ["validation"]),
    ("eval_strategy", "epoch", ["validation"]),
    ("report_to", "wandb", ["wandb"]),
    ("report_to", "wandbb", ["wandb"]),
    ("lr_scheduler_kwargs", "{bad", ["nor JSON"]),
    ("lr_scheduler_kwargs", "foo", ["nor JSON"]),
    ("lr_scheduler_kwargs", "3", ["mapping"]),
    ("lr_scheduler_kwargs", '{"a": 1, "a": 2}', ["a is given twice"]),
    ("accelerator_config", "no.json", ["file"]),
]
# Of these the message names the option that they belong to.
BELONGING = {
    "dataloader": [{"dataloader_persistent_workers": True}, {"dataloader_multiprocessing_context": "foo"}],
    "optim": [
        *({"optim": name} for name in ("adamw_bnb_8bit", "lomo", "adamw_torch_8bit", "schedule_free_adamw")),
        {"optim": "galore_adamw", "optim_target_modules": "mlp"},
        {"adam_beta1": 2},
        {"adam_beta1": "nan"},
        {"adam_epsilon": -1},
        {"optim_args": "foo"},
    ],
    "lr_scheduler_type": [
        {"lr_scheduler_kwargs": '{"foo": 1}'},
        {"lr_scheduler_type": "cosine_with_min_lr"},
    ],
    f"{CHECKPOINTING}_kwargs": [{CHECKPOINTING: True, f"{CHECKPOINTING}_kwargs": '{"foo": 1}'}],
}
# What decides what is in a batch too.
BATCHING = {
    "auto_find_batch_size": [True],
    "dataloader_drop_last": [True],
    "train_sampling_strategy": ["sequential", "group_by_length"],
    "accelerator_config": ['{"split_batches": true}', '{"dispatch_batches": true}'],
}
# Overrides that are no option of ours, or not the user's to choose.
OVERRIDES = {
    **dict.fromkeys(("return_dict=false", "dtype=foo", "output_hidden_states=true", "chunk_size=1"), "nearest first"),
    **dict.fromkeys(("num_labels=7", "problem_type=regression", "id2label={0: a}"), "the data"),
    **{f"{name}_token_id=1": "the tokenizer" for name in ("pad", "bos", "eos", "cls", "sep", "mask", "decoder_start")},
    "is_encoder_decoder=true": "the architecture",
}
REFUSED = {
    "card's fact": ({"card_data": "licence=mit"}, ["card_data", "'licence'", "nearest first: license"]),
    "card's kind": ({"card_data": "tags=small"}, ["card_data", "tags"]),
    **{f"{name} {value}": ({name: value}, [name, *words]) for name, value, words in STOPPING},
    **{str(options): (options, [name]) for name, several in BELONGING.items() for options in several},
    **{
        f"{name} {value} by tokens": ({"max_tokens_per_batch": 99, name: value}, [f"{name}: ", "max_tokens_per_batch"])
        for name, values in BATCHING.items()
        for value in values
    },
    **{text: ({"config_overrides": text}, ["config_overrides", word]) for text, word in OVERRIDES.items()},
    **{
        f"part {text}": ({**WHOLE, "config_overrides": f"decoder={{{text.replace('=', ': ')}}}"}, [word])
        for text, word in OVERRIDES.items()
    },
    "part": ({**WHOLE, "config_overrides": "encoder=3"}, ["config_overrides", "encoder", "the number 3"]),
    "field of a part": (
        {**WHOLE, "config_overrides": "encoder={hiden_size: 3}"},
        ["config_overrides", "nearest first: hidden_size"],
    ),
    "key of rope": (
        {"config_overrides": f"{SMALL},rope_parameters={{rope_type: default, rope_thet: 5.0}}"},
        ["'rope_thet'", "nearest first: rope_theta, "],
    ),
    "twice": ({"config_overrides": "hidden_size=3,norm_type=rmsnorm,hidden_size=4"}, ["hidden_size", "twice"]),
    "twice in a part": (
        {"config_overrides": "encoder={hidden_size: 3, hidden_size: 4}"},
        ["config_overrides", "hidden_size", "twice"],
    ),
    "memory": ({"config_overrides": "vocab_size=9999999999999999"}, ["config_overrides"]),
    "nothing to do": ({"do_train": False}, ["do_train"]),
    "nothing left to do": ({**VALIDATION, "do_train": False, "do_eval": False}, ["do_train", "do_eval"]),
    "nothing but a model": ({**VALIDATION, "do_train": False}, ["model_name_or_path", "do_train"]),
    "no output": ({"output_dir": ""}, ["output_dir", "empty"]),
    "output nowhere": ({"output_dir": "/proc/foo"}, ["output_dir", "/proc"]),
    "generated positions": (
        {
            "task": TRANSLATE,
            "train_file": ("a.jsonl", '{"source": "a", "target": "b"}\n'),
            "generation_max_length": 18,
            "config_overrides": f"{SMALL},position_type=learned,max_position_embeddings=16",
        },
        ["generation_max_length", "max_position_embeddings=16"],
    ),
    # Names and values.
    "metric_for_best_model": (
        {
            "validation_file": ("v.jsonl", '{"text": "a", "label": "x"}\n'),
            "metric_for_best_model": "eval_acuracy",
            "load_best_model_at_end": True,
            "eval_strategy": "epoch",
            "save_strategy": "epoch",
        },
        ["metric_for_best_model", "acuracy", "valid are accuracy, ", "macro_f1", "loss"],
    ),
    "task": ({"task": "seq2seqlm"}, ["task 'seq2seqlm'", "nearest first: seq2seq-lm, ", *TASKS]),
    "no task": ({"task": None}, ["task", *TASKS]),
    "architecture": (
        {"architecture": "encodr"},
        ["architecture 'encodr'", "nearest first: encoder, ", *ARCHITECTURES],
    ),
    "half precision": ({"fp16": True}, ["fp16", "GPU", "CPU"]),
    "no such model": (
        {"model_name_or_path": "nope", "tokenizer_type": None, "config_overrides": None},
        ["model_name_or_path: 'nope' is no directory here, and cannot be loaded from the Hub"],
    ),
    "recipe": ({"recipe": "brt"}, ["recipe", "'brt'", "nearest first: bert, default"]),
    "option": ({"config_overrides": "hiden_size=3"}, ["'hiden_size'", "nearest first: hidden_size, ", "norm_type"]),
    "choice": ({"config_overrides": "norm_type=rmsnrm"}, ["norm_type", "rmsnrm", "rmsnorm, layernorm"]),
    "activation": ({"config_overrides": "hidden_act=gellu"}, ["hidden_act", "'gellu'", "nearest first: gelu, "]),
    "number": ({"config_overrides": "hidden_size=big"}, ["hidden_size", "'big'"]),
    "range": ({"config_overrides": "hidden_dropout=1.5"}, ["hidden_dropout", "1.5", "[0, 1)"]),
    "overrides": ({"config_overrides": "big"}, ["config_overrides", "'big'", "NAME=VALUE"]),
    "flag": ({"max_lenght": 3}, ["'max_lenght'", "nearest first: max_length, "]),
    "flag's choice": ({"eval_strategy": "stps"}, ["eval_strategy 'stps'", "nearest first: steps, ", "epoch", "no"]),
    "flag's number": ({"max_steps": "many"}, ["max_steps", "'many'"]),
    "problem type": ({"problem_type": "regresion"}, ["problem_type", "'regresion'", "valid are regression, "]),
    "tokenizer": ({"tokenizer_type": "bpe"}, ["tokenizer_type", "'bpe'", "valid are byte-bpe, ", "char"]),
    "normalization": ({"tokenizer_normalization": "nfx"}, ["normalization", "'nfx'", "valid are nfc, "]),
    # A configuration that cannot be.
    "heads": (
        {"config_overrides": "hidden_size=30,num_attention_heads=4"},
        ["hidden_size=30", "num_attention_heads=4"],
    ),
    "key-value heads": (
        {"config_overrides": "num_attention_heads=2,num_key_value_heads=4"},
        ["num_key_value_heads=4", "num_attention_heads=2"],
    ),
    "window": ({"config_overrides": f"{SMALL},sliding_window=4"}, ["sliding_window=4", "layer_types"]),
    "positions": (
        {"config_overrides": f"{SMALL},position_type=learned,max_position_embeddings=8"},
        ["max_length: 16", "max_position_embeddings=8"],
    ),
    "class weights": ({"config_overrides": "class_weights=[1]"}, ["class_weights", "num_labels=2"]),
    "vocabulary": ({"config_overrides": "vocab_size=6"}, ["vocab_size=6", "tokenizer"]),
    "smoothing": ({"label_smoothing_factor": 1.5}, ["label_smoothing", "1.5", "[0, 1)"]),
    "trained vocabulary": ({"vocab_size": 6}, ["vocab_size: 6", "char"]),
    # Files.
    "no file": ({"train_file": "trian.jsonl"}, ["trian.jsonl: no such file"]),
    "suffix": ({"train_file": ("a.xlsx", "x")}, ["a.xlsx", "'.xlsx'", ".jsonl", ".parquet"]),
    "empty": ({"train_file": ("a.jsonl", "")}, ["a.jsonl", "empty"]),
    "no rows": ({"train_file": ("a.csv", "text,label\n")}, ["a.csv", "no rows"]),
    "broken jsonl": (
        {"train_file": ("a.jsonl", '{"text": "a", "label": "x"}\n{"text"\n')},
        ["a.jsonl: row 2", "JSON"],
    ),
    "broken json": ({"train_file": ("a.json", '[{"text": "a", "label": "x"}, {"text"]')}, ["a.json: row 2", "JSON"]),
    "broken csv": ({"train_file": ("a.csv", "text,label\na,x\nb\n")}, ["a.csv: row 2", "1 columns", "2"]),
    "broken tsv": ({"train_file": ("a.tsv", "text\tlabel\na\tx\tz\n")}, ["a.tsv: row 1", "3 columns", "2"]),
    "broken parquet": ({"train_file": ("a.parquet", "no")}, ["a.parquet", "Parquet"]),
    "broken gzip": ({"train_file": ("a.jsonl.gz", "no")}, ["a.jsonl.gz", "gzip"]),
    "value": ({"train_file": ("a.jsonl", '{"text": 3, "label": "x"}\n')}, ["a.jsonl: row 1: column 'text'", "3"]),
    "column": (
        {"text_column": "txt"},
        [f"{TRAIN}: no column 'txt' (--text_column)", "present: 'text', 'label'"],
    ),
    "column of another task": (
        {"task": TAG, "train_file": ("a.jsonl", WORDS), "label_column": "ner_tags"},
        ["label_column: is not for task token-classification, which has tokens_column, tags_column"],
    ),
    "tags": (
        {"task": TAG, "train_file": ("a.jsonl", '{"tokens": ["a", "b"], "tags": ["X"]}\n')},
        ["a.jsonl: row 1: 2 tokens, but 1 tags"],
    ),
    "label in validation": (
        {"validation_file": ("v.jsonl", '{"text": "a", "label": "x"}\n{"text": "a", "label": "z"}\n')},
        ["v.jsonl: row 2: label 'z'", "training"],
    ),
    "label in test": ({"test_file": ("t.csv", "text,label\na,z\n")}, ["t.csv: row 1: label 'z'", "training"]),
    "tag in test": (
        {
            "task": TAG,
            "train_file": ("a.jsonl", '{"tokens": ["a"], "tags": ["X"]}\n'),
            "test_file": ("t.jsonl", '{"tokens": ["a"], "tags": ["Y"]}\n'),
        },
        ["t.jsonl: row 1: label 'Y'"],
    ),
    "float label": (
        {"train_file": ("a.jsonl", '{"text": "a", "label": 0.5}\n')},
        ["a.jsonl: row 1: column 'label'", "0.5", "--problem_type regression"],
    ),
    "float cell": (
        {"train_file": ("a.csv", "text,label\na,0.5\n")},
        ["a.csv: row 1: column 'label'", "0.5", "--problem_type regression"],
    ),
    "one class": ({"train_file": ("a.csv", "text,label\na,x\nb,x\n")}, ["a.csv", "'x'"]),
    "no data": ({"train_file": None}, ["train_file"]),
    "no target": ({"train_file": None, "train_source_file": ("a.en", "a")}, ["train_target_file: is missing"]),
    "encoding": ({"encoding": "utf-9"}, ["encoding: 'utf-9'"]),
    "glob": ({"train_file": "no/*.jsonl"}, ["train_file: no/*.jsonl matches no file"]),
    "columns": ({"task": TAG, "train_file": ("a.conll", "a X\n\nb\n")}, ["a.conll: row 2 (line 3)", "1 columns"]),
    "two data": ({"dataset_name": "dates"}, ["dataset_name", "train_file"]),
    "data set": ({"train_file": None, "dataset_name": "no/such"}, ["dataset_name", "'no/such'"]),
    "one token": ({"task": "causal-lm", "validation_file": ("v.txt", "\n")}, ["v.txt", "1 token"]),
    "no word": (
        {"task": TAG, "train_file": ("a.jsonl", WORDS), "test_file": ("t.jsonl", NO_WORDS)},
        ["t.jsonl", "word"],
    ),
    "no word that is read": ({"task": TAG, "train_file": ("a.jsonl", WORDS), "max_length": 2}, ["max_length: 2"]),
    # What does not go together, or would stop the run later.
    "no head": (
        {"task": "masked-lm", "architecture": "decoder"},
        ["decoder has no head for task masked-lm", "encoder"],
    ),
    "problem": ({"task": "masked-lm", "problem_type": "regression"}, ["problem_type", "masked-lm"]),
    "no validation split": ({"do_eval": True}, ["do_eval", "validation"]),
    "no test split": ({"do_predict": True}, ["do_predict", "test"]),
    "samples": ({"max_train_samples": 0}, ["max_train_samples", "0"]),
    "output": ({"output_dir": ("file", "")}, ["output_dir", "is a file"]),
    "checkpoint": ({"resume_from_checkpoint": "no/such"}, ["resume_from_checkpoint", "no/such"]),
    "resume": ({"resume": "atuo"}, ["resume", "atuo", "auto"]),
    "two ways to resume": ({"resume": "auto", "resume_from_checkpoint": True}, ["resume", "resume_from_checkpoint"]),
    "no checkpoint": ({"resume_from_checkpoint": True}, ["resume_from_checkpoint: there is no good checkpoint in "]),
    "generation": ({"generation_config": "no/such/dir"}, ["generation_config", "no/such/dir"]),
    "package": ({"deepspeed": "a.json"}, ["deepspeed"]),
    "no model": ({**from_model("no/such")}, ["model_name_or_path: 'no/such'"]),
    "no tokenizer": ({"tokenizer_name_or_path": "./no", "tokenizer_type": None}, ["tokenizer_name_or_path", "./no"]),
    "two models": ({**from_model("no/such"), "recipe": "bert"}, ["recipe", "model_name_or_path"]),
    "two tokenizers": ({"model_name_or_path": "no/such"}, ["tokenizer_type", "new tokenizer", "no/such"]),
}


def in_directory(directory, options):
    """Write the files that stand in options as name and content."""
    for name, content in (value for value in options.values() if isinstance(value, tuple)):
        (directory / name).write_text(content)
    return {name: directory / value[0] if isinstance(value, tuple) else value for name, value in options.items()}


@pytest.mark.parametrize("options, words", REFUSED.values(), ids=REFUSED.keys())
def test_bad_input_is_refused_in_one_line(options, words, tmp_path, capsys):
    options = {"train_file": write(tmp_path / TRAIN, ROWS[CLASSIFY]), **in_directory(tmp_path, options)}
    assert_refused(tmp_path, options, words, capsys)


def test_values_of_an_option_are_listed_nearest_first(tmp_path, capsys):
    options = {"config_overrides": "norm_type=rmsnrm", **files(tmp_path, ROWS[CLASSIFY], ["train"])}
    assert main(flags(tmp_path / "out", options)) == 2
    error = capsys.readouterr().err
    assert error.index("rmsnorm") < error.index("layernorm")


def test_of_flags_the_ten_nearest_are_listed(tmp_path, capsys):
    options = {"learning_rat": 1e-3, **files(tmp_path, ROWS[CLASSIFY], ["train"])}
    assert_refused(tmp_path, options, ["unknown option 'learning_rat'", "nearest first: learning_rate, "], capsys)
    assert main(flags(tmp_path / "out", options)) == 2
    assert capsys.readouterr().err.partition("nearest first: ")[2].count(",") == 9


ROW = '{"text": "a", "label": "x"}\n'


@pytest.mark.parametrize(
    "options, words",
    [
        ({"architecture": "decoder"}, ["architecture: decoder", "encoder"]),
        ({"task": "causal-lm"}, ["encoder has no head for task causal-lm", "decoder"]),
        ({"config_overrides": "hidden_size=32"}, ["of another shape", "model.embed_tokens.weight"]),
        ({"config_overrides": "hiden_size=32"}, ["'hiden_size'", "nearest first: hidden_size, "]),
        ({"config_overrides": "hidden_dropout=7"}, ["hidden_dropout", "7"]),
        ({"config_overrides": "sliding_window=4"}, ["sliding_window=4"]),
        ({"config_overrides": "return_dict=false"}, ["config_overrides", "return_dict"]),
        ({"config_overrides": "pad_token_id=3"}, ["config_overrides", "tokenizer"]),
        (
            {"train_file": None, "max_eval_samples": 1, "test_file": ("t.jsonl", ROW * 3 + ROW.replace('"x"', '"z"'))},
            ["t.jsonl: row 4: label 'z'", "the model"],
        ),
        (
            {
                "train_file": None,
                "problem_type": "regression",
                "test_file": ("t.jsonl", ROW.replace('"x"', "[1, 2]")),
            },
            ["problem_type: regression", "single_label_classification"],
        ),
        (
            {"train_file": None, "task": TAG, "test_file": ("t.jsonl", WORDS.replace("X", "x"))},
            ["newly initialized", "classifier.weight"],
        ),
        (
            {"train_file": None, "test_file": ("t.jsonl", ROW.replace('"x"', "0.5"))},
            ["t.jsonl: row 1", "--problem_type regression"],
        ),
    ],
    ids=str,
)
def test_what_a_saved_model_cannot_do_is_refused(options, words, model_of, tmp_path, capsys):
    options = {"train_file": write(tmp_path / TRAIN, ROWS[CLASSIFY]), **in_directory(tmp_path, options)}
    assert_refused(tmp_path, from_model(model_of(CLASSIFY), **options), words, capsys)


def test_a_model_of_another_family_is_refused(tmp_path, capsys):
    DebertaV2Config().save_pretrained(tmp_path / "deberta")
    options = from_model(tmp_path / "deberta", **files(tmp_path, ROWS[CLASSIFY], ["train"]))
    assert_refused(tmp_path, options, ["model_name_or_path", "'deberta-v2' is not supported", "bart"], capsys)


def test_a_model_without_weights_and_one_with_too_few_tokens_are_refused(model_of, tmp_path, capsys):
    options = files(tmp_path, ROWS[CLASSIFY], ["train"])
    larger = run(tmp_path / "larger", task="causal-lm", tokenizer_type="byte-bpe", **options)
    words = ["model_name_or_path", "vocab_size=", "tokenizer"]
    assert_refused(tmp_path, from_model(model_of(CLASSIFY), tokenizer_name_or_path=larger, **options), words, capsys)
    model = shutil.copytree(model_of(CLASSIFY), tmp_path / "model")
    (model / "model.safetensors").unlink()
    assert_refused(tmp_path, from_model(model, **options), ["model_name_or_path", str(model)], capsys)


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("a.yaml", "leraning_rate: 1\n", ["'leraning_rate'", "nearest first: learning_rate, "]),
        ("a.yaml", "learning_rate: fast\n", ["learning_rate", "'fast'"]),
        ("a.yaml", "eval_strategy: stps\n", ["eval_strategy", "'stps'", "nearest first: steps, "]),
        ("a.yaml", "max_steps: [1, 2]\n", ["max_steps", "a list"]),
        ("a.yaml", "task: [causal-lm]\n", ["task", "a list"]),
        ("a.yaml", "max_length: 1.5\n", ["max_length", "'1.5'"]),
        ("a.yaml", "- a\n", ["options and their values"]),
        ("a.yaml", "3: a\n", ["the number 3"]),
        ("a.yaml", "true: a\n", ["true"]),
        ("a.yaml", "seed: 1\nmax_length: 8\nseed: 2\n", ["seed", "twice"]),
        ("a.yaml", "config_overrides: {hidden_size: 8, hidden_size: 16}\n", ["hidden_size", "twice"]),
        ("a.json", '{"seed": 1, "max_length": 8, "seed": 2}', ["seed", "twice"]),
        ("a.json", '{"config_overrides": {"hidden_size": 8, "hidden_size": 16}}', ["hidden_size", "twice"]),
        ("a.yaml", "a: [\n", ["line 2"]),
        ("a.json", "{", ["line 1"]),
        ("a.json", "[" * 200_000, ["recursion depth"]),
        ("a.yaml", "[" * 2_000, ["recursion depth"]),
        ("a.toml", "", [".yaml", ".json"]),
        ("a.yaml", None, ["No such file"]),
    ],
)
def test_a_bad_file_of_options_is_refused(name, content, words, tmp_path, capsys):
    path = tmp_path / name
    if content is not None:
        path.write_text(content)
    assert main([str(path), *flags(tmp_path / "out", {"task": None, "max_steps": None, "max_length": None})]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and not [word for word in [str(path), *words] if word not in lines[0]], lines
    assert not (tmp_path / "out").exists()


# --- As a program ---


def test_it_starts_as_a_script_and_as_a_module(model_of, tmp_path):
    """Each in a process of its own, both at once; the script tests a saved model, which is done soonest."""
    options = flags(tmp_path / "out", from_model(model_of(CLASSIFY), **files(tmp_path, ROWS[CLASSIFY], ["test"])))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    commands = [[str(ROOT / "train.py"), *options], ["-m", "seqblend.train", "--task", "no-task"]]
    processes = [
        subprocess.Popen([sys.executable, *command], stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=environment)
        for command in commands
    ]
    errors = [process.communicate(timeout=200)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 2], errors
    assert predictions(tmp_path / "out") == predictions(model_of(CLASSIFY))
    # Libraries warn of nothing that a user could do something about.
    assert "warn" not in errors[0].lower()
    assert errors[1].startswith("error: unknown task 'no-task'") and len(errors[1].splitlines()) == 1


def test_it_is_installed_as_a_command(capsys):
    (command,) = importlib.metadata.entry_points(group="console_scripts", name="seqblend-train")
    assert command.load() is main
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    help_text = capsys.readouterr().out
    assert stopped.value.code == 0 and "--config_overrides" in help_text and "--learning_rate" in help_text
    assert "(default: 512)" in help_text and "SUPPRESS" not in help_text
