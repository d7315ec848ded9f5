"""Loading a model that another version of this package saved.

A later version may compute what this one does not know. transformers keeps an unknown field of config.json as an
attribute that nothing reads, so the model would open with other outputs. Here such a field is named in a warning, and
refused where the code beside config.json says that it is of a later version.
"""

import os
from functools import wraps
from pathlib import Path
from typing import Any

from packaging.version import Version
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import cached_file, logging

from ..configuration.base import RecipeConfig
from ..conversion.origin import load_origin
from ..modeling.base import BlendPreTrainedModel
from ..version import __version__
from .export import flat_name, written_by

logger = logging.get_logger(__name__)

# Written into the config of any model, by transformers and by libraries that train or quantize.
COMMON_FIELDS = {
    "auto_map",
    "custom_pipelines",
    "finetuning_task",
    "is_causal",
    "is_decoder",
    "prefix",
    "pretraining_tp",
    "processor_class",
    "quantization_config",
    "sentence_transformers",
    "task_specific_params",
    "tokenizer_class",
    "transformers_weights",
    "use_cache",
}

# Where a repository's files are; from_pretrained takes them all.
HUB_OPTIONS = ("cache_dir", "local_files_only", "proxies", "revision", "subfolder", "token")


def check_loads() -> None:
    """Have from_pretrained of models and configurations, and the Auto classes, look at who saved what they load."""
    load_dict = RecipeConfig.from_dict.__func__
    load_config = RecipeConfig.from_pretrained.__func__
    load_model = BlendPreTrainedModel.from_pretrained.__func__

    @wraps(load_dict)
    def load_checked_dict(cls: type[RecipeConfig], config_dict: dict[str, Any], **kwargs: Any) -> Any:
        loaded = load_dict(cls, config_dict, **kwargs)
        # AutoConfig tells the name, but not the revision: of a repository on the Hub the model's loading knows more.
        name = str(kwargs.get("name_or_path") or "")
        check_origin(config_of(loaded), name if os.path.exists(name) else None)
        return loaded

    # The first parameter is called as transformers calls it: callers give it by name, too.
    @wraps(load_config)
    def load_checked_config(cls: type[RecipeConfig], pretrained_model_name_or_path: str | Path, **kwargs: Any) -> Any:
        loaded = load_config(cls, pretrained_model_name_or_path, **kwargs)
        check_origin(config_of(loaded), pretrained_model_name_or_path, **hub_options(kwargs))
        return loaded

    @wraps(load_model)
    def load_checked_model(
        cls: type[BlendPreTrainedModel], pretrained_model_name_or_path: str | Path | None, *args: Any, **kwargs: Any
    ) -> PreTrainedModel:
        name = pretrained_model_name_or_path
        # Before the weights, which may not fit. Without a config transformers loads it, and that is checked above.
        if isinstance(kwargs.get("config"), RecipeConfig):
            check_origin(kwargs["config"], name, **hub_options(kwargs))
        loaded = load_model(cls, name, *args, **kwargs)
        if name is not None:
            load_origin(loaded[0] if isinstance(loaded, tuple) else loaded, name, **hub_options(kwargs))
        return loaded

    RecipeConfig.from_dict = classmethod(load_checked_dict)
    RecipeConfig.from_pretrained = classmethod(load_checked_config)
    BlendPreTrainedModel.from_pretrained = classmethod(load_checked_model)


def config_of(loaded: Any) -> RecipeConfig:
    """The configuration, where the arguments that it did not use come with it."""
    return loaded[0] if isinstance(loaded, tuple) else loaded


def hub_options(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {name: kwargs[name] for name in HUB_OPTIONS if kwargs.get(name) is not None}


def check_origin(config: RecipeConfig, name: str | Path | None = None, **options: Any) -> None:
    """Warn of fields that this version does not know, and of a repository that a later version saved.

    Args:
        config: what was loaded.
        name: where from: a directory, its config.json, or a repository of the Hub. None: not known.
        options: of cached_file, for a repository.

    Raises:
        ValueError: there are unknown fields, and the repository is of a later version.
    """
    fields = ", ".join(unknown_fields(config))
    later = None if name is None else later_version(type(config), name, **options)
    if fields and later:
        raise ValueError(
            f"{name} was saved by seqblend {later}; seqblend {__version__}, which is installed, does not know these "
            f"fields of its config.json: {fields}. Upgrade seqblend, or load it with trust_remote_code=True in a "
            "program that does not import seqblend: that runs the code of the repository"
        )
    if fields:
        message = "config.json has fields that seqblend %s does not know and does not use: %s"
        logger.warning_once(message, __version__, fields)
    if later:
        message = "%s was saved by seqblend %s; the code that runs is that of seqblend %s"
        logger.warning_once(message, str(name), later, __version__)


def unknown_fields(config: RecipeConfig) -> list[str]:
    """The attributes that a configuration got from a file without having such a field, those of its parts too."""
    own = [
        name
        for name in vars(config)
        if not (name.startswith("_") or name in COMMON_FIELDS or hasattr(type(config), name))
    ]
    return own + [f"{part}.{name}" for part in config.sub_configs for name in unknown_fields(getattr(config, part))]


def later_version(config_class: type[RecipeConfig], name: str | Path, **options: Any) -> str | None:
    """The version in the head of a repository's code, where that is later than this one.

    Args:
        config_class: of the model; its module's file is looked at.
        name: a directory, its config.json, or a repository of the Hub.
        options: of cached_file.

    Returns:
        The version; None for this one or an earlier one, and where there is no such code.
    """
    directory = os.path.dirname(name) if os.path.isfile(name) else name
    try:
        path = cached_file(directory, f"{flat_name(config_class.__module__)}.py", **options)
    except OSError:  # no such file or repository, or no connection
        return None
    version = written_by(Path(path))
    return None if version is None or version <= Version(__version__) else str(version)
