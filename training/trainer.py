"""transformers' Trainer, changed only where its behaviour is wrong."""

import logging
import os
from collections.abc import Callable, Iterator, Sized
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import deepcopy
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.data_loader import BatchSamplerShard
from accelerate.utils import find_batch_size, slice_tensors
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, IterableDataset, Sampler, SequentialSampler
from transformers import (
    EarlyStoppingCallback,
    EvalPrediction,
    GenerationConfig,
    PreTrainedModel,
    ProgressCallback,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.trainer_utils import EvalLoopOutput, has_length

from ..checkpoints.identity import UNREAD, rows_digest
from ..data.errors import InputError
from ..tasks.encoding import count_tokens
from ..tasks.splits import SplitScorer, greater_is_better, perplexity
from .arguments import BlendTrainingArguments
from .progress import Progress
from .resuming import ResumingTrainer, seed_of
from .sampling import TokenBatchSampler

logger = logging.getLogger(__name__)

Scorer = Callable[[EvalPrediction], dict[str, float | str]]
# What the Trainer says to a DataLoader of how rows are read.
LOADING = (
    *("collate_fn", "num_workers", "pin_memory", "persistent_workers", "multiprocessing_context", "prefetch_factor"),
    *("in_order", "worker_init_fn", "generator"),
)

# The flag has an older name in older transformers.
CHECKPOINTING = (
    "activation_checkpointing" if hasattr(TrainingArguments, "activation_checkpointing") else "gradient_checkpointing"
)


def completed(args: TrainingArguments | None) -> TrainingArguments:
    """Arguments of any of transformers' classes, with the defaults of all that a BlendTrainer asks them for."""
    args = BlendTrainingArguments() if args is None else args
    for each in fields(BlendTrainingArguments):
        if not hasattr(args, each.name):
            setattr(args, each.name, each.default)
    # SIGTERM is listened to anyway; transformers would also save in the middle of a step, and lose its gradients.
    args.enable_jit_checkpoint = False
    return args


def check_device(args: TrainingArguments) -> None:
    """Raises InputError for what the device of the run does not do, and would be left out: precisions, processes."""
    if args.device.type != "cpu":
        return
    started = int(os.environ.get("WORLD_SIZE", 1))
    if started > 1 and args.world_size == 1:
        raise InputError(
            f"use_cpu: {started} processes were started, and without a GPU each would train by itself; "
            "--use_cpu true lets them train together"
        )
    if getattr(args, "mixed_precision", None) == "fp16" or args.fp16:
        raise InputError("fp16: needs a GPU, and this run is on the CPU, which computes in bf16 at the least")
    if args.tf32:
        raise InputError("tf32: needs a GPU, and this run is on the CPU")


def settle_direction(args: TrainingArguments, unsaid: bool | None) -> None:
    """Let the best model be chosen by the metric's own direction, and a learning rate that waits for it likewise.

    Replaces `not self.metric_for_best_model.endswith("loss")` of TrainingArguments.__post_init__, for which the best
    perplexity is the highest.

    Args:
        args: of a run whose metrics are those of this package.
        unsaid: what greater_is_better is where the user did not give it.

    Raises:
        InputError: a direction was given that is not the metric's.
    """
    name, given = args.metric_for_best_model, args.greater_is_better
    better = greater_is_better(name or "")
    if better is None:
        return
    if given not in (unsaid, better):
        raise InputError(
            f"greater_is_better: {given} is against metric_for_best_model={name}, of which "
            f"{'more' if better else 'less'} is better; leave it out"
        )
    args.greater_is_better = better


def settle_plateau(args: TrainingArguments) -> None:
    """Let a learning rate that falls when nothing becomes better go by greater_is_better.

    torch's ReduceLROnPlateau and transformers' GreedyLR wait for less, whatever the metric, unless told otherwise.

    Raises:
        InputError: the mode that was given is the other one.
    """
    if args.lr_scheduler_type not in ("reduce_lr_on_plateau", "greedy"):
        return
    mode, given = "max" if args.greater_is_better else "min", args.lr_scheduler_kwargs or {}
    if given.get("mode", mode) != mode:
        raise InputError(
            f"lr_scheduler_kwargs: mode={given['mode']} is against metric_for_best_model="
            f"{args.metric_for_best_model}, which is best at its {mode}imum; leave it out"
        )
    args.lr_scheduler_kwargs = {**given, "mode": mode}


def load_generation_config(given: str | Path | dict[str, Any] | GenerationConfig) -> GenerationConfig:
    """As Seq2SeqTrainer.load_generation_config, of a mapping too. Raises whatever transformers meets."""
    return Seq2SeqTrainer.load_generation_config(GenerationConfig(**given) if isinstance(given, dict) else given)


def settings_of_generation(config: GenerationConfig) -> dict[str, Any]:
    """What a generation config says; where it says nothing, it has None."""
    silent = {"transformers_version", "_from_model_config"}
    return {name: value for name, value in config.to_diff_dict().items() if value is not None and name not in silent}


def complete_generation(
    config: GenerationConfig, own: GenerationConfig, args: Seq2SeqTrainingArguments
) -> GenerationConfig:
    """The model's own generation config, with what another one says in its place.

    generation_num_beams wins over both. Tokens that are not the model's are named in a warning.

    Raises:
        ValueError: the settings do not go together.
    """
    said = settings_of_generation(config)
    if args.generation_num_beams is not None:
        said["num_beams"] = args.generation_num_beams
    for name, other in (("max_new_tokens", "max_length"), ("max_length", "max_new_tokens")):
        if name in said:
            # One says how long; generate would warn of both.
            said.setdefault(other, None)
    tokens = {name: (said[name], getattr(own, name, None)) for name in said if name.endswith("token_id")}
    others = [f"{name} {new}, not {old}" for name, (new, old) in tokens.items() if old not in (None, new)]
    if others:
        logger.warning("generation_config has other tokens than the model: %s", "; ".join(others))
    completed = deepcopy(own)
    completed.update(**said)
    completed.validate(strict=True)
    return completed


def built(option: str, function: Callable, *args: Any) -> Any:
    """What the function returns. Raises InputError that names the option if it raises anything."""
    try:
        return function(*args)
    except Exception as error:  # every library raises its own
        raise InputError(f"{option}: {error or type(error).__name__}") from error


def run_checkpointed(kwargs: dict[str, Any]) -> None:
    """Call torch's checkpoint with the arguments of it that Trainer.train passes on."""
    kwargs = {name: value for name, value in kwargs.items() if name not in ("every_n_layers", "offload")}
    checkpoint(torch.nn.Identity(), torch.zeros(1), **{"use_reentrant": False, **kwargs})


def random_state_kept(device: torch.device) -> AbstractContextManager[None]:
    """Inside, what is drawn on the CPU or the device changes nothing of what is drawn after it."""
    if device.type == "cpu":
        return torch.random.fork_rng(devices=[])
    return torch.random.fork_rng(devices=[device], device_type=device.type)


@contextmanager
def embeddings_hidden(model: PreTrainedModel) -> Iterator[None]:
    """Inside, the model tells of no embeddings, neither of inputs nor of outputs."""
    hidden = ("get_input_embeddings", "get_output_embeddings")
    for name in hidden:
        setattr(model, name, lambda: None)
    try:
        yield
    finally:
        for name in hidden:
            delattr(model, name)


@contextmanager
def losses_undivided(trainer: Trainer) -> Iterator[None]:
    """Inside, the model's loss is the mean over the targets that it is given, whatever other processes are given."""
    accepts = trainer.model_accepts_loss_kwargs
    trainer.model_accepts_loss_kwargs = False
    try:
        yield
    finally:
        trainer.model_accepts_loss_kwargs = accepts


class BlendTrainer(ResumingTrainer):
    """A Seq2SeqTrainer that evaluates in order, averages losses over targets, resumes exactly, and pushes whole.

    Args:
        scorers: what computes the metrics of each split, by the prefix its metrics have (`eval`, `test`), in place of
            `compute_metrics`. Where there is neither, as of language models, a perplexity is computed.
        kwargs: those of ResumingTrainer; `args` may be TrainingArguments of any kind.
    """

    def __init__(self, *, scorers: dict[str, Scorer] | None = None, **kwargs: Any):
        self.scorers = {} if scorers is None else scorers
        # What generation_config says.
        self._said_generation: dict[str, Any] = {}
        args = kwargs["args"] = completed(kwargs.get("args"))
        check_device(args)
        if kwargs.get("compute_metrics") is None:
            settle_direction(args, unsaid=not (args.metric_for_best_model or "").endswith("loss"))
        settle_plateau(args)
        super().__init__(**{"compute_metrics": next(iter(self.scorers.values()), None), **kwargs})
        self.batches = self.make_batches()
        columns = getattr(self.train_dataset, "column_names", None) or ()
        has_rows = "input_ids" in columns and isinstance(self.train_dataset, Sized)
        self.pace = Progress(self.row_lengths() if has_rows else ())
        for part in (self.data_collator, self.batches, self.pace):
            if isinstance(part, TrainerCallback):
                self.add_callback(part)
        # Behind them: what they say would stand in the line of a bar that has begun.
        if bar := self.pop_callback(ProgressCallback):
            self.add_callback(bar)
        if self.args.early_stopping_patience is not None:
            self.add_callback(EarlyStoppingCallback(self.args.early_stopping_patience))
        self._loss_sums: list[torch.Tensor] = []

    def load_generation_config(self, given: Any) -> GenerationConfig:  # type: ignore[override]
        """What is given, completed by what the model has: the length it was trained for, the token it starts with.

        Replaces `self.model.generation_config = gen_config` of Seq2SeqTrainer.__init__, which forgets the model's own.

        Args:
            given: see load_generation_config of this module.

        Raises:
            ValueError: it cannot be loaded, or settings do not go together.
        """
        config = load_generation_config(given)
        self._said_generation = settings_of_generation(config)
        own = getattr(self.model, "generation_config", None)
        return config if own is None else complete_generation(config, own, self.args)

    def computed_from(self) -> dict[str, Any]:
        """As RestoringTrainer.computed_from; with the references of the scorer, and how texts are generated."""
        facts = super().computed_from()
        scorer, args = self.scorers.get("eval"), self.args
        if isinstance(scorer, SplitScorer):
            facts["eval_dataset"] = [facts["eval_dataset"], rows_digest(scorer.references)]
        if (args.metric_for_best_model or "").endswith("loss") or not args.predict_with_generate:
            return facts
        if isinstance(scorer, SplitScorer):
            facts["bleu_tokenize"] = scorer.settings.bleu_tokenize or "auto"
        given = {"max_length": args.generation_max_length, "num_beams": args.generation_num_beams}
        # Tokens that training takes from the tokenizer, of which there is a digest.
        own = settings_of_generation(self.model.generation_config)
        own = {name: value for name, value in own.items() if name not in UNREAD}
        said = {name: value for name, value in given.items() if value is not None}
        return {**facts, "generation_config": {**own, **self._said_generation, **said}}

    def make_batches(self) -> TokenBatchSampler | None:
        """The training batches, where max_tokens_per_batch says what they hold. None: so many rows, drawn at random.

        Raises:
            InputError: the training rows cannot be divided so.
        """
        args = self.args
        if args.max_tokens_per_batch is None or self.train_dataset is None:
            return None
        if isinstance(self.train_dataset, IterableDataset):
            raise InputError(
                "max_tokens_per_batch: how long the rows of a stream are is not known before they are read"
            )
        options = {"num_processes": args.world_size, "seed": seed_of(args)}
        return TokenBatchSampler(self.row_lengths(), args.max_tokens_per_batch, **options)

    def row_lengths(self) -> np.ndarray:
        """The tokens of each training row (N,), those of source and target together where a decoder reads both.

        Raises:
            InputError: the column of the lengths has none.
        """
        column = self.args.length_column_name
        if column in getattr(self.train_dataset, "column_names", ()):
            kind = str(getattr(self.train_dataset.features[column], "dtype", "list"))
            if "int" not in kind:
                raise InputError(f"length_column_name: column {column!r} must hold whole numbers, but is of {kind}")
            return self.train_dataset.with_format("numpy")[column][:]
        # A target that a decoder reads is computed like a source.
        reads_labels = self.model.config.is_encoder_decoder and self.model.can_generate()
        return count_tokens(self.train_dataset, ("input_ids", "labels") if reads_labels else ("input_ids",))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As Trainer.log; a line about steps says how fast they are, and how long the run still takes.

        Replaces `speed_metrics("train", start_time, num_tokens=current_session_num_tokens)`, which counts evaluations
        as training.
        """
        if "loss" in logs:
            logs.update(self.pace.speed(self.state))
            start_time = None
        super().log(logs, start_time)

    def _set_signature_columns_if_needed(self) -> None:
        """Keep what our collators read, too.

        Replaces `signature_columns = list(signature.parameters.keys())` of Trainer, which knows what the model reads.
        """
        super()._set_signature_columns_if_needed()
        read = getattr(self.data_collator, "reads", ())
        self._signature_columns += [name for name in read if name not in self._signature_columns]

    def check(self) -> None:
        """Build once all that training begins with, so that options it cannot be built from are refused before.

        The model that it is built around has no weights: neither that to be trained nor the random state changes.

        Raises:
            InputError: something cannot be built; the message names the option.
        """
        args = self.args
        with torch.random.fork_rng(devices=[]):
            with torch.device("meta"):
                model = type(self.model)(self.model.config)
            loader = built("dataloader", self.get_train_dataloader)
            if has_length(loader) and not len(loader):
                raise InputError("dataloader_drop_last: the training split is smaller than a batch; nothing is left")
            if args.use_liger_kernel:
                # It would pass over them with no more than a line in the log.
                raise InputError("use_liger_kernel: liger-kernel has no kernels for the models of seqblend")
            if getattr(args, CHECKPOINTING):
                option = f"{CHECKPOINTING}_kwargs"
                built(option, run_checkpointed, getattr(args, option) or {})
            if args.torch_compile:
                settings = self.accelerator.state.dynamo_plugin.to_kwargs()
                built("torch_compile_mode", partial(torch.compile, **settings), model)
                # Whether there is a compiler shows where something is compiled.
                built("torch_compile", torch.compile(torch.sin, **settings), torch.zeros(2, device=args.device))
            steps = self.set_initial_training_values(args, loader)[-1]
            built("optim", self.create_optimizer, model)
            built("lr_scheduler_type", self.create_scheduler, steps)
        self.optimizer, self.lr_scheduler, self._created_lr_scheduler = None, None, False

    def _prepare_for_training(self, *args: Any) -> tuple:
        """Where FSDP2 shards an encoder-decoder, put what its parts share with the rest of the model, in one group.

        Replaces `tail_modules = (final_norm, input_embed, output_embed)` of accelerate's fsdp2_prepare_model, which
        leaves the decoder's embedding out: torch refuses to train what is shared between two groups.
        """
        model, accelerator = self.model, self.accelerator
        in_parts = accelerator.is_fsdp2 and model.config.is_encoder_decoder and model.all_tied_weights_keys
        with embeddings_hidden(model) if in_parts else nullcontext():
            return super()._prepare_for_training(*args)

    def get_train_dataloader(self) -> DataLoader:
        """The training batches as max_tokens_per_batch has them, if it is given.

        Replaces `"batch_size": batch_size` and `dataloader_params["sampler"] = sampler` of Trainer._get_dataloader,
        which takes no batch sampler but its own.
        """
        loader = super().get_train_dataloader()
        if self.batches is None:
            return loader
        loading = {name: getattr(loader, name) for name in LOADING}
        return self.accelerator.prepare(DataLoader(loader.dataset, batch_sampler=self.batches, **loading))

    def get_total_train_batch_size(self, args: Any) -> int:
        """As Trainer.get_total_train_batch_size, with the mean number of rows where batches have different ones.

        Replaces `self._train_batch_size`, from which train_samples_per_second is computed under max_steps.
        """
        size = super().get_total_train_batch_size(args)
        if self.batches is None:
            return size
        return round(size / self._train_batch_size * len(self.batches.lengths) / len(self.batches))

    def _get_dataloader(self, *args: Any, is_training: bool = False, **kwargs: Any) -> DataLoader:
        """Leave no row of an evaluation out.

        Replaces `dataloader_params["drop_last"] = self.args.dataloader_drop_last` of Trainer._get_dataloader, which
        leaves out the last rows of every split.
        """
        drop_last = self.args.dataloader_drop_last
        self.args.dataloader_drop_last = drop_last and is_training
        try:
            return super()._get_dataloader(*args, is_training=is_training, **kwargs)
        finally:
            self.args.dataloader_drop_last = drop_last

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

        Replaces the mean of batch means of Trainer.evaluation_loop (`losses.repeat(batch_size)`), and
        `self.gather_function = self.accelerator.gather` of Seq2SeqTrainer.evaluate and predict, which keeps the rows
        that several processes read twice.

        Training goes on as if there had been none: with the random state, from which a DataLoader draws, and with the
        model's generation settings, into which Seq2SeqTrainer.prediction_step writes `default_gen_config`.
        """
        self._loss_sums = []
        self.gather_function = self.accelerator.gather_for_metrics
        self.compute_metrics = self.scorers.get(metric_key_prefix, self.compute_metrics)
        own = deepcopy(getattr(self.model, "generation_config", None))
        with random_state_kept(self.args.device):
            output = super().evaluation_loop(
                dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix=metric_key_prefix
            )
        if own is not None:
            self.model.generation_config = own
        if self._loss_sums:
            total, count = self.accelerator.reduce(torch.stack(self._loss_sums).sum(0), "sum").tolist()
            # A mean over no target is no figure.
            output.metrics.pop(f"{metric_key_prefix}_loss", None)
            if count:
                output.metrics[f"{metric_key_prefix}_loss"] = total / count
            if count and self.compute_metrics is None:
                output.metrics[f"{metric_key_prefix}_perplexity"] = perplexity(total / count)
        return output

    def prediction_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> tuple:
        """As Seq2SeqTrainer.prediction_step, keeping the sum of the loss and the number of targets.

        Rows that are read twice count once; in their place comes what gather_for_metrics takes away again. Replaces
        `num_items_in_batch = self._get_num_items_in_batch([inputs], self.args.device)` of Trainer.prediction_step,
        which divides by the targets of all processes, of which none keeps the number.
        """
        own = self.count_own_rows(inputs)
        if own is not None:
            inputs = slice_tensors(inputs, slice(max(1, own)))
        with losses_undivided(self):
            loss, logits, labels = super().prediction_step(model, inputs, *args, **kwargs)
        if loss is not None:
            count = self.count_targets(inputs["labels"][:own])
            self._loss_sums.append(torch.stack((loss.double() * count, count)))
        if own is None:
            return loss, logits, labels
        pad = partial(self.accelerator.pad_across_processes, dim=0)
        return loss, *(each if each is None else pad(each) for each in (logits, labels))

    def count_own_rows(self, inputs: dict[str, Any]) -> int | None:
        """How many rows stand in this process's share of the last batches before the first rows are read once more.

        accelerate does that so that every process reads as many. None: there is no such row in this batch.
        """
        state = self.accelerator.gradient_state
        batches = getattr(state.active_dataloader, "batch_sampler", None)
        if not isinstance(batches, BatchSamplerShard) or not state.end_of_dataloader or state.remainder <= 0:
            return None
        size = find_batch_size(inputs)
        return min(max(0, state.remainder - batches.process_index * size), size)

    def count_targets(self, labels: torch.Tensor) -> torch.Tensor:
        """How many targets a batch has, as Trainer._get_num_items_in_batch counts them; a double."""
        shifted = labels[..., 1:] if getattr(self, "_loss_shifts_labels", False) else labels
        return shifted.ne(-100).sum().to(self.args.device, torch.double)
