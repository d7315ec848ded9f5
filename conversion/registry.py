"""The architectures that can be converted."""

from .bart import BART, M2M100, MARIAN, MBART, PEGASUS
from .bert import ALBERT, BERT, CAMEMBERT, DISTILBERT, ELECTRA, MPNET, NOMIC_BERT, ROBERTA, XLM_ROBERTA
from .eurobert import EUROBERT
from .gemma import GEMMA, GEMMA3
from .gpt import GPT2, GPT_NEO, OPENAI_GPT, OPT
from .llama import LLAMA, MISTRAL, QWEN2, QWEN3
from .modernbert import MODERNBERT
from .t5 import MT5, T5, UMT5
from .table import Architecture

ARCHITECTURES: dict[str, Architecture] = {
    each.model_type: each
    for each in (
        *(BERT, ROBERTA, XLM_ROBERTA, CAMEMBERT, ELECTRA, DISTILBERT, MPNET, ALBERT, NOMIC_BERT),
        *(MODERNBERT, EUROBERT),
        *(OPENAI_GPT, GPT2, GPT_NEO, OPT),
        *(LLAMA, MISTRAL, QWEN2, QWEN3, GEMMA, GEMMA3),
        *(BART, MBART, MARIAN, PEGASUS, M2M100),
        *(T5, MT5, UMT5),
    )
}
