"""Checkpoints of other architectures in `seqblend train`: trained like models of this package, and returned."""

import functools
import json
import logging
import re
import shutil

import pytest
import torch
import transformers
from stock import auto, stock_model
from tokenizers import Tokenizer, decoders
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.processors import RobertaProcessing, TemplateProcessing
from tokenizers.trainers import BpeTrainer
from transformers import AutoTokenizer, DebertaV2Config, NllbTokenizer, PreTrainedTokenizerFast

from seqblend import train_tokenizer
from seqblend.conversion.registry import ARCHITECTURES
from seqblend.hub_card.card import write_card
from seqblend.predict import main as predict
from seqblend.tasks.registry import TASKS
from seqblend.tasks.token_classification import tokenize_words
from seqblend.tokenization.words import WordSplitting, set_splitting
from seqblend.train import main, prepare

CLASSIFY, TAG, TRANSLATE, CONTINUE, FILL = (
    "sequence-classification",
    "token-classification",
    "seq2seq-lm",
    "causal-lm",
    "masked-lm",
)
WORDS = ["ab", "cd", "ef", "gh"]
ROWS = {
    CLASSIFY: [{"text": " ".join(WORDS[i % 3 :]), "label": "xyz"[i % 3]} for i in range(9)],
    TAG: [{"tokens": WORDS[: 1 + i % 4], "tags": ["O", "B-x", "I-x", "O"][: 1 + i % 4]} for i in range(9)],
    TRANSLATE: [{"source": WORDS[i % 4], "target": WORDS[(i + 1) % 4]} for i in range(9)],
    CONTINUE: [{"text": " ".join(WORDS[i % 3 :])} for i in range(9)],
    FILL: [{"text": " ".join(WORDS[i % 3 :])} for i in range(9)],
}
CASES = [
    *(("bert", task) for task in (CLASSIFY, TAG, FILL)),
    *(("llama", task) for task in (CLASSIFY, TAG, CONTINUE)),
    *(("bart", task) for task in (CLASSIFY, TRANSLATE)),
    ("t5", TRANSLATE),
]


@pytest.fixture(scope="module", autouse=True)
def quick_cards():
    """Cards without pictures and without running their code, and no process that opens the original format.

    tests/test_original_card.py has all of them.
    """
    plain = functools.partial(write_card, complete=False)
    with pytest.MonkeyPatch.context() as patch:
        for module in ("training.publisher", "hub_card.original"):
            patch.setattr(f"seqblend.{module}.write_card", plain)
        patch.setattr("seqblend.hub_card.original.verify_isolated", lambda directory: None)
        yield


def make_tokenizer(opens_only=False):
    """A tokenizer that puts tokens around a text, as BERT's, or one before it, as Llama's."""
    tokenizer = train_tokenizer(WORDS, "wordpiece", 60)
    if opens_only:
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single="[CLS] $A", special_tokens=[("[CLS]", tokenizer.cls_token_id)]
        )
    return tokenizer


def save_stock(directory, model_type, head, **options):
    """A stock checkpoint with its tokenizer; its special tokens are those of the tokenizer."""
    tokenizer = make_tokenizer(opens_only=model_type == "llama")
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos")}
    if model_type in ("bart", "t5"):
        ids["decoder_start_token_id"] = ids["eos_token_id"]
    sizes = {"vocab_size": len(tokenizer)}
    stock_model(model_type, head, torch.float32, **sizes, **ids, **options).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def head_of(model_type, task):
    """The name of the Auto class of a task; for classifiers the base model, so that the head is new."""
    name = TASKS[task].auto_class.__name__
    return "AutoModel" if "Classification" in name else name


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def flags(directory, checkpoint, task, **options):
    data = directory.parent / f"{task}.jsonl"
    given = {
        "task": task,
        "model_name_or_path": checkpoint,
        "train_file": write_rows(data, ROWS[task]),
        "output_dir": directory,
        "max_steps": 3,
        "disable_tqdm": True,
        "use_cpu": True,
        **options,
    }
    return [word for name, value in given.items() if value is not None for word in (f"--{name}", str(value))]


def assert_refused(directory, checkpoint, task, words, capsys, **options):
    assert main(flags(directory, checkpoint, task, **options)) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert not [word for word in words if word not in line], line
    assert not directory.exists()


@pytest.mark.parametrize(("model_type", "task"), CASES)
def test_a_checkpoint_is_trained_and_returned(model_type, task, tmp_path):
    """The stock class gives the logits of the model that was trained, for texts as its own tokenizer has them."""
    source = save_stock(tmp_path / "stock", model_type, head_of(model_type, task))
    assert main(flags(tmp_path / "out", source, task, save_original=True)) == 0
    ours = TASKS[task].auto_class.from_pretrained(tmp_path / "out").eval()
    name = TASKS[task].auto_class.__name__
    stock = auto(name).from_pretrained(tmp_path / "out" / "original").eval()
    assert type(stock) is ARCHITECTURES[model_type].heads[name].stock_class
    inputs = AutoTokenizer.from_pretrained(tmp_path / "out" / "original")("ab cd ef", return_tensors="pt")
    inputs.pop("token_type_ids", None)
    if task == TRANSLATE:
        inputs["decoder_input_ids"] = torch.tensor([[ours.config.decoder_start_token_id, 7, 8]])
    with torch.no_grad():
        expected, actual = stock(**inputs).logits, ours(**inputs).logits
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5 * float(expected.std()))
    assert (tmp_path / "out" / "original" / "tokenizer.json").read_bytes() == (source / "tokenizer.json").read_bytes()
    before, after = (
        json.loads((each / "config.json").read_text()) for each in (source, tmp_path / "out" / "original")
    )
    assert before.get("use_cache") == after.get("use_cache")
    assert answers(tmp_path / "out" / "original", task) == answers(tmp_path / "out", task)


def test_t5_learns_faster(tmp_path):
    """Its default learning rate is higher than that of BART; both are those of a narrow model."""
    rates = {}
    for name in ("t5", "bart"):
        source = save_stock(tmp_path / name, name, "AutoModelForSeq2SeqLM")
        rates[name] = prepare(flags(tmp_path / f"{name}-out", source, TRANSLATE)).trainer.args.learning_rate
    assert rates == {"t5": 1e-3, "bart": 5e-4}


LANGUAGES = ["eng_Latn", "kor_Hang"]


def save_nllb(directory, **options):
    """A stock checkpoint of NLLB; its tokenizer marks each text with its language."""
    letters = {f"▁{word}": 4 + index for index, word in enumerate(WORDS)}
    special = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3}
    languages = {name: len(special) + len(letters) + index for index, name in enumerate(LANGUAGES)}
    letters |= {letter: 40 + index for index, letter in enumerate("▁abcdefgh")}
    merges = [(left, right) for word in WORDS for left, right in [("▁", word[0]), (f"▁{word[0]}", word[1])]]
    letters |= {f"▁{word[0]}": 60 + index for index, word in enumerate(WORDS)}
    vocabulary = special | letters | languages | {"<mask>": 10}
    tokenizer = NllbTokenizer(vocab=vocabulary, merges=merges, additional_special_tokens=LANGUAGES, **options)
    tokenizer.save_pretrained(directory)
    stock_model("m2m_100", "AutoModelForSeq2SeqLM", torch.float32).save_pretrained(directory)
    return directory


def test_languages_of_a_translation(tmp_path, caplog):
    """The source ends in its language's way, the target begins with its language, and generation starts with it."""
    source = save_nllb(tmp_path / "nllb")
    given = flags(tmp_path / "out", source, TRANSLATE, source_lang="eng_Latn", target_lang="kor_Hang")
    job = prepare(given)
    first, tokenizer = job.splits["train"].features[0], job.trainer.processing_class
    text = ROWS[TRANSLATE][0]
    assert first["input_ids"] == tokenizer.convert_tokens_to_ids(["eng_Latn", f"▁{text['source']}", "</s>"])
    assert first["labels"] == tokenizer.convert_tokens_to_ids(["kor_Hang", f"▁{text['target']}", "</s>"])
    assert main(given) == 0
    again = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert (again.src_lang, again.tgt_lang) == ("eng_Latn", "kor_Hang")
    model = TASKS[TRANSLATE].auto_class.from_pretrained(tmp_path / "out")
    written = model.generate(**again(text["source"], return_tensors="pt"), max_new_tokens=3)
    assert written[0, :2].tolist() == again.convert_tokens_to_ids(["</s>", "kor_Hang"])


def test_a_translation_into_no_language_in_particular_is_warned_of(tmp_path, caplog):
    """A converted checkpoint writes what it likes; after training with a language it is that language."""
    source = save_nllb(tmp_path / "nllb")
    rows = write_rows(tmp_path / "asked.jsonl", [{"source": "ab"}])
    answer = [str(source), "--input", str(rows), "--output", str(tmp_path / "answers.jsonl")]
    assert predict(answer) == 0 and "The target language is not set" in caplog.text
    caplog.clear()
    languages = {"source_lang": "eng_Latn", "target_lang": "kor_Hang"}
    assert main(flags(tmp_path / "out", source, TRANSLATE, **languages)) == 0
    assert predict([str(tmp_path / "out"), *answer[1:-1], str(tmp_path / "more.jsonl")]) == 0
    assert "The target language is not set" not in caplog.text


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, ["target_lang: ", "give --source_lang and --target_lang"]),
        ({"target_lang": "</s>"}, ["target_lang: ", "no language '</s>'"]),
        ({"target_lang": "kor_Kore"}, ["target_lang: ", "no language 'kor_Kore'", "nearest: kor_Hang"]),
        ({"target_lang": "kor_Hang", "source_lang": "en"}, ["source_lang: ", "no language 'en'"]),
    ],
)
def test_languages_that_are_missing(options, words, tmp_path, capsys):
    assert_refused(tmp_path / "out", save_nllb(tmp_path / "nllb"), TRANSLATE, words, capsys, **options)


def test_a_tokenizer_without_languages(tmp_path, capsys):
    source = save_stock(tmp_path / "stock", "bart", "AutoModelForSeq2SeqLM")
    words = ["target_lang: ", "has no languages"]
    assert_refused(tmp_path / "out", source, TRANSLATE, words, capsys, target_lang="kor_Hang")


def answers(directory, task):
    """The answers of `seqblend predict`, with rounded scores: it reads checkpoints of other architectures, too."""
    rows = write_rows(directory.parent / "asked.jsonl", [{"text": "ab [MASK]" if task == FILL else "ab cd"}])
    output = directory.parent / f"{directory.name}.answers.jsonl"
    words = ["--words", "spaces"] if task == TAG else []
    assert predict([str(directory), "--input", str(rows), "--output", str(output), *words]) == 0
    return json.loads(output.read_text(), parse_float=lambda number: round(float(number), 4))


def test_a_transformer_in_a_folder_of_its_own(tmp_path, monkeypatch):
    """As old versions of sentence-transformers saved it. A file cannot say `~`, the directory of the user."""
    monkeypatch.setenv("HOME", str(tmp_path))
    source = save_stock(tmp_path / "stock" / "0_Transformer", "bert", "AutoModel")
    types = {"0_Transformer": "Transformer", "1_Pooling": "Pooling"}
    modules = [{"path": path, "type": f"sentence_transformers.models.{name}"} for path, name in types.items()]
    (tmp_path / "stock" / "modules.json").write_text(json.dumps(modules))
    assert main(flags(tmp_path / "out", "~/stock", CLASSIFY, save_original=True)) == 0
    assert (tmp_path / "out/original/tokenizer.json").read_bytes() == (source / "tokenizer.json").read_bytes()
    assert answers(tmp_path / "out" / "original", CLASSIFY) == answers(tmp_path / "out", CLASSIFY)


def test_labels_keep_their_rows_by_name(tmp_path):
    """A checkpoint with a head for other labels: rows of the same name are kept, those of new labels are new."""
    names = {0: "y", 1: "q", 2: "x"}
    options = {"id2label": names, "label2id": {name: index for index, name in names.items()}}
    source = save_stock(tmp_path / "stock", "bert", "AutoModelForSequenceClassification", **options)
    before = transformers.AutoModelForSequenceClassification.from_pretrained(source).classifier.weight
    job = prepare(flags(tmp_path / "out", source, CLASSIFY))
    model = job.trainer.model
    assert model.config.id2label == {0: "x", 1: "y", 2: "z"}
    assert torch.equal(model.score.weight[0], before[2]) and torch.equal(model.score.weight[1], before[0])
    assert not torch.equal(model.score.weight[2], before[1])


@pytest.mark.parametrize("model_type", ["bert", "llama"])
def test_the_labels_of_another_kind_of_classifier_are_not_reused(model_type, tmp_path, caplog):
    """BERT and Llama name the projections of both classifiers alike, and here both have three labels."""
    source = save_stock(tmp_path / "stock", model_type, "AutoModelForSequenceClassification")
    stock = transformers.AutoModelForSequenceClassification.from_pretrained(source)
    before = (stock.classifier if model_type == "bert" else stock.score).weight
    caplog.set_level(logging.WARNING)
    model = prepare(flags(tmp_path / "out", source, TAG)).trainer.model
    assert model.classifier.weight.shape == before.shape
    assert not torch.isclose(model.classifier.weight, before).any()
    assert "newly initialized" in caplog.text


def test_targets_are_those_that_the_checkpoint_was_trained_with(tmp_path):
    """BART's targets begin with its first token, which its generation settings may force."""
    source = save_stock(tmp_path / "stock", "bart", "AutoModelForSeq2SeqLM")
    job = prepare(flags(tmp_path / "out", source, TRANSLATE))
    tokenizer = AutoTokenizer.from_pretrained(source)
    expected = [tokenizer(text_target=row["target"])["input_ids"] for row in ROWS[TRANSLATE]]
    assert [list(row) for row in job.splits["train"].features["labels"]] == expected
    assert expected[0][0] == tokenizer.bos_token_id and expected[0][-1] == tokenizer.eos_token_id


def roberta_tokenizer():
    """A tokenizer like RoBERTa's: in a text, a token begins with the space before it, and a list of words has none."""
    backend = Tokenizer(BPE())
    backend.pre_tokenizer, backend.decoder = ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trainer = BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=ByteLevel.alphabet())
    backend.train_from_iterator([" ".join(WORDS)] * 9, trainer)
    backend.post_processor = RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    names = dict(zip(("bos_token", "pad_token", "eos_token", "unk_token", "mask_token"), special, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=backend, cls_token="<s>", sep_token="</s>", **names)


def test_words_have_the_tokens_that_they_have_in_a_text(tmp_path):
    """Else a RoBERTa, pretrained on texts, would read words that it has seen at the beginning of a text only."""
    source, tokenizer = tmp_path / "stock", roberta_tokenizer()
    sizes = {"vocab_size": len(tokenizer), "pad_token_id": 1}
    stock_model("roberta", "AutoModel", torch.float32, **sizes).save_pretrained(source)
    tokenizer.save_pretrained(source)
    job = prepare(flags(tmp_path / "out", source, TAG))
    for row, features in zip(ROWS[TAG], job.splits["train"].features, strict=True):
        assert features["input_ids"] == tokenizer(" ".join(row["tokens"]))["input_ids"]
        assert len([label for label in features["labels"] if label != -100]) == len(row["tokens"])
    # In a text of characters, no space is between them.
    set_splitting(tokenizer, WordSplitting("characters", 1.0))
    tokens = [token for character in "ab" for token in tokenizer(character, add_special_tokens=False)["input_ids"]]
    assert tokenize_words(settings_of(job, tokenizer), [["a", "b"]])["input_ids"][0][1:-1] == tokens


def test_texts_begin_with_the_first_token_of_the_checkpoint(tmp_path):
    """Llama's tokenizer puts a token before each text, in training and in prediction."""
    source = save_stock(tmp_path / "stock", "llama", "AutoModelForCausalLM")
    job = prepare(flags(tmp_path / "out", source, CONTINUE, pack_documents=True))
    tokenizer, (row, *_) = AutoTokenizer.from_pretrained(source), job.splits["train"].features
    first = tokenizer("ab cd ef gh")["input_ids"]
    assert row["input_ids"][: len(first) + 1] == [*first, tokenizer.eos_token_id]
    assert first[0] == tokenizer.bos_token_id
    asked = job.task.read_rows([{"text": "ab cd"}], job.trainer.scorers.get("eval") or settings_of(job))
    assert asked["input_ids"] == [tokenizer("ab cd")["input_ids"]]


def test_tokens_of_packed_texts_are_counted_where_the_padding_token_ends_texts(tmp_path):
    """As in many chat models. transformers would not count the end tokens."""
    source = save_stock(tmp_path / "stock", "llama", "AutoModelForCausalLM")
    tokenizer = AutoTokenizer.from_pretrained(source)
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(source)
    options = {"pack_documents": True, "max_steps": -1, "num_train_epochs": 2}
    assert main(flags(tmp_path / "out", source, CONTINUE, **options)) == 0
    results = json.loads((tmp_path / "out" / "train_results.json").read_text())
    tokens = sum(len(tokenizer(row["text"])["input_ids"]) + 1 for row in ROWS[CONTINUE])
    assert results["num_input_tokens_seen"] == 2 * tokens


def settings_of(job, tokenizer=None):
    from seqblend.tasks.encoding import Settings

    lengths = dict.fromkeys(("max_length", "max_source_length", "max_target_length"), 16)
    return Settings(tokenizer or job.trainer.processing_class, [], None, token_types=False, seed=0, **lengths)


def test_defaults_of_a_saved_model_are_logged_and_give_way_to_flags(tmp_path, caplog):
    source = save_stock(tmp_path / "stock", "bert", "AutoModel")
    caplog.set_level(logging.INFO)
    args = prepare(flags(tmp_path / "out", source, CLASSIFY, max_steps=20)).trainer.args
    assert (args.learning_rate, args.warmup_steps, args.per_device_train_batch_size) == (5e-4, 0.1, 32)
    (table,) = [each for each in caplog.messages if each.startswith("defaults for fine-tuning")]
    assert re.search(r"learning_rate +0.0005 +the most, for hidden_size 32", table)
    assert re.search(r"max_length +40 +the positions of the model", table)
    given = {"learning_rate": 1e-3, "warmup_steps": 2, "per_device_train_batch_size": 3, "max_length": 9}
    caplog.clear()
    job = prepare(flags(tmp_path / "out", source, CLASSIFY, **given))
    args = job.trainer.args
    assert (args.learning_rate, args.warmup_steps, args.per_device_train_batch_size) == (1e-3, 2, 3)
    (table,) = [each for each in caplog.messages if each.startswith("defaults for fine-tuning")]
    assert not [name for name in given if f"  {name} " in table]


# --- What is refused ---


def without_tokenizer(directory):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (directory / name).unlink()


def with_other_tokenizer(directory):
    train_tokenizer([*WORDS, "a much larger vocabulary"], "wordpiece", 400).save_pretrained(directory)


def without_weights(directory):
    (directory / "model.safetensors").unlink()


def of_another_architecture(directory):
    without_weights(directory)
    DebertaV2Config().save_pretrained(directory)


def without_model_type(directory):
    config = json.loads((directory / "config.json").read_text())
    del config["model_type"]
    (directory / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("change", "task", "words", "options"),
    [
        (without_tokenizer, CLASSIFY, ["tokenizer"], {}),
        (with_other_tokenizer, CLASSIFY, ["vocab_size", "tokenizer"], {}),
        (without_weights, CLASSIFY, ["model_name_or_path", "model.safetensors"], {}),
        (of_another_architecture, CLASSIFY, ["model_name_or_path", "'deberta-v2' is not supported", "bert"], {}),
        (without_model_type, CLASSIFY, ["model_name_or_path", "model_type", "seqblend convert"], {}),
        (None, CONTINUE, ["encoder has no head for task causal-lm"], {}),
        (None, CLASSIFY, ["save_original", "pooling"], {"save_original": True, "config_overrides": "pooling=mean"}),
        (
            None,
            CLASSIFY,
            ["push_original: cannot be combined with push_to_hub"],
            {"push_original": True, "push_to_hub": True},
        ),
        (
            None,
            FILL,
            ["save_original: nothing is trained", "use seqblend convert"],
            {"save_original": True, "do_eval": True, "validation_file": "masked-lm.jsonl"},
        ),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_what_cannot_be_trained_is_refused(change, task, words, options, tmp_path, capsys):
    source = save_stock(tmp_path / "stock", "bert", "AutoModel")
    if change is not None:
        change(source)
    if "validation_file" in options:
        options = {**options, "validation_file": tmp_path / options["validation_file"]}
    assert_refused(tmp_path / "out", source, task, words, capsys, **options)


def test_a_missing_shard_is_refused(tmp_path, capsys):
    source = save_stock(tmp_path / "stock", "bert", "AutoModel")
    model = transformers.AutoModel.from_pretrained(source)
    (source / "model.safetensors").unlink()
    model.save_pretrained(source, max_shard_size="20KB")
    shard = sorted(source.glob("model-*.safetensors"))[1]
    shard.unlink()
    assert_refused(tmp_path / "out", source, CLASSIFY, ["model_name_or_path", shard.name], capsys)


def test_a_model_of_this_package_has_no_original_format(tmp_path, capsys):
    words = ["save_original", "was not converted from another architecture"]
    options = {"tokenizer_type": "char", "config_overrides": "hidden_size=16,num_hidden_layers=1"}
    assert_refused(tmp_path / "out", None, CLASSIFY, words, capsys, save_original=True, **options)


def test_a_repository_that_does_not_exist_is_refused(tmp_path, capsys):
    words = ["model_name_or_path", "nobody/nothing", "Hub"]
    assert_refused(tmp_path / "out", "nobody/nothing", CLASSIFY, words, capsys)


def test_another_run_leaves_nothing_of_the_original(tmp_path):
    """A run that overwrites a fine-tuned one is not published with the original files of that one."""
    source = save_stock(tmp_path / "stock", "bert", "AutoModel")
    assert main(flags(tmp_path / "out", source, CLASSIFY)) == 0
    assert (tmp_path / "out" / "original_files").is_dir()
    shutil.rmtree(source)
    options = {"tokenizer_type": "char", "config_overrides": "hidden_size=16,num_hidden_layers=1"}
    assert main(flags(tmp_path / "out", None, CLASSIFY, overwrite_output_dir=True, **options)) == 0
    assert not (tmp_path / "out" / "original_files").exists()


# --- What would fail after training is refused before it ---


def test_a_folder_that_is_not_of_this_run_is_not_replaced(tmp_path, capsys):
    source = save_stock(tmp_path / "out" / "original", "bert", "AutoModel")
    assert main(flags(tmp_path / "out", source, CLASSIFY, save_original=True)) == 2
    assert "would replace model_name_or_path" in capsys.readouterr().err
    other = save_stock(tmp_path / "stock", "bert", "AutoModel")
    assert main(flags(tmp_path / "out", other, CLASSIFY, save_original=True)) == 2
    assert "would be lost" in capsys.readouterr().err
    assert (source / "model.safetensors").exists() and not (tmp_path / "out" / "config.json").exists()


def test_another_tokenizer_is_not_written_as_the_original_one(tmp_path, capsys):
    source = save_stock(tmp_path / "stock", "bert", "AutoModel")
    train_tokenizer(["ab cd", "ef"], "char", 60).save_pretrained(tmp_path / "other")
    options = {"tokenizer_name_or_path": tmp_path / "other", "save_original": True}
    assert_refused(tmp_path / "out", source, CLASSIFY, ["save_original", "other tokens"], capsys, **options)


def test_settings_that_cannot_be_saved_are_refused(tmp_path, capsys):
    source = save_stock(tmp_path / "stock", "bart", "AutoModelForSeq2SeqLM")
    settings = {"num_beams": 4, "early_stopping": True, "length_penalty": 2.0}
    (source / "generation_config.json").write_text(json.dumps(settings))
    model = prepare(flags(tmp_path / "one", source, TRANSLATE, generation_num_beams=1)).trainer.model
    model.save_pretrained(tmp_path / "saved")
    assert prepare(flags(tmp_path / "four", source, TRANSLATE)).trainer.model.generation_config.length_penalty == 2.0
    (source / "generation_config.json").write_text(json.dumps(settings | {"num_beams": 1}))
    assert_refused(tmp_path / "out", source, TRANSLATE, ["generation_config", "early_stopping"], capsys)


def test_a_value_that_is_the_name_of_an_option_does_not_give_that_option(tmp_path):
    source = save_stock(tmp_path / "stock", "bert", "AutoModel")
    words = flags(tmp_path / "out", source, CLASSIFY, resume="auto")
    assert prepare([*words, "--allow_changed", "learning_rate"]).trainer.args.learning_rate == 5e-4


def test_a_batch_of_packed_texts_has_about_as_many_texts_as_others(tmp_path):
    source = save_stock(tmp_path / "stock", "llama", "AutoModelForCausalLM", max_position_embeddings=512)
    data = write_rows(tmp_path / "many.jsonl", ROWS[CONTINUE] * 50)
    options = {"pack_documents": True, "max_length": 80, "train_file": data}
    job = prepare(flags(tmp_path / "out", source, CONTINUE, **options))
    per_row = 450 / len(job.trainer.train_dataset)
    assert per_row > 8 and 24 <= job.trainer.args.per_device_train_batch_size * per_row <= 40


def test_a_classifier_is_no_model_of_embeddings(tmp_path):
    """The modules of sentence-transformers stay with the class that they were made for."""
    source = save_stock(tmp_path / "stock", "bert", "AutoModel")
    (source / "modules.json").write_text(
        '[{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]'
    )
    assert main(flags(tmp_path / "out", source, CLASSIFY, save_original=True)) == 0
    assert not (tmp_path / "out" / "original" / "modules.json").exists()
