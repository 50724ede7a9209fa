"""What the machines of a run share: the weights and the counts of the whole run.

Each machine trains as Hogwild does, in its own memory. From time to time it sends what its own
updates have changed since it was here last, and takes what the others changed. Both are added; no
machine waits for another. Needs NumPy only, and knows nothing of Ray.

Reference: Dean et al. (2012), "Large Scale Distributed Deep Networks", Downpour SGD.
"""

import time
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

SERVER = "parameter server"  # name of the actor
TRAFFIC_SECONDS = 10  # over which the driver measures it
DRIVER = 0  # the machine where the command was given; the others have numbers from 1 on


class Said(NamedTuple):
    """What a machine has for the driver."""

    number: int  # of the exchange with which it was sent first
    games: list[tuple[float, int]]  # that had ended by then: raw score, agent steps
    messages: list[tuple[int, str]]  # likewise, for the log: level, text


class Report(NamedTuple):
    """What a machine says of itself."""

    totals: dict[str, float]  # sums of Hogwild.figures over its workers, since it joined
    normalizer: np.ndarray  # (3,) of its workers, see Hogwild.normalizer
    alive: int  # workers
    said: list[Said]  # all that the driver may not have: a server that dies takes it along


class News(NamedTuple):
    """What the driver alone is told."""

    games: list[tuple[float, int]]  # of all other machines, since it asked last
    messages: list[tuple[int, int, str]]  # likewise: machine, level, text
    optimizer: dict[str, np.ndarray] | None  # statistics of a machine, if there are newer ones
    said: dict[int, int]  # number of the exchange up to which it has those of a machine
    totals: dict[int, dict[str, float]]  # by machine; of what the weights of this reply hold
    alive: int  # workers of all other machines
    behind: float  # seconds since the last exchange of the machine that is furthest behind
    exchanges: int  # in all, but for the driver's own, which cross no network


class Reply(NamedTuple):
    """What a machine is told."""

    weights: np.ndarray | None  # (P,) of the run; None if it sent no change
    refused: bool  # its change was not finite, and was not added
    others: dict[str, float]  # sums over the totals of all other machines
    normalizer: np.ndarray  # (3,) mean over the workers of all other machines
    stop: bool  # the run is to end
    confirmed: int  # number of its last exchange of which the driver has what was said
    news: News | None


def recent_counts(
    seen: list[tuple[float, int]], newest: tuple[float, int]
) -> list[tuple[float, int]]:
    """How many exchanges there were when, in the last TRAFFIC_SECONDS and of one server."""
    now, exchanges = newest
    if seen and exchanges < seen[-1][1]:
        seen = []  # another server counts anew
    return [*(one for one in seen if now - one[0] <= TRAFFIC_SECONDS), newest]


class ParameterServer:
    """Owner of the weights (P,) and of what each machine has counted.

    states: names of the totals that say how a machine is, not what it has done.
    totals, left, said: of all machines, those that have gone, and News.said, where it takes another
        one's place.
    """

    def __init__(
        self,
        weights: np.ndarray,
        states: tuple[str, ...] = (),
        totals: Mapping[int, dict[str, float]] = MappingProxyType({}),
        left: Iterable[int] = (),
        said: Mapping[int, int] = MappingProxyType({}),
    ):
        self.weights = np.array(weights)  # a copy: what Ray hands over is read-only
        self.totals = dict(totals)
        self.normalizers: dict[int, np.ndarray] = {}  # of the machines that take part
        self.alive: dict[int, int] = {}
        self.exchanged: dict[int, float] = {}  # when
        self.states = states
        self.left: set[int] = set()
        self.exchanges = 0
        self.games: list[tuple[float, int]] = []  # that the driver has yet to take
        self.messages: list[tuple[int, int, str]] = []
        self.optimizer: dict[str, np.ndarray] | None = None  # likewise
        self.said = dict(said)  # the exchange up to which all that a machine said is here
        self.taken: tuple = [], [], None, dict(said)  # what the driver was given last
        self.confirmed = dict(said)  # like said, of what it surely has
        self.stopping = False
        for machine in left:
            self.leave(machine)

    def exchange(
        self,
        machine: int,
        number: int,
        report: Report,
        change: np.ndarray | None = None,
        optimizer: dict[str, np.ndarray] | None = None,
    ) -> Reply:
        """Add what a machine has changed, and say what there is now.

        number: of this exchange, ascending. One that comes again, because its reply was lost, is
            answered again and adds nothing.
        change: (P,), or None for a report alone.
        optimizer: statistics for the driver, if it has none of its own.
        """
        known = self.totals.get(machine, {}).get("number", 0)
        is_new = number > known
        for said in report.said:
            if said.number > self.said.get(machine, 0):
                self.said[machine] = said.number
                self.games += said.games
                self.messages += [(machine, *message) for message in said.messages]
        refused = change is not None and not np.isfinite(change).all()
        now = time.monotonic()
        if is_new:
            self.exchanges += change is not None and machine != DRIVER
            self.optimizer = optimizer or self.optimizer
            if change is not None and not refused:
                self.weights += change
        self.totals[machine] = {**report.totals, "number": max(number, known)}
        if machine in self.left:  # what was under way when it went
            self.totals[machine] |= dict.fromkeys(self.states, 0.0)
        else:
            self.normalizers[machine] = report.normalizer
            self.alive[machine] = report.alive
            if change is not None or machine not in self.exchanged:
                self.exchanged[machine] = now
        if is_new and machine == DRIVER:  # it has what it was given last
            self.confirmed = self.taken[-1]
            self.taken = self.games, self.messages, self.optimizer, self.said.copy()
            self.games, self.messages, self.optimizer = [], [], None
        return Reply(
            self.weights if change is not None else None,
            refused,
            self._others(machine),
            self._normalizer(machine),
            self.stopping,
            self.confirmed.get(machine, 0),
            self._news(now) if machine == DRIVER else None,
        )

    def _others(self, machine: int) -> dict[str, float]:
        others = [totals for other, totals in self.totals.items() if other != machine]
        names = others[0] if others else ()  # all have the same
        return {name: sum(totals[name] for totals in others) for name in names}

    def _normalizer(self, machine: int) -> np.ndarray:
        begun = {m: n for m, n in self.normalizers.items() if m != machine and n[0] > 0}
        if not begun:
            return np.zeros(3)
        workers = [self.totals[m]["workers"] for m in begun]
        return np.average(list(begun.values()), axis=0, weights=workers)

    def _news(self, now: float) -> News:
        alive = sum(alive for machine, alive in self.alive.items() if machine != DRIVER)
        behind = now - min(self.exchanged.values())
        return News(*self.taken, self.totals, alive, behind, self.exchanges)

    def current(self) -> np.ndarray:
        """The weights, (P,), for a machine that joins."""
        return self.weights

    def leave(self, machine: int) -> None:
        """A machine has gone: what it has done stays."""
        self.left.add(machine)
        if machine in self.totals:
            self.totals[machine] |= dict.fromkeys(self.states, 0.0)
        for table in (self.normalizers, self.alive, self.exchanged):
            table.pop(machine, None)

    def stop(self) -> None:
        """Tell every machine, with its next exchange, that the run is to end."""
        self.stopping = True
