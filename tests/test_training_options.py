"""Class weights, early stopping, models made of two, and what a run says of itself."""

import itertools
import math
from collections import Counter
from types import SimpleNamespace

import datasets
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from test_train_command import (
    CLASSIFY,
    ROWS,
    SEVERAL,
    SMALL,
    TAG,
    TRANSLATE,
    assert_refused,
    files,
    flags,
    from_model,
    plain_cards,  # noqa: F401
    prepared,
    quick_and_quiet,  # noqa: F401
    read,
    run,
)

from seqblend import BlendEncoderForMaskedLM
from seqblend.train import prepare
from seqblend.training.arguments import ModelArguments
from seqblend.training.files import InputError
from seqblend.training.models import set_model_max_length
from seqblend.training.progress import Progress
from seqblend.training.tokenization import train_tokenizer
from seqblend.training.weights import balanced, weights_given

# --- Class weights ---


@given(st.lists(st.lists(st.sampled_from("abc"), max_size=4), min_size=1, max_size=6).filter(any))
@settings(max_examples=20, deadline=None)
def test_balanced_weights_make_every_label_count_the_same(rows):
    """They average 1 over the words, and the words of each tag weigh as much as those of any other."""
    counts = Counter(itertools.chain.from_iterable(rows))
    weights = balanced(datasets.Dataset.from_dict({"tags": rows}), "tags", sorted(counts))
    shares = {name: weights[name] * count for name, count in counts.items()}
    assert sum(shares.values()) == pytest.approx(counts.total())
    assert list(shares.values()) == pytest.approx([counts.total() / len(counts)] * len(counts))


@pytest.mark.parametrize(
    "options, rows, expected",
    [
        # Of five rows three are x.
        ({"task": CLASSIFY}, ROWS[CLASSIFY], [5 / 6, 5 / 4]),
        # Of nine words five are O, three B-x, one I-x.
        ({"task": TAG}, ROWS[TAG], [9 / 15, 9 / 9, 9 / 3]),
        # Of four labels three are x.
        ({"problem_type": "multi_label_classification"}, SEVERAL, [4 / 6, 4 / 2]),
    ],
    ids=["rows", "words", "several labels"],
)
def test_balanced_weights_are_in_the_model_and_said_in_one_line(options, rows, expected, tmp_path, caplog):
    caplog.set_level("INFO")
    job = prepared(tmp_path / "out", class_weights="balanced", **options, **files(tmp_path, rows, ["train"]))
    assert job.model.config.class_weights == pytest.approx(expected)
    said = ", ".join(f"{name} {weight:.4g}" for name, weight in zip(job.settings.labels, expected, strict=True))
    assert f"class_weights: {said}" in caplog.messages


@pytest.mark.parametrize("given", ["1,2.5", "y=2.5,x=1", [1, 2.5], {"y": 2.5, "x": 1}], ids=str)
def test_weights_may_be_given_in_order_or_by_name(given, tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump({"class_weights": given}))
    options = {"config_overrides": SMALL, **files(tmp_path, ROWS[CLASSIFY], ["train"])}
    assert prepare([str(path), *flags(tmp_path / "out", options)]).model.config.class_weights == [1, 2.5]
    if isinstance(given, str):
        job = prepared(tmp_path / "out", class_weights=given, **options)
        assert job.model.config.class_weights == [1, 2.5]


@pytest.mark.parametrize(
    "given, words",
    [
        ("1", ["1 weight for 2 labels", "balanced"]),
        ("1,2,3", ["3 weights for 2 labels"]),
        ("balancd", ["balanced"]),
        ("1,heavy", ["'heavy'", "'y'"]),
        ("1,0", ["above 0", "'y'"]),
        ("1,nan", ["above 0"]),
        ("1,inf", ["above 0"]),
        ("x=1", ["'y'"]),
        ("x=1,y=2,z=3", ["'z' is no label"]),
        ({"x": True, "y": 1}, ["True", "'x'"]),
    ],
    ids=str,
)
def test_wrong_weights_are_refused_and_the_labels_named_in_their_order(given, words):
    with pytest.raises(InputError) as error:
        weights_given(given, ["x", "y"])
    assert not [word for word in ["class_weights", "x, y, in this order", *words] if word not in str(error.value)]


@pytest.mark.parametrize(
    "options, words",
    [
        ({"task": "masked-lm"}, ["sequence-classification or token-classification", "masked-lm"]),
        ({"config_overrides": f"{SMALL},class_weights=[1,2]"}, ["config_overrides"]),
        ({"max_train_samples": 1}, ["training split has no 'y'"]),
    ],
    ids=str,
)
def test_weights_that_cannot_be_are_refused(options, words, tmp_path, capsys):
    options = {"class_weights": "balanced", **options, **files(tmp_path, ROWS[CLASSIFY], ["train"])}
    assert_refused(tmp_path, options, ["class_weights", *words], capsys)


# --- Early stopping ---

EVERY_STEP = {
    **{"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1, "max_steps": 9},
    **{"load_best_model_at_end": True, "metric_for_best_model": "accuracy", "early_stopping_patience": 2},
}


def test_a_run_stops_when_nothing_becomes_better_and_a_resumed_one_at_the_same_step(tmp_path):
    """Where nothing is learnt the first evaluation stays the best; how many followed it stands in the checkpoint."""
    options = {**EVERY_STEP, "learning_rate": 0, **files(tmp_path, ROWS[CLASSIFY])}
    out = run(tmp_path / "out", **options)
    assert read(out / "trainer_state.json")["global_step"] == 3
    run(out, resume_from_checkpoint=out / "checkpoint-2", **options)
    assert read(out / "trainer_state.json")["global_step"] == 3
    assert read(out / "trainer_state.json")["best_model_checkpoint"].endswith("checkpoint-1")


@pytest.mark.parametrize(
    "changed, words",
    [
        ({"load_best_model_at_end": None}, ["load_best_model_at_end"]),
        ({"eval_strategy": "no", "load_best_model_at_end": None}, ["eval_strategy and load_best_model_at_end"]),
        (
            {"eval_strategy": None, "load_best_model_at_end": None, "metric_for_best_model": None},
            ["metric_for_best_model"],
        ),
        ({"early_stopping_patience": 0}, ["1 or more"]),
    ],
    ids=str,
)
def test_stopping_early_needs_something_to_go_by(changed, words, tmp_path, capsys):
    options = {**EVERY_STEP, **changed, **files(tmp_path, ROWS[CLASSIFY])}
    assert_refused(tmp_path, options, ["early_stopping_patience", *words], capsys)


@pytest.mark.parametrize("missing", ["eval_strategy", "metric_for_best_model"])
def test_saving_the_best_needs_something_to_go_by(missing, tmp_path, capsys):
    options = {"save_strategy": "best", "eval_strategy": "epoch", "metric_for_best_model": "accuracy", missing: None}
    assert_refused(tmp_path, {**options, **files(tmp_path, ROWS[CLASSIFY])}, ["save_strategy", missing], capsys)


# --- An encoder-decoder of two models ---


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Options that name an encoder and a decoder with one tokenizer, and a decoder with another."""
    root = tmp_path_factory.mktemp("two")
    texts = files(root, [{"text": row["source"] + row["target"]} for row in ROWS[TRANSLATE]], ["train"])
    encoder = run(root / "encoder", task="masked-lm", **texts)
    same = {"tokenizer_type": None, "tokenizer_name_or_path": encoder}
    decoder = run(root / "decoder", task="causal-lm", **same, **texts)
    other = run(root / "other", task="causal-lm", **files(root, [{"text": "xyz"}] * 5, ["train"]))
    both = {"encoder_name_or_path": encoder, "decoder_name_or_path": decoder}
    return {**both, "tokenizer_type": None, "config_overrides": None}, other


@pytest.mark.parametrize("task", [TRANSLATE, CLASSIFY])
def test_two_models_become_one_and_what_is_new_is_named(task, two, tmp_path, caplog):
    options, _ = two
    paths = options["encoder_name_or_path"], options["decoder_name_or_path"]
    job = prepared(tmp_path / "out", task=task, **options, **files(tmp_path, ROWS[task], ["train"]))
    state, saved = job.model.state_dict(), [load_file(path / "model.safetensors") for path in paths]
    encoder, decoder = (
        {name: tensor for name, tensor in tensors.items() if name.startswith("model.")} for tensors in saved
    )
    assert all(torch.equal(state[name.replace("model.", "model.encoder.", 1)], encoder[name]) for name in encoder)
    assert all(torch.equal(state[name.replace("model.", "model.decoder.", 1)], decoder[name]) for name in decoder)
    new = {name for name in state if ".cross_attn" in name or name.startswith("score.")}
    assert len(state) - len(new) - len(encoder) - len(decoder) == (task == TRANSLATE)  # the tied projection
    names = ", ".join(sorted(new))
    lines = [f"Of {paths[0]}, is dropped: head.dense.weight, head.norm.weight"]
    lines.append(f"Of {paths[0]} and {paths[1]}, starts anew: {names}")
    assert [message for message in caplog.messages if message.startswith("Of ")] == lines
    if task == TRANSLATE:
        assert torch.equal(job.model.lm_head.weight, decoder["model.embed_tokens.weight"])
        job.run()


def test_two_models_that_do_not_go_together_are_refused(two, tmp_path, capsys):
    options, other = two
    options = {"task": TRANSLATE, **options, **files(tmp_path, ROWS[TRANSLATE], ["train"])}
    encoder = options["encoder_name_or_path"]
    for changed, words in [
        ({"decoder_name_or_path": other}, ["decoder_name_or_path", "vocabulary", str(other), str(encoder)]),
        ({"decoder_name_or_path": encoder}, ["decoder_name_or_path", "is encoder, not decoder"]),
        ({"decoder_name_or_path": None}, ["decoder_name_or_path: is missing"]),
        ({"encoder_name_or_path": None}, ["encoder_name_or_path: is missing"]),
        ({"recipe": "bart"}, ["recipe", "encoder_name_or_path"]),
        ({"tokenizer_type": "char"}, ["tokenizer_type"]),
        ({"architecture": "decoder"}, ["architecture: decoder", "encoder-decoder"]),
        ({"config_overrides": "intermediate_size=8"}, ["encoder_name_or_path", "of another shape"]),
    ]:
        assert_refused(tmp_path, {**options, **changed}, words, capsys)


def test_a_head_starts_from_a_saved_base(two, tmp_path, caplog):
    """Whose tensors have other names on disk."""
    encoder = two[0]["encoder_name_or_path"]
    base = BlendEncoderForMaskedLM.from_pretrained(encoder).model
    base.save_pretrained(tmp_path / "base")
    options = from_model(tmp_path / "base", tokenizer_name_or_path=encoder, task=TAG)
    job = prepared(tmp_path / "out", **options, **files(tmp_path, ROWS[TAG], ["train"]))
    assert all(torch.equal(tensor, job.model.model.state_dict()[name]) for name, tensor in base.state_dict().items())
    assert f"Of {tmp_path / 'base'}, starts anew: classifier.bias, classifier.weight" in caplog.messages


# --- What a run says ---


def test_a_run_begins_with_what_it_is_and_logs_how_long_it_takes(tmp_path, caplog):
    caplog.set_level("INFO")
    options = {"max_steps": -1, "num_train_epochs": 2, "per_device_train_batch_size": 2, "logging_steps": 1}
    out = tmp_path / "out"
    job = prepared(out, task=TRANSLATE, **options, **files(tmp_path, ROWS[TRANSLATE], ["train"]))
    job.run()
    # A source has two special tokens, a target one.
    tokens = sum(len(row["source"]) + 2 + len(row["target"]) + 1 for row in ROWS[TRANSLATE])
    (summary,) = [message for message in caplog.messages if message.startswith("model: ")]
    assert summary.splitlines() == [
        f"model: BlendEncoderDecoderForSeq2SeqLM, {job.model.num_parameters():,} parameters",
        f"data: 5 rows and {tokens} tokens an epoch, without padding",
        f"steps: 6; 3 an epoch, of {tokens / 3:.0f} tokens in the mean",
        f"output: {out}",
    ]
    lines = [line for line in read(out / "trainer_state.json")["log_history"] if "loss" in line]
    assert len(lines) == 6 and all(line["train_tokens_per_second"] > 0 for line in lines)
    # Of so short a run all may be rounded to none.
    assert all(line["seconds_left"] >= 0 for line in lines) and lines[-1]["seconds_left"] == 0


def test_speed_is_that_of_training_and_the_time_left_that_of_all(monkeypatch):
    """Of ten steps of a second each five are done, with an evaluation of five seconds among them."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr("seqblend.training.progress.time.perf_counter", lambda: clock.now)
    progress, state = Progress(), SimpleNamespace(num_input_tokens_seen=0, global_step=0, max_steps=10)
    progress.on_train_begin(None, SimpleNamespace(**vars(state), is_world_process_zero=False), None)
    for step in range(1, 6):
        clock.now, state.global_step, state.num_input_tokens_seen = clock.now + 1, step, 100 * step
        progress.on_step_end(None, state, None)
        if step == 2:
            clock.now += 5
            progress.on_evaluate(None, state, None)
    assert progress.speed(state) == {"train_tokens_per_second": 100.0, "seconds_left": 10.0}
    assert progress.speed(state) == {"seconds_left": 10.0}


@pytest.mark.parametrize(
    ("given", "before", "reach", "expected"),
    [
        ({}, 10**30, math.inf, 64),
        # Another model's: what that one reads says nothing of this one.
        ({"tokenizer_name_or_path": "t"}, 512, math.inf, 64),
        ({"model_name_or_path": "m", "tokenizer_name_or_path": "t"}, 512, math.inf, 64),
        # A model that has read longer texts before, or that cannot have.
        ({"model_name_or_path": "m"}, 512, math.inf, 512),
        ({"model_name_or_path": "m"}, 32, math.inf, 64),
        ({"model_name_or_path": "m"}, 512, 128, 64),
        ({"model_name_or_path": "m"}, 10**30, math.inf, 64),
    ],
)
def test_a_tokenizer_cuts_where_its_model_has_read_to(given, before, reach, expected):
    tokenizer = train_tokenizer(["abc"], "char", 99)
    tokenizer.model_max_length = before
    set_model_max_length(tokenizer, ModelArguments(**given), reach, 64)
    assert tokenizer.model_max_length == expected
