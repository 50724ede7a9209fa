"""Learning curves from the CSVs of runs: `python plot.py logs/Pong-v0.csv -o logs/Pong-v0.png`.

Evaluations, played greedily (on ids without chance by sampling): each point is the mean score of
one, with its standard error; the solid line joins them, or with `--smooth N` is the mean over the
last N. Training games, played by sampling: the dashed line is the mean over the last games.

Of an experiment's folder, `python plot.py runs/rates -o rates.png`: a panel for each game, with the
mean over seeds of each variant and its 95 % interval as a band, and one for the human-normalised
scores of all games; see scores.py. Published scores are lines, or stand at the upper edge.
"""

import argparse
import csv
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

import checkpoint
import scores
from checkpoint import TRAINING_ENDING
from environment import game_name, has_chance, parse_env_id
from monitor import require
from scores import Experiment, Score
from utils import LineParser, add_truth, count, finite_float, points, positive_int

# Okabe and Ito's colours, which colour-blind people can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
# Of evaluations and of training games; the next pair for the runs after the last colour.
DASHES = (
    ("-", (0, (4, 1.5))), ((0, (6, 1, 1, 1)), (0, (1, 1))), ((0, (8, 2)), (0, (2, 2))),
)  # fmt: skip
FORMATS = ("png", "svg", "pdf")
UNITS = {"steps": "agent steps (millions)", "hours": "training time (hours)"}
MEANS_HEADER = ("run", "agent_steps", "games", "mean_score")  # of benchmarks/curves
GAMES = 100  # training games that count as much as an evaluation
POINTS = 250  # of a line of training games: more would hide its dashes, and make a large file
# Of an experiment: the lines of variants differ without colours, too.
STYLES = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (6, 1.5, 1, 1.5)), (0, (10, 2)))
PLACES = 100  # of a line
BAND_DRAWS = 2000
COLUMNS = 3  # panels side by side
VARIANTS_A_PANEL = 2  # names in a row of the legend
NAME = 100  # points from a published score's name to the next beside it
ROOM = 1.0  # spans of the curves above them within which a published score is a line


class Curves(NamedTuple):
    """One run.  greedy: the policy of its evaluations, else they are sampled."""

    label: str
    greedy: bool
    evaluations: np.ndarray  # (evaluations, 4): hours, agent steps, mean score, standard error
    # (games, 4) or of whole groups of games: hours, agent steps, mean score, number of games.
    training: np.ndarray

    def with_times(self) -> "Curves":
        """Without training games of unknown time. ValueError: there is nothing else."""
        timed = self._replace(training=self.training[~np.isnan(self.training[:, 0])])
        if not len(timed.training) and not len(timed.evaluations):
            raise ValueError(f"{self.label}: its file has no times; give --x steps")
        return timed


NONE = np.empty((0, 4))
SCORES = {"training": "training games", "evaluation": "evaluations"}  # of --score


def build_parser() -> LineParser:
    parser = LineParser(prog="plot.py", description="Plot learning curves from CSVs of runs.")
    parser.add_argument(
        "csv", nargs="+", type=Path, metavar="CSV",
        help="LOG_DIR/ENV.csv of a run, with ENV.training.csv if it is beside it; or that alone; "
        "or one folder of experiment.py",
    )
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="FILE",
        help="picture to write: .png, .svg or .pdf",
    )
    parser.add_argument(
        "--x", choices=tuple(UNITS), default="steps", help="of files: horizontal axis"
    )
    parser.add_argument(
        "--label", action="append", default=[], metavar="TEXT",
        help="of files: name of a run, once for each (default: the names of the files)",
    )
    parser.add_argument(
        "--reference", type=reference, action="append", default=[], metavar="NAME=SCORE",
        help="a horizontal line, such as a published score, in plots of one game; may be repeated",
    )
    parser.add_argument(
        "--smooth", type=positive_int, default=1, metavar="N",
        help="of files: evaluations behind each point of a line, and "
        f"{GAMES} times as many training games",
    )
    parser.add_argument("--title", default="", help="above the curves")
    parser.add_argument(
        "--score", choices=tuple(SCORES),
        help="of an experiment: whether to show the scores of training games or of evaluations "
        "(default: training)",
    )
    add_truth(
        parser, "--iqm", default=False,
        help="of an experiment: interquartile means over seeds instead of means",
    )
    return parser


def reference(text: str) -> tuple[str, float]:
    name, _, score = text.rpartition("=")
    if not name:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NAME=SCORE")
    return name, finite_float(score)


def read(paths: Sequence[Path], labels: Sequence[str]) -> list[Curves]:
    """The runs of these files; ENV.csv and ENV.training.csv are of one.

    labels: one for each, or none.
    ValueError: one line about what is wrong with them.
    """
    files: dict[Path, Path] = {}
    for path in paths:
        files.setdefault(path.resolve(), path)
    implied = {_beside(file) for file in files}
    paths = [path for file, path in files.items() if file not in implied]
    if labels and len(labels) != len(paths):
        raise ValueError(f"{len(paths)} runs, but {len(labels)} labels")
    named = zip(paths, labels or default_labels(paths), strict=True)
    return [run for path, label in named for run in read_runs(path, label)]


def _beside(path: Path) -> Path | None:
    """Where the training games of a file of evaluations are."""
    if path.name.endswith(TRAINING_ENDING):
        return None
    return path.parent / (path.stem + TRAINING_ENDING)


def read_runs(path: Path, label: str) -> list[Curves]:
    """The run of a file; or the runs, if it has means of several. ValueError: it has none."""
    beside = _beside(path)
    has_training = beside is not None and beside.is_file()
    if not path.is_file() and not has_training:
        raise ValueError(f"{path}: no such file")
    evaluations, training = read_file(path) if path.is_file() else (NONE, {})
    if not training and has_training:
        _, training = read_file(beside)
    greedy = _evaluates_greedily(path)
    if len(evaluations) or len(training) == 1:
        return [Curves(label, greedy, evaluations, np.concatenate([NONE, *training.values()]))]
    if not training:
        raise ValueError(f"{path}: no games of a run in it")
    return [Curves(f"{label}: {name}", greedy, NONE, rows) for name, rows in training.items()]


def read_file(path: Path) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Curves.evaluations, and Curves.training of each run by its name, of one file.

    A file of training games has one row for each, or means over some of them.
    ValueError: it cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        rows = checkpoint.read_csv(path)
        table = list(csv.reader(lines)) if lines[:1] == [",".join(MEANS_HEADER)] else []
    except (OSError, csv.Error) as error:
        raise ValueError(f"{path}: cannot be read ({error})") from None
    if rows and _beside(path):
        return checkpoint.by_evaluation(rows) / (3600, 1, 1, 1), {}
    if rows:
        return NONE, {"": np.array([(row[0] / 3600, *row[1:3], 1) for row in rows])}
    runs: dict[str, list] = {}
    for row in table:
        try:
            name, (steps, games, score) = row[0], map(float, row[1:])
        except (IndexError, ValueError):
            continue  # the header, or a damaged line
        if math.isfinite(steps + score) and 1 <= games < math.inf:
            runs.setdefault(name, []).append((math.nan, steps, score, games))
    return NONE, {name: np.array(means) for name, means in runs.items()}


def running_mean(values: np.ndarray, count: int, games: np.ndarray | int = 1) -> np.ndarray:
    """Mean over as few of the values up to each as make `count` games, or over all up to it.

    games: behind each value, which weigh as much.
    """
    games = np.broadcast_to(games, values.shape)
    number = np.cumsum([0, *games])
    total = np.cumsum([0, *(games * values)])
    begin = np.maximum(0, np.searchsorted(number, number[1:] - count, side="right") - 1)
    return (total[1:] - total[begin]) / (number[1:] - number[begin])


def training_line(run: Curves, column: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Points of the mean over `count` training games against a column of theirs."""
    x, mean = run.training[:, column], running_mean(run.training[:, 2], count, run.training[:, 3])
    after = np.append(np.diff(x) != 0, True)  # after all games of that moment
    some = np.unique(np.linspace(0, after.sum() - 1, POINTS).round().astype(int))
    return x[after][some], mean[after][some]


def plot(args: argparse.Namespace) -> None:
    """ValueError: one line about what is wrong with the arguments."""
    folder = next((path for path in args.csv if path.is_dir()), None)
    if folder:
        if len(args.csv) > 1 or args.label or args.x != "steps" or args.smooth > 1:
            raise ValueError(
                f"{folder}: with a folder go no other files, --label, --x nor --smooth"
            )
        experiment = Experiment.read(folder)
        if args.reference and len({member.env for member in experiment.members}) > 1:
            raise ValueError(f"{folder}: --reference is a score in one game, here are several")
    else:
        if args.iqm or args.score:
            raise ValueError("--iqm and --score are of an experiment's folder, not of files")
        runs = read(args.csv, args.label)
        if args.x == "hours":
            runs = [run.with_times() for run in runs]
    require("matplotlib.figure", "plot.py needs matplotlib")
    form = args.output.suffix[1:].lower()
    if form not in FORMATS:
        raise ValueError(f"{args.output}: ends in none of {', '.join(FORMATS)}")
    figure = draw_experiment(args, experiment) if folder else draw(args, runs)
    try:
        checkpoint.write_atomically(
            args.output,
            # tight: with all of a legend or a title that is wider than the panels
            lambda file: figure.savefig(file, format=form, dpi=150, bbox_inches="tight"),
        )
    except OSError as error:
        raise ValueError(f"cannot write {args.output}: {error.strerror}") from None


def draw(args: argparse.Namespace, runs: Sequence[Curves]):
    """The figure of these runs."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    column, scale = (1, 1e6) if args.x == "steps" else (0, 1)
    games = args.smooth * GAMES
    legend = []
    for i, run in enumerate(runs):
        colour = COLOURS[i % len(COLOURS)]
        solid, dashed = DASHES[i // len(COLOURS) % len(DASHES)]
        if len(run.training):
            x, mean = training_line(run, column, games)
            axes.plot(x / scale, mean, linestyle=dashed, color=colour, linewidth=1.2)
        if len(run.evaluations):
            x, scores = run.evaluations[:, column] / scale, run.evaluations[:, 2]
            axes.errorbar(
                x, scores, run.evaluations[:, 3], fmt=".", color=colour, ecolor=(colour, 0.35)
            )
            axes.plot(x, running_mean(scores, args.smooth), linestyle=solid, color=colour)
        name = _literal(run.label)
        legend.append(Line2D([], [], color=colour, linestyle=solid, linewidth=4, label=name))
    for name, score in args.reference:
        axes.axhline(score, color="#555555", linestyle=":", linewidth=1)
        axes.annotate(
            f"{_literal(name)}: {points(score)}", (1, score), xycoords=("axes fraction", "data"),
            xytext=(-4, 3), textcoords="offset points", ha="right", color="#555555", fontsize=9,
        )  # fmt: skip
    axes.autoscale_view(scalex=False)  # room above a reference
    axes.set(xlabel=UNITS[args.x], ylabel="score of a game (raw points)")
    axes.set_title(_literal(args.title))
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    grey, (solid, dashed) = "#555555", DASHES[0]
    if policies := {run.greedy for run in runs if len(run.evaluations)}:
        policy = "greedy" if True in policies else "sampled"
        if len(policies) > 1:
            policy = "greedy, or sampled on ids without chance"
        label = f"{policy}: evaluations, with standard error"
        if args.smooth > 1:
            label += f"; mean of the last {args.smooth}"
        legend.append(Line2D([], [], color=grey, linestyle=solid, marker=".", label=label))
    if any(len(run.training) for run in runs):
        label = f"sampled: training games, mean of the last {games}"
        if any((run.training[:, 3] > 1).any() for run in runs):
            label += " or more"  # the file has means over groups of them
        legend.append(Line2D([], [], color=grey, linestyle=dashed, linewidth=1.2, label=label))
    # Below the axes, as no corner of them is free of curves for sure.
    figure.legend(handles=legend, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    figure.set_figheight(figure.get_figheight() + 0.2 * -(-len(legend) // 2))
    return figure


def member_curves(
    experiment: Experiment, kind: str, places: np.ndarray
) -> dict[str, dict[str, np.ndarray]]:
    """Scores by game and variant, (seeds, places): nan before the first game of a run and where it
    has not come to yet. Of a variant that has finished runs in a game, only those; variants of
    which no run has begun are left out.

    kind: one of SCORES.
    """
    found: dict[str, dict[str, np.ndarray]] = {}
    for (env, variant), members in experiment.groups().items():
        curves = []
        for member in [one for one in members if one.finished] or members:
            files = member.files(experiment.root)
            rows = checkpoint.read_csv(files.training_csv if kind == "training" else files.csv)
            if not rows:
                continue
            curve = scores.score_at(rows, places, experiment.max_steps)
            if not member.finished:
                curve[places > max(row[1] for row in rows)] = np.nan
            curves.append(curve)
        if curves:
            found.setdefault(env, {})[variant] = np.array(curves)
    return found


def published(env_id: str) -> dict[str, float]:
    """Scores of others in this game, by whom."""
    tables = scores.references()
    known = tables["random_and_human"].get(game_name(env_id))
    lines = dict(zip(("random play", "human"), known, strict=True)) if known else {}
    if env_id in tables["classic"]:
        lines["classic suite"] = tables["classic"][env_id][0]
    return lines


def draw_experiment(args: argparse.Namespace, experiment: Experiment):
    """The figure of an experiment. ValueError: nothing has been played yet."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    statistic = scores.iqm if args.iqm else scores.mean
    places = np.linspace(0, experiment.max_steps, PLACES + 1)[1:]
    unit, unit_name = (1e6, "millions") if experiment.max_steps >= 1e6 else (1e3, "thousands")
    kind = args.score or "training"
    curves = member_curves(experiment, kind, places)
    if not curves:
        raise ValueError(f"{experiment.root}: no {SCORES[kind]} have been played yet")
    panels = [(env, {v: [curve] for v, curve in found.items()}) for env, found in curves.items()]
    variants = list(dict.fromkeys(member.variant for member in experiment.members))
    together = {}
    for variant in variants:
        games = [scores.normalised(env, one[variant]) for env, one in curves.items()
                 if variant in one]  # fmt: skip
        if len(games) == len(curves) > 1 and all(game is not None for game in games):
            together[variant] = games
    if together:
        panels.append(("all games, human-normalised", together))
    columns = min(COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(0.5 + 3.6 * columns, 0.6 + 3 * rows), layout="constrained")
    for i, (name, found) in enumerate(panels):
        axes = figure.add_subplot(rows, columns, i + 1)
        for variant, games in found.items():
            score = scores.bootstrap(games, statistic, BAND_DRAWS)
            _draw_band(axes, places / unit, score, variants.index(variant))
        last = name not in curves
        lines = {"random play": 0.0, "human": 1.0} if last else published(name)
        lines |= {_literal(who): score for who, score in args.reference}
        _draw_published(axes, lines)
        axes.set(title=name, xlim=(0, experiment.max_steps / unit))
        axes.grid(alpha=0.3)
        if last or i % columns == 0:
            axes.set_ylabel("human-normalised score" if last else "score of a game")
    numbers = {len(seeds) for found in curves.values() for seeds in found.values()}
    least, most = min(numbers), max(numbers)
    seeds = count(most, "seed") if least == most else f"{least} to {most} seeds"
    name = "interquartile mean" if args.iqm else "mean"
    footer = f"agent steps ({unit_name})\n{SCORES[kind]}, {name} over {seeds}"
    if most > 1:
        banded = min(n for n in numbers if n > 1)
        narrow = "" if banded >= scores.ENOUGH_SEEDS else ", too narrow with so few seeds"
        footer += f"\nband: 95 % interval, stratified bootstrap{narrow}"
    figure.supxlabel(footer, fontsize=9)
    handles = [
        Line2D([], [], **_look(i), linewidth=2, label=variant)
        for i, variant in enumerate(variants)
        if any(variant in found for found in curves.values())
    ]
    in_a_row = min(len(handles), VARIANTS_A_PANEL * columns)
    figure.legend(
        handles=handles, title=_literal(args.title), loc="outside upper center", ncols=in_a_row,
        frameon=False,
    )  # fmt: skip
    # The legend takes its room beside the panels, not from them.
    figure.set_figheight(figure.get_figheight() + 0.22 * -(-len(handles) // in_a_row))
    return figure


def _look(i: int) -> dict:
    """Colour and dashes of the i-th variant."""
    return {"color": COLOURS[i % len(COLOURS)], "linestyle": STYLES[i % len(STYLES)]}


def _draw_band(axes, x: np.ndarray, score: Score, i: int) -> None:
    axes.fill_between(x, score.low, score.high, color=_look(i)["color"], alpha=0.2, linewidth=0)
    for edge in (score.low, score.high):  # bands that overlap can be told apart in grey, too
        axes.plot(x, edge, **_look(i), linewidth=0.6)
    axes.plot(x, score.value, **_look(i), linewidth=1.8)


def _draw_published(axes, lines: dict[str, float]) -> None:
    """Lines at those that are near the curves; the others by name at the upper edge."""
    low, high = axes.get_ylim()
    middle, limit = (low + high) / 2, high + ROOM * (high - low)
    lines = dict(sorted(lines.items(), key=lambda line: line[1]))
    far = [f"{name} {score:,g}" for name, score in lines.items() if score > limit]
    near = {name: score for name, score in lines.items() if score <= limit}
    for score in near.values():
        axes.axhline(score, color="#555555", linestyle=":", linewidth=1)
    low, high = axes.get_ylim()
    room = (high - low) / 12  # for a name
    above = 2 + len(far) if far else 1  # with the head, and the name of the topmost line
    low, high = low - room, high + room * above
    axes.set_ylim(low, high)
    last, right = -math.inf, 4
    for name, score in near.items():
        below = score < middle  # where the curves begin
        right = right + NAME if score - last < (high - low) / 12 else 4  # beside a close one
        last = score
        axes.annotate(
            f"{name} {score:,g}", (0, score), xycoords=("axes fraction", "data"),
            xytext=(right, -3 if below else 2), va="top" if below else "bottom",
            textcoords="offset points", color="#555555", fontsize=8,
        )  # fmt: skip
    if far:
        axes.annotate(
            "\n".join(["above:", *far]), (0, 1), xycoords="axes fraction", xytext=(4, -4), va="top",
            textcoords="offset points", color="#555555", fontsize=8,
        )  # fmt: skip


def _evaluates_greedily(path: Path) -> bool:
    """Whether a run's evaluations are greedy, by the id in the name; run.Run decides so, too."""
    env_id = path.name.split(".")[0].replace("ALE-", "ALE/")
    try:
        return has_chance(parse_env_id(env_id), ["NOOP"], greedy=True)
    except ValueError:  # a file of another name
        return True


def _literal(text: str) -> str:
    """What matplotlib draws as this text, not as a formula where there are two $."""
    return text.replace("$", r"\$")


def default_labels(paths: Sequence[Path]) -> list[str]:
    """Names of the files, or their whole paths where names occur twice."""
    names = [path.name.removesuffix(".csv").removesuffix(".training") for path in paths]
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
