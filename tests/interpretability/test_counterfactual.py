"""What would have to be different: judged by networks that the change was not made for, and on models known in full."""

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

from interpretability.adversarial import counterfactual, pgd
from interpretability.adversarial.counterfactual import rounded_variation


def network(seed, x, y):
    """A network for digits of 20 × 20 pixels, trained for a moment."""
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(1, 12, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(12, 24, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(216, 10),
    )  # fmt: skip
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(8):
        for rows in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(net(x[rows]), y[rows]).backward()
            optimizer.step()
    optimizer.zero_grad()
    return net.eval()


@pytest.fixture(scope="module")
def digits():
    pixels, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(pixels, dtype=torch.float32).view(-1, 1, 8, 8) / 16, torch.tensor(labels)
    x = F.interpolate(x, (20, 20), mode="bilinear")
    with torch.random.fork_rng():
        nets = [network(seed, x[:1400], y[:1400]) for seed in (0, 1)]
    sevens = x[1400:][y[1400:] == 7]
    both = torch.stack([net(sevens).argmax(1) for net in nets])
    return (*nets, sevens[(both == 7).all(dim=0)][:20])


def test_a_seven_towards_nine_is_a_nine_to_a_network_of_another_seed(digits):
    net, other, sevens = digits
    found = counterfactual(net, sevens, 9)
    assert len(sevens) == 20
    assert (net(found).softmax(1)[:, 9] >= 0.95).float().mean() >= 0.9
    assert (other(found).argmax(1) == 9).float().mean() >= 0.8
    # an attack that deceives the first network alone
    smallest = pgd(net, sevens, 9, 1.0, norm="l2", targeted=True)
    assert (other(smallest).argmax(1) == 9).float().mean() < 0.5
    assert not any(p.grad is not None for p in net.parameters()) and not net.training


def test_it_is_small_smooth_inside_the_bounds_and_the_same_each_time(digits):
    net, _, sevens = digits
    found = counterfactual(net, sevens[:4], 9)
    assert torch.equal(found, counterfactual(net, sevens[:4], 9))
    assert found.min() >= 0 and found.max() <= 1
    change = (found - sevens[:4]).flatten(1).norm(dim=1)
    assert (change > 0.1).all() and (change < 0.35 * 20).all()
    bounded = counterfactual(net, sevens[:4], 9, epsilon=0.5)
    assert ((bounded - sevens[:4]).flatten(1).norm(dim=1) <= 0.5).all()
    rough = counterfactual(net, sevens[:4], 9, smoothness=0.0)
    assert rounded_variation(found).sum() < rounded_variation(rough).sum()


def test_an_image_that_is_the_target_already_stays(digits):
    net, _, sevens = digits
    mixed = torch.cat([sevens[:1], torch.zeros_like(sevens[:1])])
    found = counterfactual(net, mixed, net(mixed).argmax(1), confidence=0.0)
    assert torch.equal(found, mixed)


def test_the_direction_is_that_of_a_linear_model():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 2)).double()
    x = torch.full((1, 1, 3, 4), 0.5, dtype=torch.float64)
    with torch.no_grad():
        net[1].weight.copy_(torch.stack([-torch.ones(12), torch.ones(12)]).double())  # moving it changes nothing
        net[1].bias.zero_()
    found = counterfactual(net, x, 1, epsilon=0.3, steps=3, confidence=0.999999, noise=0.0, smoothness=0.0)
    torch.testing.assert_close((found - x).flatten(), torch.full((12,), 0.3 / 12**0.5, dtype=torch.float64))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps must be at least 1; got 0"),
        ({"confidence": 1.0}, "confidence must be at least 0 and below 1; got 1.0"),
        ({"noise": -1.0}, "noise must be at least 0"),
        ({"smoothness": float("nan")}, "smoothness must be a finite number from 0 on; got nan"),
        ({"epsilon": -1.0}, "epsilon must be a finite number from 0 on"),
        ({"target": 2}, "out of range"),
    ],
)
def test_what_is_wrong_is_named(options, message):
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    with pytest.raises(ValueError, match=message):
        counterfactual(net, torch.zeros(1, 1, 3, 4), **{"target": 1} | options)
    with pytest.raises(ValueError, match=r"images \(N, C, H, W\); got \(2, 12\)"):
        counterfactual(net, torch.zeros(2, 12), 1)
