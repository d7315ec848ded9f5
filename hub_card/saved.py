"""The directory of a saved model: which kind of model it holds, its files, and the files that its run wrote."""

import math
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import safetensors
from transformers import AutoTokenizer

from ..conversion.registry import architecture_of
from ..data.objects import parse_object, read_object
from ..scoring.tags import PREFIX_TAG, TagScheme, find_scheme
from ..tokenization.words import SENTENCES, WordSplitting, find_splitting, needs_spaces, read_splitting
from .usage import CHAT, HEADS, SEVERAL_ANSWERS, Head, Tagging

# The keys that every row of predictions.jsonl must have.
COLUMNS = ("input", "prediction", "reference")
SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")
# Options of a tokenizer that change its tokens and that its files may not have as in the training.
TOKENIZER_OPTIONS = ("add_prefix_space", "src_lang", "tgt_lang")


def original_auto_class(directory: str | Path) -> str | None:
    """The name of the Auto class of a model in an original format, that of a class of transformers.

    This tells the two kinds of saved models apart, everywhere: it is None for a model of this package, which is saved
    with its code, and for a directory without a model. A model in an original format needs no code.

    Raises:
        ValueError: config.json is damaged.
    """
    config = read_object(Path(directory) / "config.json")
    architecture = architecture_of(config)
    return None if architecture is None else architecture.named_head(config.get("architectures"))


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
        original: the directory of the same model in its original format, if the card is for that.
    """

    directory: Path
    config: dict[str, Any]
    results: dict[str, Any]
    state: dict[str, Any]
    predictions: list[dict[str, Any]]
    tokenizer: dict[str, Any]
    parameters: int
    original: Path | None = None

    @property
    def repository(self) -> Path:
        """The directory of the files that the card is for."""
        return self.original or self.directory

    @property
    def name(self) -> str:
        """How messages call the model."""
        return str(self.directory) if self.original is None else f"{self.directory} in its original format"

    @cached_property
    def stock_class(self) -> str | None:
        """The name of the class of transformers, for a model in its original format."""
        return None if self.original is None else read_object(self.original / "config.json")["architectures"][0]

    @property
    def tokenizer_options(self) -> dict[str, Any]:
        """Options of the training that the original tokenizer's files do not have."""
        if self.original is None:
            return {}
        original = read_object(self.original / "tokenizer_config.json")
        used = {name: self.tokenizer[name] for name in TOKENIZER_OPTIONS if name in self.tokenizer}
        return {name: value for name, value in used.items() if value not in (None, original.get(name, False))}

    @property
    def head(self) -> Head:
        """The kind of head."""
        if self.is_chat:
            return CHAT
        head = HEADS[self.config["architectures"][0].partition("For")[2].removesuffix("Model")]
        kind = self.config.get("problem_type")
        is_several = kind == "multi_label_classification" or (kind == "regression" and len(self.labels) > 1)
        return SEVERAL_ANSWERS if head is HEADS["SequenceClassification"] and is_several else head

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

    @property
    def scheme(self) -> TagScheme | None:
        """The scheme of the labels as tags."""
        return find_scheme(self.labels, self.config.get("tag_scheme"))

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
        tokens = read_object(self.repository / "tokenizer.json").get("model", {})
        scheme = self.scheme
        one_token = self.splitting == ("characters", 1) and tokens.get("type") == "BPE" and not tokens.get("merges")
        # A pipeline groups tags such as B-PER and I-PER only.
        is_usual = scheme is not None and scheme.pattern is PREFIX_TAG and scheme.name in ("IO", "IOB1", "IOB2")
        groups = one_token and is_usual
        if not tokens:
            return Tagging(self.splitting.rule)
        tokenizer = AutoTokenizer.from_pretrained(self.repository, trust_remote_code=False, **self.tokenizer_options)
        return Tagging(self.splitting.rule, groups, needs_spaces(tokenizer))


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


def read_saved(directory: str | Path, original: Path | None = None) -> SavedModel:
    """Read the directory of a saved model.

    Args:
        directory: of a model of this package.
        original: see SavedModel.

    Raises:
        ValueError: it does not hold a model of this package, or a file is damaged.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise ValueError(f"there is no directory {directory}")
    config = read_object(directory / "config.json")
    named = config.get("architectures")
    is_named = isinstance(named, list) and named and all(isinstance(each, str) for each in named)
    if not str(config.get("model_type")).startswith("blend_") or not is_named:
        raise ValueError(f"{directory}: no model of seqblend is saved there")
    path = directory / "predictions.jsonl"
    predictions = read_predictions(path) if path.is_file() else []
    return SavedModel(
        directory=directory,
        config=config,
        results=read_object(directory / "all_results.json"),
        state=read_object(directory / "trainer_state.json"),
        predictions=predictions,
        tokenizer=read_object(directory / "tokenizer_config.json"),
        parameters=count_parameters(original or directory),
        original=original,
    )


def weight_files(directory: Path) -> list[str]:
    """The files of the weights: one file, or shards with their index.

    Raises:
        ValueError: the index is damaged, or names a file that is not a shard.
    """
    index = directory / "model.safetensors.index.json"
    if (directory / "model.safetensors").exists() or not index.exists():
        return ["model.safetensors"]
    named = read_object(index).get("weight_map")
    shards = sorted({str(name) for name in named.values()}) if isinstance(named, dict) else []
    if wrong := [name for name in shards or [""] if not SHARD.fullmatch(name)]:
        raise ValueError(f"{index}: weight_map names {wrong[0]!r}, which is not a shard of save_pretrained")
    return [index.name, *shards]


def count_parameters(directory: Path) -> int:
    """The number of parameters in the weights. Tied tensors are saved, and counted, once."""
    count = 0
    for path in (directory / name for name in weight_files(directory)):
        if path.suffix == ".safetensors" and path.is_file():
            with safetensors.safe_open(path, framework="pt") as file:
                count += sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    return count
