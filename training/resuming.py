"""A Trainer that can be killed at any moment, and goes on as if it had not been."""

import json
import logging
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, Sampler
from transformers import EarlyStoppingCallback, TrainerCallback, TrainerState, TrainingArguments
from transformers.trainer_pt_utils import LengthGroupedSampler, safe_globals
from transformers.trainer_utils import TrainOutput

from ..checkpoints.faults import IDENTITY, POSITION, STATE
from ..checkpoints.identity import BATCHES, CHOICE, FREE, LENGTH, identity_of, read_facts
from ..data.errors import InputError
from ..data.locks import lock_directory
from ..data.streams import PositionedStream, SharedStream, is_resumable
from ..data.writing import write_atomically
from ..hub_card.record import RunRecord
from .restoring import UNKNOWN, RestoringTrainer

logger = logging.getLogger(__name__)


def seed_of(args: TrainingArguments) -> int:
    """What decides the order of the rows."""
    return args.seed if args.data_seed is None else args.data_seed


class Position(TrainerCallback):
    """Counts what a run has read, whatever the Trainer knows of how much there is.

    Attributes:
        epoch: which epoch it is; over a stream that is one pass, however few steps it has.
        batches: how many of them this process has trained on.
        ended: the epoch is over, and what it ends with has its turn.
        trained: how many batches since the run was started or resumed.
        sampler: decides the order of the rows.
    """

    def __init__(self) -> None:
        self.sampler: Sampler | None = None
        self.go_on(0, 0)

    def go_on(self, epoch: int, batches: int, is_over: bool = False) -> None:
        """Begin with this epoch, of which so many batches are done; is_over: nothing comes after its end."""
        self.epoch, self.batches, self.ended, self.trained = epoch - 1, 0, False, 0
        self._first_step = 0
        self._done, self._is_over = batches, is_over

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Also tell the other callbacks: over a stream, state.epoch grows by a part of max_steps in a pass.

        And the sampler, which Trainer._run_epoch does not reach where processes share it and batches are left out.
        """
        self.epoch, self.batches, self.ended = self.epoch + 1, self._done, False
        self._done, self._first_step = 0, state.global_step
        state.epoch = max(state.epoch or 0.0, float(self.epoch))
        if hasattr(self.sampler, "set_epoch"):
            self.sampler.set_epoch(self.epoch)
        elif getattr(self.sampler, "generator", None) is not None:
            self.sampler.generator.manual_seed(seed_of(args) + self.epoch)

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.batches += 1
        self.trained += 1

    # One of the two comes after each batch.
    on_step_end = on_substep_end

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Also stop a run that was over when it was resumed: transformers looks for that after a step only.

        Raises:
            InputError: a stream has too few batches for a step, which transformers would wait for forever.
        """
        self.ended = True
        needed, stopped = args.gradient_accumulation_steps, control.should_training_stop or control.should_epoch_stop
        if self.batches < needed and state.global_step == self._first_step and not stopped and not self._is_over:
            raise InputError(
                f"gradient_accumulation_steps: {needed} batches make a step, but an epoch has only {self.batches}"
            )
        if self._is_over or state.global_step >= state.max_steps:
            control.should_training_stop = True


class ResumingTrainer(RestoringTrainer):
    """A Trainer whose runs end with the same weights, bit for bit on a CPU, however often they are killed.

    Args:
        kwargs: those of RestoringTrainer.
    """

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        if self.args.accelerator_config.dispatch_batches is None:
            # accelerate would have one process read a stream for all, which joins batches of different widths in vain,
            # and fails where nothing is left to read.
            self.accelerator.dataloader_config.dispatch_batches = False
        self.position = Position()
        self.add_callback(self.position)
        self._stream: PositionedStream | None = None
        # What a resumed epoch of a stream is read from.
        self._rest: Iterator[Any] | None = None
        # The checkpoint that was resumed from, and the losses of the steps before it.
        self._resumed: str | None = None
        self._losses: dict[str, Any] | None = None
        self._losses_restored = False

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> TrainOutput:
        """As RestoringTrainer.train.

        Args:
            resume_from_checkpoint: a checkpoint, or True for the newest good one of output_dir.
            args: with kwargs, those of Trainer.train.
            kwargs: see args.

        Raises:
            InputError: there is no checkpoint, it is damaged, of another run, or does not match the model; or another
                process trains into output_dir.
            RunError: the run cannot go on.
        """
        with lock_directory(self.args.output_dir) if self.args.should_save else nullcontext():
            found = self.find_checkpoint(resume_from_checkpoint)
            self._found = UNKNOWN
            output = super().train(found, *args, **kwargs)
        return output._replace(training_loss=output.metrics.get("train_loss", output.training_loss))

    # --- What a checkpoint holds besides ---

    def _save_rng_state(self, output_dir: str) -> None:
        """As Trainer._save_rng_state, which is called where a run is to be resumed; and the position in the data."""
        super()._save_rng_state(output_dir)
        losses = self.losses_so_far()
        if not self.args.should_save:
            return
        batches = self.position.batches
        position = {
            "epoch": self.position.epoch,
            "batches": batches,
            "ended": self.position.ended,
            "losses": losses,
            "stream": None if self._stream is None else self._stream.state_after(batches),
        }
        torch.save(position, Path(output_dir, POSITION))

    def losses_so_far(self) -> dict[str, Any]:
        """The sums of the losses that are logged and that are not yet, and the step of the last log."""
        pending = self._tr_loss.detach()
        if self.args.world_size > 1:
            # Each process has that of its own batches.
            pending = self.accelerator.reduce(pending, "mean")
        return {"total": self._total_loss_scalar, "pending": pending.cpu(), "logged": self._globalstep_last_logged}

    def write_staged(self, model: Any, trial: Any, staged: Path, checkpoint: Path) -> None:
        """As SavingTrainer.write_staged; and whose checkpoint it is."""
        super().write_staged(model, trial, staged, checkpoint)
        if self.args.should_save:
            self.write_identity(staged)

    def write_identity(self, directory: Path) -> None:
        """Write run.json: the name of the run and its facts."""
        content = {"run": identity_of(self.facts), "facts": self.facts}
        write_atomically(directory / IDENTITY, json.dumps(content, indent=1))

    def position_in(self, checkpoint: Path) -> dict[str, Any] | None:
        """Where the run was in its data.

        Returns:
            None if another Trainer wrote the checkpoint, or an earlier version, whose facts are not known; or if
            batches now hold other rows.
        """
        path = checkpoint / POSITION
        if self.args.ignore_data_skip or not path.is_file() or read_facts(checkpoint) is None:
            return None
        others = [str(change) for change in self.changes if change.name in BATCHES]
        if others and self.args.should_log:
            logger.warning(
                "Batches hold other rows than in %s: %s. The run goes on after as many steps, not after the same rows",
                checkpoint,
                "; ".join(others),
            )
        if others:
            return None
        with safe_globals():
            return torch.load(path, weights_only=True)

    # --- Going on ---

    def _init_training_state(self, max_steps: int, steps_per_epoch: int, epochs: int, *args: Any) -> tuple[int, int]:
        """As Trainer._init_training_state, with the epoch and the batches of it that the run was at.

        Replaces `epochs_trained = int(self.state.global_step // num_update_steps_per_epoch)` and what follows. Of a
        stream that is wrong after its first pass; after the last step of an epoch it leaves out what the epoch ends
        with; and a run that was over takes one step more.
        """
        epoch, batches = super()._init_training_state(max_steps, steps_per_epoch, epochs, *args)
        # Those of a checkpoint would hold, whatever the arguments say now of when to log, evaluate and save.
        self.state.compute_steps(self.args, max_steps)
        self.note_run(trial=args[1])
        self._saved, self._resumed, self._losses, position = None, args[0], None, None
        if self._resumed is not None:
            if any(change.name in CHOICE for change in self.changes):
                self.forget_best()
            else:
                self.find_best(Path(self._resumed))
            position = self.position_in(Path(self._resumed))
        is_over = False
        if position is not None:
            self._losses, self._losses_restored = position.get("losses"), False
            epoch, batches = position["epoch"], position["batches"]
            is_over = self.state.global_step >= max_steps or self.is_stopped()
            most = steps_per_epoch * self.args.gradient_accumulation_steps
            if not is_over and (epoch >= epochs or batches > most):
                raise InputError(
                    f"{Path(self._resumed, POSITION)}: has batch {batches} of epoch {epoch + 1}, but the run has "
                    f"{epochs} epochs of {most} batches"
                )
            stream = self.allowed_stream(position["stream"])
            if position["ended"]:
                epoch, batches = (epochs if is_over else epoch + 1), 0
                if self._stream is not None and stream is not None:
                    self._stream.compare_with(stream)
            elif is_over:
                # All of them: nothing is left but what the epoch ends with.
                batches = most
            elif self._stream is not None and stream is not None:
                self._stream.resume(batches, stream)
        self.position.go_on(epoch, batches, is_over)
        return epoch, batches

    def allowed_stream(self, state: Any) -> Any:
        """The state of a stream; without the digests of a RowStream where its content may have changed."""
        if isinstance(state, dict) and "read" in state and "train_dataset" in (self.args.allow_changed or []):
            return {**state, "reading": "", "read": {}}
        return state

    def note_run(self, trial: Any) -> None:
        """Write run.json to output_dir, and pass the name of the run and its changed facts to the card."""
        if trial is not None:
            # Its values are set only now.
            self.collect_facts()
        if self.args.should_save:
            self.write_identity(Path(self.args.output_dir))
        step = self.state.global_step
        changes = [(step, *each) for each in self.changes if each.name not in FREE or each.name in LENGTH]
        for each in self.callback_handler.callbacks:
            if isinstance(each, RunRecord):
                each.run, each.changes = identity_of(self.facts), changes

    def is_stopped(self) -> bool:
        """Whether nothing had become better for so long, when the checkpoint was written, that the run was over."""
        return any(
            each.early_stopping_patience_counter >= each.early_stopping_patience
            for each in self.callback_handler.callbacks
            if isinstance(each, EarlyStoppingCallback)
        )

    def forget_best(self) -> None:
        """Choose the best model anew: figures of another metric, or of other rows, cannot be compared."""
        if self.state.best_metric is not None and self.args.should_log:
            now = "none is chosen now" if self.args.metric_for_best_model is None else "it is chosen anew"
            logger.warning("%s: the best model so far was chosen otherwise; %s", self._resumed, now)
        self.state.best_metric = self.state.best_model_checkpoint = self.state.best_global_step = None
        for each in self.callback_handler.callbacks:
            if isinstance(each, EarlyStoppingCallback):
                each.early_stopping_patience_counter = 0

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

    def _get_train_sampler(self, *args: Any) -> Sampler | None:
        """As Trainer._get_train_sampler; the order of the rows follows from the seed and the epoch alone.

        LengthGroupedSampler, and without use_seedable_sampler RandomSampler too, would draw it from the random state
        as it was when the epoch began, which no checkpoint has, and which each process has its own of.
        """
        sampler = super()._get_train_sampler(*args)
        is_seeded = isinstance(sampler, RandomSampler) and self.args.accelerator_config.use_seedable_sampler
        if isinstance(sampler, LengthGroupedSampler | RandomSampler) and not is_seeded:
            sampler.generator = torch.Generator()
        self.position.sampler = sampler
        return sampler

    def _get_dataloader(self, dataset: Any, *args: Any, is_training: bool = False, **kwargs: Any) -> DataLoader:
        """As Trainer._get_dataloader; of a stream that can be read on from the middle, the position is kept.

        A stream that workers read, or that has no exact state, is read from the start again, and what was is left out.

        Raises:
            InputError: several processes are to evaluate on a stream.
        """
        if is_training:
            self._stream = None
        if isinstance(dataset, IterableDataset):
            dataset = self.readable_stream(dataset, is_training)
        loader = super()._get_dataloader(dataset, *args, is_training=is_training, **kwargs)
        if self.args.dataloader_persistent_workers:
            # Workers that stay are started once, and once more in a resumed run: not by the random state of the run.
            loader.base_dataloader.generator = torch.Generator()
        return loader

    def readable_stream(self, dataset: IterableDataset, is_training: bool) -> IterableDataset:
        """A stream as it is read, by this process and the others. Raises InputError: see _get_dataloader."""
        args, config = self.args, self.args.accelerator_config
        processes = args.world_size
        rows = self._train_batch_size * (1 if config.split_batches else processes)
        if is_training and args.dataloader_num_workers == 0 and not args.save_on_each_node and is_resumable(dataset):
            self._stream = dataset = PositionedStream(dataset, rows)
        if processes <= 1 or config.dispatch_batches:
            return dataset
        if not is_training:
            raise InputError(
                f"eval_dataset: a stream, of which {processes} processes would count some rows twice; give a set of "
                "rows, or evaluate by one process"
            )
        return SharedStream(dataset, rows)

    def _run_epoch(self, *, epoch: int, train_dataloader: DataLoader, **kwargs: Any) -> None:
        """As Trainer._run_epoch, which reads the first batches to leave them out, unless the stream is past them."""
        self.restore_losses()
        self._rest = None
        if self._stream is not None and self._stream.start:
            train_dataloader.set_epoch(epoch)
            self._rest = iter(train_dataloader)
        super()._run_epoch(epoch=epoch, train_dataloader=train_dataloader, **kwargs)

    def restore_losses(self) -> None:
        """Restore the sums of the losses, once; Trainer._inner_training_loop sets them to zero."""
        if self._losses is None or self._losses_restored:
            return
        self._total_loss_scalar, self._globalstep_last_logged = self._losses["total"], self._losses["logged"]
        self._tr_loss = self._losses["pending"].to(self.args.device)
        self._losses_restored = True

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """As Trainer.log; train_loss is the mean over all steps of the run.

        Replaces `train_loss = self._total_loss_scalar / max(num_steps_trained, 0.001)`, of the steps since the run was
        resumed. Where those before are not known, as of another version's checkpoint, it stays so, and of no step
        there is none.
        """
        if "train_loss" in logs and self._losses is not None:
            if not self._losses_restored:  # No step was left.
                self.restore_losses()
                self._total_loss_scalar += self._tr_loss.item()
            logs["train_loss"] = self._total_loss_scalar / self.state.global_step
        elif not self.position.trained:
            logs.pop("train_loss", None)
        super().log(logs, *args, **kwargs)

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

    def _evaluate(self, *args: Any, skip_scheduler: bool = False) -> dict[str, float]:
        """As Trainer._evaluate; what eval_on_start asks for was done when the run began.

        Replaces `self._evaluate(trial, ignore_keys_for_eval, skip_scheduler=True)` of Trainer._inner_training_loop,
        which does it again when a run goes on: early stopping would count that.
        """
        if skip_scheduler and self.state.global_step:
            return {}
        return super()._evaluate(*args, skip_scheduler=skip_scheduler)
