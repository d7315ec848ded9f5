"""The directory of a saved model: the model's files and the files that its run wrote."""

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import safetensors

from ..data.objects import parse_object, read_object
from ..tasks.tags import find_scheme
from ..tasks.words import SENTENCES, WordSplitting, find_splitting, read_splitting
from .usage import CHAT, HEADS, Head, Tagging

# The keys that every row of predictions.jsonl must have.
COLUMNS = ("input", "prediction", "reference")


@dataclass(frozen=True)
class SavedModel:
    """The contents of a saved model's directory.

    Args:
        directory: its path.
        config: config.json.
        results: all_results.json.
        state: trainer_state.json.
        predictions: the rows of predictions.jsonl.
        tokenizer: tokenizer_config.json.
        parameters: the number of parameters.
    """

    directory: Path
    config: dict[str, Any]
    results: dict[str, Any]
    state: dict[str, Any]
    predictions: list[dict[str, Any]]
    tokenizer: dict[str, Any]
    parameters: int

    @property
    def head(self) -> Head:
        """The kind of head."""
        if self.is_chat:
            return CHAT
        return HEADS[self.config["architectures"][0].partition("For")[2].removesuffix("Model")]

    @property
    def is_chat(self) -> bool:
        """Whether the model answers messages: its run read conversations, or it has a chat template and no run."""
        if "task" in self.results:
            return bool(self.results.get("conversations"))
        is_causal = self.config["architectures"][0].endswith("ForCausalLM")
        has_template = "chat_template" in self.tokenizer or (self.directory / "chat_template.jinja").exists()
        return is_causal and has_template

    @property
    def run(self) -> dict[str, Any]:
        """The facts that RunRecord saved."""
        record = (self.state.get("stateful_callbacks") or {}).get("RunRecord") or {}
        return record.get("attributes", {}).get("facts", {})

    @property
    def labels(self) -> list[str]:
        """The names of the labels, in the order of their ids."""
        names = self.config.get("id2label", {})
        return [names[key] for key in sorted(names, key=int)]

    @cached_property
    def splitting(self) -> WordSplitting | None:
        """How texts were split into words in training, for a token classifier; None for other models.

        The tokenizer's configuration has it. For older models it is inferred from the words of the test rows.
        """
        if not self.head.labels_words:
            return None
        return read_splitting(self.tokenizer) or find_splitting(row["input"] for row in self.predictions[:SENTENCES])

    @cached_property
    def tagging(self) -> Tagging:
        """How the example code uses a token classifier."""
        if self.splitting is None:
            return Tagging()
        tokens = read_object(self.directory / "tokenizer.json").get("model", {})
        scheme = find_scheme(self.labels)
        one_token = self.splitting == ("characters", 1) and tokens.get("type") == "BPE" and not tokens.get("merges")
        return Tagging(self.splitting.rule, one_token and scheme is not None and scheme.name in ("IO", "IOB"))


def read_predictions(path: Path) -> list[dict[str, Any]]:
    """The rows of predictions.jsonl. Raises ValueError for a damaged row; the message names file and line."""
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        if not line:
            continue
        try:
            row = parse_object(line)
        except ValueError as error:
            raise ValueError(f"{path}: line {number} {error}") from error
        if not {*COLUMNS} <= row.keys():
            raise ValueError(f"{path}: line {number}, {row!r:.80}, is not a row with {', '.join(COLUMNS)}")
        rows.append(row)
    return rows


def read_saved(directory: str | Path) -> SavedModel:
    """Read the directory of a saved model.

    Raises:
        ValueError: it does not hold a model of this package, or a file is damaged.
    """
    directory = Path(directory)
    config = read_object(directory / "config.json")
    named = config.get("architectures")
    is_named = isinstance(named, list) and named and all(isinstance(each, str) for each in named)
    if not str(config.get("model_type")).startswith("blend_") or not is_named:
        raise ValueError(f"{directory}: no model of seqblend is saved there")
    path = directory / "predictions.jsonl"
    predictions = read_predictions(path) if path.exists() else []
    return SavedModel(
        directory=directory,
        config=config,
        results=read_object(directory / "all_results.json"),
        state=read_object(directory / "trainer_state.json"),
        predictions=predictions,
        tokenizer=read_object(directory / "tokenizer_config.json"),
        parameters=count_parameters(directory),
    )


def count_parameters(directory: Path) -> int:
    """The number of parameters in the weights. Tied tensors are saved, and counted, once."""
    count = 0
    for path in directory.glob("model*.safetensors"):
        with safetensors.safe_open(path, framework="pt") as file:
            count += sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    return count
