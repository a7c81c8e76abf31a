"""What models return, read as logits: in the wrapped model, in attribution, in attacks."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from interpretability import LRP, DeepLift, GradCAM, GuidedBackprop, PixelModel, Saliency, deepfool, fgsm, pgd
from interpretability.outputs import logits_of


@dataclass
class Named:
    """As transformers' outputs are."""

    loss: None
    logits: Tensor


WRAPPED = {
    "tensor": lambda z: z,
    "tuple": lambda z: (z, z * 2),
    "list after what is no tensor": lambda z: [None, z],
    "dict": lambda z: {"loss": z.sum(), "logits": z},
    "dataclass": lambda z: Named(None, z),
}


class Net(nn.Module):
    """Three classes, or one logit, returned as ``wrap`` says."""

    def __init__(self, wrap, outputs=3):
        super().__init__()
        self.conv, self.head, self.wrap = nn.Conv2d(3, 4, 3), nn.Linear(4, outputs), wrap
        for n, parameter in enumerate(self.parameters()):
            nn.init.normal_(parameter, generator=torch.Generator().manual_seed(n))

    def forward(self, x):
        return self.wrap(self.head(self.conv(x).relu().mean(dim=(2, 3))))


@pytest.mark.parametrize("kind", WRAPPED)
@pytest.mark.parametrize("method", [Saliency, GuidedBackprop, LRP, DeepLift])
def test_every_kind_of_output_gives_the_same_map(kind, method):
    x = torch.rand(2, 3, 8, 7, dtype=torch.float64)
    expected = method(Net(lambda z: z).double())(x, 1)
    assert expected.abs().max() > 0
    assert torch.equal(method(PixelModel(Net(WRAPPED[kind]).double()))(x, 1), expected)


def test_an_output_of_ones_own_is_chosen_by_a_function():
    x = torch.rand(2, 3, 8, 7)
    model = PixelModel(Net(lambda z: {"scores": z, "logits": z * 0}), output=lambda found: found["scores"])
    assert torch.equal(model(x), Net(lambda z: z)(x))


@pytest.mark.parametrize("squeeze", [False, True])
def test_a_single_logit_is_two_classes(squeeze):
    net = Net((lambda z: z.squeeze(1)) if squeeze else (lambda z: z), outputs=1).double()
    model, x = PixelModel(net), torch.rand(3, 3, 8, 7, dtype=torch.float64)
    z = net(x).reshape(3)
    assert model(x).shape == (3, 2)
    torch.testing.assert_close(model(x).softmax(1)[:, 1], z.sigmoid())
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(net(leaf).sum(), leaf)
    torch.testing.assert_close(Saliency(model)(x, 1), expected)
    assert not Saliency(model)(x, 0).any()
    assert GradCAM(model, "conv")(x).shape == (3, 1, 6, 5)


def test_a_single_logit_can_be_attacked():
    model, x = PixelModel(Net(lambda z: z, outputs=1)), torch.rand(4, 3, 8, 7)
    labels = model(x).argmax(1)
    for attacked in (fgsm(model, x, labels, 0.1), pgd(model, x, labels, 0.1, steps=5)):
        before, after = (model(images).gather(1, labels[:, None]) - model(images).gather(1, 1 - labels[:, None])
                         for images in (x, attacked))  # fmt: skip
        assert (after < before).all()
    assert (model(deepfool(model, x)).argmax(1) != labels).any()


@pytest.mark.parametrize(
    ("output", "error", "words"),
    [
        ({"scores": torch.zeros(2, 3)}, TypeError, "a dict of scores, with no logits"),
        (Named(None, None), TypeError, "a Named of loss, logits, with no logits"),
        (3, TypeError, "a int, with no logits"),
        ((), TypeError, "a tuple, with no logits"),
        (torch.zeros(2, 3, 4), ValueError, r"a tensor \(2, 3, 4\), not logits"),
    ],
)
def test_an_output_without_logits_is_named_with_what_to_do(output, error, words):
    with pytest.raises(error, match=f"{words}.*PixelModel.*output="):
        logits_of(output)
