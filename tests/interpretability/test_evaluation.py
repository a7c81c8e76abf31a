"""The measures against closed forms, Captum and scipy's definitions; the table on a network as a whole."""

import math

import numpy as np
import pytest
import torch
from captum.metrics import infidelity as captum_infidelity
from captum.metrics import sensitivity_max
from torch import Tensor, nn

from interpretability import evaluation
from interpretability.attribution import LRP, DeepLift, GuidedBackprop, Saliency
from interpretability.evaluation import Explainer, Settings, cascade, evaluate, interval, rank_correlation
from interpretability.evaluation.comparison import importance
from interpretability.evaluation.measures import perturbed_scores, ranks, square_masks
from interpretability.evaluation.randomization import stage_names
from interpretability.targets import target_scores


@pytest.fixture(autouse=True)
def double_precision():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def linear(bias: bool = True) -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 3, bias=bias))


def convolutional() -> nn.Sequential:
    first = [nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*first, nn.Conv2d(6, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 4))


def logits(model: nn.Module, x: Tensor, target) -> Tensor:
    return target_scores(model(x), target)


# --- deletion and insertion -------------------------------------------------------------------------------


@pytest.mark.parametrize("insertion", [False, True])
def test_curves_of_a_linear_model_are_sums_of_sorted_contributions(insertion):
    model, x = linear(), torch.rand(3, 1, 6, 6)
    w = model[1].weight[1].detach()
    contributions = (x.flatten(1) - 0.25) * w
    order = ranks(contributions)
    curve = evaluation.perturbation_curve(
        model, x, 1, order, baseline=0.25, n_steps=36, insertion=insertion, score=logits, batch_size=7
    )
    falling = contributions.sort(dim=1, descending=True).values
    passed = torch.cat([torch.zeros(3, 1), falling.cumsum(dim=1)], dim=1)
    ends = model(x)[:, 1:2], model(torch.full_like(x, 0.25))[:, 1:2]
    expected = (ends[1] + passed if insertion else ends[0] - passed).detach()
    torch.testing.assert_close(curve, expected, rtol=1e-9, atol=1e-12)


def test_no_order_deletes_a_linear_model_faster_than_its_contributions():
    model, x = linear(), torch.rand(1, 1, 6, 6)
    best = ranks(x.flatten(1) * model[1].weight[0].detach())
    area = lambda order: evaluation.area(  # noqa: E731
        evaluation.perturbation_curve(model, x, 0, order, n_steps=12, score=logits)
    )
    others = torch.cat([area(ranks(torch.rand(1, 36))) for _ in range(50)])
    assert (area(best) < others).all()


def test_random_maps_delete_in_proportion():
    model, x = linear(), torch.rand(400, 1, 6, 6)[:1].expand(400, 1, 6, 6).contiguous()
    curve = evaluation.perturbation_curve(model, x, 0, ranks(torch.rand(400, 36)), n_steps=6, score=logits)
    ends = curve[0, 0], curve[0, -1]
    expected = torch.linspace(0, 1, 7) * (ends[1] - ends[0]) + ends[0]
    spread = curve.std(dim=0) / math.sqrt(400)
    assert ((curve.mean(dim=0) - expected).abs() <= 4 * spread + 1e-12).all()


def test_the_area_is_the_trapezoidal_rule():
    torch.testing.assert_close(
        evaluation.area(torch.tensor([[1.0, 0.0, 1.0], [0.0, 2.0, 4.0]])), torch.tensor([0.5, 2.0])
    )


def test_equal_pixels_are_ranked_at_random_and_ranks_are_a_permutation():
    constant = torch.zeros(200, 4, 5)
    places = ranks(constant, torch.Generator().manual_seed(1))
    assert torch.equal(places.sort(dim=1).values, torch.arange(20).expand(200, 20))
    assert (places.double().mean(dim=0) - 9.5).abs().max() < 4 * 5.77 / math.sqrt(200)
    assert torch.equal(ranks(torch.tensor([[0.1, 3.0, -2.0]])), torch.tensor([[1, 0, 2]]))


# --- infidelity, sensitivity, completeness ----------------------------------------------------------------


def test_a_linear_model_is_foretold_by_its_contributions():
    model, x = linear(), torch.rand(2, 1, 6, 6)
    masks = square_masks((6, 6), 2, 30, torch.Generator().manual_seed(0))
    observed = model(x)[:, 1].detach() - perturbed_scores(model, x, 1, masks, torch.zeros_like(x))
    effect = (x[:, 0] * model[1].weight[1].view(6, 6)).detach()
    foretold = torch.einsum("mhw,nhw->mn", masks.double(), effect)
    assert observed.abs().min() > 1e-6
    for normalize in (True, False):
        found = evaluation.infidelity(foretold, observed, normalize)
        torch.testing.assert_close(found, torch.zeros(2), rtol=0, atol=1e-12)
    torch.testing.assert_close(evaluation.infidelity(5 * foretold, observed), torch.zeros(2), rtol=0, atol=1e-12)
    torch.testing.assert_close(evaluation.infidelity(0 * foretold, observed), torch.ones(2))
    random = evaluation.infidelity(torch.randn(20000, 2), torch.randn(20000, 2))
    assert (random > 0.99).all() and (random <= 1).all()


def test_infidelity_against_captum():
    model, x = convolutional(), torch.rand(3, 1, 12, 12)
    attribution = Saliency(model)(x, 2)
    noises = iter(noise := torch.randn(8, 3, 1, 12, 12) * 0.1)

    def perturb(inputs):
        change = next(noises)
        return change, inputs - change

    theirs = captum_infidelity(model, perturb, x, attribution, target=2, n_perturb_samples=8, max_examples_per_batch=3)
    predicted = torch.einsum("mnchw,nchw->mn", noise, attribution)
    observed = torch.stack([model(x)[:, 2] - model(x - change)[:, 2] for change in noise]).detach()
    torch.testing.assert_close(
        evaluation.infidelity(predicted, observed, normalize=False), theirs, rtol=1e-8, atol=1e-12
    )


def test_sensitivity_against_captum():
    model, x = convolutional(), torch.rand(1, 1, 12, 12)
    method = Saliency(model)
    noise = 0.1 * torch.randn_like(x)
    theirs = sensitivity_max(
        lambda inputs: (method(inputs[0], 1),),
        (x,),
        perturb_func=lambda inputs: (inputs[0] + noise,),
        n_perturb_samples=1,
    )
    ours = evaluation.relative_change(method(x, 1), method(x + noise, 1))
    assert ours.min() > 1e-3
    torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-12)


def test_change_and_completeness_of_zero_maps_are_defined():
    zero, one = torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2)
    assert evaluation.relative_change(zero, zero).item() == 0
    assert evaluation.relative_change(zero, one).item() == 2
    assert evaluation.completeness_error(zero, torch.tensor([3.0])).item() == 1
    assert evaluation.completeness_error(one, torch.tensor([0.0])).item() == 4
    assert evaluation.completeness_error(one, torch.tensor([-8.0])).item() == 1.5


# --- rank correlation and intervals -----------------------------------------------------------------------


def test_rank_correlation_in_closed_form():
    maps = torch.randn(3, 4, 5)
    torch.testing.assert_close(rank_correlation(maps, maps.exp()), torch.ones(3))
    torch.testing.assert_close(rank_correlation(maps, -maps), -torch.ones(3))
    # ties: ranks (1, 2.5, 2.5, 4) against (1, 2, 3, 4) give 4.5 / sqrt(4.5 · 5)
    tied = rank_correlation(torch.tensor([[0.0, 1.0, 1.0, 2.0]]), torch.tensor([[1.0, 2.0, 3.0, 4.0]]))
    torch.testing.assert_close(tied, torch.tensor([math.sqrt(0.9)]))
    assert rank_correlation(torch.ones(1, 9), torch.randn(1, 9)).item() == 0
    random = rank_correlation(torch.rand(100, 400), torch.rand(100, 400))
    assert abs(random.mean()) < 4 * 0.05 / 10


def test_the_interval_covers_the_mean_about_as_often_as_it_says():
    samples = torch.randn(200, 25)
    covered = sum(low <= 0 <= high for _, low, high in (interval(row) for row in samples))
    assert 0.85 < covered / 200 < 0.99
    assert str(interval(torch.tensor([0.25]))) == "0.25"
    assert str(interval(torch.tensor([math.nan, 1.0]))) == "–"
    assert interval(torch.tensor([1.0, 2.0, 3.0])).mean == 2


# --- randomisation ----------------------------------------------------------------------------------------


def test_the_cascade_goes_from_the_output_down_and_gives_the_model_back():
    model = convolutional()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    changed = []
    with pytest.raises(RuntimeError, match="stop"), cascade(model, 10) as stages:
        for name in stages:
            changed.append(
                {key.split(".")[0] for key, value in model.state_dict().items() if not value.equal(before[key])}
            )
            assert name in changed[-1]
        raise RuntimeError("stop")
    assert changed == [{"6"}, {"6", "3"}, {"6", "3", "0"}]
    assert all(value.equal(before[key]) for key, value in model.state_dict().items())


def test_randomised_parameters_keep_their_scale():
    model = nn.Linear(100, 100)
    scale = model.weight.std().item()
    with cascade(model, 1) as stages:
        list(stages)
        assert abs(model.weight.std().item() / scale - 1) < 0.05


def test_stages_share_the_layers_evenly():
    model = nn.Sequential(*[nn.Linear(2, 2) for _ in range(7)])
    assert stage_names(model, 3) == [["6", "5"], ["4", "3", "2"], ["1", "0"]]
    with pytest.raises(ValueError, match="no parameters"):
        stage_names(nn.ReLU(), 3)


# --- the table --------------------------------------------------------------------------------------------


def explainers(model: nn.Module) -> list[Explainer]:
    generator = torch.Generator().manual_seed(0)
    return [
        Explainer("DeepLift", DeepLift(model), "contribution", "difference"),
        Explainer("LRP", LRP(model), "contribution", "score"),
        Explainer("GuidedBackprop", GuidedBackprop(model), "gradient"),
        Explainer("constant", lambda x, target: torch.ones_like(x), "magnitude"),
        Explainer("random", lambda x, target: torch.rand(x.shape, generator=generator).to(x), "magnitude"),
    ]


SETTINGS = Settings(n_steps=6, n_squares=12, n_noises=2, n_stages=3)


def test_all_measures_on_a_bias_free_linear_model_have_their_ideal_values():
    model, x = linear(bias=False), torch.rand(4, 1, 6, 6)
    methods = [e for e in explainers(model) if e.name != "GuidedBackprop"]
    values = evaluate(model, methods, x, 1, SETTINGS).values
    for name in ("DeepLift", "LRP"):
        assert values[name]["infidelity"].max() < 1e-9
        assert values[name]["completeness"].max() < 1e-4
        assert (values[name]["deletion"] <= values["random"]["deletion"] + 1e-12).all()
        assert (values[name]["insertion"] >= values["random"]["insertion"] - 1e-12).all()
    assert values["random"]["infidelity"].min() > 0.01
    assert values["random"]["sensitivity"].min() > 0.5 > values["DeepLift"]["sensitivity"].max()
    assert values["constant"]["randomization"].abs().max() == 0
    assert values["random"]["completeness"].isnan().all()


def test_the_model_and_the_global_random_state_are_left_alone():
    model, x = convolutional().train(), torch.rand(2, 1, 12, 12)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random_state = torch.get_rng_state()
    evaluate(model, explainers(model), x, None, SETTINGS)
    assert model.training and all(value.equal(before[key]) for key, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)


def test_the_same_seed_gives_the_same_table_for_one_sample_too():
    model, x = convolutional(), torch.rand(1, 1, 12, 12)
    first, second = (evaluation.table(evaluate(model, explainers(model), x, None, SETTINGS)) for _ in range(2))
    assert first == second
    assert "nan" not in first and "[" not in first  # one sample: means without intervals
    assert len(first.splitlines()) == 2 + 5


def test_more_noise_samples_can_only_find_a_larger_change():
    model, x = convolutional(), torch.rand(2, 1, 12, 12)
    saliency = [Explainer("Saliency", Saliency(model), "gradient")]
    few, many = (
        evaluate(model, saliency, x, 1, Settings(n_steps=1, n_squares=1, n_stages=1, n_noises=n)).values for n in (1, 6)
    )
    few, many = few["Saliency"]["sensitivity"], many["Saliency"]["sensitivity"]
    assert (many >= few).all() and (many > few).any()


def test_maps_of_layers_are_scaled_up_and_magnitudes_have_no_sign():
    maps = importance(torch.tensor([[[[-1.0]], [[3.0]]]]), "magnitude", torch.Size([4, 6]))
    assert torch.equal(maps, torch.full((1, 4, 6), 4.0))
    assert torch.equal(
        importance(torch.tensor([[[[-1.0]], [[3.0]]]]), "contribution", torch.Size([1, 1]))[0], torch.tensor([[2.0]])
    )


def test_csv_and_pictures_hold_every_method(tmp_path):
    model, x = convolutional(), torch.rand(3, 1, 12, 12)
    found = evaluate(model, explainers(model), x, None, SETTINGS)
    evaluation.write_csv(found, tmp_path / "table.csv")
    lines = (tmp_path / "table.csv").read_text().splitlines()
    assert len(lines) == 1 + 5 * len(found.measured()) and lines[1].startswith("DeepLift,deletion,0.")
    assert [path.name for path in tmp_path.iterdir()] == ["table.csv"]
    panels = evaluation.measures_figure(found, "title", "random").axes
    assert [label.get_text() for label in panels[0].get_yticklabels()] == list(found.values)
    grid = evaluation.randomization_figure(found, x[0, 0].numpy(), "title").axes
    assert len(grid) == 5 * (2 + len(found.stages))
    shown = np.asarray(grid[1].images[0].get_array())
    np.testing.assert_array_equal(shown, found.maps["DeepLift"][0].numpy())


@pytest.mark.parametrize("option", ["n_steps", "n_squares", "n_noises", "n_stages", "radius"])
def test_wrong_settings_are_named(option):
    with pytest.raises(ValueError, match=option):
        Settings(**{option: 0})


def test_a_baseline_that_is_no_number_is_named():
    with pytest.raises(ValueError, match="baseline must be a finite number; got nan"):
        Settings(baseline=float("nan"))
