"""Metrics: `evaluate.Metric` classes that need neither network nor disk.

`evaluate.load("f1")` downloads a script, so the metrics are computed here, by scikit-learn, SciPy, seqeval, sacrebleu
and jiwer. This module loads all of them, so it is imported only where a metric is computed. Each class is used as
`Metric().compute(predictions=..., references=...)` and returns plain floats, and strings for signatures. Rates are 0
to 1, BLEU and chrF 0 to 100.
"""

import math
import unicodedata
from collections.abc import Iterable
from itertools import chain

import evaluate
import jiwer
import numpy as np
import sacrebleu
from datasets import Features, List, Value
from scipy import stats
from seqeval.metrics import sequence_labeling
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from ..data.errors import InputError, check_choice
from ..tokenization.words import main_script
from .tags import find_scheme

# sacrebleu's tokenizer for the script of the references.
BLEU_TOKENIZERS = {"Chinese": "zh", "Japanese": "ja-mecab", "Korean": "ko-mecab", "unspaced": "char"}
# Hints for the tokenizers that need a download when they are first used.
BLEU_HINTS = dict.fromkeys(("spm", "flores101", "flores200", "spBLEU-1K"), "; it needs sentencepiece and a download")


# --- parts -----------------------------------------------------------------------------------------------------------


class InMemoryMetric(evaluate.Metric):
    """Base class of our metrics. It writes no files, so it works with read-only caches, threads and processes.

    A subclass sets `input_features` and defines `_compute`. `add_batch` followed by `compute()` works as in evaluate.
    """

    input_features: Features | list[Features]

    def __init__(self, **kwargs):
        super().__init__(**kwargs | {"keep_in_memory": True})

    def _build_data_dir(self) -> str:
        return ""  # evaluate makes a cache directory here even with keep_in_memory, which then stays empty

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(description=type(self).__doc__, citation="", features=self.input_features)

    def compute(self, *, predictions=None, references=None, **kwargs) -> dict[str, float | str]:
        """Compute the metrics of the given examples and those added before.

        Args:
            predictions: of the model, one per example; None if all were added by `add_batch`.
            references: the expected values, in the same order.
            **kwargs: passed on to evaluate.

        Raises:
            ValueError: there is no example, or predictions and references do not fit the metric or each other.
        """
        counts = [0 if side is None else len(side) for side in (predictions, references)]
        if predictions is None and references is None:
            counts = [len(self), len(self)]
        if 0 in counts or counts[0] != counts[1]:
            raise ValueError(f"{self.name}: predictions and references must have one length above 0, got {counts}")
        try:
            return super().compute(predictions=predictions, references=references, **kwargs)
        finally:  # after an error, evaluate would keep its writer and its input features for the next call
            self.writer = self.buf_writer = self.data = None


def to_matrices(name: str, predictions: list, references: list) -> tuple[np.ndarray, np.ndarray]:
    """Convert predictions and references, lists of rows or of single values, to two arrays [N, C].

    Raises:
        ValueError: rows differ in length or are empty, or the shapes of the two arrays differ.
    """
    matrices = []
    for field, rows in (("predictions", predictions), ("references", references)):
        rows = [row if isinstance(row, list) else [row] for row in rows]
        widths = sorted({len(row) for row in rows})
        if len(widths) > 1 or widths[0] == 0:
            raise ValueError(f"{name}: rows of {field} must have one length above 0, got lengths {widths}")
        matrices.append(np.array(rows))
    if matrices[0].shape != matrices[1].shape:
        shapes = [matrix.shape for matrix in matrices]
        raise ValueError(f"{name}: predictions have shape {shapes[0]}, references {shapes[1]}; they must be equal")
    return matrices[0], matrices[1]


def correlation(measure, x: np.ndarray, y: np.ndarray) -> float:
    """Correlation of two columns by a SciPy function; 0.0 if one is constant, for which it is undefined."""
    for column in (x, y):
        # below this bound SciPy considers a column constant up to rounding, and warns
        bound = np.finfo(column.dtype).eps ** 0.75 * abs(column.mean())
        if np.linalg.norm(column - column.mean()) <= bound:
            return 0.0
    return float(measure(x, y).statistic)


def make_bleu(tokenizer: str) -> sacrebleu.BLEU:
    """BLEU with one of sacrebleu's tokenizers.

    Raises:
        InputError: the tokenizer is unknown, or what it needs is not installed or cannot be downloaded.
    """
    check_choice("bleu_tokenize", tokenizer, sacrebleu.BLEU.TOKENIZERS)
    try:
        return sacrebleu.BLEU(tokenize=tokenizer)
    # sacrebleu calls sys.exit if a download fails, and its tokenizers raise any exception.
    except (Exception, SystemExit) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"bleu_tokenize: {tokenizer} cannot be used: {reason}{BLEU_HINTS.get(tokenizer, '')}"
        ) from error


def bleu_tokenizer_for(references: Iterable[str]) -> str:
    """The name of sacrebleu's tokenizer for the script of most letters in the references.

    `zh` for Chinese; `ja-mecab` for Japanese where it is installed, else `char`; `char` for Thai, Lao, Khmer, Burmese
    and Tibetan; `ko-mecab` for Korean where it is installed, else `13a` for texts with spaces and `char` for others;
    `13a`, sacrebleu's default, for all other scripts.
    """
    texts = list(references)
    script = main_script(texts)
    name = BLEU_TOKENIZERS.get(script, "13a")
    try:
        make_bleu(name)
    except InputError:
        spaced = script == "Korean" and 2 * sum(" " in text for text in texts) > len(texts)
        return "13a" if spaced else "char"
    return name


def best_error_rate(process, predictions: list[str], references: list[list[str]]) -> float:
    """Sum of edits divided by sum of reference lengths; of several references the one with the lowest rate counts.

    Args:
        process: `jiwer.process_words` or `jiwer.process_characters`.
        predictions: one string per example.
        references: the references of each example.

    Returns:
        The rate over the corpus, which may exceed 1 by insertions. If all references are empty, the number of edits,
        as in jiwer: every token of a prediction is an insertion then.
    """
    pairs = zip(predictions, references, strict=True)
    edits, lengths = zip(*(count_edits(process, *pair) for pair in pairs), strict=True)
    return sum(edits) / max(sum(lengths), 1)


def count_edits(process, prediction: str, references: list[str]) -> tuple[int, int]:
    """The edits between a prediction and the reference with the lowest rate, and the length of that reference."""
    counts = []
    for reference in references:
        output = process(reference, prediction)
        wrong = output.substitutions + output.deletions
        counts.append((wrong + output.insertions, wrong + output.hits))
    return min(counts, key=lambda count: (count[0] / max(count[1], 1), count[0]))


# --- metrics ---------------------------------------------------------------------------------------------------------


class SequenceClassificationMetric(InMemoryMetric):
    """Metrics of one class per sequence: accuracy, macro F1 and Matthews correlation.

    Inputs are class ids. Macro F1 is the mean over the classes in predictions or references. If these are a single
    class, the Matthews correlation is 0.0.

    Raises:
        ValueError: an entry is no whole number.

    Source: Gorodkin 2004, "Comparing two K-category assignments by a K-category correlation coefficient".
    """

    # evaluate would cut numbers with a fraction to int64 without a word.
    input_features = Features({"predictions": Value("float64"), "references": Value("float64")})

    def _compute(self, predictions, references):
        for field, values in (("predictions", predictions), ("references", references)):
            if wrong := [value for value in values if value is None or value % 1 != 0]:
                raise ValueError(f"{self.name}: entries of {field} must be class ids, got {wrong[0]}")
        one_class = len({*predictions, *references}) == 1  # scikit-learn returns 0.0 too, but warns
        return {
            "accuracy": float(accuracy_score(references, predictions)),
            "macro_f1": float(f1_score(references, predictions, average="macro")),
            "matthews_correlation": 0.0 if one_class else float(matthews_corrcoef(references, predictions)),
        }


class MultiLabelMetric(InMemoryMetric):
    """Metrics of several labels per sequence: micro F1, macro F1 and the share of rows with every label right.

    Inputs are rows of 0 and 1, [N, C]. A label that is 0 in all predictions and references has F1 0.0.

    Raises:
        ValueError: shapes differ or an entry is neither 0 nor 1.
    """

    # evaluate would cut probabilities to int64 without a word.
    input_features = Features({"predictions": List(Value("float64")), "references": List(Value("float64"))})

    def _compute(self, predictions, references):
        predicted, expected = to_matrices(self.name, predictions, references)
        for field, matrix in (("predictions", predicted), ("references", expected)):
            if (wrong := matrix[~np.isin(matrix, (0, 1))]).size:
                raise ValueError(f"{self.name}: entries of {field} must be 0 or 1, got {wrong[0]}")

        # by column and flattened: in a matrix of one column, scikit-learn would count the zeros as a class too
        columns = zip(expected.T, predicted.T, strict=True)
        return {
            "micro_f1": float(f1_score(expected.ravel(), predicted.ravel(), zero_division=0.0)),
            "macro_f1": float(np.mean([f1_score(truth, guess, zero_division=0.0) for truth, guess in columns])),
            "subset_accuracy": float((predicted == expected).all(axis=1).mean()),
        }


class RegressionMetric(InMemoryMetric):
    """Metrics of regression: Pearson and Spearman correlation, and mean squared error.

    Inputs are numbers, or rows of numbers [N, C]: then every metric is the mean over the C columns. The correlation
    with a constant is 0.0. If an input is not finite, every metric is NaN.

    Raises:
        ValueError: shapes differ.
    """

    input_features = [
        Features({"predictions": Value("float64"), "references": Value("float64")}),
        Features({"predictions": List(Value("float64")), "references": List(Value("float64"))}),
    ]

    def _compute(self, predictions, references):
        predicted, expected = to_matrices(self.name, predictions, references)
        if not (np.isfinite(predicted).all() and np.isfinite(expected).all()):
            return dict.fromkeys(("pearson", "spearman", "mse"), math.nan)
        columns = list(zip(predicted.T, expected.T, strict=True))
        return {
            "pearson": float(np.mean([correlation(stats.pearsonr, x, y) for x, y in columns])),
            "spearman": float(np.mean([correlation(stats.spearmanr, x, y) for x, y in columns])),
            "mse": float(np.mean((predicted - expected) ** 2)),
        }


class TokenClassificationMetric(InMemoryMetric):
    """Metrics of one tag per token: token accuracy, and precision, recall and F1 of exact spans.

    Inputs are rows of tag strings. A span is correct if its type and both ends are; averages are over all spans, as in
    conlleval. Tags that mark no spans (parts of speech) get accuracy and `macro_f1` over tags. `tags.find_scheme`
    decides by `labels`, all tags of the model, or if that is None by the tags in predictions and references.

    Raises:
        ValueError: a row of predictions is not as long as its references, or all rows are empty.

    Source: Tjong Kim Sang and De Meulder 2003, "Introduction to the CoNLL-2003 shared task", section 2.5.
    """

    input_features = Features({"predictions": List(Value("string")), "references": List(Value("string"))})

    def _compute(self, predictions, references, labels=None):
        for row, (predicted, expected) in enumerate(zip(predictions, references, strict=True)):
            if len(predicted) != len(expected):
                counts = f"{len(predicted)} predictions for {len(expected)} references"
                raise ValueError(f"{self.name}: rows must be equally long, row {row} has {counts}")
        all_predicted, all_expected = (list(chain.from_iterable(rows)) for rows in (predictions, references))
        if not all_expected:
            raise ValueError(f"{self.name}: all rows are empty, at least one must hold a tag")

        figures = {"accuracy": float(accuracy_score(all_expected, all_predicted))}
        scheme = find_scheme({*all_predicted, *all_expected} if labels is None else labels)
        if scheme is None:
            macro_f1 = f1_score(all_expected, all_predicted, average="macro")
            return figures | {"macro_f1": float(macro_f1)}
        sides = [[scheme.to_iobes(row) for row in rows] for rows in (references, predictions)]
        spans = sequence_labeling.precision_recall_fscore_support(*sides, average="micro", zero_division=0)
        return figures | {name: float(spans[i]) for i, name in enumerate(("precision", "recall", "f1"))}


class Seq2SeqMetric(InMemoryMetric):
    """Metrics of generated texts: BLEU and chrF (0 to 100) with signatures, exact match, word and character error.

    BLEU uses sacrebleu's tokenizer `bleu_tokenize`; None chooses one by the references' script, see
    `bleu_tokenizer_for`. The signature names it. If BLEU is 0 for any prediction, `bleu_note` gives the reason.

    Predictions are strings; references are strings or lists of alternative strings, of which the best counts, chosen
    for each metric separately. Strings are compared after Unicode NFC without further normalization; the error rates
    also drop outer spaces. What SIGMORPHON's grapheme-to-phoneme tasks call WER is `1 - exact_match`; their PER, with
    spaces between phonemes, is `word_error_rate`.

    Raises:
        ValueError: an example has no reference, or the tokenizer cannot be used.

    Source: Post 2018, "A call for clarity in reporting BLEU scores" (signatures); Popovic 2015, "chrF".
    """

    input_features = Features({"predictions": Value("string"), "references": List(Value("string"))})

    def add_batch(self, *, predictions=None, references=None, **kwargs) -> None:
        """Add predictions and their references, each a string or a list of strings."""
        references = [[row] if isinstance(row, str) else row for row in references]
        super().add_batch(predictions=predictions, references=references, **kwargs)

    def _compute(self, predictions, references, bleu_tokenize=None):
        if not all(references):
            raise ValueError(f"{self.name}: row {references.index([])} of references must hold at least one string")
        # a tokenizer may decode é as e + accent, which is the same text
        predictions = [unicodedata.normalize("NFC", text) for text in predictions]
        references = [[unicodedata.normalize("NFC", text) for text in row] for row in references]

        # sacrebleu takes one list for the first reference of every example, one for the second, …; None where missing
        max_references = max(len(row) for row in references)
        transposed = [[row[i] if i < len(row) else None for row in references] for i in range(max_references)]
        bleu, chrf = make_bleu(bleu_tokenize or bleu_tokenizer_for(chain.from_iterable(references))), sacrebleu.CHRF()
        score = bleu.corpus_score(predictions, transposed)
        note = {}
        if not score.totals[-1] and not bleu.corpus_score([row[0] for row in references], transposed).totals[-1]:
            note["bleu_note"] = f"no reference has {len(score.totals)} tokens"
        matches = [text in row for text, row in zip(predictions, references, strict=True)]
        return {
            **note,
            "bleu": float(score.score),
            "bleu_signature": str(bleu.get_signature()),
            "chrf": float(chrf.corpus_score(predictions, transposed).score),
            "chrf_signature": str(chrf.get_signature()),
            "exact_match": sum(matches) / len(matches),
            "word_error_rate": best_error_rate(jiwer.process_words, predictions, references),
            "character_error_rate": best_error_rate(jiwer.process_characters, predictions, references),
        }
