"""The decoder family: the stack in which a token attends to itself and the tokens before it, and its heads."""

from typing import Any

import torch
from torch import nn
from transformers.cache_utils import Cache, DynamicCache, EncoderDecoderCache
from transformers.generation.continuous_batching import PagedAttentionCache
from transformers.masking_utils import (
    create_bidirectional_mask,
    create_causal_mask,
    create_sliding_window_causal_mask,
)
from transformers.modeling_outputs import CausalLMOutputWithCrossAttentions
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.processing_utils import Unpack
from transformers.utils.generic import (
    TransformersKwargs,
    can_return_tuple,
    is_flash_attention_requested,
    merge_with_config_defaults,
)
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from ..configuration.decoder import BlendDecoderConfig
from .attention import Attention
from .base import BlendPreTrainedModel, Stack, StackOutput
from .cache import (
    BlendGenerationMixin,
    accept_past_key_values,
    drop_unused_layers,
    is_empty,
    keep_whole_source,
    no_cache_in_training,
    self_attention_cache,
    use_recurrent_layers,
    with_source_cache,
)
from .heads import ForSequenceClassification, ForTokenClassification, compute_logits, select_fields
from .layers import DecoderLayer
from .losses import IGNORE, token_loss
from .packing import FlatLayout, Layout, PaddedLayout, as_padding_mask, is_traced
from .patterns import PaddedPattern, Pattern, SourcePattern, VarlenPattern, cross_pattern


class BlendDecoderPreTrainedModel(BlendPreTrainedModel):
    """Base class of the decoder models: what transformers needs to know about them."""

    config: BlendDecoderConfig
    config_class = BlendDecoderConfig
    _no_split_modules = ["DecoderLayer"]
    _can_record_outputs = {
        "hidden_states": DecoderLayer,
        "attentions": OutputRecorder(Attention, index=1, layer_name="self_attn"),
        "cross_attentions": OutputRecorder(Attention, index=1, layer_name="cross_attn"),
    }


class BlendDecoderModel(BlendDecoderPreTrainedModel, Stack):
    """A decoder without a head. It reads an encoder if cross_attention_hidden_size is set in the config."""

    layer_class = DecoderLayer
    mask_functions = {
        "full_attention": create_causal_mask,
        "sliding_attention": create_sliding_window_causal_mask,
    }

    @accept_past_key_values
    @no_cache_in_training
    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        token_type_ids: torch.Tensor | None = None,
        encoder_hidden_states: torch.Tensor | None = None,
        encoder_attention_mask: torch.Tensor | None = None,
        encoder_layout: Layout | None = None,
        repad: bool = True,
        **kwargs: Unpack[TransformersKwargs],
    ) -> StackOutput:
        """Blend each sequence into itself, layer by layer; a token takes only from itself and the tokens before it.

        Args:
            input_ids: tokens (B, T), or a flattened batch (1, N) with `position_ids` that restart.
            attention_mask: (B, T or more), 1 for real tokens; None: all are real. With a cache, its columns start at
                the first cached token.
            position_ids: (B or 1, T); None: counted over the real tokens.
            cache: keys and values of the tokens before the input, or the recurrent states after them. Its name before
                transformers 5.24, past_key_values, is accepted, too.
            inputs_embeds: (B, T, E), instead of input_ids.
            use_cache: return a cache for the next tokens. None: that of the config, in training False.
            token_type_ids: segment of each token (B, T); not used if type_vocab_size is 0.
            encoder_hidden_states: encoder output, (B, S, width) or in the form of encoder_layout.
            encoder_attention_mask: (B, S), 1 for real tokens; None: all are real.
            encoder_layout: layout of encoder_hidden_states; None: padded, with encoder_attention_mask.
            repad: return (B, T, E). The heads pass False and get the layout and a state in its form.
            kwargs: `output_attentions`, `output_hidden_states`, `cu_seq_lens_q` …; the rest goes to the kernel.

        Returns:
            last_hidden_state (B, T, E), where the values of padding have no meaning; the cache; if requested,
            hidden_states, attentions and cross_attentions.

        Raises:
            ValueError: see Stack.choose_layout; encoder_hidden_states is missing or unexpected; with an encoder,
                the cache is not an EncoderDecoderCache; with a recurrent mixer, the cache is of another kind
                (cache.use_recurrent_layers); a flattened batch, or one whose source is flattened, has a cache; or
                there is a cache in training with gradient checkpointing.
        """
        is_paged = isinstance(cache, PagedAttentionCache)
        if self.config.cross_attention_hidden_size is not None and is_empty(cache):
            cache = with_source_cache(cache)
        self.check_source(encoder_hidden_states, encoder_attention_mask, cache)
        if self.config.is_recurrent:
            use_recurrent_layers(cache, self.config.num_hidden_layers)
        source_layout = encoder_layout
        if encoder_hidden_states is not None and source_layout is None:
            source_layout = padded_source_layout(encoder_hidden_states, encoder_attention_mask)
        # A mask of transformers' mask functions is for padded rows.
        has_prepared_mask = encoder_attention_mask is not None and as_padding_mask(encoder_attention_mask) is None
        keep_padded = has_cached_source(cache) or has_prepared_mask
        if source_layout is not None and not torch.compiler.is_compiling():
            keep_whole_source(cache, source_layout.shape[1])
        layout = self.choose_layout(
            input_ids,
            inputs_embeds,
            attention_mask,
            position_ids,
            kwargs,
            past_length=None if is_paged else cached_length(cache),
            source_layout=source_layout,
            keep_padded=keep_padded,
            has_paged_cache=is_paged,
        )
        # A cache has a row for each sequence.
        can_cache = layout.is_rows and (source_layout is None or source_layout.is_rows)
        if cache is not None and not can_cache:
            raise ValueError("cache: a flattened batch, or one with a flattened source, has no cache")
        if cache is not None and self.gradient_checkpointing and self.training and torch.is_grad_enabled():
            raise ValueError("cache: gradient checkpointing runs each layer twice, which would fill the cache twice")
        # The mask functions get only the caller's cache: with a new, empty one they do not look for packed sequences.
        self_cache = None if is_paged else self_attention_cache(cache)
        if use_cache and cache is None and can_cache:
            cache = self.new_cache()
        positions = self.positions(layout, position_ids)
        hidden_states = self.embed(layout, input_ids, inputs_embeds, token_type_ids, positions)
        source_pattern = None
        if encoder_hidden_states is not None:
            assert source_layout is not None
            encoder_hidden_states, source_pattern = self.prepare_source(
                layout, hidden_states, encoder_hidden_states, source_layout, encoder_attention_mask
            )
        # Only without a mask, the mask functions detect packed sequences by position_ids that restart. A mask of ones
        # is a mask, too, although the layout has none then.
        restarts = position_ids if attention_mask is None else None
        patterns = self.patterns(layout, attention_mask, hidden_states, self_cache, position_ids=restarts)
        patterns = self.add_shared_biases(patterns, hidden_states)
        position_embeddings = self.position_embeddings(hidden_states, positions)
        for layer_type, layer in self.blocks():
            hidden_states = layer(
                hidden_states,
                encoder_hidden_states,
                pattern=patterns[layer_type],
                cross_pattern=source_pattern,
                position_embeddings=position_embeddings[layer_type],
                cache=cache,
                **kwargs,
            )
        return self.make_output(self.norm(hidden_states), layout, repad, cache)

    def check_source(
        self, encoder_hidden_states: torch.Tensor | None, attention_mask: Any, cache: Cache | None
    ) -> None:
        """Raises ValueError if encoder_hidden_states, their mask or the type of the cache does not fit the config."""
        if self.config.reads_source_ends and attention_mask is not None and as_padding_mask(attention_mask) is None:
            raise ValueError(
                "cross_attention=False: encoder_attention_mask must be (B, S), to find where a source ends"
            )
        width = self.config.cross_attention_hidden_size
        if width is not None and encoder_hidden_states is None:
            raise ValueError(f"cross_attention_hidden_size={width}: the decoder needs encoder_hidden_states")
        if width is None and encoder_hidden_states is not None:
            raise ValueError("encoder_hidden_states given, but cross_attention_hidden_size is None")
        if width is not None and not isinstance(cache, EncoderDecoderCache | None):
            # Another cache would mix the keys of the source with those of the decoder.
            raise ValueError(
                f"cross_attention_hidden_size={width}: cache must be an EncoderDecoderCache, "
                f"got {type(cache).__name__}"
            )

    def new_cache(self) -> Cache:
        """An empty cache. The part for cross-attention has no sliding window: it reads the whole source."""
        cache = DynamicCache(config=self.config)
        drop_unused_layers(cache, self.config.num_hidden_layers)
        if self.config.is_recurrent:
            use_recurrent_layers(cache, self.config.num_hidden_layers)
        return cache if self.config.cross_attention_hidden_size is None else with_source_cache(cache)

    def prepare_source(
        self, layout: Layout, embeds: torch.Tensor, states: torch.Tensor, source_layout: Layout, attention_mask: Any
    ) -> tuple[torch.Tensor, Pattern | None]:
        """What the blocks read of a source, and its attention pattern.

        It is the encoder output in the form of the target's layout. Without cross-attention it is the output where the
        two directions of a recurrent encoder end, (B, 2 · width).

        Args:
            layout: layout of the target.
            embeds: embeddings of the target, for dtype and shape of the masks.
            states: encoder output, in the form of source_layout.
            source_layout: layout of the encoder output.
            attention_mask: mask of the source (B, S), or None.

        Raises:
            ValueError: target and source have different numbers of sequences; or the target must be padded, and the
                source is flattened.
        """
        check_same_number(layout, source_layout)
        states, source_layout = states.to(embeds.device), source_layout.to(embeds.device)
        if self.config.reads_source_ends:
            return torch.cat((source_layout.last(states), source_layout.first(states)), dim=-1), None
        if isinstance(layout, FlatLayout) and isinstance(source_layout, PaddedLayout):
            source_layout = FlatLayout.from_padded(source_layout)
            states = source_layout.unpad(states)
        elif isinstance(layout, PaddedLayout) and isinstance(source_layout, FlatLayout):
            if not source_layout.is_rows:
                raise ValueError("a flattened source needs a flattened target, to return hidden states and for hooks")
            states = source_layout.repad(states)
            source_layout = PaddedLayout(tuple(states.shape[:2]), None, states.device)
        if isinstance(layout, FlatLayout):
            assert isinstance(source_layout, FlatLayout)
            if self.uses_varlen_kernel(embeds):
                return states, VarlenPattern(layout, source_layout)
            return states, cross_pattern(self.config, layout, source_layout, embeds)
        is_real = as_padding_mask(attention_mask)
        # For a single target token, flash attention takes the mask of the source.
        takes_lengths = is_flash_attention_requested(self.config) and layout.shape[1] > 1 and not is_traced()
        if takes_lengths and is_real is not None:
            return states, SourcePattern(layout.shape, FlatLayout.from_mask(is_real.to(states.device).bool()))
        mask = create_bidirectional_mask(
            config=self.config, inputs_embeds=embeds, attention_mask=attention_mask, encoder_hidden_states=states
        )
        return states, PaddedPattern(mask)


def cached_length(cache: Cache | None) -> int | torch.Tensor | None:
    """Number of cached tokens; None: no cache."""
    length = None if cache is None else cache.get_seq_length()
    # A static cache counts in place, while the layers add to it.
    return length.clone() if isinstance(length, torch.Tensor) else length


def check_same_number(layout: Layout, source_layout: Layout) -> None:
    """Raises ValueError if target and source have different numbers of sequences."""
    if layout.num_sequences != source_layout.num_sequences:
        raise ValueError(f"{layout.num_sequences} target sequences for {source_layout.num_sequences} source sequences")


def padded_source_layout(states: torch.Tensor, attention_mask: Any) -> PaddedLayout:
    """The layout of a padded encoder output (B, S, width).

    Raises:
        ValueError: the mask has another shape than (B, S), and is not from transformers' mask functions.
    """
    shape, mask = (states.shape[0], states.shape[1]), as_padding_mask(attention_mask)
    if mask is not None and tuple(mask.shape) != shape:
        raise ValueError(f"encoder_attention_mask has shape {tuple(mask.shape)}, the source {shape}")
    return PaddedLayout(shape, mask, states.device)


def has_cached_source(cache: Cache | None) -> bool:
    """Whether the cache holds keys and values of a source; they are padded rows."""
    return isinstance(cache, EncoderDecoderCache) and any(cache.is_updated.values())


class BlendDecoderForCausalLM(BlendDecoderPreTrainedModel, BlendGenerationMixin):
    """A language model: predicts the next token."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}
    _pp_plan = {"lm_head": (["hidden_states"], ["logits"])}
    _fsdp_plan = {"lm_head": "keep_full_weight"}

    def __init__(self, config: BlendDecoderConfig):
        super().__init__(config)
        self.model = BlendDecoderModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=config.lm_head_bias)
        self.post_init()

    @accept_past_key_values
    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        token_type_ids: torch.Tensor | None = None,
        encoder_hidden_states: torch.Tensor | None = None,
        encoder_attention_mask: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> CausalLMOutputWithCrossAttentions:
        """Logits (B, T, V) of the next token at each position.

        labels (B, T) are the input tokens, unshifted; -100 is ignored. If there are also shift_labels (B, T), which
        some collators give beside them, these are the labels of the next tokens. logits_to_keep is the number of last
        positions to project (0: all), or their indices. Other arguments as in BlendDecoderModel.forward.
        """
        # No argument of its own: the Trainer asks each batch for all arguments with "label" in their names.
        shift_labels: Any = kwargs.pop("shift_labels", None)
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            cache=cache,
            inputs_embeds=inputs_embeds,
            encoder_hidden_states=encoder_hidden_states,
            encoder_attention_mask=encoder_attention_mask,
            use_cache=False if use_cache is None and labels is not None else use_cache,
            repad=False,
            has_hooks=self.has_hooks,
            return_dict=True,
            **kwargs,
        )
        logits, layout = compute_logits(self.lm_head, self.config.logit_scaling, outputs, logits_to_keep, labels)
        loss = None
        if labels is not None:
            if shift_labels is None:
                targets = layout.shift_left(labels, IGNORE)
            else:
                targets = layout.fill_padding(shift_labels, IGNORE)
            loss = token_loss(logits, targets, self.config, self.training, num_items_in_batch)
        fields = select_fields(outputs, CausalLMOutputWithCrossAttentions)
        if self.config.cross_attention_hidden_size is None:
            fields.pop("cross_attentions", None)
        return CausalLMOutputWithCrossAttentions(loss=loss, logits=layout.repad(logits), **fields)


class BlendDecoderForSequenceClassification(ForSequenceClassification, BlendDecoderPreTrainedModel):
    """N21 on the decoder: classify the last token, which has attended to the whole sequence."""

    model_class = BlendDecoderModel


class BlendDecoderForTokenClassification(ForTokenClassification, BlendDecoderPreTrainedModel):
    """N2N on the decoder: each token is classified from itself and the tokens before it."""

    model_class = BlendDecoderModel


# With label_smoothing_factor, Trainer.compute_loss shifts the labels only if the name of the class is in this table.
MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[BlendDecoderConfig.model_type] = BlendDecoderForCausalLM.__name__
