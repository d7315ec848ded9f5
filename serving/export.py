"""`seqblend export DIR OUT --engine onnx`: a saved model as a graph that another engine computes."""

import argparse
import importlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..conversion.converting import TEXTS, check_target
from ..data.errors import InputError, check_choice, print_error
from ..data.writing import atomic_directory
from ..hub_card.verify import write_reference
from ..modeling.families import FAMILIES
from ..training.loading import check_loaded, load_config, load_weights
from ..training.models import position_limit, reads_token_types
from ..training.tokenizers import load_tokenizer
from ..version import __version__
from .engines import ENGINE_FILE, ENGINES, QUANTIZATIONS, Writer, load_engine, needed_packages
from .loading import max_length_of

# The largest difference that is rounding, and the largest mean one with int8; see `measure`.
TOLERANCES = {"none": 1e-3, "int8": 0.2}
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
        overwrite: replace a directory that holds a model.

    Raises:
        InputError: the model cannot be loaded or exported, an option is wrong, a package is missing, or the outputs of
            the engine differ from those of the model; nothing is left behind.
        ConversionError: the target must not be written.
    """
    check_choice("engine", engine, ENGINES)
    check_choice("quantization", quantization, QUANTIZATIONS)
    source = Path(directory).expanduser()
    directory, target = str(source) if source.is_dir() else str(directory), Path(target).expanduser()
    check_target(target, source if source.is_dir() else directory, overwrite)
    model = load_eager(directory)
    tokenizer = load_tokenizer(directory)
    texts = example_texts(directory)
    max_length = max_length_of(directory, None, model.config, 0)
    settings = {"engine": engine, "quantization": quantization, "max_length": max_length, "seqblend": __version__}
    with atomic_directory(target) as stage, needed_packages(engine):
        module = importlib.import_module(ENGINES[engine][0], __package__)
        module.write(model, stage, quantization == "int8")
        model.config.to_json_file(stage / "config.json")
        tokenizer.save_pretrained(stage)
        write_reference(model, stage)
        (stage / ENGINE_FILE).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        exported = load_engine(stage, engine, model.config)
        differences = compare(model, exported, tokenizer, texts, max_length)
        error = float(differences.abs().max() if quantization == "none" else differences.square().mean().sqrt())
        if not error <= TOLERANCES[quantization]:
            raise InputError(
                f"{directory}: the outputs of {engine} with quantization {quantization} differ by {error:.1e} of "
                f"{measure(exported)}, more than {TOLERANCES[quantization]:g}; nothing was written"
            )
    return Exported(target, type(model).__name__, engine, quantization, error, measure(exported), len(texts))


def measure(exported: Any) -> str:
    """The unit of the differences of `compare`."""
    return "the logarithm of a probability" if isinstance(exported, Writer) else "the outputs' standard deviation"


def load_eager(directory: str) -> PreTrainedModel:
    """A saved model in float32, with the attention that can be exported.

    Raises:
        InputError: it cannot be loaded, or names no class of this package.
    """
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
    """Texts that the model has answered, from predictions.jsonl; without this file, texts of several scripts."""
    path = Path(directory, "predictions.jsonl")
    if not path.is_file():
        return TEXTS
    with path.open(encoding="utf-8") as file:
        rows = [json.loads(line) for line, _ in zip(file, range(MOST_TEXTS), strict=False)]
    return [as_text(row.get("input")) for row in rows] or TEXTS


def as_text(value: Any) -> str:
    """An input as one text: a pair or words are joined."""
    return value if isinstance(value, str) else " ".join(map(str, value or []))


@torch.inference_mode()
def compare(
    model: PreTrainedModel, exported: Any, tokenizer: PreTrainedTokenizerBase, texts: list[str], max_length: int
) -> torch.Tensor:
    """The differences of the outputs for texts.

    For a model that reads they are in standard deviations of its outputs; for one that writes they are those of the
    logarithms of the probabilities of what it writes.
    """
    length = int(min(max_length, position_limit(model.config)))
    names = ["input_ids", "attention_mask", *(["token_type_ids"] if reads_token_types(model.config) else [])]
    if isinstance(exported, Writer):
        length = max(1, length - NEW_TOKENS)
        rows = [tokenizer(text, truncation=True, max_length=length, return_tensors="pt") for text in texts]
        rows = [{name: row[name] for name in names if name in row} for row in rows if row["input_ids"].numel()]
        return torch.cat([compare_written(model, exported, row) for row in rows])
    inputs = tokenizer(texts, padding=True, truncation=True, max_length=length, return_tensors="pt")
    inputs = {name: inputs[name] for name in names if name in inputs}
    expected, actual = (next(iter(each(**inputs).values())) for each in (model, exported))
    if expected.dim() == 3:
        is_real = inputs["attention_mask"].bool()
        expected, actual = expected[is_real], actual[is_real]
    return (actual - expected) / expected.std()


def compare_written(model: PreTrainedModel, exported: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """The differences of the logarithms of the probabilities of what the model writes for a text."""
    sequence = model.generate(**inputs, max_new_tokens=NEW_TOKENS, num_beams=1, do_sample=False)
    if model.config.is_encoder_decoder:
        written, logits = sequence[0, 1:], model(**inputs, decoder_input_ids=sequence[:, :-1]).logits[0]
    else:
        start = inputs["input_ids"].shape[1]
        written, logits = sequence[0, start:], model(sequence[:, :-1]).logits[0, start - 1 :]
    expected = logits.log_softmax(-1).gather(-1, written[:, None])[:, 0]
    rows = [list(map(str, tokens.tolist())) for tokens in (inputs["input_ids"][0], written)]
    actual = torch.tensor(exported.log_probabilities([rows[0]], [rows[1]])[0])
    # What is impossible for both is -inf in torch only.
    is_possible = expected.isfinite()
    return (actual - expected)[is_possible]


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
    parser.add_argument("--overwrite", action="store_true", help="Replace OUT if it holds a model.")
    given = parser.parse_args(argv)
    try:
        exported = export(
            given.model, given.target, given.engine, quantization=given.quantization, overwrite=given.overwrite
        )
    except (ValueError, OSError) as error:
        return print_error(error)
    print(exported)
    return 0


if __name__ == "__main__":
    sys.exit(main())
