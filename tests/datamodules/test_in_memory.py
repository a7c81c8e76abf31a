"""Order, splits and batches: functions of their seeds, the same on every rank, worker and resume."""

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader, TensorDataset

from datamodules import DigitsDataModule, EpochSampler, InMemoryDataset, InMemoryLoader, ToyDataModule
from lit_models import LitCNN


def dataset(n: int) -> InMemoryDataset:
    return InMemoryDataset(torch.arange(n, dtype=torch.uint8)[:, None], torch.arange(n))


def targets(loader) -> list[list[int]]:
    return [t.tolist() for _, t in loader]


def test_batches_equal_those_of_an_ordinary_loader():
    data = dataset(10)
    ordinary = DataLoader(TensorDataset(data.inputs, data.targets), batch_size=4)
    for ours, theirs in zip(InMemoryLoader(data, 4), ordinary, strict=True):
        assert torch.equal(ours[0], theirs[0]) and torch.equal(ours[1], theirs[1])


def test_batches_are_cut_where_the_split_lives():
    moved = dataset(10).to("meta")  # a device without numbers: a copy back would fail
    inputs, labels = moved.__getitems__([3, 1])
    assert (inputs.device.type, inputs.shape, labels.device.type) == ("meta", (2, 1), "meta")


@pytest.mark.cuda
def test_splits_move_to_the_device_and_probes_come_back():
    data = DigitsDataModule()
    before = data.probe_batch("val", 10)
    trainer = Trainer(accelerator="cuda", devices=1, max_steps=2, logger=False, enable_checkpointing=False)
    trainer.fit(LitCNN(channels=(2,), hidden=4), data)
    assert data.splits["train"].inputs.device.type == "cuda"
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(before, data.probe_batch("val", 10)))


def test_mismatched_lengths_are_refused():
    with pytest.raises(ValueError, match="3 inputs but 2 targets"):
        InMemoryDataset(torch.zeros(3), torch.zeros(2))


def test_order_is_a_function_of_seed_and_epoch_only():
    sampler = EpochSampler(dataset(50), shuffle=True, seed=3)
    torch.manual_seed(1)
    first = list(sampler)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert list(sampler) == first and sorted(first) == list(range(50))
    assert torch.equal(state, torch.get_rng_state())
    sampler.set_epoch(1)
    assert list(sampler) != first
    # seed 3, epoch 1 is not seed 4, epoch 0
    assert list(sampler) != list(EpochSampler(dataset(50), shuffle=True, seed=4))


@pytest.mark.parametrize("n", [8, 10, 11])
def test_ranks_share_the_epoch(n):
    whole = list(EpochSampler(dataset(n), shuffle=True, seed=1))
    ranks = [list(EpochSampler(dataset(n), shuffle=True, seed=1, num_replicas=3, rank=r)) for r in range(3)]
    assert len({len(rank) for rank in ranks}) == 1
    dealt = [index for turn in zip(*ranks) for index in turn]
    assert dealt[:n] == whole
    evaluated = [list(EpochSampler(dataset(n), shuffle=False, num_replicas=3, rank=r)) for r in range(3)]
    assert sorted(index for rank in evaluated for index in rank) == list(range(n))
    assert [len(EpochSampler(dataset(n), shuffle=False, num_replicas=3, rank=r)) for r in range(3)] == [
        len(rank) for rank in evaluated
    ]


def test_each_pass_of_an_epoch_is_a_permutation():
    order = list(EpochSampler(dataset(7), shuffle=True, passes=3))
    passes = np.array(order).reshape(3, 7)
    assert (np.sort(passes, axis=1) == np.arange(7)).all()
    assert not (passes[0] == passes[1]).all()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loaded_place_skips_what_was_trained_on_and_draws_nothing(workers):
    data = dataset(20)

    def loader():
        return InMemoryLoader(data, 3, EpochSampler(data, shuffle=True, seed=5), num_workers=workers)

    whole = targets(loader())
    interrupted = loader()
    batches = iter(interrupted)
    for _ in range(4):
        next(batches)
    resumed = loader()
    state = torch.get_rng_state()
    resumed.load_state_dict(interrupted.state_dict())
    assert targets(resumed) == whole[4:]
    assert resumed.state_dict() == {"handed_out": 7}
    assert targets(resumed) == whole  # the next epoch is whole again
    assert torch.equal(state, torch.get_rng_state())


def test_the_split_is_the_same_every_time_and_disjoint():
    modules = [DigitsDataModule(split_seed=0), DigitsDataModule(split_seed=0), DigitsDataModule(split_seed=1)]
    for module in modules:
        torch.randn(3)
        module.setup()
    rows = [{split: set(data.indices.tolist()) for split, data in module.splits.items()} for module in modules]
    assert rows[0] == rows[1] and rows[0] != rows[2]
    assert sum(len(r) for r in rows[0].values()) == len(set.union(*rows[0].values())) == 1797


def test_toy_holds_out_the_points_it_is_told_to():
    module = ToyDataModule(held_out=[3, 10], passes_per_epoch=2)
    module.setup()
    x, t = module.probe_batch("val", 5)
    assert x.flatten().tolist() == pytest.approx([0.3, 1.0]) and t.flatten().tolist() == pytest.approx([-0.86, 0.86])
    batches = list(module.train_dataloader())
    assert [len(x) for x, _ in batches] == [9, 9]
    assert all(0.3 not in x.flatten().round(decimals=4).tolist() for x, _ in batches)
    whole = ToyDataModule()
    whole.setup()
    assert whole.val_dataloader() == []


@pytest.mark.parametrize(
    ("held_out", "message"),
    [([11], "no point 11"), ([-1], "no point -1"), ([2, 2], "twice"), (list(range(11)), "no point to train on")],
)
def test_toy_refuses_impossible_held_out_points(held_out, message):
    with pytest.raises(ValueError, match=message):
        ToyDataModule(held_out=held_out)


@pytest.mark.parametrize("option", ["batch_size", "eval_batch_size"])
def test_sizes_below_one_are_refused(option):
    with pytest.raises(ValueError, match=f"{option} must be at least 1, got 0"):
        DigitsDataModule(**{option: 0})


def test_probe_is_fixed_balanced_and_in_range():
    module = DigitsDataModule()
    x, t = module.probe_batch("val", 30)
    again, _ = module.probe_batch("val", 30)
    assert torch.equal(x, again) and x.shape == (30, 1, 28, 28)
    assert torch.equal(t, torch.arange(10).repeat(3))
    assert x.min() == 0 and 0.9 < x.max() <= 1
    with pytest.raises(ValueError, match="unknown split 'vall'"):
        module.probe_batch("vall", 3)
    with pytest.raises(ValueError, match="has no test samples"):
        ToyDataModule().probe_batch("test", 3)


def test_what_is_no_batch_of_ours_passes_through():
    """Lightning hands a model's ``example_input_array`` through the same hook."""
    example = torch.zeros(1, 1, 28, 28)
    assert DigitsDataModule().on_after_batch_transfer(example, 0) is example
