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
        # The script gives one reference a prediction, in a list.
        bleu = importlib.import_module("sacrebleu").corpus_bleu(predictions, [[texts[0] for texts in references]])
        return {"score": bleu.score}
