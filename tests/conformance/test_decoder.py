"""The decoder under transformers' common tests, beside which GPT-2's and Llama's run."""

import unittest

import pytest

NEEDED = "needs a source tree of transformers: make conformance TRANSFORMERS=PATH"
pytest.importorskip("tests.test_modeling_common", reason=NEEDED, exc_type=ImportError)

from sample import SLIDING
from tests.causal_lm_tester import CausalLMModelTest, CausalLMModelTester

from seqblend import (
    BlendDecoderConfig,
    BlendDecoderForCausalLM,
    BlendDecoderForSequenceClassification,
    BlendDecoderForTokenClassification,
    BlendDecoderModel,
)


class DecoderSample(CausalLMModelTester):
    """A small decoder and its inputs, made by transformers' own tester."""

    config_class = BlendDecoderConfig
    base_model_class = BlendDecoderModel
    causal_lm_class = BlendDecoderForCausalLM
    sequence_classification_class = BlendDecoderForSequenceClassification
    token_classification_class = BlendDecoderForTokenClassification

    def get_config(self):
        self.layer_types, self.sliding_window = SLIDING["layer_types"], SLIDING["sliding_window"]
        return super().get_config()


class TestDecoder(CausalLMModelTest, unittest.TestCase):
    model_tester_class = DecoderSample
    _torch_compile_train_cls = BlendDecoderForCausalLM
