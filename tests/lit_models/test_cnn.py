"""LitCNN: pixels in, logits out, its options refused by name, and nothing learned from noise."""

import logging

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import LambdaCallback

from datamodules import DigitsDataModule
from lit_models import LitCNN


def trainer(**options) -> Trainer:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return Trainer(accelerator="cpu", **quiet, **options)


@pytest.mark.parametrize(("padding", "margin", "area"), [("same", 2, 49), ("valid", 0, 16)])
def test_forward_is_the_composition_of_its_named_parts(padding, margin, area):
    model = LitCNN(channels=(3, 4), hidden=5, padding=padding, batch_norm=True, mean=0.25, std=0.5).double().eval()
    for norm in model.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):  # not the identity that it begins as
            for tensor in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
                tensor.uniform_(0.5, 2)
    x = torch.rand(6, 1, 28, 28, dtype=torch.float64)
    z = (x - 0.25) / 0.5
    for conv, _pool, norm, _relu in model.stages:
        assert (conv.kernel_size, conv.padding) == ((5, 5), (margin, margin))
        z = F.relu(norm(F.max_pool2d(F.conv2d(z, conv.weight, padding=margin), 2)))
    linear = model.features[1]
    assert linear.in_features == 4 * area
    features = F.relu(F.linear(z.flatten(1), linear.weight, linear.bias))
    assert torch.allclose(model.embed(x), features, rtol=0, atol=1e-12)
    assert torch.allclose(model(x), F.linear(features, model.head.weight, model.head.bias), rtol=0, atol=1e-12)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_stages_of_several_convolutions_pool_once(batch_norm):
    model = LitCNN(channels=(3, 4), convs_per_stage=2, kernel_size=3, hidden=5, padding="valid", batch_norm=batch_norm)
    kinds = [type(layer).__name__ for layer in model.stages[1]]
    norm = ["BatchNorm2d"] if batch_norm else []
    assert kinds == ["Conv2d", *norm, "ReLU", "Conv2d", "MaxPool2d", *norm, "ReLU"]
    assert model.stages(torch.rand(2, 1, 28, 28)).shape == (2, 4, 4, 4)  # 28 − 4 → 12, 12 − 4 → 4


def test_a_stage_may_halve_by_a_convolution_and_drop_activations():
    options = {"convs_per_stage": [1, 2], "padding": "valid", "downsampling": "convolution", "batch_norm": True}
    model = LitCNN((1, 29, 31), channels=(3, 4), kernel_size=3, hidden=5, stage_dropout=0.5, **options)
    block = ["Conv2d", "BatchNorm2d", "ReLU"]
    assert [type(layer).__name__ for layer in model.stages[0]] == [*block * 2, "Dropout"]
    assert [type(layer).__name__ for layer in model.stages[1]] == [*block * 3, "Dropout"]
    halving = model.stages[1][6]
    assert (halving.in_channels, halving.kernel_size, halving.stride, halving.padding) == (4, (5, 5), (2, 2), (2, 2))
    assert model.stages(torch.rand(2, 1, 29, 31)).shape == (2, 4, 5, 6)  # 29 − 2 → 14, 14 − 4 → 5; 31 − 2 → 15 → 6
    x = torch.rand(2, 1, 29, 31)
    assert not torch.equal(model.stages(x), model.stages(x))
    model.eval()
    assert torch.equal(model.stages(x), model.stages(x))


def test_a_schedule_without_an_end_is_named():
    with pytest.raises(ValueError, match="'one_cycle' needs a run of known length"):
        trainer(max_epochs=-1).fit(LitCNN(channels=(4, 4), hidden=8), DigitsDataModule())


def test_the_loss_keeps_single_precision_where_the_network_computes_in_half():
    model, seen = LitCNN(channels=(4, 4), hidden=8), []
    model.head.register_forward_hook(lambda module, args, logits: seen.append(logits.dtype))
    watch = LambdaCallback(
        on_train_batch_end=lambda trainer, module, outputs, *rest: seen.append(outputs["loss"].dtype)
    )
    trainer(max_steps=1, precision="bf16-mixed", callbacks=[watch], limit_val_batches=0).fit(model, DigitsDataModule())
    assert seen == [torch.bfloat16, torch.float32]


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 20), (1, 9, 17)])
def test_any_image_shape_that_can_be_halved(shape):
    model = LitCNN(input_shape=shape, num_outputs=7, channels=(4, 4, 4), hidden=6)
    assert model(torch.rand(2, *shape)).shape == (2, 7)
    assert model.embed(torch.rand(2, *shape)).shape == (2, 6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dropout": 1.0}, "dropout must be in"),
        ({"dropout": float("nan")}, "dropout must be in"),
        ({"stage_dropout": 1.0}, "stage_dropout must be in"),
        ({"downsampling": "stride"}, "unknown downsampling 'stride'; there are: pool, convolution"),
        ({"convs_per_stage": None}, "convs_per_stage must be whole numbers"),
        ({"convs_per_stage": [1, 2, 3]}, "one for each of 2 stages"),
        ({"convs_per_stage": [1, 0]}, "convs_per_stage must be in"),
        ({"learning_rate": -1.0}, "learning_rate must be in"),
        ({"weight_decay": -0.1}, "weight_decay must be in"),
        ({"label_smoothing": 1.5}, "label_smoothing must be in"),
        ({"kernel_size": 4}, "kernel_size must be odd"),
        ({"schedule": "cosin"}, "unknown schedule 'cosin'"),
        ({"padding": "full"}, "unknown padding 'full'; there are: same, valid"),
        ({"padding": "valid", "kernel_size": 15, "channels": (2, 2)}, "do not fit images of 28×28"),
        ({"channels": ()}, "channels"),
        ({"channels": (2, 2, 2, 2, 2)}, "do not fit images of 28×28"),
    ],
)
def test_options_out_of_range_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        LitCNN(**options)


def test_logged_accuracy_and_loss_are_those_of_the_whole_split():
    """Batches of unequal size do not bend the mean."""
    data = DigitsDataModule(eval_batch_size=64)
    model = LitCNN(channels=(4,), hidden=8)
    fit = trainer()
    (logged,) = fit.test(model, data, verbose=False)
    x, t = data.splits["test"].inputs, data.splits["test"].targets
    rows = data.splits["test"].indices
    logits = model.eval()(x[rows] / 255)
    assert logged["test/accuracy"] == pytest.approx(float((logits.argmax(1) == t[rows]).double().mean()), abs=1e-6)
    assert logged["test/loss"] == pytest.approx(float(F.cross_entropy(logits, t[rows])), abs=1e-5)


def test_double_precision_stays_double():
    model = LitCNN(channels=(2,), hidden=4)
    fit = trainer(precision="64-true", max_steps=2)
    fit.fit(model, DigitsDataModule())
    assert model.head.weight.dtype == torch.float64 and fit.global_step == 2


@pytest.mark.slow
@pytest.mark.parametrize(("shuffled", "low", "high"), [(False, 0.9, 1.0), (True, 0.0, 0.2)])
def test_shuffled_labels_bring_accuracy_to_chance(shuffled, low, high):
    seed_everything(0)
    data = DigitsDataModule()
    data.setup()
    if shuffled:
        targets = data.splits["train"].targets
        train = data.splits["train"].indices
        targets[train] = targets[train[torch.randperm(len(train))]]
    fit = trainer(max_epochs=6)
    model = LitCNN(channels=(8, 16), hidden=32, batch_norm=True, learning_rate=0.01)
    fit.fit(model, data)
    (result,) = fit.test(model, data, verbose=False)
    assert low <= result["test/accuracy"] <= high


@pytest.mark.parametrize("name", ["num_outputs", "channels", "kernel_size", "convs_per_stage", "hidden"])
@pytest.mark.parametrize("value", [1.5, "3", True, [2, 1.5]])
def test_sizes_that_are_no_whole_numbers_are_named(name, value):
    with pytest.raises(ValueError, match=f"{name} must be whole numbers"):
        LitCNN(**{name: value})
