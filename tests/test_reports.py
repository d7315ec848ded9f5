"""Reports: what lies in the data, where a model is wrong, and whether two settings differ."""

import csv
import itertools
import json
import math
import shutil
from datetime import date
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import precision_recall_fscore_support
from test_train_command import CLASSIFY, TAG, TRANSLATE, files, read, run, write

from seqblend.__main__ import main as seqblend
from seqblend.reports import data_report as data_report_module
from seqblend.reports import error_report
from seqblend.reports.compare import compare
from seqblend.reports.error_report import by_label, by_length, by_slice, worst_rows
from seqblend.reports.runs import Run, read_run
from seqblend.reports.statistics import bootstrap, compare_groups, mcnemar, percentile_interval
from seqblend.reports.tables import Figure, Table, cell_text, markdown_cell, markdown_table, number_text
from seqblend.reports.texts import as_texts, first_texts, hash_answers, lengths_of
from seqblend.scoring import metrics, row_metrics
from seqblend.scoring.row_metrics import mean_of
from seqblend.scoring.tags import find_scheme
from seqblend.tasks.encoding import Settings
from seqblend.tasks.registry import TASKS

LABELS = ["a", "b", "c"]
IOB = ["O", "B-x", "I-x", "B-y", "I-y"]


# --- Metrics as sums over rows ---


def pairs_of(values):
    return st.lists(st.tuples(values, values), min_size=1, max_size=8)


# Metrics that are no functions of sums over rows.
OTHERS = {"matthews_correlation", "pearson", "spearman"}
OTHERS |= {"bleu", "bleu_signature", "bleu_note", "chrf", "chrf_signature"}


def assert_equal(sums, figures):
    expected = {name: value for name, value in figures.items() if name not in OTHERS}
    assert {name: each.of_all for name, each in sums.items()} == pytest.approx(expected)


@given(pairs_of(st.sampled_from(LABELS)))
@settings(max_examples=40)
def test_the_sums_of_classes_give_the_metrics(pairs):
    sides = [list(side) for side in zip(*pairs, strict=True)]
    ids = [[LABELS.index(name) for name in side] for side in sides]
    figures = metrics.SequenceClassificationMetric().compute(predictions=ids[0], references=ids[1])
    assert_equal(row_metrics.sums_of_classes(row_metrics.count_classes(*sides, LABELS)), figures)


@given(pairs_of(st.lists(st.sampled_from(LABELS), unique=True)))
@settings(max_examples=40)
def test_the_sums_of_several_labels_give_the_metrics(pairs):
    sides = [list(side) for side in zip(*pairs, strict=True)]
    rows = [[[int(name in row) for name in LABELS] for row in side] for side in sides]
    figures = metrics.MultiLabelMetric().compute(predictions=rows[0], references=rows[1])
    assert_equal(row_metrics.sums_of_several(row_metrics.count_several(*sides, LABELS)), figures)


@given(st.data())
@settings(max_examples=40)
def test_the_sums_of_tags_give_the_metrics(data):
    lengths = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=5))
    sides = [[data.draw(st.lists(st.sampled_from(IOB), min_size=n, max_size=n)) for n in lengths] for _ in range(2)]
    figures = metrics.TokenClassificationMetric().compute(predictions=sides[0], references=sides[1], labels=IOB)
    counts = row_metrics.count_spans(*sides, find_scheme(IOB))
    assert_equal(row_metrics.sums_of_tags(counts, *sides, True), figures)
    spans = [[span for row in side for span in find_scheme(IOB).spans(row)] for side in sides]
    assert [counts.predicted.sum(), counts.expected.sum()] == list(map(len, spans))
    assert counts.names == sorted({kind for side in spans for kind, *_ in side})


@given(pairs_of(st.lists(st.sampled_from(LABELS), min_size=2, max_size=2)))
@settings(max_examples=20)
def test_the_sums_of_tags_without_spans_give_the_metrics(pairs):
    sides = [list(side) for side in zip(*pairs, strict=True)]
    figures = metrics.TokenClassificationMetric().compute(predictions=sides[0], references=sides[1], labels=LABELS)
    assert_equal(row_metrics.sums_of_tags(row_metrics.count_spans(*sides, None), *sides, False), figures)


@given(pairs_of(st.sampled_from(["a b", "a b c", "b", "é x", "한국 어", ""])), st.sampled_from([["a c"], []]))
@settings(max_examples=40)
def test_the_sums_of_texts_give_the_metrics(pairs, others):
    sides = [list(side) for side in zip(*pairs, strict=True)]
    references = [[text, *others] for text in sides[1]]
    figures = metrics.Seq2SeqMetric().compute(predictions=sides[0], references=references)
    assert_equal(row_metrics.sums_of_texts(sides[0], references), figures)


@given(pairs_of(st.lists(st.integers(-3, 3), min_size=2, max_size=2)), st.booleans())
@settings(max_examples=20)
def test_the_sums_of_numbers_give_the_metrics(pairs, is_row):
    sides = [[row if is_row else float(row[0]) for row in side] for side in zip(*pairs, strict=True)]
    figures = metrics.RegressionMetric().compute(predictions=sides[0], references=sides[1])
    assert_equal(row_metrics.sums_of_numbers(*sides), figures)


@pytest.mark.parametrize(
    ("task", "problem_type", "predictions", "references"),
    [
        (CLASSIFY, "single_label_classification", ["a", "b", "a"], ["a", "b", "c"]),
        (CLASSIFY, "multi_label_classification", [["a", "b"], [], ["c"]], [["a"], [], ["b", "c"]]),
        (CLASSIFY, "regression", [0.5, 2.0, 1.0], [1.0, 1.0, 1.5]),
        (TAG, None, [["a", "b"], ["c"]], [["a", "c"], ["c"]]),
        (TRANSLATE, None, ["a b", "c"], ["a", "c"]),
    ],
)
def test_the_figures_of_a_report_are_those_of_its_task(task, problem_type, predictions, references):
    scored, settings = TASKS[task], Settings.for_scoring(LABELS, problem_type, None)
    rows = {scored.reference: references}
    figures = scored.score([{"prediction": each} for each in predictions], rows, settings)
    sums = scored.row_sums(predictions, references, settings)
    assert_equal(sums, figures)
    assert scored.main_metric(settings) in (next(iter(sums)), "chrf")


def test_texts_written_in_place_of_none_are_errors():
    """The error rate of a slice in which all references are empty was 0, and its rows were in no list of errors."""
    sums = row_metrics.sums_of_texts(["a b", "", "c"], ["", "", "c"])
    figures = metrics.Seq2SeqMetric().compute(predictions=["a b", ""], references=["", ""])
    for name in ("word_error_rate", "character_error_rate"):
        assert sums[name].value(sums[name].counts[:2].sum(0)) == figures[name] > 0
    rows = [{"input": "x", "prediction": text, "reference": ""} for text in ("a b", "", "c")]
    table = worst_rows(SimpleNamespace(sums=sums, rows=rows))
    assert [(row[0], row[-1]) for row in table.rows] == [(1, 3.0)]


def test_the_counts_of_labels_are_those_of_scikit_learn():
    predictions, references = list("aabbccab"), list("abbbcaac")
    counts = row_metrics.count_classes(predictions, references, LABELS)
    expected = precision_recall_fscore_support(references, predictions, labels=LABELS)
    for index in range(3):
        found = [each.of_all for each in counts.of_label(index).values()]
        assert found == pytest.approx([each[index] for each in expected[:3]])


# --- Intervals and tests ---


def test_a_sample_has_as_many_rows_and_the_same_for_every_metric():
    ones = mean_of([1, 0, 1, 1])
    samples = bootstrap([ones, mean_of([0, 1, 0, 0])], 50)
    assert samples.shape == (50, 2) and samples.std() > 0
    assert samples.sum(-1) == pytest.approx(np.ones(50))


def test_equally_good_systems_are_said_to_differ_in_at_most_6_percent_of_draws():
    rng = np.random.default_rng(0)
    found = 0
    for draw in range(1000):
        rows = rng.beta(4, 1, size=250)  # some rows are harder than others, for both
        first, second = ([mean_of(rng.random(250) < rows)] for _ in range(2))
        found += compare_groups(first, second, seed=draw).is_significant
    assert 0 < found <= 60


def test_rounding_is_no_difference():
    values = mean_of([0.1, 0.7, 0.4, 0.9, 0.3, 0.3, 0.6])
    for sizes in ((1, 3), (3, 5), (3, 7)):
        found = compare_groups(*([values] * size for size in sizes))
        assert (found.p_value, found.low, found.high) == (1, 0, 0)


def groups_of_seeds(rng, means, rows=400, seeds=3, spread=0.01):
    """The metric of runs whose seeds differ in how good they are."""
    return [[mean_of(rng.random(rows) < rng.normal(mean, spread)) for _ in range(seeds)] for mean in means]


def test_groups_of_one_setting_do_not_differ_and_of_two_settings_do():
    rng = np.random.default_rng(1)
    same = [compare_groups(*groups_of_seeds(rng, (0.8, 0.8)), seed=i).is_significant for i in range(100)]
    other = [compare_groups(*groups_of_seeds(rng, (0.8, 0.95)), seed=i).is_significant for i in range(20)]
    assert sum(same) <= 10 and all(other)


@pytest.mark.parametrize("sizes", [(3, 2), (2, 2), (4, 1), (1, 5)])
def test_runs_whose_rows_are_all_alike_are_compared_by_the_test_of_welch(sizes):
    """There is no variation over rows; of a single run, none over seeds either."""
    rng = np.random.default_rng(sum(sizes))
    values = [rng.normal(0.8, 0.05, size).tolist() for size in sizes]
    found = compare_groups(*([mean_of([value] * 7) for value in group] for group in values))
    differences = [after - before for before, after in itertools.product(*values)]
    expected = stats.ttest_1samp(differences, 0) if 1 in sizes else stats.ttest_ind(*values[::-1], equal_var=False)
    interval = expected.confidence_interval(0.95)
    assert found.p_value == pytest.approx(expected.pvalue) and found.is_significant == (expected.pvalue < 0.05)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.mean == pytest.approx(np.mean(values[1]) - np.mean(values[0]))


def test_if_all_rows_differ_alike_it_is_a_sign_test():
    found = compare_groups([mean_of([0] * 6)], [mean_of([0.5] * 6)])
    assert (found.low, found.high, found.p_value) == (0.5, 0.5, 2 / 2**6)


def test_the_interval_of_samples_has_95_percent_of_them():
    assert percentile_interval(np.arange(1001)) == pytest.approx((25, 975))


def test_the_interval_has_the_true_difference():
    rng = np.random.default_rng(2)
    inside = 0
    for draw in range(100):
        found = compare_groups(*groups_of_seeds(rng, (0.7, 0.8)), seed=draw)
        inside += found.low <= 0.1 <= found.high
    assert inside >= 90


def test_mcnemar_by_hand():
    """Of six rows that only one of them has right, all are the second's: p is 2 / 64."""
    first, second = np.array([True] * 4 + [False] * 6), np.array([True] * 10)
    test = mcnemar(first, second)
    assert (test.only_first, test.only_second) == (0, 6) and test.p_value == pytest.approx(2 / 2**6)
    assert mcnemar(first, first).p_value == 1


# --- Numbers ---


def test_a_small_number_is_not_shown_as_0():
    """The mean squared error of targets below 0.1 was 0.000, with an interval from 0.000 to 0.000."""
    assert str(Figure(0.00012, 0.0001, 0.00034)) == "0.00012 (0.0001 to 0.00034)"
    assert str(Figure(0.5, 0.0123, 1)) == "0.500 (0.012 to 1.000)" and cell_text(-0.00012) == "-0.00012"
    assert [number_text(each) for each in (0.0, 1e-17, math.nan, 12345.678)] == ["0.000", "0.000", "nan", "12345.678"]
    assert [number_text(each, 4, "+") for each in (0.0123, 0.00012, -1e-17)] == ["+0.0123", "+0.00012", "-0.0000"]


def test_markdown_shows_names_as_they_are():
    """Two labels, `*y*` and `y`, looked alike."""
    shown = {
        **{"*y*": r"\*y\*", "__init__": r"\_\_init\_\_", "a_b": "a_b", "`x`": r"\`x\`", "~~s~~": r"\~\~s\~\~"},
        **{"[x](y)": r"\[x\](y)", "<b>|": r"&lt;b>\|", "\\": r"\\", "&amp;": "&amp;amp;"},
    }
    assert {cell: markdown_cell(cell) for cell in shown} == shown
    assert Table("By _kind_", "", [], []).markdown()[0] == r"## By \_kind\_"


def test_a_table_in_markdown():
    """Columns of numbers, and of nothing else, stand at the right."""
    rows = [["x", 1234, 0.5, ["a", "b"], None, True], ["y", 2, 1.0, [1, "é"], 3, "z"]]
    assert markdown_table(["name", "count", "share", "words", "other", "more"], rows) == [
        "| name | count | share | words | other | more |",
        "|---|---:|---:|---|---|---|",
        "| x | 1,234 | 0.500 | a b | None | True |",
        r'| y | 2 | 1.000 | \[1, "é"\] | 3 | z |',
    ]
    assert markdown_table(["name"], []) == ["| name |", "|---|"]
    assert Table("t", "A note.", ["name"], []).markdown() == ["## t", "", "A note.", "", "| name |", "|---|", ""]


# --- Runs ---


@pytest.fixture(scope="module")
def tested(tmp_path_factory):
    """The directories of two runs on the same rows, for each task."""
    root = tmp_path_factory.mktemp("tested")
    found = {}
    rows = {
        CLASSIFY: [{"text": f"a {'b' * (i % 7)}", "label": "xyz"[i % 3]} for i in range(30)],
        TAG: [{"tokens": ["a", "b"] * (1 + i % 3), "tags": ["B-x", "I-x"] * (1 + i % 3)} for i in range(12)],
        TRANSLATE: [{"source": f"a{'b' * (i % 3)}", "target": f"b{'a' * (i % 3)}"} for i in range(12)],
    }
    for task, of_task in rows.items():
        data = files(root, of_task, suffix=f"-{task}.jsonl")
        found[task] = [run(root / f"{task}-{seed}", task=task, seed=seed, max_steps=3, **data) for seed in (0, 1)]
    return found


@pytest.mark.parametrize("task", [CLASSIFY, TAG, TRANSLATE])
def test_the_figures_of_a_comparison_are_those_of_the_runs(task, tested):
    runs = [read_run(each) for each in tested[task]]
    comparison = compare(runs[:1], runs[1:])
    results = [read(each / "all_results.json") for each in tested[task]]
    for name, difference in comparison.differences.items():
        assert difference.means == pytest.approx([each[f"test_{name}"] for each in results]), name


def test_the_command_prints_and_writes_a_comparison(tested, tmp_path, capsys):
    sides = [str(each) for each in tested[CLASSIFY]]
    assert seqblend(["compare", *sides, "--output", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "| accuracy |" in printed and "McNemar's exact test" in printed
    assert "A single run for A and B: " in printed and "over the runs" not in printed and "±" not in printed
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "comparison.json",
        "comparison.md",
        "comparison.png",
    ]
    content = read(tmp_path / "out/comparison.json")
    assert content["runs"] == [[side] for side in sides] and content["metrics"]["accuracy"]["p_value"] <= 1
    assert content["mcnemar"].keys() == {"only_first", "only_second", "p_value"}


def test_labels_that_do_not_occur_are_left_out():
    rows = [{"prediction": "a", "reference": "ab"[i % 2], "input": "x"} for i in range(10)]
    counts = row_metrics.count_classes(*([row[name] for row in rows] for name in ("prediction", "reference")), LABELS)
    table = by_label(SimpleNamespace(counts=counts))
    assert [row[0] for row in table.rows] == ["b", "a"] and table.note.endswith("are left out: 1.")


def test_of_many_labels_the_most_frequent_are_told(monkeypatch):
    monkeypatch.setattr(error_report, "MOST_LABELS", 2)
    counts = row_metrics.count_classes(list("abbccc"), list("abbccb"), LABELS)
    table = by_label(SimpleNamespace(counts=counts))
    assert [row[:3] for row in table.rows] == [["b", 3, 2], ["c", 2, 3]]
    assert table.note.endswith(" Only the 2 most frequent of 3 labels.")
    monkeypatch.setattr(error_report, "MOST_LABELS", 3)
    assert "Only" not in by_label(SimpleNamespace(counts=counts)).note


def test_a_row_is_right_as_a_whole_if_every_row_counts_as_one():
    assert error_report.is_all_or_nothing(mean_of([0, 1]))
    assert not error_report.is_all_or_nothing(mean_of([0.5, 1]))
    assert not error_report.is_all_or_nothing(row_metrics.quotient_of(np.array([0, 1]), np.array([1, 2])))


def test_slices_by_numbers_are_not_rounded():
    sums = {"accuracy": mean_of([1, 0, 1, 0])}
    table = by_slice(SimpleNamespace(sums=sums), "rate", [0.0001, 0.0001, 0.0004, 1.0])
    assert table.title == "By rate"
    assert [(row[0], row[1]) for row in table.rows] == [("0.0001", 2), ("0.0004", 1), ("1.0", 1)]


def test_slices_by_values_of_other_types_are_kept_apart():
    """The number 1 and the text "1" were one slice; a column named as one of the table's own was lost in the JSON."""
    values = [1, "1", None, "None", True, "True", ["a", "b"], "a b", [date(2031, 3, 6)]]
    shown_values = ["1", '"1"', "null", "None", "true", "True", '["a", "b"]', "a b", '["2031-03-06"]']
    run = SimpleNamespace(sums={"accuracy": mean_of(range(9))})
    for name, head in (("kind", "kind"), ("rows", "value of rows"), ("accuracy", "value of accuracy")):
        found = by_slice(run, name, values).as_object()["rows"]
        assert [(row[head], row["rows"], row["accuracy"]["value"]) for row in found] == [
            (shown, 1, index) for index, shown in enumerate(shown_values)
        ]


@pytest.mark.parametrize(
    ("task", "inputs", "unit", "lengths"),
    [
        (TAG, [["New York", "a"], ["a"] * 5], "words", ["2", "5"]),
        (CLASSIFY, [["a b", ""], ["a", "b c"]], "words", ["2", "3"]),
        (CLASSIFY, [["ab", ""], ["a", "bcd"]], "words", ["1", "2"]),
        (CLASSIFY, [["a", "b"], ["abc", "d"]], "characters", ["2", "4"]),
        (TRANSLATE, ["a\u3000b", "", "c"], "words", ["0", "1", "2"]),
        (CLASSIFY, ["abc de", "f"], "words", ["1", "2"]),
        (
            CLASSIFY,
            ["a " * count for count in range(1, 13)],
            "words",
            ["10–11", "12", "1–2", "3", "4–5", "6", "7–8", "9"],
        ),
    ],
    ids=str,
)
def test_lengths_of_inputs(task, inputs, unit, lengths):
    """An empty text counted as a word, a word with a space as two, and the space between two texts as a character."""
    rows = [{"input": each} for each in inputs]
    run = Run("run", TASKS[task], None, rows)
    run.__dict__["sums"] = {"accuracy": mean_of([1] * len(rows))}
    table = by_length(run)
    assert table.head[0] == unit and sorted(row[0] for row in table.rows) == lengths


def test_an_f1_of_nothing_is_explained():
    """Sentences without names, of which none was predicted, had the F1 0 without a word."""
    spans = [["O", "O"], ["B-x", "O"]]
    sums = row_metrics.sums_of_tags(row_metrics.count_spans(spans, spans, find_scheme(IOB)), spans, spans, True)
    table = by_slice(SimpleNamespace(sums=sums), "genre", ["a", "b"])
    assert [row[-1].value for row in table.rows] == [0, 1]
    assert table.note == "Where nothing is expected or predicted, f1 is 0."
    assert by_slice(SimpleNamespace(sums=sums), "genre", ["a", "a"]).note == ""
    of_labels = SimpleNamespace(sums={"micro_f1": sums["f1"]})
    assert by_slice(of_labels, "genre", ["a", "b"]).note == "Where nothing is expected or predicted, micro_f1 is 0."


def test_a_row_without_a_number_is_the_worst():
    sums = row_metrics.sums_of_numbers([1.0, math.nan, 3.0], [1.5, 1.0, 1.0])
    rows = [{"input": "x", "prediction": 0, "reference": 0}] * 3
    assert [row[0] for row in worst_rows(SimpleNamespace(sums=sums, rows=rows)).rows] == [2, 3, 1]


def test_tags_of_other_words_do_not_fit(tested, tmp_path, capsys):
    changed = shutil.copytree(tested[TAG][0], tmp_path / "changed")
    rows = [json.loads(line) for line in (changed / "predictions.jsonl").read_text().splitlines()]
    rows[0]["prediction"].pop()
    (changed / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert seqblend(["errors", str(changed)]) == 2
    assert "predictions.jsonl does not fit the model" in capsys.readouterr().err


def test_a_run_does_not_differ_from_its_copies(tested, tmp_path, capsys):
    side, *others = tested[TAG][0], tmp_path / "one", tmp_path / "other"
    for other in others:
        shutil.copytree(side, other)
    assert seqblend(["compare", ",".join(map(str, others)), str(side)]) == 0
    assert "| yes |" not in capsys.readouterr().out


def test_the_name_of_a_run_may_have_commas(tested, tmp_path, capsys):
    first, second = (shutil.copytree(each, tmp_path / f"{each.name},lr=1") for each in tested[TAG])
    assert seqblend(["compare", str(first), str(second)]) == 0
    assert f"A: {first}" in capsys.readouterr().out
    assert seqblend(["compare", "", str(second)]) == 2
    assert "each side needs at least one directory" in capsys.readouterr().err


def test_runs_of_other_labels_are_refused(tested, tmp_path, capsys):
    first, second = tested[CLASSIFY]
    changed = shutil.copytree(second, tmp_path / "changed")
    config = read(changed / "config.json")
    config["id2label"] = {index: {"x": "q"}.get(name, name) for index, name in config["id2label"].items()}
    (changed / "config.json").write_text(json.dumps(config))
    assert seqblend(["compare", str(first), str(changed)]) == 2
    assert "have different labels: only one of them has 'q'" in capsys.readouterr().err


def test_a_run_is_not_compared_with_itself(tested, capsys):
    side = str(tested[TAG][0])
    for sides in ([side, side], [f"{side},{side}", str(tested[TAG][1])], [side, f"{side}/../{tested[TAG][0].name}"]):
        assert seqblend(["compare", *sides]) == 2
        assert "is given twice" in capsys.readouterr().err


def test_an_answer_without_its_score_is_named(tested, tmp_path, capsys):
    changed = shutil.copytree(tested[CLASSIFY][0], tmp_path / "changed")
    rows = [json.loads(line) for line in (changed / "predictions.jsonl").read_text().splitlines()]
    rows[2] |= {"prediction": rows[2]["prediction"], "reference": "other", "scores": {}}
    (changed / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert seqblend(["errors", str(changed)]) == 2
    assert "row 3 has no score" in capsys.readouterr().err


def test_runs_on_other_rows_are_refused(tested, tmp_path, capsys):
    first, second = tested[CLASSIFY]
    other = tmp_path / "other"
    other.mkdir()
    for path in second.iterdir():
        if path.is_file():
            (other / path.name).write_bytes(path.read_bytes())
    rows = (second / "predictions.jsonl").read_text().splitlines()
    changes = {
        "has predicted 29 rows, but": rows[:-1],
        "row 1 has another input than": [json.dumps({**json.loads(rows[0]), "input": "q"}), *rows[1:]],
        "row 2 has another reference than": [
            rows[0],
            json.dumps({**json.loads(rows[1]), "reference": "x"}),
            *rows[2:],
        ],
        "has no predictions.jsonl": [],
    }
    for message, changed in changes.items():
        (other / "predictions.jsonl").write_text("".join(f"{line}\n" for line in changed))
        assert seqblend(["compare", str(first), str(other)]) == 2
        assert message in capsys.readouterr().err
    assert seqblend(["compare", str(first), str(tested[TAG][0])]) == 2
    assert "is of token-classification, but" in capsys.readouterr().err
    assert seqblend(["compare", str(first), str(tmp_path)]) == 2
    assert "no model of seqblend" in capsys.readouterr().err


@pytest.mark.parametrize("task", [CLASSIFY, TAG, TRANSLATE])
def test_a_run_writes_where_it_is_wrong(task, tested):
    directory = tested[task][0]
    content = read(directory / "error_report.json")
    titles = {table["title"]: table["rows"] for table in content["tables"]}
    results = read(directory / "all_results.json")
    for row in titles["Metrics"]:
        figure = row["value"]
        assert figure["value"] == pytest.approx(results[f"test_{row['metric']}"])
        assert figure["low"] <= figure["value"] <= figure["high"]
    assert sum(row["rows"] for row in titles["By length"]) == content["rows"]
    if task == CLASSIFY:
        assert sum(row["support"] for row in titles["By label"]) == content["rows"]
        confidences = [row["confidence"] for row in titles["Confident errors"]]
        assert confidences == sorted(confidences, reverse=True)
        assert all(row["prediction"] != row["reference"] for row in titles["Confident errors"])
    page = (directory / "error_report.html").read_text()
    assert "http" not in page and "<script" not in page and "By length" in page


def test_slices_of_the_test_rows(tested, tmp_path, capsys):
    rows = [{"genre": "news" if i % 3 else "<b>"} for i in range(30)]
    file = write(tmp_path / "rows.jsonl", rows)
    said = ["errors", str(tested[CLASSIFY][0]), "--output", str(tmp_path / "out"), "--slice_file", str(file)]
    assert seqblend([*said, "--slice_column", "genre"]) == 0
    tables = {table["title"]: table["rows"] for table in read(tmp_path / "out/error_report.json")["tables"]}
    assert {row["genre"]: row["rows"] for row in tables["By genre"]} == {"news": 20, "<b>": 10}
    assert "<b>" not in (tmp_path / "out/error_report.html").read_text()
    assert seqblend(said) == 2 and seqblend([*said, "--slice_column", "sort"]) == 2
    errors = capsys.readouterr().err
    assert "belong together" in errors and "row 1: has no column 'sort'" in errors
    write(file, rows[:-1])
    assert seqblend([*said, "--slice_column", "genre"]) == 2
    assert "has 29 rows, but the run has predicted 30" in capsys.readouterr().err


@pytest.mark.parametrize("task", [CLASSIFY, TAG, TRANSLATE])
@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_slices_of_other_rows_are_refused(task, suffix, tested, tmp_path, capsys):
    """Also where there are as many."""
    directory, column = tested[task][0], TASKS[task].inputs[0]
    inputs = [json.loads(line)["input"] for line in (directory / "predictions.jsonl").read_text().splitlines()]
    for changed, status in ((inputs, 0), ([*inputs[1:], inputs[0]], 2)):
        rows = [{column: each, "genre": "news"} for each in changed]
        if suffix == ".csv":
            table = [[json.dumps(row[column]) if task == TAG else row[column], row["genre"]] for row in rows]
            with open(tmp_path / "rows.csv", "w", newline="") as file:
                csv.writer(file).writerows([[column, "genre"], *table])
        else:
            write(tmp_path / "rows.jsonl", rows)
        said = ["--slice_file", str(tmp_path / f"rows{suffix}"), "--slice_column", "genre"]
        assert seqblend(["errors", str(directory), "--output", str(tmp_path / "out"), *said]) == status
    error = capsys.readouterr().err
    assert f"slice_file: row 1 has another {column} than {directory} has predicted" in error


def test_slices_of_other_rows_are_refused_under_any_name_of_the_column(tested, tmp_path, capsys):
    """Only a column with the standard name was compared, and without one nothing was said."""
    directory = tested[CLASSIFY][0]
    inputs = [json.loads(line)["input"] for line in (directory / "predictions.jsonl").read_text().splitlines()]
    said = ["errors", str(directory), "--output", str(tmp_path / "out"), "--slice_column", "genre", "--slice_file"]
    for changed, status in ((inputs, 0), ([*inputs[1:], inputs[0]], 2)):
        file = str(write(tmp_path / "rows.jsonl", [{"review": each, "genre": "news"} for each in changed]))
        assert seqblend([*said, file, "--text_column", "review"]) == status
    assert f"slice_file: row 1 has another review than {directory} has predicted" in capsys.readouterr().err
    assert seqblend([*said, file]) == 0
    error = capsys.readouterr().err
    assert "no column 'text' (--text_column)" in error and "the rows are not compared with those of" in error
    assert seqblend([*said, file, "--text_column", "nothing"]) == 2
    assert "slice_file: no column 'nothing' (--text_column)" in capsys.readouterr().err
    assert seqblend([*said, file, "--tokens_column", "review"]) == 2
    assert "tokens_column: sequence-classification reads text and text_pair" in capsys.readouterr().err


# --- Data ---

TRAIN = [
    {"text": "good film", "label": "1"},
    {"text": "bad film", "label": "0"},
    {"text": "good film", "label": "0"},
    {"text": "good film", "label": "1"},
    {"text": " ", "label": "1"},
    {"text": "a\u200bb", "label": "0"},
    {"text": "null", "label": "0"},
    {"text": "e\u0301", "label": "0"},
    {"text": '"""quoted', "label": "0"},
    {"text": "Tom &amp; Tim", "label": "0"},
]
TEST = [{"text": "bad film", "label": "1"}, {"text": "good film", "label": "0"}, {"text": "new", "label": "0"}]


def data_report(tmp_path, capsys, task, splits, **options):
    given = {f"{name}_file": write(tmp_path / f"{name}.jsonl", rows) for name, rows in splits.items()}
    options = {"task": task, **given, "output_dir": tmp_path / "report", **options}
    assert seqblend(["data", *(str(word) for name, value in options.items() for word in (f"--{name}", value))]) == 0
    return read(tmp_path / "report/data_report.json"), capsys.readouterr().out


@pytest.mark.parametrize("batch", [3, 1000])
def test_the_dirt_of_a_data_set_is_found(batch, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(data_report_module, "BATCH", batch)
    content, printed = data_report(tmp_path, capsys, CLASSIFY, {"train": TRAIN, "test": TEST})
    train = content["splits"]["train"]
    assert train["labels"] == {"0": 7, "1": 3}
    assert train["lengths"]["characters"] == [1, 1, 3, 8, 9, 13, 13, 13]
    found = {name: finding["rows"] for name, finding in train["findings"].items() if finding["count"]}
    assert found == {
        "repeated": [3, 4],
        "repeated with another answer": [3],
        "empty": [5],
        "control or invisible characters": [6],
        "a missing value in words": [7],
        "not in Unicode NFC": [8],
        "quotes of CSV": [9],
        "entities of HTML": [10],
    }
    (overlap,) = content["overlaps"]
    assert (overlap["shared"]["rows"], overlap["contradicting"]["rows"]) == ([1, 2], [1])
    assert overlap["shared"]["places"][0].endswith("test.jsonl: row 1")
    assert "train and test: 2 rows of test are also in train, 1 with another answer" in printed
    assert "10 rows, 2 labels (3 to 7 each)" in printed


def test_of_many_findings_and_labels_the_first_are_named(tmp_path, capsys, monkeypatch):
    """And that there are more."""
    monkeypatch.setattr(data_report_module, "BATCH", 4)
    for most, more in ((2, "| … and 1 more |"), (3, None)):
        monkeypatch.setattr(data_report_module, "MOST_LABELS", most)
        rows = [{"text": "", "label": "abc"[index % 3]} for index in range(9)]
        content, _ = data_report(tmp_path, capsys, CLASSIFY, {"train": rows})
        empty = content["splits"]["train"]["findings"]["empty"]
        assert (empty["count"], empty["rows"]) == (9, [1, 2, 3, 4, 5])
        text = (tmp_path / "report/data_report.md").read_text()
        assert "row 5; … |" in text and (more in text if more else " more |" not in text)


def test_spaces_of_every_script_are_spaces(tmp_path, capsys):
    """Only those of ASCII were: a text of ideographic spaces was not empty, and words between them were one."""
    texts = ["\u3000", "映画\u3000感想", "a\u00a0", "\u2009a", "a b"]
    content, _ = data_report(tmp_path, capsys, "causal-lm", {"train": [{"text": text} for text in texts]})
    train = content["splits"]["train"]
    found = {name: finding["rows"] for name, finding in train["findings"].items() if finding["count"]}
    assert found == {"empty": [1], "spaces around": [3, 4]}
    assert train["lengths"]["words"][0] == 0 and train["lengths"]["words"][-1] == 2


def test_a_space_is_an_empty_word_unless_every_character_is_a_word(tmp_path, capsys):
    """The rows of the built-in dates, whose words are characters, were all counted as empty."""
    rows = [["가", " ", "나"], [" ", "\u3000", "a"], ["가", "", "나"], ["가나", " ", "다"], [" "]]
    content, _ = data_report(
        tmp_path, capsys, TAG, {"train": [{"tokens": row, "tags": ["O"] * len(row)} for row in rows]}
    )
    assert content["splits"]["train"]["findings"]["empty"]["rows"] == [3, 4, 5]


@pytest.mark.parametrize("text", [chr(code) for code in (*range(0x1F), 0x85, 0xA0, 0x1680, 0x2003, 0x2028, 0x3000)])
def test_words_are_counted_as_python_splits_them(text):
    assert lengths_of(pa.chunked_array([[f"a{text}b"]]))["words"][0] == len(f"a{text}b".split())


def test_broken_tags_are_found_by_the_scheme(tmp_path, capsys):
    rows = [
        {"tokens": ["a", "b"], "tags": ["B-x", "I-x"]},
        {"tokens": ["a", "N/A"], "tags": ["O", "I-x"]},
        {"tokens": ["a"], "tags": ["B-x"]},
    ]
    content, printed = data_report(tmp_path, capsys, TAG, {"train": rows})
    findings = content["splits"]["train"]["findings"]
    assert findings["tags that are no legal sequence"]["rows"] == [2]
    assert findings["a missing value in words"]["rows"] == [2]
    assert content["splits"]["train"]["lengths"]["words"][-1] == 2
    assert "1 tags that are no legal sequence" in printed


SPELLINGS, FORMS = ["Positive", "positive", "positive "], ["cafe\u0301", "caf\u00e9"]
MARKS = ["-1", " nan", "  "]


@pytest.mark.parametrize("several", [False, True])
def test_labels_that_may_be_wrong_are_named(several, tmp_path, capsys, caplog):
    """Each spelling of a name and each mark of a missing label became a class, without a word."""
    names = ["good", *SPELLINGS, *FORMS, *MARKS, "O"]
    rows = [{"text": f"{index}", "label": ["O", name] if several else name} for index, name in enumerate(names)]
    options = {"problem_type": "multi_label_classification"} if several else {}
    content, printed = data_report(tmp_path, capsys, CLASSIFY, {"train": rows}, **options)
    finding = content["splits"]["train"]["findings"]["with a label that may be wrong"]
    assert (finding["count"], finding["rows"]) == (8, [2, 3, 4, 5, 6])
    assert "8 with a label that may be wrong" in printed
    (line,) = [message for message in caplog.messages if message.startswith("labels: ")]
    assert "'Positive', 'positive', 'positive '; 'cafe\u0301', 'café' differ only in case" in line
    assert "'  ', ' nan', '-1' may mean that a row has no label" in line


def test_a_run_warns_of_labels_and_of_no_others(tmp_path, caplog):
    run(tmp_path / "a", **files(tmp_path, [{"text": str(i), "label": i - 1} for i in range(3)], ["train"]))
    assert "labels: each is a class of its own, but '-1' may mean that a row has no label" in caplog.messages
    caplog.clear()
    labels = ["0", "1", "none", "na"]
    run(tmp_path / "b", **files(tmp_path, [{"text": each, "label": each} for each in labels], ["train"]))
    assert not [message for message in caplog.messages if message.startswith("labels: ")]


def test_the_order_of_labels_does_not_count_but_that_of_tags_and_numbers_does():
    names, numbers = pa.chunked_array([[["x", "y"], ["y", "x"], ["x"]]]), pa.chunked_array([[[1, 2], [2, 1], [1]]])
    for column, is_ordered, count in ((names, False, 2), (names, True, 3), (numbers, False, 3), (numbers, True, 3)):
        assert len({*hash_answers(column, is_ordered).tolist()}) == count


def test_columns_are_read_as_what_they_hold():
    messages = [["a", "b"], [], ["c"]]
    rows = [[{"role": "user", "content": each} for each in row] for row in messages]
    columns = [pa.chunked_array([each]) for each in (messages, rows)]
    assert as_texts(columns[0]).to_pylist() == ["a\x1fb", "", "c"]
    assert as_texts(columns[1]).to_pylist() == ["user\x1fa\x1fuser\x1fb", "", "user\x1fc"]
    found = [{unit: values.tolist() for unit, values in lengths_of(column).items()} for column in columns]
    assert found == [{"words": [2, 0, 1]}, {"messages": [2, 0, 1]}]
    assert first_texts(pa.chunked_array([messages[::2]])).to_pylist() == ["a", "c"]
    assert first_texts(columns[1]).to_pylist() == rows


@pytest.mark.parametrize("labels", [(-1, -2), ([1, 2], [2, 1])], ids=str)
def test_other_numbers_are_another_answer(labels, tmp_path, capsys):
    """Python's hashes of -1 and -2 are equal, and the order of several numbers did not count."""
    rows = {"train": [{"text": "a", "label": label} for label in labels]}
    content, _ = data_report(tmp_path, capsys, CLASSIFY, rows, problem_type="regression")
    assert content["splits"]["train"]["findings"]["repeated with another answer"]["rows"] == [2]


@pytest.mark.parametrize("label", [0.8, [0.8, 0.1]])
def test_numbers_are_no_labels(label, tmp_path, capsys):
    """With several numbers in a row each was listed as a label."""
    rows = {"train": [{"text": text, "label": label} for text in "ab"]}
    content, printed = data_report(tmp_path, capsys, CLASSIFY, rows, problem_type="regression")
    assert content["splits"]["train"]["labels"] == {} and " labels" not in printed


def test_the_labels_of_a_test_split_alone_are_counted(tmp_path, capsys):
    content, printed = data_report(tmp_path, capsys, CLASSIFY, {"test": TEST})
    assert content["splits"]["test"]["labels"] == {"0": 2, "1": 1} and "3 rows, 2 labels (1 to 2 each)" in printed


def test_long_lengths_have_all_digits(tmp_path, capsys):
    """1,234,567 characters were 1.23457e+06, and two parts of a table with such lengths could become one."""
    data_report(tmp_path, capsys, "causal-lm", {"train": [{"text": "a" * 1_234_567}]})
    assert "| characters | 1,234,567 |" in (tmp_path / "report/data_report.md").read_text()
    run = Run("run", TASKS[TRANSLATE], None, [{"input": "a" * (2_000_000 + index)} for index in range(8)])
    run.__dict__["sums"] = {"exact_match": mean_of([1] * 8)}
    assert [row[0] for row in by_length(run).rows] == [str(2_000_000 + index) for index in range(8)]


def test_pairs_of_texts_have_a_ratio(tmp_path, capsys):
    rows = [{"source": "ab", "target": "abcd"}, {"source": "abcd", "target": "ab"}]
    test = [{"source": "ab", "target": ["x", "y"]}, {"source": "abcd", "target": ["ab", "c"]}]
    splits = {"train": rows, "test": test}
    content, _ = data_report(tmp_path, capsys, TRANSLATE, splits)
    lengths = content["splits"]["train"]["lengths"]
    assert lengths["characters of target per character of source"][0] == 0.5
    assert lengths["characters of target per character of source"][-1] == 2
    # Of several references the first one is the answer.
    assert content["splits"]["test"]["lengths"]["target: characters"][-1] == 2
    assert content["overlaps"][0]["shared"]["rows"] == [1, 2]
    assert content["overlaps"][0]["contradicting"]["rows"] == [1]
    assert content["splits"]["train"]["labels"] == {}


@pytest.mark.parametrize("task", ["causal-lm", "masked-lm", "denoising"])
def test_texts_alone(task, tmp_path, capsys):
    content, _ = data_report(tmp_path, capsys, task, {"train": [{"text": "a b"}, {"text": "a b"}, {"text": "c"}]})
    assert content["splits"]["train"]["findings"]["repeated"]["rows"] == [2]
    assert content["splits"]["train"]["lengths"]["words"][-1] == 2


def test_a_run_reports_its_data(tested):
    content = read(tested[CLASSIFY][0] / "data_report.json")
    assert content["splits"]["train"]["rows"] == 30
    assert {each["shared"]["count"] for each in content["overlaps"]} == {30}
    assert content["splits"]["train"]["tokens"]["all"] > 30
    assert (tested[CLASSIFY][0] / "data_report.md").read_text().startswith("# Data report")
