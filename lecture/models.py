"""Small models that differ in their mixer, with equally many parameters."""

from bisect import bisect_left
from functools import partial
from typing import Any

import torch
from transformers import PreTrainedModel

from ..configuration.base import BlendConfig
from ..configuration.decoder import BlendDecoderConfig
from ..configuration.encoder import BlendEncoderConfig
from ..configuration.encoder_decoder import BlendEncoderDecoderConfig
from ..modeling.base import Stack
from ..modeling.decoder import BlendDecoderForTokenClassification, BlendDecoderModel
from ..modeling.encoder import BlendEncoderModel
from ..modeling.encoder_decoder import BlendEncoderDecoderForSeq2SeqLM
from .tasks import END, PAD, START, Task

MIXERS = ("attention", "rnn", "gru", "lstm")
STACKS: dict[type[BlendConfig], type[Stack]] = {
    BlendEncoderConfig: BlendEncoderModel,
    BlendDecoderConfig: BlendDecoderModel,
}


def stack_config(config_class: type[BlendConfig], size: int, layers: int, **options: Any) -> BlendConfig:
    """A stack without dropout."""
    dropouts = {"hidden_dropout": 0.0, "classifier_dropout": 0.0}
    return config_class(hidden_size=size, num_hidden_layers=layers, pad_token_id=PAD, **dropouts, **options)


def equal_config(reference: BlendConfig, **options: Any) -> BlendConfig:
    """A recurrent stack with as many parameters as another one.

    Args:
        reference: the other stack.
        options: those of the recurrent stack, but for the size of its state.
    """
    build = partial(stack_config, type(reference), reference.hidden_size, reference.num_hidden_layers, **options)
    # The number of parameters grows with the size of the state, of which an encoder wants an even one.
    configs = [build(recurrent_size=size) for size in range(2, 6 * reference.hidden_size, 2)]
    target = num_parameters(reference)
    index = bisect_left(configs, target, key=num_parameters)
    return min(configs[max(0, index - 1) : index + 1], key=lambda config: abs(num_parameters(config) - target))


def num_parameters(config: BlendConfig) -> int:
    """The number of parameters of a stack."""
    with torch.device("meta"):
        return STACKS[type(config)](config).num_parameters()


def tagger(task: Task, mixer: str, size: int, layers: int, heads: int = 4) -> BlendDecoderForTokenClassification:
    """A decoder that classifies each position."""
    sizes = {"vocab_size": task.vocab_size, "num_labels": task.num_labels}
    config = stack_config(BlendDecoderConfig, size, layers, **sizes, num_attention_heads=heads)
    if mixer != "attention":
        config = equal_config(config, **sizes, mixer_type=mixer)
    return BlendDecoderForTokenClassification(config)


def translator(
    task: Task, mixer: str, size: int, layers: int, cross_attention: bool
) -> BlendEncoderDecoderForSeq2SeqLM:
    """A recurrent encoder-decoder, with as many parameters without cross-attention as with it."""
    options: dict[str, Any] = {"vocab_size": task.vocab_size, "mixer_type": mixer}
    encoder = stack_config(BlendEncoderConfig, size, layers, **options)
    options |= {"cross_attention_hidden_size": size}
    decoder = stack_config(BlendDecoderConfig, size, layers, **options)
    if not cross_attention:
        decoder = equal_config(decoder, **options, cross_attention=False)
    ids = {"bos_token_id": START, "eos_token_id": END, "pad_token_id": PAD, "decoder_start_token_id": START}
    return BlendEncoderDecoderForSeq2SeqLM(BlendEncoderDecoderConfig(encoder=encoder, decoder=decoder, **ids))


@torch.inference_mode()
def cached_bytes(model: PreTrainedModel, length: int) -> int:
    """Bytes of the cache after so many tokens of one sequence."""
    cache = model.base_model(torch.ones(1, length, dtype=torch.long), use_cache=True).past_key_values
    states = (getattr(layer, "state", None) or (layer.keys, layer.values) for layer in cache.layers)
    return sum(tensor.numel() * tensor.element_size() for state in states for tensor in state)
