"""Which hooks read activations. The batch stays padded for them, (B, T, …), as in any other model.

A `forward` that is set on a module, and not on its class, counts as a hook: nnsight reads activations there.
"""

from collections.abc import Callable
from functools import partial
from types import FunctionType, MethodType
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
    """Whether a forward or backward hook on this module, or a forward in place of its own, reads activations."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return (any(hooks) and any_reads_activations(*hooks)) or has_other_forward(module)


def any_reads_activations(*hooks: dict[int, Callable[..., Any]]) -> bool:
    """Whether a hook in one of the hook tables of a module reads activations."""
    return any(reads_activations(hook) for registered in hooks for hook in registered.values())


def reads_activations(hook: Callable[..., Any]) -> bool:
    """Whether a hook reads activations, judged by its package and name."""
    hook = unwrap(hook)
    name = getattr(hook, "__name__", "")
    return name == NEFTUNE or (not is_infrastructure(hook.__module__) and name not in REQUIRE_GRADS)


def has_other_forward(module: Any) -> bool:
    """Whether this module alone, and not its class, has a forward that reads activations, judged by its package."""
    if "forward" not in module.__dict__:
        return False
    forward = unwrap(module.forward)
    defined_in = forward.__globals__["__name__"] if isinstance(forward, FunctionType) else type(forward).__module__
    # functools.wraps gives a wrapper the __module__ of the forward that it wraps.
    names = {defined_in, forward.__module__} - {type(module).forward.__module__}
    return not all(map(is_infrastructure, names))


def unwrap(hook: Callable[..., Any]) -> Any:
    """The function or object behind partial functions and methods."""
    while isinstance(hook, partial | MethodType):
        hook = hook.func if isinstance(hook, partial) else hook.__func__
    return hook


def is_infrastructure(module: str) -> bool:
    """Whether a Python module is part of a package whose hooks do not read activations."""
    return module.split(".")[0] in INFRASTRUCTURE
