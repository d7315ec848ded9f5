"""The defaults of a run: what is chosen where the user gives nothing, what gives way, and what a resumed run keeps."""

import json
import re
from unittest import mock

import pytest
from test_train_command import (
    CASES,
    CLASSIFY,
    SMALL,
    TAG,
    assert_refused,
    files,
    flags,
    from_model,
    model_of,  # noqa: F401
    plain_cards,  # noqa: F401
    prepared,
    quick_and_quiet,  # noqa: F401
    read,
    run,
)

from seqblend.checkpoints.store import write_manifest
from seqblend.data.errors import InputError
from seqblend.tasks.splits import greater_is_better
from seqblend.tokenization.training import train_tokenizer
from seqblend.train import prepare
from seqblend.training.arguments import CHOSEN
from seqblend.training.defaults import FROM_SCRATCH, MOST_STEPS, WIDTH, Choice, Defaults, interval_of

# 100 rows of 8 make 13 steps an epoch.
MANY = [{"text": f"row {i} " + "ab"[i % 2], "label": "xy"[i % 2]} for i in range(100)]
FREE = {"save_strategy": None, "eval_strategy": None, "max_steps": None}


def options(tmp_path, rows=MANY, splits=("train", "validation"), **given):
    return {**FREE, **given, **files(tmp_path, rows, splits)}


def chosen(tmp_path, *names, **given):
    args = prepared(tmp_path / "out", **given).trainer.args
    return tuple(str(getattr(value, "value", value)) for value in (getattr(args, name) for name in names))


# --- What is chosen ---


def test_a_run_from_scratch(tmp_path, caplog):
    caplog.set_level("INFO")
    args = prepared(tmp_path / "out", **options(tmp_path)).trainer.args
    assert (args.learning_rate, args.lr_scheduler_type, args.weight_decay, args.warmup_steps) == (
        2e-3,
        "cosine",
        0.1,
        0.1,
    )
    assert (args.per_device_train_batch_size, args.num_train_epochs) == (8, 50)
    assert args.logging_steps == 50 * 13 // 20
    assert args.eval_strategy.value == args.save_strategy.value == "epoch"
    assert args.load_best_model_at_end and args.metric_for_best_model == "accuracy" and args.greater_is_better
    assert args.save_total_limit == 2
    (table,) = [each for each in caplog.messages if each.startswith("defaults from scratch")]
    names = re.findall(r"(?m)^  (\w+)", table)
    of_model = {"tokenizer_type", "vocab_size", "hidden_dropout", "classifier_dropout", "pooling"}
    given = {"eval_steps", "save_steps", "per_device_eval_batch_size", "tokenizer_type"}
    assert set(names) == (set(CHOSEN) | of_model) - given
    assert max(map(len, table.splitlines())) <= WIDTH


@pytest.mark.parametrize(
    ("size", "rate", "reason"),
    [
        (768, 5e-4, "0.002 × 192 / hidden_size 768"),
        (192, 2e-3, "0.002 × 192 / hidden_size 192"),
        (16, 2e-3, "the most, for hidden_size 16"),
    ],
)
def test_the_learning_rate_falls_with_the_width(size, rate, reason, tmp_path, caplog):
    caplog.set_level("INFO")
    sizes = f"hidden_size={size},num_hidden_layers=1,num_attention_heads=2,intermediate_size=16"
    given = options(tmp_path, splits=["train"], config_overrides=sizes)
    assert prepared(tmp_path / "out", **given).trainer.args.learning_rate == pytest.approx(rate)
    assert reason in caplog.text


def config_of(tmp_path, **given):
    config = prepared(tmp_path / "out", **given).trainer.model.config
    return config.hidden_dropout, config.classifier_dropout, getattr(config, "pooling", None)


def test_fields_of_a_new_model(tmp_path, monkeypatch):
    """Few rows need more dropout; what the user gives, a recipe and a saved model keep theirs."""
    given = options(tmp_path)
    assert config_of(tmp_path, **given) == (0.3, 0.3, "mean")
    assert config_of(tmp_path, **given | {"config_overrides": f"{SMALL},pooling=cls,hidden_dropout=0.2"}) == (
        0.2,
        0.3,
        "cls",
    )
    assert config_of(tmp_path, **given, architecture="decoder") == (0.3, 0.3, "last")
    assert config_of(tmp_path, **given, recipe="bert") == (0.1, 0.1, "cls")
    monkeypatch.setattr("seqblend.training.model_defaults.FEW_ROWS", 100)
    assert config_of(tmp_path, **given) == (0.1, 0.1, "mean")


def test_few_single_words_are_learnt_by_lstms(tmp_path):
    """Unless the user says anything about the model, or the inputs are texts."""
    pairs = [{"source": f"name{i}", "target": f"n ei m {i}"} for i in range(100)]
    given = {"task": "seq2seq-lm", "config_overrides": None, "tokenizer_type": None}

    def model(rows=pairs, **changed):
        config = prepared(tmp_path / "out", **options(tmp_path, rows, **given | changed)).trainer.model.config
        return config.decoder.mixer_type, config.encoder.hidden_size, config.decoder.num_hidden_layers

    assert model() == ("lstm", 128, 2)
    assert model(config_overrides=SMALL)[0] == "attention"
    assert model(recipe="bart")[0] == "attention"
    texts = [{**pair, "source": f"a name {pair['source']}"} for pair in pairs]
    assert model(texts)[0] == "attention"


def test_fields_of_a_saved_model_stay(tmp_path):
    fields = f"{SMALL},hidden_dropout=0.2,classifier_dropout=0.05,pooling=last"
    model = run(tmp_path / "model", **options(tmp_path, max_steps=1, config_overrides=fields))
    assert config_of(tmp_path, **from_model(model, **options(tmp_path))) == (0.2, 0.05, "last")


@pytest.mark.parametrize(
    ("task", "rows", "expected"),
    [
        (CLASSIFY, [{"text": f"name{i}", "label": "xy"[i % 2]} for i in range(9)], "char"),
        (CLASSIFY, [{"text": f"two words{i}", "label": "xy"[i % 2]} for i in range(9)], "wordpiece"),
        (CLASSIFY, [{"text": "文" * 30 + str(i), "label": "xy"[i % 2]} for i in range(9)], "wordpiece"),
        ("causal-lm", [{"text": f"two words{i}"} for i in range(9)], "byte-bpe"),
        ("seq2seq-lm", [{"source": f"word{i}", "target": f"w o r d {i}"} for i in range(9)], "char"),
        ("seq2seq-lm", [{"source": f"some words {i}", "target": "x"} for i in range(9)], "byte-bpe"),
        (TAG, [{"tokens": ["a", "b"], "tags": ["x", "y"]}] * 9, "wordpiece"),
    ],
)
def test_the_tokenizer_follows_the_task_and_the_inputs(task, rows, expected, tmp_path, caplog):
    caplog.set_level("INFO")
    job = prepared(tmp_path / "out", **options(tmp_path, rows, task=task, tokenizer_type=None))
    assert re.search(rf"(?m)^  tokenizer_type +{expected} ", caplog.text)
    config = job.trainer.model.config
    assert getattr(config, "affix_buckets", None) == (2048 if task == TAG else None)
    tokenizer = job.trainer.processing_class
    letters = len(tokenizer("words", add_special_tokens=False).input_ids) == 5
    assert (letters, len(tokenizer) > 256) == (expected == "char", expected == "byte-bpe")
    given = options(tmp_path, rows, task=task, tokenizer_type="unigram", vocab_size=300)
    config = prepared(tmp_path / "out", **given).trainer.model.config
    assert getattr(config, "affix_buckets", None) is None


@pytest.mark.parametrize(
    ("source", "target", "expected"), [("학교", "h a k", "nfd"), ("학교", "학꾜", ""), ("ab", "a", "")]
)
def test_korean_words_are_read_letter_by_letter(source, target, expected, tmp_path, caplog):
    """If they are written, too, they stay syllables."""
    caplog.set_level("INFO")
    rows = [{"source": source + "가나다라마"[i], "target": target} for i in range(5)]
    given = options(tmp_path, rows, task="seq2seq-lm", tokenizer_type=None)
    tokenizer = prepared(tmp_path / "out", **given).trainer.processing_class
    assert ("tokenizer_normalization" in caplog.text) == bool(expected)
    assert len(tokenizer("학", add_special_tokens=False).input_ids) == (3 if expected else 1)


def test_korean_words_are_read_letter_by_letter_by_a_given_type(tmp_path):
    rows = [{"source": "학교" + "가나다라마"[i], "target": "h a k"} for i in range(5)]
    given = options(tmp_path, rows, task="seq2seq-lm", tokenizer_type="char")
    tokenizer = prepared(tmp_path / "out", **given).trainer.processing_class
    assert len(tokenizer("학", add_special_tokens=False).input_ids) == 3


@pytest.mark.parametrize("count", [20, 30])
def test_both_texts_of_a_pair_decide_whether_they_are_words(count, tmp_path, monkeypatch):
    """Of each column as many texts are looked at, whatever the number of rows."""
    monkeypatch.setattr("seqblend.training.model_defaults.SAMPLE", 20)
    pairs = [{"text": f"w{i}", "text_pair": "a whole sentence", "label": "xy"[i % 2]} for i in range(count)]
    given = options(tmp_path, pairs, ["train"], tokenizer_type=None)
    assert "tokenizer_normalization" not in prepared(tmp_path / "out", **given).trainer.args.default_options
    assert prepared(tmp_path / "out", **given).trainer.args.default_options["tokenizer_type"] == "wordpiece"


def test_the_size_of_the_vocabulary_follows_the_rows_and_the_characters(tmp_path, monkeypatch):
    def size(rows, **given):
        with mock.patch("seqblend.training.encoding.train_tokenizer", wraps=train_tokenizer) as trained:
            prepared(tmp_path / "out", **options(tmp_path, rows, ["train"], **{"tokenizer_type": None, **given}))
        return trained.call_args.args[2]

    rows = [{"text": f"two words{i}", "label": "xy"[i % 2]} for i in range(100)]
    assert size(rows) == 4000 and size(rows, vocab_size=700) == 700
    letters = [
        {"text": f"two {chr(0x4E00 + 20 * i + j)}", "label": "xy"[j % 2]} for i in range(100) for j in range(20)
    ]
    assert size(letters) == 2 * (2000 + len("two ")) + 1000
    assert size(letters, tokenizer_type="byte-bpe") == 4000
    monkeypatch.setattr("seqblend.training.model_defaults.FEW_ROWS", 100)
    assert size(rows) == 8000


def test_a_saved_model_is_trained_less(tmp_path, model_of):  # noqa: F811
    given = from_model(model_of(CLASSIFY), **options(tmp_path))
    args = prepared(tmp_path / "out", **given).trainer.args
    assert (args.learning_rate, args.lr_scheduler_type, args.weight_decay, args.warmup_steps) == (
        5e-4,
        "linear",
        0,
        0.1,
    )
    assert (args.per_device_train_batch_size, args.num_train_epochs) == (32, 5)
    assert args.load_best_model_at_end and args.eval_strategy == "epoch"


@pytest.mark.parametrize(("size", "rate"), [(384, 2e-4), (768, 5e-5), (1536, 1.3e-5)])
def test_the_rate_of_a_saved_model_falls_faster_than_the_width(size, rate, tmp_path, caplog):
    caplog.set_level("INFO")
    sizes = f"hidden_size={size},num_hidden_layers=1,num_attention_heads=2,intermediate_size=8"
    model = run(tmp_path / "model", **options(tmp_path, max_steps=1, config_overrides=sizes))
    given = from_model(model, **options(tmp_path))
    assert prepared(tmp_path / "out", **given).trainer.args.learning_rate == pytest.approx(rate)
    assert f"5e-05 × (768 / hidden_size {size})²" in caplog.text


def test_the_more_rows_the_fewer_epochs_and_the_larger_the_batch(tmp_path):
    found = {}
    for count in (60, 600, 4000):
        rows = [{"text": f"{i} " + "ab"[i % 2], "label": "xy"[i % 2]} for i in range(count)]
        given = options(tmp_path, rows, ["train"])
        found[count] = chosen(tmp_path, "per_device_train_batch_size", "num_train_epochs", **given)
    assert found == {60: ("8", "50.0"), 600: ("8", "40.0"), 4000: ("32", "24.0")}


def test_long_rows_make_small_batches(tmp_path):
    rows = [{"text": "ab " * 700, "label": "xy"[i % 2]} for i in range(200)]
    given = options(tmp_path, rows, ["train"], max_length=2000)
    assert chosen(tmp_path, "per_device_train_batch_size", **given) == ("4",)


@pytest.mark.parametrize(("task", "problem_type", "rows"), [case[:3] for case in CASES.values()], ids=CASES)
def test_the_best_model_is_that_of_the_metric_of_the_task(task, problem_type, rows, tmp_path):
    given = options(tmp_path, rows, task=task, problem_type=problem_type, max_steps=2, eval_steps=1)
    out = run(tmp_path / "out", **given)
    args, state = prepared(tmp_path / "other", **given).trainer.args, read(out / "trainer_state.json")
    values = [line[f"eval_{args.metric_for_best_model}"] for line in state["log_history"] if "eval_loss" in line][:2]
    better = greater_is_better(args.metric_for_best_model)
    assert args.load_best_model_at_end and args.greater_is_better is better
    assert state["best_metric"] == (max if better else min)(values)


@pytest.mark.parametrize(
    ("of_epoch", "steps", "interval"),
    [
        (100, 300, 100),
        (100, 5000, 100),
        (100, 250, 50),
        (1000, 1000, 200),
        (None, 250, 50),
        (90_000, 270_000, MOST_STEPS),
    ],
)
def test_evaluations_are_an_epoch_apart_or_less(of_epoch, steps, interval):
    assert interval_of(of_epoch, steps).value == interval


def test_short_runs_do_not_warm_up_and_log_each_step(tmp_path):
    given = options(tmp_path, splits=["train"], max_steps=9)
    assert chosen(tmp_path, "warmup_steps", "logging_steps", **given) == ("0", "1")


@pytest.mark.parametrize("schedule", ["constant", "reduce_lr_on_plateau"])
def test_a_schedule_without_a_warm_up_gets_none(schedule, tmp_path):
    given = options(tmp_path, lr_scheduler_type=schedule)
    assert chosen(tmp_path, "warmup_steps", "lr_scheduler_type", **given) == ("0", schedule)


def test_a_tracker_gets_points_of_long_runs(tmp_path, monkeypatch):
    given = options(tmp_path, splits=["train"], max_steps=100_000)
    assert chosen(tmp_path, "logging_steps", **given) == ("5000",)
    monkeypatch.setattr("seqblend.training.checks.check_reporters", lambda names: None)
    monkeypatch.setattr("transformers.trainer.get_reporting_integration_callbacks", lambda names: [])
    assert chosen(tmp_path, "logging_steps", **given, report_to="tensorboard") == ("500",)


# --- What gives way ---

STRATEGIES = (
    "eval_strategy",
    "eval_steps",
    "save_strategy",
    "save_steps",
    "load_best_model_at_end",
    "save_total_limit",
)
BOTH = ["train", "validation"]


@pytest.mark.parametrize(
    ("given", "splits", "expected"),
    [
        ({}, ["train"], "no None steps 500 False 2"),
        ({"do_eval": False}, BOTH, "no None steps 500 False 2"),
        ({"do_train": True}, BOTH, "epoch None epoch 500 True 2"),
        ({"eval_strategy": "no"}, BOTH, "no None steps 500 False 2"),
        ({"eval_strategy": "epoch"}, BOTH, "epoch None epoch 500 True 2"),
        ({"eval_strategy": "steps"}, BOTH, "steps 13 steps 13 True 2"),
        ({"eval_strategy": "steps", "logging_steps": 7}, BOTH, "steps 7 steps 7 True 2"),
        ({"logging_steps": 7, "max_steps": 30}, BOTH, "steps 5 steps 5 True 2"),
        ({"eval_steps": 20}, BOTH, "steps 20 steps 20 True 2"),
        ({"save_steps": 20}, BOTH, "steps 20 steps 20 True 2"),
        ({"save_strategy": "steps"}, BOTH, "steps 13 steps 13 True 2"),
        ({"save_strategy": "epoch"}, BOTH, "epoch None epoch 500 True 2"),
        ({"save_strategy": "best"}, BOTH, "epoch None best 500 True 2"),
        ({"save_strategy": "no"}, BOTH, "epoch None no 500 False None"),
        ({"save_strategy": "epoch", "max_steps": 4}, BOTH, "epoch None epoch 500 True 2"),
        ({"eval_steps": 20, "save_steps": 30}, BOTH, "steps 20 steps 30 False 2"),
        ({"eval_steps": 20, "save_steps": 40}, BOTH, "steps 20 steps 40 True 2"),
        ({"eval_steps": 0.1}, BOTH, "steps 0.1 steps 0.1 True 2"),
        ({"load_best_model_at_end": False}, BOTH, "epoch None epoch 500 False 2"),
        ({"load_best_model_at_end": True}, BOTH, "epoch None epoch 500 True 2"),
        ({"save_total_limit": 5}, BOTH, "epoch None epoch 500 True 5"),
        ({"average_checkpoints": 3}, BOTH, "epoch None epoch 500 False 3"),
        ({"early_stopping_patience": 2}, BOTH, "epoch None epoch 500 True 2"),
        ({"metric_for_best_model": "loss"}, BOTH, "epoch None epoch 500 True 2"),
    ],
    ids=str,
)
def test_what_is_given_stays_and_the_rest_follows(given, splits, expected, tmp_path):
    found = chosen(tmp_path, *STRATEGIES, **options(tmp_path, splits=splits, **given))
    assert " ".join(found) == expected


@pytest.mark.parametrize("name", ["learning_rate", "weight_decay", "warmup_steps", "per_device_train_batch_size"])
def test_a_number_that_is_given_stays(name, tmp_path):
    """In a file, too."""
    path = tmp_path / "run.yaml"
    path.write_text(f"{name}: 1\n")
    args = prepare([str(path), *flags(tmp_path / "out", options(tmp_path, splits=["train"]))]).trainer.args
    assert getattr(args, name) == 1


def test_a_run_that_does_not_train_chooses_nothing(tmp_path, model_of, caplog):  # noqa: F811
    model = model_of(CLASSIFY)
    caplog.set_level("INFO")
    caplog.clear()
    job = prepared(tmp_path / "out", **from_model(model, **options(tmp_path, do_train=False)))
    assert job.trainer.args.eval_strategy == "no" and "defaults" not in caplog.text


@pytest.mark.parametrize(
    ("given", "splits", "words"),
    [
        ({"load_best_model_at_end": True}, ["train"], ["load_best_model_at_end", "validation split"]),
        (
            {"load_best_model_at_end": True, "save_strategy": "no"},
            BOTH,
            ["load_best_model_at_end", "save_strategy no"],
        ),
        (
            {"load_best_model_at_end": True, "eval_steps": 2, "save_steps": 3},
            BOTH,
            ["load_best_model_at_end", "save_steps 3", "multiple of eval_steps 2"],
        ),
        ({"lr_scheduler_type": "reduce_lr_on_plateau"}, ["train"], ["lr_scheduler_type", "validation_file"]),
        ({"early_stopping_patience": 2}, ["train"], ["early_stopping_patience", "eval_strategy", "validation split"]),
        ({"early_stopping_patience": 2, "eval_strategy": "no"}, BOTH, ["early_stopping_patience", "eval_strategy"]),
        ({"greater_is_better": False}, BOTH, ["greater_is_better", "accuracy"]),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused(given, splits, words, tmp_path, capsys):
    assert_refused(tmp_path, options(tmp_path, splits=splits, **given), words, capsys)


# --- The last model and the best ---


def test_where_no_evaluation_is_better_the_last_model_stays(tmp_path):
    """A metric that is 0 in all evaluations must not choose the model that was trained least."""
    rows = [{"tokens": ["a", "b"], "tags": ["O", "O"]}] * 9 + [{"tokens": ["c"], "tags": ["B-x"]}]
    given = options(tmp_path, rows, task=TAG, max_steps=4, eval_steps=1, learning_rate=1e-4)
    out = run(tmp_path / "out", **given)
    state = read(out / "trainer_state.json")
    losses = [line["eval_loss"] for line in state["log_history"] if "eval_loss" in line]
    assert state["best_metric"] == 0 and state["best_global_step"] == 1
    assert read(out / "eval_results.json")["eval_loss"] == losses[3] < losses[0]


# --- Resuming ---


def test_a_resumed_run_keeps_what_its_beginning_chose(tmp_path, monkeypatch, caplog):
    """Also if another version would choose otherwise, or the run is made longer."""
    given = options(tmp_path, max_steps=20, eval_steps=5)
    run(tmp_path / "out", **{**given, "resume": "auto"})
    recorded = read(tmp_path / "out" / "run.json")
    assert {"learning_rate", "weight_decay", "logging_steps", "metric_for_best_model"} <= {*recorded["defaults"]}
    assert not {"max_steps", "eval_steps"} & {*recorded["defaults"]}
    faster = FROM_SCRATCH._replace(learning_rate=1.0, most=1.0, schedule="linear")
    monkeypatch.setattr("seqblend.training.defaults.FROM_SCRATCH", faster)
    caplog.set_level("INFO")
    args = prepared(tmp_path / "out", **{**given, "max_steps": 60, "resume": "auto"}).trainer.args
    assert (args.learning_rate, args.logging_steps, args.lr_scheduler_type) == (2e-3, 1, "cosine")
    assert "as in the run that is resumed" in caplog.text
    # A new run, and one that starts over, have the new values.
    monkeypatch.setattr("seqblend.training.model_defaults.DROPOUT", 0.2)
    assert prepared(tmp_path / "out", **{**given, "resume": "auto"}).trainer.model.config.hidden_dropout == 0.3
    assert prepared(tmp_path / "new", **given).trainer.args.learning_rate == 1
    other = {"resume": "auto", "overwrite_output_dir": True, "seed": 7, "max_steps": 60}
    job = prepared(tmp_path / "out", **{**given, **other})
    assert (job.trainer.args.learning_rate, job.trainer.args.logging_steps) == (1, 3)
    assert job.trainer.model.config.hidden_dropout == 0.2
    job.run()
    assert read(tmp_path / "out" / "run.json")["facts"]["learning_rate"] == 1


@pytest.mark.parametrize("fault", ["last", "all"])
def test_defaults_of_damaged_checkpoints(fault, tmp_path):
    """A file that cannot be read does not stop --resume auto; without a good checkpoint the run starts over."""
    given = options(tmp_path, max_steps=4, save_steps=2, resume="auto")
    out = run(tmp_path / "out", **given)
    (out / "checkpoint-4" / "run.json").write_text("{")
    if fault == "all":
        (out / "checkpoint-2" / "model.safetensors").write_bytes(b"")
    job = prepared(out, **given)
    assert job.trainer.args.resume_from_checkpoint == (str(out / "checkpoint-2") if fault == "last" else None)


@pytest.mark.parametrize("overwrites", [True, False])
def test_defaults_of_another_run_are_no_reason_to_stop(overwrites, tmp_path, capsys):
    """The vocabulary of the run before has no room for the characters of this one."""
    given = options(tmp_path, max_steps=2, save_steps=2, tokenizer_type=None, resume="auto")
    out = run(tmp_path / "out", **given)
    rows = [{"text": f"two {chr(0x4E00 + i)}{chr(0x6E00 + i)}", "label": "xy"[i % 2]} for i in range(4000)]
    given = {**given, **files(tmp_path, rows, ["train", "validation"]), "overwrite_output_dir": overwrites}
    if overwrites:
        assert prepared(out, **given).trainer.args.default_options["vocab_size"] > 8000
    else:
        with pytest.raises(InputError, match="vocab_size is as in the run that is resumed, 4000"):
            prepared(out, **given)


def test_a_resumed_run_leaves_what_its_beginning_had_no_choice_for(tmp_path):
    """Four steps are too few to warm up; a run of version 0.9 did not choose fields of the model."""
    words = [{"text": f"name{i}", "label": "xy"[i % 2]} for i in range(100)]
    given = options(tmp_path, words, max_steps=4, save_steps=2, tokenizer_type=None, vocab_size=300)
    old = {**given, "config_overrides": f"{SMALL},hidden_dropout=0.1,classifier_dropout=0.1,pooling=cls"}
    run(tmp_path / "out", **old, resume="auto")
    path = tmp_path / "out" / "checkpoint-4" / "run.json"
    content = read(path)
    assert content["defaults"]["tokenizer_type"] == "char"
    longer = {**given, "max_steps": 20, "resume": "auto"}
    for recorded in (content["defaults"], sorted(content["defaults"])):
        path.write_text(json.dumps({**content, "defaults": recorded}))
        write_manifest(path.parent)
        kept = {} if isinstance(recorded, dict) else {"tokenizer_type": "char"}
        trainer = prepared(tmp_path / "out", **longer | kept).trainer
        assert trainer.args.warmup_steps == 0
        config = trainer.model.config
        assert (config.hidden_dropout, config.classifier_dropout, config.pooling) == (0.1, 0.1, "cls")
    # A new run of this length warms up.
    assert prepared(tmp_path / "new", **{**longer, "resume": None}).trainer.args.warmup_steps == 0.1


def test_the_options_of_a_run_of_an_earlier_version_are_kept(tmp_path):
    """It has not recorded which were chosen."""
    given = options(tmp_path, splits=["train"], max_steps=2, save_steps=1, learning_rate=1e-4, weight_decay=0)
    out = run(tmp_path / "out", **given)
    path = out / "checkpoint-2" / "run.json"
    content = json.loads(path.read_text())
    del content["defaults"]
    path.write_text(json.dumps(content))
    write_manifest(path.parent)
    given = {**given, "learning_rate": None, "weight_decay": None, "resume": "auto", "max_steps": 4}
    args = prepared(out, **given).trainer.args
    assert (args.learning_rate, args.weight_decay) == (1e-4, 0)


def test_the_table_is_not_wider_than_a_terminal():
    defaults = Defaults(None)
    defaults.chosen = {"per_device_train_batch_size": Choice(0.123456, "because " * 20)}
    lines = defaults.table("from scratch").splitlines()
    assert len(lines) > 3 and max(map(len, lines)) <= WIDTH
