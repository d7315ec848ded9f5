"""Time and memory of a workload, its floor, and the utilisation of the device."""

import json
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from .lengths import BatchLengths

Workload = Callable[[], Any]

# Dense bfloat16 FLOPS from NVIDIA's data sheets. The first key that is a part of the device's name is used.
PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12, "A10": 125e12}


def alternate(workloads: dict[str, Workload], repeats: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of each repetition. The workloads take turns, so a slow phase of the machine affects all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in workloads}
    for _ in range(repeats):
        for name, workload in workloads.items():
            synchronize(device)
            start = time.perf_counter()
            workload()
            synchronize(device)
            seconds[name].append(time.perf_counter() - start)
    return seconds


def synchronize(device: torch.device) -> None:
    """Wait for all queued operations of the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory(workload: Workload, device: torch.device) -> float:
    """Peak memory of the workload in MiB, above what was allocated before (weights, batches, optimizer state)."""
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        workload()
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        workload()
    return peak_of_trace(profiler) / 2**20


def peak_of_trace(profiler: profile) -> int:
    """Peak number of bytes allocated at a time, from the profiler's memory events."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "trace.json")
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    changes = sorted((event["ts"], event["args"]["Bytes"]) for event in events if event["name"] == "[memory]")
    allocated = peak = 0
    for _, change in changes:
        allocated += change
        peak = max(peak, allocated)
    return peak


def token_matrices(model: nn.Module) -> list[nn.Parameter]:
    """The weights of all linear layers, by which every token is multiplied."""
    return [module.weight for module in model.modules() if isinstance(module, nn.Linear)]


def matmul_floor(model: nn.Module, batch_tokens: Iterable[int]) -> Workload:
    """A workload of only the matrix products of all linear layers, forward and backward.

    Args:
        model: model whose weights are used.
        batch_tokens: number of tokens of each batch.
    """
    weights, batch_tokens = [weight.detach() for weight in token_matrices(model)], list(batch_tokens)
    widths = {width for weight in weights for width in weight.shape}
    states = {(n, width): torch.randn(n, width).to(weights[0]) for n in batch_tokens for width in widths}

    def multiply() -> None:
        for tokens in batch_tokens:
            for weight in weights:
                outputs, inputs = (states[tokens, width] for width in weight.shape)
                inputs @ weight.T, outputs @ weight, outputs.T @ inputs

    return multiply


def utilisation(
    model: nn.Module, batch_lengths: BatchLengths, milliseconds: float, device: torch.device
) -> float | None:
    """Model FLOPs utilisation: operations of the training steps, divided by the device's peak in that time.

    Six operations per token and matrix entry; twelve per pair of tokens of a sequence, feature and layer
    (Chowdhery et al. 2022, appendix B).

    Args:
        model: our model, with one stack.
        batch_lengths: lengths of the rows of each batch.
        milliseconds: time per batch.
        device: a GPU; the result is None if PEAK_FLOPS does not have it.
    """
    name, config = torch.cuda.get_device_name(device), model.config
    lengths = [length for batch in batch_lengths for row in batch for length in row]
    matrices = 6 * sum(weight.numel() for weight in token_matrices(model)) * sum(lengths)
    attention = 12 * config.num_hidden_layers * config.hidden_size * sum(length**2 for length in lengths)
    seconds = milliseconds * len(batch_lengths) / 1000
    for part, peak in PEAK_FLOPS.items():
        if part in name:
            return round((matrices + attention) / seconds / peak, 3)
    return None
