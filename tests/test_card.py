"""The card: what stands on it is what was measured, its code runs as it is printed, and the Hub takes it."""

import json
import re
import shutil
import unicodedata
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml
from conftest import HEADS, every_head, forked_processes, tiny_model
from huggingface_hub import ModelCard
from test_resume import trainer_for
from transformers import IntervalStrategy, Seq2SeqTrainingArguments
from transformers.utils.logging import enable_progress_bar, is_progress_bar_enabled

from seqblend import (
    BlendEncoderDecoderForSeq2SeqLM,
    BlendEncoderForMaskedLM,
    BlendEncoderForSequenceClassification,
    BlendEncoderForTokenClassification,
)
from seqblend.hub_card import card as card_module
from seqblend.hub_card import pictures
from seqblend.hub_card.agreement import describe_rows, rows_of_each_label
from seqblend.hub_card.card import METRICS, NOT_MEASURED, CardData, example_lines, write_card
from seqblend.hub_card.record import HYPERPARAMETERS, RunRecord, format_value, hyperparameters
from seqblend.hub_card.saved import SavedModel, read_saved
from seqblend.hub_card.usage import HEADS as USAGES
from seqblend.hub_card.usage import as_text, make_prompt, usage_code
from seqblend.hub_card.verify import run_isolated
from seqblend.tokenization.training import train_tokenizer
from seqblend.tokenization.words import WordSplitting, set_splitting
from seqblend.train import main

WORDS = ["월요일", "화요일", "a", "b"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A small run through train.py, with its card in full."""
    root = tmp_path_factory.mktemp("trained")
    rows = [{"text": f"{WORDS[i % 4]} {i}", "label": "xyz"[i % 3]} for i in range(30)]
    for split in ("train", "validation", "test"):
        (root / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["--task", "sequence-classification", "--output_dir", str(root / "out"), "--tokenizer_type", "char"]
    words += [
        word for split in ("train", "validation", "test") for word in (f"--{split}_file", f"{root}/{split}.jsonl")
    ]
    words += ["--config_overrides", "hidden_size=16,num_hidden_layers=1,num_attention_heads=2", "--max_steps", "4"]
    words += [
        "--eval_strategy",
        "steps",
        "--eval_steps",
        "1",
        "--logging_steps",
        "1",
        "--use_cpu",
        "--disable_tqdm",
        "1",
    ]
    words += ["--learning_rate", "0.01", "--label_smoothing_factor", "0.1"]
    words += ["--card_data", "license=mit,language=[ko, en],data=Weekdays,tags=[small]"]
    assert main(words) == 0
    return root / "out"


def blocks(card, language):
    return re.findall(rf"^```{language}\n(.*?)^```", card, re.DOTALL | re.MULTILINE)


def front(card):
    return yaml.safe_load(card.split("---\n")[1])


def test_numbers_are_those_of_all_results(trained):
    """Each metric stands in the metadata exactly, and in the table to four places."""
    card, results = (trained / "README.md").read_text(), json.loads((trained / "all_results.json").read_text())
    expected = {
        (split, METRICS[key][1]): results[f"{prefix}_{key}"]
        for prefix, split in (("eval", "validation"), ("test", "test"))
        for key in METRICS
        if f"{prefix}_{key}" in results
    }
    assert len(expected) == 8
    written = {
        (entry["dataset"]["split"], metric["name"]): metric["value"]
        for entry in front(card)["model-index"][0]["results"]
        for metric in entry["metrics"]
    }
    assert written == expected
    rows = re.findall(r"\| (validation|test) \| 30 \| ([^|]+) \| ([\d.]+) \|", card)
    assert {(split, name): value for split, name, value in rows} == {k: f"{v:.4f}" for k, v in expected.items()}
    assert f"{results['parameters']:,}" in card and f"{results['num_input_tokens_seen']:,}" in card
    assert results["num_input_tokens_seen"] > 100


def test_metadata_are_what_the_hub_takes_and_what_was_given(trained):
    card = ModelCard.load(trained / "README.md", ignore_metadata_errors=False)
    data = card.data.to_dict()
    assert data["license"] == "mit" and data["language"] == ["ko", "en"]
    assert data["pipeline_tag"] == "text-classification" and data["library_name"] == "transformers"
    assert data["tags"] == ["seqblend", "blend_encoder", "small"]
    assert data["widget"] == [{"text": "월요일 0"}]
    assert set(data["metrics"]) == {"accuracy", "f1", "matthews_correlation", "loss"}
    assert {result.dataset_name for result in card.data.eval_results} == {"Weekdays"}


def test_the_code_prints_what_stands_under_it(trained, usages):
    """It ran before it was printed; run once more, it prints the same. The example is the first test row."""
    example, output = blocks((trained / "README.md").read_text(), "text")
    assert usages["out"].rstrip("\n") == output.rstrip("\n")
    first = json.loads((trained / "predictions.jsonl").read_text().split("\n")[0])
    assert re.findall(r"(\w+): +(.*)", example) == [
        ("input", first["input"]),
        ("output", first["prediction"]),
        ("reference", first["reference"]),
    ]
    assert f"'label': '{first['prediction']}'" in output


def test_pictures_are_there_and_shown(trained):
    card = (trained / "README.md").read_text()
    shown = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", card)
    assert shown == [f"pictures/{name}.png" for name in ("learning_curves", "confusion", "labels", "blending")]
    assert all((trained / name).read_bytes().startswith(b"\x89PNG") for name in shown)


def test_it_is_said_where_the_card_is_and_nothing_else(trained, tmp_path, monkeypatch, caplog, capfd):
    """At the end of a run: no bar of a model that is loaded to be drawn, but what there is to look at."""
    directory = shutil.copytree(trained, tmp_path / "out")
    monkeypatch.setattr(card_module, "run_usage", lambda *args: "printed")
    enable_progress_bar()
    with caplog.at_level("INFO", logger="seqblend"):
        write_card(directory)
    assert caplog.messages == [f"card: {directory / 'README.md'}"]
    assert "Loading weights" not in capfd.readouterr().err and is_progress_bar_enabled()


def test_nothing_private_is_on_it(trained):
    card = (trained / "README.md").read_text()
    assert str(trained.parent) not in card and "/tmp" not in card
    assert "--train_file train.jsonl" in card and "--output_dir out" in card


def test_numbers_are_written_as_they_are_read():
    assert (card_module.format_count(25000), card_module.format_count(None)) == ("25,000", "not measured")
    assert (card_module.format_duration(59.94), card_module.format_duration(90)) == ("59.9 seconds", "1.5 minutes")
    assert [format_value(value) for value in (2.0, 2e-3, 4, "adam", IntervalStrategy.EPOCH)] == (
        ["2", "0.002", "4", "adam", "epoch"]
    )


def test_hyperparameters_that_were_changed_come_first(trained):
    card = (trained / "README.md").read_text()
    rows = re.findall(r"\| `(\w+)` \| ([^|]+) \|", card)
    assert ("learning_rate", "0.01") in rows and ("max_steps", "4") in rows and ("seed", "42 (default)") in rows
    defaults = ["(default)" in value for name, value in rows if name in HYPERPARAMETERS]
    assert defaults == sorted(defaults) and True in defaults and False in defaults
    assert ("label_smoothing", "0.1") in rows and "num_train_epochs" not in dict(rows)


@every_head
def test_a_card_from_the_configuration_invents_nothing(model_class, tmp_path):
    tiny_model(model_class).save_pretrained(tmp_path / "m")
    card = write_card(tmp_path / "m", CardData(repo_id="someone/m"), complete=False).read_text()
    assert ModelCard(card).data.pipeline_tag == USAGES[model_class.__name__.partition("For")[2]].pipeline_tag
    assert "model-index" not in front(card) and "widget" not in front(card)
    for heading in ("Results", "How it was made"):
        assert NOT_MEASURED in card.split(f"## {heading}")[1].split("\n## ")[0].lower()
    assert not re.search(r"None|Undefined|\{\{|\{%", card)
    assert f"{sum(p.numel() for p in tiny_model(model_class).parameters()):,}" in card


def test_what_fails_is_not_claimed(tmp_path, monkeypatch, caplog):
    """Code that does not run is printed with the word that it was not; the card is written all the same."""
    tiny_model(BlendEncoderForSequenceClassification).save_pretrained(tmp_path)

    def fail(code, repo_id, directory):
        raise ValueError("no such thing")

    monkeypatch.setattr(card_module, "run_usage", fail)
    card = write_card(tmp_path, CardData(example="some text")).read_text()
    assert f"Output: {NOT_MEASURED}." in card and "It prints:" not in card
    assert "no such thing" in caplog.text


def test_a_directory_without_a_model_of_ours_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no model of seqblend"):
        write_card(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", "architectures": ["BertModel"]}))
    with pytest.raises(ValueError, match="no model of seqblend"):
        write_card(tmp_path)


def test_an_unknown_fact_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match="'licence'; valid, nearest first: license"):
        CardData.check_names(["licence"])


def test_what_would_break_a_card_does_not(tmp_path, monkeypatch):
    """Bars, fences, quotes, braces, line ends and figures that are none."""
    monkeypatch.setattr(card_module, "run_usage", lambda *args: "```\n{{ x }}")
    monkeypatch.setattr(card_module, "draw_pictures", lambda *args: [])
    tiny_model(BlendEncoderForSequenceClassification).save_pretrained(tmp_path)
    odd = 'a | b ``` "c" {{ d }} {% e %}\nf: [g'
    (tmp_path / "predictions.jsonl").write_text(json.dumps({"input": odd, "prediction": "x", "reference": "y"}))
    results = {"test_accuracy": float("nan"), "test_loss": 0.5, "test_samples": 1, "card_data": {"data": "one | two"}}
    (tmp_path / "all_results.json").write_text(json.dumps(results))
    card = write_card(tmp_path).read_text()
    assert ModelCard(card).data.widget == [{"text": odd}]
    assert [metric["value"] for metric in front(card)["model-index"][0]["results"][0]["metrics"]] == [0.5]
    assert (
        len(re.findall("^```", card, re.MULTILINE)) == 6
        and "one \\| two" in card
        and "nan" not in card.split("## Results")[1]
    )
    compile(blocks(card, "python")[0], "usage", "exec")


def test_every_head_has_its_usage():
    assert set(USAGES) == {model.__name__.partition("For")[2] for model in HEADS} | {""}


TEXTS = {"CausalLM": "월요일 a b", "MaskedLM": "월요일 [MASK] b", "TokenClassification": ["월요일", "Müller"]}


@every_head
def test_usage_of_every_head_runs_without_the_package(model_class, usages):
    """What the card prints for it is code that runs, and says something."""
    assert usages[model_class.__name__].strip()


def test_the_usage_of_a_tagger_prints_slices_of_the_text(usages):
    """What the tokenizer decodes of several words may be `월요일M�ller`."""
    lines = [line for name in usages if "TokenClassification" in name for line in usages[name].splitlines()]
    parts = {line.rsplit(" ", 2)[0] for line in lines}
    assert len(lines) >= 3 and parts <= {"월요일 Müller", "월요일", "Müller"}


@pytest.fixture(scope="module")
def usages(trained, tmp_path_factory):
    """What the code of each head, and that of the card of `trained`, prints.

    All run in one process, each where its own card would run it.
    """
    root = tmp_path_factory.mktemp("usages")
    tokenizer = train_tokenizer([*WORDS, "Müller"] * 3, "byte-bpe", 300)
    code = []
    for model_class in HEADS:
        name = model_class.__name__
        tiny_model(model_class, vocab_size=len(tokenizer)).float().save_pretrained(root / "you" / name)
        tokenizer.save_pretrained(root / "you" / name)
        head = USAGES[name.partition("For")[2]]
        example = TEXTS.get(name.partition("For")[2], "월요일 a b")
        code.append(f"print('===', {name!r})\n" + usage_code(head, f"you/{name}", example))
    (root / "you" / trained.name).symlink_to(trained)
    code += [f"print('===', {trained.name!r})", *blocks((trained / "README.md").read_text(), "python")]
    with forked_processes():
        done = run_isolated(["-"], root, "\n".join(code))
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(part.strip().split("\n", 1) for part in done.stdout.split("===")[1:])


def test_the_picture_of_lengths_counts_what_the_metric_counts(tmp_path, monkeypatch):
    """Letters taken apart are the same text; any of several references will do."""
    scores = []
    monkeypatch.setattr(pictures, "draw_score_by_length", lambda lengths, given, *args, **kwargs: scores.extend(given))
    monkeypatch.setattr(card_module, "run_usage", lambda *args: "printed")
    tiny_model(BlendEncoderDecoderForSeq2SeqLM).save_pretrained(tmp_path)
    pairs = [("월", "월"), (unicodedata.normalize("NFD", "월"), "월"), ("b", ["a", "b"]), ("c", ["a", "b"])]
    rows = [{"input": "x", "prediction": said, "reference": right} for said, right in pairs]
    (tmp_path / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_card(tmp_path)
    assert scores == [1.0, 1.0, 1.0, 0.0]


def test_a_given_text_is_taken_apart_as_the_models_rows_are(tmp_path, monkeypatch):
    """By the rule that gives back the words of the test rows, where the tokenizer does not tell it."""
    codes = []
    monkeypatch.setattr(card_module, "run_usage", lambda code, *args: codes.append(code) or "printed")
    monkeypatch.setattr(card_module, "draw_pictures", lambda *args: [])
    tiny_model(BlendEncoderForTokenClassification).save_pretrained(tmp_path)
    for tokens in (["2", "월"], ["a", "word"]):
        row = {"input": tokens, "prediction": ["LABEL_0"] * 2, "reference": ["LABEL_0"] * 2}
        (tmp_path / "predictions.jsonl").write_text(json.dumps(row) + "\n")
        write_card(tmp_path, CardData(example="3월"))
    assert 'words = list("3월")' in codes[0] and "words = regex.findall(" in codes[1] and '"3월")' in codes[1]


@pytest.mark.parametrize("line", ["[" * 200_000, "{", "[1]", '{"input": "a"}'], ids=len)
def test_a_damaged_prediction_is_named_by_its_line(line, tmp_path):
    row = {"input": ["a"], "prediction": ["O"], "reference": ["O"]}
    tiny_model(BlendEncoderForTokenClassification).save_pretrained(tmp_path)
    (tmp_path / "predictions.jsonl").write_text(f"{json.dumps(row)}\n{line}\n")
    with pytest.raises(ValueError, match=r"predictions.jsonl: line 2[, ].{,250}$"):
        read_saved(tmp_path)


@pytest.mark.parametrize(
    ("head", "example", "expected"),
    [
        ("CausalLM", "a b c d e f g h i", "a b c d e"),
        ("CausalLM", "a " * 99, "a a a a a a a a"),
        ("MaskedLM", "a b c", "a [MASK] c"),
        ("MaskedLM", "a [MASK]", "a [MASK]"),
        ("MaskedLM", "東京都に住む", "東京都[MASK]住む"),
        ("MaskedLM", "a b is c [MASK].", "a b is c [MASK]."),
        ("SequenceClassification", "a b c", "a b c"),
        ("TokenClassification", ["a", "b"], ["a", "b"]),
        ("Seq2SeqLM", None, None),
    ],
)
def test_prompts(head, example, expected):
    assert make_prompt(USAGES[head], example, "[MASK]") == expected


def test_a_shortened_example_has_the_output_of_its_own_text():
    """The prediction and the reference of the test row are those of its whole text."""
    head, row = USAGES["Seq2SeqLM"], {"input": "a b c d", "prediction": "x", "reference": "y"}
    lines = partial(example_lines, head, output="z", rule=None)
    assert lines("a b …", row) == [("input", "a b …"), ("output", "z")]
    assert lines("a b c d", row) == [("input", "a b c d"), ("output", "x"), ("reference", "y")]
    assert lines("a b c d", {**row, "reference": ["y", "w"]})[-1] == ("reference", "y | w")
    assert lines(None, row) == []


def test_the_two_texts_of_a_pair_are_two_lines():
    row = {"input": ["a b", "b c"], "prediction": "x", "reference": "y"}
    lines = example_lines(USAGES["SequenceClassification"], row["input"], row, "z", None)
    assert lines[:2] == [("text", "a b"), ("text_pair", "b c")]


@pytest.mark.parametrize(
    ("labels", "groups"), [(["O", "B-X", "I-X"], True), (["O", "B", "I"], False), (["NOUN", "VERB", "ADJ"], False)]
)
def test_a_pipeline_groups_the_tags_that_it_knows(labels, groups, tmp_path):
    """Of tags without a type, as those of spaces between words, it makes spans of no name."""
    tokenizer = train_tokenizer(WORDS, "char", 300)
    set_splitting(tokenizer, WordSplitting("characters", 1))
    model = tiny_model(BlendEncoderForTokenClassification, vocab_size=len(tokenizer))
    model.config.id2label = dict(enumerate(labels))
    model.config.label2id = {label: index for index, label in enumerate(labels)}
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert read_saved(tmp_path).tagging.groups is groups


def test_examples_as_text():
    assert as_text(["2", "월"]) == "2월" and as_text(["ab", "c"]) == "ab c" and as_text("a b") == "a b"
    pair = usage_code(USAGES["SequenceClassification"], "you/m", ["one", 'two "quoted"'])
    assert 'classify({"text": "one", "text_pair": "two \\"quoted\\""})' in pair


@pytest.mark.parametrize(
    ("answers", "labels", "tried", "told"),
    [
        # The frequent ones come first, and would fill the room of the rare one.
        ([i % 49 for i in range(200)] + [49] * 4, 50, 50, "100 test rows (with all 50 labels)"),
        ([0] * 9 + [1], 3, 2, "4 test rows (with 2 of the 3 labels)"),
        ([i % 150 for i in range(300)], 150, 100, "100 test rows (with 100 of the 150 labels)"),
    ],
)
def test_the_code_is_tried_on_rows_of_every_label(answers, labels, tried, told):
    rows = [
        {"input": f"{i}", "prediction": f"{name}", "reference": "0", "scores": {f"{name}": 1.0}}
        for i, name in enumerate(answers)
    ]
    config = {"architectures": ["BlendEncoderForSequenceClassification"]}
    rows = rows_of_each_label(SavedModel(Path(), config, {}, {}, rows, {}, 0))
    assert len({row["prediction"] for row in rows}) == tried and describe_rows(rows, labels) == told


@pytest.mark.parametrize("kind", ["multi_label_classification", "regression"])
def test_the_code_prints_all_answers_of_a_model_that_gives_several(kind, tmp_path, forked, monkeypatch):
    """It is said to give the predictions of the run where it gives all of them, not only the first one."""
    monkeypatch.setattr(card_module, "draw_pictures", lambda *args: [])
    tokenizer = train_tokenizer(WORDS, "char", 300)
    model = tiny_model(BlendEncoderForSequenceClassification, vocab_size=len(tokenizer), problem_type=kind).float()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with torch.no_grad():
        logits = model(**tokenizer("a b", return_tensors="pt")).logits[0]
    labels = [*model.config.id2label.values()]
    probabilities = dict(zip(labels, logits.sigmoid().tolist(), strict=True))
    right = {"prediction": logits.tolist()}
    if kind != "regression":
        right = {"prediction": [name for name in labels if probabilities[name] > 0.5], "scores": probabilities}
    # The largest value is that of the model, another one is not.
    values = right.get("scores", dict(enumerate(right["prediction"])))
    least = {**values, min(values, key=values.get): min(values.values()) - 0.1}
    wrong = {**right, "scores": least} if "scores" in right else {"prediction": [*least.values()]}
    for answer, told in ((right, "it gives the predictions of the run"), (wrong, "1 of 1 predictions differ")):
        row = {"input": "a b", "reference": answer["prediction"], **answer}
        (tmp_path / "predictions.jsonl").write_text(json.dumps(row) + "\n")
        card = write_card(tmp_path).read_text()
        assert told in card
        assert len(blocks(card, "text")[1].splitlines()) == len(labels)


@pytest.mark.parametrize("decoding, excused", [("legal", True), ("greedy", False)])
def test_only_legal_tags_may_differ_from_those_of_a_pipeline(decoding, excused, tmp_path, caplog):
    row = {"input": ["a"], "prediction": ["B-X"], "reference": ["O"]}
    labels = dict(enumerate(("O", "B-X", "I-X")))
    config = {"architectures": ["BlendEncoderForTokenClassification"], "id2label": labels}
    saved = SavedModel(tmp_path, config, {"decode_tags": decoding}, {}, [row], {}, 0)
    assert ("a pipeline chooses" in card_module.describe_agreement(saved, [row], 0)) is excused
    assert ("1 of 1 predictions differ" in caplog.text) is not excused


def test_a_model_of_numbers_is_tried_without_labels():
    assert describe_rows([{"input": "a", "prediction": 0.5, "reference": 0.4}] * 3, 1) == "3 test rows"


class Args:
    """What RunRecord asks of the Trainer's state."""


def test_the_record_adds_up_over_resumptions(tmp_path, monkeypatch):
    """Time and first day of an interrupted run are kept; nothing is kept before training."""
    clock = iter([0.0, 100.0, 105.0, 1000.0, 1007.0, 2000.0, 2001.0])
    monkeypatch.setattr("seqblend.hub_card.record.time.monotonic", lambda: next(clock))
    record, state = RunRecord(), Args()
    args = Seq2SeqTrainingArguments(tmp_path, use_cpu=True, report_to="none")
    state.stateful_callbacks, state.global_step = {}, 0
    record.on_train_begin(args, state, None)
    kept = record.state()
    assert kept["attributes"]["facts"]["seconds"] == 5.0
    kept["attributes"]["facts"]["started"] = "2001-02-03"
    state.stateful_callbacks, state.global_step = {"RunRecord": kept}, 3
    record.on_train_begin(args, state, None)
    again = record.state()["attributes"]["facts"]
    assert again["seconds"] == 12.0 and again["started"] == "2001-02-03"
    # Trained once more from the start, it is another run.
    state.global_step = 0
    record.on_train_begin(args, state, None)
    assert record.state()["attributes"]["facts"]["seconds"] == 1.0


@pytest.mark.parametrize("scores, step", [([0.1, 0.9, 0.2], 2), ([0.1, 0.2, 0.9], None), ([0.9, 0.1, 0.9], None)])
def test_the_step_of_the_best_model_is_told_where_it_is_not_the_last(scores, step, tmp_path):
    best = {"load_best_model_at_end": True, "metric_for_best_model": "score", "eval_strategy": "steps"}
    trainer = trainer_for(tmp_path, scores=scores, max_steps=3, eval_steps=1, save_steps=1, **best)
    trainer.train()
    trainer.save_model()
    trainer.save_state()
    card = write_card(tmp_path, complete=False).read_text()
    assert ", 3 |\n" in card and "| `load_best_model_at_end` | True |" in card
    assert re.findall(r"\| weights \| those after step (\d), the best of the run \|", card) == [str(step)] * bool(step)


def test_a_record_that_never_began_is_empty():
    assert RunRecord().state()["attributes"]["facts"] == {}


def test_no_argument_with_a_path_or_a_name_is_told(tmp_path):
    args = Seq2SeqTrainingArguments(
        tmp_path, hub_token="hf_secret", hub_model_id="someone/m", run_name="mine", use_cpu=True, report_to="none"
    )
    told = json.dumps(hyperparameters(args))
    assert not any(word in told for word in (str(tmp_path), "hf_secret", "someone", "mine"))


def test_what_also_stands_in_training_stands_under_limits(trained):
    """The accuracy of rows that were learnt by heart says little; later cards of the run say so too."""
    card = (trained / "README.md").read_text()
    for split in ("validation", "test"):
        assert f"- {split}: 30 of 30 rows are also in training, compared by text.\n" in card.split("## Limits")[1]


def test_why_a_figure_cannot_but_be_zero_stands_beside_it(tmp_path):
    tiny_model(BlendEncoderDecoderForSeq2SeqLM).save_pretrained(tmp_path)
    results = {"test_bleu": 0.0, "test_bleu_note": "no reference has 4 tokens", "test_exact_match": 0.46}
    (tmp_path / "all_results.json").write_text(json.dumps({**results, "eval_bleu": 2.0, "eval_bleu_note": "old"}))
    card = write_card(tmp_path, complete=False).read_text()
    assert "| BLEU | 0.0000: no reference has 4 tokens |" in card and "| Exact match | 0.4600 |" in card
    assert "| BLEU | 2.0000 |" in card


@pytest.mark.parametrize("measured", [{}, {"eval_loss": 0.5}])
def test_measuring_is_spoken_of_where_something_was_measured(measured, tmp_path):
    tiny_model(BlendEncoderForMaskedLM).save_pretrained(tmp_path)
    (tmp_path / "all_results.json").write_text(json.dumps({"task": "masked-lm", "max_length": 512, **measured}))
    card = write_card(tmp_path, complete=False).read_text()
    assert f"truncated to 512 tokens in training{' and evaluation' if measured else ''}." in card
    told = "Not measured. To measure it: `seqblend train --task masked-lm --model_name_or_path you/"
    assert (told in card) == (not measured)


def test_old_pictures_do_not_stay(trained, tmp_path, monkeypatch):
    directory = shutil.copytree(trained, tmp_path / "copy")
    for name in ("tags.png", "mine.png"):
        (directory / "pictures" / name).write_bytes(b"old")
    monkeypatch.setattr(card_module, "run_usage", lambda *args: "printed")
    write_card(directory)
    assert not (directory / "pictures" / "tags.png").exists()
    # What somebody else put there is not ours to delete.
    assert (directory / "pictures" / "mine.png").exists()


def test_a_sequence_to_sequence_model_shows_cross_attention(tmp_path, monkeypatch):
    names = []
    draw = pictures.draw_blending
    monkeypatch.setattr(
        pictures, "draw_blending", lambda *args, **said: names.append(said["names"]) or draw(*args, **said)
    )
    monkeypatch.setattr(card_module, "run_usage", lambda *args: "\ufffd\ufffd 0.1")
    model = tiny_model(BlendEncoderDecoderForSeq2SeqLM).float()
    model.generation_config.max_length = 8
    model.save_pretrained(tmp_path)
    train_tokenizer(WORDS * 3, "char", 99).save_pretrained(tmp_path)
    rows = [{"input": "a" * n, "prediction": "b" * (n % 3), "reference": ["b", "bb"]} for n in range(1, 30)]
    (tmp_path / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    card = write_card(tmp_path).read_text()
    assert "(pictures/lengths.png)" in card and "(pictures/blending.png)" in card
    assert names == [("generated token (query)", "source token (key)")]
    assert "how much each generated token (row) attends to each source token (column)" in card
    assert "\ufffd\ufffd 0.1\n```\n\nEach \ufffd is a token that is only a part of a character" in card
