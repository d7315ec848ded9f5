"""What servers ask of a model: vLLM's transformers backend, point by point, and transformers' continuous batching."""

import re

import pytest
import torch
from conftest import SLIDING, VOCAB, assert_close, every_attention_pair, every_kernel, named, tiny_model
from torch import nn
from transformers import AutoConfig, ContinuousBatchingConfig, GenerationConfig
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from seqblend import BlendDecoderForCausalLM, BlendDecoderModel, BlendEncoderModel

LENGTHS = [7, 4, 1]

every_served = pytest.mark.parametrize("model_class", [BlendEncoderModel, BlendDecoderModel], ids=named)


class Instance:
    """Stands for a server's attention of one layer: it is given tokens, and knows by itself whose they are."""

    def __init__(self, lengths: list[int], num_heads: int):
        self.lengths = lengths
        self.num_heads = num_heads
        self.calls = []

    def __call__(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **call) -> torch.Tensor:
        """Queries (N, H · D), keys and values (N, K · D) give (N, H · D)."""
        self.calls.append(call)
        head_dim = query.shape[-1] // self.num_heads
        states = [tokens.unflatten(-1, (-1, head_dim)).split(self.lengths) for tokens in (query, key, value)]
        blended = [
            nn.functional.scaled_dot_product_attention(
                *(tokens.transpose(0, 1)[None] for tokens in sequence),
                scale=call["scaling"],
                is_causal=call["is_causal"],
                enable_gqa=True,
            )
            for sequence in zip(*states, strict=True)
        ]
        return torch.cat([tokens[0].transpose(0, 1).flatten(1) for tokens in blended])


def server_attention(module, query, key, value, attention_mask, *, scaling, attention_instances, **kwargs):
    """A kernel as a server registers it: tokens in, (N, H · D) out; the mask and the cache are the instance's."""
    assert attention_mask is None
    tokens = (states[0].transpose(0, 1).flatten(1) for states in (query, key, value))
    return attention_instances[module.layer_idx](*tokens, scaling=scaling, is_causal=module.is_causal), None


@pytest.fixture
def server():
    """The name of a kernel that transformers has not heard of before."""
    ALL_ATTENTION_FUNCTIONS.register("server", server_attention)
    yield "server"
    ALL_ATTENTION_FUNCTIONS._global_mapping.pop("server")


def batch_of(lengths: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens (N) of several sequences, one after the other, and their positions (N)."""
    return torch.randint(3, VOCAB, (sum(lengths),)), torch.cat([torch.arange(length) for length in lengths])


@every_served
@every_attention_pair
@torch.no_grad()
def test_a_server_brings_its_own_attention(model_class, options, server):
    """As vLLM calls a model: what goes to the kernel arrives, and what the kernel gives goes on."""
    input_ids, position_ids = batch_of(LENGTHS)
    model = tiny_model(model_class, **options)
    expected = [model(ids[None], use_cache=False).last_hidden_state[0] for ids in input_ids.split(LENGTHS)]
    model.set_attn_implementation(server)
    config = model.config
    instances = {index: Instance(LENGTHS, config.num_attention_heads) for index in range(config.num_hidden_layers)}
    output = model(
        input_ids=input_ids[None],
        inputs_embeds=None,
        use_cache=False,
        position_ids=position_ids[None],
        attention_instances=instances,
        return_dict=False,
    )
    assert isinstance(output, tuple) and len(output) == 1
    assert_close(output[0][0], torch.cat(expected))
    call = {"scaling": config.attention_scaling, "is_causal": model_class is BlendDecoderModel}
    assert [instance.calls for instance in instances.values()] == [[call]] * config.num_hidden_layers


@every_served
def test_a_server_finds_the_base_model(model_class, tmp_path):
    """vLLM opens `auto_map.AutoModel`, asks its class, and takes its layers from its one ModuleList."""
    model = tiny_model(model_class)
    model.save_pretrained(tmp_path)
    class_in_file = AutoConfig.from_pretrained(tmp_path).auto_map["AutoModel"]
    assert class_in_file.endswith(f".{model_class.__name__}")
    assert model_class.is_backend_compatible()
    assert model.get_decoder() is model
    assert model.get_input_embeddings() is model.embed_tokens
    assert [name for name, module in model.named_modules() if isinstance(module, nn.ModuleList)] == ["layers"]
    # Where one module says False, vLLM takes the model for an encoder.
    told = {module.is_causal for module in model.modules() if hasattr(module, "is_causal")}
    assert told == {model_class is BlendDecoderModel}


# Dimension of an nn.Linear's weight that is divided among devices.
DIVIDED = {"colwise": 0, "rowwise": 1}


def style_of(model: nn.Module, name: str) -> str:
    """How the model's plan divides a projection. KeyError: not at all."""
    return next(style for pattern, style in model.tp_plan.items() if re.fullmatch(pattern.replace("*", r"\d+"), name))


@every_served
@pytest.mark.parametrize("kind", ["plain", "gated"])
def test_the_plan_of_tensor_parallelism_is_of_columns_and_rows(model_class, kind):
    model = tiny_model(model_class, feed_forward_type=kind)
    styles = {name: style_of(model, name) for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    assert {name.rsplit(".")[-1]: style for name, style in styles.items()} == {
        **dict.fromkeys(["q_proj", "k_proj", "v_proj", "up_proj"], "colwise"),
        **({"gate_proj": "colwise"} if kind == "gated" else {}),
        **dict.fromkeys(["o_proj", "down_proj"], "rowwise"),
    }


def share_of(linear: nn.Linear, style: str, rank: int, size: int) -> nn.Linear:
    """What one of `size` devices has of a projection without bias."""
    weight = linear.weight.chunk(size, DIVIDED[style])[rank]
    share = nn.Linear(*reversed(weight.shape), bias=False, dtype=weight.dtype)
    share.weight = nn.Parameter(weight.clone())
    return share


@every_served
@every_kernel
@torch.no_grad()
def test_the_shares_of_two_devices_add_up(model_class, attention):
    """Each device has half of the heads and of the intermediate features, and the layer's output is the sum."""
    states = {}

    def remember(name):
        def hook(module, args, kwargs, output):
            states[name] = (args, kwargs, output[0] if isinstance(output, tuple) else output)

        return hook

    model = tiny_model(model_class, attention)
    for name in ("self_attn", "mlp"):
        getattr(model.layers[0], name).register_forward_hook(remember(name), with_kwargs=True)
    model(torch.randint(3, VOCAB, (2, 7)), use_cache=False)
    outputs = dict(states)
    for name, (args, kwargs, expected) in outputs.items():
        total = torch.zeros_like(expected)
        for rank in range(2):
            module = getattr(tiny_model(model_class, attention).layers[0], name)
            for part, linear in list(module.named_children()):
                if isinstance(linear, nn.Linear):
                    style = style_of(model, f"layers.0.{name}.{part}")
                    setattr(module, part, share_of(linear, style, rank, 2))
            output = module(*args, **kwargs)
            total += output[0] if isinstance(output, tuple) else output
        assert_close(total, expected, what=name)


@every_kernel
@pytest.mark.parametrize("sliding", [{}, SLIDING], ids=["full", "mixed"])
def test_continuous_batching_writes_what_generate_writes(attention, sliding):
    """More sequences than a batch has room for, of different lengths; a paged cache takes the place of ours."""
    model = tiny_model(BlendDecoderForCausalLM, attention, **sliding).float()
    prompts = [torch.randint(3, VOCAB, (length,)).tolist() for length in (9, 5, 1, 7)]
    asked = GenerationConfig(max_new_tokens=6, do_sample=False, eos_token_id=-1, pad_token_id=0)
    expected = [
        model.generate(torch.tensor([ids]), generation_config=asked)[0, len(ids) :].tolist() for ids in prompts
    ]
    room = ContinuousBatchingConfig(num_blocks=16, max_batch_tokens=16)
    outputs = model.generate_batch(prompts, generation_config=asked, continuous_batching_config=room)
    written = {tuple(output.prompt_ids): output.generated_tokens for output in outputs.values()}
    assert [written[tuple(ids)] for ids in prompts] == expected
