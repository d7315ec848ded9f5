"""How a model is used: for each head a few lines of code, which are printed on the card and run before that."""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..tasks.words import DEFAULT, WORDS, join_words, word_spans
from .verify import without_package


@dataclass(frozen=True)
class Head:
    """What a kind of model is for.

    Args:
        auto_class: transformers' Auto class that opens it.
        pipeline_tag: the Hub's name of its task.
        task_name: the same in words.
        sentence: what it does; `{labels}` stands for its labels.
        code: lines that use `model`, `tokenizer` and the text `{text}`, or its `words`, which `{words}` makes.
        pipeline: whether those lines use transformers' pipelines.
        classifies: whether it has labels.
    """

    auto_class: str
    pipeline_tag: str
    task_name: str
    sentence: str
    code: str
    pipeline: bool = True
    classifies: bool = False


# How many characters of a real input a card shows.
LONGEST = 300
LOADING = """\
from transformers import {names}

repository = {repo_id}
options = {{"revision": {revision}, "trust_remote_code": True}}
tokenizer = AutoTokenizer.from_pretrained(repository, **options)
model = {auto_class}.from_pretrained(repository, **options)
"""


@dataclass(frozen=True)
class Tagging:
    """How a tagger is asked.

    Args:
        rule: what divides a text into words, one of WORDS; None: it is not known.
        groups: whether transformers' pipeline groups the tags of single tokens rightly: each word is one token, and
            the tags are B- and I-.
    """

    rule: str | None = None
    groups: bool = False


def usage_code(head: Head, repo_id: str, example: Any, revision: str = "main", tagging: Tagging = Tagging()) -> str:
    """The code that the card shows.

    Args:
        head: of the model.
        repo_id: of the repository.
        example: a text, a pair of texts, or the words of a sentence.
        revision: the branch that it is pushed to.
        tagging: of a token classifier.
    """
    names = [head.auto_class, "AutoTokenizer", *(["pipeline"] if head.pipeline else [])]
    # Quoted: they may be of a file that somebody else has written, and this code runs.
    where = {"repo_id": quoted(repo_id), "revision": quoted(revision)}
    loading = LOADING.format(names=", ".join(names), auto_class=head.auto_class, **where)
    return loading + asking_code(head, example, tagging)


def asking_code(head: Head, example: Any, tagging: Tagging = Tagging()) -> str:
    """The part of usage_code behind the loading."""
    if head.pipeline_tag == "token-classification":
        code = GROUPING if tagging.groups else head.code
        return code.format(words=words_code(example, tagging.rule))
    text = {"text": example[0], "text_pair": example[1]} if is_pair(head, example) else as_text(example)
    return head.code.format(text=quoted(text))


def words_code(example: str | list[str], rule: str | None) -> str:
    """Lines that make `words`: of a text by the rule; as they are, where the rule does not give them back."""
    text = as_text(example, rule)
    rule = rule or (DEFAULT if isinstance(example, str) else rule_of(example))
    if isinstance(example, list) and [text[start:stop] for start, stop in word_spans(text, rule)] != example:
        return f"words = {quoted(example)}"
    return DIVIDING[rule].format(text=quoted(text), pattern=WORDS[rule].pattern)


def quoted(value: Any) -> str:
    """A text, a list or a mapping as Python code."""
    return json.dumps(value, ensure_ascii=False)


def is_pair(head: Head, example: Any) -> bool:
    """Whether an example is two texts that are classified together."""
    return head.pipeline_tag == "text-classification" and isinstance(example, list)


def rule_of(words: list[str]) -> str:
    """What divides a text into these words, where it is not known."""
    return "characters" if all(len(word) == 1 for word in words) else DEFAULT


def as_text(example: Any, rule: str | None = None) -> str:
    """A text as it is; words as a text, see write_text."""
    return example if isinstance(example, str) else join_words(example, rule or rule_of(example))[0]


def prompt_of(head: Head, example: Any, mask_token: str | None) -> Any:
    """What a model is given of an example: a language model its beginning, or all of it with a word masked."""
    if isinstance(example, str):
        example = example[:LONGEST]
    words = example.split(" ") if isinstance(example, str) else []
    if head.pipeline_tag == "text-generation" and words:
        return " ".join(words[: min(8, (len(words) + 1) // 2)])
    if head.pipeline_tag == "fill-mask" and words and mask_token is not None and mask_token not in words:
        return " ".join([*words[: len(words) // 2], mask_token, *words[len(words) // 2 + 1 :]])
    return example


def run_usage(code: str, repo_id: str, directory: Path) -> str:
    """Run the code as it is printed, where seqblend is not installed, and return what it prints.

    It runs where `repo_id` is a link to `directory`, which transformers opens as it would the repository.

    Raises:
        ValueError: it fails.
    """
    with tempfile.TemporaryDirectory() as place:
        link = Path(place, repo_id)
        if Path(place).resolve() not in link.resolve().parents:
            raise ValueError(f"repo_id: {repo_id!r} is no name of a repository")
        try:
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(Path(directory).absolute(), target_is_directory=True)
        except OSError as error:  # where links need a right of their own
            raise ValueError(str(error)) from error
        done = without_package(["-"], Path(place), code)
    if done.returncode:
        raise ValueError((done.stderr.strip().splitlines() or ["it ended without a word"])[-1])
    return done.stdout.rstrip("\n")


# How a text is divided into words, by each of WORDS.
DIVIDING = {
    "characters": "words = list({text})",
    "words": "import regex\n\nwords = regex.findall(r'{pattern}', {text})",
    "spaces": "words = {text}.split()",
}
# Of a tagger of characters, each of which is a token.
GROUPING = """\
{words}
tag = pipeline("token-classification", model=model, tokenizer=tokenizer, aggregation_strategy="simple")
for part in tag([words], is_split_into_words=True, delimiter="")[0]:
    print(part["word"], part["entity_group"], f"{{part['score']:.3f}}")
"""
# By what follows "For" in the name of a model's class; "" for a model without a head.
HEADS = {
    "SequenceClassification": Head(
        auto_class="AutoModelForSequenceClassification",
        pipeline_tag="text-classification",
        task_name="Text classification",
        classifies=True,
        sentence="It reads a text and gives it {labels}.",
        code="""\
classify = pipeline("text-classification", model=model, tokenizer=tokenizer)
print(classify({text}))
""",
    ),
    "TokenClassification": Head(
        auto_class="AutoModelForTokenClassification",
        pipeline_tag="token-classification",
        task_name="Token classification",
        classifies=True,
        sentence="It reads a text and gives each part of it {labels}.",
        code="""\
{words}
tag = pipeline("token-classification", model=model, tokenizer=tokenizer)
word_of = tokenizer(words, is_split_into_words=True).word_ids()
for part in tag([words], is_split_into_words=True)[0]:
    index = word_of[part["index"]]
    # A word has the tag of its first token.
    if word_of.index(index) == part["index"]:
        print(words[index], part["entity"], f"{{part['score']:.3f}}")
""",
    ),
    "Seq2SeqLM": Head(
        auto_class="AutoModelForSeq2SeqLM",
        pipeline_tag="translation",
        task_name="Sequence to sequence",
        sentence="It reads a text and writes another.",
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
        sentence="It continues a text.",
        code="""\
write = pipeline("text-generation", model=model, tokenizer=tokenizer)
print(write({text}, max_new_tokens=64, do_sample=False)[0]["generated_text"])
""",
    ),
    "MaskedLM": Head(
        auto_class="AutoModelForMaskedLM",
        pipeline_tag="fill-mask",
        task_name="Fill-mask",
        sentence="It tells which words were masked in a text.",
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
        sentence="It turns each token of a text into a vector that knows of the others.",
        code="""\
inputs = tokenizer({text}, return_tensors="pt")
print(model(**inputs).last_hidden_state.shape)
""",
        pipeline=False,
    ),
}
