"""Training of one model on one task, and its accuracy at each difficulty."""

import math

import torch
from torch import nn
from transformers import PreTrainedModel

from ..modeling.decoder import BlendDecoderForCausalLM
from ..modeling.losses import IGNORE
from .tasks import PAD, Task

# Added to the seed of a run: what is tested or probed is drawn by other generators than what is trained on.
TEST_SEED = 10**6


def fit(model: PreTrainedModel, task: Task, *, seed: int, steps: int, rows: int, learning_rate: float) -> None:
    """Train a model; each step draws a difficulty (of a task that grows at first one of the lowest) and a batch.

    AdamW, gradients clipped at a norm of 1, the learning rate rises over a tenth of the steps and falls to zero as a
    cosine.

    Args:
        model: it is changed.
        task: what it learns.
        seed: of the batches.
        steps: number of steps.
        rows: sequences of a batch.
        learning_rate: the highest.
    """
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), learning_rate, weight_decay=0.01)
    warm_up = max(1, steps // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / warm_up, 0.5 + 0.5 * math.cos(math.pi * step / steps)),
    )
    model.train()
    for step in range(steps):
        known = min(len(task.train), 1 + 2 * len(task.train) * step // steps) if task.grows else len(task.train)
        difficulty = task.train[int(torch.randint(known, (), generator=generator))]
        batch = task.draw(difficulty, rows, generator)
        optimizer.zero_grad()
        model(input_ids=batch.input_ids, labels=batch.labels).loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    model.eval()


@torch.inference_mode()
def accuracy(model: PreTrainedModel, task: Task, difficulty: int, *, seed: int, rows: int) -> float:
    """Share of the tested labels that are predicted, or of the sequences of which all are (Task.counts_whole)."""
    batch = task.draw(difficulty, rows, torch.Generator().manual_seed(TEST_SEED + seed))
    labels = batch.labels
    if model.config.is_encoder_decoder:
        predictions = written(model, batch.input_ids, labels.shape[1])
    elif isinstance(model, BlendDecoderForCausalLM):
        # The prompt has no labels; it is equally long in all rows.
        prompt = int((labels[0] == IGNORE).sum())
        labels = labels[:, prompt:]
        predictions = written(model, batch.input_ids[:, :prompt], labels.shape[1])
    else:
        predictions = model(input_ids=batch.input_ids).logits.argmax(-1)
    is_tested = labels != IGNORE
    if task.counts_last is not None:
        # The number of labels from a position on.
        is_tested &= is_tested.flip(-1).cumsum(-1).flip(-1) <= task.counts_last
    is_right = predictions == labels
    if task.counts_whole:
        return (is_right | ~is_tested).all(-1).double().mean().item()
    return is_right[is_tested].double().mean().item()


def written(model: PreTrainedModel, input_ids: torch.Tensor, length: int) -> torch.Tensor:
    """The `length` tokens that a model generates greedily, (B, length)."""
    start = 1 if model.config.is_encoder_decoder else input_ids.shape[1]
    tokens = model.generate(input_ids, max_new_tokens=length, do_sample=False)[:, start:]
    # Shorter if all texts have ended before.
    return nn.functional.pad(tokens, (0, length - tokens.shape[1]), value=PAD)
