"""Our model and its peers: models of one size, with equal weights if the recipe is the peer's, and their batches."""

import copy
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
    T5Config,
    T5ForConditionalGeneration,
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
    """Size of a model and of its workload.

    Args:
        num_hidden_layers: number of layers; in an encoder-decoder, of each part.
        hidden_size: hidden size of all layers; the head dimension is 64.
        batch_rows: rows per batch.
        num_batches: batches per repetition.
        repeats: number of repetitions.
        vocab_size: vocabulary size; the default is BERT's.
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
        """The size as fields that most configurations have."""
        return {
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": max(1, self.hidden_size // 64),
        }

    @property
    def gated_size(self) -> int:
        """Intermediate size of a gated network with about the parameters of a plain one of 4 × hidden_size."""
        return -(-self.hidden_size * 8 // 3 // 32) * 32


@dataclass
class System:
    """A model with its batches.

    Args:
        name: OURS, or the peer's class and the form of its batches.
        model: the model; two systems may share one, with different batches.
        batches: the rows of the workload, in the form that this model gets.
        equals_ours: whether its outputs must equal those of our model, token by token.
    """

    name: str
    model: nn.Module
    batches: list[Batch] = field(default_factory=list)
    equals_ours: bool = False


class Classifier(nn.Module):
    """A peer's base model with the head of ours: the first token's vector, projected onto the labels."""

    def __init__(self, model: nn.Module, hidden_size: int, num_labels: int = 2):
        super().__init__()
        self.model = model
        self.score = nn.Linear(hidden_size, num_labels)

    def forward(self, labels: torch.Tensor, **batch: torch.Tensor) -> SequenceClassifierOutput:
        """Loss, and logits (B, num_labels)."""
        logits = self.score(self.model(**batch).last_hidden_state[:, 0])
        return SequenceClassifierOutput(loss=nn.functional.cross_entropy(logits, labels), logits=logits)


class XTransformersEncoder(nn.Module):
    """The encoder of x-transformers, with the call signature of transformers."""

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
        # Masked states are float32, which cannot be multiplied by bfloat16 matrices without autocast.
        with torch.autocast(input_ids.device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
            states = self.model(input_ids, mask=attention_mask.bool(), return_embeddings=True)
        return BaseModelOutput(last_hidden_state=states.to(dtype))


def from_config(model_class: type[PreTrainedModel], config: Any, **kwargs: Any) -> PreTrainedModel:
    """A randomly initialized model with sdpa attention."""
    return model_class._from_config(config, attn_implementation="sdpa", **kwargs)


def bert(size: Size, max_length: int = 512) -> tuple[nn.Module, nn.Module]:
    """Our model with recipe `bert`, and BertModel with the same weights."""
    sizes = {**size.shape, "max_position_embeddings": max_length}
    their_config = BertConfig(**sizes, intermediate_size=4 * size.hidden_size, **BERT_NO_DROPOUT)
    theirs = from_config(BertModel, their_config, add_pooling_layer=False)
    config = BlendEncoderConfig.from_recipe("bert", **sizes, **NO_DROPOUT, classifier_dropout=0.0)
    ours = from_config(BlendEncoderModel, config)
    ours.load_state_dict(convert_state_dict(theirs))
    return ours, theirs


def bert_classifiers(size: Size) -> tuple[nn.Module, nn.Module]:
    """As bert(), but sequence classifiers."""
    base, theirs = bert(size)
    classifier = Classifier(theirs, size.hidden_size)
    ours = from_config(BlendEncoderForSequenceClassification, base.config)
    ours.model.load_state_dict(convert_state_dict(theirs))
    ours.score.load_state_dict(classifier.score.state_dict())
    return ours, classifier


def modern_bert(size: Size, max_length: int = 512, layer_types: list[str] | None = None, **options: Any) -> nn.Module:
    """ModernBertModel with as many parameters per layer; by default two of three layers slide, as published."""
    sizes = {**size.shape, "max_position_embeddings": max_length, "intermediate_size": size.gated_size}
    config = ModernBertConfig(**sizes, **SPECIAL, cls_token_id=1, sep_token_id=2, **options)
    if layer_types is not None:
        # Set afterwards: transformers 5.16 rejects layer_types of one kind in the constructor.
        config.layer_types = layer_types
    return from_config(ModernBertModel, config)


def has_flash_attention() -> bool:
    """Whether the package flash-attn is installed, and a GPU for it."""
    return torch.cuda.is_available() and find_spec("flash_attn") is not None


def with_flash_attention(ours: PreTrainedModel) -> PreTrainedModel:
    """A copy of our model with the kernels of the package flash-attn in place of torch's own."""
    model = copy.deepcopy(ours)
    model.set_attn_implementation("flash_attention_2")
    return model


def x_transformers(size: Size, max_length: int = 512) -> nn.Module | None:
    """The encoder of x-transformers, or None with a printed message if it is not installed."""
    if find_spec("x_transformers") is None:
        print("x-transformers is not installed (extra `bench`): skipped")
        return None
    return XTransformersEncoder(size, max_length)


def gpt2(size: Size) -> tuple[nn.Module, nn.Module]:
    """Our model with recipe `gpt2`, and GPT2LMHeadModel with the same weights."""
    dropouts = {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}
    theirs = from_config(GPT2LMHeadModel, GPT2Config(**size.shape, **SPECIAL, **dropouts))
    config = BlendDecoderConfig.from_recipe("gpt2", **size.shape, **SPECIAL, **NO_DROPOUT)
    ours = from_config(BlendDecoderForCausalLM, config)
    ours.load_state_dict(convert_state_dict(theirs))
    return ours, theirs


def marian(size: Size) -> tuple[nn.Module, nn.Module]:
    """Our model with recipe `transformer`, and MarianMTModel with the same weights."""
    config = MarianConfig(**peer_config_fields(size), activation_function="relu", scale_embedding=True)
    theirs = from_config(MarianMTModel, config)
    return our_encoder_decoder("transformer", size, theirs), theirs


def bart(size: Size) -> tuple[nn.Module, nn.Module]:
    """Our model with recipe `bart`, and BartForConditionalGeneration with the same weights."""
    theirs = from_config(
        BartForConditionalGeneration, BartConfig(**peer_config_fields(size), forced_bos_token_id=None)
    )
    return our_encoder_decoder("bart", size, theirs), theirs


def t5(size: Size) -> tuple[nn.Module, nn.Module]:
    """Our model with recipe `t5`, and T5ForConditionalGeneration with the same weights."""
    config = T5Config(
        vocab_size=size.vocab_size,
        d_model=size.hidden_size,
        d_ff=size.gated_size,
        d_kv=size.hidden_size // size.shape["num_attention_heads"],
        num_layers=size.num_hidden_layers,
        num_heads=size.shape["num_attention_heads"],
        dropout_rate=0.0,
        **SPECIAL,
        decoder_start_token_id=1,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
    )
    theirs = from_config(T5ForConditionalGeneration, config)
    return our_encoder_decoder("t5", size, theirs), theirs


def bert_with_biases(size: Size) -> nn.Module:
    """Our sequence classifier with recipe `bert` and biases of attention by distance, as MPNet has them."""
    biases = {"relative_attention_num_buckets": 32}
    config = BlendEncoderConfig.from_recipe("bert", **size.shape, **biases, **NO_DROPOUT, classifier_dropout=0.0)
    return from_config(BlendEncoderForSequenceClassification, config)


def peer_config_fields(size: Size) -> dict[str, Any]:
    """The fields of Marian's and BART's configurations for a size, with start tokens and no dropout."""
    part_sizes = {
        "layers": size.num_hidden_layers,
        "attention_heads": size.shape["num_attention_heads"],
        "ffn_dim": 4 * size.hidden_size,
    }
    each = {f"{part}_{name}": value for part in ("encoder", "decoder") for name, value in part_sizes.items()}
    start = {"decoder_start_token_id": 1, "forced_eos_token_id": None}
    return {"vocab_size": size.vocab_size, "d_model": size.hidden_size, **each, **SPECIAL, **start, **PART_NO_DROPOUT}


def our_encoder_decoder(recipe: str, size: Size, theirs: nn.Module) -> nn.Module:
    """Our encoder-decoder with a recipe and the weights of `theirs`."""
    config = BlendEncoderDecoderConfig.from_recipe(
        recipe, **size.shape, **SPECIAL, **NO_DROPOUT, decoder_start_token_id=1
    )
    ours = from_config(BlendEncoderDecoderForSeq2SeqLM, config)
    ours.load_state_dict(convert_state_dict(theirs))
    return ours


def long_models(
    size: Size, architecture: str, attention: str, max_length: int, sliding_window: int
) -> dict[str, nn.Module]:
    """Our default model with `full` or `sliding` attention in all layers, and for an encoder a peer, by name."""
    layers: dict[str, Any] = {"layer_types": [f"{attention}_attention"] * size.num_hidden_layers}
    window = {"sliding_window": sliding_window} if attention == "sliding" else {}
    config_class, model_class = STACKS[architecture]
    config = config_class.from_recipe("default", **size.shape, **NO_DROPOUT, **layers, **window)
    models = {OURS: from_config(model_class, config)}
    if architecture == "encoder" and attention == "full":
        models["BertModel"] = bert(size, max_length)[1]
    elif architecture == "encoder":
        # local_attention counts both sides of the window.
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
    "t5": t5,
}


@torch.inference_mode()
def check_agreement(systems: list[System]) -> None:
    """Raises AssertionError if a system with equals_ours has other outputs than the first system, in float32."""
    for system in systems[1:]:
        if system.equals_ours:
            expected = real_outputs(systems[0])
            error = (real_outputs(system) - expected).abs().max() / expected.std()
            assert error < TOLERANCE, (
                f"{system.name} differs from ours by {error:.2g} of the outputs' standard deviation"
            )


def real_outputs(system: System) -> torch.Tensor:
    """Logits or hidden states of the first batch, without padding."""
    batch = system.batches[0]
    output = system.model.eval()(**batch)
    values = output["logits" if "logits" in output else "last_hidden_state"]
    if values.dim() == 2:
        return values
    return values[batch["labels"] != -100 if "labels" in batch else batch["attention_mask"].bool()]
