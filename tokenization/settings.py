"""Settings of a tokenizer that its saved files keep: token types, special tokens, languages, pairs, chat template."""

import os
from difflib import get_close_matches
from pathlib import Path

import jinja2
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ..data.errors import InputError, error_line
from .kinds import is_trained_here, post_processor, without_prefix_space

# The name of the field in tokenizer_config.json, and the hint of an error where the second text is missing.
TEXT_PAIRS = "reads_text_pairs"
NEEDS_PAIR = "; the model was trained on pairs of texts"


def set_token_types(tokenizer: PreTrainedTokenizerBase, reads: bool) -> None:
    """Let the tokenizer, and its saved files, return token_type_ids exactly if the model reads them.

    A model with segments needs them: without them it reads both texts of a pair as the first segment.
    """
    first, *others = [name for name in tokenizer.model_input_names if name != "token_type_ids"]
    names = [first, *(["token_type_ids"] if reads else []), *others]
    tokenizer.model_input_names = tokenizer.init_kwargs["model_input_names"] = names


def without_special_tokens(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """A tokenizer with the same vocabulary that adds no special tokens, also after saving and loading.

    If it was trained here, it does not add a space before a text either: a decoded continuation keeps its first space.
    A class such as BertTokenizer adds special tokens whenever it is loaded, so the result is a plain
    PreTrainedTokenizerFast. A slow tokenizer is returned unchanged.
    """
    if not tokenizer.is_fast or not tokenizer.num_special_tokens_to_add():
        return tokenizer
    backend = tokenizer.backend_tokenizer
    if is_trained_here(tokenizer):
        backend = without_prefix_space(backend)
    else:
        backend.post_processor = post_processor(closes=False, trims=False)
    copied = (
        "model_max_length",
        "padding_side",
        "truncation_side",
        "model_input_names",
        "clean_up_tokenization_spaces",
    )
    bare = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        **{name: token for name, token in tokenizer.special_tokens_map.items() if isinstance(token, str)},
        extra_special_tokens=tokenizer.extra_special_tokens,
        **{name: getattr(tokenizer, name) for name in copied},
    )
    bare.chat_template = tokenizer.chat_template
    bare.name_or_path = tokenizer.name_or_path
    return bare


def set_languages(tokenizer: PreTrainedTokenizerBase, languages: dict[str, str | None]) -> None:
    """Set the languages of sources and targets, which NLLB, M2M100 and mBART mark with a token.

    Args:
        tokenizer: changed here; its saved files have the languages.
        languages: by the name of the option; None: as the tokenizer has it.

    Raises:
        InputError: the tokenizer has no languages, or not this one.
    """
    for option, attribute in {"source_lang": "src_lang", "target_lang": "tgt_lang"}.items():
        language = languages[option]
        if language is None:
            continue
        if not hasattr(tokenizer, attribute):
            raise InputError(f"{option}: {type(tokenizer).__name__} has no languages")
        # Of M2M100 the token of "en" is "__en__".
        known = getattr(tokenizer, "lang_code_to_token", set(tokenizer.all_special_tokens) - named_tokens(tokenizer))
        if language not in known:
            nearest = ", ".join(get_close_matches(language, sorted(known), n=5, cutoff=0.0))
            raise InputError(f"{option}: the tokenizer has no language {language!r}; nearest: {nearest}")
        setattr(tokenizer, attribute, language)
        tokenizer.init_kwargs[attribute] = language


def set_text_pairs(tokenizer: PreTrainedTokenizerBase, reads: bool) -> None:
    """Record in the tokenizer's saved files whether the model is trained on pairs of texts.

    As `word_splitting`, the field is in tokenizer_config.json, where transformers does not read it, but keeps it.
    """
    tokenizer.init_kwargs.pop(TEXT_PAIRS, None)
    if reads:
        tokenizer.init_kwargs[TEXT_PAIRS] = True


def reads_text_pairs(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the model was trained on pairs of texts; False if that was not recorded."""
    return bool(tokenizer.init_kwargs.get(TEXT_PAIRS))


def named_tokens(tokenizer: PreTrainedTokenizerBase) -> set[str]:
    """The special tokens of a tokenizer that have a role, such as beginning, end and padding."""
    return {token for token in tokenizer.special_tokens_map.values() if isinstance(token, str)}


def set_chat_template(tokenizer: PreTrainedTokenizerBase, path: str) -> None:
    """Set the chat template of a tokenizer. Raises InputError for a file that cannot be read or is no template."""
    try:
        tokenizer.chat_template = Path(os.path.expanduser(path)).read_text(encoding="utf-8-sig")
        tokenizer.apply_chat_template([{"role": "user", "content": ""}], tokenize=False)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"chat_template: {path} cannot be read ({error_line(error)})") from error
    except jinja2.TemplateSyntaxError as error:
        raise InputError(f"chat_template: {path}: line {error.lineno}: {error.message}") from error
    except Exception:  # a template may refuse these messages with an error of any class
        return
