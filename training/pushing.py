"""A Trainer whose every push is one commit of a repository that opens, with a card."""

import json
import logging
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, HfApi
from transformers import Seq2SeqTrainer
from transformers.trainer_utils import HubStrategy
from transformers.utils import PushInProgress

from ..hub_card.card import Given, write_card
from ..hub_card.publish import Destination, PublishError, publish, reason_of
from ..hub_card.record import RunRecord
from ..hub_card.verify import REFERENCE, head_class, write_reference

logger = logging.getLogger(__name__)


class PushingTrainer(Seq2SeqTrainer):
    """A Seq2SeqTrainer that keeps a record of its run, writes the card from it, and pushes by `publish`.

    Args:
        given: what the user knows for the card; the repo_id on it is hub_model_id.
        kwargs: those of Seq2SeqTrainer.

    Raises:
        PublishError: push_to_hub is asked for, and the Hub cannot be used; before any training.
    """

    def __init__(self, *, given: Given | None = None, **kwargs: Any):
        self.given = Given() if given is None else given
        super().__init__(**kwargs)
        self.add_callback(RunRecord())

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """As Trainer.init_hf_repo, with an error that says what is wrong."""
        try:
            super().init_hf_repo(token, private)
        except Exception as error:  # every layer of the network raises its own
            raise PublishError(f"hub_model_id: {self.args.hub_model_id}: {reason_of(error)}") from error

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write our card. Replaces Trainer.create_model_card, which knows no task of a model from outside."""
        if self.is_world_process_zero():
            write_card(self.args.output_dir, self.given_to(self.hub_model_id))

    def given_to(self, repo_id: str | None) -> Given:
        """What the user knows, for the card of a repository."""
        return Given(**{**vars(self.given), "repo_id": repo_id or self.given.repo_id})

    def destination(self, token: str | None = None, revision: str | None = None) -> Destination:
        """Where the arguments say that the model goes."""
        assert self.hub_model_id is not None
        return Destination(
            repo_id=self.hub_model_id,
            private=self.args.hub_private_repo,
            revision=revision or self.args.hub_revision,
            token=token or self.args.hub_token,
        )

    def write_reference(self, directory: str | Path) -> None:
        """Write reference.safetensors from the model in hand, or, where that is in pieces, from the saved one."""
        in_pieces = self.is_fsdp_enabled or self.is_deepspeed_enabled
        model = head_class(directory).from_pretrained(directory) if in_pieces else None
        write_reference(model or self.accelerator.unwrap_model(self.model), directory)

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
        choosing, and a card that knows neither task nor results. Arguments and result as there.

        Raises:
            PublishError: it did not go through; the message says what is where, and how to go on.
        """
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        if self.hub_model_id is None:
            self.init_hf_repo(token=token, private=private)
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        self.create_model_card()
        self.write_reference(self.args.output_dir)
        self._finish_current_push()
        job = (self.args.output_dir, self.destination(token, revision), commit_message)
        return publish(*job) if blocking else HfApi().run_as_future(publish, *job)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Push a checkpoint as one commit, in the background.

        Replaces Trainer._push_from_checkpoint, which uploads a list of files without code, and the arguments.
        """
        if not self.is_world_process_zero() or self.args.hub_strategy == HubStrategy.END:
            return
        if not self.args.hub_always_push and self.push_in_progress is not None and not self.push_in_progress.is_done():
            return
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        stage = Path(tempfile.mkdtemp(prefix="_push-", dir=self.args.output_dir))
        # Links: the checkpoint may be deleted while it is sent.
        shutil.copytree(checkpoint_folder, stage, copy_function=link_or_copy, dirs_exist_ok=True)
        write_card(stage, self.given_to(self.hub_model_id), complete=False)
        self.write_reference(stage)
        message = f"Training in progress, step {self.state.global_step}"
        job = HfApi().run_as_future(push_stage, stage, self.destination(), message, self.folder_of(checkpoint_folder))
        self.push_in_progress = PushInProgress([job])

    def folder_of(self, checkpoint_folder: str) -> str | None:
        """The repository's folder for what a run needs to resume; None: there is to be none."""
        folders = {
            HubStrategy.CHECKPOINT: "last-checkpoint",
            HubStrategy.ALL_CHECKPOINTS: Path(checkpoint_folder).name,
        }
        return folders.get(self.args.hub_strategy)


def push_stage(stage: Path, destination: Destination, message: str, folder: str | None) -> None:
    """Push a staged checkpoint, and into `folder` all that a run needs to resume; a failure does not stop training."""
    try:
        publish(stage, destination, message, {} if folder is None else resumable(stage, folder))
    except PublishError as error:
        logger.warning("Training goes on, but %s", error)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def resumable(stage: Path, folder: str) -> dict[str, Path]:
    """The files of a checkpoint, by their paths in the repository; none tells where it was on this machine."""
    path = stage / "trainer_state.json"
    state = json.loads(path.read_text(encoding="utf-8"))
    if state["best_model_checkpoint"] is not None:
        state["best_model_checkpoint"] = Path(state["best_model_checkpoint"]).name
    # Not written into: it has a second name, in the checkpoint.
    path.unlink()
    path.write_text(json.dumps(state, indent=2), encoding="utf-8")
    left_out = ("README.md", "training_args.bin", REFERENCE)
    return {f"{folder}/{each.name}": each for each in stage.iterdir() if each.is_file() and each.name not in left_out}


def link_or_copy(source: str, target: str) -> None:
    """A second name for a file, or, where the file system has none, a copy."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
