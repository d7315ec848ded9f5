"""The measured lecture: its tasks have the labels that they are said to have, and its page says what came out."""

import itertools
import json
import math
import re
import shutil
from pathlib import Path

import pytest
import torch

from seqblend.lecture import __main__ as command
from seqblend.lecture import experiments, tasks
from seqblend.lecture.claims import CLAIMS, LOGARITHMIC
from seqblend.lecture.experiments import AFTER, BEFORE, LEARNING, WITH, WITHOUT, Figure, cache_sizes, learn, step_times
from seqblend.lecture.models import MIXERS
from seqblend.lecture.page import Run, write_page
from seqblend.lecture.results import Mean, Results, mean_of, readable
from seqblend.lecture.training import accuracy
from seqblend.modeling.losses import IGNORE

ROOT = Path(__file__).parents[1]
every_task = pytest.mark.parametrize("name", LEARNING)


def rows_of(task, difficulty):
    batch = task.draw(difficulty, 5, torch.Generator().manual_seed(0))
    return list(zip(batch.input_ids.tolist(), batch.labels.tolist(), strict=True))


@every_task
def test_batches(name):
    """Tokens and classes are in their ranges, the same seed draws the same batch, and labels vary."""
    task = LEARNING[name].task
    for difficulty in {*task.train, *task.test}:
        batch, again = (task.draw(difficulty, 64, torch.Generator().manual_seed(0)) for _ in range(2))
        assert torch.equal(batch.input_ids, again.input_ids) and torch.equal(batch.labels, again.labels)
        assert batch.input_ids.min() >= 0 and batch.input_ids.max() < task.vocab_size
        labels = batch.labels[batch.labels != IGNORE]
        most = task.vocab_size if task is tasks.REVERSAL else task.num_labels
        assert labels.min() >= 0 and labels.max() < most
        assert len(labels.unique()) > 1


@every_task
def test_guessing_is_as_good_as_said(name):
    """Guessing the most frequent answer, or of associative recall the value that was written most often."""
    task = LEARNING[name].task
    if task.guess is None:
        return
    for difficulty in task.test:
        labels = task.draw(difficulty, 2000, torch.Generator().manual_seed(1)).labels
        counted = [row[row != IGNORE] for row in labels]
        if task is tasks.ASSOCIATIVE:
            found = sum((row == row.mode().values).float().mean().item() for row in counted) / len(counted)
        else:
            found = torch.cat(counted).bincount().max().item() / sum(map(len, counted))
        assert found == pytest.approx(task.guess(difficulty), abs=0.02)


@pytest.mark.parametrize("before", [0, 5])
@pytest.mark.parametrize("distance", [4, 9, 128])
def test_recall(distance, before):
    batch = tasks.recall(distance, 5, torch.Generator().manual_seed(0), before)
    assert batch.input_ids.shape[1] == before + distance + tasks.SLOTS
    for ids, labels in zip(batch.input_ids.tolist(), batch.labels.tolist(), strict=True):
        for slot in range(tasks.SLOTS):
            asked = len(ids) - tasks.SLOTS + slot
            kind, symbol = divmod(ids[asked - distance] - tasks.FIRST - tasks.NOISES - tasks.SLOTS, tasks.SYMBOLS)
            assert (kind, symbol) == (slot, labels[asked])
            assert ids[asked] == tasks.FIRST + tasks.NOISES + slot
        assert labels[: -tasks.SLOTS] == [IGNORE] * (len(ids) - tasks.SLOTS)


@pytest.mark.parametrize("pairs", [2, 32])
def test_associative_recall(pairs):
    for ids, labels in rows_of(tasks.ASSOCIATIVE, pairs):
        written = dict(zip(ids[: 2 * pairs : 2], ids[1 : 2 * pairs : 2], strict=True))
        assert len(written) == pairs and set(ids[2 * pairs :]) == set(written)
        assert [written[key] - tasks.FIRST - tasks.KEYS for key in ids[2 * pairs :]] == labels[2 * pairs :]
        assert labels[: 2 * pairs] == [IGNORE] * (2 * pairs)


def test_parity():
    for ids, labels in rows_of(tasks.PARITY, 16):
        assert labels == [sum(token - tasks.FIRST for token in ids[: t + 1]) % 2 for t in range(16)]


def test_several_sides():
    for ids, labels in rows_of(tasks.SIDES, 32):
        for t in range(4, 32):
            assert labels[t] == sum(2 ** (offset - 1) for offset in (1, 2, 3, 4) if ids[t] == ids[t - offset])
        assert labels[:4] == [IGNORE] * 4


def test_reversal():
    for ids, labels in rows_of(tasks.REVERSAL, 7):
        assert ids[-1] == labels[-1] == tasks.END and ids[:-1] == labels[:-1][::-1]


@every_task
def test_models_that_are_compared_have_equally_many_parameters(name):
    learning = LEARNING[name]
    models = [learning.build(learning.task, setting, learning.layers) for setting in learning.settings]
    sizes = [model.num_parameters() for model in models]
    assert max(sizes) < 1.02 * min(sizes)


@pytest.mark.parametrize(
    ("name", "setting"), [(name, setting) for name, each in LEARNING.items() for setting in each.settings]
)
def test_every_setting_is_learnt_and_measured(name, setting, monkeypatch):
    """A few steps of each; the figures are those of the seed, and measuring gradients changes nothing."""
    small = {**vars(LEARNING[name]), "steps": 3, "rows": 4}
    monkeypatch.setitem(LEARNING, name, experiments.Learning(**small))
    monkeypatch.setattr(experiments, "TEST_ROWS", 4)
    figures = learn(name, setting, 1)
    assert figures == learn(name, setting, 1)
    measured = [figure for figure in figures if figure.experiment == name]
    assert [figure.at for figure in measured] == list(LEARNING[name].task.test)
    assert all(figure.setting == setting and figure.seed == 1 for figure in figures)
    assert all(0 <= figure.value <= 1 for figure in measured)
    others = {figure.experiment for figure in figures} - {name}
    assert others == ({BEFORE, AFTER} if name == "recall" else set())
    monkeypatch.setitem(LEARNING, name, experiments.Learning(**{**small, "probes_gradient": False}))
    assert learn(name, setting, 1) == measured


def test_what_counts_as_right():
    """Only the last labels of parity; of recall only whole sequences."""

    class Model(torch.nn.Module):
        config = type("Config", (), {"is_encoder_decoder": False})

        def forward(self, input_ids):
            # The right parity, but for the first positions.
            bits = input_ids - tasks.FIRST
            right = bits.cumsum(-1) % 2
            right[:, :-8] = 1 - right[:, :-8]
            return type("Output", (), {"logits": torch.nn.functional.one_hot(right, 2)})

    assert accuracy(Model(), tasks.PARITY, 16, seed=0, rows=9) == 1
    whole = tasks.Task(**{**vars(tasks.PARITY), "counts_last": None, "counts_whole": True})
    assert accuracy(Model(), whole, 16, seed=0, rows=9) == 0


def test_a_cache_grows_with_attention_alone(monkeypatch):
    monkeypatch.setattr(experiments, "LENGTHS", (16, 64))
    found = {(figure.setting, figure.at): figure.value for figure in cache_sizes()}
    for mixer in MIXERS:
        assert found[mixer, 64] / found[mixer, 16] == (4 if mixer == "attention" else 1)
    # Keys and values of 64 features, 4 bytes each.
    assert found["attention", 16] == 16 * 2 * 64 * 4 / 1024


# --- Figures and verdicts ---


def test_means_and_intervals():
    assert mean_of([2.0]) == Mean(2.0, 2.0, 2.0)
    mean = mean_of([1.0, 2.0, 3.0])
    assert mean.value == 2.0 and mean.high - 2.0 == pytest.approx(2.484, abs=1e-3)  # 4.303 · 1 / √3
    over_decades = mean_of([1e-8, 1e-2], is_logarithmic=True)
    assert over_decades.value == pytest.approx(1e-5) and over_decades.low > 0
    assert Mean(0.5, 0.4, 0.6).is_above(Mean(0.2, 0.1, 0.39)) and not Mean(0.5, 0.4, 0.6).is_above(Mean(0.2, 0.1, 0.4))
    assert mean_of([0.5]).is_above(mean_of([0.39])) and not mean_of([0.5]).is_above(mean_of([0.41]))
    figures = [Figure("time", "lstm", seed, at, 3 * at**2, 7) for seed in (0, 1) for at in (1, 2, 4, 8)]
    assert Results(figures).slope("time", "lstm", (2, 4, 8)) == pytest.approx(2)
    figures = [Figure("gradient", "rnn", 0, at, 0.5**at, 7) for at in (1, 2, 4, 8)]
    assert Results(figures).factor("gradient", "rnn") == pytest.approx(0.5)
    assert [readable(value) for value in (0.01234, 12.34, 1024.0)] == ["0.0123", "12.3", "1,024"]


def curves(experiment, **values):
    """Figures of an experiment with one seed: for each setting, its values by number."""
    return [
        Figure(experiment, setting.replace("_", " "), 0, at, value, 100)
        for setting, by_number in values.items()
        for at, value in by_number.items()
    ]


TIMES = dict.fromkeys(experiments.LENGTHS, 1.0)
GROWING = {length: length / 16 for length in experiments.LENGTHS}
FADING = {at: 0.5**at for at in tasks.RECALL.test}
STEADY = dict.fromkeys(tasks.RECALL.test, 1.0)
SOLVED, FORGOTTEN = dict.fromkeys(tasks.RECALL.test, 1.0), {at: 1.0 if at < 64 else 0.0 for at in tasks.RECALL.test}
PAIRS, FEW_PAIRS = dict.fromkeys(tasks.ASSOCIATIVE.test, 1.0), {at: 1 / at for at in tasks.ASSOCIATIVE.test}
BITS, FEW_BITS = dict.fromkeys(tasks.PARITY.test, 1.0), {at: 1.0 if at < 64 else 0.5 for at in tasks.PARITY.test}
WHOLE, SHORT = dict.fromkeys(tasks.REVERSAL.test, 1.0), {at: 1.0 if at < 15 else 0.0 for at in tasks.REVERSAL.test}
FIXED = dict.fromkeys(experiments.LENGTHS, 1.0)
COME_OUT = {
    "step time": {"attention": TIMES, "rnn": GROWING, "gru": GROWING, "lstm": GROWING},
    BEFORE: {"attention": STEADY, "rnn": FADING, "gru": FADING, "lstm": STEADY},
    AFTER: {
        "attention": STEADY,
        "rnn": {at: 1 / value for at, value in FADING.items()},
        "gru": STEADY,
        "lstm": STEADY,
    },
    "recall": {"attention": SOLVED, "rnn": FORGOTTEN, "gru": SOLVED, "lstm": SOLVED},
    "associative recall": {"attention": PAIRS, "rnn": FEW_PAIRS, "gru": FEW_PAIRS, "lstm": FEW_PAIRS},
    "heads": {"1_head": {32: 0.5}, "8_heads": {32: 0.9}},
    "cross-attention": {WITH: WHOLE, WITHOUT: SHORT},
    "parity": {"attention": FEW_BITS, "rnn": BITS, "gru": BITS, "lstm": FEW_BITS},
    "cache": {"attention": GROWING, "rnn": FIXED, "gru": FIXED, "lstm": FIXED},
}
# One change, after which the claim does not come out.
DO_NOT = {
    "step time": {"lstm": TIMES},
    BEFORE: {"lstm": FADING},
    AFTER: {"rnn": {at: 1 + at / 128 for at in STEADY}},
    "recall": {"gru": {**SOLVED, 128: 0.9}},
    "associative recall": {"lstm": {**FEW_PAIRS, 1: 0.5}},
    "heads": {"8_heads": {32: 0.55}},
    "cross-attention": {WITH: SHORT},
    "parity": {"rnn": FEW_BITS, "gru": FEW_BITS},
    "cache": {"gru": GROWING},
}


def figures_of(changes):
    """The figures of all experiments, with changes."""
    return [
        figure
        for experiment, settings in COME_OUT.items()
        for figure in curves(experiment, **{**settings, **changes.get(experiment, {})})
    ]


def test_verdicts_follow_from_the_figures():
    """Each claim for itself: one changed curve, and it does not come out."""
    assert {claim.experiment for claim in CLAIMS} == COME_OUT.keys() == DO_NOT.keys()
    for changed in (None, *DO_NOT):
        results = Results(figures_of({changed: DO_NOT.get(changed, {})}), LOGARITHMIC)
        came_out = {claim.experiment: claim.judge(results).came_out for claim in CLAIMS}
        assert came_out == {name: name != changed for name in COME_OUT}


@pytest.mark.parametrize("changes", [{}, DO_NOT], ids=["all come out", "none does"])
def test_the_page(changes, tmp_path):
    """A claim that does not come out is said so; each has its picture, and a link to its section."""
    write_page(figures_of(changes), tmp_path, Run(1, 1.5, "a machine"))
    page = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert f"{len(CLAIMS)} claims, of which {0 if changes else len(CLAIMS)} came out." in page
    assert page.count("did not come out.**") == (len(CLAIMS) if changes else 0)
    pictures = re.findall(r"\]\((\S+\.png)\)", page)
    assert len(pictures) == len(CLAIMS) and {path.name for path in tmp_path.glob("*.png")} == set(pictures)
    anchors = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in re.findall(r"(?m)^## (.+)$", page)}
    assert set(re.findall(r"\]\(#(\S+)\)", page)) == anchors
    assert page.endswith("Measured with 1 seed in 2 minutes on a machine.\n")


def test_the_command_writes_a_page_that_can_be_made_again(monkeypatch, tmp_path):
    found = figures_of({})
    monkeypatch.setattr(
        command, "step_times", lambda repetitions: [each for each in found if each.experiment == "step time"]
    )
    monkeypatch.setattr(command, "cache_sizes", lambda: [each for each in found if each.experiment == "cache"])
    others = [each for each in found if each.experiment not in ("step time", "cache")]
    monkeypatch.setattr(command, "learn_all", lambda seeds: others)
    command.main(["--quick", "--output", str(tmp_path)])
    page = (tmp_path / "README.md").read_bytes()
    (tmp_path / "README.md").unlink()
    monkeypatch.setattr(command, "machine", lambda: "another machine")
    command.main(["--page_only", "--output", str(tmp_path)])
    assert (tmp_path / "README.md").read_bytes() == page
    head = json.loads((tmp_path / "figures.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert head["seeds"] == 1


def test_times_are_of_every_mixer_and_length_at_equal_width(monkeypatch):
    monkeypatch.setattr(experiments, "LENGTHS", (16, 32))
    monkeypatch.setattr(experiments, "WIDTH", 8)
    figures = list(step_times(2))
    assert {(figure.setting, figure.at, figure.seed) for figure in figures} == set(
        itertools.product(MIXERS, (16, 32), (0, 1))
    )
    assert all(figure.value > 0 and math.isfinite(figure.value) for figure in figures)


def test_the_committed_page_is_that_of_its_figures(tmp_path):
    """Made again, it has the same words: nothing is typed in by hand."""
    folder = ROOT / "docs" / "lecture"
    shutil.copy(folder / "figures.jsonl", tmp_path)
    command.main(["--page_only", "--output", str(tmp_path)])
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == (folder / "README.md").read_text(encoding="utf-8")
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in folder.iterdir()}
