"""The exchange between the shared memory of one machine and the parameter server of the run.

To the processes of a machine, all other machines are one more worker: it changes the weights, it
counts steps, updates and games, in the last row of Hogwild's tables. A thread of the machine's main
process is that worker.
"""

import logging
import math
import threading
import time
from collections.abc import Callable

import numpy as np
import ray
import torch
from ray.exceptions import ActorDiedError, ActorUnavailableError, GetTimeoutError
from torch import nn

from hogwild import COUNTS, DIVERGED, OF_GAMES, WORKERS, FinishedGames, Hogwild
from model import flatten_parameters
from network import has_diverged
from parameter_server import DRIVER, News, Reply, Report, Said
from processes import Pulse
from utils import in_short

POLL_SECONDS = 0.01
REPORT_SECONDS = 0.5  # between two reports, at most
EXCHANGE_SECONDS = 10  # between two exchanges, however few updates there were
OPTIMIZER_SECONDS = 60  # between two copies of an optimizer that a machine sends
SILENT_SECONDS = 120  # after which a server or a machine that says nothing counts as dead


class Messages(logging.Handler):
    """Keeps what is logged, (level, text), until it is sent to the driver."""

    def __init__(self):
        super().__init__()
        self.kept: list[tuple[int, str]] = []

    def emit(self, record):
        self.kept.append((record.levelno, record.getMessage()))


class Exchanger(threading.Thread):
    """Sends what a machine's own updates have changed, and takes what the others changed.

    A difference is added to shared memory as workers add their updates, without a lock: where both
    write one number at one moment one of them is lost. If that is the difference, the next one
    takes it back on all other machines, too.

    machine: its number.  hogwild: what its processes share; nobody trains yet.
    model: of its own, to see whether weights are of use.
    every: updates of this machine after which it exchanges.
    server: the actor.  replace_server: called with the exchanger and the reason if that has died,
        to give it another if there is one.  on_silence: called with the exchanger if it says
        nothing.
    count_alive: how many workers live.  messages: for the driver's log.
    on_stop: called when the run is to end, maybe more than once.
    games: finished games of this machine; None for the driver, which writes down its own.
    on_news: called with what the driver alone is told.
    optimizer_for_driver: whether the driver, which has no workers, saves that of another machine.
    value_bias_is_a_mean: whether the bias of the value head follows the mean of the returns.
    """

    def __init__(
        self,
        machine: int,
        hogwild: Hogwild,
        model: nn.Module,
        every: int,
        server: ray.actor.ActorHandle,
        replace_server: Callable[["Exchanger", ActorDiedError], None],
        count_alive: Callable[[], int],
        messages: Messages,
        on_stop: Callable[[], None],
        games: FinishedGames | None = None,
        on_news: Callable[[News], None] = lambda news: None,
        on_silence: Callable[["Exchanger"], None] = lambda exchanger: None,
        optimizer_for_driver: bool = False,
        value_bias_is_a_mean: bool = False,
    ):
        super().__init__(name="exchange", daemon=True)
        self.machine, self.hogwild, self.every = machine, hogwild, every
        self.server, self.replace_server = server, replace_server
        self.count_alive, self.messages, self.games = count_alive, messages, games
        self.on_stop, self.on_news, self.on_silence = on_stop, on_news, on_silence
        self.row = len(hogwild.normalizers) - 1
        self.model, self.private = model, flatten_parameters(model)[0]
        self.mean_place = None  # in the vector
        if value_bias_is_a_mean:
            self.mean_place = model.critic_linear.bias.storage_offset()
        self.weights = hogwild.parameter.detach().numpy()  # (P,) in shared memory
        self.known = self.weights.copy()  # (P,) of the run, after the last exchange
        self.sent, self.change = np.empty_like(self.known), np.empty_like(self.known)
        self.number = 0  # of the last exchange
        self.others: dict[str, float] = {}  # totals
        self.unsent: list[tuple[float, int]] = []  # games
        self.unconfirmed: list[Said] = []  # sent, and the driver may not have it
        self.news: News | None = None
        self.sends_optimizer = optimizer_for_driver and machine != DRIVER
        self.optimizer_sent = -math.inf  # when
        self.exchanged = self.reported = time.monotonic()  # when
        self.updates = 0  # then
        self.ending = threading.Event()
        self.deadline = float("inf")
        self.unanswered = False  # a change was sent of which nobody knows whether it was added
        self.error = ""  # why the thread has ended before it was told to

    def run(self) -> None:
        try:
            self._exchange_until_the_end()
        except Exception as error:  # for whoever asks why it is no longer alive
            self.error = in_short(error)

    def _exchange_until_the_end(self) -> None:
        while not self.ending.wait(POLL_SECONDS):
            now = time.monotonic()
            own = self.row or 1  # a driver without workers goes by the updates of the others
            updates = int(self.hogwild.figures["updates"][:own].sum())
            # Workers die of weights that have diverged until those of the run are here again.
            diverged = bool(self.hogwild.figures[DIVERGED][: self.row].any())
            seconds = REPORT_SECONDS if diverged else EXCHANGE_SECONDS
            if updates - self.updates >= self.every or now - self.exchanged > seconds:
                self.updates = updates
                self.exchange()
                self.exchanged = time.monotonic()
            elif now - self.reported > REPORT_SECONDS:
                self.report()

    def finish(self, seconds: float) -> bool:
        """Exchange for the last time, after all other processes have ended.

        False if that was not to be had within so many seconds, or the driver does not yet have the
        last games and messages of this machine.
        """
        self.deadline = time.monotonic() + seconds
        self.ending.set()
        self.join(seconds)
        if self.is_alive():  # its call ends just now, or the cluster's head is silent
            return False
        if self.unanswered:  # another number for the same change: it might be added twice
            return False
        answered = self.exchange()
        while answered and self.unconfirmed:
            time.sleep(REPORT_SECONDS / 5)
            answered = self.report() and time.monotonic() < self.deadline
        return answered

    def report(self) -> bool:
        """Say what was counted and be told the same. False if it was given up."""
        return self._call(None) is not None

    def exchange(self) -> bool:
        """Add what this machine changed to the weights of the run, and the contrary."""
        np.copyto(self.sent, self.weights)
        np.subtract(self.sent, self.known, out=self.change)
        if self._of_no_use():
            self.messages.kept.append(
                (logging.ERROR, "diverged; what was changed since the last exchange is dropped")
            )
            for vector in (self.weights, self.sent):
                np.copyto(vector, self.known)
            self.change[:] = 0
        if self.mean_place is not None:
            # Every machine may have moved it most of the way: the sum of many would go too far, and
            # farther with each exchange. What the others did meanwhile may still go too far once.
            workers = self.hogwild.figures[WORKERS]
            self.change[self.mean_place] *= workers[: self.row].sum() / workers.sum().clamp(min=1)
        reply = self._call(self.change)
        if reply is None:
            return False
        if reply.refused:
            np.copyto(self.weights, reply.weights)
        else:
            np.subtract(reply.weights, self.sent, out=self.change)
            self.weights += self.change
        np.copyto(self.known, reply.weights)
        return True

    def _of_no_use(self) -> bool:
        """Whether the run is better without what is about to be sent."""
        if not np.isfinite(self.change).all():
            return True
        if not self.hogwild.figures[DIVERGED][: self.row].any():
            return False
        self.private.copy_(torch.from_numpy(self.sent))
        return has_diverged(self.model)

    def _call(self, change: np.ndarray | None) -> Reply | None:
        """Ask the server until it answers; None if the deadline has passed."""
        self._collect()
        totals = self.hogwild.figures.values[: self.row].sum(0).tolist()
        self.number += 1
        games, messages = self.unsent[:], self.messages.kept[:]
        del self.unsent[:], self.messages.kept[: len(messages)]
        if games or messages:
            self.unconfirmed.append(Said(self.number, games, messages))
        report = Report(
            dict(zip(self.hogwild.figures.columns, totals, strict=True)),
            self._own_normalizer(),
            self.count_alive(),
            self.unconfirmed,
        )
        # Put once, however often they are sent.
        sent = None if change is None else ray.put(change)
        optimizer = self._optimizer_to_send()
        # Of the server, however many of the calls fail; at most a second for each turn, so that the
        # time in which this machine sleeps is none.
        answer, silence = None, Pulse()
        while True:
            try:
                if answer is None:
                    answer = self.server.exchange.remote(
                        self.machine, self.number, report, sent, optimizer
                    )
                left = max(0.0, self.deadline - time.monotonic())
                reply = ray.get(answer, timeout=min(1.0, left))
                break
            except GetTimeoutError:
                pass
            except ActorUnavailableError:
                answer = None
                time.sleep(POLL_SECONDS)
            except ActorDiedError as error:
                answer, silence = None, Pulse()
                self.replace_server(self, error)
                time.sleep(POLL_SECONDS)
            given_up = self.ending.is_set() and self.deadline == float("inf")
            if given_up or time.monotonic() > self.deadline:
                self.unanswered |= change is not None
                return None
            self._collect()
            silence.stands_still(0, time.monotonic())
            if silence.still > SILENT_SECONDS:
                answer, silence = None, Pulse()
                self.on_silence(self)
        self.unconfirmed = [said for said in self.unconfirmed if said.number > reply.confirmed]
        self.reported = time.monotonic()
        self._take(reply)
        return reply

    def _collect(self) -> None:
        """Take the games that have ended, before others are written in their place."""
        if not self.games:
            return
        last = self.ending.is_set()
        self.unsent += [row[2:] for row in self.games.collect(last)]
        if self.games.lost:  # this machine was suspended, say
            lost, self.games.lost = self.games.lost, 0
            text = f"the CSV of training games lacks {lost} games: collected too late"
            self.messages.kept.append((logging.ERROR, text))

    def _optimizer_to_send(self) -> ray.ObjectRef | None:
        now = time.monotonic()
        due = self.sends_optimizer and now - self.optimizer_sent > OPTIMIZER_SECONDS
        if not (due and self.hogwild.figures["updates"][: self.row].any()):
            return None
        self.optimizer_sent = now
        state = self.hogwild.optimizers[0].state[self.hogwild.parameter]
        return ray.put({name: tensor.numpy() for name, tensor in state.items()})

    def _take_optimizer(self, state: dict[str, np.ndarray]) -> None:
        for name, array in state.items():
            own = self.hogwild.optimizers[0].state[self.hogwild.parameter][name]
            own.copy_(torch.from_numpy(array.copy()))

    def _own_normalizer(self) -> np.ndarray:
        begun = self.hogwild.normalizers[: self.row]
        begun = begun[begun[:, 0] > 0]
        return begun.mean(0).numpy() if len(begun) else np.zeros(3)

    def _take(self, reply: Reply) -> None:
        """Enter what the others did as a worker would: games before the steps that ended them."""
        known, self.others = self.others, {**self.others, **reply.others}
        # A server in a dead one's place may know of fewer; a run that stops goes on stopping.
        for name in COUNTS:
            self.others[name] = max(known.get(name, 0.0), self.others.get(name, 0.0))
        new = {name: n - known.get(name, 0.0) for name, n in self.others.items()}
        for name in ("games", *OF_GAMES, "number"):
            new.pop(name, None)
        if reply.news:
            self.news = reply.news
            if reply.news.optimizer:
                self._take_optimizer(reply.news.optimizer)
            for score, length in reply.news.games:
                self.hogwild.report_game(self.row, score, length, int(new.get("steps", 0)))
            self.on_news(reply.news)
        self.hogwild.report(self.row, **new)
        if reply.normalizer[0] > 0:  # or what a resumed run began with, or the last one, stays
            self.hogwild.normalizers[self.row] = torch.from_numpy(reply.normalizer.copy())
        if reply.stop:
            self.on_stop()
