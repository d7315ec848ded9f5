"""The benchmarks: what their rows say holds together, and the page has them; nothing here is about how fast it is."""

import copy
import json
import os
import random
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import datasets
import pytest
import torch
from stock import stock_model
from test_packing import precise_varlen
from torch import nn
from transformers import BertTokenizerFast
from transformers.trainer_pt_utils import LengthGroupedSampler

from seqblend import to_original
from seqblend.benchmarks import __main__ as command
from seqblend.benchmarks import engines, environment, finetuning, profiling, report, systems, timing
from seqblend.benchmarks.cases import BENCHMARKS, SIZES, encoders, plan_for
from seqblend.benchmarks.compare import Case, Plan
from seqblend.benchmarks.engines import SHORT
from seqblend.benchmarks.finetuning import TRAINING_SETS
from seqblend.benchmarks.lengths import (
    NATURAL_FILL,
    Corpus,
    fill_ratio,
    flatten,
    full_batches,
    group_by_length,
    load_corpora,
    natural_batches,
    num_tokens,
    pad,
)
from seqblend.benchmarks.systems import OURS, Size, System, check_agreement
from seqblend.configuration.checks import unknown_name_message

# Few and short, with a fill that is natural as they are.
ROWS = [(length, length + 1) for length in (2, 3, 3, 4, 12, 2, 4, 13)]
CORPORA = {"texts": Corpus("some texts", [row[:1] for row in ROWS] * 4), "pairs": Corpus("some pairs", ROWS * 4)}
# In two layers, ModernBERT's slide and do not, as transformers 5.16 asks of them.
TINY = Size(2, 32, batch_rows=8, num_batches=2, repeats=1, vocab_size=99)
KEYS = {"benchmark", "size", "dtype", "recipe", "fill", "system"}
FIGURES = {"milliseconds", "real_tokens_per_second", "peak_memory_mib"}
OF_SOME = {
    "generate": {"batch", "beams"},
    "growth": {"architecture", "attention", "tokens"},
    "finetune": {"data", "checkpoint", "batch", "batches", "epoch_batches"},
    "serve-read": {"batch"},
    "serve-write": {"batch", "beams"},
}


def plan(**changes):
    tiny = Plan(
        torch.device("cpu"),
        (torch.float32, torch.bfloat16),
        dict.fromkeys(BENCHMARKS, (TINY,)),
        CORPORA,
        new_tokens=3,
        written_tokens=3,
        sequence_lengths=(8, 16),
        sliding_window=2,
    )
    return replace(tiny, **changes)


@pytest.fixture(scope="module")
def measured():
    """In half precision too where there are most peers."""
    torch.manual_seed(0)
    both, half = {"dtypes": (torch.float32, torch.bfloat16)}, {"dtypes": (torch.bfloat16,)}
    changes = {"encoder-infer": both, "finetune": half}
    single = {"dtypes": (torch.float32,)}
    return {name: benchmark(plan(**changes.get(name, single))) for name, benchmark in BENCHMARKS.items()}


def figures(name):
    """Of an epoch and of engines the memory is not measured."""
    own = {"finetune": {"train_loss"}, "serve-read": {"times_stock"}, "serve-write": {"times_stock", "equal"}}
    return FIGURES - {"peak_memory_mib"} | own[name] if name in own else FIGURES


def groups(rows):
    """Rows that are compared with each other, ours first."""
    compared = []
    for row in rows:
        if row["system"] == OURS:
            compared.append([])
        compared[-1].append(row)
    return compared


@pytest.mark.parametrize("name", BENCHMARKS)
def test_rows_have_the_documented_keys(name, measured):
    for ours, *theirs in groups(measured[name]):
        shared = KEYS | OF_SOME.get(name, set())
        keys = shared | figures(name)
        assert set(ours) == keys | ({"of_floor"} if name == "encoder-train" else set())
        for row in theirs:
            assert set(row) == keys | {"ours_faster_by"}
            assert {key: row[key] for key in shared - {"system"}} == {key: ours[key] for key in shared - {"system"}}
        assert ours["benchmark"] == name and ours["size"] == "2x32"
    json.dumps(measured[name])


@pytest.mark.parametrize("name", BENCHMARKS)
def test_figures_of_a_group_agree_with_each_other(name, measured):
    for ours, *theirs in groups(measured[name]):
        tokens = ours["milliseconds"] * ours["real_tokens_per_second"]
        assert ours.get("peak_memory_mib", 0) >= 0 and ours.get("of_floor", 1) > 0
        for row in theirs:
            ratio = row["milliseconds"] / ours["milliseconds"]
            # Milliseconds are rounded to thousandths, which a ratio feels the more the larger it is.
            rounding = 5e-4 * (1 + (1 + ratio) / ours["milliseconds"])
            assert row["ours_faster_by"] == pytest.approx(ratio, abs=1.1 * rounding)
            assert row["milliseconds"] * row["real_tokens_per_second"] == pytest.approx(tokens, rel=1e-2)


@pytest.mark.parametrize("name", [name for name in BENCHMARKS if name != "finetune"])
def test_tokens_are_the_real_ones(name, measured):
    """Those of a batch, of which milliseconds are."""
    counted = {"generate": 3 * TINY.batch_rows, "growth": 16, "serve-write": 3 * TINY.batch_rows}
    for row in measured[name]:
        if row.get("batch") == 1:
            assert row["milliseconds"] / 1000 * row["real_tokens_per_second"] == pytest.approx(SHORT, rel=1e-2)
            continue
        rows = CORPORA["pairs" if name == "seq2seq-train" else "texts"].rows
        drawn = natural_batches(rows, 1 if name == "serve-read" else TINY.num_batches, TINY.batch_rows)
        drawn = full_batches(drawn) if row["fill"] == 1 else drawn
        tokens = counted.get(name, num_tokens(drawn) / len(drawn))
        assert row["milliseconds"] / 1000 * row["real_tokens_per_second"] == pytest.approx(tokens, rel=1e-2)


def test_every_benchmark_has_sizes_on_every_device():
    """And where it has one, a tiny one."""
    for device, sizes in SIZES.items():
        assert list(sizes) == list(BENCHMARKS)
        assert plan_for(device, CORPORA).sizes is sizes
        quick = plan_for(device, CORPORA, quick=True)
        assert {name: bool(each) for name, each in quick.sizes.items()} == {name: bool(sizes[name]) for name in sizes}
        assert quick.dtypes == plan_for(device, CORPORA).dtypes[-1:]


def test_encoders_have_all_their_peers(measured, monkeypatch, capsys):
    natural, full = groups(measured["encoder-infer"])[::2]
    peers = ["BertModel padded", "BertModel length-grouped", "ModernBertModel padded"]
    installed = ["x-transformers padded"] if systems.find_spec("x_transformers") else []
    assert [row["system"] for row in natural] == [OURS, *peers, *installed] and natural[0]["fill"] < 0.45
    assert [row["system"] for row in full] == [OURS, "BertModel padded"] and full[0]["fill"] == 1
    monkeypatch.setattr(systems, "find_spec", lambda name: None)
    drawn = natural_batches(CORPORA["texts"].rows, 1, 8)
    assert [system.name for system in encoders(Case("encoder-infer", "bert", TINY, drawn), False)] == [OURS, *peers]
    assert "x-transformers is not installed" in capsys.readouterr().out


def test_engines_are_compared_with_the_stock_model(measured, monkeypatch, capsys):
    """Those that are not installed are left out."""
    for name in ("serve-read", "serve-write"):
        for row in measured[name]:
            (stock,) = {
                each["milliseconds"]
                for each in measured[name]
                if each["system"].endswith("padded")
                and "ONNX" not in each["system"]
                and all(each[key] == row[key] for key in OF_SOME[name])
            }
            assert row["times_stock"] == pytest.approx(stock / row["milliseconds"], rel=1e-2)
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    for benchmark, systems_without in ((engines.serve_read, 2), (engines.serve_write, 2)):
        assert len({row["system"] for row in benchmark(plan())}) == systems_without
    printed = capsys.readouterr().out
    assert "onnx, onnxscript, onnxruntime: not installed" in printed and "ctranslate2: not installed" in printed


def test_a_reader_or_a_writer_with_other_outputs_is_not_timed():
    lengths = [[(3,), (5,)]]
    readers = {engines.OURS: lambda batch: batch["input_ids"][..., None].float()}
    with pytest.raises(AssertionError, match="another differs from ours"):
        wrong = {"another": lambda batch: -batch["input_ids"][..., None].float()}
        engines.compare_readers(plan(), TINY, lengths, readers | wrong)

    def writer(token):
        def write(batch, beams, new_tokens):
            time.sleep(0.002)
            return [[token]]

        return write

    writers = {engines.OURS: writer(1), engines.STOCK_WRITER: writer(1), "another": writer(2)}
    with pytest.raises(AssertionError, match="another writes other tokens"):
        engines.compare_writers(plan(), TINY, [[(3,)]], {}, 1, writers)
    rows = engines.compare_writers(plan(), TINY, [[(3,)]], {}, 4, writers)
    assert [row["equal"] for row in rows] == [1, 1, 0]


def test_a_peer_that_computes_something_else_is_not_timed():
    ours, theirs = systems.bert(TINY)
    batch = pad([{"input_ids": torch.tensor([5, 6, 7])}, {"input_ids": torch.tensor([8])}])
    both = [System(OURS, ours, [batch]), System("theirs", theirs, [batch], equals_ours=True)]
    check_agreement(both)
    nn.init.zeros_(theirs.encoder.layer[0].output.LayerNorm.weight)
    with pytest.raises(AssertionError, match="theirs differs from ours"):
        check_agreement(both)


# --- Epochs through both Trainers ---


WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh"]


@pytest.fixture
def texts(tmp_path):
    """A directory of datasets: the rows of a kind have several lengths, and more than one label."""
    rng = random.Random(0)
    rows = [rng.choices("abcdefgh", k=length) for length in [*range(1, 25)] * 3]
    content = {
        "ud_en_ewt": [{"tokens": row, "tags": [word.upper() for word in row]} for row in rows],
        "clinc150": [{"text": " ".join(row), "label": row[0]} for row in rows],
    }
    for name, lines in content.items():
        (tmp_path / "data" / name).mkdir(parents=True)
        for split in ("train", "validation"):
            text = "".join(json.dumps(line) + "\n" for line in lines)
            (tmp_path / "data" / name / f"{split}.jsonl").write_text(text)
    return tmp_path / "data"


@pytest.fixture
def checkpoint(tmp_path):
    """A stock BERT without dropout, and its tokenizer."""
    directory = tmp_path / "some-bert"
    stock_model("bert", "AutoModel", torch.float32, pad_token_id=0).save_pretrained(directory)
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS))
    BertTokenizerFast(str(tmp_path / "vocab.txt")).save_pretrained(directory)
    return directory


def prepared(name, texts, checkpoint, tmp_path):
    given = plan(data=texts, checkpoint=checkpoint)
    columns, _ = finetuning.draw_rows(given, TINY, name)
    options = finetuning.training_options(given, TINY, tmp_path / "runs")
    return finetuning.prepare(checkpoint, TRAINING_SETS[name], columns, options, tmp_path / "stock")


def accuracy_by_hand(model, rows):
    """Row by row, without padding."""
    pairs = []
    for row in rows:
        logits = model(input_ids=torch.tensor([row["input_ids"]])).logits[0]
        labels = row["labels"] if isinstance(row["labels"], list) else [row["labels"]]
        pairs += zip(logits.reshape(len(labels), -1).argmax(-1).tolist(), labels, strict=True)
    known = [predicted == label for predicted, label in pairs if label != -100]
    return sum(known) / len(known)


@pytest.mark.parametrize("name", TRAINING_SETS)
def test_both_trainers_take_the_same_steps(name, texts, checkpoint, tmp_path):
    rows, ours, theirs = prepared(name, texts, checkpoint, tmp_path)
    for training in (ours, theirs):
        # In float32, Adam would make large steps of the rounding errors that are the gradients of the keys' biases.
        training.model.double()
        training.initial = copy.deepcopy(training.model.state_dict())
    outcomes = [training.run(rows) for training in (ours, theirs)]
    losses = [outcome.loss for outcome in outcomes]
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)
    accuracies = [each.accuracy(outcome.weights, rows) for each, outcome in zip((ours, theirs), outcomes, strict=True)]
    assert accuracies[0] == accuracies[1] == pytest.approx(accuracy_by_hand(ours.model, rows))
    ours.model.load_state_dict(outcomes[0].weights)
    to_original(ours.model, tmp_path / "trained")
    trained = type(theirs.model).from_pretrained(tmp_path / "trained", dtype=torch.float64).state_dict()
    for key, tensor in theirs.model.state_dict().items():
        assert (trained[key] - tensor).abs().max() < 1e-9, key
    assert any(not torch.equal(theirs.initial[key], tensor) for key, tensor in theirs.model.state_dict().items())
    assert ours.run(rows).loss == losses[0] != ours.run(rows.select(range(8))).loss, (
        "the second run begins with other weights than the first"
    )


def test_a_pair_that_differs_is_not_timed(texts, checkpoint, tmp_path):
    rows, *trainings = prepared("clinc150", texts, checkpoint, tmp_path)
    finetuning.check_first_batch(trainings, rows)
    nn.init.zeros_(trainings[1].model.classifier.weight)
    with pytest.raises(AssertionError, match="BertForSequenceClassification differs from ours"):
        finetuning.check_first_batch(trainings, rows)


def test_epochs_have_the_rows_of_the_data(texts, checkpoint, tmp_path):
    given = plan(data=texts, checkpoint=checkpoint, whole_epochs=True)
    rows = finetuning.compare_epochs(given, TINY, "ud_en_ewt", tmp_path)
    names = [OURS, "BertForTokenClassification padded", OURS, "BertForTokenClassification length-grouped"]
    assert [row["system"] for row in rows] == names and rows[2]["fill"] > rows[0]["fill"]
    keys = ("data", "checkpoint", "batches", "epoch_batches")
    assert {tuple(row[key] for key in keys) for row in rows} == {("ud_en_ewt", "some-bert", 9, 9)}
    # Three times 1 to 24 words, with [CLS] and [SEP], in nine batches.
    for row in rows:
        average, _, one = row["accuracy"].partition(" ")
        assert one == f"({float(average):.1f})"
        tokens = row["milliseconds"] * 9 / 1000 * row["real_tokens_per_second"]
        assert tokens == pytest.approx(3 * sum(range(3, 27)), rel=1e-2)


def test_an_epoch_is_cut_to_the_batches_of_its_size(measured):
    for row in measured["finetune"]:
        whole = -(-TRAINING_SETS[row["data"].removeprefix("random, lengths of ")].num_rows // TINY.batch_rows)
        assert (row["checkpoint"], row["batches"], row["epoch_batches"]) == ("random weights", 2, whole)


def test_fine_tuning_on_a_cpu_is_in_single_precision(measured):
    """Of a plan in half precision, as of --quick, the column said so, but the training was not."""
    assert {row["dtype"] for row in measured["finetune"]} == {"float32"}
    assert not finetuning.training_options(plan(dtypes=(torch.bfloat16,)), TINY, Path())["bf16"]


def test_length_grouped_batches_are_those_of_transformers():
    rows = datasets.Dataset.from_dict({"input_ids": [[1] * length for length in range(100, 0, -1)]})
    sampler = LengthGroupedSampler(8, rows, generator=torch.Generator().manual_seed(0))
    assert finetuning.grouped_order(rows, TINY, epoch_rows=100) == list(sampler)
    assert sorted(finetuning.random_order(rows)) == list(range(100)) != finetuning.random_order(rows)


@pytest.mark.parametrize(("name", "fill"), [("ud_en_ewt", 0.337), ("clinc150", 0.553)])
def test_random_rows_are_as_long_as_those_of_the_data(name, fill):
    """The fills were measured on the data, in random batches of 32 rows of up to 128 WordPieces."""
    task, rows = TRAINING_SETS[name].task, finetuning.random_rows(TRAINING_SETS[name], 12_800)
    texts = [row[task.inputs[0]] for row in rows]
    lengths = [(min(len(text if task.reads_words else text.split()) + 2, 128),) for text in texts]
    drawn = fill_ratio([lengths[start : start + 32] for start in range(0, len(lengths), 32)])
    assert drawn == pytest.approx(fill, abs=0.03)
    assert {length for (length,) in lengths} <= {*range(3, TRAINING_SETS[name].lengths[-1] + 1)}


def test_dates_and_data_sets_have_natural_batches(tmp_path):
    for rows in (corpus.rows for corpus in load_corpora(None).values()):
        for batch in natural_batches(rows, 2, 32):
            assert NATURAL_FILL[0] <= fill_ratio([batch]) <= NATURAL_FILL[1]
    with pytest.raises(ValueError, match="no batch of 2 rows has a fill"):
        natural_batches([(5,)] * 3, 1, 2)
    texts = {"ud_en_ewt": {"tokens": ["a", "b"]}, "python_docs_en_ko": {"source": "a b c", "target": "가"}}
    for name, row in texts.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "train.jsonl").write_text(json.dumps(row) + "\n")
    corpora = load_corpora(tmp_path)
    assert corpora["texts"] == ("UD English EWT, in words", [(2,)]) and corpora["pairs"].rows == [(3, 1)]


def test_forms_of_a_batch_have_the_same_rows():
    rows = [{"input_ids": torch.arange(length) + 10 * length} for length in (3, 1, 4, 2)]
    short, long = group_by_length([rows[:2], rows[2:]])
    assert [len(row["input_ids"]) for row in short + long] == [1, 2, 3, 4]
    left = pad(rows[:2], "left")
    assert left["input_ids"].tolist() == [[30, 31, 32], [0, 0, 10]]
    assert left["attention_mask"].tolist() == [[1, 1, 1], [0, 0, 1]]
    flat = flatten(rows[:2])
    assert flat["input_ids"].tolist() == [[30, 31, 32, 10]] and flat["position_ids"].tolist() == [[0, 1, 2, 0]]


def test_memory_is_the_peak_and_not_the_sum():
    mebibyte = torch.empty(2**18)

    def work():
        for _ in range(3):
            (mebibyte + 1) + 1

    assert timing.peak_memory(work, torch.device("cpu")) == pytest.approx(2, abs=0.1)


def test_works_take_turns():
    turns = []
    works = {name: lambda name=name: turns.append(name) for name in "ab"}
    seconds = timing.alternate(works, 3, torch.device("cpu"))
    assert turns == list("ababab") and {name: len(taken) for name, taken in seconds.items()} == {"a": 3, "b": 3}


def test_utilisation_counts_matrices_and_attention(monkeypatch):
    model = systems.bert(TINY)[0]
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA L4")
    matrices = 4 * 32 * 32 + 2 * 32 * 128
    milliseconds = TINY.num_hidden_layers * (6 * matrices * 10 + 12 * 32 * (16 + 36)) / 121e12 * 1000
    assert timing.utilisation(model, [[(4,), (6,)]], 2 * milliseconds, None) == 0.5
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "another")
    assert timing.utilisation(model, [[(4,)]], 1.0, None) is None


def test_the_command_prints_and_writes_the_rows(tmp_path, monkeypatch, capsys):
    rows = [{"benchmark": "growth", "system": OURS, "milliseconds": 1234.56}]
    monkeypatch.setitem(BENCHMARKS, "growth", lambda plan: rows)
    assert command.main(["growth", "--json", str(tmp_path / "new" / "rows.json")]) == 0
    assert json.loads((tmp_path / "new" / "rows.json").read_text()) == rows
    printed = capsys.readouterr().out
    assert "| seqblend | 1,234.6 |" in printed and "calendar dates" in printed
    assert torch.__version__.partition("+")[0] in printed


def test_a_benchmark_that_fails_stops_no_other(tmp_path, monkeypatch, capsys):
    """Its first size has been written; the exit code and the last line tell."""
    file, (first, second) = tmp_path / "rows.json", SIZES["cpu"]["encoder-infer"]

    def one_size(plan):
        (size,) = plan.sizes["encoder-infer"]
        if size == second:
            assert [row["size"] for row in json.loads(file.read_text())] == [first.name]
            raise RuntimeError("out of memory")
        return [{"benchmark": "encoder-infer", "size": size.name}]

    monkeypatch.setitem(BENCHMARKS, "encoder-infer", one_size)
    monkeypatch.setitem(BENCHMARKS, "growth", lambda plan: [{"benchmark": "growth", "size": "2x2"}])
    assert command.main(["encoder-infer", "growth", "--json", str(file)]) == 1
    assert [row["size"] for row in json.loads(file.read_text())] == [first.name, "2x2"]
    printed = capsys.readouterr().err
    assert "RuntimeError: out of memory" in printed and printed.endswith("failed: encoder-infer\n")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["encoder-trian"], unknown_name_message("benchmark", "encoder-trian", list(BENCHMARKS))),
        (["--device", "tpu"], "invalid choice: 'tpu'"),
        (["--device", "cuda"], "torch sees no GPU; valid here: cpu"),
        (["finetune", "--checkpoint", "nowhere"], "--checkpoint: nowhere has no config.json"),
        (["finetune", "--data", "nowhere"], "--data: nowhere/ud_en_ewt/train.jsonl does not exist"),
    ],
)
def test_what_is_not_known_is_refused(arguments, message, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        command.main(arguments)
    assert message in capsys.readouterr().err


def test_a_missing_dataset_is_named(tmp_path, capsys):
    assert command.main(["growth", "--data", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and f"{tmp_path}/ud_en_ewt/train.jsonl" in error


def test_the_report_keeps_the_prose_and_may_be_written_again(tmp_path, measured):
    page, file = tmp_path / "page.md", tmp_path / "rows.json"
    kept = "### generate\n\nof another machine\n\n| a |\n| - |\n| 1 |"
    old = "### growth\n\n| old |"
    page.write_text(f"before\n\n{report.BEGIN}\n\n{kept}\n\n{old}\n\n{report.END}\n\nafter\n")
    file.write_text(json.dumps(measured["causal-train"] + measured["growth"]))
    report.main([str(file), "--page", str(page)])
    written = page.read_text()
    report.main([str(file), "--page", str(page)])
    assert page.read_text() == written
    assert written.startswith("before\n\n") and written.endswith("\n\nafter\n") and "old" not in written
    assert kept in written, "benchmarks that were not measured stay"
    assert "`python -m seqblend.benchmarks causal-train --json FILE`" in written
    assert "### causal-train" in written and report.table(measured["growth"]) in written
    tuned = [{**row, "checkpoint": "minilm", "epoch_batches": row["batches"]} for row in measured["finetune"]]
    assert "finetune --checkpoint DIR --whole_epochs --json" in report.sections(tuned, "cpu", None)["finetune"]
    assert "finetune --json" in report.sections(measured["finetune"], "cpu", None)["finetune"]
    page.write_text(f"{report.END} {report.BEGIN}")
    with pytest.raises(ValueError, match="must have <!-- tables -->"):
        report.main([str(file), "--page", str(page)])


def described(tmp_path, **facts):
    """A file of environment.py of another machine."""
    file = tmp_path / "environment.json"
    file.write_text(json.dumps({"machine": "NVIDIA X1", "versions": ["torch 1.2", "transformers 3.4"], **facts}))
    return file


PROFILE = [
    {"benchmark": "profile", "profiled": "encoder-train", "group": "the step on the clock", "milliseconds": 5.0},
    {"benchmark": "profile", "profiled": "encoder-train", "group": "attention", "milliseconds": 4.0, "share": 0.9},
]


def test_the_tables_of_a_gpu_stand_by_themselves(tmp_path, measured):
    """Written where there is no GPU, beside those of a CPU; until then the page says that nothing is measured."""
    page, rows, profile = tmp_path / "page.md", tmp_path / "bench.json", tmp_path / "profile.json"
    first, last = report.MARKERS["cuda"]
    cpu = f"{report.BEGIN}\n\n### growth\n\n| size |\n| - |\n| 1 |\n\n{report.END}"
    page.write_text(f"{cpu}\n\n## On a GPU\n\n{first}\n\nNot measured yet.\n\n{last}\n\nafter\n")
    used = [{**row, "utilisation": 0.47} for row in measured["causal-train"]]
    rows.write_text(json.dumps(used + measured["growth"]))
    profile.write_text(json.dumps(PROFILE))
    given = [str(rows), str(profile), "--device", "cuda", "--page", str(page)]
    assert report.main([*given, "--environment", str(described(tmp_path))]) == 0
    written = page.read_text()
    assert written.startswith(cpu) and written.endswith(f"{last}\n\nafter\n") and "Not measured" not in written
    assert "### causal-train on a GPU" in written and "### growth on a GPU" in written
    assert "NVIDIA X1; torch 1.2, transformers 3.4. Lengths of texts: calendar dates" in written
    assert "`python -m seqblend.benchmarks causal-train --device cuda --json FILE`" in written
    assert "`python -m seqblend.benchmarks.profiling --device cuda --json FILE`" in written
    assert "| encoder-train | attention             | 4.0 | 0.90  |" in written and "| 0.47        |" in written
    assert len(report.page_rows(page, "cuda")) == len(used + measured["growth"]) + 2
    assert report.main([*given, "--check"]) == 0
    peer = {**used[-1], "ours_faster_by": 0.8 * used[-1]["ours_faster_by"]}
    rows.write_text(json.dumps([peer]))
    assert report.main([*given, "--check"]) == 1
    with pytest.raises(ValueError, match="has none of these rows"):
        report.main([str(rows), "--page", str(page), "--check"])


def test_this_page_has_room_for_the_tables_of_every_device(tmp_path):
    """And it says of a device without tables that nothing is measured there."""
    text = (Path(report.__file__).parent.parent / report.PAGE).read_text()
    for device, (first, last) in report.MARKERS.items():
        content = text.partition(first)[2].partition(last)[0]
        assert text.count(first) == text.count(last) == 1 and content
        assert ("### " in content) != ("Not measured yet." in content), device


# --- A machine with a GPU ---


def test_the_environment_names_what_differs(tmp_path):
    """Only of packages that are needed, and also those that are missing."""
    setup, constraints = tmp_path / "setup.cfg", tmp_path / "constraints.txt"
    setup.write_text("[options]\ninstall_requires =\n    torch>=2.13\n    PyTest\n    no-such-package>=1\n")
    own = torch.__version__.partition("+")[0]
    constraints.write_text(f"torch=={own}\npytest==0.1\nno-such-package==1.5\nnumpy==0.1\n")
    with pytest.raises(KeyError, match="PyTest"):
        environment.differences(setup, constraints)
    setup.write_text(setup.read_text().lower())
    found = environment.differences(setup, constraints)
    assert found == {"pytest": ["0.1", pytest.__version__], "no-such-package": ["1.5", None]}


def test_the_environment_tries_every_kernel(tmp_path, monkeypatch):
    """One that is not there says why; the stand-in for torch's varlen kernel is as near to float64 as its dtype."""
    monkeypatch.setitem(environment.CEILING_SIZES, "cpu", (32, 2**10))
    monkeypatch.setattr(environment.varlen, "varlen_attn", default_scale(precise_varlen))
    file = tmp_path / "new" / "environment.json"
    assert environment.main(["--json", str(file)]) == 0
    facts = json.loads(file.read_text())
    assert facts["machine"] == report.machine("cpu") and facts["versions"] == report.versions()
    for kernel in ("varlen", "varlen, window", "varlen, grouped keys", "sdpa, FLASH_ATTENTION"):
        assert set(facts["kernels"][kernel]) == {"output", "query", "key", "value"}
        assert all(0 < error < 2**-6 for error in facts["kernels"][kernel].values()), kernel
    assert facts["kernels"]["flash-attn"] == {"failed": "ModuleNotFoundError: No module named 'flash_attn'"}
    assert all(amount > 0 for amount in facts["ceilings"].values())


def default_scale(kernel):
    """torch's kernel has defaults that its stand-in has not."""

    def run(query, *rest, window_size=(-1, -1), **options):
        return kernel(query, *rest, scale=query.shape[-1] ** -0.5, window_size=window_size, **options)

    return run


def test_a_profile_adds_up(tmp_path, monkeypatch, capsys):
    """Each group has its kernels, and each kernel one group."""
    monkeypatch.setattr(profiling, "load_corpora", lambda directory: CORPORA)
    file = tmp_path / "new" / "profile.json"
    assert profiling.main(["--json", str(file)]) == 0
    rows = json.loads(file.read_text())
    assert list(dict.fromkeys(row["profiled"] for row in rows)) == ["encoder-train", "seq2seq-train"]
    for profiled in ("encoder-train", "seq2seq-train"):
        whole, *groups = (row for row in rows if row["profiled"] == profiled)
        assert "share" not in whole and whole["milliseconds"] > 0
        assert sum(row["share"] for row in groups) == pytest.approx(1, abs=0.01)
        assert [row["milliseconds"] for row in groups] == sorted((row["milliseconds"] for row in groups), reverse=True)
        for row in groups:
            assert all(profiling.group_of(kernel) == row["group"] for kernel in row["kernels"])
        assert {"attention", "matrix products", "optimizer", "normalization"} <= {row["group"] for row in groups}
    assert "encoder-train matrix products" in capsys.readouterr().out


@pytest.mark.parametrize(
    "kernel, group",
    [
        ("void pytorch_flash::flash_fwd_kernel<cutlass::half_t>", "attention"),
        ("nvjet_tst_128x256_64x4_2x1_v_bz_TNT", "matrix products"),
        ("sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64", "matrix products"),
        ("void at::native::multi_tensor_apply_kernel<FusedAdamMathFunctor>", "optimizer"),
        ("void at::native::(anonymous namespace)::vectorized_layer_norm_kernel<BFloat16, float>", "normalization"),
        ("void at::native::indexSelectLargeIndex<BFloat16>", "embeddings and moves of tokens"),
        ("void at::native::vectorized_elementwise_kernel<4, GeluCUDAKernelImpl>", "element by element"),
        ("Memcpy DtoH (Device -> Pageable)", "copies"),
        ("void at::native::unknown_kernel", profiling.OTHER),
    ],
)
def test_kernels_of_a_gpu_have_their_groups(kernel, group):
    assert profiling.group_of(kernel) == group


SCRIPT = Path(report.__file__).parent / "on_gpu.sh"
# Stands for Python: writes down what it is asked, and does what a variable says.
STUB = """#!/usr/bin/env bash
echo "$*" >> "$ASKED"
[[ "$*" != *"$FAILING"* ]]
"""


def on_gpu(tmp_path, *arguments, failing="nothing of it"):
    """Exit code, lines of parts.jsonl, and the commands of the parts."""
    stub, asked = tmp_path / "python", tmp_path / "asked"
    stub.write_text(STUB)
    stub.chmod(0o755)
    asked.write_text("")
    variables = {**os.environ, "PYTHON": str(stub), "ASKED": str(asked), "FAILING": failing}
    done = subprocess.run(["bash", SCRIPT, *map(str, arguments)], env=variables, capture_output=True, text=True)
    file = tmp_path / "out" / "parts.jsonl"
    parts = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return done, parts, asked.read_text().splitlines()


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_the_script_runs_every_part(device, tmp_path):
    """Within eight minutes: the limits of all parts are known; without data there is no training, and that is said."""
    done, parts, asked = on_gpu(tmp_path, tmp_path / "out", "--device", device)
    assert [part["part"] for part in parts] == ["environment", "tests", "benchmarks", "profile"]
    assert done.returncode == 0 and all(part["exit_code"] == 0 for part in parts)
    assert "skipped" in json.loads((tmp_path / "out" / "training.json").read_text())
    assert ("-m cuda" in asked[1], "-m not cuda" in asked[1]) == (device == "cuda", device == "cpu")
    assert ("--quick" in asked[2]) == (device == "cpu") and f"--device {device}" in asked[2]
    assert "--data" not in asked[2] + asked[3]


def test_the_script_goes_on_after_a_part_that_fails(tmp_path):
    """It trains on clinc150 if that is there, and tells all that failed by its exit code."""
    (tmp_path / "data" / "clinc150").mkdir(parents=True)
    for name in ("train", "validation", "test_oos"):
        (tmp_path / "data" / "clinc150" / f"{name}.jsonl").write_text("")
    given = (tmp_path / "out", "--data", tmp_path / "data")
    done, parts, asked = on_gpu(tmp_path, *given, failing="-m pytest")
    assert done.returncode == 1
    assert {part["part"]: part["exit_code"] for part in parts} == {
        **{"environment": 0, "tests": 1, "benchmarks": 0, "profile": 0, "training": 0}
    }
    folder = tmp_path / "data" / "clinc150"
    assert f"--validation_file {folder}/validation.jsonl --test_unknown_file {folder}/test_oos.jsonl" in asked[-1]
    assert "--test_file" not in asked[-1] and "--bf16 true" in asked[-1]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "OUT is missing"),
        (["--device", "cpu"], "OUT is missing"),
        (["out", "--device"], "--device needs a value"),
        (["out", "--device", "tpu"], "--device tpu; valid: cuda, cpu"),
        (["out", "--data", "nowhere"], "--data: nowhere is no directory"),
        (["out", "--quick", "1"], "unknown option --quick"),
    ],
)
def test_the_script_refuses_what_it_does_not_know(arguments, message, tmp_path):
    done, parts, asked = on_gpu(tmp_path, *arguments)
    assert done.returncode == 2 and message in done.stderr and not parts and not asked


def test_a_ratio_that_fell_is_named(tmp_path, measured, capsys):
    """By more than a tenth; those of the page's other rows, and an engine's time beside our model's, do not count."""
    page, file = tmp_path / "page.md", tmp_path / "rows.json"
    page.write_text(f"{report.BEGIN}{report.END}")
    ratios = {"ours_faster_by": 2.0, "times_stock": 3.0, "of_floor": 0.8}
    rows = [{**row, **ratios} for rows in measured.values() for row in rows]
    file.write_text(json.dumps(rows))
    assert report.main([str(file), "--page", str(page)]) == 0
    before = page.read_text()
    check = [str(file), "--page", str(page), "--check"]
    assert report.main(check) == 0 and capsys.readouterr().out == "no ratio fell\n"
    file.write_text(json.dumps([{**row, "ours_faster_by": 1.81, "times_stock": 2.71} for row in rows]))
    assert report.main(check) == 0
    chosen = next(row for row in rows if row["benchmark"] == "causal-train" and row["system"].startswith("GPT2"))
    engine = {**measured["serve-read"][0], "system": f"{OURS} onnx", "times_stock": 3.0, "ours_faster_by": 0.5}
    file.write_text(json.dumps([*rows, engine]))
    assert report.main([str(file), "--page", str(page)]) == 0
    file.write_text(json.dumps([{**chosen, "ours_faster_by": 1.79}, {**engine, "ours_faster_by": 0.1}]))
    assert report.main([*check]) == 1
    (line,) = capsys.readouterr().out.splitlines()[-1:]
    assert "causal-train" in line and "GPT2" in line and line.endswith("ours faster by 1.79, on the page 2.00")
    file.write_text(json.dumps([{**engine, "times_stock": 2.6}]))
    assert report.main(check) == 1 and "times as fast as stock 2.60" in capsys.readouterr().out
    file.write_text(json.dumps([{**chosen, "size": "9x9"}]))
    with pytest.raises(ValueError, match="has none of these rows"):
        report.main(check)
    assert page.read_text() != before and len(report.page_rows(page)) == len(rows) + 1
