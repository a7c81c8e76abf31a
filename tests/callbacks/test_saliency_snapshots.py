"""Snapshots of attributions: the right maps of the same images, on scales that compare, in every stage."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import callbacks.saliency_snapshots as snapshots
from callback_stand_ins import Classifier, blobs, loaders, quiet_trainer
from callbacks import SaliencySnapshots


@pytest.fixture
def drawn(monkeypatch) -> list[dict]:
    """What every snapshot was drawn from."""
    calls: list[dict] = []
    draw = snapshots.draw_snapshots

    def remember(images, labels, probabilities, rows, scales, names, title):
        calls.append({"images": images, "labels": labels, "rows": rows, "scales": dict(scales), "title": title})
        return draw(images, labels, probabilities, rows, scales, names, title)

    monkeypatch.setattr(snapshots, "draw_snapshots", remember)
    return calls


def test_maps_are_the_gradients_of_the_true_class(tmp_path, drawn):
    module = Classifier()
    quiet_trainer(tmp_path, SaliencySnapshots(n_images=5), max_epochs=1).fit(module, *loaders())
    (call,) = drawn
    x = torch.from_numpy(call["images"]).requires_grad_()
    score = module.eval()(x).gather(1, torch.from_numpy(call["labels"])[:, None]).sum()
    (gradient,) = torch.autograd.grad(score, x)
    assert gradient.abs().max() > 0
    np.testing.assert_allclose(call["rows"]["Saliency\npixels"], gradient[:, 0], atol=1e-6)


def test_every_stage_draws_with_the_same_images(tmp_path, drawn):
    callback = SaliencySnapshots(n_images=4, every_n_epochs=2)
    trainer = quiet_trainer(tmp_path, callback, max_epochs=4)
    module = Classifier()
    train, validation = loaders()
    trainer.fit(module, train, validation)
    trainer.validate(module, validation, verbose=False)
    trainer.test(module, DataLoader(blobs(20, seed=5)), verbose=False)
    found = {path.relative_to(tmp_path / "figures").as_posix() for path in tmp_path.rglob("*.png")}
    assert found == {"saliency/epoch_0001.png", "saliency/epoch_0003.png", "validate/saliency.png", "test/saliency.png"}
    for call in drawn[1:3]:
        np.testing.assert_array_equal(call["images"], drawn[0]["images"])
    assert (drawn[3]["images"] != drawn[0]["images"]).any()
    assert (drawn[0]["rows"]["Saliency\npixels"] != drawn[1]["rows"]["Saliency\npixels"]).any()


def test_several_methods_and_layers(tmp_path, drawn):
    options = {"methods": ("SmoothGrad", "GradCAM"), "layers": (None, "features.2")}
    quiet_trainer(tmp_path, SaliencySnapshots(**options), max_epochs=1).fit(Classifier(), *loaders())
    shapes = {name: maps.shape[1:] for name, maps in drawn[0]["rows"].items()}
    assert shapes == {"SmoothGrad\npixels": (9, 12), "SmoothGrad\nfeatures.2": (7, 10), "GradCAM\nfeatures.2": (7, 10)}


def test_noise_is_the_same_at_every_epoch(tmp_path, drawn):
    class Frozen(Classifier):
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.0)

    module = Frozen().requires_grad_(True)
    module.features[1].momentum = 0.0  # its running statistics stay as they are
    quiet_trainer(tmp_path, SaliencySnapshots(methods=["SmoothGrad"]), max_epochs=2).fit(module, *loaders())
    first, second = (call["rows"]["SmoothGrad\npixels"] for call in drawn)
    assert np.abs(first).max() > 0
    np.testing.assert_array_equal(first, second)


def test_a_given_batch(tmp_path, drawn):
    x, y = blobs(3, seed=9).tensors
    quiet_trainer(tmp_path, SaliencySnapshots(batch=(x, y)), max_epochs=1).fit(Classifier(), loaders()[0])
    np.testing.assert_array_equal(drawn[0]["images"], x)
    np.testing.assert_array_equal(drawn[0]["labels"], y)


def test_scale_is_shared_until_twice_as_much_is_needed():
    maps = np.full((2, 3, 3), 0.3)
    assert snapshots.next_power_of_two(maps) == 0.5
    assert snapshots.next_power_of_two(-maps * 1.6) == 0.5
    assert snapshots.next_power_of_two(maps * 1.7) == 1.0
    assert snapshots.next_power_of_two(maps * 0) == 0.0
    callback = SaliencySnapshots()
    callback._scales["Saliency\npixels"] = 64.0
    resumed = SaliencySnapshots()
    resumed.load_state_dict(callback.state_dict())
    assert resumed._scales == {"Saliency\npixels": 64.0}


def test_scale_never_shrinks(tmp_path, drawn):
    callback = SaliencySnapshots()
    callback._scales["Saliency\npixels"] = 64.0
    quiet_trainer(tmp_path, callback, max_epochs=1).fit(Classifier(), *loaders())
    assert drawn[0]["scales"]["Saliency\npixels"] == 64.0


def test_one_map_keeps_the_strongest_channel_and_its_sign():
    attribution = torch.tensor([[[[1.0, -5.0]], [[-3.0, 4.0]]]])
    torch.testing.assert_close(snapshots.one_map(attribution), torch.tensor([[[-3.0, -5.0]]]))
    assert snapshots.one_map(torch.rand(2, 7)).shape == (2, 1, 7)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": ["featres.2"]}, r"featres\.2.*features\.2"),
        ({"methods": ["GradCAM"]}, "GradCAM"),
    ],
)
def test_impossible_choices_are_refused_before_training(tmp_path, options, message):
    trainer = quiet_trainer(tmp_path, SaliencySnapshots(**options), max_epochs=1)
    with pytest.raises(ValueError, match=message):
        trainer.fit(Classifier(), *loaders())
    assert trainer.global_step == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"methods": ["Salience"]}, "Saliency"),
        ({"methods": []}, "methods"),
        ({"n_images": 0}, "n_images"),
        ({"every_n_epochs": 0}, "every_n_epochs"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SaliencySnapshots(**options)


def test_two_of_them_leave_both_pictures(tmp_path):
    both = SaliencySnapshots(), SaliencySnapshots(methods=["GradCAM"], layers=["features.2"])
    trainer = quiet_trainer(tmp_path, *both, max_epochs=1)
    trainer.fit(module := Classifier(), *loaders())
    trainer.test(module, DataLoader(blobs(8, seed=5)), verbose=False)
    found = {path.relative_to(tmp_path / "figures").as_posix() for path in tmp_path.rglob("*.png")}
    fitted = {"saliency/epoch_0000.png", "saliency_2/epoch_0000.png"}
    assert found == fitted | {"test/saliency.png", "test/saliency_2.png"}
