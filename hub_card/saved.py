"""What a saved model's directory tells: the model itself, and what its run left beside it."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors

from .provenance import read_object
from .usage import HEADS, Head

# What every row of predictions.jsonl has.
COLUMNS = ("input", "prediction", "reference")


@dataclass(frozen=True)
class Saved:
    """What a saved model's directory tells.

    Args:
        directory: where it is.
        config: config.json.
        results: all_results.json.
        state: trainer_state.json.
        predictions: the rows of predictions.jsonl.
        mask_token: of the tokenizer.
        parameters: how many the weights have.
    """

    directory: Path
    config: dict[str, Any]
    results: dict[str, Any]
    state: dict[str, Any]
    predictions: list[dict[str, Any]]
    mask_token: str | None
    parameters: int

    @property
    def head(self) -> Head:
        """What kind of model it is."""
        return HEADS[self.config["architectures"][0].partition("For")[2].removesuffix("Model")]

    @property
    def run(self) -> dict[str, Any]:
        """What RunRecord kept."""
        kept = (self.state.get("stateful_callbacks") or {}).get("RunRecord") or {}
        return kept.get("attributes", {}).get("facts", {})

    @property
    def labels(self) -> list[str]:
        """The names of the labels, in the order of their ids."""
        names = self.config.get("id2label", {})
        return [names[key] for key in sorted(names, key=int)]


def read_saved(directory: str | Path) -> Saved:
    """Read what a directory tells of the model that is saved in it.

    Raises:
        ValueError: no model of this package is saved there.
    """
    directory = Path(directory)
    config = read_object(directory / "config.json")
    if not str(config.get("model_type")).startswith("blend_") or not config.get("architectures"):
        raise ValueError(f"{directory}: no model of seqblend is saved there")
    predictions: list[dict[str, Any]] = []
    if (directory / "predictions.jsonl").exists():
        lines = (directory / "predictions.jsonl").read_text(encoding="utf-8").split("\n")
        predictions = [json.loads(line) for line in lines if line]
        if wrong := [row for row in predictions if not isinstance(row, dict) or not {*COLUMNS} <= row.keys()]:
            raise ValueError(
                f"{directory / 'predictions.jsonl'}: {wrong[0]!r:.80} is no row with {', '.join(COLUMNS)}"
            )
    return Saved(
        directory=directory,
        config=config,
        results=read_object(directory / "all_results.json"),
        state=read_object(directory / "trainer_state.json"),
        predictions=predictions,
        mask_token=read_object(directory / "tokenizer_config.json").get("mask_token"),
        parameters=count_parameters(directory),
    )


def count_parameters(directory: Path) -> int:
    """The numbers in the weights; tied ones are saved, and counted, once."""
    count = 0
    for path in directory.glob("model*.safetensors"):
        with safetensors.safe_open(path, framework="pt") as file:
            count += sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    return count
