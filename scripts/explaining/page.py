"""One self-contained HTML page that explains a prediction."""

import argparse
from pathlib import Path

import console
from explaining import inputs

CANDIDATES = 500  # training images, of which those are shown that speak for the decision


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this subcommand."""
    inputs.add_arguments(parser)
    parser.set_defaults(samples=1)
    group = parser.add_argument_group("page")
    group.add_argument("--layer", action="append", help="dotted module name, early to late; may be repeated")
    classes = "class index or name; the first is explained, the second stands against it; may be repeated"
    group.add_argument("--target", action="append", help=f"{classes} (default: the likeliest)")
    group.add_argument("--groups", type=int, default=6, help="neuron groups a layer")
    group.add_argument("--pictured", type=int, default=50, help="channels a layer that are visualised, at most 50")
    group.add_argument("--steps", type=int, default=64, help="of each visualisation")
    group.add_argument("--epsilon", type=float, help="the twin's largest change (default: 2/255; digits 0.15)")
    group.add_argument("--twin", help="class the adversarial twin is to be taken for (default: any but the right one)")
    group.add_argument("--cache", type=Path, help="for visualisations (default: $BACKLIT_CACHE, ~/.cache/backlit)")
    group.add_argument("--output", type=Path, default=Path("runs/page"), help="folder for the pages")


def run(args: argparse.Namespace) -> None:
    """Build and write a page for each image."""
    if args.groups < 1 or args.steps < 1 or not 0 <= args.pictured <= 50:
        raise console.UserError("--groups and --steps must be at least 1, --pictured between 0 and 50")
    given = inputs.load(args)

    from interpretability.page import PageOptions, PictureCache, build_page, write_page

    options = PageOptions(
        layers=args.layer or (),
        classes=given.targets(args.target or ()),
        n_groups=args.groups,
        pictured=args.pictured,
        steps=args.steps,
        epsilon=args.epsilon,
        twin=given.targets([args.twin])[0] if args.twin else None,
        progress=True,
        maps=args.maps,
        training=inputs.training_images(args, CANDIDATES),
    )
    cache = PictureCache(args.cache)
    model_name = called(args.model)
    for image, name in zip(given.images, given.names):
        html = build_page(
            given.model, image, given.class_names, model_name=model_name, image_name=name, options=options, cache=cache
        )
        path = write_page(html, args.output / f"{name}.html")
        print(f"{path}  {path.stat().st_size / 1e6:.1f} MB")


def called(model: str) -> str:
    """What the page calls the model: its name; of a run's checkpoint the experiment, of another its file."""
    from interpretability.loading import checkpoint_of

    path = checkpoint_of(model)
    if path is None:
        return model
    parents = path.resolve().parents
    return parents[2].name if len(parents) > 3 and path.parent.name == "checkpoints" else path.stem
