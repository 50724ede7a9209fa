"""The README's figures are those of the published models, and it stays a page or two."""

import csv
import itertools
import json
import math
import re
import shutil
import statistics
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import results

import checkpoint
import gym_eval

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PONG = {"crop1": 34, "crop2": 34, "fire": False}


def test_the_table_of_the_readme_is_that_of_the_evaluations():
    lines = README.splitlines()
    assert [row for row in results.table() if row not in lines] == []


def test_every_picture_and_page_that_a_text_shows_is_there():
    for text in (ROOT / "README.md", *ROOT.glob("benchmarks/*.md")):
        shown = re.findall(r'\]\(([^):]+)\)|src="([^"]+)"', text.read_text(encoding="utf-8"))
        for name in filter(None, itertools.chain(*shown)):
            assert (text.parent / name).is_file(), name


def test_every_published_model_has_evaluations_of_its_policy_and_no_other_ones_are_there():
    known = set()
    for path in results.published("**/*.dat"):
        description = results.read(path)
        found = results.evaluations(path, description)
        assert description["policy"] in {one["policy"] for one in found}, path
        for one in found:
            known.add(gym_eval.published_path(path, one["policy"], one["seed"]))
            # A greedy agent plays one and the same game on an id without chance.
            games = results.episodes(path.stem, description["actions"], one["policy"])
            assert (one["episodes"], one["standard_error"] is None) == (games, games == 1)
            assert len(one["scores"]) == len(one["action_hashes"]) == games
            assert one["mean"] == pytest.approx(statistics.mean(one["scores"]))
    assert {*checkpoint.PUBLISHED.glob("**/evaluations/*")} == known


def test_the_readme_is_short():
    lines = README.splitlines()
    assert len(lines) <= 160
    assert max(map(len, lines)) <= 120


def rows(curve: str) -> list[tuple[float, float]]:
    """Minutes and score of each game of a kept curve."""
    with open(ROOT / "benchmarks/curves" / curve, encoding="utf-8") as file:
        return [(float(r["seconds"]) / 60, float(r["score"])) for r in csv.DictReader(file)]


def evaluations(curve: str) -> list[tuple[float, float]]:
    """Minutes and mean score of each evaluation."""
    grouped = itertools.groupby(rows(curve), key=lambda game: game[0])
    return [(at, statistics.mean(score for _, score in group)) for at, group in grouped]


def first_at(curve: str, score: float) -> int:
    """Minutes until the mean of the last 50 training games is there."""
    games = rows(curve)
    means = (
        (games[i][0], statistics.mean(score for _, score in games[i - 49 : i + 1]))
        for i in range(49, len(games))
    )
    return round(next(at for at, mean in means if mean >= score))


def test_what_tonight_brings_is_what_the_kept_curves_say():
    def score_at(minutes: float) -> float:
        return min(curve, key=lambda point: abs(point[0] - minutes))[1]

    def numbers(text: str) -> list[float]:
        return [float(number) for number in re.findall(r"\d+(?:\.\d)?", text)]

    tonight = {
        line.split(" | ")[0].strip("| "): line.split(" | ")[1:]
        for line in README.split("## What tonight brings")[1].split("- Speed")[0].splitlines()
        if line.startswith("| ")
    }
    first, then, end = tonight["Breakout-v0, two runs, training games"]
    curves = [f"Breakout-v0.early-entropy-seed-{seed}.training.csv" for seed in (1, 2)]
    for text in first, then:
        score, *minutes = numbers(text)
        assert minutes == sorted(first_at(curve, score) for curve in curves)
    games = rows(curves[1])
    score = statistics.mean(score for _, score in games[-50:])
    assert numbers(end) == [round(score, -1), round(games[-1][0])]
    curve = evaluations("Pong-v0.third-run.csv")
    first, then, end = tonight["Pong-v0"]
    assert numbers(first) + numbers(then) + numbers(end) == [0, 20, 12, 18, 1.8]
    assert score_at(20) > 0
    assert (round(score_at(60)), round(score_at(108))) == (12, 18)


@pytest.fixture
def copies(tmp_path, monkeypatch):
    """A folder of published models with Pong-v0 alone, whose weights are empty."""
    shutil.copy(ROOT / "trained_models/published/Pong-v0.json", tmp_path)
    (tmp_path / "Pong-v0.dat").touch()
    monkeypatch.setattr(checkpoint, "PUBLISHED", tmp_path)
    return tmp_path


def evaluation(folder: Path, **changes) -> Path:
    description = json.loads((folder / "Pong-v0.json").read_text(encoding="utf-8"))
    found = {
        "policy": "sampled", "seed": 3, "episodes": 100, "mean": 1.5, "standard_error": 0.5,
        "sha256": description["sha256"], "env": "Pong-v0", "frame_skip": [2, 3, 4],
        "repeat_action_probability": 0.25, "noops_at_start": 0, "max_idle_steps": None,
        "time_limit": "10000 agent steps", "count_lives": True, "game_config": PONG,
        "scores": [1.5] * 100, "action_hashes": ["0"] * 100, "versions": {}, **changes,
    }  # fmt: skip
    path = folder / "eval"
    path.write_text(json.dumps(found))
    return path


def test_an_evaluation_is_added_and_replaces_the_one_before(copies):
    gone = gym_eval.published_path(copies / "Pong-v0.dat", "greedy", 1)
    for mean in (1.5, 2.5):
        results.add([evaluation(copies, mean=mean)])
        gone.write_text('{"sha256": "of weights that are gone"}')
        shutil.copy(gone, gym_eval.published_path(copies / "Pong-v0.dat", "greedy", 7))
    results.add([evaluation(copies, policy="greedy", seed=7)])
    path = copies / "Pong-v0.json"
    found = results.evaluations(path, results.read(path))
    assert [(r["policy"], r["seed"], r["mean"]) for r in found] == [
        ("greedy", 7, 1.5),
        ("sampled", 3, 2.5),
    ]
    assert not gone.exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sha256": "0"}, "not published"),
        ({"episodes": 2}, "2 games in place of 100"),
        ({"scores": [1.5]}, "100 games in place of 100"),
        ({"action_hashes": None}, "action_hashes is None"),
        ({"versions": None}, "versions is None"),
        ({"episodes": 1, "standard_error": None}, "1 games in place of 100"),
        ({"policy": "epsilon-greedy"}, "epsilon-greedy, which the table has no column for"),
        ({"time_limit": "100 agent steps"}, "time_limit is 100 agent steps, in place of 10000"),
        ({"time_limit": "10000 frames"}, "time_limit is 10000 frames, in place of 10000 agent"),
        ({"time_limit": 5}, "time_limit is 5, in place of"),
        ({"env": "Pong-v4"}, "env is Pong-v4, in place of Pong-v0"),
        ({"mean": "x"}, "mean is 'x'"),
        ({"mean": math.nan}, "mean is nan"),
        ({"mean": None}, "mean is None"),
        ({"seed": "7"}, "seed is '7'"),
        ({"max_idle_steps": 5}, "max_idle_steps is 5, in place of None"),
        ({"game_config": PONG | {"crop1": 35}}, "game_config is {'crop1': 35, .*in place of"),
    ],
)
def test_an_evaluation_that_is_not_by_the_protocol_is_refused(copies, changes, words):
    good = evaluation(copies, seed=4).rename(copies / "good")
    with pytest.raises(ValueError, match=words):
        results.add([good, evaluation(copies, **changes)])
    assert not (copies / "evaluations").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"env": "Gopher-v0"}, "references.toml: random play of Gopher-v0 is missing"),
        ({}, "Pong-v0.json: no evaluation was added yet"),
    ],
)
def test_what_the_table_lacks_is_one_line(copies, changes, words):
    path = copies / "Pong-v0.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes))
    with pytest.raises(ValueError, match=words):
        results.table()


@pytest.mark.parametrize(("text", "words"), [("{}", ""), ("{", "Pong-v0.greedy.1.json: ")])
def test_a_damaged_file_beside_is_deleted_or_named_before_anything_is_written(copies, text, words):
    damaged = gym_eval.published_path(copies / "Pong-v0.dat", "greedy", 1)
    damaged.parent.mkdir()
    damaged.write_text(text)
    if words:
        with pytest.raises(ValueError, match=words):
            results.add([evaluation(copies)])
        assert [*damaged.parent.iterdir()] == [damaged]
    else:
        results.add([evaluation(copies)])
        assert not damaged.exists()


def test_one_game_is_all_where_there_is_no_chance():
    assert results.episodes("PongDeterministic-v4", ["NOOP", "FIRE"], "greedy") == 1
    assert results.episodes("PongDeterministic-v4", ["NOOP", "FIRE"], "sampled") == 100


@pytest.mark.parametrize("text", ["[]", "{}", "not json", '{"policy": "greedy"}', "3"])
def test_what_is_no_evaluation_is_one_line(tmp_path, text):
    (tmp_path / "eval").write_text(text)
    with pytest.raises(ValueError, match=r"^[^\n]*no evaluation of gym_eval.py[^\n]*$"):
        results.add([tmp_path / "eval"])


@pytest.mark.parametrize(
    ("mean", "error", "text"),
    [
        (20.0, 0.12, "20.00 ± 0.12"),
        (291.18, 9.9, "291.2 ± 9.9"),
        (291.18, 10.0, "291 ± 10"),
        (1048.04, 34.9, "1,048 ± 35"),
        (21.0, None, "21.00 (one game)"),
    ],
)
def test_a_score_has_as_many_digits_as_it_deserves(mean, error, text):
    assert results.score(mean, error) == text
