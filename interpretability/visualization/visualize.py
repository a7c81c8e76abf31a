"""The loop of feature visualisation: ascend an objective through a parameterisation and random views."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress

import torch
from torch import Tensor, nn
from tqdm import tqdm

from interpretability.layers import capture, evaluating, find_layer, quickest_layout
from interpretability.maps import reading_of
from interpretability.names import unknown
from interpretability.visualization.objectives import Objective, Outputs
from interpretability.visualization.parameterization import PARAMETERIZATIONS, Parameterization
from interpretability.visualization.regularizers import Regularizer
from interpretability.visualization.relu import PassedReLUs
from interpretability.visualization.transforms import Transform, default_transforms

PASSED_RELU_STEPS = 16


def visualize(
    model: nn.Module,
    objective: Objective | Sequence[Objective],
    shape: Sequence[int],
    *,
    steps: int = 256,
    parameterization: str = "fourier",
    transforms: Sequence[Transform] | None = None,
    regularizers: Sequence[Regularizer] = (),
    seed: int = 0,
    learning_rate: float = 0.05,
    start: Tensor | None = None,
    progress: bool = False,
) -> Tensor:
    """Images that maximise an objective by gradient ascent (Olah et al. 2017, "Feature Visualization"; eq. 7.1).

    ``objective`` is one, or M of them: these share each pass, which ends at the last layer that they read.
    ``shape`` is (C, H, W), or (N, C, H, W) for N images of each objective (with `diversity`, say).
    ``transforms`` are the random views that the ascent sees: None for a shift, zoom and turn, () for none.
    ``start`` holds images to set out from, instead of grey with faint noise.

    For a look at many channels, 96 × 96 pixels and 64 steps show enough, 16 or more to a call; for a class to
    be seen well, 192 pixels or more and 256 steps.

    Returns (M·N, C, H, W) in [0, 1], the N images of an objective next to one another, and warns of objectives
    that no view changed, such as a dead channel. Raises ValueError where a layer or channel does not exist.
    """
    objectives = [objective] if isinstance(objective, Objective) else list(objective)
    each, image_shape = _image_shape(shape, objectives, steps)
    generator = torch.Generator().manual_seed(seed)
    views = default_transforms(*image_shape[1:]) if transforms is None else transforms
    layers = {name for one in objectives for name in one.layers}
    with evaluating(model):
        canvas = _canvas(parameterization, [len(objectives) * each, *image_shape], generator, start, model)
        view = canvas()[:1].detach()
        for transform in views:
            view = transform(view, torch.Generator().manual_seed(seed))
        as_maps = _readings(model, objectives, layers, view)
    with evaluating(model), reading(model, layers) as read:
        optimizer = torch.optim.Adam(canvas.parameters(), lr=learning_rate)
        history: list[Tensor] = []
        for step in tqdm(range(steps), desc="visualize", unit="step", disable=not progress):
            images = view = canvas()
            for transform in views:
                view = transform(view, generator)
            with PassedReLUs() if step < PASSED_RELU_STEPS else nullcontext():
                outputs = {name: as_maps[name](output) for name, output in read(quickest_layout(view)).items()}
                scores = _scores(objectives, each, outputs)
            penalty = torch.stack([penalize(images).sum() for penalize in regularizers] or [0 * images.sum()])
            (canvas.free.grad,) = torch.autograd.grad(penalty.sum() - scores.sum(), [canvas.free])
            optimizer.step()
            history.append(scores.detach())
        result = canvas().detach()
    _warn_unmoved(objectives, torch.stack(history).view(steps, len(objectives), each))
    return result


@contextmanager
def reading(model: nn.Module, layers: set[str | None]) -> Iterator[Callable[[Tensor], Outputs]]:
    """Yields ``read(x) -> outputs by layer``, whose pass through the model ends once all ``layers`` have run."""
    names = [name for name in layers if name is not None]
    with capture(model, names) as outputs:

        def stop(module: nn.Module, args: tuple, output: Tensor) -> None:
            if len(outputs) == len(layers):
                raise _AllSeen

        def read(x: Tensor) -> Outputs:
            outputs.clear()
            found: dict[str | None, Tensor] = {}
            with suppress(_AllSeen):
                found[None] = model(x)
            found.update(outputs)
            return found

        hooks = [find_layer(model, name).register_forward_hook(stop) for name in names]
        try:
            yield read
        finally:
            for hook in hooks:
                hook.remove()


def _readings(
    model: nn.Module, objectives: Sequence[Objective], layers: set[str | None], x: Tensor
) -> dict[str | None, Callable[[Tensor], Tensor]]:
    """What makes maps of each layer's output; logits stay as they are."""
    given = {name: how for one in objectives for name, how in one.maps.items()}
    with reading(model, layers) as read, torch.no_grad():
        outputs = read(x)
    return {
        name: (lambda logits: logits) if name is None else reading_of(model, name, x, output, given.get(name))
        for name, output in outputs.items()
    }


class _AllSeen(Exception):
    """Not an error: ends a forward pass early."""


def _scores(objectives: Sequence[Objective], each: int, outputs: Outputs) -> Tensor:
    """The score of every image (M·N,), each group of N by its own objective."""
    groups = {name: output.split(each) for name, output in outputs.items()}
    scores = [one.score({name: groups[name][index] for name in one.layers}) for index, one in enumerate(objectives)]
    return torch.cat(scores)


def _image_shape(shape: Sequence[int], objectives: Sequence[Objective], steps: int) -> tuple[int, list[int]]:
    if not objectives or steps < 1 or len(shape) not in (3, 4) or min(shape) < 1:
        raise ValueError(
            "visualize needs an objective, steps from 1 on and a shape (C, H, W) or (N, C, H, W): "
            f"{len(objectives)} objectives, steps {steps}, shape {tuple(shape)}"
        )
    return (1 if len(shape) == 3 else shape[0]), list(shape[-3:])


def _canvas(
    name: str, shape: Sequence[int], generator: torch.Generator, start: Tensor | None, model: nn.Module
) -> Parameterization:
    """The parameters to optimise, on the device and in the precision of the model."""
    if name not in PARAMETERIZATIONS:
        raise unknown("parameterization", name, PARAMETERIZATIONS)
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(()))
    canvas = PARAMETERIZATIONS[name](shape, generator).to(like.device, like.dtype)
    if start is not None:
        canvas.encode(start.expand(*shape))
    return canvas


def _warn_unmoved(objectives: Sequence[Objective], history: Tensor) -> None:
    """Warn of objectives whose scores (steps, M, N) never changed."""
    moved = (history != history[0]).any(0).any(1).tolist()
    still = [one.label for one, has_moved in zip(objectives, moved) if not has_moved]
    if still and len(history) > 1:
        warnings.warn(f"no view of the image changed these: {', '.join(still)} (dead channels?)", stacklevel=3)
