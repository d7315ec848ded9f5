"""The architectures that can be converted."""

from . import bart, bert, gpt, llama, modernbert
from .table import Architecture

ARCHITECTURES: dict[str, Architecture] = {
    each.model_type: each
    for each in (
        *(bert.BERT, bert.ROBERTA, bert.XLM_ROBERTA, bert.CAMEMBERT, bert.ELECTRA, bert.DISTILBERT),
        modernbert.MODERNBERT,
        *(gpt.OPENAI_GPT, gpt.GPT2_ARCHITECTURE, gpt.GPT_NEO, gpt.OPT),
        *(llama.LLAMA, llama.MISTRAL, llama.QWEN2, llama.QWEN3),
        *(bart.BART, bart.MBART, bart.MARIAN, bart.PEGASUS),
    )
}
