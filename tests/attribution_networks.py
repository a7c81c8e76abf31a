"""Small networks that write the same thing in the different ways people do, and oracles for them."""

import torch
from torch import nn
from torch.nn import functional as F


def plain(channels: int = 3) -> nn.Sequential:
    """Convolutions, batch norm, ReLU modules, pooling: 5 classes, any image size."""
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 6, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(24, 5),
    )


class Residual(nn.Module):
    """A skip connection around its second convolution; ReLUs as ``how`` says."""

    def __init__(self, how: str = "module"):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.conv = nn.Conv2d(6, 6, 3, padding=1)
        self.first, self.second = nn.ReLU(inplace=how == "in place"), nn.ReLU(inplace=how == "in place")
        self.head = nn.Linear(6, 4)
        self.how = how

    def rectify(self, z, module):
        if self.how in {"module", "in place"}:
            return module(z)
        if self.how == "reused":
            return self.first(z)
        return {"functional": F.relu, "method": torch.Tensor.relu, "clamp": lambda z: z.clamp(min=0),
                "functional in place": lambda z: F.relu(z, inplace=True)}[self.how](z)  # fmt: skip

    def forward(self, x):
        h = self.rectify(self.stem(x), self.first)
        h = h + self.rectify(self.conv(h), self.second)
        return self.head(h.mean(dim=(2, 3)))


def randomised(model: nn.Module) -> nn.Module:
    """Float64, with batch-norm statistics that are not the identity, in eval mode."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return model.double().eval()


def state_of(model: nn.Module) -> list:
    """Everything a method could leave behind: modes, requires_grad, grads, hooks, values."""
    modules = [
        (m.training, len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in model.modules()
    ]
    parameters = [(p.requires_grad, None if p.grad is None else p.grad.clone()) for p in model.parameters()]
    return [modules, parameters, {name: value.clone() for name, value in model.state_dict().items()}]


def assert_same_state(before: list, model: nn.Module) -> None:
    """That ``model`` is in the state ``before``."""
    after = state_of(model)
    assert before[0] == after[0]
    for (required, gradient), (required_now, gradient_now) in zip(before[1], after[1]):
        assert required == required_now
        assert (gradient is None) == (gradient_now is None)
        assert gradient is None or torch.equal(gradient, gradient_now)
    assert all(torch.equal(before[2][name], value) for name, value in after[2].items())
