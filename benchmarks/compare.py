"""Run systems side by side, in each dtype, and say what each of them took."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import nn

from .lengths import Batch, Corpus, Drawn, fill, num_tokens
from .systems import OURS, Size, System, check_agreement
from .timing import Work, alternate, floor, peak_memory, utilisation

Result = dict[str, Any]
FLOOR_REPEATS = 3


@dataclass(frozen=True)
class Plan:
    """On what the benchmarks run, and how large.

    Args:
        device: where.
        dtypes: of weights and activations.
        sizes: by benchmark.
        corpora: `texts` and `pairs`, which the rows have their lengths from.
        new_tokens: how many `generate` writes in each row.
        sequence_lengths: those of `growth`; each has as many tokens as the longest.
        sliding_window: reach of its sliding layers.
    """

    device: torch.device
    dtypes: tuple[torch.dtype, ...]
    sizes: dict[str, tuple[Size, ...]]
    corpora: dict[str, Corpus]
    new_tokens: int = 16
    sequence_lengths: tuple[int, ...] = (128, 512, 2048, 8192)
    sliding_window: int = 64


class Case(NamedTuple):
    """What is the same for all systems that are compared with each other.

    Args:
        benchmark: its name.
        recipe: of ours.
        size: of all.
        drawn: lengths of the rows of each batch.
        keys: what else its results are told apart by.
        count: tokens that a run over the batches is counted with; None: the real ones.
    """

    benchmark: str
    recipe: str
    size: Size
    drawn: Drawn
    keys: dict[str, Any] = {}
    count: int | None = None

    @property
    def tokens(self) -> int:
        return num_tokens(self.drawn) if self.count is None else self.count


def in_each_dtype(plan: Plan, systems: list[System]) -> Iterator[torch.dtype]:
    """Put the systems on the plan's device, in one dtype after the other. Equal ones must agree before, in float32."""
    check_agreement(systems)
    for dtype in plan.dtypes:
        for system in systems:
            system.model.to(plan.device, dtype)
            system.batches = [
                {name: tensor.to(plan.device) for name, tensor in batch.items()} for batch in system.batches
            ]
        yield dtype


def compare(plan: Plan, case: Case, dtype: torch.dtype, works: dict[str, Work]) -> list[Result]:
    """Measure works side by side, ours first, each a run over all batches of the case.

    Returns:
        A row for each; milliseconds are those of a batch.
    """
    # Also the first run, in which kernels are chosen and memory is taken from the system.
    memory = {name: peak_memory(work, plan.device) for name, work in works.items()}
    runs = alternate(works, case.size.repeats, plan.device)
    seconds = {name: median(taken) for name, taken in runs.items()}
    head = {
        "benchmark": case.benchmark,
        "size": case.size.name,
        "dtype": str(dtype).removeprefix("torch."),
        "recipe": case.recipe,
        "fill": round(fill(case.drawn), 3),
        **case.keys,
    }
    rows = [
        {
            **head,
            "system": name,
            "milliseconds": round(1000 * seconds[name] / len(case.drawn), 3),
            "real_tokens_per_second": round(case.tokens / seconds[name], 1),
            "peak_memory_mib": round(memory[name], 1),
        }
        for name in works
    ]
    for row in rows[1:]:
        row["ours_faster_by"] = round(seconds[row["system"]] / seconds[OURS], 3)
    return rows


def compare_training(plan: Plan, case: Case, systems: list[System]) -> list[Result]:
    """Training steps of the systems, in each dtype."""
    rows = []
    for dtype in in_each_dtype(plan, systems):
        optimizers = {model: optimizer_of(model) for model in {system.model for system in systems}}
        works = {
            system.name: partial(train, system.model.train(), system.batches, optimizers[system.model])
            for system in systems
        }
        compared = compare(plan, case, dtype, works)
        if case.benchmark == "encoder-train":
            compared[0]["of_floor"] = round(of_floor(plan, case, systems[0]), 3)
        # The tokens of an encoder-decoder go through one of its parts only.
        if plan.device.type == "cuda" and not systems[0].model.config.is_encoder_decoder:
            for row in compared:
                row["utilisation"] = utilisation(systems[0].model, case.drawn, row["milliseconds"], plan.device)
        rows += compared
    return rows


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    """Fused AdamW, after a step that changes nothing: its state is there, and is no part of a later step's memory."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-5, weight_decay=0.0, fused=True)
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    return optimizer


def train(model: nn.Module, batches: list[Batch], optimizer: torch.optim.Optimizer | None = None) -> None:
    """A step for each batch; without an optimizer, forward and backward alone."""
    for batch in batches:
        model(**batch).loss.backward()
        if optimizer is not None:
            optimizer.step()
        model.zero_grad()


@torch.inference_mode()
def infer(model: nn.Module, batches: list[Batch]) -> None:
    """A forward for each batch."""
    model.eval()
    for batch in batches:
        model(**batch)


def of_floor(plan: Plan, case: Case, system: System) -> float:
    """The floor's best time, in parts of the best that our steps take without the optimizer."""
    batch_tokens = [num_tokens([batch]) for batch in case.drawn]
    works: dict[str, Work] = {
        "steps": partial(train, system.model, system.batches),
        "floor": floor(system.model.model, batch_tokens),
    }
    seconds = alternate(works, FLOOR_REPEATS, plan.device)
    return min(seconds["floor"]) / min(seconds["steps"])
