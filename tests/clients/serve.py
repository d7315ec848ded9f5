"""`transformers serve` with our decoder: the server finds no class outside of transformers' own names.

python tests/clients/serve.py serve DIRECTORY [--continuous-batching] …
"""

import transformers
from transformers.cli.transformers import main

import seqblend

if __name__ == "__main__":
    # Stands in for what ModelManager._load_model looks up as `getattr(transformers, config.architectures[0])`.
    transformers.BlendDecoderForCausalLM = seqblend.BlendDecoderForCausalLM
    main()
