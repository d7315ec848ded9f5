"""The model of a run in the format of the checkpoint that it was converted from: a directory that needs no code.

`to_original` (conversion/) writes the checkpoint. Here it gets what else a repository has: a card about the run, and
the outputs of our model, with which those of transformers' class are compared.
"""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer
from transformers.utils import ADAPTER_CONFIG_NAME, ADAPTER_SAFE_WEIGHTS_NAME

from ..conversion.origin import CARD, TOKENIZER_FILES
from ..conversion.table import ConversionError
from ..conversion.target import check_nothing_lost
from ..conversion.writing import to_original
from ..data.objects import load_object, read_object
from ..data.writing import atomic_directory, is_users_card
from .card import CardData, write_card
from .contents import PublishError, repository_files
from .provenance import CODE_KEYS
from .saved import original_auto_class
from .verify import REFERENCE, compare_outputs, load_saved, read_reference, verify_isolated, write_reference

logger = logging.getLogger(__name__)

# The folder in the directory of the run.
FOLDER = "original"


def write_original(directory: str | Path, card_data: CardData | None = None) -> Path:
    """Write the model of a run in its original format, with a card and reference outputs, into `directory/original`.

    Before it gets this name, transformers loads it in a process without seqblend. There its outputs are compared with
    those of our model, and the code on its card is run. An earlier version is replaced, but a card that somebody has
    written is kept.

    Args:
        directory: of a saved model that was converted, with the files that its run wrote.
        card_data: facts from the user.

    Returns:
        The path of the folder, which holds the files of a repository and no others.

    Raises:
        ConversionError: the model was not converted, the original format cannot express it, or its outputs differ
            there, or a file of the run is damaged; nothing is written.
        OSError: the folder cannot be written.
    """
    directory = Path(directory)
    target = directory / FOLDER
    check_replaceable(target)
    with atomic_directory(target) as stage:
        try:
            write_checkpoint(directory, stage)
            verify_isolated(stage)
            keeps_card = is_users_card(target / CARD)
            write_card(directory, card_data, original=stage)
            if keeps_card:
                (stage / CARD).write_bytes((target / CARD).read_bytes())
            repository_files(stage)
        except (ConversionError, PublishError, ValueError) as error:
            reason = str(error).replace(str(stage), str(target))
            raise ConversionError(f"{reason}; {target} was not written") from error
    logger.info("original format: %s", target)
    return target


def check_replaceable(target: Path) -> None:
    """Raises ConversionError if a folder holds files that write_original does not write."""
    if not target.exists():
        return
    own: set[str] = set()
    if (target / ADAPTER_CONFIG_NAME).exists():
        own = {ADAPTER_CONFIG_NAME, ADAPTER_SAFE_WEIGHTS_NAME, CARD}
    try:
        # A checkpoint without a reference was not written here.
        if original_auto_class(target) is not None and (target / REFERENCE).exists():
            own |= set(repository_files(target))
    except (PublishError, ValueError) as error:
        raise ConversionError(f"{error}; move {target} to another place, where it is not replaced") from error
    check_nothing_lost(target, own.__contains__)


def write_checkpoint(directory: Path, stage: Path) -> None:
    """Write the checkpoint, without references to code, and the outputs of our model in float32.

    A checkpoint that has no tokenizer files, as in GGUF, gets those of the run. A tokenizer without a padding token
    gets that of the run.

    Raises:
        ValueError: the model cannot be loaded; or see to_original.
    """
    model = load_saved(directory)
    to_original(model, stage)
    for name in ("config.json", "tokenizer_config.json"):
        drop_code(stage / name)
    if not any((stage / name).exists() for name in TOKENIZER_FILES):
        for name in TOKENIZER_FILES:
            if (directory / name).is_file():
                shutil.copyfile(directory / name, stage / name)
    add_padding(directory, stage)
    copy_chat_template(directory, stage)
    write_reference(model.to(torch.float32), stage)


def add_padding(directory: Path, stage: Path) -> None:
    """Name the padding token of the run in tokenizer_config.json, if the original tokenizer has none.

    config.json names its number already. Without the token, the pipelines of transformers make no batches.
    """
    name = "tokenizer_config.json"
    token = read_object(directory / name).get("pad_token")
    if token is None:
        return
    original = AutoTokenizer.from_pretrained(stage, trust_remote_code=False)
    number = original.convert_tokens_to_ids(token["content"] if isinstance(token, dict) else token)
    if original.pad_token is None and number == read_object(stage / "config.json").get("pad_token_id"):
        content = {**read_object(stage / name), "pad_token": token}
        (stage / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def copy_chat_template(directory: Path, stage: Path) -> None:
    """Write the chat template of the run, if it is another one than that of the original tokenizer."""
    template = directory / "chat_template.jinja"
    if not template.is_file():
        return
    original = AutoTokenizer.from_pretrained(stage, trust_remote_code=False).chat_template
    if original != template.read_text(encoding="utf-8"):
        shutil.copyfile(template, stage / template.name)


def drop_code(path: Path) -> None:
    """Remove the keys of a JSON file that name code, which from_original did not run either."""
    content = read_object(path)
    if named := [key for key in CODE_KEYS if key in content]:
        logger.warning("%s: dropped: %s, which named code that was not used", path.name, ", ".join(named))
        rest: dict[str, Any] = {key: value for key, value in content.items() if key not in named}
        path.write_text(json.dumps(rest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


# --- Publishing it ---


def check_complete(directory: Path) -> None:
    """Raises PublishError if a model has no card or no reference, so was not written by write_original."""
    if missing := [name for name in (CARD, REFERENCE) if not (directory / name).exists()]:
        reason = "it is written by `seqblend train … --save_original true`"
        raise PublishError(f"{directory}: {' and '.join(missing)} is missing; {reason}")


def renew_card(directory: Path, card_data: CardData, into: Path) -> None:
    """Write the card of a model in its original format from its run, for another repository.

    If the run is not beside it, the card stays as it is, with a warning if it names another repository.

    Args:
        directory: of the model.
        card_data: facts for the card.
        into: where to write.

    Raises:
        ValueError: the model of the run has other outputs, so its results are not those of this model.
    """
    run = run_of(directory)
    if run is None:
        if card_data.repo_id and card_data.repo_id not in (directory / CARD).read_text(encoding="utf-8"):
            logger.warning("%s does not name %s: its run is not beside it", directory / CARD, card_data.repo_id)
        return
    hint = f"so {run} holds another model than {directory}; write the latter again"
    compare_outputs(load_saved(run).to(torch.float32), *read_reference(directory), hint)
    write_card(run, card_data, original=directory, into=into)


def run_of(directory: Path) -> Path | None:
    """The directory of the run that wrote a model in its original format; None if it is not beside it."""
    run = directory.absolute().parent
    if directory.absolute().name != FOLDER or not (run / "config.json").is_file():
        return None
    original = load_object(directory / "config.json").get("model_type")
    return run if read_object(run / "config.json").get("original_model_type") == original else None
