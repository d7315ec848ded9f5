"""The measured lecture: its tasks have the labels that they are said to have, and its page says what came out."""

import itertools
import json
import math
import re

import pytest
import torch

from seqblend.lecture import __main__ as command
from seqblend.lecture import experiments, tasks
from seqblend.lecture.claims import CLAIMS, Results, mean_of
from seqblend.lecture.experiments import LEARNING, WITH, WITHOUT, Figure, cache_sizes, learn, step_times
from seqblend.lecture.models import MIXERS
from seqblend.lecture.page import write_page
from seqblend.modeling.losses import IGNORE

TASKS = [tasks.RECALL, tasks.ASSOCIATIVE, tasks.PARITY, tasks.SIDES, tasks.REVERSAL]
every_task = pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)


def rows_of(task, difficulty):
    batch = task.draw(difficulty, 5, torch.Generator().manual_seed(0))
    return list(zip(batch.input_ids.tolist(), batch.labels.tolist(), strict=True))


@every_task
def test_batches(task):
    """Tokens and classes are in their ranges, the same seed draws the same batch, and each label occurs."""
    for difficulty in {*task.train, *task.test}:
        batch, again = (task.draw(difficulty, 64, torch.Generator().manual_seed(0)) for _ in range(2))
        assert torch.equal(batch.input_ids, again.input_ids) and torch.equal(batch.labels, again.labels)
        assert batch.input_ids.min() >= 0 and batch.input_ids.max() < task.vocab_size
        labels = batch.labels[batch.labels != IGNORE]
        most = task.vocab_size if task is tasks.REVERSAL else task.num_labels
        assert labels.min() >= 0 and labels.max() < most
        assert len(labels.unique()) > 1


@pytest.mark.parametrize("distance", [4, 9, 128])
def test_recall(distance):
    for ids, labels in rows_of(tasks.RECALL, distance):
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


@pytest.mark.parametrize("name", LEARNING)
def test_models_that_are_compared_have_equally_many_parameters(name):
    sizes = [LEARNING[name].build(setting).num_parameters() for setting in LEARNING[name].settings]
    assert max(sizes) < 1.02 * min(sizes)


@pytest.mark.parametrize(
    ("name", "setting"), [(name, setting) for name, each in LEARNING.items() for setting in each.settings]
)
def test_every_setting_is_learnt_and_measured(name, setting, monkeypatch):
    """A few steps of each; the figures are those of the seed."""
    small = {**vars(LEARNING[name]), "steps": 3, "rows": 4}
    monkeypatch.setitem(LEARNING, name, experiments.Learning(**small))
    monkeypatch.setattr(experiments, "TEST_ROWS", 4)
    figures = learn(name, setting, 1)
    assert figures == learn(name, setting, 1)
    assert [figure.at for figure in figures if figure.experiment == name] == list(LEARNING[name].task.test)
    assert all(figure.setting == setting and figure.seed == 1 for figure in figures)
    assert all(0 <= figure.value <= 1 for figure in figures if figure.experiment == name)


def test_a_cache_grows_with_attention_alone(monkeypatch):
    monkeypatch.setattr(experiments, "LENGTHS", (16, 64))
    found = {(figure.setting, figure.at): figure.value for figure in cache_sizes()}
    for mixer in MIXERS:
        assert found[mixer, 64] / found[mixer, 16] == (4 if mixer == "attention" else 1)
    # Keys and values of 64 features, 4 bytes each.
    assert found["attention", 16] == 16 * 2 * 64 * 4 / 1024


# --- Figures and verdicts ---


def test_means_and_intervals():
    assert mean_of([2.0]).value == 2.0 and math.isnan(mean_of([2.0]).error)
    mean = mean_of([1.0, 2.0, 3.0])
    assert (mean.value, round(mean.error, 3)) == (2.0, 2.484)  # 4.303 · 1 / √3
    figures = [Figure("time", "lstm", seed, at, 3 * at**2, 7) for seed in (0, 1) for at in (1, 2, 4, 8)]
    assert Results(figures).slope("time", "lstm", 1, 8) == pytest.approx(2)


def curves(experiment, seeds=1, **values):
    """Figures of an experiment: for each setting, its values by number."""
    return [
        Figure(experiment, setting.replace("_", " "), seed, at, value, 100)
        for setting, by_number in values.items()
        for seed in range(seeds)
        for at, value in by_number.items()
    ]


def results_that(come_out: bool) -> Results:
    """Figures of all experiments."""
    flat, falling, good = {16: 1.0, 64: 1.0, 128: 1.0, 512: 2.0, 2048: 16.0}, {8: 1.0, 128: 0.0}, {8: 1.0, 128: 1.0}
    rising = {at: at / 16 for at in flat}
    gradients = {1: 1.0, 64: 0.5}, {1: 1.0, 64: 1e-9}
    better, worse = (good, falling) if come_out else (falling, good)
    at_once, in_order = (flat, rising) if come_out else (rising, flat)
    kept, lost = gradients if come_out else gradients[::-1]
    mixers = dict.fromkeys(MIXERS[1:], worse)
    figures = curves("step time", attention=at_once, **dict.fromkeys(MIXERS[1:], in_order))
    for name in experiments.GRADIENT.values():
        figures += curves(name, attention=kept, rnn=lost, gru=kept, lstm=kept)
    figures += curves("recall", attention=better, rnn=worse, gru=better, lstm=better)
    figures += curves("associative recall", attention=better, **mixers)
    figures += curves("heads", **{"1_head": {32: 0.5 if come_out else 0.9}, "8_heads": {32: 0.9 if come_out else 0.5}})
    figures += curves("cross-attention", **{WITH: better, WITHOUT: worse})
    figures += curves("parity", attention=worse, **dict.fromkeys(MIXERS[1:], better))
    grows, stays = {16: 1.0, 2048: 128.0}, {16: 1.0, 2048: 1.0}
    growing, fixed = (grows, stays) if come_out else (stays, grows)
    return Results(figures + curves("cache", attention=growing, **dict.fromkeys(MIXERS[1:], fixed)))


@pytest.mark.parametrize("come_out", [True, False])
def test_verdicts_follow_from_the_figures(come_out, tmp_path):
    """A claim that does not come out is said so."""
    results = results_that(come_out)
    assert {claim.experiment: claim.judge(results).came_out for claim in CLAIMS} == dict.fromkeys(
        (claim.experiment for claim in CLAIMS), come_out
    )
    write_page(results, tmp_path, seconds=90.0, seeds=1)
    page = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert f"{len(CLAIMS)} claims, of which {len(CLAIMS) if come_out else 0} came out." in page
    assert page.count("did not come out.**") == (0 if come_out else len(CLAIMS))
    pictures = re.findall(r"\]\((\S+\.png)\)", page)
    assert len(pictures) == len(CLAIMS) and {path.name for path in tmp_path.glob("*.png")} == set(pictures)
    anchors = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in re.findall(r"(?m)^## (.+)$", page)}
    assert set(re.findall(r"\]\(#(\S+)\)", page)) == anchors


def test_the_command_writes_a_page_that_can_be_made_again(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(command, "step_times", lambda repeats: iter(results_figures("step time")))
    monkeypatch.setattr(command, "cache_sizes", lambda: iter(results_figures("cache")))
    names = [claim.experiment for claim in CLAIMS if claim.experiment not in ("step time", "cache")]
    monkeypatch.setattr(command, "learn_all", lambda seeds: [each for name in names for each in results_figures(name)])
    command.main(["--quick", "--output", str(tmp_path)])
    page = (tmp_path / "README.md").read_bytes()
    (tmp_path / "README.md").unlink()
    command.main(["--page_only", "--output", str(tmp_path)])
    assert (tmp_path / "README.md").read_bytes() == page
    head = json.loads((tmp_path / "figures.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert head["seeds"] == 1


def results_figures(name):
    """The figures of an experiment whose claim comes out."""
    results = results_that(True)
    return [
        Figure(name, setting, 0, at, each.value, 100)
        for setting in results.settings(name)
        for at, each in results.curve(name, setting).items()
    ]


def test_times_are_of_every_mixer_and_length(monkeypatch):
    monkeypatch.setattr(experiments, "LENGTHS", (16, 32))
    monkeypatch.setattr(experiments, "SIZE", 8)
    figures = list(step_times(repeats=2))
    assert {(figure.setting, figure.at, figure.seed) for figure in figures} == set(
        itertools.product(MIXERS, (16, 32), (0, 1))
    )
    assert all(figure.value > 0 for figure in figures)
