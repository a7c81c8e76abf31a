"""Many networks at once against each of them alone."""

import pytest
import torch

from lit_models import LitMLP, checks
from lit_models.batched import make_networks, train_networks

X = torch.linspace(0, 1, 6, dtype=torch.float64)[:, None]
T = torch.sin(5 * X)


def networks(count):
    made = make_networks((1, 4, 1), count, torch.Generator().manual_seed(2))
    return [(w.double(), b.double()) for w, b in made]


def train(layers, **options):
    options = {"activation": "tanh", "updates": 60, "learning_rate": 0.02, "record_every": 20, **options}
    return train_networks(X, T, layers, **options)


def test_each_network_trains_as_if_alone():
    layers, decays = networks(3), torch.tensor([0.0, 0.01, 0.1], dtype=torch.float64)[:, None, None]
    share = torch.ones(3, 6, 1, dtype=torch.float64)
    share[0, 2] = share[1, 5] = 0.0
    share /= share.sum(1, keepdim=True)
    history = train(layers, weight_decay=decays, share=share)
    assert history.updates == [0, 20, 40, 60] and history.errors.shape == (4, 3, 6, 1)
    for m, held_out in enumerate((2, 5, None)):
        mlp = LitMLP(hidden=(4,), learning_rate=0.02, weight_decay=float(decays[m])).double()
        for p, value in zip(mlp.parameters(), (tensor[m] for layer in layers for tensor in layer)):
            p.data.copy_(value)
        seen = [i for i in range(6) if i != held_out]
        optimizer = mlp.configure_optimizers()
        for _ in range(60):
            _, gradients = mlp.loss_and_gradients(X[seen], T[seen])
            mlp.set_gradients(gradients)
            optimizer.step()
        for p, value in zip(mlp.parameters(), (tensor[m] for layer in history.layers for tensor in layer)):
            torch.testing.assert_close(value, p.detach(), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(history.errors[-1, m], (mlp(X) - T).detach(), rtol=1e-8, atol=1e-8)
    assert history.errors[-1].square().mean() < 0.5 * history.errors[0].square().mean()
    assert torch.equal(layers[0][0], networks(3)[0][0]), "the initial weights are left as they are"


def test_stopping_keeps_the_weights_of_that_update():
    stopped = train(networks(2), stop_at=torch.tensor([20, 60]))
    short, whole = train(networks(2), updates=20), train(networks(2))
    for kept, early, late in zip(stopped.layers, short.layers, whole.layers):
        for k, e, last in zip(kept, early, late):
            assert torch.equal(k[0], e[0]) and torch.equal(k[1], last[1]) and not torch.equal(e[0], last[0])


def test_dropout_shares_masks_along_dimensions_of_size_one():
    layers = [(w[None].repeat(2, 1, 1, 1), b[None].repeat(2, 1, 1)) for w, b in networks(3)]
    p = torch.tensor([0.0, 0.3, 0.5], dtype=torch.float64)[None, :, None, None]
    history = train(layers, dropout=p, generator=torch.Generator().manual_seed(1))
    again = train(layers, dropout=p, generator=torch.Generator().manual_seed(1))
    other = train(layers, dropout=p, generator=torch.Generator().manual_seed(2))
    assert torch.equal(history.errors, again.errors)
    assert torch.equal(history.errors[:, 0], history.errors[:, 1]), "folds see the same masks"
    assert torch.equal(history.errors[:, :, 0], other.errors[:, :, 0]), "p = 0 sees none"
    assert not torch.equal(history.errors[:, :, 1:], other.errors[:, :, 1:])


def test_initial_weights_are_those_of_torch():
    (w, b), (w2, _) = make_networks((4, 500, 1), 3)
    assert w.shape == (3, 500, 4) and b.shape == (3, 500)
    assert 0.49 < w.abs().max() <= 0.5 and w2.abs().max() <= 500**-0.5
    assert w.std() == pytest.approx(0.5 / 3**0.5, rel=0.05)


def test_refuses():
    with pytest.raises(ValueError, match="multiple of record_every"):
        train(networks(1), updates=30)
    with pytest.raises(checks.DivergedError, match="within 20 updates"):
        train(networks(1), activation="relu", learning_rate=1e200)
