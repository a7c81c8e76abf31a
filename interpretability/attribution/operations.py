"""Seeing every operation of a forward pass, whichever way the model spells it.

``nn.ReLU()(z)``, ``F.relu(z)``, ``z.relu()``, ``z.relu_()`` are one operation, called ``relu`` here. A method
that gives operations a meaning of its own (a relevance rule, a difference from a baseline) says so by
name, for modules, functional calls and reused modules alike. A name without an entry is an error that
lists the names there are: nothing passes through unseen.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from interpretability.attribution.taken_apart import APART
from interpretability.attribution.torch_functions import (
    CONSTANTS,
    NUMBERS,
    changes_in_place,
    on_a_copy,
    operation_name,
    tensors_in,
)
from interpretability.layers import replace
from interpretability.targets import check_logits

Handler = Callable[..., Any]  # (operations, func, args, kwargs) -> what func returns

OPERANDS = ("input", "other")  # the keywords of the first two arguments
COMMUTATIVE = ("add", "mul", "maximum", "minimum")  # the input may stand second


class UnsupportedOperation(ValueError):
    """An operation that the method has no rule for."""


class Carry(torch.autograd.Function):
    """``value`` forward; backward, what ``shared`` makes of the value's gradient for each of ``inputs``."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, shared: Callable[[Tensor], tuple], *inputs: Tensor) -> Tensor:
        """Keeps only the function: it holds the tensors that it needs.

        Returned as it came, a batch of one would be given strides that its memory format no longer shows in.
        """
        ctx.shared = shared
        return value.detach()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        """Nothing for the value itself, which comes without history."""
        return None, None, *ctx.shared(*gradients)


class Operations(TorchFunctionMode):
    """Inside ``with``, operations on what depends on ``x`` go to the handler of their name.

    In-place operations are carried out on a copy, and whoever still holds the changed tensor is given the
    copy instead; so handlers never see one, and autograd's saved values stay as they were.

    A subclass names its method, for errors, and its handlers: what to do in place of an operation. They are
    the class's, not bound to an instance, so that a forward pass leaves no reference cycle behind.

    Args:
        x: the tensor whose influence is followed; None to name it later, with :meth:`follow`.
    """

    method: str
    handlers: ClassVar[Mapping[str, Handler]]

    def __init__(self, x: Tensor | None = None):
        super().__init__()
        self._followed: dict[int, tuple[Tensor, Any]] = {}  # with their grad_fn; held, so that an id stays theirs
        self._now: dict[int, Tensor] = {}  # tensors changed in place -> what they have become
        self._stale: set[int] = set()  # the storages of those tensors
        if x is not None:
            self.follow(x)

    def follow(self, result: Any) -> None:
        """Follow the influence of the tensors in ``result`` from here on."""
        self._followed.update((id(tensor), (tensor, tensor.grad_fn)) for tensor in tensors_in([result]))

    def follows(self, value: object) -> bool:
        """Whether ``value`` is a tensor that depends on ``x``."""
        return id(value) in self._followed

    def current(self, value: Any) -> Any:
        """``value`` with every tensor that was changed in place exchanged for what it has become."""
        if isinstance(value, (list, tuple)) and not isinstance(value, torch.Size):
            return type(value)([self.current(item) for item in value])
        while id(value) in self._now:
            value = self._now[id(value)]
        return value

    def finished(self, logits: Tensor, rows: int | None = None) -> Tensor:
        """What the model returned for ``rows`` samples, after its last in-place operation, if all was seen."""
        check_logits(logits, rows)
        logits = self.current(logits)
        self._check_visible(tensors_in([logits]), "the output")
        return logits

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        name, in_place = operation_name(func), changes_in_place(func, args, kwargs)
        if self._now:
            args, kwargs = self.current(tuple(args)), {key: self.current(value) for key, value in kwargs.items()}
        tensors = tensors_in((*args, *kwargs.values()))
        self._check_visible(tensors, name)
        if name in CONSTANTS or not any(map(self.follows, tensors)):
            return func(*args, **kwargs)
        for place, keyword in enumerate(OPERANDS):
            if len(args) == place and keyword in kwargs:
                args = (*args, kwargs.pop(keyword))
        if getattr(func, "__name__", "") in NUMBERS:
            raise self.unsupported(f"{name}, which makes a number of what depends on the input")
        if name not in APART and (not args or any(map(self.follows, tensors_in(kwargs.values())))):
            raise self.unsupported(f"{name} with its input as a keyword")
        changed: Tensor | None = args[0] if in_place else None
        if changed is not None:
            func = on_a_copy(func)
        handler = self.handlers.get(name)
        result = func(*args, **kwargs) if handler is None else handler(self, func, args, kwargs)
        if handler is None and (in_place or name == "setitem" or tensors_in([result])):
            raise self.unsupported(name)
        self.follow(result)
        if changed is not None:
            self._now[id(changed)] = result
            self._stale.add(changed.untyped_storage().data_ptr())
            self.follow(changed)
        return result

    def unsupported(self, operation: str) -> UnsupportedOperation:
        """The error for an operation without a rule: where it is, and the rules that exist."""
        known = ", ".join(self.handlers)
        return UnsupportedOperation(f"{self.method} has no rule for {operation}{place()}; rules exist for: {known}")

    def only_input(self, func: Callable, args: tuple, kwargs: dict) -> Tensor:
        """The argument that depends on the input, where it is the only one and in its place; else an error."""
        name = operation_name(func)
        followed = [tensor for tensor in tensors_in((*args, *kwargs.values())) if self.follows(tensor)]
        if len(followed) > 1:
            raise self.unsupported(f"{name} of values that both depend on the input")
        if args[0] is not followed[0] and name not in COMMUTATIVE:
            raise self.unsupported(f"{name} with the input in second place")
        return followed[0]

    def _check_visible(self, arguments: list[Tensor], name: str) -> None:
        for tensor in arguments:
            _, seen = self._followed.get(id(tensor), (None, None))
            if self._stale and id(tensor) not in self._now and tensor.untyped_storage().data_ptr() in self._stale:
                raise UnsupportedOperation(f"{name}{place()} reads a view of a tensor that was changed in place")
            made_by = tensor.grad_fn
            if made_by is not None and made_by is not seen:  # an operation of which torch does not tell
                raise UnsupportedOperation(
                    f"{self.method} cannot see into {made_by.name()}, which feeds {name}{place()}"
                )


def taken_apart(operations: Operations, func: Callable, args: tuple, kwargs: dict) -> Any:
    """The operation written out in simpler ones, which are seen one by one."""
    with operations:
        return APART[operation_name(func)](*args, **kwargs)


def softmax_axis(func: Callable, args: tuple, kwargs: dict) -> int:
    """The axis that a softmax goes over."""
    dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
    if dim is None:
        raise UnsupportedOperation(f"softmax{place()} leaves its axis to torch; call it with dim=")
    return dim


def operands(func: Callable, args: tuple) -> tuple:
    """The arguments with those of an einsum that came as a list side by side."""
    listed = operation_name(func) == "einsum" and isinstance(args[1], (list, tuple))
    return (args[0], *args[1]) if listed else args


def own_copy(x: Tensor) -> Tensor:
    """A copy of the input; of images on a CPU in channels-last layout, in which all that follows is quicker."""
    images_on_cpu = x.ndim == 4 and x.device.type == "cpu"
    return x.clone(memory_format=torch.channels_last if images_on_cpu else torch.contiguous_format)


def value_of(func: Callable, args: tuple, kwargs: dict) -> Tensor:
    """The operation's result, without history."""
    with torch.no_grad():
        return func(*args, **kwargs).detach()


def check_dropout(func: Callable, args: tuple, kwargs: dict) -> None:
    """Raise where a dropout drops although the model is in eval mode, as ``F.dropout(x)`` does."""
    given = dict(zip(("input", "p", "training"), args)) | kwargs
    given.setdefault("training", given.pop("train", func.__module__ == "torch.nn.functional"))
    if given["training"]:
        raise UnsupportedOperation(f"dropout{place()} is on in eval mode; call it with training=self.training")


def place() -> str:
    """`` in Conv2d``: the innermost module whose code is running, if any."""
    frame = inspect.currentframe()
    while frame is not None:
        module = frame.f_locals.get("self")
        if isinstance(module, nn.Module):
            return f" in {type(module).__name__}"
        frame = frame.f_back
    return ""


@contextmanager
def passing_through(model: nn.Module, layer: str | None, x: Tensor) -> Iterator[list[Tensor]]:
    """The point, last in the yielded list after a forward pass: ``x``, or the output of ``layer``.

    The forward pass goes on from a copy of it, so nothing merges what is before it with what comes after.
    """
    points = [x]

    def record(output: Tensor) -> Tensor:
        points.append(output.clone())
        return points[-1].clone()

    with nullcontext() if layer is None else replace(model, layer, record):
        yield points
