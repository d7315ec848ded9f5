"""`seqblend export --engine onnx`: the answers of `seqblend predict` are those of the model, whatever the batch."""

import json
import pickle
import shutil
import sys

import numpy as np
import onnx
import pytest
import torch
from conftest import SLIDING, named, tiny_model
from test_flat_graph import READERS, sequences_of
from test_prediction import (  # noqa: F401 - model_of is a fixture
    CLASSIFY,
    TAG,
    assert_same,
    model_of,
    predict,
    rows_of,
    write,
)
from transformers import AutoTokenizer

from seqblend import Predictor
from seqblend.__main__ import main
from seqblend.conversion.target import check_target
from seqblend.data.errors import InputError
from seqblend.modeling.heads import ForSequenceClassification
from seqblend.serving import export as exporting
from seqblend.serving.engines import ENGINE_FILE, EXPORTED, load_engine
from seqblend.serving.export import export
from seqblend.serving.onnx_engine import MODEL, load
from seqblend.serving.onnx_engine import write as write_graph

LENGTHS = [[5, 3, 9], [1], [0, 7, 0], [0, 0], [100, 1, 70, 33]]


def padded(lengths, sequence):
    rows = torch.zeros(len(lengths), max(*lengths, 1), dtype=torch.long)
    for row, values in zip(rows, np.split(sequence, np.cumsum(lengths)[:-1]), strict=True):
        row[: len(values)] = torch.from_numpy(values)
    return rows


@torch.no_grad()
@pytest.mark.parametrize(
    "model_class, biases, int8",
    [
        *((model_class, {}, int8) for model_class in READERS for int8 in (False, True)),
        # They are not quantized, and do not depend on the head.
        *((model_class, {"relative_attention_num_buckets": 8}, False) for model_class in READERS[:3]),
    ],
    ids=named,
)
def test_the_graph_has_the_outputs_of_the_model(model_class, biases, int8, tmp_path):
    """Of every head, with windows, for lengths and numbers of rows that the exporter has not seen."""
    options = {"max_position_embeddings": 128, "type_vocab_size": 2, "pooling": "eos", **SLIDING, **biases}
    model = tiny_model(model_class, "eager", initializer_range=0.1, **options).float()
    write_graph(model, tmp_path, int8)
    is_pooled = isinstance(model, ForSequenceClassification)
    graph = load(tmp_path, model.config)
    for lengths in LENGTHS:
        ids, types = sequences_of(lengths)
        mask = (torch.arange(max(*lengths, 1)) < torch.tensor(lengths)[:, None]).long()
        inputs = {"input_ids": padded(lengths, ids), "attention_mask": mask, "token_type_ids": padded(lengths, types)}
        expected, actual = (next(iter(each(**inputs).items())) for each in (model, graph))
        assert actual[0] == expected[0] and actual[1].shape == expected[1].shape
        if not is_pooled:
            assert not actual[1][mask == 0].any()
            expected, actual = expected[1][mask == 1], actual[1][mask == 1]
        else:
            expected, actual = expected[1], actual[1]
        if len(expected):
            error = (actual - expected).abs().max() if not int8 else (actual - expected).square().mean().sqrt()
            assert error < (0.3 if int8 else 1e-4) * max(1, float(expected.abs().max()))


def test_only_the_blocks_have_int8_weights(tmp_path):
    model = tiny_model(READERS[2], "eager", classifier_hidden_act="tanh").float()
    write_graph(model, tmp_path, True)
    nodes = onnx.load(tmp_path / MODEL).graph.node
    # In each of two blocks: q, k and v; the output of attention; gate and up projection; down projection.
    assert sum(node.op_type == "MatMulInteger" for node in nodes) == 2 * 4
    # The head has two products, attention two in each block.
    assert sum(node.op_type in ("MatMul", "Gemm") for node in nodes) == 2 + 2 * 2


@pytest.mark.parametrize("name", [CLASSIFY, "several", "numbers", TAG, "masked-lm"])
def test_predictions_are_those_of_the_model(name, model_of, tmp_path):  # noqa: F811
    assert main(["export", str(model_of(name)), str(tmp_path / "onnx")]) == 0
    rows, length = write(tmp_path / "rows.jsonl", rows_of(name)), ["--max_length", 8, "--max_tokens_per_batch", 16]
    window = ["--overflow", "window", "--overlap", 2] if name in (CLASSIFY, TAG) else []
    for more in ([], length, [*length, *window]):
        expected, actual = (
            predict(directory, rows, tmp_path / f"{index}.jsonl", *more, "--overwrite_output")
            for index, directory in enumerate((model_of(name), tmp_path / "onnx"))
        )
        assert_same(actual, expected)
    columns = {key: [row[key] for row in rows_of(name)] for key in rows_of(name)[0]}
    predictor = pickle.loads(pickle.dumps(Predictor(tmp_path / "onnx")))
    assert_same(predictor(columns), Predictor(model_of(name))(columns))


def test_a_run_is_compared_on_its_own_inputs_and_keeps_its_length(model_of, tmp_path, capsys):  # noqa: F811
    shutil.copytree(model_of(CLASSIFY), tmp_path / "run")
    (tmp_path / "run" / "all_results.json").write_text('{"max_length": 7}')
    lines = [{"input": "ab c"}, {"input": ["ab", "c"]}, {"input": ["c", "ab"]}]
    write(tmp_path / "run" / "predictions.jsonl", lines)
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "out"), "--quantization", "int8"]) == 0
    assert "on 8 texts is" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / ENGINE_FILE).read_text())["max_length"] == 7
    assert Predictor(tmp_path / "out").rows.settings.max_length == 7


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"engine": "tensorrt"}, "engine: unknown value 'tensorrt'; valid are"),
        ({"quantization": "int4"}, "quantization: unknown value 'int4'; valid are int8, none"),
    ],
)
def test_bad_options_are_refused(options, words, model_of, tmp_path):  # noqa: F811
    with pytest.raises(InputError, match=words):
        export(model_of(CLASSIFY), tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("engine, name", [("onnx", CLASSIFY), ("ctranslate2", "causal-lm")])
def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(engine, name, model_of, tmp_path):  # noqa: F811
    """CTranslate2 would read them as padding."""
    shutil.copytree(model_of(name), tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    tokenizer.add_tokens([f"new{index}" for index in range(300)])
    tokenizer.save_pretrained(tmp_path / "model")
    with pytest.raises(InputError, match=r"model: vocab_size=.* is less than the .* entries of the tokenizer"):
        export(tmp_path / "model", tmp_path / "out", engine)
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_exported_is_one_line_and_nothing_is_written(model_of, tmp_path, monkeypatch, capsys):  # noqa: F811
    def refused(source, *words):
        assert main(["export", str(source), str(tmp_path / "out")]) == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
        assert all(word in line for word in words), line
        assert not [path for path in tmp_path.iterdir() if "out" in path.name]

    refused("/no/where", "there is no directory /no/where")
    refused(model_of("seq2seq-lm"), "BlendEncoderDecoderForSeq2SeqLM", "engine onnx is for")
    refused(model_of("causal-lm"), "BlendDecoderForCausalLM", "engine onnx is for")
    shutil.copytree(model_of(CLASSIFY), tmp_path / "damaged")
    for content in ('{"input": "a"}\n[1]', '{"input": "a"}\n\n', "{}"):
        (tmp_path / "damaged" / "predictions.jsonl").write_text(content)
        refused(tmp_path / "damaged", "predictions.jsonl: line", "has no input")
    monkeypatch.setattr(exporting, "TOLERANCE", -1.0)
    refused(model_of(CLASSIFY), "differ by", "nothing was written")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    refused(model_of(CLASSIFY), "engine: onnx needs onnxruntime; pip install")


def test_a_damaged_directory_is_refused(model_of, tmp_path):  # noqa: F811
    export(model_of(CLASSIFY), tmp_path / "out")
    engine = (tmp_path / "out" / ENGINE_FILE).read_text()
    for content, words in {
        '{"engine": "other"}': "engine is the text 'other'; known are",
        "[": "engine.json",
        '{"engine": ["onnx"]}': "engine is a list",
    }.items():
        (tmp_path / "out" / ENGINE_FILE).write_text(content)
        with pytest.raises(InputError, match=words):
            Predictor(tmp_path / "out")
    (tmp_path / "out" / ENGINE_FILE).write_text(engine)
    check_target(tmp_path / "out", model_of(CLASSIFY), overwrite=True, others=EXPORTED)
    assert "auto_map" not in json.loads((tmp_path / "out" / "config.json").read_text())
    with pytest.raises(InputError, match="was exported for another engine; give the model that it was exported from"):
        export(tmp_path / "out", tmp_path / "again")
    (tmp_path / "out" / MODEL).write_bytes(b"nothing")
    with pytest.raises(InputError, match="cannot be loaded"):
        Predictor(tmp_path / "out")
    with pytest.raises(InputError, match="cannot be loaded"):
        load_engine(tmp_path, "onnx", Predictor(model_of(CLASSIFY)).rows.model.config)
