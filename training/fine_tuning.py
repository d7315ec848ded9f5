"""Fine-tuning of a saved model: its own defaults, and the check that its original format can express it."""

import logging

from transformers import PreTrainedModel

from ..conversion import ConversionError
from ..conversion.origin import without_adapter
from ..conversion.writing import check
from ..data.errors import InputError
from ..tasks.base import Task
from .arguments import BlendTrainingArguments, DataArguments, ModelArguments
from .loading import load_config
from .models import part_configs, position_limit

logger = logging.getLogger(__name__)

# Devlin et al. 2019 fine-tune BERT, which is 768 wide, with 5e-5 at most. With Adam the best learning rate is
# inversely proportional to the width (Yang et al. 2021, "Tensor Programs V"); for narrow models it is limited.
LEARNING_RATE, WIDTH, MOST = 5e-5, 768, 5e-4
# Adapters need about ten times the learning rate (Schulman et al. 2025, "LoRA Without Regret").
LORA_FACTOR = 10
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
        learning_rate, reason = LORA_FACTOR * learning_rate, f"{LORA_FACTOR} × {reason}"
    of_training = {
        "learning_rate": (float(f"{learning_rate:.1e}"), reason),
        "warmup_steps": (WARMUP, "this part of all steps"),
        "num_train_epochs": (3.0, "more epochs hardly help a pretrained model"),
        "per_device_train_batch_size": (task.fine_tuning_batch, f"for {task.name}"),
    }
    if args.max_steps > 0:
        del of_training["num_train_epochs"]
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
        logger.info("Defaults for a saved model: %s; a flag changes each", ", ".join(parts))


def check_original(args: BlendTrainingArguments, model: PreTrainedModel) -> None:
    """Raises InputError if the original format is asked for, and the model has none or cannot be expressed in it."""
    flag = "push_original" if args.push_original else "save_original"
    if not getattr(args, flag):
        return
    try:
        problems = check(without_adapter(model))
    except ConversionError as error:
        raise InputError(f"{flag}: {error}") from error
    if problems:
        raise InputError(f"{flag}: {'; '.join(problems)}")
