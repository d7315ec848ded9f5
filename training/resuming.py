"""A Trainer that can be killed at any moment, and goes on as if it had not been."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset
from transformers import TrainerCallback, TrainerState
from transformers.trainer_pt_utils import safe_globals
from transformers.trainer_utils import TrainOutput

from .checkpoints import STATE, clear_stage, fault_of, newest_good
from .files import InputError
from .saving import SavingTrainer
from .streams import PositionedStream, is_exact

POSITION = "position.pt"


class Position(TrainerCallback):
    """Counts what a run has read, whatever the Trainer knows of how much there is.

    Attributes:
        epoch: which epoch it is; over a stream that is one pass, however few steps it has.
        batches: how many of them this process has trained on.
        ended: the epoch is over, and what it ends with has its turn.
        trained: how many batches since the run was started or resumed.
    """

    def __init__(self) -> None:
        self.go_on(0, 0)

    def go_on(self, epoch: int, batches: int) -> None:
        """Begin with this epoch, of which so many batches are done."""
        self.epoch, self.batches, self.ended, self.trained = epoch - 1, 0, False, 0
        self._done = batches

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Also tell the other callbacks: over a stream, state.epoch grows by a part of max_steps in a pass."""
        self.epoch, self.batches, self.ended = self.epoch + 1, self._done, False
        self._done = 0
        state.epoch = max(state.epoch or 0.0, float(self.epoch))

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.batches += 1
        self.trained += 1

    # One of the two comes after each batch.
    on_step_end = on_substep_end

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Also stop a run that was over when it was resumed: transformers looks for that after a step only."""
        self.ended = True
        if state.global_step >= state.max_steps:
            control.should_training_stop = True


class ResumingTrainer(SavingTrainer):
    """A Trainer whose runs end with the same weights, bit for bit on a CPU, however often they are killed.

    Args:
        kwargs: those of SavingTrainer.
    """

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.position = Position()
        self.add_callback(self.position)
        self._stream: PositionedStream | None = None
        # What a resumed epoch of a stream is read from.
        self._rest: Iterator[Any] | None = None
        # The checkpoint that was resumed from.
        self._resumed: str | None = None

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> TrainOutput:
        """As SavingTrainer.train.

        Args:
            resume_from_checkpoint: a checkpoint, or True for the newest good one of output_dir.
            args: with kwargs, those of Trainer.train.
            kwargs: see args.

        Raises:
            InputError: there is no checkpoint, it is damaged, or it does not match the model.
            RunError: the run cannot go on.
        """
        if resume_from_checkpoint is True:
            clear_stage(Path(self.args.output_dir))
            resume_from_checkpoint = newest_good(self.args.output_dir)
            if resume_from_checkpoint is None:
                raise InputError(f"resume_from_checkpoint: there is no good checkpoint in {self.args.output_dir}")
        elif resume_from_checkpoint and (fault := fault_of(resume_from_checkpoint)):
            raise InputError(f"resume_from_checkpoint: {resume_from_checkpoint} is damaged: {fault}")
        return super().train(resume_from_checkpoint, *args, **kwargs)

    # --- What a checkpoint holds besides ---

    def _save_rng_state(self, output_dir: str) -> None:
        """As Trainer._save_rng_state, which is called where a run is to be resumed; and the position in the data."""
        super()._save_rng_state(output_dir)
        if not self.args.should_save:
            return
        batches = self.position.batches
        position = {
            "epoch": self.position.epoch,
            "batches": batches,
            "ended": self.position.ended,
            "stopped": self.control.should_training_stop,
            "batch": self.size_of_batches(),
            "stream": None if self._stream is None else self._stream.state_after(batches),
        }
        torch.save(position, Path(output_dir, POSITION))

    def size_of_batches(self) -> list[int]:
        """What must be the same for so many batches to be the same rows."""
        return [self._train_batch_size, self.args.gradient_accumulation_steps, self.args.world_size]

    def position_in(self, checkpoint: Path) -> dict[str, Any] | None:
        """Where the run was; None if transformers' Trainer wrote the checkpoint, or batches are others now."""
        path = checkpoint / POSITION
        if self.args.ignore_data_skip or not path.is_file():
            return None
        with safe_globals():
            position = torch.load(path, weights_only=True)
        return position if position["batch"] == self.size_of_batches() else None

    # --- Going on ---

    def _init_training_state(self, max_steps: int, steps_per_epoch: int, epochs: int, *args: Any) -> tuple[int, int]:
        """As Trainer._init_training_state, with the epoch and the batches of it that the run was at.

        Replaces `epochs_trained = int(self.state.global_step // num_update_steps_per_epoch)` and what follows. Of a
        stream that is wrong after its first pass; after the last step of an epoch it leaves out what the epoch ends
        with; and a run that was over takes one step more.
        """
        epoch, batches = super()._init_training_state(max_steps, steps_per_epoch, epochs, *args)
        self._saved, self._resumed, position = None, args[0], None
        if self._resumed is not None:
            self.find_best(Path(self._resumed))
            position = self.position_in(Path(self._resumed))
        if position is not None:
            epoch, batches = position["epoch"], position["batches"]
            is_over = self.state.global_step >= max_steps
            if position["ended"] and (is_over or not position["stopped"]):
                epoch, batches = (epochs if is_over else epoch + 1), 0
            elif is_over:
                # All of them: nothing is left but what the epoch ends with.
                batches = steps_per_epoch * self.args.gradient_accumulation_steps
            elif self._stream is not None and position["stream"] is not None:
                self._stream.resume(batches, position["stream"])
        self.position.go_on(epoch, batches)
        return epoch, batches

    def find_best(self, checkpoint: Path) -> None:
        """Find the best model's checkpoint, though the directory may have been moved.

        Replaces `self.state.best_model_checkpoint = None` of Trainer._init_training_state, which forgets it.

        Raises:
            InputError: it is gone, and is to be loaded in the end.
        """
        best = TrainerState.load_from_json(str(checkpoint / STATE)).best_model_checkpoint
        if best is None:
            return
        places = [Path(self.args.output_dir, Path(best).name), checkpoint.parent / Path(best).name]
        found = next((str(place) for place in places if place.is_dir()), None)
        if found is None and self.args.load_best_model_at_end:
            raise InputError(f"load_best_model_at_end: the best model, {best}, does not exist any more")
        self.state.best_model_checkpoint = found

    def _get_dataloader(self, dataset: Any, *args: Any, is_training: bool = False, **kwargs: Any) -> DataLoader:
        """As Trainer._get_dataloader; of a stream that can be read on from the middle, the position is kept.

        A stream that workers read, or that has no exact state, is read from the start again, and what was is left out.
        """
        if is_training:
            self._stream = None
            config = self.args.accelerator_config
            in_one_place = self.args.dataloader_num_workers == 0 and not self.args.save_on_each_node
            if isinstance(dataset, IterableDataset) and in_one_place and is_exact(dataset):
                processes = 1 if config.split_batches else self.args.world_size
                self._stream = dataset = PositionedStream(dataset, self._train_batch_size * processes)
        return super()._get_dataloader(dataset, *args, is_training=is_training, **kwargs)

    def _run_epoch(self, *, epoch: int, train_dataloader: DataLoader, **kwargs: Any) -> None:
        """As Trainer._run_epoch, which reads the first batches to leave them out, unless the stream is past them."""
        self._rest = None
        if self._stream is not None and self._stream.start:
            train_dataloader.set_epoch(epoch)
            # accelerate takes a stream of no row for an error: the stream itself tells that there is none left.
            self._rest = iter(self._stream if self._stream.is_over else train_dataloader)
        super()._run_epoch(epoch=epoch, train_dataloader=train_dataloader, **kwargs)

    def get_batch_samples(self, epoch_iterator: Iterator[Any], *args: Any) -> tuple:
        """As Trainer.get_batch_samples, from the rest of the stream in place of all of it.

        Replaces what `skip_first_batches` of Trainer._run_epoch returns. Nothing is read before it is asked for.
        """
        return super().get_batch_samples(self._rest or epoch_iterator, *args)

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        """As SavingTrainer._maybe_log_save_evaluate, with the saved random state if no batch was left to read.

        Trainer._run_epoch restores the random state with the first batch that it reads.
        """
        if not self.position.trained:
            self._load_rng_state(self._resumed)
        super()._maybe_log_save_evaluate(*args, **kwargs)
