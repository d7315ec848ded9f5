"""The encoder under transformers' common tests, beside which BERT's run."""

import unittest

import pytest

NEEDED = "needs a source tree of transformers: make conformance TRANSFORMERS=PATH"
pytest.importorskip("tests.test_modeling_common", reason=NEEDED, exc_type=ImportError)

from sample import Sample
from tests.test_configuration_common import ConfigTester
from tests.test_modeling_common import ModelTesterMixin
from tests.test_pipeline_mixin import PipelineTesterMixin

from seqblend import (
    BlendEncoderConfig,
    BlendEncoderForMaskedLM,
    BlendEncoderForSequenceClassification,
    BlendEncoderForTokenClassification,
    BlendEncoderModel,
)


class TestEncoder(ModelTesterMixin, PipelineTesterMixin, unittest.TestCase):
    all_model_classes = (
        BlendEncoderModel,
        BlendEncoderForMaskedLM,
        BlendEncoderForSequenceClassification,
        BlendEncoderForTokenClassification,
    )
    pipeline_model_mapping = {
        "feature-extraction": BlendEncoderModel,
        "fill-mask": BlendEncoderForMaskedLM,
        "text-classification": BlendEncoderForSequenceClassification,
        "token-classification": BlendEncoderForTokenClassification,
        "zero-shot": BlendEncoderForSequenceClassification,
    }

    def setUp(self):
        self.model_tester = Sample(BlendEncoderConfig)
        self.config_tester = ConfigTester(self, config_class=BlendEncoderConfig, hidden_size=32)

    def test_config(self):
        self.config_tester.run_common_tests()
