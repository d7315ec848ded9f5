"""Class weights and early stopping on the command line: what they are, what the run says, and what is refused."""

import itertools
from collections import Counter

import datasets
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from test_train_command import (
    CLASSIFY,
    ROWS,
    SEVERAL,
    SMALL,
    TAG,
    assert_refused,
    files,
    flags,
    plain_cards,  # noqa: F401
    prepared,
    quick_and_quiet,  # noqa: F401
    read,
    run,
)

from seqblend.train import prepare
from seqblend.training.files import InputError
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
