"""LoRA by peft on every head: trained, saved, restored, merged, resumed; with our Trainer."""

import peft
import pytest
import safetensors.torch
import torch
from conftest import (
    HEADS,
    VOCAB,
    assert_close,
    draw,
    every_head,
    named,
    padded,
    real_rows,
    run_without_package,
    tiny_model,
)
from transformers import Seq2SeqTrainingArguments

from seqblend import FAMILIES, BlendDecoderForCausalLM, BlendEncoderDecoderForSeq2SeqLM, BlendEncoderForMaskedLM
from seqblend.data.errors import InputError
from seqblend.hub_card.contents import PublishError
from seqblend.hub_card.publish import main as publish
from seqblend.tokenization.training import train_tokenizer
from seqblend.training.trainer import BlendTrainer

# What is trained whole beside the adapters, and peft's name of the task, by the end of the class's name.
KINDS = {
    "SequenceClassification": ("score", "SEQ_CLS"),
    "TokenClassification": ("classifier", "TOKEN_CLS"),
    "Seq2SeqLM": ("lm_head", "SEQ_2_SEQ_LM"),
    "CausalLM": ("lm_head", "CAUSAL_LM"),
    "MaskedLM": ("lm_head", None),
}
WRITERS = [BlendEncoderForMaskedLM, BlendDecoderForCausalLM, BlendEncoderDecoderForSeq2SeqLM]
TWO_VOCABULARIES = {"share_encoder_decoder_embeddings": False}
LENGTHS = [3, 9, 5, 1, 7, 2]


def kind_of(model_class):
    return next(kind for ending, kind in KINDS.items() if model_class.__name__.endswith(ending))


def auto_class_of(model_class):
    models = FAMILIES[model_class.config_class]
    return next(auto_class for auto_class, each in models.items() if each is model_class)


def adapted(base, **options):
    """The model in `base` with LoRA on every linear layer, and its head trained whole."""
    name, task = kind_of(type(base))
    config = {"task_type": task, "target_modules": "all-linear", "r": 4, "modules_to_save": [name], **options}
    return peft.get_peft_model(base, peft.LoraConfig(**config))


def saved_base(model_class, directory, **options):
    tiny_model(model_class, **options).save_pretrained(directory)
    return auto_class_of(model_class).from_pretrained(directory)


def train(model, rows, directory, resume=None, **options):
    """Our Trainer, after some steps."""
    settings = {"max_steps": 4, "per_device_train_batch_size": 3, "learning_rate": 1e-2, "save_strategy": "no"}
    settings |= {"use_cpu": True, "disable_tqdm": True, "report_to": "none", **options}
    trainer = BlendTrainer(
        scorers={},
        model=model,
        args=Seq2SeqTrainingArguments(str(directory), **settings),
        train_dataset=rows,
        eval_dataset=rows,
        data_collator=padded,
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer


@torch.no_grad()
def logits_of(model, batch):
    """Of rows, or of real tokens: what stands at padding depends on whether there is a cache."""
    logits = model.eval()(**batch).logits
    return logits if logits.dim() == 2 else real_rows(batch, logits)


def batch_for(model_class):
    return padded(draw(model_class, [7, 4, 1], labels=False))


def changed(model, before):
    """The names of the parameters that are not what they were."""
    return {name for name, parameter in model.named_parameters() if not parameter.equal(before[name])}


@every_head
def test_adapters_and_head_learn_and_nothing_else(model_class, tmp_path):
    model = adapted(saved_base(model_class, tmp_path / "base"))
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    train(model, draw(model_class, LENGTHS), tmp_path)
    learnt = changed(model, before)
    assert learnt == {name for name in before if "lora_" in name or ".modules_to_save." in name}
    linear = {name.removesuffix(".base_layer.weight") for name in before if name.endswith(".base_layer.weight")}
    assert all({f"{name}.lora_A.default.weight", f"{name}.lora_B.default.weight"} <= learnt for name in linear)
    assert any(kind_of(model_class)[0] in name for name in learnt)


@pytest.mark.parametrize(
    ("model_class", "options"),
    [
        *((head, {}) for head in HEADS),
        *((head, {"tie_word_embeddings": False}) for head in WRITERS),
        (BlendEncoderDecoderForSeq2SeqLM, TWO_VOCABULARIES),
    ],
    ids=named,
)
def test_what_is_saved_comes_back_apart_and_merged(model_class, options, tmp_path):
    base = saved_base(model_class, tmp_path / "base", **options)
    trainer = train(adapted(base), draw(model_class, LENGTHS), tmp_path)
    trainer.save_model(str(tmp_path / "adapter"))
    batch, auto_class = batch_for(model_class), auto_class_of(model_class)
    expected = logits_of(trainer.model, batch)
    untrained = logits_of(auto_class.from_pretrained(tmp_path / "base"), batch)
    assert (expected - untrained).abs().max() > 1e-3 * untrained.std()

    again = peft.PeftModel.from_pretrained(auto_class.from_pretrained(tmp_path / "base"), tmp_path / "adapter")
    assert_close(logits_of(again, batch), expected, 1e-12, what="apart")
    merged = again.merge_and_unload()
    assert type(merged) is model_class
    assert_close(logits_of(merged, batch), expected, 1e-10, what="merged")
    merged.save_pretrained(tmp_path / "merged")
    assert_close(logits_of(auto_class.from_pretrained(tmp_path / "merged"), batch), expected, 1e-10, what="saved")


def opened_after_merging(model_class, directory, **options):
    """A writer whose head was not trained, merged, saved and opened, which says what it said before."""
    base, batch = saved_base(model_class, directory / "base", **options), batch_for(model_class)
    trainer = train(adapted(base, modules_to_save=None), draw(model_class, LENGTHS), directory)
    expected = logits_of(trainer.model, batch)
    trainer.model.merge_and_unload().save_pretrained(directory / "merged")
    again = auto_class_of(model_class).from_pretrained(directory / "merged")
    assert_close(logits_of(again, batch), expected, 1e-10)
    return again


@pytest.mark.parametrize("model_class", WRITERS, ids=named)
def test_a_head_that_is_not_trained_stays_tied(model_class, tmp_path):
    again = opened_after_merging(model_class, tmp_path)
    assert again.lm_head.weight is again.get_input_embeddings().weight


def test_of_two_vocabularies_a_head_that_is_not_trained_comes_back(tmp_path):
    """It is tied to the target's embedding; peft compares it with the source's, and says that nothing is tied."""
    opened_after_merging(BlendEncoderDecoderForSeq2SeqLM, tmp_path, **TWO_VOCABULARIES)


@pytest.mark.parametrize("model_class", WRITERS, ids=named)
def test_adapters_on_tied_weights_are_merged_where_these_were_untied_before(model_class, tmp_path):
    """Merged while they are one tensor, one's adapter would change the other, too."""
    tied = saved_base(model_class, tmp_path / "tied")
    tied.config.tie_word_embeddings = False
    tied.save_pretrained(tmp_path / "untied")
    base, batch = auto_class_of(model_class).from_pretrained(tmp_path / "untied"), batch_for(model_class)
    assert_close(logits_of(base, batch), logits_of(tied, batch), 1e-12)
    model = adapted(base, target_modules=["q_proj", "embed_tokens", "lm_head"], modules_to_save=None)
    expected = logits_of(train(model, draw(model_class, LENGTHS), tmp_path).model, batch)
    merged = model.merge_and_unload()
    assert_close(logits_of(merged, batch), expected, 1e-10, what="merged")
    merged.save_pretrained(tmp_path / "merged")
    again = auto_class_of(model_class).from_pretrained(tmp_path / "merged")
    assert_close(logits_of(again, batch), expected, 1e-10, what="saved")


LOAD = """
import json
import peft, torch, transformers

torch.set_num_threads(1)
for auto_class, base, adapter in json.load(sys.stdin):
    model = getattr(transformers, auto_class).from_pretrained(base, trust_remote_code=True)
    model = peft.PeftModel.from_pretrained(model, adapter).eval()
    batch, expected, real = torch.load(adapter + "/expected.pt")
    with torch.no_grad():
        logits = model(**batch).logits
        merged = model.merge_and_unload()(**batch).logits
    for each in (logits, merged):
        each = each if real is None else each[real]
        assert (each - expected).abs().max() <= 1e-10 * expected.std(), auto_class
    print("equal", auto_class)
"""


def test_every_head_comes_back_in_a_process_that_knows_no_package(tmp_path):
    places = []
    for model_class in HEADS:
        place = tmp_path / model_class.__name__
        trainer = train(adapted(saved_base(model_class, place / "base")), draw(model_class, LENGTHS), place)
        trainer.save_model(str(place / "adapter"))
        batch = batch_for(model_class)
        real = batch.get("decoder_attention_mask", batch["attention_mask"]).bool()
        saved = (batch, logits_of(trainer.model, batch), None if "Sequence" in model_class.__name__ else real)
        torch.save(saved, place / "adapter" / "expected.pt")
        places.append((auto_class_of(model_class).__name__, str(place / "base"), str(place / "adapter")))
    done = run_without_package(LOAD, places, tmp_path)
    assert done.stdout.count("equal") == len(HEADS)


@every_head
def test_a_resumed_run_equals_an_uninterrupted_one(model_class, tmp_path):
    base, rows = saved_base(model_class, tmp_path / "base"), draw(model_class, LENGTHS)
    reload = auto_class_of(model_class).from_pretrained
    straight = train(adapted(base), rows, tmp_path / "run", save_strategy="steps", save_steps=2)
    expected = peft.get_peft_model_state_dict(straight.model)
    resumed = train(
        adapted(reload(tmp_path / "base")), rows, tmp_path / "again", resume=str(tmp_path / "run" / "checkpoint-2")
    )
    actual = peft.get_peft_model_state_dict(resumed.model)
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        assert tensor.equal(actual[name]), name


def test_the_best_adapter_comes_back(tmp_path):
    model_class = BlendDecoderForCausalLM
    options = {"save_strategy": "steps", "save_steps": 1, "eval_strategy": "steps", "eval_steps": 1, "max_steps": 3}
    trainer = train(
        adapted(saved_base(model_class, tmp_path / "base")),
        draw(model_class, LENGTHS),
        tmp_path / "run",
        **options,
        learning_rate=30.0,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
    )
    best = trainer.state.best_model_checkpoint
    saved = safetensors.torch.load_file(f"{best}/adapter_model.safetensors")
    assert best != str(tmp_path / "run" / "checkpoint-3"), "the last is the best: nothing had to come back"
    for name, tensor in peft.get_peft_model_state_dict(trainer.model).items():
        assert tensor.equal(saved[name]), name


def test_an_adapter_of_another_rank_is_refused_before_it_is_loaded(tmp_path):
    model_class = BlendDecoderForCausalLM
    base, rows = saved_base(model_class, tmp_path / "base"), draw(model_class, LENGTHS)
    run = {"save_strategy": "steps", "save_steps": 2, "max_steps": 2}
    train(adapted(base), rows, tmp_path / "run", **run)
    other = adapted(auto_class_of(model_class).from_pretrained(tmp_path / "base"), r=8)
    checkpoint = tmp_path / "run" / "checkpoint-2"
    for name in ("manifest.json", "run.json", "position.pt"):
        # A checkpoint of transformers' Trainer, whose run is not known.
        (checkpoint / name).unlink()
    with pytest.raises(InputError, match=r"checkpoint-2 does not match the model: size mismatch for .*lora_"):
        train(other, rows, tmp_path / "again", resume=str(checkpoint))


# --- Pushing ---


def test_an_adapter_is_not_pushed_and_the_error_says_what_to_push(tmp_path):
    base = saved_base(BlendEncoderForMaskedLM, tmp_path / "base")
    rows = draw(BlendEncoderForMaskedLM, LENGTHS)
    with pytest.raises(PublishError, match=r"adapter of peft.*merge_and_unload"):
        train(adapted(base), rows, tmp_path / "run", push_to_hub=True, hub_model_id="someone/model")
    assert not (tmp_path / "run").exists() or not list((tmp_path / "run").glob("checkpoint-*"))
    trainer = train(adapted(saved_base(BlendEncoderForMaskedLM, tmp_path / "base")), rows, tmp_path / "run")
    with pytest.raises(PublishError, match=r"adapter of peft.*merge_and_unload"):
        trainer.push_to_hub()


def test_what_was_merged_is_a_whole_repository(tmp_path):
    """It opens in every Auto class of its family in a process that knows no package: a dry run tries that."""
    model_class = BlendDecoderForCausalLM
    trainer = train(adapted(saved_base(model_class, tmp_path / "base")), draw(model_class, LENGTHS), tmp_path)
    trainer.model.merge_and_unload().save_pretrained(tmp_path / "merged")
    train_tokenizer(["abc"], "char", VOCAB).save_pretrained(tmp_path / "merged")
    assert publish([str(tmp_path / "merged"), "--repo_id", "someone/merged", "--dry_run"]) == 0


@pytest.mark.parametrize(
    "config_class", [peft.PromptTuningConfig, peft.PromptEncoderConfig, peft.PrefixTuningConfig], ids=named
)
@pytest.mark.parametrize("model_class", [BlendDecoderForCausalLM, BlendEncoderDecoderForSeq2SeqLM], ids=named)
def test_a_prompt_is_as_wide_as_the_model(model_class, config_class, tmp_path):
    """peft looks for the sizes in to_dict(), where an encoder-decoder had them in its parts alone."""
    base, task = tiny_model(model_class).float(), kind_of(model_class)[1]
    model = peft.get_peft_model(base, config_class(task_type=task, num_virtual_tokens=2))
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    train(model, draw(model_class, LENGTHS), tmp_path)
    learnt = changed(model, before)
    assert learnt and all(name.startswith("prompt_encoder.") for name in learnt)
