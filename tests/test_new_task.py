"""A task that is one class in one file, as CONTRIBUTING.md says: it trains, evaluates, predicts and is asked."""

import functools
import json

import pytest
from test_train_command import SMALL, write
from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding

from seqblend import train
from seqblend.data.columns import LabelRule, Schema
from seqblend.data.kinds import ONE_LABEL, TEXT
from seqblend.hub_card.card import write_card
from seqblend.serving.prediction import RowPredictor
from seqblend.tasks.base import Task
from seqblend.tasks.encoding import Settings, tokenize
from seqblend.tasks.registry import TASKS


class Intent(Task):
    """One intent for an utterance."""

    name = "intent"
    auto_class = AutoModelForSequenceClassification
    architecture = "encoder"
    inputs = text_columns = ("text",)
    reference = "label"

    def make_schema(self, problem_type):
        return Schema({"text": TEXT, "label": ONE_LABEL}, answers=("label",), labels=LabelRule("label", min_labels=2))

    def config_fields(self, problem_type):
        return {"problem_type": "single_label_classification"}

    def encode(self, batch, settings):
        features = tokenize(settings, batch["text"])
        return {**features, "labels": [settings.label_ids[label] for label in batch["label"]]}

    def make_collator(self, settings):
        return DataCollatorWithPadding(settings.tokenizer)

    def answer(self, predicted, rows, settings):
        return [{"prediction": settings.labels[index]} for index in predicted.predictions.argmax(-1)]

    def score(self, answers, rows, settings):
        right = [answer["prediction"] == label for answer, label in zip(answers, rows["label"], strict=True)]
        return {"accuracy": sum(right) / len(right)}

    def read_rows(self, rows, settings):
        return tokenize(settings, [row["text"] for row in rows])

    def run_model(self, model, inputs, positions, settings, generation):
        return list(model(**inputs).logits.argmax(-1).tolist())

    def to_answers(self, outputs, document, rows, settings):
        return [{"prediction": settings.labels[index]} for index in outputs]


ROWS = [{"text": "turn on the light", "label": "on"}, {"text": "switch it off", "label": "off"}] * 8


def test_a_task_of_one_class_trains_evaluates_predicts_and_is_asked(tmp_path, monkeypatch):
    monkeypatch.setitem(TASKS, "intent", Intent())
    monkeypatch.setattr("seqblend.training.publisher.write_card", functools.partial(write_card, complete=False))
    out, path = tmp_path / "out", write(tmp_path / "rows.jsonl", ROWS)
    options = {"output_dir": out, "use_cpu": True, "task": "intent", "max_steps": 60, "learning_rate": 3e-3}
    files = {f"{split}_file": path for split in ("train", "validation", "test")}
    flags = {**options, **files, "config_overrides": SMALL, "disable_tqdm": True}
    assert train.main([word for name, value in flags.items() for word in (f"--{name}", str(value))]) == 0
    results = json.loads((out / "all_results.json").read_text())
    assert results["eval_accuracy"] == results["test_accuracy"] == 1
    answers = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    assert [answer["prediction"] for answer in answers] == [row["label"] for row in ROWS]
    model = AutoModelForSequenceClassification.from_pretrained(out).eval()
    tokenizer = AutoTokenizer.from_pretrained(out)
    settings = Settings(tokenizer, ["off", "on"], None, 32, 32, 32, token_types=False, seed=0)
    asked = list(RowPredictor(TASKS["intent"], model, settings, max_tokens=64).answers(ROWS))
    assert [answer["prediction"] for answer in asked] == [row["label"] for row in ROWS]


@pytest.mark.parametrize("kept", ["answer", "score", "read_rows", "run_model", "to_answers"])
def test_half_a_task_is_refused_when_it_is_defined(kept):
    """It trained, and failed in its first evaluation or prediction."""
    with pytest.raises(TypeError, match=r"Half: .* belong together, but it lacks"):
        type("Half", (Task,), {kept: vars(Intent)[kept]})


def test_a_task_that_cannot_be_calibrated_does_not_have_the_option():
    with pytest.raises(TypeError, match="Sure: the option calibrate needs logits_and_targets"):
        type("Sure", (Intent,), {"options": ("calibrate",)})
