"""The JSON of Hugging Face's inference API, for each task: what `huggingface_hub.InferenceClient` sends and reads.

Source: the schemas of the package @huggingface/tasks, and TGI's for generated text.
"""

import abc
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import (
    AllowInfNan,
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    create_model,
    model_validator,
)
from pydantic_core import PydanticCustomError
from transformers import PreTrainedTokenizerBase

from ..data.errors import InputError
from ..data.kinds import ASSISTANT
from ..tasks.encoding import Answer, Row, Settings

# The most labels or tokens that a request may ask for with top_k, and the most beams.
MOST_TOKENS_FOR_A_MASK, MOST_BEAMS = 100, 16
DEFAULT_TOP_K = 5
# With smaller numbers, probabilities overflow.
LEAST = 0.01

# The most keys of an object; none here has as many.
MOST_KEYS = 50

Count = StrictInt
# A whole number becomes a float, which transformers requires.
Number = Annotated[StrictFloat, AllowInfNan(False)]
# The first wrong item of a list is enough: to describe all of a large one takes seconds and gigabytes.
Item = TypeVar("Item")
Items = Annotated[list[Item], Field(fail_fast=True)]


class Strict(BaseModel):
    """A JSON object without unknown keys; a value must have its type."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def check_size(cls, given: Any) -> Any:
        """Refuse an object of many keys at once: to describe each unknown one takes seconds."""
        if isinstance(given, dict) and len(given) > MOST_KEYS:
            raise PydanticCustomError("keys", f"must have at most {MOST_KEYS} keys")
        return given


# The values with which an option asks for nothing; 0 equals False. A seed of 0 asks for random numbers like any other.
NOTHING = (None, False, [], "none", {"type": "text"})


def check_unsupported(given: BaseModel, names: Iterable[str], place: str = "") -> None:
    """Raises InputError for an option that is not supported, unless it asks for nothing; `place` is that of them."""
    for name in names:
        value = getattr(given, name)
        if value not in NOTHING or (name == "seed" and value is not None):
            raise InputError(f"{place}{name}: is not supported by this server")


class Pair(Strict):
    """Two texts that are classified together."""

    text: StrictStr
    text_pair: StrictStr


class Interface(abc.ABC):
    """The JSON of a task.

    Attributes:
        task: its name at Hugging Face.
        parameters: the keys of `parameters` in a request.
        inputs: the type of one input.
        unsupported: keys of `parameters` that clients know, but no model here has.
        writes: whether it generates text, which may be streamed.
        wraps_one: whether the answer to one input is a list of one answer.
        reads_messages: whether it may answer messages.
    """

    task: ClassVar[str]
    parameters: ClassVar[type[BaseModel]]
    inputs: ClassVar[Any] = StrictStr
    unsupported: ClassVar[tuple[str, ...]] = ()
    writes: ClassVar[bool] = False
    wraps_one: ClassVar[bool] = False
    reads_messages: ClassVar[bool] = False

    def request_model(self) -> type[BaseModel]:
        """The body of a request."""
        fields: dict[str, Any] = {
            "inputs": (self.inputs | Items[self.inputs], Field(description="One input, or a list of inputs.")),
            "parameters": (self.parameters | None, None),
            "options": (dict[str, Any] | None, Field(None, description="Ignored.")),
        }
        if self.writes:
            fields["stream"] = (StrictBool | None, Field(None, description="Send the text as it is generated."))
        name = "".join(part.capitalize() for part in self.task.split("-"))
        return create_model(f"{name}Request", __base__=Strict, **fields)

    def explore_model(self) -> type[BaseModel]:
        """The body of a request to explore one input."""
        name = "".join(part.capitalize() for part in self.task.split("-"))
        return create_model(
            f"{name}Exploration", __base__=Strict, inputs=(self.inputs, Field(description="One input."))
        )

    def row(self, value: Any) -> Row:
        """An input as a row of the task."""
        return {"text": value} if isinstance(value, str) else value.model_dump()

    def check(self, parameters: BaseModel) -> None:
        """Raises InputError for a parameter that is not supported, unless it asks for nothing."""
        check_unsupported(parameters, self.unsupported, "parameters.")

    def settings(self, parameters: Any, settings: Settings) -> Settings:
        """The settings with which outputs become answers."""
        return settings

    def generation(self, parameters: Any) -> dict[str, Any]:
        """The arguments of `model.generate` that a request gives."""
        return {}

    @abc.abstractmethod
    def response(self, answer: Answer, row: Row, parameters: Any, settings: Settings) -> Any:
        """The JSON of one input.

        Args:
            answer: of `seqblend predict`.
            row: the input.
            parameters: of the request.
            settings: of the model.
        """


# --- Classes of texts ---


class ClassificationParameters(Strict):
    """Parameters of text-classification."""

    top_k: Count | None = Field(None, ge=1, description=f"Number of labels; default: {DEFAULT_TOP_K}.")
    function_to_apply: Literal["softmax", "sigmoid", "none"] | None = None


class TextClassification(Interface):
    """Labels with probabilities, the highest first."""

    task = "text-classification"
    parameters = ClassificationParameters
    inputs = StrictStr | Pair
    wraps_one = True

    def settings(self, parameters: ClassificationParameters, settings: Settings) -> Settings:
        """All probabilities, of which the response has the first ones."""
        functions = {"multi_label_classification": "sigmoid", "regression": "none"}
        own, asked = functions.get(settings.problem_type or "", "softmax"), parameters.function_to_apply
        if asked not in (None, own):
            raise InputError(
                f"parameters.function_to_apply: {asked!r} is not what the model was trained with, {own!r}"
            )
        return replace(settings, probabilities=True)

    def response(
        self, answer: Answer, row: Row, parameters: ClassificationParameters, settings: Settings
    ) -> list[dict[str, Any]]:
        """For a number, the label has the number as its score; `abstains` is as in `seqblend predict`."""
        if "scores" not in answer:
            values = answer["prediction"] if isinstance(answer["prediction"], list) else [answer["prediction"]]
            return [{"label": name, "score": value} for name, value in zip(settings.labels, values, strict=True)]
        # Of several labels predict gives all.
        several = isinstance(answer["prediction"], list)
        most = parameters.top_k or (None if several else DEFAULT_TOP_K)
        labels = [{"label": name, "score": score} for name, score in list(answer["scores"].items())[:most]]
        if "abstains" in answer:
            labels[0]["abstains"] = answer["abstains"]
        return labels


# --- Tags of words ---


class TaggingParameters(Strict):
    """Parameters of token-classification."""

    aggregation_strategy: Literal["none", "simple", "first", "average", "max"] | None = Field(
        None, description="none: the tag of each word. All others, and the default: entities, which have whole words."
    )
    ignore_labels: Items[StrictStr] | None = None
    stride: StrictInt | None = None


class TokenClassification(Interface):
    """Entities, or the tag of each word."""

    task = "token-classification"
    parameters = TaggingParameters
    unsupported = ("stride",)

    def settings(self, parameters: TaggingParameters, settings: Settings) -> Settings:
        """With the tags of words, if they are asked for."""
        return replace(settings, probabilities=parameters.aggregation_strategy == "none")

    def response(
        self, answer: Answer, row: Row, parameters: TaggingParameters, settings: Settings
    ) -> list[dict[str, Any]]:
        """Without the labels to ignore: of words, by default `O`."""
        key, parts = "entity_group", answer["entities"]
        ignored = parameters.ignore_labels or []
        if parameters.aggregation_strategy == "none":
            key, ignored = "entity", ["O"] if parameters.ignore_labels is None else ignored
            parts = [
                {**word, "score": word["probabilities"] and word["probabilities"][word["label"]]}
                for word in answer["words"]
            ]
        return [
            {
                key: part["label"],
                "score": part["score"],
                "word": part["text"],
                "start": part["start"],
                "end": part["end"],
            }
            for part in parts
            if part["label"] not in ignored
        ]


# --- Masked language models ---


class MaskParameters(Strict):
    """Parameters of fill-mask."""

    top_k: Count | None = Field(None, ge=1, le=MOST_TOKENS_FOR_A_MASK)
    targets: Items[StrictStr] | None = None


class FillMask(Interface):
    """The most probable tokens for each mask."""

    task = "fill-mask"
    parameters = MaskParameters
    unsupported = ("targets",)

    def response(self, answer: Answer, row: Row, parameters: MaskParameters, settings: Settings) -> list[Any]:
        """A list of tokens for one mask, a list of such lists for several."""
        found = [
            [
                {
                    "score": each["score"],
                    "token": each["token"],
                    "token_str": each["text"],
                    "sequence": filled(row["text"], mask["start"], mask["end"], each["text"], settings.tokenizer),
                }
                for each in mask["predictions"][: parameters.top_k or DEFAULT_TOP_K]
            ]
            for mask in answer["masks"]
        ]
        return found[0] if len(found) == 1 else found


def filled(text: str, start: int, end: int, token: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """A text with the text of a token in place of a mask, as the tokenizer would join them.

    Args:
        text: with the mask.
        start: of the mask.
        end: of the mask.
        token: the text of the token.
        tokenizer: of the model.
    """
    before, after = text[:start], text[end:]
    # A mask may include the spaces around it, as that of RoBERTa, whose tokens begin with a space.
    mask = tokenizer.added_tokens_decoder.get(tokenizer.mask_token_id)
    if mask is not None:
        before, after = before.rstrip() if mask.lstrip else before, after.lstrip() if mask.rstrip else after
    # The mark of WordPiece for a token inside a word is no part of the text.
    model = getattr(getattr(tokenizer, "backend_tokenizer", None), "model", None)
    inside = getattr(model, "continuing_subword_prefix", None) or ""
    return before + token.removeprefix(inside) + after


# --- Generated text ---


class Sampling(Strict):
    """How text is generated; the default is the model's own way."""

    max_new_tokens: Count | None = Field(None, ge=1)
    num_beams: Count | None = Field(None, ge=1, le=MOST_BEAMS)
    do_sample: StrictBool | None = None
    temperature: Number | None = Field(None, ge=LEAST)
    top_k: Count | None = Field(None, ge=1)
    top_p: Number | None = Field(None, ge=LEAST, le=1)
    typical_p: Number | None = Field(None, ge=LEAST, le=1)
    repetition_penalty: Number | None = Field(None, ge=LEAST)


def sampling_arguments(given: BaseModel) -> dict[str, Any]:
    """The arguments of `model.generate`. As in TGI, an option of sampling alone turns sampling on."""
    arguments = {
        name: getattr(given, name) for name in Sampling.model_fields if getattr(given, name, None) is not None
    }
    if arguments.keys() & {"temperature", "top_k", "top_p", "typical_p"}:
        arguments.setdefault("do_sample", True)
    return arguments


class WritingParameters(Sampling):
    """Parameters that clients send for every text that is written."""

    return_full_text: StrictBool | None = Field(None, description="Put the prompt before the text.")
    details: StrictBool | None = None
    decoder_input_details: StrictBool | None = None
    stop: Items[StrictStr] | None = None
    watermark: StrictBool | None = None


# Those of them that ask for what no model here has.
NOT_WRITTEN = ("details", "decoder_input_details", "stop", "watermark")


class TranslationParameters(WritingParameters):
    """Parameters of translation and summarization, and those of text-generation that have an effect here."""

    generate_parameters: Sampling | None = Field(None, description="As the other parameters; these come first.")
    src_lang: StrictStr | None = None
    tgt_lang: StrictStr | None = None
    clean_up_tokenization_spaces: StrictBool | None = None
    truncation: StrictStr | None = None


class Translation(Interface):
    """The written text, under the key of each task that it may be: a client reads the one that it asked for."""

    task = "translation"
    parameters = TranslationParameters
    unsupported = (
        *("src_lang", "tgt_lang", "clean_up_tokenization_spaces", "truncation", "return_full_text"),
        *NOT_WRITTEN,
    )
    writes = wraps_one = True

    def generation(self, parameters: TranslationParameters) -> dict[str, Any]:
        """Those of `Sampling`, here and in `generate_parameters`."""
        inner = parameters.generate_parameters
        return sampling_arguments(parameters) | ({} if inner is None else sampling_arguments(inner))

    def response(
        self, answer: Answer, row: Row, parameters: TranslationParameters, settings: Settings
    ) -> dict[str, Any]:
        """`score` is as in `seqblend predict`."""
        keys = ("translation_text", "summary_text", "generated_text")
        return {**dict.fromkeys(keys, answer["prediction"]), "score": answer["score"]}


class GenerationParameters(WritingParameters):
    """Parameters of text-generation."""

    adapter_id: StrictStr | None = None
    best_of: StrictInt | None = None
    frequency_penalty: Number | None = None
    grammar: dict[str, Any] | None = None
    seed: StrictInt | None = None
    top_n_tokens: StrictInt | None = None
    truncate: StrictInt | None = None


class TextGeneration(Interface):
    """The text after a prompt."""

    task = "text-generation"
    parameters = GenerationParameters
    unsupported = (
        *("adapter_id", "best_of", "frequency_penalty", "grammar", "seed", "top_n_tokens", "truncate"),
        *NOT_WRITTEN,
    )
    writes = wraps_one = reads_messages = True

    def generation(self, parameters: GenerationParameters) -> dict[str, Any]:
        """Those of `Sampling`."""
        return sampling_arguments(parameters)

    def response(
        self, answer: Answer, row: Row, parameters: GenerationParameters, settings: Settings
    ) -> dict[str, Any]:
        """`score` is as in `seqblend predict`."""
        prompt = row["text"] if parameters.return_full_text else ""
        return {"generated_text": prompt + answer["prediction"], "score": answer["score"]}


# --- Chats, in the form of OpenAI ---


class TextPart(Strict):
    """A part of a message."""

    type: Literal["text"]
    text: StrictStr


class Message(Strict):
    """One message of a chat."""

    role: StrictStr
    content: StrictStr | Items[TextPart]

    def row(self) -> dict[str, str]:
        """The message as the task reads it; each part begins a line."""
        parts = self.content
        text = parts if isinstance(parts, str) else "\n".join(part.text for part in parts)
        return {"role": self.role, "content": text}


class StreamOptions(Strict):
    """What a stream has besides the text."""

    include_usage: StrictBool | None = None


class UnsupportedChatOptions(Strict):
    """Options that clients send, but no model here has."""

    stop: Any = None
    seed: Any = None
    frequency_penalty: Any = None
    presence_penalty: Any = None
    logit_bias: Any = None
    logprobs: Any = None
    top_logprobs: Any = None
    response_format: Any = None
    tools: Any = None
    tool_choice: Any = None
    store: Any = None


class ChatRequest(UnsupportedChatOptions):
    """The body of /v1/chat/completions; an option that has no effect here must ask for nothing."""

    messages: Items[Message] = Field(min_length=1)
    model: StrictStr | None = Field(None, description="Name of a served model, if there are several.")
    max_tokens: Count | None = Field(None, ge=1)
    max_completion_tokens: Count | None = Field(None, ge=1)
    temperature: Number | None = Field(None, ge=0, description="Below 0.01: no sampling.")
    top_p: Number | None = Field(None, ge=LEAST, le=1)
    stream: StrictBool | None = None
    stream_options: StreamOptions | None = None
    n: Literal[1] | None = None
    user: StrictStr | None = Field(None, description="Ignored.")

    def check(self) -> None:
        """Raises InputError for an option that is not supported, limits that differ, and no message to answer."""
        check_unsupported(self, UnsupportedChatOptions.model_fields)
        if None not in (self.max_tokens, most := self.max_completion_tokens) and self.max_tokens != most:
            raise InputError(f"max_tokens: is {self.max_tokens}, but max_completion_tokens is {most}")
        if self.messages[-1].role == ASSISTANT:
            raise InputError("messages: the last one is of the assistant, which has nothing to answer")

    @property
    def has_usage(self) -> bool:
        """Whether a stream ends with the numbers of tokens."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    @property
    def limit(self) -> str:
        """The name of the option that limits the answer."""
        return "max_tokens" if self.max_completion_tokens is None else "max_completion_tokens"

    def generation(self) -> dict[str, Any]:
        """The arguments of `model.generate`."""
        most = getattr(self, self.limit)
        arguments: dict[str, Any] = {} if most is None else {"max_new_tokens": most}
        if self.temperature is not None and self.temperature < LEAST:
            return arguments | {"do_sample": False}
        given = {name: getattr(self, name) for name in ("temperature", "top_p") if getattr(self, name) is not None}
        return arguments | given | ({"do_sample": True} if given else {})


# By the name of our task.
INTERFACES: dict[str, Interface] = {
    "sequence-classification": TextClassification(),
    "token-classification": TokenClassification(),
    "masked-lm": FillMask(),
    "seq2seq-lm": Translation(),
    "causal-lm": TextGeneration(),
}


def inputs_of(value: Any) -> Sequence[Any]:
    """The inputs of a request as a list. Raises InputError for an empty list."""
    if isinstance(value, list) and not value:
        raise InputError("inputs: is an empty list")
    return value if isinstance(value, list) else [value]
