"""The architectures that can be converted."""

from .bart import BART, MARIAN, MBART, PEGASUS
from .bert import BERT, CAMEMBERT, DISTILBERT, ELECTRA, ROBERTA, XLM_ROBERTA
from .gpt import GPT2, GPT_NEO, OPENAI_GPT, OPT
from .llama import LLAMA, MISTRAL, QWEN2, QWEN3
from .modernbert import MODERNBERT
from .table import Architecture

ARCHITECTURES: dict[str, Architecture] = {
    each.model_type: each
    for each in (
        *(BERT, ROBERTA, XLM_ROBERTA, CAMEMBERT, ELECTRA, DISTILBERT, MODERNBERT),
        *(OPENAI_GPT, GPT2, GPT_NEO, OPT),
        *(LLAMA, MISTRAL, QWEN2, QWEN3),
        *(BART, MBART, MARIAN, PEGASUS),
    )
}
