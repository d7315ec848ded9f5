"""Weights and vectors in the form in which a page carries them, within a number of bytes."""

import base64
import gzip
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from .recording import Layer


def pack(*arrays: np.ndarray) -> str:
    """Arrays, one after the other, compressed and in base64."""
    content = b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)
    return base64.b64encode(gzip.compress(content, mtime=0)).decode("ascii")


def pack_weights(layer: Layer) -> str:
    """The weights (1 + H, t, s) and the strongest key of each query (1 + H, t), first of the mean over heads.

    A weight is one byte, 255 times its square root, so that small weights are exact, too; a key is its index in 16
    bits, little-endian.
    """
    weights = torch.cat([layer.weights.mean(0, keepdim=True), layer.weights])
    return pack(np.rint(255 * weights.sqrt().numpy()).astype(np.uint8), weights.argmax(-1).numpy().astype("<u2"))


def pack_vectors(layer: Layer) -> str:
    """Queries (H, t, D), keys and values (K, s, D) in float16, then log_sums (H, t) and biases in float32.

    All numbers are little-endian.
    """
    vectors = [each.numpy().astype("<f2") for each in (layer.queries, layer.keys, layer.values)]
    others = [layer.log_sums] if layer.biases is None else [layer.log_sums, layer.biases]
    return pack(*vectors, *(each.numpy().astype("<f4") for each in others))


def pack_layers(kinds: Sequence[Sequence[Layer]], max_bytes: int) -> tuple[list[list[dict[str, Any]]], list[str]]:
    """The layers of each kind of attention that fit into a number of bytes.

    All weights are carried if they fit; else those of evenly spaced layers, of which there is at least one. Then
    vectors are added, from the last layer to the first.

    Args:
        kinds: the layers of each kind.
        max_bytes: number of bytes.

    Returns:
        For each kind the carried layers: `layer` (counted from 1), `weights`, and `vectors` or None; and sentences on
        what was left out.
    """
    packed = [[pack_weights(layer) for layer in layers] for layers in kinds]
    sizes = [np.array([len(weights) for weights in each]) for each in packed]
    most = max(map(len, kinds), default=0)
    count = most
    chosen = [spaced(len(layers), count) for layers in kinds]
    while count > 1 and sum(size[places].sum() for size, places in zip(sizes, chosen, strict=True)) > max_bytes:
        count -= 1
        chosen = [spaced(len(layers), count) for layers in kinds]
    carried = [
        [{"layer": int(place) + 1, "weights": weights[place], "vectors": None} for place in places]
        for weights, places in zip(packed, chosen, strict=True)
    ]
    remaining = max_bytes - sum(len(each["weights"]) for layers in carried for each in layers)
    # The last layers of all kinds come first.
    order = [
        (layers[place], entries[-1 - back])
        for back in range(count)
        for layers, places, entries in zip(kinds, chosen, carried, strict=True)
        if back < len(places)
        for place in [places[-1 - back]]
    ]
    missing = 0
    for layer, entry in order:
        vectors = pack_vectors(layer)
        if missing or len(vectors) > remaining:
            missing += 1
            continue
        entry["vectors"] = vectors
        remaining -= len(vectors)
    notes = []
    if count < most:
        notes.append(f"To keep the page small it has the weights of {count} of {most} layers.")
    if missing:
        notes.append(f"To keep the page small it has the arithmetic of {len(order) - missing} of {len(order)} layers.")
    return carried, notes


def spaced(total: int, count: int) -> list[int]:
    """So many indices of a list, evenly spaced, with the first and the last; of one only the last."""
    if count >= total:
        return list(range(total))
    if count == 1:
        return [total - 1]
    return sorted({int(place) for place in np.linspace(0, total - 1, count).round()})
