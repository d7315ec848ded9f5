"""The DataLoaders of a Trainer: their columns, the order of the rows, and the batches."""

import inspect
import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import datasets
import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, Sampler
from transformers.trainer_pt_utils import LengthGroupedSampler
from transformers.trainer_utils import RemoveColumnsCollator, seed_worker

from ..checkpoints.position import seed_of
from ..conversion.origin import without_adapter
from ..data.errors import InputError
from ..data.streams import PositionedStream, SharedStream, is_resumable
from ..tasks.encoding import count_tokens
from ..tasks.sampling import TokenBatchSampler

logger = logging.getLogger(__name__)


class Loaders:
    """Builds the DataLoaders of a BlendTrainer.

    They differ from those of transformers' Trainer:

    - They have the columns that the collator reads, besides those that the model reads.
    - The order of an epoch follows from the seed and the epoch alone. Other samplers draw it from the random state at
      the start of the epoch, which no checkpoint has, and which differs between processes.
    - `max_tokens_per_batch` decides the batches, if it is given.
    - An evaluation leaves no row out, whatever dataloader_drop_last says, and keeps the order of the rows.
    - A stream that can be resumed in the middle is read from there, and several processes share a stream.

    Args:
        trainer: has the arguments, the model, the data sets and the collator.

    Attributes:
        batches: the training batches by max_tokens_per_batch; None where it is not given.

    Raises:
        InputError: the training rows cannot be divided into such batches, or the column of lengths has none.
    """

    def __init__(self, trainer: Any):
        self.trainer = trainer
        self.batches = self._token_batches()
        if trainer.args.train_sampling_strategy not in ("random", "sequential"):
            # transformers reads them.
            self._given_lengths()
        # With persistent workers, the loaders of evaluations: the data set, and its loader.
        self._persistent: list[tuple[Any, DataLoader]] = []

    def train(self) -> DataLoader:
        """The training batches.

        Raises:
            ValueError: there are no training rows.
        """
        trainer, args = self.trainer, self.trainer.args
        trainer.position.stream = trainer.position.sampler = None
        if trainer.train_dataset is None:
            raise ValueError("Trainer: training requires a train_dataset.")
        dataset, options = self._read_columns(trainer.train_dataset)
        if isinstance(dataset, IterableDataset):
            options |= {"batch_size": trainer._train_batch_size}
            return self._build(self._train_stream(dataset), **options)
        workers = {"num_workers": args.dataloader_num_workers, "rank": args.process_index}
        options["worker_init_fn"] = partial(seed_worker, **workers)
        if self.batches is not None:
            return self._build(dataset, batch_sampler=self.batches, **options)
        sampler = self._train_sampler(dataset)
        if hasattr(sampler, "dp_size"):
            return self._rebalanced(dataset, sampler, options)
        size = {"batch_size": trainer._train_batch_size, "drop_last": args.dataloader_drop_last}
        return self._build(dataset, sampler=sampler, **size, **options)

    def evaluation(self, dataset: Any, persistent: bool = True) -> DataLoader:
        """The batches of an evaluation or a prediction, in the order of the rows.

        Args:
            dataset: a data set or a stream.
            persistent: whether persistent workers serve all evaluations of this data set.

        Raises:
            InputError: several processes cannot evaluate on a stream.
        """
        args = self.trainer.args
        own = self.trainer.eval_dataset
        # The workers of any other data set would never end.
        is_own = any(dataset is each for each in (own.values() if isinstance(own, dict) else [own]))
        persistent = persistent and is_own and args.dataloader_persistent_workers
        for known, loader in self._persistent if persistent else ():
            if known is dataset:
                return loader
        rows, options = self._read_columns(dataset)
        if isinstance(rows, IterableDataset) and args.world_size > 1 and not args.accelerator_config.dispatch_batches:
            raise InputError(
                f"eval_dataset: is a stream, and {args.world_size} processes would count some of its rows twice; "
                "give a data set that is no stream, or evaluate in one process"
            )
        loader = self._build(rows, batch_size=args.eval_batch_size, **options)
        if persistent:
            self._persistent.append((dataset, loader))
        return loader

    def row_lengths(self) -> np.ndarray:
        """The number of tokens in each training row (N,); the sum of source and target for an encoder-decoder."""
        trainer = self.trainer
        # Tokens of a target that a decoder reads cost as much as those of a source. A collator may make the target.
        reads_labels = trainer.model.config.is_encoder_decoder and trainer.model.can_generate()
        has_labels = "labels" in getattr(trainer.train_dataset, "column_names", ("labels",))
        return count_tokens(
            trainer.train_dataset, ("input_ids", "labels") if reads_labels and has_labels else ("input_ids",)
        )

    def _given_lengths(self) -> np.ndarray | None:
        """The column length_column_name of the training rows (N,); None if there is none. Raises InputError."""
        dataset, column = self.trainer.train_dataset, self.trainer.args.length_column_name
        if column not in getattr(dataset, "column_names", ()):
            return None
        kind = str(getattr(dataset.features[column], "dtype", "list"))
        if "int" not in kind:
            raise InputError(f"length_column_name: column {column!r} must hold whole numbers, but has the type {kind}")
        return dataset.with_format("numpy")[column][:]

    def _token_batches(self) -> TokenBatchSampler | None:
        """The training batches by max_tokens_per_batch. Raises InputError."""
        args, dataset = self.trainer.args, self.trainer.train_dataset
        if args.max_tokens_per_batch is None or dataset is None:
            return None
        if isinstance(dataset, IterableDataset):
            raise InputError(
                "max_tokens_per_batch: the lengths of the rows of a stream are unknown until they are read"
            )
        options = {"num_processes": args.world_size, "seed": seed_of(args)}
        given = self._given_lengths()
        lengths = self.row_lengths() if given is None else given
        return TokenBatchSampler(lengths, args.max_tokens_per_batch, **options)

    def _read_columns(self, dataset: Any) -> tuple[Any, dict[str, Any]]:
        """The data set with the columns that are read, and the options that all DataLoaders have in common.

        Raises:
            ValueError: the model reads none of the columns.
        """
        trainer, args = self.trainer, self.trainer.args
        collator: Callable = trainer.data_collator
        if args.remove_unused_columns:
            columns, model = self._columns(), type(self._unwrapped_model()).__name__
            if isinstance(dataset, datasets.Dataset):
                unread = [name for name in dataset.column_names if name not in columns]
                if len(unread) == len(dataset.column_names):
                    raise ValueError(f"{model} reads none of the columns {unread}; it reads {columns}")
                dataset = dataset.remove_columns(unread)
            else:
                options = {"signature_columns": columns, "logger": logger, "model_name": model}
                collator = RemoveColumnsCollator(data_collator=collator, **options)
        return dataset, {
            "collate_fn": collator,
            "num_workers": args.dataloader_num_workers,
            "pin_memory": args.dataloader_pin_memory,
            "persistent_workers": args.dataloader_persistent_workers,
            "multiprocessing_context": args.dataloader_multiprocessing_context,
            "prefetch_factor": args.dataloader_prefetch_factor,
            "in_order": args.dataloader_in_order,
        }

    def _columns(self) -> list[str]:
        """The columns that the model or the collator reads; default_data_collator also reads label and label_ids."""
        model = without_adapter(self._unwrapped_model())
        names = [*inspect.signature(model.forward).parameters, "label", "label_ids", *self.trainer.label_names]
        return [*dict.fromkeys([*names, *getattr(self.trainer.data_collator, "reads", ())])]

    def _unwrapped_model(self) -> Any:
        """The model without the wrappers of torch.compile and FSDP, whose `forward` takes any arguments."""
        return self.trainer.accelerator.unwrap_model(self.trainer.model, keep_torch_compile=False)

    def _train_sampler(self, dataset: Any) -> Sampler | None:
        """The sampler of train_sampling_strategy, with its own generator, which Position seeds in each epoch.

        With use_seedable_sampler, accelerate replaces a RandomSampler by one that it seeds itself.
        """
        sampler = self.trainer._get_train_sampler(dataset)
        is_seeded = isinstance(sampler, RandomSampler) and self.trainer.args.accelerator_config.use_seedable_sampler
        if isinstance(sampler, LengthGroupedSampler | RandomSampler) and not is_seeded:
            sampler.generator = torch.Generator()
        self.trainer.position.sampler = sampler
        return sampler

    def _rebalanced(self, dataset: Any, sampler: Any, options: dict[str, Any]) -> DataLoader:
        """The batches of transformers' BatchRebalanceSampler, which divides them by process: accelerate must not."""
        loader = self._build(dataset, batch_sampler=sampler, **options)
        shard = getattr(loader, "batch_sampler", None)
        if getattr(shard, "batch_sampler", None) is sampler:
            shard.num_processes, shard.process_index = 1, 0
        return loader

    def _train_stream(self, dataset: IterableDataset) -> IterableDataset:
        """A stream as this process reads it.

        If workers read it, or it has no exact state, a resumed run reads it from its start.
        """
        args, config = self.trainer.args, self.trainer.args.accelerator_config
        rows = self.trainer._train_batch_size * (1 if config.split_batches else args.world_size)
        if args.dataloader_num_workers == 0 and not args.save_on_each_node and is_resumable(dataset):
            self.trainer.position.stream = dataset = PositionedStream(dataset, rows)
        return dataset if args.world_size <= 1 or config.dispatch_batches else SharedStream(dataset, rows)

    def _build(self, dataset: Any, **options: Any) -> DataLoader:
        """A DataLoader, as accelerate prepares it for all processes."""
        loader = self.trainer.accelerator.prepare(DataLoader(dataset, **options))
        if self.trainer.args.dataloader_persistent_workers:
            # Persistent workers start once, and again on resume: their seed must not come from the run's random state.
            loader.base_dataloader.generator = torch.Generator()
        return loader
