import pytest
import torch
from torch import nn
from torch.nn import functional as F

import interpretability.first_convolution as first_convolution_module
from attribution_networks import Residual, plain, randomised
from interpretability.first_convolution import (
    convolution_input_gradient,
    first_convolution,
    gradient_through,
    sum_of_stacked,
)
from interpretability.gradients import input_gradient, layer_gradient


def finite_differences(score, point, step=1e-6):
    """∂score/∂point of a single sample (1, …), all shifted points in one batch."""
    shifts = step * torch.eye(point.numel(), dtype=point.dtype).view(-1, *point.shape[1:])
    return ((score(point + shifts) - score(point - shifts)) / (2 * step)).view_as(point)


def test_the_input_gradient_is_that_of_finite_differences():
    net, x = randomised(plain()), torch.rand(1, 3, 6, 7, dtype=torch.float64)
    gradient = input_gradient(net, x, torch.tensor([3]))
    with torch.no_grad():
        expected = finite_differences(lambda point: net(point)[:, 3], x)
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("how", ["module", "in place", "functional", "functional in place", "method", "clamp"])
@pytest.mark.parametrize("layer", ["stem", "conv"])
def test_the_layer_gradient_is_that_of_finite_differences(how, layer):
    torch.manual_seed(1)
    net, x = randomised(Residual(how)), torch.rand(1, 3, 5, 4, dtype=torch.float64)

    def above(point):
        h = F.relu(point if layer == "stem" else net.stem(x))
        h = h + F.relu(net.conv(h) if layer == "stem" else point)
        return net.head(h.mean(dim=(2, 3)))[:, 2]

    activation, gradient = layer_gradient(net, layer, x, 2)
    with torch.no_grad():
        torch.testing.assert_close(activation, net.stem(x) if layer == "stem" else net.conv(F.relu(net.stem(x))))
        expected = finite_differences(above, activation)
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-8)


def test_a_model_that_offers_its_input_gradient_is_asked_for_it():
    class Explicit(nn.Linear):
        def forward(self, x):
            raise AssertionError("no need to run the model")

        def input_gradient(self, x, target):
            return self.weight[target].expand_as(x)

    net = Explicit(4, 3)
    assert torch.equal(input_gradient(net, torch.rand(2, 4), 1), net.weight[1].expand(2, 4))


def test_a_score_out_of_reach_is_an_error_and_not_a_zero_map():
    class Detached(nn.Module):
        def forward(self, x):
            return x.flatten(1).detach()

    with pytest.raises(ValueError, match="does not depend"):
        input_gradient(Detached(), torch.rand(1, 3), 0)


@pytest.mark.parametrize(
    "convolution",
    [
        nn.Conv2d(3, 5, 3, padding=1),
        nn.Conv2d(1, 4, 5, stride=2, padding=(2, 1)),
        nn.Conv2d(2, 4, (3, 2), stride=(1, 2), dilation=2, bias=False),
        nn.Conv2d(1, 4, 3, padding="valid"),
        nn.Conv2d(1, 4, (3, 5), padding="same"),
    ],
)
def test_the_first_convolution_by_hand_is_autograd(convolution):
    convolution.double()
    x = torch.randn(2, convolution.in_channels, 9, 11, dtype=torch.float64, requires_grad=True)
    z = convolution(x)
    dz = torch.randn_like(z)
    by_hand = convolution_input_gradient(dz, z.grad_fn)
    torch.testing.assert_close(by_hand, torch.autograd.grad(z, x, dz)[0], rtol=0, atol=1e-12)


def test_the_first_convolution_is_used_where_it_is_the_only_way_up():
    net, x = plain().eval(), torch.rand(24, 3, 12, 10)
    leaf = x.clone().requires_grad_()
    scores = net((leaf.clone() - 0.4) / 0.3)[:, 1]
    assert first_convolution(scores, leaf).name() == "ConvolutionBackward0"
    expected = torch.autograd.grad(scores.sum(), leaf, retain_graph=True)[0]
    torch.testing.assert_close(gradient_through(scores, leaf), expected)


def test_a_way_around_the_first_convolution_leaves_it_to_autograd():
    convolution, leaf = nn.Conv2d(3, 3, 3, padding=1), torch.rand(12, 3, 16, 16, requires_grad=True)
    assert gradient_through(convolution(leaf).mean(dim=(1, 2, 3)), leaf) is not None
    around = (convolution(leaf) + leaf).mean(dim=(1, 2, 3))
    assert gradient_through(around, leaf) is None
    squared = convolution(leaf * leaf).mean(dim=(1, 2, 3))
    assert gradient_through(squared, leaf) is None
    wide = torch.rand(8, 8, 16, 16, requires_grad=True)
    assert gradient_through(nn.Conv2d(8, 2, 3)(wide).mean(dim=(1, 2, 3)), wide) is None


@pytest.mark.parametrize("shape", [(6, 3, 5, 4), (6, 3, 1, 1), (6, 1, 1, 1), (6, 1, 5, 4), (6, 3, 0, 4), (6, 7), (6,)])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_stacked_values_are_summed_whatever_their_order_in_memory(shape, memory_format):
    values = torch.randn(shape, dtype=torch.float64)
    values = values.contiguous(memory_format=memory_format) if values.ndim == 4 else values
    expected = values.view(3, 2, *shape[1:]).sum(dim=0) if values.is_contiguous() else sum(values.split(2))
    torch.testing.assert_close(sum_of_stacked(values, 3), expected, rtol=0, atol=1e-14)
    assert sum_of_stacked(values, 1) is values


def below_and_gradients(below):
    """∂(Σ scores)/∂leaf of three stacks of four images, and their sum by stack, through ``below`` and a network."""
    torch.manual_seed(0)
    net, x = plain().double().eval(), torch.rand(12, 3, 12, 10, dtype=torch.float64)
    leaf = x.requires_grad_()
    scores = net(below(leaf.clone()))[:, 1] * torch.linspace(-1, 2, 12, dtype=torch.float64)
    each = torch.autograd.grad(scores.sum(), leaf, retain_graph=True)[0]
    return scores, leaf, each.unflatten(0, (3, 4))


@pytest.mark.parametrize(
    ("below", "meets"),
    [
        (lambda x: (x - 0.4) / torch.tensor([0.3, 0.2, 0.5]).double().view(3, 1, 1), 4),
        (lambda x: x / x.detach().amax(dim=(1, 2, 3), keepdim=True), 12),
        (lambda x: x.square(), 12),
    ],
    ids=["normalised", "scaled by its own maximum", "squared"],
)
def test_gradients_are_summed_above_the_first_convolution_where_the_way_below_is_the_same(below, meets, monkeypatch):
    scores, leaf, stacks = below_and_gradients(below)
    rows = []

    def counting(dz, convolution):
        rows.append(len(dz))
        return convolution_input_gradient(dz, convolution)

    monkeypatch.setattr(first_convolution_module, "convolution_input_gradient", counting)
    monkeypatch.setattr(first_convolution_module, "WORTHWHILE", 0)
    summed = gradient_through(scores, leaf, stacked=3)
    assert rows == [meets]
    assert stacks.abs().amax() > 1e-3 and not torch.allclose(stacks[0], stacks[1])
    torch.testing.assert_close(summed, stacks.sum(dim=0), rtol=0, atol=1e-12)
