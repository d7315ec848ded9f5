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

    layer_types = SLIDING["layer_types"]
    sliding_window = SLIDING["sliding_window"]


class TestDecoder(CausalLMModelTest, unittest.TestCase):
    model_tester_class = DecoderSample
    _torch_compile_train_cls = BlendDecoderForCausalLM

    def test_custom_4d_attention_mask(self):
        """Without windows, with which the test skips itself: its mask knows nothing of them."""
        self.model_tester.layer_types = self.model_tester.sliding_window = None
        super().test_custom_4d_attention_mask()
