"""Reading and replacing what flows through a model, and giving the model back as it was.

A layer is named by its dotted module name (``features.12``, ``layer4.1.conv2``); what is read or replaced
is its output. Such a layer must run exactly once in a forward pass: an output that exists twice is no one
place in the network, so a reused layer is an error that says so.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from interpretability.devices import full_precision
from interpretability.names import listing, unknown
from interpretability.pixel_model import PixelModel


def layer_names(model: nn.Module) -> list[str]:
    """Every layer's dotted name; those of a :class:`PixelModel`'s inner model without the wrapper's prefix."""
    inner = model.model if isinstance(model, PixelModel) else model
    return [name for name, _ in inner.named_modules(remove_duplicate=False) if name]


def find_layer(model: nn.Module, name: str) -> nn.Module:
    """The layer called ``name``; ValueError with the nearest valid names if there is none."""
    for root in (model.model, model) if isinstance(model, PixelModel) else (model,):
        _check_visible(root, name)
        try:
            layer = root.get_submodule(name)
        except AttributeError:
            continue
        if name:
            return layer
    raise unknown("layer", name, layer_names(model))


def _check_visible(root: nn.Module, name: str) -> None:
    """Raise where the layer lies inside a scripted module, which runs without telling of its layers."""
    module = root
    for part in name.split("."):
        if isinstance(module, torch.jit.ScriptModule):
            raise ValueError(
                f"layer {name!r} lies inside a scripted module, whose layers cannot be seen: explain the input, or load"
                " the model without torch.jit.script"
            )
        module = getattr(module, part, module)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """The model as explanations need it, for the length of a ``with`` block.

    Inside: every module in eval mode, gradients on (also within ``no_grad`` and ``inference_mode``), no
    parameter asking for one, so that only the path from the explained quantity to the score is recorded; no TF32.
    After: mode and ``requires_grad`` of every module and parameter, and TF32, as before, also after an exception.

    Raises:
        ValueError: the model holds tensors made in inference mode, which autograd cannot work with, or
            normalises by the statistics of the batch, so that its samples cannot be explained one by one.
    """
    modules = _every_module(model)
    parameters = [p for module in modules if module._parameters for p in module._parameters.values() if p is not None]
    buffers = [b for module in modules if module._buffers for b in module._buffers.values() if b is not None]
    if any(map(Tensor.is_inference, chain(parameters, buffers))):
        raise ValueError("the model was created inside torch.inference_mode(); create or load it outside")
    for module in modules:
        if isinstance(module, _BatchNorm) and module.running_mean is None:
            name = next(name for name, found in model.named_modules() if found is module)
            raise ValueError(f"layer {name!r} mixes samples even in eval mode: it has track_running_stats=False")
    training = [module for module in modules if module.training]
    learning = [parameter for parameter in parameters if parameter.requires_grad]
    try:
        for module in training:
            module.training = False  # not .eval(): a module may override it to do more than that
        for parameter in learning:
            parameter.requires_grad_(False)
        outside = torch.inference_mode(False) if torch.is_inference_mode_enabled() else nullcontext()
        with full_precision(), outside, torch.enable_grad():
            yield model
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)
        for module in training:
            module.training = True


@contextmanager
def replace(model: nn.Module, layer: str, edit: Callable[[Tensor], Tensor | None]) -> Iterator[None]:
    """Inside the block, each forward pass of ``model`` goes on with ``edit(output)`` at ``layer``.

    Where the edit returns None, with the output as it is. An edit may stack several outputs over the
    batch; see :func:`separates`.

    A layer that worked in place hands out the very tensor it was given, so the edit is written into that
    tensor: whoever holds it sees the edit, as they would have seen the layer's own result.

    Raises:
        ValueError: from the forward pass, when the layer did not run, ran twice, or gave no tensor.
    """
    runs, given = 0, (None, 0)

    def start(module, args):
        nonlocal runs
        runs = 0

    def on_input(module, args):
        nonlocal given
        given = (args[0], _version(args[0])) if args else (None, 0)

    def on_output(module, args, output):
        nonlocal runs
        runs += 1
        if runs > 1:
            raise ValueError(f"layer {layer!r} runs more than once in a forward pass; name a block around it instead")
        if not isinstance(output, Tensor):
            raise ValueError(f"layer {layer!r} returns a {type(output).__name__}, not one tensor")
        edited = edit(output)
        if edited is None:
            return None
        if edited.shape[1:] != output.shape[1:] or len(edited) % len(output):
            raise ValueError(f"layer {layer!r} returns {tuple(output.shape)}; cannot put {tuple(edited.shape)} there")
        if getattr(module, "inplace", False) or (output is given[0] and _version(output) != given[1]):
            return output.copy_(edited)
        return edited

    def finish(module, args, output):
        if runs == 0:
            raise ValueError(f"layer {layer!r} does not run in this forward pass; these do: {_running(model, args)}")

    place = find_layer(model, layer)
    with ExitStack() as hooks:
        hooks.callback(model.register_forward_pre_hook(start).remove)
        hooks.callback(place.register_forward_pre_hook(on_input).remove)
        hooks.callback(place.register_forward_hook(on_output).remove)
        hooks.callback(model.register_forward_hook(finish).remove)
        yield


@contextmanager
def capture(model: nn.Module, layers: Iterable[str]) -> Iterator[dict[str, Tensor]]:
    """Inside the block, each forward pass of ``model`` leaves the outputs of ``layers`` in the yielded dict.

    They are copies, with their autograd history, that no later in-place operation changes.
    """
    outputs: dict[str, Tensor] = {}

    def recorder(name: str) -> Callable[[Tensor], None]:
        def record(output: Tensor) -> None:
            outputs[name] = output.clone()

        return record

    with ExitStack() as stack:
        for name in dict.fromkeys(layers):
            stack.enter_context(replace(model, name, recorder(name)))
        yield outputs


def forward_to(model: nn.Module, layer: str | None, x: Tensor) -> Tensor:
    """The output of ``layer`` at ``x``; ``x`` itself when ``layer`` is None."""
    if layer is None:
        return x
    with capture(model, [layer]) as outputs:
        model(x.clone())
    return outputs[layer]


def forward_from(model: nn.Module, layer: str | None, point: Tensor, x: Tensor) -> Tensor:
    """What the model returns when ``layer`` puts out ``point``, everything else seeing ``x``.

    With ``layer`` None, the model at ``point``. The model works on a copy: in-place operations reach
    neither ``point`` nor ``x``.
    """
    if layer is None:
        return model(point.clone())
    with replace(model, layer, lambda output: point.clone()):
        return model(x.clone())


def separates(model: nn.Module, layer: str, x: Tensor, point: Tensor, logits: Tensor) -> bool:
    """Whether what is above ``layer`` depends on its output alone, so that what is below need only see one sample.

    It does not where something leads around the layer, or where rows are counted below and used above. Tried
    out: ``point``, the layer's output at ``x``, twice over in two orders must give ``logits`` twice over. In
    half precision, whose rounding hides as much as may lead around, it is taken to.
    """
    if torch.finfo(logits.dtype).bits < 32:
        return False
    try:
        with torch.no_grad():
            twice = forward_from(model, layer, torch.cat([point, point.flip(0)]), x[:1])
    except Exception:  # whatever the model runs into with so many rows
        return False
    expected = torch.cat([logits, logits.flip(0)])
    rounding = 1e3 * torch.finfo(logits.dtype).eps * float(logits.abs().max())
    return twice.shape == expected.shape and torch.allclose(twice, expected, rtol=0, atol=rounding)


def quickest_layout(x: Tensor) -> Tensor:
    """Images on a CPU with channels last, in which convolutions are quicker; anything else contiguous."""
    images_on_cpu = x.ndim == 4 and x.device.type == "cpu"
    return x.contiguous(memory_format=torch.channels_last if images_on_cpu else torch.contiguous_format)


def check_rows(output: Tensor, layer: str | None, rows: int) -> None:
    """Raise unless the ``output`` of ``layer`` has a row for each of the ``rows`` in the batch."""
    if len(output) != rows:
        shape = tuple(output.shape)
        raise ValueError(f"layer {layer!r} returns {shape} for a batch of {rows}: it has no row per sample")


def _version(value: object) -> int:
    """How often a tensor was changed in place; tensors made in inference mode do not count it."""
    return value._version if isinstance(value, Tensor) and not value.is_inference() else 0


def _every_module(model: nn.Module) -> list[nn.Module]:
    """As ``model.modules()``, without the names that those are found by: this runs on every explanation."""
    found = {model: None}
    waiting = [model]
    while waiting:
        for child in waiting.pop()._modules.values():
            if child is not None and child not in found:
                found[child] = None
                waiting.append(child)
    return list(found)


def _running(model: nn.Module, args: tuple) -> str:
    ran: dict[str, None] = {}
    with ExitStack() as hooks, torch.no_grad():
        for name in layer_names(model):
            note = lambda module, args, output, name=name: ran.setdefault(name)  # noqa: E731
            hooks.callback(find_layer(model, name).register_forward_hook(note).remove)
        model.forward(*args)
    return listing(ran)
