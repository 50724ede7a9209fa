"""scores.py: intervals with known answers, the score of a run, the table of an experiment."""

import csv
import itertools
import json
import math

import numpy as np
import pytest

import checkpoint
import scores
from environment import game_name, known_env_ids
from scores import Experiment, Member

# Five seeds of three games, and what rliable 1.2.0 (get_interval_estimates, 50,000 draws) says of
# them: value, low, high.
GAMES = ([0.31, 0.74, 0.52, 1.13, 0.28], [-0.05, 0.12, 0.02, 0.33, 0.08], [2.4, 1.1, 3.7, 1.9, 2.8])
RLIABLE = {"mean": (1.02533333, 0.75333333, 1.298), "iqm": (0.71444444, 0.51333333, 1.01)}


@pytest.mark.parametrize("name", RLIABLE)
def test_the_interval_over_games_is_that_of_rliable(name):
    found = scores.bootstrap([np.array(game) for game in GAMES], getattr(scores, name))
    np.testing.assert_allclose(found, RLIABLE[name], atol=0.02)


def every_draw(games, statistic) -> list[float]:
    """The statistic of each draw of seeds that there is; all are equally likely."""
    draws = [itertools.product(game, repeat=len(game)) for game in games]
    return [statistic(list(drawn)) for drawn in itertools.product(*draws)]


def test_the_interval_is_that_of_all_possible_draws():
    games = [[0.0, 1.0, 5.0, 7.5], [-3.0, 2.0, 4.0]]
    means = every_draw(games, lambda drawn: sum(sum(d) / len(d) for d in drawn) / 2)
    assert len(means) == 4**4 * 3**3
    expected = np.percentile(means, (2.5, 97.5))
    found = scores.bootstrap([np.array(game) for game in games], draws=100_000)
    np.testing.assert_allclose(found, (2.1875, *expected), atol=0.05)
    middle = every_draw(games, lambda drawn: sum(sorted(sum(drawn, ()))[1:6]) / 5)
    expected = np.percentile(middle, (2.5, 97.5))
    found = scores.bootstrap([np.array(game) for game in games], scores.iqm, draws=100_000)
    np.testing.assert_allclose(found, (0 + 1 + 2 + 4 + 5) / 5 * np.array([1, 0, 0])
                               + [0, *expected], atol=0.05)  # fmt: skip


def test_three_seeds_show_the_span_of_their_scores():
    """The lowest mean of 27 draws has a weight of 1 / 27, which is more than 2.5 %."""
    assert scores.bootstrap([np.array([3.0, 10.0, 4.0])])[1:] == (3.0, 10.0)


def test_seeds_are_drawn_within_their_game():
    """Games that each score the same with all seeds leave nothing to chance."""
    found = scores.bootstrap([np.array([1.0, 1.0, 1.0]), np.array([100.0, 100.0])])
    assert found == (50.5, 50.5, 50.5)


def test_one_seed_has_no_interval():
    value, low, high = scores.bootstrap([np.array([3.0])])
    assert (value, math.isnan(low), math.isnan(high)) == (3.0, True, True)


def test_an_interval_along_a_curve_is_that_of_each_of_its_places():
    curves = np.random.default_rng(0).normal(size=(4, 7))  # seeds, places
    found = np.array(scores.bootstrap([curves, 2 * curves]))
    for place in range(7):
        one = scores.bootstrap([curves[:, place], 2 * curves[:, place]])
        np.testing.assert_allclose(found[:, place], one)


@pytest.mark.parametrize("seed", range(5))
def test_a_score_is_the_mean_of_a_tenth_of_the_run_or_of_the_last_20_games(seed):
    rng = np.random.default_rng(seed)
    steps = sorted(rng.integers(1, 1010, 150).tolist())
    rows = [(1.0, step, float(rng.integers(0, 99)), 9) for step in steps]

    def slowly(place: int) -> float:
        so_far = [row for row in rows if min(row[1], 1000) <= place]
        newest = [row[2] for row in so_far if min(row[1], 1000) > place - 100]
        newest = max(newest, [row[2] for row in so_far[-20:]], key=len)
        return sum(newest) / len(newest) if newest else math.nan

    places = [0, 1, 50, 333, 500, 999, 1000]
    expected = [slowly(place) for place in places]
    rng.shuffle(rows)  # workers write theirs as they find the time
    rows.sort(key=lambda row: row[1])
    np.testing.assert_allclose(scores.score_at(rows, places, 1000), expected)


def test_a_run_without_games_has_no_score():
    assert np.isnan(scores.score_at([], [10, 20], 20)).all()


def test_published_scores_are_of_games_that_there_are():
    games = {game_name(env_id) for env_id in known_env_ids()}
    known = scores.references()["random_and_human"]
    assert known.keys() <= games
    assert len(known) == 57
    assert scores.normalised("PongDeterministic-v4", np.array([-20.7, 14.6])).tolist() == [0, 1]


def experiment(root, ends: dict[tuple[str, str], list[float]], missing=()) -> Experiment:
    """An experiment whose runs have 30 training games and 8 evaluated ones of these scores."""
    members = []
    for (env, variant), found in ends.items():
        for seed, score in enumerate(found, 1):
            member = Member(env, variant, seed, ["--lr", "1"], ["abc"], 1000, 3600.0 * seed)
            if (env, variant, seed) in missing:
                member.steps = member.seconds = None
            files = member.files(root)
            files.csv.parent.mkdir(parents=True)
            rows = [(i * 30.0, i * 33, score, 33) for i in range(1, 31)]
            checkpoint.append_csv(files.training_csv, rows)
            checkpoint.append_csv(files.csv, [(900.0, 990, score + 1, 33)] * 8)
            members.append(member)
    made = Experiment(root, 1000, members)
    made.write()
    return made


ENDS = {
    ("Pong-v0", "base"): [-20.7, 14.6],
    ("Pong-v0", "low"): [-20.7, -20.7],
    ("Breakout-v0", "base"): [1.7, 30.5],
    ("Breakout-v0", "low"): [30.5, 30.5],
}


def test_the_table_has_each_game_and_variant_and_what_is_human_normalised(tmp_path):
    rows = scores.results(Experiment.read(experiment(tmp_path, ENDS).root))
    found = {(row.game, row.variant): row for row in rows}
    assert [row[:2] for row in rows[:4]] == list(ENDS)
    first = rows[0]
    assert (first.seeds, first.agent_steps, first.hours, first.commit) == (2, 1000, 1.5, "abc")
    np.testing.assert_allclose(first.training, (-3.05, -20.7, 14.6))
    np.testing.assert_allclose(first.evaluation, (-2.05, -19.7, 15.6))
    of_all = [found["human-normalised mean", variant].training for variant in ("base", "low")]
    np.testing.assert_allclose(of_all, [(0.5, 0, 1), (0.5, 0.5, 0.5)], atol=1e-12)
    assert ("human-normalised IQM", "low") in found


def test_a_game_without_published_scores_or_a_missing_one_leaves_out_what_is_human_normalised(
    tmp_path,
):
    ends = {("Pong-v0", "base"): [1.0], ("Carnival-v0", "base"): [1.0]}
    assert len(scores.results(experiment(tmp_path / "a", ends))) == 2
    missing = {("Breakout-v0", "low", seed) for seed in (1, 2)} | {("Pong-v0", "base", 2)}
    rows = scores.results(experiment(tmp_path / "b", ENDS, missing))
    assert [(row.game, row.variant, row.seeds) for row in rows][:4] == [
        ("Pong-v0", "base", 1), ("Pong-v0", "low", 2), ("Breakout-v0", "base", 2),
        ("human-normalised mean", "base", 2),
    ]  # fmt: skip
    assert scores.in_words(rows[0].training) == "-20.70"


def test_text_markdown_and_csv_say_the_same(tmp_path):
    rows = scores.results(experiment(tmp_path, ENDS))
    text, markdown = scores.as_text(rows).splitlines(), scores.as_markdown(rows).splitlines()
    for i, row in enumerate(rows):
        cells = [cell.strip() for cell in markdown[2 + i].strip("|").split("|")]
        assert " ".join(text[1 + i].split()) == " ".join(cells)
        assert cells[4] == scores.in_words(row.training)
    table = list(csv.DictReader(scores.as_csv(rows).splitlines()))
    assert [float(line["evaluation_high"]) for line in table] == [r.evaluation.high for r in rows]
    assert text[1].split() == [
        "Pong-v0", "base", "2", "1,000", "-3.05", "[-20.70,", "14.60]", "-2.05", "[-19.70,",
        "15.60]", "1.50", "abc",
    ]  # fmt: skip


RUN = {"env": "Pong-v0", "variant": "base", "seed": 1, "options": []}


@pytest.mark.parametrize(
    "content",
    [
        "{", "[]", '{"runs": []}', '{"max_steps": 1, "runs": [{}]}',
        *(json.dumps({"max_steps": n, "runs": [RUN]}) for n in ("2M", 2e6, 0, None, True, 2**63)),
        *(
            json.dumps({"max_steps": 1, "runs": [RUN | changed]})
            for changed in (
                {"seed": "1"}, {"env": 1}, {"env": "Pongg-v0"}, {"variant": 1}, {"options": ""},
                {"options": [1]}, {"commits": [None]}, {"sha256": []}, {"steps": "9"}, {"steps": 9},
                {"steps": 9, "seconds": "1"}, {"steps": 9.5, "seconds": 1.0}, {"new": 1},
            )
        ),
    ],
)  # fmt: skip
def test_a_damaged_experiment_is_one_line(content, tmp_path):
    Experiment.path(tmp_path).write_text(content)
    with pytest.raises(ValueError, match="no experiment of this suite") as error:
        Experiment.read(tmp_path)
    assert "\n" not in str(error.value)


def test_an_experiment_of_an_earlier_version_can_be_read(tmp_path):
    Experiment.path(tmp_path).write_text(json.dumps({"max_steps": 1, "runs": [RUN]}))
    assert Experiment.read(tmp_path).members == [Member("Pong-v0", "base", 1, [])]


def test_a_run_without_a_score_is_not_the_best_one():
    runs = np.array([[1.0, 2.0, 3.0, np.nan], [1.0, 2.0, 3.0, 4.0]])
    np.testing.assert_array_equal(scores.iqm([runs]), [np.nan, 2.5])
