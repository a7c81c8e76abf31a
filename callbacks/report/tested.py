"""What the test stage showed, sample by sample: every prediction, and small pictures of a few of each kind."""

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor

PER_CELL = 8  # pictures kept of a cell of the confusion matrix
MOST_PICTURES = 700
SIDE = 56  # pixels of a picture
N_WORST = 12


def small(images: Tensor, side: int = SIDE) -> Tensor:
    """Images (N, C, H, W) as float32 in [0, 1] with one channel or three, at most ``side`` pixels a side."""
    images = images.detach().float().cpu()
    images = images[:, :3] if images.shape[1] >= 3 else images[:, :1]
    scale = min(1.0, side / max(images.shape[2:]))
    if scale < 1:
        size = [max(1, round(length * scale)) for length in images.shape[2:]]
        images = torch.nn.functional.interpolate(images, size, mode="area")
    if len(images) and (float(images.min()) < 0 or float(images.max()) > 1):  # normalised elsewhere
        low, high = images.amin((1, 2, 3), True), images.amax((1, 2, 3), True)
        images = (images - low) / (high - low).clamp(min=1e-12)
    return images


class Tested:
    """Grows batch by batch; those of several ranks can be joined."""

    def __init__(self) -> None:
        self.labels: list[Tensor] = []
        self.predictions: list[Tensor] = []
        self.confidences: list[Tensor] = []
        self.cells: dict[tuple[int, int], list[tuple[float, Tensor]]] = defaultdict(list)
        self.worst: list[tuple[float, int, int, float, Tensor]] = []  # p(true), label, prediction, p, full image
        self.classes = 0

    def add(self, x: Tensor, probabilities: Tensor, labels: Tensor) -> None:
        """One batch: images (N, C, H, W), probabilities (N, K), labels (N,)."""
        confidences, predictions = (values.cpu() for values in probabilities.max(1))
        true = probabilities.gather(1, labels[:, None])[:, 0].cpu()
        labels = labels.cpu()
        self.classes = probabilities.shape[1]
        self.labels.append(labels)
        self.predictions.append(predictions)
        self.confidences.append(confidences)
        wanted = [
            n
            for n, cell in enumerate(zip(labels.tolist(), predictions.tolist()))
            if (len(self.cells[cell]) < PER_CELL or cell[0] != cell[1]) and x.ndim == 4
        ]
        pictures: Tensor | list[Tensor] = small(x[wanted]) if wanted else []
        for n, picture in zip(wanted, pictures):
            self._keep((int(labels[n]), int(predictions[n])), float(true[n]), picture)
        for n in wanted:
            if labels[n] != predictions[n]:
                self.worst.append(
                    (float(true[n]), int(labels[n]), int(predictions[n]), float(confidences[n]), x[n].cpu())
                )
        self.worst = sorted(self.worst, key=lambda one: one[0])[:N_WORST]

    def _keep(self, cell: tuple[int, int], true: float, picture: Tensor) -> None:
        """Of the right ones the first, of the wrong ones those that gave the true class the least."""
        kept = self.cells[cell]
        kept.append((true, picture))
        if len(kept) > PER_CELL:
            kept.sort(key=lambda one: one[0])
            kept.pop()

    def join(self, other: "Tested") -> None:
        """Take in what another rank saw."""
        self.labels += other.labels
        self.predictions += other.predictions
        self.confidences += other.confidences
        self.classes = max(self.classes, other.classes)
        for cell, kept in other.cells.items():
            for true, picture in kept:
                self._keep(cell, true, picture)
        self.worst = sorted([*self.worst, *other.worst], key=lambda one: one[0])[:N_WORST]

    def __len__(self) -> int:
        return sum(len(part) for part in self.labels)

    def calibration(self, bins: int = 15) -> list[dict[str, float]]:
        """Of each bin of confidence that holds samples: their number, mean confidence and share of right ones."""
        confidences = torch.cat(self.confidences).double()
        hits = (torch.cat(self.labels) == torch.cat(self.predictions)).double()
        which = (confidences * bins).ceil().long().clamp(1, bins) - 1
        rows = []
        for index in range(bins):
            chosen = which == index
            if chosen.any():
                mean, share = float(confidences[chosen].mean()), float(hits[chosen].mean())
                rows.append({"count": int(chosen.sum()), "confidence": mean, "accuracy": share})
        return rows

    def cell_counts(self) -> list[list[int]]:
        """[true, predicted, count] of every cell that is not empty."""
        labels, predictions = torch.cat(self.labels), torch.cat(self.predictions)
        width = max(self.classes, int(labels.max()) + 1)
        cells, counts = (labels * width + predictions).unique(return_counts=True)
        return [[cell // width, cell % width, n] for cell, n in zip(cells.tolist(), counts.tolist())]

    def pictures(self, most: int = MOST_PICTURES) -> tuple[list[Tensor], list[list[Any]]]:
        """Pictures of one size, and [true, predicted, first, how many] of each cell among them; mistakes first."""
        ordered = sorted(
            ((cell, kept) for cell, kept in self.cells.items() if kept),
            key=lambda one: (one[0][0] == one[0][1], -len(one[1])),
        )
        share = max(1, min(PER_CELL, most // max(len(ordered), 1)))
        found: list[Tensor] = []
        index: list[list[Any]] = []
        shape = ordered[0][1][0][1].shape if ordered else None
        for (label, predicted), kept in ordered:
            chosen = [picture for _, picture in kept if picture.shape == shape][:share]
            if len(found) + len(chosen) <= most and chosen:
                index.append([label, predicted, len(found), len(chosen)])
                found += chosen
        return found, index
