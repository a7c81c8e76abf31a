"""Attribution methods, one file per family, all called as ``Method(model, layer, **options)(x, target)``."""

from interpretability.attribution.base import Attribution
from interpretability.attribution.cam import GradCAM, GradCAMPlusPlus, GuidedGradCAM
from interpretability.attribution.gradient import InputXGradient, Saliency
from interpretability.attribution.integrated import IntegratedGradients
from interpretability.attribution.noise import SmoothGrad, VarGrad
from interpretability.attribution.occlusion import Occlusion
from interpretability.attribution.rectified import Deconvolution, GuidedBackprop
from interpretability.attribution.score_cam import ScoreCAM

METHODS: dict[str, type[Attribution]] = {
    method.__name__: method
    for method in (
        Saliency,
        InputXGradient,
        IntegratedGradients,
        SmoothGrad,
        VarGrad,
        GuidedBackprop,
        Deconvolution,
        GradCAM,
        GradCAMPlusPlus,
        GuidedGradCAM,
        ScoreCAM,
        Occlusion,
    )
}

__all__ = [
    "METHODS",
    "Attribution",
    "Deconvolution",
    "GradCAM",
    "GradCAMPlusPlus",
    "GuidedBackprop",
    "GuidedGradCAM",
    "InputXGradient",
    "IntegratedGradients",
    "Occlusion",
    "Saliency",
    "ScoreCAM",
    "SmoothGrad",
    "VarGrad",
]
