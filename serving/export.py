"""`seqblend export DIR OUT --engine onnx`: a saved model as a graph that another engine computes."""

import argparse
import importlib
import itertools
import json
import math
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..checkpoints.loading import ENGINE_FILE, check_loaded, is_adapter, load_config, load_weights
from ..checkpoints.signals import Terminated, ending, terminable
from ..conversion.converting import TEXTS
from ..conversion.target import check_target
from ..data.errors import InputError, check_choice, error_line, print_error
from ..data.writing import atomic_directory
from ..hub_card.verify import write_reference
from ..modeling.families import FAMILIES
from ..tasks.models import position_limit, reads_token_types
from ..tokenization.loading import load_tokenizer
from ..training.models import check_vocabulary
from ..training.progress import hide_bars
from ..version import __version__
from .engines import ENGINES, EXPORTED, QUANTIZATIONS, Writer, load_engine, needed_packages
from .loading import max_length_of

# The largest difference that is rounding; and the largest mean one with int8, for models that read and that write; see
# `measure`.
TOLERANCE, READING_TOLERANCE, WRITING_TOLERANCE = 1e-3, 0.2, 0.5
# The number of texts that are compared.
MOST_TEXTS = 64
# The number of tokens that a model writes after each.
NEW_TOKENS = 16


@dataclass(frozen=True)
class Exported:
    """What was written.

    Args:
        target: the directory.
        class_name: of the model.
        engine: that computes it.
        quantization: of its weights.
        error: its difference from the model: the largest one, or for int8 the root of the mean square.
        measure: the unit of the difference.
        num_texts: number of texts on which they were compared.
    """

    target: Path
    class_name: str
    engine: str
    quantization: str
    error: float
    measure: str
    num_texts: int

    def __str__(self) -> str:
        kind = "the largest difference" if self.quantization == "none" else "the mean difference"
        return (
            f"{self.target}: {self.class_name} for {self.engine}, quantization {self.quantization}; {kind} on "
            f"{self.num_texts} texts is {self.error:.0e} of {self.measure}"
        )


def export(
    directory: str | Path,
    target: str | Path,
    engine: str = "onnx",
    *,
    quantization: str = "none",
    overwrite: bool = False,
) -> Exported:
    """Write a saved model for another engine: its graph, configuration, tokenizer and reference outputs.

    Args:
        directory: of the model, or the name of a repository on the Hub. No code of it is run.
        target: the directory to write. It gets its name when the outputs of the engine are those of the model.
        engine: one of ENGINES.
        quantization: `none`, or `int8` for the weights of the blocks.
        overwrite: replace a directory that holds a model and no other files.

    Raises:
        InputError: the model cannot be loaded or exported, an option is wrong, a package is missing, or the outputs of
            the engine differ from those of the model; nothing is left behind.
        ConversionError: the target must not be written.
    """
    check_choice("engine", engine, ENGINES)
    check_choice("quantization", quantization, QUANTIZATIONS)
    source = Path(os.path.expanduser(directory))
    directory, target = str(source) if source.is_dir() else str(directory), Path(os.path.expanduser(target))
    check_target(target, source if source.is_dir() else directory, overwrite, EXPORTED)
    model = load_eager(directory)
    tokenizer = load_tokenizer(directory)
    check_vocabulary(model.config, tokenizer, directory)
    texts = example_texts(directory)
    max_length = max_length_of(directory, None, model.config, 0)
    settings = {"engine": engine, "quantization": quantization, "max_length": max_length, "seqblend": __version__}
    with atomic_directory(target) as stage, needed_packages(engine):
        module = importlib.import_module(ENGINES[engine][0], __package__)
        module.write(model, stage, quantization == "int8")
        write_config(model, stage)
        tokenizer.save_pretrained(stage)
        write_reference(model, stage)
        (stage / ENGINE_FILE).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        exported = load_engine(stage, engine, model.config)
        differences = compare(model, exported, tokenizer, texts, max_length, quantization == "none")
        error = float(differences.abs().max() if quantization == "none" else differences.square().mean().sqrt())
        int8_tolerance = WRITING_TOLERANCE if isinstance(exported, Writer) else READING_TOLERANCE
        tolerance = TOLERANCE if quantization == "none" else int8_tolerance
        if error == math.inf:
            raise InputError(f"{directory}: {engine} writes other tokens than the model; nothing was written")
        if not error <= tolerance:
            raise InputError(
                f"{directory}: the outputs of {engine} with quantization {quantization} differ by {error:.1e} of "
                f"{measure(exported)}, more than {tolerance:g}; nothing was written"
            )
    return Exported(target, type(model).__name__, engine, quantization, error, measure(exported), len(texts))


def measure(exported: Any) -> str:
    """The unit of the differences of `compare`."""
    return "the logarithm of a probability" if isinstance(exported, Writer) else "the outputs' standard deviation"


def write_config(model: PreTrainedModel, directory: Path) -> None:
    """Write config.json without the names of files with code, which are not written."""
    config = {name: value for name, value in model.config.to_dict().items() if name != "auto_map"}
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def load_eager(directory: str) -> PreTrainedModel:
    """A saved model in float32, with the attention that can be exported.

    Raises:
        InputError: it cannot be loaded, or names no class of this package.
    """
    if is_adapter(directory):
        raise InputError(f"{directory} is an adapter; --merge_adapter true saves a whole model, which can be exported")
    config = load_config(directory, "DIR")
    named = (config.architectures or [None])[0]
    classes = {model_class.__name__: auto_class for auto_class, model_class in FAMILIES[type(config)].items()}
    if named not in classes:
        raise InputError(f"{directory}: config.json names {named or 'no class'}, which is no class of this package")
    model, info = load_weights(classes[named], directory, config, "DIR")
    check_loaded(directory, model, info, training=False, flag="DIR")
    model.set_attn_implementation("eager")
    return model.float().eval()


def example_texts(directory: str) -> list[str]:
    """Texts of several scripts, and those that the model has answered, from predictions.jsonl.

    Raises:
        InputError: a line of predictions.jsonl is damaged.
    """
    path = Path(directory, "predictions.jsonl")
    texts = list(TEXTS)
    if path.is_file():
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(itertools.islice(file, MOST_TEXTS), 1):
                try:
                    texts.append(as_text(json.loads(line)["input"]))
                except (ValueError, KeyError, TypeError) as error:
                    raise InputError(f"{path}: line {number} has no input ({error_line(error)})") from error
    return texts


def as_text(value: Any) -> str:
    """An input as one text: a pair or words are joined."""
    return value if isinstance(value, str) else " ".join(map(str, value or []))


@torch.inference_mode()
def compare(
    model: PreTrainedModel,
    exported: Any,
    tokenizer: PreTrainedTokenizerBase,
    texts: list[str],
    max_length: int,
    is_exact: bool,
) -> torch.Tensor:
    """The differences of the outputs for texts. With `is_exact` a model that writes must also write the same tokens.

    For a model that reads they are in standard deviations of its outputs; for one that writes they are those of the
    logarithms of the probabilities of what it writes.
    """
    length = int(min(max_length, position_limit(model.config)))
    names = ["input_ids", "attention_mask", *(["token_type_ids"] if reads_token_types(model.config) else [])]
    if isinstance(exported, Writer):
        length = max(1, length - NEW_TOKENS)
        rows = [tokenizer(text, truncation=True, max_length=length, return_tensors="pt") for text in texts]
        rows = [{name: row[name] for name in names if name in row} for row in rows if row["input_ids"].numel()]
        return torch.cat([compare_written(model, exported, row, is_exact) for row in rows])
    inputs = tokenizer(texts, padding=True, truncation=True, max_length=length, return_tensors="pt")
    inputs = {name: inputs[name] for name in names if name in inputs}
    expected, actual = (next(iter(each(**inputs).values())) for each in (model, exported))
    if expected.dim() == 3:
        is_real = inputs["attention_mask"].bool()
        expected, actual = expected[is_real], actual[is_real]
    deviation = expected.std()
    return (actual - expected) / (deviation if len(expected) > 1 and deviation > 0 else 1)


def compare_written(
    model: PreTrainedModel, exported: Writer, inputs: dict[str, torch.Tensor], is_exact: bool
) -> torch.Tensor:
    """The differences of the logarithms of the probabilities of what the model writes for a text.

    They are infinite if the engine writes something else.
    """
    greedy = {"max_new_tokens": NEW_TOKENS, "num_beams": 1, "do_sample": False}
    # Without the model's own max_length, so that transformers does not say which of the two it takes.
    sequence = model.generate(**inputs, **greedy, max_length=None)
    if model.config.is_encoder_decoder:
        written, logits = sequence[0, 1:], model(**inputs, decoder_input_ids=sequence[:, :-1]).logits[0]
    else:
        start = inputs["input_ids"].shape[1]
        written, logits = sequence[0, start:], model(sequence[:, :-1]).logits[0, start - 1 :]
    expected = logits.log_softmax(-1).gather(-1, written[:, None])[:, 0]
    rows = [list(map(str, tokens.tolist())) for tokens in (inputs["input_ids"][0], written)]
    actual = torch.tensor(exported.log_probabilities([rows[0]], [rows[1]])[0])
    if is_exact and exported.write(inputs, greedy)[0][0] != written.tolist():
        return torch.full_like(expected, torch.inf)
    return actual - expected


def main(argv: list[str] | None = None) -> int:
    """Run the command line; the exit code is 2 if the model or the target causes an error."""
    parser = argparse.ArgumentParser(
        "seqblend export",
        description="Write a saved model for another engine. seqblend predict reads the directory like any other.",
        allow_abbrev=False,
    )
    parser.add_argument("model", metavar="DIR", help="A saved model, with its tokenizer.")
    parser.add_argument("target", metavar="OUT", help="The directory to write.")
    parser.add_argument("--engine", default="onnx", help=f"{', '.join(ENGINES)}; default: onnx.")
    parser.add_argument("--quantization", default="none", help=f"{', '.join(QUANTIZATIONS)}; default: none.")
    parser.add_argument("--overwrite", action="store_true", help="Replace OUT if it holds a model and no other files.")
    given = parser.parse_args(argv)
    if not sys.stderr.isatty():
        hide_bars()
    try:
        with terminable():
            exported = export(
                given.model, given.target, given.engine, quantization=given.quantization, overwrite=given.overwrite
            )
    except (ValueError, OSError) as error:
        return print_error(error)
    except (KeyboardInterrupt, Terminated) as end:
        return ending(end)[1]
    print(exported)
    return 0


if __name__ == "__main__":
    sys.exit(main())
