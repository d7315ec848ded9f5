"""The experiments without training: the time of a step, the size of a cache, and what is so before training."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from statistics import median

import torch
from torch import nn
from transformers import set_seed

from ..configuration.decoder import BlendDecoderConfig
from ..configuration.encoder import BlendEncoderConfig
from ..modeling.attention import eager_attention_forward
from ..modeling.decoder import BlendDecoderForTokenClassification, BlendDecoderModel
from ..modeling.encoder import BlendEncoderModel
from .experiments import SIZE, Figure
from .models import MIXERS, cached_bytes, classifier, stack_config
from .tasks import RECALL, SLOTS, recall

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
        model = classifier(BlendDecoderForTokenClassification, RECALL, mixer, SIZE, 1).eval()
        for length in LENGTHS:
            yield Figure("cache", mixer, 0, length, cached_bytes(model, length) / 1024, model.num_parameters())


# --- Scaled dot products ---

HEAD_DIMS = (4, 16, 64, 256, 1024)
SCALED, UNSCALED = "scaled", "not scaled"


def largest_weights(seeds: Iterable[int]) -> Iterator[Figure]:
    """The largest attention weight of a query among 64 keys, for each head_dim, with scaling and without.

    Queries and keys are drawn from the normal distribution, as Vaswani et al. 2017 assume (§3.2.1, footnote 4). The
    mean over 512 queries.
    """
    module = nn.Identity()
    module.num_key_value_groups = 1
    for seed in seeds:
        for size in HEAD_DIMS:
            generator = torch.Generator().manual_seed(seed)
            query, key = (torch.randn(8, 1, 64, size, generator=generator) for _ in range(2))
            for setting, scaling in ((SCALED, size**-0.5), (UNSCALED, 1.0)):
                _, weights = eager_attention_forward(module, query, key, key, None, scaling)
                yield Figure("scaling", setting, seed, size, weights.amax(-1).mean().item(), 0)


# --- The parts of a block ---

DEPTH = 12
WHOLE, NO_RESIDUAL, NO_NORM = "the whole block", "without residual", "without normalization"


def without_residual(
    hidden_states: torch.Tensor,
    norm: nn.Module,
    sublayer: Callable[[torch.Tensor], torch.Tensor],
    dropout: nn.Module,
) -> torch.Tensor:
    """In place of pre_norm: the sublayer alone."""
    return dropout(sublayer(norm(hidden_states)))


def encoder_without(part: str) -> BlendEncoderModel:
    """A deep encoder without a part of its blocks; matrices are as large as to keep the size of what they multiply."""
    model = BlendEncoderModel(
        stack_config(
            BlendEncoderConfig,
            SIZE,
            DEPTH,
            vocab_size=RECALL.vocab_size,
            feed_forward_type="plain",
            hidden_act="gelu",
            initializer_range=SIZE**-0.5,
        )
    )
    for layer in model.layers:
        if part == NO_RESIDUAL:
            layer.residual = without_residual
        elif part == NO_NORM:
            layer.self_attn_norm, layer.mlp_norm = nn.Identity(), nn.Identity()
    # In float64, where what becomes alike does not become equal by rounding.
    return model.eval().double()


@torch.inference_mode()
def block_parts(seeds: Iterable[int]) -> Iterator[Figure]:
    """What becomes of the tokens, layer by layer, at initialization.

    Two figures after each layer: the share of the states (by Frobenius norm) in which tokens differ, that is the
    distance to their mean (Dong et al. 2021); and the mean norm of a token's state.
    """
    for seed in seeds:
        for part in (WHOLE, NO_RESIDUAL, NO_NORM):
            set_seed(seed)
            model = encoder_without(part)
            # The last layer's states are given after the norm at the end, which is left out here.
            model.norm = nn.Identity()
            given = model(torch.randint(RECALL.vocab_size, (16, 32)), output_hidden_states=True)
            for index, states in enumerate(given.hidden_states[1:], start=1):
                share = ((states - states.mean(1, keepdim=True)).norm(dim=(1, 2)) / states.norm(dim=(1, 2))).mean()
                yield Figure("differences", part, seed, index, share.item(), model.num_parameters())
                yield Figure("sizes", part, seed, index, states.norm(dim=-1).mean().item(), model.num_parameters())


UNTRAINED: dict[str, Callable[[Sequence[int]], Iterator[Figure]]] = {
    "step time": lambda seeds: step_times(len(seeds)),
    "cache": lambda seeds: cache_sizes(),
    "scaling": largest_weights,
    "parts of a block": block_parts,
}
