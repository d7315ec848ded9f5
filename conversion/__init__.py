"""Checkpoints of other architectures: loaded as models of seqblend, and written back in their original format."""

from .converting import convert
from .reading import from_original
from .table import ConversionError
from .writing import check, to_original

__all__ = ["ConversionError", "check", "convert", "from_original", "to_original"]
