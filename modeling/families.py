"""The model families: for each configuration class, the model class of each Auto class."""

from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from ..configuration.decoder import BlendDecoderConfig
from ..configuration.encoder import BlendEncoderConfig
from ..configuration.encoder_decoder import BlendEncoderDecoderConfig
from .decoder import (
    BlendDecoderForCausalLM,
    BlendDecoderForSequenceClassification,
    BlendDecoderForTokenClassification,
    BlendDecoderModel,
)
from .encoder import (
    BlendEncoderForMaskedLM,
    BlendEncoderForSequenceClassification,
    BlendEncoderForTokenClassification,
    BlendEncoderModel,
)
from .encoder_decoder import (
    BlendEncoderDecoderForSeq2SeqLM,
    BlendEncoderDecoderForSequenceClassification,
    BlendEncoderDecoderForTokenClassification,
    BlendEncoderDecoderModel,
)

FAMILIES = {
    BlendEncoderConfig: {
        AutoModel: BlendEncoderModel,
        AutoModelForMaskedLM: BlendEncoderForMaskedLM,
        AutoModelForSequenceClassification: BlendEncoderForSequenceClassification,
        AutoModelForTokenClassification: BlendEncoderForTokenClassification,
    },
    BlendDecoderConfig: {
        AutoModel: BlendDecoderModel,
        AutoModelForCausalLM: BlendDecoderForCausalLM,
        AutoModelForSequenceClassification: BlendDecoderForSequenceClassification,
        AutoModelForTokenClassification: BlendDecoderForTokenClassification,
    },
    BlendEncoderDecoderConfig: {
        AutoModel: BlendEncoderDecoderModel,
        AutoModelForSeq2SeqLM: BlendEncoderDecoderForSeq2SeqLM,
        AutoModelForSequenceClassification: BlendEncoderDecoderForSequenceClassification,
        AutoModelForTokenClassification: BlendEncoderDecoderForTokenClassification,
    },
}
