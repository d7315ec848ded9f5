"""seqeval, as run_ner.py loads it by name, without the network."""

import importlib

import datasets
import evaluate


class Seqeval(evaluate.Metric):
    def _info(self):
        labels = datasets.Sequence(datasets.Value("string"))
        features = datasets.Features({"predictions": labels, "references": labels})
        return evaluate.MetricInfo(description="spans", citation="", features=features)

    def _compute(self, predictions, references):
        scores = importlib.import_module("seqeval.metrics")
        names = ("precision", "recall", "f1", "accuracy")
        return {f"overall_{name}": getattr(scores, f"{name}_score")(references, predictions) for name in names}
