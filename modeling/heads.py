"""The parts of heads, and the two heads that are alike on all three architectures."""

from collections.abc import Callable
from functools import partial
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

from .losses import class_loss, sequence_loss
from .normalization import build_norm
from .packing import Layout, PaddedLayout, is_traced

# So many tokens are projected as columns; for more, turning the logits costs what is gained.
FEW = 128
# Of the vocabulary so many at once: what is turned is still in the processor's cache.
PART = 4096


class HiddenLayer(nn.Module):
    """What a head does with a vector before projecting it (Devlin et al. 2019, in their code).

    Args:
        config: of the vectors.
        hidden_act: name of the activation.
        bias: of the matrix.
        has_norm: whether the activated features are normalized.
    """

    def __init__(self, config: PreTrainedConfig, hidden_act: str, bias: bool, has_norm: bool):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size, bias=bias)
        self.act_fn = ACT2FN[hidden_act]
        self.norm = build_norm(config) if has_norm else nn.Identity()

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """hidden_states (..., E) give (..., E)."""
        return self.norm(self.act_fn(self.dense(hidden_states)))


def build_classifier_hidden(config: PreTrainedConfig) -> nn.Module:
    """The hidden layer of a classifier; nn.Identity where the config has none."""
    if config.classifier_hidden_act is None:
        return nn.Identity()
    # Of an encoder-decoder, what is classified comes from the decoder.
    part = getattr(config, "decoder", config)
    return HiddenLayer(
        part, config.classifier_hidden_act, config.classifier_hidden_bias, config.classifier_hidden_norm
    )


def project(lm_head: nn.Module, hidden_states: torch.Tensor) -> torch.Tensor:
    """Project tokens onto the vocabulary, (..., E) to (..., V).

    A few tokens on a CPU are projected as columns, not rows: torch's product of such a tall matrix with few columns is
    1.3 to 5 times as fast (docs/performance.md). lm_head itself is a plain nn.Linear, so that libraries which replace
    layers by their exact type find it.
    """
    rows = hidden_states.reshape(-1, hidden_states.shape[-1])
    is_plain_product = is_plain(lm_head) and rows.dtype == torch.float32 and rows.device.type == "cpu"
    if is_traced() or torch.is_grad_enabled() or not is_plain_product or not 0 < len(rows) <= FEW:
        return lm_head(hidden_states)
    # One column alone would be a product with a vector, in one thread.
    columns = (rows if len(rows) > 1 else rows.repeat(2, 1)).t()
    parts = [(part @ columns)[:, : len(rows)].t() for part in lm_head.weight.split(PART)]
    projected = torch.cat(parts, dim=-1).view(*hidden_states.shape[:-1], -1)
    return projected if lm_head.bias is None else projected.add_(lm_head.bias)


def is_plain(lm_head: nn.Module) -> bool:
    """Whether it only multiplies by a float32 weight: it is not quantized, adapted, offloaded or hooked."""
    if type(lm_head) is not nn.Linear or type(lm_head.weight) is not nn.Parameter:
        return False
    own_hooks = (lm_head._forward_hooks, lm_head._forward_pre_hooks)
    global_hooks = (torch_module._global_forward_hooks, torch_module._global_forward_pre_hooks)
    # accelerate puts a forward of its own into the instance.
    is_replaced = any(own_hooks) or any(global_hooks) or "forward" in vars(lm_head)
    return lm_head.weight.dtype == torch.float32 and not is_replaced


def pool(
    hidden_states: torch.Tensor, layout: Layout, pooling: str, is_end: torch.Tensor | None = None
) -> torch.Tensor:
    """One vector a sequence, (B, E).

    Args:
        hidden_states: in the layout's form.
        layout: where the tokens are.
        pooling: as in the config.
        is_end: which tokens end a sequence, in the layout's form, for "eos".
    """
    poolings: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "cls": layout.first,
        "mean": layout.mean,
        "last": layout.last,
        "eos": partial(layout.last_marked, is_marked=is_end),
    }
    return poolings[pooling](hidden_states)


def is_end_token(input_ids: torch.Tensor | None, config: PreTrainedConfig) -> torch.Tensor:
    """Which of the tokens (B, T) are the config's eos_token_id. Raises ValueError where no tokens are given."""
    if input_ids is None:
        raise ValueError("pooling='eos' needs input_ids")
    ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    return torch.isin(input_ids, torch.tensor(ends, device=input_ids.device))


def kept(hidden_states: torch.Tensor, logits_to_keep: int | torch.Tensor) -> torch.Tensor:
    """Of hidden_states (B, T, E), the tokens to project onto the vocabulary.

    A number keeps so many at the end (0: all); indices (n) or (B, n) keep those; a mask (B, T) keeps what it marks, as
    (number, E). It does what transformers' slice_logits_to_keep does, which 5.16 does not have.
    """
    if isinstance(logits_to_keep, int):
        return hidden_states[:, -logits_to_keep:]
    if logits_to_keep.dim() == 1:
        return hidden_states[:, logits_to_keep]
    if logits_to_keep.dtype == torch.bool:
        return hidden_states[logits_to_keep]
    return hidden_states.take_along_dim(logits_to_keep[..., None], dim=1)


def next_logits(
    lm_head: nn.Module, outputs: ModelOutput, logits_to_keep: int | torch.Tensor, labels: torch.Tensor | None
) -> tuple[torch.Tensor, Layout]:
    """Logits of the tokens after those of a base model's outputs, and the layout of the logits.

    Raises:
        ValueError: labels are given, but not all tokens are kept.
    """
    layout, hidden_states = outputs.layout, outputs.last_hidden_state
    if isinstance(logits_to_keep, int) and logits_to_keep == 0:
        return project(lm_head, hidden_states), layout
    if labels is not None:
        raise ValueError("labels and logits_to_keep do not go together: every token has a label")
    logits = project(lm_head, kept(layout.repad(hidden_states), logits_to_keep))
    return logits, PaddedLayout((logits.shape[0], logits.shape[-2]), None, logits.device)


def recorded(outputs: ModelOutput, output_class: type[ModelOutput]) -> dict[str, Any]:
    """Of a base model's outputs, those that `output_class` has a field for."""
    return {name: value for name, value in outputs.items() if name in output_class.__dataclass_fields__}


class ForSequenceClassification(PreTrainedModel):
    """N21: one vector of the sequence, projected onto the labels. A family names its `model_class`."""

    model_class: type[PreTrainedModel]
    output_class: type[ModelOutput] = SequenceClassifierOutput

    def __init__(self, config: PreTrainedConfig):
        super().__init__(config)
        self.model = self.model_class(config)
        self.head = build_classifier_hidden(config)
        self.dropout = nn.Dropout(config.classifier_dropout)
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
        """Logits (B, num_labels), one row a sequence; inputs as in the base model, labels as in sequence_loss."""
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            return_dict=True,
            **{**kwargs, "use_cache": False, "repad": False, "has_hooks": self.has_hooks},
        )
        layout, is_end = outputs.layout, None
        if self.config.pooling == "eos":
            is_end = layout.unpad(is_end_token(input_ids, self.config))
        pooled = pool(outputs.last_hidden_state, layout, self.config.pooling, is_end)
        logits = self.score(self.dropout(self.head(pooled)))
        loss = None
        if labels is not None:
            loss = sequence_loss(logits, labels, self.config, self.training, num_items_in_batch)
        return self.output_class(loss=loss, logits=logits, **recorded(outputs, self.output_class))


class ForTokenClassification(PreTrainedModel):
    """N2N: every output vector, projected onto the labels. A family names its `model_class`."""

    model_class: type[PreTrainedModel]
    # What the base model is told besides the inputs.
    model_kwargs: dict[str, Any] = {}
    output_class: type[ModelOutput] = TokenClassifierOutput

    def __init__(self, config: PreTrainedConfig):
        super().__init__(config)
        self.model = self.model_class(config)
        self.head = build_classifier_hidden(config) if config.token_classifier_hidden else nn.Identity()
        self.dropout = nn.Dropout(config.classifier_dropout)
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
        """Logits (B, T, num_labels), zeros for padding; inputs as in the base model, labels (B, T), -100 for none."""
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            return_dict=True,
            **{**kwargs, **self.model_kwargs, "use_cache": False, "repad": False, "has_hooks": self.has_hooks},
        )
        layout = outputs.layout
        logits = self.classifier(self.dropout(self.head(outputs.last_hidden_state)))
        loss = None
        if labels is not None:
            loss = class_loss(logits, layout.unpad(labels), self.config, self.training, num_items_in_batch)
        return self.output_class(loss=loss, logits=layout.repad(logits), **recorded(outputs, self.output_class))
