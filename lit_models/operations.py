"""The formulas of `functional` and its neighbours composed along a chain of modules, as `LitCNN` is one.

The modules hold parameters and settings; what is computed is the formulas' alone. `OPERATIONS` tells which formulas
a kind of module stands for.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lit_models import functional as F
from lit_models import functional_conv
from lit_models import functional_maps as M


class Operation(NamedTuple):
    """What a kind of module computes.

    ``forward(module, x, training)`` gives the output and a cache. ``backward(dz, cache)`` gives the gradients of the
    module's parameters, in the order in which it holds them; it is None for a module without any.
    ``input_backward(dz, cache, gradients)`` gives dx. It may use the gradients of the parameters, if they are there.
    """

    forward: Callable[[Any, Tensor, bool], tuple[Tensor, Any]]
    input_backward: Callable[[Tensor, Any, tuple[Tensor, ...]], Tensor]
    backward: Callable[[Tensor, Any], tuple[Tensor, ...]] | None = None


class Link(NamedTuple):
    """A module of the chain, by its name, with its formulas."""

    name: str
    module: nn.Module
    operation: Operation


Caches = list[Any]  # of each link


# --- one operation for each kind of module ----------------------------------------------------------------


def elementwise(name: str) -> Operation:
    """An activation of `lit_models.functional.ACTIVATIONS`."""
    forward, backward = F.ACTIVATIONS[name]
    return Operation(lambda module, x, training: forward(x), lambda da, cache, gradients: backward(da, cache))


def _rows(linear: nn.Linear, x: Tensor, training: bool) -> tuple[Tensor, Any]:
    if x.dim() != 2 or x.shape[1] != linear.in_features:
        raise ValueError(
            f"rows of {linear.in_features} features are wanted, not maps or rows of shape {tuple(x.shape)}"
        )
    b = linear.bias if linear.bias is not None else x.new_zeros(linear.out_features)
    return F.linear_forward(x, linear.weight, b)


def _normalise(norm: nn.BatchNorm2d, x: Tensor, training: bool) -> tuple[Tensor, tuple[M.NormCache, bool]]:
    """By the batch's statistics while training, which the running ones follow (eq. 1.30), else by the running ones."""
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None and variance is not None
    if not training:
        z, cache = M.running_norm_forward(x, norm.weight, norm.bias, mean, variance, norm.eps)
        return z, (cache, False)
    z, cache = M.batch_norm_forward(x, norm.weight, norm.bias, norm.eps)
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked += 1
    share = 1 / norm.num_batches_tracked.item() if norm.momentum is None else norm.momentum
    M.follow_statistics(mean, variance, cache, x.numel() // x.shape[1], share)
    return z, (cache, True)


def _norm_gradients(dz: Tensor, cache: tuple[M.NormCache, bool]) -> tuple[Tensor, Tensor]:
    return M.batch_norm_backward(dz, cache[0])


def _norm_input(dz: Tensor, cache: tuple[M.NormCache, bool], gradients: tuple[Tensor, ...]) -> Tensor:
    norm, training = cache
    if not training:
        return M.running_norm_input_backward(dz, norm)
    return M.batch_norm_input_backward(dz, norm, *(gradients or M.batch_norm_backward(dz, norm)))


def _drop(whole: bool) -> Operation:
    """Dropout of single values, or of whole maps."""

    def forward(dropout: nn.Dropout | nn.Dropout2d, a: Tensor, training: bool) -> tuple[Tensor, Tensor | None]:
        return M.map_dropout_forward(a, dropout.p, whole) if training and dropout.p > 0 else (a, None)

    return Operation(forward, lambda d_out, mask, _: d_out if mask is None else M.map_dropout_backward(d_out, mask))


OPERATIONS: dict[type[nn.Module], Operation] = {
    nn.Conv2d: Operation(
        lambda conv, x, training: functional_conv.conv_forward(x, conv.weight, conv.bias, conv.stride, conv.padding),
        lambda dz, cache, gradients: functional_conv.conv_input_backward(dz, cache),
        lambda dz, cache: functional_conv.conv_backward(dz, cache),
    ),
    nn.Linear: Operation(
        _rows,
        lambda dz, cache, gradients: F.linear_input_backward(dz, cache),
        lambda dz, cache: F.linear_backward(dz, cache),
    ),
    nn.BatchNorm2d: Operation(_normalise, _norm_input, _norm_gradients),
    nn.MaxPool2d: Operation(
        lambda pool, x, training: M.max_pool_forward(x, pool.kernel_size, pool.stride, pool.padding),
        lambda dz, cache, gradients: M.max_pool_backward(dz, cache),
    ),
    nn.AvgPool2d: Operation(
        lambda pool, x, training: M.average_pool_forward(x, pool.kernel_size, pool.stride, pool.padding),
        lambda dz, cache, gradients: M.average_pool_backward(dz, cache),
    ),
    nn.Flatten: Operation(
        lambda flatten, x, training: M.flatten_forward(x),
        lambda d_out, shape, gradients: M.flatten_backward(d_out, shape),
    ),
    nn.Dropout: _drop(whole=False),
    nn.Dropout2d: _drop(whole=True),
    nn.Identity: elementwise("identity"),
    nn.ReLU: elementwise("relu"),
    nn.LeakyReLU: elementwise("leaky_relu"),
    nn.Tanh: elementwise("tanh"),
    nn.Sigmoid: elementwise("sigmoid"),
    nn.Softplus: elementwise("softplus"),
    nn.GELU: elementwise("gelu"),
    nn.SiLU: elementwise("silu"),
}

# the settings that the formulas know, where a module has others too
SETTINGS: dict[type[nn.Module], dict[str, tuple]] = {
    nn.Conv2d: {"groups": (1,), "dilation": ((1, 1),), "padding_mode": ("zeros",)},
    nn.BatchNorm2d: {"affine": (True,), "track_running_stats": (True,)},
    nn.MaxPool2d: {"dilation": (1, (1, 1)), "ceil_mode": (False,), "return_indices": (False,)},
    nn.AvgPool2d: {"ceil_mode": (False,), "count_include_pad": (True,), "divisor_override": (None,)},
    nn.Flatten: {"start_dim": (1,), "end_dim": (-1,)},
    nn.LeakyReLU: {"negative_slope": (F.LEAKY_SLOPE,)},
    nn.Softplus: {"beta": (1, 1.0)},
    nn.GELU: {"approximate": ("none",)},
}


# --- the chain --------------------------------------------------------------------------------------------


def chain(parts: Iterable[tuple[str, nn.Module]]) -> list[Link]:
    """The modules in order, with the contents of each ``nn.Sequential`` in its place.

    Raises:
        ValueError: a module has no formula, or a setting or parameter that its formula does not know; it is named.
    """
    links = []
    for name, module in parts:
        if type(module) is nn.Sequential:
            links.extend(chain((f"{name}.{child}", part) for child, part in module.named_children()))
        else:
            links.append(Link(name, module, _operation(name, module)))
    return links


def _operation(name: str, module: nn.Module) -> Operation:
    kind = type(module)
    if kind not in OPERATIONS:
        known = ", ".join(sorted(one.__name__ for one in OPERATIONS))
        raise ValueError(f"{name} is a {kind.__name__}, for which there is no formula; there are: {known}")
    for setting, values in SETTINGS.get(kind, {}).items():
        if (found := getattr(module, setting)) not in values:
            raise ValueError(
                f"{name}: the formula of {kind.__name__} knows {setting}={values[0]!r} only, not {found!r}"
            )
    others = {own for own, _ in module.named_parameters(recurse=False)} - {"weight", "bias"}
    if others:
        raise ValueError(f"{name} is reparametrised by {', '.join(sorted(others))}, for which there is no formula")
    return OPERATIONS[kind]


def chain_forward(links: list[Link], x: Tensor, evaluate: bool = False) -> tuple[Tensor, Caches]:
    """``x`` through all links. Each follows its module's mode, or all are evaluated.

    Raises:
        ValueError: a link's input does not fit it; the link is named.
    """
    caches = []
    for name, module, operation in links:
        try:
            x, cache = operation.forward(module, x, module.training and not evaluate)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
        caches.append(cache)
    return x, caches


def chain_backward(dy: Tensor, links: list[Link], caches: Caches) -> dict[str, Tensor]:
    """The gradient of every parameter by its name, from the input to the output (eq. 1.17)."""
    first = next((i for i, link in enumerate(links) if link.operation.backward), len(links))
    found: list[dict[str, Tensor]] = []
    for depth in range(len(links) - 1, first - 1, -1):
        name, module, operation = links[depth]
        gradients = operation.backward(dy, caches[depth]) if operation.backward else ()
        own = [own for own, _ in module.named_parameters(recurse=False)]
        found.append({f"{name}.{own}": gradient for own, gradient in zip(own, gradients)})
        if depth > first:  # below it nothing learns
            dy = operation.input_backward(dy, caches[depth], gradients)
    return {name: gradient for gradients in reversed(found) for name, gradient in gradients.items()}


def chain_input_backward(dy: Tensor, links: list[Link], caches: Caches) -> Tensor:
    """``dx``, the gradient with respect to the input of the chain (eq. 1.18)."""
    for (_, _, operation), cache in zip(reversed(links), reversed(caches)):
        dy = operation.input_backward(dy, cache, ())
    return dy


def score_input_gradient(links: list[Link], x: Tensor, score_gradient: Callable[[Tensor], Tensor]) -> Tensor:
    """∂score/∂x of the evaluated chain; ``score_gradient`` gives ∂score/∂y of its output y."""
    with torch.no_grad():
        y, caches = chain_forward(links, x, evaluate=True)
        return chain_input_backward(score_gradient(y), links, caches)
