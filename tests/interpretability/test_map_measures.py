"""ROAD, pointing game, energy, sparseness, complexity, agreement and the ranking, against loops and closed forms."""

import numpy as np
import pytest
import torch
from torch import nn

from interpretability import IntegratedGradients
from interpretability.evaluation import (
    RANDOM,
    Evaluation,
    Explainer,
    Settings,
    agreement,
    effective_complexity,
    energy,
    evaluate,
    explainers,
    imputed,
    pointing,
    ranking,
    ranking_table,
    sparseness,
    verdict,
)


def test_what_is_filled_in_solves_the_system_pixel_by_pixel():
    x = torch.rand(2, 3, 6, 5, dtype=torch.float64)
    removed = torch.rand(2, 6, 5) < 0.7
    found = imputed(x, removed, noise=0.0)
    for n in range(2):
        places = removed[n].nonzero().tolist()
        system, right = np.zeros((len(places), len(places))), np.zeros((len(places), 3))
        for row, (i, j) in enumerate(places):
            for di in (-1, 0, 1):
                for dj in (-1, 0, 1):
                    a, b = i + di, j + dj
                    if (di or dj) and 0 <= a < 6 and 0 <= b < 5:
                        w = 1 / 12 if di and dj else 1 / 6
                        system[row, row] += w
                        if removed[n, a, b]:
                            system[row, places.index([a, b])] -= w
                        else:
                            right[row] += w * x[n, :, a, b].numpy()
        expected = np.linalg.solve(system, right)
        for row, (i, j) in enumerate(places):
            np.testing.assert_allclose(found[n, :, i, j].numpy(), expected[row], atol=2e-3)
    kept = ~removed[:, None].expand_as(x)
    assert torch.equal(found[kept], x[kept])


def test_noise_lies_where_pixels_are_removed():
    x = torch.rand(1, 1, 30, 30)
    removed = torch.zeros(1, 30, 30, dtype=torch.bool)
    removed[:, :15] = True
    difference = imputed(x, removed) - imputed(x, removed, noise=0.0)
    assert not difference[:, :, 15:].any() and 0.005 < difference[:, :, :15].std() < 0.02


def test_pointing_and_energy_by_hand():
    maps = torch.tensor([[[3.0, 1], [-5, 0]], [[0.0, 1], [2, 3]]])
    mask = torch.tensor([[[True, False], [True, False]]] * 2)
    assert pointing(maps, mask).tolist() == [1, 0]
    assert energy(maps, mask).tolist() == pytest.approx([3 / 4, 2 / 6])
    assert energy(-maps[:, :1].abs(), mask[:, :1]).tolist() == [0, 0]


def test_sparseness_is_the_mean_absolute_difference():
    maps = torch.randn(3, 4, 5, dtype=torch.float64)
    sizes = maps.flatten(1).abs()
    expected = (sizes[:, :, None] - sizes[:, None]).abs().mean(dim=(1, 2)) / (2 * sizes.mean(dim=1))
    torch.testing.assert_close(sparseness(maps), expected)
    one = torch.zeros(2, 10)
    one[0, 3] = -2
    assert sparseness(one).tolist() == pytest.approx([0.9, 0]) and sparseness(torch.ones(1, 5)).item() == 0


def test_complexity_is_where_the_curve_arrives():
    curves = torch.tensor([[0.1, 0.2, 0.95, 0.8, 1.0], [0.0, 0.1, 0.2, 0.3, 1.0]])
    assert effective_complexity(curves).tolist() == [0.5, 1.0]


def test_methods_agree_with_themselves_and_with_what_is_monotonic():
    a = torch.rand(4, 6, 6)
    found = agreement({"a": a, "cubed": a**3, "turned": -a})
    torch.testing.assert_close(found, torch.tensor([[1.0, 1, -1], [1, 1, -1], [-1, -1, 1]], dtype=found.dtype))


def made(values):
    return Evaluation({m: {n: torch.tensor(v) for n, v in parts.items()} for m, parts in values.items()})


def test_the_ranking_is_the_mean_of_ranks_next_to_its_parts():
    low, high = [0.1, 0.1, 0.1], [0.9, 0.9, 0.9]
    found = ranking(
        made(
            {
                "good": {"deletion": low, "insertion": high, "randomization": [0.1, 0.1, 0.1]},
                "edges": {"deletion": low, "insertion": high, "randomization": [0.8, 0.9, 0.8]},
                RANDOM: {"deletion": high, "insertion": low, "randomization": [0.0, 0.0, 0.0]},
            }
        )
    )
    assert [(one.method, one.mean.mean, one.fails) for one in found] == [
        ("good", 1.5, False),
        ("edges", 1.5, True),
        (RANDOM, 3, False),
    ]
    assert found[0].parts == {"deletion": 1.5, "insertion": 1.5}
    words = verdict(found)
    assert words.startswith("For this model use good") and "Failed the randomisation check" in words
    assert words.endswith("edges.") and "fails" in ranking_table(found)
    assert "no method" in verdict([one for one in found if one.method != "good"])


def test_a_true_map_wins_in_a_whole_evaluation():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    with torch.no_grad():
        net[1].weight.mul_(0.01).view(3, 8, 8)[0, 2:5, 2:5] += 0.3
    x, mask = 0.2 * torch.rand(6, 1, 8, 8), torch.zeros(8, 8, dtype=torch.bool)
    mask[2:5, 2:5] = True
    x[..., 2:5, 2:5] += 0.8
    rows = explainers(net, ["IntegratedGradients", RANDOM], 8)
    rows.append(Explainer("backwards", lambda x, t: -IntegratedGradients(net)(x, t), "contribution"))
    found = evaluate(net, rows, x, 0, Settings(n_stages=1, n_noises=1, n_squares=8), mask)
    means = {m: {n: float(v.mean()) for n, v in values.items()} for m, values in found.values.items()}
    assert means["IntegratedGradients"]["road"] > 0.05 > -0.05 > means["backwards"]["road"]
    assert means["IntegratedGradients"]["pointing"] == 1 and means["IntegratedGradients"]["energy"] > 0.6
    assert ranking(found)[0].method == "IntegratedGradients"
    assert found.agreement.shape == (3, 3) and float(found.agreement[0, 2]) < -0.99
    with pytest.raises(ValueError, match=r"mask \(3, 3\) does not fit"):
        evaluate(net, rows, x, None, Settings(n_stages=1), torch.ones(3, 3))
