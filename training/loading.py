"""Loading a saved model: from a directory or the Hub, without running its code, with every tensor accounted for."""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PretrainedConfig, PreTrainedModel

from ..data.errors import InputError, describe, why_not_loaded
from ..modeling.families import FAMILIES

logger = logging.getLogger(__name__)

# OWNER/NAME.
NAME_ON_HUB = re.compile(r"\w[\w.-]*/\w[\w.-]*")


def load_weights(
    auto_class: Any, path: str, config: PretrainedConfig, flag: str = "model_name_or_path"
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """A saved model, and which tensors did not fit; no code of its directory runs, and no pickle is read.

    Raises:
        InputError: it cannot be loaded.
    """
    try:
        with without_report():
            return auto_class.from_pretrained(
                path,
                config=config,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                trust_remote_code=False,
                use_safetensors=True,
            )
    except Exception as error:  # transformers raises whatever it meets
        raise cannot_load(path, error, flag) from error


@contextmanager
def without_report() -> Iterator[None]:
    """Inside, transformers prints no table of the tensors that did not fit, which check_loaded names in a line."""
    source = logging.getLogger("transformers.modeling_utils")

    def is_other(record: logging.LogRecord) -> bool:
        return "LOAD REPORT" not in record.getMessage()

    source.addFilter(is_other)
    try:
        yield
    finally:
        source.removeFilter(is_other)


def load_config(path: str, flag: str = "model_name_or_path") -> PretrainedConfig:
    """The configuration of a saved model. Raises InputError if it cannot be loaded, or is not of this package."""
    if not (Path(path).exists() or NAME_ON_HUB.fullmatch(str(path))):
        raise InputError(f"{flag}: there is no directory {path}")
    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=False)
    except Exception as error:  # transformers raises whatever it meets
        raise cannot_load(path, error, flag) from error
    named = config.architectures
    if named is not None and not (isinstance(named, list) and all(isinstance(each, str) for each in named)):
        raise InputError(f"{flag}: {path}: architectures in config.json is {describe(named)}, not a list of names")
    if type(config) not in FAMILIES:
        raise InputError(f"{flag}: {path} is of type {config.model_type}; no model of seqblend")
    # Pipelines of its own, as of auto_map: code that a model trained from this one is not to name.
    vars(config).pop("custom_pipelines", None)
    return config


def cannot_load(path: str, error: Exception, flag: str = "model_name_or_path") -> InputError:
    """What to tell of a model that cannot be loaded; of one that is not here, that first."""
    where = "cannot be loaded" if Path(path).exists() else "is no directory here, and cannot be loaded from the Hub"
    return InputError(f"{flag}: {path!r} {where} ({why_not_loaded(error)})")


def check_loaded(
    path: str, model: PreTrainedModel, info: dict[str, Any], training: bool, flag: str = "model_name_or_path"
) -> None:
    """Name the tensors of heads that were dropped or start anew.

    Raises:
        InputError: a tensor of the base model is missing, unexpected or of another shape; or one starts anew and is
            not trained.
    """
    prefix = f"{model.base_model_prefix}."
    parts = {name for name, _ in model.base_model.named_children()}

    def in_base(name: str) -> bool:
        return name.startswith(prefix) or name.split(".")[0] in parts

    new = sorted(info["missing_keys"])
    dropped = sorted(info["unexpected_keys"])
    resized = sorted(key[0] if isinstance(key, tuple) else key for key in info["mismatched_keys"])
    for what, names in {"missing": new, "unexpected": dropped, "of another shape": resized}.items():
        if wrong := [name for name in names if in_base(name)]:
            raise InputError(f"{flag}: {path} does not fit; {what}: {', '.join(wrong)}")
    if (new or resized) and not training:
        raise InputError(f"{flag}: {path} would start anew, untrained: {', '.join(new + resized)}")
    for what, names in {"starts anew": new + resized, "is dropped": dropped}.items():
        if names:
            logger.warning("Of %s, %s: %s", path, what, ", ".join(names))
