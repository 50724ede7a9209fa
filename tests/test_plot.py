"""plot.py: the points are those of the CSV, and wrong input is one line."""

import csv as csv_module
import io
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

import checkpoint
import plot
from scores import ENOUGH_SEEDS, Experiment, Member

CURVES = sorted(Path(plot.__file__).parent.glob("benchmarks/curves/*.csv"))
ROWS = [(1800.0, 100_000, -21.0, 1000), (1800.0, 100_000, -19.0, 1100), (3600.0, 200_000, 1.0, 9)]
GAMES = [(900.0, 50_000, -21.0, 1000), (1800.0, 100_000, -18.0, 900), (2700.0, 150_000, -12.0, 9)]


@pytest.fixture
def csv(tmp_path):
    """Evaluations alone."""
    checkpoint.append_csv(tmp_path / "Pong-v0.csv", ROWS)
    return tmp_path / "Pong-v0.csv"


@pytest.fixture
def training(csv):
    """The training games of the same run."""
    path = csv.with_name("Pong-v0.training.csv")
    checkpoint.append_csv(path, GAMES)
    return path


def figure(*options):
    args = plot.build_parser().parse_args([*map(str, options), "-o", "a.png"])
    return plot.draw(args, plot.read(args.csv, args.label)).axes[0]


def legend(*options) -> list[str]:
    return [text.get_text() for text in figure(*options).figure.legends[0].get_texts()]


def test_the_legend_hides_no_curve(csv, training):
    copies = [shutil.copy(csv, csv.with_name(f"{i}.csv")) for i in range(8)]
    axes = figure(csv, *copies)
    assert len(legend(csv, *copies)) == 11
    axes.figure.draw_without_rendering()
    plotted, below = (a.get_tightbbox() for a in (axes, axes.figure.legends[0]))
    assert 0 < below.y1 < plotted.y0
    assert plotted.height > axes.figure.bbox.height / 2


def points(line) -> list[tuple[float, float]]:
    return [tuple(point) for point in line.get_xydata().round(6)]


def looks(lines) -> set:
    return {(to_hex(line.get_color()), str(line._unscaled_dash_pattern)) for line in lines}


def test_an_evaluation_is_the_mean_of_its_games(csv):
    # -21 and -19: deviation 2 ** 0.5, of two games
    expected = [(0.5, 100_000, -20.0, 1.0), (1.0, 200_000, 1.0, np.nan)]
    evaluations, training = plot.read_file(csv)
    np.testing.assert_allclose(evaluations, expected)
    assert training == {}


@pytest.mark.parametrize(("x", "expected"), [("steps", [0.1, 0.2]), ("hours", [0.5, 1.0])])
def test_the_points_are_those_of_the_csv(csv, x, expected):
    axes = figure(csv, "--x", x, "--smooth", "2", "--reference", "human=14.6")
    points, line, reference = axes.lines
    first = figure("--x", x, "--smooth", "2", "--reference", "human=14.6", csv)
    assert len(first.lines) == 3  # options before the files are understood, too
    np.testing.assert_allclose(points.get_xdata(), expected)
    np.testing.assert_allclose(points.get_ydata(), [-20, 1])
    np.testing.assert_allclose(line.get_ydata(), [-20, -9.5])
    assert set(reference.get_ydata()) == {14.6}
    assert axes.get_xlabel() == plot.UNITS[x]
    bar, no_bar = axes.collections[0].get_segments()  # a single game has no standard error
    np.testing.assert_allclose(bar[:, 1], [-21, -19])
    assert len(no_bar) == 0
    assert points.get_alpha() is None  # the bars alone are faint
    assert axes.collections[0].get_color()[0, 3] == pytest.approx(0.35)
    assert "human: 14.6" in [text.get_text() for text in axes.texts]


def test_a_reference_has_its_name_within_the_axes(csv):
    for score in (-21.0, 1.0, 2.0, 50.0):
        low, high = figure(csv, "--reference", f"human={score}").get_ylim()
        assert low + (high - low) / 50 < score < high - (high - low) / 30


@pytest.mark.parametrize(("x", "at"), [("steps", [0.05, 0.1, 0.15]), ("hours", [0.25, 0.5, 0.75])])
def test_training_games_are_a_dashed_line_of_the_mean_over_the_last(
    csv, training, x, at, monkeypatch
):
    monkeypatch.setattr(plot, "GAMES", 2)
    games, evaluations, line = figure(csv, "--x", x).lines
    assert points(games) == list(zip(at, [-21, -19.5, -15], strict=True))
    assert games.is_dashed()
    assert not line.is_dashed()
    assert games.get_color() == line.get_color() == evaluations.get_color()
    [alone] = figure(training, "--x", x).lines
    assert points(alone) == points(games)


def test_several_games_of_one_step_are_one_point(training):
    checkpoint.append_csv(training, [(2700.0, 150_000, 3.0, 9), (2700.0, 150_000, 6.0, 9)])
    [line] = figure(training).lines
    assert points(line)[2:] == [(0.15, -8.4)]


def test_many_training_games_are_few_points_from_the_first_to_the_last(tmp_path):
    path = tmp_path / "Pong-v0.training.csv"
    checkpoint.append_csv(path, [(i, i * 1000, float(i % 10), 1000) for i in range(1, 20_001)])
    [line] = figure(path).lines
    assert len(points(line)) == plot.POINTS
    assert (points(line)[0], points(line)[-1]) == ((0.001, 1.0), (20.0, 4.5))


def test_a_file_that_is_named_twice_is_one_run(csv, training, monkeypatch):
    monkeypatch.chdir(csv.parent)
    for again in (csv.name, f"../{csv.parent.name}/{csv.name}", training):
        assert len(plot.read([csv, Path(again)], [])) == 1


def test_a_run_is_named_once_by_whichever_of_its_files_it_is_given(csv, training):
    both = [
        "Pong-v0",
        "greedy: evaluations, with standard error",
        "sampled: training games, mean of the last 100",
    ]
    assert legend(csv) == legend(csv, training) == legend(training, csv) == both
    assert legend(training) == [both[0], both[2]]
    assert len(figure(training, csv).lines) == 3
    assert legend(csv, training, "--label", "a", "--smooth", "5") == [
        "a",
        "greedy: evaluations, with standard error; mean of the last 5",
        "sampled: training games, mean of the last 500",
    ]
    training.unlink()
    assert legend(csv) == both[:2]


def test_a_run_before_its_first_evaluation_shows_its_training_games(csv, training):
    csv.write_text("seconds,agent_steps,score,length\n")
    assert len(figure(csv).lines) == 1


def test_training_games_alone_are_found_by_the_name_of_the_run(csv, training):
    csv.unlink()
    assert legend(csv) == legend(csv, training) == legend(training)
    training.unlink()
    with pytest.raises(ValueError, match=r"Pong-v0\.csv: no such file"):
        figure(csv)


def test_damaged_lines_are_left_out(csv, training):
    for path in (csv, training):
        path.write_bytes(path.read_bytes() + b"\xff\xfe\0\r\n7.5,1")
    assert len(figure(csv).lines) == 3
    training.write_bytes(b"\xff\xfe\0")
    assert len(figure(csv).lines) == 2


def test_the_legend_says_which_policies_the_evaluations_had(csv):
    """PongDeterministic-v4 has no chance, so that its evaluations are sampled."""
    without_chance = csv.with_name("PongDeterministic-v4.csv")
    without_chance.write_bytes(csv.read_bytes())
    assert legend(csv)[-1] == "greedy: evaluations, with standard error"
    assert legend(without_chance)[-1] == "sampled: evaluations, with standard error"
    both = "greedy, or sampled on ids without chance: evaluations, with standard error"
    assert legend(csv, without_chance)[-1] == both
    checkpoint.append_csv(csv.with_name("Breakout-v0.training.csv"), GAMES)
    of_one = legend(without_chance, csv.with_name("Breakout-v0.training.csv"))
    assert of_one[2] == "sampled: evaluations, with standard error"


def test_each_run_has_its_own_look_and_name(csv, training, tmp_path):
    others = [tmp_path / str(i) / "Pong-v0.csv" for i in range(8)]
    for path in others:
        path.parent.mkdir()
        for file in (csv, training):
            path.with_name(file.name).write_bytes(file.read_bytes())
    lines = figure(*others).lines
    assert len(looks(lines[0::3])) == len(looks(lines[2::3])) == 8
    assert len(looks([*lines[0::3], *lines[2::3]])) == 16
    assert len(looks(figure(*others).figure.legends[0].get_lines()[:8])) == 8
    assert len(set(legend(*others))) == 8 + 2
    assert legend(others[0], others[1], "--label", "seed 1", "--label", "seed 2")[:2] == [
        "seed 1", "seed 2"
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["a$_{$", r"$\lambda$", r"\$5", "_a", "$"])
def test_texts_are_drawn_as_they_are(csv, experiment, text):
    options = (csv, "--label", text, "--title", text, "--reference", f"{text}=1")
    axes = figure(*options)
    lines = [axes.figure.legends[0].get_texts()[0], axes.title, axes.texts[0]]
    of_experiment = figure_of(experiment, "--title", text, "--reference", f"{text}=1")
    named = [one for one in of_experiment.axes[0].texts if one.get_text().endswith(" 1")]
    lines += [of_experiment.legends[0].get_title(), *named]
    for line in lines:
        drawn, is_math = line._preprocess_math(line.get_text())
        assert (drawn.removesuffix(" 1").removesuffix(":"), bool(is_math)) == (text, False)
    assert len(named) == 1
    axes.figure.savefig(io.BytesIO())


@pytest.mark.parametrize("path", CURVES, ids=lambda path: path.name)
def test_every_published_curve_can_be_drawn(path):
    lines = figure(path).lines
    for line in lines:
        assert len(line.get_xdata()) > 1
        assert np.isfinite(line.get_xydata()).all()
    header, *rows = csv_module.reader(path.read_text().splitlines())
    if header[0] == "run":
        assert len(lines) == len({row[0] for row in rows})
    elif path.name.endswith(".training.csv"):
        assert len(lines) == 1
    else:
        assert len(lines) == 2 + path.with_name(f"{path.stem}.training.csv").exists()


def test_means_over_groups_of_games_weigh_as_many_as_they_are_of(tmp_path, capsys):
    path = tmp_path / "Pong-v4.csv"
    path.write_text(
        "run,agent_steps,games,mean_score\n"
        'one,100000,30,-20\n"two, faster",100000,10,-19\n\none,200000,90,-10\n'
        "one,250000\none,300000,120,0\n"
    )
    one, two = figure(path).lines
    assert points(one) == [(0.1, -20), (0.2, -12.5), (0.3, 0)]
    assert points(two) == [(0.1, -19)]
    assert legend(path) == [
        "Pong-v4: one", "Pong-v4: two, faster",
        "sampled: training games, mean of the last 100 or more",
    ]  # fmt: skip
    assert plot.main([str(path), "--x", "hours", "-o", str(tmp_path / "a.png")]) == 2
    assert "Pong-v4: one: its file has no times; give --x steps" in capsys.readouterr().err


def test_a_running_mean_looks_back_only():
    np.testing.assert_allclose(plot.running_mean(np.arange(5.0), 3), [0, 0.5, 1, 2, 3])


@pytest.mark.parametrize("seed", range(10))
def test_a_running_mean_over_groups_is_that_over_the_fewest_that_are_enough(seed):
    rng = np.random.default_rng(seed)
    values, games, count = rng.normal(size=40), rng.integers(1, 9, 40), int(rng.integers(1, 60))

    def slowly(i: int) -> float:
        begin = i
        while begin > 0 and games[begin : i + 1].sum() < count:
            begin -= 1
        return np.average(values[begin : i + 1], weights=games[begin : i + 1])

    expected = [slowly(i) for i in range(40)]
    np.testing.assert_allclose(plot.running_mean(values, count, games), expected)


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf", "PNG"])
def test_a_picture_is_written(csv, tmp_path, suffix):
    picture = tmp_path / f"curve.{suffix}"
    assert plot.main([str(csv), "-o", str(picture)]) == 0
    start = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[suffix.lower()]
    assert picture.read_bytes().startswith(start)


def test_a_picture_that_cannot_be_written_leaves_the_old_one(csv, tmp_path, monkeypatch):
    picture = tmp_path / "curve.png"
    picture.write_text("old")

    def full(self, file, **options):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", full)
    assert plot.main([str(csv), "-o", str(picture)]) == 2
    assert picture.read_text() == "old"
    assert {path.name for path in tmp_path.iterdir()} == {csv.name, picture.name}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.csv"], "no such file"),
        (["Pong-v0.csv", "."], ".: with a folder go no other files"),
        (["Pong-v0.csv", "--iqm"], "--iqm and --score are of an experiment's folder"),
        (["Pong-v0.csv", "--score", "training"], "--iqm and --score are of an experiment's folder"),
        (["empty.csv"], "no games of a run in it"),
        (["binary.csv"], "no games of a run in it"),
        (["table.csv"], "no games of a run in it"),
        (["means.csv"], "no games of a run in it"),
        (["."], ".: a folder without experiment.json"),
        (["Pong-v0.csv", "-o", "a.txt"], "png"),
        (["Pong-v0.csv", "-o", "nowhere/a.png"], "cannot write nowhere/a.png: No such file"),
        (["Pong-v0.csv", "--label", "a", "--label", "b"], "1 runs, but 2 labels"),
        (["Pong-v0.csv", "--reference", "human"], "NAME=SCORE"),
        (["Pong-v0.csv", "--reference", "human=nan"], "nan"),
    ],
)
def test_wrong_input_is_one_line(arguments, message, csv, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.csv").write_text("seconds,agent_steps,score,length\n")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00" * 100_000)
    (tmp_path / "table.csv").write_text("name,age\nA,1\n")
    (tmp_path / "means.csv").write_text("run,agent_steps,games,mean_score\na,1,0,3\nb,1,nan,1\n")
    if "-o" not in arguments:
        arguments = [*arguments, "-o", "a.png"]
    try:
        code = plot.main(arguments)
    except SystemExit as error:
        code = error.code
    error = capsys.readouterr().err
    assert code == 2
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "a.png").exists()


@pytest.fixture
def experiment(tmp_path):
    """Two variants, three seeds of Pong: a game each 10,000 steps, whose score is seed and step."""
    members = []
    for variant, factor in (("base", 1), ("low", 2)):
        for seed in (1, 2, 6):
            member = Member("Pong-v0", variant, seed, [], [], 100_000, 60.0)
            files = member.files(tmp_path)
            files.csv.parent.mkdir(parents=True)
            steps = range(10_000, 100_001, 10_000)
            rows = [(float(step), step, float(seed * factor), 10) for step in steps]
            checkpoint.append_csv(files.training_csv, rows)
            members.append(member)
    made = Experiment(tmp_path, 100_000, members)
    made.write()
    return made


def figure_of(experiment: Experiment, *options):
    args = plot.build_parser().parse_args([str(experiment.root), "-o", "a.png", *options])
    return plot.draw_experiment(args, Experiment.read(experiment.root))


def test_an_experiment_is_a_mean_and_a_band_for_each_variant(experiment):
    figure = figure_of(experiment)
    [axes] = figure.axes  # with one game there is nothing to aggregate
    assert axes.get_title() == "Pong-v0"
    lows, highs, means = axes.lines[0:6:3], axes.lines[1:6:3], axes.lines[2:6:3]
    for factor, low, high, mean in zip((1, 2), lows, highs, means, strict=True):
        expected = [np.nan if x < 10 else 1.0 for x in mean.get_xdata()]  # thousands of steps
        np.testing.assert_allclose(mean.get_ydata(), np.multiply(expected, 3 * factor))
        np.testing.assert_allclose(low.get_ydata(), np.multiply(expected, factor))
        np.testing.assert_allclose(high.get_ydata(), np.multiply(expected, 6 * factor))
    assert len(looks(means)) == 2
    assert len({str(line._unscaled_dash_pattern) for line in means}) == 2  # without colours, too
    texts = " ".join(text.get_text() for text in axes.texts)
    for name in ("random play -20.7", "human 14.6", "classic suite 20.96"):
        assert name in texts
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["base", "low"]
    assert "mean over 3 seeds" in figure.get_supxlabel()
    with pytest.raises(ValueError, match="no evaluations have been played yet"):
        figure_of(experiment, "--score", "evaluation")


def test_seeds_and_variants_without_games_are_not_counted(experiment):
    base, low = experiment.members[:3], experiment.members[3:]
    for member in (base[0], *low):
        member.files(experiment.root).training_csv.unlink()
    figure = figure_of(experiment)
    assert "mean over 2 seeds\n" in figure.get_supxlabel()
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["base"]
    rows = [(1.0, 10_000, 5.0, 10)]
    checkpoint.append_csv(low[0].files(experiment.root).training_csv, rows)
    assert "mean over 1 to 2 seeds\n" in figure_of(experiment).get_supxlabel()


def last_place(figure) -> float:
    """Where the first variant's curve ends, in thousands of agent steps."""
    mean = figure.axes[0].lines[2]
    return mean.get_xdata()[~np.isnan(mean.get_ydata())].max()


def test_a_curve_is_of_finished_runs_or_ends_where_the_first_of_the_others_has_come_to(experiment):
    for member, steps in zip(experiment.members[:3], (90_000, 40_000, 80_000), strict=True):
        member.steps = member.seconds = None
        checkpoint.mend_csv(member.files(experiment.root).training_csv, steps)
    experiment.write()
    figure = figure_of(experiment, "--iqm")
    assert (last_place(figure), "mean over 3 seeds" in figure.get_supxlabel()) == (40, True)
    first = experiment.members[0]
    first.steps, first.seconds = 100_000, 60.0
    experiment.write()
    figure = figure_of(experiment)
    assert (last_place(figure), "mean over 1 to 3 seeds" in figure.get_supxlabel()) == (100, True)


def test_a_band_of_few_seeds_says_that_it_is_narrow_and_one_seed_has_none(experiment):
    assert "bootstrap, too narrow with so few seeds" in figure_of(experiment).get_supxlabel()
    base, low = experiment.members[:3], experiment.members[3]
    for seed in range(7, 4 + ENOUGH_SEEDS):
        more = replace(low, seed=seed)
        shutil.copytree(low.folder(experiment.root), more.folder(experiment.root))
        experiment.members.append(more)
    experiment.write()
    footer = figure_of(experiment).get_supxlabel()
    assert f"3 to {ENOUGH_SEEDS} seeds" in footer
    assert "too narrow" in footer
    for member in base:
        member.files(experiment.root).training_csv.unlink()
    assert figure_of(experiment).get_supxlabel().endswith("bootstrap")
    for member in experiment.members:
        if member.seed != 1:
            member.files(experiment.root).training_csv.unlink(missing_ok=True)
    assert "band" not in figure_of(experiment).get_supxlabel()


def boxes(figure, texts) -> list:
    """Places of these texts in the figure, in pixels."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return [text.get_window_extent(canvas.get_renderer()) for text in texts]


def test_what_is_wider_than_the_panel_of_one_game_is_in_the_picture(experiment, tmp_path):
    for variant in ("with-a-long-name", "with-a-longer-name", "with-the-longest-of-all"):
        member = Member("Pong-v0", variant, 1, [], [], 100_000, 60.0)
        files = member.files(tmp_path)
        files.csv.parent.mkdir(parents=True)
        checkpoint.append_csv(files.training_csv, [(1.0, 10_000, 1.0, 10)])
        experiment.members.append(member)
    experiment.write()
    picture = tmp_path / "a.png"
    assert plot.main([str(tmp_path), "-o", str(picture)]) == 0
    figure = figure_of(experiment)
    [legend] = figure.legends
    legend, footer = boxes(figure, (legend, figure._supxlabel))
    assert max(legend.x1, footer.x1) - min(legend.x0, footer.x0) < 2 * figure.bbox.width
    width = cv2.imread(str(picture)).shape[1] / 150 * figure.dpi
    assert width > max(legend.x1, footer.x1) - min(legend.x0, footer.x0) > figure.bbox.width


@pytest.mark.parametrize("last", [-15, -2, 0, 5, 20, 260])
def test_names_of_published_scores_are_in_the_panel_and_not_on_top_of_each_other(experiment, last):
    for member in experiment.members:
        path = member.files(experiment.root).training_csv
        path.unlink()
        seconds = np.arange(0.01, 1.001, 0.01)
        rows = [(s, round(s * 100_000), -20 + (last + 20) * s, 10) for s in seconds]
        checkpoint.append_csv(path, rows)
    for i, member in enumerate(experiment.members):  # three rows of the legend
        folder = member.folder(experiment.root)
        member.variant = f"variant-{i}"
        folder.parent.with_name(member.variant).mkdir()
        folder.rename(member.folder(experiment.root))
    experiment.write()
    figure = figure_of(experiment)
    [axes] = figure.axes
    panel, *names = boxes(figure, (axes, *axes.texts))
    assert len(names) > 1
    for i, box in enumerate(names):
        assert panel.y0 <= box.y0 < box.y1 <= panel.y1
        assert panel.x0 <= box.x0 < box.x1 <= panel.x1
        assert not any(box.overlaps(other) for other in names[:i])


def test_a_reference_is_a_line_of_an_experiment_in_one_game(experiment, capsys):
    (axes,) = figure_of(experiment, "--reference", "paper=7").axes
    assert [7, 7] in [list(line.get_ydata()) for line in axes.lines]
    assert "paper 7" in [text.get_text() for text in axes.texts]
    experiment.members.append(Member("Breakout-v0", "base", 1, [], []))
    experiment.write()
    assert plot.main([str(experiment.root), "-o", "a.png", "--reference", "paper=7"]) == 2
    assert "--reference is a score in one game, here are several" in capsys.readouterr().err


def test_several_games_have_a_panel_for_their_human_normalised_scores(experiment):
    for member in list(experiment.members):
        other = Member("Breakout-v0", member.variant, member.seed, [], [], 100_000, 60.0)
        files = other.files(experiment.root)
        files.csv.parent.mkdir(parents=True)
        checkpoint.append_csv(files.training_csv, [(1.0, 10_000, 30.5, 10)])
        experiment.members.append(other)
    experiment.write()
    *games, axes = figure_of(experiment).axes
    assert [one.get_ylabel() for one in games] == ["score of a game", ""]
    assert axes.get_ylabel() == "human-normalised score"
    assert axes.get_title() == "all games, human-normalised"
    of_pong = np.mean([(score + 20.7) / (14.6 + 20.7) for score in (1, 2, 6)])
    assert axes.lines[2].get_ydata()[-1] == pytest.approx((of_pong + 1) / 2)


def test_a_folder_that_is_no_experiment_and_options_of_files_are_one_line(
    experiment, tmp_path, capsys
):
    wrong = {
        (str(tmp_path / "Pong-v0"),): "Pong-v0: a folder without experiment.json",
        (str(tmp_path), "--x", "hours"): "with a folder go no other files",
        (str(tmp_path), "--smooth", "5"): "with a folder go no other files",
        (str(tmp_path), str(tmp_path)): "with a folder go no other files",
    }
    for arguments, message in wrong.items():
        assert plot.main([*arguments, "-o", str(tmp_path / "a.png")]) == 2
        error = capsys.readouterr().err
        assert (message in error, error.count("\n")) == (True, 1)
    assert plot.main([str(tmp_path), "-o", str(tmp_path / "a.svg")]) == 0
