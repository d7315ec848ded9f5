"""The options of training: those of the model, of the data, and of the Trainer."""

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import Seq2SeqTrainingArguments, TrainingArguments

from ..data.columns import Columns
from ..data.errors import InputError, short_list
from ..data.formats import Reading
from ..data.sources import Pairs
from ..data.splits import SPLITS, DataOptions
from ..tasks.corruption import Noise


@dataclass
class ModelArguments:
    """The model and the tokenizer."""

    architecture: str | None = field(
        default=None, metadata={"help": "encoder, decoder or encoder-decoder; default: depends on the task."}
    )
    recipe: str | None = field(
        default=None, metadata={"help": "The name of a set of config values to build a new model from."}
    )
    config_overrides: str | None = field(
        default=None, metadata={"help": "Changes to the recipe, as in 'hidden_size=256,num_hidden_layers=4'."}
    )
    model_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "A saved model to start from, in place of a recipe: one of this package, or a checkpoint of BERT, "
            "GPT-2, Llama, BART or another architecture of docs/conversion.md."
        },
    )
    encoder_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "A saved encoder, to be combined with decoder_name_or_path into an encoder-decoder. "
            "Cross-attention is initialized randomly. Both must have the same vocabulary; each keeps its own "
            "embedding."
        },
    )
    decoder_name_or_path: str | None = field(
        default=None, metadata={"help": "A saved decoder; see encoder_name_or_path."}
    )
    tokenizer_name_or_path: str | None = field(
        default=None,
        metadata={"help": "A saved tokenizer; default: that of model_name_or_path or encoder_name_or_path."},
    )
    source_lang: str | None = field(
        default=None,
        metadata={
            "help": "For a saved tokenizer with languages: the language of the sources, by the tokenizer's name for "
            "it: eng_Latn for NLLB, en_XX for mBART, en for M2M100."
        },
    )
    target_lang: str | None = field(
        default=None, metadata={"help": "Language of the targets; generation starts with its token. See source_lang."}
    )
    tokenizer_type: str | None = field(
        default=None,
        metadata={
            "help": "The tokenizer to train on the training split: char, byte-bpe, wordpiece or unigram; "
            "default: byte-bpe; wordpiece for classification; char if the inputs are single words."
        },
    )
    tokenizer_normalization: str | None = field(
        default=None, metadata={"help": "Unicode normalization of a trained tokenizer: nfc, nfd or nfkc."}
    )
    vocab_size: int = field(
        default=8000,
        metadata={
            "help": "Maximum vocabulary size of a trained tokenizer; the sentinels of denoising are added to it."
        },
    )

    lora_rank: int | None = field(
        default=None,
        metadata={
            "help": "Train LoRA adapters of this rank, in place of the weights of a saved model; needs peft. The head "
            "of a classifier or a tagger is trained in full."
        },
    )
    lora_alpha: float | None = field(
        default=None, metadata={"help": "Adapters are scaled by lora_alpha / lora_rank; default: twice the rank."}
    )
    lora_target: list[str] | None = field(
        default=None,
        metadata={
            "help": "The linear layers of the blocks that get adapters: all-linear, the default, or names, as in "
            "q_proj v_proj. The matrices of a recurrent network get none."
        },
    )

    def __post_init__(self) -> None:
        # A shell does not expand `~` in a YAML file or after a `=`.
        for name, path in self.sources().items():
            if path is not None:
                setattr(self, name, os.path.expanduser(path))

    @property
    def saved_tokenizer(self) -> str | None:
        """The path or the name of a saved tokenizer; None if one is to be trained."""
        return self.tokenizer_name_or_path or self.model_name_or_path or self.encoder_name_or_path

    def sources(self) -> dict[str, str | None]:
        """The paths of a saved model, of its parts and of a tokenizer, by the names of their flags."""
        return {name: value for name, value in vars(self).items() if name.endswith("name_or_path")}

    def origin(self) -> str:
        """What the model is made from, for the card."""
        if self.encoder_name_or_path:
            return "of a saved encoder and a saved decoder"
        return self.recipe or ("of a saved model" if self.model_name_or_path else "default")


# The value of --label_thresholds that is no number.
F1 = "f1"


@dataclass
class DataArguments:
    """The task and the data."""

    task: str | None = field(
        default=None,
        metadata={
            "help": "sequence-classification, token-classification, seq2seq-lm, causal-lm, masked-lm or denoising."
        },
    )
    problem_type: str | None = field(
        default=None,
        metadata={
            "help": "For sequence-classification: single_label_classification (the default), "
            "multi_label_classification or regression."
        },
    )
    class_weights: str | None = field(
        default=None,
        metadata={
            "help": "Weights of the labels in the loss, for sequence- and token-classification: balanced, which is "
            "n / (labels × count) in the training split; numbers in the order of the labels, as in '1,2.5'; or "
            "'LABEL=1,LABEL=2.5'."
        },
    )
    decode_tags: str | None = field(
        default=None,
        metadata={
            "help": "For token-classification: how tags are chosen. legal, the default: the most probable sequence "
            "that is legal in the scheme of the labels, such as IOB2. greedy: the most probable tag of each word."
        },
    )
    calibrate: bool = field(
        default=False,
        metadata={
            "help": "For classification: after training, fit a temperature on the validation split, so that the "
            "probabilities match the accuracy on average, and divide the last projection by it. Every client then "
            "gets the calibrated probabilities."
        },
    )
    label_thresholds: str | None = field(
        default=None,
        metadata={
            "help": "For multi_label_classification: after training, choose a threshold for each label on the "
            "validation split. f1: the threshold with the highest F1. A number: the threshold with the highest recall "
            "among those with at least this precision. Without this option, the thresholds are 0.5."
        },
    )
    abstain_precision: float | None = field(
        default=None,
        metadata={
            "help": "For a single label: after training, choose on the validation split the confidence below which "
            "the model abstains, so that at least this share of its other answers is right."
        },
    )
    unknown_label: str | None = field(
        default=None,
        metadata={
            "help": "For a single label: rows with this label belong to none of the classes. Training leaves them "
            "out. In validation and test they are used like validation_unknown_file and test_unknown_file."
        },
    )
    validation_unknown_file: list[str] | None = field(
        default=None,
        metadata={
            "help": "For a single label: validation files with texts of none of the classes. They serve to choose the "
            "confidence below which the model abstains: by abstain_precision or, without it, so that the accuracy "
            "falls by at most one point."
        },
    )
    test_unknown_file: list[str] | None = field(
        default=None,
        metadata={"help": "Test files with texts of none of the classes, to measure how many of them are detected."},
    )
    bleu_tokenize: str | None = field(
        default=None,
        metadata={
            "help": "For seq2seq-lm: the sacrebleu tokenizer of BLEU: 13a, intl, zh, char, none, ja-mecab, "
            "ko-mecab, flores101, flores200, …. The default depends on the script of the references: zh for Chinese; "
            "ja-mecab for Japanese if sacrebleu's extra is installed, else char; char for Thai, Lao, Khmer, Burmese "
            "and Tibetan; ko-mecab for Korean if it is installed; 13a for all others."
        },
    )
    dataset_name: str | None = field(
        default=None,
        metadata={"help": "dates (built in), a data set on the Hub, or a directory with the files of one."},
    )
    dataset_config_name: str | None = field(default=None, metadata={"help": "The configuration of dataset_name."})
    train_file: list[str] | None = field(
        default=None,
        metadata={
            "help": "Training files or globs, as in a.jsonl 'b/*.csv': .json, .jsonl, .csv, .tsv, .parquet, .txt, "
            ".conll or .conllu, each also .gz or .zst."
        },
    )
    validation_file: list[str] | None = field(
        default=None, metadata={"help": "Validation files or globs, of the same types as train_file."}
    )
    test_file: list[str] | None = field(
        default=None, metadata={"help": "Test files or globs, of the same types as train_file."}
    )
    train_source_file: list[str] | None = field(
        default=None,
        metadata={
            "help": "For seq2seq-lm, in place of train_file: files with one source text per line, with any extension."
        },
    )
    train_target_file: list[str] | None = field(
        default=None, metadata={"help": "Files with the targets of train_source_file, one per line."}
    )
    validation_source_file: list[str] | None = field(
        default=None, metadata={"help": "Files with the validation sources; see train_source_file."}
    )
    validation_target_file: list[str] | None = field(
        default=None, metadata={"help": "Files with the targets of validation_source_file, one per line."}
    )
    test_source_file: list[str] | None = field(
        default=None, metadata={"help": "Files with the test sources; see train_source_file."}
    )
    test_target_file: list[str] | None = field(
        default=None, metadata={"help": "Files with the targets of test_source_file, one per line."}
    )
    encoding: str = field(default="utf-8", metadata={"help": "The encoding of all text files, by its name in Python."})
    token_column_index: int | None = field(
        default=None,
        metadata={
            "help": "Index of the word's column in files with one word per line, counted from 0, or backwards from "
            "-1; default: 0; 1 for .conllu. If this or tag_column_index is given, .tsv and .txt files are read this "
            "way, too."
        },
    )
    tag_column_index: int | None = field(
        default=None, metadata={"help": "Index of the tag's column in these files; default: -1; 3 (UPOS) for .conllu."}
    )
    delimiter: str | None = field(
        default=None,
        metadata={
            "help": r"The separator of columns, as in ';' or '\t'; default: a comma in .csv and a tab in .tsv files."
        },
    )
    decimal: str = field(
        default=".", metadata={"help": "The decimal mark of numbers in .csv and .tsv files: a point or a comma."}
    )
    label_separator: str | None = field(
        default=None,
        metadata={
            "help": "The characters that separate labels, tags or numbers in a cell, as in ';|'; default: a space."
        },
    )
    train_split: str | None = field(
        default=None, metadata={"help": "The training split of dataset_name, as in 'train[:90%%]'; default: train."}
    )
    validation_split: str | None = field(
        default=None, metadata={"help": "The validation split of dataset_name; default: validation."}
    )
    test_split: str | None = field(default=None, metadata={"help": "The test split of dataset_name; default: test."})
    text_column: str | None = field(
        default=None,
        metadata={"help": "The column of the text; a.b is the field b of the objects in column a; default: text."},
    )
    messages_column: str | None = field(
        default=None,
        metadata={
            "help": "For causal-lm, in place of a text: the column of conversations, lists of {role, content}; "
            "default: messages. If the rows have both columns, give this flag or text_column to choose one."
        },
    )
    chat_template: str | None = field(
        default=None,
        metadata={
            "help": "For causal-lm: a file with a Jinja chat template, which is saved with the tokenizer; default: "
            "the tokenizer's own."
        },
    )
    text_pair_column: str | None = field(
        default=None, metadata={"help": "The column of the second text, if any; default: text_pair."}
    )
    label_column: str = field(default="label", metadata={"help": "The column of the label or labels."})
    tokens_column: str = field(default="tokens", metadata={"help": "The column of the words."})
    tags_column: str = field(default="tags", metadata={"help": "The column of the words' tags."})
    source_column: str = field(default="source", metadata={"help": "The column of the source text."})
    target_column: str = field(default="target", metadata={"help": "The column of the target text or texts."})
    max_length: int = field(
        default=512,
        metadata={"help": "Maximum length of a sequence in tokens; overflow says what happens to longer texts."},
    )
    overflow: str = field(
        default="truncate",
        metadata={
            "help": "Which part of a text longer than max_length is read. truncate: the beginning. window: all, in "
            "overlapping windows; sequence-classification averages their logits, token-classification takes each word "
            "from one window."
        },
    )
    overlap: int | None = field(
        default=None,
        metadata={"help": "Number of tokens that two successive windows share; default: a quarter of max_length."},
    )
    max_source_length: int | None = field(
        default=None, metadata={"help": "For seq2seq-lm: maximum length of a source in tokens; default: max_length."}
    )
    max_target_length: int | None = field(
        default=None, metadata={"help": "For seq2seq-lm: maximum length of a target in tokens; default: max_length."}
    )
    pack_documents: bool = field(
        default=False,
        metadata={
            "help": "For causal-lm: pack whole texts into rows of up to max_length tokens without padding; a text "
            "does not attend to the others in its row. Otherwise all texts form one stream, which is cut into rows of "
            "max_length."
        },
    )
    mask_probability: float | None = field(
        default=None,
        metadata={"help": "Share of the tokens that masked-lm masks or denoising cuts out; default: 0.15."},
    )
    mask_whole_words: bool = field(
        default=False,
        metadata={"help": "For masked-lm: mask all tokens of a word or none; the tokenizer decides what a word is."},
    )
    mean_span_length: float | None = field(
        default=None,
        metadata={"help": "For denoising: mean length in tokens of the spans that are cut out; default: 3."},
    )
    streaming: bool = field(
        default=False,
        metadata={
            "help": "Read the training split during training, without storing it. Each epoch shuffles the files, and "
            "the rows within blocks of 10,000. Needs max_steps and a saved tokenizer."
        },
    )
    preprocessing_num_workers: int | None = field(
        default=None, metadata={"help": "Number of processes that tokenize rows; default: one."}
    )
    max_train_samples: int | None = field(default=None, metadata={"help": "Use this many random training rows."})
    max_eval_samples: int | None = field(
        default=None, metadata={"help": "Use this many random rows of the validation split and of the test split."}
    )
    card_data: str | None = field(
        default=None, metadata={"help": "Facts for the model card, as in 'license=mit,language=[en, ko]'."}
    )

    def columns(self) -> Columns:
        """The user's column names; None where the user has not chosen one."""
        names = [f.name for f in dataclasses.fields(Columns)]
        return Columns(**{name: getattr(self, f"{name}_column") for name in names})

    def reading(self) -> Reading:
        """How the files are read."""
        return Reading.from_options(self)

    def files(self, split: str) -> list[str] | Pairs | None:
        """The files of a split. Raises InputError for both a whole file and a pair, and for an incomplete pair."""
        whole = getattr(self, f"{split}_file")
        flags = [f"{split}_{side}_file" for side in Pairs._fields]
        pair = [getattr(self, flag) for flag in flags]
        if pair == [None, None]:
            return whole
        if whole is not None:
            raise InputError(f"{split}_file: does not go together with {' and '.join(flags)}; give one of the two")
        if None in pair:
            raise InputError(
                f"{flags[pair.index(None)]}: is missing; each of its lines belongs to a line of the other file"
            )
        return Pairs(*pair)

    def data_options(self, args: TrainingArguments, splits: Sequence[str]) -> DataOptions:
        """Which data is read, and how; `splits` are those to read. Raises InputError as `files`."""
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
            unknown_label=self.unknown_label,
            streaming=self.streaming,
            seed=args.seed,
            data_seed=args.data_seed,
        )

    def lengths(self) -> dict[str, int]:
        """The maximum lengths, in tokens, of a single sequence, a source and a target."""
        return {
            "max_length": self.max_length,
            "max_source_length": self.max_source_length or self.max_length,
            "max_target_length": self.max_target_length or self.max_length,
        }

    def noise(self) -> Noise:
        """How much of a text is corrupted, for masked-lm and denoising."""
        given = {"probability": self.mask_probability, "mean_span_length": self.mean_span_length}
        return Noise(whole_words=self.mask_whole_words, **{k: v for k, v in given.items() if v is not None})

    def facts(self) -> dict[str, str | int | None]:
        """Facts about the data for the card; files are named without their directories."""
        # None replaces the value of an earlier run in the same directory.
        facts = {"dataset_id": None, "task": self.task, "max_length": self.max_source_length or self.max_length}
        facts["overflow"] = self.overflow
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
    """The training arguments of transformers, with token budgets, automatic resumption and early stopping."""

    max_tokens_per_batch: int | None = field(
        default=None,
        metadata={
            "help": "Maximum number of tokens, without padding, in a training batch of one device, in place of "
            "per_device_train_batch_size. A batch has rows of similar length. For seq2seq-lm, target tokens count, "
            "too."
        },
    )
    resume: str | None = field(
        default=None,
        metadata={
            "help": "auto: resume from the newest good checkpoint in output_dir; if there is none, start a new run."
        },
    )
    overwrite_output_dir: bool = field(
        default=False,
        metadata={
            "help": "Delete an earlier run in output_dir before training; other files stay. Without this option and "
            "without resume, an output_dir with an earlier run is refused. If resume finds a checkpoint, nothing is "
            "deleted."
        },
    )
    allow_changed: list[str] | None = field(
        default=None,
        metadata={
            "help": "On resume: facts of the run that may differ from the checkpoint, such as learning_rate or "
            "train_dataset. The new values apply from there on, and the card lists them; any other difference is "
            "refused."
        },
    )
    save_original: bool = field(
        default=False,
        metadata={
            "help": "After training, also write output_dir/original: the model in the format of the checkpoint of "
            "another architecture that model_name_or_path names."
        },
    )
    push_original: bool = field(
        default=False,
        metadata={
            "help": "Push output_dir/original to hub_model_id, with a card and without code, in place of the model of "
            "this package (push_to_hub). Includes save_original."
        },
    )
    early_stopping_patience: int | None = field(
        default=None,
        metadata={
            "help": "Stop after this many evaluations in a row without an improvement of metric_for_best_model. "
            "Needs load_best_model_at_end and an eval_strategy, which are the defaults with validation data."
        },
    )
    average_checkpoints: int | None = field(
        default=None,
        metadata={
            "help": "After training, give the model the mean of the weights of the last N checkpoints. Needs "
            "save_strategy steps or epoch, and a save_total_limit that keeps them."
        },
    )
    quiet: bool = field(
        default=False,
        metadata={"help": "Print only errors and, at the end, the results on the validation and test splits."},
    )
    merge_adapter: bool = field(
        default=False,
        metadata={
            "help": "After training, add the adapters of lora_rank to the weights, and save the whole model in place "
            "of the adapters. Checkpoints hold adapters."
        },
    )

    # The names of the options that the user has given on the command line; train.py may choose values for others.
    given_options = frozenset()
    # The values of those that were chosen instead, by name; None where nothing chooses.
    default_options = None

    @property
    def device(self) -> torch.device:
        """The device of this process; a CPU has no number.

        Replaces TrainingArguments.device, which numbers CPUs if there are several processes: older transformers load
        an optimizer's state onto this device (`Trainer._load_optimizer_and_scheduler`), and torch refuses "cpu:0".
        """
        device = super().device
        return torch.device("cpu") if device.type == "cpu" else device


# Options whose defaults follow from the run (defaults.py), and these defaults in words, for the help.
CHOSEN = {
    "num_train_epochs": "about 3,000 steps, 3 to 50 epochs from scratch, 3 to 5 of a saved model",
    "per_device_train_batch_size": "32 or fewer, depending on the data",
    "per_device_eval_batch_size": "as in training, at least 8",
    "learning_rate": "depends on the width of the model",
    "lr_scheduler_type": "cosine from scratch, linear for a saved model",
    "warmup_steps": "a tenth of the steps",
    "weight_decay": "0.1 from scratch, 0 for a saved model",
    "logging_steps": "about 20 lines in a run",
    "eval_strategy": "an epoch or less, with validation data",
    "eval_steps": "as eval_strategy",
    "save_strategy": "as eval_strategy; steps without one",
    "save_steps": "as eval_steps; 500 without evaluations",
    "save_total_limit": "2: the best and the last",
    "load_best_model_at_end": "true with validation data",
    "metric_for_best_model": "that of the task",
    "vocab_size": "8000; 4000 for labels and targets with fewer than 20,000 rows",
}
