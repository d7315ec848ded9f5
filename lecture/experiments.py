"""The experiments with training; those without are in untrained.py. The claims that they test are in claims.py."""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel, set_seed

from ..modeling.decoder import BlendDecoderForTokenClassification
from ..modeling.encoder import BlendEncoderForSequenceClassification, BlendEncoderForTokenClassification
from .models import MIXERS, classifier, language_model, remove_blending, slot_network, translator
from .tasks import (
    ASSOCIATIVE,
    BOTH_SIDES,
    CONTINUATION,
    ELSEWHERE,
    EVIDENCE,
    MARKOV,
    NEIGHBOURS,
    PARITY,
    PLACES,
    RECALL,
    REVERSAL,
    SHORT_REVERSAL,
    SIDES,
    Task,
    recall,
)
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
        change: changes the trained model of a setting before it is tested; None: nothing does.
    """

    task: Task
    settings: tuple[str, ...]
    build: Callable[[Task, str, int], PreTrainedModel]
    layers: int
    steps: int
    rows: int = 64
    learning_rate: float = 2e-3
    probes_gradient: bool = False
    change: Callable[[PreTrainedModel, str], None] | None = None


def build_tagger(task: Task, mixer: str, layers: int) -> PreTrainedModel:
    """A decoder with a mixer, which classifies each position."""
    return classifier(BlendDecoderForTokenClassification, task, mixer, SIZE, layers)


def build_with_heads(task: Task, heads: str, layers: int) -> PreTrainedModel:
    """As build_tagger, with attention of so many heads: `4 heads`."""
    number = int(heads.split()[0])
    return classifier(BlendDecoderForTokenClassification, task, "attention", SIZE, layers, num_attention_heads=number)


WITH, WITHOUT = "with cross-attention", "the last state alone"


def build_translator(task: Task, setting: str, layers: int) -> PreTrainedModel:
    """An encoder-decoder of LSTMs, with or without cross-attention."""
    return translator(task, "lstm", SIZE, layers, cross_attention=setting == WITH)


ALL_THREE = "all three"
# The attention that is taken out: the name of its stack, and its own.
THREE = {
    "no self-attention": ("encoder", "self_attn"),
    "no masked self-attention": ("decoder", "self_attn"),
    "no cross-attention": ("decoder", "cross_attn"),
}


def build_transformer(task: Task, setting: str, layers: int) -> PreTrainedModel:
    """An encoder-decoder with attention, without one of its three attentions."""
    model = translator(task, "attention", SIZE, layers, cross_attention=True)
    if setting in THREE:
        stack, name = THREE[setting]
        remove_blending(getattr(model.base_model, stack), name)
    return model


SLOTWISE = "feed-forward"


def build_reader(task: Task, setting: str, layers: int) -> PreTrainedModel:
    """A classifier of sequences: an encoder with a mixer, or a feed-forward network of a fixed number of slots."""
    mixer = "attention" if setting == SLOTWISE else setting
    reader = classifier(BlendEncoderForSequenceClassification, task, mixer, SIZE, layers, pooling="mean")
    return slot_network(task, PLACES, SIZE, reader) if setting == SLOTWISE else reader


BLENDED, TAKEN_OUT, ALONE = "with blending", "blending taken out", "trained without"


def build_blender(task: Task, setting: str, layers: int) -> PreTrainedModel:
    """An encoder that classifies each position, with blending or without."""
    model = classifier(BlendEncoderForTokenClassification, task, "attention", SIZE, layers)
    if setting == ALONE:
        remove_blending(model.base_model)
    return model


def take_out_blending(model: PreTrainedModel, setting: str) -> None:
    """Remove it from a model that was trained with it."""
    if setting == TAKEN_OUT:
        remove_blending(model.base_model)


MASKED, UNMASKED = "with the mask", "without the mask"
PAST, BOTH = "decoder: the past", "encoder: both sides"


def build_masked_or_not(task: Task, setting: str, layers: int) -> PreTrainedModel:
    """The same stack as a decoder, whose self-attention is masked, or as an encoder."""
    is_masked = setting in (MASKED, PAST)
    model_class = BlendDecoderForTokenClassification if is_masked else BlendEncoderForTokenClassification
    return classifier(model_class, task, "attention", SIZE, layers)


def build_language_model(task: Task, mixer: str, layers: int) -> PreTrainedModel:
    """A decoder that predicts the next token."""
    return language_model(task, mixer, SIZE, layers)


NOTHING = "nothing blended in"


def build_first_token_classifier(task: Task, setting: str, layers: int) -> PreTrainedModel:
    """An encoder that classifies a sequence by its first token, [CLS]; into which nothing may be blended."""
    mixer = "attention" if setting == NOTHING else setting
    model = classifier(BlendEncoderForSequenceClassification, task, mixer, SIZE, layers, pooling="cls")
    if setting == NOTHING:
        remove_blending(model.base_model)
    return model


HEADS = ("1 head", "2 heads", "4 heads", "8 heads")
LEARNING = {
    "recall": Learning(RECALL, MIXERS, build_tagger, 1, steps=1500, learning_rate=1e-3, probes_gradient=True),
    "associative recall": Learning(ASSOCIATIVE, MIXERS, build_tagger, 2, steps=2000),
    "parity": Learning(PARITY, MIXERS, build_tagger, 2, steps=1500),
    "heads": Learning(SIDES, HEADS, build_with_heads, 1, steps=1000),
    "cross-attention": Learning(REVERSAL, (WITH, WITHOUT), build_translator, 1, steps=2500),
    "three attentions": Learning(SHORT_REVERSAL, (ALL_THREE, *THREE), build_transformer, 1, steps=1500, rows=32),
    "another place": Learning(ELSEWHERE, (SLOTWISE, *MIXERS), build_reader, 1, steps=1000),
    "neighbours": Learning(
        NEIGHBOURS, (BLENDED, TAKEN_OUT, ALONE), build_blender, 1, steps=500, change=take_out_blending
    ),
    "the future": Learning(MARKOV, (MASKED, UNMASKED), build_masked_or_not, 1, steps=400),
    "language model": Learning(CONTINUATION, ("attention", "lstm"), build_language_model, 2, steps=2500, rows=32),
    "first token": Learning(
        EVIDENCE, ("attention", "rnn", "lstm", NOTHING), build_first_token_classifier, 1, steps=250
    ),
    "each token": Learning(BOTH_SIDES, (BOTH, PAST), build_masked_or_not, 1, steps=1000),
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
    if experiment.change is not None:
        experiment.change(model, setting)
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
