"""Class weights, early stopping, models made of two, and what a run says of itself."""

import itertools
import math
from collections import Counter
from types import SimpleNamespace

import datasets
import pytest
import torch
import yaml
from conftest import tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from test_train_command import (
    CASES,
    CLASSIFY,
    PAIRS,
    ROWS,
    SEVERAL,
    SMALL,
    SPLITS,
    TAG,
    TRANSLATE,
    assert_refused,
    files,
    flags,
    from_model,
    plain_cards,  # noqa: F401
    predictions,
    prepared,
    quick_and_quiet,  # noqa: F401
    read,
    run,
)
from transformers import GenerationConfig, Seq2SeqTrainingArguments, TrainingArguments

from seqblend import BlendDecoderConfig, BlendDecoderForCausalLM, BlendEncoderForMaskedLM
from seqblend.data.errors import InputError
from seqblend.tasks.splits import greater_is_better
from seqblend.tokenization.training import train_tokenizer
from seqblend.train import make_trainer, prepare
from seqblend.training.arguments import BlendTrainingArguments, ModelArguments
from seqblend.training.class_weights import balanced_weights, parse_weights
from seqblend.training.models import set_model_max_length
from seqblend.training.progress import Progress
from seqblend.training.run_options import BUGS, check_device
from seqblend.training.trainer import BlendTrainer

# --- Class weights ---


@given(st.lists(st.lists(st.sampled_from("abc"), max_size=4), min_size=1, max_size=6).filter(any))
@settings(max_examples=20)
def test_balanced_weights_make_every_label_count_the_same(rows):
    """They average 1 over the words, and the words of each tag weigh as much as those of any other."""
    counts = Counter(itertools.chain.from_iterable(rows))
    weights = balanced_weights(datasets.Dataset.from_dict({"tags": rows}), "tags", sorted(counts))
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
    config = job.trainer.model.config
    assert config.class_weights == pytest.approx(expected)
    labels = [config.id2label[index] for index in range(config.num_labels)]
    said = ", ".join(f"{name} {weight:.4g}" for name, weight in zip(labels, expected, strict=True))
    assert f"class_weights: {said}" in caplog.messages


@pytest.mark.parametrize("given", ["1,2.5", "y=2.5,x=1", [1, 2.5], {"y": 2.5, "x": 1}], ids=str)
def test_weights_may_be_given_in_order_or_by_name(given, tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump({"class_weights": given}))
    options = {"config_overrides": SMALL, **files(tmp_path, ROWS[CLASSIFY], ["train"])}
    assert prepare([str(path), *flags(tmp_path / "out", options)]).trainer.model.config.class_weights == [1, 2.5]
    if isinstance(given, str):
        job = prepared(tmp_path / "out", class_weights=given, **options)
        assert job.trainer.model.config.class_weights == [1, 2.5]


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
        parse_weights(given, ["x", "y"])
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
    options = {**EVERY_STEP, "learning_rate": 0, "save_total_limit": 9, **files(tmp_path, ROWS[CLASSIFY])}
    out = run(tmp_path / "out", **options)
    assert read(out / "trainer_state.json")["global_step"] == 3
    run(out, resume_from_checkpoint=out / "checkpoint-2", **options)
    assert read(out / "trainer_state.json")["global_step"] == 3
    assert read(out / "trainer_state.json")["best_model_checkpoint"].endswith("checkpoint-1")


@pytest.mark.parametrize(
    "changed, words",
    [
        ({"load_best_model_at_end": False}, ["load_best_model_at_end"]),
        ({"eval_strategy": "no", "load_best_model_at_end": None}, ["eval_strategy"]),
        ({"early_stopping_patience": 0}, ["1 or more"]),
    ],
    ids=str,
)
def test_stopping_early_needs_something_to_go_by(changed, words, tmp_path, capsys):
    options = {**EVERY_STEP, **changed, **files(tmp_path, ROWS[CLASSIFY])}
    assert_refused(tmp_path, options, ["early_stopping_patience", *words], capsys)


@pytest.mark.parametrize(("strategy", "delay", "unit"), [("steps", 10, "steps"), ("epoch", 99, "epochs")])
def test_an_evaluation_after_the_end_is_refused(strategy, delay, unit, tmp_path, capsys):
    """It would never come, and with it no best model and no early stopping."""
    options = {"eval_strategy": strategy, "eval_delay": delay, "max_steps": 9, **files(tmp_path, ROWS[CLASSIFY])}
    assert_refused(tmp_path, options, [f"eval_delay: {delay} {unit}, but the run has"], capsys)


def test_a_regression_has_no_labels_to_smooth(tmp_path, capsys):
    rows = [{"text": f"a {i}", "label": i / 3} for i in range(8)]
    options = {"problem_type": "regression", "label_smoothing_factor": 0.1}
    assert_refused(tmp_path, {**options, **files(tmp_path, rows)}, ["label_smoothing_factor: a regression"], capsys)


def test_every_figure_of_an_evaluation_has_a_direction():
    figures = set().union(*(case[-1] for case in CASES.values())) | {"loss"}
    unknown = {name for name in figures if greater_is_better(name) is None}
    assert unknown == {name for name in figures if name.endswith(("_note", "_signature"))}


def test_the_lowest_perplexity_is_the_best_and_a_falling_one_stops_no_run(tmp_path):
    options = {**EVERY_STEP, "task": "causal-lm", "metric_for_best_model": "perplexity", "early_stopping_patience": 1}
    rows = [{"text": "abab" * i} for i in range(1, 9)]
    out = run(tmp_path / "out", **{**options, "max_steps": 3, "learning_rate": 1e-2}, **files(tmp_path, rows))
    state = read(out / "trainer_state.json")
    found = [line["eval_perplexity"] for line in state["log_history"] if "eval_perplexity" in line]
    assert found[0] > found[1] > found[2] and state["best_metric"] == found[2]
    assert read(out / "eval_results.json")["eval_perplexity"] == found[2]


@pytest.mark.parametrize(
    "options, better",
    [
        ({"metric_for_best_model": "eval_loss"}, False),
        ({"metric_for_best_model": "f1", "task": TAG}, True),
        ({"metric_for_best_model": "eval_word_error_rate", "task": TRANSLATE}, False),
        ({"metric_for_best_model": "mse", "problem_type": "regression"}, False),
    ],
    ids=str,
)
def test_a_metric_knows_its_direction_and_one_against_it_is_refused(options, better, tmp_path, capsys):
    rows = PAIRS if "problem_type" in options else ROWS[options.get("task", CLASSIFY)]
    options = {"eval_strategy": "epoch", "lr_scheduler_type": "reduce_lr_on_plateau", **options}
    options |= files(tmp_path, rows, ["train", "validation"])
    for said in (None, better):
        args = prepared(tmp_path / "out", greater_is_better=said, **options).trainer.args
        assert args.greater_is_better is better
        assert args.lr_scheduler_kwargs == {"mode": "max" if better else "min"}
    words = ["greater_is_better", "higher" if better else "lower", options["metric_for_best_model"]]
    assert_refused(tmp_path, {**options, "greater_is_better": not better}, words, capsys)
    mode = "min" if better else "max"
    assert_refused(tmp_path, {**options, "lr_scheduler_kwargs": f'{{"mode": "{mode}"}}'}, [f"mode={mode}"], capsys)


@pytest.mark.parametrize("kind", [TrainingArguments, BlendTrainingArguments])
def test_a_trainer_in_python_knows_it_too_but_for_metrics_of_the_users_own(kind, tmp_path):
    args = {"output_dir": str(tmp_path), "use_cpu": True, "metric_for_best_model": "eval_perplexity"}
    config = BlendDecoderConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=1)
    model = BlendDecoderForCausalLM(config)
    assert BlendTrainer(model=model, args=kind(**args)).args.greater_is_better is False
    trainer = BlendTrainer(model=model, args=kind(**args), compute_metrics=lambda predicted: {"perplexity": 1.0})
    assert trainer.args.greater_is_better is True
    with pytest.raises(InputError, match="lower is better"):
        BlendTrainer(model=model, args=kind(**{**args, "metric_for_best_model": "loss"}, greater_is_better=True))


@pytest.mark.parametrize(("given", "splits"), [({"eval_strategy": "no"}, SPLITS), ({}, ["train"])], ids=str)
def test_saving_the_best_needs_something_to_go_by(given, splits, tmp_path, capsys):
    options = {"save_strategy": "best", **given, **files(tmp_path, ROWS[CLASSIFY], splits)}
    assert_refused(tmp_path, options, ["save_strategy", "eval_strategy"], capsys)


# --- How a run generates ---

GENERATION = {"repetition_penalty": 1.5, "num_beams": 3}


@pytest.mark.parametrize("given", ["file", "directory", "mapping", "object", "mapping in Python"])
def test_a_generation_config_completes_that_of_the_model(given, tmp_path):
    """Its length and its tokens stay, in the run and in what is saved."""
    saved = tmp_path / "generation"
    GenerationConfig(**GENERATION).save_pretrained(saved)
    options = {"task": TRANSLATE, "max_length": 12, **files(tmp_path, ROWS[TRANSLATE], ["train"])}
    if given in ("file", "directory"):
        path = saved / "generation_config.json" if given == "file" else saved
        trainer = prepared(tmp_path / "out", generation_config=path, **options).trainer
    elif given == "mapping":
        (tmp_path / "run.yaml").write_text(yaml.safe_dump({"generation_config": GENERATION}))
        trainer = prepare([str(tmp_path / "run.yaml"), *flags(tmp_path / "out", options)]).trainer
    else:
        job = prepared(tmp_path / "out", **options)
        config = GenerationConfig(**GENERATION) if given == "object" else GENERATION
        args = Seq2SeqTrainingArguments(output_dir=str(tmp_path / "own"), use_cpu=True, generation_config=config)
        trainer = BlendTrainer(model=job.trainer.model, args=args)
    trainer.save_model(tmp_path / "model")
    for config in (trainer.model.generation_config, GenerationConfig.from_pretrained(tmp_path / "model")):
        assert {name: getattr(config, name) for name in GENERATION} == GENERATION
        assert config.max_length == 13
        assert config.decoder_start_token_id == trainer.model.config.decoder_start_token_id is not None
        assert config.eos_token_id == trainer.model.config.eos_token_id is not None


def test_flags_win_over_a_generation_config_and_one_length_is_left(tmp_path, caplog):
    GenerationConfig(num_beams=3, max_new_tokens=5, eos_token_id=1).save_pretrained(tmp_path / "generation")
    options = {"generation_config": tmp_path / "generation", "generation_num_beams": 2, "task": TRANSLATE}
    model = prepared(tmp_path / "out", **options, **files(tmp_path, ROWS[TRANSLATE], ["train"])).trainer.model
    config = model.generation_config
    assert (config.num_beams, config.max_new_tokens, config.max_length) == (2, 5, None)
    assert f"other tokens than the model: eos_token_id 1, not {model.config.eos_token_id}" in caplog.text


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"num_beems": 2}, ["'num_beems'", "nearest first: num_beams, "]),
        ({"max_new_tokens": 99}, ["99", "max_position_embeddings"]),
        # What `generate` alone refuses.
        ({"stop_strings": ["a"]}, ["stop strings", "tokenizer"]),
        ({"forced_eos_token_id": 999}, ["index 999 is out of bounds"]),
    ],
    ids=str,
)
def test_a_generation_config_that_cannot_be_is_refused(settings, words, tmp_path, capsys):
    GenerationConfig(**settings).save_pretrained(tmp_path / "generation")
    overrides = f"{SMALL},position_type=learned,max_position_embeddings=32"
    options = {"generation_config": tmp_path / "generation", "task": TRANSLATE, "config_overrides": overrides}
    options |= files(tmp_path, ROWS[TRANSLATE], ["train", "validation"])
    assert_refused(tmp_path, options, ["generation_config", *words], capsys)


def test_two_lengths_of_what_is_generated_are_refused(tmp_path, capsys):
    GenerationConfig(max_new_tokens=3).save_pretrained(tmp_path / "generation")
    options = {"generation_config": tmp_path / "generation", "generation_max_length": 8, "task": TRANSLATE}
    options |= files(tmp_path, ROWS[TRANSLATE], ["train"])
    assert_refused(tmp_path, options, ["generation_max_length", "max_new_tokens"], capsys)


@pytest.mark.parametrize(
    "more", [{"num_return_sequences": 4}, {"return_dict_in_generate": True, "output_scores": True}], ids=str
)
def test_an_evaluation_compares_one_sequence_with_each_row(more, tmp_path):
    """Even if the settings, which are saved as they are, ask for several sequences, or for more than their tokens."""
    options = {"task": TRANSLATE, "eval_strategy": "epoch", "max_length": 8, **files(tmp_path, ROWS[TRANSLATE])}
    options["config_overrides"] = f"{SMALL},initializer_range=0.5"
    answers = []
    for name, own in {"plain": {"num_beams": 4}, "more": {"num_beams": 4, **more}}.items():
        GenerationConfig(**own).save_pretrained(tmp_path / name / "generation")
        out = run(tmp_path / name / "out", generation_config=tmp_path / name / "generation", **options)
        saved = GenerationConfig.from_pretrained(out)
        assert {setting: getattr(saved, setting) for setting in own} == own
        answers.append([answer["prediction"] for answer in predictions(out)])
    assert answers[0] == answers[1] and len(set(answers[0])) > 1


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
    state, saved = job.trainer.model.state_dict(), [load_file(path / "model.safetensors") for path in paths]
    encoder, decoder = (
        {name: tensor for name, tensor in tensors.items() if name.startswith("model.")} for tensors in saved
    )
    assert all(torch.equal(state[name.replace("model.", "model.encoder.", 1)], encoder[name]) for name in encoder)
    assert all(torch.equal(state[name.replace("model.", "model.decoder.", 1)], decoder[name]) for name in decoder)
    new = {name for name in state if ".cross_attn" in name or name.startswith("score.")}
    assert len(state) - len(new) - len(encoder) - len(decoder) == (task == TRANSLATE)  # the tied projection
    names = ", ".join(sorted(new))
    lines = [f"{paths[0]}: dropped: head.dense.weight, head.norm.weight"]
    lines.append(f"{paths[0]} and {paths[1]}: newly initialized: {names}")
    assert [message for message in caplog.messages if message.startswith(str(paths[0]))] == lines
    if task == TRANSLATE:
        assert torch.equal(job.trainer.model.lm_head.weight, decoder["model.embed_tokens.weight"])
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
    assert all(
        torch.equal(tensor, job.trainer.model.model.state_dict()[name]) for name, tensor in base.state_dict().items()
    )
    assert f"{tmp_path / 'base'}: newly initialized: classifier.bias, classifier.weight" in caplog.messages


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
        f"model: BlendEncoderDecoderForSeq2SeqLM, {job.trainer.model.num_parameters():,} parameters",
        f"data: 5 rows and {tokens} tokens of source and target an epoch, without padding",
        f"steps: 6; 3 an epoch, {tokens / 3:.0f} tokens each on average",
        f"output: {out}",
    ]
    lines = [line for line in read(out / "trainer_state.json")["log_history"] if "loss" in line]
    assert len(lines) == 6 and all(line["train_tokens_per_second"] > 0 for line in lines)
    # Of so short a run all may be rounded to none.
    assert all(line["seconds_left"] >= 0 for line in lines) and lines[-1]["seconds_left"] == 0


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({"max_steps": 150}, 7),
        ({"max_steps": 20_000}, 1000),
        ({"max_steps": -1, "num_train_epochs": 80, "per_device_train_batch_size": 2}, 12),
        ({"max_steps": 150, "logging-steps": 500}, 500),
    ],
)
def test_the_log_of_any_run_is_a_curve_unless_logging_steps_says_otherwise(options, steps, tmp_path):
    job = prepared(tmp_path / "out", **options, **files(tmp_path, ROWS[CLASSIFY]))
    assert job.trainer.args.logging_steps == steps


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


def test_processes_that_would_each_train_alone_are_refused(tmp_path, monkeypatch):
    """torchrun without a GPU and without --use_cpu: both wrote into one directory."""
    args = BlendTrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="use_cpu: 2 processes were started, and without a GPU each would train by"):
        check_device(args)


# --- Errors of options, and of our own code ---


@pytest.mark.parametrize("error", [AttributeError, NameError, TypeError, ValueError, RuntimeError])
def test_an_error_of_our_own_code_is_no_error_of_an_option(error, tmp_path, monkeypatch):
    def fail(self):
        raise error("failed")

    monkeypatch.setattr(BlendTrainer, "get_train_dataloader", fail)
    args = BlendTrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none", do_train=True)
    expected, words = (error, "^failed$") if error in BUGS else (InputError, "^dataloader: failed$")
    with pytest.raises(expected, match=words):
        make_trainer(model=tiny_model(BlendDecoderForCausalLM), args=args)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"accelerator_config": {"gradient_accumulation_kwargs": {"new": 1}}}, "accelerator_config: .*'new'"),
        ({"lr_scheduler_type": "cosine", "lr_scheduler_kwargs": {"new": 1}}, "lr_scheduler_type: .*'new'"),
    ],
)
def test_names_that_another_library_does_not_know_are_an_error_of_the_option(options, words, tmp_path):
    """A function that is called with them raises TypeError."""
    args = BlendTrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none", do_train=True, **options)
    rows = datasets.Dataset.from_list([{"input_ids": [1, 2], "labels": [1, 2]}] * 8)
    with pytest.raises(InputError, match=words):
        make_trainer(model=tiny_model(BlendDecoderForCausalLM), args=args, train_dataset=rows)
