"""What a piece of work takes: time, memory, and the least it could take."""

import json
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from .lengths import Drawn

Work = Callable[[], Any]

# Dense bfloat16 operations a second, from NVIDIA's data sheets, by the first of these parts of the device's name.
PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12, "A10": 125e12}


def alternate(works: dict[str, Work], repeats: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of each repetition. The works take turns, so that what slows the machine down slows all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            synchronize(device)
            start = time.perf_counter()
            work()
            synchronize(device)
            seconds[name].append(time.perf_counter() - start)
    return seconds


def synchronize(device: torch.device) -> None:
    """Wait until all that was asked of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory(work: Work, device: torch.device) -> float:
    """The most that the work holds at a time, in MiB, beyond what was there before: weights, batches, optimizer."""
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        work()
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    return peak_of_trace(profiler) / 2**20


def peak_of_trace(profiler: profile) -> int:
    """The highest sum of the bytes that torch took and gave back."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "trace.json")
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    changes = sorted((event["ts"], event["args"]["Bytes"]) for event in events if event["name"] == "[memory]")
    held = peak = 0
    for _, change in changes:
        held += change
        peak = max(peak, held)
    return peak


def token_matrices(model: nn.Module) -> list[nn.Parameter]:
    """The matrices of a model that every token is multiplied by."""
    return [module.weight for module in model.modules() if isinstance(module, nn.Linear)]


def floor(model: nn.Module, batch_tokens: Iterable[int]) -> Work:
    """The matrix products of all linear layers alone, forward and backward, on batches of so many tokens."""
    weights, batch_tokens = [weight.detach() for weight in token_matrices(model)], list(batch_tokens)
    widths = {width for weight in weights for width in weight.shape}
    states = {(n, width): torch.randn(n, width).to(weights[0]) for n in batch_tokens for width in widths}

    def multiply() -> None:
        for tokens in batch_tokens:
            for weight in weights:
                outputs, inputs = (states[tokens, width] for width in weight.shape)
                inputs @ weight.T, outputs @ weight, outputs.T @ inputs

    return multiply


def utilisation(model: nn.Module, drawn: Drawn, milliseconds: float, device: torch.device) -> float | None:
    """Operations that training steps need, of those that the device could do in the time.

    Six for each token and entry of a matrix; twelve for each pair of tokens of a sequence, feature and layer
    (Chowdhery et al. 2022, appendix B).

    Args:
        model: ours, with one stack.
        drawn: lengths of the rows of each batch.
        milliseconds: of a batch.
        device: a GPU; the result is None for one whose peak is not in PEAK_FLOPS.
    """
    name, config = torch.cuda.get_device_name(device), model.config
    lengths = [length for batch in drawn for row in batch for length in row]
    matrices = 6 * sum(weight.numel() for weight in token_matrices(model)) * sum(lengths)
    attention = 12 * config.num_hidden_layers * config.hidden_size * sum(length**2 for length in lengths)
    seconds = milliseconds * len(drawn) / 1000
    for part, peak in PEAK_FLOPS.items():
        if part in name:
            return round((matrices + attention) / seconds / peak, 3)
    return None
