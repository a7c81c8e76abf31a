"""What would give a wrong map without a word: each is right, or an error that names it."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from attribution_networks import Residual, randomised
from interpretability.attribution import (
    METHODS,
    Deconvolution,
    GuidedBackprop,
    IntegratedGradients,
    Occlusion,
    Saliency,
    SmoothGrad,
)
from interpretability.attribution.cam import GradCAMPlusPlus
from interpretability.gradients import input_gradient

pytestmark = pytest.mark.filterwarnings("ignore:integrated gradients miss")
OPTIONS = {"Occlusion": {"window": 3, "stride": 2}, "IntegratedGradients": {"n_steps": 6}}


@pytest.fixture
def x():
    return torch.rand(3, 3, 9, 7, dtype=torch.float64)


class Explicit(nn.Module):
    """Offers its own gradient, and believes whatever target it is given."""

    def forward(self, x):
        return x.flatten(1)[:, :4] ** 2

    def input_gradient(self, x, target):
        with torch.enable_grad():
            leaf = x.clone().requires_grad_()
            logits = self(leaf)
            scores = target(logits) if callable(target) else logits[torch.arange(len(x)), target]
            return torch.autograd.grad(scores.sum(), leaf)[0]


@pytest.mark.parametrize(
    ("target", "error", "words"),
    [
        (True, TypeError, "is a bool"),
        (2.0, TypeError, "neither a class index"),
        (torch.tensor([1.0, 2.0, 0.0]), TypeError, "got dtype torch.float32"),
        (torch.tensor([1]), ValueError, r"one class per sample, \(3,\); got \(1,\)"),
        (lambda logits: logits.sum(), ValueError, r"it returned \(\)"),
        (lambda logits: logits[:, :2], ValueError, r"it returned \(3, 2\)"),
    ],
)
def test_a_model_with_its_own_gradient_gets_no_target_that_is_none(target, error, words, x):
    for call in (Saliency(Explicit()), lambda x, target: input_gradient(Explicit(), x, target)):
        with pytest.raises(error, match=words):
            call(x, target)
    expected = Saliency(Explicit())(x, torch.tensor([2, 2, 2]))
    assert expected.abs().max() > 0
    assert torch.equal(Saliency(Explicit())(x, torch.tensor(2)), expected)
    assert torch.equal(Saliency(Explicit())(x, lambda logits: logits[:, 2]), expected)


def test_one_target_in_a_tensor_serves_every_noisy_copy(x):
    net = randomised(Residual())
    assert torch.equal(SmoothGrad(net)(x, torch.tensor(2)), SmoothGrad(net)(x, 2))


@pytest.mark.parametrize("name", METHODS)
def test_a_batch_without_samples_is_named(name, x):
    with pytest.raises(ValueError, match=r"no samples; got shape \(0, 3, 9, 7\)"):
        METHODS[name](randomised(Residual()), "conv" if METHODS[name].needs_layer else None)(x[:0], 1)


def test_an_image_that_is_no_batch_is_named():
    net = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(1))
    assert net(torch.rand(3, 9, 9)).shape == (5, 1)  # what it takes for five samples of one class
    for name in ("Saliency", "InputXGradient", "GuidedBackprop"):
        with pytest.raises(ValueError, match=r"logits \(5, 1\) for a batch of 3: is x a batch"):
            METHODS[name](net)(torch.rand(3, 9, 9), 0)


@pytest.mark.parametrize("name", sorted(METHODS.keys() - {"LRP"}))
def test_a_model_that_returns_no_tensor_is_named(name, x):
    class Dictionary(Residual):
        def forward(self, x):
            return {"logits": super().forward(x)}

    with pytest.raises(TypeError, match="logits as one tensor; it returned dict"):
        METHODS[name](randomised(Dictionary()), "conv" if METHODS[name].needs_layer else None)(x, 1)


def test_a_model_that_mixes_its_samples_is_named(x):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.Flatten()).double()
    with pytest.raises(ValueError, match="layer '1' mixes samples"):
        Saliency(net)(x, 1)


@pytest.mark.parametrize("name", ["IntegratedGradients", "Occlusion"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_what_leads_around_a_layer_counts_in_half_precision_too(name, dtype, x):
    target = torch.tensor([1, 2, 0])
    method = METHODS[name](randomised(Residual()).to(dtype), "conv", **OPTIONS[name])
    together = method(x.to(dtype), target)
    alone = torch.cat([method(x[n : n + 1].to(dtype), target[n : n + 1]) for n in range(3)])
    assert alone.abs().max() > 0
    assert (together - alone).float().norm() < 0.05 * alone.float().norm()


def test_a_layer_that_changes_its_input_unannounced_is_seen_to(x):
    class Doubled(nn.Module):
        def forward(self, z):
            return z.mul_(2)

    class Net(nn.Module):
        def __init__(self, shares):
            super().__init__()
            self.conv, self.act, self.shares = nn.Conv2d(3, 3, 3), Doubled(), shares

        def forward(self, x):
            z = self.conv(x)
            y = self.act(z)
            return (y + (z if self.shares else y)).sin().mean(dim=(2, 3))

    shared, plain = Net(True).double(), Net(False).double()
    plain.load_state_dict(shared.state_dict())
    assert torch.equal(shared(x), plain(x))
    expected = Saliency(plain, "act")(x, 1)
    assert expected.abs().max() > 0
    assert torch.equal(Saliency(shared, "act")(x, 1), expected)


@pytest.mark.parametrize("name", ["IntegratedGradients", "SmoothGrad", "LayerConductance"])
def test_a_layer_with_another_first_axis_is_named(name):
    class Swapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.block, self.head = nn.Linear(5, 5), nn.Linear(5, 3)

        def forward(self, x):  # (N, L, D), inside (L, N, D)
            return self.head(self.block(x.transpose(0, 1)).tanh().mean(dim=0))

    with pytest.raises(ValueError, match=r"layer 'block' returns .* it has no row per sample"):
        METHODS[name](Swapped(), "block")(torch.rand(8, 6, 5), 0)


def test_a_baseline_that_is_not_finite_or_does_not_fit_is_named(x):
    net = randomised(Residual())
    for method in (IntegratedGradients, Occlusion):
        with pytest.raises(ValueError, match="baseline holds NaN"):
            method(net, baseline=float("nan"))(x, 1)
        with pytest.raises(ValueError, match=r"baseline \(3,\) does not fit"):
            method(net, baseline=torch.zeros(3))(x, 1)


def test_grad_cam_plus_plus_survives_small_gradients(x):
    net = randomised(Residual())
    expected = GradCAMPlusPlus(net, "conv", relu=False)(x, lambda logits: logits[:, 1] * 1e-8)
    net.float()
    single = GradCAMPlusPlus(net, "conv", relu=False)(x.float(), lambda logits: logits[:, 1] * 1e-8)
    assert expected.abs().max() > 0
    torch.testing.assert_close(single.double(), expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
    tiny = GradCAMPlusPlus(net, "conv", relu=False)(x.float(), lambda logits: logits[:, 1] * 1e-25)
    torch.testing.assert_close(tiny * 1e17, single, rtol=1e-3, atol=1e-3 * float(single.abs().max()))


class Rectified(nn.Module):
    """Two ReLUs, the second as ``rectify`` writes it."""

    def __init__(self, rectify):
        super().__init__()
        self.first, self.second, self.rectify = nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 1), rectify
        for n, parameter in enumerate(self.parameters()):
            nn.init.normal_(parameter, generator=torch.Generator().manual_seed(n))

    def forward(self, x):
        maps = self.rectify(self.second(torch.relu(self.first(x))))
        return (maps * torch.tensor([1, -1, 1])[:, None, None]).mean(dim=(2, 3))


def assigned(z):
    z = z.clone()
    z[z < 0] = 0
    return z


def assigned_a_tensor(z):
    z = z.clone()
    z[z < 0] = torch.zeros((), dtype=z.dtype)
    return z


def zero(z):
    return torch.zeros((), dtype=z.dtype)


KNOWN = {
    "F.relu": F.relu,
    "Tensor.relu_": lambda z: z.clone().relu_(),
    "clamp(min=0)": lambda z: z.clamp(min=0),
    "clamp(min=tensor)": lambda z: z.clamp(min=zero(z)),
    "clamp_min(0)": lambda z: torch.clamp_min(z, 0),
    "clamp_min(tensor)": lambda z: torch.clamp_min(z, zero(z)),
    "clip": lambda z: z.clip(0, 1e9),
    "leaky_relu": lambda z: F.leaky_relu(z, 0.0),
    "prelu": lambda z: F.prelu(z, torch.zeros(3, dtype=z.dtype)),
    "elu": lambda z: F.elu(z, alpha=0.0),
    "threshold": lambda z: F.threshold(z, 0, 0),
    "hardtanh": lambda z: F.hardtanh(z, 0, 1e9),
}
HIDDEN = {
    "where": lambda z: torch.where(z > 0, z, 0.0),
    "times a mask": lambda z: z * (z > 0),
    "times a mask of numbers": lambda z: z * (z > 0).to(z),
    "times a detached mask": lambda z: z * (z.detach() > 0),
    "masked_fill": lambda z: z.masked_fill(z < 0, 0),
    "assigned a number": assigned,
    "assigned a tensor": assigned_a_tensor,
    "index_put": lambda z: z.index_put((z < 0,), zero(z)),
    "masked_scatter": lambda z: z.masked_scatter(z < 0, torch.zeros_like(z)),
    "sign": lambda z: z * (z.sign() + 1) / 2,
    "heaviside": lambda z: z * torch.heaviside(z, zero(z)),
    "abs": lambda z: (z + z.abs()) / 2,
    "stacked and the largest": lambda z: torch.stack([z, 0 * z]).amax(0),
    "stacked and max": lambda z: torch.stack([z, 0 * z]).max(dim=0).values,
    "maximum": lambda z: torch.maximum(z, zero(z)),
    "maximum with 0 · z": lambda z: torch.maximum(z, z * 0),
    "fmax": lambda z: torch.fmax(z, torch.zeros_like(z)),
    "negated minimum": lambda z: -torch.minimum(-z, torch.zeros_like(z)),
    "negated clamp": lambda z: -(-z).clamp(max=0),
    "from numpy": lambda z: z * torch.from_numpy(z.detach().numpy() > 0),
}


def total(logits):
    return logits.sum(dim=1)


@pytest.mark.parametrize("cls", [GuidedBackprop, Deconvolution])
@pytest.mark.parametrize("layer", [None, "first"])
@pytest.mark.parametrize("spelling", KNOWN)
def test_a_relu_is_known_by_what_it_does(spelling, layer, cls, x):
    x = x - 0.5
    expected = cls(Rectified(torch.relu).double(), layer)(x, total)
    assert expected.abs().max() > 0
    assert not torch.equal(expected, Saliency(Rectified(torch.relu).double(), layer)(x, total))
    assert torch.equal(cls(Rectified(KNOWN[spelling]).double(), layer)(x, total), expected)


@pytest.mark.parametrize("cls", [GuidedBackprop, Deconvolution])
@pytest.mark.parametrize("spelling", HIDDEN)
def test_what_may_be_a_relu_is_refused_by_name(spelling, cls, x):
    x = x - 0.5
    torch.testing.assert_close(Rectified(HIDDEN[spelling]).double()(x), Rectified(torch.relu).double()(x))
    with pytest.raises(ValueError, match=r"masks its activations|compares with zero|cannot tell whether .* is a ReLU"):
        cls(Rectified(HIDDEN[spelling]).double())(x, 0)


@pytest.mark.parametrize("rectify", [torch.tanh, F.silu, F.gelu, F.softplus, lambda z: z.clamp(-1, 1)])
def test_another_activation_passes_the_gradient_as_it_is(rectify, x):
    guided = GuidedBackprop(Rectified(rectify).double(), "second")(x - 0.5, total)
    assert guided.abs().max() > 0
    assert torch.equal(guided, Saliency(Rectified(rectify).double(), "second")(x - 0.5, total))


def test_guided_backpropagation_lets_a_mask_pass_that_all_samples_share(x):
    def masked(z):
        shared = torch.eye(z.shape[2], z.shape[3], dtype=torch.bool)
        return torch.relu(z).masked_fill(shared, 0) * torch.tensor([1.0, 0, 1])[:, None, None]

    assert GuidedBackprop(Rectified(masked).double())(x, lambda logits: logits.sum(dim=1)).abs().max() > 0
