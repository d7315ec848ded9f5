"""The file of the best values of a search, for `seqblend train`."""

from collections.abc import Collection
from typing import Any

import yaml

from ..training.arguments import BlendTrainingArguments
from ..training.command_line import plain
from ..training.progress import readable
from .trials import Study

# Options that are chosen for the trials, and must be the same in the run with the best values.
KEPT = ("num_train_epochs", "per_device_train_batch_size", "learning_rate", "lr_scheduler_type", "warmup_steps")
KEPT += ("weight_decay", "metric_for_best_model", "eval_strategy", "eval_steps")
# Options of a search that are not written: the second is a secret.
NOT_WRITTEN = ("overwrite_output_dir", "hub_token")


def chosen_options(args: BlendTrainingArguments, given: Collection[str]) -> dict[str, Any]:
    """The options of KEPT that are not given, neither a value nor several to search, as YAML has them.

    They are those that defaults have chosen, and the warm-up: with the best values a run may have more steps, and
    another one would be chosen.
    """
    names = [name for name in KEPT if name in (args.default_options or ()) or name == "warmup_steps"]
    return {name: plain(getattr(args, name)) for name in names if name not in given}


def best_text(study: Study, options: dict[str, Any]) -> str:
    """The options of a run with the best values.

    Args:
        study: has a complete trial.
        options: those of all trials.
    """
    best, complete = study.best(), sum(each.value is not None for each in study.trials())
    head = f"# The best of {complete} complete trials: {study.metric} {readable(best.value)}.\n"
    found = {name: value for name, value in options.items() if name not in NOT_WRITTEN}
    found |= {**best.options, "output_dir": str(study.directory / "best")}
    return head + yaml.safe_dump(found, sort_keys=False, allow_unicode=True)
