"""Engines: what computes a model in prediction. Without engine.json it is torch; see export.py for the others."""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from transformers import PretrainedConfig

from ..checkpoints.loading import ENGINE_FILE
from ..data.errors import InputError, describe, error_line, nearest_first
from ..data.objects import read_object
from ..hub_card.verify import REFERENCE


@runtime_checkable
class Writer(Protocol):
    """A model of an engine that writes by itself."""

    def write(self, inputs: Any, generation: dict[str, Any]) -> list[tuple[list[int], float]]:
        """The generated tokens of each row, and the geometric mean of their probabilities."""

    def log_probabilities(self, rows: list[list[str]], written: list[list[str]]) -> list[list[float]]:
        """The logarithm of the probability of each token that was written after a row."""


# The module of each engine, and the packages that it needs.
ENGINES = {
    "onnx": (".onnx_engine", "onnxruntime onnx onnxscript"),
    "ctranslate2": (".ctranslate2_engine", "ctranslate2"),
}
QUANTIZATIONS = ("none", "int8")
# Patterns of the files that an export writes besides those of a saved model.
EXPORTED = (ENGINE_FILE, REFERENCE, "model.onnx*", "ctranslate2/*")


def read_engine(directory: str | Path) -> dict[str, Any] | None:
    """The content of engine.json: `engine`, `quantization` and `max_length`; None for a model of torch.

    Raises:
        InputError: it is damaged, or names an engine that this version does not know.
    """
    path = Path(directory, ENGINE_FILE)
    if not path.is_file():
        return None
    content = read_object(path)
    name = content.get("engine")
    if not isinstance(name, str) or name not in ENGINES:
        known = ", ".join(nearest_first(str(name), ENGINES))
        raise InputError(f"{path}: engine is {describe(name)}; known are {known}")
    return content


def load_engine(directory: str | Path, engine: str, config: PretrainedConfig) -> Any:
    """The exported model, which is called like the model.

    Raises:
        InputError: a package of the engine is missing, or the model is damaged.
    """
    with needed_packages(engine):
        module = importlib.import_module(ENGINES[engine][0], __package__)
        try:
            return module.load(Path(directory), config)
        except ImportError:
            raise
        except Exception as error:  # the engines raise exceptions of their own
            raise InputError(f"{directory}: cannot be loaded ({error_line(error)})") from error


@contextmanager
def needed_packages(engine: str) -> Iterator[None]:
    """Inside, an ImportError becomes an InputError that says how to install the packages of an engine."""
    try:
        yield
    except ImportError as error:
        if error.name is None or error.name.split(".")[0] not in ENGINES[engine][1].split():
            raise
        raise InputError(f"engine: {engine} needs {error.name}; pip install {ENGINES[engine][1]}") from error
