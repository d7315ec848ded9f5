"""seqblend: the Transformer lecture as a Hugging Face model family.

Importing it registers every class with transformers' Auto classes, and its pipelines with transformers' own.
"""

from transformers import AutoConfig

from .configuration.decoder import BlendDecoderConfig
from .configuration.encoder import BlendEncoderConfig
from .configuration.encoder_decoder import BlendEncoderDecoderConfig
from .conversion import ConversionError, from_original, to_original
from .hub_card.export import patch_saving
from .hub_card.stub import replace_stub
from .hub_card.verify import verify
from .hub_card.versions import patch_loading
from .modeling.decoder import (
    BlendDecoderForCausalLM,
    BlendDecoderForSequenceClassification,
    BlendDecoderForTokenClassification,
    BlendDecoderModel,
)
from .modeling.encoder import (
    BlendEncoderForMaskedLM,
    BlendEncoderForSequenceClassification,
    BlendEncoderForTokenClassification,
    BlendEncoderModel,
)
from .modeling.encoder_decoder import (
    BlendEncoderDecoderForSeq2SeqLM,
    BlendEncoderDecoderForSequenceClassification,
    BlendEncoderDecoderForTokenClassification,
    BlendEncoderDecoderModel,
)
from .modeling.families import FAMILIES
from .pipelines import register_pipelines
from .version import __version__

for config_class, models in FAMILIES.items():
    AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
    for auto_class, model_class in models.items():
        auto_class.register(config_class, model_class, exist_ok=True)

patch_saving(FAMILIES, replace_stub)
patch_loading()
register_pipelines()

__all__ = [
    "FAMILIES",
    "BlendDecoderConfig",
    "BlendDecoderForCausalLM",
    "BlendDecoderForSequenceClassification",
    "BlendDecoderForTokenClassification",
    "BlendDecoderModel",
    "BlendEncoderConfig",
    "BlendEncoderDecoderConfig",
    "BlendEncoderDecoderForSeq2SeqLM",
    "BlendEncoderDecoderForSequenceClassification",
    "BlendEncoderDecoderForTokenClassification",
    "BlendEncoderDecoderModel",
    "BlendEncoderForMaskedLM",
    "BlendEncoderForSequenceClassification",
    "BlendEncoderForTokenClassification",
    "BlendEncoderModel",
    "ConversionError",
    "__version__",
    "from_original",
    "to_original",
    "verify",
]
