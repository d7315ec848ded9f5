"""Writing checkpoints and models into a staging directory, and moving them to their place when complete."""

import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from ..conversion.checkpoint import SAFETENSORS
from ..data.errors import InputError, error_line, short_list
from ..data.writing import move_into
from .run_directory import ADAPTER, clear_run, is_inside
from .store import STAGE, NotFinite, RunError, checkpoints_in, clear_stage, commit, remove, resume_hint, step_of

logger = logging.getLogger(__name__)

# A disk with fewer free bytes counts as full: a failed write of torch may leave a few bytes.
FULL = 2**16


def reason_not_written(error: BaseException, directory: Path) -> str:
    """The reason of a failed write. On a full disk torch only names a file position, so the free space is read."""
    reason = error_line(error)
    if "No space left" in reason or not directory.is_dir() or shutil.disk_usage(directory).free > FULL:
        return reason
    return f"No space left on device ({reason})"


@contextmanager
def run_errors(trainer: Any) -> Iterator[None]:
    """Turn errors of the machine into a RunError that says how to resume; errors in the code pass unchanged.

    Raises:
        RunError: a disk failed, or a DataLoader worker died.
    """
    try:
        yield
    except (OSError, EOFError, RuntimeError) as error:
        # If a worker is killed while it sends a batch, the connection breaks first.
        is_worker = "DataLoader worker" in str(error) or isinstance(error, ConnectionError | EOFError)
        if not is_worker and not isinstance(error, OSError):
            raise
        what = "a DataLoader worker has died: " if is_worker and trainer.args.dataloader_num_workers else ""
        step, hint = trainer.state.global_step, resume_hint(trainer.args.output_dir)
        raise RunError(f"after step {step}: {what}{error_line(error)}; {hint}") from error


def stop_if_not_finite(loss: torch.Tensor, inputs: dict[str, Any], trainer: Any) -> None:
    """End the run if a loss is not finite, after writing the batch into output_dir.

    Args:
        loss: the loss of the batch.
        inputs: the batch.
        trainer: the Trainer of the run.

    Raises:
        NotFinite: the message names the step and the file of the batch.
    """
    if loss.isfinite().all():
        return
    step, args = trainer.state.global_step + 1, trainer.args
    path = Path(args.output_dir, f"not-finite-{step}-{args.process_index}.pt")
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({name: each.cpu() if torch.is_tensor(each) else each for name, each in inputs.items()}, path)
    hint = resume_hint(args.output_dir)
    raise NotFinite(f"step {step}: the loss is {loss.item()}; its batch is in {path}; {hint}")


def delete_adapter(directory: Path) -> None:
    """Delete the files of an adapter, with a line in the log."""
    if found := [name for name in ADAPTER if (directory / name).exists()]:
        for name in found:
            (directory / name).unlink()
        logger.warning("%s: deleted the adapter of an earlier run: %s", directory, ", ".join(found))


class CheckpointWriter:
    """Writes the checkpoints of a run, each completely or not at all, and deletes old ones.

    Args:
        trainer: has the arguments of the run, and the accelerator, which synchronizes the processes.

    Attributes:
        stage: the directory that a checkpoint is being written into; None while none is written.
        earlier: checkpoints of an earlier run in output_dir, which are not deleted.
    """

    def __init__(self, trainer: Any):
        self.trainer, self.args = trainer, trainer.args
        self.stage: Path | None = None
        self.earlier: set[str] = set()

    def prepare_directory(self, checkpoint: str | None) -> None:
        """Separate an earlier run in output_dir from the run that starts.

        If the new run does not resume from output_dir, overwrite_output_dir deletes the earlier run. Without it, the
        checkpoints of the earlier run stay, and `rotate` does not count or delete them.

        Args:
            checkpoint: the checkpoint that the run resumes from; None for a new run.

        Raises:
            InputError: the run trains an adapter, and would save it beside the weights of a whole model.
        """
        directory, self.earlier = self.args.output_dir, set()
        is_resumed = is_inside(checkpoint, directory)
        if not is_resumed and self.args.overwrite_output_dir:
            if self.args.should_save:
                clear_run(directory)
            self.trainer.accelerator.wait_for_everyone()
        self.check_no_model(Path(directory))
        if is_resumed:
            return
        earlier = checkpoints_in(directory)
        self.earlier = set(earlier)
        if self.earlier and self.args.should_log:
            logger.warning(
                "%s holds checkpoints of an earlier run: %s. They stay, except those of the same steps; "
                "overwrite_output_dir deletes the earlier run",
                directory,
                short_list([Path(each).name for each in earlier]),
            )

    def check_no_model(self, directory: Path) -> None:
        """Raises InputError if an adapter would be saved beside a whole model, into which it would be loaded."""
        if not hasattr(self.trainer.model, "peft_config") or self.args.merge_adapter:
            return
        if found := [path.name for name in SAFETENSORS for path in directory.glob(name)]:
            raise InputError(
                f"output_dir: {directory} holds a whole model ({short_list(found)}), and an adapter beside it would "
                "be loaded into it; give another directory"
            )

    def write(self, checkpoint: Path, save: Callable[[Path], None]) -> None:
        """Write a checkpoint into the staging directory, check it, and rename it to its place.

        Args:
            checkpoint: the final path.
            save: writes all files into the given directory; it is called in all processes.

        Raises:
            RunError: it could not be written; none of its files stay.
        """
        run_dir = checkpoint.parent
        staged = run_dir / STAGE / checkpoint.name
        try:
            if self.args.should_save:
                clear_stage(run_dir)
            self.trainer.accelerator.wait_for_everyone()
            self.stage = staged.parent
            save(staged)
            self.trainer.accelerator.wait_for_everyone()
            if self.args.should_save:
                commit(staged, checkpoint)
        except BaseException as error:  # a second Ctrl-C, or errors of safetensors and torch for a full disk
            reason = reason_not_written(error, run_dir)
            clear_stage(run_dir)
            if not isinstance(error, Exception):
                raise
            hint = resume_hint(self.args.output_dir)
            raise RunError(f"{checkpoint} cannot be written: {reason}; {hint}") from error
        finally:
            self.stage = None
        self.trainer.accelerator.wait_for_everyone()
        self.earlier.discard(str(checkpoint))

    def rotate(self, run_dir: Path, best: str | None) -> None:
        """Delete the oldest checkpoints of this run until save_total_limit are left; the last and the best stay.

        Replaces transformers' rotate_checkpoints, which also counts and deletes checkpoints of an earlier run, and
        directories with a longer name (see checkpoints_in).
        """
        limit = self.args.save_total_limit or 0
        if limit <= 0:
            return
        now = self.trainer.state.global_step
        own = [each for each in checkpoints_in(run_dir) if each not in self.earlier]
        # Those of later steps are left from before the run was resumed. Times of files may be those of a copy.
        own.sort(key=lambda each: step_of(each) <= now)
        needed = {own[-1]} if best is None else {own[-1], str(Path(best))}
        surplus = max(0, len(own) - max(limit, len(needed)))
        for checkpoint in [each for each in own if each not in needed][:surplus]:
            remove(Path(checkpoint), ignore_errors=True)

    def write_model(self, directory: Path, save: Callable[[Path], None]) -> None:
        """Write a model into a staging directory beside its place, then move each file to its place.

        An adapter of an earlier run is deleted beside a whole model: transformers would load it into the model.

        Args:
            directory: the final directory of the files.
            save: writes all files into the given directory; it is called in all processes.

        Raises:
            RunError: it could not be written; the files that were in the directory stay.
        """
        stage = directory / STAGE / "model"
        try:
            save(stage)
            if self.args.should_save:
                move_into(stage, directory)
                if not hasattr(self.trainer.model, "peft_config"):
                    delete_adapter(directory)
        except Exception as error:  # safetensors and torch raise errors of their own for a full disk
            reason, hint = reason_not_written(error, directory), resume_hint(self.args.output_dir)
            raise RunError(f"{directory}: the model is not saved: {reason}; {hint}") from error
        finally:
            if self.args.should_save:
                # STAGE itself may hold a checkpoint that a killed run was replacing.
                shutil.rmtree(stage, ignore_errors=True)
                with suppress(OSError):
                    stage.parent.rmdir()
