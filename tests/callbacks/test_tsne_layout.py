"""t-SNE layouts: comparable from one to the next, and judged by figures that can be checked."""

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.manifold import TSNE
from sklearn.neighbors import KNeighborsClassifier
from threadpoolctl import threadpool_limits

from callbacks.tsne.drawing import Points, animate, draw_layout, limits
from callbacks.tsne.layout import align, embed, knn_accuracy, principal_plane, reduce


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """As in the worker; with more, threads that wait for one another take most of the time."""
    with threadpool_limits(1):
        yield


def digits(n: int = 300) -> tuple[np.ndarray, np.ndarray]:
    data = load_digits()
    return data.data[:n].astype(np.float32), data.target[:n]


def spread(coordinates: np.ndarray) -> float:
    return float(np.sqrt(((coordinates - coordinates.mean(0)) ** 2).sum(1).mean()))


@pytest.fixture(scope="module")
def first():
    features, labels = digits()
    return features, labels, embed(features, labels)


def test_cold_layout_is_as_good_as_scikit_learns(first):
    features, _, layout = first
    reference = TSNE(random_state=0).fit(reduce(features))
    assert layout.kl_divergence == pytest.approx(reference.kl_divergence_, rel=0.05)
    assert layout.trustworthiness > 0.95
    assert layout.knn_embedding > 0.9


def test_unchanged_features_barely_move(first):
    features, labels, layout = first
    again = embed(features, labels, layout.coordinates)
    moved = np.linalg.norm(again.coordinates - layout.coordinates, axis=1) / spread(layout.coordinates)
    assert moved.max() > 0
    assert moved.max() < 0.05
    assert again.kl_divergence <= layout.kl_divergence * 1.03


def test_changed_features_are_laid_out_as_well_as_from_scratch(first):
    features, labels, layout = first
    changed = features + np.random.default_rng(0).normal(0, 2.0, features.shape).astype(np.float32)
    warm, cold = embed(changed, labels, layout.coordinates), embed(changed, labels)
    assert warm.kl_divergence <= cold.kl_divergence * 1.03
    moved = np.linalg.norm(warm.coordinates - layout.coordinates, axis=1).mean() / spread(layout.coordinates)
    unrelated = np.linalg.norm(cold.coordinates - layout.coordinates, axis=1).mean() / spread(layout.coordinates)
    assert moved < 0.5 * unrelated


def test_alignment_undoes_a_rigid_motion():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(30, 2))
    angle = 2.1
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) @ np.diag([1, -1])
    moved = points @ turn + np.array([3.0, -7.0])
    assert np.abs(moved - points).max() > 1
    np.testing.assert_allclose(align(moved, points), points, atol=1e-12)


def test_alignment_is_the_best_of_many_rotations():
    rng = np.random.default_rng(1)
    points, onto = rng.normal(size=(20, 2)), rng.normal(size=(20, 2))
    best = ((align(points, onto) - onto) ** 2).sum()
    centred = points - points.mean(0)
    for angle in np.linspace(0, 2 * np.pi, 400):
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        for mirror in (np.eye(2), np.diag([1, -1])):
            assert ((centred @ turn @ mirror + onto.mean(0) - onto) ** 2).sum() >= best - 1e-9


def test_neighbour_accuracy_leaves_the_point_itself_out():
    rng = np.random.default_rng(0)
    points, labels = rng.normal(size=(60, 3)), rng.integers(0, 3, 60)
    points += labels[:, None]
    hits = [
        KNeighborsClassifier(1).fit(np.delete(points, i, 0), np.delete(labels, i)).predict(points[i : i + 1])[0]
        == labels[i]
        for i in range(60)
    ]
    assert 0.3 < np.mean(hits) < 1
    assert knn_accuracy(points, labels, 1) == pytest.approx(np.mean(hits))
    assert knn_accuracy(np.array([[0.0], [0.1], [5.0], [5.1]]), np.array([0, 0, 1, 1]), 1) == 1.0


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 31, 50])
@pytest.mark.parametrize("dimensions", [1, 2, 64])
def test_tiny_samples(n, dimensions):
    features = np.random.default_rng(n).normal(size=(n, dimensions)).astype(np.float32)
    labels = np.arange(n) % 2
    layout = embed(features, labels)
    assert layout.coordinates.shape == (n, 2)
    assert np.isfinite(layout.coordinates).all()
    again = embed(features, labels, layout.coordinates)
    assert np.isfinite(again.coordinates).all()
    assert np.isfinite(layout.kl_divergence) == (n >= 4)


@pytest.mark.parametrize("features", [np.zeros((12, 70)), np.repeat(np.eye(2), 10, 0)])
def test_equal_points(features):
    assert np.isfinite(embed(features.astype(np.float32), np.zeros(len(features), dtype=int)).coordinates).all()


def test_principal_plane_is_the_one_of_largest_variance():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(50, 4)) * np.array([1, 5, 0.1, 3])
    plane = principal_plane(features)
    covariance = np.linalg.eigvalsh(np.cov(features.T))[::-1]
    np.testing.assert_allclose(np.cov(plane.T), np.diag(covariance[:2]), atol=1e-9)


def points(n: int = 40, n_classes: int = 3) -> Points:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, n_classes, n)
    predictions = np.where(rng.random(n) < 0.2, (labels + 1) % n_classes, labels)
    names = [str(index) for index in range(n_classes)]
    return Points(rng.normal(size=(n, 2)), labels, predictions, np.arange(n) >= n // 2, names)


def test_both_colourings_share_one_layout_and_ring_the_mistakes():
    drawn = points()
    figure = draw_layout(drawn, "title")
    assert len(figure.axes) == 4
    for row in (0, 2):
        for column, chosen in enumerate([~drawn.held_out, drawn.held_out]):
            dots, rings = figure.axes[row + column].collections
            wrong = chosen & (drawn.labels != drawn.predictions)
            assert wrong.any()
            np.testing.assert_array_equal(dots.get_offsets(), drawn.coordinates[chosen])
            np.testing.assert_array_equal(rings.get_offsets(), drawn.coordinates[wrong])
    colour = [figure.axes[index].collections[0].get_facecolors() for index in (0, 2)]
    differ = (colour[0] != colour[1]).any(1)
    np.testing.assert_array_equal(differ, (drawn.labels != drawn.predictions)[~drawn.held_out])
    centre, half = limits(drawn.coordinates)
    assert (np.abs(drawn.coordinates - centre) < half).all()


def test_training_data_alone_and_many_classes():
    drawn = points(n_classes=30)
    drawn.held_out[:] = False
    assert len(draw_layout(drawn, "title").axes) == 2


def test_animation_has_a_frame_an_epoch():
    frames = animate([("epoch 0", points()), ("epoch 1", points(30))])
    assert len(frames) == 2
    assert frames[0].size == frames[1].size
