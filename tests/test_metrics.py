import json
import math
import re
import unicodedata
from concurrent.futures import ThreadPoolExecutor

import evaluate
import jiwer
import numpy as np
import pytest
import sacrebleu
from sklearn.metrics import f1_score

from seqblend.data.errors import InputError
from seqblend.scoring.metrics import (
    MultiLabelMetric,
    RegressionMetric,
    Seq2SeqMetric,
    SequenceClassificationMetric,
    TokenClassificationMetric,
    bleu_tokenizer_for,
    make_bleu,
)
from seqblend.scoring.tags import describe_scheme, find_scheme
from seqblend.tasks.splits import greater_is_better, perplexity

pytestmark = pytest.mark.filterwarnings("error")  # a warning at every evaluation would hide the ones that matter

EXAMPLES = [  # one small input per metric, as the tasks give them
    pytest.param(SequenceClassificationMetric, [0, 1, 1], [0, 1, 2], id="sequence"),
    pytest.param(MultiLabelMetric, [[1, 0], [1, 1]], [[1, 0], [0, 1]], id="multi-label"),
    pytest.param(RegressionMetric, [0.5, 1.0, 2.5], [1.0, 2.0, 3.0], id="regression"),
    pytest.param(RegressionMetric, [[0.5, 1.0], [1.0, 3.0]], [[1.0, 2.0], [2.0, 1.0]], id="regression-rows"),
    pytest.param(TokenClassificationMetric, [["B-X", "O"]], [["B-X", "I-X"]], id="spans"),
    pytest.param(TokenClassificationMetric, [["NOUN", "VERB"]], [["NOUN", "NOUN"]], id="parts-of-speech"),
    pytest.param(Seq2SeqMetric, ["a b", "c"], ["a b", "d"], id="seq2seq"),
    pytest.param(Seq2SeqMetric, ["a b", "c"], [["a b", "b"], ["d"]], id="seq2seq-several"),
]


# --- every metric ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric, predictions, references", EXAMPLES)
def test_figures_are_plain_and_survive_json(metric, predictions, references):
    figures = metric().compute(predictions=predictions, references=references)
    assert {type(value) for value in figures.values()} <= {float, str}
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures


@pytest.mark.parametrize("metric, predictions, references", EXAMPLES)
def test_works_where_the_cache_cannot_be_made(metric, predictions, references, tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", str(file / "cache"))  # chmod would not stop root
    with pytest.raises(NotADirectoryError):
        evaluate.Metric._build_data_dir(metric())  # what evaluate's own metrics do
    assert metric().compute(predictions=predictions, references=references)


@pytest.mark.parametrize("metric, predictions, references", EXAMPLES)
def test_writes_nothing(metric, predictions, references, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    metric().compute(predictions=predictions, references=references)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("metric, predictions, references", EXAMPLES)
def test_batches_give_what_the_whole_gives(metric, predictions, references):
    batched = metric()
    for i in range(len(predictions)):
        batched.add_batch(predictions=predictions[i : i + 1], references=references[i : i + 1])
    assert batched.compute() == metric().compute(predictions=predictions, references=references)


@pytest.mark.parametrize("metric, predictions, references", EXAMPLES)
def test_nothing_to_judge_is_refused(metric, predictions, references):
    for guesses, truths in (([], []), (predictions, None), (None, references), (None, None), (predictions, [])):
        with pytest.raises(ValueError, match=rf"{metric().name}: .* length above 0, got \["):
            metric().compute(predictions=guesses, references=truths)


@pytest.mark.parametrize("metric, predictions, references", EXAMPLES)
def test_unequal_numbers_are_refused(metric, predictions, references):
    counts = [len(predictions), len(predictions) + 1]
    with pytest.raises(ValueError, match=re.escape(f"{metric().name}: ") + ".*" + re.escape(f"got {counts}")):
        metric().compute(predictions=predictions, references=[*references, references[0]])


def test_a_refused_batch_leaves_no_trace():
    # evaluate keeps its writer after an error, and with it the kind of input it had inferred: here single numbers
    metric = RegressionMetric()
    with pytest.raises(ValueError, match="could not convert string to float"):
        metric.compute(predictions=[1.0, "two"], references=[1.0, 2.0])
    assert metric.compute(predictions=[[1.0, 2.0]], references=[[1.0, 4.0]])["mse"] == 2.0


def test_threads_do_not_meet():
    def accuracy(wrong):
        predictions = [1] * wrong + [0] * (32 - wrong)
        return SequenceClassificationMetric().compute(predictions=predictions, references=[0] * 32)["accuracy"]

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(accuracy, range(1, 25))) == [1 - wrong / 32 for wrong in range(1, 25)]


# --- sequence classification -----------------------------------------------------------------------------------------


def test_sequence_figures_by_hand():
    figures = SequenceClassificationMetric().compute(predictions=[0, 1, 1, 1, 0], references=[0, 0, 1, 1, 2])
    # Gorodkin: (right * N - sum p_k t_k) / sqrt((N^2 - sum p_k^2) (N^2 - sum t_k^2)), p = 2 3 0, t = 2 2 1
    matthews = (3 * 5 - (2 * 2 + 3 * 2)) / math.sqrt((25 - 13) * (25 - 9))
    assert figures == pytest.approx(
        {"accuracy": 3 / 5, "macro_f1": (1 / 2 + 4 / 5 + 0) / 3, "matthews_correlation": matthews}
    )


def test_one_class_everywhere():
    figures = SequenceClassificationMetric().compute(predictions=[3, 3], references=[3, 3])
    assert figures == {"accuracy": 1.0, "macro_f1": 1.0, "matthews_correlation": 0.0}


def test_arrays_are_taken():
    figures = SequenceClassificationMetric().compute(predictions=np.array([0, 1]), references=np.array([0, 0]))
    assert figures["accuracy"] == 0.5


# --- several labels --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("predictions, references", [([0.9, 1.7], [1, 1]), ([0, 1], [1, 0.5]), ([0, None], [0, 1])])
def test_classes_that_are_no_whole_numbers_are_refused(predictions, references):
    """Probabilities were cut to class 0."""
    with pytest.raises(ValueError, match=r"sequence_classification_metric: entries of .* must be class ids, got "):
        SequenceClassificationMetric().compute(predictions=predictions, references=references)


def test_multi_label_figures_by_hand():
    predictions, references = [[1, 0, 0], [1, 1, 1], [0, 0, 0]], [[1, 0, 1], [1, 1, 0], [0, 0, 0]]
    figures = MultiLabelMetric().compute(predictions=predictions, references=references)
    assert figures == pytest.approx({"micro_f1": 6 / 8, "macro_f1": (1 + 1 + 0) / 3, "subset_accuracy": 1 / 3})


def test_multi_label_agrees_with_scikit_learn():
    generator = np.random.default_rng(0)
    predictions, references = generator.integers(0, 2, (2, 50, 7))
    figures = MultiLabelMetric().compute(predictions=predictions, references=references)
    for average in ("micro", "macro"):
        assert figures[f"{average}_f1"] == pytest.approx(f1_score(references, predictions, average=average))


def test_one_label_is_not_two_classes():
    # f1_score(..., average="micro") takes a matrix of one column for two classes and returns the accuracy, 3 / 4
    figures = MultiLabelMetric().compute(predictions=[[1], [1], [0], [0]], references=[[1], [0], [0], [0]])
    assert figures["micro_f1"] == figures["macro_f1"] == pytest.approx(2 / 3)


def test_no_label_anywhere():
    figures = MultiLabelMetric().compute(predictions=[[0, 0]], references=[[0, 0]])
    assert figures == {"micro_f1": 0.0, "macro_f1": 0.0, "subset_accuracy": 1.0}


@pytest.mark.parametrize(
    "predictions, references, message",
    [
        ([[1, 0]], [[1, 0, 1]], r"multi_label_metric: predictions have shape \(1, 2\), references \(1, 3\)"),
        ([[1, 0], [1]], [[1, 0], [1, 0]], r"multi_label_metric: rows of predictions .* lengths \[1, 2\]"),
        ([[1]], [[]], r"multi_label_metric: rows of references .* lengths \[0\]"),
        ([[1, 2]], [[1, 0]], r"multi_label_metric: entries of predictions must be 0 or 1, got 2\.0"),
        ([[0.9, 0.2]], [[1, 0]], r"multi_label_metric: entries of predictions must be 0 or 1, got 0\.9"),
        ([[1, 0]], [[1, 0.5]], r"multi_label_metric: entries of references must be 0 or 1, got 0\.5"),
        ([[1, 1]], [[1, -100]], r"multi_label_metric: entries of references must be 0 or 1, got -100\.0"),
    ],
)
def test_multi_label_refuses(predictions, references, message):
    with pytest.raises(ValueError, match=message):
        MultiLabelMetric().compute(predictions=predictions, references=references)


# --- regression ------------------------------------------------------------------------------------------------------


def test_regression_figures_by_hand():
    figures = RegressionMetric().compute(predictions=[1, 2, 4], references=[0.0, 1.0, 8.0])
    # deviations -4 -1 5 (times 1/3) and -3 -2 5: covariance 39, variances 42 and 38
    assert figures == pytest.approx({"pearson": 39 / math.sqrt(42 * 38), "spearman": 1.0, "mse": (1 + 1 + 16) / 3})


def test_regression_columns_are_averaged():
    predictions, references = [[1, 1], [2, 2], [3, 3]], [[1, 3], [2, 2], [3, 1]]
    figures = RegressionMetric().compute(predictions=predictions, references=references)
    assert figures == pytest.approx({"pearson": 0.0, "spearman": 0.0, "mse": (0 + 8 / 3) / 2}, abs=1e-12)


@pytest.mark.parametrize("constant", [[2.0, 2.0, 2.0], [0.1, 0.1, 0.1 + 1e-16], [1e9, 1e9 + 1e-6, 1e9]])
def test_correlation_with_a_constant_is_zero(constant):
    for predictions, references in ((constant, [1.0, 2.0, 3.0]), ([1.0, 2.0, 3.0], constant)):
        figures = RegressionMetric().compute(predictions=predictions, references=references)
        assert figures["pearson"] == figures["spearman"] == 0.0


def test_one_number_is_a_constant():
    figures = RegressionMetric().compute(predictions=[1.0], references=[3.0])
    assert figures == {"pearson": 0.0, "spearman": 0.0, "mse": 4.0}


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_diverged_regression_is_not_a_number(value):
    figures = RegressionMetric().compute(predictions=[1.0, value], references=[1.0, 2.0])
    assert all(math.isnan(figure) for figure in figures.values())


def test_regression_refuses_other_shapes():
    with pytest.raises(ValueError, match=r"regression_metric: predictions have shape \(1, 1\), references \(1, 2\)"):
        RegressionMetric().compute(predictions=[[1.0]], references=[[1.0, 2.0]])


# --- token classification --------------------------------------------------------------------------------------------


def test_token_figures_by_hand():
    predictions, references = [["B-PER", "O", "B-LOC", "B-LOC"]], [["B-PER", "I-PER", "O", "B-LOC"]]
    figures = TokenClassificationMetric().compute(predictions=predictions, references=references)
    # spans predicted PER 0-0, LOC 2-2, LOC 3-3; right PER 0-1, LOC 3-3
    assert figures == pytest.approx({"accuracy": 2 / 4, "precision": 1 / 3, "recall": 1 / 2, "f1": 2 / 5})


@pytest.mark.parametrize(
    "predictions, references, f1",
    [
        pytest.param([["I-X", "I-X"]], [["B-X", "I-X"]], 1.0, id="span-may-begin-with-I"),
        pytest.param([["I-X", "I-Y"]], [["B-X", "B-Y"]], 1.0, id="other-type-begins-a-span"),
        pytest.param([["B-X"], ["I-X"]], [["B-X"], ["B-X"]], 1.0, id="no-span-across-rows"),
        pytest.param([["S-X", "B-X", "E-X"]], [["B-X", "B-X", "I-X"]], 1.0, id="IOBES"),
        pytest.param([["U-X", "U-X", "L-X"]], [["B-X", "B-X", "B-X"]], 1.0, id="BILOU-units-stay-apart"),
        pytest.param([["B-X", "I-X", "L-X", "U-X"]], [["B-X", "I-X", "I-X", "B-X"]], 1.0, id="BILOU"),
        pytest.param([["B-X"]], [["B-Y"]], 0.0, id="type-counts"),
        pytest.param([["O"]], [["B-X"]], 0.0, id="nothing-predicted"),
        pytest.param([["B-X", "O"], []], [["B-X", "O"], []], 1.0, id="an-empty-row"),
    ],
)
def test_spans(predictions, references, f1):
    assert TokenClassificationMetric().compute(predictions=predictions, references=references)["f1"] == f1


@pytest.mark.parametrize("tag", ["VERB", "O", "B", "X-1", ""])
def test_tags_that_mark_no_spans(tag):
    figures = TokenClassificationMetric().compute(predictions=[["NOUN", tag]], references=[["NOUN", "NOUN"]])
    assert figures == pytest.approx({"accuracy": 1 / 2, "macro_f1": (2 / 3 + 0) / 2})


# The same sentence, "Anna Kim Lee saw Bo", in each scheme: PER from 0 to 2, and at 4.
SCHEMES = {
    "IOB1": ["I-PER", "I-PER", "I-PER", "O", "I-PER"],
    "IOB2": ["B-PER", "I-PER", "I-PER", "O", "B-PER"],
    "IOE1": ["I-PER", "I-PER", "I-PER", "O", "I-PER"],
    "IOE2": ["I-PER", "I-PER", "E-PER", "O", "E-PER"],
    "IOBES": ["B-PER", "I-PER", "E-PER", "O", "S-PER"],
    "BILOU": ["B-PER", "I-PER", "L-PER", "O", "U-PER"],
    "BMES": ["B-PER", "M-PER", "E-PER", "O", "S-PER"],
    "BMEO": ["B-PER", "M-PER", "E-PER", "O", "B-PER"],
    "BMEWO": ["B-PER", "M-PER", "E-PER", "O", "W-PER"],
    "lower case": ["b-per", "i-per", "i-per", "o", "b-per"],
    "underscore": ["B_PER", "I_PER", "I_PER", "O", "B_PER"],
    "behind the type": ["PER-B", "PER-M", "PER-E", "O", "PER-S"],
    "without a type": ["B", "I", "I", "O", "B"],
    "without a type, BMES": ["B", "M", "E", "O", "S"],
}


@pytest.mark.parametrize("name", SCHEMES)
def test_every_scheme_is_scored_as_the_spans_that_it_marks(name):
    """Of two spans one is found, whatever the letters: precision, recall and F1 are 1/2."""
    right = SCHEMES[name]
    found = [*right[:2], right[3], right[3], right[4]]
    figures = TokenClassificationMetric().compute(predictions=[found], references=[right])
    assert figures == pytest.approx({"accuracy": 4 / 5, "precision": 1 / 2, "recall": 1 / 2, "f1": 1 / 2})
    assert [span[1:] for span in find_scheme(right).spans(right)] == [(0, 2), (4, 4)]


def test_word_segmentation_has_no_outside():
    figures = TokenClassificationMetric().compute(predictions=[[*"BESBE"]], references=[[*"BESSS"]])
    assert figures["precision"] == 2 / 3 and figures["recall"] == 2 / 4


@pytest.mark.parametrize(
    "labels",
    [
        *(["B", "O"], ["N", "E", "S", "W"], ["vitamin-B", "vitamin-C"], ["e-x", "s-x"], ["M-x"]),
        ["class-B", "class-L", "class-M"],  # letters of no single scheme
    ],
)
def test_labels_that_only_look_like_a_scheme(labels):
    assert find_scheme(labels) is None and "mark no spans" in describe_scheme(labels, find_scheme(labels))


def test_the_scheme_and_how_it_is_scored_is_said_in_a_line():
    assert describe_scheme(["O", "B-X", "E-X", "M-X"], find_scheme(["O", "B-X", "E-X", "M-X"])) == (
        "The tags are BMES (B-X, E-X, M-X) and are scored as spans: precision, recall and F1; seqblend predicts the "
        "most probable legal sequence"
    )
    assert describe_scheme(["O", "B-X", "X"], find_scheme(["O", "B-X", "X"])).endswith(
        "accuracy and macro F1; 'X' is not a span tag, but 'B-X' is"
    )


def test_the_labels_of_the_model_tell_the_scheme():
    """A split of few rows may have no tag but O, or one that alone is a name."""
    compute = TokenClassificationMetric().compute
    assert "f1" in compute(predictions=[["O"]], references=[["O"]], labels=["O", "B-X", "I-X"])
    assert "f1" in compute(predictions=[["B"]], references=[["B"]], labels=["B", "E", "M", "S"])


def test_nothing_but_O_is_no_span_scheme():
    figures = TokenClassificationMetric().compute(predictions=[["O"]], references=[["O"]])
    assert figures == {"accuracy": 1.0, "macro_f1": 1.0}


def test_one_other_tag_makes_it_no_span_scheme():
    figures = TokenClassificationMetric().compute(predictions=[["B-X", "NOUN"]], references=[["B-X", "I-X"]])
    assert set(figures) == {"accuracy", "macro_f1"}


@pytest.mark.parametrize(
    "predictions, references, message",
    [
        ([["O"]], [["O", "O"]], "token_classification_metric: .* row 0 has 1 predictions for 2 references"),
        ([[], []], [[], []], "token_classification_metric: all rows are empty"),
        (["O"], ["O"], "Got a string but expected a list"),
    ],
)
def test_token_classification_refuses(predictions, references, message):
    with pytest.raises(ValueError, match=message):
        TokenClassificationMetric().compute(predictions=predictions, references=references)


# --- seq2seq ---------------------------------------------------------------------------------------------------------

PREDICTIONS = ["the cat sat on the mat today", "a dog", "", "it rained the whole day long"]
REFERENCES = ["the cat sat on a mat today", "a dog runs", "a bird", "it rained all day long"]


def test_seq2seq_agrees_with_the_originals():
    figures = Seq2SeqMetric().compute(predictions=PREDICTIONS, references=REFERENCES)
    assert figures["bleu"] == pytest.approx(sacrebleu.corpus_bleu(PREDICTIONS, [REFERENCES]).score)
    assert figures["chrf"] == pytest.approx(sacrebleu.corpus_chrf(PREDICTIONS, [REFERENCES]).score)
    assert figures["word_error_rate"] == pytest.approx(jiwer.wer(REFERENCES, PREDICTIONS))
    assert figures["character_error_rate"] == pytest.approx(jiwer.cer(REFERENCES, PREDICTIONS))


def test_seq2seq_figures_by_hand():
    figures = Seq2SeqMetric().compute(predictions=["a b c d e", "a x"], references=["a b c d e", "a b c"])
    assert figures["exact_match"] == 1 / 2
    assert figures["word_error_rate"] == pytest.approx(2 / 8)
    assert figures["character_error_rate"] == pytest.approx(3 / 14)
    # n-grams right: 6 of 7, 4 of 5, 3 of 3, 2 of 2; 7 words for 8
    assert figures["bleu"] == pytest.approx(100 * math.exp(1 - 8 / 7) * (6 / 7 * 4 / 5) ** (1 / 4))


def test_signatures_name_what_was_computed():
    one = Seq2SeqMetric().compute(predictions=PREDICTIONS, references=REFERENCES)
    several = Seq2SeqMetric().compute(predictions=["a", "b"], references=[["a", "c"], ["b"]])
    version = f"version:{sacrebleu.__version__}"
    assert one["bleu_signature"] == f"nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|{version}"
    assert one["chrf_signature"] == f"nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|{version}"
    assert several["bleu_signature"].startswith("nrefs:var|")


UNSPACED = {
    "zh": ["我们明天去北京看朋友", "今天的天气非常好啊", "他在学校里学习中文"],
    "ja-mecab": ["明日は東京へ行きます", "今日はとても暑いですね", "日本語を勉強しています"],
    "char": ["พรุ่งนี้เราจะไปกรุงเทพ", "วันนี้อากาศดีมาก", "เขาเรียนภาษาไทย"],
    "ko-mecab": ["내일은서울에갑니다", "오늘은날씨가좋습니다", "한국어를공부합니다"],
}


@pytest.mark.parametrize("name", UNSPACED)
def test_bleu_counts_what_the_script_of_the_references_has(name):
    """A sentence without spaces is no single word, of which no four would follow each other."""
    references = UNSPACED[name]
    figures = Seq2SeqMetric().compute(predictions=[*references[:2], references[0]], references=references)
    assert 40 < figures["bleu"] < 100
    assert re.search(rf"tok:({name}|char)\b", figures["bleu_signature"])
    assert Seq2SeqMetric().compute(predictions=references, references=references)["bleu"] == pytest.approx(100)
    figures = Seq2SeqMetric().compute(predictions=references, references=references, bleu_tokenize="intl")
    assert "tok:intl" in figures["bleu_signature"]


@pytest.mark.parametrize(
    "references",
    [REFERENCES, ["2031-03-06"], ["Привет мир", "", "नमस्ते दुनिया"], ["hello 世界"], ["내일은 서울에 갑니다"]],
)
def test_bleu_of_other_scripts_is_sacrebleus_default(references):
    assert bleu_tokenizer_for(references) in ("13a", "ko-mecab")


def test_bleu_tokenizers_that_cannot_be_used_are_refused_by_name(monkeypatch):
    with pytest.raises(InputError, match="bleu_tokenize: unknown value 'mecab'; valid are ja-mecab"):
        make_bleu("mecab")

    def lacking(tokenize):
        raise SystemExit("no network")  # as sacrebleu does where a download fails

    monkeypatch.setattr(lacking, "TOKENIZERS", sacrebleu.BLEU.TOKENIZERS, raising=False)
    monkeypatch.setattr(sacrebleu, "BLEU", lacking)
    with pytest.raises(
        InputError, match="flores200 cannot be used: no network; it needs sentencepiece and a download"
    ):
        make_bleu("flores200")
    assert bleu_tokenizer_for(UNSPACED["zh"]) == "char"


def test_a_bleu_that_cannot_be_but_zero_says_why():
    figures = Seq2SeqMetric().compute(predictions=["un", "deux"], references=["un", "deux"])
    assert figures["bleu"] == 0 and figures["bleu_note"] == "no reference has 4 tokens"
    figures = Seq2SeqMetric().compute(predictions=["un", "deux"], references=["un", "one two three four"])
    assert "bleu_note" not in figures


def test_the_best_of_several_references_counts():
    predictions, references = ["a b", "a b c"], [["a b c d", "x"], ["c", "a b c", "b"]]
    figures = Seq2SeqMetric().compute(predictions=predictions, references=references)
    assert figures["exact_match"] == 1 / 2
    # "x" needs as many edits as "a b c d", 2, but they are 2 / 1 of it and not 2 / 4
    assert figures["word_error_rate"] == pytest.approx((2 + 0) / (4 + 3))
    assert figures["character_error_rate"] == pytest.approx((4 + 0) / (7 + 5))


def test_uneven_references_score_like_repeated_ones():
    uneven = [[REFERENCES[0], "the cat sat on the mat now"], *([text] for text in REFERENCES[1:])]
    repeated = [row if len(row) == 2 else row * 2 for row in uneven]
    figures, expected = (Seq2SeqMetric().compute(predictions=PREDICTIONS, references=r) for r in (uneven, repeated))
    for name in ("bleu", "chrf", "exact_match", "word_error_rate", "character_error_rate"):
        assert figures[name] == pytest.approx(expected[name])
    assert figures["bleu"] > Seq2SeqMetric().compute(predictions=PREDICTIONS, references=REFERENCES)["bleu"]


def test_strings_and_lists_may_stand_together():
    # evaluate infers the kind from the first row, and would have taken ["b"] for the string "['b']"
    assert Seq2SeqMetric().compute(predictions=["a", "b"], references=["a", ["b"]])["exact_match"] == 1.0


@pytest.mark.parametrize("text", ["Việt", "한국어", "é"])
def test_composed_and_decomposed_are_one(text):
    forms = [unicodedata.normalize(form, text) for form in ("NFC", "NFD")]
    assert forms[0] != forms[1]
    for prediction, reference in (forms, forms[::-1]):
        figures = Seq2SeqMetric().compute(predictions=[prediction], references=[reference])
        assert figures["exact_match"] == 1.0
        assert figures["word_error_rate"] == figures["character_error_rate"] == 0.0
        assert figures["chrf"] == pytest.approx(100.0)


@pytest.mark.parametrize(
    "predictions, references, exact_match, word_error_rate, character_error_rate",
    [
        (["", ""], ["", ""], 1.0, 0.0, 0.0),
        (["a b"], [""], 0.0, 2.0, 3.0),  # nothing to divide by: the number of insertions
        ([""], ["a b"], 0.0, 1.0, 1.0),
        (["a b", "c d"], ["", "c d"], 1 / 2, 2 / 2, 3 / 3),  # insertions over the length of the other reference
        (["a"], [["", "a b"]], 0.0, 1 / 2, 2 / 3),
    ],
)
def test_empty_strings(predictions, references, exact_match, word_error_rate, character_error_rate):
    figures = Seq2SeqMetric().compute(predictions=predictions, references=references)
    assert figures["exact_match"] == exact_match
    assert figures["word_error_rate"] == pytest.approx(word_error_rate)
    assert figures["character_error_rate"] == pytest.approx(character_error_rate)
    assert 0.0 <= figures["bleu"] <= 100.0 and 0.0 <= figures["chrf"] <= 100.0


def test_an_example_without_reference_is_refused():
    with pytest.raises(ValueError, match="seq2_seq_metric: row 1 of references must hold at least one string"):
        Seq2SeqMetric().compute(predictions=["a", "b"], references=[["a"], []])


# --- what is better ---


@pytest.mark.parametrize("metric, predictions, references", [*EXAMPLES, (Seq2SeqMetric, PREDICTIONS, REFERENCES)])
def test_right_answers_are_better_by_every_figure(metric, predictions, references):
    """By it the best model of a run is chosen."""
    right = [row[0] if metric is Seq2SeqMetric and isinstance(row, list) else row for row in references]
    best, other = (metric().compute(predictions=each, references=references) for each in (right, predictions))
    different = {name for name in best if isinstance(best[name], float) and best[name] != other[name]}
    assert len(different) >= 2
    assert {name for name in different if best[name] > other[name]} == set(filter(greater_is_better, different))


# --- perplexity ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss, expected", [(0.0, 1.0), (math.log(50), 50.0), (1e4, math.inf), (math.inf, math.inf)])
def test_perplexity(loss, expected):
    assert perplexity(loss) == pytest.approx(expected)
