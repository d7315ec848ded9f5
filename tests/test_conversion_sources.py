"""What can be converted and what is refused: forms of checkpoints, configurations, heads; what is kept."""

import copy
import json
import pickle
import re
from dataclasses import fields
from pathlib import Path

import pytest
import torch
import transformers
from conftest import assert_close, tiny_config
from huggingface_hub import HfApi
from safetensors.torch import load_file, save_file
from stock import ALL, END, KEPT, LABELS, PAD, STOCK, auto, outputs, padded, rows, stock_model, write_files
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BertForPreTraining,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertModel,
    PreTrainedConfig,
    Trainer,
    TrainingArguments,
)
from transformers.models.auto import modeling_auto

from seqblend import BlendEncoderForMaskedLM, BlendEncoderModel, ConversionError, from_original, to_original
from seqblend.configuration.decoder import BlendDecoderConfig
from seqblend.configuration.encoder import BlendEncoderConfig
from seqblend.conversion import check
from seqblend.conversion.registry import ARCHITECTURES

WEIGHTS, CONFIG = "model.safetensors", "config.json"


@pytest.fixture
def bert(tmp_path):
    """The directory of a stock BERT that tells masked tokens."""
    stock_model("bert", "AutoModelForMaskedLM", torch.float32).save_pretrained(tmp_path / "bert")
    return tmp_path / "bert"


def change(directory: Path, **changes) -> None:
    """Change keys of config.json; None takes one away."""
    config = json.loads((directory / CONFIG).read_text()) | changes
    (directory / CONFIG).write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


def rename(directory: Path, new_name) -> None:
    """Give each tensor a new name; None takes it away."""
    tensors = {new_name(name): tensor for name, tensor in load_file(directory / WEIGHTS).items()}
    save_file({name: tensor for name, tensor in tensors.items() if name}, directory / WEIGHTS, {"format": "pt"})


def logits(model) -> torch.Tensor:
    torch.manual_seed(0)
    with torch.no_grad():
        return outputs(model, padded(rows("bert", "AutoModelForMaskedLM")))


# Forms of a checkpoint.


def old_names(name: str) -> str:
    return name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")


def test_old_names(bert):
    expected = logits(from_original(bert, AutoModelForMaskedLM))
    rename(bert, old_names)
    assert torch.equal(logits(from_original(bert, AutoModelForMaskedLM)), expected)


@pytest.mark.parametrize("prefix", ["", "bert."])
def test_a_base_model_with_and_without_prefix(prefix, tmp_path):
    """Read as a base model, and under a head that is new and named."""
    stock = stock_model("bert", "AutoModel", torch.float32)
    stock.save_pretrained(tmp_path)
    rename(tmp_path, lambda name: prefix + name)
    assert_close(logits(from_original(tmp_path)), logits(stock).detach(), 1e-5)
    model = from_original(tmp_path, AutoModelForSequenceClassification, num_labels=5)
    assert model.score.weight.shape == (5, 32) and model.config.id2label[4] == "LABEL_4"
    assert torch.equal(model.head.dense.weight, stock.pooler.dense.weight)


def test_shards_and_pickles_of_tensors(bert, tmp_path):
    expected = logits(from_original(bert, AutoModelForMaskedLM))
    stock = AutoModelForMaskedLM.from_pretrained(bert)
    stock.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert len(list((tmp_path / "shards").glob("model-*.safetensors"))) > 1
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / CONFIG).write_bytes((bert / CONFIG).read_bytes())
    torch.save(stock.state_dict(), tmp_path / "bin" / "pytorch_model.bin")
    for form in ("shards", "bin"):
        assert torch.equal(logits(from_original(tmp_path / form, AutoModelForMaskedLM)), expected), form


def test_a_configuration_without_a_model_type(bert):
    expected = logits(from_original(bert, AutoModelForMaskedLM))
    change(bert, model_type=None)
    with pytest.raises(ConversionError, match=r"has no model_type; give model_type=, supported, nearest.*bert"):
        from_original(bert, AutoModelForMaskedLM)
    assert torch.equal(logits(from_original(bert, AutoModelForMaskedLM, model_type="bert")), expected)
    change(bert, model_type="bert")
    with pytest.raises(ConversionError, match=r"config\.json has model_type='bert', not 'gpt2'"):
        from_original(bert, AutoModelForMaskedLM, model_type="gpt2")


def test_dtypes(tmp_path):
    """Half precision becomes float32 unless another is asked for."""
    stock_model("bert", "AutoModel", torch.bfloat16).save_pretrained(tmp_path)
    assert from_original(tmp_path).dtype == torch.float32
    assert from_original(tmp_path, dtype=torch.bfloat16).dtype == torch.bfloat16
    assert from_original(tmp_path, dtype=torch.float64).dtype == torch.float64


def test_overrides(bert):
    """Fields of ours; one that changes a shape does not fit the weights, one that is none is named."""
    model = from_original(bert, hidden_dropout=0.25, attention_dropout=0.5)
    assert model.dropout.p == 0.25 and model.layers[0].self_attn.attention_dropout.p == 0.5
    with pytest.raises(ValueError, match=r"hiden_dropout.*nearest first: hidden_dropout"):
        from_original(bert, hiden_dropout=0.1)
    with pytest.raises(ConversionError, match=r"mlp\.up_proj\.weight has the shape .*: an override changes it"):
        from_original(bert, intermediate_size=64)


@pytest.mark.parametrize(
    "auto_class, name",
    [(AutoModelForSequenceClassification, "score"), (AutoModelForTokenClassification, "classifier")],
)
def test_other_labels(auto_class, name, tmp_path):
    """Another number of labels needs a new projection; the rest of the head stays. label2id is that of id2label."""
    stock = stock_model("bert", auto_class.__name__, torch.float32)
    stock.save_pretrained(tmp_path / "their")
    few, many = ({index: f"label {index}" for index in range(number)} for number in (LABELS, 5))
    same = from_original(tmp_path / "their", auto_class, id2label=few)
    assert same.config.label2id == {label: index for index, label in few.items()}
    as_json = {str(index): label for index, label in few.items()}
    read = from_original(tmp_path / "their", auto_class, id2label=as_json).config
    assert (read.id2label, read.label2id) == (same.config.id2label, same.config.label2id)
    with pytest.raises(ConversionError, match=rf"has {LABELS} labels, not 5: ignore_mismatched_sizes=True gives"):
        from_original(tmp_path / "their", auto_class, id2label=many)
    model = from_original(tmp_path / "their", auto_class, id2label=many, ignore_mismatched_sizes=True)
    assert (model.config.num_labels, model.config.label2id["label 4"]) == (5, 4)
    new = {f"{name}.weight", f"{name}.bias"}
    before, after = same.state_dict(), model.state_dict()
    assert before.keys() == after.keys() and len(after[f"{name}.weight"]) == 5
    assert all(torch.equal(before[each], after[each]) for each in before.keys() - new)
    to_original(model, tmp_path / "back")
    assert_close(logits(auto_class.from_pretrained(tmp_path / "back").eval()), logits(model), 1e-5)
    with pytest.raises(ConversionError, match="their: id2label has the name 'a' twice; give each"):
        from_original(tmp_path / "their", auto_class, id2label={0: "a", 1: "b", 2: "a"})
    # Nothing is new if the number is the same.
    again = from_original(tmp_path / "their", auto_class, id2label=few, ignore_mismatched_sizes=True)
    assert torch.equal(again.state_dict()[f"{name}.weight"], before[f"{name}.weight"])


@pytest.mark.parametrize("wrap", [torch.compile, torch.nn.DataParallel])
def test_a_wrapped_model_goes_back(wrap, bert, tmp_path):
    to_original(wrap(from_original(bert, AutoModelForMaskedLM)), tmp_path / "back")
    assert (tmp_path / "back" / WEIGHTS).read_bytes() == (bert / WEIGHTS).read_bytes()


def test_a_model_is_named_by_its_checkpoint(bert, tmp_path):
    """peft writes this name into adapter_config.json, where to_original looks for the checkpoint."""
    model = from_original(bert, AutoModelForMaskedLM)
    assert model.name_or_path == model.config.name_or_path == str(bert)
    model.save_pretrained(tmp_path / "ours")
    assert str(bert) not in (tmp_path / "ours" / CONFIG).read_text()


def test_a_converted_model_can_be_pickled_and_copied(bert, tmp_path):
    """With what it keeps of its checkpoint."""
    model = from_original(bert, AutoModelForMaskedLM)
    for twin in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        assert torch.equal(logits(twin), logits(model))
        to_original(twin, tmp_path / "back")
        assert (tmp_path / "back" / WEIGHTS).read_bytes() == (bert / WEIGHTS).read_bytes()


# What is refused.

REFUSED = {
    "no name": ({"model_type": ["bert"]}, "model_type=\\['bert'\\], which is no name"),
    "unknown architecture": ({"model_type": "brt"}, "'brt' is not supported; supported, nearest first: bert, "),
    "one of ours": ({"model_type": "blend_encoder"}, "is already a model of seqblend"),
    "quantized": ({"quantization_config": {"quant_method": "gptq"}}, "is quantized"),
    "a decoder": ({"is_decoder": True}, "is_decoder=True is not supported, only False"),
    "relative positions": ({"position_embedding_type": "relative_key"}, "position_embedding_type='relative_key'"),
    "padding beyond the vocabulary": ({"pad_token_id": 999}, "cannot be loaded as BertForMaskedLM .*Padding_idx"),
    "labels as a list": ({"id2label": ["a", "b"]}, "id2label must be an object"),
    "no dtype": ({"dtype": "flout"}, "has no attribute 'flout'"),
    "other shapes": ({"intermediate_size": 64}, r"has the shape \(.*\), by config.json \("),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_configuration_is_refused(case, bert):
    changes, message = REFUSED[case]
    change(bert, **changes)
    with pytest.raises(ConversionError, match=message) as caught:
        from_original(bert, AutoModelForMaskedLM)
    assert "\n" not in str(caught.value)


OTHERS = {
    "gpt2": ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx=True is not supported"),
    "albert": ({"num_hidden_groups": 2}, "num_hidden_groups=2 is not supported, only 1"),
    "eurobert": ({"classifier_pooling": "cls"}, "classifier_pooling='cls' is not one of bos, mean, late"),
    "nomic_bert": ({"rotary_emb_base": 10000}, "rotary_emb_base=10000 is not read by transformers"),
    "gemma": ({"use_bidirectional_attention": True}, "use_bidirectional_attention=True is not supported"),
    "gemma3_text": ({"final_logit_softcapping": 30.0}, "final_logit_softcapping=30.0 is not supported, only None"),
    "mpnet": ({"pad_token_id": 0}, "pad_token_id=0 is not supported, only 1"),
    "m2m_100": ({"pad_token_id": 0}, "pad_token_id=0 is not supported, only 1"),
    "opt": ({"word_embed_proj_dim": 16}, "word_embed_proj_dim=16 is not hidden_size=32"),
    "modernbert": ({"classifier_bias": True}, "classifier_bias=True must be mlp_bias=False"),
    "roberta": ({"hidden_act": "relu"}, "hidden_act='relu' is not supported, only 'gelu'"),
}


@pytest.mark.parametrize("model_type", OTHERS)
def test_a_value_that_ours_cannot_compute_is_refused(model_type, tmp_path):
    changes, message = OTHERS[model_type]
    head = next(name for name in ARCHITECTURES[model_type].heads if name.endswith("LM"))
    stock_model(model_type, head).save_pretrained(tmp_path)
    change(tmp_path, **changes)
    with pytest.raises(ConversionError, match=message):
        from_original(tmp_path, auto(head))


def test_a_pooling_that_transformers_does_not_read_is_refused(tmp_path):
    """EuroBERT's checkpoints have an older name for it. Only a classifier pools; a change writes both names."""
    name = "AutoModelForSequenceClassification"
    stock_model("eurobert", name, torch.float32).save_pretrained(tmp_path / "source")
    change(tmp_path / "source", clf_pooling="mean")
    from_original(tmp_path / "source")
    with pytest.raises(ConversionError, match="clf_pooling='mean' is not read by transformers, which takes 'late'"):
        from_original(tmp_path / "source", auto(name))
    change(tmp_path / "source", clf_pooling="late")
    to_original(from_original(tmp_path / "source", auto(name), pooling="cls"), tmp_path / "back")
    assert from_original(tmp_path / "back", auto(name)).config.pooling == "cls"


@pytest.mark.parametrize("auto_class", [AutoModelForCausalLM, AutoModelForQuestionAnswering, AutoModelForSeq2SeqLM])
def test_a_head_that_ours_does_not_have_is_refused(auto_class, bert):
    with pytest.raises(
        ConversionError, match=f"bert: {auto_class.__name__} is not supported; supported are AutoModel"
    ):
        from_original(bert, auto_class)


def test_tensors_without_a_place_are_refused(bert):
    rename(bert, lambda name: name.replace("layer.1.output.dense", "layer.1.output.lora"))
    with pytest.raises(ConversionError, match=r"lacks 'bert.encoder.layer.1.output.dense.bias' and 1 more"):
        from_original(bert, AutoModelForMaskedLM)


def test_a_tensor_of_the_body_too_many_is_refused(bert):
    tensors = load_file(bert / WEIGHTS)
    save_file(tensors | {"bert.encoder.layer.0.gate.weight": torch.ones(2)}, bert / WEIGHTS, {"format": "pt"})
    with pytest.raises(ConversionError, match=r"bert has no tensor 'bert.encoder.layer.0.gate.weight'"):
        from_original(bert, AutoModelForMaskedLM)


@pytest.mark.parametrize("twice", [old_names, lambda name: name.removeprefix("bert.")])
def test_two_names_of_one_tensor_are_refused(twice, bert):
    tensors = load_file(bert / WEIGHTS)
    doubled = {twice(name): tensor + 1 for name, tensor in tensors.items()}
    save_file(doubled | tensors, bert / WEIGHTS, {"format": "pt"})
    with pytest.raises(ConversionError, match="are two names of one tensor"):
        from_original(bert, AutoModelForMaskedLM)


def test_a_checkpoint_that_is_not_found_names_both_causes(bert):
    """A Hub that is not reached looks like a repository without the file; a directory has no Hub."""
    with pytest.raises(OSError, match=r"nobody/nothing has no config\.json, or the Hub is not reached$"):
        from_original("nobody/nothing")
    (bert / "config.json").unlink()
    with pytest.raises(OSError, match=r" has no config\.json$"):
        from_original(bert)


OF_OLDER_VERSIONS = {
    "bert": ["bert.embeddings.position_ids"],
    "roberta": ["roberta.embeddings.position_ids", "roberta.embeddings.token_type_ids"],
    "openai-gpt": ["h.0.attn.bias"],
    "gpt2": ["transformer.h.0.attn.bias", "transformer.h.1.attn.masked_bias"],
    "opt": ["decoder.version"],
    "gpt_neo": ["transformer.h.0.attn.attention.bias", "transformer.h.1.attn.attention.masked_bias"],
    "llama": ["model.layers.0.self_attn.rotary_emb.inv_freq"],
    "bart": ["model.encoder.version", "model.decoder.version"],
}


@pytest.mark.parametrize("model_type", OF_OLDER_VERSIONS)
def test_what_older_versions_saved_besides_is_ignored(model_type, tmp_path):
    head = next(name for name in ARCHITECTURES[model_type].heads if name.endswith("LM"))
    stock_model(model_type, head, torch.float32).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / WEIGHTS) | {name: torch.ones(1, 3) for name in OF_OLDER_VERSIONS[model_type]}
    save_file(tensors, tmp_path / WEIGHTS, {"format": "pt"})
    assert from_original(tmp_path, auto(head)).config.original_model_type == model_type


def test_a_buffer_is_no_weight_whose_dtype_counts(tmp_path):
    """Llama of 2023: weights in float16 and frequencies in float32; the weights come back in float16."""
    name = "AutoModelForCausalLM"
    stock_model("llama", name, torch.float16).save_pretrained(tmp_path / "source")
    source = load_file(tmp_path / "source" / WEIGHTS)
    buffer = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    save_file(source | buffer, tmp_path / "source" / WEIGHTS, {"format": "pt"})
    to_original(from_original(tmp_path / "source", auto(name)), tmp_path / "back")
    back = load_file(tmp_path / "back" / WEIGHTS)
    assert source.keys() == back.keys() and all(torch.equal(back[name], source[name]) for name in source)
    assert {tensor.dtype for tensor in back.values()} == {torch.float16}


# What configurations of checkpoints on the Hub say in older or other words, and must not change a bit.
OF_OLDER_CONFIGS = {
    "bert": {"position_embedding_type": "absolute", "gradient_checkpointing": False, "torch_dtype": "float16"},
    "gpt2": {"n_ctx": 40, "resid_pdrop": 0.1, "task_specific_params": {"text-generation": {"max_length": 50}}},
    "llama": {"rope_parameters": None, "rope_theta": 50.0, "rope_scaling": {"type": "linear", "factor": 2.0}},
    "qwen2": {"rope_parameters": None, "rope_theta": 50.0, "rope_scaling": {"type": "yarn", "factor": 4.0}},
    "modernbert": {
        "rope_parameters": None,
        "layer_types": None,
        "global_attn_every_n_layers": 2,
        "global_rope_theta": 500.0,
        "local_rope_theta": 50.0,
        "reference_compile": False,
    },
    "bart": {"normalize_before": False, "classif_dropout": 0.0, "_num_labels": 3, "num_beams": 4},
    "pegasus": {"normalize_before": True, "static_position_embeddings": True, "extra_pos_embeddings": 1},
}


@pytest.mark.parametrize("model_type", OF_OLDER_CONFIGS)
@torch.no_grad()
def test_configurations_in_older_words(model_type, tmp_path):
    """Equal logits, and back to what stock makes of it, with every key that nobody reads."""
    head = next(name for name in ARCHITECTURES[model_type].heads if name.endswith("LM"))
    stock_model(model_type, head, torch.float32).save_pretrained(tmp_path / "source")
    change(tmp_path / "source", **OF_OLDER_CONFIGS[model_type])
    stock_class = ARCHITECTURES[model_type].heads[head].stock_class
    theirs = stock_class.from_pretrained(tmp_path / "source", dtype=torch.float32).eval()
    theirs.save_pretrained(tmp_path / "again")
    ours = from_original(tmp_path / "source", auto(head))
    batch = padded(rows(model_type, head))
    assert_close(outputs(ours, batch), outputs(theirs, batch), 1e-5)
    to_original(ours, tmp_path / "back")
    before, after = (json.loads((tmp_path / name / CONFIG).read_text()) for name in ("again", "back"))
    assert after == before
    source, back = (load_file(tmp_path / name / WEIGHTS) for name in ("source", "back"))
    assert all(torch.equal(back[name], source[name]) for name in source)


# Options of stock configurations beside those of stock.py.
VARIANTS = [
    ("bert", "AutoModelForMaskedLM", {"tie_word_embeddings": False}),
    ("roberta", "AutoModelForMaskedLM", {"tie_word_embeddings": False}),
    ("gpt2", "AutoModelForCausalLM", {"tie_word_embeddings": False, "scale_attn_weights": False, "n_inner": None}),
    ("llama", "AutoModelForCausalLM", {"tie_word_embeddings": True, "mlp_bias": False, "num_key_value_heads": 4}),
    ("mistral", "AutoModelForCausalLM", {"sliding_window": None}),
    ("qwen3", "AutoModelForCausalLM", {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 0}),
    ("gemma3_text", "AutoModelForCausalLM", {"layer_types": ["full_attention"] * 2, "attention_bias": True}),
    ("gemma3_text_encoder", "AutoModel", {"layer_types": ["sliding_attention"] * 2}),
    ("modernbert", "AutoModelForMaskedLM", {"global_attn_every_n_layers": 2, "decoder_bias": False}),
    ("modernbert", "AutoModelForSequenceClassification", {"classifier_pooling": "mean", "classifier_bias": True}),
    ("modernbert", "AutoModelForTokenClassification", {"classifier_activation": "silu", "norm_bias": True}),
    ("marian", "AutoModelForSeq2SeqLM", {"share_encoder_decoder_embeddings": False, "decoder_vocab_size": 83}),
    ("pegasus", "AutoModelForSeq2SeqLM", {"scale_embedding": False, "activation_function": "gelu"}),
]


@pytest.mark.parametrize("model_type, head, options", VARIANTS, ids=str)
@torch.no_grad()
def test_other_options(model_type, head, options, tmp_path):
    """Equal logits, and the same tensors and configuration back."""
    theirs = stock_model(model_type, head, torch.float32, **options)
    theirs.save_pretrained(tmp_path / "source")
    ours = from_original(tmp_path / "source", auto(head))
    batch = padded(rows(model_type, head))
    batch |= {name: tensor.clamp(max=80) for name, tensor in batch.items() if name.endswith("input_ids")}
    assert_close(outputs(ours, batch), outputs(theirs, batch), 1e-5)
    to_original(ours, tmp_path / "back")
    source, back = (load_file(tmp_path / name / WEIGHTS) for name in ("source", "back"))
    assert source.keys() == back.keys() and all(torch.equal(back[name], source[name]) for name in source)
    before, after = (json.loads((tmp_path / name / CONFIG).read_text()) for name in ("source", "back"))
    assert after == before


UNTIED = {
    "llama": ("AutoModelForCausalLM", "lm_head.weight"),
    "bert": ("AutoModelForMaskedLM", "cls.predictions.decoder.weight"),
    "gpt2": ("AutoModelForCausalLM", "lm_head.weight"),
}


@pytest.mark.parametrize("model_type", UNTIED)
@torch.no_grad()
def test_a_head_that_differs_from_what_it_is_said_to_be_tied_to(model_type, tmp_path):
    """transformers then ties nothing; neither does ours, and both come back."""
    head, name = UNTIED[model_type]
    stock_model(model_type, head, torch.float32, tie_word_embeddings=True).save_pretrained(tmp_path / "source")
    tensors = load_file(tmp_path / "source" / WEIGHTS)
    save_file(tensors | {name: torch.randn(99, 32)}, tmp_path / "source" / WEIGHTS, {"format": "pt"})
    stock_class = ARCHITECTURES[model_type].heads[head].stock_class
    theirs = stock_class.from_pretrained(tmp_path / "source").eval()
    ours = from_original(tmp_path / "source", auto(head))
    batch = padded(rows(model_type, head))
    assert_close(outputs(ours, batch), outputs(theirs, batch), 1e-5)
    ours.save_pretrained(tmp_path / "ours")
    to_original(auto(head).from_pretrained(tmp_path / "ours"), tmp_path / "back")
    again = stock_class.from_pretrained(tmp_path / "back").eval()
    assert_close(outputs(again, batch), outputs(theirs, batch), 1e-5)


def test_weights_are_not_rounded_to_what_the_configuration_says(tmp_path):
    """A file in float32 whose config.json says float16."""
    stock = stock_model("bert", "AutoModel", torch.float32)
    stock.save_pretrained(tmp_path / "source")
    change(tmp_path / "source", dtype="float16")
    to_original(from_original(tmp_path / "source"), tmp_path / "back")
    back = load_file(tmp_path / "back" / WEIGHTS)
    assert all(torch.equal(back[name], tensor) for name, tensor in stock.state_dict().items())


@pytest.mark.parametrize(
    "model_type, head", [case for case in ALL if "Classification" in case[1]], ids=lambda value: value[9:] or value
)
def test_the_dropout_before_the_labels_is_theirs(model_type, head, tmp_path):
    """The last one that stock applies; ours has one only."""
    theirs = stock_model(model_type, head, torch.float32)
    theirs.save_pretrained(tmp_path)
    ours = from_original(tmp_path, auto(head))
    modules = [name for name, module in theirs.named_modules() if isinstance(module, torch.nn.Dropout)]
    own = [name for name in modules if not name.startswith(f"{theirs.base_model_prefix}.")]
    assert ours.dropout.p == (theirs.get_submodule(own[-1]).p if own else 0.0)


DECODER_CLASSIFIERS = [
    (name, head)
    for name, head in ALL
    if head == "AutoModelForSequenceClassification" and ARCHITECTURES[name].config_class is BlendDecoderConfig
]


@pytest.mark.parametrize("model_type", ["llama", "bart"])
@torch.no_grad()
def test_a_classifier_that_looks_for_its_end_is_traced(model_type, tmp_path):
    head = "AutoModelForSequenceClassification"
    stock_model(model_type, head, torch.float32).save_pretrained(tmp_path)
    model, batch = from_original(tmp_path, auto(head)), padded(rows(model_type, head))
    traced = torch.jit.trace(model, example_kwarg_inputs=batch, strict=False, check_trace=False)
    assert_close(traced(**batch)["logits"], model(**batch).logits, 1e-5)


@pytest.mark.parametrize("model_type", ["t5", "bart"])
@torch.no_grad()
def test_a_mask_may_show_later_tokens(model_type, tmp_path):
    """A prefix that reads itself in both directions, with biases by distance and without."""
    head = "AutoModelForSeq2SeqLM"
    theirs = stock_model(model_type, head)
    theirs.save_pretrained(tmp_path)
    ours = from_original(tmp_path, auto(head))
    hidden = torch.ones(5, 5, dtype=torch.bool).triu(1)
    hidden[:3, :3] = False
    mask = torch.zeros(5, 5, dtype=ours.dtype).masked_fill(hidden, torch.finfo(ours.dtype).min)
    batch = {"input_ids": torch.tensor([[9, 8, END]]), "decoder_input_ids": torch.tensor([[4, 5, 6, 7, 8]])}
    batch["decoder_attention_mask"] = mask[None, None]
    assert_close(ours(**batch).logits, theirs(**batch).logits, 1e-5)


@pytest.mark.parametrize("pad", [PAD, END, None])
@pytest.mark.parametrize("model_type, head", DECODER_CLASSIFIERS, ids=lambda value: value.removeprefix("AutoModel"))
@torch.no_grad()
def test_a_text_may_end_with_the_padding_token(model_type, head, pad, tmp_path):
    """Stock decoders classify from the token before it."""
    theirs = stock_model(model_type, head, pad_token_id=pad)
    theirs.save_pretrained(tmp_path / "source")
    ours = from_original(tmp_path / "source", auto(head))
    made = rows(model_type, head)
    for index, row in enumerate(made):
        row["input_ids"] = torch.cat((row["input_ids"], torch.tensor([END] * index, dtype=torch.long)))
    if pad is None:
        # Stock has no batches without a padding token.
        expected = torch.cat([theirs(row["input_ids"][None]).logits for row in made])
    else:
        batch = padded(made)
        batch["input_ids"][batch["attention_mask"] == 0] = pad
        expected = theirs(**batch).logits
    for side in ("right", "left"):
        assert_close(ours(**padded(made, side)).logits, expected, 1e-5)

    # As it was converted before version 0.14.
    from_original(tmp_path / "source", auto(head), pooling="last").save_pretrained(tmp_path / "old")
    to_original(auto(head).from_pretrained(tmp_path / "old"), tmp_path / "back")
    assert (tmp_path / "back" / CONFIG).read_bytes() == (tmp_path / "source" / CONFIG).read_bytes()


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("code of a checkpoint was run",))


@pytest.mark.parametrize(
    "content", [Bomb(), {"a": Bomb()}, {"a": 3}, [torch.ones(1)]], ids=["code", "in", "int", "list"]
)
def test_a_pickle_of_more_than_tensors_is_refused(content, bert):
    (bert / WEIGHTS).unlink()
    (bert / "pytorch_model.bin").write_bytes(pickle.dumps(content))
    with pytest.raises(
        ConversionError, match=r"pytorch_model\.bin (is not a pickle that holds tensors only|is not a dict of tensors)"
    ):
        from_original(bert, AutoModelForMaskedLM)


def test_missing_files_are_named(bert, tmp_path):
    with pytest.raises(OSError, match=r"nothing|config\.json"):
        from_original(tmp_path / "nothing")
    (bert / WEIGHTS).unlink()
    with pytest.raises(ConversionError, match=r"has no weights: none of model\.safetensors, "):
        from_original(bert)
    (bert / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "model-1.safetensors"}}))
    with pytest.raises(ConversionError, match=r"names model-1\.safetensors, which does not exist"):
        from_original(bert)


# Heads of the checkpoint and heads that are wanted.


def test_other_heads_are_left_out_and_named(bert, tmp_path, caplog):
    """And what is kept of them comes back, with the next-sentence head and the pooler."""
    stock = BertForPreTraining(stock_model("bert", "AutoModel").config)
    stock.save_pretrained(tmp_path / "both")
    transformers.logging.enable_propagation()
    model = from_original(tmp_path / "both", AutoModelForMaskedLM)
    assert not caplog.messages
    to_original(model, tmp_path / "back")
    before, after = (load_file(tmp_path / name / WEIGHTS) for name in ("both", "back"))
    assert before.keys() == after.keys() and all(torch.equal(after[name], before[name]) for name in before)
    answers = BertForPreTraining.from_pretrained(tmp_path / "back", output_loading_info=True)[1]
    assert not answers["missing_keys"] and not answers["unexpected_keys"]

    from_original(tmp_path / "both", AutoModelForTokenClassification, num_labels=3)
    assert "has no classifier.bias, classifier.weight: newly initialized" in caplog.text
    assert "tensors of other heads are ignored: cls.predictions.bias" in caplog.text
    BertForQuestionAnswering(stock.config).save_pretrained(tmp_path / "questions")
    from_original(tmp_path / "questions")
    assert "tensors of other heads are ignored: qa_outputs.bias, qa_outputs.weight" in caplog.text
    transformers.logging.disable_propagation()


ALONE = [
    ("marian", AutoModelForSequenceClassification),
    ("bart", AutoModelForTokenClassification),
    ("opt", AutoModelForTokenClassification),
]


@pytest.mark.parametrize("model_type, auto_class", ALONE)
def test_a_head_of_ours_alone_cannot_go_back(model_type, auto_class, tmp_path):
    stock_model(model_type, "AutoModel", torch.float32).save_pretrained(tmp_path / "base")
    model = from_original(tmp_path / "base", auto_class, num_labels=3)
    batch = padded(rows(model_type, auto_class.__name__))
    assert model(**batch).logits.shape[-1] == 3
    message = f"{model_type} has no stock class for {auto_class.__name__}"
    assert check(model) == [message]
    with pytest.raises(ConversionError, match=message):
        to_original(model, tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_what_the_original_cannot_say_is_refused(bert, tmp_path):
    model = from_original(bert, AutoModelForSequenceClassification, pooling="mean")
    assert check(model) == ["a configuration of bert cannot express pooling='mean'"]
    with pytest.raises(ConversionError, match="pooling='mean'"):
        to_original(model, tmp_path / "back")
    model = from_original(bert, AutoModelForMaskedLM)
    model.resize_token_embeddings(107, mean_resizing=False)
    with pytest.raises(ConversionError, match="vocab_size was 99 and is 107"):
        to_original(model, tmp_path / "back")
    assert not (tmp_path / "back").exists()
    with pytest.raises(ConversionError, match="BlendEncoderModel was not converted"):
        to_original(BlendEncoderModel(tiny_config(BlendEncoderConfig)), tmp_path / "back")


def test_what_changed_comes_back_changed(bert, tmp_path):
    """Labels, dropouts and generation settings; the rest of config.json stays, also what nobody knows."""
    change(bert, of_somebody={"a": 1}, gradient_checkpointing=False)
    labels = {"id2label": {0: "no", 1: "yes"}, "label2id": {"no": 0, "yes": 1}}
    model = from_original(bert, AutoModelForSequenceClassification, hidden_dropout=0.3, **labels)
    to_original(model, tmp_path / "back")
    before, after = (json.loads((place / CONFIG).read_text()) for place in (bert, tmp_path / "back"))
    assert after["of_somebody"] == {"a": 1} and after["hidden_dropout_prob"] == 0.3
    assert after["id2label"] == {"0": "no", "1": "yes"} and after["architectures"] == ["BertForSequenceClassification"]
    changed = {"hidden_dropout_prob", "id2label", "label2id", "architectures", "transformers_version", "num_labels"}
    assert {key for key in before | after if before.get(key) != after.get(key)} <= changed

    stock = stock_model("gpt2", "AutoModelForCausalLM", torch.float32)
    stock.save_pretrained(tmp_path / "gpt")
    model = from_original(tmp_path / "gpt", AutoModelForCausalLM)
    model.generation_config.max_new_tokens = 7
    to_original(model, tmp_path / "gpt-back")
    assert json.loads((tmp_path / "gpt-back" / "generation_config.json").read_text())["max_new_tokens"] == 7


def test_another_head_goes_back(bert, tmp_path):
    """What was read as a masked language model, saved, opened as a classifier and trained; and as a base model."""
    rename(bert, lambda name: None if "pooler" in name else name)
    from_original(bert, AutoModelForMaskedLM).save_pretrained(tmp_path / "ours")
    for auto_class, stock_class in (
        (AutoModelForSequenceClassification, BertForSequenceClassification),
        (AutoModel, BertModel),
    ):
        model = auto_class.from_pretrained(tmp_path / "ours").eval()
        to_original(model, tmp_path / stock_class.__name__)
        stock, report = stock_class.from_pretrained(tmp_path / stock_class.__name__, output_loading_info=True)
        # The checkpoint had no pooler: none is made up for the base model.
        new = {"pooler.dense.weight", "pooler.dense.bias"} if stock_class is BertModel else set()
        assert set(report["missing_keys"]) == new and not report["unexpected_keys"]
        assert_close(logits(model), logits(stock.eval()), 1e-5)


@pytest.mark.parametrize(
    "auto_class", [AutoModel, AutoModelForSequenceClassification, AutoModelForTokenClassification]
)
def test_another_head_of_a_checkpoint_with_everything(auto_class, bert, tmp_path):
    """A kept pooler gives way to one that was trained; aliases of a head that is gone are gone."""
    config = stock_model("bert", "AutoModel", tie_word_embeddings=False).config
    BertForPreTraining(config).save_pretrained(tmp_path / "both")
    from_original(tmp_path / "both", AutoModelForMaskedLM).save_pretrained(tmp_path / "ours")
    model = auto_class.from_pretrained(tmp_path / "ours").eval()
    to_original(model, tmp_path / "back")
    stock = auto_class.from_pretrained(tmp_path / "back").eval()
    assert_close(logits(model), logits(stock), 1e-5)
    names = load_file(tmp_path / "back" / WEIGHTS).keys()
    assert not any("predictions" in name for name in names) and "cls.seq_relationship.weight" in names


def test_a_directory_of_another_model_is_left_alone(bert, tmp_path):
    model = from_original(bert, AutoModelForMaskedLM)
    model.save_pretrained(tmp_path / "ours")
    with pytest.raises(ConversionError, match="holds a model of model_type 'blend_encoder'; give another directory"):
        to_original(model, tmp_path / "ours")
    # Files of a save before, which transformers would read first.
    AutoModelForMaskedLM.from_pretrained(bert).save_pretrained(tmp_path / "back", max_shard_size="20KB")
    to_original(model, tmp_path / "back")
    assert sorted(path.name for path in (tmp_path / "back").glob("*.safetensors*")) == [WEIGHTS]
    # A folder of the user's beside ours.
    other = tmp_path / "ours/original_files/consolidated.00.pth"
    other.write_bytes(b"mine")
    model.save_pretrained(tmp_path / "ours")
    assert other.read_bytes() == b"mine"


def test_check_tells_and_does_not_raise(tmp_path):
    stock_model("modernbert", "AutoModelForSequenceClassification").save_pretrained(tmp_path / "modern")
    model = from_original(tmp_path / "modern", AutoModelForSequenceClassification, pooling="last")
    assert check(model) == ["a configuration of modernbert cannot express pooling='last'"]
    stock_model("roberta", "AutoModel").save_pretrained(tmp_path / "roberta")
    model = from_original(tmp_path / "roberta")
    model.config.pad_token_id = 0
    assert check(model) == ["pad_token_id has changed: positions started at row 2, now at row 1"]
    with pytest.raises(ConversionError, match="pad_token_id has changed"):
        to_original(model, tmp_path / "back")


def test_overrides_of_parts(tmp_path):
    stock_model("bart", "AutoModel").save_pretrained(tmp_path)
    model = from_original(tmp_path, encoder={"hidden_dropout": 0.25}, use_cache=False)
    assert (model.encoder.dropout.p, model.decoder.dropout.p) == (0.25, 0.0) and not model.config.use_cache
    assert from_original(tmp_path, hidden_dropout=0.5).decoder.dropout.p == 0.5
    for wrong in ({"encoder": {"hiden_dropout": 1}}, {"original_model_type": "x"}):
        with pytest.raises(ConversionError, match="valid, nearest first"):
            from_original(tmp_path, **wrong)


@pytest.mark.parametrize("name", ["modules.json", "model.safetensors.index.json", "model.safetensors"])
@pytest.mark.parametrize(
    "content", [b"", b"[", b"{}", b"[3]", b'{"weight_map": {"a": 3}}', b"[" * 100_000], ids=range(6)
)
def test_damaged_files_are_named(name, content, bert):
    if name.startswith("model.safetensors"):
        (bert / WEIGHTS).unlink()
    (bert / name).write_bytes(content)
    if name == "modules.json" and content == b"[3]":
        from_original(bert)
    else:
        with pytest.raises(ConversionError, match=re.escape(name)) as caught:
            from_original(bert)
        assert "\n" not in str(caught.value)


def test_a_link_out_of_a_directory_is_not_followed(bert, tmp_path):
    (tmp_path / "secret").write_text("token")
    (bert / "vocab.txt").symlink_to(tmp_path / "secret")
    assert "vocab.txt" not in from_original(bert).origin.files


def test_names_of_dtypes_and_what_is_none(bert):
    assert from_original(bert, dtype="float64").dtype == torch.float64
    with pytest.raises(ConversionError, match="dtype='flaot64' is no dtype"):
        from_original(bert, dtype="flaot64")


# What is kept survives.


def test_what_is_kept_survives_training_resume_push_and_a_second_training(bert, tmp_path, hub):
    write_files(bert, KEPT)
    tensors = load_file(bert / WEIGHTS) | {"cls.seq_relationship.weight": torch.ones(2, 32)}
    save_file(tensors, bert / WEIGHTS, {"format": "pt"})
    row = {"input_ids": torch.arange(10, 18), "labels": torch.arange(10, 18)}

    def trained(model, steps: int, **options):
        arguments = TrainingArguments(
            output_dir=tmp_path / "run", max_steps=steps, save_steps=2, use_cpu=True, report_to="none"
        )
        trainer = Trainer(model=model, args=arguments, train_dataset=[row] * 8)
        trainer.train(**options)
        return trainer

    trained(from_original(bert, AutoModelForMaskedLM), 2)
    trainer = trained(
        AutoModelForMaskedLM.from_pretrained(tmp_path / "run/checkpoint-2"), 4, resume_from_checkpoint=True
    )
    trainer.save_model(tmp_path / "final")
    again = trained(AutoModelForMaskedLM.from_pretrained(tmp_path / "final"), 1).model
    again.push_to_hub("someone/kept")
    to_original(AutoModelForMaskedLM.from_pretrained("someone/kept"), tmp_path / "back")
    for name, content in KEPT.items():
        assert (tmp_path / "back" / name).read_bytes() == content
    back = load_file(tmp_path / "back" / WEIGHTS)
    assert back.keys() == tensors.keys() and torch.equal(back["cls.seq_relationship.weight"], torch.ones(2, 32))
    assert not torch.equal(
        back["bert.embeddings.word_embeddings.weight"], tensors["bert.embeddings.word_embeddings.weight"]
    )


@pytest.mark.parametrize(
    "content", [None, b"", b"{}", b'{"model_type": "brt"}', b"[" * 100_000], ids=["gone", *"abcd"]
)
def test_damage_of_what_is_kept_is_said(content, bert, tmp_path, caplog):
    from_original(bert, AutoModelForMaskedLM).save_pretrained(tmp_path / "ours")
    facts = tmp_path / "ours/original_files/origin.json"
    if content is None:
        facts.unlink()
    else:
        facts.write_bytes(content)
    transformers.logging.enable_propagation()
    model = AutoModelForMaskedLM.from_pretrained(tmp_path / "ours")
    transformers.logging.disable_propagation()
    assert "original_files/ cannot be read" in caplog.text and "cannot be converted back" in caplog.text
    assert logits(model).isfinite().all()
    with pytest.raises(ConversionError, match="was not converted"):
        to_original(model, tmp_path / "back")


def test_a_repository_of_the_hub(bert, tmp_path, hub):
    """Read from there as from a directory, a revision too, with the files that are kept."""
    write_files(bert, KEPT)
    expected = logits(from_original(bert, AutoModelForMaskedLM))
    HfApi().create_repo("someone/stock")
    first = HfApi().upload_folder(repo_id="someone/stock", folder_path=bert)
    rename(bert, lambda name: None)
    HfApi().upload_folder(repo_id="someone/stock", folder_path=bert)
    with pytest.raises(ConversionError, match="lacks"):
        from_original("someone/stock", AutoModelForMaskedLM)
    model = from_original("someone/stock", AutoModelForMaskedLM, revision=first.oid)
    assert torch.equal(logits(model), expected)
    to_original(model, tmp_path / "back")
    for name, content in KEPT.items():
        assert (tmp_path / "back" / name).read_bytes() == content


def test_what_is_kept_stays_in_its_place(bert, tmp_path):
    """Names of files in hostile modules.json and origin.json lead nowhere else."""
    (tmp_path / "config.json").write_text("secret")
    (bert / "modules.json").write_text(json.dumps([{"path": ".."}, {"path": "/etc"}, {"path": "1_Pooling"}]))
    model = from_original(bert, AutoModelForMaskedLM)
    assert set(model.origin.files) == {"modules.json"}
    model.save_pretrained(tmp_path / "ours")
    facts = json.loads((tmp_path / "ours/original_files/origin.json").read_text())
    facts["files"] += ["../evil.txt", "/tmp/evil.txt", "model.safetensors", "a/../../config.json"]
    (tmp_path / "ours/original_files/origin.json").write_text(json.dumps(facts))
    assert set(AutoModelForMaskedLM.from_pretrained(tmp_path / "ours").origin.files) == {"modules.json"}


# The tables.

OF_LIBRARY = {each.name for each in fields(PreTrainedConfig)} - {"tie_word_embeddings"}


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_every_key_of_a_stock_configuration_is_in_its_table(model_type):
    """A new version's new key fails here by its name."""
    architecture = ARCHITECTURES[model_type]
    known = {*architecture.fields, *architecture.required, *architecture.unused}
    known = known.union(*(setting.keys for setting in architecture.settings))
    keys = {each.name for each in fields(architecture.original_config_class)} - OF_LIBRARY
    assert keys - known == set()


MAPPINGS = {
    "AutoModel": "MODEL_MAPPING_NAMES",
    "AutoModelForMaskedLM": "MODEL_FOR_MASKED_LM_MAPPING_NAMES",
    "AutoModelForCausalLM": "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
    "AutoModelForSeq2SeqLM": "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES",
    "AutoModelForSequenceClassification": "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
    "AutoModelForTokenClassification": "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES",
}


# Encoders as decoders, decoders without encoders, encoder-decoders that tell masked tokens, and T5's encoder alone.
ONLY_DECODERS = {"openai-gpt", "gpt2", "gpt_neo", "opt", "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma3_text"}
NOT_CONVERTED = {("AutoModelForCausalLM", name) for name in ARCHITECTURES if name not in ONLY_DECODERS}
NOT_CONVERTED |= {("AutoModelForMaskedLM", name) for name in ("bart", "mbart")}
NOT_CONVERTED |= {("AutoModelForTokenClassification", name) for name in ("t5", "mt5", "umt5")}


@pytest.mark.parametrize("auto_class", MAPPINGS)
def test_every_stock_class_has_its_head(auto_class):
    stock = getattr(modeling_auto, MAPPINGS[auto_class])
    for name, architecture in ARCHITECTURES.items():
        head = architecture.heads.get(auto_class)
        expected = None if (auto_class, name) in NOT_CONVERTED else stock.get(architecture.model_type)
        assert (head and head.stock) == expected, name


def test_every_case_has_a_stock_model():
    assert {model_type for model_type, _ in ALL} == set(STOCK)


def test_the_list_is_printed(capsys, monkeypatch):
    from seqblend.conversion.__main__ import main

    monkeypatch.setattr("sys.argv", ["conversion", "--list"])
    main()
    printed = capsys.readouterr().out
    for architecture in ARCHITECTURES.values():
        assert f"\n{architecture.model_type}" in f"\n{printed}"
        assert all(head.stock in printed for head in architecture.heads.values())


def test_legacy_keys(bert, tmp_path):
    model = from_original(bert, AutoModelForMaskedLM)
    assert isinstance(model, BlendEncoderForMaskedLM)
    to_original(model, tmp_path / "back", legacy_keys=True)
    assert json.loads((tmp_path / "back" / CONFIG).read_text())["position_embedding_type"] == "absolute"
    assert isinstance(AutoModel.from_pretrained(tmp_path / "back"), BertModel)


def test_embeddings_that_should_be_shared_and_differ(tmp_path):
    """transformers leaves them apart; as one matrix they would give other outputs."""
    theirs = stock_model("t5", "AutoModelForSeq2SeqLM", torch.float32)
    theirs.decoder.embed_tokens.weight = torch.nn.Parameter(torch.randn_like(theirs.shared.weight))
    theirs.save_pretrained(tmp_path)
    with pytest.raises(ConversionError, match="encoder and decoder have different embeddings"):
        from_original(tmp_path, AutoModelForSeq2SeqLM)
