"""Columns of texts, words or conversations as Arrow arrays: their lengths, what may be wrong, and hashes."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

# Separates the texts of a row, and its words: the control character "unit separator", which texts do not have.
SEPARATOR = "\x1f"
# Start and end of a text, or of a word among words that are joined by SEPARATOR.
START, END = rf"(?:^|{SEPARATOR})", rf"(?:$|{SEPARATOR})"
# How programs write that a value is missing. In small letters, `none` and `na` are words and names of classes.
MISSING_VALUES = ("None", "null", "NULL", "nan", "NaN", "NAN", "n/a", "N/A", "#N/A", "NA", "<NA>")
# White space of Unicode, as in Python's str.split; that of RE2 is ASCII.
SPACE = r"\s\x0b\x1c-\x1e\x{85}\p{Z}"
# What may be wrong with a text: a regular expression of RE2 each.
SUSPICIOUS = {
    "empty": rf"{START}[{SPACE}]*{END}",
    "spaces around": rf"{START}[{SPACE}]+[^{SPACE}{SEPARATOR}]|[^{SPACE}{SEPARATOR}][{SPACE}]+{END}",
    "line breaks": r"\n|\r",
    "control or invisible characters": (
        # Controls, soft hyphen, zero-width space, marks of direction, line separators, byte order mark. Emoji, Persian
        # and Indian scripts have joiners.
        r"[\x00-\x08\x0b\x0c\x0e-\x1e\x7f-\x{9f}\x{ad}\x{200b}\x{200e}\x{200f}\x{2028}-\x{202e}\x{2060}-\x{2064}\x{feff}]"
    ),
    "replacement characters": r"\x{fffd}",
    "entities of HTML": r"&(?:[a-zA-Z]{2,8}|#[0-9]{1,6});",
    "quotes of CSV": rf'{START}"""|"""{END}',
    "a missing value in words": rf"{START}(?:{'|'.join(MISSING_VALUES)}){END}",
}
# Words that are single characters: a space among them is one, too.
CHARACTERS = rf"(?s)^.(?:{SEPARATOR}.)+$"
NOT_NFC = "not in Unicode NFC"


def as_texts(column: pa.ChunkedArray) -> pa.Array:
    """A column of texts, or of lists that become one text each, whose items SEPARATOR separates."""
    joined = join_items(column)
    # Long texts of a batch may exceed the 2 GiB of a string array.
    joined = joined.cast(pa.large_string())
    return joined.combine_chunks() if isinstance(joined, pa.ChunkedArray) else joined


def join_items(column: pa.ChunkedArray) -> pa.ChunkedArray | pa.Array:
    """The items of each list, or the fields of each object in it, joined into one text; texts stay as they are."""
    if not pa.types.is_list(column.type):
        return column
    if pa.types.is_struct(column.type.value_type):
        objects = pc.list_flatten(column)
        fields = [pc.struct_field(objects, index) for index in range(column.type.value_type.num_fields)]
        offsets = np.concatenate([[0], pc.list_value_length(column).to_numpy().cumsum()])
        texts = pc.binary_join_element_wise(*fields, SEPARATOR).combine_chunks()
        column = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), texts)
    return pc.binary_join(column, SEPARATOR)


def first_texts(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column of texts; of several references the first. Conversations stay lists of messages."""
    has_lists = pa.types.is_list(column.type) and pa.types.is_string(column.type.value_type)
    return pc.list_element(column, 0) if has_lists else column


def lengths_of(column: pa.ChunkedArray) -> dict[str, np.ndarray]:
    """The lengths (N) of a column by unit: the items of lists, else words between spaces and characters."""
    if pa.types.is_list(column.type):
        unit = "words" if pa.types.is_string(column.type.value_type) else "messages"
        return {unit: pc.list_value_length(column).to_numpy()}
    words = pc.count_substring_regex(column, f"[^{SPACE}]+").to_numpy()
    return {"words": words, "characters": pc.utf8_length(column).to_numpy()}


def suspicious_rows(texts: pa.Array) -> dict[str, np.ndarray]:
    """The texts (N) that may be wrong, as a mask (N) for each reason."""
    found = {name: pc.match_substring_regex(texts, pattern) for name, pattern in SUSPICIOUS.items()}
    found["empty"] = pc.and_not(found["empty"], pc.match_substring_regex(texts, CHARACTERS))
    found[NOT_NFC] = pc.not_equal(texts, pc.utf8_normalize(texts, "NFC"))
    return {name: mask.to_numpy(zero_copy_only=False) for name, mask in found.items()}


def hash_rows(texts: list[pa.Array]) -> tuple[np.ndarray, np.ndarray]:
    """A hash of each row's texts together, and whether a row has any text, (N) each.

    Python's hash is the same within one process, which is enough here.
    """
    joined = pc.binary_join_element_wise(*texts, pa.scalar(SEPARATOR, pa.large_string()))
    has_text = pc.greater(pc.binary_length(joined), len(texts) - 1).to_numpy(zero_copy_only=False)
    return np.fromiter(map(hash, joined.to_pylist()), np.int64, len(joined)), has_text


def hash_answers(column: pa.ChunkedArray, is_ordered: bool) -> np.ndarray:
    """A hash of each answer: a text, a number or a list, (N).

    Args:
        column: the answers.
        is_ordered: whether the order of a list of texts counts, as of tags; that of numbers always does.
    """

    def written(value: Any) -> str:
        # Numbers have too few hashes: those of -1 and -2 are the same.
        is_set = not is_ordered and isinstance(value, list) and all(isinstance(each, str) for each in value)
        return repr(sorted(value) if is_set else value)

    return np.fromiter((hash((written(value), "answer")) for value in column.to_pylist()), np.int64, len(column))
