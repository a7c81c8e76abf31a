"""What watching a run costs: a warm t-SNE layout, and training with the worker beside it."""

import tempfile
import time
from collections.abc import Iterator

import numpy as np
import torch
from lightning.pytorch import Callback, Trainer
from sklearn.datasets import load_digits
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

from benchmarks.harness import Result, compare
from callbacks import SaliencySnapshots, TSNELogger
from callbacks.tsne.layout import embed, reduce
from datamodules import MNISTDataModule
from lit_models import LitCNN

WARM, KL_MARGIN = 0.4, 1.03
STEPS = 60


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


def training_seconds(data: MNISTDataModule, callbacks: list[Callback], epochs: int) -> float:
    """The time from the first batch to the end of the last epoch, without what follows it."""
    torch.manual_seed(0)

    class Stopwatch(Callback):
        def on_train_start(self, trainer, pl_module):
            self.start = time.perf_counter()

        def on_train_end(self, trainer, pl_module):
            self.seconds = time.perf_counter() - self.start

    stopwatch = Stopwatch()
    with tempfile.TemporaryDirectory() as root:
        trainer = Trainer(
            default_root_dir=root,
            max_epochs=epochs,
            limit_train_batches=STEPS,
            limit_val_batches=1,
            callbacks=[*callbacks, stopwatch],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(LitCNN(), data)
    return stopwatch.seconds


def run(quick: bool) -> Iterator[Result]:
    """The layout, then epochs of MNIST with the callbacks against the same without."""
    yield from layouts(500 if quick else 2000)
    data, epochs = MNISTDataModule(data_dir="data", batch_size=256), 2 if quick else 4
    for name, make in {
        "MNIST with TSNELogger": lambda: [TSNELogger(layer=[None, "features"])],
        "MNIST with SaliencySnapshots": lambda: [SaliencySnapshots()],
    }.items():
        yield compare(
            f"{name}, an epoch of {STEPS} steps",
            lambda make=make: training_seconds(data, make(), epochs) / epochs,
            lambda: training_seconds(data, [], epochs) / epochs,
            peer_name="without",
            repeats=1 if quick else 3,
            warmup=1,
        )
