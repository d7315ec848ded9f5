"""The encoder-decoder under transformers' common tests, beside which BART's run."""

import unittest

import pytest

NEEDED = "needs a source tree of transformers: make conformance TRANSFORMERS=PATH"
pytest.importorskip("tests.test_modeling_common", reason=NEEDED, exc_type=ImportError)

from sample import Sample
from tests.generation.test_utils import GenerationTesterMixin
from tests.test_configuration_common import ConfigTester
from tests.test_modeling_common import ModelTesterMixin
from tests.test_pipeline_mixin import PipelineTesterMixin

from seqblend import (
    BlendEncoderDecoderConfig,
    BlendEncoderDecoderForSeq2SeqLM,
    BlendEncoderDecoderForSequenceClassification,
    BlendEncoderDecoderForTokenClassification,
    BlendEncoderDecoderModel,
)


class TestEncoderDecoder(ModelTesterMixin, GenerationTesterMixin, PipelineTesterMixin, unittest.TestCase):
    all_model_classes = (
        BlendEncoderDecoderModel,
        BlendEncoderDecoderForSeq2SeqLM,
        BlendEncoderDecoderForSequenceClassification,
        BlendEncoderDecoderForTokenClassification,
    )
    pipeline_model_mapping = {
        "feature-extraction": BlendEncoderDecoderModel,
        "text-classification": BlendEncoderDecoderForSequenceClassification,
        "zero-shot": BlendEncoderDecoderForSequenceClassification,
    }
    is_encoder_decoder = True

    def setUp(self):
        self.model_tester = Sample(BlendEncoderDecoderConfig)
        self.config_tester = ConfigTester(self, config_class=BlendEncoderDecoderConfig)

    def test_encoder_decoder_loss_no_double_shift(self):
        """Without padding: with it, the loss comes of the real tokens' logits, of which the output's are a copy."""
        self.model_tester.is_padded = False
        super().test_encoder_decoder_loss_no_double_shift()

    def test_load_with_mismatched_shapes(self):
        """With two vocabularies: it changes the decoder's alone, and an embedding that is shared has one."""
        self.model_tester.options = {"share_encoder_decoder_embeddings": False}
        super().test_load_with_mismatched_shapes()

    def test_config(self):
        self.config_tester.run_common_tests()
