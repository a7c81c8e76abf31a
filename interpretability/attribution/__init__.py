"""Attribution methods, one file per family, all called as ``Method(model, layer, **options)(x, target)``."""

from interpretability.attribution.ablation_cam import AblationCAM
from interpretability.attribution.attention import AttentionGradient, AttentionRollout
from interpretability.attribution.base import Attribution
from interpretability.attribution.baselines import DeepLiftShap, GradientShap
from interpretability.attribution.cam import GradCAM, GradCAMPlusPlus, GuidedGradCAM
from interpretability.attribution.coalitions import FeatureAblation
from interpretability.attribution.conductance import LayerConductance
from interpretability.attribution.deeplift import DeepLift
from interpretability.attribution.full_grad import FullGrad
from interpretability.attribution.gradient import InputXGradient, Saliency
from interpretability.attribution.integrated import IntegratedGradients
from interpretability.attribution.noise import SmoothGrad, VarGrad
from interpretability.attribution.occlusion import Occlusion
from interpretability.attribution.place_cams import EigenCAM, HiResCAM, LayerCAM, XGradCAM
from interpretability.attribution.rectified import Deconvolution, GuidedBackprop
from interpretability.attribution.relevance import LRP
from interpretability.attribution.rise import RISE
from interpretability.attribution.score_cam import ScoreCAM
from interpretability.attribution.segments import patches, superpixels
from interpretability.attribution.shapley import KernelShap, Lime, ShapleySampling

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
        LayerCAM,
        XGradCAM,
        HiResCAM,
        EigenCAM,
        AblationCAM,
        FullGrad,
        Occlusion,
        LayerConductance,
        LRP,
        DeepLift,
        AttentionRollout,
        AttentionGradient,
        GradientShap,
        DeepLiftShap,
        KernelShap,
        ShapleySampling,
        Lime,
        FeatureAblation,
        RISE,
    )
}

__all__ = [
    "LRP",
    "METHODS",
    "RISE",
    "AblationCAM",
    "AttentionGradient",
    "AttentionRollout",
    "Attribution",
    "Deconvolution",
    "DeepLift",
    "DeepLiftShap",
    "EigenCAM",
    "FeatureAblation",
    "FullGrad",
    "GradCAM",
    "GradCAMPlusPlus",
    "GradientShap",
    "GuidedBackprop",
    "GuidedGradCAM",
    "HiResCAM",
    "InputXGradient",
    "IntegratedGradients",
    "KernelShap",
    "LayerCAM",
    "LayerConductance",
    "Lime",
    "Occlusion",
    "Saliency",
    "ScoreCAM",
    "ShapleySampling",
    "SmoothGrad",
    "VarGrad",
    "XGradCAM",
    "patches",
    "superpixels",
]
