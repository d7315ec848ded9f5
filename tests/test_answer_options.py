"""--threshold and --num_answers: what they give, in files and in Python, and where they mean nothing."""

import functools

import pyarrow.parquet
import pytest
import torch
from test_prediction import model_of, predict, rows_of  # noqa: F401
from test_train_command import CLASSIFY, TAG, TRANSLATE, write
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from seqblend import Predictor
from seqblend.data.errors import InputError
from seqblend.predict import main
from seqblend.server.command import load, named_directories, parse
from seqblend.serving.options import PredictionOptions

WRITERS = (TRANSLATE, "causal-lm")


@pytest.fixture
def answers_of(model_of, tmp_path):  # noqa: F811
    """The answers of a case's model with flags."""

    @functools.cache
    def answers(name, *flags):
        source = write(tmp_path / "rows.jsonl", rows_of(name))
        return predict(model_of(name), source, tmp_path / "answers.jsonl", "--overwrite_output", *flags)

    return answers


# --- Thresholds ---


@pytest.mark.parametrize("threshold", [0, 0.3, 0.6, 1])
def test_several_labels_are_given_above_the_threshold(threshold, answers_of):
    found = answers_of("several", "--threshold", threshold)
    assert found
    for answer in found:
        assert answer["prediction"] == [name for name in ("x", "y") if answer["scores"][name] > threshold]


@pytest.mark.parametrize("threshold", [0, 0.5, 1])
def test_a_single_label_is_not_given_below_the_threshold(threshold, answers_of):
    plain, found = answers_of(CLASSIFY), answers_of(CLASSIFY, "--threshold", threshold)
    for answer, before in zip(found, plain, strict=True):
        assert answer.pop("abstains") == (before["scores"][before["prediction"]] < threshold)
        assert answer == before and "abstains" not in before


def test_the_threshold_of_the_user_is_that_of_an_ensemble(model_of, caplog):  # noqa: F811
    directory = str(model_of("several"))
    options = {"threshold": 0.9}
    alone = Predictor(directory, **options)({"text": ["ab", "c"]})
    assert Predictor([directory, directory], **options)({"text": ["ab", "c"]})["prediction"] == alone["prediction"]
    assert "not used" not in caplog.text


# --- Several texts ---


@pytest.mark.parametrize("name", WRITERS)
def test_the_best_texts_come_with_their_scores(name, answers_of):
    found = answers_of(name, "--num_answers", 3, "--max_new_tokens", 5)
    for answer in found:
        assert len(answer["answers"]) == 3
        first = answer["answers"][0]
        assert (answer["prediction"], answer["score"]) == (first["text"], first["score"])
        assert all(0 < each["score"] <= 1 for each in answer["answers"])
    # Without more beams, the first is that of as many beams.
    plain = answers_of(name, "--num_beams", 3, "--max_new_tokens", 5)
    assert [each["prediction"] for each in found] == [each["prediction"] for each in plain]
    assert [each["score"] for each in found] == pytest.approx([each["score"] for each in plain], abs=1e-5)


def test_the_texts_are_those_of_the_search_of_transformers(answers_of, model_of):  # noqa: F811
    directory = model_of(TRANSLATE)
    model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(directory), AutoTokenizer.from_pretrained(directory)
    for answer in answers_of(TRANSLATE, "--num_answers", 2, "--num_beams", 4):
        with torch.no_grad():
            inputs = tokenizer(answer["input"], return_tensors="pt")
            tokens = model.generate(**inputs, num_beams=4, num_return_sequences=2)
        expected = tokenizer.batch_decode(tokens, skip_special_tokens=True)
        assert [each["text"] for each in answer["answers"]] == expected


def test_one_answer_is_a_list_too(answers_of):
    assert {len(answer["answers"]) for answer in answers_of(TRANSLATE, "--num_answers", 1)} == {1}


def test_several_texts_in_a_table_and_in_python(model_of, tmp_path):  # noqa: F811
    source = write(tmp_path / "rows.jsonl", rows_of(TRANSLATE))
    command = [str(model_of(TRANSLATE)), "--input", str(source), "--num_answers", "2", "--output"]
    assert main([*command, str(tmp_path / "a.parquet")]) == main([*command, str(tmp_path / "a.csv")]) == 0
    rows = pyarrow.parquet.read_table(tmp_path / "a.parquet").to_pylist()
    found = Predictor(model_of(TRANSLATE), num_answers=2)({"source": [row["input"] for row in rows]})
    for row, answers in zip(rows, found["answers"], strict=True):
        assert [each["text"] for each in row["answers"]] == [each["text"] for each in answers]
    assert "answers" in (tmp_path / "a.csv").read_text().splitlines()[0]


def test_an_ensemble_gives_several_texts(model_of):  # noqa: F811
    directory = str(model_of(TRANSLATE))
    rows = {"source": ["ab c", "b"]}
    alone, both = (Predictor(each, num_answers=2)(rows)["answers"] for each in (directory, [directory] * 2))
    assert [[each["text"] for each in row] for row in alone] == [[each["text"] for each in row] for row in both]


def test_a_page_shows_one_answer(model_of):  # noqa: F811
    assert "<html" in Predictor(model_of(TRANSLATE), num_answers=3).explore({"source": "ab c"})


# --- What is refused ---


@pytest.mark.parametrize(
    ("name", "flag", "words"),
    [
        *((name, "num_answers", ["is for seq2seq-lm, causal-lm"]) for name in (TAG, "numbers", "masked-lm")),
        (CLASSIFY, "num_answers", ["seq2seq-lm", "top_k gives several labels"]),
        *((name, "threshold", ["is for sequence-classification"]) for name in (TAG, TRANSLATE, "numbers")),
    ],
)
def test_what_a_task_does_not_have(name, flag, words, model_of, capsys):  # noqa: F811
    for value in ("0", "1") if flag == "threshold" else ("1",):
        assert main([str(model_of(name)), "--text", "a", f"--{flag}", value]) == 2
        line = capsys.readouterr().err
        assert line.startswith(f"error: {flag}: ") and not [word for word in words if word not in line]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"threshold": 1.1}, "from 0 to 1"),
        ({"threshold": -0.1}, "0 or more"),
        ({"threshold": float("nan")}, "0 or more"),
        ({"threshold": True}, "must be float"),
        ({"threshold": "0.5"}, "must be float"),
        ({"num_answers": 0}, "1 or more"),
        ({"num_answers": 4, "num_beams": 2}, "num_beams is 2"),
    ],
    ids=str,
)
def test_values_out_of_range(given, words):
    with pytest.raises(InputError, match=words):
        PredictionOptions(**given)


def test_a_server_takes_a_threshold_of_a_single_label(model_of):  # noqa: F811
    directory = str(model_of(CLASSIFY))
    given = parse([directory, "--threshold", "0.7"])
    (predictor,) = load(named_directories([directory]), given).values()
    assert predictor.rows.settings.abstain_threshold == 0.7
    several = str(model_of("several"))
    with pytest.raises(InputError, match="threshold: a server answers with the scores of all labels"):
        load(named_directories([several]), parse([several, "--threshold", "0.7"]))
