"""Ensembles: the mean of their probabilities, in every task, and step by step in writing."""

import json
import pickle
import shutil
from types import SimpleNamespace

import pytest
import torch
from test_prediction import (  # noqa: F401 - model_of is a fixture
    CASES,
    CLASSIFY,
    TAG,
    TRANSLATE,
    assert_same,
    every_case,
    model_of,
    predict,
    rows_of,
)
from test_train_command import write
from transformers import AutoConfig

from seqblend import Predictor
from seqblend.data.errors import InputError
from seqblend.predict import main
from seqblend.serving.ensemble import Ensemble
from seqblend.tasks.registry import TASKS
from seqblend.tokenization.training import train_tokenizer

every_writer = pytest.mark.parametrize("name", [TRANSLATE, "causal-lm"])


@pytest.fixture
def other_of(model_of, tmp_path):  # noqa: F811
    """The directory of another untrained model of a case."""

    def build(name):
        directory = tmp_path / f"other-{name}"
        shutil.copytree(model_of(name), directory)
        auto_class = TASKS[CASES[name][0]].auto_class
        torch.manual_seed(5)
        model = auto_class.from_config(AutoConfig.from_pretrained(directory, trust_remote_code=False))
        if CASES[name][0] in (TRANSLATE, "causal-lm"):
            model.generation_config = Predictor(model_of(name)).rows.model.generation_config
        model.save_pretrained(directory)
        return directory

    return build


def answers_of(directories, name, **options):
    predictor = Predictor(directories, **options)
    reader = predictor.make_reader()
    return list(predictor.answers([reader.read(row, "row", 1, None) for row in rows_of(name)]))


@every_case
def test_an_ensemble_of_one_is_the_model(name, model_of):  # noqa: F811
    expected = answers_of(model_of(name), name)
    assert answers_of([model_of(name)], name) == expected
    # Also where the mean of one is taken.
    predictor = Predictor(model_of(name))
    predictor.rows.model = Ensemble([predictor.rows.model])
    reader = predictor.make_reader()
    assert_same(list(predictor.answers([reader.read(row, "row", 1, None) for row in rows_of(name)])), expected)


@every_case
def test_a_model_asked_twice_answers_as_once(name, model_of):  # noqa: F811
    assert_same(answers_of([model_of(name)] * 2, name), answers_of(model_of(name), name))


@every_writer
def test_a_model_asked_twice_searches_as_once(name, model_of):  # noqa: F811
    options = {"num_beams": 3, "max_new_tokens": 6}
    assert_same(answers_of([model_of(name)] * 2, name, **options), answers_of(model_of(name), name, **options))


def probabilities_in(answer):
    """All probabilities of an answer."""
    if "masks" in answer:
        return [{each["token"]: each["score"] for each in mask["predictions"]} for mask in answer["masks"]]
    if "probabilities" in answer:
        return answer["probabilities"]
    return [answer["scores"] if "scores" in answer else {"number": answer["prediction"]}]


@pytest.mark.parametrize("name", [CLASSIFY, "several", "numbers", TAG, "masked-lm"])
def test_probabilities_are_the_mean(name, model_of, other_of):  # noqa: F811
    options = {CLASSIFY: {"probabilities": True}, TAG: {"probabilities": True}, "masked-lm": {"top_k": 300}}
    given = options.get(name, {})
    one, two = model_of(name), other_of(name)
    found, first, second = (answers_of(each, name, **given) for each in ([one, two], [one], [two]))
    assert found != first
    for parts in zip(*([probabilities_in(answer) for answer in each] for each in (found, first, second)), strict=True):
        for mean, a, b in zip(*parts, strict=True):
            assert mean.keys() == a.keys() == b.keys()
            for key, value in mean.items():
                assert value == pytest.approx((a[key] + b[key]) / 2, abs=1e-6)


@every_writer
def test_each_token_is_that_of_the_mean(name, model_of, other_of):  # noqa: F811
    """By hand, without a cache: the token with the highest mean probability, then the next."""
    together = Predictor([model_of(name), other_of(name)], max_new_tokens=5)
    column = TASKS[CASES[name][0]].inputs[0]
    encoded = together.rows.encode([{column: "abc cab"}])
    (ids,) = encoded.inputs["input_ids"]
    models = together.rows.model.models
    ends = models[0].generation_config.eos_token_id
    tokens = [models[0].config.decoder_start_token_id] if name == TRANSLATE else list(ids)
    start = len(tokens)
    for _ in range(5):
        given = torch.tensor([tokens])
        read = (
            {"input_ids": torch.tensor([ids]), "decoder_input_ids": given}
            if name == TRANSLATE
            else {"input_ids": given}
        )
        with torch.no_grad():
            mean = sum(model(**read).logits[0, -1].softmax(-1) for model in models) / 2
        tokens.append(mean.argmax().item())
        if tokens[-1] == ends:
            break
    (outputs,) = together.rows.compute([encoded])
    found, _ = outputs[0]
    assert found[: len(tokens) - start] == tokens[start:]
    assert "forward" not in vars(models[0])


@every_writer
@pytest.mark.parametrize("beams", [1, 3])
def test_rows_of_different_lengths_are_written_as_each_alone(name, beams, model_of, other_of):  # noqa: F811
    """Each row has its own source, in each beam, of each model; prompts are padded on the left."""
    predictor = Predictor([model_of(name), other_of(name)], max_new_tokens=5, num_beams=beams)
    reader = predictor.make_reader()
    rows = [reader.read(row, "row", 1, None) for row in rows_of(name)]
    alone = [next(iter(predictor.answers([row]))) for row in rows]
    assert_same(list(predictor.answers(rows)), alone)


def test_sure_models_have_finite_logits():
    ensemble = Ensemble(
        [SimpleNamespace(config=SimpleNamespace(problem_type="multi_label_classification", architectures=None))]
    )
    found = ensemble.combine([torch.tensor([18.0, -110.0, 0.0, 60.0]), torch.tensor([18.0, -110.0, 2.0, -60.0])])
    assert found.isfinite().all()
    expected = torch.tensor([18.0, -110.0]).double().sigmoid()
    torch.testing.assert_close(found[:2].double().sigmoid(), expected)
    mean = torch.tensor([0.0, 2.0]).sigmoid().mean()
    assert found[2].sigmoid().item() == pytest.approx(mean.item()) and found[3].item() == pytest.approx(0, abs=1e-5)


def test_the_smallest_length_is_read(model_of, tmp_path):  # noqa: F811
    short = tmp_path / "short"
    shutil.copytree(model_of(CLASSIFY), short)
    (short / "all_results.json").write_text(json.dumps({"max_length": 5}))
    predictor = Predictor([model_of(CLASSIFY), short])
    assert predictor.rows.settings.max_length == 5
    assert predictor.rows.encode([{"text": "abc abc abc"}]).lengths == [5]


def test_the_command_asks_several(model_of, other_of, tmp_path):  # noqa: F811
    rows = write(tmp_path / "rows.jsonl", rows_of(CLASSIFY))
    both = [str(model_of(CLASSIFY)), str(other_of(CLASSIFY))]
    assert main([*both, "--input", str(rows), "--output", str(tmp_path / "a.jsonl")]) == 0
    found = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text(encoding="utf-8").splitlines()]
    assert_same(found, answers_of(both, CLASSIFY))
    assert found != predict(both[0], rows, tmp_path / "b.jsonl")
    again = pickle.loads(pickle.dumps(Predictor(both)))
    assert again.directories == both


def test_models_that_do_not_go_together_are_named(model_of, tmp_path):  # noqa: F811
    other = tmp_path / "tokens"
    shutil.copytree(model_of(CLASSIFY), other)
    train_tokenizer(["abc xy"], "char", 300).save_pretrained(other)
    relabelled = tmp_path / "labels"
    shutil.copytree(model_of(CLASSIFY), relabelled)
    config = json.loads((relabelled / "config.json").read_text())
    config["id2label"] = {key: f"other {value}" for key, value in config["id2label"].items()}
    config["label2id"] = {value: int(key) for key, value in config["id2label"].items()}
    (relabelled / "config.json").write_text(json.dumps(config))
    cases = {other: "the tokenizer differs", relabelled: "labels differs", model_of(TAG): "task differs"}
    for directory, reason in cases.items():
        with pytest.raises(InputError, match=f"{directory}: does not fit .*: {reason}"):
            Predictor([model_of(CLASSIFY), directory])
    with pytest.raises(InputError, match="DIR: is an empty list"):
        Predictor([])


def test_an_ensemble_is_not_explored(model_of):  # noqa: F811
    predictor = Predictor([model_of(CLASSIFY)] * 2)
    assert not predictor.can_be_explored
    with pytest.raises(InputError, match="is no single model of torch"):
        predictor.explore({"text": "a"})
