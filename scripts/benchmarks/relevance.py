"""LRP and DeepLift against Captum's on networks that Captum supports, and in passes on those it does not."""

import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from captum.attr import LRP as CaptumLRP
from captum.attr import DeepLift as CaptumDeepLift
from captum.attr._utils.lrp_rules import Alpha1_Beta0_Rule, EpsilonRule
from torch import Tensor, nn

from benchmarks.attribution import done
from benchmarks.harness import Result, compare
from interpretability import load_model
from interpretability.attribution import LRP, DeepLift

BOUND = 0.7
PASSES = 3.0


class Network(nn.Module):
    """Plain modules, each used once, and ``flatten`` as a function: what Captum's LRP accepts."""

    def __init__(self, channels: tuple[int, ...], side: int, inputs: int, classes: int):
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in zip((inputs, *channels), channels):
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        self.features = nn.Sequential(*layers)
        area = (side >> len(channels)) ** 2
        self.classifier = nn.Sequential(nn.Linear(channels[-1] * area, 256), nn.ReLU(), nn.Linear(256, classes))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, K)."""
        return self.classifier(self.features(x).flatten(1))


def digits() -> tuple[nn.Module, tuple[int, int, int]]:
    """As large as the network for MNIST."""
    return Network((24, 32), 28, 1, 10).eval(), (1, 28, 28)


def photos() -> tuple[nn.Module, tuple[int, int, int]]:
    """Five stages on 112 × 112 pixels, like a small VGG."""
    return Network((32, 64, 128, 128, 256), 112, 3, 100).eval(), (3, 112, 112)


def captum_lrp(model: nn.Module, x: Tensor, target: int, rule: type) -> Tensor:
    """Captum keeps the rules on the modules and drops them after each call."""
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.rule = rule()
    return CaptumLRP(model).attribute(x, target=target)


def run(quick: bool, data_dir: Path) -> Iterator[Result]:
    """Every method on both networks, at batches of 1 and 16."""
    torch.manual_seed(0)
    networks = {"28×28": digits, "112×112": photos}
    for name, make in networks.items():
        for samples in (1,) if quick else (1, 16):
            repeats = 2 if quick else 21 if make is digits else 5
            yield from _rows(f"{name}, batch {samples}", *make(), samples, repeats)
    yield from _passes(quick)


def _rows(what: str, model: nn.Module, shape: tuple[int, int, int], samples: int, repeats: int) -> Iterator[Result]:
    x = torch.rand(samples, *shape)
    for rule, theirs in {"epsilon": EpsilonRule, "z_plus": Alpha1_Beta0_Rule}.items():
        ours = LRP(model, rule=rule, epsilon=1e-9)
        yield _compare(
            f"LRP {rule}, {what}",
            lambda ours=ours: ours(x, 3),
            lambda theirs=theirs: captum_lrp(model, x, 3, theirs),
            repeats,
        )
    deeplift, peer = DeepLift(model), CaptumDeepLift(model)
    yield _compare(f"DeepLift, {what}", lambda: deeplift(x, 3), lambda: peer.attribute(x, target=3), repeats)


def _passes(quick: bool) -> Iterator[Result]:
    """What a photo costs on large networks, in forward and backward passes."""
    for name in ("resnet50", "vit_b_16"):
        model, x = load_model(name).model, torch.rand(1, 3, 224, 224)
        model.requires_grad_(False)

        def both(model=model, x=x) -> None:
            leaf = x.clone().requires_grad_()
            torch.autograd.grad(model(leaf)[0, 3], leaf)

        rule = "attention" if name == "vit_b_16" else "epsilon"
        for label, method in {f"LRP {rule}": LRP(model, rule=rule), "DeepLift": DeepLift(model)}.items():
            options = {"peer_name": "forward and backward", "bound": PASSES, "repeats": 1 if quick else 5}
            yield compare(f"{label}, {name}", lambda method=method, x=x: done(method(x, 3)), both, **options)


def _compare(name: str, ours, peer, repeats: int) -> Result:
    def silenced(work):
        def call() -> None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Captum's, on every call
                work()

        return call

    return compare(name, silenced(ours), silenced(peer), peer_name="Captum", bound=BOUND, repeats=repeats)
