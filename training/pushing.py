"""A Trainer whose every push is one commit of a repository that opens, with a card."""

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
from transformers import Seq2SeqTrainer
from transformers.trainer_utils import HubStrategy
from transformers.utils import PushInProgress

from ..checkpoints.faults import MANIFEST, STATE
from ..checkpoints.store import write_manifest
from ..data.objects import read_object
from ..hub_card.card import CardData, write_card
from ..hub_card.contents import PublishError
from ..hub_card.publish import Destination, describe_error, publish
from ..hub_card.record import RunRecord
from ..hub_card.verify import REFERENCE, load_saved, write_reference

logger = logging.getLogger(__name__)


class PushingTrainer(Seq2SeqTrainer):
    """A Seq2SeqTrainer that keeps a record of its run, writes the card from it, and pushes by `publish`.

    Args:
        given: what the user knows for the card; the repo_id on it is hub_model_id.
        kwargs: those of Seq2SeqTrainer.

    Raises:
        PublishError: push_to_hub is asked for, and the Hub cannot be used; before any training.
    """

    def __init__(self, *, given: CardData | None = None, **kwargs: Any):
        self.given = CardData() if given is None else given
        super().__init__(**kwargs)
        self.add_callback(RunRecord())

    @cached_property
    def background(self) -> HfApi:
        """Does pushes one after the other: a later state of the model is never overwritten by an earlier one."""
        return HfApi()

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """As Trainer.init_hf_repo, with an error that says what is wrong."""
        refuse_adapter(self.model)
        if private is not None:
            # Where Trainer.init_hf_repo of every version reads it; not all take it as an argument.
            self.args.hub_private_repo = private
        try:
            super().init_hf_repo(token)
        except Exception as error:  # every layer of the network raises its own
            raise PublishError(f"hub_model_id: {self.args.hub_model_id}: {describe_error(error)}") from error

    def create_model_card(
        self,
        language: str | None = None,
        license: str | None = None,
        tags: str | list[str] | None = None,
        model_name: str | None = None,
        finetuned_from: str | None = None,
        dataset: str | list[str] | None = None,
        **kwargs: Any,
    ) -> None:
        """Write our card. Replaces Trainer.create_model_card, which knows no task of a model from outside.

        Args:
            language: this and the next five go onto the card in place of what was given to the Trainer.
            license: as the Hub spells it.
            tags: more tags.
            model_name: the card's title.
            finetuned_from: the model that it was trained from.
            dataset: the data sets' names on the Hub.
            kwargs: `tasks`, `dataset_tags`, `dataset_args`, which are measured and not said here.
        """
        said = {"language": language, "license": license, "title": model_name, "datasets": dataset}
        said |= {"tags": [tags] if isinstance(tags, str) else tags, "base_model": finetuned_from}
        if self.is_world_process_zero():
            write_card(self.args.output_dir, replace(self.card_facts(), **{k: v for k, v in said.items() if v}))

    def card_facts(self) -> CardData:
        """What the user knows, for the card of the repository."""
        return replace(self.given, repo_id=self.hub_model_id or self.given.repo_id, revision=self.args.hub_revision)

    def destination(self, token: str | None = None, revision: str | None = None) -> Destination:
        """Where the arguments say that the model goes."""
        assert self.hub_model_id is not None
        return Destination(
            repo_id=self.hub_model_id,
            private=self.args.hub_private_repo,
            revision=revision or self.args.hub_revision,
            token=token or self.args.hub_token,
        )

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> CommitInfo | Any:
        """Push the model, its code, its card and a reference as one commit, checked before it is sent.

        Replaces Trainer.push_to_hub, which uploads all of output_dir, arguments and logs too, in commits of its own
        choosing, and a card that knows neither task nor results. Arguments and result as there; kwargs are those of
        create_model_card.

        Raises:
            PublishError: it did not go through; the message says what is where, and how to go on.
        """
        refuse_adapter(self.model)
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        if self.hub_model_id is None:
            self.init_hf_repo(token=token, private=private)
        self.save_model(_internal_call=True)
        # From which the card is made.
        self.save_state()
        if not self.is_world_process_zero():
            return None
        self.create_model_card(**kwargs)
        reference_from(self.args.output_dir)
        self._finish_current_push()
        job = (self.args.output_dir, self.destination(token, revision), commit_message)
        return publish(*job) if blocking else self.background.run_as_future(publish, *job)

    def _save(self, *args: Any, **kwargs: Any) -> None:
        """As Trainer._save, but the token stays out of training_args.bin.

        Replaces `torch.save(self.args, os.path.join(output_dir, TRAINING_ARGS_NAME))`.
        """
        token, self.args.hub_token = self.args.hub_token, None
        try:
            super()._save(*args, **kwargs)
        finally:
            self.args.hub_token = token

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Push a checkpoint as one commit, in the background; where it cannot, training goes on.

        Replaces Trainer._push_from_checkpoint, which uploads a list of files without code, and the arguments.
        """
        if not self.is_world_process_zero() or self.args.hub_strategy == HubStrategy.END:
            return
        pushing = None if self.push_in_progress is None or self.push_in_progress.is_done() else self.push_in_progress
        if pushing is not None and not self.args.hub_always_push:
            return
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        stage = Path(tempfile.mkdtemp(prefix="_push-", dir=self.args.output_dir))
        try:
            # Links: the checkpoint may be deleted while it is sent.
            shutil.copytree(checkpoint_folder, stage, copy_function=link_or_copy, dirs_exist_ok=True)
            write_card(stage, self.card_facts(), complete=False)
            reference_from(stage)
        except Exception as error:  # a full disk, say
            shutil.rmtree(stage, ignore_errors=True)
            logger.warning("Training goes on, but %s is not pushed: %s", checkpoint_folder, error)
            return
        message = f"Training in progress, step {self.state.global_step}"
        arguments = (stage, self.destination(), message, checkpoint_folder, self.folder_of(checkpoint_folder))
        job = self.background.run_as_future(push_stage, *arguments)
        if pushing is None:
            self.push_in_progress = PushInProgress([job])
        else:
            pushing.jobs.append(job)

    def folder_of(self, checkpoint_folder: str) -> str | None:
        """The repository's folder for what a run needs to resume; None: there is to be none."""
        folders = {
            HubStrategy.CHECKPOINT: "last-checkpoint",
            HubStrategy.ALL_CHECKPOINTS: Path(checkpoint_folder).name,
        }
        return folders.get(self.args.hub_strategy)


def refuse_adapter(model: Any) -> None:
    """Raises PublishError where what would be saved is an adapter of peft, which opens in no Auto class by itself."""
    if hasattr(model, "peft_config"):
        raise PublishError(
            "push_to_hub: the model is an adapter of peft. Train it without push_to_hub; then save "
            "model.merge_and_unload() and push that by `python -m seqblend.hub_card.publish`, or the adapter alone by "
            "its own push_to_hub"
        )


def reference_from(directory: str | Path) -> None:
    """Write reference.safetensors from the saved model.

    Not from the one in hand, which may be wrapped for half precision, in pieces, or on a GPU that computes otherwise.
    """
    with torch.random.fork_rng(devices=[]):
        write_reference(load_saved(directory), directory)


def push_stage(stage: Path, destination: Destination, message: str, home: str, folder: str | None) -> None:
    """Push a staged checkpoint, and into `folder` all that a run needs to resume; a failure does not stop training."""
    try:
        publish(
            stage,
            destination,
            message,
            extra_files=None if folder is None else resumable(stage, folder),
            display_path=home,
        )
    except Exception as error:  # in a thread nobody else would hear of it
        logger.warning("Training goes on, but %s", error)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def resumable(stage: Path, folder: str) -> dict[str, Path]:
    """The files of a checkpoint, by their paths in the repository; none tells where it was on this machine."""
    path = stage / STATE
    state = read_object(path)
    if state["best_model_checkpoint"] is not None:
        state["best_model_checkpoint"] = Path(state["best_model_checkpoint"]).name
    # Not written into: it has a second name, in the checkpoint.
    path.unlink()
    path.write_text(json.dumps(state, indent=2), encoding="utf-8")
    left_out = ("README.md", "training_args.bin", REFERENCE)
    files = [each for each in stage.iterdir() if each.is_file() and each.name not in left_out]
    # Likewise: that of the checkpoint has the files as they were on this machine.
    (stage / MANIFEST).unlink(missing_ok=True)
    write_manifest(stage, [each for each in files if each.name != MANIFEST])
    return {f"{folder}/{each.name}": each for each in {*files, stage / MANIFEST}}


def link_or_copy(source: str, target: str) -> None:
    """A second name for a file, or, where the file system has none, a copy."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
