"""Conversations: the answers alone are learnt, after exactly what prediction reads, and the model stops after them."""

import copy
import itertools
import json

import datasets
import pytest
import torch
from conftest import run_without_package, tiny_config
from hypothesis import given, settings
from hypothesis import strategies as st
from rows import load_data
from test_language_models import documents_of, settings_for
from test_train_command import (
    ROOT,
    assert_refused,
    plain_cards,  # noqa: F401
    prepared,
    quick_and_quiet,  # noqa: F401
    read,
    run,
    write,
)
from tokenizers import processors
from transformers import AutoModelForCausalLM, AutoTokenizer, Seq2SeqTrainingArguments, pipeline

from seqblend import BlendDecoderForCausalLM
from seqblend.data.errors import InputError
from seqblend.hub_card.card import CardData, write_card
from seqblend.hub_card.saved import read_saved
from seqblend.predict import main as predict
from seqblend.serving import prediction
from seqblend.tasks.conversations import encode_conversations, render
from seqblend.tasks.corruption import IGNORE
from seqblend.tasks.registry import TASKS
from seqblend.tasks.splits import encode_split
from seqblend.tokenization.training import train_tokenizer
from seqblend.training.trainer import BlendTrainer

TASK = TASKS["causal-lm"]
CHATML = """\
{% for message in messages %}{% if loop.first and message.role != 'system' %}\
{{ '<|im_start|>system\nYou are small.<|im_end|>\n' }}{% endif %}\
{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}{% endfor %}\
{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""
LLAMA = """\
{% set system = '' %}{% set rest = messages %}{% if messages[0].role == 'system' %}\
{% set system = '<<SYS>>\n' + messages[0].content + '\n<</SYS>>\n\n' %}{% set rest = messages[1:] %}{% endif %}\
{% for message in rest %}{% if (message.role == 'user') != (loop.index0 % 2 == 0) %}\
{{ raise_exception('roles must alternate') }}{% endif %}{% if message.role == 'user' %}\
{{ bos_token + '[INST] ' + (system if loop.first else '') + message.content + ' [/INST]' }}\
{% else %}{{ ' ' + message.content + ' ' + eos_token }}{% endif %}{% endfor %}"""
# Thoughts are left out of all answers but those after the last question.
THINKING = """\
{% set last = namespace(user=-1) %}{% for message in messages %}{% if message.role == 'user' %}\
{% set last.user = loop.index0 %}{% endif %}{% endfor %}{% for message in messages %}\
{% set content = message.content %}{% if message.role == 'assistant' and loop.index0 < last.user %}\
{% set content = content.split('</think>')[-1] %}{% endif %}\
{{ '<|im_start|>' + message.role + '\n' + content + '<|im_end|>\n' }}{% endfor %}\
{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""
TEMPLATES = {"chatml": CHATML, "llama": LLAMA, "thinking": THINKING}
# What each template writes as an answer.
ANSWERS = {"chatml": "{}<|im_end|>", "llama": " {} [SEP]", "thinking": "{}<|im_end|>"}
every_template = pytest.mark.parametrize("name", TEMPLATES)


def chat(*contents, system=None):
    """Messages of user and assistant in turn."""
    roles = itertools.cycle(["user", "assistant"])
    first = [] if system is None else [{"role": "system", "content": system}]
    return [*first, *({"role": role, "content": content} for role, content in zip(roles, contents, strict=False))]


CHATS = [
    chat("What is red?", "A colour."),
    chat("Two and two?", "<think>2 + 2</think>Four.", "And one?", "<think>4 + 1</think>Five!", system="Be brief."),
    chat("Name a city.", "Seoul."),
]  # fmt: skip
SMALL = "hidden_size=32,num_hidden_layers=2,num_attention_heads=2,intermediate_size=64"


def tokenizer_with(template, kind="byte-bpe"):
    texts = [message["content"] for messages in CHATS for message in messages]
    tokenizer = train_tokenizer([*texts, "<>/[]|_ \nuser system assistant"], kind, 320, adds_special_tokens=False)
    tokenizer.add_tokens(["<|im_start|>", "<|im_end|>"], special_tokens=True)
    tokenizer.chat_template = template
    return tokenizer


TOKENIZERS = {name: tokenizer_with(template) for name, template in TEMPLATES.items()}


def encode(tokenizer, conversations, length=512, split="train"):
    rows = datasets.Dataset.from_dict({"messages": conversations})
    return encode_split(TASK, rows, settings_for(tokenizer, length), split).features.to_list()


def answers_of(messages):
    return [message["content"] for message in messages if message["role"] == "assistant"]


def spans_of(labels):
    """The runs of labels."""
    runs = itertools.groupby(labels, key=lambda label: label != IGNORE)
    return [list(run) for is_label, run in runs if is_label]


# --- What is learnt ---


TEXT = st.text("abé서 .?\n", max_size=8)


@every_template
@settings(max_examples=25)
@given(data=st.data())
def test_labels_are_the_answers_and_their_ends(name, data):
    tokenizer = TOKENIZERS[name]
    system = st.none() | TEXT
    one = st.tuples(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=3), system)
    drawn = data.draw(st.lists(one, min_size=1, max_size=3))
    conversations = [chat(*itertools.chain(*turns), system=before) for turns, before in drawn]
    encoded = encode_conversations(tokenizer, conversations, 512)
    spans = [span for labels in encoded["labels"] for span in spans_of(labels)]
    expected = [ANSWERS[name].format(text) for messages in conversations for text in answers_of(messages)]
    assert [tokenizer.decode(span) for span in spans] == expected
    assert not any(encoded["difference"]) and not any(encoded["cut_tokens"])
    # Each label stands at its token.
    for ids, labels in zip(encoded["input_ids"], encoded["labels"], strict=True):
        assert all(label in (IGNORE, token) for token, label in zip(ids, labels, strict=True))


@every_template
@pytest.mark.parametrize("adds_first", [False, True])
def test_before_each_answer_stand_the_tokens_that_prediction_reads(name, adds_first):
    """Also if the tokenizer puts a token before each text, as that of Llama: a template writes it itself."""
    tokenizer = copy.deepcopy(TOKENIZERS[name])
    if adds_first:
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A", special_tokens=[("[CLS]", tokenizer.bos_token_id)]
        )
    assert (tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id) == adds_first
    asked = []
    for messages in CHATS:
        asked += [messages[:index] for index, each in enumerate(messages) if each["role"] == "assistant"]
    prompts = TASK.read_rows([{"messages": messages} for messages in asked], settings_for(tokenizer, 512))["input_ids"]
    encoded = encode_conversations(tokenizer, CHATS, 512)
    found = []
    for ids, labels in zip(encoded["input_ids"], encoded["labels"], strict=True):
        starts = [i for i, label in enumerate(labels) if label != IGNORE and labels[i - 1] == IGNORE]
        found += [ids[:start] for start in starts]
    assert found == prompts
    texts = [tokenizer.apply_chat_template(each, add_generation_prompt=True, tokenize=False) for each in asked]
    assert prompts == tokenizer(texts, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize(
    "written, content, learnt",
    [
        # The end of the whole conversation, as in Phi-3, is not that of the answer.
        ("message.content + '<|im_end|>\n' + (eos_token * (message.role != 'user'))", "Red.", "Red.<|im_end|>"),
        # Two tokens in a row, as in Command R.
        ("message.content + '<|im_start|><|im_end|>\n'", "Red.", "Red.<|im_start|><|im_end|>"),
        # Thoughts in another form, as in Qwen3; and an empty answer.
        ("message.content | replace('#', '# \n') + '<|im_end|>\n'", "#a b", "# \na b<|im_end|>"),
        # A content that the end token holds, too.
        ("message.content + '<|im_end|>\n'", "d", "d<|im_end|>"),
        ("message.content + '<|im_end|>\n'", "", "<|im_end|>"),
        ("message.content + '<|im_end|>\n'", "Red.<|im_end|>", "Red.<|im_end|><|im_end|>"),
    ],
    ids=["end of all", "two tokens", "rewritten", "of the end", "empty", "in the content"],
)  # fmt: skip
def test_an_answer_ends_with_the_first_tokens_after_its_content(written, content, learnt):
    template = CHATML.replace("message.content + '<|im_end|>' + '\n'", written)
    assert template != CHATML
    tokenizer = tokenizer_with(template)
    (labels,) = encode_conversations(tokenizer, [chat("a", content)], 512)["labels"]
    assert tokenizer.decode([label for label in labels if label != IGNORE]) == learnt


def test_answers_share_a_sequence_unless_the_template_rewrites_them():
    counts = {
        name: len(encode_conversations(tokenizer, CHATS, 512)["labels"]) for name, tokenizer in TOKENIZERS.items()
    }
    assert counts == {"chatml": 3, "llama": 3, "thinking": 4}
    encoded = encode_conversations(TOKENIZERS["thinking"], CHATS[1:2], 512)
    texts = TOKENIZERS["thinking"].batch_decode(encoded["input_ids"])
    assert "2 + 2" in texts[0] and "Five" not in texts[0]
    assert "2 + 2" not in texts[1] and "assistant\nFour." in texts[1] and "4 + 1" in texts[1]
    assert [len(spans_of(labels)) for labels in encoded["labels"]] == [1, 1]


@every_template
def test_a_packed_row_has_the_loss_of_its_conversations_one_by_one(name, tmp_path):
    """In training, and as perplexity over answers; and no conversation sees its neighbours."""
    tokenizer = TOKENIZERS[name]
    rows = encode(tokenizer, CHATS, 512)
    assert len(rows) == 1
    config = tiny_config(BlendDecoderForCausalLM.config_class, vocab_size=len(tokenizer), max_position_embeddings=512)
    model = BlendDecoderForCausalLM(config).double().eval()
    alone = encode_conversations(tokenizer, CHATS, 512)
    total, count = 0.0, 0
    with torch.no_grad():
        for ids, labels in zip(alone["input_ids"], alone["labels"], strict=True):
            targets = sum(label != IGNORE for label in labels)
            total += model(torch.tensor([ids]), labels=torch.tensor([labels])).loss.item() * targets
            count += targets
    args = Seq2SeqTrainingArguments(
        str(tmp_path),
        **{"max_steps": 1, "learning_rate": 0.0, "use_cpu": True, "disable_tqdm": True, "save_strategy": "no"},
    )
    data, collator = datasets.Dataset.from_list(rows), TASK.make_collator(settings_for(tokenizer))
    trainer = BlendTrainer(
        scorers={}, model=model, args=args, train_dataset=data, eval_dataset=data, data_collator=collator
    )
    assert trainer.train().training_loss == pytest.approx(total / count, rel=1e-6)  # summed in float32
    assert trainer.evaluate()["eval_loss"] == pytest.approx(total / count, rel=1e-9)
    batch = collator(rows)
    second = len(documents_of(rows[0])[0])
    changed = batch["input_ids"].clone()
    changed[0, 3 : second - 3] = 5
    with torch.no_grad():
        before, after = (
            model(ids, position_ids=batch["position_ids"]).logits[0] for ids in (batch["input_ids"], changed)
        )
    assert torch.equal(before[second:], after[second:]) and not torch.equal(before[:second], after[:second])


def test_long_conversations_lose_their_ends_and_that_is_said(caplog):
    tokenizer = TOKENIZERS["chatml"]
    whole = encode_conversations(tokenizer, CHATS, 512)
    sizes = [len(ids) for ids in whole["input_ids"]]
    length = sizes[1] - 10
    rows = encode(tokenizer, CHATS, length)
    documents = [document for row in rows for document in documents_of(row)]
    assert documents == [ids[:length] for ids in whole["input_ids"]]
    (message,) = caplog.messages
    assert message == (
        f"train: 1 of 3 conversations are longer than max_length={length}: 10 tokens are cut off at their ends, and "
        "with them 1 of 4 answers, wholly or in part"
    )
    # A question alone is not trained.
    rows = encode(tokenizer, [*CHATS[:1], chat("b" * sizes[0], "c"), *CHATS[2:]], sizes[0])
    documents = [document for row in rows for document in documents_of(row)]
    assert documents == [whole["input_ids"][0], whole["input_ids"][2][: sizes[0]]]
    with pytest.raises(InputError, match=r"train: no answer begins within max_length=10"):
        encode(tokenizer, CHATS, 10)


def test_prompts_with_other_tokens_are_counted(caplog):
    """The last space of the prompt and the first word of the answer are one token."""
    template = CHATML.replace("'<|im_start|>' + message.role + '\n'", "message.role + ': '")
    template = template.replace("'<|im_start|>assistant\n'", "'assistant: '")
    tokenizer = tokenizer_with(template)
    encode(tokenizer, [chat("red?", "is a"), chat("red?", "7")])
    (message,) = caplog.messages
    assert (
        "train: in 1 of 2 conversations the tokens before an answer differ from those of the prompt alone" in message
    )
    assert "assistant: ' and 'is a<|im_end|>\\n'" in message


# --- Training and asking ---


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Directories of tokenizers with each template."""
    root = tmp_path_factory.mktemp("tokenizers")
    for name, tokenizer in TOKENIZERS.items():
        tokenizer.save_pretrained(root / name)
    return root


def options(saved, name, directory, conversations=None, **given):
    rows = [{"messages": messages} for messages in CHATS] if conversations is None else conversations
    path = write(directory / "train.jsonl", rows)
    own = {"task": "causal-lm", "tokenizer_type": None, "tokenizer_name_or_path": saved / name, "train_file": path}
    return {**own, "config_overrides": SMALL, "max_length": 256, **given}


@pytest.fixture(scope="module")
def models(saved, tmp_path_factory):
    """Models that know the three chats by heart."""
    root, found = tmp_path_factory.mktemp("models"), {}
    steps = {"max_steps": 80, "learning_rate": 1e-2, "lr_scheduler_type": "constant"}
    steps["config_overrides"] = f"{SMALL},hidden_dropout=0.0,attention_dropout=0.0"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("seqblend.training.publisher.write_card", lambda *args, **kwargs: None)
        for name in TEMPLATES:
            found[name] = run(root / name, **options(saved, name, root, **steps))
    return found


def predicted(model, source, output, *more):
    assert predict([str(model), "--input", str(source), "--output", str(output), *map(str, more)]) == 0
    return [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]


@every_template
def test_what_was_learnt_is_answered_by_predict_pipeline_and_generate(name, models, tmp_path):
    """Word for word, without a setting, and not a token more; a conversation is asked for its last answer."""
    rows = [{"messages": messages} for messages in CHATS]
    answers = predicted(models[name], write(tmp_path / "asked.jsonl", rows), tmp_path / "answers.jsonl")
    assert [answer["input"] for answer in answers] == [messages[:-1] for messages in CHATS]
    end = "[SEP]" if name == "llama" else "<|im_end|>"
    expected = [ANSWERS[name].format(messages[-1]["content"]).removesuffix(end) for messages in CHATS]
    assert [answer["prediction"] for answer in answers] == expected
    tokenizer, model = (each.from_pretrained(models[name]) for each in (AutoTokenizer, AutoModelForCausalLM))
    write_text = pipeline("text-generation", model=model, tokenizer=tokenizer)
    for messages, answer in zip(CHATS, expected, strict=True):
        said = write_text(messages[:-1])[0]["generated_text"]
        assert said == [*messages[:-1], {"role": "assistant", "content": answer}]
        inputs = tokenizer.apply_chat_template(messages[:-1], add_generation_prompt=True, return_tensors="pt")
        ids = model.generate(**inputs, max_new_tokens=100)[0, inputs["input_ids"].shape[1] :]
        assert tokenizer.decode(ids) == answer + end


def test_the_end_of_a_turn_ends_generation_also_where_another_token_ends_texts(models):
    tokenizer = AutoTokenizer.from_pretrained(models["chatml"])
    ends = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|im_end|>")]
    assert read(models["chatml"] / "generation_config.json")["eos_token_id"] == ends
    # Older transformers writes a list.
    assert read(models["llama"] / "generation_config.json")["eos_token_id"] in (ends[0], ends[:1])


def test_a_pipeline_does_not_sample_unless_the_model_says_so(models):
    model = AutoModelForCausalLM.from_pretrained(models["chatml"])
    asked = [*CHATS[0][:1], {"role": "assistant", "content": ""}]
    chat = pipeline("text-generation", model=model, tokenizer=AutoTokenizer.from_pretrained(models["chatml"]))
    # Of logits that are all alike, samples would differ.
    with torch.no_grad():
        model.lm_head.weight.mul_(1e-3)
    said = [chat(asked, max_new_tokens=8)[0]["generated_text"][-1]["content"] for _ in range(3)]
    assert said[0] == said[1] == said[2]


def test_end_tokens_of_a_saved_model_stay(models, saved, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(models["chatml"])
    model.generation_config.eos_token_id = [7, 3]
    model.save_pretrained(tmp_path / "saved")
    AutoTokenizer.from_pretrained(models["chatml"]).save_pretrained(tmp_path / "saved")
    given = options(saved, "chatml", tmp_path, model_name_or_path=tmp_path / "saved", config_overrides=None)
    out = run(tmp_path / "out", **{**given, "tokenizer_name_or_path": None})
    end = AutoTokenizer.from_pretrained(out).convert_tokens_to_ids("<|im_end|>")
    assert read(out / "generation_config.json")["eos_token_id"] == [7, 3, end]


def test_a_new_tokenizer_gets_a_chat_template(tmp_path):
    """That of docs/fine_tuning.md."""
    path, page = tmp_path / "chat.jinja", (ROOT / "docs" / "fine_tuning.md").read_text(encoding="utf-8")
    (template,) = (block for block in page.split("```\n") if block.startswith("{% for"))
    # Editors of Windows begin a file with a byte order mark, which was written into every prompt.
    path.write_text(template, encoding="utf-8-sig")
    given = options(tmp_path, "", tmp_path, tokenizer_name_or_path=None, vocab_size=300, chat_template=path)
    out = run(tmp_path / "out", **given)
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert tokenizer.chat_template == template
    assert (
        render(tokenizer, CHATS[0][:1], add_generation_prompt=True) == "[CLS]user\nWhat is red?[SEP][CLS]assistant\n"
    )


@pytest.mark.parametrize("workers", [None, 2])
@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet", ".jsonl.gz"])
def test_every_format_with_types_holds_conversations(suffix, workers, saved, tmp_path):
    path = write(tmp_path / f"chats{suffix}", [{"chat": messages, "id": 1} for messages in CHATS])
    given = options(saved, "chatml", tmp_path, train_file=path, messages_column="chat")
    job = prepared(tmp_path / "out", **given, preprocessing_num_workers=workers)
    assert job.splits["train"].rows["messages"][:] == CHATS
    assert job.splits["train"].features.to_list() == encode(TOKENIZERS["chatml"], CHATS, 256)


def test_a_data_set_holds_conversations(tmp_path):
    datasets.Dataset.from_dict({"messages": CHATS, "id": [1, 2, 3]}).to_parquet(tmp_path / "data" / "train.parquet")
    data = load_data("causal-lm", dataset_name=str(tmp_path / "data"))
    assert data["train"]["messages"][:] == CHATS and data["train"].column_names == ["messages"]


def test_a_stream_has_what_is_stored_otherwise(saved, tmp_path):
    given = options(saved, "thinking", tmp_path, max_steps=2)
    stream = prepared(tmp_path / "a", **given, streaming=True)
    table = prepared(tmp_path / "b", **given)
    key = lambda row: json.dumps(row, sort_keys=True)  # noqa: E731
    assert sorted(map(key, stream.splits["train"].features)) == sorted(map(key, table.splits["train"].features))
    ends = table.trainer.model.generation_config.eos_token_id
    assert stream.trainer.model.generation_config.eos_token_id == ends


def test_a_resumed_run_must_have_its_template(saved, tmp_path, capsys):
    given = options(saved, "chatml", tmp_path, save_strategy="steps", save_steps=1, max_steps=1, streaming=True)
    run(tmp_path / "out", **given)
    other = {**given, "tokenizer_name_or_path": saved / "thinking", "max_steps": 2, "resume": "auto"}
    words = ["chat_template is another one"]
    assert_refused(tmp_path, other, words, capsys)
    run(tmp_path / "out", **{**given, "max_steps": 2, "resume": "auto"})


def test_conversations_that_are_also_in_training_are_counted(saved, tmp_path, caplog):
    other = [*CHATS[0][:1], {"role": "assistant", "content": "A color."}]
    path = write(tmp_path / "v.jsonl", [{"messages": each} for each in (CHATS[0], CHATS[1], other)])
    prepared(tmp_path / "out", **options(saved, "chatml", tmp_path, validation_file=path))
    assert any("2 of 3 rows" in line and "are also in training" in line for line in caplog.messages)


def test_of_a_text_and_messages_the_named_one_is_read(saved, tmp_path, capsys):
    rows = [{"messages": messages, "text": "a text"} for messages in CHATS]
    given = options(saved, "chatml", tmp_path, rows)
    words = [
        "train.jsonl",
        "'text' and 'messages'; only one can be read",
        "--text_column text",
        "--messages_column messages",
    ]
    assert_refused(tmp_path, given, words, capsys)
    both = {**given, "text_column": "text", "messages_column": "messages"}
    assert_refused(tmp_path, both, ["text_column: cannot be combined with messages_column"], capsys)
    for name in ("text", "messages"):
        job = prepared(tmp_path / name, **given, **{f"{name}_column": name})
        assert job.splits["train"].rows.column_names == [name]


# --- What is refused ---

MESSAGE = {"role": "user", "content": "a"}
ANSWER = {"role": "assistant", "content": "b"}
WRONG = {
    "no list": ("abc", ["must be a list of messages", "the text 'abc'"]),
    "empty": ([], ["empty list"]),
    "no object": (["a"], ["message 1", "the text 'a'"]),
    "no answer": ([MESSAGE, {"role": "gpt", "content": "b"}], ["no answer", "'user', 'gpt'"]),
    "answer first": ([ANSWER, MESSAGE, ANSWER], ["begins with an answer", "but a message must come before it"]),
    "no content": ([MESSAGE, {"role": "assistant"}], ["content of message 2", "missing"]),
    "null": ([MESSAGE, {"role": "assistant", "content": None}], ["content of message 2", "null"]),
    "parts": ([{"role": "user", "content": [{"type": "text"}]}, ANSWER], ["content of message 1", "a list"]),
    "number": ([{"role": 1, "content": "a"}, ANSWER], ["role of message 1", "the number 1"]),
    "empty role": ([{"role": "", "content": "a"}, ANSWER], ["role of message 1 is empty"]),
    "tool calls": ([MESSAGE, {**ANSWER, "tool_calls": [{"name": "f"}]}], ["message 2 has 'tool_calls'"]),
    "weight": ([MESSAGE, {**ANSWER, "weight": 0}], ["message 2 has 'weight'"]),
    "sharegpt": ([{"from": "human", "value": "a"}], ["message 1 has 'from', 'value'", "rename the keys"]),
    "surrogate": ([MESSAGE, {**ANSWER, "content": "\ud83d"}], ["surrogate"]),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_conversation_is_named_by_its_row(name, saved, tmp_path, capsys):
    value, words = WRONG[name]
    given = options(saved, "chatml", tmp_path, [{"messages": CHATS[0]}, {"messages": value}])
    assert_refused(tmp_path, given, ["train.jsonl: row 2: column 'messages'", *words], capsys)


def test_keys_without_a_value_are_no_matter(tmp_path):
    """As Arrow fills them in, where another row has them."""
    rows = [{"messages": [{**MESSAGE, "tool_calls": None, "name": ""}, {**ANSWER, "tool_calls": []}]}]
    data = load_data("causal-lm", train_file=[str(write(tmp_path / "a.jsonl", rows))])
    assert data["train"]["messages"][:] == [[MESSAGE, ANSWER]]


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_cells_hold_no_conversations(suffix, saved, tmp_path, capsys):
    path = write(tmp_path / f"train{suffix}", [{"messages": CHATS[0]}])
    given = options(saved, "chatml", tmp_path, train_file=path)
    assert_refused(tmp_path, given, [f"train{suffix}: row 1", ".jsonl and .parquet", "cells"], capsys)


def test_a_tokenizer_without_a_template_is_refused(saved, tmp_path, capsys):
    bare = tokenizer_with(None)
    bare.save_pretrained(tmp_path / "bare")
    given = options(tmp_path, "bare", tmp_path)
    assert_refused(tmp_path, given, [str(tmp_path / "bare"), "--chat_template FILE.jinja"], capsys)
    trained = {**given, "tokenizer_name_or_path": None, "vocab_size": 300}
    assert_refused(tmp_path, trained, ["chat_template", "the tokenizer of this run"], capsys)
    missing = {**given, "chat_template": tmp_path / "none.jinja"}
    assert_refused(tmp_path, missing, ["chat_template", "none.jinja", "cannot be read"], capsys)
    (tmp_path / "bad.jinja").write_text("{% for %}")
    assert_refused(tmp_path, {**given, "chat_template": tmp_path / "bad.jinja"}, ["bad.jinja", "line 1"], capsys)


PROMPTS_OTHERWISE = CHATML.replace("'<|im_start|>assistant\n'", "'<|im_start|>assistant\n<think>\n'")


@pytest.mark.parametrize(
    "template, messages, words",
    [
        (PROMPTS_OTHERWISE, CHATS[0], ["message 2", "<think>", "does not begin with this prompt"]),
        (
            CHATML.replace("'<|im_end|>'", "''"),
            CHATS[0],
            ["writes '\\n', in which no added token follows", "eos_token"],
        ),
        (CHATML.replace("+ message.content +", "+"), CHATS[0], ["message 2", "does not write its content"]),
        (LLAMA, chat("a", "b", system="c")[::-1], ["begins with"]),
        (LLAMA, [MESSAGE, MESSAGE, ANSWER], ["roles must alternate"]),
    ],
    ids=["another prompt", "no end", "no content", "order", "refused by the template"],
)
@pytest.mark.parametrize("streaming", [False, True])
def test_a_template_that_cannot_be_learnt_is_refused(streaming, template, messages, words, tmp_path, capsys):
    tokenizer_with(template).save_pretrained(tmp_path / "other")
    rows = [{"messages": messages}]
    good = [] if "no added token" in words[0] or words[0] == "message 2" else [{"messages": CHATS[0]}]
    given = options(tmp_path, "other", tmp_path, [*good, *rows], streaming=streaming)
    assert_refused(tmp_path, given, [f"train.jsonl: row {len(good) + 1}", *words], capsys)


def test_a_row_is_named_by_its_file_also_where_rows_were_left_out(tmp_path, saved, capsys):
    """Of two files, of which some rows are kept."""
    good = [{"messages": messages} for messages in CHATS]
    bad = {"messages": [MESSAGE, MESSAGE, ANSWER]}
    paths = [write(tmp_path / f"{name}.jsonl", rows) for name, rows in (("a", good * 3), ("b", [*good, bad, *good]))]
    given = options(saved, "llama", tmp_path, train_file=tmp_path / "[ab].jsonl", max_train_samples=14)
    assert_refused(tmp_path, given, [f"{paths[1]}: row 4", "roles must alternate"], capsys)


def test_later_blocks_of_a_stream_are_named_by_their_rows(tmp_path, saved, monkeypatch):
    monkeypatch.setattr("seqblend.data.splits.BATCH_ROWS", 2)
    rows = [{"messages": CHATS[0]}] * 4 + [{"messages": [MESSAGE, MESSAGE, ANSWER]}]
    job = prepared(tmp_path / "out", **options(saved, "llama", tmp_path, rows, streaming=True))
    with pytest.raises(InputError, match=r"train.jsonl: row 5: .*roles must alternate"):
        list(job.splits["train"].features)


def test_the_flags_are_for_causal_lm(tmp_path, capsys):
    path = write(tmp_path / "train.jsonl", [{"text": "a"}])
    for flag in ("messages_column", "chat_template"):
        given = {"task": "masked-lm", "train_file": path, flag: "x"}
        assert_refused(tmp_path, given, [flag, "causal-lm", "not masked-lm"], capsys)


def assert_not_predicted(model, rows, directory, words, capsys):
    path, output = write(directory / "rows.jsonl", rows), directory / "answers.jsonl"
    capsys.readouterr()
    assert predict([str(model), "--input", str(path), "--output", str(output)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and all(word in lines[0] for word in words), lines
    assert not output.exists()


def test_what_cannot_be_asked_is_named_by_its_row(models, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(prediction, "READ_AHEAD", 1)
    good = {"messages": CHATS[0]}
    wrong = {"messages": [ANSWER]}
    assert_not_predicted(models["llama"], [good, wrong], tmp_path, ["rows.jsonl: row 2", "no message"], capsys)
    wrong = {"messages": [MESSAGE, MESSAGE]}
    assert_not_predicted(models["llama"], [good, good, wrong], tmp_path, ["rows.jsonl: row 3", "alternate"], capsys)
    both = {"text": "a", **good}
    assert_not_predicted(models["llama"], [both], tmp_path, ["'text' and 'messages'"], capsys)


def test_a_model_without_a_template_is_not_asked_with_messages(models, tmp_path, capsys):
    model = tmp_path / "model"
    AutoModelForCausalLM.from_pretrained(models["chatml"]).save_pretrained(model)
    tokenizer_with(None).save_pretrained(model)
    assert_not_predicted(model, [{"messages": CHATS[0]}], tmp_path, ["chat_template", str(model)], capsys)


def test_a_text_is_continued_by_a_chat_model_too(models, tmp_path):
    prompt = render(TOKENIZERS["chatml"], CHATS[0][:1], add_generation_prompt=True)
    rows = write(tmp_path / "texts.jsonl", [{"text": prompt}])
    (answer,) = predicted(models["chatml"], rows, tmp_path / "answers.jsonl")
    assert answer["input"] == prompt and answer["prediction"] == "A colour."


# --- The card ---


def test_the_card_asks_with_messages(models, forked, monkeypatch):
    monkeypatch.setattr("seqblend.hub_card.card.draw_pictures", lambda *args: [])
    directory = models["chatml"]
    card = write_card(directory, CardData(example=[{"role": "user", "content": "Name a city."}])).read_text()
    assert "It prints:\n\n```text\nSeoul.\n```" in card and "This model answers messages" in card
    assert "- conversational" in card and "input:     user: Name a city." in card
    # The example of the run: the first question of more than a few words.
    assert read_saved(directory).results["card_data"]["example"] == CHATS[1][:2]


def test_the_answers_are_those_of_the_saved_code(models, tmp_path):
    """In a process without the package."""
    script = """
import json
from tokenizers import processors
from transformers import pipeline
given = json.load(sys.stdin)
chat = pipeline("text-generation", model=given["model"], trust_remote_code=True)
print(json.dumps([chat(messages)[0]["generated_text"][-1]["content"] for messages in given["asked"]]))
"""
    given = {"model": str(models["thinking"]), "asked": [messages[:-1] for messages in CHATS]}
    done = run_without_package(script, given, tmp_path)
    assert json.loads(done.stdout.splitlines()[-1]) == [messages[-1]["content"] for messages in CHATS]
