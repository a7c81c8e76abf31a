"""On which device, in which precision and in what portions a model is evaluated."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import chain
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

MEMORY_ERRORS = ("can't allocate memory", "not enough memory", "out of memory", "ALLOC_FAILED")


def device_of(model: nn.Module) -> torch.device | None:
    """Where the model's first parameter, or else its first buffer, lies; None for a model that has neither."""
    first = next(chain(model.parameters(), model.buffers()), None)
    return None if first is None else first.device


def on_models_device(function: F) -> F:
    """Let ``function(model, …)`` take tensors from any device.

    They go to the model's device, and what it returns comes back on the device of the argument ``x`` (else of the
    first tensor among the arguments).
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        arguments = signature.bind(*args, **kwargs).arguments
        tensors = {name: value for name, value in arguments.items() if isinstance(value, Tensor)}
        device = device_of(arguments["model"])
        if device is None or all(tensor.device == device for tensor in tensors.values()):
            return function(*args, **kwargs)
        origin = tensors.get("x", next(iter(tensors.values()))).device
        bound = signature.bind(*args, **kwargs)
        bound.arguments |= {name: tensor.to(device) for name, tensor in tensors.items()}
        return moved(function(*bound.args, **bound.kwargs), origin)

    return cast(F, wrapped)


def moved(value: T, device: torch.device) -> T:
    """``value`` with every tensor in it on ``device``: alone, or in tuples, lists, dicts and dataclasses."""
    if isinstance(value, Tensor):
        return value.to(device)  # type: ignore[return-value]
    if isinstance(value, tuple | list):
        return type(value)(moved(one, device) for one in value)
    if isinstance(value, dict):
        return type(value)((key, moved(one, device)) for key, one in value.items())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: moved(getattr(value, field.name), device) for field in dataclasses.fields(value)}
        return dataclasses.replace(value, **fields)
    return value


@contextmanager
def full_precision() -> Iterator[None]:
    """Inside, float32 is computed as float32: no TF32 or bfloat16 in its place. Afterwards as it was.

    Torch has two sets of switches for this: those of ``allow_tf32``, and, from 2.9 on, a precision by backend and
    operation. Both are set, because a caller's model may read either; the older one cannot be read where a caller has
    set the newer one alone, and is then left as it is.
    """
    switches = _switches()
    before = [switch.fp32_precision for switch in switches]
    older = None
    with suppress(RuntimeError):
        older = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    try:
        if older is not None:
            torch.set_float32_matmul_precision("highest")
            torch.backends.cudnn.allow_tf32 = False
        for switch in switches:
            switch.fp32_precision = "ieee"
        yield
    finally:
        if older is not None:
            torch.set_float32_matmul_precision(older[0])
            torch.backends.cudnn.allow_tf32 = older[1]
        for switch, precision in zip(switches, before):
            switch.fp32_precision = precision


@functools.cache
def _switches() -> tuple[Any, ...]:
    """What has a precision of its own, in this version of torch."""
    cudnn, mkldnn, matmul = torch.backends.cudnn, torch.backends.mkldnn, torch.backends.cuda.matmul
    names = ((cudnn, "conv"), (cudnn, "rnn"), (mkldnn, "conv"), (mkldnn, "rnn"), (mkldnn, "matmul"))
    found = [matmul, *(getattr(backend, name, None) for backend, name in names)]
    return tuple(switch for switch in found if hasattr(switch, "fp32_precision"))


def in_portions(total: int, step: int, evaluate: Callable[[slice], T]) -> Iterator[T]:
    """``evaluate(slice)`` over 0 … ``total`` − 1, ``step`` at a time; from there on half as many when memory runs out.

    ``evaluate`` must be repeatable: it is called again for what it could not finish.

    Raises:
        RuntimeError: the memory does not suffice for one at a time; the device's own error.
    """
    start = 0
    while start < total:
        part = slice(start, min(start + step, total))
        size = part.stop - part.start
        try:
            found = evaluate(part)
        except (RuntimeError, MemoryError) as error:
            if size == 1 or not is_out_of_memory(error):
                raise
            step = size // 2
            continue
        yield found
        start = part.stop


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device, or the machine, had no memory left."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(
        words in str(error) for words in MEMORY_ERRORS
    )
