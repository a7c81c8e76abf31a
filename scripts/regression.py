"""Task 1: every regulariser on the eleven points, one picture and one table.

Trains all folds, settings and seeds as batched networks, chooses by leave-one-out, scores each choice on points
that it never saw, and writes pictures, a page to explore, a table and TensorBoard events.
"""

import sys
from pathlib import Path

import console
import devices

ACTIVATIONS = ("identity", "relu", "leaky_relu", "tanh", "sigmoid", "softplus", "gelu", "silu")


def parse() -> "console.argparse.Namespace":
    """The command line."""
    parser = console.ArgumentParser(prog=console.called("regression"), description=__doc__)
    parser.add_argument("--activation", default="tanh", help=f"the hidden nonlinearity: {', '.join(ACTIVATIONS)}")
    parser.add_argument("--updates", type=int, default=2000, help="updates of each network, a multiple of 20")
    parser.add_argument("--learning-rate", type=float, default=0.05, help="Adam's")
    parser.add_argument("--seeds", type=int, default=5, help="initial weights tried in every fold and setting")
    parser.add_argument("--final-seeds", type=int, default=20, help="initial weights of the fits that are drawn")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same table")
    parser.add_argument(
        "--weight-decays",
        type=float,
        nargs="+",
        default=[0.0, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2],
        metavar="λ",
        help="the grid of weight decay, with 0",
    )
    parser.add_argument(
        "--dropouts",
        type=float,
        nargs="+",
        default=[0.0, 0.02, 0.05, 0.1, 0.2],
        metavar="P",
        help="the grid of dropout, with 0",
    )
    parser.add_argument("--output", type=Path, default=Path("runs/regression"), help="the folder that is written")
    devices.add_argument(parser)
    return parser.parse_args()


def check(args: "console.argparse.Namespace") -> None:
    """Refuse what cannot be trained, naming the option."""
    if args.activation not in ACTIVATIONS:
        raise console.nearest(args.activation, ACTIVATIONS, "activation")
    rules = [
        ("updates", args.updates > 0 and args.updates % 20 == 0, "a positive multiple of 20"),
        ("learning-rate", 0 < args.learning_rate < float("inf"), "positive"),
        ("seeds", args.seeds >= 1, "at least 1"),
        ("final-seeds", args.final_seeds >= 1, "at least 1"),
        ("seed", args.seed >= 0, "at least 0"),
        ("weight-decays", 0.0 in args.weight_decays, "a grid that holds 0"),
        ("weight-decays", all(0 <= v < float("inf") for v in args.weight_decays), "at least 0 each"),
        ("dropouts", 0.0 in args.dropouts, "a grid that holds 0"),
        ("dropouts", all(0 <= v < 1 for v in args.dropouts), "in [0, 1) each"),
    ]
    for name, good, wanted in rules:
        if not good:
            raise console.UserError(f"--{name} must be {wanted}, not {getattr(args, name.replace('-', '_'))}")


def main() -> None:
    """Train, choose, draw, report."""
    args = parse()
    check(args)
    args.output.mkdir(parents=True, exist_ok=True)

    from tqdm import tqdm

    from interpretability.drawing import save_figure
    from regressing import drawing, experiment, explorer, fits, report, selection

    plan = experiment.Experiment(
        activation=args.activation,
        weight_decays=tuple(sorted(set(args.weight_decays))),
        dropouts=tuple(sorted(set(args.dropouts))),
        updates=args.updates,
        learning_rate=args.learning_rate,
        seeds=args.seeds,
        seed=args.seed,
        device=str(devices.chosen(args.device)),
    )
    total = experiment.total_progress(plan)
    with tqdm(total=total, desc="leave-one-out", unit="update", mininterval=0.5, file=sys.stderr) as bar:
        scores = experiment.score_all(plan, bar.update)
    outcomes = [selection.judge(plan, scores, variant) for variant in selection.variants(plan)]
    fitted = fits.fit_all(plan, outcomes, args.final_seeds)
    rows = report.table(outcomes, fitted)
    figures = {
        "regression": drawing.draw_regression(outcomes, fitted),
        "learning_curves": drawing.draw_learning_curves(plan, outcomes),
        "selection": drawing.draw_selection(plan, scores, outcomes),
    }
    for name, figure in figures.items():
        save_figure(figure, args.output / f"{name}.png", dpi=140)
    report.write_table(args.output / "regression.csv", rows)
    report.write_tensorboard(args.output, plan, outcomes, rows, figures)
    total = explorer.total_progress(plan, outcomes)
    with tqdm(total=total, desc="explorer", unit="update", mininterval=0.5, file=sys.stderr) as bar:
        explorer.write(args.output / "explorer.html", plan, outcomes, rows, bar.update)
    report.print_table(rows)
    print("loo_mse: every choice was made without the point it is scored on; selected_loo_mse: the score selected on")
    print(f"explore {args.output / 'explorer.html'}")
    print(f"written to {args.output}; tensorboard --logdir {args.output.parent}")


if __name__ == "__main__":
    console.run(main)
