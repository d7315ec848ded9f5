"""Saved models in transformers' pipelines: what these answer is what the models say, with the package and without."""

import json

import datasets
import pytest
import torch
from conftest import BASES, every_model, run_without_package, tiny_model
from test_train_command import CLASSIFY, SMALL, files, prepared
from transformers import AutoTokenizer, GenerationConfig, pipeline
from transformers.pipelines.pt_utils import KeyDataset

from seqblend import (
    BlendDecoderForCausalLM,
    BlendDecoderForTokenClassification,
    BlendEncoderDecoderForSeq2SeqLM,
    BlendEncoderDecoderForSequenceClassification,
    BlendEncoderDecoderModel,
    BlendEncoderForMaskedLM,
    BlendEncoderForTokenClassification,
    BlendEncoderModel,
)
from seqblend.tokenization.training import train_tokenizer

TEXTS = ["jeudi 6 mars", "lundi", "mardi 11 avril 2031"]
TASKS = {
    "SequenceClassification": ("text-classification", {"top_k": None}),
    "TokenClassification": ("token-classification", {"ignore_labels": []}),
    "MaskedLM": ("fill-mask", {}),
    "CausalLM": ("text-generation", {"do_sample": False, "max_new_tokens": 5, "return_full_text": False}),
    "Seq2SeqLM": ("translation", {"max_new_tokens": 5}),
    "Model": ("feature-extraction", {}),
}
# One of each kind, and of each family.
FEW = [
    BlendEncoderDecoderForSequenceClassification,
    BlendDecoderForTokenClassification,
    BlendEncoderForMaskedLM,
    BlendDecoderForCausalLM,
    BlendEncoderDecoderModel,
]


def task_of(model_class):
    """Its task and what its pipeline is asked."""
    return next(task for ending, task in TASKS.items() if model_class.__name__.endswith(ending))


def texts_for(model_class):
    return [text.replace("i", "[MASK]", 1) for text in TEXTS] if model_class is BlendEncoderForMaskedLM else TEXTS


def saved(model_class, directory):
    """A model and a tokenizer that fit, and where they are saved."""
    closes = model_class is not BlendDecoderForCausalLM
    tokenizer = train_tokenizer(TEXTS, "char", vocab_size=99, adds_special_tokens=closes)
    model = tiny_model(model_class, vocab_size=len(tokenizer), bos_token_id=2, eos_token_id=3)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return model, tokenizer


@torch.no_grad()
def direct(model, tokenizer, text):
    """What the model says to a text, in the words of its pipeline."""
    kind, inputs = type(model).__name__, tokenizer(text, return_tensors="pt")
    if kind.endswith(("CausalLM", "Seq2SeqLM")):
        tokens = model.generate(**inputs, max_new_tokens=5, do_sample=False)[0]
        if kind.endswith("Seq2SeqLM"):
            return {"translation_text": tokenizer.decode(tokens, skip_special_tokens=True)}
        rest = tokens[inputs["input_ids"].shape[1] :]
        return [{"generated_text": tokenizer.decode(rest, skip_special_tokens=True)}]
    output = model(**inputs)
    if kind.endswith("Model"):
        return output.last_hidden_state.tolist()
    scores = output.logits[0].softmax(-1)
    if kind.endswith("SequenceClassification"):
        order = scores.argsort(descending=True).tolist()
        return [{"label": model.config.id2label[label], "score": scores[label].item()} for label in order]
    if kind.endswith("TokenClassification"):
        best, labels = scores[1:-1].max(-1)
        answers = labels.tolist(), best.tolist(), text
        return [
            {"entity": model.config.id2label[label], "score": score, "index": index, "word": character}
            for index, (label, score, character) in enumerate(zip(*answers, strict=True), start=1)
        ]
    best, tokens = scores[inputs["input_ids"][0] == tokenizer.mask_token_id][0].topk(5)
    return [{"score": score, "token": token} for score, token in zip(best.tolist(), tokens.tolist(), strict=True)]


def assert_equal(actual, expected):
    """Equal, but for what else an answer tells, and for rounding: some pipelines answer in float32."""
    if isinstance(expected, dict):
        for name, value in expected.items():
            assert_equal(actual[name], value)
    elif isinstance(expected, list):
        assert len(actual) == len(expected)
        for pair in zip(actual, expected, strict=True):
            assert_equal(*pair)
    else:
        assert actual == (pytest.approx(expected, abs=1e-6) if isinstance(expected, float) else expected)


# --- Every head ---


@pytest.mark.parametrize("batch_size", [1, 3])
@every_model
def test_a_pipeline_answers_what_the_model_says(model_class, batch_size, tmp_path, caplog):
    model, tokenizer = saved(model_class, tmp_path)
    task, asked = task_of(model_class)
    texts = texts_for(model_class)
    answers = pipeline(task, str(tmp_path), batch_size=batch_size, **asked)(texts)
    if model_class in BASES and batch_size > 1:
        # As all of its kind, with the rows of padding.
        answers = [[rows[: len(text) + 2] for rows in answer] for answer, text in zip(answers, texts, strict=True)]
    assert_equal(answers, [direct(model, tokenizer, text) for text in texts])
    assert "not supported" not in caplog.text


ASK = """
import json
import torch, transformers

torch.set_num_threads(1)
for task, directory, asked, texts in json.load(sys.stdin):
    ask = transformers.pipeline(task, directory, trust_remote_code=True, **asked)
    assert type(ask.model).__module__.startswith("transformers_modules."), type(ask.model)
    print(json.dumps(ask(texts), default=float))
"""


def test_where_the_package_is_not_installed_the_answers_are_the_same(tmp_path):
    asked, expected = [], []
    for model_class in FEW:
        directory = tmp_path / model_class.__name__
        model, tokenizer = saved(model_class, directory)
        task, options = task_of(model_class)
        asked.append((task, str(directory), options, texts_for(model_class)))
        expected.append([direct(model, tokenizer, text) for text in texts_for(model_class)])
    done = run_without_package(ASK, asked, tmp_path)
    assert_equal([json.loads(line) for line in done.stdout.splitlines()], expected)
    assert "not supported" not in done.stderr


@pytest.mark.filterwarnings("ignore:Tokenizer does not support real words")
@pytest.mark.parametrize("strategy", ["none", "simple", "first", "average", "max"])
@pytest.mark.parametrize("tokenizer_type", ["byte-bpe", "unigram", "wordpiece"])
def test_an_entity_is_a_slice_of_the_text_without_spaces_around_it(tokenizer_type, strategy):
    text = "기대 Müller 😀 e\u0301 New York."
    # Unigram has pieces that several words share: here each word begins with one that has its space.
    others = "기대된 Müllers 😀😀 e\u0301e Newer Yorks"
    tokenizer = train_tokenizer([text, others] * 9, tokenizer_type, vocab_size=330)
    model = tiny_model(BlendEncoderForTokenClassification, vocab_size=len(tokenizer))
    tag = pipeline("token-classification", model, tokenizer=tokenizer, aggregation_strategy=strategy, ignore_labels=[])
    # A token of a space alone has nothing of the text.
    parts = [(part["start"], part["end"]) for part in tag(text) if part["start"] < part["end"]]
    assert len(parts) > 1
    assert all(text[start:end] == text[start:end].strip() for start, end in parts)
    assert set(text) - {" "} <= {character for start, end in parts for character in text[start:end]}


# --- Sequence to sequence ---


@pytest.fixture(scope="module")
def writer(tmp_path_factory):
    """Its model, its tokenizer, and the pipeline of each name for them."""
    directory = tmp_path_factory.mktemp("writer")
    model, tokenizer = saved(BlendEncoderDecoderForSeq2SeqLM, directory)
    model.generation_config.update(max_length=12, min_new_tokens=4)
    return model, tokenizer, {name: pipeline(name, model, tokenizer=tokenizer) for name in NAMES}


NAMES = {"text2text-generation": "generated", "translation": "translation"}
every_name = pytest.mark.parametrize("name", NAMES)


def written(model, tokenizer, text, **asked):
    """Tokens that the model writes, (answers, T), and their texts."""
    tokens = model.generate(**tokenizer(text, return_tensors="pt"), **asked)
    return tokens, tokenizer.batch_decode(tokens, skip_special_tokens=True)


@every_name
def test_one_text_and_several_answer_as_in_transformers_4(name, writer):
    model, tokenizer, pipelines = writer
    write, key = pipelines[name], f"{NAMES[name]}_text"
    answers = [{key: written(model, tokenizer, text)[1][0]} for text in TEXTS]
    assert len({answer[key] for answer in answers}) > 1
    assert write(TEXTS[0]) == [answers[0]]
    for batch_size in (1, 2, 3):
        assert write(TEXTS, batch_size=batch_size) == answers
    assert write(tuple(TEXTS)) == answers
    assert write([]) == []


@every_name
def test_data_sets_and_generators_are_read_bit_by_bit(name, writer):
    model, tokenizer, pipelines = writer
    write, key, read = pipelines[name], f"{NAMES[name]}_text", []
    answers = [{key: written(model, tokenizer, text)[1][0]} for text in TEXTS]
    dataset = datasets.Dataset.from_dict({"source": TEXTS})
    assert write(dataset["source"], batch_size=2) == answers
    assert list(write(KeyDataset(dataset, "source"), batch_size=2)) == [[answer] for answer in answers]

    def texts():
        for text in TEXTS:
            read.append(text)
            yield text

    stream = iter(write(texts()))
    assert next(stream) == [answers[0]] and read == TEXTS[:1]
    assert list(stream) == [[answer] for answer in answers[1:]]


@every_name
def test_what_generate_takes_it_takes_in_the_call_and_before(name, writer):
    model, tokenizer, pipelines = writer
    key, beams = f"{NAMES[name]}_text", {"num_beams": 3, "num_return_sequences": 2, "max_length": 6}
    answers = [[{key: each} for each in written(model, tokenizer, text, **beams)[1]] for text in TEXTS]
    assert len(answers[0]) == 2
    asked_before = pipeline(name, model, tokenizer=tokenizer, batch_size=3, **beams)
    for found in (
        pipelines[name](TEXTS, batch_size=2, **beams),
        pipelines[name](TEXTS, generation_config=GenerationConfig(**{**model.generation_config.to_dict(), **beams})),
        pipelines[name](TEXTS, return_dict_in_generate=True, output_scores=True, **beams),
        asked_before(TEXTS),
    ):
        assert found == answers
    # The call has the last word.
    assert asked_before(TEXTS[0], num_return_sequences=1) == answers[0][:1]


@every_name
def test_it_answers_by_tokens_when_asked_to(name, writer):
    model, tokenizer, pipelines = writer
    (answer,) = pipelines[name](TEXTS[0], return_tensors=True)
    assert answer.keys() == {f"{NAMES[name]}_token_ids"}
    assert answer[f"{NAMES[name]}_token_ids"].equal(written(model, tokenizer, TEXTS[0])[0][0])


def test_long_texts_are_cut_when_asked_to(writer, tmp_path):
    model, tokenizer, _ = writer
    tokenizer.save_pretrained(tmp_path)
    long, tokenizer = TEXTS[2], AutoTokenizer.from_pretrained(tmp_path, model_max_length=7)
    write = pipeline("translation", model, tokenizer=tokenizer)
    (short,) = written(model, tokenizer, long[:5])[1]
    assert write(long, truncation=True) == [{"translation_text": short}]
    assert write(long) != write(long, truncation=True)


@every_name
def test_what_it_cannot_read_is_an_error_that_says_so(name, writer):
    model, _, pipelines = writer
    write = pipelines[name]
    for wrong in (3, None, ["a text", 3], [["a text"]], {"text": "a text"}):
        with pytest.raises(ValueError, match=f"{name}: an input must be a text, got "):
            write(wrong)
    bare = train_tokenizer(TEXTS, "char", vocab_size=99, adds_special_tokens=False)
    with pytest.raises(ValueError, match=f"{name}: the text '' has no tokens"):
        pipeline(name, model, tokenizer=bare)("")
    with pytest.raises(ValueError, match="src_lang"):
        write(TEXTS[0], src_lang="fr")


@every_name
def test_what_writes_no_text_from_a_text_is_refused(name, writer, tmp_path):
    model, tokenizer, _ = writer
    for model_class in (BlendDecoderForCausalLM, BlendEncoderModel):
        with pytest.raises(ValueError, match=f"model: {model_class.__name__} is not a model of AutoModelForSeq2SeqLM"):
            pipeline(name, tiny_model(model_class), tokenizer=tokenizer)
    model.save_pretrained(tmp_path)
    with pytest.raises((ValueError, OSError), match="tokenizer"):
        pipeline(name, str(tmp_path))
    with pytest.raises(ValueError, match="tokenizer: there is none"):
        type(writer[2][name])(model)


@pytest.mark.parametrize("recipe, reads", [("bert", True), ("default", False)])
def test_a_pair_is_asked_with_segments_where_the_model_has_them(recipe, reads, tmp_path):
    """By the saved tokenizer alone, whose answers are those that training and seqblend-predict ask for."""
    rows = [{"text": "red", "text_pair": "blue", "label": name} for name in "xy"]
    more = {"recipe": recipe, "config_overrides": f"{SMALL},initializer_range=0.5"}
    job = prepared(tmp_path / "out", task=CLASSIFY, **more, **files(tmp_path, rows, ["train"]))
    job.trainer.save_model(str(tmp_path / "out"))
    classify = pipeline("text-classification", str(tmp_path / "out"), top_k=None)
    inputs = classify.tokenizer("red", "blue", return_tensors="pt")
    assert ("token_type_ids" in inputs) == reads == ("token_type_ids" in job.splits["train"].features.column_names)
    asked = classify.tokenizer("red", "blue", return_token_type_ids=True, return_tensors="pt")
    with torch.no_grad():
        expected = classify.model(**asked).logits.softmax(-1)[0]
        without = classify.model(input_ids=asked["input_ids"]).logits.softmax(-1)[0]
    said = {each["label"]: each["score"] for each in classify({"text": "red", "text_pair": "blue"})}
    assert [said["x"], said["y"]] == pytest.approx(expected.tolist(), abs=1e-5)
    assert torch.allclose(expected, without, atol=1e-3) != reads
