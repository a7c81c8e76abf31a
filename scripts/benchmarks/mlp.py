"""Explicit gradients against autograd and against scikit-learn: one update a batch, the same network and batch.

"toy" is the course sheet's network, 1-10-1 with tanh on its eleven points. The peers are `MLPRegressor` with as
many iterations, and a bare loop of autograd and `torch.optim.Adam`. "Trainer" is `Trainer.fit` with one epoch of
so many batches, its set-up included, with logger, progress bar and checkpoints off.
"""

import contextlib
import logging
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from lightning.pytorch import Trainer
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPRegressor
from torch import Tensor, nn

from benchmarks.harness import Result, compare
from datamodules.toy import TOY_T, TOY_X
from lit_models import Adam, LitMLP
from lit_models.batched import make_networks
from lit_models.network import loss_and_gradients

X, T = torch.tensor(TOY_X)[:, None], torch.tensor(TOY_T)[:, None]
AUTOGRAD, SKLEARN = "autograd + torch.optim.Adam", "MLPRegressor(solver='adam')"


class Repeat:
    """The same batch, ``times`` times an epoch."""

    def __init__(self, batch: tuple[Tensor, Tensor], times: int):
        self.batch, self.times = batch, times

    def __len__(self) -> int:
        return self.times

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter([self.batch] * self.times)


def train_explicitly(mlp: LitMLP, x: Tensor, t: Tensor, updates: int) -> float:
    """A bare loop of explicit gradients and our Adam; its seconds."""
    optimizer = mlp.configure_optimizers()
    start = time.perf_counter()
    for _ in range(updates):
        _, gradients = mlp.loss_and_gradients(x, t)
        mlp.set_gradients(gradients)
        optimizer.step()
    return time.perf_counter() - start


def train_by_autograd(network: nn.Module, loss: nn.Module, x: Tensor, t: Tensor, updates: int) -> float:
    """The same loop by autograd and torch's Adam; its seconds."""
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    start = time.perf_counter()
    for _ in range(updates):
        optimizer.zero_grad()
        loss(network(x), t).backward()
        optimizer.step()
    return time.perf_counter() - start


def train_by_sklearn(x: Tensor, t: Tensor, updates: int) -> float:
    """``fit`` of scikit-learn's network, one full batch an iteration; its seconds."""
    network = MLPRegressor(
        hidden_layer_sizes=(10,),
        activation="tanh",
        solver="adam",
        learning_rate_init=1e-2,
        alpha=0.0,
        batch_size=len(x),
        max_iter=updates,
        n_iter_no_change=updates,
        tol=0.0,
    )
    inputs, targets = x.numpy(), t.numpy().ravel()
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        network.fit(inputs, targets)
    seconds = time.perf_counter() - start
    assert network.n_iter_ == updates
    return seconds


def train_by_trainer(x: Tensor, t: Tensor, updates: int) -> float:
    """`Trainer.fit` of `LitMLP`; its seconds."""
    trainer = Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1000,
    )
    mlp = LitMLP()
    start = time.perf_counter()
    trainer.fit(mlp, Repeat((x, t), updates))
    seconds = time.perf_counter() - start
    assert trainer.global_step == updates
    return seconds


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep Lightning's notices out of the table."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        yield
    logger.setLevel(level)


def toy(quick: bool) -> Iterator[Result]:
    """Ten thousand updates of the toy network, with and without the Trainer."""
    updates, repeats = (300, 2) if quick else (10_000, 5)
    network = nn.Sequential(nn.Linear(1, 10), nn.Tanh(), nn.Linear(10, 1))

    def autograd() -> float:
        return train_by_autograd(network, nn.MSELoss(), X, T, updates)

    def sklearn() -> float:
        return train_by_sklearn(X, T, updates)

    def bare() -> float:
        return train_explicitly(LitMLP(), X, T, updates)

    def trainer() -> float:
        return train_by_trainer(X, T, updates)

    name = f"toy, {updates:,} updates"
    for label, ours, bounds in ((name, bare, (0.6, 0.3)), (f"{name} by Trainer", trainer, (2.0, 0.85))):
        yield compare(label, ours, sklearn, peer_name=SKLEARN, bound=bounds[0], repeats=repeats)
        yield compare(label, ours, autograd, peer_name=AUTOGRAD, bound=bounds[1], repeats=repeats)


def wide(quick: bool) -> Result:
    """A step of 784-512-512-10 at batch 256."""
    updates = 3 if quick else 40
    x, t = torch.rand(256, 784), torch.randint(0, 10, (256,))
    mlp = LitMLP((784,), 10, (512, 512), activation="relu", loss="cross_entropy")
    layers = (nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))
    return compare(
        f"784-512-512-10, batch 256, {updates} updates",
        lambda: train_explicitly(mlp, x, t, updates),
        lambda: train_by_autograd(nn.Sequential(*layers), nn.CrossEntropyLoss(), x, t, updates),
        peer_name=AUTOGRAD,
        bound=0.9,
        repeats=2 if quick else 9,
    )


def many(quick: bool) -> Result:
    """One network's update among a thousand, against its update alone."""
    networks, updates = (50, 20) if quick else (1000, 300)
    layers = make_networks((1, 10, 1), networks)
    x, t = X.expand(networks, -1, -1), T.expand(networks, -1, -1)
    parameters = [p for layer in layers for p in layer]
    optimizer = Adam(parameters, lr=1e-2)

    def together() -> float:
        start = time.perf_counter()
        for _ in range(updates):
            _, gradients = loss_and_gradients(x, t, layers, activation="tanh")
            for p, gradient in zip(parameters, (g for pair in gradients for g in pair)):
                p.grad = gradient
            optimizer.step()
        return (time.perf_counter() - start) / networks

    return compare(
        f"toy, {updates} updates, each of {networks:,} together",
        together,
        lambda: train_explicitly(LitMLP(), X, T, updates),
        peer_name="the same alone",
        bound=None if quick else 0.05,
    )


def run(quick: bool, data_dir: Path) -> Iterator[Result]:
    """Every row of the multilayer perceptron."""
    with quiet():
        yield from toy(quick)
        yield wide(quick)
        yield many(quick)
