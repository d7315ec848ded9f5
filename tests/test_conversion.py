"""Every architecture and head that can be converted: equal logits, the same bytes back, equal after training, equal
gradients, the same tokens written. One head an architecture here; all of them by `make test-conversion`.
"""

import json
from pathlib import Path

import pytest
import torch
import transformers
from conftest import assert_close
from safetensors.torch import load_file
from torch import nn
from transformers import Trainer, TrainingArguments

from seqblend import from_original, to_original
from seqblend.conversion.reading import our_tensors
from seqblend.conversion.registry import ARCHITECTURES

VOCAB, LABELS, HIDDEN, PAD, END, LANGUAGE = 99, 3, 32, 1, 2, 7
LENGTHS, TARGETS = (7, 4, 5), (5, 6, 3)
OF_BERT = {
    "vocab_size": VOCAB,
    "hidden_size": HIDDEN,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
OF_ROBERTA = OF_BERT | {"type_vocab_size": 1, "layer_norm_eps": 1e-5}
OF_GPT = {
    "vocab_size": VOCAB,
    "n_embd": HIDDEN,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 40,
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
}
OF_LLAMA = {
    "vocab_size": VOCAB,
    "hidden_size": HIDDEN,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 40,
    "head_dim": 8,
}
OF_BART = {
    "vocab_size": VOCAB,
    "d_model": HIDDEN,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 40,
    "max_position_embeddings": 40,
    "dropout": 0.0,
    "attention_dropout": 0.0,
}
# Small stock models in which every option that a table reads has an effect.
STOCK = {
    "bert": OF_BERT,
    "roberta": OF_ROBERTA,
    "xlm-roberta": OF_ROBERTA,
    "camembert": OF_ROBERTA,
    "electra": OF_BERT | {"embedding_size": HIDDEN},
    "distilbert": {
        "vocab_size": VOCAB,
        "dim": HIDDEN,
        "n_layers": 2,
        "n_heads": 4,
        "hidden_dim": 48,
        "max_position_embeddings": 40,
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "seq_classif_dropout": 0.0,
    },
    "modernbert": {
        "vocab_size": VOCAB,
        "hidden_size": HIDDEN,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": 40,
        "local_attention": 4,
        "cls_token_id": 3,
        "sep_token_id": END,
    },
    "openai-gpt": OF_GPT,
    "gpt2": OF_GPT | {"n_inner": 48},
    "gpt_neo": {
        "vocab_size": VOCAB,
        "hidden_size": HIDDEN,
        "num_layers": 2,
        "num_heads": 4,
        "intermediate_size": 48,
        "max_position_embeddings": 40,
        "attention_types": [[["global", "local"], 1]],
        "window_size": 3,
        "classifier_dropout": 0.0,
    },
    "opt": {
        "vocab_size": VOCAB,
        "hidden_size": HIDDEN,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "ffn_dim": 48,
        "max_position_embeddings": 40,
        "dropout": 0.0,
    },
    "llama": OF_LLAMA
    | {
        "attention_bias": True,
        "mlp_bias": True,
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 50.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16,
        },
    },
    "mistral": OF_LLAMA | {"sliding_window": 3},
    "qwen2": {key: value for key, value in OF_LLAMA.items() if key != "head_dim"}
    | {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1},
    "qwen3": OF_LLAMA | {"tie_word_embeddings": True},
    "bart": OF_BART,
    "mbart": OF_BART | {"scale_embedding": True},
    "marian": OF_BART | {"scale_embedding": True, "activation_function": "relu"},
    "pegasus": OF_BART | {"scale_embedding": True, "activation_function": "relu"},
}
SPECIAL = {"pad_token_id": PAD, "bos_token_id": 0, "eos_token_id": END}
STARTED = {
    "bart": {"decoder_start_token_id": END},
    "marian": {"decoder_start_token_id": PAD},
    "pegasus": {"decoder_start_token_id": PAD},
}
# Stock attention makes NaN there for a query of padding; it is compared in float32.
FLOAT32 = {"mistral"}

# The head of each architecture that `make test` goes through: all kinds of heads, by turns.
ALL = [(name, head) for name, architecture in ARCHITECTURES.items() for head in architecture.heads]
FEW = [
    (name, list(architecture.heads)[-1 - index % (len(architecture.heads) - 1)])
    for index, (name, architecture) in enumerate(ARCHITECTURES.items())
]
every_case = pytest.mark.parametrize(
    "model_type, head",
    [pytest.param(*case, marks=() if case in FEW else pytest.mark.conversion) for case in ALL],
    ids=lambda value: value.removeprefix("AutoModel") or "Model",
)


@pytest.fixture(autouse=True)
def verbose_errors_only():
    transformers.logging.set_verbosity_error()
    yield
    transformers.logging.set_verbosity_warning()


def auto(head: str) -> type:
    return getattr(transformers, head)


def dtype_of(model_type: str) -> torch.dtype:
    return torch.float32 if model_type in FLOAT32 else torch.float64


def stock_model(model_type: str, head: str, dtype: torch.dtype | None = None, **options) -> nn.Module:
    """A stock model in which no tensor is as it was initialized, but for constants."""
    architecture = ARCHITECTURES[model_type]
    labels = {"num_labels": LABELS} if "Classification" in head else {}
    given = STOCK[model_type] | SPECIAL | STARTED.get(model_type, {}) | labels | options
    config = architecture.their_config_class(**given)
    model = architecture.heads[head].stock_class(config).eval()
    constants = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name not in constants:
                tensor.normal_(1.0 if tensor.dim() == 1 and name.endswith("weight") else 0.0, 0.3)
    return model.to(dtype or dtype_of(model_type))


def has_target(model_type: str, head: str) -> bool:
    return STOCK[model_type] is not None and "encoder_layers" in STOCK[model_type] and "Classification" not in head


def rows(model_type: str, head: str) -> list[dict[str, torch.Tensor]]:
    """Rows of random tokens; those of encoder-decoders end as their tokenizers have it."""
    made = []
    for length, target in zip(LENGTHS, TARGETS, strict=True):
        row = {"input_ids": torch.randint(8, VOCAB, (length,))}
        if "encoder_layers" in STOCK[model_type]:
            ends = [END, LANGUAGE] if model_type == "mbart" else [END]
            row["input_ids"][-len(ends) :] = torch.tensor(ends)
        if has_target(model_type, head):
            row["decoder_input_ids"] = torch.randint(8, VOCAB, (target,))
        made.append(row)
    return made


def padded(made: list[dict[str, torch.Tensor]], side: str = "right") -> dict[str, torch.Tensor]:
    """A batch with masks, padded by the padding token, which some architectures look for."""
    batch = {}
    for name in made[0]:
        column = [row[name] for row in made]
        width = max(map(len, column)) + 1
        batch[name] = torch.full((len(column), width), PAD)
        mask = torch.zeros_like(batch[name])
        for index, values in enumerate(column):
            where = slice(width - len(values), width) if side == "left" else slice(len(values))
            batch[name][index, where] = values
            mask[index, where] = 1
        batch[name.replace("input_ids", "attention_mask")] = mask
    return batch


def outputs(model: nn.Module, batch: dict[str, torch.Tensor], **asked) -> torch.Tensor:
    """Logits or states of the real tokens (N, …), or of the rows."""
    result = model(**batch, **asked)
    tensor = result.logits if "logits" in result else result.last_hidden_state
    return tensor if tensor.dim() == 2 else tensor[batch.get("decoder_attention_mask", batch["attention_mask"]).bool()]


@every_case
@torch.no_grad()
def test_logits_are_equal(model_type, head, tmp_path):
    """(1) Padded on either side, flat and dense, by every kernel."""
    theirs = stock_model(model_type, head)
    theirs.save_pretrained(tmp_path)
    made = rows(model_type, head)
    expected = outputs(theirs, padded(made))
    ours = from_original(tmp_path, auto(head))
    assert ours.dtype == theirs.dtype and not ours.training
    for attention in ("eager", "sdpa"):
        ours.set_attn_implementation(attention)
        for side in ("right", "left"):
            for asked in ({}, {"output_hidden_states": True}):
                actual = outputs(ours, padded(made, side), **asked)
                assert_close(actual, expected, 1e-5, what=f"{attention}, {side}, {asked}:")


# Files of a checkpoint that come back byte by byte; and some that are none of ours.
KEPT = {
    "tokenizer.json": b'{"version":  "1.0"}',
    "tokenizer_config.json": b'{"add_prefix_space":true}',
    "special_tokens_map.json": b"{}\n\n",
    "vocab.txt": b"[PAD]\r\n",
    "chat_template.jinja": b"{{ messages }}",
    "additional_chat_templates/tools.jinja": b"{{ tools }}",
    "modules.json": b'[{"path": ""},\n {"path": "1_Pooling"}]',
    "1_Pooling/config.json": b'{"pooling_mode_mean_tokens": true}',
    "sentence_bert_config.json": b'{"max_seq_length": 256}',
}
LEFT = {"README.md": b"# card", "training_args.bin": b"\x80", "notes.txt": b"mine"}


def write_files(directory: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_bytes(content)


def files_in(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}


def config_in(directory: Path) -> dict:
    return {
        name: value
        for name, value in json.loads((directory / "config.json").read_text()).items()
        if name != "transformers_version"
    }


@every_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_back_without_training(model_type, head, dtype, tmp_path):
    """(2) What stock writes of what it read, byte by byte; ours lies in between, saved and loaded once more."""
    source, again, ours, returned = (tmp_path / name for name in ("source", "again", "ours", "returned"))
    stock_model(model_type, head, dtype).save_pretrained(source)
    write_files(source, KEPT | LEFT)
    ARCHITECTURES[model_type].heads[head].stock_class.from_pretrained(source).save_pretrained(again)
    model = from_original(source, auto(head))
    assert model.dtype == torch.float32
    model.save_pretrained(ours)
    to_original(auto(head).from_pretrained(ours), returned)

    expected, actual = (load_file(place / "model.safetensors") for place in (again, returned))
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        assert actual[name].dtype == tensor.dtype == dtype and torch.equal(actual[name], tensor), name
    assert config_in(returned) == config_in(again)
    generation = {"generation_config.json"} & files_in(source)
    for name in KEPT.keys() | generation:
        assert (returned / name).read_bytes() == (source / name).read_bytes(), name
    assert files_in(returned) == {"config.json", "model.safetensors", *KEPT, *generation}


def labelled(model_type: str, head: str) -> dict[str, torch.Tensor]:
    """A batch with labels, as the head's loss takes them."""
    made = rows(model_type, head)
    batch = padded(made)
    if "SequenceClassification" in head:
        return batch | {"labels": torch.arange(len(made)) % LABELS}
    if has_target(model_type, head):
        labels = batch.pop("decoder_input_ids")
        return batch | {"labels": labels.masked_fill(batch.pop("decoder_attention_mask") == 0, -100)}
    mask = batch["attention_mask"] == 0
    labels = batch["input_ids"] % LABELS if "TokenClassification" in head else batch["input_ids"].clone()
    return batch | {"labels": labels.masked_fill(mask, -100)}


def gradients(model: nn.Module, model_type: str, head: str) -> dict[str, torch.Tensor]:
    """Of the loss of one batch, or of a fixed sum of a base model's output, with respect to each parameter."""
    torch.manual_seed(1)
    model.zero_grad()
    if head == "AutoModel":
        output = outputs(model, padded(rows(model_type, head)))
        (output * torch.randn(output.shape, dtype=output.dtype)).sum().backward()
    else:
        model(**labelled(model_type, head)).loss.backward()
    parameters = model.named_parameters(remove_duplicate=False)  # a tied one under all its names
    return {name: parameter.grad for name, parameter in parameters if parameter.grad is not None}


@every_case
def test_gradients_are_equal(model_type, head, tmp_path):
    """(4) Theirs, taken through the table as if they were tensors, are ours."""
    theirs = stock_model(model_type, head)
    theirs.save_pretrained(tmp_path)
    ours = from_original(tmp_path, auto(head), classifier_dropout=0.0)
    expected, actual = gradients(theirs, model_type, head), gradients(ours, model_type, head)
    prefix = "" if head == "AutoModel" else "model."
    mapped = our_tensors(ours.origin, dict(expected), theirs.config, prefix, (), ours.dtype)
    largest = max(gradient.norm() for gradient in mapped.values())
    for name, gradient in mapped.items():
        # A key's bias has a gradient of rounding errors only.
        error = (actual[name] - gradient).norm()
        assert error <= 1e-5 * max(gradient.norm(), 1e-6 * largest), (name, error / gradient.norm())
    # What ours learns and theirs has as a constant: Marian's and BART's bias of the logits.
    assert {name for name, gradient in actual.items() if gradient.norm() > 0} - mapped.keys() <= {"lm_head.bias"}


class RandomSum(nn.Module):
    """A base model with a loss, so that it can be trained."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, **batch):
        states = self.model(**batch).last_hidden_state
        weights = torch.linspace(-1, 1, states.shape[-1], dtype=states.dtype)
        return {"loss": ((states @ weights - 1) ** 2).mean()}


@every_case
@torch.enable_grad()
def test_back_after_training(model_type, head, tmp_path):
    """(3) After 20 steps the stock class gives our logits."""
    stock_model(model_type, head).save_pretrained(tmp_path / "source")
    ours = from_original(tmp_path / "source", auto(head), classifier_dropout=0.0)
    before = {name: tensor.clone() for name, tensor in ours.state_dict().items()}
    batch = padded(rows(model_type, head)) if head == "AutoModel" else labelled(model_type, head)
    dataset = [{name: tensor[index] for name, tensor in batch.items()} for index in range(len(LENGTHS))]
    arguments = TrainingArguments(
        output_dir=tmp_path / "run",
        max_steps=20,
        learning_rate=1e-2,
        use_cpu=True,
        save_strategy="no",
        report_to="none",
        remove_unused_columns=False,
    )
    model = RandomSum(ours) if head == "AutoModel" else ours
    Trainer(model=model, args=arguments, train_dataset=dataset).train()
    assert any(not torch.equal(tensor, before[name]) for name, tensor in ours.state_dict().items())
    to_original(ours.eval(), tmp_path / "returned")
    theirs = ARCHITECTURES[model_type].heads[head].stock_class.from_pretrained(tmp_path / "returned").eval()
    assert theirs.dtype == ours.dtype
    made = rows(model_type, head)
    with torch.no_grad():
        assert_close(outputs(ours, padded(made, "left")), outputs(theirs, padded(made)), 1e-5)


WRITERS = [case for case in ALL if case[1].endswith("LM") and "Masked" not in case[1]]


@pytest.mark.parametrize("beams", [1, 4])
@pytest.mark.parametrize(
    "model_type, head",
    [pytest.param(*case, marks=() if case in FEW else pytest.mark.conversion) for case in WRITERS],
)
@torch.no_grad()
def test_the_same_tokens_are_written(model_type, head, beams, tmp_path):
    """(5) Greedy and with beams, of a padded batch."""
    theirs = stock_model(model_type, head)
    theirs.save_pretrained(tmp_path)
    ours = from_original(tmp_path, auto(head))
    batch = padded(rows(model_type, head), "right" if has_target(model_type, head) else "left")
    batch = {name: tensor for name, tensor in batch.items() if not name.startswith("decoder")}
    asked = {"max_new_tokens": 12, "num_beams": beams, "do_sample": False}
    expected = theirs.generate(**batch, **asked)
    assert torch.equal(ours.generate(**batch, **asked), expected)
