"""Measure systems side by side, in each dtype."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import nn

from .lengths import Batch, BatchLengths, Corpus, fill_ratio, num_tokens
from .systems import OURS, Size, System, check_agreement
from .timing import Workload, alternate, matmul_floor, peak_memory, utilisation

Result = dict[str, Any]
FLOOR_REPEATS = 3


@dataclass(frozen=True)
class Plan:
    """Device, data types, sizes and data of a run of the benchmarks.

    Args:
        device: device of models and batches.
        dtypes: data types of weights and activations.
        sizes: sizes by benchmark.
        corpora: `texts` and `pairs`, the datasets whose row lengths are used.
        new_tokens: number of tokens that `generate` generates per row.
        written_tokens: the same for `serve-write`.
        sequence_lengths: sequence lengths of `growth`; a batch of each has as many tokens as the longest.
        sliding_window: window of the sliding layers of `growth`.
        data: directory of the datasets that `finetune` trains on; None for random rows with their lengths.
        checkpoint: directory of the checkpoint that `finetune` starts from; None for random weights.
        whole_epochs: whether an epoch of `finetune` has all rows; otherwise it has as many batches as its size says.
    """

    device: torch.device
    dtypes: tuple[torch.dtype, ...]
    sizes: dict[str, tuple[Size, ...]]
    corpora: dict[str, Corpus]
    new_tokens: int = 16
    written_tokens: int = 48
    sequence_lengths: tuple[int, ...] = (128, 512, 2048, 8192)
    sliding_window: int = 64
    data: Path | None = None
    checkpoint: Path | None = None
    whole_epochs: bool = False


class Case(NamedTuple):
    """What all systems of a comparison share.

    Args:
        benchmark: name of the benchmark.
        recipe: recipe of our model.
        size: size of all models.
        batch_lengths: lengths of the rows of each batch.
        keys: further columns that identify the results.
        token_count: number of tokens of a run over all batches, for tokens per second; None: the real tokens.
    """

    benchmark: str
    recipe: str
    size: Size
    batch_lengths: BatchLengths
    keys: dict[str, Any] = {}
    token_count: int | None = None

    @property
    def tokens(self) -> int:
        return num_tokens(self.batch_lengths) if self.token_count is None else self.token_count


def in_each_dtype(plan: Plan, systems: list[System]) -> Iterator[torch.dtype]:
    """Move the systems to the plan's device in each dtype, after check_agreement there in float32."""
    for system in systems:
        system.model.to(plan.device, torch.float32)
        system.batches = [{name: tensor.to(plan.device) for name, tensor in batch.items()} for batch in system.batches]
    check_agreement(systems)
    for dtype in plan.dtypes:
        for system in systems:
            system.model.to(dtype)
        yield dtype


def compare(plan: Plan, case: Case, dtype: torch.dtype, workloads: dict[str, Workload]) -> list[Result]:
    """Measure memory and time of workloads; see `compare_times`."""
    # This is also the warm-up run, which selects kernels and allocates memory.
    memory = {name: peak_memory(workload, plan.device) for name, workload in workloads.items()}
    rows = compare_times(plan, case, dtype, workloads)
    for row in rows:
        row["peak_memory_mib"] = round(memory[row["system"]], 1)
    return rows


def compare_times(plan: Plan, case: Case, dtype: torch.dtype, workloads: dict[str, Workload]) -> list[Result]:
    """Time workloads side by side, ours first; each is a run over all batches of the case.

    Returns:
        A row for each workload, with milliseconds per batch.
    """
    runs = alternate(workloads, case.size.repeats, plan.device)
    seconds = {name: median(times) for name, times in runs.items()}
    common = {
        "benchmark": case.benchmark,
        "size": case.size.name,
        "dtype": str(dtype).removeprefix("torch."),
        "recipe": case.recipe,
        "fill": round(fill_ratio(case.batch_lengths), 3),
        **case.keys,
    }
    rows = [
        {
            **common,
            "system": name,
            "milliseconds": round(1000 * seconds[name] / len(case.batch_lengths), 3),
            "real_tokens_per_second": round(case.tokens / seconds[name], 1),
        }
        for name in workloads
    ]
    for row in rows[1:]:
        row["ours_faster_by"] = round(seconds[row["system"]] / seconds[OURS], 3)
    return rows


def compare_training(plan: Plan, case: Case, systems: list[System]) -> list[Result]:
    """Measure training steps of the systems in each dtype."""
    rows = []
    for dtype in in_each_dtype(plan, systems):
        optimizers = {model: build_optimizer(model) for model in {system.model for system in systems}}
        workloads = {
            system.name: partial(train, system.model.train(), system.batches, optimizers[system.model])
            for system in systems
        }
        compared = compare(plan, case, dtype, workloads)
        if case.benchmark == "encoder-train":
            compared[0]["of_floor"] = round(share_of_floor(plan, case, systems[0]), 3)
        # Not for encoder-decoders: each token goes through one of their two stacks only.
        if plan.device.type == "cuda" and not systems[0].model.config.is_encoder_decoder:
            for row in compared:
                row["utilisation"] = utilisation(
                    systems[0].model, case.batch_lengths, row["milliseconds"], plan.device
                )
        rows += compared
    return rows


def build_optimizer(model: nn.Module) -> torch.optim.Optimizer:
    """Fused AdamW after a step that changes nothing: its state exists and is not measured as memory of later steps."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-5, weight_decay=0.0, fused=True)
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    return optimizer


def train(model: nn.Module, batches: list[Batch], optimizer: torch.optim.Optimizer | None = None) -> None:
    """One training step per batch; without an optimizer, only forward and backward."""
    for batch in batches:
        model(**batch).loss.backward()
        if optimizer is not None:
            optimizer.step()
        model.zero_grad()


@torch.inference_mode()
def infer(model: nn.Module, batches: list[Batch]) -> None:
    """One forward per batch."""
    model.eval()
    for batch in batches:
        model(**batch)


def share_of_floor(plan: Plan, case: Case, system: System) -> float:
    """Best time of the floor divided by the best time of our steps without the optimizer."""
    batch_tokens = [num_tokens([batch]) for batch in case.batch_lengths]
    workloads: dict[str, Workload] = {
        "steps": partial(train, system.model, system.batches),
        "floor": matmul_floor(system.model.model, batch_tokens),
    }
    seconds = alternate(workloads, FLOOR_REPEATS, plan.device)
    return min(seconds["floor"]) / min(seconds["steps"])
