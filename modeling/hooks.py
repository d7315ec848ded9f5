"""Which hooks read activations. The batch stays padded for them, (B, T, …), as in any other model."""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn
from torch.nn.modules import module as torch_module

# Packages whose hooks move, shard, cast or count modules, but do not read activations.
INFRASTRUCTURE = ("torch", "transformers", "accelerate", "deepspeed")
# The one hook of transformers that reads activations: its noise depends on the padded length T.
NEFTUNE = "neftune_post_forward_hook"
# Names of a hook that many libraries copied from transformers; it only makes the embeddings require a gradient.
REQUIRE_GRADS = ("make_inputs_require_grad", "make_inputs_require_grads")
# Attribute name of the token embedding. Its hooks do not keep the layers padded: see Stack.embed_ids.
EMBEDDING = "embed_tokens"


def has_hooked_submodule(model: nn.Module) -> bool:
    """Whether a hook on a submodule of `model`, other than the token embedding, reads activations.

    Hooks on `model` itself do not count: its inputs and outputs have the caller's form.
    """
    if any_reads_activations(
        torch_module._global_forward_hooks,
        torch_module._global_forward_pre_hooks,
        torch_module._global_backward_hooks,
        torch_module._global_backward_pre_hooks,
    ):
        return True
    # Module.modules() takes five times as long. The list grows while the loop reads it.
    modules: list[Any] = [model]
    for module in modules:
        if module is not model and is_hooked(module):
            return True
        modules += [part for name, part in module._modules.items() if part is not None and name != EMBEDDING]
    return False


def is_hooked(module: Any) -> bool:
    """Whether a forward or backward hook on this module reads activations."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(hooks) and any_reads_activations(*hooks)


def any_reads_activations(*hooks: dict[int, Callable[..., Any]]) -> bool:
    """Whether a hook in one of the hook tables of a module reads activations."""
    return any(reads_activations(hook) for registered in hooks for hook in registered.values())


def reads_activations(hook: Callable[..., Any]) -> bool:
    """Whether a hook reads activations, judged by its package and name."""
    while isinstance(hook, partial):
        hook = hook.func
    name = getattr(hook, "__name__", "")
    package = hook.__module__.split(".")[0]
    return name == NEFTUNE or (package not in INFRASTRUCTURE and name not in REQUIRE_GRADS)
