"""Fine-tuning of a saved model: its own defaults, and the check that its original format can express it."""

import logging

from transformers import PretrainedConfig, PreTrainedModel

from ..conversion import ConversionError
from ..conversion.writing import check
from ..data.errors import InputError
from ..tasks.base import Task
from .arguments import BlendTrainingArguments, DataArguments
from .models import part_configs, position_limit

logger = logging.getLogger(__name__)

# Devlin et al. 2019 fine-tune BERT, which is 768 wide, with 5e-5 at most. With Adam the best learning rate is
# inversely proportional to the width (Yang et al. 2021, "Tensor Programs V"); for narrow models it is limited.
LEARNING_RATE, WIDTH, MOST = 5e-5, 768, 5e-4
# Part of the steps in which the learning rate rises; Devlin et al. 2019.
WARMUP = 0.1


def set_saved_model_defaults(
    args: BlendTrainingArguments, data_args: DataArguments, task: Task, config: PretrainedConfig
) -> None:
    """Set the options for a saved model that the user has not given, and log them with their reasons.

    Args:
        args: changed here.
        data_args: changed here.
        task: decides the number of rows in a batch.
        config: of the saved model; its width decides the learning rate, its positions max_length.
    """
    width, positions = part_configs(config)[-1].hidden_size, position_limit(config)
    learning_rate = float(f"{min(LEARNING_RATE * WIDTH / width, MOST):.1e}")
    of_training = {
        "learning_rate": (learning_rate, f"{LEARNING_RATE:g} × {WIDTH} / hidden_size {width}, at most {MOST:g}"),
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
        problems = check(model)
    except ConversionError as error:
        raise InputError(f"{flag}: {error}") from error
    if problems:
        raise InputError(f"{flag}: {'; '.join(problems)}")
