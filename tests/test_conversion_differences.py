"""Differences from stock models that docs/conversion.md names, with one stock model of each kind of positions."""

import pytest
import torch
from conftest import assert_close
from stock import auto, padded, rows, stock_model

from seqblend import from_original

CASES = [
    ("bert", "AutoModelForMaskedLM"),
    ("modernbert", "AutoModelForMaskedLM"),
    ("gpt2", "AutoModelForCausalLM"),
    ("llama", "AutoModelForCausalLM"),
]
every_case = pytest.mark.parametrize("model_type, head", CASES, ids=lambda value: value.removeprefix("AutoModel"))


def pair(model_type, head, directory):
    """A stock model and the same model converted, in float32."""
    theirs = stock_model(model_type, head, torch.float32)
    theirs.save_pretrained(directory)
    return theirs, from_original(directory, auto(head))


@every_case
@pytest.mark.parametrize("padding", ["left", "between"])
@torch.no_grad()
def test_positions_are_counted_over_the_mask(model_type, head, padding, tmp_path):
    theirs, ours = pair(model_type, head, tmp_path)
    batch = padded(rows(model_type, head), "left" if padding == "left" else "right")
    if padding == "between":
        batch["attention_mask"][0, 2:4] = 0
    is_real = batch["attention_mask"].bool()
    positions = (batch["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    actual = ours(**batch).logits[is_real]
    assert_close(actual, theirs(**batch, position_ids=positions).logits[is_real], 1e-5)
    if padding == "between" or model_type in ("bert", "gpt2"):
        # Stock counts columns; in RoPE only the distances count.
        assert not torch.allclose(actual, theirs(**batch).logits[is_real], atol=0.1)


@every_case
@pytest.mark.parametrize("second", [0, 3, 9], ids=["restart", "repeat", "gap"])
@torch.no_grad()
def test_positions_without_a_mask_separate_sequences(model_type, head, second, tmp_path):
    theirs, ours = pair(model_type, head, tmp_path)
    tokens = torch.randint(8, 99, (1, 8))
    positions = torch.cat((torch.arange(4), torch.arange(second, second + 4)))[None]
    halves = zip(tokens.chunk(2, 1), positions.chunk(2, 1), strict=True)
    apart = torch.cat([ours(part, position_ids=places).logits for part, places in halves], 1)
    assert_close(ours(tokens, position_ids=positions).logits, apart, 1e-5)
    batch = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "position_ids": positions}
    assert_close(ours(**batch).logits, theirs(**batch).logits, 1e-5)
    if head == "AutoModelForMaskedLM":
        assert_close(theirs(tokens, position_ids=positions).logits, theirs(**batch).logits, 1e-5)


@pytest.mark.parametrize(
    "model_type, head", [*CASES, ("bert", "AutoModelForTokenClassification"), ("bart", "AutoModelForSeq2SeqLM")]
)
@torch.no_grad()
def test_labels_of_padding_are_no_targets(model_type, head, tmp_path):
    theirs, ours = pair(model_type, head, tmp_path)
    batch = padded(rows(model_type, head))
    prefix = "decoder_" if head == "AutoModelForSeq2SeqLM" else ""
    labels, is_real = batch[f"{prefix}input_ids"] % 3, batch[f"{prefix}attention_mask"].bool()
    masked = labels.masked_fill(~is_real, -100)
    assert_close(ours(**batch, labels=labels).loss, theirs(**batch, labels=masked).loss, 1e-5)
    assert not torch.allclose(ours(**batch, labels=labels).loss, theirs(**batch, labels=labels).loss, atol=1e-3)
