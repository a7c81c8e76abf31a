"""Attribution against Captum on `LitCNN`, 28×28, batches of 1 and of 16: the same maps, checked before they are timed.

SmoothGrad and VarGrad draw their own noise, so only their work is the same. Captum runs with its defaults: all
steps of a path in one batch, one occluded window in each.
"""

import statistics
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from captum import attr as captum
from torch import Tensor

from benchmarks.harness import Result, compare
from interpretability import attribution as ours
from lit_models import LitCNN

LAYER = "stages.1"
SLOWEST, MEAN, OCCLUSION = 1.05, 0.7, {1: 0.2, 16: 0.7}
Method = Callable[[Tensor, Tensor], Tensor]


def methods(net: LitCNN) -> dict[str, tuple[Method, Method]]:
    """Ours and Captum's call for the same attribution, by name."""
    layer = net.get_submodule(LAYER)
    smooth = captum.NoiseTunnel(captum.Saliency(net))
    window = {"sliding_window_shapes": (1, 8, 8), "strides": (1, 4, 4)}
    noise = {"nt_samples": 25, "stdevs": 0.15, "abs": False}
    return {
        "Saliency": (ours.Saliency(net), lambda x, t: captum.Saliency(net).attribute(x, t, abs=False)),
        "InputXGradient": (ours.InputXGradient(net), captum.InputXGradient(net).attribute),
        "InputXGradient, layer": (
            ours.InputXGradient(net, LAYER),
            captum.LayerGradientXActivation(net, layer).attribute,
        ),
        "IntegratedGradients": (
            ours.IntegratedGradients(net),
            lambda x, t: captum.IntegratedGradients(net).attribute(x, target=t),
        ),
        "IntegratedGradients, layer": (
            ours.IntegratedGradients(net, LAYER),
            lambda x, t: captum.LayerIntegratedGradients(net, layer).attribute(x, target=t),
        ),
        "SmoothGrad": (ours.SmoothGrad(net), lambda x, t: smooth.attribute(x, target=t, **noise)),
        "VarGrad": (ours.VarGrad(net), lambda x, t: smooth.attribute(x, target=t, nt_type="vargrad", **noise)),
        "GuidedBackprop": (ours.GuidedBackprop(net), captum.GuidedBackprop(net).attribute),
        "Deconvolution": (ours.Deconvolution(net), captum.Deconvolution(net).attribute),
        "GradCAM": (
            ours.GradCAM(net, LAYER),
            lambda x, t: captum.LayerGradCam(net, layer).attribute(x, t, relu_attributions=True),
        ),
        "GuidedGradCAM": (
            ours.GuidedGradCAM(net, LAYER),
            lambda x, t: captum.GuidedGradCam(net, layer).attribute(x, t, interpolate_mode="bilinear"),
        ),
        "Occlusion": (
            ours.Occlusion(net, window=8, stride=4),
            lambda x, t: captum.Occlusion(net).attribute(x, target=t, **window),
        ),
    }


def run(quick: bool, data_dir: Path) -> Iterator[Result]:
    """A row for each method and batch size, then the geometric mean of all."""
    torch.manual_seed(0)
    net = LitCNN().eval()
    results = []
    for n in (1,) if quick else (1, 16):
        x, t = torch.rand(n, 1, 28, 28), torch.arange(n) % 10
        for name, (our, peer) in methods(net).items():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                if name not in {"SmoothGrad", "VarGrad"}:
                    expected = peer(x, t).detach().float()
                    torch.testing.assert_close(our(x, t), expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
                result = compare(
                    f"{name}, batch {n}",
                    lambda our=our, x=x, t=t: done(our(x, t)),
                    lambda peer=peer, x=x, t=t: done(peer(x, t)),
                    peer_name="captum",
                    bound=OCCLUSION[n] if name == "Occlusion" else SLOWEST,
                    repeats=1 if quick else 9 if name in {"Occlusion", "VarGrad", "SmoothGrad"} else 25,
                )
            results.append(result)
            yield result
    seconds = ([r.ours_seconds for r in results], [r.peer_seconds for r in results])
    yield Result("geometric mean", "captum", *map(statistics.geometric_mean, seconds), bound=MEAN)


def done(attribution: Tensor) -> None:
    """Finished: on a GPU the work may still be under way when the call returns."""
    if attribution.is_cuda:
        torch.cuda.synchronize()
