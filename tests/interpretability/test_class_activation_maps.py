"""LayerCAM, XGradCAM, HiResCAM, EigenCAM, AblationCAM and FullGrad against plain loops and closed forms."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from attribution_networks import Residual, plain, randomised
from interpretability import METHODS, AblationCAM, EigenCAM, FullGrad, HiResCAM, PixelModel, XGradCAM
from interpretability.layers import evaluating

DEFINITIONS = ("LayerCAM", "XGradCAM", "HiResCAM", "AblationCAM")


@pytest.fixture
def x():
    return torch.rand(3, 3, 10, 8, dtype=torch.float64)


def parts(net, x, target):
    """The maps of the last convolution of ``plain``, and their gradients, by autograd."""
    a = net[:5](x).detach().requires_grad_()
    (g,) = torch.autograd.grad(net[5:](a)[:, target].sum(), a)
    return a.detach(), g


def by_definition(name, net, x, target):
    """One sample, one channel, one place at a time, as the papers and pytorch-grad-cam write it."""
    a, g = parts(net, x, target)
    found = torch.zeros(len(x), 1, *a.shape[2:], dtype=x.dtype)
    for n in range(len(x)):
        score = net[5:](a[n : n + 1])[0, target]
        for k in range(a.shape[1]):
            without = a[n : n + 1].clone()
            without[:, k] = 0
            drop = score - net[5:](without)[0, target]
            mean = (g[n, k] * a[n, k]).sum() / a[n, k].sum()
            weight = {"LayerCAM": g[n, k].clamp(min=0), "HiResCAM": g[n, k], "XGradCAM": mean, "AblationCAM": drop}[
                name
            ]
            found[n, 0] += weight * a[n, k]
    return found


@pytest.mark.parametrize("name", DEFINITIONS)
def test_a_map_is_what_its_paper_says(name, x):
    net = randomised(plain())
    expected = by_definition(name, net, x, 2)
    assert expected.abs().max() > 0
    torch.testing.assert_close(METHODS[name](net, "4", relu=False)(x, 2), expected.detach(), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(METHODS[name](net, "4")(x, 2), expected.detach().clamp(min=0), rtol=1e-9, atol=1e-12)


def test_behind_a_mean_and_a_linear_layer_four_of_them_are_the_class_activation_map(x):
    net = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 4)).double()
    a = net[:2](x)
    expected = torch.einsum("c,nchw->nhw", net[4].weight[1] / a[0, 0].numel(), a)[:, None].detach()
    for method in (HiResCAM, XGradCAM, METHODS["GradCAM"]):
        torch.testing.assert_close(method(net, "1", relu=False)(x, 1), expected, rtol=1e-10, atol=1e-14)
    drops = net[4].weight[1] * a.mean(dim=(2, 3))  # of a channel that is on
    expected = torch.einsum("nc,nchw->nhw", drops, a)[:, None].detach()
    torch.testing.assert_close(AblationCAM(net, "1", relu=False)(x, 1), expected, rtol=1e-9, atol=1e-13)


def test_hires_cam_sums_to_the_score_where_it_is_linear(x):
    net = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Flatten(), nn.Linear(5 * 8 * 6, 4)).double()
    found = HiResCAM(net, "0", relu=False)(x, 3).sum(dim=(1, 2, 3))
    torch.testing.assert_close(found, (net(x)[:, 3] - net[2].bias[3]).detach(), rtol=1e-10, atol=1e-12)


def test_a_channel_that_sums_to_zero_is_left_out_of_x_grad_cam():
    net = nn.Sequential(nn.Identity(), nn.Flatten(), nn.Linear(8, 2)).double()
    x = torch.tensor([1.0, -1, 2, -2, 1, 1, 1, 1], dtype=torch.float64).view(1, 2, 2, 2)
    expected = net[2].weight[0, 4:].mean() * x[:, 1:]
    torch.testing.assert_close(XGradCAM(net, "0", relu=False, maps="channels_first")(x, 0), expected.detach())


def test_eigen_cam_is_the_first_direction_by_power_iteration(x):
    net = randomised(plain())
    a = net[:6](x).detach()  # behind a ReLU
    v = torch.ones(3, a.shape[1], dtype=x.dtype)
    for _ in range(500):
        v = F.normalize(torch.einsum("nchw,ndhw,nd->nc", a, a, v), dim=1)
    expected = torch.einsum("nchw,nc->nhw", a, v)[:, None]
    torch.testing.assert_close(EigenCAM(net, "5")(x), expected, rtol=1e-7, atol=1e-9)
    assert expected.min() >= 0  # Perron: nothing was cut off
    assert torch.equal(EigenCAM(net, "5")(x, 0), EigenCAM(net, "5")(x, 3))


@pytest.mark.parametrize("name", [*DEFINITIONS, "EigenCAM"])
def test_layouts_give_the_same_map(name):
    """The same network with its channels last, and as tokens behind one that has no place."""

    class Laid(nn.Module):
        def __init__(self, layout):
            super().__init__()
            torch.manual_seed(0)
            self.conv, self.lay, self.head = nn.Conv2d(3, 6, 4, stride=4), nn.Identity(), nn.Linear(6, 4)
            self.layout = layout

        def forward(self, x):
            z = self.conv(x).exp()
            if self.layout == "first":
                return self.head((self.lay(z) ** 2).mean(dim=(2, 3)))
            z = z.movedim(1, -1)
            if self.layout == "last":
                return self.head((self.lay(z) ** 2).mean(dim=(1, 2)))
            z = torch.cat([z.new_ones(len(z), 1, 6), z.flatten(1, 2)], dim=1)
            return self.head((self.lay(z)[:, 1:] ** 2).mean(dim=1))

    x = torch.rand(2, 3, 20, 12, dtype=torch.float64)
    expected = METHODS[name](Laid("first").double(), "lay", relu=False, maps="channels_first")(x, 1)
    assert expected.shape == (2, 1, 5, 3) and expected.any()
    for layout, maps in (("last", "channels_last"), ("tokens", "tokens")):
        found = METHODS[name](Laid(layout).double(), "lay", relu=False, maps=maps)(x, 1)
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-12)


def test_ablation_cam_needs_a_layout_it_can_find_back_through(x):
    with pytest.raises(ValueError, match="needs a layout in maps=, not a function"):
        AblationCAM(plain(), "4", maps=lambda output: output)(x, 0)


def test_ablation_counts_what_leads_around_the_layer(x):
    net = randomised(Residual())
    expected = torch.cat([AblationCAM(net, "conv", batch_size=1)(x[n : n + 1], 1) for n in range(3)])
    torch.testing.assert_close(AblationCAM(net, "conv", batch_size=7)(x, 1), expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("make", [plain, Residual])
def test_the_parts_of_a_full_gradient_sum_to_the_score(make, x):
    net = randomised(make())
    with evaluating(net):
        of_input, of_biases = FullGrad(net).decomposition(x, 1)
    total = of_input.flatten(1).sum(dim=1) + sum(values.flatten(1).sum(dim=1) for _, values in of_biases)
    torch.testing.assert_close(total, net(x)[:, 1].detach(), rtol=1e-10, atol=1e-12)
    assert len([name for name, values in of_biases if values.any()]) == (4 if make is plain else 3)


def test_smooth_activations_have_a_bias_of_their_own(x):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU(), nn.Flatten(), nn.Linear(4 * 48, 3)).double()
    with evaluating(net):
        of_input, of_biases = FullGrad(net).decomposition(x, 1)
    total = of_input.flatten(1).sum(dim=1) + sum(values.flatten(1).sum(dim=1) for _, values in of_biases)
    torch.testing.assert_close(total, net(x)[:, 1].detach(), rtol=1e-10, atol=1e-12)


def test_full_grad_lays_scaled_parts_over_one_another(x):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(120, 3))
    net = net.double()
    image = x.clone().requires_grad_()
    first = net[0](image)
    second = net[2](net[1](first))
    g = torch.autograd.grad(net[3:](second)[:, 2].sum(), [image, first, second])
    terms = [x * g[0], net[0].bias.view(-1, 1, 1) * g[1], net[2].bias.view(-1, 1, 1) * g[2]]
    expected = torch.zeros(3, 1, 10, 8, dtype=x.dtype)
    for term in terms:
        for n in range(3):
            size = term[n].abs()
            scaled = (size - size.min()) / (size.max() - size.min())
            expected[n] += F.interpolate(scaled[None], (10, 8), mode="bilinear")[0].sum(0, keepdim=True)
    torch.testing.assert_close(FullGrad(net)(x, 2), expected.detach(), rtol=1e-9, atol=1e-12)


def test_of_a_wrapped_model_the_normalised_image_is_the_input(x):
    net = randomised(plain())
    wrapped = PixelModel(net, [0.4, 0.5, 0.6], [0.2, 0.3, 0.1]).double()
    torch.testing.assert_close(FullGrad(wrapped)(x, 1), FullGrad(net)(wrapped.normalize(x), 1), rtol=1e-8, atol=1e-10)


def test_layers_without_a_bias_add_nothing(x):
    """Not even their rounding errors, which would be scaled up to a whole map."""
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False), nn.AvgPool2d(3, stride=1), nn.ReLU(), nn.Flatten(), nn.Linear(96, 3)
    )
    for dtype in (torch.float32, torch.float64):
        with evaluating(net.to(dtype)):
            _, of_biases = FullGrad(net).decomposition(x.to(dtype), 1)
        assert [name for name, values in of_biases if values.any()] == ["4"]
