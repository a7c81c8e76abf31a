"""RISE: the mean of random masks, weighted by the score of what they leave to be seen."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from interpretability.attribution.base import Attribution
from interpretability.attribution.batches import at_least, checked_batch_size, in_batches
from interpretability.attribution.integrated import expanded
from interpretability.targets import Target, repeat_target, resolve_target, target_scores


class RISE(Attribution):
    """E[score | the pixel is seen] over random smooth masks: (N, 1, H, W)   eq. 11.8, 11.9.

    Petsiuk, Das, Saenko 2018, "RISE: randomized input sampling for explanation", section 3. The paper divides by the
    chance of a pixel to be seen; here by how much was seen of it, which tends to the same and takes out the noise of
    uneven cover. Masks are made a few at a time.

    Args:
        model: on images (N, C, H, W).
        layer: None; the map belongs to the image.
        n_samples: how many masks.
        cells: along each side of the coarse mask.
        probability: of a cell to be seen.
        baseline: what a hidden pixel becomes, a number or a tensor that broadcasts to a sample.
        seed: of the masks, which are the same for every sample of a batch and touch no global random state.
        batch_size: rows in a forward pass; by default as many as run fastest.
    """

    input_only = True
    additive = False

    def __init__(
        self,
        model: nn.Module,
        layer: str | None = None,
        n_samples: int = 4000,
        cells: int = 7,
        probability: float = 0.5,
        baseline: float | Tensor = 0.0,
        seed: int = 0,
        batch_size: int | None = None,
    ):
        super().__init__(model, layer)
        self.n_samples, self.cells = at_least("n_samples", n_samples, 1), at_least("cells", cells, 1)
        if not 0 < probability < 1:
            raise ValueError(f"probability must be between 0 and 1; got {probability}")
        self.probability, self.baseline, self.seed = probability, baseline, seed
        self.batch_size = checked_batch_size(batch_size)

    @torch.no_grad()
    def attribute(self, x: Tensor, target: Target) -> Tensor:
        """n_samples forward passes in batches."""
        if x.ndim != 4:
            raise ValueError(f"RISE takes images (N, C, H, W); got {tuple(x.shape)}")
        logits = self.model(x.clone())
        target = resolve_target(logits, target)
        whole = target_scores(logits, target).double()  # taken off for precision, and put back
        baseline = expanded(torch.as_tensor(self.baseline, dtype=x.dtype, device=x.device), x)
        generator = torch.Generator().manual_seed(self.seed)
        total = torch.zeros(len(x), *x.shape[2:], dtype=torch.float64, device=x.device)
        seen = torch.zeros_like(total[0])
        size = (x.shape[2], x.shape[3])

        def masked(some: slice) -> tuple[Tensor, Tensor, torch.Generator]:
            k, after = some.stop - some.start, generator.clone_state()
            drawn = [random_mask(size, self.cells, self.probability, after) for _ in range(k)]
            masks = torch.stack(drawn).to(x)  # (k, H, W)
            shown = torch.lerp(baseline, x, masks[:, None, None]).flatten(0, 1)  # (kN, C, H, W)
            scores = target_scores(self.model(shown), repeat_target(target, k)).view(k, len(x)).double() - whole
            return torch.einsum("kn,khw->nhw", scores, masks.double()), masks.double().sum(dim=0), after

        for found, cover, after in in_batches(self.n_samples, x, self.batch_size, "RISE", masked):
            total += found
            seen += cover
            generator.set_state(after.get_state())
        mean = torch.where(seen > 0, total / torch.where(seen > 0, seen, 1), 0)
        return (mean + whole[:, None, None]).to(x)[:, None]


def random_mask(size: tuple[int, int], cells: int, probability: float, generator: torch.Generator) -> Tensor:
    """One mask (H, W) in [0, 1]: a coarse grid enlarged by a cell more than needed, cut out at random   eq. 11.9."""
    height, width = (-(-side // cells) for side in size)  # of a cell
    grid = (torch.rand(1, 1, cells + 1, cells + 1, generator=generator, dtype=torch.float64) < probability).double()
    enlarged = (height * (cells + 1), width * (cells + 1))
    smooth = F.interpolate(grid, enlarged, mode="bilinear", align_corners=False)[0, 0]
    top, left = (int(torch.randint(cell, (), generator=generator)) for cell in (height, width))
    return smooth[top : top + size[0], left : left + size[1]]
