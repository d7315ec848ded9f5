"""Checkpoints of other architectures: read as models of ours, and written back in their own format."""

from .reading import from_original
from .table import ConversionError
from .writing import check, to_original

__all__ = ["ConversionError", "check", "from_original", "to_original"]
