"""The encoder: every token attends to every token."""

from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict

from .base import BlendConfig
from .checks import add_field_help, option, positive


@add_field_help
@strict
class BlendEncoderConfig(BlendConfig):
    """An encoder: a stack of blocks in which every token attends to every token of its sequence.

    It has the fields of BlendConfig, and some that only encoders have.
    """

    model_type = "blend_encoder"
    is_bidirectional: ClassVar[bool] = True
    keys_to_ignore_at_inference = ["hidden_states", "attentions"]

    sparse_prediction: bool = option(
        "In training, a masked language model projects only the masked tokens onto the vocabulary.", True
    )
    embedding_size: int | None = option(
        "Number of features of the embeddings, which a matrix projects to hidden_size (ALBERT, ELECTRA-small); the "
        "head of a masked language model projects back to it. None: hidden_size, without a projection.",
        None,
        positive,
    )
    affix_buckets: int | None = option(
        "Number of embeddings of each kind of affix. The kinds are prefixes and suffixes of 1 to 4 letters. The "
        "embeddings of a word's affixes are added to the embedding of each token of the word; a hash of the letters "
        "selects them. The tokenizer must be WordPiece. None: no affixes.",
        None,
        positive,
    )
    share_layers: bool = option("A single layer is used num_hidden_layers times (ALBERT).", False)
    lm_head_hidden: bool = option(
        "Hidden layer before the projection of a masked language model onto the vocabulary (BERT).", True
    )
    lm_head_hidden_bias: bool | None = option("Bias of that hidden layer. None: as mlp_bias.", None)

    cls_token_id: int | None = option("First token, whose vector is classified with pooling='cls'.", None)
    sep_token_id: int | None = option("Token between two texts and after them.", None)
    mask_token_id: int | None = option("Token that replaces a token to be predicted.", None)

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        if self.lm_head_hidden_bias is None:
            self.lm_head_hidden_bias = self.lm_head_hidden and self.mlp_bias

    @property
    def has_embedding_projection(self) -> bool:
        """Whether the embeddings are projected to hidden_size."""
        return self.embedding_size is not None

    @property
    def shares_layers(self) -> bool:
        """Whether all layers are one."""
        return self.share_layers

    @property
    def embedding_width(self) -> int:
        """Number of features of the embeddings."""
        return self.hidden_size if self.embedding_size is None else self.embedding_size

    def validate_shared_layers(self) -> None:
        """Raises ValueError for shared layers that are not all alike."""
        if self.share_layers and not self.first_norm:
            raise ValueError(
                "first_norm=False does not go together with share_layers=True: the first layer is each layer"
            )
        if self.share_layers and len(set(self.layer_types or [])) > 1:
            raise ValueError(f"share_layers=True needs one type of layer, got layer_types={self.layer_types}")

    def validate_lm_head(self) -> None:
        """Raises ValueError for a bias of a missing hidden layer, or a head that cannot project the hidden states."""
        if self.lm_head_hidden:
            return
        if self.lm_head_hidden_bias:
            raise ValueError("lm_head_hidden_bias=True has no effect: lm_head_hidden=False")
        if self.embedding_width != self.hidden_size:
            raise ValueError(
                f"embedding_size={self.embedding_size} other than hidden_size={self.hidden_size} needs "
                "lm_head_hidden=True: the head's hidden layer projects to it"
            )

    def validate_recurrent_size(self) -> None:
        """Raises ValueError if recurrent_size is odd: it is divided between two directions."""
        if self.recurrent_size is not None and self.recurrent_size % 2:
            raise ValueError(f"recurrent_size={self.recurrent_size} must be even: an encoder reads in two directions")
