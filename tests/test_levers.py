"""Settings compared: the values of the runs themselves, of averaged checkpoints, and the table of results."""

import json
import sys

import pytest
from test_train_command import (
    CLASSIFY,
    ROWS,
    files,
    plain_cards,  # noqa: F401
    quick_and_quiet,  # noqa: F401
    read,
    run,
)

from seqblend.benchmarks import levers
from seqblend.benchmarks.levers import BASE, TOGETHER
from seqblend.benchmarks.results import levers_table


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs that have kept their checkpoints, and one with another learning rate."""
    root = tmp_path_factory.mktemp("levers")
    given = {"task": CLASSIFY, **files(root, ROWS[CLASSIFY], ["train", "validation"]), "max_steps": 3}
    saving = {"save_strategy": "steps", "save_steps": 1}
    for seed in (0, 1):
        run(root / "runs" / f"{BASE}_{seed}", **given, **saving, seed=seed)
    run(root / "runs" / "other_0", **given, learning_rate=0.5)
    return root


def test_runs_are_measured_as_they_measured_themselves(runs, monkeypatch):
    store = runs / "levers_clinc150.json"
    argv = ["levers", str(runs / "validation.jsonl"), str(runs / "runs"), str(store)]
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.setattr(levers, "COUNTS", (2,))
    levers.main()
    found = json.loads(store.read_text())
    values = found["values"]
    for seed in "01":
        assert values[BASE][seed] == pytest.approx(
            read(runs / "runs" / f"{BASE}_{seed}/all_results.json")["eval_accuracy"]
        )
    assert values["other"].keys() == {"0"}
    assert f"{BASE}{TOGETHER}" in values and f"other{TOGETHER}" not in values
    for count in levers.COUNTS:
        assert values[f"mean of the last {count} checkpoints"].keys() == {"0", "1"}
    assert all("seqblend train" in command for command in found["commands"].values())


def found(lever, *values):
    """The measurements of a lever, of the seeds 0, 1 …."""
    return [(lever, seed, value) for seed, value in enumerate(values)]


def test_what_is_measured_later_is_added_to_the_store(runs, tmp_path):
    store = tmp_path / "store.json"
    levers.write([*found(BASE, 0.5, 0.75), (f"{BASE}{TOGETHER}", None, 0.8)], runs / "runs", store)
    store.write_text(json.dumps({**read(store), "names": {"a": "the setting a"}}))
    # Together are all runs of a lever: of those of base, seed 2 is not there.
    old = read(store)
    assert old["values"] == {BASE: {"0": 0.5, "1": 0.75}, f"{BASE}{TOGETHER}": {"together": 0.8}}
    later = [*found(BASE, 0.5, 0.75, 0.25), (f"{BASE}{TOGETHER}", None, 0.9), *found("a", 0.625)]
    levers.write(later, runs / "runs", store)
    values = read(store)["values"]
    assert values.pop("a") == {"0": 0.625}
    assert values == {**old["values"], BASE: {"0": 0.5, "1": 0.75, "2": 0.25}}
    assert read(store)["commands"] == old["commands"] and read(store)["names"] == {"a": "the setting a"}


def test_values_that_cannot_be_compared_are_refused(runs, tmp_path):
    store = tmp_path / "store.json"
    levers.write(found(BASE, 0.5), runs / "runs", store)
    with pytest.raises(ValueError, match=r"store.json: has 0.5 for base_0, but the run in .* gives 0.25"):
        levers.write(found(BASE, 0.25), runs / "runs", store)
    with pytest.raises(ValueError, match="a: there is no base run with the seed 1"):
        levers.write(found("a", 0.5, 0.5), runs / "runs", store)
    assert read(store)["values"] == {BASE: {"0": 0.5}}


def test_the_table_has_means_errors_and_paired_differences(tmp_path):
    values = {
        BASE: {"0": 0.5, "1": 0.7},
        "a": {"0": 0.6, "1": 0.8},
        f"a{TOGETHER}": {"together": 0.75},
        "b": {"1": 0.6},
    }
    store = {"values": values, "commands": {}, "names": {"a": "the setting a"}, "notes": ["b takes twice as long."]}
    (tmp_path / "levers_clinc150.json").write_text(json.dumps(store))
    rows = [line for line in levers_table(tmp_path) if line.startswith("| 150 intents")]
    assert [row.split(" | ", 1)[1] for row in rows] == [
        "the runs themselves | 60.00 ± 10.00 |  |",
        "the setting a | 70.00 ± 10.00 | +10.00 ± 0.00 |",
        "the setting a, 2 seeds as an ensemble | 75.00 |  |",
        "b | 60.00 | -10.00 |",
    ]
    (tmp_path / "levers_clinc150-c.json").write_text(json.dumps({"values": {BASE: {"0": 0.5}, "c": {"0": 0.625}}}))
    rows = [line for line in levers_table(tmp_path) if line.startswith("| 150 intents")]
    assert len(rows) == 6 and rows[1].endswith("| c | 62.50 | +12.50 |")
    assert levers_table(tmp_path)[-2:] == ["b takes twice as long.", ""]
    assert levers_table(tmp_path / "none") == []
