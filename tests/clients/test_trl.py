"""TRL's trainers and our decoders: padded, packed and padding-free batches, and the same losses as stock models."""

from pathlib import Path

import datasets
import pytest
import torch
from client_trainers import arguments_of, losses
from conftest import assert_close, tiny_config
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, LlamaConfig
from trl import (
    DPOConfig,
    DPOTrainer,
    GRPOConfig,
    GRPOTrainer,
    RewardConfig,
    RewardTrainer,
    SFTConfig,
    SFTTrainer,
)

from seqblend import BlendDecoderConfig, BlendDecoderForCausalLM, from_original
from seqblend.tokenization.training import train_tokenizer

TEXTS = ["to be or not to be", "that is the question", "all the world is a stage", "if music be the food", "play on"]
PAD = 0
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


# Trainers of preferences and rewards, beside the stock model


PREFERENCES = datasets.Dataset.from_dict(
    {
        "prompt": TEXTS,
        "chosen": [f" {text}" for text in TEXTS],
        "rejected": [text[::2] for text in TEXTS],
    }
)


def lengths(completions, **kwargs) -> list[float]:
    """A reward that differs between completions."""
    return [float(len(set(text))) for text in completions]


# The padding token is not drawn: stock models do not train its embedding.
DRAWN = {"num_generations": 5, "max_completion_length": 6, "generation_kwargs": {"suppress_tokens": [PAD]}}
OTHER_TRAINERS = {
    "dpo": (DPOTrainer, DPOConfig, {}, {}),
    "padding-free dpo": (DPOTrainer, DPOConfig, {"padding_free": True}, {}),
    "reward": (RewardTrainer, RewardConfig, {}, {}),
    "grpo": (GRPOTrainer, GRPOConfig, DRAWN, {"reward_funcs": lengths}),
}


@pytest.fixture(scope="module")
def tokenizer():
    """Texts do not end with the padding token, whose embedding stock models do not train."""
    tokenizer = train_tokenizer(TEXTS, "char", 99)
    tokenizer.eos_token = tokenizer.sep_token
    assert tokenizer.pad_token_id == PAD
    return tokenizer


@pytest.mark.parametrize("name", OTHER_TRAINERS)
def test_a_converted_model_is_trained_like_the_stock_one(name, tokenizer, tmp_path):
    """The same losses and norms of gradients in four steps."""
    trainer_class, config_class, options, others = OTHER_TRAINERS[name]
    auto_class = AutoModelForSequenceClassification if name == "reward" else AutoModelForCausalLM
    config = LlamaConfig(
        **{"vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2},
        **{"num_attention_heads": 4, "pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id},
        num_labels=1,
    )
    torch.manual_seed(0)
    auto_class.from_config(config).save_pretrained(tmp_path / "stock")
    tokenizer.save_pretrained(tmp_path / "stock")
    from_original(tmp_path / "stock", auto_class).save_pretrained(tmp_path / "ours")
    history = []
    for source in ("stock", "ours"):
        fixed = {"per_device_train_batch_size": 5, "bf16": False, "max_steps": 4}
        trainer = trainer_class(
            auto_class.from_pretrained(tmp_path / source),
            args=arguments_of(config_class, tmp_path / "run", **fixed, **options),
            train_dataset=PREFERENCES,
            processing_class=tokenizer,
            **others,
        )
        trainer.train()
        steps = [entry for entry in trainer.state.log_history if "loss" in entry]
        history.append(torch.tensor([[entry["loss"], entry["grad_norm"]] for entry in steps]))
    assert len(history[0]) == 4 and history[0][:, 1].min() > 0
    assert_close(history[1], history[0], 1e-3)
