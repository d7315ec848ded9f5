"""peft's prompt learning, and adapters chosen row by row."""

import peft
import pytest
import torch
from conftest import VOCAB, assert_close, draw, named, padded, real_rows, tiny_model

from seqblend import BlendDecoderForCausalLM, BlendEncoderDecoderForSeq2SeqLM, BlendEncoderForTokenClassification

TASKS = {BlendDecoderForCausalLM: "CAUSAL_LM", BlendEncoderDecoderForSeq2SeqLM: "SEQ_2_SEQ_LM"}
# What peft reads at the top of a config; key-value heads have the width of a head, 8.
SIZES = {"num_virtual_tokens": 3, "num_layers": 2, "num_attention_heads": 2, "token_dim": 16}
SEVERAL = [
    {"num_beams": 3},
    {"do_sample": True, "num_return_sequences": 2},
    {"num_beams": 4, "num_return_sequences": 2},
]


@pytest.mark.parametrize("model_class", TASKS, ids=named)
@pytest.mark.parametrize("asked", SEVERAL, ids=named)
def test_a_prefix_goes_before_all_beams_and_samples(model_class, asked):
    """As where states are asked for, which are computed for all of them."""
    model = tiny_model(model_class, eos_token_id=None).float()
    model = peft.get_peft_model(model, peft.PrefixTuningConfig(task_type=TASKS[model_class], **SIZES)).eval()
    torch.nn.init.normal_(model.prompt_encoder["default"].embedding.weight)
    prompt = padded([{"input_ids": torch.randint(3, VOCAB, (length,))} for length in (5, 3)], "left")
    outputs = []
    for states in (False, True):
        torch.manual_seed(1)
        asked = {**asked, "max_new_tokens": 5, "return_dict_in_generate": True, "output_hidden_states": states}
        outputs.append(model.generate(**prompt, **asked).sequences)
    assert torch.equal(*outputs)


def test_each_row_has_its_own_adapter():
    """peft chooses by the rows of what a layer reads, which a flat batch does not have."""
    base, rows = (
        tiny_model(BlendEncoderForTokenClassification),
        draw(BlendEncoderForTokenClassification, [5, 3], False),
    )
    config = peft.LoraConfig(target_modules=["q_proj", "up_proj"], r=4, init_lora_weights=False)
    model = peft.get_peft_model(base, config, "first")
    model.add_adapter("second", config)
    model.eval()
    names, batch = ["second", "first"], padded(rows)
    mixed = model(**batch, adapter_names=names).logits
    for index, name in enumerate(names):
        model.set_adapter(name)
        alone = padded(rows[index : index + 1])
        length = len(rows[index]["input_ids"])
        assert_close(mixed[index, :length], real_rows(alone, model(**alone).logits), 1e-8, what=name)
