"""Ours and its peers: models of one size, with the same weights where the recipe is the peer's, and their batches."""

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    MarianConfig,
    MarianMTModel,
    ModernBertConfig,
    ModernBertModel,
    PreTrainedModel,
)
from transformers.modeling_outputs import BaseModelOutput, SequenceClassifierOutput

from ..configuration.decoder import BlendDecoderConfig
from ..configuration.encoder import BlendEncoderConfig
from ..configuration.encoder_decoder import BlendEncoderDecoderConfig
from ..conversion.tensors import convert_state_dict
from ..modeling.decoder import BlendDecoderForCausalLM, BlendDecoderModel
from ..modeling.encoder import BlendEncoderForSequenceClassification, BlendEncoderModel
from ..modeling.encoder_decoder import BlendEncoderDecoderForSeq2SeqLM
from .lengths import Batch

OURS = "seqblend"
TOLERANCE = 1e-3
NO_DROPOUT = {"attention_dropout": 0.0, "hidden_dropout": 0.0}
BERT_NO_DROPOUT = {"attention_probs_dropout_prob": 0.0, "hidden_dropout_prob": 0.0}
PART_NO_DROPOUT = {"dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0}
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


@dataclass(frozen=True)
class Size:
    """How large a model is, and how much of it is timed.

    Args:
        num_hidden_layers: of an encoder-decoder, of each part.
        hidden_size: of all layers; a head has 64 features.
        batch_rows: rows of a batch.
        num_batches: batches of a repetition.
        repeats: how often each system runs over the batches.
        vocab_size: BERT's.
    """

    num_hidden_layers: int
    hidden_size: int
    batch_rows: int
    num_batches: int = 1
    repeats: int = 3
    vocab_size: int = 30522

    @property
    def name(self) -> str:
        return f"{self.num_hidden_layers}x{self.hidden_size}"

    @property
    def shape(self) -> dict[str, int]:
        """The size in the names that most configurations have."""
        return {
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": max(1, self.hidden_size // 64),
        }

    @property
    def gated_size(self) -> int:
        """The width at which a gated network has about as many parameters as a plain one of four times the hidden."""
        return -(-self.hidden_size * 8 // 3 // 32) * 32


@dataclass
class System:
    """A model and what it is run on.

    Args:
        name: ours, or the peer's class and form of batches.
        model: may be that of another system, on other batches.
        batches: the rows of the workload, in the form that the model is given them.
        equals_ours: its outputs are those of ours, token by token.
    """

    name: str
    model: nn.Module
    batches: list[Batch] = field(default_factory=list)
    equals_ours: bool = False


class Classifier(nn.Module):
    """A base model of others with our head: the first token's vector, projected onto the labels."""

    def __init__(self, model: nn.Module, hidden_size: int, num_labels: int = 2):
        super().__init__()
        self.model = model
        self.score = nn.Linear(hidden_size, num_labels)

    def forward(self, labels: torch.Tensor, **batch: torch.Tensor) -> SequenceClassifierOutput:
        """Loss, and logits (B, num_labels)."""
        logits = self.score(self.model(**batch).last_hidden_state[:, 0])
        return SequenceClassifierOutput(loss=nn.functional.cross_entropy(logits, labels), logits=logits)


class XTransformersEncoder(nn.Module):
    """The encoder of x-transformers, called as those of transformers are."""

    def __init__(self, size: Size, max_length: int):
        super().__init__()
        from x_transformers import Encoder, TransformerWrapper

        shape = size.shape
        layers = Encoder(
            dim=shape["hidden_size"],
            depth=shape["num_hidden_layers"],
            heads=shape["num_attention_heads"],
            attn_dim_head=shape["hidden_size"] // shape["num_attention_heads"],
            attn_flash=True,
        )
        self.model = TransformerWrapper(num_tokens=size.vocab_size, max_seq_len=max_length, attn_layers=layers)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> BaseModelOutput:
        """The last hidden state (B, T, E)."""
        dtype = self.model.token_emb.emb.weight.dtype
        # What it masks comes out in float32, which matrices in bfloat16 do not take.
        with torch.autocast(input_ids.device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
            states = self.model(input_ids, mask=attention_mask.bool(), return_embeddings=True)
        return BaseModelOutput(last_hidden_state=states.to(dtype))


def from_config(model_class: type[PreTrainedModel], config: Any, **kwargs: Any) -> PreTrainedModel:
    """A model with its own start values, whose attention is torch's."""
    return model_class._from_config(config, attn_implementation="sdpa", **kwargs)


def bert(size: Size, max_length: int = 512) -> tuple[nn.Module, nn.Module]:
    """Ours of recipe `bert` and BertModel, with the same weights."""
    sizes = {**size.shape, "max_position_embeddings": max_length}
    their_config = BertConfig(**sizes, intermediate_size=4 * size.hidden_size, **BERT_NO_DROPOUT)
    theirs = from_config(BertModel, their_config, add_pooling_layer=False)
    config = BlendEncoderConfig.from_recipe("bert", **sizes, **NO_DROPOUT, classifier_dropout=0.0)
    ours = from_config(BlendEncoderModel, config)
    ours.load_state_dict(convert_state_dict(theirs))
    return ours, theirs


def bert_classifiers(size: Size) -> tuple[nn.Module, nn.Module]:
    """The same, as classifiers."""
    base, theirs = bert(size)
    classifier = Classifier(theirs, size.hidden_size)
    ours = from_config(BlendEncoderForSequenceClassification, base.config)
    ours.model.load_state_dict(convert_state_dict(theirs))
    ours.score.load_state_dict(classifier.score.state_dict())
    return ours, classifier


def modern_bert(size: Size, max_length: int = 512, layer_types: list[str] | None = None, **options: Any) -> nn.Module:
    """ModernBertModel, with as many parameters a layer; by default two of three layers slide, as published."""
    sizes = {**size.shape, "max_position_embeddings": max_length, "intermediate_size": size.gated_size}
    config = ModernBertConfig(**sizes, **SPECIAL, cls_token_id=1, sep_token_id=2, **options)
    if layer_types is not None:
        # Afterwards: transformers 5.16 makes no config in which all layers are of one kind.
        config.layer_types = layer_types
    return from_config(ModernBertModel, config)


def x_transformers(size: Size, max_length: int = 512) -> nn.Module | None:
    """The encoder of x-transformers, or None, with a word on it, where that is not installed."""
    if find_spec("x_transformers") is None:
        print("x-transformers is not installed (extra `bench`): skipped")
        return None
    return XTransformersEncoder(size, max_length)


def gpt2(size: Size) -> tuple[nn.Module, nn.Module]:
    """Ours of recipe `gpt2` and GPT2LMHeadModel, with the same weights."""
    dropouts = {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}
    theirs = from_config(GPT2LMHeadModel, GPT2Config(**size.shape, **SPECIAL, **dropouts))
    config = BlendDecoderConfig.from_recipe("gpt2", **size.shape, **SPECIAL, **NO_DROPOUT)
    ours = from_config(BlendDecoderForCausalLM, config)
    ours.load_state_dict(convert_state_dict(theirs))
    return ours, theirs


def marian(size: Size) -> tuple[nn.Module, nn.Module]:
    """Ours of recipe `transformer` and MarianMTModel, with the same weights."""
    config = MarianConfig(**parts(size), activation_function="relu", scale_embedding=True)
    theirs = from_config(MarianMTModel, config)
    return of_recipe("transformer", size, theirs), theirs


def bart(size: Size) -> tuple[nn.Module, nn.Module]:
    """Ours of recipe `bart` and BartForConditionalGeneration, with the same weights."""
    theirs = from_config(BartForConditionalGeneration, BartConfig(**parts(size), forced_bos_token_id=None))
    return of_recipe("bart", size, theirs), theirs


def parts(size: Size) -> dict[str, Any]:
    """What the configurations of Marian and BART call a size; start tokens; no dropout."""
    of_each = {
        "layers": size.num_hidden_layers,
        "attention_heads": size.shape["num_attention_heads"],
        "ffn_dim": 4 * size.hidden_size,
    }
    each = {f"{part}_{name}": value for part in ("encoder", "decoder") for name, value in of_each.items()}
    start = {"decoder_start_token_id": 1, "forced_eos_token_id": None}
    return {"vocab_size": size.vocab_size, "d_model": size.hidden_size, **each, **SPECIAL, **start, **PART_NO_DROPOUT}


def of_recipe(recipe: str, size: Size, theirs: nn.Module) -> nn.Module:
    """Our encoder-decoder of a recipe, with their weights."""
    config = BlendEncoderDecoderConfig.from_recipe(
        recipe, **size.shape, **SPECIAL, **NO_DROPOUT, decoder_start_token_id=1
    )
    ours = from_config(BlendEncoderDecoderForSeq2SeqLM, config)
    ours.load_state_dict(convert_state_dict(theirs))
    return ours


def long_models(
    size: Size, architecture: str, attention: str, max_length: int, sliding_window: int
) -> dict[str, nn.Module]:
    """Ours of the default recipe with `full` or `sliding` attention in all layers; beside an encoder, a peer's."""
    layers: dict[str, Any] = {"layer_types": [f"{attention}_attention"] * size.num_hidden_layers}
    window = {"sliding_window": sliding_window} if attention == "sliding" else {}
    config_class, model_class = STACKS[architecture]
    config = config_class.from_recipe("default", **size.shape, **NO_DROPOUT, **layers, **window)
    models = {OURS: from_config(model_class, config)}
    if architecture == "encoder" and attention == "full":
        models["BertModel"] = bert(size, max_length)[1]
    elif architecture == "encoder":
        # Theirs counts both sides of the window.
        models["ModernBertModel"] = modern_bert(size, max_length, **layers, local_attention=2 * sliding_window)
    return models


STACKS = {
    "encoder": (BlendEncoderConfig, BlendEncoderModel),
    "decoder": (BlendDecoderConfig, BlendDecoderModel),
}
LANGUAGE_MODELS: dict[str, Callable[[Size], tuple[nn.Module, nn.Module]]] = {
    "transformer": marian,
    "bart": bart,
    "gpt2": gpt2,
}


@torch.inference_mode()
def check_agreement(systems: list[System]) -> None:
    """Raises AssertionError where a system that has our weights gives other outputs than ours, in float32."""
    for system in systems[1:]:
        if system.equals_ours:
            expected = real_outputs(systems[0])
            error = (real_outputs(system) - expected).abs().max() / expected.std()
            assert error < TOLERANCE, f"{system.name} differs from ours by {error:.2g} of the outputs' deviation"


def real_outputs(system: System) -> torch.Tensor:
    """Logits or hidden states of the first batch, without those of padding."""
    batch = system.batches[0]
    output = system.model.eval()(**batch)
    values = output["logits" if "logits" in output else "last_hidden_state"]
    if values.dim() == 2:
        return values
    return values[batch["labels"] != -100 if "labels" in batch else batch["attention_mask"].bool()]
