"""Probabilities that are true, thresholds that are chosen: measured by hand, folded into the weights, kept."""

import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import HEADS, assert_close, draw, named, output_of, padded, tiny_model
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score, roc_auc_score
from test_train_command import CLASSIFY, TAG, flags, from_model, predictions, read, run, write
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from seqblend import Predictor
from seqblend.calibration import measures
from seqblend.calibration.calibrator import Calibrator, abstention_metrics, better_score
from seqblend.calibration.measures import SEVERAL, ClassifierOutputs
from seqblend.calibration.temperature import divide_logits, fit_temperature
from seqblend.calibration.thresholds import NOISE, accuracy_threshold, label_threshold, precision_threshold
from seqblend.tasks.sequence_classification import answer_scores
from seqblend.train import main as train


def outputs_of(temperature, count=20_000, classes=4, seed=0):
    """Logits whose probabilities would be true if they were divided by the temperature."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=2, size=(count, classes))
    true = ClassifierOutputs(logits, np.zeros(count, int)).probabilities
    return ClassifierOutputs(logits * temperature, np.array([rng.choice(classes, p=row) for row in true]))


# --- Measures ---


def test_the_calibration_error_by_hand():
    """Two bins: of three answers with 0.9 two are right, of one with 0.6 none is."""
    logits = np.log([[0.9, 0.1], [0.9, 0.1], [0.9, 0.1], [0.6, 0.4]])
    outputs = ClassifierOutputs(logits, np.array([0, 0, 1, 1]))
    assert measures.expected_calibration_error(outputs) == pytest.approx((3 * abs(0.9 - 2 / 3) + 0.6) / 4)
    assert measures.brier_score(outputs) == pytest.approx((2 * 0.02 + 1.62 + 0.72) / 4)


@given(st.lists(st.tuples(st.sampled_from([0, 1, 4, 10, 29, 30]), st.booleans()), min_size=1, max_size=20))
def test_the_calibration_error_has_fifteen_bins_of_equal_width(pairs):
    """Of one label the probabilities are k / 30; the first number of a bin belongs to it, and 1 to the last one."""
    parts, is_right = (np.array(side) for side in zip(*pairs, strict=True))
    with np.errstate(divide="ignore"):
        logits = np.log(parts) - np.log(30 - parts)
    # Rounding must not move a probability over the edge of its bin.
    outputs = ClassifierOutputs(logits[:, None] + 1e-6, is_right[:, None].astype(float), SEVERAL)
    bins = np.minimum(parts // 2, 14)
    gaps = [abs((parts[bins == each] / 30 - is_right[bins == each]).sum()) for each in range(15)]
    assert measures.expected_calibration_error(outputs) == pytest.approx(sum(gaps) / len(parts), abs=1e-5)


def test_the_likelihood_is_the_loss_of_torch():
    outputs = outputs_of(1.5, 200)
    expected = torch.nn.functional.cross_entropy(torch.tensor(outputs.logits), torch.tensor(outputs.targets))
    assert measures.negative_log_likelihood(outputs) == pytest.approx(float(expected))
    several = ClassifierOutputs(outputs.logits, np.eye(4)[outputs.targets], SEVERAL)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        *map(torch.tensor, (several.logits, several.targets))
    )
    assert measures.negative_log_likelihood(several) == pytest.approx(float(expected))


def test_the_error_of_several_labels_counts_every_label():
    """A label with 0.8 that half of the rows have is off by 0.3."""
    logits = np.full((10, 1), np.log(4.0))
    outputs = ClassifierOutputs(logits, np.array([[1.0], [0.0]] * 5), SEVERAL)
    assert measures.expected_calibration_error(outputs) == pytest.approx(0.3)
    assert measures.brier_score(outputs) == pytest.approx((0.2**2 + 0.8**2) / 2)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=20), st.lists(st.integers(0, 5), min_size=1, max_size=20))
def test_auroc_is_that_of_scikit_learn(known, unknown):
    expected = roc_auc_score([1] * len(known) + [0] * len(unknown), [*known, *unknown])
    assert measures.auroc(np.array(known), np.array(unknown)) == pytest.approx(expected)


def test_false_positives_where_nearly_all_known_rows_are_kept():
    known, unknown = np.arange(1, 101) / 100, np.array([0.055, 0.061, 0.5])
    assert measures.false_positives_at_recall(known, unknown) == pytest.approx(2 / 3)
    # 19 of 21 are less than 95 %, and a row with the same score as the 20th is kept, too.
    assert measures.false_positives_at_recall(np.arange(21.0), np.array([1.0, 0.9])) == 0.5


# --- Temperature ---


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_that_spoilt_the_logits_is_found(temperature):
    outputs = outputs_of(temperature)
    found = fit_temperature(outputs)
    assert found == pytest.approx(temperature, rel=0.05)
    assert measures.expected_calibration_error(outputs.scaled(found)) < 0.02


def test_a_model_without_errors_has_no_temperature():
    assert fit_temperature(ClassifierOutputs(np.array([[3.0, -3.0], [-3.0, 3.0]] * 5), np.array([0, 1] * 5))) is None


def test_a_model_that_knows_nothing_has_no_temperature():
    """It is best to say the same of all rows; and one that is nearly always right, to be sure of all."""
    rng = np.random.default_rng(0)
    logits, targets = rng.normal(scale=3, size=(2000, 4)), rng.integers(0, 4, 2000)
    assert fit_temperature(ClassifierOutputs(logits, targets)) is None
    targets = logits.argmax(-1)
    logits[0], targets[0] = [1e-9, 0, 0, 0], 1
    assert fit_temperature(ClassifierOutputs(logits / 1000, targets)) is None


@pytest.mark.parametrize("model_class", [each for each in HEADS if "Classification" in each.__name__], ids=named)
@pytest.mark.parametrize("score_bias", [True, False])
def test_the_logits_of_every_classifier_are_divided(model_class, score_bias):
    model, batch = tiny_model(model_class, score_bias=score_bias), padded(draw(model_class, [5, 3], labels=False))
    before = output_of(model, batch)
    divide_logits(model, 2.5)
    assert_close(output_of(model, batch), before / 2.5)
    assert model.config.calibration_temperature == 2.5


# --- Thresholds ---

PROBABILITIES = st.lists(st.tuples(st.integers(1, 9), st.booleans()), min_size=1, max_size=12)


@given(PROBABILITIES)
def test_the_threshold_of_a_label_has_the_best_F1(pairs):
    probabilities, is_right = (np.array(side) for side in zip(*pairs, strict=True))
    probabilities = probabilities / 10
    found = label_threshold(probabilities, is_right)
    if not is_right.any():
        assert found is None
        return
    scores = [f1_score(is_right, probabilities > each, zero_division=0) for each in np.arange(0.05, 1, 0.05)]
    assert f1_score(is_right, probabilities > found, zero_division=0) == pytest.approx(max(scores))


@given(PROBABILITIES, st.sampled_from([0.5, 0.8, 0.99]))
def test_the_threshold_of_a_precision_has_the_most_answers(pairs, precision):
    confidences, is_right = (np.array(side) for side in zip(*pairs, strict=True))
    confidences = confidences / 10

    def share(threshold):
        return is_right[confidences >= threshold].mean() if (confidences >= threshold).any() else 0.0

    good = [each for each in np.arange(0.05, 1, 0.1) if share(each) >= precision]
    found = precision_threshold(confidences, is_right, precision)
    assert (found is None) == (not good)
    if good:
        assert share(found) >= precision
        assert (confidences >= found).sum() == max((confidences >= each).sum() for each in good)


def test_a_precision_that_is_met_exactly():
    """0.55 * 100 is a little more than 55."""
    scores = np.arange(100)[::-1] / 100
    assert precision_threshold(scores, np.arange(100) < 55, 0.55) == 0


@given(PROBABILITIES, st.sampled_from([0.0, 0.1, 0.5]))
def test_as_many_right_answers_are_lost_as_allowed_and_no_more(pairs, most):
    confidences, is_right = (np.array(side) for side in zip(*pairs, strict=True))
    confidences = confidences / 10
    found = accuracy_threshold(confidences, is_right, most)
    assert (is_right & (confidences < found)).mean() <= most
    higher = confidences[confidences >= found]
    if len(higher) and found < 1:
        assert (is_right & (confidences <= higher.min())).mean() > most


@given(PROBABILITIES, st.sampled_from([0.5, 0.8]))
def test_the_threshold_of_a_label_has_the_precision_and_the_best_recall(pairs, precision):
    probabilities, is_right = (np.array(side) for side in zip(*pairs, strict=True))
    probabilities = probabilities / 10
    good = [
        is_right[probabilities > each].sum()
        for each in np.arange(0.05, 1, 0.1)
        if (probabilities > each).any() and is_right[probabilities > each].mean() >= precision
    ]
    found = label_threshold(probabilities, is_right, precision)
    assert (found is None) == (max(good, default=0) == 0)
    if found is not None:
        predicted = probabilities > found
        assert is_right[predicted].mean() >= precision and is_right[predicted].sum() == max(good)


@given(PROBABILITIES, st.sampled_from([None, 0.5, 0.8]))
def test_no_threshold_stands_between_scores_that_differ_by_rounding(pairs, precision):
    """The same text in another batch has another last digit, and would be answered otherwise."""
    tenths, is_right = (np.array(side) for side in zip(*pairs, strict=True))
    scores = tenths / 10 + 1e-8 * np.arange(len(tenths))
    found = [label_threshold(scores, is_right, precision), precision_threshold(scores, is_right, precision or 0.9)]
    for threshold in (*found, accuracy_threshold(scores, is_right, 0.1)):
        assert threshold is None or threshold > scores.max() or np.abs(scores - threshold).min() > NOISE / 3


# --- Runs ---

WORDS = {"fruit": ["apple", "pear", "plum"], "tool": ["saw", "axe", "drill"], "pet": ["cat", "dog", "fish"]}


def text_rows(count, seed, mistakes=0.15):
    """Texts of two words of one kind; some have a wrong label, so that no model is always right."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        kind = str(rng.choice(list(WORDS)))
        text = " ".join(map(str, rng.choice(WORDS[kind], 2)))
        rows.append({"text": text, "label": str(rng.choice(list(WORDS))) if rng.random() < mistakes else kind})
    return rows


def data_of(root, make=text_rows):
    sizes = {"train": 96, "validation": 120, "test": 120}
    return {
        f"{split}_file": write(root / f"{split}.jsonl", make(count, seed))
        for seed, (split, count) in enumerate(sizes.items())
    }


def clear_and_unclear_rows(count, seed):
    """Texts with the name of their label, and in every fourth row one that says nothing about its label."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(["x", "y"], count).tolist()
    return [
        {"text": "ab ab" if index % 4 == 0 else f"{label} {label}", "label": label}
        for index, label in enumerate(labels)
    ]


LEARNING = {"max_steps": 60, "learning_rate": 1e-2, "per_device_train_batch_size": 16, "label_smoothing_factor": 0.3}
LEARNING["eval_strategy"] = "no"


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory):
    """A run without and one with --calibrate, of the same seed; label smoothing makes the first one too modest."""
    root = tmp_path_factory.mktemp("calibrated")
    data = data_of(root)
    plain = run(root / "plain", task=CLASSIFY, **data, **LEARNING)
    return plain, run(root / "calibrated", task=CLASSIFY, **data, **LEARNING, calibrate=True), data


def test_the_weights_hold_the_temperature(calibrated):
    plain, directory, _ = calibrated
    one, other = (AutoModelForSequenceClassification.from_pretrained(each) for each in (plain, directory))
    temperature = other.config.calibration_temperature
    assert one.config.calibration_temperature is None and abs(temperature - 1) > 0.05
    inputs = AutoTokenizer.from_pretrained(directory)("apple plum", return_tensors="pt")
    logits = [model(**inputs).logits for model in (one, other)]
    torch.testing.assert_close(logits[0] / temperature, logits[1], rtol=1e-4, atol=1e-5)


def test_no_answer_changes_and_the_probabilities_become_truer(calibrated):
    plain, directory, _ = calibrated
    answers = [predictions(each) for each in (plain, directory)]
    assert [row["prediction"] for row in answers[0]] == [row["prediction"] for row in answers[1]]
    results = read(directory / "all_results.json")
    for split in ("eval", "test"):
        assert results[f"{split}_negative_log_likelihood"] < results[f"{split}_negative_log_likelihood_before"]
        assert results[f"{split}_negative_log_likelihood"] == pytest.approx(results[f"{split}_loss"], rel=1e-4)
    assert results["eval_expected_calibration_error"] < results["eval_expected_calibration_error_before"]
    bins = read(directory / "calibration.json")
    assert sum(each["count"] for each in bins["test"]["after"]) == len(answers[0])
    for prefix, split in (("eval", "validation"), ("test", "test")):
        before = results[f"{prefix}_negative_log_likelihood_before"]
        assert before == pytest.approx(read(plain / "all_results.json")[f"{prefix}_loss"], rel=1e-4)
        for name, key in (("before", "_before"), ("after", "")):
            gaps = [each["count"] * abs(each["confidence"] - each["accuracy"]) for each in bins[split][name]]
            error = results[f"{prefix}_expected_calibration_error{key}"]
            assert sum(gaps) / len(answers[0]) == pytest.approx(error)


@pytest.mark.parametrize("trains", [True, False])
def test_figures_of_another_model_or_other_rows_do_not_stay(trains, calibrated, tmp_path):
    """Of a run that is repeated without --calibrate, and of an evaluation of other rows."""
    _, directory, data = calibrated
    out = shutil.copytree(directory, tmp_path / "out")
    if trains:
        run(out, task=CLASSIFY, **data, **LEARNING, overwrite_output_dir=True)
    else:
        run(out, task=CLASSIFY, **from_model(out, test_file=data["test_file"]))
    assert "test_accuracy" in read(out / "all_results.json")
    assert "test_expected_calibration_error" not in read(out / "all_results.json")
    assert not (out / "calibration.json").exists()


def test_every_client_gets_the_same_probabilities(calibrated):
    _, directory, _data = calibrated
    rows = [row["text"] for row in text_rows(20, 2)]
    answers = Predictor(directory, probabilities=True)({"text": rows})["scores"]
    classify = pipeline("text-classification", model=str(directory), top_k=None)
    for found, expected in zip(classify(rows), answers, strict=True):
        by_label = {each["label"]: each["score"] for each in found}
        assert by_label == pytest.approx({each["label"]: each["score"] for each in expected}, abs=1e-5)


def test_a_run_that_goes_on_from_a_calibrated_model_starts_anew(calibrated, tmp_path):
    _, directory, data = calibrated
    options = {"model_name_or_path": directory, "tokenizer_type": None, "config_overrides": None}
    again = run(tmp_path / "out", task=CLASSIFY, train_file=data["train_file"], **options)
    assert read(again / "config.json")["calibration_temperature"] is None


def test_the_tags_of_words_are_calibrated_too(tmp_path):
    def make(count, seed):
        rows = text_rows(count, seed)
        return [{"tokens": row["text"].split(), "tags": [row["label"]] * 2} for row in rows]

    directory = run(tmp_path / "out", task=TAG, **data_of(tmp_path, make), **LEARNING, calibrate=True)
    results = read(directory / "all_results.json")
    assert read(directory / "config.json")["calibration_temperature"] is not None
    assert results["test_negative_log_likelihood"] < results["test_negative_log_likelihood_before"]


def several_rows(count, seed):
    rows = text_rows(count, seed)
    return [{**row, "label": [row["label"], *(["sharp"] if "axe" in row["text"] else [])]} for row in rows]


@pytest.mark.parametrize("given", ["f1", "0.9"])
def test_each_of_several_labels_gets_its_threshold(given, tmp_path):
    several = {"problem_type": SEVERAL, "label_thresholds": given}
    directory = run(tmp_path / "out", task=CLASSIFY, **data_of(tmp_path, several_rows), **LEARNING, **several)
    config = read(directory / "config.json")
    names, thresholds = [config["id2label"][str(i)] for i in range(4)], config["label_thresholds"]
    assert len({*thresholds}) > 1
    rows = [row["text"] for row in several_rows(120, 2)]
    answers = Predictor(directory)({"text": rows})
    assert answers["prediction"] == [row["prediction"] for row in predictions(directory)]
    for labels, scores in zip(answers["prediction"], answers["scores"], strict=True):
        by_name = {each["label"]: each["score"] for each in scores}
        assert labels == [name for name, at in zip(names, thresholds, strict=True) if by_name[name] > at]


UNKNOWN = [{"text": text} for text in ("zzz yyy", "qqq", "vvv www", "kkk jjj", "zz qq")]


def test_rows_of_none_of_the_classes(tmp_path):
    """Words that no training row has: what is chosen and what is measured."""
    unknown = {
        f"{split}_unknown_file": write(tmp_path / f"{split}_unknown.jsonl", UNKNOWN)
        for split in ("validation", "test")
    }
    directory = run(tmp_path / "out", task=CLASSIFY, **data_of(tmp_path), **LEARNING, **unknown)
    results, rows = read(directory / "all_results.json"), predictions(directory)
    model = AutoModelForSequenceClassification.from_pretrained(directory)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    for row in rows[:20]:
        logits = model(**tokenizer(row["input"], return_tensors="pt")).logits[0]
        scores = {"probability": logits.softmax(-1).max(), "energy": logits.exp().sum().log()}
        distance = float(scores[model.config.abstain_score]) - model.config.abstain_threshold
        # Another batch may differ in the last digits.
        assert row["abstains"] == (distance < 0) or abs(distance) < 1e-5
    right = [row["prediction"] == row["reference"] and not row["abstains"] for row in rows]
    assert results["test_known_accuracy"] == pytest.approx(np.mean(right))
    assert results["eval_known_accuracy"] >= results["eval_accuracy"] - 0.01 - 1e-9
    answers = Predictor(directory)({"text": [row["text"] for row in UNKNOWN]})
    assert results["test_unknown_recall"] == pytest.approx(np.mean(answers["abstains"]))
    assert 0 <= results["test_unknown_auroc"] <= 1


def test_rows_with_the_label_of_none_of_the_classes(tmp_path):
    """The same as with files of their own; training does not see them, and the model does not know the label."""

    def make(count, seed):
        rows = text_rows(count, seed)
        return [*rows[:3], *({**row, "label": "none"} for row in UNKNOWN), *rows[3:]]

    labelled = run(tmp_path / "a", task=CLASSIFY, **data_of(tmp_path, make), **LEARNING, unknown_label="none")
    file = write(tmp_path / "unknown.jsonl", UNKNOWN)
    unknown = {"validation_unknown_file": file, "test_unknown_file": file}
    apart = run(tmp_path / "b", task=CLASSIFY, **data_of(tmp_path), **LEARNING, **unknown)
    results = [read(directory / "all_results.json") for directory in (labelled, apart)]
    names = [name for name in results[0] if "known" in name and isinstance(results[0][name], float)]
    assert len(names) >= 8
    assert {name: results[0][name] for name in names} == {name: results[1][name] for name in names}
    assert "none" not in read(labelled / "config.json")["label2id"]


def test_the_score_that_notices_more_unknown_rows_is_taken():
    """All logits of unknown rows are low, in the same proportions as those of known rows: only the energy tells."""
    known = np.array([[6.0, 2.0], [1.0, 5.0], [7.0, 3.0]])
    assert better_score(known, known - 5) == "energy"
    # Their best logit is as high, but another one is, too.
    assert better_score(known, np.array([[5.5, 5.4], [5.1, 5.0]])) == "probability"
    assert better_score(known, np.empty((0, 2))) == "probability"


def test_abstaining_is_measured_by_hand():
    """Of three known rows two are answered, of which one is right; of two unknown ones one is answered."""
    rows = (np.array([0.9, 0.8, 0.3]), np.array([0.85, 0.1]), np.array([True, False, True]))
    known = {"known_accuracy": 1 / 3, "coverage": 2 / 3, "selective_precision": 1 / 3}
    unknown = {"unknown_recall": 1 / 2, "unknown_auroc": 4 / 6, "unknown_fpr95": 1 / 2}
    assert abstention_metrics(*rows, 0.8) == pytest.approx(known | unknown)
    alone = abstention_metrics(rows[0], np.empty(0), rows[2], 0.8)
    assert alone == pytest.approx({**known, "selective_precision": 1 / 2})
    assert abstention_metrics(*rows, -np.inf)["selective_precision"] == 2 / 5
    # A score at the threshold is an answer.
    assert abstention_metrics(*rows, 0.85)["selective_precision"] == 1 / 2
    assert abstention_metrics(*rows, 2)["selective_precision"] == 0


def calibrator_of(outputs, unknown=None, **options):
    """What fits thresholds, with the outputs of a model on the validation split."""
    given = SimpleNamespace(**{"abstain_precision": None, "label_thresholds": None, **options})
    settings = SimpleNamespace(labels=["a", "b", "c"])
    calibrator = Calibrator(None, None, {}, {} if unknown is None else {"validation": None}, given, settings)
    calibrator.outputs["validation"], calibrator._unknown_logits["validation"] = outputs, unknown
    return calibrator


def test_a_label_without_a_threshold_of_its_own_is_predicted_as_usual_or_never(caplog):
    """The second label is nearly as probable in rows without it, and of the third there is no row."""
    logits = np.array([[2.0, 0.0, 0.0], [1.0, 0.1, 1.0], [-1.0, 0.2, 2.0], [-2.0, 0.3, 3.0]])
    targets = np.array([[1, 1, 0], [1, 0, 0], [0, 1, 0], [0, 0, 0]])
    calibrator = calibrator_of(ClassifierOutputs(logits, targets, SEVERAL), label_thresholds="0.9")
    middle = (1 / (1 + np.exp(-1)) + 1 / (1 + np.exp(1))) / 2
    names = dict(enumerate("abc"))
    assert calibrator.fit_label_thresholds(names) == pytest.approx([middle, 1.0, 0.5])
    assert "0.5 for c: no validation row" in caplog.text and "for want of a precision of 0.9: b" in caplog.text


def test_an_answer_to_an_unknown_row_is_a_wrong_one():
    """It is surer than the answer to the second known row, which would be answered without it."""
    outputs = ClassifierOutputs(np.diag([5.0, 4.0, 3.0])[:2], np.array([0, 1]))
    unknown = np.array([[0.0, 4.5, 0.0]])
    for precision, answered in ((0.6, 2), (0.9, 1)):
        fitted = calibrator_of(outputs, unknown, abstain_precision=precision).fit_abstain_threshold()
        scores = answer_scores(outputs.logits, fitted["abstain_score"])
        assert (scores >= fitted["abstain_threshold"]).sum() == answered
    alone = calibrator_of(outputs, abstain_precision=0.9).fit_abstain_threshold()
    assert alone["abstain_threshold"] < answer_scores(outputs.logits, "probability").min()
    wrong = ClassifierOutputs(outputs.logits, np.array([1, 2]))
    never = calibrator_of(wrong, unknown, abstain_precision=0.5).fit_abstain_threshold()
    scores = np.concatenate([answer_scores(each, never["abstain_score"]) for each in (wrong.logits, unknown)])
    assert never["abstain_threshold"] > scores.max()


def test_a_model_that_never_abstains_answers_every_unknown_row():
    """Where only the test split has such rows, no threshold is fitted."""
    outputs = ClassifierOutputs(np.diag([5.0, 4.0, 3.0])[:2], np.array([0, 2]))
    calibrator = calibrator_of(outputs, np.array([[0.0, 4.5, 0.0]]))
    config = SimpleNamespace(abstain_threshold=None, abstain_score="energy")
    calibrator.trainer = SimpleNamespace(model=SimpleNamespace(config=config))
    found = calibrator.metrics("validation")
    assert (found["known_accuracy"], found["coverage"], found["unknown_recall"]) == (1 / 2, 1, 0)
    assert found["selective_precision"] == pytest.approx(1 / 3) and found["unknown_auroc"] == 1 / 2


def test_a_precision_that_is_asked_for(tmp_path):
    unknown = {"validation_unknown_file": write(tmp_path / "unknown.jsonl", UNKNOWN)}
    given = {**data_of(tmp_path, clear_and_unclear_rows), **LEARNING, **unknown, "abstain_precision": 0.97}
    results = read(run(tmp_path / "out", task=CLASSIFY, **given) / "all_results.json")
    assert results["eval_selective_precision"] >= 0.97 and 0 < results["eval_coverage"] < 1


BAD = {
    "no validation": (
        {"calibrate": True, "validation_file": None},
        "calibrate: is fitted on the validation split after training, and there is no validation split",
    ),
    "numbers": ({"calibrate": True, "problem_type": "regression"}, "calibrate: a regression has no probabilities"),
    "one label": ({"label_thresholds": "f1"}, "label_thresholds: is for problem_type multi_label_classification"),
    "a word": (
        {"label_thresholds": "best", "problem_type": SEVERAL},
        "label_thresholds: must be f1, or a precision above 0 and below 1, got 'best'",
    ),
    "several": (
        {"abstain_precision": 0.9, "problem_type": SEVERAL},
        "abstain_precision: is for a single label, and this run has problem_type multi_label_classification",
    ),
    "too much": ({"abstain_precision": 1.5}, "abstain_precision: must be above 0 and below 1, got 1.5"),
    "no such label": ({"unknown_label": "zzz"}, "unknown_label: no row has the label 'zzz'"),
    "no file": ({"validation_unknown_file": "no.jsonl"}, "no.jsonl: no such file"),
    "another task": (
        {"task": TAG, "abstain_precision": 0.5},
        "abstain_precision: is for task sequence-classification",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_fitted_is_refused(name, tmp_path, capsys):
    options, message = BAD[name]
    makers = {SEVERAL: several_rows, "regression": lambda *given: [{**row, "label": 0.5} for row in text_rows(*given)]}
    data = data_of(tmp_path, makers.get(options.get("problem_type"), text_rows))
    assert train(flags(tmp_path / "out", {"task": CLASSIFY, **data, **options})) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_accelerate_launch_divides_the_weights_without_an_option(tmp_path, monkeypatch, capsys):
    """With a configuration of FSDP it sets a variable, and the options fsdp and deepspeed stay empty."""
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    options = {"task": CLASSIFY, **data_of(tmp_path, text_rows), "calibrate": True}
    assert train(flags(tmp_path / "out", options)) == 2
    assert "calibrate: cannot be combined with fsdp or deepspeed, which divide the weights" in capsys.readouterr().err


def test_unknown_rows_have_the_columns_of_their_split(tmp_path, capsys):
    file = write(tmp_path / "unknown.jsonl", [{"text": "a", "text_pair": "b"}])
    options = {"task": CLASSIFY, **data_of(tmp_path), "validation_unknown_file": file}
    assert train(flags(tmp_path / "out", options)) == 2
    message = "validation_unknown_file: its columns are text, text_pair, those of validation text"
    assert message in capsys.readouterr().err
