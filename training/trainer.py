"""The Trainer of this package: transformers' Seq2SeqTrainer, changed only where its behaviour is wrong."""

from collections.abc import Iterator, Sized
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import (
    EarlyStoppingCallback,
    GenerationConfig,
    PreTrainedModel,
    PrinterCallback,
    ProgressCallback,
    Seq2SeqTrainer,
    TrainerCallback,
)
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, EvalLoopOutput, TrainOutput

from ..checkpoints.averaging import CheckCount, average_last, check_averaging, check_averaging_run
from ..checkpoints.faults import STATE, fault_of
from ..checkpoints.identity import Facts, check_allowed, facts_of
from ..checkpoints.loading import load_config
from ..checkpoints.optimizer_states import restore_optimizer
from ..checkpoints.position import Position
from ..checkpoints.resumption import Resumption, is_stopped, restore_callbacks
from ..checkpoints.run_directory import read_results, results_json
from ..checkpoints.signals import StopOnSignal
from ..checkpoints.weights import check_weights, hide_missing_keys, size_errors
from ..checkpoints.writer import CheckpointWriter, run_errors, stop_if_not_finite
from ..configuration.recipe_config import RecipeConfig
from ..conversion.origin import without_adapter
from ..data.errors import InputError
from ..data.locks import lock_directory
from ..data.writing import atomic_writer, write_atomically
from ..hub_card.card import CardData
from ..hub_card.contents import PublishError
from ..hub_card.publish import describe_error
from ..hub_card.record import RunRecord
from ..tasks.models import is_regression
from ..tasks.splits import perplexity
from .adapters import merge
from .evaluation import Scorer, TargetLoss, metric_facts, undisturbed, with_all_targets
from .generation import complete_generation_config, generation_settings, load_generation_config
from .loaders import Loaders
from .progress import Bar, LogLines, Progress
from .publisher import Publisher, refuse_adapter
from .run_options import (
    check_device,
    check_early_stopping,
    dry_run,
    restored,
    set_label_smoothing,
    set_metric_direction,
    set_plateau_mode,
    take_label_smoothing,
    with_defaults,
)


class BlendTrainer(Seq2SeqTrainer):
    """A Seq2SeqTrainer that evaluates in order, averages losses over targets, resumes exactly, and pushes whole.

    A run that is killed at any moment and resumed ends with the same weights, bit for bit on a CPU. The parts that it
    is made of are objects: `writer`, `resumption`, `position`, `signals`, `loaders`, `publisher`. Each private method
    of Trainer that is overridden says why no public one serves; tests/test_seams.py compares them with the installed
    version of transformers.

    Args:
        scorers: compute the metrics of each split, by the prefix of its metrics (`eval`, `test`), in place of
            `compute_metrics`. Where there is neither, as of language models, a perplexity is computed.
        given: what the user knows for the card; the repo_id on it is hub_model_id.
        kwargs: those of Seq2SeqTrainer; `args` may be TrainingArguments of any class.

    Raises:
        InputError: options do not go together.
        PublishError: push_to_hub is given, and the Hub cannot be used.
    """

    def __init__(self, *, scorers: dict[str, Scorer] | None = None, given: CardData | None = None, **kwargs: Any):
        self.scorers = {} if scorers is None else scorers
        self.publisher = Publisher(self, given)
        # The settings in the option generation_config.
        self.given_generation: dict[str, Any] = {}
        args = kwargs["args"] = with_defaults(kwargs.get("args"))
        check_device(args)
        if kwargs.get("compute_metrics") is None:
            set_metric_direction(args, default=not (args.metric_for_best_model or "").endswith("loss"))
        set_plateau_mode(args)
        check_averaging(args)
        check_early_stopping(args)
        self.label_smoothing = 0.0
        super().__init__(**{"compute_metrics": next(iter(self.scorers.values()), None), **kwargs})
        self.label_smoothing = take_label_smoothing(self)
        self.writer = CheckpointWriter(self)
        self.resumption = Resumption(self)
        self.signals = StopOnSignal(self)
        self.position = Position(self)
        self.loaders = Loaders(self)
        self.losses = TargetLoss(self)
        columns = getattr(self.train_dataset, "column_names", None) or ()
        has_rows = "input_ids" in columns and isinstance(self.train_dataset, Sized)
        self.progress = Progress(self.loaders.row_lengths() if has_rows else ())
        self.record = RunRecord()
        for part in (self.record, self.position, self.data_collator, self.loaders.batches, self.progress):
            if isinstance(part, TrainerCallback):
                self.add_callback(part)
        # Transformers has added one of the two; in a notebook, another one.
        given = [each for each in self.callback_handler.callbacks if type(each) in (PrinterCallback, ProgressCallback)]
        for each in given[-1:]:
            self.remove_callback(each)
            if args.quiet:
                continue
            self.add_callback(LogLines())
            # The bar is drawn last, so that no other callback writes into its line.
            if isinstance(each, ProgressCallback):
                self.add_callback(Bar(each.max_str_len))
        if args.early_stopping_patience is not None:
            self.add_callback(EarlyStoppingCallback(args.early_stopping_patience))
        if args.average_checkpoints is not None:
            self.add_callback(CheckCount())

    def call_model_init(self, trial: Any = None) -> PreTrainedModel:
        """As Trainer.call_model_init, with the label smoothing of the run."""
        model = super().call_model_init(trial)
        if self.label_smoothing:
            set_label_smoothing(model, self.label_smoothing)
        return model

    def create_accelerator_and_postprocess(self) -> None:
        """As Trainer.create_accelerator_and_postprocess, which is called again for each trial of a search.

        With accelerate's default one process reads a stream for all. That fails where batches have different widths,
        and where no batch is left.

        Raises:
            InputError: accelerator_config has a setting that accelerate does not know.
        """
        try:
            super().create_accelerator_and_postprocess()
        except TypeError as error:  # accelerate is called with the user's names
            raise InputError(f"accelerator_config: {error}") from error
        if self.args.accelerator_config.dispatch_batches is None:
            self.accelerator.dataloader_config.dispatch_batches = False

    # --- Training ---

    def check(self) -> None:
        """Build dataloader, optimizer and scheduler once. Raises InputError for options that they do not accept."""
        dry_run(self)

    def find_checkpoint(self, given: str | bool | None, required: bool = True) -> str | None:
        """The checkpoint to resume from; see Resumption.find. Raises InputError."""
        return self.resumption.find(given, required)

    def train(
        self, resume_from_checkpoint: str | bool | None = None, trial: Any = None, *args: Any, **kwargs: Any
    ) -> TrainOutput:
        """As Trainer.train; after SIGTERM or Ctrl-C the step is finished and saved.

        Replaces `get_last_checkpoint(args.output_dir)`, which takes the last checkpoint, damaged or not.

        Args:
            resume_from_checkpoint: a checkpoint, or True for the newest good one of output_dir.
            trial: this and the rest as in Trainer.train.
            args: as above.
            kwargs: as above.

        Raises:
            InputError: there is no checkpoint, it is damaged, of another run, or does not match the model; or another
                process trains into output_dir.
            RunError: the run cannot go on: a loss is not finite, a disk is full, a worker was killed.
            SystemExit: SIGTERM was received; the code is TERMINATED.
            KeyboardInterrupt: Ctrl-C was pressed.
        """
        check_averaging_run(self, is_search=trial is not None)
        if self.model is None:
            # The trial before has released it, and facts of the run are collected before the next one makes its own.
            self.model = self.call_model_init(trial)
        with lock_directory(self.args.output_dir) if self.args.should_save else nullcontext():
            checkpoint = self.resumption.find(resume_from_checkpoint)
            self.resumption.reset()
            self.writer.prepare_directory(checkpoint)
            if self.args.should_save:
                self.publisher.delete_copies()
            # A trial makes its own model, later.
            is_checked = checkpoint is not None and trial is None
            if is_checked:
                self.check_checkpoint(checkpoint)
            hidden = hide_missing_keys() if is_checked else nullcontext()
            temporary = restored(self.args, "eval_on_start")
            with self.signals.listening(), run_errors(self), temporary, hidden, size_errors(checkpoint):
                output = super().train(checkpoint, trial, *args, **kwargs)
            if self.args.average_checkpoints is not None:
                average_last(self, Path(self.args.output_dir))
        if self.args.merge_adapter and hasattr(self.model, "peft_config"):
            merge(self)
        return output._replace(training_loss=output.metrics.get("train_loss", output.training_loss))

    def check_checkpoint(self, checkpoint: str) -> None:
        """Compare weights and configuration of a checkpoint with the model before anything of it is loaded.

        Raises:
            InputError: tensors do not fit, or a later version of this package saved fields that are unknown here.
        """
        has_config = isinstance(getattr(self.model, "config", None), RecipeConfig)
        if has_config and Path(checkpoint, "config.json").exists():
            load_config(checkpoint, "resume_from_checkpoint")
        if not (self.is_deepspeed_enabled or self.is_fsdp_enabled):
            check_weights(checkpoint, self.model)

    def training_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """As Trainer.training_step. Raises RunError, before the optimizer's step, if the loss is not finite."""
        loss = super().training_step(model, inputs, *args, **kwargs)
        stop_if_not_finite(loss, inputs, self)
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As Trainer.log; a line about steps says how fast they are, and train_loss is the mean over the whole run.

        Replaces `speed_metrics("train", start_time, num_tokens=current_session_num_tokens)`, which counts evaluations
        as training; and the train_loss of Trainer._finalize_training, which is 0.0 where no step was left.
        """
        if "loss" in logs:
            logs.update(self.progress.speed(self.state))
            start_time = None
        if "train_loss" in logs:
            steps = self.state.global_step - self.position.summed_from
            if steps:
                logs["train_loss"] = self._total_loss_scalar / steps
            else:
                del logs["train_loss"]
        super().log(logs, start_time)

    # --- Data ---

    def get_train_dataloader(self) -> DataLoader:
        """The training batches; see Loaders."""
        return self.loaders.train()

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        """The batches of an evaluation, or of one of several by its name; see Loaders. Raises ValueError: no rows."""
        if eval_dataset is None and self.eval_dataset is None:
            raise ValueError("Trainer: evaluation requires an eval_dataset.")
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        return self.loaders.evaluation(self.eval_dataset[dataset] if isinstance(dataset, str) else dataset)

    def get_test_dataloader(self, test_dataset: Any) -> DataLoader:
        """The batches of a prediction; see Loaders."""
        return self.loaders.evaluation(test_dataset, persistent=False)

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device) -> tuple:
        """As Trainer.get_batch_samples, with the rest of a stream that is resumed in the middle of an epoch.

        Replaces `skip_first_batches(` of Trainer._run_epoch, which reads a stream from its start. All targets of a
        regression count, and -100 may be one.
        """
        epoch_iterator = self.position.batches_left(epoch_iterator, self.callback_handler.train_dataloader)
        batches, count = super().get_batch_samples(epoch_iterator, num_batches, device)
        if is_regression(self.model):
            count = self._get_num_items_in_batch(with_all_targets(batches), device)
        return batches, count

    def get_total_train_batch_size(self, args: Any) -> int:
        """As Trainer.get_total_train_batch_size; the mean number of rows where batches differ.

        Replaces `self._train_batch_size`, from which train_samples_per_second is computed with max_steps.
        """
        size, batches = super().get_total_train_batch_size(args), self.loaders.batches
        if batches is None:
            return size
        return round(size / self._train_batch_size * len(batches.lengths) / len(batches))

    # --- Evaluation ---

    def load_generation_config(self, given: Any) -> GenerationConfig:  # type: ignore[override]
        """The given settings, completed by the model's own: the length it was trained for, its first token.

        Replaces `self.model.generation_config = gen_config` of Seq2SeqTrainer.__init__, which drops the model's own,
        and sets it on a wrapper: `generate` of peft's PeftModelForSeq2SeqLM reads that of the model under the adapter.
        Raises ValueError if it cannot be loaded, or settings do not go together.
        """
        config = load_generation_config(given)
        self.given_generation = generation_settings(config)
        own = getattr(self.model, "generation_config", None)
        if own is None:
            return config
        without_adapter(self.model).generation_config = complete_generation_config(config, own, self.args)
        return without_adapter(self.model).generation_config

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Evaluate, with the loss of TargetLoss.

        Replaces `losses.repeat(batch_size)`, the mean of batch means; and `self.gather_function =
        self.accelerator.gather` of Seq2SeqTrainer.evaluate and predict, which keeps the rows that several processes
        read twice. Training goes on as if there had been no evaluation.
        """
        self.losses = TargetLoss(self)
        self.gather_function = self.accelerator.gather_for_metrics
        with undisturbed(self, self.scorers.get(metric_key_prefix, self.compute_metrics)):
            output = super().evaluation_loop(
                dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix=metric_key_prefix
            )
        mean, is_computed = self.losses.mean()
        if is_computed:
            # Without any target there is no mean.
            output.metrics.pop(f"{metric_key_prefix}_loss", None)
        if mean is not None:
            output.metrics[f"{metric_key_prefix}_loss"] = mean
            is_language_model = self.accelerator.unwrap_model(self.model).get_output_embeddings() is not None
            if self.compute_metrics is None and is_language_model:
                output.metrics[f"{metric_key_prefix}_perplexity"] = perplexity(mean)
        return output

    def prediction_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> tuple:
        """As Seq2SeqTrainer.prediction_step; adds the loss to TargetLoss."""
        predict = super().prediction_step
        return self.losses.step(inputs, lambda batch: predict(model, batch, *args, **kwargs))

    # --- Writing ---

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As Trainer.save_model, each file complete or not at all, and without the token. Raises RunError."""
        directory = Path(output_dir or self.args.output_dir)

        def save(place: Path) -> None:
            token, self.args.hub_token = self.args.hub_token, None
            try:
                super(BlendTrainer, self).save_model(str(place), _internal_call=True)
            finally:
                self.args.hub_token = token
                if self.is_deepspeed_enabled:
                    # Each process may have written a part. After an error, too: the others wait for this process.
                    self.accelerator.wait_for_everyone()

        if self.writer.stage is not None:
            save(directory)
            return
        self.writer.write_model(directory, save)
        if self.args.push_to_hub and not _internal_call:
            self.push_to_hub(commit_message="Model save", revision=self.args.hub_revision)

    def save_state(self) -> None:
        """As Trainer.save_state, complete or not at all."""
        if self.is_world_process_zero():
            with atomic_writer(Path(self.args.output_dir, STATE)) as file:
                self.state.save_to_json(file.name)

    def save_metrics(self, split: str, metrics: dict[str, Any], combined: bool = True) -> None:
        """As Trainer.save_metrics, each file complete or not at all; a damaged all_results.json is written anew.

        Metrics of an earlier evaluation of the same split do not stay in all_results.json: they may be those of other
        rows, or of another model.
        """
        if not self.is_world_process_zero():
            return
        directory = Path(self.args.output_dir)
        write_atomically(directory / f"{split}_results.json", results_json(metrics))
        if combined:
            path = directory / "all_results.json"
            earlier = read_results(path)
            if split in ("eval", "test"):
                earlier = {name: value for name, value in earlier.items() if not name.startswith(f"{split}_")}
            write_atomically(path, results_json({**earlier, **metrics}))

    # --- Publishing ---

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """As Trainer.init_hf_repo. Raises PublishError that says what is wrong."""
        if not self.args.merge_adapter:
            refuse_adapter(self.model)
        if private is not None:
            # All versions read it here; older ones do not have it as a parameter.
            self.args.hub_private_repo = private
        try:
            super().init_hf_repo(token)
        except Exception as error:  # huggingface_hub and the network's layers raise their own
            raise PublishError(f"hub_model_id: {self.args.hub_model_id}: {describe_error(error)}") from error

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write our card; see Publisher.write_card. Trainer.create_model_card does not know the task."""
        if self.is_world_process_zero():
            self.publisher.write_card(*args, **kwargs)

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Push the model, its code, its card and a reference as one commit, checked before it is sent.

        Replaces Trainer.push_to_hub, which uploads all of output_dir, also arguments and logs, in several commits,
        with a card that knows neither task nor results. Arguments and result as there; kwargs are those of
        create_model_card.

        Raises:
            PublishError: the push failed; the message says what is where, and how to go on.
        """
        refuse_adapter(self.model)
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        if self.hub_model_id is None:
            self.init_hf_repo(token=token, private=private)
        self.save_model(_internal_call=True)
        # The card is made from it.
        self.save_state()
        if not self.is_world_process_zero():
            return None
        self.create_model_card(**kwargs)
        return self.publisher.push_model(commit_message, blocking, self.publisher.destination(token, revision))

    # --- The private methods of Trainer ---

    def _get_output_dir(self, trial: Any) -> str:
        """While a checkpoint is written, its staging directory: Trainer._save_checkpoint writes into the final place.

        Not public: save_model is given the path, but optimizer, schedule and states are written beside it.
        """
        return super()._get_output_dir(trial) if self.writer.stage is None else str(self.writer.stage)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write a checkpoint beside the others, check it, rename it, and only then delete older ones.

        Not public: on_save is called when transformers has written in place, and deleted without a check.

        Raises:
            RunError: it could not be written; none of its files stay.
        """
        run_dir = Path(self._get_output_dir(trial))
        checkpoint = run_dir / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"

        def save(staged: Path) -> None:
            # The arguments are saved, too.
            self.signals.restore_save_strategy()
            super(BlendTrainer, self)._save_checkpoint(model, trial)
            if not self.args.save_only_model:
                self.position.write(staged)
            if self.state.best_model_checkpoint == str(staged):
                self.state.best_model_checkpoint = str(checkpoint)
                if self.args.should_save:
                    self.state.save_to_json(str(staged / STATE))
            if self.args.should_save:
                self.resumption.write_facts(staged)

        self.writer.write(checkpoint, save)
        if self.args.push_to_hub:
            self.publisher.push_checkpoint(checkpoint)
        if self.args.should_save:
            self.writer.rotate(run_dir, self.state.best_model_checkpoint)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Do nothing: Trainer._save_checkpoint calls it before the checkpoint is complete. See Publisher.

        Not public: the Trainer has no event between writing and uploading.
        """

    def _init_training_state(
        self, max_steps: int, steps_per_epoch: int, epochs: int, checkpoint: Any, trial: Any
    ) -> Any:
        """The epoch and the number of its batches to skip, from position.pt.

        Not public: what it returns are local variables of Trainer._inner_training_loop, which computes them from the
        number of steps. See Position.

        Raises:
            InputError: the run has no such epoch or batch, or the best model does not exist.
        """
        callbacks = [*self.callback_handler.callbacks]
        epoch, batches = super()._init_training_state(max_steps, steps_per_epoch, epochs, checkpoint, trial)
        # It may have replaced some by callbacks with the checkpoint's arguments. See restore_callbacks.
        self.callback_handler.callbacks = callbacks
        # Those of the arguments, in place of the checkpoint's: when to log, evaluate and save.
        self.state.compute_steps(self.args, max_steps)
        if trial is not None:
            # It has changed the arguments.
            self.resumption.facts = self.collect_facts()
        # The last one: its on_save ends the run, after that of all others.
        self.pop_callback(self.signals)
        self.add_callback(self.signals)
        self.resumption.record(self.state.global_step, callbacks)
        self.position.start(checkpoint, epoch, batches)
        if checkpoint is None:
            return epoch, batches
        restore_callbacks(callbacks, self.state, self.args.restore_callback_states_from_checkpoint)
        self.resumption.restore_best(checkpoint, self.state, callbacks)
        saved = self.resumption.position_in(Path(checkpoint))
        if saved is None:
            return epoch, batches
        if not self.resumption.has_same_batches(Path(checkpoint)):
            self.position.start(checkpoint, epoch, batches, saved.get("losses"))
            return epoch, batches
        is_over = self.state.global_step >= max_steps or is_stopped(callbacks)
        most = steps_per_epoch * self.args.gradient_accumulation_steps
        return self.position.resume(checkpoint, saved, is_over, most, epochs)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """As Trainer._load_optimizer_and_scheduler; see restore_optimizer.

        Not public: optimizer and schedule are loaded between create_scheduler and on_train_begin, which is too late to
        refuse a state of another optimizer.

        Raises:
            InputError: the checkpoint has the state of another optimizer.
        """
        load = super()._load_optimizer_and_scheduler
        if checkpoint is None or self.is_deepspeed_enabled:
            load(checkpoint)
        else:
            restore_optimizer(self, Path(checkpoint), self.resumption.changed, lambda: load(checkpoint))

    def _load_best_model(self) -> None:
        """As Trainer._load_best_model, which goes on with the last model where it finds no best one.

        If the last model is as good as the best one, it stays: it was trained for longer, and where a metric is 0 in
        all evaluations, the first one is the best. Not public: the last event before it, on_log, does not say that the
        run ends.

        Raises:
            InputError: the checkpoint of the best model is damaged, or does not match the model.
        """
        best = self.state.best_model_checkpoint
        if self.best_is_last():
            return
        if fault := fault_of(best):
            raise InputError(f"the best model, {best}, is damaged: {fault}")
        self.record.facts["best_step"] = self.state.best_global_step
        if self.is_deepspeed_enabled or self.is_fsdp_enabled:
            super()._load_best_model()
            return
        check_weights(best, self.model)
        with hide_missing_keys():
            super()._load_best_model()

    def best_is_last(self) -> bool:
        """Whether the model was evaluated after its last step, and the metric of the best one is not better."""
        name = f"eval_{(self.args.metric_for_best_model or '').removeprefix('eval_')}"
        last = next((logs for logs in reversed(self.state.log_history) if name in logs), {"step": None})
        return last["step"] == self.state.global_step and last[name] == self.state.best_metric

    def _prepare_for_training(self, *args: Any) -> tuple:
        """With FSDP2, keep the weights that the parts of an encoder-decoder share in one group.

        accelerate's fsdp2_prepare_model leaves the decoder's embedding out of the last group
        (`tail_modules = (final_norm, input_embed, output_embed)`), and torch refuses to train weights that two groups
        share. Not public: the model is wrapped here.
        """
        model, accelerator = self.model, self.accelerator
        is_sharded = accelerator.is_fsdp2 and model.config.is_encoder_decoder and model.all_tied_weights_keys
        with embeddings_hidden(model) if is_sharded else nullcontext():
            return super()._prepare_for_training(*args)

    def collect_facts(self) -> Facts:
        """The facts of the run, as they are now. Raises InputError if allow_changed names something else."""
        parts = (self.processing_class, self.data_collator, self.train_dataset)
        metric = None
        if self.args.metric_for_best_model is not None:
            metric = metric_facts(self, self.scorers.get("eval"), self.given_generation)
        facts = facts_of(self.model, self.args, *parts, metric)
        check_allowed(self.args.allow_changed or [], facts)
        return facts


@contextmanager
def embeddings_hidden(model: PreTrainedModel) -> Iterator[None]:
    """Inside, the model returns no embeddings, neither of inputs nor of outputs."""
    names = ("get_input_embeddings", "get_output_embeddings")
    for name in names:
        setattr(model, name, lambda: None)
    try:
        yield
    finally:
        for name in names:
            delattr(model, name)
