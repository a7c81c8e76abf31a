import itertools

import pytest
import torch
from torch import nn

from interpretability.building_blocks import (
    activation_maps,
    against,
    attribution,
    channel_attribution,
    layer_to_layer_attribution,
    neuron_groups,
    semantic_dictionary,
    spatial_attribution,
)

torch_double = {"dtype": torch.float64}


class Tower(nn.Module):
    """Two stages and a linear read-out without bias, on images that are not square."""

    def __init__(self):
        super().__init__()
        self.early = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.Tanh())
        self.late = nn.Sequential(nn.Conv2d(4, 5, 3, stride=2, padding=1), nn.Softplus())
        self.head = nn.Linear(5 * 3 * 4, 3, bias=False)

    def forward(self, x):
        return self.head(self.late(self.early(x)).flatten(1))


@pytest.fixture
def tower():
    return Tower().double()


@pytest.fixture
def images():
    return torch.rand(2, 2, 6, 8, **torch_double)


def test_attribution_is_the_derivative_along_each_unit(tower, images):
    found = attribution(tower, "early", images, 1)
    activation = tower.early(images).detach()
    rest = lambda a: tower.head(tower.late(a).flatten(1))[:, 1]  # noqa: E731
    step = 1e-6
    for c, y, x in [(0, 0, 0), (3, 5, 7), (2, 2, 4)]:
        unit = torch.zeros_like(activation)
        unit[:, c, y, x] = activation[:, c, y, x]  # (f(a + t·a_i) − f(a − t·a_i)) / 2t = a_i ∂f/∂a_i
        slope = (rest(activation + step * unit) - rest(activation - step * unit)) / (2 * step)
        assert slope.abs().min() > 1e-6
        torch.testing.assert_close(found[:, c, y, x], slope.detach(), rtol=0, atol=1e-9)


def test_sums_over_places_and_over_channels_agree(tower, images):
    spatial = spatial_attribution(tower, "early", images, 2)
    channel = channel_attribution(tower, "early", images, 2)
    assert spatial.shape == (2, 6, 8) and channel.shape == (2, 4)
    assert spatial.sum((1, 2)).abs().min() > 1e-3
    torch.testing.assert_close(spatial.sum((1, 2)), channel.sum(1), rtol=0, atol=1e-12)


def test_on_a_linear_read_out_both_add_up_to_the_logit(tower, images):
    for target in (0, torch.tensor([1, 2]), None):
        logits = tower(images).detach()
        chosen = logits.argmax(1) if target is None else torch.as_tensor(target).expand(2)
        score = logits.gather(1, chosen[:, None])[:, 0]
        torch.testing.assert_close(
            spatial_attribution(tower, "late", images, target).sum((1, 2)), score, rtol=0, atol=1e-12
        )
        torch.testing.assert_close(channel_attribution(tower, "late", images, target).sum(1), score, rtol=0, atol=1e-12)


def test_class_against_class_is_the_difference_of_the_two(tower, images):
    both = attribution(tower, "late", images, against(0, 2))
    apart = attribution(tower, "late", images, 0) - attribution(tower, "late", images, 2)
    assert both.abs().max() > 1e-3
    torch.testing.assert_close(both, apart, rtol=0, atol=1e-12)


def test_layer_to_layer_chains_to_the_score(tower, images):
    """Weighted by the later layer's gradient, the flows from the earlier one are its attribution."""
    weight = tower.head.weight.detach().view(3, 1, 5, 3, 4).expand(3, 2, 5, 3, 4)
    flows = layer_to_layer_attribution(tower, "early", "late", images, weight)
    assert flows.shape == (3, 2, 4, 6, 8)
    for target in range(3):
        torch.testing.assert_close(flows[target], attribution(tower, "early", images, target), rtol=0, atol=1e-12)


def test_layer_to_layer_of_one_unit_is_a_row_of_the_jacobian(tower, images):
    weight = torch.zeros(1, 2, 5, 3, 4, **torch_double)
    weight[:, :, 4, 1, 2] = 1
    activation = tower.early(images).detach()
    jacobian = torch.autograd.functional.jacobian(lambda a: tower.late(a)[:, 4, 1, 2].sum(), activation)
    flow = layer_to_layer_attribution(tower, "early", "late", images, weight)[0]
    assert flow[0, :, 1:4, 3:6].abs().min() > 0 and not flow[:, :, 5].any()
    torch.testing.assert_close(flow, jacobian * activation, rtol=0, atol=1e-12)


def test_layers_in_the_wrong_order_are_told(tower, images):
    with pytest.raises(ValueError, match="does not depend"):
        layer_to_layer_attribution(tower, "late", "early", images, torch.ones(1, 2, 4, 6, 8, **torch_double))
    with pytest.raises(ValueError, match=r"weights for 'late' must be \(M, 2, 5, 3, 4\)"):
        layer_to_layer_attribution(tower, "early", "late", images, torch.ones(1, 2, 4, 6, 8, **torch_double))


def test_dictionary_holds_the_strongest_channels_in_order(tower, images):
    maps = activation_maps(tower, "early", images)
    found = semantic_dictionary(tower, "early", images, top=3)
    for n, y, x in [(0, 0, 0), (1, 5, 7), (1, 2, 3)]:
        ranked = sorted(range(4), key=lambda c: -float(maps[n, c, y, x]))[:3]
        assert found.channels[n, :, y, x].tolist() == ranked
        assert found.activations[n, :, y, x].tolist() == [float(maps[n, c, y, x]) for c in ranked]
    assert semantic_dictionary(tower, "early", images, top=99).channels.shape[1] == 4


def test_leaders_fire_strongly_at_many_places():
    model = nn.Sequential(nn.Identity(), nn.Flatten())
    x = torch.zeros(1, 4, 2, 3)
    x[0, 2, :, :2], x[0, 1, 0, 2], x[0, 3, 1, 2] = 1.0, 3.0, 1.5  # squares: 4 for channel 2, 9 for 1, 2.25 for 3
    assert semantic_dictionary(model, "0", x, top=2).leaders(5) == [1, 2, 3]
    assert semantic_dictionary(model, "0", x, top=2).leaders(1) == [1]
    assert semantic_dictionary(model, "0", -x - 1, top=2).leaders(5) == []


def parts(groups=3, seed=0):
    """Maps that are a sum of groups with channels of their own, and these channels in unit norm."""
    generator = torch.Generator().manual_seed(seed)
    channels = torch.zeros(groups, 7, **torch_double)
    for g in range(groups):
        channels[g, 2 * g : 2 * g + 2] = torch.tensor([0.6, 0.8], **torch_double)
    places = torch.rand(2, groups, 4, 5, generator=generator, **torch_double)
    places *= torch.tensor([3.0, 2.0, 1.0], **torch_double)[:groups, None, None]
    for g in range(groups):
        places[:, :, g, :] = places[:, :, g, :] * torch.eye(groups, **torch_double)[g, :, None]  # a row of its own
    return torch.einsum("nghw,gc->nchw", places, channels), places, channels


def test_groups_that_are_there_are_found():
    maps, places, channels = parts()
    found = neuron_groups(nn.Sequential(nn.Identity(), nn.Flatten()), "0", maps, 3)
    assert found.error < 0.01
    torch.testing.assert_close(found.channels, channels, rtol=0, atol=0.03)
    torch.testing.assert_close(found.places, places, rtol=0, atol=0.1)


def test_groups_and_their_error_are_the_factorisation_of_the_maps(tower, images):
    maps = activation_maps(tower, "late", images)
    found = neuron_groups(tower, "late", images, 3)
    rebuilt = torch.einsum("nghw,gc->nchw", found.places, found.channels)
    assert found.error == pytest.approx(float((maps - rebuilt).norm() / maps.norm()), abs=1e-12)
    assert 0 < found.error < 0.5
    torch.testing.assert_close(found.channels.norm(dim=1), torch.ones(3, **torch_double))
    strength = found.places.flatten(2).norm(dim=(0, 2))
    assert strength.tolist() == sorted(strength.tolist(), reverse=True)
    again = neuron_groups(tower, "late", images, 3)
    assert torch.equal(found.places, again.places) and torch.equal(found.channels, again.channels)


def test_effects_of_groups_are_their_shares_of_the_attribution():
    maps, _, _ = parts()
    groups = neuron_groups(nn.Sequential(nn.Identity(), nn.Flatten()), "0", maps, 3)
    attributed = torch.randn_like(maps)
    slow = torch.zeros(2, 3, **torch_double)
    for n, c, y, x in itertools.product(range(2), range(7), range(4), range(5)):
        pieces = [float(groups.places[n, g, y, x] * groups.channels[g, c]) for g in range(3)]
        for g in range(3):
            slow[n, g] += attributed[n, c, y, x] * (pieces[g] / sum(pieces) if sum(pieces) else 0.0)
    torch.testing.assert_close(groups.effects(attributed), slow, rtol=0, atol=1e-12)


def test_effects_of_groups_and_flows_between_them_add_up_to_the_whole(tower, images):
    total = attribution(tower, "early", images, 1).sum((1, 2, 3))
    late = neuron_groups(tower, "late", images, 3)
    gradient = tower.head.weight.detach()[1].view(1, 5, 3, 4)
    torch.testing.assert_close(
        late.effects(gradient * activation_maps(tower, "late", images)).sum(1), tower(images)[:, 1].detach()
    )
    flows = layer_to_layer_attribution(tower, "early", "late", images, (late.shares() * gradient).transpose(0, 1))
    assert flows.sum((2, 3, 4)).abs().min() > 1e-4
    torch.testing.assert_close(flows.sum((0, 2, 3, 4)), total, rtol=0, atol=1e-12)


def test_no_more_groups_than_the_rank():
    maps, _, _ = parts(groups=2)
    assert len(neuron_groups(nn.Sequential(nn.Identity(), nn.Flatten()), "0", maps, 50).channels) == 2


@pytest.mark.parametrize("groups, message", [(2, "layer '0' is silent"), (0, "n_groups must be at least 1")])
def test_silence_and_no_groups_are_told(groups, message):
    with pytest.raises(ValueError, match=message):
        neuron_groups(nn.Sequential(nn.ReLU(), nn.Flatten()), "0", -torch.rand(1, 3, 4, 4), groups)


def test_the_model_comes_back_as_it_was(tower, images):
    tower.train()
    neuron_groups(tower, "late", images, 2)
    with pytest.raises(ValueError, match="target 7"):
        attribution(tower, "late", images, 7)
    assert tower.training and all(p.requires_grad and p.grad is None for p in tower.parameters())
    assert not any(module._forward_hooks for module in tower.modules())
