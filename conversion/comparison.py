"""Comparison of a model of seqblend with a stock model on random tokens."""

from typing import Any

import torch
from torch import nn
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_utils import PreTrainedModel

from .table import ConversionError

# Lengths of the random sequences, and of the targets of an encoder-decoder.
LENGTHS, TARGETS = (7, 4, 5), (5, 6, 3)
# The largest difference of outputs, relative to their standard deviation. Both models compute in float32.
TOLERANCE = 1e-4
SPECIAL_TOKENS = ("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id")


def compare(ours: PreTrainedModel, stock: PreTrainedModel, *, with_head: bool = True) -> float:
    """Compare the outputs of two models for the same random tokens.

    Args:
        ours: a model of seqblend. Weights in half precision become float32.
        stock: the stock model with the same weights, also changed.
        with_head: compare the logits; if not, the states of the base models.

    Returns:
        The largest difference, relative to the standard deviation of the stock model's outputs.

    Raises:
        ConversionError: it is more than TOLERANCE.
    """
    models = [as_compared(model, with_head) for model in (ours, stock)]
    reads_target = stock.config.is_encoder_decoder and not (with_head and is_classifier(stock))
    rows = random_rows(stock.config, reads_target)
    pad = padding_token(stock.config)
    # A stock classifier finds the last token by the padding token, and without one reads only single texts.
    batches = [padded([row], 0) for row in rows] if pad is None else [padded(rows, pad)]
    expected, actual = (torch.cat([real_outputs(each, batch) for batch in batches]) for each in reversed(models))
    if actual.shape != expected.shape:
        raise ConversionError(f"outputs have the shape {tuple(actual.shape)}, not {tuple(expected.shape)}")
    error = ((actual - expected).abs().max() / expected.std()).item()
    if not error <= TOLERANCE:  # NaN is an error, too
        raise ConversionError(
            f"the outputs differ from those of {type(stock).__name__} by up to {error:.1e} of their standard "
            f"deviation, more than {TOLERANCE:.0e}"
        )
    return error


def as_compared(model: PreTrainedModel, with_head: bool) -> nn.Module:
    """The model or its base model, in evaluation mode and at least in float32."""
    model = model.eval().to(torch.promote_types(model.dtype, torch.float32))
    return model if with_head else model.base_model


def is_classifier(model: PreTrainedModel) -> bool:
    return type(model).__name__.endswith("Classification")


def padding_token(config: PreTrainedConfig) -> int | None:
    token: int | None = config.pad_token_id
    return token if token is None or 0 <= token < config.vocab_size else None


def random_rows(config: PreTrainedConfig, reads_target: bool) -> list[dict[str, torch.Tensor]]:
    """Rows of random tokens, without special tokens: some stock models look for them.

    Args:
        config: of a stock model.
        reads_target: each row also has decoder_input_ids.
    """
    generator = torch.Generator().manual_seed(0)
    special = {token for name in SPECIAL_TOKENS for token in as_list(getattr(config, name, None))}
    sizes = [config.vocab_size, getattr(config, "decoder_vocab_size", None) or config.vocab_size]
    ordinary = [torch.tensor([token for token in range(size) if token not in special]) for size in sizes]

    def draw(tokens: torch.Tensor, length: int) -> torch.Tensor:
        return tokens[torch.randint(len(tokens), (length,), generator=generator)]

    rows = []
    for length, target in zip(LENGTHS, TARGETS, strict=True):
        row = {"input_ids": draw(ordinary[0], length)}
        if config.is_encoder_decoder:
            row["input_ids"][-1] = as_list(config.eos_token_id)[0]  # BART's classifier looks for it
        if reads_target:
            row["decoder_input_ids"] = draw(ordinary[1], target)
        rows.append(row)
    return rows


def as_list(tokens: int | list[int] | None) -> list[int | None]:
    """The tokens of a configuration, which may have one or several."""
    return [*tokens] if isinstance(tokens, list) else [tokens]


def padded(rows: list[dict[str, torch.Tensor]], pad_token: int) -> dict[str, torch.Tensor]:
    """Rows as a batch, padded on the right, with masks."""
    batch = {}
    for name in rows[0]:
        column = [row[name] for row in rows]
        batch[name] = nn.utils.rnn.pad_sequence(column, batch_first=True, padding_value=pad_token)
        ones = [torch.ones_like(values) for values in column]
        batch[name.replace("input_ids", "attention_mask")] = nn.utils.rnn.pad_sequence(ones, batch_first=True)
    return batch


@torch.no_grad()
def real_outputs(model: nn.Module, batch: dict[str, Any]) -> torch.Tensor:
    """The logits or the last states of a batch: of real tokens (N, …), or of rows (B, …)."""
    result = model(**batch)
    output = result.logits if "logits" in result else result.last_hidden_state
    mask = batch.get("decoder_attention_mask", batch["attention_mask"])
    return (output if output.dim() == 2 else output[mask.bool()]).double()
