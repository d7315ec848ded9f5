"""A small model of each family and a batch for it, in the form that transformers' common tests ask for."""

import torch
from tests.test_modeling_common import ids_tensor, random_attention_mask

from seqblend import FAMILIES, BlendEncoderDecoderConfig

# By the names in transformers' tables the tests know which model has no head, and which labels a head takes.
for family, models in FAMILIES.items():
    for auto_class, model_class in models.items():
        auto_class._model_mapping._model_mapping[family.model_type] = model_class.__name__

# Of two layers the second slides. Most tests take it for granted that a cache holds every token, so the window is
# longer than their sequences; test_eager_matches_sdpa_inference sets one of 2.
SLIDING = {"layer_types": ["full_attention", "sliding_attention"], "sliding_window": 64}
SIZES = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "intermediate_size",
    "max_position_embeddings",
)


class Sample:
    """What transformers' tests call a model tester: sizes that they read, a config and inputs."""

    batch_size = 13
    seq_length = 7
    is_training = True
    vocab_size = 99
    hidden_size = 32
    num_hidden_layers = 2
    num_attention_heads = 4
    num_key_value_heads = 2
    intermediate_size = 37
    max_position_embeddings = 512
    num_labels = 3

    def __init__(self, config_class):
        self.config_class = config_class
        self.options = {}
        self.is_padded = True

    def get_config(self):
        sizes = {name: getattr(self, name) for name in SIZES}
        return self.config_class.from_recipe(**sizes, bos_token_id=1, **SLIDING, **self.options)

    def prepare_config_and_inputs_for_common(self):
        shape = [self.batch_size, self.seq_length]
        inputs = {"input_ids": ids_tensor(shape, self.vocab_size)}
        if self.is_padded:
            inputs["attention_mask"] = random_attention_mask(shape)
        if self.config_class is BlendEncoderDecoderConfig:
            inputs["decoder_input_ids"] = ids_tensor(shape, self.vocab_size)
            # Some tests put tokens before and after it as if none of it were padding.
            inputs["decoder_attention_mask"] = torch.ones(shape, dtype=torch.long)
        return self.get_config(), inputs
