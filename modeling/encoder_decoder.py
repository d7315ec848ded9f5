"""The encoder-decoder family: a decoder that also blends in an encoder's output, and its heads."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.cache_utils import Cache
from transformers.modeling_outputs import (
    BaseModelOutput,
    Seq2SeqLMOutput,
    Seq2SeqModelOutput,
    Seq2SeqSequenceClassifierOutput,
)
from transformers.processing_utils import Unpack
from transformers.utils.generic import TransformersKwargs, can_return_tuple, merge_with_config_defaults

from ..configuration.encoder_decoder import BlendEncoderDecoderConfig
from .base import BlendPreTrainedModel
from .cache import CACHE_NAME, BlendGenerationMixin, accept_past_key_values, no_cache_in_training
from .decoder import BlendDecoderModel
from .encoder import BlendEncoderModel
from .heads import ForSequenceClassification, ForTokenClassification, compute_logits, select_fields
from .losses import IGNORE, token_loss
from .packing import as_padding_mask

STATE_OUTPUTS = ("output_attentions", "output_hidden_states")


@dataclass
class EncoderDecoderOutput(Seq2SeqModelOutput):
    """Output of both stacks. If `layout` is set, last_hidden_state has the form of that layout (repad=False)."""

    layout: Any = None


class BlendEncoderDecoderPreTrainedModel(BlendPreTrainedModel):
    """Base class of the encoder-decoder models: what transformers needs to know about them."""

    config: BlendEncoderDecoderConfig
    config_class = BlendEncoderDecoderConfig
    _no_split_modules = ["EncoderLayer", "DecoderLayer"]

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None, mean_resizing: bool = True
    ) -> nn.Embedding:
        """As PreTrainedModel.resize_token_embeddings, but resizes the decoder's embedding, too.

        Raises:
            ValueError: encoder and decoder have separate vocabularies.
        """
        if not self.config.share_encoder_decoder_embeddings:
            raise ValueError(
                "share_encoder_decoder_embeddings=False: there are two vocabularies. That of the encoder can be "
                "resized by get_encoder(); the decoder and the head have to be built with theirs"
            )
        embeddings = super().resize_token_embeddings(new_num_tokens, pad_to_multiple_of, mean_resizing)
        decoder, size = self.get_decoder(), embeddings.weight.shape[0]
        decoder.resize_token_embeddings(size, mean_resizing=mean_resizing)
        decoder.embed_tokens.num_embeddings = size  # if tied, it already has the new weight
        self.config.encoder.vocab_size = size
        return embeddings


class BlendEncoderDecoderModel(BlendEncoderDecoderPreTrainedModel):
    """An encoder and a decoder that reads its output, without a head."""

    def __init__(self, config: BlendEncoderDecoderConfig):
        super().__init__(config)
        self.encoder = BlendEncoderModel(config.encoder)
        self.decoder = BlendDecoderModel(config.decoder)
        self.encoder.is_in_encoder_decoder = self.decoder.is_in_encoder_decoder = True
        if config.share_encoder_decoder_embeddings:
            self._tied_weights_keys = {"decoder.embed_tokens.weight": "encoder.embed_tokens.weight"}
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.encoder.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.encoder.set_input_embeddings(value)
        if self.config.share_encoder_decoder_embeddings and self.config.tie_word_embeddings:
            self.decoder.embed_tokens.weight = value.weight
            self.decoder.embed_tokens.num_embeddings = value.num_embeddings

    @accept_past_key_values
    @no_cache_in_training
    @merge_with_config_defaults
    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        decoder_input_ids: torch.Tensor | None = None,
        decoder_attention_mask: torch.Tensor | None = None,
        encoder_outputs: BaseModelOutput | tuple[Any, ...] | None = None,
        cache: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        decoder_inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        decoder_position_ids: torch.Tensor | None = None,
        repad: bool = True,
        shift_source: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> EncoderDecoderOutput:
        """Blend the source into itself, then the target into itself and the source into the target.

        Args:
            input_ids: source tokens (B, S).
            attention_mask: mask of the source (B, S), as in BlendEncoderModel.forward.
            decoder_input_ids: target tokens (B, T). None: the decoder reads the source.
            decoder_attention_mask: mask of the target.
            encoder_outputs: output of an earlier call of the encoder, instead of the source.
            cache: keys and values of the target tokens before the input, and of the source.
            inputs_embeds: (B, S, E), instead of input_ids.
            decoder_inputs_embeds: (B, T, E), instead of decoder_input_ids.
            use_cache: as in BlendDecoderModel.forward.
            token_type_ids: segments of the source tokens, as in BlendEncoderModel.forward.
            position_ids: positions of the source tokens, as in BlendEncoderModel.forward.
            decoder_position_ids: positions of the target tokens.
            repad: return (B, T, E). The heads pass False and get the layout and a state in its form.
            shift_source: whether a decoder without inputs of its own reads the source shifted right; None:
                config.shift_source.
            kwargs: as in BlendDecoderModel.forward. In a flattened batch, `cu_seq_lens_q` has the target sequences
                and `cu_seq_lens_k` the source sequences.

        Returns:
            last_hidden_state (B, T, E) of the decoder, the cache, encoder_last_hidden_state (B, S, E); hidden
            states and attentions if requested.

        Raises:
            ValueError: see Stack.choose_layout; the decoder would read source tokens that are not in its vocabulary;
                while compiling, decoder_position_ids without a mask or lengths.
        """
        # The parts have their own configs, which do not contain the output flags of this one.
        requested = {name: True for name in STATE_OUTPUTS if getattr(self.config, name)}
        kwargs = {"has_hooks": self.has_hooks, **requested, **kwargs}
        asks = kwargs.get("output_attentions", self.config.output_attentions)
        if asks and not (self.config.encoder.has_attention or self.config.decoder.has_attention):
            raise ValueError("output_attentions: neither the encoder nor the decoder has attention")
        encoded: Any = BaseModelOutput(*encoder_outputs) if isinstance(encoder_outputs, tuple) else encoder_outputs
        if encoded is None:
            encoded = self.encoder(
                input_ids=input_ids,
                attention_mask=attention_mask,
                token_type_ids=token_type_ids,
                position_ids=position_ids,
                inputs_embeds=inputs_embeds,
                repad=False,
                return_dict=True,
                **encoder_kwargs(kwargs),
            )
        if decoder_input_ids is None and decoder_inputs_embeds is None:
            if input_ids is not None and self.config.encoder.vocab_size > self.config.decoder.vocab_size:
                raise ValueError("the source has another vocabulary than the decoder: give decoder_input_ids")
            decoder_input_ids, decoder_inputs_embeds = input_ids, inputs_embeds
            decoder_attention_mask, decoder_position_ids = attention_mask, position_ids
            if self.config.shift_source if shift_source is None else shift_source:
                decoder_input_ids = self.shifted_source_ids(input_ids, attention_mask, position_ids, kwargs)
        if cache is None and "cu_seq_lens_q" not in kwargs:
            check_packed_positions(decoder_attention_mask, decoder_position_ids)
        source_layout = encoded.get("layout")
        outputs = self.decoder(
            input_ids=decoder_input_ids,
            attention_mask=decoder_attention_mask,
            position_ids=decoder_position_ids,
            cache=cache,
            inputs_embeds=decoder_inputs_embeds,
            use_cache=use_cache,
            encoder_hidden_states=encoded.last_hidden_state,
            encoder_attention_mask=attention_mask,
            encoder_layout=source_layout,
            repad=repad,
            return_dict=True,
            **kwargs,
        )
        states = encoded.last_hidden_state
        return EncoderDecoderOutput(
            last_hidden_state=outputs.last_hidden_state,
            **{CACHE_NAME: outputs.get(CACHE_NAME)},
            decoder_hidden_states=outputs.hidden_states,
            decoder_attentions=outputs.attentions,
            cross_attentions=outputs.cross_attentions,
            encoder_last_hidden_state=states if source_layout is None else source_layout.repad(states),
            encoder_hidden_states=encoded.hidden_states,
            encoder_attentions=encoded.attentions,
            layout=outputs.layout,
        )

    def shifted_source_ids(
        self, input_ids: torch.Tensor | None, attention_mask: Any, position_ids: Any, kwargs: dict[str, Any]
    ) -> torch.Tensor:
        """The source tokens shifted right (B, S): input of the decoder for shift_source=True.

        Raises:
            ValueError: there are no input_ids, or a row may hold several sequences.
        """
        if input_ids is None or position_ids is not None or "cu_seq_lens_q" in kwargs:
            raise ValueError("shift_source=True reads padded input_ids: give decoder_input_ids")
        mask = as_padding_mask(attention_mask)
        return shift_right(self.config, input_ids, torch.ones_like(input_ids) if mask is None else mask)


def shift_right(config: BlendEncoderDecoderConfig, tokens: torch.Tensor, is_real: torch.Tensor) -> torch.Tensor:
    """Shift tokens (B, T) right by one, from targets to decoder inputs.

    Args:
        config: its `shift_start` decides which token is put before the first real token.
        tokens: (B, T); the values at positions that are not real do not matter.
        is_real: (B, T), True for real tokens.

    Raises:
        ValueError: decoder_start_token_id is needed and is None.
    """
    is_real = is_real.int()
    first = is_real.argmax(-1, keepdim=True)
    if config.shift_start == "last_token":
        start = tokens.gather(-1, tokens.shape[-1] - 1 - is_real.flip(-1).argmax(-1, keepdim=True))
    elif config.decoder_start_token_id is None:
        raise ValueError("decoder_start_token_id is None: the decoder needs a start token")
    else:
        start = torch.full_like(first, config.decoder_start_token_id, dtype=tokens.dtype)
    return tokens.roll(1, dims=-1).scatter(-1, first, start)


def check_packed_positions(attention_mask: Any, position_ids: torch.Tensor | None) -> None:
    """Raises ValueError while compiling if only position_ids may separate the sequences of the target.

    The compiled model cannot read them, and cross-attention would mix the sources of packed targets.
    """
    if torch.compiler.is_compiling() and attention_mask is None and position_ids is not None:
        raise ValueError(
            "a compiled model cannot read from decoder_position_ids whether they restart: give masks or lengths"
        )


def encoder_kwargs(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Keyword arguments for the encoder: the key lengths of cross-attention are the query lengths of the encoder."""
    result = {name: value for name, value in kwargs.items() if not name.startswith(("cu_seq_lens_", "max_length_"))}
    for name in ("cu_seq_lens", "max_length"):
        if f"{name}_k" in kwargs:
            result[f"{name}_q"] = kwargs[f"{name}_k"]
    return result


class BlendEncoderDecoderForSeq2SeqLM(BlendEncoderDecoderPreTrainedModel, BlendGenerationMixin):
    """N2M: predicts the next target token from the source and the target so far."""

    _tp_plan = {"lm_head": "colwise_gather_output"}
    _fsdp_plan = {"lm_head": "keep_full_weight"}

    def __init__(self, config: BlendEncoderDecoderConfig):
        super().__init__(config)
        self.model = BlendEncoderDecoderModel(config)
        decoder = config.decoder
        self.lm_head = nn.Linear(decoder.hidden_size, decoder.vocab_size, bias=decoder.lm_head_bias)
        if config.tie_lm_head:
            owner = "encoder" if config.share_encoder_decoder_embeddings else "decoder"
            self._tied_weights_keys = {"lm_head.weight": f"model.{owner}.embed_tokens.weight"}
        # The Trainer counts the targets by loss_type. PreTrainedModel.__init__ sets one that shifts the labels; this
        # model does not shift them.
        self.loss_type = "ForMaskedLM"
        self.post_init()

    @accept_past_key_values
    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        decoder_input_ids: torch.Tensor | None = None,
        decoder_attention_mask: torch.Tensor | None = None,
        encoder_outputs: BaseModelOutput | tuple[Any, ...] | None = None,
        cache: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        decoder_inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        decoder_position_ids: torch.Tensor | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> Seq2SeqLMOutput:
        """Logits (B, T, V); labels (B, T) are the target tokens, unshifted, with -100 for padding.

        Without decoder inputs, the decoder reads the labels shifted right by one. Positions after the last label are
        not computed. logits_to_keep is the number of last positions to project (0: all), or their indices.
        """
        if labels is not None:
            use_cache = False
            is_flat = decoder_position_ids is not None or "cu_seq_lens_q" in kwargs or "cu_seq_lens_k" in kwargs
            if decoder_input_ids is None and decoder_inputs_embeds is None:
                if is_flat:
                    raise ValueError(
                        "a flattened batch needs decoder_input_ids: labels do not show where sequences start"
                    )
                decoder_input_ids = self.prepare_decoder_input_ids_from_labels(labels)
            # With cached tokens the default mask would have the wrong length; all positions are computed.
            if decoder_attention_mask is None and cache is None and not is_flat:
                decoder_attention_mask = mask_up_to_last(labels != IGNORE)
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            decoder_input_ids=decoder_input_ids,
            decoder_attention_mask=decoder_attention_mask,
            decoder_position_ids=decoder_position_ids,
            encoder_outputs=encoder_outputs,
            cache=cache,
            inputs_embeds=inputs_embeds,
            decoder_inputs_embeds=decoder_inputs_embeds,
            use_cache=use_cache,
            repad=False,
            has_hooks=self.has_hooks,
            return_dict=True,
            **kwargs,
        )
        logits, layout = compute_logits(
            self.lm_head, self.config.decoder.logit_scaling, outputs, logits_to_keep, labels
        )
        loss = None
        if labels is not None:
            targets = layout.fill_padding(labels, IGNORE)
            loss = token_loss(logits, targets, self.config, self.training, num_items_in_batch)
        return Seq2SeqLMOutput(loss=loss, logits=layout.repad(logits), **select_fields(outputs, Seq2SeqLMOutput))

    def prepare_decoder_input_ids_from_labels(self, labels: torch.Tensor) -> torch.Tensor:
        """Decoder inputs for `labels` (B, T): the start token, then all labels but the last."""
        padding = 0 if self.config.pad_token_id is None else self.config.pad_token_id
        is_real = labels != IGNORE
        # A target starts in the first column, even if that label is ignored.
        is_real[:, 0] = True
        return shift_right(self.config, labels.masked_fill(labels == IGNORE, padding), is_real)


def mask_up_to_last(is_label: torch.Tensor) -> torch.Tensor:
    """Mask (B, T) of the positions up to the last True of each row of is_label (B, T)."""
    return is_label.flip(-1).cumsum(-1).flip(-1) > 0


class BlendEncoderDecoderForSequenceClassification(ForSequenceClassification, BlendEncoderDecoderPreTrainedModel):
    """N21 on the encoder-decoder: the decoder reads the source, too; classify its last real output."""

    model_class = BlendEncoderDecoderModel
    output_class = Seq2SeqSequenceClassifierOutput


class BlendEncoderDecoderForTokenClassification(ForTokenClassification, BlendEncoderDecoderPreTrainedModel):
    """N2N on the encoder-decoder: the decoder reads the source, too, unshifted; its output t classifies token t."""

    model_class = BlendEncoderDecoderModel
    model_kwargs = {"shift_source": False}
    output_class = Seq2SeqSequenceClassifierOutput
