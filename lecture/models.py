"""Small models that differ in one thing, mostly their mixer, with equally many parameters."""

from bisect import bisect_left
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from ..configuration.base import BlendConfig
from ..configuration.decoder import BlendDecoderConfig
from ..configuration.encoder import BlendEncoderConfig
from ..configuration.encoder_decoder import BlendEncoderDecoderConfig
from ..modeling.base import Stack
from ..modeling.cache import CACHE_NAME
from ..modeling.decoder import BlendDecoderForCausalLM, BlendDecoderModel
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


def classifier(
    model_class: type[PreTrainedModel], task: Task, mixer: str, size: int, layers: int, **options: Any
) -> PreTrainedModel:
    """A stack with a head that classifies; a recurrent one has as many parameters as that with attention."""
    options |= {"vocab_size": task.vocab_size, "num_labels": task.num_labels}
    config = stack_config(model_class.config_class, size, layers, **options)
    if mixer != "attention":
        config = equal_config(config, **options, mixer_type=mixer)
    return model_class(config)


def language_model(task: Task, mixer: str, size: int, layers: int) -> BlendDecoderForCausalLM:
    """A decoder that predicts the next token; a recurrent one has as many parameters as that with attention."""
    options: dict[str, Any] = {"vocab_size": task.vocab_size, "bos_token_id": START, "eos_token_id": END}
    config = stack_config(BlendDecoderConfig, size, layers, **options)
    if mixer != "attention":
        config = equal_config(config, **options, mixer_type=mixer)
    return BlendDecoderForCausalLM(config)


def remove_blending(stack: nn.Module, name: str = "self_attn") -> None:
    """Set the output of an attention of each block to zero, for good.

    Args:
        stack: a base model; without self-attention each of its tokens is alone from then on.
        name: `self_attn`, or `cross_attn` of a decoder.
    """
    for layer in stack.layers:
        nn.init.zeros_(getattr(layer, name).o_proj.weight).requires_grad_(False)


class SlotNetwork(PreTrainedModel):
    """A feed-forward network from before the RNN: one input, of fixed size, gives one output.

    The embeddings of all tokens are concatenated to one vector. So every slot has weights of its own.

    Args:
        config: with `width`, the number of hidden features, and the other sizes that slot_network sets.
    """

    config_class = PreTrainedConfig

    def __init__(self, config: PreTrainedConfig):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.Sequential(
            nn.Linear(config.num_slots * config.hidden_size, config.width),
            nn.ReLU(),
            nn.Linear(config.width, config.width),
            nn.ReLU(),
            nn.Linear(config.width, config.num_labels),
        )
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Keep torch's initialization of the layers, which suits their sizes."""

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor | None = None) -> SequenceClassifierOutput:
        """Logits (B, num_labels) of the tokens (B, num_slots)."""
        logits = self.layers(self.embed_tokens(input_ids).flatten(1))
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


def slot_network(task: Task, num_slots: int, size: int, reference: PreTrainedModel) -> SlotNetwork:
    """A feed-forward network with as many parameters as another model."""

    def build(width: int) -> SlotNetwork:
        sizes = {"vocab_size": task.vocab_size, "hidden_size": size, "num_slots": num_slots, "width": width}
        return SlotNetwork(PreTrainedConfig(num_labels=task.num_labels, **sizes))

    def difference(width: int) -> int:
        with torch.device("meta"):
            return abs(build(width).num_parameters() - reference.num_parameters())

    return build(min(range(2, 4 * size), key=difference))


def translator(
    task: Task, mixer: str, size: int, layers: int, cross_attention: bool
) -> BlendEncoderDecoderForSeq2SeqLM:
    """An encoder-decoder; a recurrent one has as many parameters without cross-attention as with it."""
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
    cache = model.base_model(torch.ones(1, length, dtype=torch.long), use_cache=True)[CACHE_NAME]
    states = (getattr(layer, "state", None) or (layer.keys, layer.values) for layer in cache.layers)
    return sum(tensor.numel() * tensor.element_size() for state in states for tensor in state)
