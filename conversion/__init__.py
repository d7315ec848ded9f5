"""Checkpoints of other architectures: loaded as models of seqblend, and written back in their original format."""

from .reading import from_original
from .table import ConversionError
from .writing import check, to_original

__all__ = ["ConversionError", "check", "from_original", "to_original"]
