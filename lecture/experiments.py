"""The experiments: what is trained and measured, one figure a row. The claims that they test are in claims.py."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from statistics import median

import torch
from transformers import PreTrainedModel, set_seed

from .models import MIXERS, cached_bytes, tagger, translator
from .tasks import ASSOCIATIVE, PARITY, RECALL, REVERSAL, SIDES, Task
from .training import accuracy, fit

# Number of features, and of rows that are tested.
SIZE, TEST_ROWS = 64, 512


@dataclass(frozen=True)
class Figure:
    """One figure.

    Args:
        experiment: its name.
        setting: what is compared: a mixer, a number of heads …
        seed: of weights and data.
        at: the number on the horizontal axis.
        value: what was measured.
        parameters: number of the model's parameters.
    """

    experiment: str
    setting: str
    seed: int
    at: float
    value: float
    parameters: int


@dataclass(frozen=True)
class Learning:
    """A task that models learn, of which the accuracy at each difficulty is measured.

    Args:
        task: what is learnt.
        settings: what is compared.
        build: makes the model of a setting.
        steps: number of training steps.
        rows: sequences of a batch.
        learning_rate: the highest.
    """

    task: Task
    settings: tuple[str, ...]
    build: Callable[[str], PreTrainedModel]
    steps: int
    rows: int = 64
    learning_rate: float = 2e-3


WITH, WITHOUT = "with cross-attention", "the last state alone"
HEADS = ("1 head", "2 heads", "4 heads", "8 heads")
LEARNING = {
    "recall": Learning(RECALL, MIXERS, partial(tagger, RECALL, size=SIZE, layers=1), steps=1500, learning_rate=1e-3),
    "associative recall": Learning(ASSOCIATIVE, MIXERS, partial(tagger, ASSOCIATIVE, size=SIZE, layers=2), steps=2000),
    "parity": Learning(PARITY, MIXERS, partial(tagger, PARITY, size=SIZE, layers=2), steps=1500),
    "heads": Learning(
        SIDES, HEADS, lambda heads: tagger(SIDES, "attention", SIZE, 1, int(heads.split()[0])), steps=1000
    ),
    "cross-attention": Learning(
        REVERSAL, (WITH, WITHOUT), lambda setting: translator(REVERSAL, "lstm", SIZE, 1, setting == WITH), steps=2500
    ),
}
GRADIENT = {False: "gradient before training", True: "gradient after training"}


def learn(name: str, setting: str, seed: int) -> list[Figure]:
    """Train a model of a setting on a task, and measure it; on recall also the gradient over the distance."""
    experiment = LEARNING[name]
    set_seed(seed)
    model = experiment.build(setting)
    size, figures = model.num_parameters(), []
    if name == "recall":
        figures += gradients(model, setting, seed, False)
    fit(
        model,
        experiment.task,
        seed=seed,
        steps=experiment.steps,
        rows=experiment.rows,
        learning_rate=experiment.learning_rate,
    )
    for difficulty in experiment.task.test:
        value = accuracy(model, experiment.task, difficulty, rows=TEST_ROWS)
        figures.append(Figure(name, setting, seed, difficulty, value, size))
    if name == "recall":
        figures += gradients(model, setting, seed, True)
    return figures


# --- Gradient over distance ---


def gradients(model: PreTrainedModel, setting: str, seed: int, is_trained: bool) -> list[Figure]:
    """The norm of the gradient of the state at the last question with respect to the symbol that it asks for.

    Of a random direction of the state, the mean over sequences, divided by that at the smallest distance. Source:
    Bengio et al. 1994; Pascanu et al. 2013.
    """
    generator = torch.Generator().manual_seed(seed)
    norms = {}
    for distance in RECALL.test:
        batch = RECALL.draw(distance, 64, generator)
        stack = model.base_model
        embeds = stack.embed_tokens(batch.input_ids).detach().requires_grad_()
        last = stack(inputs_embeds=embeds, use_cache=False).last_hidden_state[:, -1]
        direction = torch.randn(last.shape, generator=generator)
        ((last * direction).sum(-1) / direction.norm(dim=-1)).sum().backward()
        assert embeds.grad is not None
        norms[distance] = embeds.grad[:, -1 - distance].norm(dim=-1).mean().item()
    first = norms[min(norms)]
    size = model.num_parameters()
    return [Figure(GRADIENT[is_trained], setting, seed, at, norm / first, size) for at, norm in norms.items()]


# --- Time of a step, and memory of a cache ---

LENGTHS = (16, 32, 64, 128, 256, 512, 1024, 2048)
# Tokens of a batch at most: the rows are fewer where they are longer.
TIMED_ROWS, REPEATS = 1, 5


def step_times(repeats: int = REPEATS) -> Iterator[Figure]:
    """Milliseconds of a training step of one sequence, forward and backward, for each mixer and length.

    In each repetition, which stands for a seed, all mixers and lengths take turns.
    """
    models = {mixer: tagger(RECALL, mixer, 4 * SIZE, 1).train() for mixer in MIXERS}
    for repeat in range(-1, repeats):
        for length in LENGTHS:
            batch = RECALL.draw(length - 2, TIMED_ROWS, torch.Generator().manual_seed(length))
            for mixer, model in models.items():
                seconds = []
                for _ in range(3):
                    begin = time.perf_counter()
                    model(input_ids=batch.input_ids, labels=batch.labels).loss.backward()
                    seconds.append(time.perf_counter() - begin)
                if repeat >= 0:  # the first one warms up
                    value = 1000 * median(seconds)
                    yield Figure("step time", mixer, repeat, length, value, model.num_parameters())


def cache_sizes() -> Iterator[Figure]:
    """KiB that the cache of one sequence takes, for each mixer and number of tokens."""
    for mixer in MIXERS:
        model = tagger(RECALL, mixer, SIZE, 1).eval()
        for length in LENGTHS:
            yield Figure("cache", mixer, 0, length, cached_bytes(model, length) / 1024, model.num_parameters())
