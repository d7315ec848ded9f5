"""Tables of what the benchmarks measured."""

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("torch", "transformers", "x-transformers")
HEADINGS = {
    "benchmark": "benchmark",
    "size": "size",
    "dtype": "dtype",
    "recipe": "recipe",
    "architecture": "architecture",
    "attention": "attention",
    "tokens": "tokens",
    "batch": "batch",
    "beams": "beams",
    "fill": "fill",
    "system": "system",
    "milliseconds": "ms",
    "real_tokens_per_second": "real tokens / s",
    "peak_memory_mib": "MiB",
    "ours_faster_by": "ours faster by",
    "of_floor": "of the floor",
    "utilisation": "utilisation",
}
DIGITS = {"milliseconds": 1, "real_tokens_per_second": 0, "peak_memory_mib": 0, "ours_faster_by": 2, "of_floor": 2}


def table(rows: list[dict[str, Any]]) -> str:
    """The rows of one benchmark as a Markdown table whose columns stand below each other."""
    keys = [key for key in HEADINGS if key != "benchmark" and any(key in row for row in rows)]
    lines = [[HEADINGS[key] for key in keys], *([cell(row, key) for key in keys] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(keys))]
    lines.insert(1, ["-" * width for width in widths])
    padded = [[text.ljust(width) for text, width in zip(line, widths, strict=True)] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in padded)


def cell(row: dict[str, Any], key: str) -> str:
    """A figure of a row as the table shows it; empty where the row has none."""
    value = row.get(key)
    if value is None:
        return ""
    return f"{value:,.{DIGITS[key]}f}" if key in DIGITS else str(value)


def environment(device: str) -> str:
    """The machine and the versions that a run's figures are of."""
    return f"{machine(device)}; {', '.join(versions())}"


def machine(device: str) -> str:
    """The GPU, or the CPU with its instructions and the number of threads."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    cpu_info = Path("/proc/cpuinfo")
    lines = cpu_info.read_text(encoding="utf-8").splitlines() if cpu_info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = models[0] if models else platform.processor() or platform.machine()
    return f"{name} ({torch.backends.cpu.get_cpu_capability()}), {torch.get_num_threads()} threads"


def versions() -> list[str]:
    """The packages that were compared, as far as they are installed."""
    found = []
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return found
