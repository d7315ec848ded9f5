"""Captum's layer methods attribute a padded batch token by token, as in the padded form."""

import pytest
from captum.attr import LayerActivation, LayerConductance, LayerIntegratedGradients
from conftest import DENSE, assert_close, draw, named, padded, tiny_model

from seqblend import BlendDecoderForSequenceClassification, BlendEncoderForSequenceClassification


def attributed(method, model, layer, batch, **asked):
    def predict(inputs, mask):
        return model(
            **{"input_ids" if inputs.dim() == 2 else "inputs_embeds": inputs}, attention_mask=mask, **asked
        ).logits

    # Embeddings where the method goes on from them, as tokens have no gradient.
    inputs = batch["input_ids"]
    settings = {} if method is LayerActivation else {"target": 0, "n_steps": 5}
    if method is LayerConductance:
        inputs = model.get_input_embeddings()(inputs).detach()
    given = method(predict, layer).attribute(inputs, additional_forward_args=(batch["attention_mask"],), **settings)
    return given[0] if isinstance(given, tuple) else given


@pytest.mark.parametrize("method", [LayerIntegratedGradients, LayerConductance, LayerActivation], ids=named)
@pytest.mark.parametrize(
    "model_class", [BlendEncoderForSequenceClassification, BlendDecoderForSequenceClassification], ids=named
)
def test_tokens_are_attributed_in_their_places(model_class, method):
    model = tiny_model(model_class)
    batch = padded(draw(model_class, [6, 3], labels=False))
    layer = model.get_input_embeddings() if method is LayerIntegratedGradients else model.model.layers[0]
    tokens = attributed(method, model, layer, batch)
    assert tokens.shape == (2, 6, model.config.hidden_size)
    assert_close(tokens, attributed(method, model, layer, batch, **DENSE))
