"""What seqblend-predict holds as text flows through it: `python tests/check_memory.py TASK MEGABYTES [FLAG …]`.

An untrained tiny model of the task reads lines of 5 to 5000 words from a pipe. A line is printed for each tenth of the
megabytes, and the most that was held. Linux only: the memory of the process is read from /proc.
"""

import random
import re
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from seqblend.tasks.registry import TASKS
from seqblend.tokenization.training import train_tokenizer
from seqblend.training.models import ARCHITECTURES, special_token_ids

WORDS = [
    *("the", "quick", "brown", "fox", "jumps", "over", "lazy", "dogs"),
    *("서울에서", "만나요", ",", ".", "👨\u200d👩\u200d👧", "é"),
]
SIZES = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


def save_model(task: str, directory: str) -> None:
    tokenizer = train_tokenizer(WORDS, "wordpiece", 300, adds_special_tokens=task != "causal-lm")
    config_class = ARCHITECTURES[TASKS[task].architecture]
    fields = {**SIZES, **special_token_ids(tokenizer), "vocab_size": len(tokenizer), "num_labels": 5}
    config = config_class.from_recipe(**{name: fields[name] for name in fields if name in config_class.options()})
    torch.manual_seed(0)
    TASKS[task].auto_class.from_config(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def lines(size: int) -> Iterator[bytes]:
    """Lines of about as many bytes together."""
    generator = random.Random(0)
    while size > 0:
        words = generator.choices(WORDS, k=generator.choice((5, 20, 100, 500, 5000)))
        line = " ".join(words).encode() + b"\n"
        size -= len(line)
        yield line


def check(task: str, megabytes: float, flags: list[str]) -> None:
    """Feed a process and print what it holds."""
    size, written = int(megabytes * 1e6), 0
    with tempfile.TemporaryDirectory() as directory:
        save_model(task, directory)
        command = [sys.executable, "-m", "seqblend.predict", directory, "--input", "-", *flags]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
            for line in lines(size):
                process.stdin.write(line)
                if (written + len(line)) * 10 // size > written * 10 // size:
                    status = Path(f"/proc/{process.pid}/status").read_text()
                    held = int(re.search(r"VmRSS:\s*(\d+)", status)[1]) // 1024
                    print(f"{(written + len(line)) / 1e6:8.1f} MB read, {held} MiB held", flush=True)
                written += len(line)
    assert process.returncode == 0, process.returncode
    print(f"at most {resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024} MiB", flush=True)


if __name__ == "__main__":
    check(sys.argv[1], float(sys.argv[2]), sys.argv[3:])
