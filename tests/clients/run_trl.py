"""Train a decoder of ours by TRL's SFTTrainer on three forms of the same texts, where the package is not installed.

    python tests/clients/run_trl.py DECODER TEXTS WORK

DECODER is a saved decoder (of run_examples.py), TEXTS a .jsonl file with a column "text". Prints what it measured.
"""

import sys
import time
from importlib.util import find_spec
from pathlib import Path

import datasets
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback
from trl import SFTConfig, SFTTrainer

FORMS = {
    "padded": {"max_length": 128},
    "padding-free": {"padding_free": True, "max_length": None},
    "packed": {"packing": True, "max_length": 128},
}


def main() -> None:
    if find_spec("seqblend"):
        sys.exit("seqblend is installed: the saved code would not be opened")
    decoder, texts, work = map(Path, sys.argv[1:])
    rows = datasets.load_dataset("json", data_files=str(texts), split="train").select(range(1600))
    for form, options in FORMS.items():
        torch.manual_seed(0)
        tokenizer = AutoTokenizer.from_pretrained(decoder, trust_remote_code=True)
        model = AutoModelForCausalLM.from_pretrained(decoder, trust_remote_code=True)
        short = rows.filter(lambda row: len(tokenizer(row["text"])["input_ids"]) < 127)  # noqa: B023, read at once
        arguments = SFTConfig(
            str(work / form), max_steps=100, per_device_train_batch_size=16, learning_rate=3e-3, logging_steps=10,
            save_strategy="no", report_to="none", disable_tqdm=True, use_cpu=True, bf16=False,
            gradient_checkpointing=False, **options,
        )  # fmt: skip
        trainer = SFTTrainer(model=model, args=arguments, train_dataset=short, processing_class=tokenizer)
        start = time.perf_counter()
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        seconds = time.perf_counter() - start
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        trainer.save_model()
        again = AutoModelForCausalLM.from_pretrained(work / form, trust_remote_code=True).eval()
        ids = tokenizer(rows[0]["text"], return_tensors="pt")["input_ids"]
        with torch.no_grad():
            difference = (again(ids).logits - trainer.model.eval()(ids).logits).abs().max()
        print(f"{form}: loss {losses[0]:.3f} to {losses[-1]:.3f} in {seconds:.0f} s; opened again: {difference:.1e}")


if __name__ == "__main__":
    main()
