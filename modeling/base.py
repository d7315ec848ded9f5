"""What encoder and decoder share: the stack of blocks, and the door through which a batch comes in."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import wraps
from itertools import islice
from typing import Any

import torch
from torch import nn
from transformers.cache_utils import Cache
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions
from transformers.modeling_utils import PreTrainedModel

from .hooks import has_hooked_part, is_hooked
from .layers import Block
from .normalization import build_norm
from .packing import FlatLayout, Layout, PaddedLayout, is_traced, padding_of
from .patterns import SMALLEST_BLOCK, MaskFunction, PaddedPattern, Pattern, VarlenPattern, self_pattern
from .positions import POSITIONS, build_rotary

# Kernels that are given rows and a mask, and kernels that are told the lengths of the sequences in a flat batch.
ROW_KERNELS = ("eager", "sdpa", "flex_attention")
VARLEN_KERNELS = ("flash_attention_2", "flash_attention_3")
# By these a caller tells the sequences of a flattened batch; in self-attention those of the keys are the same.
LENGTHS = ("cu_seq_lens_q", "max_length_q", "cu_seq_lens_k", "max_length_k")


@dataclass
class StackOutput(BaseModelOutputWithPastAndCrossAttentions):
    """A stack's output; for a head of ours with `layout`, and then last_hidden_state is in that layout's form."""

    layout: Any = None


class BlendPreTrainedModel(PreTrainedModel):
    """What all models of the family tell transformers about themselves."""

    base_model_prefix = "model"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _skip_keys_device_placement = ["past_key_values"]

    def has_hooks(self) -> bool:
        """Whether a hook reads what passes through a part of this model; see hooks.py."""
        return has_hooked_part(self)

    @wraps(PreTrainedModel.save_pretrained)
    def save_pretrained(
        self, save_directory: Any, is_main_process: bool = True, state_dict: Any = None, *args: Any, **kwargs: Any
    ) -> None:
        # Replaces its `state_dict = model_to_save.state_dict()` where the config tied weights and says so no more, as
        # peft writes into it when it merges. They may be one tensor still, of which one name only would be saved, but
        # who opens them by that config needs each.
        untied = self.all_tied_weights_keys.keys() - self.get_expanded_tied_weights_keys(all_submodels=True).keys()
        if untied:
            state_dict = dict(self.state_dict() if state_dict is None else state_dict)
            state_dict |= {name: state_dict[name].clone() for name in untied & state_dict.keys()}
        super().save_pretrained(save_directory, is_main_process, state_dict, *args, **kwargs)


class Stack(BlendPreTrainedModel):
    """Embeddings and a stack of blocks. A subclass says which block, and which mask functions make its masks."""

    layer_class: type[Block]
    mask_functions: dict[str, MaskFunction]

    def __init__(self, config: PreTrainedConfig):
        super().__init__(config)
        padding = config.pad_token_id if config.freeze_pad_embedding else None
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=padding)
        self.embed_positions = POSITIONS[config.position_type](config.max_position_embeddings, config.hidden_size)
        self.embed_token_types = (
            nn.Embedding(config.type_vocab_size, config.hidden_size) if config.type_vocab_size else None
        )
        self.embedding_norm = build_norm(config) if config.embedding_norm else nn.Identity()
        self.dropout = nn.Dropout(config.hidden_dropout)
        self.rotary_emb = build_rotary(config)
        self.layers = nn.ModuleList(self.layer_class(config, index) for index in range(config.num_hidden_layers))
        self.norm = build_norm(config) if config.norm_position == "pre" else nn.Identity()
        self.gradient_checkpointing = False
        self.post_init()

    def enter(
        self,
        input_ids: torch.Tensor | None,
        inputs_embeds: torch.Tensor | None,
        attention_mask: Any,
        position_ids: torch.Tensor | None,
        kwargs: dict[str, Any],
        *,
        seen: int | torch.Tensor | None = None,
        source: Layout | None = None,
        rows: bool = False,
    ) -> Layout:
        """Choose the form in which the batch goes through the stack.

        Args:
            input_ids: (B, T), or None for
            inputs_embeds: (B, T, E).
            attention_mask: (B, T or more) with 1 for real tokens; None for all; or what the mask functions made.
            position_ids: (B or 1, T); where they restart in a row, without a mask, another sequence begins.
            kwargs: those of the forward; what it says of sequences (`cu_seq_lens_q` …) is taken out, and
                `has_hooks`: a function that tells whether a hook reads the model which calls this stack.
            seen: tokens before these, in a cache; None: none, nor may there be any.
            source: of what is blended into this.
            rows: something asks for [B, T].

        Returns:
            The caller's own flat form; or flat where there is padding in this or its source, or windows are to be cut
            into blocks, and neither earlier tokens nor anything else asks for [B, T]; or padded.

        Raises:
            ValueError: both or neither of input_ids and inputs_embeds, or no rows of them; a mask of another shape, a
                sequence too long, cu_seq_lens_q that do not fit the tokens, weights asked for of a flattened batch,
                another causality.
        """
        has_hooks = kwargs.pop("has_hooks", self.has_hooks)
        given = the_one_given(input_ids, inputs_embeds)
        shape = (given.shape[0], given.shape[1])
        mask = padding_of(attention_mask)
        kernel = self.config._attn_implementation
        # A paged cache, of continuous batching, is the kernel's own matter: what comes with it goes there untouched.
        is_paged = kwargs.get("cache") is not None
        has_past = isinstance(seen, torch.Tensor) or bool(seen)
        fits = mask is None or tuple(mask.shape) == shape
        if seen is None and not fits and not is_paged:
            raise ValueError(f"attention_mask has shape {tuple(attention_mask.shape)}, the input {shape}")
        # Where there is a cache, the mask may be for tokens to come, too.
        if has_past or not fits or rows or is_paged or kernel not in ROW_KERNELS + VARLEN_KERNELS:
            self.check_past(shape, mask, seen)
            return PaddedLayout(shape, mask, given.device, seen=0 if seen is None else seen)
        self.check_causality(kwargs)
        traced = is_traced()
        layout: Layout | None = self.given_layout(
            shape, None if traced or attention_mask is not None else position_ids, kwargs
        )
        if layout is not None and kwargs.get("output_attentions", self.config.output_attentions):
            raise ValueError("output_attentions: a flattened batch has no weights, which are (B, H, T, S); pad it")
        if layout is None:
            layout = PaddedLayout(shape, mask, given.device)
            # What the mask functions made is for rows.
            is_made = attention_mask is not None and mask is None
            if not traced and not is_made and not self.records_states(kwargs):
                layout = self.best_layout(layout, source, has_hooks, has_cache=seen is not None)
        if not traced:
            self.check_length(layout.max_length)
        return layout

    def best_layout(
        self, padded: PaddedLayout, source: Layout | None, has_hooks: Callable[[], bool], *, has_cache: bool
    ) -> Layout:
        """Flat where there is padding, in the source, too, or windows are to be cut.

        With a cache the next token is told from the last column; where padding stands there, it is computed. So it is
        where a hook reads what passes through the layers: hooks are written for (B, T, E).
        """
        if has_cache and not padded.ends_in_tokens:
            return padded
        window = self.config.sliding_window
        is_cut = window is not None and padded.shape[1] > 2 * max(window, SMALLEST_BLOCK)
        source_is_flat = source is not None and (isinstance(source, FlatLayout) or source.has_padding)
        if not (is_cut or source_is_flat or padded.has_padding):
            return PaddedLayout(padded.shape, None, padded.device)
        return padded if has_hooks() else FlatLayout.from_padded(padded)

    def records_states(self, kwargs: dict[str, Any]) -> bool:
        """Whether weights or states of every layer are asked for, which have the padded form."""
        return bool(
            kwargs.get("output_attentions", self.config.output_attentions)
            or kwargs.get("output_hidden_states", self.config.output_hidden_states)
        )

    @staticmethod
    def given_layout(
        shape: tuple[int, int], position_ids: torch.Tensor | None, kwargs: dict[str, Any]
    ) -> FlatLayout | None:
        """The layout of a batch that the caller has flattened, or None for another."""
        lengths = {name: kwargs.pop(name, None) for name in LENGTHS}
        if lengths["cu_seq_lens_q"] is not None:
            return FlatLayout.from_cu_seq_lens(lengths["cu_seq_lens_q"], lengths["max_length_q"], shape)
        if position_ids is not None and tuple(position_ids.shape) == shape and shape[1] > 1:
            layout = FlatLayout.from_position_ids(position_ids)
            return layout if layout.num_sequences > shape[0] else None
        return None

    @property
    def is_causal(self) -> bool:
        """Whether a token sees only itself and those before it."""
        return self.layer_class.role == "masked self"

    def check_causality(self, kwargs: dict[str, Any]) -> None:
        """Take out `is_causal`, or read the config's. Raises ValueError where it is not this stack's."""
        is_causal = kwargs.pop("is_causal", getattr(self.config, "is_causal", None))
        if is_causal is not None and is_causal != self.is_causal:
            raise ValueError(f"is_causal={is_causal}, but that of {type(self).__name__} is {self.is_causal}")

    def check_past(self, shape: tuple[int, int], mask: torch.Tensor | None, seen: int | torch.Tensor | None) -> None:
        """Raises ValueError for a mask that does not reach the tokens given, or a sequence too long with its past."""
        # A static cache counts in a tensor; and where padding is on the left there may be fewer real tokens.
        length = seen + shape[1] if isinstance(seen, int) else 0
        if mask is not None and (mask.shape[0] != shape[0] or mask.shape[1] < max(length, shape[1])):
            raise ValueError(f"attention_mask has shape {tuple(mask.shape)}, the input {shape} after {seen} tokens")
        if length > self.config.max_position_embeddings and self.config.position_type == "learned":
            self.check_length(length if mask is None else int(mask.sum(-1).max()))

    def check_length(self, length: int) -> None:
        """Raises ValueError for a sequence longer than the learned positions reach."""
        if self.config.position_type == "learned" and length > self.config.max_position_embeddings:
            raise ValueError(
                f"a sequence has {length} tokens, more than max_position_embeddings="
                f"{self.config.max_position_embeddings} learned positions"
            )

    @staticmethod
    def positions(layout: Layout, position_ids: torch.Tensor | None) -> torch.Tensor:
        """Positions in the layout's form, (B or 1, T): those given, or counted after the tokens of a cache."""
        return layout.position_ids() if position_ids is None else layout.unpad(position_ids)

    def embed(
        self,
        layout: Layout,
        input_ids: torch.Tensor | None,
        inputs_embeds: torch.Tensor | None,
        token_type_ids: torch.Tensor | None,
        position_ids: torch.Tensor,
    ) -> torch.Tensor:
        """What the first block reads, in the layout's form: tokens, their kinds and their places."""
        embeds = self.embed_ids(layout, input_ids) if inputs_embeds is None else layout.unpad(inputs_embeds)
        assert embeds is not None
        if self.config.scale_embeddings:
            embeds = embeds * self.config.hidden_size**0.5
        if self.embed_token_types is not None:
            kinds = torch.zeros_like(embeds[..., 0], dtype=torch.long)
            embeds = embeds + self.embed_token_types(kinds if token_type_ids is None else layout.unpad(token_type_ids))
        return self.dropout(self.embedding_norm(self.embed_positions(embeds, position_ids)))

    def embed_ids(self, layout: Layout, input_ids: torch.Tensor | None) -> torch.Tensor | None:
        """Embeddings of tokens (B, T), in the layout's form.

        A hook on the embedding sees (B, T) and (B, T, E). It leaves the layers flat: NEFTune is for training.
        """
        if isinstance(layout, FlatLayout) and layout.is_rows and is_hooked(self.embed_tokens):
            return layout.unpad(self.embed_tokens(input_ids))
        return self.embed_tokens(layout.unpad(input_ids))

    def patterns(
        self,
        layout: Layout,
        attention_mask: Any,
        embeds: torch.Tensor,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> dict[str, Pattern]:
        """What each type of layer may see, made once for all layers."""
        types = set(self.config.layer_types)
        if isinstance(layout, FlatLayout):
            if self.takes_lengths(embeds):
                return dict.fromkeys(types, VarlenPattern(layout, layout))
            windows = {"full_attention": None, "sliding_attention": self.config.sliding_window}
            return {
                kind: self_pattern(
                    self.config,
                    layout,
                    embeds,
                    self.mask_functions[kind],
                    is_causal=self.is_causal,
                    window=windows[kind],
                )
                for kind in types
            }
        if isinstance(attention_mask, dict):
            return {kind: PaddedPattern(attention_mask[kind]) for kind in types}
        arguments = {
            "config": self.config,
            "inputs_embeds": embeds,
            "attention_mask": attention_mask if padding_of(attention_mask) is None else layout.mask,
            "past_key_values": past_key_values,
        }
        return {kind: PaddedPattern(self.mask_functions[kind](**arguments, **kwargs)) for kind in types}

    def takes_lengths(self, embeds: torch.Tensor) -> bool:
        """Whether the kernel is told the lengths of a flat batch; torch's own is, where it can take SDPA's place."""
        kernel = self.config._attn_implementation
        if kernel != "sdpa" or embeds.device.type != "cuda":
            return kernel in VARLEN_KERNELS
        drops = self.training and self.config.attention_dropout > 0
        is_half = dtype_of_products(embeds).itemsize == 2
        return is_half and not drops and self.config.head_dim % 8 == 0 and self.config.head_dim <= 256

    def rotations(
        self, embeds: torch.Tensor, position_ids: torch.Tensor
    ) -> dict[str, tuple[torch.Tensor, torch.Tensor] | None]:
        """Cosines and sines for the queries and keys of each type of layer; None where there is nothing to turn."""
        types = set(self.config.layer_types)
        # The kinds that grow ask for the last position, which a batch of nothing but padding does not have.
        if self.rotary_emb is None or position_ids.shape[1] == 0:
            return dict.fromkeys(types)
        # In the dtype of queries and keys, which under autocast is not that of the embeddings.
        states = embeds.new_empty(0, dtype=dtype_of_products(embeds))
        if isinstance(self.rotary_emb, nn.ModuleDict):
            return {kind: rotary_emb(states, position_ids) for kind, rotary_emb in self.rotary_emb.items()}
        return dict.fromkeys(types, self.rotary_emb(states, position_ids))

    def blocks(self) -> Iterator[tuple[str, Block]]:
        """Type and block of each layer that runs: as many as the config says now (early exit lowers it)."""
        types = self.config.layer_types or []
        # There may be fewer layers than types, too: the last ones may have been cut off.
        return islice(zip(types, self.layers, strict=False), self.config.num_hidden_layers)

    def leave(
        self, hidden_states: torch.Tensor, layout: Layout, repad: bool, past_key_values: Cache | None = None
    ) -> StackOutput:
        """What goes out: in the caller's form, or as it is with its layout."""
        if repad:
            return StackOutput(last_hidden_state=layout.repad(hidden_states), past_key_values=past_key_values)
        return StackOutput(last_hidden_state=hidden_states, past_key_values=past_key_values, layout=layout)


def the_one_given(input_ids: torch.Tensor | None, inputs_embeds: torch.Tensor | None) -> torch.Tensor:
    """Raises ValueError where both are given, or neither, or without rows."""
    given = inputs_embeds if input_ids is None else input_ids
    if given is None or (input_ids is not None and inputs_embeds is not None):
        raise ValueError("give exactly one of input_ids and inputs_embeds")
    if given.dim() != (2 if inputs_embeds is None else 3):
        raise ValueError(f"input_ids are (B, T) and inputs_embeds (B, T, E), got {tuple(given.shape)}")
    return given


def dtype_of_products(states: torch.Tensor) -> torch.dtype:
    """What comes out when such states are multiplied by a matrix: their own dtype, or autocast's."""
    device = states.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else states.dtype
