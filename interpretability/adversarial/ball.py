"""The images within ε of given ones and within the bounds of a pixel, held exactly in floating point."""

import math

import torch
from torch import Tensor

NORMS = ("linf", "l2")
LEVELS = 255  # steps of an 8-bit pixel between 0 and 1


class Ball:
    """The set { x' : ‖x' − x‖ ≤ ε, low ≤ x' ≤ high } for each image of a batch (eq. 8.3).

    Args:
        x: (N, …) centres, inside the bounds.
        epsilon: radius in pixel units, not negative.
        norm: "linf" or "l2", the latter over all of an image's elements.
        bounds: least and largest value of a pixel.

    Raises:
        ValueError: x outside the bounds, an ε that is negative or not finite, an unknown norm.
    """

    def __init__(self, x: Tensor, epsilon: float, norm: str, bounds: tuple[float, float]):
        if norm not in NORMS:
            raise ValueError(f"unknown norm {norm!r}; there are: {', '.join(NORMS)}")
        if not 0 <= epsilon < math.inf:
            raise ValueError(f"epsilon must be a finite number from 0 on, not {epsilon}")
        check_bounds(x, bounds)
        self.x, self.norm, self.bounds = x, norm, bounds
        self.epsilon = _round_down(epsilon, x.dtype)
        self.lower, self.upper = self._box()

    def project(self, points: Tensor) -> Tensor:
        """The point of the ball next to each of ``points`` (for "l2" first the sphere, then the bounds)."""
        if self.norm == "linf":
            return torch.minimum(torch.maximum(points, self.lower), self.upper)
        delta = points - self.x
        length = _lengths(delta)
        # the sum x + delta is rounded once per element: a radius that much smaller stays inside for certain
        slack = math.sqrt(delta[0].numel()) * torch.finfo(delta.dtype).eps / 2 * max(map(abs, self.bounds))
        radius = max(self.epsilon - slack, 0.0)
        shrunk = delta * torch.where(length > radius, radius / length.clamp(min=1e-300), 1.0).to(delta.dtype)
        return (self.x + shrunk).clamp(*self.bounds)

    def steepest(self, gradient: Tensor) -> Tensor:
        """The direction of unit norm along which a linear function with this gradient rises most (eq. 8.4)."""
        if self.norm == "linf":
            return gradient.sign()
        return (gradient / _lengths(gradient).clamp(min=1e-300)).to(gradient.dtype)

    def random(self, generator: torch.Generator) -> Tensor:
        """A point drawn uniformly from the ball before the bounds are applied."""
        if self.norm == "linf":
            noise = 2 * torch.rand(self.x.shape, generator=generator, dtype=self.x.dtype) - 1
        else:
            noise = torch.randn(self.x.shape, generator=generator, dtype=self.x.dtype)
            share = torch.rand(len(noise), generator=generator, dtype=torch.float64) ** (1 / noise[0].numel())
            noise *= (share.view(-1, *[1] * (noise.ndim - 1)) / _lengths(noise)).to(noise.dtype)
        return self.project(self.x + self.epsilon * noise.to(self.x.device))

    def _box(self) -> tuple[Tensor, Tensor]:
        """Bounds on each pixel: the outermost numbers whose true distance from x is at most ε."""
        lower, upper = self.x - self.epsilon, self.x + self.epsilon
        exact = self.x.double()
        infinity = torch.tensor(math.inf, dtype=self.x.dtype, device=self.x.device)
        lower = torch.where(exact - lower.double() > self.epsilon, torch.nextafter(lower, infinity), lower)
        upper = torch.where(upper.double() - exact > self.epsilon, torch.nextafter(upper, -infinity), upper)
        return lower.clamp(*self.bounds), upper.clamp(*self.bounds)


def check_bounds(x: Tensor, bounds: tuple[float, float]) -> None:
    """ValueError unless every element is a floating-point number between the bounds."""
    low, high = bounds
    if not x.is_floating_point():
        raise ValueError(f"images must be floating point, not {x.dtype}")
    if x.numel() and not (x.min() >= low and x.max() <= high):
        raise ValueError(f"pixels must lie in [{low:g}, {high:g}]: there are {x.min():.4g} to {x.max():.4g}")


def quantize(adversarial: Tensor, x: Tensor, epsilon: float, norm: str = "linf") -> Tensor:
    """``adversarial`` as 8-bit pixels hold it, still within ε of ``x`` in 8 bits (eq. 8.7).

    "linf": the nearest level at most ⌊255 ε⌋ away. "l2": the nearest levels; where they would go farther than
    ε the smallest changes are dropped. Images are in [0, 1]; an ε below 1/255 gives back ``x``, rounded.
    """
    if norm not in NORMS:
        raise ValueError(f"unknown norm {norm!r}; there are: {', '.join(NORMS)}")
    centre = (x * LEVELS).round()
    change = (adversarial * LEVELS).round() - centre
    if norm == "linf":
        most = math.floor(epsilon * LEVELS * (1 + 1e-6))
        change = change.clamp(-most, most)
    else:
        flat = change.flatten(1)
        order = (adversarial - x).flatten(1).abs().argsort(dim=1, descending=True)
        fits = flat.gather(1, order).double().square().cumsum(1) <= (epsilon * LEVELS) ** 2 * (1 + 1e-6)
        change = (flat * torch.zeros_like(fits).scatter(1, order, fits)).view_as(change)
    return (centre + change) / LEVELS


def _round_down(number: float, dtype: torch.dtype) -> float:
    """The largest number of ``dtype`` that is not above ``number``."""
    rounded = torch.tensor(number, dtype=dtype)
    if rounded.item() > number:
        rounded = torch.nextafter(rounded, torch.tensor(-math.inf, dtype=dtype))
    return rounded.item()


def _lengths(x: Tensor) -> Tensor:
    """The l2 norm of each image, in double precision, ready to divide the batch by."""
    return x.double().flatten(1).norm(dim=1).view(-1, *[1] * (x.ndim - 1))
