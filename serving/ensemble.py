"""Ensembles: the mean of the probabilities of several models, for an answer or for each generated token."""

import functools
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch.nn.functional import logsigmoid
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_outputs import BaseModelOutput, ModelOutput

from ..data.errors import InputError
from ..tasks.models import problem_type_of
from ..tasks.sequence_classification import REGRESSION, SEVERAL
from ..tokenization.words import read_splitting
from .prediction import RowPredictor

logger = logging.getLogger(__name__)

# Settings that were fitted to the outputs of one model.
FITTED = ("label_thresholds", "abstain_threshold")


class Ensemble:
    """Models that answer together. It is called, and generates, as each of them.

    Args:
        models: of one class, with the same labels and the same vocabulary, in evaluation mode.
    """

    def __init__(self, models: Sequence[PreTrainedModel]):
        self.models = list(models)
        self.config = self.models[0].config

    @property
    def device(self) -> torch.device:
        """The device of the models."""
        return self.models[0].device

    @property
    def generation_config(self) -> GenerationConfig:
        """That of the first model."""
        return self.models[0].generation_config

    def __call__(self, *args: Any, **kwargs: Any) -> ModelOutput:
        """The outputs of the first model, with the logits of the mean probabilities."""
        outputs = [model(*args, **kwargs) for model in self.models]
        outputs[0].logits = self.combine([output.logits for output in outputs])
        return outputs[0]

    def combine(self, logits: Sequence[torch.Tensor]) -> torch.Tensor:
        """The logits of the mean of the probabilities that logits stand for; of a regression, the mean."""
        stacked = torch.stack([each.float() for each in logits])
        problem_type = problem_type_of(self.config)
        if problem_type == REGRESSION:
            return stacked.mean(0)
        if problem_type == SEVERAL:
            # The logarithm of the mean of p, less that of the mean of 1 - p; finite where p is nearly 0 or 1.
            return logsigmoid(stacked).logsumexp(0) - logsigmoid(-stacked).logsumexp(0)
        return stacked.log_softmax(-1).logsumexp(0) - torch.tensor(float(len(logits))).log()

    def generate(self, **inputs: Any) -> torch.Tensor:
        """As `generate` of the first model, with the mean probabilities of each next token.

        All tokens so far are computed again for each token: the caches of several models would have to follow one
        search.
        """
        with self.forward_of_all(inputs):
            return self.models[0].generate(**inputs, use_cache=False)

    @contextmanager
    def forward_of_all(self, inputs: dict[str, Any]) -> Iterator[None]:
        """Inside, the forward of the first model has the mean probabilities.

        Args:
            inputs: of `generate`. Sources are encoded once.
        """
        first, *others = self.models
        replaced, forward = vars(first).get("forward"), first.forward
        sources = [self.encode(model, inputs) for model in others]

        @functools.wraps(forward)
        def forward_all(*args: Any, **kwargs: Any) -> ModelOutput:
            output = forward(*args, **kwargs)
            logits = [output.logits]
            for model, source in zip(others, sources, strict=True):
                if source is not None:
                    # A row of the source for each beam.
                    beams = len(kwargs["decoder_input_ids"]) // len(source)
                    kwargs["encoder_outputs"] = BaseModelOutput(source.repeat_interleave(beams, 0))
                logits.append(model(*args, **kwargs).logits)
            output.logits = self.combine(logits)
            return output

        first.forward = forward_all
        try:
            yield
        finally:
            if replaced is None:
                del first.forward
            else:
                first.forward = replaced

    def encode(self, model: PreTrainedModel, inputs: dict[str, Any]) -> torch.Tensor | None:
        """The encoder's output (B, S, E) of a model; None without an encoder."""
        if not self.config.is_encoder_decoder:
            return None
        names = ("input_ids", "attention_mask", "token_type_ids")
        return model.get_encoder()(**{name: inputs[name] for name in names if name in inputs}).last_hidden_state


def together(directories: Sequence[str], members: Sequence[RowPredictor], has_threshold: bool = False) -> RowPredictor:
    """The predictor of an ensemble. Its settings are those of the first model; the maximum length is the smallest.

    Args:
        directories: of the models.
        members: their predictors.
        has_threshold: whether the thresholds are the user's, not fitted to one model.

    Raises:
        InputError: the models do not go together; the message names the one that differs.
    """
    first = members[0]
    for directory, member in zip(directories, members, strict=True):
        if not isinstance(member.model, PreTrainedModel):
            raise InputError(f"{directory}: was exported for another engine, which answers alone")
        differences = {
            "task": (first.task.name, member.task.name),
            "architecture": (type(first.model).__name__, type(member.model).__name__),
            "problem_type": (first.settings.problem_type, member.settings.problem_type),
            "labels": (first.settings.labels, member.settings.labels),
            "tag_scheme": (first.settings.tag_scheme, member.settings.tag_scheme),
            "token types": (first.settings.token_types, member.settings.token_types),
            "the splitting of words": tuple(
                read_splitting(each.settings.tokenizer.init_kwargs) for each in (first, member)
            ),
            "chat_template": tuple(each.settings.tokenizer.chat_template for each in (first, member)),
        }
        for name, (one, other) in differences.items():
            if one != other:
                raise InputError(f"{directory}: does not fit {directories[0]}: {name} differs")
        if not same_tokens(first.settings.tokenizer, member.settings.tokenizer):
            raise InputError(f"{directory}: does not fit {directories[0]}: the tokenizer differs")
    fitted = [name for name in FITTED if any(getattr(each.settings, name) is not None for each in members)]
    fitted = [] if has_threshold else fitted
    if fitted:
        logger.warning("not used: %s, each fitted to one model alone", ", ".join(fitted))
    # All models can read sequences of the smallest length.
    names = ("max_length", "max_source_length", "max_target_length")
    lengths = {name: min(getattr(each.settings, name) for each in members) for name in names}
    settings = replace(first.settings, **dict.fromkeys(fitted), **lengths)
    return replace(first, settings=settings, model=Ensemble([member.model for member in members]))


def same_tokens(one: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase) -> bool:
    """Whether two tokenizers give the same ids: they have the same vocabulary and the same rules."""
    if one.get_vocab() != other.get_vocab() or one.is_fast != other.is_fast:
        return False
    if not one.is_fast:
        return type(one) is type(other)
    parts = ("normalizer", "pre_tokenizer", "model", "post_processor")
    backends = (one.backend_tokenizer, other.backend_tokenizer)
    return all(same_state(*(getattr(each, part) for each in backends)) for part in parts)


def same_state(one: Any, other: Any) -> bool:
    """Whether two parts of tokenizers are equal, as they are saved."""
    return one is other if None in (one, other) else one.__getstate__() == other.__getstate__()
