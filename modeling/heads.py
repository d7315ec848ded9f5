"""The parts of heads, and the two classification heads, which are the same for all three architectures."""

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as torch_module
from transformers.activations import ACT2FN
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_outputs import (
    ModelOutput,
    Seq2SeqSequenceClassifierOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)
from transformers.modeling_utils import PreTrainedModel
from transformers.processing_utils import Unpack
from transformers.utils.generic import TransformersKwargs, can_return_tuple

from .losses import IGNORE, class_loss, sequence_loss
from .normalization import Dropout, build_norm
from .packing import Layout, PaddedLayout, is_traced

# How many tokens are projected as columns; for more, transposing the logits costs more than it saves.
COLUMNS, COLUMNS_ON_AMD = range(8, 33), range(1, 129)
# Rows of the vocabulary matrix per product: the result is transposed while it is in the processor's cache.
VOCABULARY_CHUNK = 4096


class HiddenLayer(nn.Module):
    """The hidden layer of a head: linear, activation, norm (Devlin et al. 2019, in their code).

    Args:
        config: configuration with the hidden size and the norm.
        hidden_act: name of the activation function.
        bias: whether the linear layer has a bias.
        has_norm: whether a norm follows the activation.
        size: number of its outputs; None: the hidden size.
    """

    def __init__(self, config: PreTrainedConfig, hidden_act: str, bias: bool, has_norm: bool, size: int | None = None):
        super().__init__()
        size = config.hidden_size if size is None else size
        self.dense = nn.Linear(config.hidden_size, size, bias=bias)
        self.act_fn = ACT2FN[hidden_act]
        self.norm = build_norm(config, size) if has_norm else nn.Identity()

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """hidden_states (..., E) give (..., size)."""
        return self.norm(self.act_fn(self.dense(hidden_states)))


def build_classifier_hidden(config: PreTrainedConfig) -> nn.Module:
    """The hidden layer of a classifier; nn.Identity where the config has none."""
    if config.classifier_hidden_act is None:
        return nn.Identity()
    # In an encoder-decoder, the classified states come from the decoder.
    part = getattr(config, "decoder", config)
    return HiddenLayer(
        part, config.classifier_hidden_act, config.classifier_hidden_bias, config.classifier_hidden_norm
    )


def project(lm_head: nn.Module, hidden_states: torch.Tensor) -> torch.Tensor:
    """Project tokens onto the vocabulary, (..., E) to (..., V).

    On a CPU, some tokens are projected as columns instead of rows: this product of a tall matrix is up to 2 times as
    fast, on AMD's processors up to 5 times (docs/performance.md). lm_head stays a plain nn.Linear, because some
    libraries replace layers by exact type.
    """
    rows = hidden_states.reshape(-1, hidden_states.shape[-1])
    use_plain_matmul = is_plain_linear(lm_head) and rows.dtype == torch.float32 and rows.device.type == "cpu"
    if is_traced() or torch.is_grad_enabled() or not use_plain_matmul or len(rows) not in columns_range():
        return lm_head(hidden_states)
    # A single column would be a matrix-vector product, which runs in one thread.
    columns = (rows if len(rows) > 1 else rows.repeat(2, 1)).t()
    chunks = [(part @ columns)[:, : len(rows)].t() for part in lm_head.weight.split(VOCABULARY_CHUNK)]
    projected = torch.cat(chunks, dim=-1).view(*hidden_states.shape[:-1], -1)
    return projected if lm_head.bias is None else projected.add_(lm_head.bias)


def scale(states: torch.Tensor, scaling: float) -> torch.Tensor:
    """The states multiplied by a factor; themselves if it is 1."""
    return states if scaling == 1 else states * scaling


@cache
def columns_range() -> range:
    """How many tokens are projected as columns on this processor. MKL is slow for a few rows on AMD's."""
    info = Path("/proc/cpuinfo")
    return COLUMNS_ON_AMD if info.exists() and "AuthenticAMD" in info.read_text() else COLUMNS


def is_plain_linear(lm_head: nn.Module) -> bool:
    """Whether lm_head is an nn.Linear in float32 that is not quantized, adapted, offloaded or hooked."""
    if type(lm_head) is not nn.Linear or type(lm_head.weight) is not nn.Parameter:
        return False
    own_hooks = (lm_head._forward_hooks, lm_head._forward_pre_hooks)
    global_hooks = (torch_module._global_forward_hooks, torch_module._global_forward_pre_hooks)
    # accelerate replaces the forward method of the instance.
    is_replaced = any(own_hooks) or any(global_hooks) or "forward" in vars(lm_head)
    return lm_head.weight.dtype == torch.float32 and not is_replaced


def build_lm_hidden(config: PreTrainedConfig) -> nn.Module:
    """The hidden layer of a masked language model's head; nn.Identity where the config has none."""
    if not config.lm_head_hidden:
        return nn.Identity()
    return HiddenLayer(config, config.hidden_act, config.lm_head_hidden_bias, True, config.embedding_width)


def pool(
    hidden_states: torch.Tensor,
    layout: Layout,
    pooling: str,
    head: nn.Module,
    is_end: torch.Tensor | None = None,
) -> torch.Tensor:
    """Pool the hidden states to one vector per sequence, and apply the classifier's hidden layer: (B, E).

    Args:
        hidden_states: in the layout's form.
        layout: layout of the batch.
        pooling: the config's `pooling`.
        head: the hidden layer.
        is_end: see `is_end_token`, in the layout's form; None: every token is one.
    """
    last_end = layout.last if is_end is None else partial(layout.last_marked, is_marked=is_end)
    poolings: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "cls": layout.first,
        "mean": layout.mean,
        "last": layout.last,
        "last_non_pad": last_end,
        "eos": last_end,
    }
    if pooling == "hidden_mean":
        return layout.mean(head(hidden_states))
    return head(poolings[pooling](hidden_states))


def is_end_token(input_ids: torch.Tensor | None, config: PreTrainedConfig) -> torch.Tensor | None:
    """Mask of the tokens of which the last one is pooled, (B, T): for "eos" they are eos_token_id.

    For "last_non_pad" they are any but pad_token_id. None: the pooling needs no mask, or it is "last_non_pad" without
    pad_token_id or input_ids.

    Raises:
        ValueError: "eos" without input_ids.
    """
    if config.pooling == "last_non_pad" and input_ids is not None and config.pad_token_id is not None:
        return input_ids != config.pad_token_id
    if config.pooling != "eos":
        return None
    if input_ids is None:
        raise ValueError("pooling='eos' needs input_ids")
    ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    return torch.isin(input_ids, torch.tensor(ends, device=input_ids.device))


def select_tokens(hidden_states: torch.Tensor, logits_to_keep: int | torch.Tensor) -> torch.Tensor:
    """Select from hidden_states (B, T, E) the positions to project onto the vocabulary.

    `logits_to_keep` is the number of last positions (0: all), indices (n) or (B, n), or a boolean mask (B, T), which
    gives (number, E). Same as transformers' slice_logits_to_keep, which 5.16 does not have.
    """
    if isinstance(logits_to_keep, int):
        return hidden_states[:, -logits_to_keep:]
    if logits_to_keep.dim() == 1:
        return hidden_states[:, logits_to_keep]
    if logits_to_keep.dtype == torch.bool:
        return hidden_states[logits_to_keep]
    return hidden_states.take_along_dim(logits_to_keep[..., None], dim=1)


def compute_logits(
    lm_head: nn.Module,
    scaling: float,
    outputs: ModelOutput,
    logits_to_keep: int | torch.Tensor,
    labels: torch.Tensor | None,
) -> tuple[torch.Tensor, Layout]:
    """Logits of a base model's outputs, in the form of the layout that is returned with them.

    Args:
        lm_head: the projection onto the vocabulary.
        scaling: the config's logit_scaling.
        outputs: of the base model.
        logits_to_keep: see select_tokens.
        labels: of the loss, or None.

    Raises:
        ValueError: labels are given, and logits_to_keep selects some positions only.
    """
    layout, hidden_states = outputs.layout, scale(outputs.last_hidden_state, scaling)
    if isinstance(logits_to_keep, int) and logits_to_keep == 0:
        logits = project(lm_head, hidden_states)
        # With a device_map, the head may be on another device than the last layer.
        return logits, layout.to(logits.device)
    if labels is not None:
        raise ValueError("labels and logits_to_keep do not go together: every token has a label")
    logits = project(lm_head, select_tokens(layout.repad(hidden_states), logits_to_keep))
    return logits, PaddedLayout((logits.shape[0], logits.shape[-2]), None, logits.device)


def select_fields(outputs: ModelOutput, output_class: type[ModelOutput]) -> dict[str, Any]:
    """The outputs of a base model that are fields of `output_class`."""
    return {name: value for name, value in outputs.items() if name in output_class.__dataclass_fields__}


class ForSequenceClassification(PreTrainedModel):
    """N21: one vector per sequence, projected onto the labels. A subclass sets `model_class`."""

    model_class: type[PreTrainedModel]
    output_class: type[ModelOutput] = SequenceClassifierOutput

    def __init__(self, config: PreTrainedConfig):
        super().__init__(config)
        self.model = self.model_class(config)
        self.head = build_classifier_hidden(config)
        self.dropout = Dropout(config.classifier_dropout)
        self.score = nn.Linear(config.hidden_size, config.num_labels, bias=config.score_bias)
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
    ) -> SequenceClassifierOutput | Seq2SeqSequenceClassifierOutput:
        """Logits (B, num_labels), one row per sequence; inputs as in the base model, labels as in sequence_loss."""
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            return_dict=True,
            **{**kwargs, "use_cache": False, "repad": False, "has_hooks": self.has_hooks},
        )
        layout, is_end = outputs.layout, is_end_token(input_ids, self.config)
        if is_end is not None:
            if tuple(is_end.shape) != tuple(layout.shape):
                raise ValueError(
                    f"pooling={self.config.pooling!r} looks in input_ids {tuple(is_end.shape)}, and the decoder's "
                    f"inputs are {tuple(layout.shape)}"
                )
            is_end = layout.fill_padding(is_end, 0)
        pooled = pool(outputs.last_hidden_state, layout, self.config.pooling, self.head, is_end)
        logits = self.score(self.dropout(pooled))
        loss = None
        if labels is not None:
            loss = sequence_loss(logits, labels, self.config, self.training, num_items_in_batch)
        return self.output_class(loss=loss, logits=logits, **select_fields(outputs, self.output_class))


class ForTokenClassification(PreTrainedModel):
    """N2N: every output vector, projected onto the labels. A subclass sets `model_class`."""

    model_class: type[PreTrainedModel]
    # Extra arguments of the base model.
    model_kwargs: dict[str, Any] = {}
    output_class: type[ModelOutput] = TokenClassifierOutput

    def __init__(self, config: PreTrainedConfig):
        super().__init__(config)
        self.model = self.model_class(config)
        self.head = build_classifier_hidden(config) if config.token_classifier_hidden else nn.Identity()
        self.dropout = Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
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
    ) -> TokenClassifierOutput | Seq2SeqSequenceClassifierOutput:
        """Logits (B, T, num_labels); inputs as in the base model; labels (B, T), -100: ignored."""
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            return_dict=True,
            **{**kwargs, **self.model_kwargs, "use_cache": False, "repad": False, "has_hooks": self.has_hooks},
        )
        logits = self.classifier(self.dropout(self.head(outputs.last_hidden_state)))
        # With a device_map, the head may be on another device than the last layer.
        layout = outputs.layout.to(logits.device)
        loss = None
        if labels is not None:
            targets = layout.fill_padding(labels, IGNORE)
            loss = class_loss(logits, targets, self.config, self.training, num_items_in_batch)
        return self.output_class(loss=loss, logits=layout.repad(logits), **select_fields(outputs, self.output_class))
