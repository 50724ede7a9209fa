"""The processes of one machine, workers and maybe the test process: begin, replace, stop."""

import collections
import contextlib
import functools
import logging
import multiprocessing
import multiprocessing.connection
import time
from argparse import Namespace
from collections.abc import Callable
from multiprocessing.context import BaseContext

import gymnasium as gym

from hogwild import Hogwild
from options import workers_here
from processes import Pulse, end_fork_server, how, start_child
from stopping import StopSignal
from test import test_process
from train import train_process

STOP_SECONDS = 5  # for the processes to end by themselves; of 10 in which a run has to end
MAX_REPLACEMENTS = 10  # of processes that died, in any REPLACEMENT_SECONDS
REPLACEMENT_SECONDS = 600


class Processes:
    """The workers and, where the run is evaluated, the test process: started, replaced, stopped."""

    def __init__(
        self,
        server: Hogwild,
        args: Namespace,
        make_env: Callable[..., gym.Env],
        context: BaseContext,
        stop_signal: StopSignal,
        test: tuple | None = None,
        errors_to: str | None = None,
        reasons: str = "",
    ):
        """context: makes processes.  test: what test_process takes, if it is wanted.
        errors_to: see processes.become_child.  reasons: where the last words of a process are.
        """
        self.makers: list[Callable[[], multiprocessing.Process]] = []
        if test:
            self.makers.append(
                functools.partial(
                    context.Process, target=test_process, name="test process", args=test
                )
            )
        self.tests = len(self.makers)
        for rank in range(workers_here(args)):
            self.makers.append(
                functools.partial(
                    context.Process,
                    target=train_process,
                    name=f"worker {rank}",
                    args=(rank, args, server.for_process(rank), make_env, errors_to),
                )
            )
        self.running: list[multiprocessing.Process] = []
        self.pulses: list[Pulse] = []
        self.server = server
        # When, at most REPLACEMENT_SECONDS ago, and which.
        self.replaced: list[tuple[float, list[str]]] = []
        self.reasons = reasons
        self.stop_signal = stop_signal
        stop_signal.children = self.running

    def start(self) -> None:
        """Start all of them, or as many as there are when a stop is asked for."""
        self.stop_signal.on_stop = end_fork_server  # it may load for long before the first
        if self._stopping():  # since before that
            end_fork_server()
        for maker in self.makers:
            process = None if self._stopping() else start_child(maker, self._stopping)
            if not process:
                break
            self.running.append(process)
            self.pulses.append(Pulse())
            self.stop_signal.on_stop = None

    def _stopping(self) -> bool:
        return self.stop_signal.received

    def wait(self, seconds: float) -> None:
        """Until a process has ended, at most so long."""
        sentinels = [process.sentinel for process in self.running if process.is_alive()]
        multiprocessing.connection.wait(sentinels, timeout=seconds)

    def workers_alive(self) -> int:
        """Asked by other threads, too: one that is being replaced may be closed already."""
        alive = 0
        for process in self.running[self.tests :]:
            with contextlib.suppress(ValueError):
                alive += process.is_alive()
        return alive

    def replace_dead(self, logger: logging.Logger) -> bool:
        """Start anew whatever has died or hangs. False if that has happened too often.

        What dies at the same time dies of one cause, such as the end of the fork server, which
        takes all others along: it counts once.
        """
        self._kill_hanging(logger)
        if all(process.is_alive() for process in self.running):
            return True
        time.sleep(0.1)  # for those that die with it
        if self.server.stopped:  # they have ended, as they should
            return True
        dead = [i for i, process in enumerate(self.running) if not process.is_alive()]
        now, names = time.monotonic(), [self.running[i].name for i in dead]
        recent = [(t, those) for t, those in self.replaced if now - t < REPLACEMENT_SECONDS]
        self.replaced = [*recent, (now, names)]
        give_up = len(self.replaced) > MAX_REPLACEMENTS
        for i, name in zip(dead, names, strict=True):
            then = self._why_give_up(now) if give_up else "starting another"
            logger.error(f"{name} died, {how(self.running[i].exitcode)}; {then}")
        if give_up:
            return False
        for i in dead:  # if the fork server died, they may be alive: this tells them to end
            self.running[i].close()
        if len(dead) == len(self.running):  # it may have, and the next one may load for long
            self.stop_signal.on_stop = end_fork_server
        for done, i in enumerate(dead):
            another = None
            try:
                another = None if self._stopping() else start_child(self.makers[i], self._stopping)
            finally:
                self.stop_signal.on_stop = None
                if not another:  # nobody may ask the closed ones anything
                    left = dead[done:]
                    self.running[:] = [p for j, p in enumerate(self.running) if j not in left]
            if not another:
                break
            self.running[i], self.pulses[i] = another, Pulse()
        return True

    def _why_give_up(self, now: float) -> str:
        deaths = collections.Counter(name for _, names in self.replaced for name in names)
        return (
            f"giving up after {deaths.total()} deaths in {now - self.replaced[0][0]:.0f} s ("
            + ", ".join(f"{name}: {n}" for name, n in deaths.most_common())
            + f"); {self.reasons}"
        )

    def _kill_hanging(self, logger: logging.Logger) -> None:
        """End what has made no step for long; it is then replaced like any other dead process."""
        beats = [self.server.evaluation["beats"], *self.server.figures["steps"]][1 - self.tests :]
        for process, pulse, beat in zip(self.running, self.pulses, beats, strict=False):
            if pulse.stands_still(float(beat), time.monotonic()):
                logger.error(f"{process.name} hangs, no step for {pulse.limit} s; killing it")
                process.kill()
                process.join()

    def stop(self) -> None:
        """Ask every process to end, and end those that do not.

        Before the first update there is nothing to wait for: many workers on few cores take long
        to start, and see the flag only then.
        """
        self.server.stop()
        deadline = time.monotonic() + (STOP_SECONDS if self.server.has_learned else 0)
        for process in self.running:
            process.join(max(0.0, deadline - time.monotonic()))
        for process in self.running:
            process.kill()
        for process in self.running:
            process.join()
