"""The example code on the card: a few lines for each head, which are run before they are printed."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any

from ..data.kinds import ASSISTANT
from ..tokenization.words import DEFAULT, WORDS, join_words, with_spaces, word_spans


@dataclass(frozen=True)
class Head:
    """How the card describes models with one head.

    Args:
        auto_class: the Auto class of transformers that loads them.
        pipeline_tag: the name of their task on the Hub.
        task_name: the name of their task on the card.
        sentence: what the models do; `{labels}` is replaced by a description of the labels.
        code: lines that use `model` and `tokenizer`; `{text}` is replaced by the example, `{words}` by lines that
            define `words`, and `{word}` by the current one of them.
        pipeline: whether these lines use a pipeline of transformers.
        classifies: whether the models have labels.
        labels_words: whether they give each word a label.
        answers_messages: whether they are asked with the messages of a conversation.
    """

    auto_class: str
    pipeline_tag: str
    task_name: str
    sentence: str
    code: str
    pipeline: bool = True
    classifies: bool = False
    labels_words: bool = False
    answers_messages: bool = False


# The maximal length of an input on the card, in characters.
MAX_EXAMPLE_LENGTH = 300
LOADING_CODE = """\
from transformers import {names}

repository = {repo_id}
{options}tokenizer = AutoTokenizer.from_pretrained(repository{arguments}{tokenizer_arguments})
model = {auto_class}.from_pretrained(repository{arguments})
"""


@dataclass(frozen=True)
class Tagging:
    """How the example code uses a token classifier.

    Args:
        rule: the rule that splits a text into words, one of WORDS; None: unknown.
        groups: whether a pipeline of transformers groups the tags into spans correctly: each word must be one token,
            with the tags B- and I-.
        spaced: whether the tokenizer needs the space before each word; see needs_spaces.
    """

    rule: str | None = None
    groups: bool = False
    spaced: bool = False


def usage_code(
    head: Head,
    repo_id: str,
    example: Any,
    revision: str = "main",
    tagging: Tagging = Tagging(),
    *,
    has_code: bool = True,
    tokenizer_options: Mapping[str, Any] | None = None,
) -> str:
    """The example code for the card.

    Args:
        head: of the model.
        repo_id: of the repository.
        example: a text, a pair of texts, the words of a sentence, or the messages of a conversation.
        revision: the branch that the model is pushed to.
        tagging: for a token classifier.
        has_code: whether the repository holds the code of the model, which must be allowed to run.
        tokenizer_options: options that the tokenizer had in training and that are not in its files.
    """
    names = [head.auto_class, "AutoTokenizer", *(["pipeline"] if head.pipeline else [])]
    # As literals: the names may come from a file that is not trusted, and this code is run.
    branch, options = as_literal(revision), ""
    arguments = "" if revision == "main" else f", revision={branch}"
    if has_code:
        options, arguments = f'options = {{"revision": {branch}, "trust_remote_code": True}}\n', ", **options"
    loading = LOADING_CODE.format(
        names=", ".join(names),
        repo_id=as_literal(repo_id),
        options=options,
        arguments=arguments,
        tokenizer_arguments="".join(f", {name}={value!r}" for name, value in (tokenizer_options or {}).items()),
        auto_class=head.auto_class,
    )
    return loading + inference_code(head, example, tagging)


def inference_code(head: Head, example: Any, tagging: Tagging = Tagging()) -> str:
    """The part of usage_code after the model is loaded."""
    if head.labels_words:
        code = GROUPED_TAGGING_CODE if tagging.groups else head.code
        word = "words[index].strip()" if tagging.spaced else "words[index]"
        return code.format(words=words_code(example, tagging), word=word)
    if head.answers_messages:
        return head.code.format(messages=as_literal(as_messages(example)))
    text = {"text": example[0], "text_pair": example[1]} if is_pair(head, example) else as_text(example)
    return head.code.format(text=as_literal(text))


def words_code(example: str | list[str], tagging: Tagging) -> str:
    """Lines that define `words`: by the rule from a text, or as a list if the rule does not reproduce the words."""
    text = as_text(example, tagging.rule)
    rule = tagging.rule or (DEFAULT if isinstance(example, str) else guess_rule(example))
    if isinstance(example, list) and [text[start:stop] for start, stop in word_spans(text, rule)] != example:
        return f"words = {as_literal(with_spaces(example, rule) if tagging.spaced else example)}"
    if tagging.spaced and rule != "characters":
        # Of several spaces only the last one belongs to a word.
        return SPACED_CODE.format(text=as_literal(text), pattern=WORDS[rule].pattern)
    return SPLITTING_CODE[rule].format(text=as_literal(text), pattern=WORDS[rule].pattern)


def as_literal(value: Any) -> str:
    """A text, a list or a mapping as Python code."""
    return json.dumps(value, ensure_ascii=False)


def is_pair(head: Head, example: Any) -> bool:
    """Whether an example is two texts that are classified together."""
    return head.pipeline_tag == "text-classification" and isinstance(example, list)


def guess_rule(words: list[str]) -> str:
    """The rule that splits a text into these words, if it is not known."""
    return "characters" if all(len(word) == 1 for word in words) else DEFAULT


def is_conversation(example: Any) -> bool:
    """Whether an example is a list of messages."""
    return isinstance(example, list) and bool(example) and isinstance(example[0], dict)


def as_messages(example: Any) -> list[dict[str, str]]:
    """What a chat model is asked with: the messages before the first answer, each shortened; a text as one message."""
    if not is_conversation(example):
        return [{"role": "user", "content": as_text(example)}]
    asked = list(takewhile(lambda message: message["role"] != ASSISTANT, example))
    return [{"role": each["role"], "content": each["content"][:MAX_EXAMPLE_LENGTH]} for each in asked]


def as_text(example: Any, rule: str | None = None) -> str:
    """A text unchanged; words joined to a text, see join_words; messages one after the other, with their roles."""
    if is_conversation(example):
        return "\n".join(f"{message['role']}: {message['content']}" for message in example)
    return example if isinstance(example, str) else join_words(example, rule or guess_rule(example))[0]


def make_prompt(head: Head, example: Any, mask_token: str | None) -> Any:
    """The input from an example: a causal model gets its first words, a masked one all words with one masked.

    In a text without spaces a character is masked. A chat model gets the messages before the first answer.
    """
    if head.answers_messages:
        return None if example is None else as_messages(example)
    if isinstance(example, str):
        example = example[:MAX_EXAMPLE_LENGTH]
    words = example.split(" ") if isinstance(example, str) else []
    if head.pipeline_tag == "text-generation" and words:
        return " ".join(words[: min(8, (len(words) + 1) // 2)])
    if head.pipeline_tag == "fill-mask" and words and mask_token is not None and mask_token not in example:
        space, parts = (" ", words) if len(words) > 1 else ("", [*example])
        return space.join([*parts[: len(parts) // 2], mask_token, *parts[len(parts) // 2 + 1 :]])
    return example


# Code that splits a text into words, for each rule of WORDS.
SPLITTING_CODE = {
    "characters": "words = list({text})",
    "words": "import regex\n\nwords = regex.findall(r'{pattern}', {text})",
    "spaces": "words = {text}.split()",
}
SPACED_CODE = "import regex\n\nwords = regex.findall(r' ?(?:{pattern})', {text})"
# Code for a token classifier whose tokens are single characters.
GROUPED_TAGGING_CODE = """\
{words}
tag = pipeline("token-classification", model=model, tokenizer=tokenizer, aggregation_strategy="simple")
for part in tag([words], is_split_into_words=True, delimiter="")[0]:
    print(part["word"], part["entity_group"], f"{{part['score']:.3f}}")
"""
# A causal language model that was trained on conversations.
CHAT = Head(
    auto_class="AutoModelForCausalLM",
    pipeline_tag="text-generation",
    task_name="Conversation",
    sentence="This model answers messages: it writes the next message of a conversation.",
    answers_messages=True,
    code="""\
chat = pipeline("text-generation", model=model, tokenizer=tokenizer)
messages = {messages}
print(chat(messages, max_new_tokens=256, do_sample=False)[0]["generated_text"][-1]["content"])
""",
)
# By the part after "For" in the name of the model class; "" for a model without head.
HEADS = {
    "SequenceClassification": Head(
        auto_class="AutoModelForSequenceClassification",
        pipeline_tag="text-classification",
        task_name="Text classification",
        classifies=True,
        sentence="This model classifies a text. The output is {labels}.",
        code="""\
classify = pipeline("text-classification", model=model, tokenizer=tokenizer)
print(classify({text}))
""",
    ),
    "TokenClassification": Head(
        auto_class="AutoModelForTokenClassification",
        pipeline_tag="token-classification",
        labels_words=True,
        task_name="Token classification",
        classifies=True,
        sentence="This model labels each word of a text. The output for a word is {labels}.",
        code="""\
{words}
tag = pipeline("token-classification", model=model, tokenizer=tokenizer)
word_of = tokenizer(words, is_split_into_words=True).word_ids()
for part in tag([words], is_split_into_words=True)[0]:
    index = word_of[part["index"]]
    # A word has the tag of its first token.
    if word_of.index(index) == part["index"]:
        print({word}, part["entity"], f"{{part['score']:.3f}}")
""",
    ),
    "Seq2SeqLM": Head(
        auto_class="AutoModelForSeq2SeqLM",
        pipeline_tag="translation",
        task_name="Sequence to sequence",
        sentence="This model generates a text from a text.",
        code="""\
inputs = tokenizer({text}, return_tensors="pt")
print(tokenizer.batch_decode(model.generate(**inputs), skip_special_tokens=True)[0])
""",
        pipeline=False,
    ),
    "CausalLM": Head(
        auto_class="AutoModelForCausalLM",
        pipeline_tag="text-generation",
        task_name="Text generation",
        sentence="This model continues a text.",
        code="""\
write = pipeline("text-generation", model=model, tokenizer=tokenizer)
print(write({text}, max_new_tokens=64, do_sample=False)[0]["generated_text"])
""",
    ),
    "MaskedLM": Head(
        auto_class="AutoModelForMaskedLM",
        pipeline_tag="fill-mask",
        task_name="Fill-mask",
        sentence="This model predicts the masked words of a text.",
        code="""\
fill = pipeline("fill-mask", model=model, tokenizer=tokenizer)
for guess in fill({text}):
    print(guess["token_str"], f"{{guess['score']:.3f}}")
""",
    ),
    "": Head(
        auto_class="AutoModel",
        pipeline_tag="feature-extraction",
        task_name="Feature extraction",
        sentence="This model computes a contextual vector for each token of a text.",
        code="""\
inputs = tokenizer({text}, return_tensors="pt")
print(model(**inputs).last_hidden_state.shape)
""",
        pipeline=False,
    ),
}
# A classifier that gives any number of labels, or several numbers.
SEVERAL_ANSWERS = replace(
    HEADS["SequenceClassification"],
    code="""\
classify = pipeline("text-classification", model=model, tokenizer=tokenizer)
for answer in classify({text}, top_k=None):
    print(answer)
""",
)
