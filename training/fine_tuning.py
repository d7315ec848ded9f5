"""Fine-tuning of a saved model: its own defaults, and the check that its original format can express it."""

import logging
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..checkpoints.run_directory import is_inside
from ..conversion import ConversionError
from ..conversion.adapters import check_adapter
from ..conversion.modules import MODULES, unusable_modules
from ..conversion.origin import without_adapter
from ..conversion.writing import check
from ..data.errors import InputError
from ..data.streams import RowStream
from ..hub_card.original import FOLDER, check_replaceable
from ..tasks.base import Task
from ..tasks.models import part_configs, position_limit
from ..tasks.splits import EncodedSplit
from .arguments import BlendTrainingArguments, DataArguments, ModelArguments
from .loading import load_config
from .tokenizers import load_tokenizer

logger = logging.getLogger(__name__)

# Devlin et al. 2019 fine-tune BERT, which is 768 wide, with 5e-5 at most. With Adam the best learning rate is
# inversely proportional to the width (Yang et al. 2021, "Tensor Programs V"); for narrow models it is limited.
LEARNING_RATE, WIDTH, MOST = 5e-5, 768, 5e-4
# Adapters need about ten times the learning rate (Schulman et al. 2025, "LoRA Without Regret").
LORA_FACTOR = 10
# About this many texts of a packed data set form a batch.
DOCUMENTS = 32
# Part of the steps in which the learning rate rises; Devlin et al. 2019.
WARMUP = 0.1


def resolve_saved_model_defaults(
    model_args: ModelArguments, data_args: DataArguments, args: BlendTrainingArguments, task: Task
) -> None:
    """Set the options for a saved model that the user has not given, and log them with their reasons.

    Args:
        model_args: name the model; its width decides the learning rate, its positions max_length.
        data_args: changed here.
        args: changed here.
        task: decides the number of rows in a batch.

    Raises:
        InputError: the model cannot be loaded.
    """
    config = load_config(model_args.model_name_or_path)
    width, positions = part_configs(config)[-1].hidden_size, position_limit(config)
    learning_rate, reason = LEARNING_RATE * WIDTH / width, f"{LEARNING_RATE:g} × {WIDTH} / hidden_size {width}"
    learning_rate, reason = min(learning_rate, MOST), f"{reason}, at most {MOST:g}"
    if model_args.lora_rank is not None:
        learning_rate, reason = LORA_FACTOR * learning_rate, f"{LORA_FACTOR} × ({reason})"
    of_training = {
        "learning_rate": (float(f"{learning_rate:.1e}"), reason),
        "warmup_steps": (WARMUP, "this part of all steps"),
        "num_train_epochs": (3.0, "more epochs hardly help a pretrained model"),
        "per_device_train_batch_size": (task.fine_tuning_batch, f"for {task.name}"),
    }
    if args.max_steps > 0:
        del of_training["num_train_epochs"]
    if 0 < args.max_steps < 1 / WARMUP:
        # The first step of a warm-up has the learning rate 0.
        del of_training["warmup_steps"]
    if args.max_tokens_per_batch is not None:
        del of_training["per_device_train_batch_size"]
    defaults = of_training if args.do_train else {}
    if positions < data_args.max_length:
        defaults["max_length"] = (positions, "the positions of the model")
    chosen = {name: each for name, each in defaults.items() if name not in args.given_options}
    for name, (value, _) in chosen.items():
        setattr(data_args if name == "max_length" else args, name, value)
    if chosen:
        parts = [f"{name} {value:g} ({reason})" for name, (value, reason) in chosen.items()]
        logger.info("Defaults for fine-tuning, for options that were not given: %s", ", ".join(parts))


def resolve_packed_batch(args: BlendTrainingArguments, split: EncodedSplit) -> None:
    """Lower the default number of rows in a batch if a row holds several texts, to about DOCUMENTS texts in a batch.

    Args:
        args: changed here.
        split: of training.
    """
    is_given = "per_device_train_batch_size" in args.given_options or args.max_tokens_per_batch is not None
    if is_given or isinstance(split.features, RowStream) or len(split.features) >= len(split.rows):
        return
    per_row = len(split.rows) / len(split.features)
    rows = max(1, round(DOCUMENTS / per_row))
    if rows < args.per_device_train_batch_size:
        args.per_device_train_batch_size = rows
        logger.info("per_device_train_batch_size %d, because a row holds %.0f texts", rows, per_row)


def check_original(
    args: BlendTrainingArguments,
    model_args: ModelArguments,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    """Check that the model can be written in its original format, if that is asked for.

    Raises:
        InputError: it has no original format or cannot be expressed in it, its tokenizer is another one, or the folder
            of the original format holds something else.
    """
    flag = "push_original" if args.push_original else "save_original"
    if not getattr(args, flag):
        return
    whole, folder = without_adapter(model), Path(args.output_dir, FOLDER)
    for name, path in model_args.sources().items():
        if is_inside(path, folder):
            raise InputError(f"{flag}: would replace {name} {path}; give another output_dir")
    try:
        problems = check(whole)
        if not args.overwrite_output_dir:
            check_replaceable(folder)
        if whole is not model and not args.merge_adapter:
            check_adapter(model)
    except ConversionError as error:
        raise InputError(f"{flag}: {error}") from error
    modules = whole.origin.files.get(MODULES)
    if args.push_original and modules is not None and unusable_modules(modules, MODULES):
        problems.append(f"{MODULES} names modules with code of their own, which is never pushed")
    if model_args.tokenizer_name_or_path is not None:
        original = load_tokenizer(model_args.model_name_or_path)
        if original.get_vocab() != tokenizer.get_vocab():
            problems.append("the original tokenizer has other tokens than tokenizer_name_or_path")
    if problems:
        raise InputError(f"{flag}: {'; '.join(problems)}")
