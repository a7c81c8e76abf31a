"""Feature visualisation: parameterisations, views, penalties, objectives and the loop, against replicas."""

import math
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from interpretability.visualization import (
    PARAMETERIZATIONS,
    Fourier,
    Margin,
    Pixels,
    RandomAffine,
    blur,
    channel,
    direction,
    diversity,
    l1,
    logit,
    neuron,
    odds,
    total_variation,
    visualize,
)
from interpretability.visualization.parameterization import COLOR_CORRELATION
from interpretability.visualization.relu import PassedReLUs
from interpretability.visualization.visualize import reading


class SmallNet(nn.Module):
    """Two convolutions and a head, with a ReLU of each spelling; channel 3 of ``second`` is dead."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.act = nn.ReLU(inplace=True)
        self.second = nn.Conv2d(6, 5, 3, padding=1)
        self.off = nn.ReLU()
        self.head = nn.Linear(5, 4)
        with torch.no_grad():
            for layer in (self.first, self.second, self.head):
                layer.weight *= 3
            self.second.weight[3], self.second.bias[3] = 0, -1.0

    def forward(self, x):
        a = self.act(self.first(x))
        self.reached_second = True
        return self.head(self.off(self.second(a)).mean((2, 3)))


@pytest.fixture
def net():
    return SmallNet().double()


def photo(*shape):
    rows, columns = torch.meshgrid(torch.linspace(0, 1, shape[-2]), torch.linspace(0, 1, shape[-1]), indexing="ij")
    waves = torch.stack([torch.sin(5 * rows + 3 * c + columns * (c + 4)) for c in range(shape[1])])
    return (0.5 + 0.45 * waves).expand(*shape)


# --- parameterisations


@pytest.mark.parametrize("name", PARAMETERIZATIONS)
@pytest.mark.parametrize("shape", [(2, 3, 9, 14), (1, 1, 8, 7), (1, 2, 5, 5)])
def test_encoding_an_image_gives_it_back(name, shape):
    canvas = PARAMETERIZATIONS[name](shape, torch.Generator().manual_seed(1)).double()
    image = 0.01 + 0.98 * torch.rand(*shape, dtype=torch.float64)
    assert (canvas() - image).abs().max() > 0.1
    canvas.encode(image)
    torch.testing.assert_close(canvas().detach(), image, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", PARAMETERIZATIONS)
@pytest.mark.parametrize("channels", [1, 3])
def test_gradient_descent_fits_an_image(name, channels):
    image = photo(1, channels, 20, 24)
    canvas = PARAMETERIZATIONS[name](image.shape, torch.Generator().manual_seed(0))
    assert (canvas() - image).abs().mean() > 0.1
    optimizer = torch.optim.Adam(canvas.parameters(), lr=0.2)
    for _ in range(1200):
        optimizer.zero_grad()
        (canvas() - image).square().sum().backward()
        optimizer.step()
    assert (canvas() - image).abs().mean() < 0.01


def test_fourier_values_are_the_scaled_sum_of_waves():
    height, width = 6, 5
    canvas = Fourier((1, 1, height, width)).double()
    with torch.no_grad():
        canvas.free[0, 0, 2, 1] = torch.tensor([0.7, -0.3])
    coefficient = complex(0.7, -0.3) / (4 * math.hypot(2, 6 / 5))  # 2 cycles down, 1 per 5 pixels = 1.2 per 6 across
    for y in range(height):
        for x in range(width):
            wave = coefficient * np.exp(2j * np.pi * (2 * y / height + x / width))
            assert canvas.values()[0, 0, y, x].item() == pytest.approx(2 * wave.real, abs=1e-7)


def test_colours_are_correlated_for_three_channels_only():
    generator = torch.Generator().manual_seed(0)
    colour, plain = Pixels((1, 3, 4, 4), generator), Pixels((1, 2, 4, 4), generator)
    expected = torch.einsum("dc,nchw->ndhw", COLOR_CORRELATION, colour.free).sigmoid()
    torch.testing.assert_close(colour(), expected)
    torch.testing.assert_close(plain(), plain.free.sigmoid())
    assert (colour() - colour.free.sigmoid()).abs().max() > 1e-4


# --- views


def test_a_view_without_strength_is_the_image_and_views_differ_within_a_batch():
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(3, 2, 9, 13, dtype=torch.float64)
    torch.testing.assert_close(RandomAffine()(image, generator), image, rtol=0, atol=1e-12)
    views = RandomAffine(jitter=2, scale=(0.8, 1.2), rotation=20)(image[:1].expand(3, -1, -1, -1), generator)
    assert (views[0] - views[1]).abs().max() > 0.05 and (views[1] - views[2]).abs().max() > 0.05


@pytest.mark.parametrize("black", [True, False])
def test_views_sample_where_the_derivation_says(black):
    image = photo(1, 1, 15, 21).double().clone()
    transform = RandomAffine(jitter=2, scale=(0.7, 0.9), rotation=30, black=black)
    view = transform(image, torch.Generator().manual_seed(3))
    shift_x, shift_y, zoom, turn = torch.rand(
        4, 1, generator=torch.Generator().manual_seed(3), dtype=torch.float64
    ).flatten()
    m, angle = (0.7 + 0.2 * zoom).item(), math.radians(30) * (2 * turn - 1).item()
    centre, checked = np.array([10, 7]), 0
    for y in range(15):
        for x in range(21):
            ux, uy = np.array([x, y]) - centre
            source_x = (ux * math.cos(angle) - uy * math.sin(angle)) / m + 10 + 2 * (2 * shift_x.item() - 1)
            source_y = (ux * math.sin(angle) + uy * math.cos(angle)) / m + 7 + 2 * (2 * shift_y.item() - 1)
            if 0 <= source_x < 20 and 0 <= source_y < 14:
                x0, y0 = int(source_x), int(source_y)
                fx, fy = source_x - x0, source_y - y0
                box = image[0, 0, y0 : y0 + 2, x0 : x0 + 2]
                expected = (1 - fy) * ((1 - fx) * box[0, 0] + fx * box[0, 1])
                expected += fy * ((1 - fx) * box[1, 0] + fx * box[1, 1])
                assert view[0, 0, y, x].item() == pytest.approx(expected.item(), abs=1e-9)
                checked += 1
    assert checked > 100
    corner = RandomAffine(scale=(0.3, 0.3), black=black)(torch.ones(1, 1, 9, 9), torch.Generator())[0, 0, 0, 0]
    assert corner == (0 if black else 1)


def test_a_margin_is_black_and_the_image_inside_it():
    image = torch.rand(2, 1, 4, 5)
    framed = Margin(3)(image)
    assert framed.shape == (2, 1, 10, 11) and torch.equal(framed[:, :, 3:-3, 3:-3], image)
    assert framed.sum().item() == pytest.approx(image.sum().item())


@pytest.mark.parametrize("options", [{"jitter": -1}, {"rotation": -2}, {"scale": (0, 1)}, {"scale": (1.2, 1.1)}])
def test_impossible_views_are_refused(options):
    with pytest.raises(ValueError, match="jitter and rotation"):
        RandomAffine(**options)


# --- penalties


def test_penalties_against_loops():
    images = torch.rand(2, 3, 4, 5, dtype=torch.float64)
    for n in range(2):
        tv = ones = rough = 0.0
        for c in range(3):
            for y in range(4):
                for x in range(5):
                    here = images[n, c, y, x].item()
                    tv += abs(images[n, c, y, x + 1].item() - here) if x < 4 else 0
                    tv += abs(images[n, c, y + 1, x].item() - here) if y < 3 else 0
                    ones += abs(here - 0.25)
                    around = [
                        images[n, c, min(max(y + dy, 0), 3), min(max(x + dx, 0), 4)].item()
                        for dy in (-1, 0, 1)
                        for dx in (-1, 0, 1)
                    ]
                    rough += 0.5 * (here - sum(around) / 9) ** 2
        assert total_variation(0.3)(images)[n].item() == pytest.approx(0.3 * tv, rel=1e-12)
        assert l1(0.2, background=0.25)(images)[n].item() == pytest.approx(0.2 * ones, rel=1e-12)
        assert blur(2.0)(images)[n].item() == pytest.approx(2 * rough, rel=1e-12)


def test_blur_pulls_towards_the_mean_of_the_neighbours():
    image = torch.rand(1, 1, 5, 5, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(blur(1.0)(image).sum(), image)
    expected = image[0, 0, 2, 2] - image[0, 0, 1:4, 1:4].mean()
    assert gradient[0, 0, 2, 2].item() == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize("penalty", [total_variation, l1, blur])
def test_each_penalty_lowers_what_it_penalises(net, penalty):
    free, held = (
        visualize(net, logit(1), (3, 12, 12), steps=40, parameterization="pixel", transforms=(), regularizers=r)
        for r in ((), (penalty(1.0),))
    )
    assert penalty(1.0)(held) < 0.7 * penalty(1.0)(free)


# --- objectives


def test_objectives_read_what_they_name(net):
    x = torch.rand(3, 3, 6, 7, dtype=torch.float64)
    first, z = net.first(x), net(x)
    outputs = {None: z, "first": first, "head": z[:, :, None, None]}
    v = torch.randn(6, dtype=torch.float64)
    cases = {
        logit(2): z[:, 2],
        logit(lambda logits: logits[:, 0] - logits[:, 1]): z[:, 0] - z[:, 1],
        odds(1): (z.softmax(1)[:, 1] / (1 - z.softmax(1)[:, 1])).log(),
        channel("first", 4): first[:, 4].mean((1, 2)),
        channel("head", 1): z[:, 1],
        neuron("first", 2): first[:, 2, 3, 3],
        neuron("first", 2, 5, 0): first[:, 2, 5, 0],
        direction("first", v): (first * v[:, None, None]).sum(1).mean((1, 2)) / v.norm(),
        2 * channel("first", 0) - logit(3) * 0.5: 2 * first[:, 0].mean((1, 2)) - 0.5 * z[:, 3],
        -channel("first", 0) + logit(3): z[:, 3] - first[:, 0].mean((1, 2)),
    }
    for objective, expected in cases.items():
        torch.testing.assert_close(objective.score(outputs), expected, rtol=1e-12, atol=1e-12)
        assert objective.layers <= outputs.keys()


def test_diversity_against_a_loop():
    a = torch.randn(3, 4, 5, 2, dtype=torch.float64)
    grams = [(a[n].flatten(1) @ a[n].flatten(1).T).flatten() for n in range(3)]
    scores = diversity("a").score({"a": a})
    for n in range(3):
        cosines = [F.cosine_similarity(grams[n], grams[m], dim=0).item() for m in range(3) if m != n]
        assert scores[n].item() == pytest.approx(-sum(cosines) / 2, rel=1e-12)
    assert diversity("a").score({"a": a[:1]}).item() == pytest.approx(0, abs=1e-12)


def test_diversity_makes_images_differ(net):
    def likeness(images):
        return -diversity("first").score({"first": net.first(images)}).mean()

    alike, unlike = (
        visualize(net, logit(0) + weight * diversity("first"), (3, 3, 10, 10), steps=60) for weight in (0.0, 20.0)
    )
    assert likeness(unlike) < likeness(alike) - 0.05


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (channel("first", 6), r"'first' has 6 channels: 6 is not one"),
        (channel("first", -1), r"-1 is not one"),
        (channel("frist", 0), r"unknown layer 'frist'; did you mean 'first'"),
        (neuron("first", 0, 8, 0), r"8 × 8 positions: \(8, 0\)"),
        (neuron("head", 0, 1, 0), r"1 × 1 positions"),
        (direction("first", torch.ones(3)), r"6 channels, the direction \(3,\)"),
        (logit(4), r"target 4 is out of range"),
    ],
)
def test_what_does_not_exist_is_told(net, objective, message):
    with pytest.raises(ValueError, match=message):
        visualize(net, objective, (3, 8, 8), steps=1)


@pytest.mark.parametrize(
    ("shape", "options"), [((8, 8), {}), ((3, 8, 8), {"steps": 0}), ((3, 8, 8), {"parameterization": "fuorier"})]
)
def test_impossible_settings_are_told(net, shape, options):
    with pytest.raises(ValueError, match=r"visualize needs|did you mean 'fourier'"):
        visualize(net, logit(0), shape, **options)


# --- ReLUs that pass the gradient


@pytest.mark.parametrize(
    "relu",
    [
        nn.ReLU(),
        nn.ReLU(inplace=True),
        F.relu,
        lambda z: F.relu(z, inplace=True),
        torch.relu,
        torch.relu_,
        lambda z: z.relu(),
        lambda z: z.relu_(),
    ],
)
def test_every_spelling_of_relu_passes_what_raises_a_blocked_image(relu):
    z = torch.tensor([[-1.0, -2.0, -3.0], [1.0, -2.0, 3.0]], dtype=torch.float64, requires_grad=True)
    incoming = torch.tensor([[-0.5, 0.25, -1.0], [2.0, -1.0, -3.0]], dtype=torch.float64)
    expected = torch.tensor([[-0.5, 0.0, -1.0], [2.0, 0.0, -3.0]], dtype=torch.float64)
    with PassedReLUs():
        a = relu(z * 1.0)
    torch.testing.assert_close(a, z.clamp(min=0))
    torch.testing.assert_close(torch.autograd.grad(a, z, incoming)[0], expected)
    (plain,) = torch.autograd.grad(relu(z * 1.0), z, incoming)
    torch.testing.assert_close(plain, incoming * (z > 0))


def test_a_unit_that_is_off_everywhere_at_first_is_woken():
    net = nn.Sequential(nn.Conv2d(1, 1, 3), nn.ReLU()).double()
    with torch.no_grad():
        net[0].weight.fill_(0.5), net[0].bias.fill_(-3.0)  # grey gives 2.25 - 3 < 0
    assert net(torch.full((1, 1, 8, 8), 0.5, dtype=torch.float64)).max() == 0
    image = visualize(net, channel("1", 0), (1, 8, 8), steps=60)
    assert net(image).mean() > 0.3


def test_a_dead_channel_is_told_and_only_it(net):
    with pytest.warns(UserWarning, match=r"changed these: off:3 \(dead"):
        visualize(net, [channel("off", 3), logit(0)], (3, 8, 8), steps=20)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        visualize(net, logit(0), (3, 8, 8), steps=20)


def test_an_objective_that_no_pixel_reaches_is_told():
    class Constant(nn.Module):
        def forward(self, x):
            return x.new_zeros(len(x), 3)

    with pytest.warns(UserWarning, match="changed these: class 1"):
        images = visualize(Constant(), logit(1), (1, 8, 8), steps=3)
    assert images.isfinite().all()


# --- the loop


@pytest.mark.parametrize("name", PARAMETERIZATIONS)
def test_every_objective_rises(net, name):
    objectives = [logit(0), odds(2), channel("first", 1), neuron("second", 0), direction("second", torch.randn(5))]
    shape, steps = (3, 12, 10), 50
    before, after = (visualize(net, objectives, shape, steps=n, parameterization=name) for n in (1, steps))
    assert after.shape == (5, 3, 12, 10) and after.dtype == torch.float64
    assert after.min() >= 0 and after.max() <= 1
    with reading(net, {None, "first", "second"}) as read, torch.no_grad():
        for index, one in enumerate(objectives):
            first, last = (one.score(read(images[index : index + 1])).item() for images in (before, after))
            assert last > first + 0.05, one.label


def test_one_step_is_adam_on_the_gradient(net):
    start = photo(1, 3, 6, 6).double()
    result = visualize(
        net, logit(1), (3, 6, 6), steps=1, parameterization="pixel", transforms=(), start=start, learning_rate=0.1
    )
    canvas = Pixels((1, 3, 6, 6)).double()
    canvas.encode(start)
    (gradient,) = torch.autograd.grad(-net(canvas())[:, 1].sum(), canvas.free)
    with torch.no_grad():
        canvas.free -= 0.1 * gradient / (gradient.abs() + 1e-8)
    assert (result - start).abs().max() > 1e-3
    torch.testing.assert_close(result, canvas().detach(), rtol=0, atol=1e-9)


def test_objectives_in_a_batch_do_not_mix(net):
    """Together or alone, without random views, from the same start."""
    start = photo(1, 3, 8, 8).double()
    objectives = [logit(0), channel("first", 2), neuron("second", 1)]
    options = {"steps": 25, "transforms": (), "start": start, "regularizers": (total_variation(0.01),)}
    together = visualize(net, objectives, (3, 8, 8), **options)
    alone = torch.cat([visualize(net, one, (3, 8, 8), **options) for one in objectives])
    assert (together[0] - together[1]).abs().max() > 0.05
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-9)


def test_seeds_decide_and_the_global_state_is_left_alone(net):
    before = torch.random.get_rng_state()
    first, second, other = (visualize(net, logit(0), (3, 8, 8), steps=5, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, second) and not torch.equal(first, other)
    assert torch.equal(before, torch.random.get_rng_state())


def test_the_pass_ends_at_the_last_layer_read(net):
    net.reached_second = False
    visualize(net, channel("first", 0), (3, 8, 8), steps=2)
    assert not net.reached_second
    with reading(net, {"first", "act"}) as read:
        x = torch.rand(1, 3, 8, 8, dtype=torch.float64)
        outputs = read(x)
    torch.testing.assert_close(outputs["first"], net.first(x))  # although the next ReLU works in place
    torch.testing.assert_close(outputs["act"], net.first(x).relu())
    assert net.reached_second is False


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_the_model_comes_back_as_it_was(net, context):
    net.train()
    net.first.weight.requires_grad_(False)
    with context():
        visualize(net, channel("first", 0), (3, 8, 8), steps=2)
    with pytest.raises(ValueError, match="out of range"):
        visualize(net, logit(9), (3, 8, 8), steps=2)
    assert all(module.training for module in net.modules())
    assert not net.first.weight.requires_grad and net.second.weight.requires_grad
    assert all(p.grad is None for p in net.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


@pytest.mark.cuda
def test_cuda_agrees_with_the_cpu(net):
    cpu = visualize(net, logit(0), (3, 8, 8), steps=20)
    cuda = visualize(net.cuda(), logit(0), (3, 8, 8), steps=20)
    assert cuda.device.type == "cuda"
    torch.testing.assert_close(cuda.cpu(), cpu, rtol=0, atol=1e-6)


@pytest.mark.real_data
@pytest.mark.slow
def test_class_visualisations_are_recognised_afresh(squeezenet_weights):
    """Ten classes drawn by a seed, each seen through views that the ascent did not see."""
    from interpretability import load_model

    loaded = load_model("squeezenet1_0", squeezenet_weights)
    model = loaded.model
    classes = torch.randperm(1000, generator=torch.Generator().manual_seed(0))[:10]
    images = visualize(model, [logit(int(c)) for c in classes], (3, 128, 128), steps=96)
    generator, afresh = torch.Generator().manual_seed(1), RandomAffine(jitter=8, scale=(0.9, 1.1), rotation=10)
    with torch.no_grad():
        right = torch.stack([model(afresh(images, generator)).argmax(1) == classes for _ in range(5)])
    assert (right.float().mean(0) > 0.5).sum() >= 9
