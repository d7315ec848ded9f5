"""Directories of runs that trained a converted checkpoint: small stock models of every kind of head."""

import json
import string
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from stock import PAD, auto, stock_model
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast, RobertaTokenizerFast

from seqblend import from_original
from seqblend.predict import main as predict

# Every letter begins a word or goes on with one, so most words have several tokens.
SPECIAL = {"<s>": 0, "<pad>": PAD, "</s>": 2, "<unk>": 3, "<mask>": 4}
LETTERS = [*string.ascii_lowercase, *(f"##{letter}" for letter in string.ascii_lowercase)]
VOCABULARY = SPECIAL | {letter: 5 + index for index, letter in enumerate(LETTERS)}
TEXTS = [
    "a cab fed",
    "the quick brown fox",
    "jumps over it",
    "no",
    "lazy dogs do not jump",
    "we zip",
    "why not",
    "my sphinx of black quartz",
]
TAGS = ["O", "B-x", "I-x"]
HEADS = ("head", "score", "classifier")


@dataclass(frozen=True)
class Case:
    """A run.

    Args:
        model_type: of the stock model.
        head: the Auto class that it is trained in.
        task: of the run.
        source_head: the Auto class of the stock model.
        labels: names, for a classifier.
        problem_type: for a classifier of texts.
        sizes: of the stock model, other than in stock.py.
        rows: the test rows without labels.
    """

    model_type: str
    head: str
    task: str
    source_head: str = "AutoModelForMaskedLM"
    labels: tuple[str, ...] = ()
    problem_type: str | None = None
    sizes: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=lambda: [{"text": text} for text in TEXTS])

    @property
    def options(self) -> dict[str, Any]:
        if not self.labels:
            return {}
        names = {"id2label": dict(enumerate(self.labels)), "num_labels": len(self.labels)}
        labels = names | {"label2id": {name: index for index, name in enumerate(self.labels)}}
        return labels | ({"problem_type": self.problem_type} if self.problem_type else {})


SEQUENCES, TOKENS = "AutoModelForSequenceClassification", "AutoModelForTokenClassification"
CAUSAL, TRANSLATION, MASKED = "AutoModelForCausalLM", "AutoModelForSeq2SeqLM", "AutoModelForMaskedLM"
ONE, SEVERAL = "single_label_classification", "multi_label_classification"
NAMES = ("no", "yes", "perhaps")
CLASSIFICATION = "sequence-classification"
PAIRS = [{"text": text, "text_pair": TEXTS[-1 - index]} for index, text in enumerate(TEXTS)]
CASES = {
    "one-label": Case("bert", SEQUENCES, CLASSIFICATION, labels=NAMES, problem_type=ONE),
    "several-labels": Case("distilbert", SEQUENCES, CLASSIFICATION, labels=NAMES, problem_type=SEVERAL),
    "number": Case("electra", SEQUENCES, CLASSIFICATION, labels=("score",), problem_type="regression"),
    "pairs": Case("bert", SEQUENCES, CLASSIFICATION, labels=NAMES, problem_type=ONE, rows=PAIRS),
    "last-token": Case("llama", SEQUENCES, CLASSIFICATION, CAUSAL, NAMES, ONE),
    "last-end": Case("bart", SEQUENCES, CLASSIFICATION, TRANSLATION, NAMES, ONE),
    "tags": Case(
        "roberta", TOKENS, "token-classification", labels=(*TAGS,), rows=[{"tokens": text.split()} for text in TEXTS]
    ),
    "translation": Case("bart", TRANSLATION, "seq2seq-lm", TRANSLATION, rows=[{"source": text} for text in TEXTS]),
    "translation-t5": Case("t5", TRANSLATION, "seq2seq-lm", TRANSLATION, rows=[{"source": text} for text in TEXTS]),
    "continuation": Case("gpt2", CAUSAL, "causal-lm", CAUSAL, sizes={"n_positions": 90}),
    "masked": Case("modernbert", MASKED, "masked-lm"),
}


# As RoBERTa's: a word after a space begins with another token.
SPACE = "\u0120"
BYTES = SPECIAL | {token: 5 + index for index, token in enumerate([SPACE, *string.ascii_lowercase])}
BYTES |= {SPACE + letter: len(BYTES) + index for index, letter in enumerate(string.ascii_lowercase)}


def make_tokenizer(case: Case, in_training: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint, or as it is used in training. Its tokens are letters; it closes a text."""
    if case.model_type == "roberta":
        merges = [(SPACE, letter) for letter in string.ascii_lowercase]
        return RobertaTokenizerFast(vocab=BYTES, merges=merges, add_prefix_space=in_training, model_max_length=38)
    words = Tokenizer(models.WordPiece(VOCABULARY, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = [(name, SPECIAL[name]) for name in ("<s>", "</s>")]
    words.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B:1 </s>:1", special_tokens=special
    )
    names = {f"{kind}_token": f"<{name}>" for kind, name in {"bos": "s", "pad": "pad", "unk": "unk"}.items()}
    names |= {"eos_token": "</s>", "mask_token": "<mask>", "cls_token": "<s>", "sep_token": "</s>"}
    read = ["input_ids", *(["token_type_ids"] if case.model_type in ("bert", "electra") else []), "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=words, **names, model_input_names=read, model_max_length=38)


def make_source(case: Case, directory: Path) -> Path:
    """The checkpoint that a run started from, with files of its own."""
    stock = stock_model(case.model_type, case.source_head, torch.float32, **case.sizes)
    if stock.can_generate():
        stock.generation_config.max_length = 24
        stock.generation_config.forced_eos_token_id = None
    stock.save_pretrained(directory)
    make_tokenizer(case).save_pretrained(directory)
    (directory / "README.md").write_text("# Their card")
    return directory


def make_run(case: Case, root: Path) -> Path:
    """The directory of a run on a checkpoint: the model and the files from which the card is made."""
    torch.manual_seed(1)
    source, run = make_source(case, root / "source"), root / "run"
    model = from_original(source, auto(case.head), **case.options)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(torch.randn_like(parameter) * (1.0 if name.split(".")[0] in HEADS else 0.1))
        if case.labels:
            balance(model, make_tokenizer(case, in_training=True))
    model.save_pretrained(run)
    make_tokenizer(case, in_training=True).save_pretrained(run)
    write_records(case, run)
    return run


def balance(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Have a new head answer differently to different texts: on average no label is more probable than another."""
    logits = [model(**tokenizer(text, return_tensors="pt")).logits.flatten(0, -2) for text in TEXTS]
    projection = model.score if hasattr(model, "score") else model.classifier
    if projection.bias is not None:
        projection.bias -= torch.cat(logits).mean(0)


def write_records(case: Case, run: Path) -> None:
    """What a run leaves beside its model; the answers to the test rows are those of `seqblend predict`."""
    results = {"task": case.task, "test_loss": 0.5, "test_samples": len(case.rows), "train_samples": 8}
    results |= {"card_data": {"license": "mit", "example": TEXTS[4]}, "dataset": "small texts", "max_length": 38}
    if case.task not in ("causal-lm", "masked-lm"):
        del results["card_data"]["example"]
        (run.parent / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in case.rows))
        answers = run.parent / "answers.jsonl"
        # transformers takes each tag by itself.
        greedy = ["--decode_tags", "greedy"] if case.task == "token-classification" else []
        assert predict([str(run), "--input", str(run.parent / "rows.jsonl"), "--output", str(answers), *greedy]) == 0
        with (run / "predictions.jsonl").open("w") as file:
            for line in answers.read_text().splitlines():
                row = json.loads(line)
                row.pop("scores") if case.head == TOKENS else None
                file.write(json.dumps({**row, "reference": row["prediction"]}) + "\n")
    (run / "all_results.json").write_text(json.dumps(results))
    log = [{"loss": 1.0, "step": 1, "epoch": 0.5}, {"loss": 0.5, "step": 2, "epoch": 1.0}]
    facts = {"hardware": "1 CPU thread", "seconds": 1.5, "hyperparameters": [["learning_rate", "5e-05"]]}
    record = {"RunRecord": {"args": {}, "attributes": {"facts": facts}}}
    state = {"epoch": 1.0, "global_step": 2, "log_history": log, "stateful_callbacks": record}
    (run / "trainer_state.json").write_text(json.dumps(state))


def predictions_of(run: Path) -> list[dict[str, Any]]:
    path = run / "predictions.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
