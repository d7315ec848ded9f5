"""`seqblend.Predictor`: columns in, columns out, with the answers of `seqblend predict`."""

import datasets
import numpy as np
import pytest
from test_prediction import (  # noqa: F401 - model_of is a fixture
    CLASSIFY,
    TAG,
    TEXTS,
    TRANSLATE,
    assert_same,
    every_case,
    model_of,
    predict,
    rows_of,
)
from test_train_command import write

from seqblend import Predictor
from seqblend.data.errors import InputError
from seqblend.serving.options import PredictionOptions


def columns_of(rows):
    return {name: [row[name] for row in rows] for name in rows[0]}


def without_input(answers):
    return [{key: value for key, value in answer.items() if key != "input"} for answer in answers]


def as_rows(columns):
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


@every_case
def test_columns_have_the_answers_of_the_command(name, model_of, tmp_path):  # noqa: F811
    rows = rows_of(name)
    expected = without_input(predict(model_of(name), write(tmp_path / "rows.jsonl", rows), tmp_path / "a.jsonl"))
    predictor = Predictor(model_of(name))
    assert_same(as_rows(predictor({**columns_of(rows), "id": list(range(len(rows)))})), expected)

    # As Ray gives columns: arrays of texts, or of arrays of words.
    arrays = {key: np.empty(len(rows), dtype=object) for key in rows[0]}
    for index, row in enumerate(rows):
        for key, value in row.items():
            arrays[key][index] = np.array(value, dtype=object) if isinstance(value, list) else value
    assert_same(as_rows(predictor(arrays)), expected)

    mapped = datasets.Dataset.from_list(rows).map(predictor, batched=True, batch_size=4, new_fingerprint="a")
    for key, values in columns_of(expected).items():
        if not isinstance(values[0], dict | list):
            assert_same(mapped[key][:], values)


def test_texts_of_a_tagger_are_split_as_the_command_splits_them(model_of, tmp_path, caplog):  # noqa: F811
    rows = [{"text": text} for text in TEXTS]
    expected = without_input(predict(model_of(TAG), write(tmp_path / "rows.jsonl", rows), tmp_path / "a.jsonl"))
    caplog.clear()
    predictor = Predictor(model_of(TAG))
    for _ in range(2):
        assert_same(as_rows(predictor({"text": TEXTS})), expected)
    assert len([message for message in caplog.messages if "no record of how its training words" in message]) == 1


def test_options_are_those_of_the_command(model_of, tmp_path):  # noqa: F811
    rows = [{"doc": {"body": text}} for text in TEXTS]
    options = {"text_column": "doc.body", "top_k": 2, "max_length": 4, "overflow": "window", "overlap": 1}
    flags = [word for name, value in options.items() for word in (f"--{name}", value)]
    path = write(tmp_path / "rows.jsonl", rows)
    expected = without_input(predict(model_of(CLASSIFY), path, tmp_path / "a.jsonl", *flags))
    predictor = Predictor(model_of(CLASSIFY), PredictionOptions(top_k=1), **options)
    assert_same(as_rows(predictor(columns_of(rows))), expected)
    assert predictor.overflow.long > 0


@pytest.mark.parametrize("batch", [{}, {"text": []}, {"text": np.array([])}])
def test_a_batch_without_rows_has_no_answers(batch, model_of):  # noqa: F811
    assert Predictor(model_of(CLASSIFY))(batch) == {}


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (["a text"], r"must be columns, as in \{'text': .*, but is a list"),
        ({"text": "a text"}, "column 'text' is a single text"),
        ({"text": ["a", "b"], "id": [1]}, "different lengths: text 2, id 1"),
        ({"body": ["a"]}, "no column 'text'"),
        ({"text": ["a", None]}, "row 2: column 'text'"),
        ({"text": ["a", "b", "\ud800"]}, "row 3: column 'text'"),
    ],
)
def test_a_bad_batch_is_refused(batch, message, model_of):  # noqa: F811
    predictor = Predictor(model_of(CLASSIFY))
    with pytest.raises(InputError, match=f"^the batch.*{message}"):
        predictor(batch)
    assert len(predictor({"text": ["a"]})["prediction"]) == 1


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"top_p": 1}, TypeError, "top_p"),
        ({"top_k": 0}, InputError, "top_k: must be 1 or more, got 0"),
        ({"words": "letters"}, InputError, "words: unknown value 'letters'"),
        ({"num_beams": 2}, InputError, "num_beams: is for models that generate"),
    ],
)
def test_a_bad_option_is_refused(options, error, message, model_of):  # noqa: F811
    with pytest.raises(error, match=message):
        Predictor(model_of(CLASSIFY), **options)
    with pytest.raises(InputError, match="there is no directory"):
        Predictor("/no/where")
    assert Predictor(model_of(TRANSLATE), num_beams=2).task.generates
