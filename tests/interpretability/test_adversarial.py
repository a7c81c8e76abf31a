"""Attacks: exact on linear models, held inside their ball, never worse for more room, and against replicas."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from interpretability.adversarial import (
    deepfool,
    fgsm,
    measure_noise,
    pgd,
    quantize,
    random_change,
    robust_accuracy,
)
from interpretability.targets import log_odds

EPSILON = 8 / 255


class Classifier(nn.Module):
    def __init__(self, classes=4):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(2, 6, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Dropout(), nn.Linear(6 * 16, classes)
        )

    def forward(self, x):
        return 8 * self.net(x)


class Linear(nn.Module):
    """Logits w x + b of flattened images."""

    def __init__(self, w, b):
        super().__init__()
        self.w, self.b = nn.Parameter(w), nn.Parameter(b)

    def forward(self, x):
        return x.flatten(1) @ self.w.T + self.b


@pytest.fixture
def net():
    return Classifier().double().eval()


@pytest.fixture
def x():
    images = torch.rand(12, 2, 6, 6, dtype=torch.float64)
    images[0], images[1] = images[0].round(), 0.0  # at the bounds
    return images


@pytest.fixture
def labels(net, x):
    with torch.no_grad():
        return net(x).argmax(1)


@pytest.fixture
def linear():
    return Linear(torch.randn(3, 8, dtype=torch.float64), torch.randn(3, dtype=torch.float64))


def successes(net, images, labels, targeted=False):
    with torch.no_grad():
        hit = net(images).argmax(1) == labels
    return hit if targeted else ~hit


# --- exact answers


def test_fgsm_is_the_worst_case_of_a_linear_model_of_two_classes():
    model = Linear(torch.randn(2, 8, dtype=torch.float64), torch.zeros(2, dtype=torch.float64))
    x = torch.full((1, 8), 0.5, dtype=torch.float64)
    attacked = fgsm(model, x, 0, 0.1)
    gap = model.w[1] - model.w[0]
    lowest = (x @ gap + 0.1 * gap.abs().sum()).item()
    assert (attacked @ gap).item() == pytest.approx(lowest, rel=1e-12)
    corners = torch.cartesian_prod(*[torch.tensor([-0.1, 0.1], dtype=torch.float64)] * 8) + x
    assert (corners @ gap).max().item() == pytest.approx(lowest, rel=1e-12)


def test_pgd_in_l2_reaches_the_far_side_of_the_ball_of_a_linear_model():
    model = Linear(torch.randn(2, 8, dtype=torch.float64), torch.zeros(2, dtype=torch.float64))
    x = torch.full((1, 8), 0.5, dtype=torch.float64)
    attacked = pgd(model, x, 0, 0.2, norm="l2", steps=5)
    gap = (model.w[1] - model.w[0]).detach()
    torch.testing.assert_close(attacked, x + 0.2 * gap / gap.norm(), rtol=0, atol=1e-9)


def test_deepfool_crosses_the_nearest_boundary_of_a_linear_model(linear):
    x = torch.full((1, 8), 0.5, dtype=torch.float64)
    logits = linear(x)[0]
    top = int(logits.argmax())
    steps = {}
    for k in set(range(3)) - {top}:
        w = linear.w[k] - linear.w[top]
        steps[k] = ((logits[top] - logits[k]) / w.square().sum() * w).detach()
    nearest = min(steps, key=lambda k: steps[k].norm().item())
    expected = x + 1.02 * steps[nearest]
    assert expected.min() > 0 and expected.max() < 1
    torch.testing.assert_close(deepfool(linear, x), expected, rtol=0, atol=1e-9)
    assert linear(deepfool(linear, x)).argmax() == nearest
    other = next(k for k in steps if k != nearest)
    assert linear(deepfool(linear, x, other, bounds=(-9.0, 9.0))).argmax() == other


# --- against replicas


def test_fgsm_against_the_formula_with_cross_entropy(net, x, labels):
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(net(leaf), labels, reduction="sum"), leaf)
    expected = (x + EPSILON * gradient.sign()).clamp(0, 1)
    attacked = fgsm(net, x, labels, EPSILON)
    assert (attacked - x).abs().max() > EPSILON / 2
    torch.testing.assert_close(attacked, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("targeted", [False, True])
def test_pgd_against_a_replica(net, x, labels, norm, targeted):
    """One image at a time, with cross-entropy's gradient; the best of all points seen."""
    epsilon, steps, step = (0.1, 6, 0.03) if norm == "linf" else (0.5, 6, 0.15)
    wanted = (labels + 1) % 4 if targeted else labels
    attacked = pgd(net, x, wanted, epsilon, norm=norm, steps=steps, step_size=step, targeted=targeted)
    for n in range(len(x)):
        expected = _pgd_replica(net, x[n : n + 1], wanted[n : n + 1], epsilon, norm, steps, step, targeted)
        torch.testing.assert_close(attacked[n : n + 1], expected, rtol=0, atol=1e-9)
    assert (attacked - x).abs().max() > epsilon / 20


def _pgd_replica(net, x, label, epsilon, norm, steps, step, targeted):
    sign = -1 if targeted else 1

    def gradient(at):
        leaf = at.clone().requires_grad_()
        return sign * torch.autograd.grad(F.cross_entropy(net(leaf), label), leaf)[0]

    def moved(at, length):
        g = gradient(at)
        point = at + length * (g.sign() if norm == "linf" else g / g.norm())
        delta = point - x
        if norm == "linf":
            delta = delta.clamp(-epsilon, epsilon)
        elif delta.norm() > epsilon:
            delta = delta * epsilon / delta.norm()
        return (x + delta).clamp(0, 1)

    def margin(at):
        z = net(at)[0].detach()
        others = max(z[k].item() for k in range(len(z)) if k != label.item())
        return sign * (others - z[label.item()].item())

    points, current = [x, moved(x, epsilon)], x
    for _ in range(steps):
        current = moved(current, step)
        points.append(current)
    return max(points, key=margin)


def test_log_odds_point_where_cross_entropy_does_and_survive_certainty():
    logits = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    target = torch.tensor([0, 1, 2, 3, 0])
    p = logits.softmax(1)[range(5), target]
    torch.testing.assert_close(log_odds(logits, target), (p / (1 - p)).log())
    (odds,) = torch.autograd.grad(log_odds(logits, target).sum(), logits)
    (entropy,) = torch.autograd.grad(F.cross_entropy(logits, target, reduction="sum"), logits)
    torch.testing.assert_close(-(1 - p[:, None]) * odds, entropy)
    sure = torch.tensor([[200.0, 0.0, 1.0]], requires_grad=True)
    (gradient,) = torch.autograd.grad(log_odds(sure, 0).sum(), sure)
    assert gradient[0, 0] == 1
    with pytest.raises(ValueError, match="at least two classes"):
        log_odds(torch.zeros(2, 1), 0)


# --- the ball


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("epsilon", [1 / 255, 2 / 255, 0.1, 0.3])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_attacks_stay_exactly_inside_the_ball_and_the_bounds(net, x, labels, dtype, epsilon, norm):
    net, x = net.to(dtype), x.to(dtype)
    found = [pgd(net, x, labels, epsilon, norm=norm, steps=4, step_size=epsilon, random_start=r) for r in (False, True)]
    if norm == "linf":
        found.append(fgsm(net, x, labels, epsilon))
    for attacked in found:
        delta = (attacked.double() - x.double()).flatten(1)
        distance = delta.abs().amax(1) if norm == "linf" else delta.norm(dim=1)
        assert attacked.dtype == dtype
        assert distance.max() <= epsilon and distance.max() > 0.9 * epsilon
        assert attacked.min() >= 0 and attacked.max() <= 1


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 2 / 255), ("linf", 0.25), ("l2", 0.05), ("l2", 0.25)])
def test_rounding_to_eight_bits_stays_inside_too(norm, epsilon):
    x = torch.randint(0, 256, (6, 3, 8, 8)) / 255
    noise = torch.randn(x.shape)
    noise = epsilon * (noise.sign() if norm == "linf" else noise / noise.square().sum((1, 2, 3), keepdim=True).sqrt())
    rounded = quantize((x + noise).clamp(0, 1), x, epsilon, norm)
    levels = rounded * 255
    torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-4)
    change = (levels.round() - (x * 255).round()).flatten(1)
    distance = change.abs().amax(1) if norm == "linf" else change.norm(dim=1)
    assert distance.max() <= epsilon * 255 + 1e-6 and distance.max() > 0.5 * epsilon * 255
    assert rounded.min() >= 0 and rounded.max() <= 1


def test_an_epsilon_below_a_level_rounds_to_nothing():
    x = torch.randint(0, 256, (2, 1, 8, 8)) / 255
    for norm in ("linf", "l2"):
        assert torch.equal(quantize((x + 0.9 / 255).clamp(0, 1), x, 0.9 / 255, norm), x)


def test_no_room_changes_nothing(net, x, labels):
    assert torch.equal(fgsm(net, x, labels, 0.0), x)
    for norm in ("linf", "l2"):
        assert torch.equal(pgd(net, x, labels, 0.0, norm=norm, random_start=True), x)


# --- success


@pytest.mark.parametrize("targeted", [False, True])
def test_pgd_is_at_least_as_good_as_fgsm_and_more_room_never_hurts(net, x, labels, targeted):
    wanted = (labels + 1) % 4 if targeted else labels
    before, start, counts = torch.zeros(len(x), dtype=torch.bool), x, []
    for epsilon in (0.01, 0.03, 0.06, 0.1, 0.2):
        start = pgd(net, x, wanted, epsilon, steps=5, targeted=targeted, start=start)
        now = successes(net, start, wanted, targeted)
        single = successes(net, fgsm(net, x, wanted, epsilon, targeted=targeted), wanted, targeted)
        assert not (before & ~now).any() and not (single & ~now).any()
        before = now
        counts.append(int(now.sum()))
    assert counts[0] < counts[-1]


def test_robust_accuracy_counts_survivors(net, x, labels):
    truth = labels.clone()
    truth[:3] = (truth[:3] + 1) % 4  # misclassified to begin with
    epsilons = [0.0, 0.02, 0.05, 0.1, 0.3]
    strong = robust_accuracy(net, x, truth, epsilons, steps=5, batch_size=5)
    weak = robust_accuracy(net, x, truth, epsilons, attack="fgsm", batch_size=5)
    assert strong[0].item() == weak[0].item() == pytest.approx(9 / 12)
    assert (strong.diff() <= 0).all() and strong[-1] < 0.5
    assert (strong <= weak).all()
    direct = [1 - successes(net, fgsm(net, x, truth, e), truth).double().mean().item() for e in epsilons]
    assert weak.tolist() == pytest.approx(direct)


@pytest.mark.parametrize("target", [None, 2])
def test_deepfool_leaves_what_no_pixel_can_change(target):
    x = torch.rand(3, 1, 4, 4)
    constant = Linear(torch.zeros(3, 16), torch.tensor([300.0, 100.0, 0.0]))
    assert torch.equal(deepfool(constant, x, target), x)


def test_deepfool_changes_every_prediction_by_little(net, x, labels):
    found = deepfool(net, x)
    assert successes(net, found, labels).all()
    reached = (found - x).flatten(1).norm(dim=1)
    back = x + 0.9 / 1.02 * (found - x)  # short of the boundary
    assert (~successes(net, back, labels)).float().mean() > 0.7
    assert 0 < reached.max() < 1
    assert found.min() >= 0 and found.max() <= 1
    wanted = (labels + 2) % 4
    assert successes(net, deepfool(net, x, wanted), wanted, targeted=True).all()


def test_a_batch_is_its_images_one_by_one(net, x, labels):
    for attack in (
        lambda x, t: fgsm(net, x, t, 0.1),
        lambda x, t: pgd(net, x, t, 0.3, norm="l2", steps=4),
        lambda x, t: deepfool(net, x),
    ):
        together = attack(x, labels)
        alone = torch.cat([attack(x[n : n + 1], labels[n : n + 1]) for n in range(len(x))])
        assert (together - x).abs().max() > 1e-3
        torch.testing.assert_close(together, alone, rtol=0, atol=1e-9)


# --- bad input and good manners


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda net, x: fgsm(net, x + 0.5, 0, 0.1), r"pixels must lie in \[0, 1\]"),
        (lambda net, x: fgsm(net, x * math.nan, 0, 0.1), r"pixels must lie in"),
        (lambda net, x: fgsm(net, x, 0, -0.1), r"epsilon must be a finite number from 0 on, not -0.1"),
        (lambda net, x: pgd(net, x, 0, math.inf), r"epsilon must be"),
        (lambda net, x: pgd(net, x, 0, 0.1, norm="l1"), r"unknown norm 'l1'"),
        (lambda net, x: quantize(x, x, 0.1, "l1"), r"unknown norm 'l1'"),
        (lambda net, x: pgd(net, x, 0, 0.1, steps=0), r"steps must be at least 1"),
        (lambda net, x: fgsm(net, x, 4, 0.1), r"target 4 is out of range"),
        (lambda net, x: deepfool(net, x, 4), r"target 4 is out of range"),
        (lambda net, x: deepfool(net, x - 1), r"pixels must lie in"),
        (lambda net, x: deepfool(net, x, rivals=0), r"needs rivals: 0 of a model with 4 outputs"),
        (lambda net, x: deepfool(Classifier(1).double().eval(), x), r"rivals: 10 of a model with 1 outputs"),
        (lambda net, x: fgsm(net, x.long(), 0, 0.1), r"images must be floating point, not torch.int64"),
        (lambda net, x: pgd(net, x, torch.tensor([1, 2]), 0.1), r"one class for each of 12 images"),
        (lambda net, x: robust_accuracy(net, x, x.new_zeros(12).long(), [0.1], attack="pdg"), r"unknown attack 'pdg'"),
        (lambda net, x: robust_accuracy(net, x, x.new_zeros(12).long(), [0.2, 0.1]), r"must ascend"),
        (
            lambda net, x: robust_accuracy(net, x, x.new_zeros(12).long(), [0.1], attack="fgsm", norm="l2"),
            r"fgsm is an attack in",
        ),
    ],
)
def test_bad_input_is_told(net, x, call, message):
    with pytest.raises(ValueError, match=message):
        call(net, x)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_the_model_and_the_random_state_come_back_as_they_were(net, x, labels, context):
    expected = pgd(net, x, labels, 0.1, steps=3, random_start=True)
    net.train()
    state = torch.random.get_rng_state()
    with context():
        found = pgd(net, x, labels, 0.1, steps=3, random_start=True)
        deepfool(net, x)
    torch.testing.assert_close(found, expected)  # dropout was off
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(module.training for module in net.modules())
    assert all(p.requires_grad and p.grad is None for p in net.parameters())


# --- the noise in numbers


def test_noise_figures_of_known_changes():
    x = torch.full((4, 1, 8, 8), 0.5, dtype=torch.float64)
    checks = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64).repeat(4, 4)
    waves = torch.cos(torch.arange(8, dtype=torch.float64) * math.pi / 4).expand(8, 8)
    changes = [0.1 * checks, 0.1 * waves, torch.full((8, 8), 0.1), torch.zeros(8, 8)]
    figures = measure_noise(x + torch.stack([c.double() for c in changes])[:, None], x)
    assert figures["linf"].tolist() == pytest.approx([0.1, 0.1, 0.1, 0])
    assert figures["l2"].tolist() == pytest.approx([0.8, 0.8 / math.sqrt(2), 0.8, 0])
    assert figures["psnr"].tolist() == pytest.approx([20, 20 + 10 * math.log10(2), 20, math.inf])
    assert figures["total_variation"][0].item() == pytest.approx(0.2)
    assert figures["total_variation"][2].item() == pytest.approx(0, abs=1e-12)
    assert figures["high_frequency_share"].tolist() == pytest.approx([1, 0, 0, 0], abs=1e-9)


def test_random_change_has_equal_norm_and_the_share_of_white_noise():
    x = torch.full((2, 3, 64, 64), 0.5)
    changed = x + 0.01 * torch.randn(x.shape).sign()
    random = random_change(changed, x)
    figures, expected = measure_noise(random, x), measure_noise(changed, x)
    torch.testing.assert_close(figures["l2"], expected["l2"])
    assert (random - changed).abs().max() > 0.005
    assert figures["high_frequency_share"].tolist() == pytest.approx([1 - math.pi / 16] * 2, abs=0.01)


# --- real weights


@pytest.mark.real_data
@pytest.mark.slow
def test_two_levels_turn_photos_into_chosen_classes(squeezenet_weights, dog_cat_image, tmp_path):
    from PIL import Image
    from sklearn.datasets import load_sample_images

    from interpretability import load_model
    from interpretability.images import load_image

    loaded = load_model("squeezenet1_0", squeezenet_weights)
    model, names = loaded.model, loaded.class_names
    paths = [dog_cat_image]
    for index, photo in enumerate(load_sample_images().images):
        paths.append(tmp_path / f"{index}.png")
        Image.fromarray(photo).save(paths[-1])
    x = torch.stack([load_image(path) for path in paths])
    wanted = torch.tensor([names.index(name) for name in ("tabby", "bullfrog", "goldfinch")])
    attacked = pgd(model, x, wanted, 2 / 255, steps=30, targeted=True)
    rounded = quantize(attacked, x, 2 / 255)
    with torch.no_grad():
        assert (model(x).argmax(1) != wanted).all()
        for images in (attacked, rounded):
            assert model(images).softmax(1)[range(3), wanted].min() >= 0.9
    assert (attacked - x).abs().max() <= 2 / 255
    assert (rounded * 255 - x * 255).abs().max() <= 2 + 1e-3
    assert measure_noise(rounded, x)["psnr"].min() > 40
