"""How a tagger's words were divided: found from the words alone, kept with the tokenizer, and asked by everyone."""

import json
import shutil

import pytest
from conftest import tiny_model
from test_train_command import SMALL, TAG, files, prepared, write
from transformers import AutoTokenizer

from seqblend import BlendEncoderForTokenClassification
from seqblend.data.errors import InputError
from seqblend.hub_card import card as card_module
from seqblend.hub_card.agreement import SEPARATOR
from seqblend.hub_card.card import write_card
from seqblend.predict import main as predict
from seqblend.tokenization.training import train_tokenizer
from seqblend.tokenization.words import (
    KEY,
    WordSplitting,
    find_splitting,
    join_words,
    main_script,
    read_splitting,
    set_splitting,
    with_spaces,
)


@pytest.mark.parametrize(
    "sentences, expected",
    [
        ([list("4 mars 2031")], ("characters", 1)),
        ([["北", "京", "很", "大"]], ("characters", 1)),
        ([["Anna", "lives", "in", "New", "York", ".", "She", "(", "too", ")"]], ("words", 1)),
        ([["서울에서", "왔어요", "."]], ("words", 1)),
        ([["Then", "in", "Paris.", "Yes,", "don't"]], ("spaces", 1)),
        ([["The", "U.N.", "official", "."]], ("words", 3 / 4)),
        ([[*"我们喜欢", "CEO"]], ("characters", 4 / 5)),
        ([["我们", "喜欢", "北京"], ["我"]], ("characters", 1 / 4)),
        ([["New York", "is", "big"]], ("words", 2 / 3)),
    ],
)
def test_the_rule_that_gives_the_words_back_is_found(sentences, expected):
    assert find_splitting(sentences) == expected
    assert ("no rule" in str(WordSplitting(*expected))) == (expected[1] < 1)


def test_without_a_word_there_is_no_rule():
    assert find_splitting([[], []]) is None


@pytest.mark.parametrize(
    ("rule", "words", "text"),
    [
        ("words", ["世界", "hello", "世", "界", "!", "", "(", "a", ")"], "世界 hello 世界! (a)"),
        ("spaces", ["서울", "왔어요", ".", "Anna"], "서울 왔어요. Anna"),
        ("characters", ["a", " ", "b", "c"], "a bc"),
    ],
)
def test_words_are_joined_as_they_are_written(rule, words, text):
    joined, spans = join_words(words, rule)
    assert joined == text == "".join(with_spaces(words, rule))
    assert [text[start:end] for start, end in spans] == words


@pytest.mark.parametrize(
    ("texts", "script"),
    [
        *((["가나다", "ab"], "Korean"), (["가나", "ab"], None), (["가나", "éa"], None), (["12가!"], "Korean")),
        *((["東京"], "Chinese"), (["東京大学", "の"], "Japanese"), (["東京大学" * 5, "の"], "Chinese")),
        *((["ไทย"], "unspaced"), (["abc", ""], None), ([], None)),
    ],
)
def test_a_script_is_that_of_more_than_half_of_the_letters(texts, script):
    assert main_script(texts) == script


def test_a_tokenizer_keeps_it_and_is_told_anew(tmp_path):
    """By the library alone, saved and loaded twice; another training, or another task, does not leave the old one."""
    tokenizer = train_tokenizer(["ab c"], "char", 20)
    set_splitting(tokenizer, WordSplitting("characters", 0.5))
    for name in ("one", "two"):
        tokenizer.save_pretrained(tmp_path / name)
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / name)
        assert read_splitting(tokenizer.init_kwargs) == ("characters", 0.5)
    set_splitting(tokenizer, None)
    tokenizer.save_pretrained(tmp_path)
    assert KEY not in json.loads((tmp_path / "tokenizer_config.json").read_text())


@pytest.fixture(scope="module")
def tagger(tmp_path_factory):
    """The directory of an untrained tagger of characters, as train.py would save it."""
    root = tmp_path_factory.mktemp("tagger")
    rows = [{"tokens": list("4 mai"), "tags": ["B-x", "O", "B-y", "I-y", "I-y"]}] * 2
    job = prepared(root / "out", task=TAG, config_overrides=SMALL, **files(root, rows, ["train"]))
    job.trainer.save_model(str(root / "out"))
    return root / "out"


def test_prediction_divides_as_training_did(tagger, tmp_path, caplog):
    """And a line says so where it is told to do otherwise, where no rule is right, and where none is known."""
    source, output = write(tmp_path / "a.jsonl", [{"text": "4 mai"}]), tmp_path / "out.jsonl"

    def texts(directory, *more):
        caplog.clear()
        assert (
            predict([str(directory), "--input", str(source), "--output", str(output), "--overwrite_output", *more])
            == 0
        )
        (answer,) = map(json.loads, output.read_text().splitlines())
        assert all(entity["text"] == "4 mai"[entity["start"] : entity["end"]] for entity in answer["entities"])
        return {each for entity in answer["entities"] for each in (entity["start"], entity["end"])}

    by_default = texts(tagger)
    assert "words:" not in caplog.text
    assert by_default == texts(tagger, "--words", "characters") and "words:" not in caplog.text
    assert texts(tagger, "--words", "words") <= {0, 1, 2, 5}
    assert "split by 'words'" in caplog.text and "'characters' restores all words of training" in caplog.text
    copy = shutil.copytree(tagger, tmp_path / "copy")
    tokenizer = AutoTokenizer.from_pretrained(copy)
    set_splitting(tokenizer, WordSplitting("characters", 0.9))
    tokenizer.save_pretrained(copy)
    assert by_default == texts(copy) and "90.0%; no rule restores all" in caplog.text
    assert "split by" not in caplog.text, "no other rule than that of training is used"
    set_splitting(tokenizer, None)
    tokenizer.save_pretrained(copy)
    assert texts(copy) <= {0, 1, 2, 5} and "has no record of how its training words were split" in caplog.text


def test_a_second_training_tells_its_own_words(tagger, tmp_path):
    rows = [{"tokens": ["mai", "4", "aim"], "tags": ["B-y", "B-x", "O"]}] * 2
    given = {"model_name_or_path": tagger, "tokenizer_type": None, "config_overrides": None}
    job = prepared(tmp_path / "out", task=TAG, **given, **files(tmp_path, rows, ["train"]))
    assert read_splitting(job.trainer.processing_class.init_kwargs) == ("words", 1)


@pytest.mark.parametrize(
    "told",
    [
        "words",
        ["words", 1],
        {"rule": "words"},
        {"rule": "x", "share": 1},
        {"rule": [], "share": 1},
        {"rule": "words", "share": "1"},
        {"rule": "words", "share": 2},
    ],
)
def test_a_rule_that_is_none_is_refused(told):
    """It stands in a file that somebody else may have written."""
    with pytest.raises(InputError, match=r"word_splitting in tokenizer_config\.json: must hold a rule \(characters, "):
        read_splitting({KEY: told})


def test_the_cards_code_divides_as_training_did_and_says_what_the_run_said(tmp_path, monkeypatch, caplog):
    """Of rows with each label some are tried; where the code says something else, the card and a line say so."""
    said = [[["4", "LABEL_0", "0.9"], ["m", "LABEL_1", "0.9"]]]
    monkeypatch.setattr(card_module, "run_usage", lambda *args: f"4 LABEL_0\n{SEPARATOR}\n{json.dumps(said)}")
    monkeypatch.setattr(card_module, "draw_pictures", lambda *args: [])
    tiny_model(BlendEncoderForTokenClassification).save_pretrained(tmp_path)
    row = {"input": ["4", "m"], "prediction": ["LABEL_0", "LABEL_1"], "reference": ["LABEL_0", "LABEL_0"]}
    (tmp_path / "predictions.jsonl").write_text(json.dumps(row) + "\n")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({KEY: {"rule": "characters", "share": 1}}))
    card = write_card(tmp_path).read_text()
    tested = "1 test row (with 2 of the 3 labels): "
    assert 'words = list("4m")' in card and f"{tested}it gives the predictions of the run." in card
    said[0][1][1] = "LABEL_0"
    card = write_card(tmp_path).read_text()
    different = f"{tested}1 of 1 predictions differ from those of the run"
    assert different in card and different in caplog.text
