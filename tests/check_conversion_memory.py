"""What from_original holds while it reads: `python tests/check_conversion_memory.py` prints a table.

Stock models of published sizes with random weights are saved and read, each in a process of its own. What counts is
memory that is not a mapped file (RssAnon), every five milliseconds, without that of the imports. Linux only.
"""

import json
import re
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import torch
import transformers

# The class, its configuration, and the dtype of the file.
MODELS = {
    "BertForMaskedLM": ({}, torch.float32),
    "GPT2LMHeadModel": ({}, torch.float32),
    "LlamaForCausalLM": (
        {"hidden_size": 1024, "num_hidden_layers": 8, "num_attention_heads": 16, "intermediate_size": 2816},
        torch.bfloat16,
    ),
}
AUTO = {"BertForMaskedLM": "AutoModelForMaskedLM"}


def held() -> int:
    """Bytes of this process that are not of a file."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"RssAnon:\s*(\d+)", status)[1]) * 1024


def read(directory: str, auto_class: str) -> None:
    """Read a checkpoint and print the most that was held meanwhile, and the bytes of the model."""
    import seqblend

    transformers.logging.set_verbosity_error()
    before, most, done = held(), 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.wait(0.005):
            most = max(most, held() - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    model = seqblend.from_original(directory, getattr(transformers, auto_class))
    done.set()
    watcher.join()
    print(json.dumps([most, sum(each.numel() * each.itemsize for each in model.parameters())]))


def main() -> None:
    print("| stock class | file | checkpoint, MB | model, MB | held beside mapped files, MB |")
    print("|---|---|---|---|---|")
    for name, (options, dtype) in MODELS.items():
        stock_class = getattr(transformers, name)
        with tempfile.TemporaryDirectory() as directory:
            stock_class(stock_class.config_class(**options)).to(dtype).save_pretrained(
                directory, max_shard_size="200MB"
            )
            size = sum(path.stat().st_size for path in Path(directory).glob("*.safetensors"))
            command = [sys.executable, __file__, directory, AUTO.get(name, "AutoModelForCausalLM")]
            printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            most, model = json.loads(printed.splitlines()[-1])
        kind = str(dtype).removeprefix("torch.")
        print(f"| {name} | {kind} | {size / 1e6:.0f} | {model / 1e6:.0f} | {most / 1e6:.0f} |", flush=True)


if __name__ == "__main__":
    read(*sys.argv[1:]) if len(sys.argv) > 1 else main()
