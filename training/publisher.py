"""Publishing from a Trainer: each push is one commit of a loadable model, with a card made from the run."""

import json
import logging
import os
import shutil
import tempfile
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import CommitInfo, HfApi
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.trainer_utils import HubStrategy
from transformers.utils import PushInProgress

from ..checkpoints.faults import MANIFEST, STATE
from ..checkpoints.run_directory import ALL_RESULTS, is_inside, read_results, results_json
from ..checkpoints.store import RunError, write_manifest
from ..conversion import ConversionError, to_original
from ..conversion.adapters import check_adapter
from ..conversion.modules import MODULES, unusable_modules
from ..conversion.origin import CARD, without_adapter
from ..conversion.writing import check
from ..data.errors import InputError
from ..data.objects import read_object
from ..data.writing import is_users_card, write_atomically
from ..hub_card.card import STUB, CardData, write_card
from ..hub_card.contents import PublishError
from ..hub_card.original import FOLDER, check_replaceable, write_original
from ..hub_card.publish import Destination, check_access, publish
from ..hub_card.verify import REFERENCE, load_saved, write_reference
from ..tokenization.loading import load_tokenizer
from .adapters import write_adapter_card
from .arguments import BlendTrainingArguments, ModelArguments

logger = logging.getLogger(__name__)

# The beginning of the names of copies of checkpoints in output_dir, while they are pushed.
PUSHED_COPY = "_push-"


class Publisher:
    """Writes the card of a run, and pushes its model and its checkpoints by `publish`.

    Args:
        trainer: the Trainer of the run.
        given: facts of the user for the card; its repo_id is hub_model_id.
    """

    def __init__(self, trainer: Any, given: CardData | None):
        self.trainer = trainer
        self.given = CardData() if given is None else given

    @cached_property
    def background(self) -> HfApi:
        """Makes pushes one after the other, so that an earlier state never overwrites a later one."""
        return HfApi()

    def card_facts(self) -> CardData:
        """The facts of the user, for the card of the repository."""
        repo_id = self.trainer.hub_model_id or self.given.repo_id
        return replace(self.given, repo_id=repo_id, revision=self.trainer.args.hub_revision)

    def write_card(
        self,
        language: str | None = None,
        license: str | None = None,
        tags: str | list[str] | None = None,
        model_name: str | None = None,
        finetuned_from: str | None = None,
        dataset: str | list[str] | None = None,
        **kwargs: Any,
    ) -> None:
        """Write the card into output_dir, with the arguments of Trainer.create_model_card.

        A card of the user is kept, with a line in the log; a stub of transformers is replaced.

        Args:
            language: this and the next five arguments replace the facts that the Trainer was given.
            license: as the Hub spells it.
            tags: more tags.
            model_name: the card's title.
            finetuned_from: the model that it was trained from.
            dataset: the data sets' names on the Hub.
            kwargs: `tasks`, `dataset_tags`, `dataset_args`; they are ignored, because the card measures them.
        """
        card = Path(self.trainer.args.output_dir, CARD)
        if is_users_card(card) and STUB not in card.read_text(encoding="utf-8", errors="replace"):
            logger.warning("%s is kept: seqblend did not write it; without it, the run writes a card", card)
            return
        given = {"language": language, "license": license, "title": model_name, "datasets": dataset}
        given |= {"tags": [tags] if isinstance(tags, str) else tags, "base_model": finetuned_from}
        facts = replace(self.card_facts(), **{name: value for name, value in given.items() if value})
        if hasattr(self.trainer.model, "peft_config"):
            write_adapter_card(self.trainer.model, self.trainer.args.output_dir, facts)
        else:
            self.record(facts)
            write_card(self.trainer.args.output_dir, facts)

    def record(self, facts: CardData) -> None:
        """Save the facts of the user with the results, so that `seqblend publish` can write the card again.

        The repository is not saved: the next push may be to another one.
        """
        path = Path(self.trainer.args.output_dir, ALL_RESULTS)
        results = read_results(path)
        recorded = results.get("card_data") or {}
        given = {name: value for name, value in vars(facts).items() if value is not None}
        merged = {**recorded, **{name: given[name] for name in given if name not in ("repo_id", "revision")}}
        if merged != recorded:
            write_atomically(path, results_json({**results, "card_data": merged}))

    def destination(self, token: str | None = None, revision: str | None = None) -> Destination:
        """The repository and the branch that the arguments name."""
        trainer, args = self.trainer, self.trainer.args
        assert trainer.hub_model_id is not None
        return Destination(
            repo_id=trainer.hub_model_id,
            private=args.hub_private_repo,
            revision=revision or args.hub_revision,
            token=token or args.hub_token,
        )

    def push_model(self, message: str | None, blocking: bool, destination: Destination) -> CommitInfo | Any:
        """Push output_dir as one commit, checked before it is sent.

        Returns:
            The commit; if not blocking, a future of it.

        Raises:
            PublishError: the push failed; the message says what was written where, and how to continue.
        """
        directory = self.trainer.args.output_dir
        write_reference_of(directory)
        self.trainer._finish_current_push()
        job = (directory, destination, message)
        return publish(*job) if blocking else self.background.run_as_future(publish, *job)

    def write_original(self) -> None:
        """Write the saved model in its original format, into output_dir/original, and push it with push_original.

        Of an adapter, only the adapter is written, for the original checkpoint.

        Raises:
            RunError: it could not be written; the saved model is unchanged.
            PublishError: the push failed.
        """
        trainer = self.trainer
        if not trainer.is_world_process_zero():
            return
        directory = trainer.args.output_dir
        try:
            if hasattr(trainer.model, "peft_config"):
                to_original(trainer.accelerator.unwrap_model(trainer.model), Path(directory, FOLDER))
                return
            with torch.random.fork_rng(devices=[]):
                original = write_original(directory, self.card_facts())
        except ConversionError as error:
            raise RunError(f"{error}; the trained model is in {directory}") from error
        if trainer.args.push_original:
            if trainer.hub_model_id is None:
                trainer.init_hf_repo()
            publish(original, self.destination(), "End of training")

    def push_checkpoint(self, checkpoint: Path) -> None:
        """Push a checkpoint as one commit, in the background; if that fails, training continues.

        While another checkpoint is being pushed, it is skipped, except with hub_always_push. A checkpoint with an
        adapter is always skipped.
        """
        trainer = self.trainer
        is_skipped = trainer.args.hub_strategy == HubStrategy.END or hasattr(trainer.model, "peft_config")
        if not trainer.is_world_process_zero() or is_skipped:
            return
        current = getattr(trainer, "push_in_progress", None)
        is_pushing = current is not None and not current.is_done()
        if is_pushing and not trainer.args.hub_always_push:
            return
        trainer.callback_handler.on_push_begin(trainer.args, trainer.state, trainer.control)
        stage = Path(tempfile.mkdtemp(prefix=PUSHED_COPY, dir=trainer.args.output_dir))
        try:
            # Links: the checkpoint may be deleted while it is sent.
            shutil.copytree(checkpoint, stage, copy_function=link_or_copy, dirs_exist_ok=True)
            write_card(stage, self.card_facts(), complete=False)
            write_reference_of(stage)
        except Exception as error:  # matplotlib and torch raise whatever they meet, and a disk may be full
            shutil.rmtree(stage, ignore_errors=True)
            is_expected = isinstance(error, OSError | PublishError | InputError)
            log = logger.warning if is_expected else logger.exception
            log("Training continues, but %s is not pushed: %s", checkpoint, error)
            return
        message = f"Training in progress, step {trainer.state.global_step}"
        job = (stage, self.destination(), message, str(checkpoint), self.folder_of(checkpoint))
        future = self.background.run_as_future(push_stage, *job)
        if is_pushing:
            current.jobs.append(future)
        else:
            trainer.push_in_progress = PushInProgress([future])

    def delete_copies(self) -> None:
        """Delete copies of checkpoints that a killed run was pushing, which keep the files of deleted checkpoints."""
        current = getattr(self.trainer, "push_in_progress", None)
        if current is not None and not current.is_done():
            return
        for copy in Path(self.trainer.args.output_dir).glob(f"{PUSHED_COPY}*"):
            shutil.rmtree(copy, ignore_errors=True)

    def folder_of(self, checkpoint: Path) -> str | None:
        """The folder in the repository for the files that a resumed run needs; None if they are not pushed."""
        folders = {HubStrategy.CHECKPOINT: "last-checkpoint", HubStrategy.ALL_CHECKPOINTS: checkpoint.name}
        return folders.get(self.trainer.args.hub_strategy)


def refuse_adapter(model: Any) -> None:
    """Raises PublishError for an adapter of peft: no Auto class can load it alone."""
    if hasattr(model, "peft_config"):
        raise PublishError(
            "push_to_hub: the model is an adapter of peft, which no Auto class loads alone. --merge_adapter true "
            "pushes the whole model; in Python save model.merge_and_unload() and push that by `seqblend publish`, or "
            "the adapter alone by its own push_to_hub"
        )


def write_reference_of(directory: str | Path) -> None:
    """Write reference.safetensors from the saved model.

    The model in memory may be wrapped for half precision, sharded, or on a GPU, which computes other last digits.
    """
    with torch.random.fork_rng(devices=[]):
        write_reference(load_saved(directory), directory)


def push_stage(stage: Path, destination: Destination, message: str, home: str, folder: str | None) -> None:
    """Push a copy of a checkpoint, and delete the copy. A failure is logged, and training continues.

    Args:
        stage: the copy.
        destination: the repository.
        message: of the commit.
        home: the checkpoint, for messages.
        folder: in the repository, for the files that a resumed run needs; None if they are not pushed.
    """
    try:
        extra_files = None if folder is None else files_to_resume(stage, folder)
        publish(stage, destination, message, extra_files=extra_files, display_path=home)
    except PublishError as error:
        logger.warning("Training continues, but %s", error)
    except Exception:  # In a thread the traceback would be lost.
        logger.exception("Training continues, but %s is not pushed", home)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def files_to_resume(stage: Path, folder: str) -> dict[str, Path]:
    """Prepare the files that a resumed run needs, by their paths in the repository; local paths are removed."""
    path = stage / STATE
    state = read_object(path)
    if state["best_model_checkpoint"] is not None:
        state["best_model_checkpoint"] = Path(state["best_model_checkpoint"]).name
    # Not changed in place: it may be a hard link to the checkpoint's file.
    path.unlink()
    path.write_text(json.dumps(state, indent=2), encoding="utf-8")
    left_out = ("README.md", "training_args.bin", REFERENCE)
    files = [each for each in stage.iterdir() if each.is_file() and each.name not in left_out]
    # This may be a hard link, too, and it describes the files as they were before.
    (stage / MANIFEST).unlink(missing_ok=True)
    write_manifest(stage, [each for each in files if each.name != MANIFEST])
    return {f"{folder}/{each.name}": each for each in {*files, stage / MANIFEST}}


def link_or_copy(source: str, target: str) -> None:
    """Hard-link a file, or copy it where the file system has no hard links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def check_hub(args: BlendTrainingArguments) -> None:
    """Raises PublishError if the run is to be pushed, and the Hub cannot be used."""
    if args.push_to_hub or args.push_original:
        name = args.hub_model_id or Path(args.output_dir).absolute().name
        check_access(Destination(name, token=args.hub_token))


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
