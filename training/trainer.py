"""transformers' Trainer, changed only where its behaviour is wrong."""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.data import DataLoader, Sampler, SequentialSampler
from transformers import EvalPrediction, TrainerCallback
from transformers.trainer_utils import EvalLoopOutput

from .files import InputError
from .metrics import perplexity
from .pushing import PushingTrainer

Scorer = Callable[[EvalPrediction], dict[str, float | str]]


class BlendTrainer(PushingTrainer):
    """A Seq2SeqTrainer that evaluates in order, averages losses over targets, loads strictly, and pushes whole.

    Args:
        scorers: what computes the metrics of each split, by the prefix its metrics have (`eval`, `test`). Empty for
            language models, which have a perplexity.
        kwargs: those of PushingTrainer, but for `compute_metrics`.
    """

    def __init__(self, *, scorers: dict[str, Scorer], **kwargs: Any):
        super().__init__(compute_metrics=next(iter(scorers.values()), None), **kwargs)
        self.scorers = scorers
        if isinstance(self.data_collator, TrainerCallback):
            self.add_callback(self.data_collator)
        self._loss_sums: list[torch.Tensor] = []

    def _get_eval_sampler(self, eval_dataset: Any) -> Sampler | None:
        """Keep the order of the rows, which predictions are written in.

        Replaces Trainer._get_eval_sampler, which sorts by length when training does.
        """
        return SequentialSampler(eval_dataset) if self.args.world_size <= 1 else None

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Evaluate; the loss is the sum over targets divided by their number, whatever the batch size.

        Replaces the mean of batch means of Trainer.evaluation_loop (`losses.repeat(batch_size)`).
        """
        self._loss_sums = []
        self.compute_metrics = self.scorers.get(metric_key_prefix, self.compute_metrics)
        output = super().evaluation_loop(
            dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix=metric_key_prefix
        )
        if self._loss_sums:
            total, count = self.accelerator.reduce(torch.stack(self._loss_sums).sum(0), "sum").tolist()
            loss = total / max(1.0, count)
            output.metrics[f"{metric_key_prefix}_loss"] = loss
            if not self.scorers:
                output.metrics[f"{metric_key_prefix}_perplexity"] = perplexity(loss)
        return output

    def prediction_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> tuple:
        """As Seq2SeqTrainer.prediction_step, keeping the sum of the loss and the number of targets."""
        loss, logits, labels = super().prediction_step(model, inputs, *args, **kwargs)
        if loss is not None:
            count = self.count_targets(inputs["labels"])
            self._loss_sums.append(torch.stack((loss.double() * count, count)))
        return loss, logits, labels

    def count_targets(self, labels: torch.Tensor) -> torch.Tensor:
        """How many targets a batch has, as Trainer._get_num_items_in_batch counts them; a double."""
        shifted = labels[..., 1:] if getattr(self, "_loss_shifts_labels", False) else labels
        return shifted.ne(-100).sum().to(self.args.device, torch.double)

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Refuse a checkpoint that does not match the model, on resume and when the best model is loaded.

        Replaces Trainer._issue_warnings_after_load, which lets a layer stay random with a warning.

        Raises:
            InputError: tensors are missing or unexpected; the message names them.
        """
        tied = set(getattr(self.model, "all_tied_weights_keys", {}))
        missing = sorted(set(load_result.missing_keys) - tied)
        if missing or load_result.unexpected_keys:
            raise InputError(
                f"the checkpoint does not match the model: missing {missing}, "
                f"unexpected {sorted(load_result.unexpected_keys)}"
            )
        self.model.tie_weights()
