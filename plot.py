"""Learning curves from the CSVs of runs: `python plot.py logs/Pong-v0.csv -o demo/Pong-v0.png`.

Each point is the mean score of one evaluation, with its standard error; the line is the mean over
the last evaluations.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import checkpoint
from monitor import require
from utils import LineParser, finite_float, positive_int

# Okabe and Ito's colours, which colour-blind people can tell apart; by turns with the dashes.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES = ("-", "--", "-.", ":")
FORMATS = ("png", "svg", "pdf")
UNITS = {"steps": "agent steps (millions)", "hours": "training time (hours)"}


def build_parser() -> LineParser:
    parser = LineParser(prog="plot.py", description="Plot learning curves from CSVs of runs.")
    parser.add_argument("csv", nargs="+", type=Path, metavar="CSV", help="LOG_DIR/ENV.csv of a run")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="FILE",
        help="picture to write: .png, .svg or .pdf",
    )
    parser.add_argument("--x", choices=tuple(UNITS), default="steps", help="horizontal axis")
    parser.add_argument(
        "--label", action="append", default=[], metavar="TEXT",
        help="name of a curve, once per CSV (default: the names of the files)",
    )
    parser.add_argument(
        "--reference", type=reference, action="append", default=[], metavar="NAME=SCORE",
        help="a horizontal line, such as a published score; may be repeated",
    )
    parser.add_argument(
        "--smooth", type=positive_int, default=5, metavar="N",
        help="evaluations behind each point of the line",
    )
    parser.add_argument("--title", default="", help="above the curves")
    return parser


def reference(text: str) -> tuple[str, float]:
    name, _, score = text.rpartition("=")
    if not name:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NAME=SCORE")
    return name, finite_float(score)


def read_evaluations(path: Path) -> np.ndarray:
    """(evaluations, 4): hours, agent steps, mean score and its standard error.

    ValueError: one line if there are none.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    try:
        rows = checkpoint.read_csv(path)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error})") from None
    if not rows:
        raise ValueError(f"{path}: no evaluated games in it")
    return checkpoint.by_evaluation(rows) / (3600, 1, 1, 1)


def running_mean(values: np.ndarray, count: int) -> np.ndarray:
    """Mean of each value and of up to count - 1 before it."""
    return np.array([values[max(0, i + 1 - count) : i + 1].mean() for i in range(len(values))])


def plot(args: argparse.Namespace) -> None:
    """ValueError: one line about what is wrong with the arguments."""
    if args.label and len(args.label) != len(args.csv):
        raise ValueError(f"{len(args.csv)} CSVs, but {len(args.label)} labels")
    curves = [read_evaluations(path) for path in args.csv]
    require("matplotlib.figure", "plot.py needs matplotlib")
    if args.output.suffix[1:] not in FORMATS:
        raise ValueError(f"{args.output}: ends in none of {', '.join(FORMATS)}")
    draw(args, curves).savefig(args.output, dpi=150)


def draw(args: argparse.Namespace, curves: Sequence[np.ndarray]):
    """The figure of these curves, each as read_evaluations gives it."""
    from matplotlib.figure import Figure

    labels = args.label or default_labels(args.csv)
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for i, (curve, label) in enumerate(zip(curves, labels, strict=True)):
        x = curve[:, 1] / 1e6 if args.x == "steps" else curve[:, 0]
        colour, dash = COLOURS[i % len(COLOURS)], DASHES[i // len(COLOURS) % len(DASHES)]
        axes.errorbar(x, curve[:, 2], curve[:, 3], fmt=".", color=colour, ecolor=(colour, 0.35))
        axes.plot(x, running_mean(curve[:, 2], args.smooth), dash, color=colour, label=label)
    for name, score in args.reference:
        axes.axhline(score, color="#555555", linestyle=":", linewidth=1)
        axes.annotate(
            f"{name}: {score:g}", (1, score), xycoords=("axes fraction", "data"),
            xytext=(-4, 3), textcoords="offset points", ha="right", color="#555555", fontsize=9,
        )  # fmt: skip
    axes.set(xlabel=UNITS[args.x], ylabel="score of a game (raw points)", title=args.title)
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    legend = "points: evaluations, with standard error"
    if args.smooth > 1:
        legend += f"\nlines: mean of the last {args.smooth}"
    axes.legend(frameon=False, title=legend, alignment="left")
    return figure


def default_labels(paths: Sequence[Path]) -> list[str]:
    """Names of the files, or their whole paths where names occur twice."""
    names = [path.stem for path in paths]
    return names if len(set(names)) == len(names) else [str(path) for path in paths]


def main(argv: Sequence[str] | None) -> int:
    """Run plot.py with these arguments; returns the exit code."""
    args = build_parser().parse_args(argv)
    try:
        plot(args)
    except (ValueError, OSError) as error:
        print(f"plot.py: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(None))
