"""What a machine does that is not the driver's: an actor of Ray with workers of its own."""

import contextlib
import copy
import functools
import hashlib
import logging
import os
import signal
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import ray
import torch
from ray.exceptions import ActorDiedError, ActorUnavailableError, GetTimeoutError

import checkpoint
import network
from exchange import SILENT_SECONDS, Exchanger, Messages
from group import Processes
from hogwild import FinishedGames, Hogwild
from messages import slow
from model import make_model
from parameter_server import SERVER
from processes import child_context
from run import make_optimizer
from stopping import StopSignal

JOIN_SECONDS = 0.5  # between two attempts to reach the server
LAST_SECONDS = 5  # for the last exchange
MACHINE = 3  # first word of the stream of a machine's seed; see utils.game_seed


class Job(NamedTuple):
    """What every machine has to know of a run."""

    args: Namespace
    make_env: Callable[..., gym.Env]
    num_actions: int
    versions: dict[str, str]  # those of the driver's machine, see versions
    optimizers: list[dict]  # state dicts of the driver's machine
    normalizer: torch.Tensor  # (3,) of the run
    steps: int  # agent steps of earlier sessions


def versions() -> dict[str, str]:
    """What must be the same on all machines: of Python, of packages, of the suite's own files."""
    suite = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        suite.update(path.read_bytes())
    packages = {name: _version(name) for name in ("numba", "ray")}
    return {**checkpoint.versions(), **packages, "the suite": suite.hexdigest()[:12]}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # Numba may be missing
        return "none"


class Machine:
    """Trains with workers of its own until the run stops."""

    def train(
        self, number: int, workers: int, job: list[ray.ObjectRef], server: ray.actor.ActorHandle
    ) -> str:
        """Returns why this machine takes part no more; nothing if the run stops.

        number: of the machine.  job: one Job.
        RuntimeError: its exchange failed; another attempt may succeed.
        """
        job = _get(job[0], SILENT_SECONDS)
        here = versions()
        if wrong := [f"{name} {here[name]}" for name, v in job.versions.items() if here[name] != v]:
            there = [f"{name} {v}" for name, v in job.versions.items() if here[name] != v]
            return f"it has {', '.join(wrong)}, but the driver's machine {', '.join(there)}"
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is for the driver
        del sys.modules["__main__"].__file__  # Ray's; every child process would load it
        args = copy.copy(job.args)
        args.workers, args.driver_workers = workers, None
        seeds = np.random.SeedSequence(job.args.seed, spawn_key=(MACHINE, number))
        args.seed = int(seeds.generate_state(1, np.uint64)[0] >> 1)
        torch.set_num_threads(1)
        model = make_model(job.num_actions, args.hidden_size)
        server, found = _join(server)
        weights = torch.from_numpy(np.array(found))  # ours to change
        one = args.shared_optimizer
        hogwild = Hogwild(
            weights,
            functools.partial(make_optimizer, args),
            workers,
            1 if one else workers,
            job.optimizers,
            job.steps,
            max_steps=args.max_steps or float("inf"),
            several_machines=True,
        )
        hogwild.normalizers[:] = job.normalizer
        messages, logger = Messages(), logging.Logger("machine")
        logger.addHandler(messages)
        if (nice := os.getpriority(os.PRIO_PROCESS, 0)) > 0:
            logger.info(f"trains at niceness {nice}; RAY_worker_niceness=0 ray start changes that")
        if not args.plain and (reason := network.why_plain(model)):
            logger.info(slow(reason))
            args.plain = True
        stop_signal = StopSignal()
        processes = Processes(
            hogwild, args, job.make_env, child_context(args.plain), stop_signal,
            reasons="why is in Ray's log of that machine",
        )  # fmt: skip

        def stop() -> None:
            stop_signal.received = True
            hogwild.stop()

        exchanger = Exchanger(
            number, hogwild, model, args.exchange_updates, server, _find_server,
            processes.workers_alive, messages, stop, FinishedGames(hogwild),
            optimizer_for_driver=job.args.driver_workers == 0,
            value_bias_is_a_mean=args.value_mean_step > 0,
        )  # fmt: skip
        exchanger.start()
        healthy = True
        try:
            processes.start()
            while healthy and not hogwild.stopped:
                processes.wait(0.2)
                healthy = processes.replace_dead(logger) and exchanger.is_alive()
        finally:
            processes.stop()
            heard = exchanger.finish(LAST_SECONDS)
        if exchanger.error:
            raise RuntimeError(f"its exchange failed: {exchanger.error}")
        if not heard:
            raise RuntimeError("it was not heard at its end")
        return "" if healthy else "its workers died too often"


def _get(ref: ray.ObjectRef, seconds: float) -> Any:
    """What comes from the driver's machine."""
    try:
        return ray.get(ref, timeout=seconds)
    except GetTimeoutError:
        raise RuntimeError(
            f"no answer of the driver's machine in {seconds} s; does a firewall shut off its ports?"
        ) from None


def _join(server: ray.actor.ActorHandle) -> tuple[ray.actor.ActorHandle, np.ndarray]:
    """The server, or what the driver has put in its place meanwhile, and the weights of the run."""
    seconds = 2 * SILENT_SECONDS  # the driver replaces a silent one after half of that
    deadline = time.monotonic() + seconds
    while True:
        try:
            return server, _get(server.current.remote(), seconds)
        except (ActorUnavailableError, ActorDiedError):  # the driver sees to that as well
            if time.monotonic() > deadline:
                raise
        time.sleep(JOIN_SECONDS)
        server = _newest(server)


def _find_server(exchanger: Exchanger, error: ActorDiedError) -> None:
    """Take the server that the driver has put in the place of a dead one, as soon as it has."""
    exchanger.server = _newest(exchanger.server)


def _newest(server: ray.actor.ActorHandle) -> ray.actor.ActorHandle:
    """The server of the run; `server` while there is none."""
    with contextlib.suppress(ValueError):
        return ray.get_actor(SERVER)
    return server
