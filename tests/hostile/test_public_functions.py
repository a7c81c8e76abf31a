"""Random shapes, dtypes and options for the public functions: the right shape and finite, or ValueError / TypeError."""

import io
import math

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from datamodules import EpochSampler, InMemoryDataset, MNISTDataModule, ToyDataModule
from datamodules.augmentation import RandomAffine
from interpretability import METHODS, deepfool, fgsm, pgd, quantize
from interpretability.building_blocks import (
    channel_attribution,
    neuron_groups,
    semantic_dictionary,
    spatial_attribution,
)
from interpretability.images import load_digit, load_image
from interpretability.targets import resolve_target, target_scores
from lit_models import LitCNN, LitMLP, functional, network

REFUSED = (ValueError, TypeError)
steady = settings(
    max_examples=30, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
CLASSES = 3


def mostly(good, odd):
    """Values that do, and now and then some that may not: so that many of several options together are taken."""
    return st.sampled_from([good] * 9 + [odd]).flatmap(lambda strategy: strategy)


sides = st.integers(0, 9)
numbers = st.one_of(st.floats(-2, 2), st.sampled_from([math.nan, math.inf, -math.inf, 1e300, -1e-300]))
counts = st.integers(-2, 5)
dtypes = st.sampled_from(
    [torch.float32] * 4 + [torch.float64] * 3 + [torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool]
)
values = st.sampled_from([0.5] * 8 + [math.nan, math.inf, 2.0, -1.0, 0.0, 1.0])


class Net(nn.Module):
    """Any size of image, three classes."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU())
        self.head = nn.Linear(4, CLASSES)

    def forward(self, x):
        return self.head(self.body(x).mean((2, 3)))


@st.composite
def images(draw):
    """Tensors that are mostly batches of two-channel images, in some dtype, with some value somewhere."""
    shape = draw(
        st.one_of(
            st.tuples(st.integers(1, 3), st.just(2), st.integers(1, 9), st.integers(1, 9)),
            st.lists(sides, max_size=5).map(tuple),
        )
    )
    x = torch.rand(shape, generator=torch.Generator().manual_seed(draw(st.integers(0, 3)))).to(draw(dtypes))
    if x.numel() and x.is_floating_point():
        x.view(-1)[draw(st.integers(0, x.numel() - 1))] = draw(values)
    return x


targets = st.one_of(
    st.none(),
    st.integers(-1, CLASSES),
    st.lists(st.integers(-1, CLASSES), max_size=3).map(torch.tensor),
    st.just("1"),
    st.just(1.5),
    st.just(True),
    st.just(lambda logits: logits[:, 0]),
    st.just(lambda logits: logits),
)


def accepted(function, *args, **options):
    """What the function gives, or None where it refuses with a message; anything else fails the test."""
    try:
        return function(*args, **options)
    except REFUSED as error:
        assert str(error).strip() and "Traceback" not in str(error)
        return None


def network_for(x):
    dtype = x.dtype if isinstance(x, torch.Tensor) and x.is_floating_point() else torch.float32
    torch.manual_seed(0)
    return Net().to(dtype).eval()


def is_batch(x):
    """What the network takes: floating-point images of two channels, with a pixel."""
    return x.ndim == 4 and x.shape[1] == 2 and min(x.shape) > 0 and x.is_floating_point()


@pytest.mark.parametrize("name", METHODS)
@given(x=images(), target=targets, layer=st.sampled_from([None, "body", "body.0", "head", "nothing", ""]))
@steady
def test_attribution(name, x, target, layer):
    model = network_for(x)
    if x.is_floating_point() and x.ndim > 1 and len(x) and not is_batch(x):
        return  # what the network itself cannot take is the network's to refuse
    method = accepted(METHODS[name], model, layer)
    found = None if method is None else accepted(method, x, target)
    assert not any(parameter.grad is not None for parameter in model.parameters())
    if found is None:
        return
    assert is_batch(x) and layer != "nothing"
    cam = name in {"FullGrad", "RISE"} or ("CAM" in name and name != "GuidedGradCAM")
    about = (
        x.shape
        if layer is None or name == "GuidedGradCAM"
        else (len(x), CLASSES)
        if layer == "head"
        else (len(x), 4, *x.shape[2:])
    )
    places = tuple(about[2:]) or (1, 1)  # a vector has one
    assert found.shape == ((len(x), 1, *places) if cam else about)
    assert found.isfinite().all() and found.dtype == x.dtype


def some(odd):
    """Whole numbers from 1 on, mostly."""
    return mostly(st.integers(1, 5), odd)


fine = mostly(st.floats(0, 1), numbers)
OPTIONS = {
    "IntegratedGradients": {
        "n_steps": some(counts),
        "baseline": fine,
        "rule": st.sampled_from(["trapezoid", "gausslegendre", "x"]),
    },
    "SmoothGrad": {"n_samples": some(counts), "noise": fine, "batch_size": st.one_of(st.none(), some(counts))},
    "VarGrad": {"n_samples": some(counts), "noise": fine},
    "Occlusion": {
        "window": st.one_of(some(counts), st.tuples(counts, counts)),
        "stride": some(counts),
        "baseline": fine,
    },
    "LayerConductance": {"n_steps": some(counts), "layer": st.just("body"), "baseline": fine},
    "LRP": {"rule": mostly(st.sampled_from(["epsilon", "z_plus"]), st.just("x")), "epsilon": fine, "gamma": fine},
    "DeepLift": {"baseline": fine},
}


@pytest.mark.parametrize("name", OPTIONS)
@given(data=st.data())
@steady
def test_attribution_options(name, data):
    options = {key: data.draw(strategy, label=key) for key, strategy in OPTIONS[name].items()}
    x = torch.rand(2, 2, 5, 4)
    method = accepted(METHODS[name], network_for(x), **options)
    found = None if method is None else accepted(method, x, 1)
    if found is not None and all(abs(value) < 1e9 for value in options.values() if isinstance(value, float)):
        assert found.shape == ((2, 4, 5, 4) if name == "LayerConductance" else x.shape) and found.isfinite().all()


@given(logits=st.lists(sides, max_size=3).map(lambda shape: torch.rand(shape)), target=targets)
@steady
def test_targets(logits, target):
    if accepted(resolve_target, logits, target) is not None or target is None:
        scores = accepted(target_scores, logits, target) if logits.ndim == 2 and logits.shape[1] else None
        assert scores is None or scores.shape == logits.shape[:1]


@pytest.mark.parametrize("attack", [fgsm, pgd, deepfool])
@given(
    x=images().filter(is_batch),
    target=mostly(st.integers(0, CLASSES - 1), targets),
    epsilon=mostly(st.floats(0, 0.5), numbers),
    steps=mostly(st.integers(1, 4), counts),
    norm=mostly(st.sampled_from(["linf", "l2"]), st.just("l3")),
    start=st.booleans(),
)
@steady
def test_attacks(attack, x, target, epsilon, steps, norm, start):
    options = {
        fgsm: {"epsilon": epsilon},
        pgd: {"epsilon": epsilon, "steps": steps, "norm": norm, "random_start": start},
        deepfool: {"steps": steps},
    }[attack]
    found = accepted(attack, network_for(x), x, target, **options)
    if found is not None:
        assert found.shape == x.shape and found.dtype == x.dtype and found.min() >= 0 and found.max() <= 1
        change = (found.double() - x.double()).flatten(1)
        reach = {fgsm: change.abs().amax(1), pgd: change.abs().amax(1) if norm == "linf" else change.norm(dim=1)}
        assert attack is deepfool or (reach[attack] <= epsilon).all()
        assert attack is deepfool or quantize(found, x, min(epsilon, 1.0)).shape == x.shape


@given(x=images().filter(is_batch), layer=st.sampled_from(["body", "head", "nothing"]), target=targets, n=counts)
@steady
def test_building_blocks(x, layer, target, n):
    if not x.isfinite().all() or x.dtype in (torch.float16, torch.bfloat16):
        return
    model = network_for(x)
    places, channels = ((1, 1), CLASSES) if layer == "head" else (x.shape[2:], 4)
    spatial = accepted(spatial_attribution, model, layer, x, target)
    assert spatial is None or spatial.shape == (len(x), *places)
    by_channel = accepted(channel_attribution, model, layer, x, target)
    assert by_channel is None or by_channel.shape == (len(x), channels)
    found = accepted(semantic_dictionary, model, layer, x, n)
    assert found is None or found.channels.shape == (len(x), min(n, channels), *places)
    groups = accepted(neuron_groups, model, layer, x, n)
    assert groups is None or ((groups.places >= 0).all() and 0 <= groups.error <= 1)


@given(
    n=st.integers(1, 3),
    d=st.integers(1, 4),
    k=st.integers(1, 3),
    networks=st.integers(0, 2),
    seed=st.integers(0, 9),
    activation=st.sampled_from(sorted(functional.ACTIVATIONS)),
    scale=st.sampled_from([0.0, 1.0, 50.0, 1e4]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    loss=st.sampled_from(sorted(functional.LOSSES)),
)
@steady
def test_the_formulas_stay_finite(n, d, k, networks, seed, activation, scale, dtype, loss):
    """Networks one by one or many at once, any nonlinearity, pre-activations up to where exp overflows."""
    torch.manual_seed(seed)
    lead = (networks,) if networks else ()
    layers = [
        (torch.randn(*lead, 5, d).to(dtype), torch.randn(*lead, 5).to(dtype)),
        (torch.randn(*lead, k, 5).to(dtype), torch.randn(*lead, k).to(dtype)),
    ]
    x = scale * torch.randn(n, d).to(dtype)
    t = torch.randn(n, k).to(dtype) if loss == "mse" else torch.randint(k, (*lead, n))
    value, gradients = network.loss_and_gradients(x, t, layers, activation=activation, loss=loss, weight_decay=0.1)
    assert value.shape == lead and value.isfinite().all()
    for layer, parts in zip(layers, gradients):
        for parameter, gradient in zip(layer, parts):
            assert gradient.shape == parameter.shape and gradient.dtype == dtype and gradient.isfinite().all()


@given(images=st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 9), st.integers(1, 9)), data=st.data())
@steady
def test_augmentation(images, data):
    names = ("degrees", "translate", "scale", "shear", "elastic")
    options = {name: data.draw(mostly(st.floats(0, 0.9), numbers), label=name) for name in names}
    augment = accepted(RandomAffine, **options, elastic_cells=data.draw(mostly(st.integers(1, 5), counts)))
    if augment is not None and max(options.values()) < 1e3:
        x = torch.rand(images)
        found = augment(x)
        assert found.shape == x.shape and found.isfinite().all() and (not x.numel() or found.min() >= 0)


@given(
    size=st.integers(1, 20),
    replicas=st.integers(1, 4),
    passes=st.integers(1, 3),
    seed=st.integers(0, 2**64),
    epoch=st.integers(0, 99),
    shuffle=st.booleans(),
)
@steady
def test_samplers(size, replicas, passes, seed, epoch, shuffle):
    dataset = InMemoryDataset(torch.zeros(size, 1), torch.zeros(size))
    ranks = [EpochSampler(dataset, shuffle, seed, replicas, rank, passes) for rank in range(replicas)]
    for sampler in ranks:
        sampler.set_epoch(epoch)
    found = [list(sampler) for sampler in ranks]
    assert [len(rows) for rows in found] == [len(sampler) for sampler in ranks]
    seen = sorted(row for rows in found for row in rows)
    if shuffle:
        assert len({len(rows) for rows in found}) == 1 and set(seen) == set(range(size))
    else:
        assert seen == list(range(size))


@given(
    held_out=st.lists(st.integers(-1, 11), max_size=12),
    batch_size=st.one_of(st.none(), counts),
    val_size=st.integers(-1, 60_001),
)
@steady
def test_datamodules(held_out, batch_size, val_size):
    data = accepted(ToyDataModule, held_out, batch_size)
    if data is not None:
        x, t = data.probe_batch("train", 3)
        assert x.shape == t.shape and len(x) == min(3, 11 - len(held_out))
    module = accepted(MNISTDataModule, val_size=val_size)
    assert (module is None) == (not 1 <= val_size < 60_000)


sizes = st.lists(st.integers(-1, 6), max_size=4)


@given(
    channels=mostly(st.lists(st.integers(1, 6), min_size=1, max_size=3), sizes),
    hidden=mostly(st.integers(1, 5), counts),
    kernel_size=mostly(st.sampled_from([1, 3, 5]), counts),
    dropout=mostly(st.floats(0, 0.9), numbers),
    learning_rate=mostly(st.floats(1e-6, 1), numbers),
    mean=mostly(st.floats(-1, 1), st.lists(numbers, max_size=2)),
    shape=mostly(
        st.tuples(st.integers(1, 3), st.integers(4, 20), st.integers(4, 20)),
        st.lists(st.integers(0, 9), min_size=2, max_size=4),
    ),
)
@steady
def test_litcnn(channels, hidden, kernel_size, dropout, learning_rate, mean, shape):
    options = {"channels": channels, "hidden": hidden, "kernel_size": kernel_size, "dropout": dropout}
    model = accepted(LitCNN, shape, 3, learning_rate=learning_rate, mean=mean, std=1.0, **options)
    if model is not None:
        assert model.eval()(torch.rand(2, *shape)).shape == (2, 3) and len(channels) > 0


@given(
    hidden=mostly(st.lists(st.integers(1, 6), max_size=3), sizes),
    dropout=mostly(st.floats(0, 0.9), numbers),
    learning_rate=mostly(st.floats(1e-6, 1), numbers),
    std=mostly(st.floats(0.1, 2), numbers),
    activation=mostly(st.sampled_from(sorted(functional.ACTIVATIONS)), st.sampled_from(["", "Tanh"])),
    loss=mostly(st.sampled_from(["mse", "cross_entropy"]), st.just("l1")),
    outputs=mostly(st.integers(2, 4), counts),
    shape=mostly(st.lists(st.integers(1, 4), min_size=1, max_size=3), sizes),
)
@steady
def test_litmlp(hidden, dropout, learning_rate, std, activation, loss, outputs, shape):
    options = {"dropout": dropout, "learning_rate": learning_rate, "std": std, "activation": activation, "loss": loss}
    model = accepted(LitMLP, shape, outputs, hidden, **options)
    if model is not None:
        assert model.eval()(torch.rand(2, *shape)).shape == (2, outputs)


@given(
    width=st.integers(1, 60),
    height=st.integers(1, 60),
    mode=st.sampled_from(["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "F", "YCbCr", "HSV"]),
    kind=st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF"]),
    seed=st.integers(0, 5),
)
@steady
def test_images(tmp_path_factory, width, height, mode, kind, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 4), dtype=np.uint8)
    file = io.BytesIO()
    try:
        grey = mode in ("I;16", "F", "LA", "1")  # Pillow converts to these from grey alone
        Image.fromarray(pixels).convert("L" if grey else "RGB").convert(mode).save(file, kind)
    except (OSError, ValueError, KeyError):  # Pillow has no such format in this mode
        return
    path = tmp_path_factory.getbasetemp() / f"image.{kind.lower()}"
    path.write_bytes(file.getvalue())
    for load, shape in ((lambda p: load_image(p, 16), (3, 16, 16)), (load_digit, (1, 28, 28))):
        found = accepted(load, path)
        assert found is None or (
            found.shape == shape and found.isfinite().all() and found.min() >= 0 and found.max() <= 1
        )
