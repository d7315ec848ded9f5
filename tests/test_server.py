"""`seqblend serve`: what Hugging Face's client asks gets the answers of `seqblend predict`, whoever asks besides."""

import asyncio
import contextlib
import json
import logging
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from unittest import mock

import pytest
import uvicorn
from huggingface_hub import InferenceClient, constants
from pydantic import ValidationError
from test_prediction import (  # noqa: F401 - model_of is a fixture
    CASES,
    CLASSIFY,
    TAG,
    TEXTS,
    TRANSLATE,
    assert_same,
    model_of,
    predict,
)
from test_train_command import write
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AddedToken, PreTrainedTokenizerFast, pipeline

from seqblend import Predictor
from seqblend.__main__ import main
from seqblend.data.errors import RowError
from seqblend.server import command
from seqblend.server.app import create_app
from seqblend.server.batching import Batcher, Job
from seqblend.server.interfaces import INTERFACES, ChatRequest
from seqblend.server.options import Limits
from seqblend.server.streams import TextPieces, event
from seqblend.serving.prediction import WRITTEN, EncodedRows
from seqblend.serving.rows import RowReader
from seqblend.tasks.models import part_configs
from seqblend.tasks.registry import TASKS

CHAT = "{% for each in messages %}{{ each['content'] }} {% endfor %}"
every_client = pytest.mark.parametrize(
    "name", [CLASSIFY, "several", "numbers", TAG, "masked-lm", TRANSLATE, "causal-lm"]
)


@pytest.fixture(autouse=True)
def online(monkeypatch):
    """Its client refuses this machine, too, while the Hub is out of reach."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


@contextlib.contextmanager
def serving(predictors, limits=None, **options):
    """A server of these models, in a thread; gives its address."""
    app = create_app(predictors, limits or Limits(), **options)
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, log_level="warning"))
    listening = command.listen("127.0.0.1", 0)
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    try:
        while not server.started:
            time.sleep(0.005)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


def load(*directories):
    """Predictors, by the name of their directories' cases."""
    given = command.parse([f"{index}={directory}" for index, directory in enumerate(directories)])
    return command.load(command.named_directories(given.models), given)


def ask(url, body, **headers):
    """Status, headers and JSON of a request; the body is JSON, or bytes as they are."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(url, content, {"Content-Type": "application/json", **headers})
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, response.headers, json.loads(response.read())
    except urllib.error.HTTPError as error:
        return error.code, error.headers, json.loads(error.read())


def get(url):
    with urllib.request.urlopen(url, timeout=60) as response:
        return response.headers, response.read().decode(errors="replace")


def send(url, body, path="/"):
    """A connection over which a request was sent."""
    host, port = url.removeprefix("http://").split(":")
    client = socket.create_connection((host, int(port)), timeout=60)
    content = json.dumps(body).encode()
    client.sendall(f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n".encode())
    client.sendall(b"Content-Length: %d\r\n\r\n" % len(content) + content)
    return client


def wait_for_metric(url, line):
    deadline = time.monotonic() + 60
    while line not in get(f"{url}/metrics")[1]:
        assert time.monotonic() < deadline, line
        time.sleep(0.01)


# --- The answers ---


def as_predicted(name, client, text, answer, tokenizer):
    """What the client of Hugging Face gets, and the same of an answer of `seqblend predict`."""
    if name in (CLASSIFY, "several"):
        return [(each.label, each.score) for each in client.text_classification(text)], [*answer["scores"].items()]
    if name == "numbers":
        return [each.score for each in client.text_classification(text)], [answer["prediction"]]
    if name == TAG:
        found = client.token_classification(text)
        parts = [(each.entity_group, each.word, each.start, each.end, each.score) for each in found]
        return parts, [
            tuple(each[key] for key in ("label", "text", "start", "end", "score")) for each in answer["entities"]
        ]
    if name == TRANSLATE:
        assert client.summarization(text).summary_text == client.translation(text).translation_text
        assert client.text_generation(text) == client.translation(text).translation_text
        return client.translation(text).translation_text, answer["prediction"]
    if name == "causal-lm":
        return client.text_generation(text, max_new_tokens=4), answer["prediction"]
    found = client.fill_mask(text)
    expected = answer["masks"][0]["predictions"]
    assert [tokenizer.decode([each.token]) for each in found] == [each["text"] for each in expected]
    assert found[0].sequence == text.replace("[MASK]", expected[0]["text"].removeprefix("##"))
    return [(each.token_str, each.score) for each in found], [(each["text"], each["score"]) for each in expected]


@every_client
def test_the_client_of_hugging_face_gets_the_answers_of_predict(name, model_of, tmp_path):  # noqa: F811
    texts = ["c [MASK] b"] if name == "masked-lm" else TEXTS
    rows = write(tmp_path / "rows.jsonl", [{"text": text} for text in texts])
    more = ["--max_new_tokens", 4] if name == "causal-lm" else []
    expected = predict(model_of(name), rows, tmp_path / "a.jsonl", *more)
    predictors = load(model_of(name))
    with serving(predictors) as url:
        for address in (url, f"{url}/models/0"):
            client = InferenceClient(model=address, provider="hf-inference")
            for text, answer in zip(texts, expected, strict=True):
                tokenizer = predictors["0"].rows.settings.tokenizer
                found, wanted = as_predicted(name, client, text, answer, tokenizer)
                assert_same(json.loads(json.dumps(found)), json.loads(json.dumps(wanted)))
            assert client.health_check() and client.get_endpoint_info()
        # Of a list every answer is that of the text alone.
        status, _, together = ask(url, {"inputs": texts})
        alone = [ask(url, {"inputs": text})[2] for text in texts]
        assert status == 200
        assert_same(together, [each[0] if INTERFACES[CASES[name][0]].wraps_one else each for each in alone])


def test_every_task_that_predicts_is_served_or_refused(model_of, tmp_path):  # noqa: F811
    """Denoising trains the models of another task."""
    assert {name for name, task in TASKS.items() if task.can_predict} - {"denoising"} <= set(INTERFACES)


def test_parameters_of_classification(model_of):  # noqa: F811
    with serving(load(model_of(CLASSIFY))) as url:
        client = InferenceClient(model=url)
        whole = client.text_classification("ab c", function_to_apply="softmax")
        assert len(whole) == 3 and sum(each.score for each in whole) == pytest.approx(1)
        assert client.text_classification("ab c", top_k=2) == whole[:2]
        pair = ask(url, {"inputs": {"text": "ab", "text_pair": "c"}})[2]
        assert pair != ask(url, {"inputs": "ab"})[2]
        assert_same(pair[0], ask(url, {"inputs": [{"text": "ab", "text_pair": "c"}]})[2][0])


def test_the_first_of_several_labels_is_that_of_the_pipeline(model_of, tmp_path):  # noqa: F811
    """Also in predict: the most probable one, not the first of the model's labels."""
    texts = ["ab c", "b", "c", "abc" * 5, "서울"]
    rows = write(tmp_path / "rows.jsonl", [{"text": text} for text in texts])
    answers = predict(model_of("several"), rows, tmp_path / "a.jsonl")
    reference = pipeline("text-classification", str(model_of("several")), top_k=1)
    expected = [best for (best,) in reference(texts)]
    assert {each["label"] for each in expected} != {"x"}
    with serving(load(model_of("several"))) as url:
        client = InferenceClient(model=url)
        for text, answer, best in zip(texts, answers, expected, strict=True):
            (found,) = client.text_classification(text, top_k=1)
            assert (found.label, found.score) == (best["label"], pytest.approx(best["score"]))
            assert next(iter(answer["scores"])) == best["label"]


def test_parameters_of_tagging(model_of, tmp_path):  # noqa: F811
    text = "ab c 서울 abcabc b"
    rows = write(tmp_path / "rows.jsonl", [{"text": text}])
    (expected,) = predict(model_of(TAG), rows, tmp_path / "a.jsonl", "--probabilities")
    with serving(load(model_of(TAG))) as url:
        client = InferenceClient(model=url)
        words = client.token_classification(text, aggregation_strategy="none", ignore_labels=[])
        assert [(each.entity, each.word, each.start, each.end) for each in words] == [
            (each["label"], each["text"], each["start"], each["end"]) for each in expected["words"]
        ]
        tagged = client.token_classification(text, aggregation_strategy="none")
        assert tagged == [each for each in words if each.entity != "O"]
        assert client.token_classification(text, ignore_labels=["x"]) == []


def test_parameters_of_masks(model_of):  # noqa: F811
    with serving(load(model_of("masked-lm"))) as url:
        client = InferenceClient(model=url)
        assert client.fill_mask("c [MASK]", top_k=2) == client.fill_mask("c [MASK]")[:2]
        assert len(client.fill_mask("c [MASK]", top_k=7)) == 7
        both = ask(url, {"inputs": "c [MASK] b [MASK]"})[2]
        assert len(both) == 2 and len(both[0]) == len(both[1]) == 5
        assert ask(url, {"inputs": "no mask"})[0] == 422


def test_a_filled_mask_is_that_of_the_pipeline(model_of, tmp_path):  # noqa: F811
    """For a mask that includes the space before it, as that of RoBERTa."""
    tokens = Tokenizer(models.BPE())
    tokens.pre_tokenizer, tokens.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=280, special_tokens=["<pad>", "<s>"], initial_alphabet=alphabet)
    tokens.train_from_iterator(["the cat sat on the mat", "a cat sat on a mat"], trainer)
    mask = AddedToken("<mask>", lstrip=True, special=True, normalized=False)
    special = {"pad_token": "<pad>", **dict.fromkeys(("cls_token", "sep_token", "unk_token"), "<s>")}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokens, mask_token=mask, **special)
    model = Predictor(model_of("masked-lm")).rows.model
    model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    text = f"the cat {tokenizer.mask_token} on"
    expected = pipeline("fill-mask", str(tmp_path), device="cpu")(text, top_k=100)
    with serving(load(tmp_path)) as url:
        found = InferenceClient(model=url).fill_mask(text, top_k=100)
    sequences = {each.token: each.sequence for each in found}
    # Not bytes that are half a character, nor special tokens, which the pipeline leaves out of the text.
    found_by_both = [each for each in expected if each["token"] in sequences.keys() - set(tokenizer.all_special_ids)]
    whole = [each for each in found_by_both if "\ufffd" not in each["token_str"]]
    assert any(each["token_str"].startswith(" ") for each in whole)
    assert {each["token"]: each["sequence"] for each in whole} == {
        each["token"]: sequences[each["token"]] for each in whole
    }


@pytest.mark.parametrize("name", [TRANSLATE, "causal-lm"])
def test_parameters_of_generation(name, model_of):  # noqa: F811
    """Each has an effect, also beside requests with others."""
    with serving(load(model_of(name)), Limits(max_wait=0.05)) as url:
        nested = (lambda given: {"generate_parameters": given}) if name == TRANSLATE else (lambda given: given)
        asked = [{"max_new_tokens": 1}, {"max_new_tokens": 6}, {"max_new_tokens": 6, "num_beams": 3}]
        asked += [{"max_new_tokens": 6, "repetition_penalty": 9.0}, {"max_new_tokens": 6, "temperature": 100.0}]

        def answer(given):
            return ask(url, {"inputs": "ab c", "parameters": nested(given)})[2][0]["generated_text"]

        alone = [answer(given) for given in asked[:4]]
        with ThreadPoolExecutor(len(asked)) as pool:
            together = list(pool.map(answer, asked * 3))
        assert [together[index] for index in range(4)] == alone == [together[5 + index] for index in range(4)]
        assert len(set(together[4::5])) > 1 and len(set(alone)) > 2
        if name == "causal-lm":
            client = InferenceClient(model=url)
            assert client.text_generation("ab", return_full_text=True, max_new_tokens=2).startswith("ab")


def test_the_beams_of_a_long_list_are_generated_in_parts(model_of):  # noqa: F811
    predictors = load(model_of("causal-lm"))
    rows = predictors["0"].rows
    body = {"inputs": ["ab"] * 64, "parameters": {"num_beams": 16, "max_new_tokens": 62}}
    with (
        mock.patch.object(rows.model, "generate", side_effect=rows.model.generate) as spy,
        serving(predictors) as url,
    ):
        status, _, answers = ask(url, body)
    assert status == 200 and len(answers) == 64
    shapes = [call.kwargs["input_ids"].shape for call in spy.call_args_list]
    assert sum(count for count, _ in shapes) == 64
    assert all(count * 16 * (length + 62) <= WRITTEN * rows.max_tokens for count, length in shapes)


@pytest.mark.parametrize("name", [TRANSLATE, "causal-lm"])
@pytest.mark.parametrize("beams", [1, 2])
def test_a_stream_is_the_whole_text(name, beams, model_of):  # noqa: F811
    with serving(load(model_of(name)), Limits(max_wait=0.05)) as url:
        parameters = {"num_beams": beams, "max_new_tokens": 7}

        def both(text):
            body = {"inputs": text, "parameters": parameters}
            request = urllib.request.Request(
                url, json.dumps({**body, "stream": True}).encode(), {"Content-Type": "application/json"}
            )
            with urllib.request.urlopen(request, timeout=60) as response:
                assert response.headers["X-Accel-Buffering"] == "no"
                lines = response.read().decode().splitlines()
            events = [json.loads(line.removeprefix("data: ")) for line in lines if line]
            return "".join(each["token"]["text"] for each in events), events, ask(url, body)[2][0]

        with ThreadPoolExecutor(len(TEXTS)) as pool:
            for streamed, events, whole in pool.map(both, TEXTS):
                assert streamed == whole["generated_text"] == events[-1]["generated_text"]
                assert beams > 1 or len(events) > 2 or len(streamed) < 2
        assert "".join(InferenceClient(model=url).text_generation("ab", stream=True, max_new_tokens=5)) == (
            InferenceClient(model=url).text_generation("ab", max_new_tokens=5)
            if name == "causal-lm"
            else ask(url, {"inputs": "ab", "parameters": {"max_new_tokens": 5}})[2][0]["generated_text"]
        )


@pytest.fixture(scope="module")
def chat_model(model_of, tmp_path_factory):  # noqa: F811
    """A causal language model whose tokenizer has a chat template."""
    directory = tmp_path_factory.mktemp("chat")
    predictor = Predictor(model_of("causal-lm"))
    predictor.rows.model.save_pretrained(directory)
    tokenizer = predictor.rows.settings.tokenizer
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(directory)
    return directory


def test_chats(chat_model, model_of, tmp_path):  # noqa: F811
    messages = [{"role": "user", "content": "ab c"}]
    rows = write(tmp_path / "rows.jsonl", [{"messages": messages}])
    (expected,) = predict(chat_model, rows, tmp_path / "a.jsonl", "--max_new_tokens", 6)
    with serving(load(chat_model, model_of(CLASSIFY))) as url:
        for address, model in ((url, None), (url, "anything"), (url, "0"), (f"{url}/models/0", None)):
            whole = InferenceClient(base_url=address).chat_completion(messages, max_tokens=6, model=model)
            assert whole.choices[0].message.content == expected["prediction"]
            assert whole.choices[0].finish_reason in ("length", "stop") and whole.usage.completion_tokens <= 6
        client = InferenceClient(base_url=url)
        parts = client.chat_completion(messages, max_tokens=6, stream=True)
        assert "".join(each.choices[0].delta.content or "" for each in parts) == expected["prediction"]
        body = {"messages": messages, "max_tokens": 3, "temperature": 0}
        assert ask(f"{url}/v1/chat/completions", body)[0] == 200
        for wrong, named in (
            ({"messages": []}, "messages"),
            ({"messages": "ab"}, "messages"),
            ({"messages": [{"role": "user"}]}, "content"),
            ({"messages": messages, "stop": ["a"]}, "stop: is not supported"),
            ({"messages": messages, "frequency_penalty": 0.5}, "frequency_penalty: is not supported"),
            ({"messages": messages, "seed": 0}, "seed: is not supported"),
            ({"messages": messages, "response_format": {"type": "json_object"}}, "response_format: is not supported"),
            ({"messages": messages, "wrong": None}, "wrong: is unknown"),
            ({"messages": messages, "n": 2}, "n:"),
            ({"messages": messages, "max_tokens": 4096}, "max_tokens: 4096 is more than 1024"),
            ({"messages": messages, "max_completion_tokens": 4096}, "max_completion_tokens: 4096 is more than 1024"),
            ({"messages": messages, "max_tokens": 3, "max_completion_tokens": 4}, "max_tokens: is 3, but"),
            ({"messages": [*messages, {"role": "assistant", "content": "c"}]}, "messages: the last one"),
            ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "content.0.type"),
        ):
            status, _, found = ask(f"{url}/v1/chat/completions", wrong)
            assert 400 <= status < 500 and named in found["error"]
        assert ask(f"{url}/models/1/v1/chat/completions", body)[0] == 404


def test_a_chat_is_of_the_model_that_it_names(chat_model, model_of):  # noqa: F811
    """A name that no model has is that of the only one that chats; of several, an error, which is counted."""
    messages = {"messages": [{"role": "user", "content": "ab"}], "max_tokens": 3}
    with serving(load(chat_model, model_of(CLASSIFY))) as url:
        address = f"{url}/v1/chat/completions"
        assert [ask(address, {**messages, **given})[0] for given in ({}, {"model": "0"}, {"model": "x"})] == [200] * 3
        status, _, found = ask(address, {**messages, "model": "1"})
        assert (status, found["error"]) == (422, "model: 1 does not answer messages; it is asked at /models/1")
    with serving(load(chat_model, chat_model)) as url:
        address = f"{url}/v1/chat/completions"
        assert ask(address, {**messages, "model": "1"})[2]["model"] == "1"
        for given, named in (({}, "None"), ({"model": "2"}, "'2'")):
            status, _, found = ask(address, {**messages, **given})
            assert (status, found["error"][:30]) == (404, f"model: unknown value {named}; valid"[:30])
        assert 'seqblend_requests_total{model="",status="404"} 2.0' in get(f"{url}/metrics")[1]


HARMLESS = {
    **{"stop": None, "frequency_penalty": 0.0, "presence_penalty": 0, "logprobs": False, "tools": []},
    **{"tool_choice": "none", "store": False, "response_format": {"type": "text"}},
}


def test_options_of_a_chat_that_ask_for_nothing_are_read(chat_model):
    """As clients send them by default; a message may come in parts."""
    body = {"messages": [{"role": "user", "content": "ab\nc"}], "max_tokens": 6}
    parts = [{"type": "text", "text": text} for text in ("ab", "c")]
    with serving(load(chat_model)) as url:
        address = f"{url}/v1/chat/completions"
        plain = ask(address, body)[2]["choices"]
        assert ask(address, {**body, **HARMLESS})[2]["choices"] == plain
        assert ask(address, {**body, "messages": [{"role": "user", "content": parts}]})[2]["choices"] == plain


def test_a_stream_of_a_chat_tells_its_usage_if_asked(chat_model):
    messages = [{"role": "user", "content": "ab c"}]
    with serving(load(chat_model)) as url:
        client = InferenceClient(base_url=url)
        whole = client.chat_completion(messages, max_tokens=6)
        options = {"include_usage": True}
        *others, last = client.chat_completion(messages, max_tokens=6, stream=True, stream_options=options)
        assert vars(last.usage) == vars(whole.usage) and last.choices == []
        assert all(each.usage is None and each.choices for each in others)
        assert all(each.usage is None for each in client.chat_completion(messages, max_tokens=6, stream=True))


def test_texts_that_are_cut_are_counted_and_logged(model_of, caplog):  # noqa: F811
    caplog.set_level(logging.INFO)
    given = command.parse([f"0={model_of(CLASSIFY)}", "--max_length", "8"])
    with serving(command.load(command.named_directories(given.models), given)) as url:
        assert ask(url, {"inputs": ["ab", "abc" * 5, "c" * 1000]})[0] == 200
        assert ask(url, {"inputs": "ab"})[0] == 200
        assert 'seqblend_cut_rows_total{model="0"} 2.0' in get(f"{url}/metrics")[1]
    assert [each for each in caplog.messages if "cut" in each] == ["0: 2 of 3 rows are too long and are cut"]


@pytest.mark.parametrize("streams", [False, True])
def test_no_message_of_a_chat_is_left_out(streams, chat_model):
    given = command.parse([f"0={chat_model}", "--max_length", "12"])
    with serving(command.load(command.named_directories(given.models), given)) as url:
        for text, status in (("ab", 200), ("abc" * 5, 422)):
            messages = [{"role": "system", "content": "b"}, {"role": "user", "content": text}]
            body = {"messages": messages, "max_tokens": 3, "stream": streams}
            with send(url, body, "/v1/chat/completions") as client:
                assert f"HTTP/1.1 {status} ".encode() in client.recv(100)
        content = ask(f"{url}/v1/chat/completions", {"messages": messages})[2]
        assert content["error"] == "messages: have more than 12 tokens, which is the --max_length of this server"
        # It was refused, not cut.
        assert 'seqblend_cut_rows_total{model="0"}' not in get(f"{url}/metrics")[1]
        wait_for_metric(url, 'seqblend_rows_in_progress{model="0"} 0.0')


def figures(url, name):
    """The number of observations of a histogram, and their sum."""
    page = get(f"{url}/metrics")[1]
    return [float(re.search(rf'(?m)^{name}_{part}{{model="0"}} (\S+)$', page)[1]) for part in ("count", "sum")]


@pytest.mark.parametrize("overflow", ["truncate", "window"])
@pytest.mark.parametrize("name", [CLASSIFY, TAG])
def test_batches_are_counted_as_the_model_reads_them(name, overflow, model_of):  # noqa: F811
    """A request with many rows is several batches; two windows of a row in a batch are one row."""
    options = ["--max_tokens_per_batch", "32", "--max_length", "8", "--overflow", overflow]
    given = command.parse([f"0={model_of(name)}", *options])
    predictors = command.load(command.named_directories(given.models), given)
    rows, sizes, tokens = predictors["0"].rows, [], []
    run_model = type(rows.task).run_model

    def spy(self, model, inputs, *args):
        sizes.append(len(inputs["input_ids"]))
        tokens.append(int(inputs["attention_mask"].sum()))
        return run_model(self, model, inputs, *args)

    with mock.patch.object(type(rows.task), "run_model", spy), serving(predictors) as url:
        assert ask(url, {"inputs": ["ab c", "c", "ab c b"] * 10 + ["a b c " * 4]})[0] == 200
        assert figures(url, "seqblend_batch_tokens") == [len(tokens), sum(tokens)]
        count, total = figures(url, "seqblend_batch_rows")
        assert count == len(sizes) > 2
        assert total < sum(sizes) if overflow == "window" else total == sum(sizes) == 31


def test_several_models(model_of):  # noqa: F811
    with serving(load(model_of(CLASSIFY), model_of(TAG))) as url:
        assert [each["pipeline_tag"] for each in json.loads(get(f"{url}/info")[1])["models"]] == [
            "text-classification",
            "token-classification",
        ]
        assert ask(f"{url}/models/0", {"inputs": "ab"})[0] == ask(f"{url}/models/1", {"inputs": "ab"})[0] == 200
        where = "the models are at /models/0, /models/1, and /docs lists all paths"
        status, _, found = ask(url, {"inputs": "ab"})
        assert (status, found["error"]) == (405, f"POST /: Method Not Allowed; {where}")
        status, _, found = ask(f"{url}/models/2", {"inputs": "ab"})
        assert (status, found["error"]) == (404, f"POST /models/2: Not Found; {where}")
        listed = json.loads(get(f"{url}/v1/models")[1])["data"]
        assert [(each["id"], each["owned_by"]) for each in listed] == [("0", "seqblend"), ("1", "seqblend")]
        assert all(abs(each["created"] - time.time()) < 600 for each in listed)
        described = json.loads(get(f"{url}/openapi.json")[1])["paths"]
        assert {"/models/0", "/models/1"} <= set(described)


# --- Wrong requests ---

WRONG = [
    (b"{", 400, "body: is no JSON"),
    (b"", 422, "body"),
    (b"[" * 100_000, 400, "body: is no JSON (RecursionError"),
    (b"\xff\xfe", 400, "body: is no JSON"),
    (b'{"inputs": "\xff"}', 400, "body: is no JSON (UnicodeDecodeError"),
    (b'{"inputs": ' + b"9" * 5000 + b"}", 400, "body: is no JSON (ValueError"),
    ([1], 422, "body"),
    ({}, 422, "inputs: is missing"),
    ({"inputs": None}, 422, "inputs"),
    ({"inputs": 5}, 422, "inputs"),
    ({"inputs": []}, 422, "inputs: is an empty list"),
    ({"inputs": ["ab", 7]}, 422, "inputs.1"),
    ({"inputs": {"text": "ab"}}, 422, "inputs.text_pair: is missing"),
    ({"inputs": "ab", "input": "ab"}, 422, "input: is unknown"),
    ({"inputs": "\ud800"}, 422, "surrogate"),
    ({"inputs": "ab", "parameters": {"top_n": 3}}, 422, "parameters.top_n: is unknown"),
    ({"inputs": "ab", "parameters": {"top_k": "3"}}, 422, "parameters.top_k"),
    ({"inputs": "ab", "parameters": {"top_k": 0}}, 422, "parameters.top_k"),
    ({"inputs": "ab", "parameters": {"top_k": True}}, 422, "parameters.top_k"),
    ({"inputs": "ab", "parameters": {"top_k": 1e400}}, 422, "parameters.top_k"),
    ({"inputs": "ab", "parameters": []}, 422, "parameters"),
    ({"inputs": "ab", "parameters": {str(key): 1 for key in range(60)}}, 422, "parameters: must have at most 50 keys"),
    ({"inputs": "ab", "parameters": {"function_to_apply": "sigmoid"}}, 422, "'softmax'"),
    ({"inputs": "ab", "stream": True}, 422, "stream: is unknown"),
    ({"inputs": "a" * 200_001}, 422, "200001 characters"),
    ({"inputs": "a" * 2**20}, 413, "1048576 bytes"),
    ({"inputs": "a" * 10**7}, 413, "1048576 bytes"),
]


@pytest.fixture(scope="module")
def address(model_of):  # noqa: F811
    """Of a server of a classifier."""
    with serving(load(model_of(CLASSIFY))) as url:
        yield url


@pytest.mark.parametrize(("body", "status", "message"), WRONG, ids=[repr(each[0])[:40] for each in WRONG])
def test_a_wrong_request_is_named_and_the_server_goes_on(body, status, message, address):
    found, headers, content = ask(address, body)
    assert (found, set(content)) == (status, {"error"})
    assert message in content["error"] and "\n" not in content["error"] and "Traceback" not in content["error"]
    assert not any(name.lower().startswith("access-control") for name in headers)
    assert ask(address, {"inputs": "ab"})[0] == 200


@pytest.mark.parametrize("name", [TRANSLATE, "causal-lm", TAG, "masked-lm"])
def test_what_is_not_supported_is_named(name, model_of):  # noqa: F811
    interface = INTERFACES[CASES[name][0]]
    values = {"grammar": {}, "stop": ["a"], "targets": ["a"], "frequency_penalty": 1.0, "watermark": True}
    values |= dict.fromkeys(("details", "decoder_input_details", "clean_up_tokenization_spaces"), True)
    values["return_full_text"] = True
    values |= dict.fromkeys(("src_lang", "tgt_lang", "truncation", "adapter_id"), "a")
    with serving(load(model_of(name)), Limits(max_new_tokens=9)) as url:
        asks_nothing = {
            each: [] if each == "stop" else False for each in values if values[each] is True or each == "stop"
        }
        known = {each: value for each, value in asks_nothing.items() if each in interface.parameters.model_fields}
        known.pop("targets", None)
        assert ask(url, {"inputs": "[MASK]", "parameters": known})[0] == 200
        for each in interface.unsupported:
            body = {"inputs": "[MASK]", "parameters": {each: values.get(each, 1)}}
            assert ask(url, body)[::2] == (422, {"error": f"parameters.{each}: is not supported by this server"})
        if interface.writes:
            parameters = {"max_new_tokens": 10}
            status, _, content = ask(url, {"inputs": "ab", "parameters": parameters})
            assert status == 422 and "max_new_tokens: 10 is more than 9" in content["error"]
            assert ask(url, {"inputs": ["ab"], "stream": True})[0] == 422


def test_a_long_list_of_wrong_items_has_one_error():
    """To describe all of them took seconds, in which nobody else was answered, and gigabytes."""
    wrong = [1] * 1000
    bodies = [(each.request_model(), {"inputs": wrong}) for each in INTERFACES.values()]
    bodies += [(each.request_model(), {"inputs": [wrong]}) for each in INTERFACES.values()]
    bodies += [
        (each.request_model(), {"inputs": "ab", "parameters": {name: wrong}})
        for each in INTERFACES.values()
        for name, field in each.parameters.model_fields.items()
        if "list[" in str(field.annotation)
    ]
    bodies += [(ChatRequest, {"messages": found}) for found in (wrong, [{"role": "user", "content": wrong}])]
    # So have many unknown keys.
    keys = {f"key{number}": 1 for number in range(1000)}
    bodies += [(each.request_model(), {"inputs": "ab", **keys}) for each in INTERFACES.values()]
    bodies += [(each.request_model(), {"inputs": "ab", "parameters": keys}) for each in INTERFACES.values()]
    bodies += [(ChatRequest, keys), (ChatRequest, {"messages": [keys]})]
    assert len(bodies) > 26
    for model, body in bodies:
        with pytest.raises(ValidationError) as refused:
            model.model_validate(body)
        assert refused.value.error_count() < 10


def test_rows_are_counted_before_they_are_read(model_of, monkeypatch):  # noqa: F811
    read = mock.Mock()
    monkeypatch.setattr(RowReader, "read", read)
    with serving(load(model_of(CLASSIFY)), Limits(max_rows=3)) as url:
        assert ask(url, {"inputs": ["ab"] * 4})[::2] == (422, {"error": "inputs: are 4 rows; at most 3 are read"})
    assert not read.called


def test_a_body_without_a_length_is_limited(address):
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n")
        client.sendall(b"Transfer-Encoding: chunked\r\n\r\n")
        for _ in range(40):
            client.sendall(b"10000\r\n" + b"a" * 0x10000 + b"\r\n")
        client.sendall(b"0\r\n\r\n")
        assert b" 413 " in client.recv(4096)


def test_a_client_that_goes_before_its_body_has_come_has_gone(model_of):  # noqa: F811
    with serving(load(model_of(CLASSIFY))) as url:
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=60) as client:
            client.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n")
            client.sendall(b"Content-Length: 1000\r\n\r\n{")
            time.sleep(0.1)
        wait_for_metric(url, 'seqblend_requests_total{model="",status="499"} 1.0')


@pytest.mark.parametrize(("size", "status"), [(1000, 408), (2**20 + 1, 413)])
def test_a_body_that_does_not_come_is_not_waited_for(size, status, address, monkeypatch):
    """Whether or not it is too large already."""
    monkeypatch.setattr("seqblend.server.limits.SECONDS", 1)
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n")
        client.sendall(b"Content-Length: 10000000\r\n\r\n" + b"a" * size)
        assert f" {status} ".encode() in client.recv(4096)


def test_a_form_is_named(address):
    """As curl -d sends JSON without a header."""
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    status, _, content = ask(address, b'{"inputs": "ab"}', **form)
    assert status == 422 and "Content-Type: application/json" in content["error"] and "form" in content["error"]


@pytest.mark.parametrize("path", ["/", "/health"])
def test_monitors_may_ask_for_the_head_alone(path, address):
    request = urllib.request.Request(address + path, method="HEAD")
    with urllib.request.urlopen(request, timeout=60) as response:
        assert response.status == 200 and not response.read()


@pytest.mark.parametrize(
    ("host", "is_known"),
    [
        *(("localhost", True), ("LOCALHOST:1", True), ("[::1]:80", True), ("mine", True), ("evil.com", False)),
        *(("localhost.evil.com", False), ("", False), ("evil.com:localhost", False)),
        # Kubernetes and load balancers check the health by address; no page can rename itself to one.
        *(("10.1.2.3:8000", True), ("10.1.2.3", True), ("[fe80::1]:80", True), ("10.1.2.3.evil.com", False)),
        *(("1.2", False), ("fe80::1", False), ("[10.1.2.3]", False), ("[]", False), ("2130706433", False)),
    ],
)
def test_only_known_hosts_are_answered(host, is_known, model_of):  # noqa: F811
    with serving(load(model_of(CLASSIFY)), hosts=("localhost", "mine")) as url:
        status, _, content = ask(url, {"inputs": "ab"}, Host=host)
        assert status == (200 if is_known else 400)
        assert is_known or "Host" in content["error"]


def test_a_fault_of_ours_is_no_traceback_for_others(model_of, monkeypatch, caplog):  # noqa: F811
    predictors = load(model_of(CLASSIFY))
    with serving(predictors) as url:
        monkeypatch.setattr(type(predictors["0"].rows), "decode", lambda *_: 1 / 0)
        assert ask(url, {"inputs": "ab"})[::2] == (500, {"error": "internal error"})
        monkeypatch.undo()
        assert ask(url, {"inputs": "ab"})[0] == 200
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize("logs_texts", [False, True])
def test_texts_are_in_the_log_only_if_asked_for(logs_texts, model_of, caplog):  # noqa: F811
    caplog.set_level(logging.DEBUG)
    with serving(load(model_of(CLASSIFY)), logs_texts=logs_texts) as url:
        ask(url, {"inputs": "abcabc"})
        ask(url, {"inputs": "abcabc", "wrong": "cba"})
    assert ("abcabc" in caplog.text) is logs_texts and "cba" not in caplog.text.replace("abcabc", "")


def test_the_page_asks_nobody_else(address):
    headers, page = get(address)
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert not re.findall(r"""(?:src|href|fetch\()\s*=?\s*["']?(?:https?:)?//""", page)
    _, docs = get(f"{address}/docs")
    assert "//" not in re.sub(r"(?m)^\s*//.*$|<!--.*?-->", "", docs)
    for file in re.findall(r'(?:src|href)="([^"]+)"', docs):
        assert get(address + file)[1] or True


@every_client
def test_what_the_explorer_shows_is_served(name, model_of):  # noqa: F811
    """As `seqblend explore` has it."""
    predictors = load(model_of(name))
    predictor, text = predictors["0"], "abc [MASK] 서울"
    column = "source" if name == TRANSLATE else "text"
    reader = predictor.make_reader()
    expected = predictor.explorer(name="0").explore(reader.read({column: text}, "row", 1, None))
    with serving(predictors) as address:
        assert json.loads(get(f"{address}/info")[1])["models"][0]["explores"]
        for _ in range(2):
            status, _, found = ask(f"{address}/models/0/explore", {"inputs": text})
            assert status == 200 and found == json.loads(json.dumps(expected))
        status, _, found = ask(f"{address}/models/0/explore", {"inputs": [text]})
        assert status == 422 and "inputs" in found["error"]
        status, _, found = ask(f"{address}/models/0/explore", {"inputs": "a" * 10**6})
        assert status in (413, 422), found
        assert ask(f"{address}/models/0", {"inputs": text})[0] == 200


def test_what_is_explored_is_limited_and_logged(chat_model, model_of, caplog, monkeypatch):  # noqa: F811
    """A written text ends at the limit of the server; a chat model gets a message; a fault is no traceback."""
    caplog.set_level(logging.INFO)
    predictors = load(model_of(TRANSLATE), chat_model)
    predictors["0"].rows.generation["min_new_tokens"] = 2
    with serving(predictors, Limits(max_new_tokens=2), logs_texts=True) as address:
        status, _, found = ask(f"{address}/models/0/explore", {"inputs": "abc"})
        assert status == 200 and found["answer"]["total"] == 2
        assert any(
            "'source': 'abc'" in record.getMessage() or "abc" in record.getMessage() for record in caplog.records
        )
        status, _, found = ask(f"{address}/models/1/explore", {"inputs": "abc"})
        read = [token["text"] for token in found["attention"][0]["rows"]]
        assert status == 200 and "".join(read).startswith("abc")
        monkeypatch.setattr("seqblend.explorer.explorer.Explorer.compute", lambda *_: 1 / 0)
        status, _, found = ask(f"{address}/models/0/explore", {"inputs": "abc"})
        assert (status, found["error"]) == (500, "internal error")
        monkeypatch.setattr("seqblend.explorer.explorer.Explorer.read", lambda *_: 1 / 0)
        assert ask(f"{address}/models/0/explore", {"inputs": "abc"})[0] == 500
        assert ask(f"{address}/models/0", {"inputs": "abc"})[0] == 200


def test_a_full_server_does_not_explore(held):
    predictors, may_compute, sizes = held
    with serving(predictors, Limits(max_rows=1)) as address, ThreadPoolExecutor() as pool:
        first = pool.submit(ask, f"{address}/models/0", {"inputs": "a"})
        while not sizes:
            time.sleep(0.01)
        status, _, answer = ask(f"{address}/models/0/explore", {"inputs": "a"})
        assert (status, answer["error"]) == (503, "the server is busy, try again")
        may_compute.set()
        assert first.result()[0] == 200
        # The row is free a moment after its answer was sent.
        while (status := ask(f"{address}/models/0/explore", {"inputs": "a"})[0]) == 503:
            time.sleep(0.01)
        assert status == 200


def test_exploring_does_not_change_other_answers(model_of):  # noqa: F811
    """Nobody else's row is in what is recorded, and no answer differs from one that is computed alone."""
    predictors = load(model_of(CLASSIFY))
    with serving(predictors) as address:
        url = f"{address}/models/0"
        alone = {text: ask(url, {"inputs": text})[2] for text in TEXTS}
        explored = ask(f"{url}/explore", {"inputs": "abc"})[2]
        with ThreadPoolExecutor(16) as pool:
            answers = [(text, pool.submit(ask, url, {"inputs": text})) for text in TEXTS * 10]
            explorations = [pool.submit(ask, f"{url}/explore", {"inputs": "abc"}) for _ in range(20)]
            for each in explorations:
                assert each.result()[2] == explored
            for text, each in answers:
                assert_same(each.result()[2], alone[text])
    assert predictors["0"].rows.model.config._attn_implementation == "sdpa"


# --- Many requests ---


@pytest.fixture
def held(model_of, monkeypatch):  # noqa: F811
    """A classifier that computes when it is told to: its predictors, the event, and the rows of its batches."""
    predictors = load(model_of(CLASSIFY))
    rows, may_compute, sizes = predictors["0"].rows, threading.Event(), []
    compute = rows.compute

    def hold(parts, *args):
        sizes.append(sum(len(part.rows) for part in parts))
        may_compute.wait(60)
        return compute(parts, *args)

    monkeypatch.setattr(rows, "compute", hold)
    yield predictors, may_compute, sizes
    may_compute.set()


def test_what_waits_is_computed_together(held):
    predictors, may_compute, sizes = held
    with serving(predictors) as url, ThreadPoolExecutor(20) as pool:
        answers = [pool.submit(ask, url, {"inputs": TEXTS[number % len(TEXTS)]}) for number in range(20)]
        while predictors["0"].rows.overflow.rows < 20:
            time.sleep(0.01)
        may_compute.set()
        found = [answer.result() for answer in answers]
        assert len(sizes) < 6 and sum(sizes) == 20
        for number, (status, _, content) in enumerate(found):
            assert status == 200
            assert_same(content, ask(url, {"inputs": TEXTS[number % len(TEXTS)]})[2])
        page = get(f"{url}/metrics")[1]
        assert 'seqblend_requests_total{model="0",status="200"} 40.0' in page
        assert 'seqblend_rows_in_progress{model="0"} 0.0' in page


def test_a_full_server_says_so_and_answers_what_it_accepted(held):
    predictors, may_compute, _ = held
    with serving(predictors, Limits(max_rows=3)) as url, ThreadPoolExecutor(12) as pool:
        answers = [pool.submit(ask, url, {"inputs": "ab"}) for _ in range(12)]
        while sum(answer.done() for answer in answers) < 9:
            time.sleep(0.01)
        refused = [answer.result() for answer in answers if answer.done()]
        assert all(status == 503 and headers["Retry-After"] for status, headers, _ in refused)
        may_compute.set()
        statuses = [answer.result()[0] for answer in answers]
        assert (statuses.count(200), statuses.count(503)) == (3, 9)
        status, _, content = ask(url, {"inputs": [""] * 4})
        assert (status, content["error"]) == (422, "inputs: are 4 rows; at most 3 are read")


def test_an_error_is_that_of_its_request_alone(model_of, monkeypatch):  # noqa: F811
    """Of requests that are computed together."""
    predictors = load(model_of(CLASSIFY))
    rows = predictors["0"].rows
    compute = rows.compute

    def fail(parts, *args):
        if any(row["text"] == "bad" for part in parts for row in part.rows):
            raise ValueError("bad")
        return compute(parts, *args)

    monkeypatch.setattr(rows, "compute", fail)
    with serving(predictors, Limits(max_wait=0.3)) as url, ThreadPoolExecutor(8) as pool:
        texts = ["ab", "bad", "c", "bad", "b"]
        assert [each[0] for each in pool.map(lambda text: ask(url, {"inputs": text}), texts)] == [
            200,
            500,
            200,
            500,
            200,
        ]


def test_the_fault_of_a_neighbour_does_not_repeat_a_stream(model_of, monkeypatch):  # noqa: F811
    """Two are computed together; the batch fails after some tokens, and is computed again without the faulty one."""
    predictors = load(model_of("causal-lm"))
    rows = predictors["0"].rows
    compute = rows.compute

    def fail(parts, generation, make_streamer):
        found = compute(parts, generation, make_streamer)
        if any(row["text"] == "bad" for part in parts for row in part.rows):
            raise ValueError("bad")
        return found

    monkeypatch.setattr(rows, "compute", fail)
    with serving(predictors, Limits(max_wait=0.5)) as url, ThreadPoolExecutor(8) as pool:
        parameters = {"max_new_tokens": 6}
        bad = [pool.submit(ask, url, {"inputs": "bad", "parameters": parameters}) for _ in range(2)]
        client = InferenceClient(model=url)
        streams = [
            pool.submit(lambda text: "".join(client.text_generation(text, stream=True, **parameters)), text)
            for text in ("ab", "c")
        ]
        found = [each.result() for each in streams]
        assert [each.result()[0] for each in bad] == [500, 500]
        assert found == [client.text_generation(text, **parameters) for text in ("ab", "c")]


def test_a_server_that_cannot_compute_any_more_says_so(model_of, monkeypatch):  # noqa: F811
    with serving(load(model_of(CLASSIFY))) as url:
        assert json.loads(get(f"{url}/health")[1]) == {"status": "ok"}
        monkeypatch.setattr("seqblend.server.batching.Batcher.is_alive", False)
        with pytest.raises(urllib.error.HTTPError, match="503"):
            get(f"{url}/health")


@pytest.mark.parametrize("name", [TRANSLATE, "causal-lm"])
def test_numbers_of_sampling(name, model_of):  # noqa: F811
    """Whole ones are numbers, too; those with which probabilities overflow are refused."""
    with serving(load(model_of(name))) as url:
        for given, status in (
            ({"temperature": 2}, 200),
            ({"temperature": 0.01, "top_p": 1}, 200),
            ({"repetition_penalty": 2, "do_sample": False}, 200),
            ({"temperature": 1e-40}, 422),
            ({"temperature": "hot"}, 422),
            ({"temperature": True}, 422),
            ({"top_p": 1.5}, 422),
            ({"num_beams": 17}, 422),
        ):
            found = ask(url, {"inputs": "ab", "parameters": {**given, "max_new_tokens": 3}})
            assert found[0] == status, (given, found[2])
            assert status == 200 or found[2]["error"].startswith(f"parameters.{next(iter(given))}: ")


def test_a_prompt_must_leave_room(model_of):  # noqa: F811
    """Positions are learned: prompt and new tokens are refused together, before anything is computed."""
    predictors = load(model_of("causal-lm"))
    config = predictors["0"].rows.model.config
    config.position_type, config.max_position_embeddings = "learned", 20
    with serving(predictors) as url:
        status, _, content = ask(url, {"inputs": "ab", "parameters": {"max_new_tokens": 19}})
        assert status == 422 and re.match(r"max_new_tokens: 19 new tokens after a prompt of \d", content["error"])


@pytest.mark.parametrize(
    ("name", "path", "limit"), [(TRANSLATE, "", "max_new_tokens"), ("chat", "/v1/chat/completions", "max_tokens")]
)
def test_new_tokens_must_have_positions(name, path, limit, chat_model, model_of):  # noqa: F811
    """The fault was found only where the text reached them, by all requests that were computed together."""
    predictors = load(chat_model if name == "chat" else model_of(name))
    for config in part_configs(predictors["0"].rows.model.config):
        config.position_type, config.max_position_embeddings = "learned", 20
    body = {"messages": [{"role": "user", "content": "ab"}], limit: 21}
    with serving(predictors) as url:
        status, _, found = ask(url + path, body if path else {"inputs": "ab", "parameters": {limit: 21}})
        assert (status, found["error"]) == (422, f"{limit}: 21 is more than max_position_embeddings=20 of the model")


def test_what_a_request_does_not_ask_for_is_limited_too(model_of):  # noqa: F811
    with serving(load(model_of("causal-lm")), Limits(max_new_tokens=2)) as url:
        client = InferenceClient(model=url)
        assert client.text_generation("ab") == client.text_generation("ab", max_new_tokens=2)


@pytest.mark.parametrize("name", [TRANSLATE, "causal-lm"])
def test_the_model_has_no_higher_limit_than_the_server(name, model_of):  # noqa: F811
    """In its own generation_config."""
    predictors = load(model_of(name))
    rows = predictors["0"].rows
    rows.model.generation_config.update(max_length=None, max_new_tokens=30)
    with (
        mock.patch.object(rows.model, "generate", side_effect=rows.model.generate) as spy,
        serving(predictors, Limits(max_new_tokens=4)) as url,
    ):
        assert ask(url, {"inputs": "ab"})[0] == 200
    assert spy.call_args.kwargs["max_new_tokens"] == 4


def test_the_events_of_a_stream_are_lines(chat_model):
    """Whatever the text has: clients split lines at more characters than the line feed."""
    text = "a\u2028b\x85c\n서울"
    assert len(event({"text": text}).splitlines()) == 2
    assert json.loads(event({"text": text}).removeprefix("data: "))["text"] == text
    tokenizer = Predictor(chat_model).rows.settings.tokenizer
    pieces = TextPieces(tokenizer, [])
    for token in tokenizer("서울 ab").input_ids:
        pieces.add(token)
    assert pieces.rest(pieces.text + "c") == "c"
    with pytest.raises(RuntimeError, match="otherwise"):
        pieces.rest("other")


SPACED = [" ", *(f" {word}" for word in ("x", ".", "'", "n", "'v", "don")), "t", "e", "'", "s"]
BYTES = [" x", *(f"<0x{byte:02X}>" for byte in "é👧".encode())]


@pytest.mark.parametrize(("vocabulary", "cleans_up"), [(SPACED, True), (SPACED, False), (BYTES, False)])
def test_no_piece_of_a_stream_is_changed_by_what_follows(vocabulary, cleans_up):
    """Decoding takes spaces away where `clean_up_tokenization_spaces` is set, and reads bytes in a row together."""
    tokens = Tokenizer(models.WordLevel({token: index for index, token in enumerate(vocabulary)}, " x"))
    tokens.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokens, clean_up_tokenization_spaces=cleans_up)
    generator, delayed = random.Random(0), 0
    for _ in range(2000):
        # One more than the tokenizer has.
        ids = generator.choices(range(len(vocabulary) + 1), k=7)
        pieces = TextPieces(tokenizer, [])
        sent = "".join(pieces.add(token).text for token in ids)
        rest = pieces.rest(tokenizer.decode(ids))
        assert sent + rest == tokenizer.decode(ids)
        delayed += len(rest)
    assert delayed < 2000 * 7


@pytest.mark.parametrize("beams", ["1", "2"])
def test_a_chat_says_why_it_ends(beams, chat_model):
    """In a stream as in the whole answer, which with several beams comes in one event."""
    given = command.parse([f"0={chat_model}", "--num_beams", beams])
    with serving(command.load(command.named_directories(given.models), given)) as url:
        client = InferenceClient(base_url=url)
        for text, most in (("ab", 1), ("c b", 40), ("서울", 40), ("", 40)):
            messages = [{"role": "user", "content": text}]
            whole = client.chat_completion(messages, max_tokens=most)
            parts = list(client.chat_completion(messages, max_tokens=most, stream=True))
            assert parts[-1].choices[0].finish_reason == whole.choices[0].finish_reason
            tokens = whole.usage.completion_tokens
            assert tokens == most or (tokens < most and whole.choices[0].finish_reason == "stop")
            assert "".join(each.choices[0].delta.content or "" for each in parts) == whole.choices[0].message.content


def test_many_streams_whose_clients_go_at_once(model_of):  # noqa: F811
    """Before they are computed; each was one more call on the stack."""
    with serving(load(model_of("causal-lm")), Limits(max_wait=0.02)) as url:
        for _ in range(300):
            send(url, {"inputs": "ab", "stream": True}).close()
        assert ask(url, {"inputs": "ab", "parameters": {"max_new_tokens": 3}})[0] == 200


def test_clients_that_go_away_harm_nobody(model_of):  # noqa: F811
    with serving(load(model_of("causal-lm"))) as url:
        for read in (0, 200):
            for _ in range(8):
                with send(url, {"inputs": "ab", "stream": True, "parameters": {"max_new_tokens": 100}}) as client:
                    if read:
                        client.recv(read)
        assert ask(url, {"inputs": "ab", "parameters": {"max_new_tokens": 3}})[0] == 200
        wait_for_metric(url, 'seqblend_rows_in_progress{model="0"} 0.0')


def test_what_clients_that_have_gone_asked_for_is_not_computed(held):
    predictors, may_compute, sizes = held
    with serving(predictors) as url:
        with contextlib.ExitStack() as clients:
            clients.enter_context(send(url, {"inputs": "ab"}))
            while not sizes:
                time.sleep(0.01)
            for _ in range(4):
                clients.enter_context(send(url, {"inputs": "ab"}))
            wait_for_metric(url, 'seqblend_rows_in_progress{model="0"} 5.0')
        wait_for_metric(url, 'seqblend_requests_total{model="0",status="499"} 5.0')
        may_compute.set()
        assert ask(url, {"inputs": "c"})[0] == 200
        assert sizes == [1, 1]


@pytest.mark.parametrize(("streams", "beams"), [(True, 1), (False, 1), (False, 3)])
def test_a_text_that_nobody_waits_for_ends(streams, beams, model_of, monkeypatch):  # noqa: F811
    predictors = load(model_of("causal-lm"))
    model, has_gone, steps = predictors["0"].rows.model, threading.Event(), []
    model.generation_config.eos_token_id = None
    forward = model.forward

    def hold(*args, **kwargs):
        steps.append(None)
        if len(steps) > 5:
            has_gone.wait(60)
        return forward(*args, **kwargs)

    monkeypatch.setattr(model, "forward", hold)
    with serving(predictors) as url:
        with send(url, {"inputs": "ab", "stream": streams, "parameters": {"max_new_tokens": 500, "num_beams": beams}}):
            while len(steps) <= 5:
                time.sleep(0.01)
        wait_for_metric(url, 'seqblend_requests_total{model="0",status="499"} 1.0')
        has_gone.set()
        wait_for_metric(url, 'seqblend_rows_in_progress{model="0"} 0.0')
    assert len(steps) < 10


# --- The command ---


def test_sigterm_answers_what_was_accepted(model_of):  # noqa: F811
    """Requests that wait when the signal comes; afterwards the port is closed."""
    directory = model_of("causal-lm")
    arguments = [sys.executable, "-m", "seqblend", "serve", f"m={directory}", "--port", "0", "--max_wait", "3"]
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True) as process, ThreadPoolExecutor(24) as pool:
        try:
            url = next(found[0] for line in process.stderr if (found := re.findall(r"http://\S+", line)))
            body = {"inputs": "ab", "parameters": {"max_new_tokens": 9}}
            answers = [pool.submit(ask, url, body) for _ in range(24)]
            while 'seqblend_rows_in_progress{model="m"} 24.0' not in get(f"{url}/metrics")[1]:
                assert not any(answer.done() for answer in answers), "the signal comes too late"
            process.send_signal(signal.SIGTERM)
            assert [answer.result()[0] for answer in answers] == [200] * 24
            process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode in (-signal.SIGTERM, 128 + signal.SIGTERM)
    with pytest.raises(urllib.error.URLError):
        get(url)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a=x", "a=y"], "two models are called 'a'"),
        (["a b=x"], "NAME: 'a b'"),
        (["missing"], "missing"),
        (["{model}", "--max_rows", "0"], "max_rows: must be positive"),
        (["{model}", "--port", "99999"], "port: must be from 0 to 65535, got 99999"),
        (["{model}", "--host", "no.such.host.invalid"], "no.such.host.invalid"),
        (["{model}", "--num_beams", "2"], "num_beams: is for models that generate"),
    ],
)
def test_a_wrong_option_is_named(arguments, message, model_of, capsys):  # noqa: F811
    given = [each.format(model=model_of(CLASSIFY)) for each in arguments]
    capsys.readouterr()
    assert main(["serve", *given]) == 2
    captured = capsys.readouterr().err
    assert message in captured and captured.count("\n") == 1


def test_a_connection_is_kept_longer_than_proxies_keep_it(model_of):  # noqa: F811
    """nginx and load balancers: 60 seconds. If the server closes it first, a request may be lost."""
    with mock.patch.object(uvicorn, "Server") as server:
        server.return_value.serve = mock.AsyncMock()
        command.run([str(model_of(CLASSIFY)), "--port", "0"])
    assert server.call_args.args[0].timeout_keep_alive > 60


@pytest.mark.parametrize(
    ("missing", "is_named"),
    [("fastapi", True), ("fastapi_offline", True), ("prometheus_client", True), ("zlib", False)],
)
def test_a_package_that_is_not_installed_is_named(missing, is_named, model_of, monkeypatch, capsys):  # noqa: F811
    """A fault of another import is not taken for it."""

    def find(name, *_):
        if name == "seqblend.server.app":
            raise ModuleNotFoundError(f"No module named {missing!r}", name=missing)

    monkeypatch.delitem(sys.modules, "seqblend.server.app")
    monkeypatch.setattr(sys, "meta_path", [type("Finder", (), {"find_spec": staticmethod(find)}), *sys.meta_path])
    if is_named:
        assert main(["serve", str(model_of(CLASSIFY))]) == 2
        assert f"serve: needs {missing}; pip install fastapi " in capsys.readouterr().err
    else:
        with pytest.raises(ModuleNotFoundError, match="zlib"):
            main(["serve", str(model_of(CLASSIFY))])


# --- The batcher alone ---


def test_a_row_is_counted_among_all_of_a_request():
    """Of more rows than a job has."""
    batcher = Batcher.__new__(Batcher)
    batcher.texts = None
    batcher.predictor = SimpleNamespace(decode=lambda encoded, outputs, settings: outputs)
    jobs = [Job(EncodedRows([], {}, [], []), {}, 1) for _ in range(2)]
    jobs[0].outputs.set_result(["answer"] * 64)
    jobs[1].outputs.set_exception(RowError(7, "too long"))
    with pytest.raises(RowError, match="too long") as refused:
        asyncio.run(batcher.answers(jobs, None))
    assert refused.value.row == 71


@pytest.mark.parametrize(("own", "generation"), [(True, {"max_new_tokens": 3}), (False, None)])
def test_a_model_that_samples_by_its_own_settings(own, generation):
    batcher = Batcher.__new__(Batcher)
    model = SimpleNamespace(generation_config=SimpleNamespace(do_sample=own))
    batcher.predictor = SimpleNamespace(task=SimpleNamespace(generation=generation), model=model)
    assert batcher.samples is own
