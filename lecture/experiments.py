"""The experiments: what is trained and measured. The claims that they test are in claims.py."""

import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median

import torch
from transformers import PreTrainedModel, set_seed

from ..configuration.decoder import BlendDecoderConfig
from ..modeling.decoder import BlendDecoderModel
from .models import MIXERS, cached_bytes, stack_config, tagger, translator
from .tasks import ASSOCIATIVE, PARITY, RECALL, REVERSAL, SIDES, SLOTS, Task, recall
from .training import TEST_SEED, accuracy, fit

# Number of features; and of sequences that are tested.
SIZE, TEST_ROWS = 64, 512


@dataclass(frozen=True)
class Figure:
    """One figure.

    Args:
        experiment: its name.
        setting: what is compared: a mixer, a number of heads …
        seed: of weights and data; or the number of a repetition.
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
        build: makes the model of a task and a setting.
        layers: number of its layers, in each part.
        steps: number of training steps.
        rows: sequences of a batch.
        learning_rate: the highest.
        probes_gradient: whether the gradient over the distance is measured, too, before and after training.
    """

    task: Task
    settings: tuple[str, ...]
    build: Callable[[Task, str, int], PreTrainedModel]
    layers: int
    steps: int
    rows: int = 64
    learning_rate: float = 2e-3
    probes_gradient: bool = False


def build_tagger(task: Task, mixer: str, layers: int) -> PreTrainedModel:
    """A decoder with a mixer."""
    return tagger(task, mixer, SIZE, layers)


def build_with_heads(task: Task, heads: str, layers: int) -> PreTrainedModel:
    """A decoder with attention of so many heads: `4 heads`."""
    return tagger(task, "attention", SIZE, layers, heads=int(heads.split()[0]))


WITH, WITHOUT = "with cross-attention", "the last state alone"


def build_translator(task: Task, setting: str, layers: int) -> PreTrainedModel:
    """An encoder-decoder of LSTMs, with or without cross-attention."""
    return translator(task, "lstm", SIZE, layers, cross_attention=setting == WITH)


HEADS = ("1 head", "2 heads", "4 heads", "8 heads")
LEARNING = {
    "recall": Learning(RECALL, MIXERS, build_tagger, 1, steps=1500, learning_rate=1e-3, probes_gradient=True),
    "associative recall": Learning(ASSOCIATIVE, MIXERS, build_tagger, 2, steps=2000),
    "parity": Learning(PARITY, MIXERS, build_tagger, 2, steps=1500),
    "heads": Learning(SIDES, HEADS, build_with_heads, 1, steps=1000),
    "cross-attention": Learning(REVERSAL, (WITH, WITHOUT), build_translator, 1, steps=2500),
}
BEFORE, AFTER = "gradient before training", "gradient after training"


def learn(name: str, setting: str, seed: int) -> list[Figure]:
    """Train a model of a setting on a task, and measure it."""
    experiment = LEARNING[name]
    set_seed(seed)
    model = experiment.build(experiment.task, setting, experiment.layers)
    figures = gradients(model, BEFORE, setting, seed) if experiment.probes_gradient else []
    fit(
        model,
        experiment.task,
        seed=seed,
        steps=experiment.steps,
        rows=experiment.rows,
        learning_rate=experiment.learning_rate,
    )
    for difficulty in experiment.task.test:
        value = accuracy(model, experiment.task, difficulty, seed=seed, rows=TEST_ROWS)
        figures.append(Figure(name, setting, seed, difficulty, value, model.num_parameters()))
    return figures + (gradients(model, AFTER, setting, seed) if experiment.probes_gradient else [])


# --- Gradient over distance ---


def gradients(model: PreTrainedModel, experiment: str, setting: str, seed: int) -> list[Figure]:
    """The norm of the gradient of the state at a question with respect to the symbol that it asks for, by distance.

    The sequences are equally long; it is the norm for a random direction of the state, the mean over sequences,
    divided by that at the smallest distance. In float64, where it does not become 0. Source: Bengio et al. 1994;
    Pascanu et al. 2013.
    """
    stack = copy.deepcopy(model.base_model).double()
    generator = torch.Generator().manual_seed(TEST_SEED + seed)
    norms = {}
    for distance in RECALL.test:
        batch = recall(distance, 64, generator, before=max(RECALL.test) - distance)
        embeds = stack.embed_tokens(batch.input_ids).detach().requires_grad_()
        last = stack(inputs_embeds=embeds, use_cache=False).last_hidden_state[:, -1]
        direction = torch.randn(last.shape, generator=generator, dtype=last.dtype)
        (gradient,) = torch.autograd.grad(((last * direction).sum(-1) / direction.norm(dim=-1)).sum(), embeds)
        norms[distance] = gradient[:, -1 - distance].norm(dim=-1).mean().item()
    first, size = norms[min(norms)], model.num_parameters()
    return [Figure(experiment, setting, seed, at, norm / first, size) for at, norm in norms.items()]


# --- Time of a step, and memory of a cache ---

LENGTHS = (16, 32, 64, 128, 256, 512, 1024, 2048)
WIDTH = 256


def step_times(repetitions: int) -> Iterator[Figure]:
    """Milliseconds of a training step of one sequence, forward and backward, for each mixer and length.

    One block of each mixer, all of one width. In each repetition all mixers and lengths take turns.
    """
    models = {
        mixer: BlendDecoderModel(
            stack_config(BlendDecoderConfig, WIDTH, 1, vocab_size=RECALL.vocab_size, mixer_type=mixer)
        ).train()
        for mixer in MIXERS
    }
    for repetition in range(-1, repetitions):
        for length in LENGTHS:
            ids = recall(length - SLOTS, 1, torch.Generator().manual_seed(length)).input_ids
            assert ids.shape[1] == length
            for mixer, model in models.items():
                seconds = []
                for _ in range(3):
                    begin = time.perf_counter()
                    model(ids).last_hidden_state.sum().backward()
                    seconds.append(time.perf_counter() - begin)
                if repetition >= 0:  # the first one warms up
                    value = 1000 * median(seconds)
                    yield Figure("step time", mixer, repetition, length, value, model.num_parameters())


def cache_sizes() -> Iterator[Figure]:
    """KiB that the cache of one sequence takes, for each mixer and number of tokens."""
    for mixer in MIXERS:
        model = tagger(RECALL, mixer, SIZE, 1).eval()
        for length in LENGTHS:
            yield Figure("cache", mixer, 0, length, cached_bytes(model, length) / 1024, model.num_parameters())
