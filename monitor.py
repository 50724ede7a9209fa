"""What a run is doing: speed, scores, losses and entropy, from what its workers add up.

Read by the log lines, the display in the terminal and TensorBoard, each over a time of its own.
"""

import importlib
import itertools
import math
import time
from collections import deque
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from hogwild import COUNTS, OF_GAMES, OF_UPDATES, Hogwild

TENSORBOARD_SECONDS = 10  # between points of a curve
# Deviation of the policy between observations below which they are all the same to it. That of a
# new agent, whose actor is small, begins near there; in MsPacman-v0 it rises within 100,000 steps.
SAME_POLICY = 1e-4
SAME_STEPS = 200_000  # agent steps


class Snapshot(NamedTuple):
    """The totals of all workers at one moment."""

    second: float
    totals: dict[str, float]  # by the names of Hogwild.figures

    @classmethod
    def of(cls, server: Hogwild) -> "Snapshot":
        totals = server.figures.values.sum(0).tolist()
        return cls(time.monotonic(), dict(zip(server.figures.columns, totals, strict=True)))


class Figures(NamedTuple):
    """Means between two snapshots; nan of what did not happen between them."""

    speed: float  # agent steps per second
    games: int  # training games that ended
    policy_loss: float  # this and the next two: per agent step
    value_loss: float
    entropy: float  # of the policy, in nats
    policy_deviation: float  # of an action's probability, between the observations of an update
    cell: float  # mean |cx| of the LSTM; some tens: it is saturated
    value: float
    grad_norm: float  # before clipping
    clipped: float  # share of the gradients, 0 to 1
    learning_rate: float
    score: float  # raw, of training games
    length: float  # agent steps, of training games

    @classmethod
    def between(cls, before: Snapshot, after: Snapshot) -> "Figures":
        new = {name: after.totals[name] - before.totals[name] for name in after.totals}
        steps, updates, games = (new[name] for name in COUNTS)
        means = {name: new[name] / updates if updates else math.nan for name in OF_UPDATES}
        means |= {name: new[name] / games if games else math.nan for name in OF_GAMES}
        speed = steps / max(after.second - before.second, 1e-9)
        return cls(speed=speed, games=int(games), **means)


class SamePolicy:
    """Notices a policy that is one and the same in all observations for SAME_STEPS agent steps."""

    def __init__(self, steps: int):
        self.differed = steps  # when it last differed between observations
        self.said = False

    def check(self, steps: int, figures: Figures) -> bool:
        """Whether that is to be said now, once each time.

        figures: since the last call, of a run that is now at so many agent steps.
        """
        if not figures.policy_deviation < SAME_POLICY:  # nan: there was no update
            self.differed, self.said = steps, False
        due = steps - self.differed >= SAME_STEPS and not self.said
        self.said |= due
        return due


class Window:
    """The figures of the last `seconds`, however often they are read."""

    def __init__(self, server: Hogwild, seconds: float):
        self.server = server
        self.seconds = seconds
        self.snapshots = deque([Snapshot.of(server)])

    def read(self) -> Figures:
        now = Snapshot.of(self.server)
        self.snapshots.append(now)
        while now.second - self.snapshots[0].second > self.seconds and len(self.snapshots) > 2:
            self.snapshots.popleft()
        return Figures.between(self.snapshots[0], now)


class TensorBoard:
    """Curves, weight histograms and the graph in a folder for TensorBoard, against agent steps.

    model: its parameters are views of `weights`, a private vector (P,).

    Each further session of a run has a folder, and so curves, of its own in the one of the first.
    In one and the same curve, steps that were lost stay: TensorBoard's loader ignores a writer's
    purge_step, and cuts a curve only when that one gets a lower step.
    """

    def __init__(self, folder: Path, server: Hogwild, model: nn.Module, weights: torch.Tensor):
        from torch.utils.tensorboard import SummaryWriter  # only a run that wants it pays for it

        self.server, self.model, self.weights = server, model, weights
        sessions = itertools.chain([folder], (folder / f"session-{n}" for n in itertools.count(2)))
        self.writer = SummaryWriter(next(str(s) for s in sessions if not any(s.glob("events.*"))))
        state = torch.zeros(1, model.hidden_size)
        self.writer.add_graph(model, [(torch.zeros(1, 1, 80, 80), (state, state))])
        self.last = Snapshot.of(server)
        self.evaluations = 0

    def update(self, last: bool = False) -> None:
        """Write each new evaluation, and a point of each curve every TENSORBOARD_SECONDS.

        last: write all that is left, and close the files.
        """
        if self.server.evaluation["evaluations"] > self.evaluations:
            self.evaluations = int(self.server.evaluation["evaluations"])
            self._write_evaluation()
        now = Snapshot.of(self.server)
        new = now.totals["updates"] > self.last.totals["updates"]
        if new and (last or now.second - self.last.second >= TENSORBOARD_SECONDS):
            self._write_training(Figures.between(self.last, now))
            self.last = now
        if last:
            self.writer.close()

    def _write_training(self, figures: Figures) -> None:
        points = {
            "loss/policy": figures.policy_loss,
            "loss/value": figures.value_loss,
            "policy/entropy": figures.entropy,
            "policy/deviation": figures.policy_deviation,
            "lstm/mean abs cx": figures.cell,
            "value/mean": figures.value,
            "gradient/norm": figures.grad_norm,
            "gradient/clipped": figures.clipped,
            "gradient/learning rate": figures.learning_rate,
            "speed/agent steps per second": figures.speed,
        }
        if figures.games:
            points |= {"training/score": figures.score, "training/length": figures.length}
        steps = self.server.steps  # once: the workers go on
        for name, value in points.items():
            self.writer.add_scalar(name, value, steps)

    def _write_evaluation(self) -> None:
        """The score of the newest evaluation, and how the weights are distributed now."""
        evaluation = self.server.evaluation
        self.writer.add_scalar(
            "evaluation/score", float(evaluation["last_score"]), int(evaluation["last_steps"])
        )
        self.server.pull(self.weights)
        for name, parameter in self.model.named_parameters():
            self.writer.add_histogram(name.replace(".", "/"), parameter, self.server.steps)


def require(module: str, need: str) -> None:
    """ValueError, one line with the command that helps, if an optional module does not load.

    need: what needs which package.
    """
    try:
        importlib.import_module(module)
    except Exception as error:  # a package that does not fit the others may fail in any way
        reason = str(error).split("\n")[0]
        raise ValueError(f"{need}: pip install -r requirements-extra.txt ({reason})") from None
