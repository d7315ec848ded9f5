"""The mean of the weights of a run's last checkpoints, in place of the last weights (Vaswani et al. 2017, §6.1)."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn
from transformers import TrainerCallback, TrainerState
from transformers.utils import ADAPTER_SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from ..data.errors import InputError
from ..data.objects import load_object, read_object
from .faults import IDENTITY, fault_of
from .store import RunError, checkpoints_in, step_of
from .weights import adapters_in, check_weights

logger = logging.getLogger(__name__)


def check_averaging(args: Any) -> None:
    """Raises InputError if the run would not have the checkpoints that are to be averaged."""
    count = getattr(args, "average_checkpoints", None)
    if count is None:
        return
    if count < 2:
        raise InputError(f"average_checkpoints: must be 2 or more, got {count}")
    if args.save_strategy.value == "no":
        raise InputError("average_checkpoints: needs checkpoints, but save_strategy is no")
    if args.save_strategy.value == "best":
        raise InputError("average_checkpoints: needs save_strategy steps or epoch; best may save too few checkpoints")
    # The best checkpoint is kept besides the last ones.
    needed = count + (args.metric_for_best_model is not None)
    if args.save_total_limit is not None and 0 < args.save_total_limit < needed:
        reason = f"{count} checkpoints need save_total_limit={needed}" + (
            ", one of them for the best" * (needed > count)
        )
        raise InputError(f"average_checkpoints: {reason}, but it is {args.save_total_limit}")
    if args.load_best_model_at_end:
        raise InputError("average_checkpoints: does not go together with load_best_model_at_end, which takes one")


def check_averaging_run(trainer: Any, is_search: bool) -> None:
    """Raises InputError for averaging where checkpoints are sharded, or in a hyperparameter search.

    accelerate's configuration may choose FSDP or DeepSpeed; the Trainer knows that once it is made. A search compares
    the models before they are averaged.
    """
    if trainer.args.average_checkpoints is None:
        return
    if trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled:
        raise InputError("average_checkpoints: does not go together with FSDP and DeepSpeed")
    if is_search:
        raise InputError("average_checkpoints: does not go together with a hyperparameter search")


class CheckCount(TrainerCallback):
    """Before the first step, raises InputError if the run will save fewer checkpoints than are to be averaged."""

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Count the checkpoints to come; those of a resumed run are there already."""
        count = getattr(args, "average_checkpoints", None)
        if count is None or state.global_step:
            return
        by_steps = args.save_strategy.value == "steps"
        saved = -(-state.max_steps // max(1, state.save_steps)) if by_steps else state.num_train_epochs
        if saved < count:
            raise InputError(f"average_checkpoints: the run saves {saved} of {count} checkpoints; save more often")


def average_last(trainer: Any, run_dir: Path) -> None:
    """Give the model the mean of the weights of the last checkpoints of a run that has ended.

    Only the files are read, so a run that was interrupted ends with the same weights as one that was not.

    Args:
        trainer: its args have `average_checkpoints`, the number of checkpoints; its writer knows those of an earlier
            run in the same directory, which may have the same settings and other first weights.
        run_dir: the directory of the checkpoints.

    Raises:
        RunError: there are fewer checkpoints of these settings, or one is damaged; the message says how to go on.
        InputError: one does not match the model.
    """
    count, last = trainer.args.average_checkpoints, trainer.state.global_step
    reached = [
        each for each in checkpoints_in(run_dir) if step_of(each) <= last and each not in trainer.writer.earlier
    ]
    own = [each for each in reached if run_of(each) == run_of(reached[-1])][-count:]
    if len(own) < count:
        raise RunError(
            f"average_checkpoints: {run_dir} has {len(own)} of {count} checkpoints of this run; resume with fewer, or "
            "without this option"
        )
    for each in own:
        if fault := fault_of(each):
            raise RunError(f"average_checkpoints: {each} is damaged: {fault}")
        check_weights(each, trainer.model)
    average(trainer.model, [Path(each) for each in own])
    if trainer.args.should_log:
        steps = ", ".join(str(step_of(each)) for each in own)
        logger.info("weights: the mean of the checkpoints of the steps %s", steps)


def run_of(checkpoint: str) -> str | None:
    """The name of the run that wrote a checkpoint."""
    return read_object(Path(checkpoint, IDENTITY)).get("run")


@torch.no_grad()
def average(model: nn.Module, checkpoints: Sequence[Path]) -> None:
    """Set the weights of a model, or of its adapters, to the mean of those in checkpoints."""
    if hasattr(model, "peft_config"):
        from peft import set_peft_model_state_dict

        names = [name for _, name in adapters_in(checkpoints[0], model)]
        for index, name in enumerate(names):
            folders = [[*adapters_in(each, model)][index][0] for each in checkpoints]
            mean = dict(means([adapter_files(each) for each in folders]))
            set_peft_model_state_dict(model, mean, adapter_name=name)
        return
    own = model.state_dict()
    for name, mean in means([model_files(each) for each in checkpoints]):
        own[name].copy_(mean)


def means(files: Sequence[dict[str, Path]]) -> Iterator[tuple[str, torch.Tensor]]:
    """The mean of each tensor over checkpoints, computed in float64; `files` have the file of each tensor."""
    for name in files[0]:
        total: torch.Tensor | float = 0.0
        for each in files:
            with safe_open(each[name], "pt") as file:
                tensor = file.get_tensor(name)
            total = total + tensor.double()
        assert isinstance(total, torch.Tensor)
        # Buffers of whole numbers, such as counts, are those of the last checkpoint.
        yield name, (total / len(files)).to(tensor.dtype) if tensor.is_floating_point() else tensor


def model_files(checkpoint: Path) -> dict[str, Path]:
    """The file of each tensor of a model, in one file or in shards."""
    if (checkpoint / SAFE_WEIGHTS_NAME).is_file():
        return names_in(checkpoint / SAFE_WEIGHTS_NAME)
    if not (checkpoint / SAFE_WEIGHTS_INDEX_NAME).is_file():
        raise RunError(f"average_checkpoints: {checkpoint} has no {SAFE_WEIGHTS_NAME}")
    shards = load_object(checkpoint / SAFE_WEIGHTS_INDEX_NAME)["weight_map"]
    return {name: checkpoint / shard for name, shard in shards.items()}


def adapter_files(directory: Path) -> dict[str, Path]:
    """The file of each tensor of an adapter."""
    return names_in(directory / ADAPTER_SAFE_WEIGHTS_NAME)


def names_in(path: Path) -> dict[str, Path]:
    """The names of the tensors in a file, each with the file."""
    with safe_open(path, "pt") as file:
        return dict.fromkeys(file.keys(), path)
