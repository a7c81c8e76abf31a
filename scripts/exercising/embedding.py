"""Task 2 (c): MNIST laid out by t-SNE, as pixels and as features, by label and by prediction."""

from typing import TYPE_CHECKING, Any

from exercising.workspace import Workspace

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

    from callbacks.tsne.layout import Layout

EACH = 1000  # images of the training set, and as many of the test set
PERPLEXITIES = (5.0, 30.0, 100.0)


def tsne(work: Workspace) -> dict[str, Any]:
    """Layouts of pixels, of an untrained and a trained network's features; how far each can be trusted."""
    import numpy as np
    import torch
    from tqdm import tqdm

    from callbacks.tsne.layout import NEIGHBOURS, embed, knn_accuracy, reduce
    from datamodules import MNISTDataModule
    from interpretability import load_model
    from lit_models import LitCNN

    data = MNISTDataModule(work.data_dir)
    parts = [data.probe_batch(split, EACH) for split in ("train", "test")]
    images, labels = (torch.cat(both) for both in zip(*parts))
    trained = load_model(str(work.run_folder("mnist"))).model.model
    torch.manual_seed(0)
    untrained = LitCNN(**dict(trained.hparams)).eval()
    with torch.no_grad():
        features = {
            "pixels": images.flatten(1).numpy(),
            "untrained features": untrained.embed(images).numpy(),
            "trained features": trained.embed(images).numpy(),
        }
        predictions = trained(images).argmax(1).numpy()
    truth, held_out = labels.numpy(), np.arange(len(labels)) >= EACH
    layouts = {name: embed(x, truth) for name, x in tqdm(features.items(), desc="t-SNE", unit="layout")}
    work.picture("task2-tsne.png", draw(layouts, truth, predictions, held_out))
    trained_plane = layouts["trained features"].coordinates
    wrong = predictions != truth
    return {
        "images": EACH,
        "layouts": {name.replace(" ", "_"): about(layout) for name, layout in layouts.items()},
        "mistakes": {"train": int(wrong[~held_out].sum()), "test": int(wrong[held_out].sum())},
        "neighbours": {
            "by_label": knn_accuracy(trained_plane, truth, NEIGHBOURS),
            "by_prediction": knn_accuracy(trained_plane, predictions, NEIGHBOURS),
        },
        "mistakes_beside_predicted": beside(trained_plane, truth, predictions, wrong & held_out),
        "perplexity": distances(reduce(features["trained features"]), truth, embed),
    }


def about(layout: "Layout") -> dict[str, float]:
    """The figures that say how far to trust a layout."""
    names = ("kl_divergence", "trustworthiness", "knn_embedding", "knn_features")
    return {name: float(getattr(layout, name)) for name in names}


def beside(plane: "np.ndarray", truth: "np.ndarray", predictions: "np.ndarray", mistakes: "np.ndarray") -> float:
    """The share of ``mistakes`` whose neighbours in the plane are mostly of the class that was predicted."""
    import numpy as np
    from sklearn.neighbors import NearestNeighbors

    index = np.flatnonzero(mistakes)
    neighbours = NearestNeighbors(n_neighbors=10).fit(plane).kneighbors(plane[index])[1][:, 1:]
    return float(np.mean([(truth[near] == predictions[i]).mean() > 0.5 for i, near in zip(index, neighbours)]))


def distances(features: "np.ndarray", truth: "np.ndarray", embed: Any) -> dict[str, Any]:
    """How well distances between the ten classes' centres in the plane keep their order in feature space."""
    import numpy as np
    from scipy.spatial.distance import pdist
    from scipy.stats import spearmanr

    def centres(points: np.ndarray) -> np.ndarray:
        return pdist(np.stack([points[truth == label].mean(0) for label in range(10)]))

    found = []
    for perplexity in PERPLEXITIES:
        layout = embed(features, truth, perplexity=perplexity)
        found.append(
            {
                "perplexity": perplexity,
                "rank_correlation": float(spearmanr(centres(features), centres(layout.coordinates)).statistic),
                "knn_embedding": layout.knn_embedding,
            }
        )
    return {"layouts": found}


def draw(
    layouts: "dict[str, Layout]", truth: "np.ndarray", predictions: "np.ndarray", held_out: "np.ndarray"
) -> "Figure":
    """Training images as pixels and as features above; below, features of the test images by label and prediction."""
    from matplotlib.figure import Figure

    from callbacks.tsne.drawing import Points, draw_panel, limits

    names = [str(digit) for digit in range(10)]
    panels = [
        ("training images as pixels, true labels", "pixels", ~held_out, truth),
        ("the same through an untrained network", "untrained features", ~held_out, truth),
        ("the same through the trained network", "trained features", ~held_out, truth),
        ("test images through the trained network,\ntrue labels", "trained features", held_out, truth),
        ("test images through the trained network,\npredicted labels", "trained features", held_out, predictions),
    ]
    figure = Figure(figsize=(13.5, 9.6), dpi=100, layout="constrained")
    grid = figure.subplots(2, 3)
    for axes, (title, name, chosen, by) in zip(grid.flat, panels):
        layout = layouts[name]
        seen = predictions if name == "trained features" else truth  # only the trained network predicts
        draw_panel(
            axes, Points(layout.coordinates, truth, seen, held_out, names), chosen, by, limits(layout.coordinates)
        )
        axes.set_title(title, fontsize=12)
    grid.flat[-1].set_axis_off()
    note = (
        "Each plot has the 1,000 images named.\nTraining and test images were laid out together,\n"
        "so the panels of the trained network share\none map.\n\n"
        "Black rings: the prediction is wrong.\nAxes have no unit: only neighbourhoods\nmean anything."
    )
    grid.flat[-1].text(0.04, 0.92, note, fontsize=13, va="top", transform=grid.flat[-1].transAxes, linespacing=1.5)
    return figure
