"""Loading a saved model from a directory or the Hub: no code of it is run, and every tensor is checked."""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PretrainedConfig, PreTrainedModel

from ..data.errors import InputError, describe, loading_error_line
from ..modeling.families import FAMILIES

logger = logging.getLogger(__name__)

# OWNER/NAME.
NAME_ON_HUB = re.compile(r"\w[\w.-]*/\w[\w.-]*")
# Beside the weights of an adapter: its settings, by peft, and the configuration of the adapted model. That is no
# config.json, beside which transformers would look for the weights of a whole model.
ADAPTER_CONFIG, MODEL_CONFIG = "adapter_config.json", "model_config.json"


def is_adapter(path: str | Path) -> bool:
    """Whether a directory holds an adapter of peft, and no whole model."""
    return Path(path, ADAPTER_CONFIG).is_file() and not Path(path, "config.json").exists()


def load_weights(
    auto_class: Any,
    path: str,
    config: PretrainedConfig,
    flag: str = "model_name_or_path",
    revision: str | None = None,
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """A saved model, and the names of tensors that did not fit. No code of its directory is run, no pickle is read.

    Raises:
        InputError: the model cannot be loaded.
    """
    try:
        with without_load_report():
            return auto_class.from_pretrained(
                path,
                config=config,
                revision=revision or "main",
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                trust_remote_code=False,
                use_safetensors=True,
            )
    except Exception as error:  # from_pretrained of transformers raises any exception
        raise loading_error(path, error, flag) from error


@contextmanager
def without_load_report() -> Iterator[None]:
    """Suppress transformers' table of tensors that did not fit; `check_loaded` names them in one line."""
    source = logging.getLogger("transformers.modeling_utils")

    def is_other(record: logging.LogRecord) -> bool:
        return "LOAD REPORT" not in record.getMessage()

    source.addFilter(is_other)
    try:
        yield
    finally:
        source.removeFilter(is_other)


def load_config(path: str, flag: str = "model_name_or_path") -> PretrainedConfig:
    """The configuration of a saved model. Raises InputError if it cannot be loaded or is not of this package."""
    if not (Path(path).exists() or NAME_ON_HUB.fullmatch(str(path))):
        raise InputError(f"{flag}: there is no directory {path}")
    source = str(Path(path, MODEL_CONFIG)) if is_adapter(path) else path
    if source != path and not Path(source).is_file():
        raise InputError(f"{flag}: {path} is an adapter without {MODEL_CONFIG}, so not of seqblend train --lora_rank")
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    except Exception as error:  # from_pretrained of transformers raises any exception
        raise loading_error(path, error, flag) from error
    named = config.architectures
    if named is not None and not (isinstance(named, list) and all(isinstance(each, str) for each in named)):
        raise InputError(f"{flag}: {path}: architectures in config.json is {describe(named)}, not a list of names")
    if type(config) not in FAMILIES:
        raise InputError(f"{flag}: {path} is of type {config.model_type}; no model of seqblend")
    # Custom pipelines name code, as auto_map does. A model that is trained from this one must not name it.
    vars(config).pop("custom_pipelines", None)
    return config


def loading_error(path: str, error: Exception, flag: str = "model_name_or_path") -> InputError:
    """The InputError for a model that cannot be loaded; it says whether there is such a directory."""
    where = "cannot be loaded" if Path(path).exists() else "is no directory here, and cannot be loaded from the Hub"
    return InputError(f"{flag}: {path!r} {where} ({loading_error_line(error)})")


def check_loaded(
    path: str, model: PreTrainedModel, info: dict[str, Any], training: bool, flag: str = "model_name_or_path"
) -> None:
    """Log the tensors of heads that were dropped or newly initialized.

    Raises:
        InputError: a tensor of the base model is missing, unexpected or of another shape; or a tensor is newly
            initialized without training.
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
        raise InputError(f"{flag}: {path}: newly initialized, but nothing is trained: {', '.join(new + resized)}")
    for what, names in {"newly initialized": new + resized, "dropped": dropped}.items():
        if names:
            logger.warning("%s: %s: %s", path, what, ", ".join(names))
