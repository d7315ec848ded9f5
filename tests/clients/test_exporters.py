"""Exported by transformers' exporters, a model says what it says in eager mode, whatever the batch and its padding."""

import onnxruntime
import pytest
import torch
from conftest import HEADS, SLIDING, assert_close, draw, fill, named, padded, real_rows, tiny_model
from transformers.exporters import ExportedModel
from transformers.exporters.exporter_dynamo import DynamoConfig, DynamoExporter
from transformers.exporters.exporter_onnx import OnnxConfig, OnnxExporter

from seqblend import BlendDecoderForCausalLM, BlendEncoderDecoderForSeq2SeqLM, BlendEncoderForMaskedLM

# Batches of one and of three; sequences of five tokens, and of 64, which are as many as learned positions reach.
BATCHES = [[5], [64], [5, 3, 1], [64, 5, 30]]
OTHER_OPTIONS = [
    {"position_type": "learned", "norm_type": "layernorm", "norm_position": "post", "attention_bias": True},
    {"position_type": "sinusoidal", "feed_forward_type": "plain", "scale_embeddings": True, **SLIDING},
]
WRITERS = [BlendEncoderForMaskedLM, BlendDecoderForCausalLM, BlendEncoderDecoderForSeq2SeqLM]
every_case = pytest.mark.parametrize(
    ("model_class", "options"),
    [*((head, {}) for head in HEADS), *((head, options) for head in WRITERS for options in OTHER_OPTIONS)],
    ids=named,
)


def model_of(model_class, options):
    """A model in float32, whose weights are small enough for rounding not to grow in it.

    With weights of 0.2, eager mode itself is up to 1.2e-5 of the standard deviation away from float64.
    """
    model = tiny_model(model_class, max_position_embeddings=64, **options).float()
    fill(model, 0.15)
    return model


def batch_of(model_class, lengths, side="right"):
    return padded(draw(model_class, lengths, labels=False), side)


@torch.no_grad()
def assert_equals_eager(model, run):
    """`run` gives the logits of a batch of any shape; those of padding are nobody's."""
    for lengths in BATCHES:
        for side in ("right", "left"):
            batch = batch_of(type(model), lengths, side)
            actual, expected = run(batch), model(**batch).logits
            if expected.dim() == 3:
                actual, expected = real_rows(batch, actual), real_rows(batch, expected)
            assert_close(actual, expected, 1e-5, what=f"{lengths}, padding on the {side},")


@every_case
def test_torch_export(model_class, options, tmp_path):
    model = model_of(model_class, options)
    inputs = {**batch_of(model_class, [7, 4]), "use_cache": False}
    DynamoExporter().export(model, inputs, config=DynamoConfig(dynamic=True)).save_pretrained(tmp_path)
    program = torch.export.load(tmp_path / "model.pt2").module()
    assert_equals_eager(model, lambda batch: program(**batch)["logits"])


@every_case
def test_onnx(model_class, options, tmp_path):
    model = model_of(model_class, options)
    inputs = {**batch_of(model_class, [7, 4]), "use_cache": False}
    OnnxExporter().export(model, inputs, config=OnnxConfig(dynamic=True)).save_pretrained(tmp_path)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")

    def run(batch):
        (logits,) = session.run(["logits"], {name: tensor.numpy() for name, tensor in batch.items()})
        return torch.from_numpy(logits)

    assert_equals_eager(model, run)


def test_an_exported_model_is_called_like_the_model(tmp_path):
    model = model_of(BlendEncoderForMaskedLM, {})
    batch = batch_of(BlendEncoderForMaskedLM, [7, 4])
    OnnxExporter().export(model, dict(batch), config=OnnxConfig(dynamic=True)).save_pretrained(tmp_path)
    exported = ExportedModel.from_pretrained(tmp_path)
    assert_equals_eager(model, lambda batch: exported(**batch).logits)
