"""The formulas on maps against autograd, central differences and plain loops, in float64."""

import time
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from lit_models import functional, functional_conv
from lit_models import functional_maps as ours
from oracles import central_differences

SIZES = [(1, 7, 9), (3, 8, 6)]  # (N, H, W): a batch of one, and sides that are not equal


def normal(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


def assert_equal(gradient, expected, tolerance=1e-10):
    assert expected.abs().max() > 0
    torch.testing.assert_close(gradient, expected, rtol=tolerance, atol=tolerance)


def hold(run, torch_run, *tensors):
    """``run(*tensors)`` gives the output and a function dz -> gradients: both against autograd and differences."""
    z, backward = run(*tensors)
    leaves = [t.clone().requires_grad_() for t in tensors]
    expected = torch_run(*leaves)
    assert_equal(z, expected.detach(), 1e-12)
    dz = normal(*z.shape)
    gradients = backward(dz)
    for gradient, e in zip(gradients, torch.autograd.grad(expected, leaves, dz), strict=True):
        assert_equal(gradient, e)
    for tensor, gradient in zip(tensors, gradients):
        differences = central_differences(lambda: (run(*tensors)[0] * dz).sum(), tensor)
        assert (gradient - differences).abs().max() < 1e-6


def convolve(stride, padding):
    def run(x, w, b):
        z, cache = functional_conv.conv_forward(x, w, b, stride, padding)
        return z, lambda dz: (functional_conv.conv_input_backward(dz, cache), *functional_conv.conv_backward(dz, cache))

    return run


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kernel", [(3, 3), (5, 3), (1, 1)])
@pytest.mark.parametrize("padding", ["same", "valid", (1, 2), (3, 0)])
@pytest.mark.parametrize("stride", [1, 2, (1, 3)])
def test_convolution(size, kernel, padding, stride):
    n, height, width = size
    margin = {"same": (kernel[0] // 2, kernel[1] // 2), "valid": (0, 0)}.get(padding, padding)
    tensors = (normal(n, 2, height, width), normal(3, 2, *kernel), normal(3))
    hold(convolve(stride, padding), lambda x, w, b: F.conv2d(x, w, b, stride, margin), *tensors)


@pytest.mark.parametrize("channels", [3, 9])
@pytest.mark.parametrize("portion", [1, 500])
def test_convolution_of_many_channels_and_in_portions(channels, portion, monkeypatch):
    monkeypatch.setattr(functional_conv, "PORTION", portion)
    tensors = (normal(3, channels, 5, 4), normal(2, channels, 3, 2), normal(2))
    hold(convolve(1, (1, 0)), lambda x, w, b: F.conv2d(x, w, b, 1, (1, 0)), *tensors)
    _, cache = functional_conv.conv_forward(*tensors[:2])
    assert len(functional_conv.conv_backward(normal(3, 2, 3, 3), cache)) == 1  # no bias, no gradient of it


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("window", "stride", "padding"), [(2, None, 0), ((3, 2), (2, 1), 1), (2, 3, 0), (3, 1, 1)])
@pytest.mark.parametrize("kind", ["max", "average"])
def test_pooling(kind, size, window, stride, padding):
    pair = {"max": (ours.max_pool_forward, ours.max_pool_backward)}
    forward, backward = pair.get(kind, (ours.average_pool_forward, ours.average_pool_backward))

    def run(x):
        z, cache = forward(x, window, stride, padding)
        return z, lambda dz: (backward(dz, cache),)

    pool = F.max_pool2d if kind == "max" else F.avg_pool2d
    x = normal(size[0], 2, *size[1:])
    hold(run, lambda x: pool(x, window, stride, padding), x)
    five, cache = forward(x.expand(3, *x.shape), window, stride, padding)  # more dimensions in front
    assert_equal(five[1], run(x)[0])
    assert_equal(backward(five, cache)[2], run(x)[1](five[2])[0])


def test_of_equal_values_in_a_window_the_first_takes_the_gradient():
    z, cache = ours.max_pool_forward(torch.zeros(1, 1, 2, 2), 2)
    assert ours.max_pool_backward(torch.ones_like(z), cache).flatten().tolist() == [1, 0, 0, 0]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("training", [True, False])
def test_batch_norm(size, training):
    mean, variance = normal(2), normal(2).square() + 0.5

    def run(x, g, h):
        if training:
            z, cache = ours.batch_norm_forward(x, g, h, 1e-3)
            gradients = partial(ours.batch_norm_backward, cache=cache)
            return z, lambda dz: (ours.batch_norm_input_backward(dz, cache, *gradients(dz)), *gradients(dz))
        z, cache = ours.running_norm_forward(x, g, h, mean, variance, 1e-3)
        return z, lambda dz: (ours.running_norm_input_backward(dz, cache), *ours.batch_norm_backward(dz, cache))

    def torch_run(x, g, h):
        return F.batch_norm(x, mean.clone(), variance.clone(), g, h, training, eps=1e-3)

    hold(run, torch_run, 3 + 2 * normal(size[0], 2, *size[1:]), normal(2), normal(2) + 1)


def test_the_short_form_of_batch_norms_gradient_is_that_of_its_graph():
    """The steps of eq. 1.29, one by one."""
    x, gain, shift, dz = normal(3, 2, 5, 4), normal(2), normal(2) + 1, normal(3, 2, 4, 5).mT
    _, cache = ours.batch_norm_forward(x, gain, shift, 1e-3)
    found = ours.batch_norm_input_backward(dz, cache, *ours.batch_norm_backward(dz, cache))
    for channel in range(2):
        values, d = x[:, channel], dz[:, channel]
        n, c = values.numel(), values - values.mean()
        r = (c.square().mean() + 1e-3) ** -0.5
        dx_hat = gain[channel] * d
        dv = -0.5 * r**3 * (dx_hat * c).sum()
        dc = r * dx_hat + 2 / n * c * dv
        assert_equal(found[:, channel], dc - dc.sum() / n)


def test_running_statistics_follow_as_those_of_torch():
    x, norm = normal(3, 2, 5, 4), torch.nn.BatchNorm2d(2, momentum=0.3).double()
    mean, variance = norm.running_mean.clone(), norm.running_var.clone()
    for _ in range(2):
        norm(x)
        _, cache = ours.batch_norm_forward(x, norm.weight.detach(), norm.bias.detach())
        ours.follow_statistics(mean, variance, cache, 60, 0.3)
    assert_equal(mean, norm.running_mean)
    assert_equal(variance, norm.running_var)


@pytest.mark.parametrize(("shape", "whole"), [((1, 3, 5, 7), False), ((4, 6), False), ((2, 3, 5, 7), True)])
def test_dropout_draws_the_masks_of_torch(shape, whole):
    a = normal(*shape)

    def run(a):
        torch.manual_seed(3)
        out, mask = ours.map_dropout_forward(a, 0.4, whole)
        assert 0 < (mask == 0).sum() < mask.numel()
        return out, lambda d_out: (ours.map_dropout_backward(d_out, mask),)

    def torch_run(a):
        torch.manual_seed(3)
        return (F.dropout2d if whole else F.dropout)(a, 0.4)

    hold(run, torch_run, a)


def test_flatten():
    def run(x):
        out, shape = ours.flatten_forward(x)
        return out, lambda d_out: (ours.flatten_backward(d_out, shape),)

    x = normal(2, 3, 4, 5)
    hold(run, lambda x: x.flatten(1), x)
    last = x.contiguous(memory_format=torch.channels_last)
    assert torch.equal(run(last)[0], run(x)[0]) and torch.equal(run(last)[1](run(x)[0])[0], x)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
@pytest.mark.parametrize("n", [1, 6])
def test_smoothed_cross_entropy(n, smoothing):
    y, t = 5 * normal(n, 4), torch.arange(n) % 4
    value, cache = functional.smoothed_cross_entropy_forward(y, t, smoothing)
    leaf = y.clone().requires_grad_()
    expected = F.cross_entropy(leaf, t, label_smoothing=smoothing)
    assert_equal(value, expected.detach(), 1e-12)
    gradient = functional.smoothed_cross_entropy_backward(cache)
    assert_equal(gradient, torch.autograd.grad(expected, leaf)[0])
    differences = central_differences(lambda: functional.smoothed_cross_entropy_forward(y, t, smoothing)[0], y)
    assert (gradient - differences).abs().max() < 1e-6
    many, _ = functional.smoothed_cross_entropy_forward(y.expand(3, n, 4), t.expand(3, n), smoothing)
    torch.testing.assert_close(many, value.expand(3))


def test_a_corrupted_derivative_is_caught():
    def run(x, w, b):
        z, backward = convolve(2, "same")(x, w, b)
        return z, lambda dz: (1.0001 * backward(dz)[0], *backward(dz)[1:])

    tensors = (normal(2, 2, 7, 6), normal(3, 2, 3, 3), normal(3))
    with pytest.raises(AssertionError):
        hold(run, lambda x, w, b: F.conv2d(x, w, b, 2, 1), *tensors)


def loop_convolution(x, w, b, dz):
    """Output and gradients of a convolution, place by place, as a course would write it."""
    (n, _, height, width), (k, _, kh, kw) = x.shape, w.shape
    z = torch.zeros(n, k, height - kh + 1, width - kw + 1, dtype=x.dtype)
    dx, dw, db = torch.zeros_like(x), torch.zeros_like(w), torch.zeros_like(b)
    for sample in range(n):
        for out in range(k):
            for i in range(z.shape[2]):
                for j in range(z.shape[3]):
                    patch = x[sample, :, i : i + kh, j : j + kw]
                    z[sample, out, i, j] = (patch * w[out]).sum() + b[out]
                    d = dz[sample, out, i, j]
                    dw[out] += d * patch
                    db[out] += d
                    dx[sample, :, i : i + kh, j : j + kw] += d * w[out]
    return z, dx, dw, db


def test_the_formulas_equal_loops_over_places_at_a_fraction_of_their_time():
    x, w, b = normal(4, 3, 14, 12), normal(8, 3, 5, 5), normal(8)
    dz = normal(4, 8, 10, 8)

    def fast():
        z, backward = convolve(1, "valid")(x, w, b)
        return z, *backward(dz)

    fast()
    spent = []
    for run in (fast, lambda: loop_convolution(x, w, b, dz)):
        start = time.perf_counter()
        results = run()
        spent.append((time.perf_counter() - start, results))
    (quick, found), (slow, expected) = spent
    for one, other in zip(found, expected, strict=True):
        assert_equal(one, other)
    assert slow > 50 * quick


X, W = torch.zeros(1, 1, 4, 5), torch.zeros(2, 1, 3, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: functional_conv.conv_forward(X, torch.zeros(2, 1, 5, 5)), "a kernel of 5×5 does not fit maps of 4×5"),
        (lambda: functional_conv.conv_forward(X, W, padding="full"), "unknown padding 'full'; there are: same, valid"),
        (lambda: functional_conv.conv_forward(X, W, padding=-1), "padding must be a whole number of at least 0"),
        (lambda: functional_conv.conv_forward(X, W, padding=0.5), "padding must be a whole number"),
        (lambda: functional_conv.conv_forward(X, W, padding=(1, 2, 3)), "padding must be a whole number"),
        (
            lambda: functional_conv.conv_forward(X, torch.zeros(2, 1, 2, 3), padding="same"),
            "needs an odd kernel, not 2×3",
        ),
        (lambda: functional_conv.conv_forward(X, W, stride=0), "stride must be a whole number of at least 1"),
        (lambda: functional_conv.conv_forward(X, torch.zeros(2, 3, 3, 3)), "do not fit maps"),
        (lambda: ours.max_pool_forward(X, 5), "a kernel of 5×5 does not fit maps of 4×5"),
        (lambda: ours.average_pool_forward(X, 2, padding=2), "at most half of its window"),
        (lambda: ours.batch_norm_forward(X[..., :1, :1], W[0, 0, 0, :1], W[0, 0, 0, :1]), "more than one value"),
    ],
)
def test_what_does_not_fit_is_named(call, message):
    with pytest.raises(ValueError, match=message) as refused:
        call()
    assert "\n" not in str(refused.value)
