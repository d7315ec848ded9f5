"""The encoder family: the stack in which every token attends to every token, and its heads."""

from typing import Any

import torch
from torch import nn
from transformers.masking_utils import (
    create_bidirectional_mask,
    create_bidirectional_sliding_window_mask,
    find_packed_sequence_indices,
    packed_sequence_mask_function,
)
from transformers.modeling_outputs import MaskedLMOutput
from transformers.processing_utils import Unpack
from transformers.utils.generic import TransformersKwargs, can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from ..configuration.encoder import BlendEncoderConfig
from .attention import Attention
from .base import BlendPreTrainedModel, Stack, StackOutput
from .heads import ForSequenceClassification, ForTokenClassification, build_lm_hidden, scale, select_fields
from .layers import EncoderLayer
from .losses import IGNORE, token_loss
from .packing import Layout


class BlendEncoderPreTrainedModel(BlendPreTrainedModel):
    """Base class of the encoder models: what transformers needs to know about them."""

    config: BlendEncoderConfig
    config_class = BlendEncoderConfig
    _no_split_modules = ["EncoderLayer"]
    _can_record_outputs = {
        "hidden_states": EncoderLayer,
        "attentions": OutputRecorder(Attention, index=1, layer_name="self_attn"),
    }


class BlendEncoderModel(BlendEncoderPreTrainedModel, Stack):
    """An encoder without a head."""

    layer_class = EncoderLayer
    mask_functions = {
        "full_attention": create_bidirectional_mask,
        "sliding_attention": create_bidirectional_sliding_window_mask,
    }

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        repad: bool = True,
        **kwargs: Unpack[TransformersKwargs],
    ) -> StackOutput:
        """Blend each sequence into itself, layer by layer.

        Args:
            input_ids: tokens (B, T), or a flattened batch (1, N) with `position_ids` that restart.
            attention_mask: (B, T), 1 for real tokens, padded on either side; None: all are real.
            token_type_ids: segment of each token (B, T); not used if type_vocab_size is 0.
            position_ids: (B or 1, T); None: counted over the real tokens.
            inputs_embeds: (B, T, E), instead of input_ids.
            repad: return (B, T, E). The heads pass False and get the layout and a state in its form.
            kwargs: `output_attentions`, `output_hidden_states`, `cu_seq_lens_q` …; the rest goes to the kernel.

        Returns:
            last_hidden_state (B, T, E), zeros for padding; hidden_states and attentions if requested.

        Raises:
            ValueError: see Stack.choose_layout.
        """
        layout = self.choose_layout(input_ids, inputs_embeds, attention_mask, position_ids, kwargs)
        positions = self.positions(layout, position_ids)
        hidden_states = self.embed(layout, input_ids, inputs_embeds, token_type_ids, positions)
        patterns = self.patterns(
            layout, attention_mask, hidden_states, **packed_mask_arguments(layout, attention_mask, position_ids)
        )
        patterns = self.add_shared_biases(patterns, hidden_states)
        position_embeddings = self.position_embeddings(hidden_states, positions)
        for layer_type, layer in self.blocks():
            hidden_states = layer(
                hidden_states,
                pattern=patterns[layer_type],
                position_embeddings=position_embeddings[layer_type],
                **kwargs,
            )
        return self.make_output(self.norm(hidden_states), layout, repad)


def packed_mask_arguments(layout: Layout, attention_mask: Any, position_ids: torch.Tensor | None) -> dict[str, Any]:
    """Extra arguments of the mask functions for packed sequences while compiling; else none.

    While compiling, Stack.choose_layout cannot read from position_ids whether sequences are packed. The causal mask
    functions of the decoder (create_causal_mask, create_sliding_window_causal_mask) need no extra arguments.
    """
    may_restart = attention_mask is None and position_ids is not None and position_ids.shape == layout.shape
    if not may_restart or not torch.compiler.is_compiling():
        return {}
    return {"and_mask_function": packed_sequence_mask_function(find_packed_sequence_indices(position_ids))}


class BlendEncoderForMaskedLM(BlendEncoderPreTrainedModel):
    """A masked language model: predicts the masked tokens."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}
    _fsdp_plan = {"lm_head": "keep_full_weight"}

    def __init__(self, config: BlendEncoderConfig):
        super().__init__(config)
        self.model = BlendEncoderModel(config)
        self.head = build_lm_hidden(config)
        self.lm_head = nn.Linear(config.embedding_width, config.vocab_size, bias=config.lm_head_bias)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> MaskedLMOutput:
        """Logits (B, T, V); labels (B, T), -100 for tokens that are not masked.

        In training with `config.sparse_prediction`, the logits are those of the masked tokens only, (number, V).
        """
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            repad=False,
            has_hooks=self.has_hooks,
            return_dict=True,
            **kwargs,
        )
        layout, hidden_states = outputs.layout, outputs.last_hidden_state
        sparse = labels is not None and self.training and self.config.sparse_prediction
        labels = layout.unpad(labels)
        if sparse:
            is_masked = labels != IGNORE
            hidden_states, labels = hidden_states[is_masked], labels[is_masked]
        logits = self.lm_head(scale(self.head(hidden_states), self.config.logit_scaling))
        loss = None
        if labels is not None:
            loss = token_loss(logits, labels, self.config, self.training, num_items_in_batch)
        logits = logits if sparse else layout.repad(logits)
        return MaskedLMOutput(loss=loss, logits=logits, **select_fields(outputs, MaskedLMOutput))


class BlendEncoderForSequenceClassification(ForSequenceClassification, BlendEncoderPreTrainedModel):
    """N21 on the encoder: attention blends the whole sequence into [CLS]; classify its vector."""

    model_class = BlendEncoderModel


class BlendEncoderForTokenClassification(ForTokenClassification, BlendEncoderPreTrainedModel):
    """N2N on the encoder: each token is classified from the whole sequence."""

    model_class = BlendEncoderModel
