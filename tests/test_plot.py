"""plot.py: the points are those of the CSV, and wrong input is one line."""

import numpy as np
import pytest
from matplotlib.colors import to_hex

import checkpoint
import plot

ROWS = [(1800.0, 100_000, -21.0, 1000), (1800.0, 100_000, -19.0, 1100), (3600.0, 200_000, 1.0, 9)]


@pytest.fixture
def csv(tmp_path):
    checkpoint.append_csv(tmp_path / "Pong-v0.csv", ROWS)
    return tmp_path / "Pong-v0.csv"


def figure(*options):
    args = plot.build_parser().parse_args([*map(str, options), "-o", "a.png"])
    return plot.draw(args, [plot.read_evaluations(path) for path in args.csv]).axes[0]


def test_an_evaluation_is_the_mean_of_its_games(csv):
    # -21 and -19: deviation 2 ** 0.5, of two games
    expected = [(0.5, 100_000, -20.0, 1.0), (1.0, 200_000, 1.0, np.nan)]
    np.testing.assert_allclose(plot.read_evaluations(csv), expected)


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


def test_each_curve_has_its_own_look_and_name(csv, tmp_path):
    others = [tmp_path / str(i) / "Pong-v0.csv" for i in range(8)]
    for path in others:
        path.parent.mkdir()
        path.write_bytes(csv.read_bytes())
    axes = figure(*others)
    lines = axes.lines[1::2]
    assert len({(to_hex(line.get_color()), line.get_linestyle()) for line in lines}) == 8
    assert len({text.get_text() for text in axes.get_legend().get_texts()}) == 8
    labelled = figure(others[0], others[1], "--label", "seed 1", "--label", "seed 2")
    assert [text.get_text() for text in labelled.get_legend().get_texts()] == ["seed 1", "seed 2"]


def test_the_legend_says_what_the_line_is(csv):
    def legend(*smooth):
        return figure(csv, *smooth).get_legend().get_title().get_text()

    assert legend() == "points: evaluations, with standard error\nlines: mean of the last 5"
    assert legend("--smooth", "1") == "points: evaluations, with standard error"


def test_a_running_mean_looks_back_only():
    np.testing.assert_allclose(plot.running_mean(np.arange(5.0), 3), [0, 0.5, 1, 2, 3])


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_a_picture_is_written(csv, tmp_path, suffix):
    picture = tmp_path / f"curve.{suffix}"
    assert plot.main([str(csv), "-o", str(picture)]) == 0
    start = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[suffix]
    assert picture.read_bytes().startswith(start)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.csv"], "no such file"),
        (["empty.csv"], "no evaluated games"),
        (["binary.csv"], "cannot be read"),
        (["Pong-v0.csv", "-o", "a.txt"], "png"),
        (["Pong-v0.csv", "-o", "nowhere/a.png"], "nowhere"),
        (["Pong-v0.csv", "--label", "a", "--label", "b"], "2 labels"),
        (["Pong-v0.csv", "--reference", "human"], "NAME=SCORE"),
        (["Pong-v0.csv", "--reference", "human=nan"], "nan"),
    ],
)
def test_wrong_input_is_one_line(arguments, message, csv, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.csv").write_text("seconds,agent_steps,score,length\n")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
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
