"""What a run is doing: speed, scores, losses and entropy, from what its workers add up.

Read by the log lines, the display in the terminal, TensorBoard and the trackers, each over a time
of its own.
"""

import contextlib
import importlib
import io
import itertools
import logging
import math
import os
import tempfile
import time
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from environment import OBS_SHAPE
from hogwild import COUNTS, OF_GAMES, OF_UPDATES, Hogwild
from utils import in_short

CURVE_SECONDS = 10  # between points of a curve, TensorBoard's or a tracker's
BOARD_SECONDS = 60  # until one that failed is tried again
ROOM_BYTES = 2**16  # that a disk which was full must take before another file is begun
PROJECT = "a3c-lstm"  # that the runs belong to in a tracker


class Sign(NamedTuple):
    """Of an agent that learns nothing any more. All of it holds, for so many agent steps."""

    steps: int
    deviation: float = math.inf  # of an action's probability between observations: less than this
    cell: float = 0.0  # mean |cx| of the LSTM: this or more
    blind: float = 0.0  # share of the updates, see Figures: this or more

    def holds(self, figures: "Figures") -> bool:
        return (
            figures.policy_deviation < self.deviation
            and figures.cell >= self.cell
            and figures.blind >= self.blind
        )


# Each was in runs that learned nothing in 0.7 M steps and more, and in none of 21 others
# (benchmarks/learning.md, "What was tried", "A game without a table"). The policy of a new agent,
# whose actor is small, is nearly the same everywhere: in these for 0.7 M steps at most (Boxing-v0),
# but where no game scores it stays so.
SAME_POLICY = (
    Sign(200_000, deviation=1e-4),
    Sign(200_000, deviation=1e-2, cell=10.0),  # the LSTM is saturated
    Sign(750_000, deviation=2e-3),  # its gates may be closed, mean |cx| 0.01
)
# 0.92 and 0.99 in two runs whose filters were dead, 0 in runs that see ("Gradient centralization").
BLIND = (Sign(50_000, blind=0.5),)


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
    blind: float  # share of the updates in which no gradient reached the first convolution, 0 to 1
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


class Watch:
    """Notices what an agent does not come out of any more, by any of several signs.

    steps: agent steps of the run so far.
    """

    def __init__(self, signs: Sequence[Sign], steps: int):
        self.since = dict.fromkeys(signs, steps)  # agent step from which on each of them holds
        self.said = False

    def check(self, steps: int, figures: Figures) -> int:
        """Agent steps for which that has been so, if it is to be said now, once each time; else 0.

        figures: since the last call, of a run that is now at so many agent steps.
        """
        if math.isnan(figures.policy_deviation):  # there was no update
            return 0
        for sign in self.since:
            if not sign.holds(figures):
                self.since[sign] = steps
        spans = [steps - since for sign, since in self.since.items() if steps - since >= sign.steps]
        was_said, holds = self.said, any(since < steps for since in self.since.values())
        self.said = bool(spans) or (was_said and holds)  # once, as long as any of them goes on
        return 0 if was_said else max(spans, default=0)


def watch_policy(steps: int, samples: int) -> Watch:
    """For a policy that hardly differs between observations; samples: the fewest in an update."""
    return Watch(SAME_POLICY if samples > 1 else (), steps)  # a single one has no deviation


def watch_sight(steps: int) -> Watch:
    """For an agent that sees nothing; its policy may move with what the LSTM counts by itself."""
    return Watch(BLIND, steps)


class Window:
    """The figures of the last `seconds`, however often they are read; without the start-up."""

    def __init__(self, server: Hogwild, seconds: float):
        self.server = server
        self.seconds = seconds
        self.snapshots = deque([Snapshot.of(server)])

    def read(self) -> Figures:
        now = Snapshot.of(self.server)
        if not now.totals["steps"]:
            self.snapshots.clear()
        self.snapshots.append(now)
        while now.second - self.snapshots[0].second > self.seconds and len(self.snapshots) > 2:
            self.snapshots.popleft()
        return Figures.between(self.snapshots[0], now)


class Curves:
    """The points of a run's curves, each of them once."""

    def __init__(self, server: Hogwild):
        self.server = server
        self.last = Snapshot.of(server)
        self.evaluations = 0

    def new(self, last: bool = False) -> list[tuple[int, dict[str, float]]]:
        """Agent step and values by name: of each new evaluation, and every CURVE_SECONDS.

        last: all that is left.
        """
        self.evaluations, evaluated = self.server.evaluations_after(self.evaluations)
        found = [(steps, {"evaluation/score": score}) for steps, score in evaluated]
        now = Snapshot.of(self.server)
        learned = now.totals["updates"] > self.last.totals["updates"]
        if learned and (last or now.second - self.last.second >= CURVE_SECONDS):
            points = _training_points(Figures.between(self.last, now))
            found.append((self.server.steps, points))
            self.last = now
        return found


def _training_points(figures: Figures) -> dict[str, float]:
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
        "gradient/blind": figures.blind,
        "speed/agent steps per second": figures.speed,
    }
    if figures.games:
        points |= {"training/score": figures.score, "training/length": figures.length}
    return points


class Boards:
    """TensorBoard, a tracker: where the curves of a run go, and without which it goes on.

    makers: by its name, what makes it as soon as there is something to write.
    """

    def __init__(self, server: Hogwild, makers: dict[str, Callable[[], "TensorBoard | Tracker"]]):
        self.server, self.makers = server, makers
        self.made: dict[str, TensorBoard | Tracker] = {}
        self.leave_until: dict[str, float] = {}  # of one that failed: no attempt before

    def write(self, logger: logging.Logger, last: bool = False) -> None:
        """What is new. last: the run has ended."""
        if not self.server.has_learned:
            return  # a run that learned nothing leaves no files
        now = time.monotonic()
        for name, make in self.makers.items():
            until = self.leave_until.get(name, now)
            if now < until and not (last and until < math.inf):
                continue
            try:
                if name not in self.made:
                    self.made[name] = make()
                self.made[name].update(last)
            except Exception as error:  # of the disk, or of a library that the run can do without
                if name not in self.leave_until:
                    logger.error(f"cannot write for {name}: {in_short(error)}; the run goes on")
                # What cannot begin never will.
                again = name in self.made and self.made[name].recovers
                self.leave_until[name] = now + BOARD_SECONDS if again else math.inf


class TensorBoard:
    """Curves, weight histograms, graph and options in a folder for TensorBoard, by agent steps.

    model: its parameters are views of `weights`, a private vector (P,).  config: of this session.

    Each further session of a run has a folder, and so curves, of its own in the one of the first.
    In one and the same curve, steps that were lost stay: TensorBoard's window ignores a writer's
    purge_step, and cuts a curve only when that one gets a lower step; EventAccumulator cuts at a
    purge_step only (`findings/`).
    """

    recovers = True  # after a failure; see update()

    def __init__(
        self, folder: Path, server: Hogwild, model: nn.Module, weights: torch.Tensor, config: dict
    ):
        from torch.utils.tensorboard import SummaryWriter  # only a run that wants it pays for it

        self.curves, self.server, self.model, self.weights = Curves(server), server, model, weights
        self.config = config
        sessions = itertools.chain([folder], (folder / f"session-{n}" for n in itertools.count(2)))
        self.session = next(s for s in sessions if not any(s.glob("events.*")))
        self.make_writer = lambda: SummaryWriter(str(self.session))
        self.writer = self.make_writer()
        self.described = None  # the writer that has the options
        self.has_graph = False
        self.unwritten: list[tuple[int, dict[str, float]]] = []  # points, see Curves

    def update(self, last: bool = False) -> None:
        """Write what is new: at first options and graph, after an evaluation how the weights are
        distributed now.

        last: write all that is left, and close the files.
        Whatever error: the next call goes on with a file of its own, and without a graph that could
        not be drawn. Some points are then in both files. A writer that has failed once never
        writes again.
        """
        self.unwritten += self.curves.new(last)
        if not self.writer:
            with tempfile.TemporaryFile(dir=self.session) as file:  # or each try leaves a file
                file.write(bytes(ROOM_BYTES))
            self.writer = self.make_writer()
        try:
            self._write(last)
        except Exception:
            failed, self.writer = self.writer, None
            with contextlib.suppress(Exception):  # the same
                failed.close()
            raise

    def _write(self, last: bool) -> None:
        if self.described is not self.writer:
            self.described = self.writer
            cells = [(name, str(value).replace("|", "\\|")) for name, value in self.config.items()]
            rows = [f"| {name} | {value} |" for name, value in (("option", "value"), *cells)]
            self.writer.add_text("options", "\n".join([rows[0], "|---|---|", *rows[1:]]))
        if not self.has_graph:
            self.has_graph = True
            state = torch.zeros(1, self.model.hidden_size)
            inputs = [(torch.zeros(1, *OBS_SHAPE), (state, state))]
            # Traced here, because add_graph checks what it traces, and for that loads 500 modules.
            with warnings.catch_warnings(action="ignore"):  # torch.jit ends, and has nothing to do
                traced = torch.jit.trace(self.model, inputs, check_trace=False)
                self.writer.add_graph(traced, inputs)
        for steps, points in self.unwritten:
            for name, value in points.items():
                self.writer.add_scalar(name, value, steps)
            if "evaluation/score" in points:
                self._write_histograms()
        if self.unwritten:
            self.writer.flush()  # a thread of the writer writes: now it says whether it could
            self.unwritten = []
        if last:
            self.writer.close()

    def _write_histograms(self) -> None:
        self.server.pull(self.weights)
        for name, parameter in self.model.named_parameters():
            self.writer.add_histogram(name.replace(".", "/"), parameter, self.server.steps)


class Tracker:
    """The same curves in the record of a tracker, which later sessions of the run continue.

    kind: one of options.TRACKERS.  record_id: of the run.  config: of this session;
    trackio keeps that of the last session, wandb's files that of each.
    folder: where wandb's files go, unless WANDB_DIR says else.

    Steps that were lost before a resumption stay in the record.
    """

    recovers = False  # it may have waited long for its service

    def __init__(
        self, kind: str, server: Hogwild, name: str, record_id: str, config: dict, folder: str
    ):
        self.curves, self.server, self.step = Curves(server), server, -1
        self.log, self.finish = (_wandb if kind == "wandb" else _trackio)(
            name, record_id, config, folder
        )

    def update(self, last: bool = False) -> None:
        """Record what is new. last: all that is left, and end this session of the record."""
        for steps, points in self.curves.new(last):
            # Tenths of a second of training: it rises from session to session, as wandb wants it.
            self.step = max(self.step + 1, round(10 * self.server.seconds))
            self.log({"agent_steps": steps, **points}, self.step)
        if last:
            with contextlib.redirect_stdout(io.StringIO()):
                self.finish()


def _wandb(name: str, record_id: str, config: dict, folder: str) -> tuple[Callable, Callable]:
    """Functions that record points and end the record; offline unless WANDB_MODE says else."""
    import wandb

    record = wandb.init(
        project=PROJECT, name=name, id=record_id, resume="allow", config=config,
        dir=os.environ.get("WANDB_DIR", folder), mode=os.environ.get("WANDB_MODE", "offline"),
        # A run must stop within seconds; what is not sent by then, `wandb sync` sends.
        settings=wandb.Settings(console="off", silent=True, init_timeout=15, finish_timeout=5),
    )  # fmt: skip
    record.define_metric("*", step_metric="agent_steps")
    return lambda points, step: record.log(points, step=step), record.finish


def _trackio(name: str, record_id: str, config: dict, folder: str) -> tuple[Callable, Callable]:
    """Likewise, in trackio's own folder, where `trackio show` finds all runs."""
    import trackio

    with contextlib.redirect_stdout(io.StringIO()):  # it says how to show a dashboard
        trackio.init(
            project=PROJECT, name=f"{name} {record_id}", config=config, resume="allow",
            embed=False, auto_log_gpu=False, auto_log_cpu=False,
        )  # fmt: skip
    return lambda points, step: trackio.log(points, step=points["agent_steps"]), trackio.finish


def require(module: str, need: str) -> None:
    """ValueError, one line with the command that helps, if an optional module does not load.

    need: what needs which package.
    """
    try:
        importlib.import_module(module)
    except Exception as error:  # a package that does not fit the others may fail in any way
        reason = str(error).split("\n")[0]
        raise ValueError(f"{need}: pip install -r requirements-extra.txt ({reason})") from None
