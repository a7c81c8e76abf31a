"""The columns of the matrix: what the project gives for a case, and what a plain replica gives."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn import functional as F

from interpretability import METHODS, channel, fgsm, visualize
from interpretability.building_blocks import channel_attribution, spatial_attribution
from modelling import replicas
from modelling.replicas import SAMPLES, STEPS, Case

Pair = tuple[Tensor, Tensor]  # found, expected
TOLERANCE = 1e-6  # of the largest value, in double precision


def method(name: str, case: Case, layer: str | None = None, **options: object) -> Tensor:
    """The project's attribution."""
    return METHODS[name](case.model, layer, **options)(case.x, case.target)


def guided_grad_cam(case: Case) -> Pair:
    """The guided gradient times the enlarged GradCAM."""
    found = method("GuidedGradCAM", case, case.layer)
    cam = F.interpolate(replicas.grad_cam(case), case.x.shape[2:], mode="bilinear")
    return found, replicas.with_other_relus(case, guided=True) * cam


def lrp(case: Case) -> Pair:
    """The ε-rule with hardly any ε is gradient × input of a network whose activations are taken as slopes f(z) / z."""
    found = method("LRP", case, epsilon=1e-30)  # even the faintest activations of a deep random network outweigh it
    with activations_as_slopes():
        h, gradient = case.at_module(case.model.normalize)
    return found, h * gradient


def deep_lift(case: Case) -> Pair:
    """The sum over the input is the difference in score."""
    found = method("DeepLift", case)
    with torch.no_grad():
        return found.flatten(1).sum(1), case.score(case.x) - case.score(torch.zeros_like(case.x))


def visualisation(case: Case) -> Pair:
    """Twenty steps raise a channel: the share of them that it rose in the end is one."""
    images = [visualize(case.model, channel(case.layer, 1), case.x.shape[1:], steps=n, transforms=()) for n in (1, 20)]
    before, after = (case.arrange(case.at_layer(image)[0])[:, 1].mean() for image in images)
    return (after > before).double(), torch.ones((), dtype=torch.float64)


def attack(case: Case) -> Pair:
    """One step along the sign of the gradient of the loss."""
    labels = torch.tensor([case.target])
    leaf = case.x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(case.model(leaf), labels), leaf)
    return fgsm(case.model, case.x, labels, 0.01), (case.x + 0.01 * gradient.sign()).clamp(0, 1)


def rectified(name: str) -> Callable[[Case], Pair]:
    """The gradient with other ReLUs."""
    return lambda case: (method(name, case), replicas.with_other_relus(case, name == "GuidedBackprop"))


COLUMNS: dict[str, Callable[[Case], Pair]] = {
    "Saliency": lambda case: (method("Saliency", case), case.gradient(case.x)),
    "InputXGradient": lambda case: (method("InputXGradient", case), case.x * case.gradient(case.x)),
    "IntegratedGradients": lambda case: (
        method("IntegratedGradients", case, n_steps=STEPS), replicas.integrated_gradients(case),
    ),
    "SmoothGrad": lambda case: (method("SmoothGrad", case, n_samples=SAMPLES), replicas.noisy_gradients(case).mean(0)),
    "VarGrad": lambda case: (
        method("VarGrad", case, n_samples=SAMPLES), replicas.noisy_gradients(case).var(0, correction=0),
    ),
    "GuidedBackprop": rectified("GuidedBackprop"),
    "Deconvolution": rectified("Deconvolution"),
    "GradCAM": lambda case: (method("GradCAM", case, case.layer), replicas.grad_cam(case)),
    "GradCAMPlusPlus": lambda case: (method("GradCAMPlusPlus", case, case.layer), replicas.grad_cam_plus_plus(case)),
    "GuidedGradCAM": guided_grad_cam,
    "ScoreCAM": lambda case: (method("ScoreCAM", case, case.narrow), replicas.score_cam(case)),
    "Occlusion": lambda case: (
        method("Occlusion", case, window=tuple(s // 2 for s in case.x.shape[2:]),
               stride=tuple(s // 2 for s in case.x.shape[2:])), replicas.occlusion(case),
    ),
    "LayerConductance": lambda case: (
        method("LayerConductance", case, case.layer, n_steps=STEPS), replicas.conductance(case),
    ),
    "LRP": lrp,
    "DeepLift": deep_lift,
    "places": lambda case: (
        spatial_attribution(case.model, case.layer, case.x, case.target),
        (case.maps()[0] * case.maps()[1]).sum(1),
    ),
    "channels": lambda case: (
        channel_attribution(case.model, case.layer, case.x, case.target),
        (case.maps()[0] * case.maps()[1]).sum((2, 3)),
    ),
    "visualisation": visualisation,
    "attack": attack,
}  # fmt: skip


def examine(case: Case, column: str) -> str:
    """``right``, ``wrong: …``, or the reason of a refusal, in a line."""
    try:
        found, expected = COLUMNS[column](case)
    except ValueError as error:
        return " ".join(str(error).split())
    if found.shape != expected.shape:
        return f"wrong: shape {tuple(found.shape)}, expected {tuple(expected.shape)}"
    scale = float(expected.abs().max())
    if not scale > 0:
        return "wrong: the replica is zero, so the check says nothing"
    apart = float((found - expected).abs().max()) / scale
    return "right" if apart <= TOLERANCE else f"wrong: apart by {apart:.1e} of the largest value"


@contextmanager
def activations_as_slopes() -> Iterator[None]:
    """Each activation f is z · (f(z) / z) with the bracket held fixed."""

    def slope(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def patched(z: Tensor, *args: object, **kwargs: object) -> Tensor:
            with torch.no_grad():
                kwargs.pop("inplace", None)
                ratio = torch.where(z == 0, 0, function(z.clone(), *args, **kwargs) / z)  # it may work in place
            return z * ratio

        return patched

    with ExitStack() as patches:
        for name in ("relu", "relu6", "silu", "gelu", "hardswish", "hardtanh", "hardsigmoid", "elu"):
            patches.enter_context(patch.object(F, name, slope(getattr(F, name))))
        patches.enter_context(patch.object(torch, "relu", slope(torch.relu)))
        yield
