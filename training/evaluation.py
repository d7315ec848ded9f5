"""Evaluation: the facts behind a metric, and losses averaged over targets."""

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import torch
from accelerate.data_loader import BatchSamplerShard, DataLoaderDispatcher
from accelerate.utils import find_batch_size, gather_object, slice_tensors
from transformers import EvalPrediction, Trainer

from ..checkpoints.identity import UNREAD, Facts, rows_digest
from ..tasks.models import is_regression
from ..tasks.splits import SplitScorer
from .generation import for_evaluation, generation_settings

logger = logging.getLogger(__name__)

Scorer = Callable[[EvalPrediction], dict[str, float | str]]


# --- The facts behind a metric ---


def metric_facts(trainer: Trainer, scorer: Scorer | None, generation: dict[str, Any]) -> Facts:
    """The facts that decide the value of metric_for_best_model; their names are in COMPUTED_FROM.

    Args:
        trainer: the Trainer of the run.
        scorer: computes the metrics of the evaluation.
        generation: the settings of the option generation_config.
    """
    args = trainer.args
    facts: Facts = {"eval_dataset": rows_digest(trainer.eval_dataset)}
    if isinstance(scorer, SplitScorer):
        facts["eval_dataset"] = [facts["eval_dataset"], rows_digest(scorer.references)]
        if scorer.task.reads_words:
            facts["decode_tags"] = scorer.settings.decode_tags
    if (args.metric_for_best_model or "").endswith("loss") or not args.predict_with_generate:
        return facts
    if isinstance(scorer, SplitScorer):
        facts["bleu_tokenize"] = scorer.settings.bleu_tokenize or "auto"
    options = {"max_length": args.generation_max_length, "num_beams": args.generation_num_beams}
    options = {name: value for name, value in options.items() if value is not None}
    # Training takes the special tokens from the tokenizer, whose digest is a fact already.
    own = generation_settings(trainer.model.generation_config)
    own = {name: value for name, value in own.items() if name not in UNREAD}
    return {**facts, "generation_config": {**own, **generation, **options}}


# --- Losses ---


class TargetLoss:
    """The loss of an evaluation: the sum over all targets divided by their number, whatever the batch size.

    The Trainer's is the mean of batch means.

    Args:
        trainer: the Trainer that evaluates.
    """

    def __init__(self, trainer: Trainer):
        self.trainer = trainer
        # The mean loss of each batch, and the number of its targets.
        self.means: list[torch.Tensor] = []
        self.counts: list[torch.Tensor] = []

    def mean(self) -> tuple[float | None, bool]:
        """The mean over all batches and processes (None without targets), and whether there were any losses."""
        if not self.means:
            return None, False
        # On the CPU, because not every device has float64: MPS does not.
        means, counts = (torch.stack(each).cpu().double() for each in (self.means, self.counts))
        sums = gather_object([(float(means @ counts), float(counts.sum()))])
        total, count = (sum(each) for each in zip(*sums, strict=True))
        return (total / count if count else None), True

    def step(self, inputs: dict[str, Any], predict: Callable[[dict[str, Any]], tuple]) -> tuple:
        """Evaluate a batch, and add its loss.

        Rows that are read twice count once. Padding takes their place, which gather_for_metrics removes.

        Args:
            inputs: the batch.
            predict: returns loss, logits and labels of a batch.
        """
        own = self.own_rows(inputs)
        if own is not None:
            inputs = slice_tensors(inputs, slice(max(1, own)))
        with local_loss_mean(self.trainer):
            loss, logits, labels = predict(inputs)
        if loss is not None:
            self.means.append(loss.detach())
            self.counts.append(self.count_targets(inputs["labels"][:own]))
        if own is None:
            return loss, logits, labels
        pad = partial(self.trainer.accelerator.pad_across_processes, dim=0)
        return loss, *(each if each is None else pad(each) for each in (logits, labels))

    def own_rows(self, inputs: dict[str, Any]) -> int | None:
        """The number of rows of the batch that were not read before; None for all.

        At the end accelerate reads the first rows again, so that all processes read the same number.
        """
        state = self.trainer.accelerator.gradient_state
        loader = state.active_dataloader
        batches = getattr(loader, "batch_sampler", None)
        if isinstance(loader, DataLoaderDispatcher):
            process = self.trainer.args.process_index
        elif isinstance(batches, BatchSamplerShard):
            process = batches.process_index
        else:
            return None
        if not state.end_of_dataloader or state.remainder <= 0:
            return None
        size = find_batch_size(inputs)
        return min(max(0, state.remainder - process * size), size)

    def count_targets(self, labels: torch.Tensor) -> torch.Tensor:
        """The number of targets in labels (B, ...), as BlendTrainer.get_batch_samples counts them."""
        if is_regression(self.trainer.model):
            labels = with_all_targets([{"labels": labels}])[0]["labels"]
        shifted = labels[..., 1:] if getattr(self.trainer, "_loss_shifts_labels", False) else labels
        return shifted.ne(-100).sum()


def with_all_targets(batches: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Batches of a regression whose labels all count as targets: -100 is a number like any other."""
    return [{**batch, "labels": torch.zeros_like(batch["labels"])} for batch in batches if "labels" in batch]


@contextmanager
def local_loss_mean(trainer: Trainer) -> Iterator[None]:
    """Inside, the model's loss is the mean over the targets of its own batch.

    Trainer.prediction_step divides by the number of targets in all processes, and does not return that number
    (`num_items_in_batch = self._get_num_items_in_batch([inputs], self.args.device)`).
    """
    accepts = trainer.model_accepts_loss_kwargs
    trainer.model_accepts_loss_kwargs = False
    try:
        yield
    finally:
        trainer.model_accepts_loss_kwargs = accepts


@contextmanager
def undisturbed(trainer: Trainer, scorer: Scorer | None) -> Iterator[None]:
    """Inside, a scorer computes the metrics of an evaluation; afterwards all is as if there had been none.

    Restored are random numbers, settings of generation, the weights, and compute_metrics: the scorer of one split must
    not score another.
    """
    own, trainer.compute_metrics = trainer.compute_metrics, scorer
    try:
        with (
            preserve_random_state(trainer.args.device),
            for_evaluation(trainer),
            preserve_weights(trainer),
        ):
            yield
    finally:
        trainer.compute_metrics = own


@contextmanager
def preserve_weights(trainer: Trainer) -> Iterator[None]:
    """Inside, an evaluation in half precision may convert the model, which has its own weights again afterwards.

    Outside of training, Trainer.evaluation_loop converts it in place (`model = model.to(dtype=torch.bfloat16,
    device=args.device)`), and the weights would be saved rounded.
    """
    model, args = trainer.model, trainer.args
    is_converted = (args.bf16_full_eval or args.fp16_full_eval) and not trainer.is_in_train
    tensors = [*model.parameters(), *model.buffers()] if is_converted else []
    own = [tensor.data for tensor in tensors]
    try:
        yield
    finally:
        for tensor, data in zip(tensors, own, strict=True):
            tensor.data = data


def try_generation(trainer: Trainer) -> None:
    """Generate a token as in an evaluation. Errors of `generate` pass unchanged: it alone refuses some settings."""
    rows = min(2, trainer.args.eval_batch_size)
    with preserve_random_state(trainer.args.device), for_evaluation(trainer) as config:
        config.update(max_length=None, max_new_tokens=1, min_length=0, min_new_tokens=None)
        inputs = torch.zeros((rows, 2), dtype=torch.long, device=trainer.model.device)
        trainer.model.generate(input_ids=inputs, attention_mask=torch.ones_like(inputs))


def preserve_random_state(device: torch.device) -> AbstractContextManager[None]:
    """Inside, random numbers drawn on the CPU or the device do not change those drawn afterwards."""
    if device.type == "cpu":
        return torch.random.fork_rng(devices=[])
    return torch.random.fork_rng(devices=[device], device_type=device.type)
