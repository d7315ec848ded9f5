"""The command line: what may be said about model, data and training, from flags or from a YAML or JSON file."""

import argparse
import dataclasses
import json
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import HfArgumentParser, Seq2SeqTrainer, Seq2SeqTrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from ..configuration.base import unknown
from ..hub_card.card import Given
from .columns import Columns
from .files import InputError, describe, nearest_first
from .tasks import Task


@dataclass
class ModelArguments:
    """Which model, and which tokenizer."""

    architecture: str | None = field(
        default=None, metadata={"help": "encoder, decoder or encoder-decoder; default by task."}
    )
    recipe: str | None = field(default=None, metadata={"help": "Named settings to build the model from."})
    config_overrides: str | None = field(
        default=None, metadata={"help": "Changes to the recipe, as in 'hidden_size=256,num_hidden_layers=4'."}
    )
    model_name_or_path: str | None = field(
        default=None, metadata={"help": "A saved model to start from, in place of a recipe."}
    )
    tokenizer_name_or_path: str | None = field(
        default=None, metadata={"help": "A saved tokenizer; default: that of model_name_or_path."}
    )
    tokenizer_type: str | None = field(
        default=None,
        metadata={"help": "char, byte-bpe, wordpiece or unigram, trained on the training split; default byte-bpe."},
    )
    tokenizer_normalization: str | None = field(
        default=None, metadata={"help": "nfc, nfd or nfkc, for a trained tokenizer."}
    )
    vocab_size: int = field(default=8000, metadata={"help": "The most entries a trained tokenizer may have."})


@dataclass
class DataArguments:
    """Which task, on which data."""

    task: str | None = field(
        default=None,
        metadata={"help": "sequence-classification, token-classification, seq2seq-lm, causal-lm or masked-lm."},
    )
    problem_type: str | None = field(
        default=None,
        metadata={
            "help": "single_label_classification (the default), multi_label_classification or regression, "
            "for sequence-classification."
        },
    )
    dataset_name: str | None = field(default=None, metadata={"help": "dates, or a data set of the Hub."})
    dataset_config_name: str | None = field(default=None, metadata={"help": "The configuration of dataset_name."})
    train_file: str | None = field(
        default=None, metadata={"help": "A .json, .jsonl, .csv, .tsv, .parquet or .txt file, each also .gz."}
    )
    validation_file: str | None = field(default=None, metadata={"help": "Likewise."})
    test_file: str | None = field(default=None, metadata={"help": "Likewise."})
    text_column: str = field(default="text", metadata={"help": "The column that holds the text."})
    text_pair_column: str = field(default="text_pair", metadata={"help": "The column of the second text, if any."})
    label_column: str = field(default="label", metadata={"help": "The column of the label or labels."})
    tokens_column: str = field(default="tokens", metadata={"help": "The column of the words."})
    tags_column: str = field(default="tags", metadata={"help": "The column of the words' tags."})
    source_column: str = field(default="source", metadata={"help": "The column of the source text."})
    target_column: str = field(default="target", metadata={"help": "The column of the target text, or of several."})
    max_length: int = field(default=512, metadata={"help": "Longest sequence in tokens; longer ones are cut."})
    max_source_length: int | None = field(default=None, metadata={"help": "For seq2seq-lm; default max_length."})
    max_target_length: int | None = field(default=None, metadata={"help": "For seq2seq-lm; default max_length."})
    max_train_samples: int | None = field(default=None, metadata={"help": "Take so many random training rows."})
    max_eval_samples: int | None = field(default=None, metadata={"help": "Take so many random rows of other splits."})
    card_data: str | None = field(
        default=None, metadata={"help": "What the model card should say, as in 'license=mit,language=[en, ko]'."}
    )

    def columns(self) -> Columns:
        """The user's column names."""
        names = [f.name for f in dataclasses.fields(Columns)]
        return Columns(**{name: getattr(self, f"{name}_column") for name in names})

    def facts(self) -> dict[str, str | int]:
        """What the card tells of the data: names without directories."""
        facts: dict[str, str | int] = {"max_length": self.max_source_length or self.max_length}
        if self.dataset_name is None:
            file = self.train_file or self.validation_file or self.test_file
            return {**facts, "dataset": Path(str(file)).name}
        if self.dataset_name == "dates":
            return {**facts, "dataset": "dates in fifty languages (built into seqblend)"}
        name = " ".join(filter(None, [self.dataset_name, self.dataset_config_name]))
        return {**facts, "dataset": name, "dataset_id": self.dataset_name}


class Parser(HfArgumentParser):
    """HfArgumentParser that says what is wrong in one line and takes no abbreviated flags."""

    def __init__(self) -> None:
        super().__init__((ModelArguments, DataArguments, Seq2SeqTrainingArguments), allow_abbrev=False)
        self.usage = "seqblend-train [FILE.yaml|FILE.json] [--flag value …]"

    def error(self, message: str) -> None:  # type: ignore[override]
        """Replaces ArgumentParser.error, which prints every flag and exits."""
        raise InputError(message)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Replaces ArgumentParser._check_value, which lists the valid values in no useful order."""
        if action.choices is not None and value not in action.choices:
            raise InputError(unknown(action.dest, str(value), [str(choice) for choice in action.choices]))

    def check_names(self, names: list[str], where: str) -> None:
        """Raises InputError for a name that is no flag; the message lists the valid ones, nearest first."""
        valid = sorted({action.dest for action in self._actions} - {"help"})
        for name in names:
            if name not in valid:
                nearest = nearest_first(name, valid)
                raise InputError(f"{where}: unknown option {name!r}; valid, nearest first: {', '.join(nearest)}")


def parse_arguments(argv: list[str]) -> tuple[ModelArguments, DataArguments, Seq2SeqTrainingArguments]:
    """Read the command line; what a flag says wins over what the file says.

    Args:
        argv: an optional .yaml or .json file, then flags.

    Raises:
        InputError: an unknown option, a value of the wrong kind, or a file that cannot be read.
    """
    parser = Parser()
    flags = argv
    if argv and not argv[0].startswith("-"):
        flags = take_settings(parser, argv[0]) + argv[1:]
    try:
        *arguments, remaining = parser.parse_args_into_dataclasses(
            flags, return_remaining_strings=True, look_for_args_file=False
        )
    except InputError:
        raise
    except Exception as error:  # TrainingArguments raises whatever it meets
        raise InputError(str(error)) from error
    parser.check_names([word.lstrip("-").replace("-", "_") for word in remaining], "command line")
    check_models(*arguments[:2])
    check_training(arguments[2])
    return tuple(arguments)


def take_settings(parser: Parser, path: str) -> list[str]:
    """The options of a file as flags; lists and mappings, which flags cannot hold, become the parser's defaults."""
    settings = {name: value for name, value in read_settings(Path(path)).items() if value is not None}
    parser.check_names(list(settings), path)
    nested = {name: value for name, value in settings.items() if isinstance(value, list | dict)}
    ours = {field.name for kind in (ModelArguments, DataArguments) for field in dataclasses.fields(kind)}
    actions = {action.dest: action for action in parser._actions}
    for name in nested:
        takes_nested = actions[name].nargs == "+" or actions[name].type in (str, dict)
        if not takes_nested or name in ours - {"config_overrides", "card_data"}:
            raise InputError(f"{path}: {name}: must be a single value, but is {describe(nested[name])}")
    flags = [f"--{name}={value}" for name, value in settings.items() if name not in nested]
    try:
        parser.parse_args(flags)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    parser.set_defaults(**nested)
    return flags


def read_settings(path: Path) -> dict[str, Any]:
    """The options that a YAML or JSON file sets."""
    readers = {".yaml": yaml.safe_load, ".yml": yaml.safe_load, ".json": json.loads}
    if path.suffix not in readers:
        raise InputError(f"{path}: a file of options ends in {', '.join(readers)}")
    try:
        settings = readers[path.suffix](path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"{path}: {error}") from error
    if not isinstance(settings, dict):
        raise InputError(f"{path}: must hold options and their values")
    return settings


def parse_pairs(text: str | dict[str, Any] | None, flag: str) -> dict[str, Any]:
    """`hidden_size=256,layer_types=[full_attention]` as a dict; values are written as in YAML.

    Args:
        text: of the command line, or a mapping of a file.
        flag: for messages.

    Raises:
        InputError: it is not a list of NAME=VALUE.
    """
    if text is None or isinstance(text, dict):
        return text or {}
    message = f"{flag}: {text!r} is not NAME=VALUE,NAME=VALUE …"
    parts: list[str] = []
    for part in text.split(","):
        # A comma inside brackets belongs to the value.
        if parts and parts[-1].count("[") + parts[-1].count("{") > parts[-1].count("]") + parts[-1].count("}"):
            parts[-1] += "," + part
        else:
            parts.append(part)
    pairs = [part.split("=", 1) for part in parts]
    if not all(len(pair) == 2 and pair[0].strip() for pair in pairs):
        raise InputError(message)
    try:
        return {name.strip(): yaml.safe_load(value) for name, value in pairs}
    except yaml.YAMLError as error:
        raise InputError(message) from error


def card_facts(data_args: DataArguments) -> dict[str, Any]:
    """What the user says for the card, checked.

    Raises:
        InputError: one of them is no fact of a card; the message lists those there are, nearest first.
    """
    facts = parse_pairs(data_args.card_data, "card_data")
    try:
        Given.check_names(facts)
    except ValueError as error:
        raise InputError(f"card_data: {error}") from error
    return facts


def check_models(model_args: ModelArguments, data_args: DataArguments) -> None:
    """Raises InputError for options that contradict each other, or of which one has no effect."""
    if model_args.model_name_or_path and model_args.recipe:
        raise InputError("recipe: model_name_or_path names a model that is built already; give one of the two")
    if model_args.tokenizer_type and (model_args.tokenizer_name_or_path or model_args.model_name_or_path):
        raise InputError("tokenizer_type: trains a tokenizer, but one is given by tokenizer_name_or_path or the model")
    if data_args.problem_type and data_args.task != "sequence-classification":
        raise InputError(f"problem_type: is for task sequence-classification, not {data_args.task}")
    for name in ("max_length", "max_source_length", "max_target_length"):
        value = getattr(data_args, name)
        if value is not None and value < 2:
            raise InputError(f"{name}: must be 2 or more, got {value}")


def check_training(args: Seq2SeqTrainingArguments) -> None:
    """Raises InputError for what would stop the Trainer after it has begun to write."""
    for name in ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"):
        if getattr(args, name) < 1:
            raise InputError(f"{name}: must be 1 or more, got {getattr(args, name)}")
    output_dir = Path(args.output_dir)
    existing = next(path for path in (output_dir, *output_dir.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise InputError(f"output_dir: {existing} is a file")
    if args.resume_from_checkpoint in ("true", "True"):
        args.resume_from_checkpoint = get_last_checkpoint(args.output_dir) if output_dir.exists() else None
        if args.resume_from_checkpoint is None:
            raise InputError(f"resume_from_checkpoint: there is no checkpoint in output_dir {args.output_dir}")
    elif args.resume_from_checkpoint and not Path(args.resume_from_checkpoint, "trainer_state.json").exists():
        raise InputError(f"resume_from_checkpoint: {args.resume_from_checkpoint} is no checkpoint")
    if args.generation_config is not None:
        try:
            args.generation_config = Seq2SeqTrainer.load_generation_config(args.generation_config)
        except Exception as error:  # transformers raises whatever it meets
            raise InputError(f"generation_config: {args.generation_config} cannot be loaded: {error}") from error


def finish_arguments(args: Seq2SeqTrainingArguments, task: Task, splits: set[str]) -> None:
    """Run on the splits that exist, unless flags say on which.

    Raises:
        InputError: a flag asks for a split that does not exist.
    """
    needed = {"do_train": "train", "do_eval": "validation", "do_predict": "test"}
    # An eval_strategy sets do_eval by itself.
    if not (args.do_train or args.do_predict or (args.do_eval and args.eval_strategy == "no")):
        for flag, split in needed.items():
            setattr(args, flag, split in splits)
    for flag, split in needed.items():
        if getattr(args, flag) and split not in splits:
            raise InputError(f"{flag}: there is no {split} split")
    if args.eval_strategy != "no" and "validation" not in splits:
        raise InputError(f"eval_strategy: {args.eval_strategy.value}, but there is no validation split")
    # How predictions are made and reach the metrics is the task's affair; language models have only a loss.
    args.predict_with_generate, args.label_names = task.generates, ["labels"]
    args.eval_do_concat_batches, args.batch_eval_metrics = True, False
    args.prediction_loss_only = args.prediction_loss_only or task.answer is None
    args.dataloader_pin_memory = args.dataloader_pin_memory and torch.accelerator.is_available()
    if args.include_num_input_tokens_seen == "no":
        # The card tells how many tokens were seen.
        args.include_num_input_tokens_seen = "non_padding"


def public_command(argv: list[str], secret: str | None) -> str:
    """The command line as others may read it: of absolute paths the last name, and no token."""
    words = []
    for word in argv:
        flag, equals, value = word.rpartition("=") if word.startswith("-") else ("", "", word)
        value = Path(value).name if Path(value).is_absolute() else value
        words.append("…" if secret and secret in word else flag + equals + value)
    return shlex.join(["python", "train.py", *words])
