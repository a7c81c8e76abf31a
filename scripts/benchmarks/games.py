"""Shapley values, surrogates and ablation against Captum's: digits by `LitCNN`, a photo's size by `resnet18`.

Where a method draws at random the two draw differently: the work is the same, and what has a closed form (efficiency,
all coalitions) is held by the tests. FeatureAblation gives the same map, checked before it is timed; so would
DeepLiftShap, but Captum's misses its sum where pooling windows overlap, as they do here.
"""

import statistics
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from captum import attr as captum
from torch import Tensor, nn
from torchvision.models import resnet18

from benchmarks.harness import Result, compare
from interpretability import attribution as ours
from lit_models import LitCNN

SLOWEST, MEAN = 1.05, 0.7
SAMPLES, ORDERS, PATHS = 100, 4, 25
Call = Callable[[Tensor, Tensor], Tensor]


class Photos(nn.Module):
    """`resnet18` with each ReLU a module of its own, as Captum's DeepLift needs them."""

    def __init__(self) -> None:
        super().__init__()
        self.net = resnet18()
        for name in [name for name, _ in self.net.named_modules()]:
            if name.endswith("relu"):
                self.net.set_submodule(name, nn.ReLU())
        for block in self.net.modules():
            if hasattr(block, "bn2"):
                block.relu_after = nn.ReLU()
                block.forward = _block_forward.__get__(block)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, K)."""
        return self.net(x)


def _block_forward(self, x: Tensor) -> Tensor:
    inside = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
    return self.relu_after(inside + (x if self.downsample is None else self.downsample(x)))


def methods(net: nn.Module, size: tuple[int, int], cell: int) -> dict[str, tuple[Call, Call, bool]]:
    """Ours, Captum's call for the same, and whether both give the same map; players are squares of ``cell`` pixels."""
    rows, columns = torch.arange(size[0]) // cell, torch.arange(size[1]) // cell
    labels = rows[:, None] * (int(columns[-1]) + 1) + columns
    mask = {"feature_mask": labels[None, None]}

    def ablation(x: Tensor, t: Tensor) -> Tensor:
        counts = labels.flatten().bincount()[labels]  # Captum gives each element the whole of its segment's value
        return captum.FeatureAblation(net).attribute(x, target=t, **mask) / (counts * x.shape[1])

    def many(x: Tensor) -> Tensor:
        return torch.rand(4, *x.shape[1:], generator=torch.Generator().manual_seed(1))

    def deep_lift_shap(x: Tensor, t: Tensor) -> Tensor:
        return captum.DeepLiftShap(net).attribute(x, baselines=many(x), target=t)

    def one_by_one(method: type, **options: int) -> Call:
        def call(x: Tensor, t: Tensor) -> Tensor:
            fit = method(net)
            return torch.cat(
                [fit.attribute(x[n : n + 1], target=t[n : n + 1], **mask, **options) for n in range(len(x))]
            )

        return call

    return {
        "FeatureAblation": (ours.FeatureAblation(net, segments=labels), ablation, True),
        "DeepLiftShap": (lambda x, t: ours.DeepLiftShap(net, baselines=many(x))(x, t), deep_lift_shap, False),
        "GradientShap": (
            lambda x, t: ours.GradientShap(net, baselines=many(x), n_samples=PATHS)(x, t),
            lambda x, t: captum.GradientShap(net).attribute(x, many(x), n_samples=PATHS, target=t),
            False,
        ),
        "ShapleySampling": (
            ours.ShapleySampling(net, segments=labels, n_samples=ORDERS),
            lambda x, t: captum.ShapleyValueSampling(net).attribute(x, target=t, n_samples=ORDERS, **mask),
            False,
        ),
        "KernelShap": (
            ours.KernelShap(net, segments=labels, n_samples=SAMPLES),
            one_by_one(captum.KernelShap, n_samples=SAMPLES),
            False,
        ),
        "Lime": (
            ours.Lime(net, segments=labels, n_samples=SAMPLES),
            one_by_one(captum.Lime, n_samples=SAMPLES),
            False,
        ),
    }


def run(quick: bool, data_dir: Path) -> Iterator[Result]:
    """A row for each method, size and batch, then the geometric mean of all."""
    torch.manual_seed(0)
    cases = [("28×28", LitCNN().eval(), (1, 28, 28), 4, 1), ("28×28", LitCNN().eval(), (1, 28, 28), 4, 8)]
    cases += [] if quick else [("resnet18, 224×224", Photos().eval(), (3, 224, 224), 56, 1)]
    results = []
    for what, net, shape, cell, n in cases[: 1 if quick else None]:
        x, t = torch.rand(n, *shape), torch.arange(n) % 10
        for name, (our, peer, same) in methods(net, shape[1:], cell).items():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                if same:
                    expected = peer(x, t).detach().float()
                    close = {"rtol": 1e-2, "atol": 1e-3 * float(expected.abs().max())}
                    torch.testing.assert_close(our(x, t), expected, **close)
                result = compare(
                    f"{name}, {what}, batch {n}",
                    lambda our=our, x=x, t=t: _done(our(x, t)),
                    lambda peer=peer, x=x, t=t: _done(peer(x, t)),
                    peer_name="captum",
                    bound=SLOWEST,
                    repeats=1 if quick else 5,
                )
            results.append(result)
            yield result
    seconds = ([r.ours_seconds for r in results], [r.peer_seconds for r in results])
    yield Result("geometric mean", "captum", *map(statistics.geometric_mean, seconds), bound=MEAN)


def _done(attribution: Tensor) -> None:
    if attribution.is_cuda:
        torch.cuda.synchronize()
