"""From features to a comparable map: t-SNE started from the last one, turned onto it, and judged.

Imports numpy and scikit-learn alone, so that a worker process starts fast.
"""

from dataclasses import dataclass

import numpy as np
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE, trustworthiness
from sklearn.neighbors import NearestNeighbors

MAX_DIMENSIONS = 50
NEIGHBOURS = 10
SMALLEST = 4  # t-SNE needs a neighbour or two for each point; fewer points are laid out by PCA
WARM = {"early_exaggeration": 1.0, "learning_rate": 15.0, "max_iter": 300}  # gentle, so that little moves


@dataclass
class Layout:
    """Coordinates (N, 2) with the figures that say how far to trust them; NaN where N is too small."""

    coordinates: np.ndarray
    kl_divergence: float = np.nan
    trustworthiness: float = np.nan
    knn_embedding: float = np.nan
    knn_features: float = np.nan


def reduce(features: np.ndarray) -> np.ndarray:
    """Features (N, D) on their at most 50 leading principal components, float32."""
    n, d = features.shape
    if d > MAX_DIMENSIONS and n > 1:
        features = PCA(min(MAX_DIMENSIONS, n), random_state=0).fit_transform(features)
    return np.ascontiguousarray(features, dtype=np.float32)


def principal_plane(reduced: np.ndarray) -> np.ndarray:
    """The first two principal coordinates (N, 2); zeros where the features have fewer."""
    centred = reduced - reduced.mean(0)
    plane = np.zeros((len(reduced), 2))
    if len(reduced) > 1 and centred.any():
        u, s, _ = np.linalg.svd(centred, full_matrices=False)
        rank = min(2, len(s))
        plane[:, :rank] = u[:, :rank] * s[:rank]
    return plane


def cold_start(reduced: np.ndarray, seed: int) -> np.ndarray:
    """The principal plane made tiny, as t-SNE wants it, with a trace of noise to part equal points."""
    plane = principal_plane(reduced)
    noise = 1e-6 * np.random.default_rng(seed).standard_normal(plane.shape)
    return plane / (plane[:, 0].std() or 1.0) * 1e-4 + noise


def embed(
    features: np.ndarray,
    labels: np.ndarray,
    previous: np.ndarray | None = None,
    perplexity: float = 30.0,
    seed: int = 0,
) -> Layout:
    """Lay out features (N, D), near ``previous`` (N, 2) where there is one; eq. 10.1 to 10.4, 10.7.

    Without a previous layout this is scikit-learn's t-SNE from the principal plane. With one it starts
    there and skips the early exaggeration, which would tear it up, and is turned onto it at the end.
    """
    reduced = reduce(features)
    n = len(reduced)
    if n < SMALLEST:
        return Layout(principal_plane(reduced))
    if previous is not None and previous.shape == (n, 2) and np.isfinite(previous).all():
        start, schedule = previous, WARM
    else:
        start, schedule = cold_start(reduced, seed), {}
    tsne = TSNE(init=start.astype(np.float32), perplexity=min(perplexity, (n - 1) / 3), random_state=seed, **schedule)
    coordinates = tsne.fit_transform(reduced)
    if schedule is WARM:
        coordinates = align(coordinates, start)
    k = min(NEIGHBOURS, (n - 1) // 2)
    return Layout(
        coordinates.astype(np.float32),
        float(tsne.kl_divergence_),
        float(trustworthiness(reduced, coordinates, n_neighbors=k)),
        knn_accuracy(coordinates, labels, k),
        knn_accuracy(reduced, labels, k),
    )


def align(coordinates: np.ndarray, onto: np.ndarray) -> np.ndarray:
    """``coordinates`` turned, mirrored and shifted (never scaled) as near to ``onto`` as can be; eq. 10.4."""
    centre, target = coordinates.mean(0), onto.mean(0)
    u, _, vt = np.linalg.svd((coordinates - centre).T @ (onto - target))
    return (coordinates - centre) @ (u @ vt) + target


def knn_accuracy(points: np.ndarray, labels: np.ndarray, k: int) -> float:
    """The share of points whose label wins the vote of their ``k`` nearest others; ties go to the nearer."""
    neighbours = NearestNeighbors(n_neighbors=k).fit(points).kneighbors(return_distance=False)
    votes = labels[neighbours]  # (N, k), nearest first
    counts = (votes[:, :, None] == votes[:, None, :]).sum(2)  # how many agree with each of them
    return float((votes[np.arange(len(votes)), counts.argmax(1)] == labels).mean())
