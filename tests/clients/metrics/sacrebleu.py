"""sacrebleu, as run_translation.py loads it by name, without the network."""

import importlib

import datasets
import evaluate


class Sacrebleu(evaluate.Metric):
    def _info(self):
        text = datasets.Value("string")
        features = datasets.Features({"predictions": text, "references": datasets.Sequence(text)})
        return evaluate.MetricInfo(description="BLEU", citation="", features=features)

    def _compute(self, predictions, references):
        bleu = importlib.import_module("sacrebleu").corpus_bleu(predictions, [list(r) for r in zip(*references)])
        return {"score": bleu.score}
