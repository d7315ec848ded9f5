"""The decoder family: the stack in which a token sees itself and those before it, and its heads."""

from typing import Any

import torch
from torch import nn
from transformers.cache_utils import Cache, DynamicCache, EncoderDecoderCache
from transformers.masking_utils import (
    create_bidirectional_mask,
    create_causal_mask,
    create_sliding_window_causal_mask,
)
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.processing_utils import Unpack
from transformers.utils.generic import TransformersKwargs, can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from ..configuration.decoder import BlendDecoderConfig
from .attention import Attention
from .base import BlendPreTrainedModel, Stack, StackOutput
from .cache import BlendGenerationMixin, keep_whole_source, self_attention_cache
from .heads import ForSequenceClassification, ForTokenClassification, next_logits, recorded
from .layers import DecoderLayer
from .losses import IGNORE, token_loss
from .packing import FlatLayout, Layout, PaddedLayout, padding_of
from .patterns import PaddedPattern, Pattern, VarlenPattern, cross_pattern


class BlendDecoderPreTrainedModel(BlendPreTrainedModel):
    """What all models of this family tell transformers about themselves."""

    config: BlendDecoderConfig
    config_class = BlendDecoderConfig
    _no_split_modules = ["DecoderLayer"]
    _can_record_outputs = {
        "hidden_states": DecoderLayer,
        "attentions": OutputRecorder(Attention, index=1, layer_name="self_attn"),
        "cross_attentions": OutputRecorder(Attention, index=1, layer_name="cross_attn"),
    }


class BlendDecoderModel(BlendDecoderPreTrainedModel, Stack):
    """A decoder without a head; with cross-attention where the config gives a width for it."""

    layer_class = DecoderLayer
    mask_functions = {
        "full_attention": create_causal_mask,
        "sliding_attention": create_sliding_window_causal_mask,
    }

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        encoder_hidden_states: torch.Tensor | None = None,
        encoder_attention_mask: torch.Tensor | None = None,
        encoder_layout: Layout | None = None,
        repad: bool = True,
        **kwargs: Unpack[TransformersKwargs],
    ) -> StackOutput:
        """Blend each sequence into itself, each token from those before it, layer by layer.

        Args:
            input_ids: tokens (B, T), or a flattened batch (1, N) with `position_ids` that restart.
            attention_mask: (B, T or more, with those in the cache and any to come), 1 for real tokens; None: all are.
            token_type_ids: kinds of segments (B, T); not read where type_vocab_size is 0.
            position_ids: (B or 1, T); None: counted over real tokens.
            past_key_values: keys and values of the tokens before these.
            inputs_embeds: (B, T, E) in place of input_ids.
            use_cache: return keys and values for the tokens to come; never in training.
            encoder_hidden_states: what cross-attention reads, (B, S, width), or in the form of
            encoder_layout: where its tokens belong; None: padded, as
            encoder_attention_mask: says, (B, S) with 1 for real tokens; None: all are.
            repad: return (B, T, E); a head of ours says False and gets the form that the layout tells.
            kwargs: `output_attentions`, `output_hidden_states`, `cu_seq_lens_q` …; the rest goes to the kernel.

        Returns:
            last_hidden_state (B, T, E), zeros for padding; past_key_values; hidden_states, attentions and
            cross_attentions when asked for.

        Raises:
            ValueError: see Stack.enter; a missing or unexpected encoder_hidden_states, a cache without a part for it.
        """
        self.check_source(encoder_hidden_states, past_key_values)
        source = encoder_layout
        if encoder_hidden_states is not None and source is None:
            source = padded_layout(encoder_hidden_states, encoder_attention_mask)
        seen = None if past_key_values is None else past_key_values.get_seq_length()
        rows = has_source(past_key_values)
        if source is not None and not torch.compiler.is_compiling():
            keep_whole_source(past_key_values, source.shape[1])
        layout = self.enter(
            input_ids, inputs_embeds, attention_mask, position_ids, kwargs, seen=seen, source=source, rows=rows
        )
        # A new one has nothing to be seen, and would hide several sequences in a row.
        own_cache = self_attention_cache(past_key_values)
        if use_cache and past_key_values is None and not self.training and layout.is_rows:
            past_key_values = self.new_cache()
        positions = self.positions(layout, position_ids)
        hidden_states = self.embed(layout, input_ids, inputs_embeds, token_type_ids, positions)
        # Without a mask, positions that restart tell the mask functions of several sequences in a row.
        patterns = self.patterns(layout, attention_mask, hidden_states, own_cache, position_ids=position_ids)
        rotations = self.rotations(hidden_states, positions)
        source_pattern = None
        if encoder_hidden_states is not None:
            assert source is not None
            encoder_hidden_states, source_pattern = self.enter_source(
                layout, hidden_states, encoder_hidden_states, source, encoder_attention_mask
            )
        for kind, layer in self.blocks():
            hidden_states = layer(
                hidden_states,
                encoder_hidden_states,
                pattern=patterns[kind],
                cross_pattern=source_pattern,
                position_embeddings=rotations[kind],
                past_key_values=past_key_values,
                **kwargs,
            )
        return self.leave(self.norm(hidden_states), layout, repad, past_key_values)

    def check_source(self, encoder_hidden_states: torch.Tensor | None, past_key_values: Cache | None) -> None:
        """Raises ValueError where cross-attention has nothing to read, or no cache; or a source, but there is none."""
        width = self.config.cross_attention_hidden_size
        if width is not None and encoder_hidden_states is None:
            raise ValueError(f"cross_attention_hidden_size={width}: the decoder needs encoder_hidden_states")
        if width is None and encoder_hidden_states is not None:
            raise ValueError("encoder_hidden_states given, but cross_attention_hidden_size is None")
        if width is not None and not isinstance(past_key_values, EncoderDecoderCache | None):
            # Keys of the source would be put among the decoder's own.
            raise ValueError(
                f"cross_attention_hidden_size={width}: past_key_values must be an EncoderDecoderCache, "
                f"got {type(past_key_values).__name__}"
            )

    def new_cache(self) -> Cache:
        """An empty cache. Cross-attention reads all of the source, so its part never slides."""
        cache = DynamicCache(config=self.config)
        return cache if self.config.cross_attention_hidden_size is None else EncoderDecoderCache(cache, DynamicCache())

    def enter_source(
        self, layout: Layout, embeds: torch.Tensor, states: torch.Tensor, source: Layout, attention_mask: Any
    ) -> tuple[torch.Tensor, Pattern]:
        """What cross-attention reads, in the form that goes with the target's, and its pattern."""
        if isinstance(layout, FlatLayout) and isinstance(source, PaddedLayout):
            source = FlatLayout.from_padded(source)
            states = source.unpad(states)
        elif isinstance(layout, PaddedLayout) and isinstance(source, FlatLayout):
            states = source.repad(states)
            source = PaddedLayout(tuple(states.shape[:2]), None, states.device)
        if layout.num_sequences != source.num_sequences:
            raise ValueError(f"{layout.num_sequences} target sequences for {source.num_sequences} source sequences")
        if isinstance(layout, FlatLayout):
            assert isinstance(source, FlatLayout)
            if self.takes_lengths(embeds):
                return states, VarlenPattern(layout, source)
            return states, cross_pattern(self.config, layout, source, embeds)
        mask = create_bidirectional_mask(
            config=self.config, inputs_embeds=embeds, attention_mask=attention_mask, encoder_hidden_states=states
        )
        return states, PaddedPattern(mask)


def padded_layout(states: torch.Tensor, attention_mask: Any) -> PaddedLayout:
    """The layout of a source's padded states (B, S, width).

    Raises:
        ValueError: the mask is of another shape than (B, S), and none that the mask functions made.
    """
    shape, mask = (states.shape[0], states.shape[1]), padding_of(attention_mask)
    if mask is not None and tuple(mask.shape) != shape:
        raise ValueError(f"encoder_attention_mask has shape {tuple(mask.shape)}, the source {shape}")
    return PaddedLayout(shape, mask, states.device)


def has_source(past_key_values: Cache | None) -> bool:
    """Whether keys and values of a source are in the cache, as rows."""
    return isinstance(past_key_values, EncoderDecoderCache) and any(past_key_values.is_updated.values())


class BlendDecoderForCausalLM(BlendDecoderPreTrainedModel, BlendGenerationMixin):
    """Tells the token that comes next."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}
    _pp_plan = {"lm_head": (["hidden_states"], ["logits"])}
    _fsdp_plan = {"lm_head": "keep_full_weight"}

    def __init__(self, config: BlendDecoderConfig):
        super().__init__(config)
        self.model = BlendDecoderModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=config.lm_head_bias)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> CausalLMOutputWithPast:
        """Logits (B, T, V) of the token after each.

        labels (B, T) are the tokens themselves, -100 for those not to be learnt; they are shifted here, once.
        logits_to_keep is the number of last tokens to project (0: all), or which. The rest as in the base model.
        """
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache if labels is None else False,
            repad=False,
            has_hooks=self.has_hooks,
            return_dict=True,
            **kwargs,
        )
        logits, layout = next_logits(self.lm_head, outputs, logits_to_keep, labels)
        loss = None
        if labels is not None:
            loss = token_loss(logits, layout.following(labels, IGNORE), self.config, self.training, num_items_in_batch)
        logits = layout.repad(logits)
        return CausalLMOutputWithPast(loss=loss, logits=logits, **recorded(outputs, CausalLMOutputWithPast))


class BlendDecoderForSequenceClassification(ForSequenceClassification, BlendDecoderPreTrainedModel):
    """N21 on the decoder: the last token has seen the whole sequence; classify from it."""

    model_class = BlendDecoderModel


class BlendDecoderForTokenClassification(ForTokenClassification, BlendDecoderPreTrainedModel):
    """N2N on the decoder: each token is classified from itself and those before it."""

    model_class = BlendDecoderModel
