"""Models that were converted train in two processes as in one, and are converted back."""

import pytest
import torch
import transformers
from conftest import LABELS, assert_close, named
from stock import stock_model
from test_training import STEPS, answer_of, losses_of, trainer_for
from two_processes import in_two_processes

from seqblend import BlendDecoderForCausalLM, BlendEncoderForTokenClassification, from_original, to_original

# The stock head of each, and ours, by whose kind of rows it is trained.
CONVERTED = {
    "bert": ("AutoModelForTokenClassification", BlendEncoderForTokenClassification),
    "llama": ("AutoModelForCausalLM", BlendDecoderForCausalLM),
}


def opened(name, folder):
    labels = {"num_labels": LABELS} if name == "bert" else {}
    auto_class = getattr(transformers, CONVERTED[name][0])
    return from_original(folder / name, auto_class, dtype=torch.float64, classifier_dropout=0.0, **labels)


def train_each(folder, **options):
    """The losses of each model's run; what was trained is converted back."""
    losses = {}
    for name, (_, head) in CONVERTED.items():
        trainer = trainer_for(head, opened(name, folder), folder / f"run-{name}", 2, **options)
        losses[name] = losses_of(trainer)
        trainer.save_model(str(folder / f"end-{name}"))
        answer = answer_of(trainer.model, head)
        if trainer.is_world_process_zero():
            torch.save(answer, folder / f"end-{name}" / "answer.pt")
    return losses


def ddp(folder):
    return train_each(folder)


def fsdp2(folder):
    return train_each(folder, fsdp=True, fsdp_config={"version": 2})


@pytest.fixture(scope="module", params=[ddp, fsdp2], ids=named)
def shared(request, tmp_path_factory):
    """The folder of a way to share the work, and the losses that either process had."""
    folder = tmp_path_factory.mktemp(request.param.__name__)
    for name, (head, _) in CONVERTED.items():
        stock_model(name, head, torch.float64).save_pretrained(folder / name)
    return folder, in_two_processes(request.param, folder)


@pytest.mark.parametrize("name", CONVERTED)
def test_two_processes_train_a_converted_model_as_one(name, shared, tmp_path):
    folder, losses = shared
    auto_class, head = CONVERTED[name]
    alone = losses_of(trainer_for(head, opened(name, folder), tmp_path / "alone"))
    assert len(alone) == STEPS + 1
    for each in losses:
        assert each[name] == pytest.approx(alone, rel=0, abs=1e-5)
    model = getattr(transformers, auto_class).from_pretrained(folder / f"end-{name}", dtype=torch.float64)
    to_original(model, tmp_path / "returned")
    again = from_original(tmp_path / "returned", getattr(transformers, auto_class))
    assert_close(answer_of(again, head), torch.load(folder / f"end-{name}" / "answer.pt"), 1e-9)
