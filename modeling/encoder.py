"""The encoder family: the stack in which every token attends to every token, and its heads."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedTokenizerBase
from transformers import initialization as init
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
from .attention import Attention, has_known_kernel
from .base import BlendPreTrainedModel, Stack, StackOutput
from .heads import ForSequenceClassification, ForTokenClassification, build_lm_hidden, scale, select_fields
from .hooks import is_hooked
from .layers import EncoderLayer
from .losses import IGNORE, token_loss
from .packing import Layout, is_traced


class BlendEncoderPreTrainedModel(BlendPreTrainedModel):
    """Base class of the encoder models: what transformers needs to know about them."""

    config: BlendEncoderConfig
    config_class = BlendEncoderConfig
    _no_split_modules = ["EncoderLayer"]
    _can_record_outputs = {
        "hidden_states": EncoderLayer,
        "attentions": OutputRecorder(Attention, index=1, layer_name="self_attn"),
    }

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, AffixEmbedding):
            init.zeros_(module.letters)
            init.zeros_(module.begins_word)


class AffixEmbedding(nn.Embedding):
    """Embeddings of tokens, with those of the affixes of their words added.

    Affixes are the first 1, 2, 3 and 4 letters of a word, and the last ones. For each of these eight kinds a hash of
    the letters chooses one of `affix_buckets` embeddings, so a word that is not in the training data shares some with
    words that are (as the character n-grams of Bojanowski et al. 2017 do). The words are found from the tokens:
    `read_vocabulary` stores the letters of each token, and whether it begins a word.

    Args:
        num_embeddings: number of tokens.
        embedding_dim: E.
        buckets: number of embeddings of each kind of affix.
        padding_idx: as in nn.Embedding.
    """

    letters: torch.Tensor
    begins_word: torch.Tensor

    # The most letters of an affix.
    LETTERS = 4
    # Of the hash: a polynomial over the letters.
    FACTOR, PRIME = 1_000_003, 2**31 - 1

    def __init__(self, num_embeddings: int, embedding_dim: int, buckets: int, padding_idx: int | None = None):
        super().__init__(num_embeddings, embedding_dim, padding_idx=padding_idx)
        self.buckets = buckets
        self.affixes = nn.Embedding(2 * self.LETTERS * buckets, embedding_dim)
        # Code points of the first letters of each token, and of the last ones in reverse; 0 where it has fewer.
        self.register_buffer("letters", torch.zeros(2, num_embeddings, self.LETTERS, dtype=torch.int32))
        self.register_buffer("begins_word", torch.zeros(num_embeddings, dtype=torch.bool))
        self.is_ready = False

    def read_vocabulary(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Store the letters of the tokens.

        Args:
            tokenizer: WordPiece, as BERT's: its tokens inside words begin with ##. Special tokens have no letters.

        Raises:
            ValueError: it marks them in another way, or has more tokens than there are embeddings.
        """
        tokens, inside = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer)))), "##"
        model = getattr(getattr(tokenizer, "backend_tokenizer", None), "model", None)
        if getattr(model, "continuing_subword_prefix", None) != inside:
            raise ValueError(
                f"affix_buckets needs a WordPiece tokenizer, whose tokens inside words begin with {inside}"
            )
        if len(tokens) > self.num_embeddings:
            raise ValueError(f"the tokenizer has {len(tokens)} tokens, the model {self.num_embeddings} embeddings")
        special = set(tokenizer.all_special_ids)
        letters = torch.zeros(2, self.num_embeddings, self.LETTERS, dtype=self.letters.dtype)
        begins_word = torch.ones(self.num_embeddings, dtype=torch.bool)
        for index, token in enumerate(tokens):
            if index in special:
                continue
            begins_word[index] = not token.startswith(inside)
            codes = [ord(letter) for letter in token.removeprefix(inside)]
            for side, found in enumerate((codes[: self.LETTERS], codes[: -self.LETTERS - 1 : -1])):
                letters[side, index, : len(found)] = torch.tensor(found)
        device = self.letters.device
        self.letters, self.begins_word, self.is_ready = letters.to(device), begins_word.to(device), True

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        """As nn.Module. After a resize of the vocabulary the buffers are saved in its new size.

        Replaces `destination[prefix + name] = buf` of nn.Module for the two buffers.
        """
        super()._save_to_state_dict(destination, prefix, keep_vars)
        more = self.num_embeddings - len(self.begins_word)
        if more:
            destination[f"{prefix}letters"] = functional.pad(self.letters, (0, 0, 0, more))
            destination[f"{prefix}begins_word"] = functional.pad(self.begins_word, (0, more), value=True)

    def forward(self, input_ids: torch.Tensor, is_first: torch.Tensor | None = None) -> torch.Tensor:
        """Embeddings (B, T, E) of tokens (B, T).

        Args:
            input_ids: (B, T).
            is_first: whether a sequence begins with this token, (B or 1, T); None: each row is a sequence.

        Raises:
            ValueError: `read_vocabulary` was not called.
            IndexError: the vocabulary has been resized since then, and this is one of the new tokens.
        """
        if not self.is_ready and not is_traced():
            # All is 0 where neither read_vocabulary nor a checkpoint has set it.
            self.is_ready = bool(self.begins_word.any())
            if not self.is_ready:
                raise ValueError(
                    "affix_buckets: the letters of the tokens are unknown; first call "
                    "model.get_input_embeddings().read_vocabulary(tokenizer)"
                )
        if is_first is None:
            is_first = torch.arange(input_ids.shape[-1], device=input_ids.device)[None] == 0
        affix_ids = self.affix_ids(input_ids, self.begins_word[input_ids] | is_first)
        return super().forward(input_ids) + self.affixes(affix_ids).sum(-2)

    def affix_ids(self, input_ids: torch.Tensor, begins_word: torch.Tensor) -> torch.Tensor:
        """The rows of `affixes`, (B, T, 8), for tokens and whether they begin a word, (B, T) each."""
        first, last = word_ends(begins_word)
        steps = torch.arange(self.LETTERS, device=input_ids.device)
        ids: list[torch.Tensor] = []
        for letters, places in zip(self.letters, (first[..., None] + steps, last[..., None] - steps), strict=True):
            # A token inside a word has a letter, so as many tokens as letters are enough.
            is_inside = (places >= first[..., None]) & (places <= last[..., None])
            nearest = places.clamp(0, input_ids.shape[-1] - 1).flatten(-2)
            tokens = input_ids.gather(-1, nearest).view_as(places)
            found = (letters[tokens] * is_inside[..., None]).flatten(-2).long()
            number = (found != 0).cumsum(-1)
            code = torch.zeros_like(input_ids)
            for count in range(1, self.LETTERS + 1):
                letter = (found * (number == count)).sum(-1)
                code = (code * self.FACTOR + letter) % self.PRIME
                # Bucket 0 if the word has fewer letters.
                ids.append(len(ids) * self.buckets + torch.where(letter == 0, 0, code % self.buckets))
        return torch.stack(ids, -1)


def word_ends(begins_word: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The places of the first and of the last token of each token's word, (B, T) each, from whether it begins one."""
    length = begins_word.shape[-1]
    places = torch.arange(length, device=begins_word.device).expand_as(begins_word)
    word = begins_word.cumsum(-1) - 1
    # Tokens that begin no word write into the last column, which is read only if there are none.
    starts = torch.full((*begins_word.shape[:-1], length + 1), length, device=begins_word.device)
    starts = starts.scatter(-1, torch.where(begins_word, word, length), places)
    return starts.gather(-1, word), starts.gather(-1, word + 1) - 1


class BlendEncoderModel(BlendEncoderPreTrainedModel, Stack):
    """An encoder without a head."""

    layer_class = EncoderLayer
    mask_functions = {
        "full_attention": create_bidirectional_mask,
        "sliding_attention": create_bidirectional_sliding_window_mask,
    }

    def build_embedding(self, config: BlendEncoderConfig) -> nn.Embedding:
        """The embedding of tokens, with affixes if the config has them."""
        if config.affix_buckets is None:
            return super().build_embedding(config)
        padding = config.pad_token_id if config.freeze_pad_embedding else None
        return AffixEmbedding(config.vocab_size, config.embedding_width, config.affix_buckets, padding)

    def embed_ids(self, layout: Layout, input_ids: torch.Tensor | None) -> torch.Tensor | None:
        """As Stack.embed_ids; affixes are of words of the same sequence."""
        if not isinstance(self.embed_tokens, AffixEmbedding) or (is_hooked(self.embed_tokens) and layout.is_rows):
            return super().embed_ids(layout, input_ids)
        return self.embed_tokens(layout.unpad(input_ids), layout.is_first())

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
            last_hidden_state (B, T, E), where the values of padding have no meaning; hidden_states and attentions if
            requested.

        Raises:
            ValueError: see Stack.choose_layout.
        """
        layout = self.choose_layout(input_ids, inputs_embeds, attention_mask, position_ids, kwargs)
        positions = self.positions(layout, position_ids)
        hidden_states = self.embed(layout, input_ids, inputs_embeds, token_type_ids, positions)
        patterns = self.patterns(
            layout,
            attention_mask,
            hidden_states,
            **packed_mask_arguments(self.config, layout, attention_mask, position_ids),
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


def packed_mask_arguments(
    config: BlendEncoderConfig, layout: Layout, attention_mask: Any, position_ids: torch.Tensor | None
) -> dict[str, Any]:
    """Extra arguments of the mask functions for packed sequences while compiling, or with a kernel of the user.

    Then Stack.choose_layout does not read from position_ids whether sequences are packed. The causal mask
    functions of the decoder (create_causal_mask, create_sliding_window_causal_mask) need no extra arguments.
    """
    is_in_layout = not torch.compiler.is_compiling() and has_known_kernel(config)
    if attention_mask is not None or position_ids is None or is_in_layout:
        return {}
    position_ids = position_ids.expand(layout.shape)
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
        if labels is not None:
            labels = layout.fill_padding(labels, IGNORE)
            if sparse:
                is_masked = labels != IGNORE
                hidden_states, labels = hidden_states[is_masked], labels[is_masked]
        logits = self.lm_head(scale(self.head(hidden_states), self.config.logit_scaling))
        loss = None
        if labels is not None:
            loss = token_loss(logits, labels.to(logits.device), self.config, self.training, num_items_in_batch)
        # With a device_map, the head may be on another device than the last layer.
        logits = logits if sparse else layout.to(logits.device).repad(logits)
        return MaskedLMOutput(loss=loss, logits=logits, **select_fields(outputs, MaskedLMOutput))


class BlendEncoderForSequenceClassification(ForSequenceClassification, BlendEncoderPreTrainedModel):
    """N21 on the encoder: attention blends the whole sequence into [CLS]; classify its vector."""

    model_class = BlendEncoderModel


class BlendEncoderForTokenClassification(ForTokenClassification, BlendEncoderPreTrainedModel):
    """N2N on the encoder: each token is classified from the whole sequence."""

    model_class = BlendEncoderModel
