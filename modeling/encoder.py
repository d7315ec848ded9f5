"""The encoder family: the stack in which every token sees every token, and its heads."""

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
from .heads import ForSequenceClassification, ForTokenClassification, HiddenLayer, recorded
from .layers import EncoderLayer
from .losses import IGNORE, token_loss
from .packing import Layout


class BlendEncoderPreTrainedModel(BlendPreTrainedModel):
    """What all models of this family tell transformers about themselves."""

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
            attention_mask: (B, T), 1 for real tokens, on whichever side they stand; None: all are.
            token_type_ids: kinds of segments (B, T); not read where type_vocab_size is 0.
            position_ids: (B or 1, T); None: counted over real tokens.
            inputs_embeds: (B, T, E) in place of input_ids.
            repad: return (B, T, E); a head of ours says False and gets the form that the layout tells.
            kwargs: `output_attentions`, `output_hidden_states`, `cu_seq_lens_q` …; the rest goes to the kernel.

        Returns:
            last_hidden_state (B, T, E), zeros for padding; hidden_states and attentions when asked for.

        Raises:
            ValueError: see Stack.enter.
        """
        layout = self.enter(input_ids, inputs_embeds, attention_mask, position_ids, kwargs)
        positions = self.positions(layout, position_ids)
        hidden_states = self.embed(layout, input_ids, inputs_embeds, token_type_ids, positions)
        patterns = self.patterns(layout, attention_mask, hidden_states, **apart(layout, attention_mask, position_ids))
        rotations = self.rotations(hidden_states, positions)
        for kind, layer in self.blocks():
            hidden_states = layer(hidden_states, pattern=patterns[kind], position_embeddings=rotations[kind], **kwargs)
        return self.leave(self.norm(hidden_states), layout, repad)


def apart(layout: Layout, attention_mask: Any, position_ids: torch.Tensor | None) -> dict[str, Any]:
    """What the mask functions are told of positions that restart, where a graph is made and the door cannot look.

    Those of a decoder, create_causal_mask and create_sliding_window_causal_mask, see it for themselves.
    """
    may_restart = attention_mask is None and position_ids is not None and position_ids.shape == layout.shape
    if not may_restart or not torch.compiler.is_compiling():
        return {}
    return {"and_mask_function": packed_sequence_mask_function(find_packed_sequence_indices(position_ids))}


class BlendEncoderForMaskedLM(BlendEncoderPreTrainedModel):
    """Tells the tokens that were masked."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}
    _fsdp_plan = {"lm_head": "keep_full_weight"}

    def __init__(self, config: BlendEncoderConfig):
        super().__init__(config)
        self.model = BlendEncoderModel(config)
        self.head = HiddenLayer(config, config.hidden_act, config.mlp_bias, has_norm=True)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=config.lm_head_bias)
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
        """Logits (B, T, V); labels (B, T) with -100 for tokens that were not masked.

        In training with `config.sparse_prediction` the logits are only those of the masked tokens, (number, V).
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
        logits = self.lm_head(self.head(hidden_states))
        loss = None
        if labels is not None:
            loss = token_loss(logits, labels, self.config, self.training, num_items_in_batch)
        logits = logits if sparse else layout.repad(logits)
        return MaskedLMOutput(loss=loss, logits=logits, **recorded(outputs, MaskedLMOutput))


class BlendEncoderForSequenceClassification(ForSequenceClassification, BlendEncoderPreTrainedModel):
    """N21 on the encoder: attention brings the whole sequence to [CLS]; classify from it."""

    model_class = BlendEncoderModel


class BlendEncoderForTokenClassification(ForTokenClassification, BlendEncoderPreTrainedModel):
    """N2N on the encoder."""

    model_class = BlendEncoderModel
