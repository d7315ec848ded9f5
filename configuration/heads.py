"""The fields of heads and losses, which all three architectures have."""

from typing import Literal

from .checks import activation, check_classifier, check_labels, option, positive, probability
from .recipe_config import RecipeConfig

# Schemes by which tags mark spans; scoring/tags.py has their rules.
TagSchemeName = Literal["IO", "IOB1", "IOB2", "IOE1", "IOE2", "IOBES", "BILOU", "BMES", "BMEWO"]
Pooling = Literal["cls", "mean", "last", "last_non_pad", "eos", "hidden_mean"]


class HeadConfig(RecipeConfig):
    """The fields of the heads, and of the losses."""

    pooling: Pooling = option(
        "The vector of a sequence. `cls`: the vector of its first real token. `mean`: the mean of its real tokens. "
        "`last`: the vector of its last real token. `last_non_pad`: the vector of the last real token that is not "
        "pad_token_id (converted decoders). `eos`: the vector of its last eos_token_id. Without such a token both are "
        "`last`. `hidden_mean`: the mean of the outputs of the classifier's hidden layer (EuroBERT).",
        "cls",
    )
    classifier_hidden_act: str | None = option(
        "Activation of the hidden layer before the projection of a sequence's vector onto the labels (BERT's pooler). "
        "None: no such layer.",
        None,
        activation,
    )
    classifier_hidden_bias: bool = option("Bias of a classifier's hidden layer.", True)
    classifier_hidden_norm: bool = option("Norm after a classifier's hidden layer (ModernBERT).", False)
    token_classifier_hidden: bool = option(
        "Token classification also has the hidden layer of a classifier (ModernBERT).", False
    )
    score_bias: bool = option("Bias of the projection of a sequence's vector onto the labels.", True)
    classifier_dropout: int | float = option("Dropout before the projection of a classifier.", 0.1, probability)
    class_weights: list[int | float] | None = option(
        "In the training loss of sequence and token classification, a weight for each class. None: all equal.", None
    )
    label_smoothing: int | float = option(
        "In the training loss, the share of a target's probability that is spread over all classes.", 0.0, probability
    )
    tag_scheme: TagSchemeName | None = option(
        "How the labels of token classification mark spans, as found in training. None: inferred from their names.",
        None,
    )
    calibration_temperature: int | float | None = option(
        "Temperature by which the last projection was divided after training (Guo et al. 2017). None: no division.",
        None,
        positive,
    )
    label_thresholds: list[int | float] | None = option(
        "For several labels, the probability above which each label is predicted. None: 0.5.", None
    )
    abstain_threshold: int | float | None = option(
        "For a single label, the score below which the model abstains. None: it never abstains.", None
    )
    abstain_score: Literal["probability", "energy"] = option(
        "The score that is compared with abstain_threshold. `probability`: that of the label. `energy`: the logarithm "
        "of the sum of the exponentials of all logits (Liu et al. 2020).",
        "probability",
    )
    original_model_type: str | None = option(
        "model_type of the architecture that the model was converted from; original_files/ holds the files kept from "
        "it.",
        None,
    )

    def validate_labels(self) -> None:
        """Raises ValueError for an unknown problem type, or class weights that do not fit the labels."""
        check_labels(self)

    def validate_classifier(self) -> None:
        """Raises ValueError for an option of the classifiers that has no effect or needs another."""
        check_classifier(self)
