"""The benchmarks `serve-read` and `serve-write`: our engines beside transformers, ONNX Runtime and CTranslate2."""

import tempfile
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from ..conversion.reading import quiet
from ..conversion.registry import ARCHITECTURES
from .compare import Case, Plan, Result, compare_times
from .lengths import Batch, BatchLengths, natural_batches, natural_prompts, pad, random_tokens
from .systems import OURS, TOLERANCE, Size, bart, bert

# One row of a few tokens.
SHORT = 16
# Each system reads a batch this many times in its turn: the threads of the one before it take a while to sleep.
READS = 10
STOCK_READER, STOCK_WRITER = "BertModel padded", "BartForConditionalGeneration padded"
Read = Callable[[Batch], torch.Tensor]
Write = Callable[[Batch, int, int], list[list[int]]]


def is_installed(*packages: str) -> bool:
    """Whether all packages are installed; a missing one is printed."""
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        print(f"{', '.join(missing)}: not installed (extra `bench`): skipped")
    return not missing


# --- Reading ---


def serve_read(plan: Plan) -> list[Result]:
    """The states of one short row, and of a batch with natural padding, in every engine."""
    rows = []
    for size in plan.sizes["serve-read"]:
        torch.manual_seed(0)
        ours, theirs = (model.eval() for model in bert(size))
        with tempfile.TemporaryDirectory() as directory:
            readers = {OURS: partial(read_torch, ours), STOCK_READER: partial(read_torch, theirs)}
            readers |= onnx_readers(ours, theirs, Path(directory))
            natural = natural_batches(plan.corpora["texts"].rows, 1, size.batch_rows)
            for batch_lengths in ([[(SHORT,)]], natural):
                rows += compare_readers(plan, size, batch_lengths, readers)
    return rows


def compare_readers(plan: Plan, size: Size, batch_lengths: BatchLengths, readers: dict[str, Read]) -> list[Result]:
    """Time the readers on one batch, after a check that all but those in int8 have the same outputs."""
    batch = pad([{"input_ids": random_tokens(length, size.vocab_size)} for (length,) in batch_lengths[0]])
    real = batch["attention_mask"].bool()
    outputs = {name: read(batch)[real] for name, read in readers.items()}
    for name, output in outputs.items():
        error = float((output - outputs[OURS]).abs().max() / outputs[OURS].std())
        assert "int8" in name or error < TOLERANCE, f"{name} differs from ours by {error:.2g}"
    case = Case("serve-read", "bert", size, batch_lengths * READS, {"batch": len(batch_lengths[0])})
    workloads = {name: partial(read_again, read, batch) for name, read in readers.items()}
    return with_stock(compare_times(plan, case, torch.float32, workloads), STOCK_READER)


def read_again(read: Read, batch: Batch) -> None:
    """Read a batch READS times."""
    for _ in range(READS):
        read(batch)


@torch.inference_mode()
def read_torch(model: nn.Module, batch: Batch) -> torch.Tensor:
    """The last hidden states (B, T, E)."""
    return model(**batch).last_hidden_state


def onnx_readers(ours: PreTrainedModel, theirs: PreTrainedModel, directory: Path) -> dict[str, Read]:
    """Our flat graph and the padded graph of the stock model in ONNX Runtime, in float32 and int8."""
    if not is_installed("onnx", "onnxscript", "onnxruntime"):
        return {}
    from onnxruntime.quantization import QuantType, quantize_dynamic

    from ..serving.onnx_engine import load, open_session, quiet_exporter, write

    ours.set_attn_implementation("eager")
    readers: dict[str, Read] = {}
    for name, int8 in {f"{OURS} onnx": False, f"{OURS} onnx int8": True}.items():
        folder = directory / name.replace(" ", "-")
        folder.mkdir()
        write(ours, folder, int8)
        readers[name] = partial(read_torch, load(folder, ours.config))
    ours.set_attn_implementation("sdpa")
    files = {"ONNX Runtime padded": directory / "padded.onnx", "ONNX Runtime int8 padded": directory / "int8.onnx"}
    export_padded(theirs, files["ONNX Runtime padded"])
    with quiet_exporter():
        quantize_dynamic(*files.values(), weight_type=QuantType.QInt8)
    return readers | {name: partial(read_padded, open_session(path)) for name, path in files.items()}


def export_padded(model: PreTrainedModel, path: Path) -> None:
    """Write a padded graph, dynamic in rows and length."""
    from ..serving.onnx_engine import quiet_exporter

    batch = pad([{"input_ids": random_tokens(length, model.config.vocab_size)} for length in (5, 3, 4)])
    rows, length = (torch.export.Dim(name) for name in ("rows", "length"))
    shapes = {name: {0: rows, 1: length} for name in batch}
    with quiet_exporter():
        program = torch.onnx.export(
            model, kwargs=dict(batch), dynamo=True, dynamic_shapes=shapes, input_names=list(batch), verbose=False
        )
    program.save(path)


def read_padded(session: Any, batch: Batch) -> torch.Tensor:
    """The last hidden states (B, T, E) of a padded graph."""
    names = [each.name for each in session.get_inputs()]
    return torch.from_numpy(session.run(None, {name: batch[name].numpy() for name in names})[0])


# --- Writing ---


def serve_write(plan: Plan) -> list[Result]:
    """Tokens written after sources of natural length, greedily and with four beams, in every engine."""
    rows = []
    for size in plan.sizes["serve-write"]:
        torch.manual_seed(0)
        ours, theirs = (model.eval() for model in bart(size))
        sources = natural_prompts(plan.corpora["texts"].rows, size.batch_rows)
        batch = pad([{"input_ids": random_tokens(length, size.vocab_size)} for (length,) in sources])
        with tempfile.TemporaryDirectory() as directory:
            writers = {OURS: partial(write_torch, ours), STOCK_WRITER: partial(write_torch, theirs)}
            writers |= ctranslate2_writers(ours, theirs, size, Path(directory))
            for beams in (1, 4):
                rows += compare_writers(plan, size, [sources], batch, beams, writers)
    return rows


def compare_writers(
    plan: Plan, size: Size, batch_lengths: BatchLengths, batch: Batch, beams: int, writers: dict[str, Write]
) -> list[Result]:
    """Time the writers on one batch; `equal` is the share of rows with the tokens that our model writes with torch."""
    keys = {"batch": len(batch_lengths[0]), "beams": beams}
    case = Case("serve-write", "bart", size, batch_lengths, keys, plan.written_tokens * len(batch_lengths[0]))
    workloads = {name: partial(write, batch, beams, plan.written_tokens) for name, write in writers.items()}
    written = {name: workload() for name, workload in workloads.items()}
    rows = with_stock(compare_times(plan, case, torch.float32, workloads), STOCK_WRITER)
    for row in rows:
        pairs = zip(written[OURS], written[row["system"]], strict=True)
        row["equal"] = round(sum(one == other for one, other in pairs) / len(written[OURS]), 3)
        exact = beams == 1 and "int8" not in row["system"]
        assert row["equal"] == 1 or not exact, f"{row['system']} writes other tokens than our model: {keys}"
    return rows


def write_torch(model: PreTrainedModel, batch: Batch, beams: int, new_tokens: int) -> list[list[int]]:
    """Generate `new_tokens` tokens for each row, without an end token."""
    settings = {"num_beams": beams, "do_sample": False, "max_new_tokens": new_tokens, "min_new_tokens": new_tokens}
    return model.generate(**batch, **settings)[:, 1:].tolist()


def ctranslate2_writers(
    ours: PreTrainedModel, theirs: PreTrainedModel, size: Size, directory: Path
) -> dict[str, Write]:
    """Our engine, and CTranslate2's own conversion of the stock model with the same weights, in float32 and int8."""
    if not is_installed("ctranslate2"):
        return {}
    from ctranslate2.converters import TransformersConverter

    from ..serving.ctranslate2_engine import load, open_engine, write

    stock = directory / "stock"
    # The converter reads keys that transformers no longer writes.
    theirs.config.update(ARCHITECTURES["bart"].legacy)
    with quiet():
        theirs.save_pretrained(stock)
    save_tokenizer(size, stock)
    writers: dict[str, Write] = {}
    for suffix, int8 in {"": False, " int8": True}.items():
        folder = directory / f"ours{suffix.strip()}"
        folder.mkdir()
        write(ours, folder, int8)
        engine = load(folder, ours.config).engine
        writers[f"{OURS} ctranslate2{suffix}"] = partial(translate, engine)
        converted = directory / f"converted{suffix.strip()}"
        with quiet():
            TransformersConverter(str(stock)).convert(str(converted), quantization="int8" if int8 else None)
        writers[f"CTranslate2{suffix}"] = partial(translate, open_engine(ours.config, converted))
    return writers


def translate(engine: Any, batch: Batch, beams: int, new_tokens: int) -> list[list[int]]:
    """As `write_torch`, with a Translator whose tokens are named by their ids."""
    from ..serving.ctranslate2_engine import token_names

    rows = token_names(batch)
    lengths = {"max_decoding_length": new_tokens, "min_decoding_length": new_tokens}
    results = engine.translate_batch(rows, beam_size=beams, **lengths)
    return [[int(token) for token in result.hypotheses[0]] for result in results]


def save_tokenizer(size: Size, directory: Path) -> None:
    """A tokenizer whose tokens are their ids, as CTranslate2's converter wants one."""
    backend = Tokenizer(WordLevel({str(index): index for index in range(size.vocab_size)}, unk_token="0"))
    special = {"pad_token": "0", "unk_token": "0", "bos_token": "1", "eos_token": "2"}
    PreTrainedTokenizerFast(tokenizer_object=backend, **special).save_pretrained(directory)


def with_stock(rows: list[Result], stock: str) -> list[Result]:
    """The rows with `times_stock`: how many times as fast as the stock model of transformers a system is."""
    (reference,) = [row["milliseconds"] for row in rows if row["system"] == stock]
    return [{**row, "times_stock": round(reference / row["milliseconds"], 3)} for row in rows]
