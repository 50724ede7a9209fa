"""What the runs of an experiment say together: scores, their intervals, and a table of them.

An experiment is a folder that experiment.py fills: experiment.json names its runs, and each run has
a folder of its own.

The score of a run at an agent step is the mean over the games that ended in the tenth of the run
before it, or over the last 20 games up to it, whichever are more. An interval is that of a
stratified bootstrap: seeds are drawn with replacement within each game, and the middle 95 % of the
statistic over 10,000 draws are shown; see Agarwal et al. (2021), "Deep Reinforcement Learning at
the Edge of the Statistical Precipice". With few seeds it is too narrow, as three can show no more
than the span of their scores: of 2,000 samples from a normal distribution it held the true mean in
75 % with 3 seeds, 85 % with 5, 90 % with 10.
"""

import csv
import io
import json
import math
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

import checkpoint
from checkpoint import Files
from environment import file_name, game_name, parse_env_id

SHARE, GAMES = 0.1, 20  # of the run, games: behind each score
DRAWS = 10_000  # of a bootstrap
MIDDLE = (2.5, 97.5)  # percentiles between which an interval lies
ENOUGH_SEEDS = 10  # for an interval to be nearly as wide as it should be
REFERENCES = Path(__file__).parent / "benchmarks" / "references.toml"


@dataclass
class Member:
    """A run of an experiment."""

    env: str
    variant: str
    seed: int
    options: list[str]  # of main.py, besides those that experiment.py gives by itself
    commits: list[str] = field(default_factory=list)  # of the suite, that it ran with
    steps: int | None = None  # agent steps, once it is finished
    seconds: float | None = None  # of training, likewise
    # Of what lies in files and decides about it; none from versions that did not keep it.
    sha256: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.env} {self.variant} seed {self.seed}"

    @property
    def finished(self) -> bool:
        return self.steps is not None

    def folder(self, root: Path) -> Path:
        """For weights and logs alike; root: of the experiment."""
        return root / file_name(self.env) / self.variant / f"seed-{self.seed}"

    def files(self, root: Path) -> Files:
        folder = str(self.folder(root))
        return Files.of(file_name(self.env), folder, folder)


MEMBER_TYPES = {  # of what is read from experiment.json
    "env": str,
    "variant": str,
    "seed": int,
    "options": list,
    "commits": list,
    "steps": int | None,
    "seconds": float | int | None,
    "sha256": dict,
}


@dataclass
class Experiment:
    """root: its folder.  max_steps: agent steps of each run."""

    root: Path
    max_steps: int
    members: list[Member]

    def __post_init__(self):
        """ValueError: something in it is not of its type."""
        if type(self.max_steps) is not int or not 0 < self.max_steps < 2**63:
            raise ValueError(f"'max_steps' is {self.max_steps!r}")
        for member in self.members:
            for name, types in MEMBER_TYPES.items():
                if not isinstance(getattr(member, name), types):
                    raise ValueError(f"{name!r} is {getattr(member, name)!r}")
            parse_env_id(member.env)
            if not all(isinstance(text, str) for text in (*member.options, *member.commits)):
                raise ValueError("an option or a commit is no text")
            if member.finished != (member.seconds is not None):
                raise ValueError("only one of 'steps' and 'seconds' is there")

    @staticmethod
    def path(root: Path) -> Path:
        return root / "experiment.json"

    @classmethod
    def read(cls, root: Path) -> "Experiment":
        """ValueError: one line, if there is none in that folder or it cannot be read."""
        path = cls.path(root)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            return cls(root, content["max_steps"], [Member(**run) for run in content["runs"]])
        except FileNotFoundError:
            hint = "experiment.py makes one; of a single run give the file, as logs/Pong-v0.csv"
            raise ValueError(f"{root}: a folder without experiment.json; {hint}") from None
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path}: no experiment of this suite ({error!r})") from None

    def write(self) -> None:
        runs = [asdict(member) for member in self.members]
        text = json.dumps({"max_steps": self.max_steps, "runs": runs}, indent=2) + "\n"
        checkpoint.write_atomically(self.path(self.root), lambda file: file.write(text.encode()))

    def groups(self, finished: bool = False) -> dict[tuple[str, str], list[Member]]:
        """Members by game and variant, in their order.  finished: only those that are."""
        found: dict[tuple[str, str], list[Member]] = {}
        for member in self.members:
            if member.finished or not finished:
                found.setdefault((member.env, member.variant), []).append(member)
        return found


# ---------------------------------------------------------------------------------------------
# One run


def score_at(rows: Sequence[tuple], places: Sequence[float], max_steps: int) -> np.ndarray:
    """(places,): the score of a run at these agent steps; nan where no game had ended.

    rows: of a run's CSV.  A game that ended after max_steps, by a few, counts as if at it.
    """
    table = np.array(sorted(rows, key=lambda row: row[1]), float).reshape(-1, 4)
    steps = np.minimum(table[:, 1], max_steps)
    total = np.cumsum([0, *table[:, 2]])
    places = np.asarray(places, float)
    end = np.searchsorted(steps, places, side="right")
    begin = np.searchsorted(steps, places - SHARE * max_steps, side="right")
    begin = np.minimum(begin, np.maximum(0, end - GAMES))
    count = np.where(end > 0, end - begin, np.nan)
    return (total[end] - total[begin]) / count


# ---------------------------------------------------------------------------------------------
# Many runs: a list with one array (draws, seeds, ...) for each game becomes (draws, ...).


def mean(games: Sequence[np.ndarray]) -> np.ndarray:
    """Each game weighs the same, however many seeds it has."""
    return np.mean([scores.mean(1) for scores in games], axis=0)


def iqm(games: Sequence[np.ndarray]) -> np.ndarray:
    """Interquartile mean: of all runs together without the lowest and the highest quarter.

    nan where a run has no score.
    """
    scores = np.sort(np.concatenate(games, axis=1), axis=1)  # nan comes last
    cut = scores.shape[1] // 4
    middle = scores[:, cut : scores.shape[1] - cut].mean(1)
    return np.where(np.isnan(scores[:, -1]), np.nan, middle)


class Score(NamedTuple):
    """A statistic over seeds, and the interval of it; nan with a single seed."""

    value: float | np.ndarray
    low: float | np.ndarray
    high: float | np.ndarray


def bootstrap(
    games: Sequence[np.ndarray],
    statistic: Callable[[Sequence[np.ndarray]], np.ndarray] = mean,
    draws: int = DRAWS,
) -> Score:
    """games: one array (seeds, ...) for each. The same games give the same interval."""
    value = statistic([scores[None] for scores in games])[0]
    if all(len(scores) == 1 for scores in games):
        return Score(value, np.full_like(value, np.nan), np.full_like(value, np.nan))
    rng = np.random.default_rng(0)
    drawn = [scores[rng.integers(len(scores), size=(draws, len(scores)))] for scores in games]
    return Score(value, *np.percentile(statistic(drawn), MIDDLE, axis=0))


def references() -> dict[str, dict]:
    """The tables of published scores, by the names in the file, which also has their sources."""
    return tomllib.loads(REFERENCES.read_text(encoding="utf-8"))


def normalised(env_id: str, scores: np.ndarray) -> np.ndarray | None:
    """0 is random play, 1 a human tester; None if nothing is known of the game."""
    known = references()["random_and_human"].get(game_name(env_id))
    return known and (scores - known[0]) / (known[1] - known[0])


# ---------------------------------------------------------------------------------------------
# The table


class Row(NamedTuple):
    """Of the table: one game and variant, or a statistic over all games."""

    game: str
    variant: str
    seeds: int
    agent_steps: int  # of a run, on average
    training: Score
    evaluation: Score
    hours: float  # of training, of a run on average
    commit: str


HEADER = ("game", "variant", "seeds", "agent steps", "training games", "evaluations", "hours")
HEADER += ("commit",)
NOTE = (
    "Scores: of each run the mean over the games of its last tenth, or over its last 20 if those "
    "are more; then the mean over seeds and, in brackets, its 95 % interval, stratified bootstrap. "
    "Training games sample their actions; evaluations are greedy, sampled on ids without chance. "
    "Agent steps and hours are those of one run. With fewer than ten seeds an interval is too "
    "narrow: that of three, in one game, has the true mean in three cases of four. "
    "Human-normalised: between random play and a human tester, both without sticky actions."
)


def results(experiment: Experiment) -> list[Row]:
    """One row for each game and variant with finished runs; then human-normalised ones over games.

    These are there of variants that have finished runs in all games, if there are several games and
    published scores of all of them.
    """
    finished = experiment.groups(finished=True)
    rows, last = [], {}
    for (env, variant), members in finished.items():
        files = [member.files(experiment.root) for member in members]
        played = [[checkpoint.read_csv(path) for path in (f.training_csv, f.csv)] for f in files]
        ends = [[score_at(games, [experiment.max_steps], experiment.max_steps)[0] for games in one]
                for one in played]  # fmt: skip
        last[env, variant] = np.array(ends)  # (seeds, 2)
        rows.append(_row(env, variant, members, bootstrap([last[env, variant]])))
    games = list(dict.fromkeys(member.env for member in experiment.members))
    variants = list(dict.fromkeys(member.variant for member in experiment.members))
    for name, statistic in (("mean", mean), ("IQM", iqm)):
        for variant in variants:
            found = [normalised(env, last[env, variant]) for env in games if (env, variant) in last]
            known = [scores for scores in found if scores is not None]
            if len(games) > 1 and len(known) == len(games):
                members = [m for env in games for m in finished[env, variant]]
                name_of = f"human-normalised {name}"
                rows.append(_row(name_of, variant, members, bootstrap(known, statistic)))
    return rows


def _row(game: str, variant: str, members: Sequence[Member], scores: Score) -> Row:
    """scores: of training games and evaluations, (2,) each."""
    training, evaluation = (Score(*(float(part[i]) for part in scores)) for i in range(2))
    commits = dict.fromkeys(commit for member in members for commit in member.commits)
    return Row(
        game,
        variant,
        len({member.seed for member in members}),
        round(np.mean([member.steps for member in members])),
        training,
        evaluation,
        float(np.mean([member.seconds for member in members])) / 3600,
        " ".join(commits),
    )


def decimals(score: float) -> int:
    """Two below 100, one below 1,000, none above."""
    return sum(abs(score) < limit for limit in (100, 1000))


def in_words(score: Score) -> str:
    """'1.25 [0.50, 2.00]'; a dash for nan."""
    if math.isnan(score.value):
        return "-"
    value, low, high = (f"{part:,.{decimals(score.value)}f}" for part in score)
    return value if math.isnan(score.low) else f"{value} [{low}, {high}]"


def _cells(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    return [
        HEADER,
        *(
            (
                row.game, row.variant, str(row.seeds), f"{row.agent_steps:,}",
                in_words(row.training), in_words(row.evaluation), f"{row.hours:.2f}", row.commit,
            )
            for row in rows
        ),
    ]  # fmt: skip


def as_text(rows: Sequence[Row]) -> str:
    cells = _cells(rows)
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in cells]
    return "\n".join([*lines, "", NOTE, ""])


def as_markdown(rows: Sequence[Row]) -> str:
    header, *cells = ["| " + " | ".join(line) + " |" for line in _cells(rows)]
    return "\n".join([header, "|" + "---|" * len(HEADER), *cells, "", NOTE, ""])


def as_csv(rows: Sequence[Row]) -> str:
    """With all digits; an empty cell for nan."""
    text = io.StringIO()
    writer = csv.writer(text)
    scores = [f"{kind}_{part}" for kind in ("training", "evaluation") for part in Score._fields]
    writer.writerow(["game", "variant", "seeds", "agent_steps", *scores, "hours", "commit"])
    for row in rows:
        numbers = ["" if math.isnan(n) else n for n in (*row.training, *row.evaluation)]
        writer.writerow([*row[:4], *numbers, row.hours, row.commit])
    return text.getvalue()
