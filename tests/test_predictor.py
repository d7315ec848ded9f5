"""`seqblend.Predictor`: columns in, columns out, with the answers of `seqblend predict`."""

import json
import pickle
import re
import shutil

import datasets
import numpy as np
import pyarrow as pa
import pytest
import torch
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
from test_train_command import PAIRS, assert_refused, files, from_model, run, write
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, GenerationConfig, pipeline

from seqblend import Predictor
from seqblend.data.errors import InputError, RowError
from seqblend.predict import main
from seqblend.serving.ensemble import together
from seqblend.serving.options import PredictionOptions


def columns_of(rows):
    return {name: [row[name] for row in rows] for name in rows[0]}


def without_input(answers):
    """Scores of labels as a column has them."""
    found = []
    for answer in answers:
        if isinstance(answer.get("scores"), dict):
            answer["scores"] = [{"label": label, "score": score} for label, score in answer["scores"].items()]
        found.append({key: value for key, value in answer.items() if key != "input"})
    return found


def as_rows(columns):
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def test_a_single_output_without_a_problem_type_is_a_number(model_of, tmp_path):  # noqa: F811
    """As of many cross-encoders, of which the pipeline of transformers gives the sigmoid."""
    shutil.copytree(model_of("numbers"), tmp_path / "model")
    config = tmp_path / "model" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "problem_type": None}))
    found = Predictor(tmp_path / "model")({"text": ["ab", "c"]})["prediction"]
    scores = [each["score"] for each in pipeline("text-classification", str(tmp_path / "model"))(["ab", "c"])]
    assert torch.tensor(found).sigmoid().tolist() == pytest.approx(scores)


@pytest.mark.parametrize("name", [TRANSLATE, "causal-lm"])
def test_settings_of_outputs_change_no_answer(name, model_of, tmp_path):  # noqa: F811
    """As many models of the Hub have in generation_config.json."""
    shutil.copytree(model_of(name), tmp_path / "model")
    path = tmp_path / "model" / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "return_dict_in_generate": True}))
    columns = columns_of(rows_of(name))
    assert Predictor(tmp_path / "model")(columns) == Predictor(model_of(name))(columns)


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


def test_a_classifier_with_one_output_gives_numbers(model_of, tmp_path):  # noqa: F811
    """Also without a problem_type, as cross-encoders are saved: in the loss it is a regression, too."""
    directory = shutil.copytree(model_of(CLASSIFY), tmp_path / "model")
    config = AutoConfig.from_pretrained(directory, num_labels=1)
    config.problem_type = None
    model = AutoModelForSequenceClassification.from_pretrained(directory, config=config, ignore_mismatched_sizes=True)
    model.save_pretrained(directory)
    found = Predictor(directory)({"text": TEXTS})["prediction"]
    encoded = AutoTokenizer.from_pretrained(directory)(TEXTS, padding=True, return_tensors="pt")
    assert found == pytest.approx(model.eval()(**encoded).logits[:, 0].tolist(), abs=1e-5)
    ensemble = together([str(directory)] * 2, [Predictor(directory).rows for _ in range(2)])
    assert [each["prediction"] for each in ensemble.answers({"text": text} for text in TEXTS)] == pytest.approx(found)
    with pytest.raises(InputError, match="top_k"):
        Predictor(directory, top_k=1)


@pytest.mark.parametrize("name", [CLASSIFY, "several", "numbers", TAG, "masked-lm"])
def test_an_output_that_is_no_number_is_refused(name, model_of):  # noqa: F811
    """As from an overflow in half precision; it would look like an answer."""
    predictor = Predictor(model_of(name))
    with torch.no_grad():
        for parameter in predictor.rows.model.parameters():
            parameter.fill_(torch.nan)
    rows = rows_of(name)
    with pytest.raises(InputError, match=r"row \d: .*not finite"):
        predictor(columns_of(rows))


def test_the_row_that_is_too_long_is_named(model_of):  # noqa: F811
    """Of a batch that is sorted by length, and of windows."""
    rows = Predictor(model_of(CLASSIFY), max_length=4, overflow="window", overlap=1).rows

    class Refusing(torch.nn.Module):
        device = "cpu"

        def forward(self, input_ids, **inputs):
            raise RowError(len(input_ids) - 1, "too long")

    rows.model = Refusing()
    with pytest.raises(RowError, match="too long") as refused:
        list(rows.answers([{"text": "a"}, {"text": "a b c d e f g h"}, {"text": "b"}]))
    assert refused.value.row == 1


@pytest.mark.parametrize(("limits", "length"), [({}, 64), ({"max_length": 9}, 8), ({"max_new_tokens": 7}, 7)])
def test_a_model_without_a_limit_writes_what_the_help_says(limits, length, model_of, tmp_path):  # noqa: F811
    directory = shutil.copytree(model_of(TRANSLATE), tmp_path / "model")
    config = GenerationConfig.from_pretrained(directory)
    config.max_length = config.max_new_tokens = None
    config.eos_token_id = None
    config.update(**limits)
    config.save_pretrained(directory)
    predictor = Predictor(directory)
    ((tokens, _),) = predictor.rows.compute([predictor.rows.encode([{"source": "a"}])])[0]
    assert len(tokens) == length


def test_a_model_that_continues_has_its_own_limit(model_of, tmp_path, monkeypatch):  # noqa: F811
    """As in a pipeline of transformers; the user's comes first, and a prompt must have room."""
    directory = shutil.copytree(model_of("causal-lm"), tmp_path / "model")
    config = GenerationConfig.from_pretrained(directory)
    config.update(max_length=None, max_new_tokens=5, eos_token_id=None)
    config.save_pretrained(directory)

    def written(**options):
        rows = Predictor(directory, **options).rows
        ((tokens, _),) = rows.compute([rows.encode([{"text": "a"}])])[0]
        return len(tokens)

    assert (written(), written(max_new_tokens=3)) == (5, 3)
    monkeypatch.setattr("seqblend.tasks.models.position_limit", lambda config: 8)
    assert written() == 4


def test_a_missing_value_of_pandas_is_named(model_of):  # noqa: F811
    """It ended in a TypeError: whether it equals an empty text is neither true nor false."""
    pandas = pytest.importorskip("pandas")
    texts = pandas.array(["a", pandas.NA], dtype="string")
    with pytest.raises(InputError, match="the batch: row 2: column 'text': must be a text, but is a NAType"):
        Predictor(model_of(CLASSIFY))({"text": texts})


@pytest.mark.parametrize("batch", [{}, {"text": []}, {"text": np.array([])}])
def test_a_batch_without_rows_has_no_answers(batch, model_of):  # noqa: F811
    assert Predictor(model_of(CLASSIFY))(batch) == {}


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (["a text"], r"must be columns, as in \{'text': .*, but is a list"),
        *(({"text": value}, "column 'text' must be a list of values") for value in ("a", b"a", None, 3, {"a"}, {})),
        ({"text": np.array("a text")}, "column 'text' must be a list of values"),
        ({"text": ["a", "b"], "text_pair": ["c"]}, "different lengths: text 2, text_pair 1"),
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
        ({"max_length": "7"}, InputError, "max_length: must be int, but is the text '7'"),
        ({"top_k": 1.5}, InputError, "top_k: must be int"),
        ({"top_k": True}, InputError, "top_k: must be int"),
        ({"max_tokens_per_batch": None}, InputError, "max_tokens_per_batch: must be int, but is null"),
        ({"probabilities": "no"}, InputError, "probabilities: must be bool"),
        ({"text_column": 3}, InputError, "text_column: must be str"),
    ],
)
def test_a_bad_option_is_refused(options, error, message, model_of):  # noqa: F811
    with pytest.raises(error, match=message):
        Predictor(model_of(CLASSIFY), **options)
    with pytest.raises(InputError, match="there is no directory"):
        Predictor("/no/where")
    assert Predictor(model_of(TRANSLATE), num_beams=2).task.generates


def test_other_columns_are_not_read(model_of):  # noqa: F811
    """They were, so that images and sounds beside the text were decoded, or could not be."""
    image = {"bytes": b"no image", "path": None}
    features = datasets.Features({"text": datasets.Value("string"), "image": datasets.Image()})
    table = pa.table({"text": ["a", "b"], "image": [image, image]}, schema=features.arrow_schema)
    predictor = Predictor(model_of(CLASSIFY))
    found = datasets.Dataset(table).map(predictor, batched=True)
    assert found["prediction"][:] == predictor({"text": ["a", "b"]})["prediction"]


def test_columns_of_other_libraries(model_of):  # noqa: F811
    predictor = Predictor(model_of(TAG))
    words = [["ab", "c"], ["b"]]
    expected = predictor({"tokens": words})
    arrays = [np.array(row) for row in words]
    for column in (pa.array(words), pa.chunked_array([words]), arrays, [list(row) for row in arrays], tuple(words)):
        assert_same(predictor({"tokens": column}), expected)
    texts = ["ab c", "b"]
    expected = predictor({"text": texts})
    for column in (pa.array(texts), list(pa.array(texts)), np.array(texts), list(np.array(texts)), (t for t in texts)):
        assert_same(predictor({"text": column}), expected)


def test_another_process_loads_the_model_itself(model_of, tmp_path):  # noqa: F811
    """And a cache of datasets notices that the model in a directory is another one."""
    shutil.copytree(model_of(CLASSIFY), tmp_path / "model")
    pickled = pickle.dumps(Predictor(tmp_path / "model", top_k=2))
    assert len(pickled) < (tmp_path / "model" / "model.safetensors").stat().st_size / 2
    again = pickle.loads(pickled)
    assert again.options.top_k == 2
    assert_same(again({"text": TEXTS}), Predictor(model_of(CLASSIFY), top_k=2)({"text": TEXTS}))
    (tmp_path / "model" / "model.safetensors").touch()
    assert pickle.dumps(Predictor(tmp_path / "model", top_k=2)) != pickled


# --- Pairs of texts ---


def test_a_model_of_pairs_asks_for_the_second_text(tmp_path, capsys):
    """It answered the first text alone, without a word. One that was saved without a record still does."""
    model = run(tmp_path / "a", problem_type="regression", **files(tmp_path, PAIRS, ["train"]))
    said = "no column 'text_pair' (--text_pair_column); the model was trained on pairs of texts"
    test = write(tmp_path / "test.jsonl", [{"text": "a", "label": 1.0}])
    assert_refused(tmp_path, from_model(model, test_file=test), ["test.jsonl", said], capsys)
    predictor = Predictor(model)
    assert len(predictor({"text": ["a"], "text_pair": ["b"]})["prediction"]) == 1
    with pytest.raises(InputError, match=re.escape(f"the batch: {said}; columns present: 'text'")):
        predictor({"text": ["a"]})
    assert main([str(model), "--text", "a", "--output", str(tmp_path / "a.jsonl")]) == 2
    assert said in capsys.readouterr().err
    config = model / "tokenizer_config.json"
    fields = json.loads(config.read_text())
    config.write_text(json.dumps({name: fields[name] for name in fields if name != "reads_text_pairs"}))
    assert len(Predictor(model)({"text": ["a"]})["prediction"]) == 1


def test_a_model_of_pairs_that_is_trained_on_single_texts_reads_single_texts(tmp_path):
    model = run(tmp_path / "a", problem_type="regression", **files(tmp_path, PAIRS, ["train"]))
    rows = [{"text": row["text"], "label": row["label"]} for row in PAIRS]
    other = run(tmp_path / "b", **from_model(model, train_file=write(tmp_path / "single.jsonl", rows)))
    assert len(Predictor(other)({"text": ["a"]})["prediction"]) == 1
