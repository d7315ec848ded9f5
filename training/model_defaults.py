"""Defaults of a new model, by its task and its data: the tokenizer, the longest text, fields of the configuration."""

import itertools
from collections.abc import Sequence
from statistics import median
from typing import Any

import datasets

from ..checkpoints.loading import load_config
from ..checkpoints.run_directory import trained_length
from ..data.splits import LabelledData
from ..data.streams import RowStream
from ..tasks.base import Task
from ..tasks.models import position_limit
from ..tokenization.training import Texts
from ..tokenization.words import main_script
from .arguments import DataArguments, ModelArguments
from .command_line import parse_pairs
from .defaults import FROM_SCRATCH, Choice, Defaults, is_from_scratch

# From scratch: a task with labels or targets and fewer rows, which training sees about five times or more, needs more
# dropout than the default of the configuration, and a smaller vocabulary, whose tokens have more examples.
FEW_ROWS, DROPOUT, FEW_TOKENS = 20_000, 0.3, 4000
# Vocabularies that hold each character, alone and (WordPiece) inside words, and room for longer tokens.
CHAR, WORDPIECE = "char", "wordpiece"
OF_LETTERS, SPARE_TOKENS = (CHAR, WORDPIECE, "unigram"), 1000

KOREAN = "Korean"  # of SCRIPTS
# Inputs are single words if so many of the first ones have no space, and at most so many letters (the median).
SAMPLE, WORD_LETTERS = 1000, 20
# Architectures that have defaults of their own; and the field that needs this tokenizer.
ENCODER, ENCODER_DECODER = "encoder", "encoder-decoder"
OF_WORDPIECE = "affix_buckets"
# From few single words, small LSTMs learn to write pronunciations or inflected forms; attention needs more rows.
SMALL_LSTM = {"mixer_type": "lstm", "hidden_size": 128, "num_hidden_layers": 2}


def resolve_model(
    defaults: Defaults, model_args: ModelArguments, data_args: DataArguments, task: Task, rows: LabelledData
) -> dict[str, Any]:
    """Choose the longest text, the tokenizer, and fields of the configuration of a new model.

    Args:
        defaults: changed here.
        model_args: say what is trained; changed here.
        data_args: of the run; changed here.
        task: of the run.
        rows: the data.

    Returns:
        The fields; see `resolve_fields`.

    Raises:
        InputError: the saved model cannot be loaded, or config_overrides cannot be read.
    """
    resolve_max_length(defaults, model_args, data_args, task, trains=bool(defaults.args.do_train))
    resolve_tokenizer(defaults, model_args, task, rows)
    return resolve_fields(defaults, model_args, task, rows)


def resolve_max_length(
    defaults: Defaults, model_args: ModelArguments, data_args: DataArguments, task: Task, *, trains: bool
) -> None:
    """Choose the maximum length for a saved model: that of its training, unless it is trained; at most its positions.

    Args:
        defaults: changed here.
        model_args: name the model.
        data_args: of the run; changed here.
        task: of the run.
        trains: whether the model is trained.

    Raises:
        InputError: the model cannot be loaded.
    """
    path = model_args.model_name_or_path
    if not path:
        return
    length = None if trains else trained_length(path)
    if length is not None and not defaults.is_given("max_length", "max_source_length"):
        name = "max_source_length" if task.generates else "max_length"
        setattr(data_args, name, length)
        defaults.chosen[name] = Choice(length, "as in the training of the model")
    positions = position_limit(load_config(path))
    if positions < data_args.max_length and not defaults.is_given("max_length"):
        data_args.max_length = int(positions)
        defaults.chosen["max_length"] = Choice(int(positions), "the positions of the model")


def resolve_tokenizer(defaults: Defaults, model_args: ModelArguments, task: Task, rows: LabelledData) -> None:
    """Choose the type and the size of a new tokenizer, by the task and the texts.

    Args:
        defaults: changed here.
        model_args: say what is trained; changed here.
        task: of the run.
        rows: the data.
    """
    train = rows.get("train")
    if train is None or isinstance(train, RowStream) or model_args.saved_tokenizer:
        return
    if model_args.tokenizer_type is None and not defaults.leaves("tokenizer_type"):
        choice = Choice(task.tokenizer_type, f"for {task.name}")
        if has_single_words(train, task):
            choice = Choice(CHAR, "the inputs are single words")
        model_args.tokenizer_type = defaults.record("tokenizer_type", *choice)
    normalization = "tokenizer_normalization"
    is_free = model_args.tokenizer_normalization is None and not defaults.leaves(normalization)
    is_char = model_args.tokenizer_type == CHAR
    if is_free and is_char and has_single_words(train, task) and has_korean_inputs(train, task):
        nfd = defaults.record(normalization, "nfd", "Korean syllables become letters")
        model_args.tokenizer_normalization = nfd
    if not defaults.is_given("vocab_size") and not defaults.leaves("vocab_size"):
        choice = Choice(model_args.vocab_size, FROM_SCRATCH.name)
        if has_few_rows(train, task):
            choice = Choice(FEW_TOKENS, f"there are {len(train):,} rows")
        if model_args.tokenizer_type in OF_LETTERS:
            letters = len(set(itertools.chain.from_iterable(Texts(train, task.text_columns))))
            needed = 2 * letters + SPARE_TOKENS
            choice = Choice(needed, f"there are {letters:,} characters") if needed > choice.value else choice
        model_args.vocab_size = defaults.record("vocab_size", *choice)


def has_few_rows(rows: datasets.Dataset | RowStream, task: Task) -> bool:
    """Whether a task with labels or targets has fewer rows than FEW_ROWS."""
    return task.has_answers and not isinstance(rows, RowStream) and len(rows) < FEW_ROWS


def has_single_words(rows: datasets.Dataset, task: Task) -> bool:
    """Whether the first inputs are single words, as for pronunciations or names."""
    if task.reads_words:
        return False
    inputs = first_texts(rows, task.inputs)
    has_spaces = any(len(text.split()) > 1 for text in inputs)
    return bool(inputs) and not has_spaces and median(map(len, inputs)) <= WORD_LETTERS


def has_korean_inputs(rows: datasets.Dataset, task: Task) -> bool:
    """Whether the first inputs are Korean, and nothing that is written is: that would stay in letters."""
    written = [name for name in task.text_columns if name not in task.inputs]
    inputs, outputs = (main_script(first_texts(rows, names)) for names in (task.inputs, written))
    return inputs == KOREAN and outputs != KOREAN


def first_texts(rows: datasets.Dataset, columns: Sequence[str]) -> list[str]:
    """The first texts of each column."""
    return [text for name in columns for text in itertools.islice(Texts(rows, (name,)), SAMPLE)]


def resolve_fields(defaults: Defaults, model_args: ModelArguments, task: Task, rows: LabelledData) -> dict[str, Any]:
    """Choose fields of the configuration of a new model without a recipe.

    Args:
        defaults: changed here.
        model_args: say what is trained, with the type of its tokenizer.
        task: of the run.
        rows: the data.

    Returns:
        The fields that `config_overrides` does not give, with their values.

    Raises:
        InputError: config_overrides cannot be read.
    """
    if not defaults.args.do_train or not is_from_scratch(model_args) or model_args.recipe:
        return {}
    train, given = rows["train"], parse_pairs(model_args.config_overrides, "config_overrides")
    architecture = model_args.architecture or task.architecture
    wanted: dict[str, Choice] = {}
    if has_few_rows(train, task):
        few = Choice(DROPOUT, f"there are {len(train):,} rows")
        wanted["hidden_dropout"] = few
        if not task.generates:
            wanted["classifier_dropout"] = few
        # Not for a user who designs the model: these fields belong together.
        elif architecture == ENCODER_DECODER and not given and has_single_words(train, task):
            wanted |= {name: Choice(value, f"for {len(train):,} single words") for name, value in SMALL_LSTM.items()}
    if architecture == ENCODER:
        wanted |= {name: Choice(value, f"for {task.name}") for name, value in task.encoder_fields.items()}
    if model_args.tokenizer_type != WORDPIECE:
        wanted.pop(OF_WORDPIECE, None)
    chosen = [name for name in wanted if name not in given and not defaults.leaves(name)]
    return {name: defaults.record(name, *wanted[name]) for name in chosen}
