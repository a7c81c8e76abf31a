"""Planted concepts and planted training images are found; gradients against autograd."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from interpretability.concepts import concept_sensitivity, concept_test, concept_vector
from interpretability.examples import influential_training_images, similar_training_images


def planted():
    """Class 1 speaks for a bright top row, and nothing else does."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 36), nn.Tanh(), nn.Linear(36, 2)).double()
    with torch.no_grad():
        net[1].weight.copy_(torch.eye(36))
        net[1].bias.zero_()
        net[3].weight.zero_()
        net[3].weight[1, :6] = 1
    return net


def images(count, seed, top=0.0):
    x = torch.rand(count, 1, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    x[:, :, 0] += top
    return x


def test_a_planted_concept_is_found_and_random_ones_are_not():
    net, x = planted(), images(20, 1)
    negatives = [images(20, 10 + n) for n in range(16)]
    found = concept_test(net, "1", x, 1, images(320, 2, top=1.5), negatives)
    assert found.score == 1 and found.p_value < 0.01 and found.random < 0.95
    assert concept_test(net, "1", x, 0, images(320, 2, top=1.5), negatives).score == 0
    by_chance = [concept_test(net, "1", x, 1, images(320, 100 + n), negatives).p_value < 0.05 for n in range(20)]
    assert sum(by_chance) <= 4  # one is expected


def test_the_vector_points_to_what_is_planted_and_the_sensitivity_is_a_derivative():
    net, x = planted(), images(4, 1)
    vector = concept_vector(net, "1", images(200, 2, top=1.5), images(200, 3))
    assert vector.norm().item() == pytest.approx(1) and vector[:6].norm() > 0.9 and vector.shape == (36,)
    step = 1e-6
    above, below = (net[2:](net[:2](x) + s * vector)[:, 1] for s in (step, -step))
    found = concept_sensitivity(net, "1", x, 1, vector)
    torch.testing.assert_close(found, (above - below).detach() / (2 * step), rtol=1e-6, atol=1e-8)
    with pytest.raises(ValueError, match=r"vector is \(5,\); layer '1' has \(36,\)"):
        concept_sensitivity(net, "1", x, 1, vector[:5])
    with pytest.raises(ValueError, match="at least 3 sets"):
        concept_test(net, "1", x, 1, x, [x])


def loader(x, y):
    return list(zip(x.split(4), y.split(4)))


def test_influence_is_the_product_of_gradients_by_autograd():
    torch.manual_seed(0)
    nets = [nn.Sequential(nn.Flatten(), nn.Linear(36, 5), nn.ReLU(), nn.Linear(5, 3)).double() for _ in range(2)]
    x, y, train, labels = images(2, 1), torch.tensor([0, 2]), images(9, 2), torch.arange(9) % 3
    found = influential_training_images([(nets[0], 0.1), (nets[1], 0.2)], x, y, loader(train, labels), k=9)

    def gradient(net, image, label):
        loss = F.cross_entropy(net(image[None]), label[None])
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(net.parameters()))])

    for n in range(2):
        for index, value in zip(found.indices[n], found.values[n]):
            parts = [
                r * gradient(m, x[n], y[n]) @ gradient(m, train[index], labels[index]) for m, r in zip(nets, (0.1, 0.2))
            ]
            assert value.item() == pytest.approx(sum(parts).item(), abs=1e-10)
    assert not any(p.grad is not None for net in nets for p in net.parameters())


def test_a_planted_mislabelled_copy_is_found_first():
    torch.manual_seed(0)
    x, y = images(40, 1), torch.arange(40) % 2
    x[y == 1, :, 0] += 1
    x[7] = x[0]  # a copy of an image of class 0, with the label 1
    y[7] = 1
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 2)).double()
    optimizer, models = torch.optim.SGD(net.parameters(), 0.1), []
    for _ in range(20):
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()
    models.append((net, 0.1))
    found = influential_training_images(models, x[:1], torch.tensor([1]), loader(x, y), k=3)
    assert found.indices[0, 0] == 7
    similar = similar_training_images(net, "0", x[:1], loader(x, y), k=2)
    assert sorted(similar.indices[0].tolist()) == [0, 7] and similar.values[0].tolist() == pytest.approx([1, 1])


def test_what_cannot_be_searched_is_named():
    net, x = planted(), images(2, 1)
    with pytest.raises(ValueError, match="k must be at least 1; got 0"):
        similar_training_images(net, "1", x, [], k=0)
    with pytest.raises(ValueError, match="the loader holds no images"):
        similar_training_images(net, "1", x, [])
    with pytest.raises(ValueError, match="at least one checkpoint"):
        influential_training_images([], x, torch.tensor([0, 1]), [])
