"""A run on the machines of a Ray cluster, as its driver sees it.

Inside a machine everything is as in a local run; between the machines there is a parameter server,
an actor on the driver's machine. The driver's own workers are processes of main.py, as ever; those
of another machine belong to an actor there. What dies is replaced from here.
"""

import argparse
import copy
import logging
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

import gymnasium as gym
import ray
from ray.exceptions import ActorDiedError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from exchange import SILENT_SECONDS, Exchanger, Messages
from group import MAX_REPLACEMENTS, REPLACEMENT_SECONDS
from hogwild import DIVERGED, WORKERS, Hogwild
from machine import LAST_SECONDS, Job, Machine, versions
from model import make_model
from parameter_server import DRIVER, SERVER, News, ParameterServer, recent_counts
from processes import FIRST_STEP_SECONDS, Pulse
from utils import available_cores, count, in_short

LOOK_SECONDS = 1  # between two looks at who is there
FIRST_LOOKS = 50  # that follow each other sooner
CREATION = "creation task"  # in the error of an actor that could not begin
HEAD_SECONDS = 30  # without an answer of the cluster's head, after which the run ends
STOP_SECONDS = 6.5  # for the other machines, from the word on; of 15 in which a run has to end


class Member(NamedTuple):
    """A machine that takes part."""

    number: int
    actor: ray.actor.ActorHandle
    result: ray.ObjectRef  # of Machine.train
    pulse: Pulse  # of its exchanges


class Cluster:
    """The parameter server, the machines and the driver's own exchange with them.

    Its threads do whatever may have to wait for the network; the main process need not.

    hogwild: of the driver's machine, one row longer than it has workers; nobody trains yet.
    """

    def __init__(
        self,
        hogwild: Hogwild,
        args: argparse.Namespace,
        make_env: Callable[..., gym.Env],
        num_actions: int,
        count_alive: Callable[[], int],
    ):
        """count_alive: how many workers live on the driver's machine."""
        self.hogwild, self.args = hogwild, args
        self.left: tuple[int, ...] = ()  # numbers of machines that have gone
        self.versions = versions()  # of the files that the machines get, whatever is edited later
        self.make_env, self.num_actions = make_env, num_actions
        self.messages: list[tuple[int, str]] = []  # for the log: level, text
        self.here = ray.get_runtime_context().get_node_id()
        self.exchanger = Exchanger(
            DRIVER, hogwild, make_model(num_actions, args.hidden_size), args.exchange_updates,
            self._start_server(hogwild.parameter.detach().numpy(), {}, {}), self._replace_server,
            count_alive, Messages(), hogwild.stop, on_news=self._take_news,
            on_silence=self._end_server,
            optimizer_for_driver=args.driver_workers == 0,
            value_bias_is_a_mean=args.value_mean_step > 0,
        )  # fmt: skip
        self.traffic: list[tuple[float, int]] = []  # see recent_counts
        self.members: dict[str, Member] = {}  # by node
        self.died: dict[str, list[float]] = {}  # when; by node, or the server
        self.failed = ""  # why the run cannot go on
        self.looks = 0  # at who is there; the head of the cluster answered
        self.pulse = Pulse()  # of these
        self.alone = False  # at the last look, without a worker
        self.heard: News | None = None  # of the last look
        self.refused: set[str] = set()  # nodes that can take no part
        self.names: list[str] = ["this machine"]  # of all that ever took part, by number
        self.ending = threading.Event()
        self.keeper = threading.Thread(target=self._keep, name="machines", daemon=True)

    def start(self) -> None:
        self.exchanger.start()
        self.keeper.start()

    def log(self, logger: logging.Logger) -> None:
        """Write down what has happened."""
        while self.messages:
            logger.log(*self.messages.pop(0))

    def failure(self) -> str:
        """Why the run cannot go on; "" if it can. To be asked several times a second.

        Ray ends this process where the head of the cluster has been silent for a minute.
        """
        self.pulse.stands_still(self.looks, time.monotonic())
        if not self.failed and not self.exchanger.is_alive():
            why = self.exchanger.error
            self.failed = f"the exchange with the parameter server has ended: {why}"
        if not self.failed and self.pulse.still > HEAD_SECONDS:
            self.failed = f"the head of the Ray cluster is silent for {HEAD_SECONDS} s"
        return self.failed

    def summary(self) -> str:
        """For log and display: machines, workers, the age of the oldest exchange, traffic."""
        news, traffic = self.exchanger.news, self.traffic
        if not (news and traffic):
            return "-"
        workers = news.alive + self.exchanger.count_alive()
        behind = news.behind + time.monotonic() - self.exchanger.reported
        (before, old), (now, new) = traffic[0], traffic[-1]
        megabytes = 2 * self.exchanger.known.nbytes * (new - old) / 1e6
        return (
            f"{1 + len(self.members)} with {count(workers, 'worker')}, {behind:.1f} s behind, "
            f"{megabytes / max(now - before, 1.0):.1f} MB/s"
        )

    def stop(self) -> None:
        """Tell all machines to stop, and do not wait."""
        self.ending.set()
        self.stopped_at = time.monotonic()
        self.exchanger.server.stop.remote()

    def finish(self, logger: logging.Logger) -> None:
        """Wait for the last differences of all machines. The driver's own processes have ended."""
        self.keeper.join(LOOK_SECONDS)
        ended = self._ended(self.stopped_at + STOP_SECONDS - time.monotonic())
        for member in list(self.members.values()):
            name = self.names[member.number]
            if member.result not in ended:
                self._say(f"{name} did not stop in time; its last updates are lost")
                continue
            try:
                reason = ray.get(member.result)
            except RayError as error:
                reason = f"{_line(error)}; what it had not yet sent is lost"
            if reason:
                self._say(f"{name} failed at its end: {reason}")
        if self.failed:
            self.exchanger.ending.set()
        elif not self.exchanger.finish(LAST_SECONDS):
            self._say("the parameter server did not answer; the last updates of others are lost")
        self.log(logger)

    # The parameter server.

    def _start_server(self, weights, totals: dict, said: dict) -> ray.actor.ActorHandle:
        here = NodeAffinitySchedulingStrategy(self.here, soft=False)
        actor = ray.remote(ParameterServer).options(
            name=SERVER, num_cpus=0, scheduling_strategy=here
        )
        return actor.remote(weights, (DIVERGED, WORKERS), totals, self.left, said)

    def _end_server(self, exchanger: Exchanger) -> None:
        """It stands still: another is to take its place."""
        if not self.failed:
            self._say(f"the parameter server is silent for {SILENT_SECONDS} s; killing it")
            ray.kill(exchanger.server)

    def _replace_server(self, exchanger: Exchanger, error: ActorDiedError) -> None:
        """Start another one, with what the driver was told last."""
        if self.failed:
            return
        ray.kill(exchanger.server)  # or its name is taken for good if its process was killed
        left, news = self.left, exchanger.news
        try:
            told = (news.totals, news.said) if news else ({}, {})
            server = self._start_server(exchanger.known, *told)
        except ValueError:  # the name is not yet free
            return
        exchanger.server = server
        # Whoever said meanwhile that a machine has left or that the run ends, told the dead one.
        for number in self.left[len(left) :]:
            server.leave.remote(number)
        if CREATION in str(error) or self._too_often("the server"):
            self.failed = f"the parameter server cannot live: {_line(error)}"
        ago = time.monotonic() - exchanger.exchanged
        self._say(f"the parameter server died; another goes on with the weights of {ago:.1f} s ago")
        if self.ending.is_set():
            server.stop.remote()

    # The machines. What follows is for the thread `keeper`.

    def _keep(self) -> None:
        try:
            self._keep_machines()
        except Exception as error:  # the run's last line says why, and it saves
            self.failed = f"what looks after the machines has failed: {in_short(error)}"

    def _keep_machines(self) -> None:
        while not self.ending.wait(0.1 if self.looks < FIRST_LOOKS else LOOK_SECONDS):
            nodes = {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}
            self.looks += 1
            for node in nodes:
                if self._wanted(node):
                    self._start_machine(nodes[node])
            ended = self._ended(0.0)
            if self.ending.is_set():  # `finish` says what ends from now on
                return
            for node, member in list(self.members.items()):
                if member.result in ended:
                    del self.members[node]
                    self._bury(node, member, node in nodes)
            self._end_silent_machines()
            self._say_who_trains()

    def _end_silent_machines(self) -> None:
        """What is killed here has ended at the next look, and is started anew."""
        news = self.exchanger.news
        if news is self.heard:  # while the server says nothing, machines cannot be heard, either
            return
        self.heard = news
        for node, member in list(self.members.items()):
            number = news.totals.get(member.number, {}).get("number", 0)
            member.pulse.stands_still(number, time.monotonic())
            limit = SILENT_SECONDS if number else FIRST_STEP_SECONDS
            if member.pulse.still > limit:
                hint = "" if number else "; does a firewall shut off its ports?"
                self._say(f"{self.names[member.number]} is silent for {limit} s; killing it{hint}")
                ray.kill(member.actor)
                self.members[node] = member._replace(pulse=Pulse())

    def _say_who_trains(self) -> None:
        alone = not self.members and self.args.driver_workers == 0
        if alone and not (self.alone or self.hogwild.stopped):
            self._say("nobody trains until another machine joins the cluster")
        self.alone = alone

    def _ended(self, seconds: float) -> list[ray.ObjectRef]:
        """Results of the machines that have ended, or of all as soon as they have."""
        results = [member.result for member in list(self.members.values())]
        if not results:
            return []
        return ray.wait(results, num_returns=len(results), timeout=max(0.0, seconds))[0]

    def _wanted(self, node: str) -> bool:
        full = self.args.machines and 1 + len(self.members) >= self.args.machines
        return not (full or node in self.members or node in self.refused or node == self.here)

    def _start_machine(self, node: dict) -> None:
        workers = self.args.workers
        if workers == available_cores():  # one per core here: one per core there
            workers = max(1, int(node["Resources"].get("CPU", 1)))
        number = len(self.names)
        there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        actor = ray.remote(Machine).options(num_cpus=0, scheduling_strategy=there).remote()
        hogwild = self.hogwild
        optimizers = copy.deepcopy([optimizer.state_dict() for optimizer in hogwild.optimizers])
        job = Job(
            self.args, self.make_env, self.num_actions, self.versions, optimizers,
            hogwild.normalizer(), hogwild.first_step,
        )  # fmt: skip
        self.names.append(f"machine {number} ({node['NodeManagerAddress']})")
        # The job in a list: the actor fetches it, and so can say that it cannot.
        result = actor.train.remote(number, workers, [ray.put(job)], self.exchanger.server)
        self.members[node["NodeID"]] = Member(number, actor, result, Pulse())
        self._say(f"{self.names[number]} starts {count(workers, 'worker')}", logging.INFO)

    def _bury(self, node: str, member: Member, is_there: bool) -> None:
        """A machine takes part no more."""
        self.left = (*self.left, member.number)
        self.exchanger.server.leave.remote(member.number)
        try:
            reason = ray.get(member.result)
        except RayError as error:
            reason = _line(error)
            if is_there and not self._too_often(node):
                failed = f"{self.names[member.number]} failed: {reason}"
                self._say(f"{failed}; what it had not yet sent is lost; starting it anew")
                return
        self.refused.add(node)
        if reason and not self.ending.is_set():
            others = count(1 + len(self.members), "machine")
            lost = self.names[member.number]
            self._say(f"{lost} is lost: {reason}; the run goes on with {others}")

    def _too_often(self, who: str) -> bool:
        """Whether it has died now and too often before."""
        now = time.monotonic()
        recent = [then for then in self.died.get(who, ()) if now - then < REPLACEMENT_SECONDS]
        self.died[who] = [*recent, now]
        return len(self.died[who]) > MAX_REPLACEMENTS

    def _take_news(self, news: News) -> None:
        # Replaced, not changed: the main process' thread reads it.
        self.traffic = recent_counts(self.traffic, (time.monotonic(), news.exchanges))
        for machine, level, text in news.messages:
            self._say(f"{self.names[machine]}: {text}", level)

    def _say(self, text: str, level: int = logging.ERROR) -> None:
        self.messages.append((level, text))


def _line(error: RayError) -> str:
    """Why, of what an error of Ray says: its last line."""
    return [line.strip() for line in str(error).splitlines() if line.strip()][-1].rstrip(".")
