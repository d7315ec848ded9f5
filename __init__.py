"""seqblend: the Transformer lecture as a Hugging Face model family.

Importing the package registers its classes with transformers' Auto classes, and its pipelines with transformers.
"""

import importlib
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from .configuration.decoder import BlendDecoderConfig
from .configuration.encoder import BlendEncoderConfig
from .configuration.encoder_decoder import BlendEncoderDecoderConfig
from .conversion import ConversionError, from_original, to_original
from .hub_card.export import patch_saving
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


def replace_stub(directory: Path, repo_id: str) -> None:
    """Replace the card of a pushed model, see `hub_card.card`, which needs packages that only a push needs."""
    importlib.import_module(".hub_card.card", __name__).replace_stub(directory, repo_id)


for config_class, models in FAMILIES.items():
    AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
    for auto_class, model_class in models.items():
        auto_class.register(config_class, model_class, exist_ok=True)

patch_saving(FAMILIES, replace_stub)
patch_loading()
register_pipelines()

# Names that are imported when they are first used: training needs many packages that a saved model does not.
LAZY = {
    "BlendTrainer": ".training.trainer",
    "BlendTrainingArguments": ".training.arguments",
    "Predictor": ".serving.predictor",
    "load_dates": ".data.dates",
    "load_tokenizer": ".tokenization.loading",
    "train_tokenizer": ".tokenization.training",
}


def __getattr__(name: str) -> Any:
    """A name of LAZY (PEP 562)."""
    if name not in LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(LAZY[name], __name__), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *LAZY})


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
    "BlendTrainer",
    "BlendTrainingArguments",
    "ConversionError",
    "Predictor",
    "__version__",
    "from_original",
    "load_dates",
    "load_tokenizer",
    "to_original",
    "train_tokenizer",
    "verify",
]
