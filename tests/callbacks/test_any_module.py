"""Anyone's LightningModule: a dict output, dict batches, one logit; every picture is there, nothing is warned of."""

import warnings

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.loggers import TensorBoardLogger
from torch import nn
from torch.utils.data import DataLoader, Dataset

from callback_stand_ins import quiet_trainer
from callbacks import EarlyStopping, SaliencySnapshots, TestReport, TSNELogger, WeightDiagnostics


class Named(Dataset):
    """Samples as dictionaries."""

    def __init__(self, n, classes):
        generator = torch.Generator().manual_seed(n)
        self.labels = torch.arange(n) % classes
        self.images = torch.rand(n, 3, 12, 10, generator=generator) / 2 + self.labels[:, None, None, None] / classes / 2

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return {"pixels": self.images[index], "label": self.labels[index]}


class Own(LightningModule):
    """``wrap`` makes the output of logits (N, K); with two classes and one output, of one logit (N, 1)."""

    def __init__(self, wrap, outputs, classes):
        super().__init__()
        self.wrap, self.classes, self.one = wrap, classes, outputs == 1
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
        self.head = nn.Linear(4, outputs)

    def forward(self, x):
        return self.wrap(self.head(self.features(x).mean((2, 3))))

    def loss(self, batch):
        output = self(batch["pixels"])
        logits = output["logits"] if isinstance(output, dict) else output[0] if isinstance(output, tuple) else output
        if self.one:
            return nn.functional.binary_cross_entropy_with_logits(logits.flatten(), batch["label"].float())
        return nn.functional.cross_entropy(logits, batch["label"])

    def training_step(self, batch, index):
        return self.loss(batch)

    def validation_step(self, batch, index):
        self.log("val/loss", self.loss(batch))

    def test_step(self, batch, index):
        self.log("test/loss", self.loss(batch))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.mark.parametrize(
    ("wrap", "outputs", "classes"),
    [
        (lambda z: {"logits": z}, 3, 3),
        (lambda z: (z, z * 2), 3, 3),
        (lambda z: z, 1, 2),
        (lambda z: {"logits": z.squeeze(1)}, 1, 2),
    ],
)
def test_every_picture_is_there_and_nothing_is_warned_of(tmp_path, wrap, outputs, classes):
    callbacks = [
        TSNELogger(layer=[None, "features"], n_samples=24, perplexity=5.0),
        SaliencySnapshots(methods=["Saliency", "GradCAM", "GuidedBackprop"], layers=[None, "features"], n_images=3),
        WeightDiagnostics(),
        TestReport(),
        EarlyStopping(patience=5),
    ]
    module = Own(wrap, outputs, classes)
    trainer = quiet_trainer(tmp_path, *callbacks, logger=TensorBoardLogger(tmp_path), max_epochs=2)
    loaders = [DataLoader(Named(n, classes), batch_size=12) for n in (36, 24, 25)]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.fit(module, loaders[0], loaders[1])
        trainer.test(module, loaders[2], verbose=False)
    assert [str(warning.message) for warning in caught if "training goes on" in str(warning.message)] == []
    pictures = {path.relative_to(tmp_path).as_posix().split("figures/")[-1] for path in tmp_path.rglob("*.png")}
    for name in ("saliency/epoch_0001.png", "tsne/features/epoch_0001.png", "test/saliency.png",
                 "test/confusion_matrix.png", "test/calibration.png", "test/tsne/features.png"):  # fmt: skip
        assert any(name in picture for picture in pictures), (name, sorted(pictures))


def test_an_output_without_logits_is_named(tmp_path):
    module = Own(lambda z: {"scores": z, "logits_": z}, 3, 3)
    module.loss = lambda batch: module(batch["pixels"])["scores"].sum()
    trainer = quiet_trainer(tmp_path, SaliencySnapshots(n_images=2), max_epochs=1)
    with pytest.warns(UserWarning, match=r"SaliencySnapshots: .* a dict of scores, logits_, with no logits \(N, K\)"):
        trainer.fit(module, DataLoader(Named(12, 3), batch_size=6))
