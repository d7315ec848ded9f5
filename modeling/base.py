"""What encoder and decoder share: the stack of blocks, and the choice of the layout of a batch."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import wraps
from itertools import islice, repeat
from typing import Any

import torch
from torch import nn
from transformers import initialization as init
from transformers.cache_utils import Cache
from transformers.configuration_utils import PreTrainedConfig
from transformers.generation.continuous_batching import PagedAttentionCache
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions
from transformers.modeling_utils import PreTrainedModel
from transformers.utils.generic import is_flash_attention_requested

from .attention import has_flash_attention, has_known_kernel, has_stock_sdpa, has_varlen_kernel, matmul_dtype
from .cache import CACHE_NAME
from .hooks import has_hooked_submodule, is_hooked
from .layers import Block
from .normalization import Dropout, ZeroCenteredRMSNorm, build_norm
from .packing import FlatLayout, Layout, PaddedLayout, as_padding_mask, is_traced
from .patterns import MIN_BLOCK_SIZE, MaskFunction, PaddedPattern, VarlenPattern, self_pattern
from .positions import POSITIONS, build_relative_bias, build_rotary
from .recurrence import Recurrence, Steps

# Kernels that take a mask for each head.
BIAS_KERNELS = ("eager", "sdpa")
# Arguments of forward that describe the sequences of a flattened batch. Self-attention reads those of the queries.
LENGTH_ARGUMENTS = ("cu_seq_lens_q", "max_length_q", "cu_seq_lens_k", "max_length_k")


@dataclass
class StackOutput(BaseModelOutputWithPastAndCrossAttentions):
    """Output of a stack. If `layout` is set, last_hidden_state has the form of that layout (repad=False)."""

    layout: Any = None


class BlendPreTrainedModel(PreTrainedModel):
    """Base class of all models: what transformers needs to know about them."""

    base_model_prefix = "model"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _skip_keys_device_placement = ["past_key_values", "cache"]

    def __init__(self, config: PreTrainedConfig):
        super().__init__(config)
        # In generation, the states of earlier tokens are gone: assisted generation cannot go back to them.
        self._is_stateful = config.get_text_config(decoder=True).is_recurrent
        # The order of the steps depends on the lengths.
        self._can_compile_fullgraph = not config.is_recurrent

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, Recurrence):
            module.init_weights()
        elif isinstance(module, ZeroCenteredRMSNorm):
            init.zeros_(module.weight)
        else:
            super()._init_weights(module)

    @property
    def loss_function(self) -> Any:
        """The loss that transformers has for this kind of head; the models have their own, see losses.py."""
        return super().loss_function

    @loss_function.setter
    def loss_function(self, value: Any) -> None:
        raise AttributeError(
            f"{type(self).__name__} computes its own loss; give the Trainer another as compute_loss_func"
        )

    def has_hooks(self) -> bool:
        """Whether a hook on a submodule reads activations; see hooks.py."""
        return has_hooked_submodule(self)

    @wraps(PreTrainedModel.save_pretrained)
    def save_pretrained(
        self, save_directory: Any, is_main_process: bool = True, state_dict: Any = None, *args: Any, **kwargs: Any
    ) -> None:
        # Replaces `state_dict = model_to_save.state_dict()` of PreTrainedModel.save_pretrained where the model was
        # built with tied weights and its config now says untied: peft changes the config when it merges. The tensors
        # may still share memory, and then only one name would be saved; loading with that config needs each name.
        untied = self.all_tied_weights_keys.keys() - self.get_expanded_tied_weights_keys(all_submodels=True).keys()
        if untied:
            state_dict = dict(self.state_dict() if state_dict is None else state_dict)
            state_dict |= {name: state_dict[name].clone() for name in untied & state_dict.keys()}
        super().save_pretrained(save_directory, is_main_process, state_dict, *args, **kwargs)


class Stack(BlendPreTrainedModel):
    """Embeddings and a stack of blocks. A subclass sets the class of its blocks and its mask functions."""

    layer_class: type[Block]
    # The other half of an encoder-decoder may have the attention weights that this one lacks.
    is_in_encoder_decoder = False
    mask_functions: dict[str, MaskFunction]

    def __init__(self, config: PreTrainedConfig):
        super().__init__(config)
        width = config.embedding_width
        self.embed_tokens = self.build_embedding(config)
        self.embed_positions = POSITIONS[config.position_type](config.max_position_embeddings, width)
        self.embed_token_types = nn.Embedding(config.type_vocab_size, width) if config.type_vocab_size else None
        self.embedding_norm = build_norm(config, width) if config.embedding_norm else nn.Identity()
        self.dropout = Dropout(config.hidden_dropout)
        self.embedding_proj = (
            nn.Linear(width, config.hidden_size) if config.has_embedding_projection else nn.Identity()
        )
        self.rotary_emb = build_rotary(config)
        shares_biases = config.relative_attention_num_buckets and not config.relative_attention_per_layer
        self.relative_attention_bias = build_relative_bias(config) if shares_biases else None
        if len(config.layer_types) < config.num_hidden_layers:
            raise ValueError(
                f"layer_types has {len(config.layer_types)} values for num_hidden_layers={config.num_hidden_layers}"
            )
        num_layers = 1 if config.shares_layers else config.num_hidden_layers
        self.layers = nn.ModuleList(self.layer_class(config, index) for index in range(num_layers))
        self.norm = nn.Identity() if config.norm_position == "post" else build_norm(config)
        self.gradient_checkpointing = False
        self.post_init()

    def build_embedding(self, config: PreTrainedConfig) -> nn.Embedding:
        """The embedding of tokens."""
        padding = config.pad_token_id if config.freeze_pad_embedding else None
        return nn.Embedding(config.vocab_size, config.embedding_width, padding_idx=padding)

    def choose_layout(
        self,
        input_ids: torch.Tensor | None,
        inputs_embeds: torch.Tensor | None,
        attention_mask: Any,
        position_ids: torch.Tensor | None,
        kwargs: dict[str, Any],
        *,
        past_length: int | torch.Tensor | None = None,
        source_layout: Layout | None = None,
        keep_padded: bool = False,
        has_paged_cache: bool = False,
    ) -> Layout:
        """Choose the layout of the batch inside the stack: padded (B, T, E) or flat (1, N, E).

        Args:
            input_ids: (B, T), or None.
            inputs_embeds: (B, T, E), or None. Exactly one of input_ids and inputs_embeds must be given.
            attention_mask: (B, T or more), 1 for real tokens; None: all are real; or a mask from transformers' mask
                functions.
            position_ids: (B or 1, T). Without a mask, a new sequence starts where they restart in a row.
            kwargs: keyword arguments of forward. The arguments that describe sequences (`cu_seq_lens_q` …) are
                removed, and so is `has_hooks`, a function that returns whether a hook reads activations of the model
                that calls this stack.
            past_length: number of cached tokens; None: no cache.
            source_layout: layout of the encoder output for cross-attention.
            keep_padded: whether the layout must be padded.
            has_paged_cache: whether the cached tokens are in the cache of a server; past_length is None then.

        Returns:
            FlatLayout of a batch that the caller has flattened. Otherwise FlatLayout where it saves work (padding in
            the batch or its source, or sliding windows that are computed in blocks) and is possible (no cached
            tokens, no hooks, no outputs of all layers); else PaddedLayout.

        Raises:
            ValueError: both or neither of input_ids and inputs_embeds are given, or they have a wrong number of
                dimensions; there is a cache among the keyword arguments; the mask has a wrong shape; a sequence is
                too long; is_causal differs from that of this stack; something that a recurrent mixer or attention
                with biases does not have; for a flattened batch see `flattened_layout`.
        """
        has_hooks = kwargs.pop("has_hooks", self.has_hooks)
        # Without this check, generation under a new name of the cache would read the last token only.
        for name, value in kwargs.items():
            if isinstance(value, Cache | PagedAttentionCache):
                raise ValueError(f"{type(self).__name__} takes no cache by the name {name!r}")
        if self.config.is_recurrent:
            self.check_recurrence(attention_mask, kwargs)
        if self.config.relative_attention_num_buckets is not None:
            self.check_relative_attention(kwargs, has_paged_cache)
        inputs = select_inputs(input_ids, inputs_embeds)
        if inputs_embeds is not None and inputs_embeds.shape[-1] != self.config.embedding_width:
            raise ValueError(
                f"inputs_embeds have {inputs_embeds.shape[-1]} features, the embeddings {self.config.embedding_width}"
            )
        shape = (inputs.shape[0], inputs.shape[1])
        mask = as_padding_mask(attention_mask)
        # The arguments of a server are passed on unchanged.
        is_of_server = has_paged_cache or not has_known_kernel(self.config)
        has_past = isinstance(past_length, torch.Tensor) or bool(past_length)
        mask_fits = mask is None or tuple(mask.shape) == shape
        if past_length is None and not mask_fits and not has_paged_cache:
            raise ValueError(f"attention_mask has shape {tuple(attention_mask.shape)}, the input {shape}")
        # With a cache, the mask may cover later tokens, too.
        if has_past or not mask_fits or keep_padded or is_of_server:
            if not is_of_server and kwargs.get("cu_seq_lens_q") is not None:
                raise ValueError("cu_seq_lens_q: a flattened batch has no cached tokens, and no mask of its source")
            self.check_past(shape, mask, past_length)
            return PaddedLayout(shape, mask, inputs.device, past_length=0 if past_length is None else past_length)
        self.pop_is_causal(kwargs)
        traced = is_traced(inputs)
        layout: Layout | None = self.flattened_layout(
            shape, mask, None if traced or attention_mask is not None else position_ids, kwargs
        )
        if layout is None:
            layout = PaddedLayout(shape, mask, inputs.device)
            # A mask from the mask functions is for padded rows.
            is_prepared = attention_mask is not None and mask is None
            if not traced and not is_prepared and not self.returns_states(kwargs):
                layout = self.best_layout(layout, source_layout, has_hooks, has_cache=past_length is not None)
        if not traced:
            self.check_length(layout.max_length)
        return layout

    def check_recurrence(self, attention_mask: Any, kwargs: dict[str, Any]) -> None:
        """Raises ValueError for what a recurrent mixer does not have."""
        unsupported = {
            "an attention mask that is not (B, S)": attention_mask is not None
            and as_padding_mask(attention_mask) is None,
            "output_attentions": not (self.config.has_attention or self.is_in_encoder_decoder)
            and kwargs.get("output_attentions", self.config.output_attentions),
            # It may be that of a server, which keeps the tokens before the input to itself.
            f"attn_implementation={self.config._attn_implementation!r}": not has_known_kernel(self.config),
            # The order of the steps depends on the lengths.
            "a graph (torch.compile, torch.export, torch.jit.trace)": is_traced(),
        }
        for name, is_requested in unsupported.items():
            if is_requested:
                raise ValueError(f"mixer_type={self.config.mixer_type!r} does not have {name}")

    def check_relative_attention(self, kwargs: dict[str, Any], has_paged_cache: bool) -> None:
        """Raises ValueError for what attention with biases by distance does not have."""
        kernel = self.config._attn_implementation
        checkpoint = getattr(next(iter(self.layers), None), "_gradient_checkpointing_func", None)
        options = getattr(checkpoint, "keywords", {})
        unsupported = {
            f"attn_implementation={kernel!r}, only 'eager' and 'sdpa'": kernel not in BIAS_KERNELS,
            "a paged cache": has_paged_cache,
            # Shared biases reach the layers in their pattern, where it finds no gradient.
            "gradient checkpointing with use_reentrant=True": self.relative_attention_bias is not None
            and self.training
            and self.gradient_checkpointing
            and options.get("use_reentrant", False),
        }
        for name, is_requested in unsupported.items():
            if is_requested:
                raise ValueError(f"relative_attention_num_buckets does not go together with {name}")

    def best_layout(
        self, padded: PaddedLayout, source_layout: Layout | None, has_hooks: Callable[[], bool], *, has_cache: bool
    ) -> Layout:
        """Flat where the batch or its source has padding or windows are computed in blocks; else padded.

        The batch stays padded with a cache if the last column, which generation reads, has padding; if a hook reads
        activations, because hooks expect (B, T, E); and if a sliding window would count padding inside a row, as it
        does in a cache.
        """
        window = self.config.sliding_window
        if (has_cache and not padded.last_column_is_real) or (window is not None and not padded.is_contiguous):
            return padded
        uses_blocks = window is not None and padded.shape[1] > 2 * max(window, MIN_BLOCK_SIZE)
        source_is_flat = source_layout is not None and (
            isinstance(source_layout, FlatLayout) or source_layout.has_padding
        )
        if not (uses_blocks or source_is_flat or padded.has_padding):
            return PaddedLayout(padded.shape, None, padded.device)
        return padded if has_hooks() else FlatLayout.from_padded(padded)

    def returns_states(self, kwargs: dict[str, Any]) -> bool:
        """Whether attention weights or hidden states of all layers are returned; both need the padded form."""
        return bool(
            kwargs.get("output_attentions", self.config.output_attentions)
            or kwargs.get("output_hidden_states", self.config.output_hidden_states)
        )

    def flattened_layout(
        self,
        shape: tuple[int, int],
        mask: torch.Tensor | None,
        position_ids: torch.Tensor | None,
        kwargs: dict[str, Any],
    ) -> FlatLayout | None:
        """The layout of a batch that the caller has flattened; None for any other batch.

        Args:
            shape: B and T.
            mask: (B, T), 1 for real tokens; None: all are real.
            position_ids: (B or 1, T), or None.
            kwargs: keyword arguments of forward; the lengths are removed.

        Raises:
            ValueError: cu_seq_lens_q do not fit the tokens, or there is padding among them; or a flattened batch is
                asked for attention weights, or, if it has several rows, for hidden states.
        """
        lengths = {name: kwargs.pop(name, None) for name in LENGTH_ARGUMENTS}
        layout: FlatLayout | None = None
        if lengths["cu_seq_lens_q"] is not None:
            layout = FlatLayout.from_cu_seq_lens(lengths["cu_seq_lens_q"], lengths["max_length_q"], shape)
            if mask is not None and not is_traced(mask) and not bool(mask.all()):
                raise ValueError("cu_seq_lens_q: a flattened batch has no padding, but attention_mask has zeros")
        elif position_ids is not None and tuple(position_ids.shape) in (shape, (1, shape[1])) and shape[1] > 1:
            layout = FlatLayout.from_position_ids(position_ids.expand(shape))
            layout = layout if layout.num_sequences > shape[0] else None
        if layout is not None and kwargs.get("output_attentions", self.config.output_attentions):
            raise ValueError(
                "output_attentions: a flattened batch has no weights of shape (B, H, T, S); pad the batch"
            )
        if layout is not None and shape[0] > 1 and self.returns_states(kwargs):
            raise ValueError("output_hidden_states: a flattened batch must be one row; reshape the input to (1, N)")
        return layout

    @property
    def is_causal(self) -> bool:
        """Whether a token attends only to itself and the tokens before it."""
        return self.layer_class.role == "masked self"

    def pop_is_causal(self, kwargs: dict[str, Any]) -> None:
        """Remove `is_causal` from kwargs. Raises ValueError if it, or the config's, differs from this stack's."""
        is_causal = kwargs.pop("is_causal", getattr(self.config, "is_causal", None))
        if is_causal is not None and is_causal != self.is_causal:
            raise ValueError(f"is_causal={is_causal}, but that of {type(self).__name__} is {self.is_causal}")

    def check_past(
        self, shape: tuple[int, int], mask: torch.Tensor | None, past_length: int | torch.Tensor | None
    ) -> None:
        """Raises ValueError if the mask does not cover the input, or cached and new tokens together are too many."""
        # The length of a static cache is a tensor and is not checked. With left padding, the mask counts real tokens.
        length = past_length + shape[1] if isinstance(past_length, int) else 0
        if mask is not None and (mask.shape[0] != shape[0] or mask.shape[1] < max(length, shape[1])):
            raise ValueError(
                f"attention_mask has shape {tuple(mask.shape)}, the input {shape} after {past_length} tokens"
            )
        if length > self.config.max_position_embeddings and self.config.position_type == "learned":
            self.check_length(length if mask is None else int(mask.sum(-1).max()))

    def check_length(self, length: int) -> None:
        """Raises ValueError for a sequence with more tokens than there are learned positions."""
        if self.config.position_type == "learned" and length > self.config.max_position_embeddings:
            raise ValueError(
                f"a sequence has {length} tokens, more than max_position_embeddings="
                f"{self.config.max_position_embeddings} learned positions"
            )

    @staticmethod
    def positions(layout: Layout, position_ids: torch.Tensor | None) -> torch.Tensor:
        """Position IDs in the layout's form: those given, or counted from the number of cached tokens."""
        return layout.position_ids() if position_ids is None else layout.unpad(position_ids)

    def embed(
        self,
        layout: Layout,
        input_ids: torch.Tensor | None,
        inputs_embeds: torch.Tensor | None,
        token_type_ids: torch.Tensor | None,
        position_ids: torch.Tensor,
    ) -> torch.Tensor:
        """Sum of token, token type and position embeddings, in the layout's form: the input of the first block."""
        embeds = self.embed_ids(layout, input_ids) if inputs_embeds is None else layout.unpad(inputs_embeds)
        assert embeds is not None
        if self.config.scale_embeddings:
            embeds = embeds * self.config.hidden_size**0.5
        if self.embed_token_types is not None:
            token_types = torch.zeros_like(embeds[..., 0], dtype=torch.long)
            embeds = embeds + self.embed_token_types(
                token_types if token_type_ids is None else layout.unpad(token_type_ids)
            )
        return self.embedding_proj(self.dropout(self.embedding_norm(self.embed_positions(embeds, position_ids))))

    def embed_ids(self, layout: Layout, input_ids: torch.Tensor | None) -> torch.Tensor | None:
        """Token embeddings of input_ids (B, T), in the layout's form.

        If the embedding has a hook that reads activations (NEFTune in training), or is another module than an
        nn.Embedding (soft prompts), it is called with (B, T) and returns (B, T, E), and the layers stay flat.
        """
        is_plain = type(self.embed_tokens).forward is nn.Embedding.forward and not is_hooked(self.embed_tokens)
        if isinstance(layout, FlatLayout) and layout.is_rows and not is_plain:
            return layout.unpad(self.embed_tokens(input_ids))
        return self.embed_tokens(layout.unpad(input_ids))

    def patterns(
        self,
        layout: Layout,
        attention_mask: Any,
        embeds: torch.Tensor,
        cache: Cache | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """The pattern of each layer type, shared by all layers of that type: of attention, or Steps.

        Biases that the layers share are not in it; see `add_shared_biases`.
        """
        types = set(self.config.layer_types)
        if self.config.is_recurrent:
            return dict.fromkeys(types, Steps(layout))
        if isinstance(layout, FlatLayout):
            if self.uses_varlen_kernel(embeds):
                return dict.fromkeys(types, VarlenPattern(layout, layout))
            windows = {"full_attention": None, "sliding_attention": self.config.sliding_window}
            return {
                layer_type: self_pattern(
                    self.config,
                    layout,
                    embeds,
                    self.mask_functions[layer_type],
                    is_causal=self.is_causal,
                    window=windows[layer_type],
                )
                for layer_type in types
            }
        if isinstance(attention_mask, dict):
            return {layer_type: PaddedPattern(attention_mask[layer_type], layout) for layer_type in types}
        arguments = {
            "config": self.config,
            "inputs_embeds": embeds,
            "attention_mask": attention_mask if as_padding_mask(attention_mask) is None else layout.mask,
            CACHE_NAME: cache,
        }
        return {
            layer_type: PaddedPattern(self.mask_functions[layer_type](**arguments, **kwargs), layout)
            for layer_type in types
        }

    def add_shared_biases(self, patterns: dict[str, Any], embeds: torch.Tensor) -> dict[str, Any]:
        """The patterns of all layer types, which also add the biases that the layers share, if they share any."""
        bias = self.relative_attention_bias
        if bias is None:
            return patterns
        # The dtype of queries and keys, which under autocast differs from that of the embeddings.
        dtype = matmul_dtype(embeds)
        return {layer_type: pattern.with_bias(bias, dtype) for layer_type, pattern in patterns.items()}

    def uses_varlen_kernel(self, embeds: torch.Tensor) -> bool:
        """Whether a flat batch goes to a varlen kernel: flash attention, or torch's own for "sdpa" on a GPU."""
        if self.config.relative_attention_num_buckets is not None:
            return False
        if not has_stock_sdpa(self.config) or embeds.device.type != "cuda":
            return is_flash_attention_requested(self.config)
        has_dropout = self.training and self.config.attention_dropout > 0
        is_half_precision = matmul_dtype(embeds).itemsize == 2
        fits_head = self.config.head_dim % 8 == 0 and self.config.head_dim <= 256
        if not is_half_precision or has_dropout or not fits_head or not has_varlen_kernel(self.config):
            return False
        # Whoever compiles a model does so for one GPU; the question would break the graph.
        return torch.compiler.is_compiling() or has_flash_attention(embeds.device)

    def position_embeddings(
        self, embeds: torch.Tensor, position_ids: torch.Tensor
    ) -> dict[str, tuple[torch.Tensor, torch.Tensor] | None]:
        """Cosines and sines of RoPE (B or 1, T, D / 2) for each layer type; None without RoPE."""
        types = set(self.config.layer_types)
        # Dynamic RoPE types read the last position; a flat batch without any real token has none.
        if self.rotary_emb is None or position_ids.shape[1] == 0:
            return dict.fromkeys(types)
        # The dtype of queries and keys, which under autocast differs from that of the embeddings. One number, because
        # transformers' DebugUnderflowOverflow fails at an empty tensor.
        states = embeds.new_zeros(1, dtype=matmul_dtype(embeds))
        if isinstance(self.rotary_emb, nn.ModuleDict):
            return {layer_type: rotary_emb(states, position_ids) for layer_type, rotary_emb in self.rotary_emb.items()}
        return dict.fromkeys(types, self.rotary_emb(states, position_ids))

    def blocks(self) -> Iterator[tuple[str, Block]]:
        """Layer type and block of each layer to run: the first config.num_hidden_layers (early exit lowers it).

        Raises:
            ValueError: there are layers without a type, because layers were added to the model.
        """
        types = self.config.layer_types or []
        if len(self.layers) > len(types):
            raise ValueError(
                f"the model has {len(self.layers)} layers, and layer_types of its config {len(types)}: add theirs, "
                "and set num_hidden_layers"
            )
        layers = repeat(self.layers[0]) if self.config.shares_layers else self.layers
        # There may be fewer layers than types, if the last layers were removed.
        return islice(zip(types, layers, strict=False), self.config.num_hidden_layers)

    def make_output(
        self, hidden_states: torch.Tensor, layout: Layout, repad: bool, cache: Cache | None = None
    ) -> StackOutput:
        """The output of the stack: in the caller's form if `repad`, else in the layout's form, with the layout."""
        # The last layer may be on another device than the first one.
        layout = layout.to(hidden_states.device)
        if repad:
            return StackOutput(last_hidden_state=layout.repad(hidden_states), **{CACHE_NAME: cache})
        return StackOutput(last_hidden_state=hidden_states, layout=layout, **{CACHE_NAME: cache})


def select_inputs(input_ids: torch.Tensor | None, inputs_embeds: torch.Tensor | None) -> torch.Tensor:
    """The one of the two that is given. Raises ValueError for both, neither, or a wrong number of dimensions."""
    inputs = inputs_embeds if input_ids is None else input_ids
    if inputs is None or (input_ids is not None and inputs_embeds is not None):
        raise ValueError("give exactly one of input_ids and inputs_embeds")
    if inputs.dim() != (2 if inputs_embeds is None else 3):
        raise ValueError(f"input_ids are (B, T) and inputs_embeds (B, T, E), got {tuple(inputs.shape)}")
    return inputs
