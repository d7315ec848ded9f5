"""What the tests share: no network, tiny models of every family and option, and batches in every form."""

import gc
import os
import tempfile

# Nothing that is imported or collected becomes garbage: to look for it takes as long as a third of all that.
gc.disable()
# What tests prepare of their data is not to be found again by others.
os.environ["HF_DATASETS_CACHE"] = tempfile.mkdtemp()
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import ast
import copy
import functools
import itertools
import json
import random
import shutil
import signal
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import CompletedProcess
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
import transformers
from huggingface_hub import constants
from huggingface_hub.utils import _http
from hypothesis import HealthCheck, settings
from loopback_hub import LoopbackHub
from template import TEMPLATE
from torch import nn
from transformers import AutoModel

import seqblend
from seqblend import FAMILIES, BlendDecoderConfig, BlendEncoderConfig, BlendEncoderDecoderConfig
from seqblend.configuration.checks import literal_values
from seqblend.configuration.recipe_config import ATTENTION_FIELDS, SELF_ATTENTION_FIELDS
from seqblend.hub_card import verify as verifying
from seqblend.modeling.encoder import AffixEmbedding
from seqblend.modeling.heads import ForSequenceClassification, ForTokenClassification

torch.set_num_threads(1)
# Of tests that are run in the background a shell may have said that they do not listen.
signal.signal(signal.SIGINT, signal.default_int_handler)
# No test fails because the machine is busy; and a fixture that all examples share may be of a function.
BUSY = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
settings.register_profile("busy", deadline=None, suppress_health_check=BUSY)
settings.load_profile("busy")

# The root has an __init__.py, so pytest takes it for a package of the folder's name and would import it a second time;
# every Auto class would then be registered with a second copy of our classes.
sys.modules.setdefault(Path(__file__).parents[1].name, seqblend)

# The beginning of a script for which the package is not installed.
WITHOUT_PACKAGE = """
import sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "seqblend":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Hidden())
try:
    import seqblend
    sys.exit("the package is in sight")
except ModuleNotFoundError:
    pass
"""


def run_without_package(script: str, given: Any, directory: Path, **variables: str) -> CompletedProcess[str]:
    """Run a script to its end where the package is not installed.

    Args:
        script: Python code.
        given: what it reads, as JSON, from sys.stdin.
        directory: where it runs, and has its caches.
        variables: of its environment, besides those that are set here.
    """
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_HOME": str(directory / "home"), "HF_MODULES_CACHE": str(directory / "modules"), **variables}
    done = TEMPLATE.run(WITHOUT_PACKAGE + script, cwd=directory, env=environment, given=json.dumps(given))
    assert not done.returncode, done.stderr[-3000:]
    return done


@contextmanager
def forked_processes() -> Iterator[None]:
    """Processes of hub_card/verify.py are forks of the template: they are as empty, and begin with torch."""

    def run(command: list[str], cwd: Path, env: dict[str, str], input: str | None, **_: Any) -> CompletedProcess[str]:
        _, file, *arguments = command
        script = f"import runpy; runpy.run_path({file!r}, run_name='__main__')"
        return TEMPLATE.run(script, *arguments, cwd=cwd, env=env, given=input or "")

    with mock.patch.object(verifying, "subprocess", SimpleNamespace(run=run)):
        yield


@pytest.fixture
def forked():
    with forked_processes():
        yield


VOCAB, LABELS = 99, 3
SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 32,
    "initializer_range": 0.5,
    "attention_dropout": 0.0,
    "hidden_dropout": 0.0,
    "classifier_dropout": 0.0,
    "num_labels": LABELS,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
# The second layer slides.
SLIDING = {"layer_types": ["full_attention", "sliding_attention"], "sliding_window": 3}

# What asks for the padded form.
DENSE = {"output_hidden_states": True}

# Every value of the fields whose every combination is tested, as the config's annotations have them.
CHOICES = {
    name: literal_values(BlendEncoderConfig.__dataclass_fields__[name].type)[0]
    for name in ("norm_type", "norm_position", "position_type", "feed_forward_type")
}
ATTENTION_PRODUCT = [dict(zip(CHOICES, values, strict=True)) for values in itertools.product(*CHOICES.values())]
MIXERS = ["rnn", "gru", "lstm"]


def pairwise(product: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A few of the combinations, in which each two values of different fields still meet."""
    pairs = [set(itertools.combinations(options.items(), 2)) for options in product]
    missing, chosen = set().union(*pairs), []
    while missing:
        best = max(range(len(product)), key=lambda index: len(pairs[index] & missing))
        chosen.append(product[best])
        missing -= pairs[best]
    return chosen


# Of the recurrent mixers a few combinations only: they differ from attention in one module.
RECURRENT = pairwise(
    [
        {**options, "mixer_type": mixer}
        for options in ATTENTION_PRODUCT
        for mixer in MIXERS
        if options["position_type"] != "rotary"
    ]
)
PRODUCT = ATTENTION_PRODUCT + RECURRENT
ATTENTION_PAIRWISE = pairwise(ATTENTION_PRODUCT)
PAIRWISE = ATTENTION_PAIRWISE + RECURRENT
CONFIGS = {"encoder": BlendEncoderConfig, "decoder": BlendDecoderConfig, "encoder-decoder": BlendEncoderDecoderConfig}
BASES = [models[AutoModel] for models in FAMILIES.values()]
HEADS = [model for models in FAMILIES.values() for auto, model in models.items() if auto is not AutoModel]


def named(value: Any) -> str | None:
    """A test's id: a class's name, or an options' values."""
    if isinstance(value, dict):
        return "-".join(str(each) for each in value.values()) or "default"
    return getattr(value, "__name__", None)


def every_pairing(**factors: list[Any]) -> pytest.MarkDecorator:
    """Parametrize by a few of the combinations, in which each two values of different factors still meet."""
    product = itertools.product(*(range(len(values)) for values in factors.values()))
    chosen = pairwise([dict(zip(factors, indexes, strict=True)) for indexes in product])
    rows = [[factors[name][index] for name, index in each.items()] for each in chosen]
    return pytest.mark.parametrize(list(factors), rows, ids=named)


every_config = pytest.mark.parametrize("config_class", CONFIGS.values(), ids=CONFIGS.keys())
every_base = pytest.mark.parametrize("model_class", BASES, ids=named)
every_head = pytest.mark.parametrize("model_class", HEADS, ids=named)
every_model = pytest.mark.parametrize("model_class", BASES + HEADS, ids=named)
every_option = pytest.mark.parametrize("options", PRODUCT, ids=named)
every_attention_pair = pytest.mark.parametrize("options", ATTENTION_PAIRWISE, ids=named)
every_pair = pytest.mark.parametrize("options", PAIRWISE, ids=named)
KERNELS = ["eager", "sdpa"]
every_kernel = pytest.mark.parametrize("attention", KERNELS)


class RootIsNoTestPackage:
    """The repository's root is a package, and pytest would import it once more, under the name of its folder."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_collect_directory(self, path, parent):
        return pytest.Dir.from_parent(parent, path=path)


class Outcomes:
    """Writes a line of JSON for each test as it ends, so that a run that is cut off tells what it did."""

    def __init__(self, path):
        self.path = path

    def pytest_runtest_logreport(self, report):
        if report.when == "call" or report.outcome != "passed":
            row = {"test": report.nodeid, "outcome": report.outcome, "seconds": round(report.duration, 2)}
            if report.outcome != "passed":
                row["why"] = report.longreprtext[-2000:] or str(report.longrepr)[-2000:]
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")


def pytest_addoption(parser):
    parser.addoption("--outcomes", type=Path, metavar="FILE", help="a line of JSON for each test as it ends")


def pytest_configure(config):
    config.pluginmanager.register(RootIsNoTestPackage())
    # The processes of xdist report to the first one.
    if config.option.outcomes is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Outcomes(config.option.outcomes))


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session):
    gc.enable()


def pytest_unconfigure(config):
    TEMPLATE.stop()
    shutil.rmtree(os.environ["HF_DATASETS_CACHE"], ignore_errors=True)


@pytest.fixture(scope="module", autouse=True)
def frozen_imports():
    """The Trainer collects garbage after each run; going through all that was imported takes it 0.3 seconds."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def seed():
    """As by set_seed(0), which besides takes down the stack for every kind of accelerator, if there is none."""
    random.seed(0)
    np.random.seed(0)
    torch.default_generator.manual_seed(0)


# Tokens of the loopback Hub's users, of whom the first is logged in.
WRITER, READER = "hf_writer_0123456789", "hf_reader_0123456789"
USERS = {WRITER: "someone", READER: "other"}


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A Hub that huggingface_hub and transformers take for theirs, with the writer logged in."""
    with LoopbackHub(USERS) as hub:
        for name, value in hub.environment(WRITER).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants._HF_DEFAULT_ENDPOINT, hub.endpoint)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(transformers.utils.hub, "_hf_api", None)
        monkeypatch.setattr(_http, "time", SimpleNamespace(sleep=lambda seconds: None))
        yield hub


def tiny_config(config_class: type, **options: Any) -> Any:
    """A config of the sizes above; for an encoder-decoder, an option goes to the parts that have it.

    A recurrent mixer does without the options that it refuses.
    """
    start = {"decoder_start_token_id": 1} if config_class is BlendEncoderDecoderConfig else {}
    options = {**SIZES, **start, **options}
    if options.get("mixer_type", "attention") != "attention":
        refused = {*ATTENTION_FIELDS, *SELF_ATTENTION_FIELDS}
        options = {name: value for name, value in options.items() if name not in refused}
    return copy.deepcopy(make_config(config_class, repr(options)))


@functools.cache  # it takes a third of the time that a model takes, and there are few of them for thousands of tests
def make_config(config_class: type, options: str) -> Any:
    """A config of options that are written as Python writes them."""
    return config_class.from_recipe(**ast.literal_eval(options))


def tiny_model(model_class: type, attention: str = "sdpa", **options: Any) -> Any:
    """A model in float64 and evaluation mode, in which no bias is 0 and no norm's weight is 1."""
    model = model_class(tiny_config(model_class.config_class, **options)).double().eval()
    model.set_attn_implementation(attention)
    fill(model, SIZES["initializer_range"])
    for module in model.modules():
        if isinstance(module, AffixEmbedding):
            module.read_vocabulary(Spelling())
    return model


class Spelling:
    """A tokenizer of which only the tokens matter: random letters, half of them inside words."""

    all_special_ids = (0, 1, 2)
    backend_tokenizer = SimpleNamespace(model=SimpleNamespace(continuing_subword_prefix="##"))

    def __init__(self, size: int = VOCAB):
        drawn = random.Random(0)
        self.tokens = ["##" * (index % 2) + "".join(drawn.choices("abcdef", k=1 + index % 6)) for index in range(size)]

    def __len__(self) -> int:
        return len(self.tokens)

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        return [self.tokens[index] for index in ids]


@torch.no_grad()
def fill(model: nn.Module, std: float) -> None:
    """Fill each parameter by its name, so that two models are equal in what they both have."""
    for name, parameter in model.named_parameters():
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        parameter.normal_(0.0, std, generator=generator)
        if name.endswith("norm.weight"):
            parameter += 1


def is_encoder_decoder(model_class: type) -> bool:
    return model_class.config_class is BlendEncoderDecoderConfig


def draw(model_class: type, lengths: list[int], labels: bool = True) -> list[dict[str, torch.Tensor]]:
    """Rows of random tokens for the model, one for each length, with labels if it has a head.

    What belongs to a token has one dimension, what belongs to the row none (or two). An encoder-decoder's targets have
    other lengths than its sources; its classifiers read no target.
    """
    name, rows = model_class.__name__, []
    for length, target_length in zip(lengths, [max(1, n - 2) for n in reversed(lengths)], strict=True):
        row = {"input_ids": torch.randint(3, VOCAB, (length,))}
        target = torch.randint(3, VOCAB, (target_length,))
        if is_encoder_decoder(model_class) and "Classification" not in name:
            row["decoder_input_ids"] = torch.cat((torch.tensor([1]), target[:-1]))
        if "SequenceClassification" in name:
            row["labels"] = torch.randint(LABELS, ())
        elif "TokenClassification" in name:
            row["labels"] = some(torch.randint(LABELS, (length,)))
        elif "Seq2SeqLM" in name:
            row["labels"] = target
        elif name.endswith("LM"):
            row["labels"] = some(row["input_ids"])
            row["labels"][:1] = -100  # nothing is before it to tell it from
        if not labels:
            row.pop("labels", None)
        rows.append(row)
    return rows


def some(labels: torch.Tensor) -> torch.Tensor:
    """Labels of which every third is ignored."""
    return labels.masked_fill(torch.arange(len(labels)) % 3 == 1, -100)


def joined(column: list[torch.Tensor]) -> torch.Tensor:
    """What belongs to rows: one number each, or (1, C)."""
    return torch.cat(column) if column[0].dim() else torch.stack(column)


def padded(rows: list[dict[str, torch.Tensor]], side: str = "right", extra: int = 0) -> dict[str, torch.Tensor]:
    """A batch [B, T], with masks; padding is of any token."""
    batch = {}
    for name in rows[0]:
        column = [row[name] for row in rows]
        if column[0].dim() != 1:
            batch[name] = joined(column)
            continue
        width = max(map(len, column)) + extra
        lengths = torch.tensor([len(values) for values in column])[:, None]
        places = torch.arange(width)[None]
        real = places >= width - lengths if side == "left" else places < lengths
        batch[name] = (
            torch.randint(3, VOCAB // 2, real.shape) if name.endswith("ids") else torch.full(real.shape, -100)
        )
        batch[name][real] = torch.cat(column)
        if name.endswith("input_ids"):
            batch[name.replace("input_ids", "attention_mask")] = real.long()
    return batch


def flattened(rows: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """A batch [1, N] without padding, with positions that restart at each sequence."""
    batch = {}
    for name in rows[0]:
        column = [row[name] for row in rows]
        batch[name] = torch.cat(column)[None] if column[0].dim() == 1 else joined(column)
        if name.endswith("input_ids"):
            positions = torch.cat([torch.arange(len(values)) for values in column])[None]
            batch[name.replace("input_ids", "position_ids")] = positions
    return batch


@contextmanager
def calls_of(module: nn.Module) -> Iterator[list[Any]]:
    """What a module is called with; not by a hook or a forward of its own, for which a batch stays padded."""
    calls: list[Any] = []
    forward = type(module).forward

    @functools.wraps(forward)
    def recorded(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if self is module:
            calls.append(mock.call(*args, **kwargs))
        return forward(self, *args, **kwargs)

    with mock.patch.object(type(module), "forward", recorded):
        yield calls


def real_rows(batch: dict[str, torch.Tensor], tensor: torch.Tensor) -> torch.Tensor:
    """Of a padded batch's output (B, T, …) the real tokens (N, …), those of the target if there is one."""
    return tensor[batch.get("decoder_attention_mask", batch["attention_mask"]).bool()]


def assert_close(actual: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-10, what: str = "") -> None:
    """The largest error is within `tolerance` of the expected values' standard deviation (of a scalar: its size)."""
    assert actual.shape == expected.shape, f"{what} shape {tuple(actual.shape)} instead of {tuple(expected.shape)}"
    error = (actual - expected).abs().max().item()
    scale = (expected.std() if expected.numel() > 1 else expected.abs()).item()
    assert error <= tolerance * scale, f"{what} max error {error:.3g} > {tolerance:.0e} of the std {scale:.3g}"


def output_of(model: nn.Module, batch: dict[str, torch.Tensor], **asked) -> torch.Tensor:
    """Logits or hidden states of the real tokens, or of the rows, without a cache."""
    if not isinstance(model, (ForSequenceClassification, ForTokenClassification)):
        asked = {"use_cache": False, **asked}
    output = model(**batch, **asked)
    tensor = output.logits if "logits" in output else output.last_hidden_state
    return tensor if tensor.dim() == 2 else real_rows(batch, tensor)


def gradients(model: nn.Module, batch: dict[str, torch.Tensor], **asked) -> dict[str, torch.Tensor]:
    """Of the loss if there are labels, else of a fixed random sum of the output, with respect to each parameter."""
    model.zero_grad()
    if "labels" in batch:
        model(**batch, **asked).loss.backward()
    else:
        output = output_of(model, batch, **asked)
        (output * torch.randn(output.shape, generator=torch.Generator().manual_seed(0)).to(output)).sum().backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def assert_equal_gradients(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance=1e-9) -> None:
    assert actual.keys() == expected.keys()
    largest = max(gradient.abs().max() for gradient in expected.values())
    for name, gradient in expected.items():
        if gradient.abs().max() > 1e-9 * largest:  # a key's bias has a gradient of rounding errors only
            assert_close(actual[name], gradient, tolerance, what=name)
