"""The Shapley family, surrogates, ablation and RISE against closed forms, all orders and DeepLift itself."""

import importlib.util
from itertools import permutations

import pytest
import torch
from torch import nn

from attribution_networks import plain, randomised
from interpretability import (
    METHODS,
    RISE,
    DeepLift,
    DeepLiftShap,
    FeatureAblation,
    GradientShap,
    KernelShap,
    Lime,
    ShapleySampling,
    patches,
    superpixels,
)
from interpretability.attribution import shapley
from interpretability.attribution.rise import random_mask

X = torch.rand(2, 2, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
SHAPLEY = {
    "KernelShap": {"n_samples": 5000},
    "ShapleySampling": {"n_samples": 2},
    "FeatureAblation": {},
    "GradientShap": {"n_samples": 3},
    "DeepLiftShap": {},
    "Lime": {"alpha": 1e-10},
}


def linear():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).double()


def curved():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3), nn.Tanh()).double()


def options(name, baseline):
    return SHAPLEY[name] | {"baselines" if name in ("GradientShap", "DeepLiftShap") else "baseline": baseline}


@pytest.mark.parametrize("name", SHAPLEY)
def test_of_a_linear_model_all_give_the_weights_times_the_difference(name):
    net = linear()
    expected = (net[1].weight[2].view(1, 2, 3, 2) * (X - 0.3)).detach()
    torch.testing.assert_close(METHODS[name](net, **options(name, 0.3))(X, 2), expected, rtol=0, atol=1e-9)


def test_one_player_is_all_of_it():
    net, segments = curved(), torch.zeros(3, 2, dtype=torch.long)
    difference = (net(X) - net(torch.zeros_like(X)))[:, 1].detach()
    for method in (KernelShap, ShapleySampling, FeatureAblation):
        torch.testing.assert_close(method(net, segments=segments)(X, 1).sum(dim=(1, 2, 3)), difference)


def by_all_orders(net, x, labels, target):
    """Shapley values of one sample by walking through every order."""
    players = sorted(set(labels.flatten().tolist()))
    found, orders = dict.fromkeys(players, 0.0), list(permutations(players))
    for order in orders:
        shown = torch.zeros_like(x)
        before = net(shown)[0, target].item()
        for player in order:
            shown = torch.where((labels == player).expand_as(x), x, shown)
            after = net(shown)[0, target].item()
            found[player] += (after - before) / len(orders)
            before = after
    return found


def test_kernel_shap_with_all_coalitions_is_the_mean_over_all_orders():
    net, labels = curved(), torch.tensor([[0, 1], [2, 3], [4, 7]])
    found = KernelShap(net, segments=labels, n_samples=64)(X, 1)
    for n in range(2):
        for player, value in by_all_orders(net, X[n : n + 1], labels, 1).items():
            here = (labels == player).expand(2, 3, 2)
            assert found[n][here].sum().item() == pytest.approx(value, abs=1e-9)
            assert found[n][here].std() < 1e-12  # spread evenly


def error(method, exact, n_samples, **given):
    found = [method(curved(), n_samples=n_samples, seed=seed, **given)(X, 1) - exact for seed in range(60)]
    return torch.stack(found).square().mean().sqrt().item()


def test_the_error_of_shapley_sampling_falls_as_one_over_the_root():
    exact = KernelShap(curved(), n_samples=4096)(X, 1)
    assert 1.6 < error(ShapleySampling, exact, 4) / error(ShapleySampling, exact, 16) < 2.5


def test_the_error_of_rise_falls_as_one_over_the_root():
    given = {"cells": 2}
    exact = RISE(curved(), n_samples=60000, seed=999, batch_size=4000, **given)(X, 1)
    assert 1.6 < error(RISE, exact, 25, **given) / error(RISE, exact, 100, **given) < 2.5


def test_rise_is_the_score_of_what_is_seen_of_a_pixel():
    """By its definition, one mask and one pixel at a time."""
    net, generator = curved(), torch.Generator().manual_seed(5)
    masks = [random_mask((3, 2), 2, 0.4, generator) for _ in range(7)]
    found = RISE(net, n_samples=7, cells=2, probability=0.4, baseline=0.2, seed=5)(X, 1)
    for n in range(2):
        for i in range(3):
            for j in range(2):
                scores = [net((m * X[n] + (1 - m) * 0.2)[None])[0, 1].item() for m in masks]
                weights = [m[i, j].item() for m in masks]
                expected = sum(s * w for s, w in zip(scores, weights)) / sum(weights)
                assert found[n, 0, i, j].item() == pytest.approx(expected, abs=1e-9)


def test_masks_show_as_much_everywhere():
    generator = torch.Generator().manual_seed(0)
    mean = torch.stack([random_mask((10, 14), 4, 0.3, generator) for _ in range(4000)]).mean(dim=0)
    assert mean.shape == (10, 14) and (mean - 0.3).abs().max() < 0.03


@pytest.mark.parametrize("name", ["KernelShap", "ShapleySampling", "GradientShap", "DeepLiftShap"])
@pytest.mark.parametrize("layer", [None, "4"])
def test_the_sum_is_the_difference_in_score(name, layer):
    net, x = randomised(plain()), torch.rand(2, 3, 9, 7, dtype=torch.float64)
    given = {"n_samples": 500} if name == "GradientShap" else {"KernelShap": {"n_samples": 20}}.get(name, {})
    found = METHODS[name](net, layer, **given)(x, 1).flatten(1).sum(dim=1)
    base = net(torch.zeros_like(x)) if layer is None or ("Shap" in name and name[:4] != "Kern") else None
    if base is None or name == "ShapleySampling":
        base = net(torch.zeros_like(x)) if layer is None else net[5:](torch.zeros_like(net[:5](x)))
    close = {"rtol": 0.02, "atol": 1e-3} if name == "GradientShap" else {"rtol": 1e-8, "atol": 1e-10}
    torch.testing.assert_close(found, (net(x) - base)[:, 1].detach(), **close)


def test_deep_lift_shap_is_the_mean_of_deep_lift():
    net, x = randomised(plain()), torch.rand(2, 3, 9, 7, dtype=torch.float64)
    baselines = torch.rand(3, 3, 9, 7, dtype=torch.float64)
    expected = torch.stack([DeepLift(net, baseline=one)(x, 1) for one in baselines]).mean(dim=0)
    torch.testing.assert_close(DeepLiftShap(net, baselines=baselines)(x, 1), expected, rtol=1e-12, atol=1e-15)
    assert (DeepLift(net)(x, 1) - expected).abs().max() > 1e-4


def test_gradient_shap_uses_every_baseline():
    net = linear()
    baselines = torch.rand(5, 2, 3, 2, dtype=torch.float64)
    expected = (net[1].weight[0].view(1, 2, 3, 2) * (X - baselines.mean(dim=0))).detach()
    torch.testing.assert_close(GradientShap(net, baselines=baselines, n_samples=10)(X, 0), expected)


@pytest.mark.parametrize("method", [KernelShap, Lime])
def test_a_fit_of_many_players_is_the_same_in_parts(method, monkeypatch):
    net, x = randomised(plain()), torch.rand(2, 3, 9, 7, dtype=torch.float64)
    expected = method(net, n_samples=40)(x, 1)
    monkeypatch.setattr(shapley, "WIDE", 10)
    monkeypatch.setattr(shapley, "COLUMNS", 50)
    torch.testing.assert_close(method(net, n_samples=40)(x, 1), expected, rtol=1e-7, atol=1e-10)
    assert expected.abs().max() > 0


def test_samples_may_have_segments_of_their_own():
    net = curved()
    maps = torch.stack([patches(X, 1), patches(X, 2)])[:, None]
    together = KernelShap(net, segments=maps)(X, 1)
    for n, side in enumerate((1, 2)):
        alone = KernelShap(net, segments=patches(X, side))(X[n : n + 1], 1)
        torch.testing.assert_close(together[n : n + 1], alone)


def test_patches_are_numbered_row_by_row():
    assert patches(torch.zeros(1, 1, 3, 5), 2).tolist() == [[0, 0, 1, 1, 2], [0, 0, 1, 1, 2], [3, 3, 4, 4, 5]]


@pytest.mark.parametrize(
    ("segments", "words"),
    [
        (torch.zeros(3, 2), "map of whole numbers"),
        (torch.zeros(4, 2, dtype=torch.long), r"segments \(4, 2\) do not fit \(2, 2, 3, 2\)"),
        (0, "segments must be at least 1; got 0|scikit-image"),
    ],
)
def test_segments_that_do_not_fit_are_named(segments, words):
    with pytest.raises(ValueError, match=words):
        FeatureAblation(linear(), segments=segments)(X, 0)


@pytest.mark.skipif(importlib.util.find_spec("skimage") is not None, reason="scikit-image is installed")
def test_the_missing_library_is_named_with_its_command():
    with pytest.raises(ValueError, match=r"pip install 'backlit\[segments\]'"):
        KernelShap(linear(), segments=4)(X, 0)


def test_superpixels_follow_the_picture():
    pytest.importorskip("skimage")
    x = torch.zeros(1, 3, 20, 20)
    x[..., 10:] = 1
    labels = superpixels(x, 16)
    assert len(labels.unique()) > 4
    assert labels.shape == (1, 1, 20, 20) and not set(labels[..., :9].unique().tolist()) & set(
        labels[..., 11:].unique().tolist()
    )


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda net: Lime(net, alpha=0), "alpha must be a positive number; got 0"),
        (lambda net: Lime(net, kernel_width=-1), "kernel_width must be a positive number"),
        (lambda net: KernelShap(net, n_samples=0), "n_samples must be at least 1; got 0"),
        (lambda net: RISE(net, probability=1), "probability must be between 0 and 1; got 1"),
        (lambda net: RISE(net, cells=0), "cells must be at least 1; got 0"),
        (lambda net: GradientShap(net, baselines=torch.zeros(5, 4))(X, 0), r"baselines \(5, 4\) do not fit"),
        (lambda net: DeepLiftShap(net, baselines=float("nan"))(X, 0), "baselines hold NaN"),
    ],
)
def test_options_out_of_range_are_named(make, words):
    with pytest.raises(ValueError, match=words):
        make(linear())
