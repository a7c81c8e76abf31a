"""The explicit gradients against autograd and against finite differences, in float64."""

import pytest
import torch
from captum.attr import Saliency

from lit_models import LitMLP, functional
from lit_models.functional import ACTIVATIONS, LOSSES, Activation
from oracles import central_differences, mlp_objective

DEPTHS = {1: (), 2: (5,), 3: (5, 4), 4: (6, 5, 4)}
SHAPE, N = (3, 2), 7


def make(activation="tanh", loss="mse", depth=2, dropout=0.0, weight_decay=0.0, **more):
    torch.manual_seed(1)
    options = {"hidden": DEPTHS[depth], "activation": activation, "loss": loss, "dropout": dropout, **more}
    mlp = LitMLP(SHAPE, 3, weight_decay=weight_decay, **options).double()
    x = torch.randn(N, *SHAPE, dtype=torch.float64)
    t = torch.randn(N, 3, dtype=torch.float64) if loss == "mse" else torch.randint(0, 3, (N,))
    return mlp, x, t


def relative(a, b):
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradients_equal_autograd(activation, loss, depth, dropout, weight_decay):
    mlp, x, t = make(activation, loss, depth, dropout, weight_decay)
    torch.manual_seed(3)
    ours, gradients = mlp.loss_and_gradients(x, t)
    torch.manual_seed(3)
    theirs = mlp_objective(mlp, x, t)
    expected = torch.autograd.grad(theirs, list(mlp.parameters()))

    assert relative(ours, theirs.detach()) < 1e-12
    assert list(gradients) == [name for name, _ in mlp.named_parameters()]
    for gradient, e in zip(gradients.values(), expected):
        assert e.abs().max() > 0 and not gradient.requires_grad
        assert relative(gradient, e) < 1e-10


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradients_equal_central_differences(activation, loss):
    mlp, x, t = make(activation, loss, depth=3, weight_decay=0.1)
    _, gradients = mlp.loss_and_gradients(x, t)
    for name, p in mlp.named_parameters():
        expected = central_differences(lambda: mlp.loss_and_gradients(x, t)[0], p.detach())
        assert (gradients[name] - expected).abs().max() < 1e-6


def test_central_differences_through_a_fixed_dropout_mask():
    mlp, x, t = make("gelu", "cross_entropy", depth=4, dropout=0.5)

    def objective():
        torch.manual_seed(5)
        return mlp.loss_and_gradients(x, t)

    _, gradients = objective()
    for name, p in mlp.named_parameters():
        expected = central_differences(lambda: objective()[0], p.detach())
        assert (gradients[name] - expected).abs().max() < 1e-6


def test_a_corrupted_derivative_is_caught(monkeypatch):
    """The two oracles above can fail: a tanh whose derivative is 1 % too large."""
    right = ACTIVATIONS["tanh"]
    wrong = Activation(right.forward, lambda da, a: 1.01 * right.backward(da, a))
    monkeypatch.setitem(functional.ACTIVATIONS, "tanh", wrong)
    mlp, x, t = make("tanh")
    _, gradients = mlp.loss_and_gradients(x, t)
    name, p = next(iter(mlp.named_parameters()))
    expected = torch.autograd.grad(mlp_objective(mlp, x, t), p)[0]
    assert relative(gradients[name], expected) > 1e-3
    differences = central_differences(lambda: mlp.loss_and_gradients(x, t)[0], p.detach())
    assert relative(gradients[name], differences) > 1e-3


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_input_gradient_equals_captum(activation, depth):
    mlp, x, _ = make(activation, depth=depth, dropout=0.4, mean=0.2, std=0.7)
    classes = torch.tensor([0, 1, 2, 0, 1, 2, 1])
    ours = mlp.input_gradient(x, classes)
    expected = Saliency(mlp.eval()).attribute(x.clone(), target=classes, abs=False)
    assert ours.shape == x.shape and ours.abs().max() > 0
    assert relative(ours, expected) < 1e-10


def test_input_gradient_of_every_kind_of_target():
    mlp, x, _ = make(depth=3)
    predicted = mlp(x).argmax(1)
    assert torch.equal(mlp.input_gradient(x), mlp.input_gradient(x, predicted))
    assert torch.equal(mlp.input_gradient(x, 2), mlp.input_gradient(x, torch.full((N,), 2)))
    margin = mlp.input_gradient(x, lambda y: y[:, 0] - y[:, 1])
    difference = mlp.input_gradient(x, 0) - mlp.input_gradient(x, 1)
    torch.testing.assert_close(margin, difference, rtol=0, atol=1e-14)
    with torch.inference_mode():
        torch.testing.assert_close(mlp.input_gradient(x, lambda y: y[:, 0]), mlp.input_gradient(x, 0))
    with pytest.raises(ValueError, match="target 3 is not among the 3 outputs"):
        mlp.input_gradient(x, 3)


def test_many_networks_at_once_equal_one_at_a_time():
    from lit_models.network import loss_and_gradients

    torch.manual_seed(0)
    many, n = 4, 6
    sizes = [(5, 2), (3, 5), (1, 3)]
    layers = [(torch.randn(many, k, d).double(), torch.randn(many, k).double()) for k, d in sizes]
    x, t = torch.randn(many, n, 2).double(), torch.randn(many, n, 1).double()
    decay = torch.tensor([0.0, 0.1, 0.2, 0.3]).double()[:, None, None]
    values, gradients = loss_and_gradients(x, t, layers, activation="silu", weight_decay=decay)
    assert values.shape == (many,)
    for m in range(many):
        one = [(w[m], b[m]) for w, b in layers]
        value, expected = loss_and_gradients(x[m], t[m], one, activation="silu", weight_decay=float(decay[m]))
        torch.testing.assert_close(values[m], value, rtol=1e-12, atol=0)
        for (dw, db), (ew, eb) in zip(gradients, expected):
            torch.testing.assert_close(dw[m], ew, rtol=1e-10, atol=1e-14)
            torch.testing.assert_close(db[m], eb, rtol=1e-10, atol=1e-14)


def test_a_share_of_zero_holds_a_sample_out():
    from lit_models.network import loss_and_gradients

    torch.manual_seed(0)
    layers = [(torch.randn(k, d).double(), torch.randn(k).double()) for k, d in ((4, 2), (2, 4))]
    x, t = torch.randn(5, 2).double(), torch.randn(5, 2).double()
    share = torch.tensor([0.25, 0.25, 0.0, 0.25, 0.25]).double()[:, None]
    value, gradients = loss_and_gradients(x, t, layers, activation="relu", share=share)
    kept = torch.tensor([0, 1, 3, 4])
    expected_value, expected = loss_and_gradients(x[kept], t[kept], layers, activation="relu")
    torch.testing.assert_close(value, expected_value, rtol=1e-12, atol=0)
    for (dw, db), (ew, eb) in zip(gradients, expected):
        torch.testing.assert_close(dw, ew, rtol=1e-10, atol=1e-14)
        torch.testing.assert_close(db, eb, rtol=1e-10, atol=1e-14)
