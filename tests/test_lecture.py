"""The measured lecture: the labels of its tasks are right, and its page says which claims are confirmed."""

import itertools
import math
import re
import shutil
from pathlib import Path

import pytest
import torch

from seqblend.lecture import __main__ as command
from seqblend.lecture import experiments, pictures, tasks, untrained
from seqblend.lecture.claims import CLAIMS, LOGARITHMIC
from seqblend.lecture.experiments import (
    AFTER,
    ALL_THREE,
    ALONE,
    BEFORE,
    BLENDED,
    BOTH,
    LEARNING,
    MASKED,
    NOTHING,
    PAST,
    SLOTWISE,
    TAKEN_OUT,
    THREE,
    UNMASKED,
    WITH,
    WITHOUT,
    Figure,
    learn,
)
from seqblend.lecture.models import MIXERS
from seqblend.lecture.page import Run, write_page
from seqblend.lecture.results import Mean, Results, mean_of, readable
from seqblend.lecture.training import accuracy, fit
from seqblend.lecture.untrained import (
    HEAD_DIMS,
    NO_NORM,
    NO_RESIDUAL,
    SCALED,
    UNSCALED,
    UNTRAINED,
    WHOLE,
    block_parts,
    cache_sizes,
    largest_weights,
    step_times,
)
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
        are_tokens = task in (tasks.REVERSAL, tasks.SHORT_REVERSAL, tasks.CONTINUATION)
        most = task.vocab_size if are_tokens else task.num_labels
        assert labels.min() >= 0 and labels.max() < most
        assert len(labels.unique()) > 1


@every_task
def test_guessing_is_as_good_as_said(name):
    """Guessing the most frequent answer, or of associative recall the value that was written most often.

    What is known of a Markov chain has a test of its own.
    """
    task = LEARNING[name].task
    if task.guess is None or task is tasks.MARKOV:
        return
    for difficulty in task.test:
        labels = task.draw(difficulty, 8000, torch.Generator().manual_seed(1)).labels.view(8000, -1)
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


def test_continuation():
    for ids, labels in rows_of(tasks.CONTINUATION, 7):
        letters = ids[:7]
        assert ids == [*letters, tasks.START, *letters[::-1], tasks.END]
        assert labels == [IGNORE] * 8 + ids[8:]


def test_found_elsewhere():
    """In training both marks stand in the first half; one half of the places is new."""
    assert max(tasks.ELSEWHERE.train) + 1 == tasks.PLACES // 2 - 1
    for place in tasks.ELSEWHERE.test:
        for ids, label in rows_of(tasks.ELSEWHERE, place):
            marks = [token - tasks.FIRST - tasks.NOISES for token in ids]
            assert [at for at, mark in enumerate(marks) if mark >= 0] == [place, place + 1]
            assert label == marks[place] * tasks.MARKS + marks[place + 1]


@pytest.mark.parametrize("back", tasks.STEPS_BACK)
def test_neighbours(back):
    for ids, labels in rows_of(tasks.NEIGHBOURS, back):
        for t, label in enumerate(labels):
            digit, question = divmod(ids[t] - tasks.FIRST, len(tasks.STEPS_BACK))
            if tasks.STEPS_BACK[question] != back or t < back:
                assert label == IGNORE
            else:
                assert label == (ids[t - back] - tasks.FIRST) // len(tasks.STEPS_BACK)
                assert back or label == digit


@pytest.mark.parametrize("future", tasks.MARKOV.test)
def test_markov_chain(future):
    for ids, labels in rows_of(tasks.MARKOV, future):
        assert len(ids) == tasks.CHAIN + future
        states = [token - tasks.FIRST for token in ids]
        assert labels[: tasks.CHAIN - 1] == states[1 : tasks.CHAIN] and labels[tasks.CHAIN - 1] != IGNORE
        assert labels[tasks.CHAIN :] == [IGNORE] * future
        assert not future or labels[tasks.CHAIN - 1] == states[tasks.CHAIN]


def test_no_more_can_be_known_of_a_markov_chain():
    """The next state is the following one as often as said, whichever it is, and no other is as frequent."""
    batch = tasks.markov_chain(0, 8000, torch.Generator().manual_seed(0))
    states = batch.input_ids - tasks.FIRST
    for state in range(tasks.STATES):
        shares = batch.labels[states == state].bincount(minlength=tasks.STATES) / (states == state).sum()
        assert shares.argmax() == (state + 1) % tasks.STATES
        assert shares.max() == pytest.approx(tasks.KNOWN, abs=0.02)


@pytest.mark.parametrize("distance", tasks.DISTANCES)
def test_evidence(distance):
    for ids, label in rows_of(tasks.EVIDENCE, distance):
        assert ids[0] == tasks.START
        clues = {at: token - tasks.FIRST - tasks.NOISES for at, token in enumerate(ids)}
        assert {at: clue for at, clue in clues.items() if clue >= 0} == {distance: label}


def test_both_sides():
    for ids, labels in rows_of(tasks.BOTH_SIDES, 16):
        assert labels[0] == labels[-1] == IGNORE
        assert labels[1:-1] == [int(before == after) for before, after in zip(ids[:-2], ids[2:], strict=True)]


def test_the_past_says_nothing_about_both_sides():
    """Whatever the three digits before, half of the digits after are equal to the one they are compared with."""
    batch = tasks.both_sides(8, 40000, torch.Generator().manual_seed(0))
    past = (batch.input_ids[:, 2:5] - tasks.FIRST) @ torch.tensor([16, 4, 1])
    for seen in range(64):
        assert batch.labels[past == seen, 4].double().mean() == pytest.approx(0.5, abs=0.1)


# --- Models and figures ---


def test_a_slot_has_weights_of_its_own():
    """Of the feed-forward network: what is learnt from a token at a slot changes the weights of that slot only."""
    learning = LEARNING["another place"]
    network = learning.build(learning.task, SLOTWISE, learning.layers)
    with torch.no_grad():
        network.embed_tokens.weight[0] = 0
    for slot in (0, 3, tasks.PLACES - 1):
        input_ids = torch.zeros(1, tasks.PLACES, dtype=torch.long)
        input_ids[0, slot] = 5
        network.zero_grad()
        network(input_ids, labels=torch.tensor([1])).loss.backward()
        by_slot = network.layers[0].weight.grad.unflatten(-1, (tasks.PLACES, -1)).abs().amax((0, 2))
        assert by_slot.nonzero().flatten().tolist() == [slot]


def test_without_blending_a_token_is_alone():
    """Before training and after it; and what is not blended in has no gradient."""
    learning = LEARNING["neighbours"]
    input_ids = learning.task.draw(1, 3, torch.Generator().manual_seed(0)).input_ids
    changed = input_ids.clone()
    changed[:, 5] = tasks.FIRST + (changed[:, 5] - tasks.FIRST + 7) % 48
    for setting in (BLENDED, TAKEN_OUT, ALONE):
        model = learning.build(learning.task, setting, learning.layers)
        fit(model, learning.task, seed=0, steps=2, rows=4, learning_rate=1e-2)
        learning.change(model, setting)
        same = (model(input_ids).logits == model(changed).logits).all(-1).all(0)
        assert not same[5] and same.sum() == (0 if setting == BLENDED else tasks.QUESTIONED - 1)


@pytest.mark.parametrize("setting", THREE)
def test_one_of_three_attentions_is_taken_out(setting):
    learning = LEARNING["three attentions"]
    model = learning.build(learning.task, setting, learning.layers)
    fit(model, learning.task, seed=0, steps=2, rows=4, learning_rate=1e-2)
    stack, attention = THREE[setting]
    zero = [name for name, parameter in model.named_parameters() if not parameter.any()]
    assert zero == [f"model.{stack}.layers.0.{attention}.o_proj.weight"]


def test_scaled_weights_are_drawn_as_said():
    figures = list(largest_weights([0]))
    assert [(each.at, each.setting) for each in figures] == list(itertools.product(HEAD_DIMS, (SCALED, UNSCALED)))
    assert all(1 / 64 < each.value < 1 for each in figures)


def test_the_parts_of_a_block_are_taken_out():
    """The share in which tokens differ, and the norm, of the same weights; equal to those computed by hand."""
    found = {(each.experiment, each.setting, each.at): each.value for each in block_parts([3])}
    first = {part: found["sizes", part, 1] for part in (WHOLE, NO_RESIDUAL, NO_NORM)}
    assert len(set(first.values())) == 3
    assert all(0 < value <= 1 for (name, *_), value in found.items() if name == "differences")
    for part in (WHOLE, NO_RESIDUAL, NO_NORM):
        model = untrained.encoder_without(part)
        layer, states = model.layers[0], torch.randn(1, 4, 64, dtype=torch.float64)
        branch = layer.mlp(states if part == NO_NORM else layer.mlp_norm(states))
        assert torch.allclose(layer.feed_forward(states), branch if part == NO_RESIDUAL else states + branch)


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
    """A few steps of each; the figures are those of the seed, also where no gradients are measured."""
    small = {**vars(LEARNING[name]), "steps": 3, "rows": 4}
    monkeypatch.setitem(LEARNING, name, experiments.Learning(**small))
    monkeypatch.setattr(experiments, "TEST_ROWS", 4)
    figures = learn(name, setting, 1)
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


def test_only_the_last_known_position_of_a_chain_counts():
    """It is where the input ends, or so many states before."""

    class Model(torch.nn.Module):
        config = type("Config", (), {"is_encoder_decoder": False})

        def forward(self, input_ids):
            # The next state where it can be seen; else the wrong one of those two that are likelier.
            states = input_ids - tasks.FIRST
            seen = torch.cat((states[:, 1:], states[:, -1:]), dim=1)
            return type("Output", (), {"logits": torch.nn.functional.one_hot(seen, tasks.STATES)})

    found = {future: accuracy(Model(), tasks.MARKOV, future, seed=0, rows=400) for future in (0, 1, 8)}
    assert found[1] == found[8] == 1 and found[0] == pytest.approx((1 - tasks.KNOWN) / 7, abs=0.04)


def test_what_a_language_model_writes_is_compared_with_what_follows_the_mark():
    learning = LEARNING["language model"]
    model = learning.build(learning.task, "attention", learning.layers).eval()
    texts = tasks.continuation(3, 6, torch.Generator().manual_seed(10**6)).input_ids
    model.generate = lambda prompt, **options: torch.cat((prompt, texts[:, prompt.shape[1] :]), dim=1)
    assert accuracy(model, learning.task, 3, seed=0, rows=6) == 1
    texts[0, 4] = texts[0, 4] - 1 if texts[0, 4] > tasks.FIRST else texts[0, 4] + 1
    assert accuracy(model, learning.task, 3, seed=0, rows=6) == pytest.approx(5 / 6)


def test_a_cache_grows_with_attention_alone(monkeypatch):
    monkeypatch.setattr(untrained, "LENGTHS", (16, 64))
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
    assert [readable(value) for value in (999.4, 999.7, -999.7)] == ["999", "1,000", "-1,000"]


def curves(experiment, **values):
    """Figures of an experiment with one seed: for each setting, its values by number."""
    return [
        Figure(experiment, setting.replace("_", " "), 0, at, value, 100)
        for setting, by_number in values.items()
        for at, value in by_number.items()
    ]


TIMES = dict.fromkeys(untrained.LENGTHS, 1.0)
GROWING = {length: length / 16 for length in untrained.LENGTHS}
FADING = {at: 0.5**at for at in tasks.RECALL.test}
STEADY = dict.fromkeys(tasks.RECALL.test, 1.0)
SOLVED, FORGOTTEN = dict.fromkeys(tasks.RECALL.test, 1.0), {at: 1.0 if at < 64 else 0.0 for at in tasks.RECALL.test}
PAIRS, FEW_PAIRS = dict.fromkeys(tasks.ASSOCIATIVE.test, 1.0), {at: 1 / at for at in tasks.ASSOCIATIVE.test}
BITS, FEW_BITS = dict.fromkeys(tasks.PARITY.test, 1.0), {at: 1.0 if at < 64 else 0.5 for at in tasks.PARITY.test}
MATCHED, SHORT = dict.fromkeys(tasks.REVERSAL.test, 1.0), {at: 1.0 if at < 15 else 0.0 for at in tasks.REVERSAL.test}
FIXED = dict.fromkeys(untrained.LENGTHS, 1.0)
EVERYWHERE, TRAINED_ONLY = (
    {at: 1.0 if at in places else 0.06 for at in tasks.ELSEWHERE.test}
    for places in (tasks.ELSEWHERE.test, tasks.ELSEWHERE.train)
)
KNOWS, OWN = ({at: 1.0 if at in known else 0.125 for at in tasks.STEPS_BACK} for known in (tasks.STEPS_BACK, (0,)))
LEVEL, SHARPER = ({at: value(at) for at in HEAD_DIMS} for value in (lambda at: 0.1, lambda at: 1 - 3 / at))
DIFFERING, ALIKE = ({at: factor**at for at in range(1, 13)} for factor in (0.9, 0.3))
AS_LARGE, LARGER = ({at: factor**at for at in range(1, 13)} for factor in (1.1, 2.0))
AS_KNOWN = dict.fromkeys(tasks.MARKOV.test, 0.6)
ONLY_SEEN = {at: 1.0 if at else 0.1 for at in tasks.MARKOV.test}
CLUE, NO_CLUE = (dict.fromkeys(tasks.DISTANCES, value) for value in (1.0, 1 / tasks.CLUES))
WRITTEN = {at: 1.0 if at <= max(tasks.CONTINUATION.train) else 0.0 for at in tasks.CONTINUATION.test}
TAGGED, HALF = (dict.fromkeys(tasks.BOTH_SIDES.test, value) for value in (1.0, 0.5))
EXACT, FALLING = ({at: factor**at for at in tasks.SHORT_REVERSAL.test} for factor in (1.0, 0.5))
CONFIRMED = {
    "another place": {SLOTWISE: TRAINED_ONLY, **dict.fromkeys(MIXERS, EVERYWHERE)},
    "neighbours": {BLENDED: KNOWS, TAKEN_OUT: OWN, ALONE: OWN},
    "scaling": {SCALED: LEVEL, UNSCALED: SHARPER},
    "differences": {WHOLE: DIFFERING, NO_RESIDUAL: ALIKE, NO_NORM: DIFFERING},
    "sizes": {WHOLE: AS_LARGE, NO_RESIDUAL: AS_LARGE, NO_NORM: LARGER},
    "the future": {MASKED: AS_KNOWN, UNMASKED: ONLY_SEEN},
    "language model": {"attention": WRITTEN, "lstm": WRITTEN},
    "first token": {"attention": CLUE, "rnn": NO_CLUE, "lstm": CLUE, NOTHING: NO_CLUE},
    "each token": {BOTH: TAGGED, PAST: HALF},
    "three attentions": {ALL_THREE: EXACT, **dict.fromkeys(THREE, FALLING)},
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
    "cross-attention": {WITH: MATCHED, WITHOUT: SHORT},
    "parity": {"attention": FEW_BITS, "rnn": BITS, "gru": BITS, "lstm": FEW_BITS},
    "cache": {"attention": GROWING, "rnn": FIXED, "gru": FIXED, "lstm": FIXED},
}
# One change, after which the claim is not confirmed.
NOT_CONFIRMED = {
    "another place": {"rnn": {**EVERYWHERE, 14: 0.1}},
    "neighbours": {TAKEN_OUT: {**OWN, 4: 0.5}},
    "scaling": {SCALED: SHARPER},
    "differences": {WHOLE: ALIKE},
    "sizes": {NO_NORM: AS_LARGE},
    "the future": {UNMASKED: dict.fromkeys(tasks.MARKOV.test, 0.6)},
    "language model": {"attention": {**WRITTEN, 8: 0.9}},
    "first token": {"attention": {**CLUE, 64: 0.5}},
    "each token": {PAST: TAGGED},
    "three attentions": {"no self-attention": EXACT},
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
        for experiment, settings in CONFIRMED.items()
        for figure in curves(experiment, **{**settings, **changes.get(experiment, {})})
    ]


def test_verdicts_follow_from_the_figures():
    """Each claim for itself: one changed curve, and it is not confirmed."""
    assert {claim.experiment for claim in CLAIMS} == CONFIRMED.keys() == NOT_CONFIRMED.keys()
    for changed in (None, *NOT_CONFIRMED):
        results = Results(figures_of({changed: NOT_CONFIRMED.get(changed, {})}), LOGARITHMIC)
        confirmed = {claim.experiment: claim.judge(results).confirmed for claim in CLAIMS}
        assert confirmed == {name: name != changed for name in CONFIRMED}


@pytest.mark.parametrize("changes", [{}, NOT_CONFIRMED], ids=["all are confirmed", "none is"])
def test_the_page(changes, tmp_path):
    """The page says which claims are not confirmed; each has its picture, and a link to its section."""
    write_page(Results(figures_of(changes), LOGARITHMIC), tmp_path, [Run(1, 1.5, "a machine", ["recall", "cache"])])
    page = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert f"{0 if changes else len(CLAIMS)} of {len(CLAIMS)} claims are confirmed." in page
    assert page.count("claim is not confirmed.**") == (len(CLAIMS) if changes else 0)
    pictures = re.findall(r"\]\((\S+\.png)\)", page)
    assert len(pictures) == len(CLAIMS) and {path.name for path in tmp_path.glob("*.png")} == set(pictures)
    anchors = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in re.findall(r"(?m)^## (.+)$", page)}
    assert set(re.findall(r"\]\(#(\S+)\)", page)) == anchors - {"how-it-was-measured"}
    assert page.endswith("- With 1 seed in 2 minutes on a machine: recall, cache.\n")


@pytest.fixture
def measured(monkeypatch):
    """Figures that confirm the claims, in place of those that the command would measure; they may be changed.

    Pictures are not drawn.
    """
    monkeypatch.setattr(pictures, "draw", lambda claim, results, path: None)
    found = {figure.experiment: [] for figure in figures_of({})}
    for figure in figures_of({}):
        found[figure.experiment].append(figure)
    names = {"parts of a block": ("differences", "sizes"), "recall": ("recall", BEFORE, AFTER)}

    def figures(name):
        return [figure for experiment in names.get(name, [name]) for figure in found[experiment]]

    for name in UNTRAINED:
        monkeypatch.setitem(UNTRAINED, name, lambda seeds, name=name: figures(name))
    monkeypatch.setattr(command, "learn_all", lambda names, seeds: [each for name in names for each in figures(name)])
    return found


def test_the_command_writes_a_page_that_can_be_made_again(measured, monkeypatch, tmp_path):
    command.main(["--quick", "--output", str(tmp_path)])
    page = (tmp_path / "README.md").read_bytes()
    (tmp_path / "README.md").unlink()
    monkeypatch.setattr(command, "machine", lambda: "another machine")
    command.main(["--page_only", "--output", str(tmp_path)])
    assert (tmp_path / "README.md").read_bytes() == page
    runs, figures = command.read(tmp_path / "figures.jsonl")
    assert [(run.seeds, set(run.experiments)) for run in runs] == [(1, {claim.experiment for claim in CLAIMS})]
    assert len(figures) == len(figures_of({}))


def test_one_experiment_may_be_measured_again(measured, tmp_path):
    """The other figures stay; a run is named as long as a figure of it is there."""
    for _ in range(2):
        command.main(["--quick", "--output", str(tmp_path)])
    measured["cache"] = curves("cache", attention=GROWING, rnn=FIXED, gru=FIXED, lstm=GROWING)
    for name in ("cache", "heads", "cache"):
        command.main(["--quick", "--only", name, "--output", str(tmp_path)])
    runs, figures = command.read(tmp_path / "figures.jsonl")
    assert [run.experiments for run in runs[1:]] == [["heads"], ["cache"]]
    assert len(runs[0].experiments) == len(CLAIMS)
    expected = [each for each in figures_of({}) if each.experiment != "cache"] + measured["cache"]
    assert sorted(figures, key=str) == sorted(expected, key=str)
    assert "**no**" in (tmp_path / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("option", ["--only heads", "--page_only"])
def test_figures_that_are_not_measured_must_be_there(option, measured, tmp_path, capsys):
    """The user is told so before anything is measured."""
    with pytest.raises(SystemExit):
        command.main([*option.split(), "--output", str(tmp_path)])
    assert f"{option.split()[0]}: {tmp_path / 'figures.jsonl'} does not exist" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


def test_marked_figures_are_written_again(measured, tmp_path):
    """In the pages beside the directory, but not by a quick run; an unknown marker is an error."""
    text = "`2`: 7<!-- recall | rnn | 4 --> and ?<!-- cache | attention | 2048 -->을 보라, 9<!-- a remark -->."
    expected = "`2`: 1<!-- recall | rnn | 4 --> and 128<!-- cache | attention | 2048 -->을 보라, 9<!-- a remark -->."
    page = tmp_path / "lecture.ko.md"
    page.write_text(text, encoding="utf-8")
    folder = str(tmp_path / "lecture")
    command.main(["--quick", "--output", folder])
    assert page.read_text(encoding="utf-8") == text
    command.main(["--page_only", "--output", folder])
    assert page.read_text(encoding="utf-8") == expected
    page.write_text("1<!-- recall | rnn | 5 -->", encoding="utf-8")
    with pytest.raises(ValueError, match="no figure of 'recall', 'rnn' at 5"):
        command.main(["--page_only", "--output", folder])


def test_times_are_of_every_mixer_and_length_at_equal_width(monkeypatch):
    monkeypatch.setattr(untrained, "LENGTHS", (16, 32))
    monkeypatch.setattr(untrained, "WIDTH", 8)
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
