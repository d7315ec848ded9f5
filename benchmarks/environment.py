"""What a machine has, and which attention kernels run on it: `python -m seqblend.benchmarks.environment`.

`benchmarks/on_gpu.sh` calls it before it measures anything. The report (report.py) reads its `machine` and `versions`.
"""

import argparse
import configparser
import json
import platform
import re
import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel, varlen
from torch.nn.functional import scaled_dot_product_attention

from ..modeling.attention import VARLEN_OPTIONS
from .cases import DTYPES
from .report import machine, versions
from .timing import Workload, alternate

ROOT = Path(__file__).parent.parent
# Two sequences, four query heads, and two key-value heads where keys are grouped.
LENGTHS, HEADS, GROUPED, HEAD_DIM, WINDOW = (96, 160), 4, 2, 64, 32
# Sides of the square matrices of a product, and bytes of a copy: they fill a GPU, and are quick on a CPU.
CEILING_SIZES = {"cpu": (512, 2**24), "cuda": (8192, 2**31)}
REPEATS = 7


def describe(device: torch.device) -> dict[str, Any]:
    """The machine, its versions, what differs from constraints.txt, its ceilings, and the attention kernels."""
    return {
        "machine": machine(device.type),
        "versions": versions(),
        "python": platform.python_version(),
        **(cuda_facts(device) if device.type == "cuda" else {}),
        "differs_from_constraints": differences(ROOT / "setup.cfg", ROOT / "constraints.txt"),
        "ceilings": ceilings(device),
        "varlen_options": sorted(VARLEN_OPTIONS),
        "kernels": {name: try_kernel(kernel) for name, kernel in attention_kernels(device).items()},
    }


def cuda_facts(device: torch.device) -> dict[str, Any]:
    """Versions and sizes of the GPU."""
    properties = torch.cuda.get_device_properties(device)
    return {
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "capability": f"{properties.major}.{properties.minor}",
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "multiprocessors": properties.multi_processor_count,
    }


def differences(setup: Path, constraints: Path) -> dict[str, list[str | None]]:
    """The packages that are needed and have another version than they are tested with: that one, and the one here.

    Args:
        setup: setup.cfg, which names the packages.
        constraints: constraints.txt, which has the versions.
    """
    config = configparser.ConfigParser()
    config.read(setup, encoding="utf-8")
    needed = re.findall(r"^([\w.-]+)", config.get("options", "install_requires"), re.MULTILINE)
    text = constraints.read_text(encoding="utf-8").lower()
    pins = dict(re.findall(r"^([\w.-]+)==([^\s;]+)", text, re.MULTILINE))
    found = {name: installed(name) for name in needed}
    return {name: [pins[name], found[name]] for name in needed if found[name] != pins[name]}


def installed(package: str) -> str | None:
    """The installed version of a package, without the build that follows a plus; None if there is none."""
    try:
        return version(package).partition("+")[0]
    except PackageNotFoundError:
        return None


def attention_kernels(device: torch.device) -> dict[str, Callable[[], dict[str, float]]]:
    """A check of each kernel by its name: forward and backward in bfloat16, with the error beside float64."""
    checks = {
        "varlen": partial(check_kernel, device, partial(run_varlen, window=None)),
        "varlen, window": partial(check_kernel, device, partial(run_varlen, window=WINDOW), window=WINDOW),
        "varlen, grouped keys": partial(check_kernel, device, partial(run_varlen, window=None), key_heads=GROUPED),
    }
    for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION):
        checks[f"sdpa, {backend.name}"] = partial(check_kernel, device, partial(run_sdpa, backend=backend))
    checks["flash-attn"] = partial(check_kernel, device, run_flash_attn)
    return checks


def try_kernel(check: Callable[[], dict[str, float]]) -> dict[str, Any]:
    """The figures of a kernel, or why it does not run: whatever a library raises, the others are still checked."""
    try:
        return check()
    except Exception as error:
        return {"failed": f"{type(error).__name__}: {error}"[:300]}


def check_kernel(
    device: torch.device, kernel: Callable[..., torch.Tensor], *, window: int | None = None, key_heads: int = HEADS
) -> dict[str, float]:
    """Relative errors of a kernel's output and of the gradients, beside float64.

    Args:
        device: where it runs.
        kernel: takes queries (N, H, D), keys and values (N, K, D), and the starts of the sequences.
        window: number of tokens on each side that a query attends to; None: all.
        key_heads: K.
    """
    generator = torch.Generator().manual_seed(0)
    total = sum(LENGTHS)
    states = [torch.randn(total, heads, HEAD_DIM, generator=generator) for heads in (HEADS, key_heads, key_heads)]
    half = [tensor.to(device, torch.bfloat16).requires_grad_() for tensor in states]
    exact = [tensor.detach().cpu().double().requires_grad_() for tensor in half]
    starts = torch.tensor([0, *LENGTHS]).cumsum(0).int().to(device)
    outputs = []
    for inputs, output in ((half, kernel(*half, starts)), (exact, exact_attention(*exact, window))):
        output.backward(torch.ones_like(output))
        outputs.append([output, *(tensor.grad for tensor in inputs)])
    names = ("output", "query", "key", "value")
    return {name: relative_error(*pair) for name, *pair in zip(names, *outputs, strict=True)}


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """The distance from what is expected, in parts of its norm."""
    return float((actual.detach().cpu().double() - expected.detach()).norm() / expected.detach().norm())


def exact_attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, window: int | None) -> torch.Tensor:
    """Attention of the sequences in LENGTHS, each by itself, in plain PyTorch."""
    key, value = (states.repeat_interleave(query.shape[1] // states.shape[1], dim=1) for states in (key, value))
    blended = []
    for queries, keys, values in zip(*(states.split(LENGTHS) for states in (query, key, value)), strict=True):
        scores = torch.einsum("thd,shd->hts", queries, keys) * HEAD_DIM**-0.5
        if window is not None:
            places = torch.arange(len(queries))
            scores = scores.masked_fill((places - places[:, None]).abs() > window, -torch.inf)
        blended.append(torch.einsum("hts,shd->thd", scores.softmax(-1), values))
    return torch.cat(blended)


def run_varlen(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, starts: torch.Tensor, window: int | None
) -> torch.Tensor:
    """The varlen kernel of torch, with the options that it has: it may take grouped keys without a word."""
    options: dict[str, Any] = {}
    if window is not None:
        options["window_size"] = (window, window)
    if "enable_gqa" in VARLEN_OPTIONS and key.shape[1] != query.shape[1]:
        options["enable_gqa"] = True
    longest = max(LENGTHS)
    return varlen.varlen_attn(query, key, value, starts, starts, longest, longest, **options)


def run_sdpa(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, starts: torch.Tensor, backend: SDPBackend
) -> torch.Tensor:
    """A backend of SDPA, one sequence at a time."""
    blended = []
    with sdpa_kernel(backend):
        for sequence in zip(*(states.split(LENGTHS) for states in (query, key, value)), strict=True):
            rows = (states.transpose(0, 1)[None] for states in sequence)
            blended.append(scaled_dot_product_attention(*rows)[0].transpose(0, 1))
    return torch.cat(blended)


def run_flash_attn(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, starts: torch.Tensor) -> torch.Tensor:
    """The package flash-attn, if it is installed."""
    from flash_attn import flash_attn_varlen_func

    return flash_attn_varlen_func(query, key, value, starts, starts, max(LENGTHS), max(LENGTHS))


def ceilings(device: torch.device) -> dict[str, float]:
    """The most that the device does: bfloat16 operations of a matrix product, and bytes read and written by a copy.

    In 10¹² a second, on random numbers; the median of several runs after one to warm up.
    """
    side, num_bytes = CEILING_SIZES[device.type]
    left, right = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    source = torch.randn(num_bytes // 2, device=device, dtype=torch.bfloat16)
    target = torch.empty_like(source)
    workloads: dict[str, Workload] = {
        "matrix_product": lambda: left @ right,
        "copy": lambda: target.copy_(source),
    }
    amounts = {"matrix_product": 2 * side**3, "copy": 2 * num_bytes}
    seconds = alternate(workloads, REPEATS + 1, device)
    return {name: round(amounts[name] / median(seconds[name][1:]) / 1e12, 4) for name in workloads}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what the machine has as JSON, and write it into a file."""
    parser = argparse.ArgumentParser(prog="python -m seqblend.benchmarks.environment", description=__doc__)
    parser.add_argument("--device", choices=DTYPES, default="cpu")
    parser.add_argument("--json", type=Path, metavar="FILE", help="file for the description")
    args = parser.parse_args(arguments)
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no GPU; valid here: cpu")
    text = json.dumps(describe(torch.device(args.device)), indent=1)
    print(text)
    if args.json is not None:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
