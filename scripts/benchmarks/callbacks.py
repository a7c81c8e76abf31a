"""What watching a run costs: a warm t-SNE layout, and training with the worker beside it."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch import Callback
from sklearn.datasets import load_digits
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

from benchmarks.harness import Result, compare, fit_seconds
from benchmarks.training import RECIPE, recipe_data
from callbacks import SaliencySnapshots, TSNELogger
from callbacks.tsne.layout import embed, reduce
from datamodules import MNISTDataModule
from lit_models import LitCNN

WARM, KL_MARGIN = 0.4, 1.03


def layouts(n: int) -> Iterator[Result]:
    """A layout of ``n`` points near the last one against scikit-learn's from scratch, equally good."""
    data = load_digits()
    rng = np.random.default_rng(0)
    pick = rng.integers(len(data.data), size=n)
    features = (data.data[pick] + rng.normal(0, 1, (n, 64))).astype(np.float32)
    changed = features + rng.normal(0, 1, features.shape).astype(np.float32)
    labels = data.target[pick]
    with threadpool_limits(1):  # as the worker has it
        last = embed(features, labels).coordinates
        cold = TSNE(random_state=0)

        def warm() -> None:
            assert embed(changed, labels, last).kl_divergence <= KL_MARGIN * cold.kl_divergence_

        def peer() -> None:
            cold.fit(reduce(changed))

        peer()
        yield compare(
            f"warm layout of {n} points", warm, peer, peer_name="scikit-learn, cold", bound=WARM, repeats=3, warmup=0
        )


def training_seconds(data: MNISTDataModule, callbacks: tuple[Callback, ...], epochs: int) -> float:
    """Seconds of an epoch of the recipe, the time after the last one left out."""
    torch.manual_seed(0)
    model = LitCNN(**RECIPE["model"]["init_args"])
    with tempfile.TemporaryDirectory() as root:
        return fit_seconds(model, data, callbacks, default_root_dir=root, max_epochs=epochs, logger=False) / epochs


def run(quick: bool, data_dir: Path) -> Iterator[Result]:
    """The layout, then epochs of MNIST with the callbacks against the same without."""
    yield from layouts(500 if quick else 2000)
    data, epochs = recipe_data(data_dir), 1 if quick else 3
    for name, make in {
        "an epoch of mnist with TSNELogger": lambda: (TSNELogger(layer=[None, "features"]),),
        "an epoch of mnist with SaliencySnapshots": lambda: (SaliencySnapshots(),),
    }.items():
        yield compare(
            name,
            lambda make=make: training_seconds(data, make(), epochs),
            lambda: training_seconds(data, (), epochs),
            peer_name="without",
            repeats=1 if quick else 3,
            warmup=0,
        )
