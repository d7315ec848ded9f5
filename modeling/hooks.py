"""Which hooks read what passes through a module. Those see a padded batch (B, T, …), as in any other model."""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn
from torch.nn.modules import module as torch_module

# Packages whose hooks move, shard, cast or count modules and read no tokens.
INFRASTRUCTURE = ("torch", "transformers", "accelerate", "deepspeed")
# transformers' one exception: its noise depends on the padded length T.
NEFTUNE = "neftune_post_forward_hook"
# A hook that many libraries copied from transformers; it only makes the embeddings require a gradient.
REQUIRE_GRADS = ("make_inputs_require_grad", "make_inputs_require_grads")
# The name of a stack's token embedding. Its hooks do not decide about the layers: see Stack.embed_ids.
EMBEDDING = "embed_tokens"


def has_hooked_part(model: nn.Module) -> bool:
    """Whether a hook reads what passes through a part of `model`, its token embeddings aside.

    Hooks on `model` itself do not count: what goes in and out there has the caller's form already.
    """
    if is_read(
        torch_module._global_forward_hooks,
        torch_module._global_forward_pre_hooks,
        torch_module._global_backward_hooks,
        torch_module._global_backward_pre_hooks,
    ):
        return True
    # Not Module.modules(), which takes five times as long; the list grows while it is read.
    modules: list[Any] = [model]
    for module in modules:
        if module is not model and is_hooked(module):
            return True
        modules += [part for name, part in module._modules.items() if part is not None and name != EMBEDDING]
    return False


def is_hooked(module: Any) -> bool:
    """Whether a hook reads what passes through this module, forward or backward."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(hooks) and is_read(*hooks)


def is_read(*hooks: dict[int, Callable[..., Any]]) -> bool:
    """Whether one of the hooks, by their numbers, reads what it is given."""
    return any(reads(hook) for numbered in hooks for hook in numbered.values())


def reads(hook: Callable[..., Any]) -> bool:
    """Whether a hook reads what it is given, as far as its package and name tell."""
    while isinstance(hook, partial):
        hook = hook.func
    name = getattr(hook, "__name__", "")
    package = hook.__module__.split(".")[0]
    return name == NEFTUNE or (package not in INFRASTRUCTURE and name not in REQUIRE_GRADS)
