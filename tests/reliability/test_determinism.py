"""Same seed, same bits; another seed, another run in everything random; loader processes change nothing."""

import random

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer, seed_everything

from datamodules import DigitsDataModule, ToyDataModule
from injected import SmallMNIST
from lit_models import LitMLP
from training_runs import QUIET, SMALL_MNIST, load, only_run, train

GROUP = "Determinism"
DEVICE = {"toy": "CPU"}  # by its configuration; the others take the GPU that is there
SETTINGS = {
    "toy": ["--data.batch_size=4", "--data.passes_per_epoch=2", "--model.dropout=0.1"],
    "mnist_mlp": [*SMALL_MNIST, "--data.degrees=8", "--model.hidden=[16]"],
    "mnist": [*SMALL_MNIST, "--data.elastic=1", "--model.channels=[4,4]", "--model.hidden=16", "--model.dropout=0.3"],
    "digits": ["--model.channels=[4,4]", "--model.hidden=16"],
}


def trained(experiment: str, seed: int, root, disturb: int) -> dict[str, torch.Tensor]:
    """The weights after two epochs, started from whatever state the generators are left in."""
    random.seed(disturb), np.random.seed(disturb), torch.manual_seed(disturb)
    options = ["--trainer.max_epochs=2", f"--seed_everything={seed}", f"--trainer.default_root_dir={root}", *QUIET]
    assert train(experiment, *options, "--trainer.callbacks=null", *SETTINGS[experiment]) == 0
    return load(only_run(root, experiment) / "checkpoints" / "last.ckpt")["state_dict"]


@pytest.mark.any_device
@pytest.mark.parametrize("experiment", [*SETTINGS])
def test_same_seed_same_bits(tmp_path, record_promise, experiment):
    promise = "--seed_everything reaches every source of randomness: same seed, same bits; another seed, other weights"
    record_promise(
        promise, f"generators left in another state, `{experiment}`", 2, group=GROUP, device=DEVICE.get(experiment)
    )
    first, again = (trained(experiment, 5, tmp_path / f"{n}", disturb=n) for n in (1, 2))
    other = trained(experiment, 6, tmp_path / "other", disturb=1)
    for name, tensor in first.items():
        assert torch.equal(tensor, again[name]), name
    assert any(not torch.equal(tensor, other[name]) for name, tensor in first.items())


def batches(data, epochs: int, skip: int = 0) -> list[tuple[torch.Tensor, ...]]:
    """All training batches of these epochs, the first ``skip`` of the first epoch left out."""
    data.trainer = Trainer(logger=False, enable_checkpointing=False, enable_model_summary=False)
    data.prepare_data()
    data.setup("fit")
    if skip:
        data.load_state_dict({"handed_out": skip})
    loader, found = data.train_dataloader(), []
    for epoch in range(epochs):
        loader.sampler.set_epoch(epoch)
        found += [tuple(part.cpu() for part in batch) for batch in loader]
    return found


@pytest.mark.parametrize("skip", [0, 3])
def test_any_number_of_loader_processes_gives_the_same_batches(record_promise, skip):
    fault = "1, 2 and 3 loader processes" + (", begun within an epoch" if skip else "")
    record_promise("loader processes change no batch", fault, 3, group=GROUP)
    alone = batches(DigitsDataModule(batch_size=50, num_workers=0), 2, skip)
    assert not torch.equal(alone[0][0], alone[-1][0])
    for workers in (1, 2, 3):
        shared = batches(DigitsDataModule(batch_size=50, num_workers=workers), 2, skip)
        assert len(shared) == len(alone)
        assert all(torch.equal(a, b) for pair in zip(alone, shared) for a, b in zip(*pair))


def test_each_source_of_randomness_follows_the_seed(monkeypatch, record_promise):
    promise = "weights, order, dropout and augmentation are each a function of the seed"
    record_promise(promise, "another seed, for each alone", 4, group=GROUP)

    def drawn(seed: int) -> dict[str, torch.Tensor]:
        seed_everything(seed, verbose=False)
        mlp = LitMLP((4,), 3, (50,), dropout=0.5)
        weights = mlp.output.weight.detach().clone()
        seed_everything(seed, verbose=False)
        order = torch.cat([t for _, t in batches(ToyDataModule(batch_size=1, passes_per_epoch=3), 1)])
        torch.manual_seed(0)
        fixed = LitMLP((4,), 3, (50,), dropout=0.5)
        seed_everything(seed, verbose=False)
        loss, _ = fixed.loss_and_gradients(torch.ones(8, 4), torch.zeros(8, 3))
        seed_everything(seed, verbose=False)
        augment = SmallMNIST(data_dir="none", degrees=20).augment
        assert augment is not None
        image = augment(torch.eye(28)[None, None])
        return {"weights": weights, "order": order, "dropout": loss, "augmentation": image}

    one, again, other = drawn(1), drawn(1), drawn(2)
    for name, values in one.items():
        assert torch.equal(values, again[name]), name
        assert not torch.equal(values, other[name]), name
