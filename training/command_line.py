"""The command line of training: its help, flags, files of options in YAML and JSON, and values NAME=VALUE,NAME=VALUE.

The help has the options in groups, each once, in a sentence; `--help all` adds those of transformers.
"""

import argparse
import dataclasses
import json
import os
import re
import shlex
from collections.abc import Collection
from enum import Enum
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub.errors import StrictDataclassError
from transformers import HfArgumentParser, Seq2SeqTrainingArguments

from ..checkpoints.identity import WAITING
from ..configuration.checks import unknown_name_message
from ..data.errors import NEAREST, InputError, describe, nearest_first
from ..hub_card.card import CardData
from .arguments import CHOSEN, BlendTrainingArguments, DataArguments, ModelArguments

# Options that may be a mapping, although their declared type is another one; those of ours may be a list, too.
OUR_MAPPINGS = ("config_overrides", "card_data", "class_weights")
MAPPINGS = (*OUR_MAPPINGS, "generation_config", *Seq2SeqTrainingArguments._VALID_DICT_FIELDS)


# --- The help ---

DESCRIPTION = """Train, evaluate and predict. Needed are --task, and files or --dataset_name.
For example:

  seqblend train --task token-classification --train_file train.jsonl \\
      --validation_file dev.jsonl --num_train_epochs 10 --output_dir runs/tagger
  seqblend train my.yaml --output_dir runs/other

A .yaml or .json file holds options by their names; flags override it."""
EPILOG = "--help all adds the other options of transformers; docs/training.md explains."
# Our options, and those of transformers that most runs give.
GROUPS = {
    "model": (
        *("task", "model_name_or_path", "architecture", "recipe", "config_overrides"),
        *("encoder_name_or_path", "decoder_name_or_path", "lora_rank", "lora_alpha", "lora_target", "merge_adapter"),
    ),
    "tokenizer": (
        *("tokenizer_name_or_path", "source_lang", "target_lang", "tokenizer_type", "tokenizer_normalization"),
        *("vocab_size", "chat_template"),
    ),
    "files and data sets": (
        *("train_file", "validation_file", "test_file", "dataset_name", "dataset_config_name"),
        *("train_split", "validation_split", "test_split", "train_source_file", "train_target_file"),
        *("validation_source_file", "validation_target_file", "test_source_file", "test_target_file"),
        *("validation_unknown_file", "test_unknown_file", "encoding", "delimiter", "decimal", "label_separator"),
        *("token_column_index", "tag_column_index", "streaming", "preprocessing_num_workers"),
        *("max_train_samples", "max_eval_samples"),
    ),
    "columns": (
        *("text_column", "text_pair_column", "label_column", "tokens_column", "tags_column"),
        *("source_column", "target_column", "messages_column"),
    ),
    "long texts": ("max_length", "max_source_length", "max_target_length", "overflow", "overlap", "pack_documents"),
    "classes, tags and metrics": (
        *("problem_type", "class_weights", "decode_tags", "calibrate", "label_thresholds", "abstain_precision"),
        *("unknown_label", "bleu_tokenize"),
    ),
    "masks and spans": ("mask_probability", "mask_whole_words", "mean_span_length"),
    "training": (
        *("num_train_epochs", "max_steps", "per_device_train_batch_size", "max_tokens_per_batch"),
        *("gradient_accumulation_steps", "learning_rate", "lr_scheduler_type", "warmup_steps", "weight_decay"),
        *("label_smoothing_factor", "train_sampling_strategy", "seed", "bf16", "early_stopping_patience"),
        "average_checkpoints",
    ),
    "evaluation, checkpoints, resuming": (
        *("output_dir", "quiet", "eval_strategy", "eval_steps", "logging_steps", "save_strategy", "save_steps"),
        *("save_total_limit", "load_best_model_at_end", "metric_for_best_model"),
        *("resume", "allow_changed", "overwrite_output_dir", "save_original"),
    ),
    "publishing": ("push_to_hub", "hub_model_id", "push_original", "card_data"),
}
REST = "all other options of transformers"
# Columns of the help; characters of a help text of several sentences.
WIDTH, SHORT = 80, 200


class Help(argparse.Action):
    """Prints the help and ends the program."""

    def __init__(self, option_strings: list[str], dest: str, **kwargs: Any):
        super().__init__(option_strings, dest, nargs="?", const="brief", default=argparse.SUPPRESS)

    def __call__(self, parser: argparse.ArgumentParser, *given: Any) -> None:
        """Print the groups, with `all` also the rest."""
        print(help_text(parser, is_whole=given[1] == "all"), end="")
        parser.exit()


def help_text(parser: argparse.ArgumentParser, is_whole: bool = False) -> str:
    """The help of a parser whose options are in GROUPS, or in the rest."""
    actions: dict[str, argparse.Action] = {}
    for action in parser._actions:
        # Of a flag that is true by default, the second one is --no_….
        if not isinstance(action, Help):
            actions.setdefault(action.dest, action)
    shown = argparse.ArgumentParser(
        usage=parser.usage,
        description=parser.description,
        epilog=None if is_whole else EPILOG,
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=30, width=WIDTH),
        add_help=False,
    )
    groups = dict(GROUPS)
    if is_whole:
        named = {name for names in GROUPS.values() for name in names}
        groups[REST] = tuple(name for name in actions if name not in named)
    for title, names in groups.items():
        group = shown.add_argument_group(title)
        for name in names:
            if name in actions:
                group.add_argument(f"--{name}", metavar=placeholder(actions[name]), help=with_default(actions[name]))
    return shown.format_help()


def placeholder(action: argparse.Action) -> str:
    """What stands for the value of an option."""
    if action.nargs == "?":
        return "true|false"
    kinds = {int: "N", float: "X"}
    name = kinds.get(action.type, "FILE" if action.dest.endswith("_file") else "VALUE")  # type: ignore[call-overload]
    return f"{name} …" if action.nargs in ("+", "*") else name


def sentence(action: argparse.Action) -> str:
    """The first sentence of the help of an option, with those after it as long as all are short; and its choices."""
    text = " ".join((action.help or "").replace("%(default)s", "").replace("%%", "%").split())
    first, *others = re.split(r"(?<=[a-z0-9)\]'])\.\s", text)
    for other in others:
        if len(first) + len(other) > SHORT:
            break
        first = f"{first}. {other}"
    if action.dest in CHOSEN:
        # That is the default of transformers.
        first = re.sub(r"\. Defaults to .*", "", first)
    choices = [str(choice) for choice in action.choices or ()]
    if choices and not all(choice in first for choice in choices) and "true" not in map(str.lower, choices):
        first = f"{first.rstrip('. ')}: {', '.join(choices)}"
    return first.rstrip(". ")


def with_default(action: argparse.Action) -> str:
    """The help of an option, and its default if that says more, for argparse."""
    first = sentence(action)
    value = CHOSEN.get(action.dest, action.default)
    is_known = "default" in first or value is None or value is False or value == ""
    shown = "true" if value is True else value
    return (first + ("" if is_known else f" (default: {shown})")).replace("%", "%%")


# --- Options ---


def unique_pairs(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    """The pairs as a dict. Raises InputError for a duplicate key, of which a dict would lose one value."""
    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{name} is given twice")
    return dict(pairs)


class UniqueLoader(yaml.SafeLoader):
    """YAML's safe loader, which also refuses duplicate keys of a mapping."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """As SafeConstructor.construct_mapping, which would keep the last of two values."""
        unique_pairs([(self.construct_object(key, deep=True), None) for key, _ in node.value])
        return super().construct_mapping(node, deep)


# As in YAML 1.2 and JSON. YAML 1.1, which PyYAML reads, demands a point in 1.0e-5, and takes labels and languages such
# as `no` for booleans.
FLOAT, BOOLEAN = "tag:yaml.org,2002:float", "tag:yaml.org,2002:bool"
UniqueLoader.yaml_implicit_resolvers = {
    first: [each for each in resolvers if each[0] != BOOLEAN]
    for first, resolvers in UniqueLoader.yaml_implicit_resolvers.items()
}
UniqueLoader.add_implicit_resolver(FLOAT, re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789"))
UniqueLoader.add_implicit_resolver(BOOLEAN, re.compile("true|True|TRUE|false|False|FALSE"), list("tTfF"))


def from_yaml(text: str) -> Any:
    """Parse YAML. Raises InputError for a duplicate key, and yaml.YAMLError for invalid YAML."""
    return yaml.load(text, UniqueLoader)


def from_json(text: str) -> Any:
    """Parse JSON. Raises InputError for a duplicate key, and ValueError for invalid JSON."""
    return json.loads(text, object_pairs_hook=unique_pairs)


# The files of options, by their suffix.
READERS = {".yaml": from_yaml, ".yml": from_yaml, ".json": from_json}


def read_options(path: Path) -> dict[str, Any]:
    """The options in a YAML or JSON file. Raises InputError if it cannot be read or is not a mapping of names."""
    if path.suffix not in READERS:
        raise InputError(f"{path}: a file of options must end in {', '.join(READERS)}")
    try:
        options = READERS[path.suffix](path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise InputError(f"{path}: {error}") from error
    if not isinstance(options, dict):
        raise InputError(f"{path}: must hold options and their values")
    for name in options:
        if not isinstance(name, str):
            raise InputError(f"{path}: the name of an option must be a text, but {name!r} is {describe(name)}")
    return options


def parse_pairs(text: str | list | dict[str, Any] | None, flag: str) -> dict[str, Any]:
    """Parse `hidden_size=256,layer_types=[full_attention]` to a dict; values are YAML.

    Args:
        text: from the command line, or a mapping from a file, which is returned as it is.
        flag: name of the option, for messages.

    Raises:
        InputError: the text is not a list of NAME=VALUE.
    """
    if text is None or isinstance(text, dict):
        return text or {}
    if isinstance(text, list):
        raise InputError(f"{flag}: must be a mapping of names to values, but is a list")
    message = f"{flag}: {text!r:.200} is not NAME=VALUE,NAME=VALUE …"
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
        return unique_pairs([(name.strip(), from_yaml(value)) for name, value in pairs])
    except (RecursionError, yaml.YAMLError) as error:
        raise InputError(message) from error
    except InputError as error:
        raise InputError(f"{flag}: {error}") from error


class Parser(HfArgumentParser):
    """HfArgumentParser with errors of one line and without abbreviated flags."""

    def __init__(self, command: str = "train", description: str = DESCRIPTION) -> None:
        super().__init__(
            (ModelArguments, DataArguments, BlendTrainingArguments),
            usage=f"seqblend {command} [FILE.yaml|FILE.json] [--flag value …]",
            description=description,
            allow_abbrev=False,
            add_help=False,
        )
        self.add_argument("-h", "--help", action=Help)
        # None means not given; False means that the user gave false.
        self.set_defaults(do_train=None, do_eval=None, do_predict=None)

    def error(self, message: str) -> None:  # type: ignore[override]
        """Replaces ArgumentParser.error, which prints every flag and exits."""
        raise InputError(message)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Replaces ArgumentParser._check_value, which lists the valid values in no useful order."""
        if action.choices is not None and value not in action.choices:
            raise InputError(unknown_name_message(action.dest, str(value), [str(choice) for choice in action.choices]))

    def check_names(self, names: list[str], where: str) -> None:
        """Raises InputError for a name that is no flag; the message lists the nearest ones."""
        valid = sorted({action.dest for action in self._actions} - {"help"})
        for name in names:
            if name not in valid:
                nearest = ", ".join(nearest_first(name, valid)[:NEAREST])
                raise InputError(
                    f"{where}: unknown option {name!r}; valid, nearest first: {nearest}; --help all lists every option"
                )


def parse_arguments(
    argv: list[str], command: str = "train", description: str = DESCRIPTION
) -> tuple[ModelArguments, DataArguments, BlendTrainingArguments]:
    """Read the command line; a flag overrides the file.

    Args:
        argv: an optional .yaml or .json file, then flags.
        command: its name, for the help.
        description: what the command does, for the help.

    Raises:
        InputError: an unknown option, a value of the wrong kind, or a file that cannot be read.
    """
    parser = Parser(command, description)
    flags = argv
    if argv and not argv[0].startswith("-"):
        flags = load_option_file(parser, argv[0]) + argv[1:]
    # Before flag_values: --help shows the defaults, which the parser there does not have.
    given, _ = parser.parse_known_args(flags)
    names = frozenset(flag_values(flags))
    check_mappings(given)
    try:
        arguments = parser.parse_args_into_dataclasses([*flags, *postponed(given, names)], look_for_args_file=False)
    except InputError:
        raise
    except Exception as error:  # TrainingArguments raises whatever it meets
        raise InputError(str(error)) from error
    arguments[2].given_options = names
    arguments[2].load_best_model_at_end = given.load_best_model_at_end
    # TrainingArguments replaces False by True if there is an eval_strategy.
    arguments[2].do_eval = given.do_eval
    # TrainingArguments guesses it from the name of the metric.
    arguments[2].greater_is_better = given.greater_is_better
    return tuple(arguments)


def flag_values(flags: list[str]) -> dict[str, Any]:
    """The options that flags give, by their names, with values as a file has them; `--no_x` is `x: false`.

    Raises:
        InputError: an unknown option, or a value of the wrong kind.
    """
    parser = Parser()
    parser._defaults.clear()
    for action in parser._actions:
        # Options that are not given are left out.
        action.default = argparse.SUPPRESS
    given, remaining = parser.parse_known_args(flags)
    for word in remaining:
        if not word.startswith("-") and Path(word).suffix in READERS:
            raise InputError(f"{word}: a file of options comes before the flags, and there is only one")
    parser.check_names([word.lstrip("-").replace("-", "_") for word in remaining], "command line")
    return {name: plain(value) for name, value in vars(given).items()}


def plain(value: Any) -> Any:
    """A value of an option as YAML has it."""
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value.value if isinstance(value, Enum) else str(value) if isinstance(value, Path) else value


def postponed(given: argparse.Namespace, names: Collection[str]) -> list[str]:
    """Flags that keep TrainingArguments from refusing what the defaults, chosen later, make right.

    Args:
        given: the parsed options.
        names: the names of those that the user gave.
    """
    flags = ["--load_best_model_at_end=false"]
    if given.lr_scheduler_type in WAITING and "eval_strategy" not in names:
        flags.append("--eval_strategy=epoch")
    return flags


def check_mappings(given: argparse.Namespace) -> None:
    """Raises InputError for a flag of a mapping with a value that is neither a JSON object nor a file."""
    for name in Seq2SeqTrainingArguments._VALID_DICT_FIELDS:
        value = getattr(given, name)
        # Path.is_file raises OSError for a long text.
        if not isinstance(value, str) or os.path.isfile(value):
            continue
        try:
            is_mapping = isinstance(from_json(value), dict)
        except ValueError as error:
            raise InputError(f"{name}: {value!r} is neither a file nor JSON ({error})") from error
        if not is_mapping:
            raise InputError(f"{name}: {value!r} is no mapping")


def load_option_file(parser: Parser, path: str) -> list[str]:
    """Load the options of a file: single values as flags, which are returned; others as the parser's defaults.

    Raises:
        InputError: the file, or one of its options, is wrong.
    """
    settings = {name: value for name, value in read_options(Path(path)).items() if value is not None}
    parser.check_names(list(settings), path)
    nested = {name: value for name, value in settings.items() if isinstance(value, list | dict)}
    ours = {field.name for kind in (ModelArguments, DataArguments) for field in dataclasses.fields(kind)}
    actions = {action.dest: action for action in parser._actions}
    for name, value in nested.items():
        action, is_ours = actions[name], name in ours - {*OUR_MAPPINGS}
        if is_ours and action.nargs == "+":
            check_names_of_files(value, f"{path}: {name}")
            continue
        takes_mapping = action.type is dict or name in MAPPINGS
        takes_it = takes_mapping if isinstance(value, dict) else action.nargs == "+" or action.type in (str, dict)
        if is_ours or not takes_it:
            raise InputError(f"{path}: {name}: must be a single value, but is {describe(value)}")
    for name, value in settings.items():
        if value is False and "no" in (actions[name].choices or ()):
            # YAML reads no as false.
            settings[name] = "no"
    flags = [f"--{name}={value}" for name, value in settings.items() if name not in nested]
    try:
        parser.parse_args(flags)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    parser.set_defaults(**nested)
    return flags


def check_names_of_files(value: Any, where: str) -> None:
    """Raises InputError for a value that is neither a text nor a list of texts."""
    for item in value if isinstance(value, list) and value else [value]:
        if not isinstance(item, str):
            raise InputError(f"{where}: must be a name or a list of names, but is or holds {describe(item)}")


def card_facts(data_args: DataArguments) -> dict[str, Any]:
    """The checked facts that the user gives for the card.

    Raises:
        InputError: an unknown name, or a wrong value; the message lists the valid names, nearest first.
    """
    facts = parse_pairs(data_args.card_data, "card_data")
    try:
        CardData.check_names(facts)
        CardData(**facts).check_base_model()
    except (StrictDataclassError, ValueError) as error:
        raise InputError(f"card_data: {error}") from error
    return facts


def public_command(argv: list[str], secret: str | None) -> str:
    """The command line without secrets: absolute paths are shortened to their last part, the token is hidden."""
    words = []
    for word in argv:
        flag, equals, value = word.rpartition("=") if word.startswith("-") else ("", "", word)
        value = Path(value).name if Path(value).is_absolute() else value
        words.append("…" if secret and secret in word else flag + equals + value)
    return shlex.join(["seqblend", "train", *words])
