"""Each method once more, as plainly as it can be written: hooks, autograd and loops, none of the project's own code."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

Arrange = Callable[[Tensor], Tensor]
STEPS, SAMPLES = 4, 3


@dataclass(eq=False)
class Case:
    """What is explained: a model, its image, one class, a layer and how it lies.

    ``narrow`` is a layer of the same layout with fewer channels, for what runs the network once for each of them.
    """

    model: nn.Module
    x: Tensor
    target: int
    layer: str
    narrow: str
    arrange: Arrange

    def score(self, x: Tensor) -> Tensor:
        """The class's logit of each image."""
        return self.model(x)[:, self.target]

    def gradient(self, x: Tensor) -> Tensor:
        """∂score/∂x."""
        leaf = x.detach().clone().requires_grad_()
        return torch.autograd.grad(self.score(leaf).sum(), leaf)[0]

    def at_layer(self, x: Tensor, layer: str | None = None) -> tuple[Tensor, Tensor]:
        """The layer's output and ∂score/∂output."""
        return self.at_module(self.model.get_submodule(f"model.{layer or self.layer}"), x)

    def at_module(self, module: nn.Module, x: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """A module's output and ∂score/∂output."""
        outputs: list[Tensor] = []
        hook = module.register_forward_hook(lambda module, args, output: outputs.append(output) or output.clone())
        score = self.score((self.x if x is None else x).detach().clone().requires_grad_()).sum()
        hook.remove()
        return outputs[0].detach().clone(), torch.autograd.grad(score, outputs[0])[0]

    def maps(self) -> tuple[Tensor, Tensor]:
        """The same as maps (N, C, h, w)."""
        activation, gradient = self.at_layer(self.x)
        return self.arrange(activation), self.arrange(gradient)


def integrated_gradients(case: Case) -> Tensor:
    """X · Σ wₖ ∂score/∂x (αₖ x), by Gauss and Legendre."""
    nodes, weights = np.polynomial.legendre.leggauss(STEPS)
    return case.x * sum(float(w) / 2 * case.gradient(case.x * (float(a) + 1) / 2) for a, w in zip(nodes, weights))


def noisy_gradients(case: Case) -> Tensor:
    """∂score/∂x at noisy copies (samples, N, …)."""
    generator, x = torch.Generator().manual_seed(0), case.x
    spread = 0.15 * (x.flatten(1).amax(1) - x.flatten(1).amin(1)).view(-1, 1, 1, 1)
    noises = [torch.randn(x.shape[1:], generator=generator).to(x) for _ in range(SAMPLES)]
    return torch.stack([case.gradient(x + spread * noise) for noise in noises])


def grad_cam(case: Case) -> Tensor:
    """The maps, weighted by their mean gradients."""
    a, g = case.maps()
    return (g.mean((2, 3), keepdim=True) * a).sum(1, keepdim=True).clamp(min=0)


def grad_cam_plus_plus(case: Case) -> Tensor:
    """The maps, weighted by Σ α max(g, 0)."""
    a, g = case.maps()
    below = 2 * g**2 + a.sum((2, 3), keepdim=True) * g**3
    alpha = torch.where(below == 0, 0, g**2 / below)
    return ((alpha * g.clamp(min=0)).sum((2, 3), keepdim=True) * a).sum(1, keepdim=True).clamp(min=0)


def score_cam(case: Case) -> Tensor:
    """The maps, weighted by the softmax of the scores behind each as a mask."""
    a = case.arrange(case.at_layer(case.x, case.narrow)[0])
    masks = F.interpolate(a, case.x.shape[2:], mode="bilinear")[0]  # (C, H, W): of one image
    low, high = masks.amin((1, 2), keepdim=True), masks.amax((1, 2), keepdim=True)
    masks = torch.where(high > low, (masks - low) / (high - low), 0)
    with torch.no_grad():
        scores = torch.cat([case.score(case.x * few[:, None]) for few in masks.split(64)])
    weights = scores.softmax(0)[None, :, None, None]
    return (weights * a).sum(1, keepdim=True).clamp(min=0)


def place_cam(case: Case, weigh: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """The maps, weighted place by place or channel by channel by ``weigh(activations, gradients)``."""
    a, g = case.maps()
    return (weigh(a, g) * a).sum(1, keepdim=True)


def eigen_cam(case: Case) -> Tensor:
    """The places along the leading eigenvector of AᵀA, A (places, C)."""
    a = case.maps()[0]
    rows = a[0].flatten(1).T
    first = torch.linalg.eigh(rows.T @ rows).eigenvectors[:, -1]
    along = rows @ first
    return (along * along.sum().sign()).view(1, 1, *a.shape[2:]).clamp(min=0)


def ablation_cam(case: Case) -> Tensor:
    """The maps, weighted by the loss of score without each; a few at a time, in the rows of a batch."""
    module = case.model.get_submodule(f"model.{case.narrow}")
    a, scores = case.arrange(case.at_layer(case.x, case.narrow)[0]), []
    for channels in torch.arange(a.shape[1]).split(16):

        def without(module: nn.Module, args: tuple, output: Tensor, channels: Tensor = channels) -> Tensor:
            output = output.clone()
            case.arrange(output)[torch.arange(len(channels)), channels] = 0  # a view of it
            return output

        hook = module.register_forward_hook(without)
        with torch.no_grad():
            scores.append(case.score(case.x.expand(len(channels), -1, -1, -1)))
        hook.remove()
    with torch.no_grad():
        drops = case.score(case.x) - torch.cat(scores)
    return (drops.view(1, -1, 1, 1) * a).sum(1, keepdim=True).clamp(min=0)


def linear_part(module: nn.Module, given: Tensor) -> Tensor:
    """J · input; of elementwise activations, some of which cannot be differentiated twice, slope · input."""
    if not isinstance(module, (nn.Hardsigmoid, nn.Hardswish, nn.ReLU6)):
        return torch.autograd.functional.jvp(module, given, given)[1]
    leaf = given.clone().requires_grad_()
    return given * torch.autograd.grad(module(leaf).sum(), leaf)[0]


def full_gradient_sums(case: Case) -> Tensor:
    """The input's part of the score, then that of the bias of each layer without parts, as it ran: (1 + layers,)."""
    runs: list[tuple[nn.Module, Tensor, Tensor]] = []

    def keep(module: nn.Module, args: tuple, output: object) -> Tensor | None:
        if len(args) != 1 or not isinstance(output, Tensor) or not output.requires_grad or len(output) != len(case.x):
            return None
        runs.append((module, args[0].detach().clone(), output))
        return output.clone()  # what works in place on it leaves the kept one alone

    leaves = [module for module in case.model.model.modules() if not any(True for _ in module.children())]
    inplace = [module for module in leaves if getattr(module, "inplace", False)]
    hooks = [module.register_forward_hook(keep) for module in leaves]
    for module in inplace:
        module.inplace = False
    learning = [parameter for parameter in case.model.parameters() if parameter.requires_grad]
    for parameter in learning:
        parameter.requires_grad_(False)  # so that only layers are kept that depend on the image
    h = case.model.normalize(case.x).detach().requires_grad_()
    score = case.model.model(h)[:, case.target].sum()
    gradient, *others = torch.autograd.grad(score, [h, *(output for _, _, output in runs)], allow_unused=True)
    for hook in hooks:
        hook.remove()
    for parameter in learning:
        parameter.requires_grad_(True)
    parts = [(h * gradient).sum()]
    for (module, given, output), g in zip(runs, others):
        if g is not None:
            parts.append(((output - linear_part(module, given)) * g).sum())
    for module in inplace:
        module.inplace = True
    return torch.stack(parts).detach()


def occlusion(case: Case) -> Tensor:
    """The loss of score of four windows, each a quarter of the image."""
    h, w = (side // 2 for side in case.x.shape[2:])
    found = torch.zeros_like(case.x)
    with torch.no_grad():
        for top in (0, h):
            for left in (0, w):
                covered = case.x.clone()
                covered[:, :, top : top + h, left : left + w] = 0
                found[:, :, top : top + h, left : left + w] = case.score(case.x) - case.score(covered)
    return found


def conductance(case: Case) -> Tensor:
    """Σ mean gradient · change of the layer's output, from step to step."""
    points = [case.at_layer(case.x * step / STEPS) for step in range(STEPS + 1)]
    return sum((g0 + g1) / 2 * (h1 - h0) for (h0, g0), (h1, g1) in pairwise(points))


def attention_maps(case: Case, weighted: bool) -> Tensor:
    """Rollout of attention, or of what of it raises the score; attention is what the fused function is told."""
    kept: list[Tensor] = []

    def attention(
        query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *args, **kwargs
    ) -> Tensor:
        scores = query @ key.transpose(-2, -1) / query.shape[-1] ** 0.5
        kept.append((scores if attn_mask is None else scores + attn_mask).softmax(-1))
        return kept[-1] @ value

    with patch.object(F, "scaled_dot_product_attention", attention):
        score = case.score(case.x.clone().requires_grad_()).sum()
    gradients = torch.autograd.grad(score, kept, allow_unused=True)
    rolled = torch.eye(kept[0].shape[-1], dtype=case.x.dtype)
    for a, g in zip(kept, gradients):
        if weighted:
            rolled = rolled + (a * (0 if g is None else g)).clamp(min=0).mean(1)[0] @ rolled
        else:
            rolled = (rolled + a.mean(1)[0] @ rolled) / 2
    read = gradients[-1][0].abs().sum((0, 2)) > 0
    return case.arrange(rolled[read].mean(0)[None, :, None]).detach()


class _Rule(torch.autograd.Function):
    """max(z, 0), or min(max(z, 0), 6), with a backward pass of its own."""

    @staticmethod
    def forward(ctx, z, top, guided):
        ctx.save_for_backward((z > 0) & (z < top))
        ctx.guided = guided
        return z.clamp(0, top)

    @staticmethod
    def backward(ctx, da):
        (opened,) = ctx.saved_tensors
        return da.clamp(min=0) * opened if ctx.guided else da.clamp(min=0), None, None


@contextmanager
def other_relus(guided: bool) -> Iterator[None]:
    """Every way in which torch spells a ReLU goes backwards by the guided rule, or by the deconvolution's."""

    def relu(z: Tensor, *args: object, **kwargs: object) -> Tensor:
        return _Rule.apply(z, float("inf"), guided)

    def relu6(z: Tensor, *args: object, **kwargs: object) -> Tensor:
        return _Rule.apply(z, 6.0, guided)

    with ExitStack() as patches:
        for place, name, other in (
            (F, "relu", relu), (torch, "relu", relu), (Tensor, "relu", relu), (Tensor, "relu_", relu),
            (F, "relu6", relu6), (nn.ReLU, "forward", lambda self, z: relu(z)),
            (nn.ReLU6, "forward", lambda self, z: relu6(z)),
        ):  # fmt: skip
            patches.enter_context(patch.object(place, name, other))
        yield


def with_other_relus(case: Case, guided: bool) -> Tensor:
    """The gradient with other ReLUs."""
    with other_relus(guided):
        return case.gradient(case.x)
