"""Where the time of a training step goes: `python -m seqblend.benchmarks.profiling`.

torch's profiler measures each kernel of a GPU, or each operation of a CPU; they are added up by what they do.
"""

import argparse
import json
import re
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from .cases import DTYPES, LARGE_ENCODERS, SEQ2SEQ_PEERS, TINY, pair_row, text_row
from .compare import build_optimizer, train
from .lengths import BatchLengths, Corpus, fill_ratio, load_corpora, natural_batches, pad
from .systems import OURS, Size, System, bert_classifiers, marian
from .timing import synchronize

# What a kernel or an operation does, by its name: the first that matches.
GROUPS = {
    "attention": "flash|fmha|attention|softmax_warp",
    "matrix products": "gemm|cutlass|cublas|nvjet|xmma|splitk|addmm|aten::mm|bmm",
    "loss": "softmax|nll_loss|cross_entropy",
    "normalization": "norm",
    "optimizer": "adam|multi_tensor",
    "embeddings and moves of tokens": "embedding|index|gather|scatter|sort|scan|repeat_interleave|nonzero",
    "copies": "copy|memcpy|memset|fill|cat|zero",
    "element by element": "elementwise|gelu|relu|add|mul|div|reduce|sum",
}
OTHER = "the rest"
SIZES = {"cpu": TINY, "cuda": LARGE_ENCODERS[-1]}
SEQ2SEQ_SIZES = {"cpu": TINY, "cuda": Size(6, 512, batch_rows=1024)}
NUM_KERNELS = 12


def group_of(kernel: str) -> str:
    """The group of a kernel or an operation."""
    return next((group for group, names in GROUPS.items() if re.search(names, kernel, re.IGNORECASE)), OTHER)


def workloads(device: str, corpora: dict[str, Corpus]) -> Iterator[tuple[str, str, Size, BatchLengths, System]]:
    """Benchmark, recipe, size, batch lengths and our system of what is profiled."""
    torch.manual_seed(0)
    size = SIZES[device]
    lengths = natural_batches(corpora["texts"].rows, 1, size.batch_rows)
    rows = [text_row(length, size, True) for (length,) in lengths[0]]
    yield "encoder-train", "bert", size, lengths, System(OURS, bert_classifiers(size)[0], [pad(rows)])
    size, recipe = SEQ2SEQ_SIZES[device], next(iter(SEQ2SEQ_PEERS))
    lengths = natural_batches(corpora["pairs"].rows, 1, size.batch_rows)
    rows = [pair_row(pair, size) for pair in lengths[0]]
    yield "seq2seq-train", recipe, size, lengths, System(OURS, marian(size)[0], [pad(rows)])


def profile_training(
    device: torch.device, benchmark: str, recipe: str, size: Size, lengths: BatchLengths, system: System
) -> list[dict[str, Any]]:
    """Rows for the report: milliseconds of a step by group, the largest first, and the largest kernels of each group.

    The row without a group has the time of the whole step on the clock. A GPU that waits is busy for less than that.
    """
    dtype = DTYPES[device.type][-1]
    model = system.model.to(device, dtype).train()
    batches = [{name: tensor.to(device) for name, tensor in batch.items()} for batch in system.batches]
    step = partial(train, model, batches, build_optimizer(model))
    for _ in range(3):
        step()
    synchronize(device)
    start = time.perf_counter()
    step()
    synchronize(device)
    seconds = time.perf_counter() - start
    kinds = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.type == "cuda")
    with profile(activities=kinds) as profiler:
        step()
        synchronize(device)
    common = {
        "benchmark": "profile",
        "profiled": benchmark,
        "size": size.name,
        "dtype": str(dtype).removeprefix("torch."),
        "recipe": recipe,
        "fill": round(fill_ratio(lengths), 3),
    }
    whole = {**common, "group": "the step on the clock", "milliseconds": round(1000 * seconds, 3)}
    return [whole, *({**common, **row} for row in by_group(kernel_times(profiler, device)))]


def kernel_times(profiler: profile, device: torch.device) -> dict[str, float]:
    """Milliseconds of each kernel on a GPU, or of each operation on a CPU without those that it calls."""
    milliseconds: dict[str, float] = defaultdict(float)
    for event in profiler.events():
        if device.type == "cpu":
            milliseconds[event.name] += event.self_cpu_time_total / 1000
        # An annotation spans kernels that are events of their own.
        elif event.device_type == DeviceType.CUDA and not event.is_user_annotation:
            milliseconds[event.name] += event.time_range.elapsed_us() / 1000
    return milliseconds


def by_group(milliseconds: dict[str, float]) -> list[dict[str, Any]]:
    """Time of each group, its share of all, and its largest kernels, the largest group first."""
    groups: dict[str, dict[str, float]] = defaultdict(dict)
    for kernel, time_taken in milliseconds.items():
        groups[group_of(kernel)][kernel] = time_taken
    total = sum(milliseconds.values())
    rows = []
    for group, kernels in sorted(groups.items(), key=lambda each: -sum(each[1].values())):
        largest = sorted(kernels.items(), key=lambda each: -each[1])[:NUM_KERNELS]
        rows.append(
            {
                "group": group,
                "milliseconds": round(sum(kernels.values()), 3),
                "share": round(sum(kernels.values()) / total, 3),
                "kernels": {kernel[:160]: round(time_taken, 3) for kernel, time_taken in largest},
            }
        )
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Profile the training of an encoder and of an encoder-decoder, and write the rows as JSON."""
    parser = argparse.ArgumentParser(prog="python -m seqblend.benchmarks.profiling", description=__doc__)
    parser.add_argument("--device", choices=DTYPES, default="cpu")
    parser.add_argument("--data", type=Path, metavar="DIR", help="as of the benchmarks")
    parser.add_argument("--json", type=Path, metavar="FILE", required=True, help="file for the rows")
    args = parser.parse_args(arguments)
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no GPU; valid here: cpu")
    rows: list[dict[str, Any]] = []
    for workload in workloads(args.device, load_corpora(args.data)):
        rows += profile_training(torch.device(args.device), *workload)
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    for row in rows:
        print(row["profiled"], row["group"], row["milliseconds"], row.get("share", ""))
    return 0


if __name__ == "__main__":
    sys.exit(main())
