"""Options of a run: defaults, checks of the device, values that follow from others, and a dry run."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from functools import partial
from typing import Any

import torch
from accelerate.utils import parse_flag_from_env
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel, Trainer, TrainingArguments
from transformers.trainer_utils import IntervalStrategy, has_length

from ..conversion.origin import without_adapter
from ..data.errors import InputError
from ..tasks.models import is_regression
from ..tasks.splits import greater_is_better
from .arguments import BlendTrainingArguments

# The option has another name in older versions of transformers.
CHECKPOINTING = (
    "activation_checkpointing" if hasattr(TrainingArguments, "activation_checkpointing") else "gradient_checkpointing"
)

# Errors of our own code, not of an option: they pass unchanged, with their traceback.
BUGS = (AttributeError, NameError, TypeError)


def with_defaults(args: TrainingArguments | None) -> TrainingArguments:
    """The arguments, of any class of transformers, with defaults for options that only BlendTrainingArguments has."""
    args = BlendTrainingArguments() if args is None else args
    for each in fields(BlendTrainingArguments):
        if not hasattr(args, each.name):
            setattr(args, each.name, each.default)
    # BlendTrainer handles SIGTERM; transformers would also save in the middle of a step, and lose its gradients.
    args.enable_jit_checkpoint = False
    return args


def take_label_smoothing(trainer: Trainer) -> float:
    """Move label_smoothing_factor from the arguments into the configuration of the model, and return it.

    The LabelSmoother of transformers does not shift the labels of a model that it does not know, takes them from a
    decoder that needs them as input, and leaves out class weights. A stock model keeps it.
    """
    smoothing = trainer.args.label_smoothing_factor
    if not smoothing or not hasattr(trainer.model.config, "label_smoothing"):
        return 0.0
    trainer.args.label_smoothing_factor, trainer.label_smoother = 0.0, None
    set_label_smoothing(trainer.model, smoothing)
    return smoothing


def set_label_smoothing(model: PreTrainedModel, smoothing: float) -> None:
    """Set the label smoothing of a model's loss. Raises InputError for a regression."""
    if is_regression(model):
        raise InputError("label_smoothing_factor: a regression has no classes")
    model.config.label_smoothing = smoothing


def check_device(args: TrainingArguments) -> None:
    """Raises InputError for precisions and processes that the device does not support and that would be ignored."""
    if args.device.type != "cpu":
        return
    started = int(os.environ.get("WORLD_SIZE", 1))
    if started > 1 and args.world_size == 1:
        raise InputError(
            f"use_cpu: {started} processes were started, and without a GPU each would train by itself; "
            "--use_cpu true lets them train together"
        )
    if getattr(args, "mixed_precision", None) == "fp16" or args.fp16:
        raise InputError("fp16: needs a GPU, and this run is on the CPU, which supports bf16 but not fp16")
    if args.tf32:
        raise InputError("tf32: needs a GPU, and this run is on the CPU")


def divides_weights(args: TrainingArguments) -> bool:
    """Whether FSDP or DeepSpeed divides the weights: by an option, or by the configuration of accelerate launch."""
    return bool(args.fsdp or parse_flag_from_env("ACCELERATE_USE_FSDP") or args.deepspeed_plugin)


def set_metric_direction(args: TrainingArguments, default: bool | None) -> None:
    """Set greater_is_better by the metric.

    Replaces `not self.metric_for_best_model.endswith("loss")` of TrainingArguments.__post_init__, which prefers a high
    perplexity.

    Args:
        args: of a run whose metrics are those of this package.
        default: the value of greater_is_better if the user has not given it.

    Raises:
        InputError: a direction was given that is not the metric's.
    """
    name, given = args.metric_for_best_model, args.greater_is_better
    better = greater_is_better(name or "")
    if better is None:
        return
    if given not in (default, better):
        raise InputError(
            f"greater_is_better: {given} contradicts metric_for_best_model={name}, for which "
            f"{'higher' if better else 'lower'} is better; leave it out"
        )
    args.greater_is_better = better


def set_plateau_mode(args: TrainingArguments) -> None:
    """Set the mode of a schedule that follows a metric: "max" if greater_is_better, otherwise "min".

    The default of torch's ReduceLROnPlateau and transformers' GreedyLR is "min", whatever the metric.

    Raises:
        InputError: another mode was given.
    """
    if args.lr_scheduler_type not in ("reduce_lr_on_plateau", "greedy"):
        return
    mode, given = "max" if args.greater_is_better else "min", args.lr_scheduler_kwargs or {}
    if given.get("mode", mode) != mode:
        raise InputError(
            f"lr_scheduler_kwargs: mode={given['mode']} contradicts metric_for_best_model="
            f"{args.metric_for_best_model}, which is best at its {mode}imum; leave it out"
        )
    args.lr_scheduler_kwargs = {**given, "mode": mode}


def check_early_stopping(args: TrainingArguments) -> None:
    """Raises InputError for early_stopping_patience without what it compares; EarlyStoppingCallback asserts it."""
    needed = {
        "eval_strategy": args.eval_strategy != IntervalStrategy.NO,
        "metric_for_best_model": args.metric_for_best_model is not None,
    }
    missing = [name for name, given in needed.items() if not given]
    if missing and args.early_stopping_patience is not None:
        raise InputError(f"early_stopping_patience: needs {' and '.join(missing)} too")


@contextmanager
def restored(args: TrainingArguments, *names: str) -> Iterator[None]:
    """Restore these options afterwards: callbacks replace them during training."""
    values = {name: getattr(args, name) for name in names}
    try:
        yield
    finally:
        for name, value in values.items():
            setattr(args, name, value)


def call(option: str, function: Callable, *args: Any) -> Any:
    """The result of a function of another library, which is called with options of the user.

    Raises:
        InputError: the function raised anything; a TypeError, too, for an argument that it does not have.
    """
    try:
        return function(*args)
    except Exception as error:  # torch, accelerate and optimizers' libraries raise whatever they meet
        raise InputError(f"{option}: {error or type(error).__name__}") from error


def run_checkpointed(kwargs: dict[str, Any]) -> None:
    """Call torch's checkpoint with the arguments that Trainer.train passes on to it."""
    kwargs = {name: value for name, value in kwargs.items() if name not in ("every_n_layers", "offload")}
    # With use_reentrant, torch warns of inputs without a gradient.
    checkpoint(torch.nn.Identity(), torch.zeros(1, requires_grad=True), **{"use_reentrant": False, **kwargs})


def dry_run(trainer: Trainer) -> None:
    """Build dataloader, optimizer and scheduler once, so that bad options fail before training.

    They are built for a model without weights: neither the model nor the random state changes.

    Raises:
        InputError: something cannot be built; the message names the option.
    """
    args, own = trainer.args, without_adapter(trainer.model)
    with torch.random.fork_rng(devices=[]):
        with torch.device("meta"):
            model = type(own)(own.config)
        try:
            loader = trainer.get_train_dataloader()
        except BUGS:
            raise
        except Exception as error:  # torch and accelerate raise whatever they meet
            raise InputError(f"dataloader: {error or type(error).__name__}") from error
        if has_length(loader) and not len(loader):
            raise InputError("dataloader_drop_last: the training split is smaller than a batch; nothing is left")
        if args.use_liger_kernel:
            # transformers would only log a line and ignore the option.
            raise InputError("use_liger_kernel: liger-kernel has no kernels for the models of seqblend")
        if getattr(args, CHECKPOINTING):
            option = f"{CHECKPOINTING}_kwargs"
            call(option, run_checkpointed, getattr(args, option) or {})
        if args.torch_compile:
            if own.config.is_recurrent:
                raise InputError(
                    "torch_compile: a recurrent mixer_type has no graph: its steps follow from the lengths"
                )
            settings = trainer.accelerator.state.dynamo_plugin.to_kwargs()
            call("torch_compile_mode", partial(torch.compile, **settings), model)
            # A missing compiler is noticed only when something is compiled.
            call("torch_compile", torch.compile(torch.sin, **settings), torch.zeros(2, device=args.device))
        steps = trainer.set_initial_training_values(args, loader)[-1]
        call("optim", trainer.create_optimizer, model)
        call("lr_scheduler_type", trainer.create_scheduler, steps)
    trainer.optimizer, trainer.lr_scheduler, trainer._created_lr_scheduler = None, None, False
