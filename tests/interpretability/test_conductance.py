"""Layer conductance against closed forms, a fine replica of its integral, and Captum."""

import pytest
import torch
from captum.attr import LayerConductance as CaptumLayerConductance
from torch import nn

from interpretability.attribution import IntegratedGradients, LayerConductance, Occlusion


@pytest.fixture(autouse=True)
def double_precision():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def smooth() -> nn.Sequential:
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 6), nn.Softplus(), nn.Linear(6, 3))


def test_with_a_linear_read_out_it_is_weight_times_change():
    model, x, baseline = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)), torch.randn(3, 4), torch.randn(4)
    change = model[:2](x) - model[:2](baseline)
    found = LayerConductance(model, "1", n_steps=3, baseline=baseline)(x, 2)
    torch.testing.assert_close(found, (model[2].weight[2] * change).detach())


@pytest.mark.parametrize("make", [LayerConductance, IntegratedGradients, Occlusion])
def test_a_number_as_baseline_has_the_precision_of_the_input(make):
    options = {"window": 2, "stride": 1} if make is Occlusion else {"n_steps": 3}
    model, x = nn.Sequential(nn.Conv2d(1, 2, 2), nn.Flatten(), nn.Linear(18, 3)), torch.rand(2, 1, 4, 4)
    layer = "0" if make is LayerConductance else None
    number, tensor = (make(model, layer, baseline=value, **options)(x, 1) for value in (0.3, torch.tensor(0.3)))
    assert tensor.abs().max() > 0.01
    torch.testing.assert_close(number, tensor, rtol=0, atol=0)


def test_against_a_replica_by_the_chain_rule():
    model, x, baseline = smooth(), torch.randn(1, 5), torch.randn(1, 5)
    found = LayerConductance(model, "1", n_steps=100, baseline=baseline)(x, 0)
    steps = 100
    expected = torch.zeros(1, 8)
    for k in range(steps):  # the midpoint rule on ∂score/∂h · dh/dα
        alpha = (k + 0.5) / steps
        point = baseline + alpha * (x - baseline)
        h, along = torch.func.jvp(model[:2], (point,), (x - baseline,))
        expected += torch.func.grad(lambda h: model[2:](h)[0, 0])(h) * along / steps
    assert expected.abs().max() > 0.01
    torch.testing.assert_close(found, expected.detach(), rtol=1e-3, atol=1e-5)


def test_the_sum_approaches_the_difference_with_the_square_of_the_steps():
    model, x = smooth(), torch.randn(4, 5)
    difference = (model(x) - model(torch.zeros_like(x)))[:, 1].detach()

    def error(n_steps):
        return (LayerConductance(model, "1", n_steps)(x, 1).sum(dim=1) - difference).abs()

    coarse, fine = error(10), error(20)
    assert coarse.max() < 1e-3
    torch.testing.assert_close(coarse / fine, torch.full((4,), 4.0), rtol=0.05, atol=0)


def test_captum_tends_to_the_same_but_leaves_out_the_ends():
    model, x = smooth(), torch.randn(3, 5)
    ours = LayerConductance(model, "1", 50)(x, 1)
    captum = CaptumLayerConductance(model, model[1])
    fine = captum.attribute(x, torch.zeros_like(x), target=1, n_steps=300).detach()
    torch.testing.assert_close(ours, fine, rtol=1e-2, atol=1e-3)
    difference = (model(x) - model(torch.zeros_like(x)))[:, 1]
    theirs = captum.attribute(x, torch.zeros_like(x), target=1, n_steps=50)
    miss = [(found.sum(dim=1) - difference).abs().max() for found in (ours, theirs)]
    assert miss[0] < 0.01 * miss[1]


def test_batch_size_changes_nothing():
    model, x = smooth(), torch.randn(3, 5)
    whole = LayerConductance(model, "2", 20, batch_size=1000)(x, torch.tensor([0, 1, 2]))
    for batch_size in (1, 7, 30):
        torch.testing.assert_close(
            LayerConductance(model, "2", 20, batch_size=batch_size)(x, torch.tensor([0, 1, 2])), whole
        )
    assert whole.shape == (3, 6) and whole.abs().max() > 0.01


def test_the_predicted_class_is_the_one_at_the_input():
    model, x = smooth(), torch.randn(3, 5)
    predicted = model(x).argmax(dim=1)
    torch.testing.assert_close(LayerConductance(model, "1")(x), LayerConductance(model, "1")(x, predicted))


def test_wrong_options_are_named():
    with pytest.raises(ValueError, match="layer"):
        LayerConductance(smooth())
    with pytest.raises(ValueError, match="n_steps"):
        LayerConductance(smooth(), "1", n_steps=0)
    with pytest.raises(ValueError, match="valid: 0, 1, 2"):
        LayerConductance(smooth(), "nine")
