"""Every method against Captum where that implements the same formula, else against a slow replica of the paper's.

==================  =================================================================
Saliency            captum.attr.Saliency(abs=False), LayerActivation's gradient by hand
InputXGradient      InputXGradient, LayerGradientXActivation
IntegratedGradients IntegratedGradients, LayerIntegratedGradients; its trapezoid rule is
                    wrong there (weights sum to 1 − 1/n), so a replica stands in
SmoothGrad, VarGrad replica (Captum draws other noise)
GuidedBackprop      GuidedBackprop
Deconvolution       Deconvolution
GradCAM             LayerGradCam
GuidedGradCAM       GuidedGradCam
GradCAMPlusPlus     replica
ScoreCAM            replica
Occlusion           Occlusion
==================  =================================================================
"""

import captum.attr
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from attribution_networks import Residual, plain, randomised
from interpretability.attribution import (
    Deconvolution,
    GradCAM,
    GradCAMPlusPlus,
    GuidedBackprop,
    GuidedGradCAM,
    InputXGradient,
    IntegratedGradients,
    Occlusion,
    Saliency,
    ScoreCAM,
    SmoothGrad,
    VarGrad,
)

TARGET = torch.tensor([1, 0, 3])
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:captum", "ignore:integrated gradients miss")


def smooth():
    return nn.Sequential(
        nn.Conv2d(3, 5, 3), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(5, 4, 2), nn.GELU(), nn.Flatten(), nn.LazyLinear(4)
    )


NETWORKS = {"plain": (plain, "4"), "residual": (Residual, "conv"), "smooth": (smooth, "3")}


@pytest.fixture(params=NETWORKS)
def case(request):
    """A network in eval mode, a layer of it, and images that are not square."""
    torch.manual_seed(3)
    make, layer = NETWORKS[request.param]
    net = make()
    x = torch.rand(3, 3, 10, 8)
    net.eval()(x)  # gives a lazy layer its shape
    return randomised(net), layer, x.double()


def agree(ours, theirs, tolerance=1e-8):
    assert theirs.abs().max() > 1e-5, "the oracle shows nothing"
    torch.testing.assert_close(ours, theirs.detach().to(ours), rtol=0, atol=tolerance)  # its Occlusion is float32


def test_gradients(case):
    net, layer, x = case
    module = net.get_submodule(layer)
    agree(Saliency(net)(x, TARGET), captum.attr.Saliency(net).attribute(x.clone(), TARGET, abs=False))
    agree(InputXGradient(net)(x, TARGET), captum.attr.InputXGradient(net).attribute(x.clone(), TARGET))
    product = captum.attr.LayerGradientXActivation(net, module).attribute(x.clone(), TARGET)
    agree(InputXGradient(net, layer)(x, TARGET), product)


@pytest.mark.parametrize("rule", ["gausslegendre", "riemann_left", "riemann_middle", "riemann_right"])
def test_integrated_gradients(case, rule):
    net, layer, x = case
    options = {"target": TARGET, "n_steps": 20, "method": rule}
    theirs = captum.attr.IntegratedGradients(net).attribute(x.clone(), baselines=0.25, **options)
    agree(IntegratedGradients(net, n_steps=20, baseline=0.25, rule=rule)(x, TARGET), theirs)
    theirs = captum.attr.LayerIntegratedGradients(net, net.get_submodule(layer)).attribute(x.clone(), **options)
    agree(IntegratedGradients(net, layer, n_steps=20, rule=rule)(x, TARGET), theirs)


def test_captums_trapezoid_rule_breaks_completeness_and_ours_keeps_it():
    net = nn.Sequential(nn.Flatten(), nn.Linear(6, 2, bias=False)).double()  # exact for any right rule
    x = torch.rand(2, 1, 2, 3, dtype=torch.float64)
    score = net(x)[:, 1]
    ours = IntegratedGradients(net, n_steps=10, rule="riemann_trapezoid")(x, 1).sum(dim=(1, 2, 3))
    theirs = captum.attr.IntegratedGradients(net).attribute(x.clone(), target=1, n_steps=10, method="riemann_trapezoid")
    torch.testing.assert_close(ours, score, rtol=0, atol=1e-12)
    torch.testing.assert_close(theirs.sum(dim=(1, 2, 3)), 0.9 * score, rtol=0, atol=1e-7)


def noisy_gradients(net, x, noise, n_samples):
    generator, gradients = torch.Generator().manual_seed(0), []
    for _ in range(n_samples):
        pattern = torch.randn(x.shape[1:], generator=generator).double()
        rows = []
        for sample, target in zip(x, TARGET):
            point = (sample + noise * (sample.max() - sample.min()) * pattern)[None].requires_grad_()
            rows.append(torch.autograd.grad(net(point)[0, target], point)[0])
        gradients.append(torch.cat(rows))
    return torch.stack(gradients)


def test_smoothgrad_and_vargrad(case):
    net, _, x = case
    gradients = noisy_gradients(net, x, 0.3, 7)
    options = {"n_samples": 7, "noise": 0.3, "batch_size": 6}
    agree(SmoothGrad(net, **options)(x, TARGET), gradients.mean(dim=0))
    agree(1e3 * VarGrad(net, **options)(x, TARGET), 1e3 * gradients.var(dim=0, correction=0))


@pytest.mark.parametrize("name", ["plain", "residual"])
def test_other_backward_rules_for_relu(name):
    net = randomised(NETWORKS[name][0]())
    x = torch.rand(3, 3, 10, 8, dtype=torch.float64)
    guided = captum.attr.GuidedBackprop(net).attribute(x.clone(), TARGET)
    assert not torch.allclose(guided, Saliency(net)(x, TARGET), atol=1e-4)
    agree(GuidedBackprop(net)(x, TARGET), guided)
    agree(Deconvolution(net)(x, TARGET), captum.attr.Deconvolution(net).attribute(x.clone(), TARGET))


def test_gradcam(case):
    net, layer, x = case
    peer = captum.attr.LayerGradCam(net, net.get_submodule(layer))
    agree(GradCAM(net, layer, relu=False)(x, TARGET), peer.attribute(x.clone(), TARGET))
    assert (peer.attribute(x.clone(), TARGET) < 0).any()
    agree(GradCAM(net, layer)(x, TARGET), peer.attribute(x.clone(), TARGET, relu_attributions=True))


@pytest.mark.parametrize("name", ["plain", "residual"])
def test_guided_gradcam(name):
    torch.manual_seed(0)
    net, layer = randomised(NETWORKS[name][0]()), NETWORKS[name][1]
    x = torch.rand(3, 3, 10, 8, dtype=torch.float64)
    peer = captum.attr.GuidedGradCam(net, net.get_submodule(layer))
    theirs = peer.attribute(x.clone(), TARGET, interpolate_mode="bilinear")
    agree(1e3 * GuidedGradCAM(net, layer)(x, TARGET), 1e3 * theirs)


def test_gradcam_plus_plus(case):
    """The paper's equations 10 and 19 by loops, for the score exp(s), divided by its value at the end."""
    net, layer, x = case
    ours = GradCAMPlusPlus(net, layer, relu=False)(x, TARGET)
    for n, target in enumerate(TARGET):
        outputs = {}
        handle = net.get_submodule(layer).register_forward_hook(lambda *args, o=outputs: o.update(a=args[2]))
        y = net(x[n : n + 1])[0, target].exp()
        handle.remove()
        activation = outputs["a"]
        first = torch.autograd.grad(y, activation)[0][0] / y.detach()  # ∂s/∂a; exp's derivatives are powers of it
        activation = activation[0].detach()
        cam = torch.zeros_like(activation[0])
        for k in range(len(activation)):
            weight = 0.0
            for i in range(activation.shape[1]):
                for j in range(activation.shape[2]):
                    g = first[k, i, j] * y.detach()
                    second, third = g**2 / y.detach(), g**3 / y.detach() ** 2
                    if g != 0:
                        weight += second / (2 * second + activation[k].sum() * third) * max(g, 0)
            cam += weight * activation[k]
        agree(ours[n, 0], cam / y)


def test_scorecam(case):
    net, layer, x = case
    ours = ScoreCAM(net, layer, relu=False, batch_size=4)(x, TARGET)
    for n, target in enumerate(TARGET):
        outputs = {}
        handle = net.get_submodule(layer).register_forward_hook(lambda *args, o=outputs: o.update(a=args[2].detach()))
        net(x[n : n + 1])
        handle.remove()
        scores = []
        for channel in outputs["a"][0]:
            mask = F.interpolate(channel[None, None], size=x.shape[2:], mode="bilinear", align_corners=False)
            span = mask.max() - mask.min()
            mask = (mask - mask.min()) / span if span > 0 else mask * 0
            scores.append(net(x[n : n + 1] * mask)[0, target].detach())
        weights = torch.stack(scores).softmax(dim=0)
        agree(ours[n, 0], sum(w * a for w, a in zip(weights, outputs["a"][0])))


@pytest.mark.parametrize(("window", "stride"), [(4, 2), ((5, 3), (2, 3)), ((3, 4), 1), ((10, 8), 7)])
def test_occlusion(case, window, stride):
    net, _, x = case
    (h, w), (down, right) = (v if isinstance(v, tuple) else (v, v) for v in (window, stride))
    theirs = captum.attr.Occlusion(net).attribute(
        x.clone(), target=TARGET, sliding_window_shapes=(3, h, w), strides=(3, down, right), baselines=0.4
    )
    agree(Occlusion(net, window=window, stride=stride, baseline=0.4, batch_size=5)(x, TARGET), theirs)


def test_occlusion_at_a_layer_covers_its_positions(case):
    net, layer, x = case
    if layer == "conv":
        pytest.skip("the rest of this network is not a function of that layer alone")
    ours = Occlusion(net, layer, window=2, stride=1)(x, TARGET)
    below, above = net[: int(layer) + 1], net[int(layer) + 1 :]
    point = below(x).detach()
    theirs = captum.attr.Occlusion(above).attribute(
        point, target=TARGET, sliding_window_shapes=(point.shape[1], 2, 2), strides=(1, 1, 1)
    )
    agree(ours, theirs)


def test_a_trained_network_of_ours():
    from datamodules import DigitsDataModule
    from lit_models import LitCNN

    x, t = DigitsDataModule().probe_batch("train", 200)
    net = LitCNN(channels=[6, 8], hidden=16, batch_norm=True)
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(25):
        optimizer.zero_grad()
        F.cross_entropy(net(x), t).backward()
        optimizer.step()
    net = net.double().eval()
    assert (net(x.double()).argmax(dim=1) == t).double().mean() > 0.8
    x, layer = x[:3].double(), net.stages[1]
    agree(Saliency(net)(x, TARGET), captum.attr.Saliency(net).attribute(x.clone(), TARGET, abs=False))
    agree(GuidedBackprop(net)(x, TARGET), captum.attr.GuidedBackprop(net).attribute(x.clone(), TARGET))
    agree(GradCAM(net, "stages.1", relu=False)(x, TARGET), captum.attr.LayerGradCam(net, layer).attribute(x, TARGET))
    path = captum.attr.LayerIntegratedGradients(net, layer).attribute(x.clone(), target=TARGET, n_steps=20)
    agree(IntegratedGradients(net, "stages.1", n_steps=20)(x, TARGET), path)
    path = captum.attr.IntegratedGradients(net).attribute(x.clone(), target=TARGET, n_steps=20)
    agree(IntegratedGradients(net, n_steps=20)(x, TARGET), path)
