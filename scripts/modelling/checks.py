"""The columns of the matrix: what the project gives for a case, and what a plain replica gives."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from interpretability import METHODS, FullGrad, channel, fgsm, visualize
from interpretability.building_blocks import channel_attribution, spatial_attribution
from interpretability.layers import evaluating
from modelling import games, replicas
from modelling.relevance import gradient_times_input
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
    """The ε-rule with hardly any ε: even the faintest activations of a deep random network outweigh it."""
    return method("LRP", case, epsilon=1e-30), gradient_times_input(case)


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


def cam(name: str, weigh: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Case], Pair]:
    """The maps, weighted; with what speaks against the class, so that something is left to compare."""
    return lambda case: (method(name, case, case.layer, relu=False), replicas.place_cam(case, weigh))


def ratio(above: Tensor, below: Tensor) -> Tensor:
    """Their quotient, and 0 where the divisor is 0."""
    return torch.where(below == 0, 0, above / below)


def game(name: str, replica: Callable[[Case], Tensor], **options: object) -> Callable[[Case], Pair]:
    """What the image's quarters are worth."""
    return lambda case: (method(name, case, segments=games.quarters(case), **options), replica(case))


def full_grad(case: Case) -> Pair:
    """The parts of the input and of each layer's bias in the score, which the map draws over one another."""
    map_of_all = method("FullGrad", case)
    with evaluating(case.model):
        of_input, of_biases = FullGrad(case.model).decomposition(case.x, case.target)
    found = torch.stack([part.sum() for part in (of_input, *(part for _, part in of_biases))])
    return found * torch.isfinite(map_of_all).all(), replicas.full_gradient_sums(case)


def baselines_of(case: Case) -> Tensor:
    """Two images."""
    return torch.cat([torch.zeros_like(case.x), case.x.flip(3)])


def gradient_shap(case: Case) -> Pair:
    """Gradients at random places between the baselines and the image, drawn by the same generator."""
    starts, generator = baselines_of(case), torch.Generator().manual_seed(0)
    order = torch.randperm(2, generator=generator)
    strata = torch.randperm(SAMPLES, generator=generator).double()
    alphas = (strata + torch.rand(SAMPLES, generator=generator).double()) / SAMPLES
    total = torch.zeros_like(case.x)
    for n, alpha in enumerate(alphas.tolist()):
        start = starts[order[n % 2]]
        total += (case.x - start) * case.gradient(start + alpha * (case.x - start)) / SAMPLES
    return method("GradientShap", case, baselines=starts, n_samples=SAMPLES), total


def deep_lift_shap(case: Case) -> Pair:
    """The sum over the input is the difference from the mean score of the baselines."""
    found = method("DeepLiftShap", case, baselines=baselines_of(case))
    with torch.no_grad():
        return found.flatten(1).sum(1), case.score(case.x) - case.score(baselines_of(case)).mean()


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
    "LayerCAM": cam("LayerCAM", lambda a, g: g.clamp(min=0)),
    "HiResCAM": cam("HiResCAM", lambda a, g: g),
    "XGradCAM": cam("XGradCAM", lambda a, g: ratio((a * g).sum((2, 3), keepdim=True), a.sum((2, 3), keepdim=True))),
    "EigenCAM": lambda case: (method("EigenCAM", case, case.layer), replicas.eigen_cam(case)),
    "AblationCAM": lambda case: (method("AblationCAM", case, case.narrow), replicas.ablation_cam(case)),
    "FullGrad": full_grad,
    "GradientShap": gradient_shap,
    "DeepLiftShap": deep_lift_shap,
    "KernelShap": game("KernelShap", games.shapley),
    "ShapleySampling": game("ShapleySampling", lambda case: games.sampled_shapley(case, SAMPLES), n_samples=SAMPLES),
    "Lime": game("Lime", lambda case: games.lime(case, 8), n_samples=8),
    "FeatureAblation": game("FeatureAblation", games.ablation),
    "RISE": lambda case: (method("RISE", case, n_samples=8, cells=3), games.rise(case, 8, 3)),
    "Occlusion": lambda case: (
        method("Occlusion", case, window=tuple(s // 2 for s in case.x.shape[2:]),
               stride=tuple(s // 2 for s in case.x.shape[2:])), replicas.occlusion(case),
    ),
    "LayerConductance": lambda case: (
        method("LayerConductance", case, case.layer, n_steps=STEPS), replicas.conductance(case),
    ),
    "LRP": lrp,
    "DeepLift": deep_lift,
    "AttentionRollout": lambda case: (method("AttentionRollout", case), replicas.attention_maps(case, weighted=False)),
    "AttentionGradient": lambda case: (method("AttentionGradient", case), replicas.attention_maps(case, weighted=True)),
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


GROUPS = {
    "Gradients and relevance": [
        "Saliency", "InputXGradient", "IntegratedGradients", "SmoothGrad", "VarGrad", "GuidedBackprop", "Deconvolution",
        "LayerConductance", "LRP", "DeepLift", "FullGrad", "AttentionRollout", "AttentionGradient",
    ],
    "Class activation maps": [
        "GradCAM", "GradCAMPlusPlus", "GuidedGradCAM", "ScoreCAM", "LayerCAM", "HiResCAM", "XGradCAM", "EigenCAM",
        "AblationCAM",
    ],
    "Covering and games": [
        "Occlusion", "FeatureAblation", "RISE", "Lime", "KernelShap", "ShapleySampling", "GradientShap", "DeepLiftShap",
    ],
    "Building blocks, visualisation, attack": ["places", "channels", "visualisation", "attack"],
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
