"""The benchmarks: which systems are compared on which workload."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import torch
from torch import nn

from .compare import Case, Plan, Result, compare, compare_training, in_each_dtype, infer
from .engines import serve_read, serve_write
from .finetuning import finetune
from .lengths import (
    Corpus,
    Lengths,
    Row,
    fill_ratio,
    flatten,
    full_batches,
    group_by_length,
    natural_batches,
    natural_prompts,
    pad,
    random_tokens,
)
from .systems import (
    LANGUAGE_MODELS,
    OURS,
    Classifier,
    Size,
    System,
    bert,
    bert_classifiers,
    bert_with_biases,
    has_flash_attention,
    long_models,
    modern_bert,
    with_flash_attention,
    x_transformers,
)


def encoder_train(plan: Plan) -> list[Result]:
    """Training steps of a sequence classifier."""
    cases = encoder_cases(plan, "encoder-train")
    return [row for case in cases for row in compare_training(plan, case, encoders(case, train=True))]


def bias_train(plan: Plan) -> list[Result]:
    """Training steps of a sequence classifier with biases of attention by distance, beside one without."""
    results = []
    for case in encoder_cases(plan, "bias-train"):
        torch.manual_seed(0)
        batches = [pad([text_row(length, case.size, True) for (length,) in batch]) for batch in case.batch_lengths]
        without, _ = bert_classifiers(case.size)
        systems = [
            System(OURS, bert_with_biases(case.size), batches),
            System("seqblend without biases", without, batches),
        ]
        results += compare_training(plan, case, systems)
    return results


def encoder_infer(plan: Plan) -> list[Result]:
    """Forward of a base model, in inference mode."""
    rows = []
    for case in encoder_cases(plan, "encoder-infer"):
        systems = encoders(case, train=False)
        for dtype in in_each_dtype(plan, systems):
            workloads = {system.name: partial(infer, system.model, system.batches) for system in systems}
            rows += compare(plan, case, dtype, workloads)
    return rows


def encoder_cases(plan: Plan, benchmark: str) -> Iterator[Case]:
    """For each size, batches with natural padding, and a batch without padding."""
    for size in plan.sizes[benchmark]:
        natural = natural_batches(plan.corpora["texts"].rows, size.num_batches, size.batch_rows)
        yield Case(benchmark, "bert", size, natural)
        yield Case(benchmark, "bert", size, full_batches(natural)[:1])


def encoders(case: Case, train: bool) -> list[System]:
    """Our model and its peers; without padding, BertModel is the only peer."""
    size = case.size
    torch.manual_seed(0)
    ours, theirs = bert_classifiers(size) if train else bert(size)
    rows = [[text_row(length, size, train) for (length,) in batch] for batch in case.batch_lengths]
    batches = [pad(batch) for batch in rows]
    systems = [System(OURS, ours, batches), System("BertModel padded", theirs, batches, equals_ours=True)]
    if fill_ratio(case.batch_lengths) == 1:
        return systems
    systems.append(System("BertModel length-grouped", theirs, [pad(batch) for batch in group_by_length(rows)]))
    if has_flash_attention():
        systems.append(System("flash-attention flattened", with_flash_attention(ours), batches))
    for name, model in {"ModernBertModel": modern_bert(size), "x-transformers": x_transformers(size)}.items():
        if model is not None:
            systems.append(System(f"{name} padded", Classifier(model, size.hidden_size) if train else model, batches))
    return systems


def text_row(length: int, size: Size, labelled: bool) -> Row:
    """A row with one text, and its class if `labelled`."""
    label = {"labels": torch.randint(2, ())} if labelled else {}
    return {"input_ids": random_tokens(length, size.vocab_size), **label}


def seq2seq_train(plan: Plan) -> list[Result]:
    """Training steps of an encoder-decoder on rows of source and target."""
    rows = []
    for size in plan.sizes["seq2seq-train"]:
        batch_lengths = natural_batches(plan.corpora["pairs"].rows, size.num_batches, size.batch_rows)
        for recipe, peer in SEQ2SEQ_PEERS.items():
            torch.manual_seed(0)
            batches = [pad([pair_row(lengths, size) for lengths in batch]) for batch in batch_lengths]
            ours, theirs = LANGUAGE_MODELS[recipe](size)
            systems = [System(OURS, ours, batches), System(f"{peer} padded", theirs, batches, equals_ours=True)]
            rows += compare_training(plan, Case("seq2seq-train", recipe, size, batch_lengths), systems)
    return rows


SEQ2SEQ_PEERS = {
    "transformer": "MarianMTModel",
    "bart": "BartForConditionalGeneration",
    "t5": "T5ForConditionalGeneration",
}


def pair_row(lengths: Lengths, size: Size) -> Row:
    """A row with a source and a target."""
    source, target = lengths
    return {
        "input_ids": random_tokens(source, size.vocab_size),
        "labels": random_tokens(target, size.vocab_size),
    }


def causal_train(plan: Plan) -> list[Result]:
    """Training steps of a language model; GPT-2 also on flattened batches, where it masks the other sequences."""
    rows = []
    for size in plan.sizes["causal-train"]:
        batch_lengths = natural_batches(plan.corpora["texts"].rows, size.num_batches, size.batch_rows)
        torch.manual_seed(0)
        texts = [[causal_row(length, size) for (length,) in batch] for batch in batch_lengths]
        padded = [pad(batch) for batch in texts]
        ours, theirs = LANGUAGE_MODELS["gpt2"](size)
        # By default it creates a cache in training, too, and with a cache it does not detect positions that restart.
        theirs.config.use_cache = False
        systems = [
            System(OURS, ours, padded),
            System("GPT2LMHeadModel padded", theirs, padded, equals_ours=True),
            System("GPT2LMHeadModel flattened", theirs, [flatten(batch) for batch in texts], equals_ours=True),
        ]
        rows += compare_training(plan, Case("causal-train", "gpt2", size, batch_lengths), systems)
    return rows


def causal_row(length: int, size: Size) -> Row:
    """A text for causal training. The first label is -100, so that a flattened batch has the same targets."""
    tokens = random_tokens(length, size.vocab_size)
    return {"input_ids": tokens, "labels": tokens.where(torch.arange(length) > 0, -100)}


def generate(plan: Plan) -> list[Result]:
    """Generation of plan.new_tokens tokens per prompt, greedy and with four beams."""
    rows = []
    for size in plan.sizes["generate"]:
        prompts = natural_prompts(plan.corpora["texts"].rows, size.batch_rows)
        for recipe, peer, side in (("transformer", "MarianMTModel", "right"), ("gpt2", "GPT2LMHeadModel", "left")):
            torch.manual_seed(0)
            batch = pad([text_row(length, size, labelled=False) for (length,) in prompts], side)
            named = zip((OURS, f"{peer} padded"), LANGUAGE_MODELS[recipe](size), strict=True)
            systems = [System(name, model.eval(), [batch]) for name, model in named]
            for beams in (1, 4):
                keys = {"batch": size.batch_rows, "beams": beams}
                num_generated = plan.new_tokens * size.batch_rows
                rows += compare_generation(
                    plan, Case("generate", recipe, size, [prompts], keys, num_generated), systems
                )
    return rows


def compare_generation(plan: Plan, case: Case, systems: list[System]) -> list[Result]:
    """Compare a model and its peer, after checking that both generate the same sequences in float32."""
    workloads = {
        system.name: partial(generate_tokens, system, case.keys["beams"], plan.new_tokens) for system in systems
    }
    for system in systems:
        system.model.float()
    sequences = [workload() for workload in workloads.values()]
    assert torch.equal(*sequences), f"{systems[1].name} generates other sequences than our model: {case.keys}"
    return [row for dtype in in_each_dtype(plan, systems) for row in compare(plan, case, dtype, workloads)]


def generate_tokens(system: System, beams: int, new_tokens: int) -> torch.Tensor:
    """Generate `new_tokens` tokens after the only batch of the system; returns prompts and answers (B, T)."""
    # No end token: every row generates the same number of tokens, without a processor that suppresses the end.
    system.model.generation_config.eos_token_id = None
    settings = {"num_beams": beams, "do_sample": False, "max_new_tokens": new_tokens}
    return system.model.generate(**system.batches[0], **settings)


def growth(plan: Plan) -> list[Result]:
    """Forward and backward of a fixed number of tokens in sequences of growing length, full and sliding attention."""
    settings = itertools.product(
        plan.sizes["growth"], ("encoder", "decoder"), ("full", "sliding"), plan.sequence_lengths
    )
    rows, longest = [], max(plan.sequence_lengths)
    for size, architecture, attention, length in settings:
        torch.manual_seed(0)
        batch_lengths = [[(length,)] * (longest // length)]
        keys = {"architecture": architecture, "attention": attention, "tokens": length}
        models = long_models(size, architecture, attention, longest, plan.sliding_window)
        rows += compare_growth(plan, Case("growth", "default", size, batch_lengths, keys), models)
    return rows


def compare_growth(plan: Plan, case: Case, models: dict[str, nn.Module]) -> list[Result]:
    """Compare the models at one sequence length, in the plan's first dtype."""
    tokens = random_tokens(case.tokens, case.size.vocab_size).view(len(case.batch_lengths[0]), -1)
    systems = [System(name, model.train(), [{"input_ids": tokens}]) for name, model in models.items()]
    dtype = next(in_each_dtype(plan, systems))
    workloads = {system.name: partial(run_forward_backward, system) for system in systems}
    return compare(plan, case, dtype, workloads)


def run_forward_backward(system: System) -> None:
    """Forward of the system's only batch, and backward of the sum of the last hidden state."""
    system.model(**system.batches[0]).last_hidden_state.sum().backward()
    system.model.zero_grad()


BENCHMARKS: dict[str, Callable[[Plan], list[Result]]] = {
    "encoder-train": encoder_train,
    "bias-train": bias_train,
    "encoder-infer": encoder_infer,
    "seq2seq-train": seq2seq_train,
    "causal-train": causal_train,
    "generate": generate,
    "growth": growth,
    "finetune": finetune,
    "serve-read": serve_read,
    "serve-write": serve_write,
}

ENCODERS = (
    Size(4, 256, batch_rows=64, num_batches=2, repeats=5),
    Size(12, 768, batch_rows=16, num_batches=2, repeats=2),
)
# At least 32 thousand real tokens per batch.
LARGE_ENCODERS = (
    Size(4, 256, batch_rows=2048, num_batches=4, repeats=10),
    Size(12, 768, batch_rows=2048, num_batches=4, repeats=10),
)
# Half of that: the padded peers need ten times the memory per row of 12x768.
LARGEST_ENCODER = Size(24, 1024, batch_rows=1024, num_batches=2, repeats=5)
TINY = Size(2, 64, batch_rows=8, num_batches=2, repeats=1, vocab_size=512)
# At least 20 seconds for each epoch on two CPU cores.
MINILM = Size(6, 384, batch_rows=32, num_batches=100)
GENERATORS = (Size(4, 256, batch_rows=1, repeats=5), Size(4, 256, batch_rows=32))
SIZES: dict[str, dict[str, tuple[Size, ...]]] = {
    "cpu": {
        "encoder-train": ENCODERS,
        "bias-train": (replace(ENCODERS[1], repeats=5),),
        "encoder-infer": ENCODERS,
        "seq2seq-train": (Size(4, 256, batch_rows=16, num_batches=2),),
        "causal-train": (Size(4, 256, batch_rows=32, num_batches=2),),
        "generate": GENERATORS,
        "growth": (Size(2, 128, batch_rows=1),),
        "finetune": (MINILM,),
        "serve-read": (replace(ENCODERS[0], repeats=15), replace(ENCODERS[1], repeats=7)),
        "serve-write": GENERATORS,
    },
    "cuda": {
        "encoder-train": (*LARGE_ENCODERS, LARGEST_ENCODER),
        "bias-train": LARGE_ENCODERS[1:],
        "encoder-infer": LARGE_ENCODERS,
        "seq2seq-train": (Size(6, 512, batch_rows=1024, num_batches=4, repeats=10),),
        "causal-train": (Size(12, 768, batch_rows=2048, num_batches=2, repeats=5),),
        "generate": GENERATORS,
        "growth": (Size(2, 256, batch_rows=1, repeats=10),),
        "finetune": (MINILM,),
        # The engines run on a CPU.
        "serve-read": (),
        "serve-write": (),
    },
}
DTYPES = {"cpu": (torch.float32, torch.bfloat16), "cuda": (torch.bfloat16,)}


def plan_for(device: str, corpora: dict[str, Corpus], *, quick: bool = False) -> Plan:
    """The plan for a device, `cpu` or `cuda`; `quick`: with a tiny size and short texts, in one dtype."""
    sizes, dtypes = SIZES[device], DTYPES[device]
    if not quick:
        return Plan(torch.device(device), dtypes, sizes, corpora)
    tiny = {name: (TINY,) if sizes[name] else () for name in BENCHMARKS}
    lengths = {"new_tokens": 4, "written_tokens": 4, "sequence_lengths": (64, 128)}
    return Plan(torch.device(device), dtypes[-1:], tiny, corpora, **lengths)
