"""seqblend-predict: the same answers whatever the batches, in the order of the rows, from a file or from a pipe."""

import contextlib
import csv
import errno
import functools
import gzip
import itertools
import json
import os
import re
import resource
import shutil
import signal
import unicodedata
from types import SimpleNamespace
from unittest import mock

import pyarrow.parquet as pq
import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from hypothesis import given, settings
from hypothesis import strategies as st
from test_train_command import CLASSIFY, PAIRS, ROWS, SEVERAL, SMALL, TAG, TRANSLATE, files, flags, predictions, write
from tqdm import tqdm
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer, PretrainedConfig

from seqblend import BlendEncoderConfig, Predictor
from seqblend.data.formats import Reading
from seqblend.data.locks import open_locked
from seqblend.data.sources import sources_of
from seqblend.data.writing import partial_path
from seqblend.hub_card.card import write_card
from seqblend.predict import main
from seqblend.scoring.tags import find_scheme
from seqblend.serving import output, prediction
from seqblend.serving.prediction import read_ahead
from seqblend.tasks.encoding import Settings
from seqblend.tasks.registry import TASKS
from seqblend.tasks.token_classification import entities
from seqblend.tokenization.training import train_tokenizer
from seqblend.tokenization.words import WORDS, split_text
from seqblend.train import main as train
from seqblend.training.models import ARCHITECTURES, special_token_ids

PROPERTY = settings(max_examples=100)
# Korean whole and in letters, an accent of its own, a family of emoji, a flag, joiners, and spaces of many kinds.
PARTS = [
    "ab",
    "é",
    "e\u0301",
    "서울",
    unicodedata.normalize("NFD", "서울"),
    "👨\u200d👩\u200d👧",
    "🇰🇷",
    "می\u200cخواهم",
]
PARTS += [" ", "   ", "\t", "\u00a0", "\u3000", "\n", "\u0301", ",", "...", "क्\u200dष", "9", "_"]
text_strategy = st.lists(st.sampled_from(PARTS) | st.text(max_size=3), max_size=12).map("".join)
CASES = {
    CLASSIFY: (CLASSIFY, {"id2label": {0: "x", 1: "y", 2: "z"}, "problem_type": "single_label_classification"}),
    "several": (CLASSIFY, {"id2label": {0: "x", 1: "y"}, "problem_type": "multi_label_classification"}),
    "numbers": (CLASSIFY, {"id2label": {0: "LABEL_0"}, "problem_type": "regression"}),
    TAG: (TAG, {"id2label": {0: "O", 1: "B-x", 2: "I-x"}}),
    TRANSLATE: (TRANSLATE, {}),
    "causal-lm": ("causal-lm", {}),
    "masked-lm": ("masked-lm", {}),
}
every_case = pytest.mark.parametrize("name", CASES)
TEXTS = ["ab c", "", "c [MASK] b [MASK]", "b  a", "abc" * 5, "서울 👨\u200d👩\u200d👧 a"]


@pytest.fixture(scope="module")
def model_of(tmp_path_factory):
    """The directory of an untrained model for a case."""

    @functools.cache
    def build(name):
        task, fields = CASES[name]
        directory = tmp_path_factory.mktemp(name)
        tokenizer = train_tokenizer(["abc cab 서울 bac"], "char", 300, adds_special_tokens=task != "causal-lm")
        config_class = ARCHITECTURES[TASKS[task].architecture]
        sizes = {each.partition("=")[0]: int(each.partition("=")[2]) for each in SMALL.split(",")}
        options = {
            "vocab_size": len(tokenizer),
            **special_token_ids(tokenizer),
            **sizes,
            "initializer_range": 0.5,
            **fields,
        }
        torch.manual_seed(0)
        known = {key: value for key, value in options.items() if key in config_class.options()}
        model = TASKS[task].auto_class.from_config(config_class.from_recipe(**known))
        if task == TRANSLATE:
            model.generation_config.max_length = 8
        model.save_pretrained(directory)
        tokenizer.save_pretrained(directory)
        return directory

    return build


def predict(directory, source, output, *more):
    assert main([str(directory), "--input", str(source), "--output", str(output), *map(str, more)]) == 0
    return [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]


def rows_of(name):
    """Rows of every length with the columns of the case's task."""
    column = TASKS[CASES[name][0]].inputs[0]
    texts = [f"{text}[MASK]" for text in TEXTS] if name == "masked-lm" else TEXTS
    return [{column: text.split() if column == "tokens" else text} for text in texts]


def assert_same(one, other):
    """Equal, but for the rounding of numbers."""
    if isinstance(one, float):
        assert one == pytest.approx(other, abs=1e-5)
    elif isinstance(one, dict | list):
        assert len(one) == len(other)
        pairs = ((one[key], other[key]) for key in one) if isinstance(one, dict) else zip(one, other, strict=True)
        for pair in pairs:
            assert_same(*pair)
    else:
        assert one == other


# --- Answers ---


@every_case
def test_answers_are_those_of_each_row_alone_in_the_order_of_the_rows(name, model_of, tmp_path, monkeypatch):
    rows = rows_of(name)
    more = ["--max_new_tokens", 4] if TASKS[CASES[name][0]].auto_class.__name__.endswith("CausalLM") else []
    whole = predict(model_of(name), write(tmp_path / "rows.jsonl", rows), tmp_path / "whole.jsonl", *more)
    assert [answer["input"] for answer in whole] == [next(iter(row.values())) for row in rows]
    monkeypatch.setattr(prediction, "READ_AHEAD", 1)
    alone = predict(model_of(name), tmp_path / "rows.jsonl", tmp_path / "alone.jsonl", *more)
    monkeypatch.setattr(prediction, "READ_AHEAD", 200)
    few = [*more, "--max_tokens_per_batch", 9]
    assert_same(whole, alone)
    assert_same(whole, predict(model_of(name), tmp_path / "rows.jsonl", tmp_path / "few.jsonl", *few))


@pytest.mark.parametrize("task, overflow", [(CLASSIFY, "window"), (TAG, "window"), (TRANSLATE, "truncate")])
def test_a_model_answers_as_it_did_when_it_was_trained(task, overflow, tmp_path, monkeypatch):
    """With the longest sequence of its run, which is shorter than the rows."""
    monkeypatch.setattr("seqblend.training.publisher.write_card", functools.partial(write_card, complete=False))
    names = [name for name in ROWS[task][0] if name != "label"]
    rows = [{**row, **{name: row[name] * 3 for name in names}} for row in ROWS[task]]
    windows = {"overflow": "window", "overlap": 1} if overflow == "window" else {}
    assert train(flags(tmp_path / "out", {"task": task, "max_length": 6, **windows, **files(tmp_path, rows)})) == 0
    said = [word for name, value in windows.items() for word in (f"--{name}", value)]
    answers = predict(tmp_path / "out", tmp_path / "test.jsonl", tmp_path / "answers.jsonl", *said)
    for row, answer, expected in zip(rows, answers, predictions(tmp_path / "out"), strict=True):
        assert_same([answer[key] for key in expected if key != "reference"], [*expected.values()][:-1])
        assert task != TAG or (len(answer["prediction"]) == len(row["tokens"]) and None not in answer["scores"])


def test_class_weights_stay_with_a_model_that_is_asked(model_of, tmp_path, caplog):
    """Every prediction said that they were dropped, as if the model were trained on with other labels."""
    weighted = shutil.copytree(model_of(CLASSIFY), tmp_path / "weighted")
    config = json.loads((weighted / "config.json").read_text())
    (weighted / "config.json").write_text(json.dumps({**config, "class_weights": [1.0, 2.0, 3.0]}))
    predict(weighted, write(tmp_path / "rows.jsonl", rows_of(CLASSIFY)), tmp_path / "a.jsonl")
    assert "class_weights" not in caplog.text


def test_pairs_and_several_labels_are_read(model_of, tmp_path):
    pairs = [{key: row[key] for key in ("text", "text_pair")} for row in PAIRS]
    answers = predict(model_of("numbers"), write(tmp_path / "pairs.csv", pairs), tmp_path / "a.jsonl")
    assert [answer["input"] for answer in answers] == [list(row.values()) for row in pairs]
    assert all(isinstance(answer["prediction"], float) for answer in answers)
    answers = predict(model_of("several"), write(tmp_path / "several.jsonl", SEVERAL), tmp_path / "b.jsonl")
    assert all(set(answer["scores"]) == {"x", "y"} for answer in answers)


def test_a_prompt_is_read_as_in_training():
    """Nothing closes it, even where the tokenizer that was saved does."""
    tokenizer = train_tokenizer(["abc"], "char", 300)
    options = Settings(tokenizer, [], None, 9, 9, 9, token_types=False, seed=0)
    features = TASKS["causal-lm"].read_rows([{"text": "ab"}], options)
    assert features["input_ids"] == [tokenizer.convert_tokens_to_ids(["a", "b"])]


def test_masks_are_where_the_text_has_them(model_of, tmp_path):
    """Those beyond max_length are told of, without an answer."""
    source = write(tmp_path / "rows.txt", [{"text": "👨\u200d👩\u200d👧[MASK] a[MASK]b" + "c" * 9 + "[MASK]"}])
    (answer,) = predict(model_of("masked-lm"), source, tmp_path / "a.jsonl", "--max_length", 14)
    assert [answer["input"][mask["start"] : mask["end"]] for mask in answer["masks"]] == ["[MASK]"] * 3
    assert [len(mask["predictions"]) for mask in answer["masks"]] == [5, 5, 0]
    for mask in answer["masks"][:2]:
        scores = [each["score"] for each in mask["predictions"]]
        assert scores == sorted(scores, reverse=True) and 0 < sum(scores) <= 1


def with_truncation_side(directory, copy, side):
    shutil.copytree(directory, copy)
    path = copy / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "truncation_side": side}))
    return copy


@pytest.mark.parametrize("name, column", [(TAG, "tokens"), (TRANSLATE, "source")])
def test_the_column_that_is_named_is_read(name, column, model_of, tmp_path):
    """The words or the source were read, as if --text_column had not been given."""
    row = {"body": "b a", column: ["a", "b"] if name == TAG else "a b"}
    rows = write(tmp_path / "rows.jsonl", [row])
    texts = write(tmp_path / "texts.jsonl", [{"text": row["body"]}])
    (found,) = predict(model_of(name), rows, tmp_path / "a.jsonl", "--text_column", "body")
    assert_same(found, predict(model_of(name), texts, tmp_path / "b.jsonl")[0])
    (found,) = predict(model_of(name), rows, tmp_path / "c.jsonl")
    assert found["input"] == row[column]


def copy_with_normalizer(model, copy, normalizer):
    shutil.copytree(model, copy)
    path = copy / "tokenizer.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "normalizer": normalizer}))
    return copy


def test_tags_of_words_whose_beginning_is_cut_off(model_of, tmp_path):
    """They are those of the last words alone; they were given to the first words."""
    model = with_truncation_side(model_of(TAG), tmp_path / "left", "left")
    words = ["a", "b", "c", "a", "b", "a", "c"]
    options = ["--max_length", 6, "--probabilities", "--decode_tags", "greedy"]
    rows = write(tmp_path / "rows.jsonl", [{"tokens": words}, {"tokens": words[3:]}])
    cut, tail = predict(model, rows, tmp_path / "a.jsonl", *options)
    assert cut["prediction"] == ["O"] * 3 + tail["prediction"]
    assert cut["scores"] == pytest.approx([None] * 3 + tail["scores"])
    assert cut["probabilities"][:3] == [None] * 3 and None not in cut["probabilities"][3:]
    texts = write(tmp_path / "rows.txt", [{"text": " ".join(words)}, {"text": " ".join(words[3:])}])
    cut, tail = predict(model, texts, tmp_path / "b.jsonl", *options, "--words", "words")
    found = [{**word, "start": word["start"] + 6, "end": word["end"] + 6} for word in tail["words"]]
    assert [word["label"] for word in cut["words"]] == ["O"] * 3 + [word["label"] for word in found]
    assert [word["start"] for word in cut["words"][3:]] == [word["start"] for word in found]


def test_masks_of_a_text_whose_beginning_is_cut_off(model_of, tmp_path):
    model = with_truncation_side(model_of("masked-lm"), tmp_path / "left", "left")
    tail = "a[MASK]b[MASK]"
    source = write(tmp_path / "rows.txt", [{"text": "[MASK]cc" + tail}, {"text": tail}])
    cut, whole = predict(model, source, tmp_path / "a.jsonl", "--max_length", 6)
    assert [len(mask["predictions"]) for mask in cut["masks"]] == [0, 5, 5]
    for mask, same in zip(cut["masks"][1:], whole["masks"], strict=True):
        assert mask["start"] == same["start"] + 8
        assert [each["token"] for each in mask["predictions"]] == [each["token"] for each in same["predictions"]]


def test_a_text_without_a_mask_is_refused(model_of, tmp_path, capsys):
    """As by the pipeline of transformers. It was answered with no masks, although the token was only mistyped."""
    source = write(tmp_path / "rows.txt", [{"text": "a [MASK]"}, {"text": "a <mask>"}])
    assert main([str(model_of("masked-lm")), "--input", str(source), "--output", str(tmp_path / "a.jsonl")]) == 2
    assert "rows.txt: row 2: the text has no mask token '[MASK]'" in capsys.readouterr().err


def test_a_mask_that_the_tokenizer_alone_sees_is_refused(model_of, tmp_path, capsys):
    """NFKC makes a mask of one in full width, whose place in the text is unknown. It ended in a traceback."""
    model = copy_with_normalizer(model_of("masked-lm"), tmp_path / "nfkc", {"type": "NFKC"})
    source = write(tmp_path / "rows.txt", [{"text": "a [MASK]"}, {"text": "［MASK］ [MASK]"}])
    assert main([str(model), "--input", str(source), "--output", str(tmp_path / "a.jsonl")]) == 2
    reason = "rows.txt: row 2: the tokenizer reads 2 masks, but the text has the mask token '[MASK]' 1 times"
    assert reason in capsys.readouterr().err


def test_a_mask_that_the_tokenizer_reads_as_text_is_refused(model_of, tmp_path, capsys):
    model = shutil.copytree(model_of("masked-lm"), tmp_path / "split")
    config = json.loads((model / "tokenizer_config.json").read_text())
    (model / "tokenizer_config.json").write_text(json.dumps(config | {"split_special_tokens": True}))
    source = write(tmp_path / "rows.txt", [{"text": "a [MASK]"}])
    assert main([str(model), "--input", str(source), "--output", str(tmp_path / "a.jsonl")]) == 2
    reason = "rows.txt: row 1: the tokenizer reads 0 masks, but the text has the mask token '[MASK]' 1 times"
    assert reason in capsys.readouterr().err


# --- How much an answer has ---


def test_a_mask_has_no_more_tokens_than_there_are(model_of, tmp_path):
    source = write(tmp_path / "rows.txt", [{"text": "a [MASK]"}])
    (answer,) = predict(model_of("masked-lm"), source, tmp_path / "a.jsonl", "--top_k", 10**6)
    (mask,) = answer["masks"]
    size = len(AutoTokenizer.from_pretrained(model_of("masked-lm")))
    assert {each["token"] for each in mask["predictions"]} >= {*range(size)}
    assert sum(each["score"] for each in mask["predictions"]) == pytest.approx(1)


def test_top_k_and_probabilities_of_labels(model_of, tmp_path):
    """The answer is the same; it has the scores of fewer labels, or of all."""
    source = write(tmp_path / "rows.jsonl", rows_of(CLASSIFY))
    plain = predict(model_of(CLASSIFY), source, tmp_path / "a.jsonl")
    one = predict(model_of(CLASSIFY), source, tmp_path / "b.jsonl", "--top_k", 1)
    every = predict(model_of(CLASSIFY), source, tmp_path / "c.jsonl", "--top_k", 1, "--probabilities")
    for answer, few, all_labels in zip(plain, one, every, strict=True):
        assert list(few["scores"]) == [answer["prediction"]] == [few["prediction"]]
        assert all_labels == answer and sum(all_labels["scores"].values()) == pytest.approx(1)


def test_top_k_of_masks(model_of, tmp_path):
    source = write(tmp_path / "rows.txt", [{"text": "a [MASK] b"}])
    (plain,) = predict(model_of("masked-lm"), source, tmp_path / "a.jsonl")
    (more,) = predict(model_of("masked-lm"), source, tmp_path / "b.jsonl", "--top_k", 7)
    assert len(more["masks"][0]["predictions"]) == 7
    assert more["masks"][0]["predictions"][:5] == plain["masks"][0]["predictions"]


def test_probabilities_of_every_word(model_of, tmp_path):
    """Words of a text have their places; words of a row keep their order; a word that was cut off has None."""
    texts = write(tmp_path / "texts.txt", [{"text": "ab c, 서울"}])
    said = ["--words", "words", "--probabilities", "--decode_tags", "greedy"]
    (answer,) = predict(model_of(TAG), texts, tmp_path / "a.jsonl", *said)
    assert [answer["input"][word["start"] : word["end"]] for word in answer["words"]] == ["ab", "c", ",", "서울"]
    rows = write(tmp_path / "rows.jsonl", [{"tokens": ["ab", "c", ",", "서울", *"ab" * 9]}])
    (of_words,) = predict(model_of(TAG), rows, tmp_path / "b.jsonl", "--probabilities", "--max_length", 9)
    assert of_words["probabilities"][-1] is None and len(of_words["probabilities"]) == 22
    for word in answer["words"]:
        assert word["probabilities"].keys() == {"O", "B-x", "I-x"}
        assert sum(word["probabilities"].values()) == pytest.approx(1)
        assert max(word["probabilities"], key=word["probabilities"].get) == word["label"]


@pytest.mark.parametrize(
    "name, flag",
    [*((each, "top_k") for each in ("causal-lm", TAG, "numbers", "several")), ("masked-lm", "probabilities")],
)
def test_what_a_task_does_not_give_is_refused(name, flag, model_of, tmp_path, capsys):
    source = write(tmp_path / "rows.txt", [{"text": "a"}])
    value = ["3"] if flag == "top_k" else []
    assert main([str(model_of(name)), "--input", str(source), f"--{flag}", *value]) == 2
    assert f"error: {flag}: is for" in capsys.readouterr().err


def test_the_score_of_a_text_is_the_mean_probability_of_its_tokens(model_of, tmp_path):
    """Computed by hand from each prompt alone; the command answers prompts of several lengths together."""
    directory = model_of("causal-lm")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(directory), AutoTokenizer.from_pretrained(directory)
    source = write(tmp_path / "rows.txt", [{"text": text} for text in ["ab", "ab cab", "b"]])
    for answer in predict(directory, source, tmp_path / "a.jsonl", "--max_new_tokens", 5):
        prompt = tokenizer(answer["input"], return_tensors="pt")
        tokens = model.generate(**prompt, max_new_tokens=5, max_length=None, do_sample=False)
        start = prompt["input_ids"].shape[1]
        with torch.no_grad():
            chosen = model(tokens).logits[0, start - 1 : -1].log_softmax(-1).gather(-1, tokens[0, start:, None])
        assert answer["score"] == pytest.approx(chosen.mean().exp().item(), abs=1e-5)


def test_scores_do_not_depend_on_how_many_logits_are_held(model_of, tmp_path, monkeypatch):
    """They were computed for a batch at once, in memory that grew with its rows."""
    for name, column in (("causal-lm", "text"), (TRANSLATE, "source")):
        source = write(tmp_path / "rows.jsonl", [{column: text} for text in TEXTS if text])
        expected = predict(model_of(name), source, tmp_path / f"{name}.jsonl", "--max_new_tokens", 4)
        with monkeypatch.context() as patch:
            patch.setattr("seqblend.tasks.base.MAX_LOGITS", 1)
            assert_same(predict(model_of(name), source, tmp_path / f"{name}1.jsonl", "--max_new_tokens", 4), expected)


def test_the_least_length_of_a_text_does_not_count_padding(model_of, tmp_path):
    """transformers counts that of a batch with the prompt, so an answer depended on the rows beside it."""
    directory = shutil.copytree(model_of("causal-lm"), tmp_path / "model")
    path = directory / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "min_length": 14}))
    texts = [letter * length for letter in ("a", "b", "c", "서", "ab") for length in range(1, 12)]
    together = Predictor(directory, max_new_tokens=12)({"text": texts})
    alone = [Predictor(directory, max_new_tokens=12)({"text": [text]}) for text in texts]
    assert together["prediction"] == [each["prediction"][0] for each in alone]


def test_a_wrong_generation_config_is_the_users(model_of, tmp_path, capsys):
    """A ValueError of transformers was a traceback."""
    directory = shutil.copytree(model_of("causal-lm"), tmp_path / "model")
    path = directory / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "cache_implementation": "nope"}))
    source = write(tmp_path / "rows.txt", [{"text": "ab"}])
    assert main([str(directory), "--input", str(source)]) == 2
    assert "error: " in capsys.readouterr().err


# --- Words and entities of a text ---


@PROPERTY
@given(text=text_strategy)
@pytest.mark.parametrize("words", WORDS)
def test_every_character_is_in_one_word(words, text):
    row = split_text(text, words)
    covered = [index for start, stop in row["spans"] for index in range(start, stop)]
    outside = [] if words == "characters" else [index for index in range(len(text)) if index not in set(covered)]
    assert sorted(covered + outside) == list(range(len(text))) and covered == sorted(covered)
    assert all(text[index].isspace() or re.match(r"\s", text[index]) for index in outside)
    assert row["tokens"] == [text[start:stop] for start, stop in row["spans"]]


def test_what_is_seen_as_one_is_one():
    text = "e\u0301a  서울에서,만나요 👨\u200d👩\u200d👧🇰🇷 می\u200cخواهم it's"
    expected = ["e\u0301a", "서울에서", ",", "만나요", "👨\u200d👩\u200d👧", "🇰🇷", "می\u200cخواهم", "it", "'", "s"]
    assert split_text(text, "words")["tokens"] == expected
    assert split_text(text, "spaces")["tokens"] == text.split()
    assert split_text(text, "characters")["tokens"] == list(text)


@PROPERTY
@given(text=text_strategy, data=st.data())
@pytest.mark.parametrize("labels", [["O", "B-x", "I-x", "B-y", "I-y"], ["NOUN", "VERB", "X"]])
def test_entities_are_parts_of_the_text_that_do_not_overlap(labels, text, data):
    row = split_text(text, "words")
    tags = data.draw(st.lists(st.sampled_from(labels), min_size=len(row["spans"]), max_size=len(row["spans"])))
    found = entities(tags, [0.5] * len(tags), row, find_scheme(labels))
    assert all(each["text"] == text[each["start"] : each["end"]] and each["score"] == 0.5 for each in found)
    assert all(one["end"] <= other["start"] for one, other in itertools.pairwise(found))
    inside = [
        index for index, (start, _) in enumerate(row["spans"]) if any(e["start"] <= start < e["end"] for e in found)
    ]
    assert inside == [index for index, tag in enumerate(tags) if tag != "O"]
    if "O" not in labels:
        assert [(each["start"], each["end"]) for each in found] == row["spans"]


@pytest.mark.parametrize(
    "tags, expected",
    [
        (["B-x", "I-x", "O", "B-y"], [("x", "a b"), ("y", "d")]),
        (["B-x", "B-x", "I-y", "I-y"], [("x", "a"), ("x", "b"), ("y", "c  d")]),
        (["B-x", "L-x", "U-y", "O"], [("x", "a b"), ("y", "c")]),
        (["B-x", "M-x", "E-x", "S-y"], [("x", "a b c"), ("y", "d")]),
        (["b_x", "i_x", "o", "b_x"], [("x", "a b"), ("x", "d")]),
        (["B", "E", "S", "S"], [("_", "a b"), ("_", "c"), ("_", "d")]),
        (["NOUN", "O", "VERB", "O"], [("NOUN", "a"), ("VERB", "c")]),
    ],
)
def test_entities_are_what_the_metric_counts(tags, expected):
    row = split_text("a b c  d", "words")
    found = entities(tags, [0.0, 1.0, None, 0.5], row, find_scheme(tags))
    assert [(each["label"], each["text"]) for each in found] == expected
    if tags[1][0] in "ILi":
        assert found[0]["score"] == 0.5


def test_a_long_text_is_tagged_whole(model_of, tmp_path, caplog):
    """Each word has the tag that the words alone have, and none is left to `O` for want of room."""
    words = ["abc", "서울", "a"] * 50
    source = write(tmp_path / "rows.jsonl", [{"tokens": words}])
    said = ["--max_length", 20, "--overflow", "window", "--overlap", 8]
    (answer,) = predict(model_of(TAG), source, tmp_path / "a.jsonl", *said)
    assert len(answer["prediction"]) == 150 and None not in answer["scores"]
    assert "1 of 1 rows are too long" in caplog.text and "windows" in caplog.text
    caplog.clear()
    (cut,) = predict(model_of(TAG), source, tmp_path / "b.jsonl", "--max_length", 20)
    assert cut["scores"].index(None) == 9 and set(cut["scores"][9:]) == {None}
    assert "282 tokens were cut off" in caplog.text


# --- Streams ---


def test_rows_are_read_no_further_ahead_than_they_must(monkeypatch):
    monkeypatch.setattr(prediction, "READ_AHEAD", 1000)
    read = 0

    def rows():
        nonlocal read
        for _ in range(10_000):
            read += 1
            yield {"text": "a" * 36}

    for number, chunk in enumerate(read_ahead(rows()), 1):
        assert len(chunk) == 10 and read == 10 * number


@contextlib.contextmanager
def standard(monkeypatch, stream, content=None):
    """A pipe in place of standard input, or of standard output; its other end."""
    reading, writing = os.pipe()
    if stream == "stdin":
        os.write(writing, content)
        os.close(writing)
        with open(reading, encoding="utf-8") as file:
            monkeypatch.setattr("sys.stdin", file)
            yield None
    else:
        with open(writing, "w", encoding="utf-8") as file:
            monkeypatch.setattr("sys.stdout", file)
            yield reading


def test_lines_come_in_and_go_out(model_of, monkeypatch, caplog):
    caplog.set_level("INFO")
    lines = "ab c\n\n서울 a\r\n".encode()
    with standard(monkeypatch, "stdin", lines), standard(monkeypatch, "stdout") as out:
        assert main([str(model_of(TAG)), "--input", "-"]) == 0
        answers = [json.loads(line) for line in os.read(out, 10**6).decode().splitlines()]
        os.close(out)
    assert [answer["input"] for answer in answers] == ["ab c", "", "서울 a"]
    assert caplog.messages[-1].startswith("standard input: 3 rows in ")


def test_a_reader_that_has_enough_ends_it_quietly(model_of, monkeypatch, capfd):
    with standard(monkeypatch, "stdin", b"a\n" * 9), standard(monkeypatch, "stdout") as out:
        os.close(out)
        assert main([str(model_of(CLASSIFY)), "--input", "-"]) == 0
    assert "Error" not in capfd.readouterr().err


def test_several_files_are_one_input_and_lines_do_for_every_task(model_of, tmp_path):
    first = write(tmp_path / "1.txt", [{"text": "ab"}, {"text": ""}])
    second, third = write(tmp_path / "2.csv", [{"source": "c"}]), write(tmp_path / "3.jsonl.gz", [{"source": "b"}])
    answers = predict(model_of(TRANSLATE), second, tmp_path / "a.jsonl", "--input", second, third)
    assert [answer["input"] for answer in answers] == ["c", "b"]
    answers = predict(model_of(TRANSLATE), first, tmp_path / "b.jsonl")
    assert [answer["input"] for answer in answers] == ["ab", ""]
    words = tmp_path / "4.conll"
    words.write_text("ab O\nc B-x\n\na O\n")
    answers = predict(model_of(TAG), words, tmp_path / "c.jsonl")
    assert [answer["input"] for answer in answers] == [["ab", "c"], ["a"]]


def test_an_output_in_the_home_directory(model_of, tmp_path, monkeypatch):
    """A shell does not expand `~` after a `=`; it was refused, while an input was found."""
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "rows.jsonl", rows_of(CLASSIFY))
    assert main([str(model_of(CLASSIFY)), "--input=~/rows.jsonl", "--output=~/a.jsonl"]) == 0
    assert len((tmp_path / "a.jsonl").read_text().splitlines()) == len(rows_of(CLASSIFY))


def test_an_output_may_be_packed(model_of, tmp_path):
    source = write(tmp_path / "rows.txt.gz", rows_of(CLASSIFY))
    assert main([str(model_of(CLASSIFY)), "--input", str(source), "--output", str(tmp_path / "a.jsonl.gz")]) == 0
    with gzip.open(tmp_path / "a.jsonl.gz", "rt", encoding="utf-8") as file:
        assert [json.loads(line)["input"] for line in file] == TEXTS


def read_back(path):
    """The rows of a file as `seqblend` and other programs read them."""
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    (source,) = sources_of("input", str(path), Reading())
    assert [*source.rows(tqdm(disable=True), None)] == rows
    return rows


@every_case
@pytest.mark.parametrize("ending", [".csv", ".parquet"])
@pytest.mark.parametrize("options", [[], ["--probabilities"]], ids=["", "probabilities"])
def test_an_output_is_a_table_if_its_ending_says_so(name, ending, options, model_of, tmp_path, monkeypatch):
    """With the answers of the lines of JSON; a text with a line end, a quote or a delimiter is one cell."""
    monkeypatch.setattr(output, "CONVERTED", 2)
    monkeypatch.setattr(output, "ROW_GROUP", 1)
    if options and name not in (CLASSIFY, TAG):
        options = []
    column = next(iter(rows_of(name)[0]))
    rows = [*rows_of(name), {column: ["a,b", 'c"\t'] if column == "tokens" else 'a,b\n"c"\r[MASK]'}]
    source = write(tmp_path / "rows.jsonl", rows)
    answers = predict(model_of(name), source, tmp_path / "a.jsonl", *options)
    path = tmp_path / f"a{ending}"
    assert main([str(model_of(name)), "--input", str(source), "--output", str(path), *options]) == 0
    found = read_back(path)
    assert [each.keys() for each in found] == [each.keys() for each in answers]
    for one, other in zip(found, answers, strict=True):
        for key, value in other.items():
            if ending == ".parquet":
                assert as_mapping(one[key]) == as_mapping(value), key
            else:
                is_plain = value is None or isinstance(value, str)
                assert one[key] == ((value or "") if is_plain else json.dumps(value, ensure_ascii=False))


def test_few_answers_of_a_table_are_held_as_objects(tmp_path):
    """Those of 10,000 rows with the probability of each label took more than a gigabyte."""

    class Answer(dict):
        """Counts how many there are."""

        held = most = 0

        def __init__(self, **values):
            super().__init__(**values)
            Answer.held += 1
            Answer.most = max(Answer.most, Answer.held)

        def __del__(self):
            Answer.held -= 1

    with (tmp_path / "a.parquet").open("wb") as file:
        output.write_parquet((Answer(input=f"text {number}", score=0.5) for number in range(2_000)), file)
    assert Answer.most < 3 * output.CONVERTED
    table = pq.ParquetFile(tmp_path / "a.parquet")
    assert table.num_row_groups == 1
    assert table.read()["input"].to_pylist() == [f"text {number}" for number in range(2_000)]


def as_mapping(value):
    """Lists of labels with their scores as mappings, at any depth."""
    if isinstance(value, list) and value and isinstance(value[0], dict) and value[0].keys() == {"label", "score"}:
        return {each["label"]: each["score"] for each in value}
    if isinstance(value, list):
        return [as_mapping(each) for each in value]
    return {key: as_mapping(each) for key, each in value.items()} if isinstance(value, dict) else value


def test_a_table_without_rows_and_an_unknown_ending(model_of, tmp_path, capsys):
    for ending in output.FORMATS:
        path = tmp_path / f"a{ending}"
        with path.open("wb") as file:
            output.format_of(str(path))([], file)
    assert pq.read_table(tmp_path / "a.parquet").num_rows == 0 and (tmp_path / "a.csv").read_text() == ""
    command = [str(model_of(CLASSIFY)), "--text", "a", "--output"]
    for ending in ("a.json", "a.xlsx", "a.csv.gz", "a.tsv"):
        assert main([*command, str(tmp_path / ending)]) == 2
        assert f"{ending} must end in .jsonl, .jsonl.gz, .csv, .parquet" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name, lines, more",
    [
        ("a.conll", "ab\nc\n\nb\n", []),
        ("a.txt", "ab\nc\n\nb\n", ["--token_column_index", "0"]),
        ("a.conll", "x ab O\nx c\n\nx b\t\n", ["--token_column_index", "1"]),
    ],
)
def test_words_without_tags_are_read_from_files_of_one_word_per_line(name, lines, more, model_of, tmp_path):
    """The column of tags had to be there, although prediction does not read it."""
    (tmp_path / name).write_text(lines)
    answers = predict(model_of(TAG), tmp_path / name, tmp_path / "a.jsonl", *more)
    assert [answer["input"] for answer in answers] == [["ab", "c"], ["b"]]
    (tmp_path / name).write_text("ab c\n")
    source = ["--input", str(tmp_path / name), "--output", str(tmp_path / "b.jsonl"), "--token_column_index", "2"]
    assert main([str(model_of(TAG)), *source]) == 2


@every_case
def test_texts_of_the_command_line(name, model_of, tmp_path):
    texts = [f"{text}[MASK]" for text in TEXTS if text]
    source = write(tmp_path / "rows.jsonl", [{"text": text} for text in texts])
    expected = predict(model_of(name), source, tmp_path / "a.jsonl")
    assert main([str(model_of(name)), "--text", *texts, "--output", str(tmp_path / "b.jsonl")]) == 0
    assert [json.loads(line) for line in (tmp_path / "b.jsonl").read_text(encoding="utf-8").splitlines()] == expected


def test_what_is_piped_in_is_read(model_of, tmp_path, monkeypatch, capsys):
    lines = tmp_path / "lines.txt"
    lines.write_text("ab c\nb  a\n", encoding="utf-8")
    expected = predict(model_of(CLASSIFY), lines, tmp_path / "a.jsonl")
    with lines.open() as pipe:
        monkeypatch.setattr("sys.stdin", pipe)
        assert main([str(model_of(CLASSIFY)), "--output", str(tmp_path / "b.jsonl")]) == 0
    assert [json.loads(line) for line in (tmp_path / "b.jsonl").read_text(encoding="utf-8").splitlines()] == expected
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True))
    for arguments in ([], ["--input", str(lines), "--text", "a"]):
        with pytest.raises(SystemExit):
            main([str(model_of(CLASSIFY)), *arguments])
    assert "give --input, --text, or a pipe" in capsys.readouterr().err


@pytest.mark.parametrize(("flag", "value"), [("encoding", "nope"), ("delimiter", ";"), ("token_column_index", 1)])
def test_options_of_files_are_not_for_texts(flag, value, model_of, capsys):
    assert main([str(model_of(CLASSIFY)), "--text", "a", f"--{flag}", str(value)]) == 2
    assert capsys.readouterr().err.startswith(f"error: {flag}: ")


# --- Errors ---


def test_a_full_disk_is_told_in_one_line(model_of, tmp_path, monkeypatch, capsys):
    source = write(tmp_path / "rows.jsonl", rows_of(CLASSIFY))
    command = [str(model_of(CLASSIFY)), "--input", str(source)]
    with open("/dev/full", "w") as full:
        monkeypatch.setattr("sys.stdout", full)
        assert main(command) == 1
    expected = "error: output: standard output cannot be written (No space left on device)"
    assert capsys.readouterr().err.splitlines()[-1] == expected


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_file_that_cannot_be_written_is_named(suffix, model_of, tmp_path, capsys):
    source, output = write(tmp_path / "rows.jsonl", rows_of(CLASSIFY)), tmp_path / f"a.jsonl{suffix}"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, limits[1]))
    try:
        assert main([str(model_of(CLASSIFY)), "--input", str(source), "--output", str(output)]) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    expected = f"error: output: {output} cannot be written (File too large)"
    assert capsys.readouterr().err.splitlines()[-1] == expected
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


def test_an_output_that_is_read_only_is_named_before_the_model_is_loaded(tmp_path, monkeypatch, capsys):
    source, output = write(tmp_path / "rows.jsonl", rows_of(CLASSIFY)), tmp_path / "a.jsonl"

    def refused(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr("seqblend.serving.output.open_locked", refused)
    assert main(["/no/model", "--input", str(source), "--output", str(output)]) == 1
    assert capsys.readouterr().err == f"error: output: {output} cannot be written (Permission denied)\n"


@pytest.mark.parametrize("name", [TRANSLATE, "causal-lm"])
def test_the_cache_of_generated_texts_is_limited(name, model_of):
    """Whatever the beams and the lengths; and every text is that of its row alone."""
    predictor = Predictor(model_of(name), max_tokens_per_batch=64, num_beams=4, max_new_tokens=5)
    column = TASKS[CASES[name][0]].inputs[0]
    texts = ["ab c" * (number % 4) for number in range(20)]
    alone = {text: predictor({column: [text]})["prediction"][0] for text in set(texts)}
    generate = predictor.rows.model.generate
    with mock.patch.object(predictor.rows.model, "generate", side_effect=generate) as spy:
        assert predictor({column: texts})["prediction"] == [alone[text] for text in texts]
    shapes = [call.kwargs["input_ids"].shape for call in spy.call_args_list]
    assert sum(rows for rows, _ in shapes) == len(texts) and max(rows for rows, _ in shapes) > 1
    assert all(rows * 4 * (length + 5) <= prediction.WRITTEN * 64 for rows, length in shapes)


def test_an_interruption_leaves_no_half_of_a_file(model_of, tmp_path, monkeypatch, caplog):
    def interrupted(rows):
        raise KeyboardInterrupt

    monkeypatch.setattr("seqblend.serving.prediction.read_ahead", interrupted)
    source = write(tmp_path / "rows.jsonl", rows_of(CLASSIFY))
    command = [str(model_of(CLASSIFY)), "--input", str(source), "--output", str(tmp_path / "a.jsonl")]
    assert main(command) == 130
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]
    assert caplog.messages[-1] == f"Ctrl-C: {tmp_path / 'a.jsonl'} was not written"


@pytest.mark.parametrize("where", ["loading.load_config", "prediction.RowPredictor.batches"])
def test_sigterm_ends_with_a_word_and_leaves_no_half_of_a_file(where, model_of, tmp_path, monkeypatch, caplog):
    """At the start, when the model is loaded, and in the course of the answers."""
    monkeypatch.setattr(f"seqblend.serving.{where}", lambda *args: os.kill(os.getpid(), signal.SIGTERM))
    source = write(tmp_path / "rows.jsonl", rows_of(CLASSIFY))
    command = [str(model_of(CLASSIFY)), "--input", str(source), "--output", str(tmp_path / "a.jsonl")]
    assert main(command) == 143 and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]
    assert caplog.messages == [f"SIGTERM: {tmp_path / 'a.jsonl'} was not written"]


def test_what_was_written_to_standard_output_before_it_ended_is_said(model_of, monkeypatch, caplog):
    encoded = prediction.RowPredictor.encode

    def encode(self, rows):
        if rows[0]["text"] == "c":
            os.kill(os.getpid(), signal.SIGTERM)
        return encoded(self, rows)

    monkeypatch.setattr(prediction, "READ_AHEAD", 1)
    monkeypatch.setattr(prediction.RowPredictor, "encode", encode)
    with standard(monkeypatch, "stdin", b"a\nb\nc\nd\n"), standard(monkeypatch, "stdout") as out:
        assert main([str(model_of(CLASSIFY)), "--input", "-"]) == 143
        assert [json.loads(line)["input"] for line in os.read(out, 10**6).splitlines()] == ["a", "b"]
        os.close(out)
    assert caplog.messages[-1] == "SIGTERM: 2 rows were written to standard output"


def test_one_file_is_not_written_twice_at_a_time(model_of, tmp_path, capsys):
    """The second one wrote into the file of the first, and both gave it its name."""
    source, output = write(tmp_path / "rows.jsonl", rows_of(CLASSIFY)), tmp_path / "a.jsonl"
    command = [str(model_of(CLASSIFY)), "--input", str(source), "--output", str(output), "--overwrite_output"]
    with open_locked(partial_path(output)) as first:
        first.write(b"of the first")
        first.flush()
        assert main(command) == 2
        expected = f"error: output: {output} is being written by another process, into {partial_path(output)}\n"
        assert capsys.readouterr().err == expected
        assert partial_path(output).read_bytes() == b"of the first"
    # As after a run that was killed.
    assert main(command) == 0
    assert len(output.read_text(encoding="utf-8").splitlines()) == len(TEXTS)
    assert {path.name for path in tmp_path.iterdir()} == {"rows.jsonl", "a.jsonl"}


def test_what_another_run_has_just_written_is_not_replaced(model_of, tmp_path, monkeypatch, capsys):
    source, output = write(tmp_path / "rows.jsonl", rows_of(CLASSIFY)), tmp_path / "a.jsonl"

    def late(path):
        output.write_text("of the other")
        return open_locked(path)

    monkeypatch.setattr("seqblend.serving.output.open_locked", late)
    assert main([str(model_of(CLASSIFY)), "--input", str(source), "--output", str(output)]) == 2
    assert "exists already" in capsys.readouterr().err and output.read_text() == "of the other"


def test_a_file_is_replaced_only_where_that_is_said_and_only_whole(model_of, tmp_path, capsys):
    good, bad = write(tmp_path / "rows.jsonl", [{"text": "a"}] * 3), tmp_path / "bad.jsonl"
    bad.write_text('{"text": "a"}\n{"text": 3}\n')
    output = tmp_path / "a.jsonl"
    command = [str(model_of(CLASSIFY)), "--output", str(output), "--input"]
    assert main([*command, str(bad)]) == 2 and not output.exists()
    assert main([*command, str(good)]) == 0
    before = output.read_text()
    capsys.readouterr()
    assert main([*command, str(good)]) == 2 and "--overwrite_output" in capsys.readouterr().err
    assert main([*command, str(bad), "--overwrite_output"]) == 2
    assert "bad.jsonl: row 2: column 'text': must be a text, but is the number 3" in capsys.readouterr().err
    assert output.read_text() == before
    assert {each.name for each in tmp_path.iterdir()} == {"rows.jsonl", "bad.jsonl", "a.jsonl"}
    assert main([*command, str(good), "--overwrite_output"]) == 0


def test_a_part_of_the_users_stays(model_of, tmp_path):
    """It was taken for what a killed process had left."""
    source, output = write(tmp_path / "rows.jsonl", rows_of(CLASSIFY)), tmp_path / "a.jsonl"
    (tmp_path / "a.jsonl.part").write_text("mine")
    assert len(predict(model_of(CLASSIFY), source, output)) == len(TEXTS)
    assert (tmp_path / "a.jsonl.part").read_text() == "mine"


def test_what_a_link_leads_to_is_replaced_and_the_link_stays(model_of, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    source, output, place = write(tmp_path / "rows.jsonl", rows_of(CLASSIFY)), tmp_path / "a", tmp_path / "elsewhere/b"
    place.write_text("old")
    output.symlink_to(place)
    assert len(predict(model_of(CLASSIFY), source, output, "--overwrite_output")) == len(TEXTS)
    assert output.is_symlink() and len(place.read_text(encoding="utf-8").splitlines()) == len(TEXTS)
    assert [path.name for path in place.parent.iterdir()] == ["b"]


LONG = '{"max_length": ' + "9" * 4000 + "}"
DAMAGED = {
    "all_results.json: is no JSON (maximum recursion depth": ("all_results.json", "[" * 200_000),
    "all_results.json: is no JSON (a number has 4000 digits": (
        "all_results.json",
        '{"max_length": ' + "9" * 4000 + "}",
    ),
    "all_results.json: must hold an object": ("all_results.json", "[1]"),
    "architectures in config.json is the number 5, not a list of names": ("config.json", {"architectures": 5}),
    "architectures in config.json is a list, not a list of names": ("config.json", {"architectures": [5]}),
    None: ("all_results.json", LONG[:200] + "}"),
}


def checks_architectures():
    try:
        PretrainedConfig(architectures=5)
    except StrictDataclassError:
        return True
    return False


@pytest.mark.parametrize("message", DAMAGED)
def test_damaged_json_of_a_model_is_named(message, model_of, tmp_path, capfd):
    """A length that nothing has is as good as none."""
    directory, (name, content) = shutil.copytree(model_of(CLASSIFY), tmp_path / "model"), DAMAGED[message]
    if isinstance(content, dict):
        content = json.dumps({**json.loads((directory / name).read_text()), **content})
    (directory / name).write_text(content)
    source = write(tmp_path / "rows.jsonl", [{"text": "a"}])
    assert main([str(directory), "--input", str(source)]) == (0 if message is None else 2)
    expected = message or ""
    if expected.startswith("architectures") and checks_architectures():
        # Older transformers refuses it first, in its own words.
        expected = "'architectures'"
    assert expected in capfd.readouterr().err


@pytest.mark.parametrize(
    "name, rows, more, message",
    [
        (CLASSIFY, [{"txt": "a"}], [], "no column 'text' (--text_column); columns present: 'txt'"),
        (CLASSIFY, [{"text": "a"}, {"text": "a", "text_pair": "b"}], [], "row 2: has column 'text_pair'"),
        (
            CLASSIFY,
            [{"text": "a"}],
            ["--token_column_index", "0"],
            "token_column_index: is for files of one word per line",
        ),
        (CLASSIFY, [{"text": "a"}], ["--input", "/no/where.jsonl"], "/no/where.jsonl: no such file"),
        (CLASSIFY, [{"text": "a"}, {}], [], "row 2: has no column 'text'"),
        (TAG, [{"words": ["a"]}], [], "no column 'tokens' (--tokens_column)"),
        (TAG, [{"text": "a"}], ["--words", "word"], "words: unknown value 'word'; valid are words"),
        (CLASSIFY, [{"text": "a"}], ["--words", "spaces"], "words: is for token-classification"),
        (CLASSIFY, [{"text": "a"}], ["--num_beams", "2"], "num_beams: is for models that generate"),
        (CLASSIFY, [{"text": "a"}], ["--max_length", "1"], "max_length: must be 2 or more, got 1"),
        (CLASSIFY, [{"text": "a"}], ["--max_length", str(2**64)], "max_length: must be at most 2147483647"),
        (CLASSIFY, [{"text": "a"}], ["--overflow", "windows"], "overflow: unknown value 'windows'; valid are window"),
        (CLASSIFY, [{"text": "a"}], ["--overlap", "3"], "overlap: 3 is for overflow=window"),
        (
            TRANSLATE,
            [{"source": "a"}],
            ["--overflow", "window"],
            "overflow: window is for sequence-classification, token",
        ),
        (
            CLASSIFY,
            [{"text": "a"}],
            ["--output", "/no/where/a.jsonl"],
            "output: the directory /no/where does not exist",
        ),
    ],
)
def test_what_is_wrong_is_named(name, rows, more, message, model_of, tmp_path, capfd):
    source = write(tmp_path / "rows.jsonl", rows)
    assert main([str(model_of(name)), "--input", str(source), *more]) == 2
    assert message in capfd.readouterr().err


@pytest.mark.parametrize("name", ["nope", "./nope", "/no/where"])
def test_a_model_that_is_not_there_is_named_and_not_looked_for_elsewhere(name, tmp_path, capsys):
    assert main([name, "--input", str(write(tmp_path / "rows.jsonl", [{"text": "a"}]))]) == 2
    assert capsys.readouterr().err == f"error: DIR: there is no directory {name}\n"


def test_a_model_without_a_head_is_refused(tmp_path, capsys):
    config = BlendEncoderConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
    AutoModel.from_config(config).save_pretrained(tmp_path / "model")
    source = write(tmp_path / "rows.jsonl", [{"text": "a"}])
    assert main([str(tmp_path / "model"), "--input", str(source)]) == 2
    assert "BlendEncoderModel has no head" in capsys.readouterr().err
