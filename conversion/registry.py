"""The architectures that can be converted."""

from collections.abc import Mapping
from typing import Any

from .bart import BART, M2M100, MARIAN, MBART, PEGASUS
from .bert import ALBERT, BERT, CAMEMBERT, DISTILBERT, ELECTRA, MPNET, NOMIC_BERT, ROBERTA, XLM_ROBERTA
from .eurobert import EUROBERT
from .gemma import ENCODER, GEMMA, GEMMA3, GEMMA3_ENCODER
from .gpt import GPT2, GPT_NEO, OPENAI_GPT, OPT
from .llama import LLAMA, MISTRAL, QWEN2, QWEN3
from .modernbert import MODERNBERT
from .t5 import MT5, T5, UMT5
from .table import Architecture

ARCHITECTURES: dict[str, Architecture] = {
    each.name: each
    for each in (
        *(BERT, ROBERTA, XLM_ROBERTA, CAMEMBERT, ELECTRA, DISTILBERT, MPNET, ALBERT, NOMIC_BERT),
        *(MODERNBERT, EUROBERT, GEMMA3_ENCODER),
        *(OPENAI_GPT, GPT2, GPT_NEO, OPT),
        *(LLAMA, MISTRAL, QWEN2, QWEN3, GEMMA, GEMMA3),
        *(BART, MBART, MARIAN, PEGASUS, M2M100),
        *(T5, MT5, UMT5),
    )
}


def architecture_of(config: Mapping[str, Any]) -> Architecture | None:
    """The architecture of a checkpoint with this content of config.json; None if it is not supported."""
    found = [each for each in ARCHITECTURES.values() if each.model_type == config.get("model_type")]
    is_encoder = bool(config.get("use_bidirectional_attention"))
    variants = [each for each in found if (each.variant == ENCODER) == is_encoder]
    return next(iter(variants + found), None)
