"""The mathematics again: naive, with loops, in float64, from the papers. It shares no code with the package.

A sequence is a tensor (T, E), a head's queries, keys or values (T, D). Weights come as a dict of the names that a
model's state_dict has.
"""

import math
from collections.abc import Callable

import torch

Weights = dict[str, torch.Tensor]
# Of a recurrent network the hidden state, and of an LSTM its cell state, (R) each.
State = tuple[torch.Tensor, ...]
Visible = Callable[[int, int], bool]
# What is added to the score of a head, by the distance from the query to the key.
Bias = Callable[[int, int], float]


def rows(function: Callable[[torch.Tensor], torch.Tensor], sequence: torch.Tensor) -> torch.Tensor:
    return torch.stack([function(row) for row in sequence])


def dot(left: list[float], right: list[float]) -> float:
    return sum(a * b for a, b in zip(left, right, strict=True))


def linear(sequence: torch.Tensor, weights: Weights, name: str) -> torch.Tensor:
    columns = weights[f"{name}.weight"].tolist()
    output = torch.tensor([[dot(row, column) for column in columns] for row in sequence.tolist()], dtype=torch.float64)
    return output + weights[f"{name}.bias"] if f"{name}.bias" in weights else output


def layer_norm(row: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float) -> torch.Tensor:
    values = row.tolist()
    mean = sum(values) / len(values)
    variance = sum((x - mean) ** 2 for x in values) / len(values)
    return (row - mean) / math.sqrt(variance + eps) * weight + bias


def rms_norm(row: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    square = sum(x**2 for x in row.tolist()) / len(row)
    return row / math.sqrt(square + eps) * weight


def norm(sequence: torch.Tensor, weights: Weights, name: str, eps: float, norm_type: str) -> torch.Tensor:
    weight, bias = weights[f"{name}.weight"], weights.get(f"{name}.bias")
    if norm_type == "zero_centered_rmsnorm":
        weight = weight + 1
    if bias is None:
        return rows(lambda row: rms_norm(row, weight, eps), sequence)
    return rows(lambda row: layer_norm(row, weight, bias, eps), sequence)


def sinusoids(position: int, size: int) -> torch.Tensor:
    """The vector of a position: sines of all wavelengths, then cosines."""
    angles = [position / 10000 ** (2 * i / size) for i in range(size // 2)]
    return torch.tensor([math.sin(a) for a in angles] + [math.cos(a) for a in angles], dtype=torch.float64)


def fairseq_sinusoids(position: int, size: int) -> torch.Tensor:
    """As sinusoids, but the last wavelength is the longest, and the first position is 2."""
    angles = [(position + 2) / 10000 ** (i / (size // 2 - 1)) for i in range(size // 2)]
    return torch.tensor([math.sin(a) for a in angles] + [math.cos(a) for a in angles], dtype=torch.float64)


def bucket(distance: int, buckets: int, longest: int, both_sides: bool) -> int:
    """The bucket of the distance from a query to a key; keys after the query have the second half of the buckets."""
    if both_sides:
        own = bucket(-abs(distance), buckets // 2, longest, False)
        return own + buckets // 2 if distance > 0 else own
    distance, exact = max(0, -distance), buckets // 2
    if distance < exact:
        return distance
    # From `exact` to `longest` by as many steps as there are buckets left, each longer by the same factor.
    return min(buckets - 1, exact + math.floor(math.log(distance / exact, longest / exact) * (buckets - exact) + 1e-6))


def frequencies(size: int, theta: float = 10000.0) -> list[float]:
    return [theta ** (-2 * i / size) for i in range(size // 2)]


def rounded(numbers: list[float]) -> list[float]:
    """As a float32 buffer has them: that of RotaryEmbedding, which transformers fills."""
    return torch.tensor(numbers, dtype=torch.float32).double().tolist()


def rotate(vector: torch.Tensor, position: int, angles_per_position: list[float]) -> torch.Tensor:
    """Turn each pair of features (i, i + D / 2), as a complex number, by its angle for the position."""
    half = len(vector) // 2
    turned = [
        complex(vector[i], vector[i + half]) * complex(math.cos(position * a), math.sin(position * a))
        for i, a in enumerate(angles_per_position)
    ]
    return torch.tensor([z.real for z in turned] + [z.imag for z in turned], dtype=torch.float64)


ACTIVATIONS: dict[str, Callable[[float], float]] = {
    "relu": lambda x: max(0.0, x),
    "silu": lambda x: x / (1 + math.exp(-x)),
    "gelu": lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2,
    "gelu_new": lambda x: x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2,
}


def feed_forward(sequence: torch.Tensor, weights: Weights, name: str, act: str) -> torch.Tensor:
    """Plain, or gated where there are weights for a gate."""
    inner = linear(sequence, weights, f"{name}.up_proj")
    gated = f"{name}.gate_proj.weight" in weights
    activated = (linear(sequence, weights, f"{name}.gate_proj") if gated else inner).clone().apply_(ACTIVATIONS[act])
    return linear(activated * inner if gated else activated, weights, f"{name}.down_proj")


def softmax(scores: list[float]) -> list[float]:
    highest = max(scores)
    exponentials = [math.exp(score - highest) for score in scores]
    return [each / sum(exponentials) for each in exponentials]


def attention_weights(
    query: torch.Tensor, keys: torch.Tensor, seen: list[bool], scaling: float, biases: list[float] | None = None
) -> list[float]:
    visible = zip(keys.tolist(), seen, biases or [0.0] * len(seen), strict=True)
    return softmax([dot(query.tolist(), key) * scaling + bias if see else -math.inf for key, see, bias in visible])


def attention(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    visible: Visible,
    scaling: float,
    bias: Bias = lambda head, distance: 0.0,
) -> torch.Tensor:
    """Queries (T, H, D), keys and values (S, K, D) give (T, H, D); query head h reads key-value head h // (H / K)."""
    group = queries.shape[1] // keys.shape[1]
    output = torch.zeros_like(queries)
    for t, head in ((t, head) for t in range(len(queries)) for head in range(queries.shape[1])):
        seen = [visible(t, s) for s in range(len(keys))]
        biases = [bias(head, s - t) for s in range(len(keys))]
        weights = attention_weights(queries[t, head], keys[:, head // group], seen, scaling, biases)
        for s, weight in enumerate(weights):
            output[t, head] += weight * values[s, head // group]
    return output


def multi_head(
    target: torch.Tensor,
    source: torch.Tensor,
    weights: Weights,
    name: str,
    visible: Visible,
    *,
    head_dim: int,
    scaling: float,
    turn: list[float] | None = None,
    bias: Bias = lambda head, distance: 0.0,
) -> torch.Tensor:
    """Attention with its four projections, (T, E) and (S, E) to (T, E); `turn` has the angles of rotary positions."""
    queries, keys, values = (
        linear(states, weights, f"{name}.{part}_proj").unflatten(-1, (-1, head_dim))
        for part, states in (("q", target), ("k", source), ("v", source))
    )
    if turn is not None:
        queries, keys = (
            torch.stack([rows(lambda head, t=t: rotate(head, t, turn), heads) for t, heads in enumerate(states)])
            for states in (queries, keys)
        )
    return linear(attention(queries, keys, values, visible, scaling, bias).flatten(1), weights, f"{name}.o_proj")


def recurrent_step(kind: str, row: torch.Tensor, state: State, weights: Weights, direction: str) -> State:
    """The next state of a network, from a row (E) and the state before; `direction` ends the names of its weights."""
    hidden = state[0]
    inputs = weights[f"weight_ih{direction}"] @ row + weights[f"bias_ih{direction}"]
    states = weights[f"weight_hh{direction}"] @ hidden + weights[f"bias_hh{direction}"]
    if kind == "rnn":
        return (torch.tanh(inputs + states),)
    if kind == "gru":
        (reset, update, new), (reset_state, update_state, new_state) = inputs.chunk(3), states.chunk(3)
        update = torch.sigmoid(update + update_state)
        new = torch.tanh(new + torch.sigmoid(reset + reset_state) * new_state)
        return ((1 - update) * new + update * hidden,)
    entry, forget, cell, output = (inputs + states).chunk(4)
    memory = torch.sigmoid(forget) * state[1] + torch.sigmoid(entry) * torch.tanh(cell)
    return torch.sigmoid(output) * torch.tanh(memory), memory


def recurrence(sequence: torch.Tensor, weights: Weights, kind: str, source: torch.Tensor | None) -> torch.Tensor:
    """A recurrent mixer, (T, E) to (T, E): from the left, and from the right, too, if it has weights for that.

    The last and the first row of `source` (S, E) give its first state.
    """
    own = {name.removeprefix("self_attn."): tensor for name, tensor in weights.items()}
    size, outputs = own["weight_hh"].shape[1], []
    for direction in ("", "_reverse"):
        if f"weight_hh{direction}" not in own:
            continue
        state = (torch.zeros(size, dtype=sequence.dtype),) * (2 if kind == "lstm" else 1)
        if source is not None:
            ends = torch.cat((source[-1], source[0]))
            state = torch.tanh(own["source_proj.weight"] @ ends + own["source_proj.bias"]).split(size)
        read = []
        for row in sequence.flip(0) if direction else sequence:
            state = recurrent_step(kind, row, state, own, direction)
            read.append(state[0])
        outputs.append(torch.stack(read[::-1] if direction else read))
    return linear(torch.cat(outputs, dim=-1), weights, "self_attn.o_proj")


def window(causal: bool, reach: int | None) -> Visible:
    """What a query may see: itself and what is before it if causal; `reach` tokens with itself, or on either side."""
    if causal:
        return lambda t, s: s <= t and (reach is None or t - s < reach)
    return lambda t, s: reach is None or abs(t - s) <= reach


def reads_source_ends(config: object) -> bool:
    """Whether a decoder's first state comes from the source."""
    return not getattr(config, "cross_attention", True)


def block(
    hidden: torch.Tensor,
    weights: Weights,
    config: object,
    visible: Visible,
    turn: list[float] | None,
    source: torch.Tensor | None,
    bias: Bias,
) -> torch.Tensor:
    def residual(states: torch.Tensor, name: str, sublayer: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        if config.norm_position == "post":
            return normalize(states + sublayer(states), f"{name}_norm")
        output = sublayer(normalize(states, f"{name}_norm"))
        return states + (normalize(output, f"{name}_output_norm") if config.norm_position == "both" else output)

    def normalize(states: torch.Tensor, name: str) -> torch.Tensor:
        return norm(states, weights, name, config.norm_eps, config.norm_type)

    sizes = {"head_dim": config.head_dim, "scaling": config.attention_scaling}

    def mixer(states: torch.Tensor) -> torch.Tensor:
        if config.mixer_type == "attention":
            return multi_head(states, states, weights, "self_attn", visible, turn=turn, bias=bias, **sizes)
        return recurrence(states, weights, config.mixer_type, source if reads_source_ends(config) else None)

    hidden = residual(hidden, "self_attn", mixer)
    if source is not None and not reads_source_ends(config):
        everything = window(causal=False, reach=None)
        hidden = residual(
            hidden, "cross_attn", lambda x: multi_head(x, source, weights, "cross_attn", everything, **sizes)
        )
    return residual(hidden, "mlp", lambda x: feed_forward(x, weights, "mlp", config.hidden_act))


def relative_bias(config: object, table: torch.Tensor | None, both_sides: bool) -> Bias:
    """The biases of a layer from its table (buckets, H); 0 without a table."""
    if table is None:
        return lambda head, distance: 0.0
    longest = config.relative_attention_max_distance
    return lambda head, distance: table[bucket(distance, len(table), longest, both_sides), head].item()


def stack(
    tokens: torch.Tensor, weights: Weights, config: object, causal: bool, source: torch.Tensor | None = None
) -> torch.Tensor:
    """One sequence of tokens (T) through a whole stack, to (T, E); `source` (S, E) is what cross-attention reads."""
    hidden = weights["embed_tokens.weight"][tokens]
    if config.scale_embeddings:
        hidden = hidden * math.sqrt(config.hidden_size)
    if config.type_vocab_size:
        hidden = hidden + weights["embed_token_types.weight"][0]
    if config.position_type == "learned":
        hidden = hidden + weights["embed_positions.weight"][: len(tokens)]
    if config.position_type == "sinusoidal":
        hidden = hidden + torch.stack([sinusoids(t, config.hidden_size) for t in range(len(tokens))])
    if config.position_type == "fairseq_sinusoidal":
        hidden = hidden + torch.stack([fairseq_sinusoids(t, config.hidden_size) for t in range(len(tokens))])
    if config.embedding_norm:
        hidden = norm(hidden, weights, "embedding_norm", config.norm_eps, config.norm_type)
    turn = rounded(frequencies(config.head_dim)) if config.position_type == "rotary" else None
    for index, layer_type in enumerate(config.layer_types):
        prefix = f"layers.{index}."
        own = {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}
        visible = window(causal, config.sliding_window if layer_type == "sliding_attention" else None)
        table = own.get("self_attn.relative_attention_bias.weight", weights.get("relative_attention_bias.weight"))
        hidden = block(hidden, own, config, visible, turn, source, relative_bias(config, table, not causal))
    if config.norm_position == "post":
        return hidden
    return norm(hidden, weights, "norm", config.norm_eps, config.norm_type)


def cross_entropy(
    logits: torch.Tensor,
    labels: torch.Tensor,
    smoothing: float = 0.0,
    weights: list[float] | None = None,
    items: int | None = None,
) -> float:
    """Logits (N, C) and classes (N), -100 for none; the smoothed share of a class has that class's weight."""
    classes = logits.shape[-1]
    weights = weights or [1.0] * classes
    total, count = 0.0, 0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        if label == -100:
            continue
        log_sum = max(row) + math.log(sum(math.exp(x - max(row)) for x in row))
        for c in range(classes):
            share = smoothing / classes + (1 - smoothing if c == label else 0)
            total += share * weights[c] * (log_sum - row[c])
        count += 1
    return total / (items or max(1, count))


def binary_cross_entropy(
    logits: torch.Tensor,
    labels: torch.Tensor,
    smoothing: float = 0.0,
    weights: list[float] | None = None,
    items: int | None = None,
) -> float:
    """Logits and labels (B, C): yes or no for each label on its own, -100 for unknown."""
    weights = weights or [1.0] * logits.shape[-1]
    total, count = 0.0, 0
    for row, answers in zip(logits.tolist(), labels.tolist(), strict=True):
        for x, answer, weight in zip(row, answers, weights, strict=True):
            if answer == -100:
                continue
            target = answer * (1 - smoothing) + smoothing / 2
            yes = 1 / (1 + math.exp(-x))
            total -= weight * (target * math.log(yes) + (1 - target) * math.log(1 - yes))
            count += 1
    return total / (items or max(1, count))


def squared_error(logits: torch.Tensor, labels: torch.Tensor, items: int | None = None) -> float:
    errors = [(x - y) ** 2 for x, y in zip(logits.flatten().tolist(), labels.flatten().tolist(), strict=True)]
    return sum(errors) / (items or len(errors))
