"""The benchmarks: what is run beside what, and the rows that come of it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import nn

from . import systems as models
from .lengths import (
    Batch,
    Corpus,
    Lengths,
    Row,
    fill,
    full_batches,
    group_by_length,
    natural_batches,
    num_tokens,
    pad,
    random_tokens,
)
from .systems import OURS, Size, System, check_agreement
from .timing import Work, alternate, floor, peak_memory, utilisation

Result = dict[str, Any]
Drawn = list[list[Lengths]]
FLOOR_REPEATS = 5
# Prompts are drawn in batches of so many, of which a smaller batch is the beginning.
PROMPTS = 32


@dataclass(frozen=True)
class Plan:
    """On what the benchmarks run, and how large.

    Args:
        device: where.
        dtypes: of weights and activations.
        sizes: by benchmark.
        corpora: `texts` and `pairs`, which the rows have their lengths from.
        new_tokens: how many `generate` writes in each row.
    """

    device: torch.device
    dtypes: tuple[torch.dtype, ...]
    sizes: dict[str, tuple[Size, ...]]
    corpora: dict[str, Corpus]
    new_tokens: int = 32


class Case(NamedTuple):
    """What is the same for all systems that are compared with each other.

    Args:
        benchmark: its name.
        recipe: of ours.
        size: of all.
        drawn: lengths of the rows of each batch.
    """

    benchmark: str
    recipe: str
    size: Size
    drawn: Drawn


def encoder_train(plan: Plan) -> list[Result]:
    """Training steps of a classifier of sequences, without the optimizer beside their floor."""
    rows = []
    for case in encoder_cases(plan, "encoder-train"):
        systems = encoders(case, train=True)
        for dtype in in_each_dtype(plan, systems):
            compared = compare(plan, case, dtype, training(systems))
            compared[0]["of_floor"] = round(of_floor(plan, systems[0], case.drawn), 3)
            rows += with_utilisation(plan, compared, systems[0].model, case.drawn)
    return rows


def encoder_infer(plan: Plan) -> list[Result]:
    """The last hidden state of a base model."""
    rows = []
    for case in encoder_cases(plan, "encoder-infer"):
        systems = encoders(case, train=False)
        for dtype in in_each_dtype(plan, systems):
            works = {system.name: partial(infer, system.model, system.batches) for system in systems}
            rows += compare(plan, case, dtype, works)
    return rows


def encoder_cases(plan: Plan, benchmark: str) -> Iterator[Case]:
    """For each size, batches with natural padding, and batches without any."""
    for size in plan.sizes[benchmark]:
        natural = natural_batches(plan.corpora["texts"].rows, size.num_batches, size.batch_rows)
        yield Case(benchmark, "bert", size, natural)
        yield Case(benchmark, "bert", size, full_batches(natural))


def encoders(case: Case, train: bool) -> list[System]:
    """Ours and its peers; without padding, BertModel alone."""
    size = case.size
    torch.manual_seed(0)
    ours, bert = models.bert_classifiers(size) if train else models.bert(size)
    rows = [[text(length, size, train) for (length,) in batch] for batch in case.drawn]
    batches = [pad(batch) for batch in rows]
    systems = [System(OURS, ours, batches), System("BertModel padded", bert, batches, equals_ours=True)]
    if fill(case.drawn) == 1:
        return systems
    systems.append(System("BertModel length-grouped", bert, [pad(batch) for batch in group_by_length(rows)]))
    others = {"ModernBertModel padded": models.modern_bert(size), "x-transformers padded": models.x_transformers(size)}
    for name, model in others.items():
        if model is not None:
            systems.append(System(name, models.Classifier(model, size.hidden_size) if train else model, batches))
    return systems


def text(length: int, size: Size, labelled: bool) -> Row:
    """A row of one text, and perhaps its class."""
    label = {"labels": torch.randint(2, ())} if labelled else {}
    return {"input_ids": random_tokens(length, size.vocab_size), **label}


def generate(plan: Plan) -> list[Result]:
    """As many new tokens for each prompt, greedily and with four beams."""
    rows = []
    for size in plan.sizes["generate"]:
        prompts = natural_batches(plan.corpora["texts"].rows, 1, PROMPTS)[0][: size.batch_rows]
        for recipe, peer, side in (("transformer", "MarianMTModel", "right"), ("gpt2", "GPT2LMHeadModel", "left")):
            torch.manual_seed(0)
            batch = pad([text(length, size, labelled=False) for (length,) in prompts], side)
            named = zip((OURS, f"{peer} padded"), models.LANGUAGE_MODELS[recipe](size), strict=True)
            systems = [System(name, model.eval(), [batch]) for name, model in named]
            rows += generations(plan, Case("generate", recipe, size, [prompts]), systems)
    return rows


def generations(plan: Plan, case: Case, systems: list[System]) -> list[Result]:
    """The rows of one model and its peer."""
    new_tokens, rows = plan.new_tokens, []
    for beams in (1, 4):
        sequences = [write(system, beams, new_tokens) for system in systems]
        assert torch.equal(*sequences), f"{systems[1].name} writes other sequences than ours with {beams} beams"
    for dtype in in_each_dtype(plan, systems):
        for beams in (1, 4):
            works = {system.name: partial(write, system, beams, new_tokens) for system in systems}
            total = new_tokens * case.size.batch_rows
            rows += compare(plan, case, dtype, works, total, batch=case.size.batch_rows, beams=beams)
    return rows


def write(system: System, beams: int, new_tokens: int) -> torch.Tensor:
    """What the model writes after its only batch, (B, T)."""
    lengths = {"min_new_tokens": new_tokens, "max_new_tokens": new_tokens}
    return system.model.generate(**system.batches[0], num_beams=beams, do_sample=False, **lengths)


def in_each_dtype(plan: Plan, systems: list[System]) -> Iterator[torch.dtype]:
    """Put the systems on the plan's device, in one dtype after the other. Equal ones must agree before, in float32."""
    check_agreement(systems)
    for dtype in plan.dtypes:
        for system in systems:
            system.model.to(plan.device, dtype)
            system.batches = [to_device(batch, plan.device) for batch in system.batches]
        yield dtype


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch where the model is."""
    return {name: tensor.to(device) for name, tensor in batch.items()}


def training(systems: list[System]) -> dict[str, Work]:
    """Steps over the batches of each system, with an optimizer for each model."""
    optimizers = {model: optimizer_of(model) for model in {system.model for system in systems}}
    return {
        system.name: partial(train, system.model.train(), system.batches, optimizers[system.model])
        for system in systems
    }


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    """Fused AdamW, after a step that changes nothing: its state is there, and is no part of a later step's memory."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-5, weight_decay=0.0, fused=True)
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    return optimizer


def train(model: nn.Module, batches: list[Batch], optimizer: torch.optim.Optimizer | None = None) -> None:
    """A step for each batch; without an optimizer, forward and backward alone."""
    for batch in batches:
        model(**batch).loss.backward()
        if optimizer is not None:
            optimizer.step()
        model.zero_grad()


@torch.inference_mode()
def infer(model: nn.Module, batches: list[Batch]) -> None:
    """A forward for each batch."""
    model.eval()
    for batch in batches:
        model(**batch)


def of_floor(plan: Plan, system: System, drawn: Drawn) -> float:
    """The floor's best time, in parts of what our steps take without the optimizer."""
    tokens = [num_tokens([batch]) for batch in drawn]
    works = {"steps": partial(train, system.model, system.batches), "floor": floor(system.model.model, tokens)}
    seconds = alternate(works, FLOOR_REPEATS, plan.device)
    return min(seconds["floor"]) / median(seconds["steps"])


def compare(
    plan: Plan, case: Case, dtype: torch.dtype, works: dict[str, Work], tokens: int | None = None, **keys: Any
) -> list[Result]:
    """Measure the works side by side.

    Args:
        plan: where.
        case: what they have in common.
        dtype: theirs.
        works: by system, ours first. Each is a run over all batches of the case.
        tokens: that one run is to be counted with; None: the real tokens of the case.
        keys: what else the rows are to be told apart by.

    Returns:
        A row a system; milliseconds are those of a batch.
    """
    # Also the first run, in which kernels are chosen and memory is taken from the system.
    memory = {name: peak_memory(work, plan.device) for name, work in works.items()}
    seconds = alternate(works, case.size.repeats, plan.device)
    tokens = num_tokens(case.drawn) if tokens is None else tokens
    head = {
        "benchmark": case.benchmark,
        "size": case.size.name,
        "dtype": str(dtype).removeprefix("torch."),
        "fill": round(fill(case.drawn), 3),
        "recipe": case.recipe,
        **keys,
    }
    rows = []
    for name in works:
        taken = median(seconds[name])
        faster = {} if name == OURS else {"ours_faster_by": round(taken / median(seconds[OURS]), 3)}
        rows.append(
            {
                **head,
                "system": name,
                "milliseconds": round(1000 * taken / len(case.drawn), 3),
                "real_tokens_per_second": round(tokens / taken, 1),
                "peak_memory_mib": round(memory[name], 1),
                **faster,
            }
        )
    return rows


def with_utilisation(plan: Plan, rows: list[Result], model: nn.Module, drawn: Drawn) -> list[Result]:
    """On a GPU, the rows with the part of its operations that they use for what the model asks for."""
    if plan.device.type == "cuda":
        lengths = [length for batch in drawn for (length,) in batch]
        for row in rows:
            seconds = row["milliseconds"] / 1000 * len(drawn)
            row["utilisation"] = utilisation(model, lengths, seconds, plan.device)
    return rows


BENCHMARKS: dict[str, Callable[[Plan], list[Result]]] = {
    "encoder-train": encoder_train,
    "encoder-infer": encoder_infer,
    "generate": generate,
}

ENCODERS = (Size(4, 256, batch_rows=64, num_batches=4, repeats=5), Size(12, 768, batch_rows=8, num_batches=3))
GENERATORS = (Size(4, 256, batch_rows=1), Size(4, 256, batch_rows=32))
LARGE_ENCODERS = (Size(4, 256, 4096, num_batches=4, repeats=10), Size(12, 768, 2048, num_batches=4, repeats=10))
SIZES: dict[str, dict[str, tuple[Size, ...]]] = {
    "cpu": {"encoder-train": ENCODERS, "encoder-infer": ENCODERS, "generate": GENERATORS},
    # At least 32 thousand real tokens a batch.
    "cuda": {"encoder-train": LARGE_ENCODERS, "encoder-infer": LARGE_ENCODERS, "generate": GENERATORS},
}
DTYPES = {"cpu": (torch.float32, torch.bfloat16), "cuda": (torch.bfloat16,)}


def plan_for(device: str, corpora: dict[str, Corpus]) -> Plan:
    """The plan of a device: `cpu` or `cuda`."""
    return Plan(torch.device(device), DTYPES[device], SIZES[device], corpora)
