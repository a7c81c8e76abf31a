"""The optional task: one's own network explained, and whether the explanations are of any use."""

from typing import TYPE_CHECKING, Any

from exercising.workspace import Workspace

if TYPE_CHECKING:
    from torch import Tensor, nn

REMOVED = (5, 10, 20)  # pixels set to black
DRAWN = 6


def own(work: Workspace) -> dict[str, Any]:
    """The MNIST network: what each class looks for, and what its mistakes hang on."""
    import torch

    from datamodules import MNISTDataModule
    from interpretability import IntegratedGradients, load_model
    from interpretability.building_blocks import against
    from interpretability.drawing import draw_maps

    run, output = work.run_folder("mnist"), work.runs / "own"
    shown = "python scripts/explain.py features --model runs/mnist/VERSION"
    work.command("explain.py", "features", "--model", run, "--output", output, shown=shown)
    work.picture("task5-classes.png", output / "classes.png")
    model = load_model(str(run)).model
    data = MNISTDataModule(work.data_dir)
    images, labels = data.probe_batch("test", 10_000)
    with torch.no_grad():
        predicted = torch.cat([model(part).argmax(1) for part in images.split(500)])
    wrong = (predicted != labels).nonzero().flatten()
    x, truth, seen = images[wrong], labels[wrong], predicted[wrong]
    maps = torch.cat(
        [
            IntegratedGradients(model, n_steps=16)(x[i : i + 1], against(int(seen[i]), int(truth[i])))
            for i in range(len(wrong))
        ]
    )[:, 0]
    order = (-maps).flatten(1).argsort()
    chance = shuffled_ink(x)
    corrected = {str(n): accuracy_without(model, x, truth, order, n) for n in REMOVED}
    by_chance = {str(n): accuracy_without(model, x, truth, chance, n) for n in REMOVED}
    titles = [f"a {t}, seen as {s}" for t, s in zip(truth[:DRAWN], seen[:DRAWN])]
    work.picture("task5-mistakes.png", draw_maps(x[:DRAWN], {"speaks for the\nmistake": maps[:DRAWN]}, titles))
    ink = (x > 0.1).flatten(1).sum(1).float().mean()
    return {"mistakes": len(wrong), "corrected": corrected, "by_chance": by_chance, "ink": float(ink)}


def shuffled_ink(x: "Tensor") -> "Tensor":
    """For each image its pixels with ink in random order (N, H·W), then the others."""
    import torch

    ink = (x > 0.1).flatten(1)
    return (torch.rand(ink.shape, generator=torch.Generator().manual_seed(0)) - ink.float()).argsort()


def accuracy_without(model: "nn.Module", x: "Tensor", truth: "Tensor", order: "Tensor", n: int) -> float:
    """The share of images that are recognised once the first ``n`` pixels of ``order`` (N, H·W) are black."""
    import torch

    changed = x.flatten(1).scatter(1, order[:, :n], 0.0).view_as(x)
    with torch.no_grad():
        return float((model(changed).argmax(1) == truth).float().mean())


def page(work: Workspace) -> dict[str, Any]:
    """The page of a photo, with fewer visualisations than by default."""
    output = work.runs / "page"
    photo = work.photo("dog_cat")
    options = (
        "--model",
        "squeezenet1_0",
        "--weights",
        work.weights,
        "--target",
        "bull mastiff",
        "--target",
        "tiger cat",
    )
    quick = ("--pictured", 6, "--steps", 32, "--cache", work.runs / "cache", "--output", output)
    shown = "python scripts/explain.py page dog_cat.png --model squeezenet1_0 --weights FILE --target …"
    work.command("explain.py", "page", photo, *options, *quick, shown=shown)
    return {"megabytes": (output / "dog_cat.html").stat().st_size / 1e6}
