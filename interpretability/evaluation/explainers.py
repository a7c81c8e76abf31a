"""The rows of the table: every method with the settings and the reading that suit a comparison."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from interpretability.attribution import (
    LRP,
    RISE,
    AblationCAM,
    AttentionGradient,
    AttentionRollout,
    Attribution,
    Deconvolution,
    DeepLift,
    DeepLiftShap,
    EigenCAM,
    FeatureAblation,
    FullGrad,
    GradCAM,
    GradCAMPlusPlus,
    GradientShap,
    GuidedBackprop,
    GuidedGradCAM,
    HiResCAM,
    InputXGradient,
    IntegratedGradients,
    KernelShap,
    LayerCAM,
    Lime,
    Occlusion,
    Saliency,
    ScoreCAM,
    ShapleySampling,
    SmoothGrad,
    VarGrad,
    XGradCAM,
)
from interpretability.attribution.segments import Segments
from interpretability.attribution.settings import picture_options
from interpretability.evaluation.comparison import Explainer, Kind, Sum
from interpretability.maps import Maps
from interpretability.names import unknown
from interpretability.targets import Target

RANDOM = "random map"

Row = tuple[type[Attribution], Kind, Sum | None]

AT_THE_INPUT: dict[str, Row] = {
    "Saliency": (Saliency, "gradient", None),
    "InputXGradient": (InputXGradient, "contribution", "score"),
    "IntegratedGradients": (IntegratedGradients, "contribution", "difference"),
    "SmoothGrad": (SmoothGrad, "gradient", None),
    "VarGrad": (VarGrad, "magnitude", None),
    "GuidedBackprop": (GuidedBackprop, "gradient", None),
    "Deconvolution": (Deconvolution, "gradient", None),
    "Occlusion": (Occlusion, "contribution", None),
    "LRP epsilon": (LRP, "contribution", "score"),
    "LRP epsilon_gamma": (LRP, "contribution", "score"),
    "LRP epsilon_plus": (LRP, "contribution", "score"),
    "LRP z_plus": (LRP, "contribution", "score"),
    "LRP attention": (LRP, "contribution", None),
    "DeepLift": (DeepLift, "contribution", "difference"),
    "AttentionRollout": (AttentionRollout, "magnitude", None),
    "AttentionGradient": (AttentionGradient, "magnitude", None),
    "FullGrad": (FullGrad, "magnitude", None),
    "GradientShap": (GradientShap, "contribution", "difference"),
    "DeepLiftShap": (DeepLiftShap, "contribution", "difference"),
    "KernelShap": (KernelShap, "contribution", "difference"),
    "ShapleySampling": (ShapleySampling, "contribution", "difference"),
    "Lime": (Lime, "contribution", None),
    "FeatureAblation": (FeatureAblation, "contribution", None),
    "RISE": (RISE, "contribution", None),
}
AT_A_LAYER: dict[str, Row] = {
    "GradCAM": (GradCAM, "magnitude", None),
    "GradCAMPlusPlus": (GradCAMPlusPlus, "magnitude", None),
    "GuidedGradCAM": (GuidedGradCAM, "gradient", None),
    "ScoreCAM": (ScoreCAM, "magnitude", None),
    "LayerCAM": (LayerCAM, "magnitude", None),
    "XGradCAM": (XGradCAM, "magnitude", None),
    "HiResCAM": (HiResCAM, "magnitude", None),
    "EigenCAM": (EigenCAM, "magnitude", None),
    "AblationCAM": (AblationCAM, "magnitude", None),
}
NAMES = (*AT_THE_INPUT, *AT_A_LAYER, RANDOM)


def explainers(
    model: nn.Module,
    names: Iterable[str],
    side: int,
    layer: str | None = None,
    baseline: float = 0.0,
    seed: int = 0,
    maps: Maps = None,
    segments: Segments = None,
) -> list[Explainer]:
    """The rows called ``names`` (of ``NAMES``) for ``model``.

    Args:
        model: on images.
        names: in the order of the table.
        side: of the images, which sets the window of Occlusion to a quarter of it.
        layer: where class activation maps are taken.
        baseline: of the methods that have one.
        seed: of the random map.
        maps: how to read that layer as maps, where the model does not tell.
        segments: of the methods that play with them; 8 × 8 patches by default.

    Raises:
        ValueError: an unknown name, or a class activation map without a layer.
    """
    options: dict[str, dict] = {
        "IntegratedGradients": {"n_steps": 16, "baseline": baseline},
        "SmoothGrad": {"n_samples": 8},
        "VarGrad": {"n_samples": 8},
        "Occlusion": {"window": max(1, side // 4), "stride": max(1, side // 8), "baseline": baseline},
        "DeepLift": {"baseline": baseline},
        "GradientShap": {"n_samples": 16, "baselines": baseline},
        "DeepLiftShap": {"baselines": baseline},
        "KernelShap": {"n_samples": 256, "baseline": baseline},
        "ShapleySampling": {"n_samples": 4, "baseline": baseline},
        "Lime": {"n_samples": 256, "baseline": baseline},
        "FeatureAblation": {"baseline": baseline},
        "RISE": {"n_samples": 500, "baseline": baseline},
    }
    rows = []
    for name in names:
        if name == RANDOM:
            rows.append(Explainer(RANDOM, _RandomMap(seed), "magnitude"))
        elif name in AT_THE_INPUT:
            method, kind, sums_to = AT_THE_INPUT[name]
            given = {"rule": name.split()[1]} if name.startswith("LRP") else options.get(name, {})
            given = picture_options(method, maps, segments) | given
            rows.append(Explainer(name, method(model, **given), kind, sums_to))
        elif name in AT_A_LAYER:
            method, kind, sums_to = AT_A_LAYER[name]
            at_layer = {"maps": maps}
            rows.append(Explainer(name, method(model, layer, **at_layer), kind, sums_to))
        else:
            raise unknown("method", name, NAMES)
    return rows


class _RandomMap:
    """What an explanation must beat: uniform noise, new at every call."""

    def __init__(self, seed: int):
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, x: Tensor, target: Target) -> Tensor:
        """(N, 1, H, W) in [0, 1)."""
        return torch.rand(len(x), 1, *x.shape[2:], generator=self.generator).to(x)
