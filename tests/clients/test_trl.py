"""TRL's SFTTrainer trains our decoder: on padded, packed and padding-free batches, with the same losses."""

from pathlib import Path

import datasets
import pytest
import torch
from client_trainers import arguments_of, losses
from conftest import assert_close, tiny_config
from transformers import AutoModelForCausalLM
from trl import SFTConfig, SFTTrainer

from seqblend import BlendDecoderConfig, BlendDecoderForCausalLM
from seqblend.tokenization.training import train_tokenizer

TEXTS = ["to be or not to be", "that is the question", "all the world is a stage", "if music be the food", "play on"]
FORMS = {
    "padded": {"max_length": 32},
    "padding-free": {"padding_free": True, "max_length": None},
    "packed": {"packing": True, "max_length": 64},
}


def trainer_of(tmp_path: Path, **options) -> SFTTrainer:
    """A trainer of the same tiny decoder on the same texts."""
    tokenizer = train_tokenizer(TEXTS, "char", 99)
    torch.manual_seed(0)
    model = BlendDecoderForCausalLM(
        tiny_config(BlendDecoderConfig, vocab_size=len(tokenizer), initializer_range=0.1, eos_token_id=3)
    )
    fixed = {"per_device_train_batch_size": len(TEXTS), "bf16": False, "gradient_checkpointing": False}
    arguments = arguments_of(SFTConfig, tmp_path, **fixed, **options)
    dataset = datasets.Dataset.from_dict({"text": TEXTS})
    return SFTTrainer(model=model, args=arguments, train_dataset=dataset, processing_class=tokenizer)


@pytest.mark.parametrize("form", FORMS)
def test_the_loss_falls_and_what_is_saved_opens(form, tmp_path):
    trainer = trainer_of(tmp_path, max_steps=30, **FORMS[form])
    trainer.train()
    assert losses(trainer)[-1] < 0.6 * losses(trainer)[0]
    trainer.save_model()
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = torch.tensor([trainer.processing_class(TEXTS[0])["input_ids"]])
    with torch.no_grad():
        assert_close(again.eval()(ids).logits, trainer.model.eval()(ids).logits, 1e-6)


def test_no_form_of_the_batch_changes_the_losses(tmp_path):
    """No sequence sees its neighbour in a row, and the loss counts the same tokens: five steps take the same way."""
    padded, free, packed = (losses_of_five_steps(tmp_path / form, **FORMS[form]) for form in FORMS)
    assert_close(free, padded, 1e-4)
    assert_close(packed, padded, 1e-4)


def losses_of_five_steps(path: Path, **options) -> torch.Tensor:
    trainer = trainer_of(path, max_steps=5, **options)
    trainer.train()
    return torch.tensor(losses(trainer))
