"""The command line: what may be said about model, data and training, from flags or from a YAML or JSON file."""

import argparse
import dataclasses
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import HfArgumentParser, Seq2SeqTrainingArguments, TrainingArguments

from ..configuration.base import unknown
from ..data.columns import Columns
from ..data.errors import NEAREST, InputError, describe, nearest_first, short_list
from ..data.formats import Reading
from ..data.sources import Pairs
from ..data.splits import SPLITS, DataOptions
from ..hub_card.card import CardData
from ..tasks.corruption import Noise
from .option_files import from_json, parse_pairs, read_options

# Of transformers' options, those of another type that may be a mapping all the same.
MAPPINGS = ("generation_config",)


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
    encoder_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "With decoder_name_or_path: a saved encoder to make an encoder-decoder of, whose cross-attention "
            "starts anew. Both must have the same vocabulary, but each keeps its own embedding."
        },
    )
    decoder_name_or_path: str | None = field(default=None, metadata={"help": "See encoder_name_or_path."})
    tokenizer_name_or_path: str | None = field(
        default=None,
        metadata={"help": "A saved tokenizer; default: that of model_name_or_path or encoder_name_or_path."},
    )
    tokenizer_type: str | None = field(
        default=None,
        metadata={"help": "char, byte-bpe, wordpiece or unigram, trained on the training split; default byte-bpe."},
    )
    tokenizer_normalization: str | None = field(
        default=None, metadata={"help": "nfc, nfd or nfkc, for a trained tokenizer."}
    )
    vocab_size: int = field(
        default=8000,
        metadata={"help": "The most entries a trained tokenizer may have; the sentinels of denoising come on top."},
    )

    @property
    def saved_tokenizer(self) -> str | None:
        """Where one is, if none is to be trained."""
        return self.tokenizer_name_or_path or self.model_name_or_path or self.encoder_name_or_path

    def sources(self) -> dict[str, str | None]:
        """Where a saved model, its parts and a tokenizer are, by the names of the flags."""
        return {name: value for name, value in vars(self).items() if name.endswith("name_or_path")}

    def origin(self) -> str:
        """What the model is made from, for the card."""
        if self.encoder_name_or_path:
            return "of a saved encoder and a saved decoder"
        return self.recipe or ("of a saved model" if self.model_name_or_path else "default")


@dataclass
class DataArguments:
    """Which task, on which data."""

    task: str | None = field(
        default=None,
        metadata={
            "help": "sequence-classification, token-classification, seq2seq-lm, causal-lm, masked-lm or denoising."
        },
    )
    problem_type: str | None = field(
        default=None,
        metadata={
            "help": "single_label_classification (the default), multi_label_classification or regression, "
            "for sequence-classification."
        },
    )
    class_weights: str | None = field(
        default=None,
        metadata={
            "help": "How much each label counts in the loss of sequence- and token-classification: balanced, which is "
            "n / (labels × count) in the training split; numbers in the order of the labels, as in '1,2.5'; or "
            "'LABEL=1,LABEL=2.5'."
        },
    )
    bleu_tokenize: str | None = field(
        default=None,
        metadata={
            "help": "For seq2seq-lm: what BLEU counts, as sacrebleu names it: 13a, intl, zh, char, none, ja-mecab, "
            "ko-mecab, flores101, flores200, …. Default by the script of the references: zh for Chinese; ja-mecab "
            "for Japanese where sacrebleu's extra is installed, else char; char for Thai, Lao, Khmer, Burmese and "
            "Tibetan; ko-mecab for Korean where it is installed; 13a for all others."
        },
    )
    dataset_name: str | None = field(default=None, metadata={"help": "dates, or a data set of the Hub."})
    dataset_config_name: str | None = field(default=None, metadata={"help": "The configuration of dataset_name."})
    train_file: list[str] | None = field(
        default=None,
        metadata={
            "help": "Files or globs, as in a.jsonl 'b/*.csv': .json, .jsonl, .csv, .tsv, .parquet, .txt, .conll or "
            ".conllu, each also .gz or .zst."
        },
    )
    validation_file: list[str] | None = field(default=None, metadata={"help": "Likewise."})
    test_file: list[str] | None = field(default=None, metadata={"help": "Likewise."})
    train_source_file: list[str] | None = field(
        default=None,
        metadata={
            "help": "For seq2seq-lm, in place of train_file: files of one source text a line, of any extension."
        },
    )
    train_target_file: list[str] | None = field(
        default=None, metadata={"help": "The targets of train_source_file, line by line."}
    )
    validation_source_file: list[str] | None = field(default=None, metadata={"help": "Likewise."})
    validation_target_file: list[str] | None = field(default=None, metadata={"help": "Likewise."})
    test_source_file: list[str] | None = field(default=None, metadata={"help": "Likewise."})
    test_target_file: list[str] | None = field(default=None, metadata={"help": "Likewise."})
    encoding: str = field(default="utf-8", metadata={"help": "Of all files that are text, as Python names it."})
    token_column_index: int | None = field(
        default=None,
        metadata={
            "help": "The column of the word in files of one word a line, from 0, or from -1 backwards; default 0, of "
            ".conllu 1. With one of the two flags, .tsv and .txt are such files too."
        },
    )
    tag_column_index: int | None = field(
        default=None, metadata={"help": "The column of its tag; default -1, of .conllu 3 (UPOS)."}
    )
    delimiter: str | None = field(
        default=None,
        metadata={
            "help": r"What separates columns, as in ';' or '\t'; default a comma in .csv and a tab in .tsv files."
        },
    )
    decimal: str = field(
        default=".", metadata={"help": "The decimal mark of numbers in such files: a point or a comma."}
    )
    label_separator: str | None = field(
        default=None,
        metadata={"help": "What separates labels, tags or numbers in a cell of them, as in ';|'; default a space."},
    )
    train_split: str | None = field(
        default=None, metadata={"help": "What to train on of dataset_name, as in 'train[:90%%]'; default train."}
    )
    validation_split: str | None = field(default=None, metadata={"help": "Likewise; default validation."})
    test_split: str | None = field(default=None, metadata={"help": "Likewise; default test."})
    text_column: str = field(
        default="text", metadata={"help": "The column of the text; a.b is b in the objects of a."}
    )
    text_pair_column: str = field(default="text_pair", metadata={"help": "The column of the second text, if any."})
    label_column: str = field(default="label", metadata={"help": "The column of the label or labels."})
    tokens_column: str = field(default="tokens", metadata={"help": "The column of the words."})
    tags_column: str = field(default="tags", metadata={"help": "The column of the words' tags."})
    source_column: str = field(default="source", metadata={"help": "The column of the source text."})
    target_column: str = field(default="target", metadata={"help": "The column of the target text, or of several."})
    max_length: int = field(default=512, metadata={"help": "Longest sequence in tokens; longer ones: see overflow."})
    overflow: str = field(
        default="truncate",
        metadata={
            "help": "Of a text longer than that: truncate reads the beginning; window reads all of it, as overlapping "
            "sequences, from which sequence-classification takes the mean and token-classification each word once."
        },
    )
    overlap: int | None = field(
        default=None, metadata={"help": "Tokens that two windows have in common; default a quarter of max_length."}
    )
    max_source_length: int | None = field(default=None, metadata={"help": "For seq2seq-lm; default max_length."})
    max_target_length: int | None = field(default=None, metadata={"help": "For seq2seq-lm; default max_length."})
    pack_documents: bool = field(
        default=False,
        metadata={
            "help": "For causal-lm: texts are documents that do not see each other, in rows of up to max_length "
            "tokens without padding; else they are one stream, cut into rows of max_length."
        },
    )
    mask_probability: float | None = field(
        default=None,
        metadata={"help": "Share of the tokens that masked-lm masks and denoising cuts out; default 0.15."},
    )
    mask_whole_words: bool = field(
        default=False,
        metadata={"help": "For masked-lm: mask all tokens of a word or none, as the tokenizer has words."},
    )
    mean_span_length: float | None = field(
        default=None, metadata={"help": "For denoising: mean length of a span that is cut out, in tokens; default 3."}
    )
    streaming: bool = field(
        default=False,
        metadata={
            "help": "Read the training split as it is trained on, and store it nowhere: in each epoch its files come "
            "in random order, and rows in random order within blocks of 10,000. Needs max_steps and a saved tokenizer."
        },
    )
    preprocessing_num_workers: int | None = field(
        default=None, metadata={"help": "Turn rows into tokens in so many processes; default: in one."}
    )
    max_train_samples: int | None = field(default=None, metadata={"help": "Take so many random training rows."})
    max_eval_samples: int | None = field(default=None, metadata={"help": "Take so many random rows of other splits."})
    card_data: str | None = field(
        default=None, metadata={"help": "What the model card should say, as in 'license=mit,language=[en, ko]'."}
    )

    def columns(self) -> Columns:
        """The user's column names."""
        names = [f.name for f in dataclasses.fields(Columns)]
        return Columns(**{name: getattr(self, f"{name}_column") for name in names})

    def reading(self) -> Reading:
        """How the files are read."""
        return Reading.from_options(self)

    def files(self, split: str) -> list[str] | Pairs | None:
        """What was named for a split. Raises InputError for both kinds of it, and for half a pair."""
        whole = getattr(self, f"{split}_file")
        flags = [f"{split}_{side}_file" for side in Pairs._fields]
        pair = [getattr(self, flag) for flag in flags]
        if pair == [None, None]:
            return whole
        if whole is not None:
            raise InputError(f"{split}_file: does not go together with {' and '.join(flags)}; give one of the two")
        if None in pair:
            raise InputError(f"{flags[pair.index(None)]}: is missing; its lines go with those of the other file")
        return Pairs(*pair)

    def data_options(self, args: TrainingArguments, splits: Sequence[str]) -> DataOptions:
        """Which data is read, and how; `splits` are those to read. Raises InputError: see `files`."""
        files = {split: self.files(split) for split in SPLITS}
        names = {split: getattr(self, f"{split}_split") for split in SPLITS}
        return DataOptions(
            files={split: given for split, given in files.items() if given is not None},
            reading=self.reading(),
            dataset_name=self.dataset_name,
            dataset_config_name=self.dataset_config_name,
            split_names={split: name for split, name in names.items() if name is not None},
            splits=splits,
            max_train_samples=self.max_train_samples,
            max_eval_samples=self.max_eval_samples,
            streaming=self.streaming,
            seed=args.seed,
            data_seed=args.data_seed,
        )

    def lengths(self) -> dict[str, int]:
        """The longest sequence in tokens, by itself, as a source, and as a target."""
        return {
            "max_length": self.max_length,
            "max_source_length": self.max_source_length or self.max_length,
            "max_target_length": self.max_target_length or self.max_length,
        }

    def noise(self) -> Noise:
        """What a language model is to put back."""
        given = {"probability": self.mask_probability, "mean_span_length": self.mean_span_length}
        return Noise(whole_words=self.mask_whole_words, **{k: v for k, v in given.items() if v is not None})

    def facts(self) -> dict[str, str | int]:
        """What the card tells of the data: names without directories."""
        facts = {"task": self.task, "max_length": self.max_source_length or self.max_length}
        if self.dataset_name is None:
            given = next(filter(None, map(self.files, ("train", "validation", "test"))))
            names = [name for side in given for name in side] if isinstance(given, Pairs) else given
            return {**facts, "dataset": short_list([Path(name).name for name in names])}
        if self.dataset_name == "dates":
            return {**facts, "dataset": "dates in fifty languages (built into seqblend)"}
        name = " ".join(filter(None, [self.dataset_name, self.dataset_config_name]))
        return {**facts, "dataset": name, "dataset_id": self.dataset_name}


@dataclass
class BlendTrainingArguments(Seq2SeqTrainingArguments):
    """transformers' own, what a batch may hold, how a run goes on by itself, and when to stop early."""

    max_tokens_per_batch: int | None = field(
        default=None,
        metadata={
            "help": "The most tokens, without padding, in a training batch of one device, in place of "
            "per_device_train_batch_size. Rows of similar length are batched; the target of seq2seq-lm counts too."
        },
    )
    resume: str | None = field(
        default=None,
        metadata={"help": "auto: go on from the newest good checkpoint of output_dir; where there is none, begin."},
    )
    overwrite_output_dir: bool = field(
        default=False,
        metadata={
            "help": "Delete the run that output_dir holds before another one is trained into it; without it, and "
            "without resume, that is refused. Other files stay. Where resume finds a checkpoint, the run goes on."
        },
    )
    allow_changed: list[str] | None = field(
        default=None,
        metadata={
            "help": "On resume: facts of the run that may be otherwise than in the checkpoint, such as learning_rate "
            "or train_dataset. They then hold from there on, and the card says so; any other difference is refused."
        },
    )
    early_stopping_patience: int | None = field(
        default=None,
        metadata={
            "help": "Stop after so many evaluations in which metric_for_best_model was not better than ever before. "
            "Needs load_best_model_at_end and an eval_strategy."
        },
    )

    # Where the user said nothing of logging_steps, train.py chooses them.
    chooses_logging_steps = False

    @property
    def device(self) -> torch.device:
        """The device of this process; a CPU has no number.

        Replaces TrainingArguments.device, which numbers CPUs where there are several processes: torch restores nothing
        onto "cpu:0", where `Trainer._load_optimizer_and_scheduler` of older transformers wants an optimizer's state.
        """
        device = super().device
        return torch.device("cpu") if device.type == "cpu" else device


class Parser(HfArgumentParser):
    """HfArgumentParser that says what is wrong in one line and takes no abbreviated flags."""

    def __init__(self) -> None:
        super().__init__((ModelArguments, DataArguments, BlendTrainingArguments), allow_abbrev=False)
        self.usage = "seqblend-train [FILE.yaml|FILE.json] [--flag value …]"
        self.description = (
            "Train, evaluate and predict. Needed: --task, --output_dir, and --train_file or --dataset_name."
        )
        # Not said; a false is one that was.
        self.set_defaults(do_train=None, do_eval=None, do_predict=None)

    def error(self, message: str) -> None:  # type: ignore[override]
        """Replaces ArgumentParser.error, which prints every flag and exits."""
        raise InputError(message)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Replaces ArgumentParser._check_value, which lists the valid values in no useful order."""
        if action.choices is not None and value not in action.choices:
            raise InputError(unknown(action.dest, str(value), [str(choice) for choice in action.choices]))

    def check_names(self, names: list[str], where: str) -> None:
        """Raises InputError for a name that is no flag; the message lists the nearest ones."""
        valid = sorted({action.dest for action in self._actions} - {"help"})
        for name in names:
            if name not in valid:
                nearest = ", ".join(nearest_first(name, valid)[:NEAREST])
                raise InputError(f"{where}: unknown option {name!r}; valid, nearest first: {nearest}; --help has all")


def parse_arguments(argv: list[str]) -> tuple[ModelArguments, DataArguments, BlendTrainingArguments]:
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
    said = parser.parse_known_args(flags)[0]
    check_mappings(said)
    try:
        *arguments, remaining = parser.parse_args_into_dataclasses(
            flags, return_remaining_strings=True, look_for_args_file=False
        )
    except InputError:
        raise
    except Exception as error:  # TrainingArguments raises whatever it meets
        raise InputError(str(error)) from error
    parser.check_names([word.lstrip("-").replace("-", "_") for word in remaining], "command line")
    names = {word.partition("=")[0].replace("-", "_") for word in flags}
    arguments[2].chooses_logging_steps = "__logging_steps" not in names
    # TrainingArguments turns a false into a true where there is an eval_strategy.
    arguments[2].do_eval = said.do_eval
    # And guesses this from the metric's name.
    arguments[2].greater_is_better = said.greater_is_better
    return tuple(arguments)


def check_mappings(said: argparse.Namespace) -> None:
    """Raises InputError for a flag that takes a mapping, and whose value is neither JSON nor a file."""
    for name in Seq2SeqTrainingArguments._VALID_DICT_FIELDS:
        value = getattr(said, name)
        if not isinstance(value, str) or Path(value).is_file():
            continue
        try:
            is_mapping = isinstance(from_json(value), dict)
        except ValueError as error:
            raise InputError(f"{name}: {value!r} is neither a file nor JSON ({error})") from error
        if not is_mapping:
            raise InputError(f"{name}: {value!r} is no mapping")


def take_settings(parser: Parser, path: str) -> list[str]:
    """The options of a file as flags; lists and mappings, which flags cannot hold, become the parser's defaults."""
    settings = {name: value for name, value in read_options(Path(path)).items() if value is not None}
    parser.check_names(list(settings), path)
    nested = {name: value for name, value in settings.items() if isinstance(value, list | dict)}
    ours = {field.name for kind in (ModelArguments, DataArguments) for field in dataclasses.fields(kind)}
    actions = {action.dest: action for action in parser._actions}
    for name in nested:
        is_ours = name in ours - {"config_overrides", "card_data", "class_weights"}
        if is_ours and actions[name].nargs == "+":
            check_names_of_files(nested[name], f"{path}: {name}")
        elif is_ours or not (actions[name].nargs == "+" or actions[name].type in (str, dict) or name in MAPPINGS):
            raise InputError(f"{path}: {name}: must be a single value, but is {describe(nested[name])}")
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
    """Raises InputError for what is no list of texts."""
    for item in value if isinstance(value, list) and value else [value]:
        if not isinstance(item, str):
            raise InputError(f"{where}: must be a name or a list of names, but is or holds {describe(item)}")


def card_facts(data_args: DataArguments) -> dict[str, Any]:
    """What the user says for the card, checked.

    Raises:
        InputError: one of them is no fact of a card; the message lists those there are, nearest first.
    """
    facts = parse_pairs(data_args.card_data, "card_data")
    try:
        CardData.check_names(facts)
        CardData(**facts)
    except (StrictDataclassError, ValueError) as error:
        raise InputError(f"card_data: {error}") from error
    return facts


def public_command(argv: list[str], secret: str | None) -> str:
    """The command line as others may read it: of absolute paths the last name, and no token."""
    words = []
    for word in argv:
        flag, equals, value = word.rpartition("=") if word.startswith("-") else ("", "", word)
        value = Path(value).name if Path(value).is_absolute() else value
        words.append("…" if secret and secret in word else flag + equals + value)
    return shlex.join(["python", "train.py", *words])
