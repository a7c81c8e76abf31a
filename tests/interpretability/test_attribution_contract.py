"""What holds for every method: the model left alone, batches, layers, ways to write an activation, bad input."""

import gc

import pytest
import torch
from torch import nn

from attribution_networks import Residual, assert_same_state, plain, randomised, state_of
from interpretability.attribution import METHODS, Deconvolution, GuidedBackprop, IntegratedGradients, Occlusion
from interpretability.attribution.cam import ActivationMap
from interpretability.attribution.integrated import RULES, quadrature
from interpretability.attribution.segments import for_pictures
from interpretability.pixel_model import PixelModel

OPTIONS = {
    "IntegratedGradients": {"n_steps": 4},
    "SmoothGrad": {"n_samples": 3},
    "VarGrad": {"n_samples": 3},
    "Occlusion": {"window": 3, "stride": 2},
    "GradientShap": {"n_samples": 4},
    "KernelShap": {"n_samples": 9, "segments": for_pictures},
    "ShapleySampling": {"n_samples": 2, "segments": for_pictures},
    "Lime": {"n_samples": 9, "segments": for_pictures},
    "FeatureAblation": {"segments": for_pictures},
    "RISE": {"n_samples": 9, "cells": 3},
}
OURS = ("Saliency", "InputXGradient", "IntegratedGradients", "SmoothGrad", "VarGrad", "GuidedBackprop", "Deconvolution",
        "GradCAM", "GradCAMPlusPlus", "GuidedGradCAM", "ScoreCAM", "LayerCAM", "XGradCAM", "HiResCAM", "EigenCAM",
        "AblationCAM", "FullGrad", "Occlusion", "GradientShap", "KernelShap", "ShapleySampling", "Lime",
        "FeatureAblation", "RISE")  # fmt: skip
NEEDS_LAYER = tuple(name for name in OURS if METHODS[name].needs_layer)
AT_LAYERS = tuple(name for name in OURS if not METHODS[name].input_only)
pytestmark = pytest.mark.filterwarnings("ignore:integrated gradients miss")


def method(name, model, layer=None):
    layer = "conv" if layer is None and name in NEEDS_LAYER else layer
    return METHODS[name](model, layer, **OPTIONS.get(name, {}))


@pytest.fixture
def net():
    return randomised(Residual())


@pytest.fixture
def x():
    return torch.rand(3, 3, 9, 7, dtype=torch.float64)


@pytest.mark.parametrize("name", OURS)
def test_the_model_and_the_input_come_back_as_they_were(name, net, x):
    net.train()
    net.stem.weight.grad = torch.ones_like(net.stem.weight)
    net.head.bias.requires_grad_(False)
    handle = net.conv.register_forward_hook(lambda *args: None)
    x.requires_grad_()
    before, values = state_of(net), x.detach().clone()
    result = method(name, net)(x)
    assert result.abs().max() > 0
    assert not result.requires_grad
    with pytest.raises(ValueError, match="target 9 is out of range"):
        method(name, net)(x, 9)
    with pytest.raises(RuntimeError, match="broken"):
        method(name, net)(x, lambda logits: (_ for _ in ()).throw(RuntimeError("broken")))
    assert_same_state(before, net)
    assert x.grad is None and torch.equal(x, values)
    handle.remove()


@pytest.mark.parametrize("name", OURS)
def test_a_batch_is_its_samples_one_by_one(name, net, x):
    targets = torch.tensor([2, 0, 1])
    together = method(name, net)(x, targets)
    alone = torch.cat([method(name, net)(x[n : n + 1], int(target)) for n, target in enumerate(targets)])
    assert together.abs().max() > 0
    torch.testing.assert_close(together, alone, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("name", [name for name in OURS if name != "EigenCAM"])  # which knows no target
def test_the_target_may_be_given_in_four_ways(name, net, x):
    predicted = net(x).argmax(dim=1)
    expected = method(name, net)(x, predicted)
    assert torch.equal(method(name, net)(x), expected)
    by_call = method(name, net)(x, lambda logits: logits[:, 1])
    assert torch.equal(by_call, method(name, net)(x, 1))
    assert not torch.equal(by_call, method(name, net)(x, 2))


@pytest.mark.parametrize("name", OURS)
def test_it_works_in_inference_mode_and_in_float32(name, net, x):
    expected = method(name, net)(x, 1)
    with torch.inference_mode():
        made_here = method(name, net)(x.clone(), torch.tensor([1, 1, 1]))
    with torch.no_grad():
        torch.testing.assert_close(method(name, net)(x, 1), expected, rtol=0, atol=0)
    torch.testing.assert_close(made_here, expected, rtol=0, atol=0)
    single = method(name, net.float())(x.float(), 1)
    scale = float(expected.abs().max())
    torch.testing.assert_close(single.double() / scale, expected / scale, rtol=0, atol=2e-5)


@pytest.mark.parametrize("how", ["in place", "functional", "functional in place", "method", "clamp", "reused"])
@pytest.mark.parametrize("name", OURS)
def test_an_activation_may_be_written_in_any_way(name, how, x):
    expected = method(name, randomised(Residual()))(x, 1)
    other = randomised(Residual(how))
    reference = randomised(Residual())
    other.load_state_dict(reference.state_dict())
    expected = method(name, reference)(x, 1)
    assert expected.abs().max() > 0
    torch.testing.assert_close(method(name, other)(x, 1), expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("name", OURS)
def test_two_methods_do_not_disturb_each_other(name, net, x):
    expected = method(name, net)(x, 1)
    guided = GuidedBackprop(net)
    before = guided(x, 1)
    assert torch.equal(method(name, net)(x, 1), expected)
    assert torch.equal(guided(x, 1), before)


@pytest.mark.parametrize("name", AT_LAYERS)
def test_attributions_at_a_layer_have_its_shape(name, net, x):
    result = method(name, net, "conv")(x, 1)
    shape = (3, 1, 9, 7) if issubclass(METHODS[name], ActivationMap) else (3, 6, 9, 7)
    assert result.shape == (x.shape if name == "GuidedGradCAM" else shape)
    assert result.abs().max() > 0
    wrapped = PixelModel(net, [0.0] * 3, [1.0] * 3).double()
    torch.testing.assert_close(method(name, wrapped, "conv")(x, 1), result, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("name", AT_LAYERS)
def test_a_layer_that_is_unknown_unused_or_reused_is_named(name, x):
    net = randomised(Residual("reused"))
    with pytest.raises(ValueError, match="unknown layer 'stm'; did you mean 'stem'"):
        method(name, net, "stm")
    with pytest.raises(ValueError, match="layer 'second' does not run"):
        method(name, net, "second")(x, 1)
    with pytest.raises(ValueError, match="layer 'first' runs more than once"):
        method(name, net, "first")(x, 1)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


@pytest.mark.parametrize("name", OURS)
def test_bad_input_is_named(name, net, x):
    x[1, 0, 2, 2] = float("nan")
    with pytest.raises(ValueError, match="NaN or infinite values"):
        method(name, net)(x, 1)
    with pytest.raises(ValueError, match="floating-point"):
        method(name, net)(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), 1)
    with pytest.raises(TypeError, match="tensor"):
        method(name, net)([[0.0]], 1)
    if name in NEEDS_LAYER:
        with pytest.raises(ValueError, match=f"{name} needs a layer"):
            METHODS[name](net)
    if name not in AT_LAYERS:
        with pytest.raises(ValueError, match=f"{name} explains the input, not a layer"):
            METHODS[name](net, "conv")


def test_large_but_finite_values_are_not_taken_for_broken_ones():
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    assert METHODS["Saliency"](net)(torch.full((1, 1, 2, 2), 3e38), 0).isfinite().all()


def test_a_hundred_calls_with_errors_leave_nothing_behind(net, x):
    before = state_of(net)

    def calls():
        for name in OURS:
            with pytest.raises(ValueError, match="out of range"):
                method(name, net)(x[:1], 99)

    calls()
    gc.collect()
    tensors = sum(isinstance(thing, torch.Tensor) for thing in gc.get_objects())
    for _ in range(9):
        calls()
    gc.collect()
    assert sum(isinstance(thing, torch.Tensor) for thing in gc.get_objects()) <= tensors
    assert_same_state(before, net)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("n_steps", [2, 7, 50])
def test_quadrature_weights_sum_to_one(rule, n_steps):
    alphas, weights = quadrature(rule, n_steps)
    assert len(alphas) == len(weights) == n_steps
    assert abs(float(weights.sum()) - 1) < 1e-13
    assert alphas.min() >= 0 and alphas.max() <= 1
    if rule != "riemann_left" and rule != "riemann_right":
        assert abs(float(weights @ alphas) - 0.5) < 1e-13  # exact for a straight line


def test_integrated_gradients_say_how_complete_they_are(net, x):
    fine = IntegratedGradients(net, n_steps=200)
    attribution = fine(x, 2)
    difference = (net(x) - net(torch.zeros_like(x)))[:, 2]
    torch.testing.assert_close(attribution.sum(dim=(1, 2, 3)), difference, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(fine.completeness_error, attribution.sum(dim=(1, 2, 3)) - difference)

    square = nn.Sequential(nn.Flatten(), nn.Linear(4, 2), nn.Softplus(beta=50), nn.Linear(2, 2))
    with pytest.warns(UserWarning, match="miss completeness by up to .*: raise n_steps"):
        IntegratedGradients(square, n_steps=1, rule="riemann_right")(torch.randn(2, 1, 2, 2), 0)


def test_the_result_does_not_depend_on_how_the_steps_are_batched(net, x):
    whole = IntegratedGradients(net, n_steps=11, batch_size=1000)(x, 2)
    torch.testing.assert_close(IntegratedGradients(net, n_steps=11, batch_size=1)(x, 2), whole, rtol=1e-10, atol=1e-15)


@pytest.mark.parametrize("name", ["IntegratedGradients", "SmoothGrad", "Occlusion", "ScoreCAM"])
@pytest.mark.parametrize("layer", [None, "conv"])
def test_no_forward_pass_is_larger_than_a_batch_however_many_there_are(name, layer, net, x):
    options = {"IntegratedGradients": {"n_steps": 50}, "SmoothGrad": {"n_samples": 50}, "ScoreCAM": {}}
    layer = "conv" if name == "ScoreCAM" else layer
    rows = []
    handle = net.register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    METHODS[name](net, layer, batch_size=9, **options.get(name, {"window": 2, "stride": 1}))(x, 1)
    handle.remove()
    assert max(rows) == 9 and sum(rows) > 9


class CountsRowsBelow(nn.Module):
    """Folds rows into positions if it is given more at its layer than it counted before."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        rows = len(x)
        return (self.conv(x) + 1).relu().view(rows, 4, -1).mean(dim=2)


@pytest.mark.parametrize("name", ["IntegratedGradients", "Occlusion"])
@pytest.mark.parametrize(
    ("make", "layer", "once"), [(plain, "4", True), (Residual, "conv", False), (CountsRowsBelow, "conv", False)]
)
def test_what_is_below_a_layer_sees_one_sample_only_where_that_changes_nothing(name, make, layer, once, x):
    net, rows = randomised(make()), []
    handle = net.get_submodule(layer).register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    options = {"IntegratedGradients": {"n_steps": 6}, "Occlusion": {"window": 1, "stride": 1}}[name]
    together = METHODS[name](net, layer, batch_size=9, **options)(x, 1)
    handle.remove()
    assert together.abs().max() > 0
    assert (max(rows[1:]) == 1) == once
    for n in range(3):
        one_by_one = METHODS[name](net, layer, batch_size=1, **options)(x[n : n + 1], 1)
        torch.testing.assert_close(together[n : n + 1], one_by_one, rtol=1e-9, atol=1e-14)


def test_the_global_random_state_is_not_touched(net, x):
    state = torch.get_rng_state()
    for name in OURS:
        method(name, net)(x, 1)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("cls", [GuidedBackprop, Deconvolution])
def test_what_may_hide_a_relu_is_refused(cls, x):
    class Custom(torch.autograd.Function):
        @staticmethod
        def forward(ctx, z):
            return z.clamp(min=0)

        @staticmethod
        def backward(ctx, da):
            return da

    def network(activation):
        class Net(nn.Module):
            def forward(self, x):
                return activation(x - 0.5).flatten(1)

        return Net()

    with pytest.raises(ValueError, match="cannot see into CustomBackward"):
        cls(network(Custom.apply))(x, 0)
    with pytest.raises(ValueError, match="compares with zero"):
        cls(network(lambda z: torch.maximum(z, torch.zeros_like(z))))(x, 0)
    with pytest.raises(ValueError, match="needs a network with ReLUs"):
        cls(network(torch.tanh))(x, 0)
    bounded = cls(network(lambda z: nn.functional.relu6(-10 * z)))(x, lambda logits: -logits.sum(dim=1))
    assert not bounded.any()  # ReLU6 is a ReLU: the negative gradient does not pass


def test_the_default_window_is_a_quarter_of_the_image_moved_by_half_of_that(net):
    x = torch.rand(1, 3, 12, 20, dtype=torch.float64)
    expected = Occlusion(net, window=(3, 5), stride=(2, 3))(x, 1)
    assert torch.equal(Occlusion(net)(x, 1), expected)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"window": 0}, "window must be at least 1; got 0"),
        ({"stride": 0}, "stride must be at least 1; got 0"),
        ({"window": 8}, "window 8 is larger than the width 7"),
        ({"window": 2, "stride": 3}, "stride 3 is larger than the window 2"),
        ({"batch_size": 0}, "batch_size must be at least 1; got 0"),
    ],
)
def test_occlusion_options_out_of_range_are_named(options, words, net, x):
    with pytest.raises(ValueError, match=words):
        Occlusion(net, **({"window": 3, "stride": 1} | options))(x, 0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"n_steps": 0}, "n_steps must be at least 1; got 0"),
        ({"n_steps": 1, "rule": "riemann_trapezoid"}, "n_steps must be at least 2"),
        ({"rule": "gauslegendre"}, "unknown rule 'gauslegendre'; did you mean 'gausslegendre'"),
        ({"baseline": torch.zeros(5)}, r"baseline \(5,\) does not fit"),
    ],
)
def test_integrated_gradients_options_out_of_range_are_named(options, words, net, x):
    with pytest.raises(ValueError, match=words):
        IntegratedGradients(net, **options)(x, 0)


def test_plain_networks_work_without_a_batch_norm_in_training_mode(x):
    net = randomised(plain())
    expected = METHODS["Saliency"](net)(x, 1)
    net.train()
    assert torch.equal(METHODS["Saliency"](net)(x, 1), expected)
    assert net[1].training
