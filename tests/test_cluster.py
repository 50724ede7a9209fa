"""A run on several machines: real Ray, several of its nodes on this machine."""

import argparse
import copy
import functools
import importlib.util
import itertools
import logging
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from games import Recall, unseeded
from test_main import SMALL, Command

import checkpoint
import connection
import hogwild
import kernels
import messages
import options
from environment import Normalizer
from group import Processes
from hogwild import DIVERGED, WORKERS, FinishedGames, Hogwild
from model import flatten_parameters, make_model
from monitor import Figures, Snapshot
from network import compile_kernels
from parameter_server import DRIVER, ParameterServer, Report, Said, recent_counts
from player import play_games
from processes import child_context
from run import make_optimizer
from shared_optim import SharedAdam
from stopping import StopSignal
from utils import TEST, game_seed

PROJECT = Path(options.__file__).parent

sys.path.append(str(PROJECT / "benchmarks"))

import cluster_faults  # noqa: E402
import two_machines  # noqa: E402

# ---------------------------------------------------------------------------------------------
# The parameter server by itself


STATES = ("diverged", "workers")


def report(steps: float = 0.0, workers: int = 1, mean: float = 0.0, games=()) -> Report:
    normalizer = np.array([100.0, mean, 1.0]) if mean else np.zeros(3)
    return Report(
        {"steps": steps, "workers": workers, "diverged": 1.0},
        normalizer, workers, [Said(1, list(games), [])],
    )  # fmt: skip


def test_what_two_machines_changed_is_added_and_each_is_told_what_the_other_did():
    server = ParameterServer(np.zeros(2, np.float32))
    first = server.exchange(1, 1, report(10, games=[(5.0, 3)]), np.array([1, 0], np.float32))
    second = server.exchange(2, 1, report(20, workers=3), np.array([1, 2], np.float32))
    assert (first.others, first.stop) == ({}, False)
    assert second.weights.tolist() == [2, 2]
    assert (second.others["steps"], second.others["workers"]) == (10, 1)
    news = server.exchange(DRIVER, 1, report(5)).news
    assert (news.games, news.alive, news.exchanges) == ([(5.0, 3)], 4, 2)
    assert server.exchange(DRIVER, 2, report(5)).news.games == []
    server.stop()
    assert server.exchange(1, 2, report(11)).stop


def test_an_exchange_that_comes_again_adds_nothing_and_gives_the_same_games():
    server = ParameterServer(np.zeros(1, np.float32))
    for _ in range(2):
        reply = server.exchange(1, 1, report(10, games=[(5.0, 3)]), np.ones(1, np.float32))
        assert reply.weights.tolist() == [1]
    for _ in range(2):
        assert server.exchange(DRIVER, 1, report()).news.games == [(5.0, 3)]
    successor = ParameterServer(server.weights, totals=server.totals)
    reply = successor.exchange(1, 1, report(10), np.ones(1, np.float32))
    assert reply.weights.tolist() == [1]
    assert successor.exchange(DRIVER, 2, report()).others["steps"] == 10


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_a_change_that_is_not_finite_is_never_added(number):
    server = ParameterServer(np.zeros(2, np.float32))
    reply = server.exchange(1, 1, report(), np.array([1, number], np.float32))
    assert reply.refused
    assert reply.weights.tolist() == [0, 0]


def test_the_normalizer_of_the_others_is_the_mean_over_their_workers_that_have_begun():
    server = ParameterServer(np.zeros(1, np.float32))
    server.exchange(1, 1, report(workers=3, mean=4.0))
    server.exchange(2, 1, report(workers=1, mean=8.0))
    server.exchange(3, 1, report(workers=9))  # has not begun
    assert server.exchange(DRIVER, 1, report(mean=7.0)).normalizer.tolist() == [100, 5, 1]


def test_a_machine_that_has_left_keeps_its_steps_and_is_no_longer_diverged():
    server = ParameterServer(np.zeros(1, np.float32), STATES)
    server.exchange(1, 1, report(10, mean=4.0))
    server.leave(1)
    reply = server.exchange(DRIVER, 1, report())
    assert reply.others == {"steps": 10, "workers": 0, "diverged": 0, "number": 1}
    assert (reply.news.alive, reply.normalizer.tolist()) == (0, [0, 0, 0])


@pytest.mark.parametrize("server_died", [False, True])
def test_what_comes_late_from_a_machine_that_has_left_counts_and_does_not_bring_it_back(
    server_died,
):
    server = ParameterServer(np.zeros(1, np.float32), STATES)
    server.exchange(1, 1, report(10, mean=4.0), np.ones(1, np.float32))
    if server_died:
        server = ParameterServer(server.weights, STATES, server.totals, left=[1])
        server.exchanges = 1
    else:
        server.leave(1)
    server.exchange(1, 2, report(12, mean=4.0), np.ones(1, np.float32))
    reply = server.exchange(DRIVER, 1, report(), np.zeros(1, np.float32))
    assert reply.weights.tolist() == [2]
    assert reply.others == {"steps": 12, "workers": 0, "diverged": 0, "number": 2}
    assert (reply.news.alive, reply.normalizer.tolist()) == (0, [0, 0, 0])
    assert reply.news.behind < 1.0
    assert reply.news.exchanges == 2  # the driver's own is none


def test_the_driver_is_told_each_new_copy_of_an_optimizer_once():
    server = ParameterServer(np.zeros(1, np.float32))
    state = {"step": np.ones(())}
    server.exchange(1, 1, report(), optimizer=state)
    server.exchange(1, 2, report())
    for _ in range(2):  # it comes again
        assert server.exchange(DRIVER, 1, report()).news.optimizer is state
    assert server.exchange(DRIVER, 2, report()).news.optimizer is None


def test_traffic_is_that_of_the_last_seconds_and_of_one_server():
    seen = []
    for newest in ((0.0, 5), (4.0, 6), (10.0, 9), (11.0, 12)):
        seen = recent_counts(seen, newest)
    assert seen == [(4.0, 6), (10.0, 9), (11.0, 12)]
    assert recent_counts(seen, (12.0, 1)) == [(12.0, 1)]


# ---------------------------------------------------------------------------------------------
# Several machines


@pytest.fixture
def ray(monkeypatch):
    """Ray, which reads some settings where it is imported: whatever test is the first to do so."""
    folder = tempfile.mkdtemp()  # a short name: sockets lie there
    for name, value in {**two_machines.ALONE, "RAY_TMPDIR": folder}.items():
        monkeypatch.setenv(name, value)
    yield pytest.importorskip("ray")
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def machines(ray, monkeypatch):
    """Makes a Ray cluster of so many nodes, all of them here, and this process its driver."""
    import exchange

    monkeypatch.setattr(exchange, "EXCHANGE_SECONDS", 0.5)  # of a driver that has no update yet
    from ray.cluster_utils import Cluster

    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    small = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
    clusters = []

    def start(number: int) -> Cluster:
        head = {**small, "include_dashboard": False}
        clusters.append(Cluster(initialize_head=True, head_node_args=head))
        for _ in range(number - 1):
            clusters[0].add_node(wait=False, **small)
        clusters[0].wait_for_nodes()
        path = {"env_vars": {"PYTHONPATH": str(PROJECT / "tests")}}
        ray.init(
            clusters[0].address, runtime_env={**connection.FILES, **path},
            log_to_driver=False, logging_level=logging.ERROR,
        )  # fmt: skip
        return clusters[0]

    yield start
    ray.shutdown()
    for cluster in clusters:
        cluster.shutdown()
    for number, handler in handlers.items():
        signal.signal(number, handler)


RECALL = (
    "--ray --workers 1 --envs-per-worker 4 --num-steps 5 --hidden-size 64 --lr 1e-3 --gamma 0.2 "
    "--value-coef 0.1 --seed 3 --exchange-updates 4 --value-mean-step 0.1"
)


class RecallRun:
    """Recall on all machines of a cluster, one worker with 4 games on each; see test_train.py.

    driver_workers: how many there are on the driver's machine instead.
    """

    def __init__(self, machines: int | None = None, driver_workers: int = 1):
        from cluster import Cluster  # imports Ray

        args = options.complete(options.build_parser().parse_args(RECALL.split()))
        args.machines, args.driver_workers = machines, driver_workers
        torch.set_num_threads(1)
        torch.manual_seed(args.seed)
        self.model = make_model(2, args.hidden_size)
        self.weights, _ = flatten_parameters(self.model)
        self.server = Hogwild(
            self.weights, functools.partial(make_optimizer, args), driver_workers,
            several_machines=True,
        )  # fmt: skip
        make_env = unseeded(Recall)
        self.processes = Processes(
            self.server, args, make_env, child_context(plain=False), StopSignal()
        )
        self.cluster = Cluster(self.server, args, make_env, 2, self.processes.workers_alive)
        self.logger = logging.Logger("test")
        self.lines: list[str] = []
        self.logger.addFilter(lambda record: self.lines.append(record.getMessage()))
        self.numbers = itertools.count()
        self.best = -1.0

    def __enter__(self):
        before = self.server.parameter.detach().clone()
        self.cluster.start()
        # What is learned is learned together: others change the weights here.
        self.wait_for(lambda: self.updates_of_others() > 0)
        self.wait_for(lambda: not torch.equal(self.server.parameter, before))
        self.processes.start()
        return self

    def __exit__(self, *error):
        self.cluster.stop()
        self.processes.stop()
        self.cluster.finish(self.logger)

    def assert_one_set_of_weights(self) -> None:
        """After the end: the driver has what the server has."""
        import ray

        assert self.cluster.exchanger.mean_place is not None
        there = ray.get(self.cluster.exchanger.server.current.remote())
        assert np.abs(self.server.parameter.detach().numpy() - there).max() < 1e-5

    def totals(self) -> dict[int, dict[str, float]]:
        return self.cluster.exchanger.news.totals

    def updates_after(self, number: int) -> float:
        """Of the machines that came after this one."""
        return sum(totals["updates"] for n, totals in self.totals().items() if n > number)

    def updates_of_others(self) -> float:
        return float(self.server.figures["updates"][-1])

    def wait_for(self, condition, seconds: float = 120) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"{seconds} s; best {self.best}; {self.lines}"
            assert not self.cluster.failure(), self.lines
            self.processes.wait(0.1)
            assert self.processes.replace_dead(self.logger), self.lines
            self.cluster.log(self.logger)

    def wait_for_line(self, text: str) -> None:
        self.wait_for(lambda: any(text in line for line in self.lines))

    def has_learned(self) -> bool:
        """Whether 16 greedy games with the newest weights bring nine tenths of the best score."""
        steps = self.server.steps
        self.server.pull(self.weights)
        seeds = [game_seed(3, TEST, next(self.numbers)) for _ in range(16)]
        normalizer = Normalizer(self.server.normalizer().clone(), frozen=True)
        results = play_games(self.model, unseeded(Recall), seeds, normalizer, True, side_by_side=8)
        score = sum(result.score for result in results) / 16 / Recall.TRIALS
        self.best = max(self.best, score)
        self.wait_for(lambda: self.best >= 0.9 or self.server.steps >= steps + 400)
        return self.best >= 0.9


def test_the_bias_that_is_a_mean_is_averaged_over_machines_and_all_else_is_added(machines):
    machines(1)
    import ray

    from exchange import Exchanger, Messages

    model = make_model(2, 16)
    weights, _ = flatten_parameters(model)
    place = model.critic_linear.bias.storage_offset()
    first = weights.numpy().copy()
    server = ray.remote(ParameterServer).remote(first, (DIVERGED, WORKERS))
    exchangers = [
        Exchanger(
            machine, Hogwild(weights, SharedAdam, workers, several_machines=True),
            make_model(2, 16), 64, server, None, lambda: 1, Messages(), None,
            value_bias_is_a_mean=True,
        )
        for machine, workers in ((0, 1), (1, 3))
    ]  # fmt: skip
    for one in exchangers * 2:  # after the first time each knows how many workers there are
        one.exchange()
    for one, target in zip(exchangers, (8.0, 4.0), strict=True):
        one.weights += 1.0
        one.weights[place] = target
    for one in (*exchangers, exchangers[0]):
        one.exchange()
    expected = first + 2.0
    expected[place] = (1 * 8.0 + 3 * 4.0) / 4
    for one in exchangers:
        np.testing.assert_allclose(one.weights, expected, rtol=1e-6, atol=1e-6)


def test_a_change_that_was_sent_and_not_answered_is_not_sent_again(ray, monkeypatch):
    import exchange

    def silence(answer, timeout):
        time.sleep(timeout)
        raise exchange.GetTimeoutError

    def remote(machine, number, report, change, optimizer):
        sent.append((number, change is not None))

    sent = []
    monkeypatch.setattr(ray, "put", lambda vector: vector)
    monkeypatch.setattr(ray, "get", silence)
    model = make_model(2, 16)
    server = argparse.Namespace(exchange=argparse.Namespace(remote=remote))
    one = exchange.Exchanger(
        0, Hogwild(flatten_parameters(model)[0], SharedAdam, 1, several_machines=True), model, 1,
        server, None, lambda: 1, exchange.Messages(), None,
    )  # fmt: skip
    one.hogwild.report(0, updates=1)
    one.start()
    end = time.monotonic() + 10
    while not sent and time.monotonic() < end:
        time.sleep(0.01)
    assert not one.finish(0.1)
    assert {number for number, _ in sent} == {1}  # by which the server knows it


@pytest.mark.parametrize("takes_connections", [True, False])
def test_a_server_that_stands_still_is_noticed_whatever_its_calls_end_with(
    ray, monkeypatch, takes_connections
):
    import exchange

    def fail(answer, timeout):
        if takes_connections:
            time.sleep(timeout)
            raise ray.exceptions.GetTimeoutError
        time.sleep(0.2)
        raise ray.exceptions.ActorUnavailableError("no connection", None)

    def replace(exchanger):
        monkeypatch.setattr(ray, "get", lambda answer, timeout: answer())
        silent.append(time.monotonic())

    silent = []
    monkeypatch.setattr(exchange, "SILENT_SECONDS", 1)
    driver = Link(ray, monkeypatch).exchanger(DRIVER, on_silence=replace)
    monkeypatch.setattr(ray, "get", fail)
    begun = time.monotonic()
    driver.deadline = begun + 30
    assert driver.report()
    [noticed] = silent
    assert noticed - begun >= 1


def test_a_machine_joins_although_the_server_is_silent_or_replaced_meanwhile(ray, monkeypatch):
    """Its first call would end with an error, and each start anew count as a death."""
    import machine

    def get(answer, timeout):
        if isinstance(answer, Exception):
            raise answer
        return answer

    unavailable = ray.exceptions.ActorUnavailableError("no connection", None)
    answers = [unavailable, ray.exceptions.ActorDiedError(), unavailable, "weights"]
    current = argparse.Namespace(remote=lambda: answers.pop(0))
    old, new = argparse.Namespace(current=current), argparse.Namespace(current=current)
    found = [old, None, new]

    def get_actor(name):
        server = found.pop(0)
        if not server:
            raise ValueError(name)
        return server

    monkeypatch.setattr(machine, "JOIN_SECONDS", 0)
    monkeypatch.setattr(ray, "get", get)
    monkeypatch.setattr(ray, "get_actor", get_actor)
    server, weights = machine._join(old)
    assert server is new
    assert weights == "weights"
    answers = [unavailable] * 5
    monkeypatch.setattr(machine, "SILENT_SECONDS", -1)
    with pytest.raises(ray.exceptions.ActorUnavailableError):
        machine._join(old)
    assert len(answers) == 4


def test_a_machine_that_fails_at_its_end_is_said(ray, monkeypatch):
    from cluster import Cluster, Member

    def get(result):
        if result == "not heard":
            raise ray.exceptions.RayError("traceback\nRuntimeError: it was not heard at its end")
        return {"out": "its workers died too often", "well": ""}[result]

    results = ("well", "not heard", "late", "out")
    monkeypatch.setattr(ray, "wait", lambda refs, **how: ([r for r in refs if r != "late"], []))
    monkeypatch.setattr(ray, "get", get)
    cluster = Cluster.__new__(Cluster)
    cluster.members = {str(n): Member(n, None, r, None) for n, r in enumerate(results)}
    cluster.names = ["machine 0", "machine 1", "machine 2", "machine 3"]
    cluster.keeper = threading.Thread(target=int)
    cluster.keeper.start()
    cluster.stopped_at, cluster.failed, cluster.messages = time.monotonic(), "", []
    cluster.exchanger = types.SimpleNamespace(finish=lambda seconds: True)
    said: list[str] = []
    logger = logging.Logger("test")
    logger.addFilter(lambda record: said.append(record.getMessage()))
    cluster.finish(logger)
    assert said == [
        "machine 1 failed at its end: RuntimeError: it was not heard at its end; "
        "what it had not yet sent is lost",
        "machine 2 did not stop in time; its last updates are lost",
        "machine 3 failed at its end: its workers died too often",
    ]


def test_the_end_of_a_run_does_not_wait_for_a_server_that_cannot_be_replaced(ray, monkeypatch):
    driver = Link(ray, monkeypatch).exchanger(DRIVER)
    waits, goes_on = threading.Event(), threading.Event()

    def dead(answer, timeout):
        raise ray.exceptions.ActorDiedError

    def replace(exchanger, error):
        waits.set()
        goes_on.wait(30)

    monkeypatch.setattr(ray, "get", dead)
    driver.replace_server = replace
    driver.start()
    driver.hogwild.report(0, updates=1)
    assert waits.wait(30)
    assert not driver.finish(0.2)
    assert driver.is_alive()
    goes_on.set()
    driver.join()


CHANGES = 150  # each of a weight of its own


class Link:
    """A parameter server in this process, between which and an exchanger anything may happen.

    before, after: called with the number of the machine whenever it looks for an answer, before the
        server has done what it was asked and then, to raise what Ray would.
    """

    def __init__(self, ray, monkeypatch, **arguments):
        self.server = ParameterServer(np.zeros(CHANGES, np.float32), STATES, **arguments)
        self.before = self.after = lambda machine: None
        self.exchange = argparse.Namespace(remote=self.call)
        monkeypatch.setattr(ray, "put", lambda vector: vector)
        monkeypatch.setattr(ray, "get", lambda answer, timeout: answer())

    def call(self, machine: int, *arguments):
        def answer():
            self.before(machine)
            reply = self.server.exchange(machine, *arguments)
            reply = copy.deepcopy(reply)  # as if it had been sent
            self.after(machine)
            return reply

        return answer

    def exchanger(self, machine: int, workers: int = 1, **arguments):
        from exchange import Exchanger, Messages

        hogwild = Hogwild(torch.zeros(CHANGES), SharedAdam, workers, several_machines=True)
        games = FinishedGames(hogwild) if machine != DRIVER else None
        return Exchanger(
            machine, hogwild, torch.nn.Linear(1, 1), 1, self, None, lambda: 1, Messages(),
            hogwild.stop, games, **arguments,
        )  # fmt: skip


def finish_games(hogwild: Hogwild, number: int, rank: int = 0) -> None:
    """Games of one step; the score of each is its number."""
    for _ in range(number):
        hogwild.report_game(rank, float(hogwild.figures["games"][rank]), 1, steps=1)
        hogwild.report(rank, steps=1)


def test_a_machine_sends_the_mean_of_the_normalizers_of_its_workers_that_have_begun(
    ray, monkeypatch
):
    link = Link(ray, monkeypatch)
    one, other = link.exchanger(1, workers=3), link.exchanger(2)
    for row, numbers in {0: (100, 4, 1), 2: (300, 8, 3), 3: (50, 7, 7)}.items():  # 3: all others
        one.hogwild.normalizers[row] = torch.tensor(numbers)
    one.report()
    other.report()
    assert other.hogwild.normalizers[-1].tolist() == [200, 6, 2]


@pytest.fixture
def few_games_kept(monkeypatch):
    monkeypatch.setattr(hogwild, "GAMES_KEPT", 8)


def test_games_that_end_while_the_server_is_silent_are_kept_or_missed(
    ray, monkeypatch, few_games_kept
):
    link = Link(ray, monkeypatch)
    one = link.exchanger(1)
    ended = [5, 5, 7, 10, 2]  # while it is silent; the ring has room for 7

    def silence(machine):
        if ended:
            finish_games(one.hogwild, ended.pop(0))
            raise ray.exceptions.GetTimeoutError

    link.before = silence
    assert one.report()
    assert one.report()
    assert [score for score, _ in link.server.games] == [*range(17), *range(20, 29)]
    text = "the CSV of training games lacks 3 games: collected too late"
    assert link.server.messages == [(1, logging.ERROR, text)]


@pytest.mark.parametrize("driver_asks", [True, False])
def test_a_machine_ends_when_the_driver_has_its_last_game(ray, monkeypatch, driver_asks):
    """That of a worker that was killed before it counted the steps, too."""
    link = Link(ray, monkeypatch)
    one, told = link.exchanger(1), []
    driver = link.exchanger(DRIVER, on_news=lambda news: told.extend(news.games))
    one.start()
    one.hogwild.report_game(0, 5.0, 8, steps=8)

    def ask(machine: int) -> None:
        if machine == 1 and driver_asks:
            driver.report()

    link.after = ask
    assert one.finish(30 if driver_asks else 0.3) == driver_asks  # the first ends at once
    assert told == ([(5.0, 8)] if driver_asks else [])


def test_a_change_that_the_driver_has_seen_counts_once_whatever_answers_were_lost():
    server = ParameterServer(np.zeros(1, np.float32), STATES)
    none, change = np.zeros(1, np.float32), np.ones(1, np.float32)
    server.exchange(DRIVER, 1, report(), none)  # no answer arrives
    server.exchange(1, 1, report(games=[(7.0, 70)]), change)  # likewise
    seen = server.exchange(DRIVER, 1, report(), none)  # again
    assert (seen.weights, seen.news.games) == ([1], [])
    other = ParameterServer(seen.weights, STATES, seen.news.totals, said=seen.news.said)
    other.exchange(1, 1, report(games=[(7.0, 70)]), change)  # again
    assert other.weights == [1]
    assert other.exchange(DRIVER, 2, report(), none).news.games == [(7.0, 70)]


@pytest.mark.parametrize("seed", range(5))
def test_whenever_servers_die_and_answers_are_lost_nothing_is_missed_and_nothing_counts_twice(
    ray, monkeypatch, seed
):
    """But for changes: those that came after the driver's last exchange go with the server."""
    import exchange

    monkeypatch.setattr(exchange, "POLL_SECONDS", 0)
    draw = random.Random(seed)
    link = Link(ray, monkeypatch)
    told = []
    driver = link.exchanger(DRIVER, on_news=lambda news: told.append((news.games, news.messages)))
    others = [link.exchanger(machine) for machine in (1, 2)]
    everyone = [driver, *others]

    def replace_server(*_) -> None:
        news = driver.news
        told = {"totals": news.totals, "said": news.said} if news else {}
        link.server = ParameterServer(driver.known, STATES, **told)

    def disturb(machine: int) -> None:
        chance = draw.random()
        if chance < 0.1:  # meanwhile another one is told what this one is not
            link.before = link.after = lambda machine: None
            draw.choice([one for one in everyone if one.machine != machine]).exchange()
            link.before = link.after = disturb
            raise ray.exceptions.ActorUnavailableError("lost", None)
        if chance < 0.2:
            raise ray.exceptions.ActorDiedError

    for one in everyone:
        one.replace_server = replace_server
    link.before = link.after = disturb
    expected = []
    for i in range(CHANGES):
        if draw.random() < 0.3:
            expected.append(float(i))
            one = draw.choice(others)
            one.hogwild.report_game(0, float(i), 1, steps=1)
            one.hogwild.report(0, steps=1)
            one.messages.kept.append((logging.INFO, str(i)))
        one = draw.choice(everyone)
        if draw.random() < 0.5:
            one.hogwild.parameter.detach()[i] += 1
            one.exchange()
        else:
            one.report()
        assert link.server.weights.max(initial=0) <= 1
    link.before = link.after = lambda machine: None
    for one in (*others, driver, driver, *others):
        one.report()
    assert link.server.weights.sum() > CHANGES / 10
    assert sorted(score for games, _ in told for score, _ in games) == expected
    assert sorted(float(text) for _, said in told for _, _, text in said) == expected
    assert [one.unconfirmed for one in others] == [[], []]
    assert driver.hogwild.figures["games"].sum() == len(expected)


def test_a_run_that_has_stopped_does_not_go_on_with_a_server_that_knows_less(ray, monkeypatch):
    link = Link(ray, monkeypatch)
    driver, one = link.exchanger(DRIVER), link.exchanger(1)
    one.hogwild.max_steps = 100
    finish_games(one.hogwild, 45)
    finish_games(driver.hogwild, 50)
    driver.report()
    known = copy.deepcopy(driver.news.totals)
    finish_games(driver.hogwild, 10)
    driver.report()
    one.report()
    assert one.hogwild.stopped
    for totals, steps in ((known, 105), ({}, 105), (driver.news.totals, 105)):
        link.server = ParameterServer(one.known, STATES, totals)
        one.report()
        assert one.hogwild.stopped
        assert one.hogwild.steps == steps
    finish_games(driver.hogwild, 5)
    driver.report()
    one.report()
    assert one.hogwild.steps == 110


def least_updates(run: RecallRun) -> float:
    return min(totals["updates"] for totals in run.totals().values())


def test_two_machines_learn_recall_for_a_third_and_count_together(machines):
    """The driver's has no worker, and ends with the optimizer's statistics of another."""
    compile_kernels()
    machines(3)
    import ray

    names = ray.get(ray.remote(lambda: [str(path) for path in Path().rglob("*")]).remote())
    assert {"machine.py", "config.json", "recipes.toml"} <= set(names)
    assert any(name.endswith(".nbc") for name in names) == kernels.HAVE_NUMBA
    assert [name for name in names if name.startswith(("tests", "trained_models", "demo"))] == []
    with RecallRun(machines=2, driver_workers=0) as run:
        before = Snapshot.of(run.server)
        assert len(run.cluster.members) == 1
        run.cluster.args.machines = 3
        run.wait_for(run.has_learned)
        run.wait_for(lambda: len(run.totals()) == 3 and run.totals()[2]["updates"] > 0)
        figures, summary = Figures.between(before, Snapshot.of(run.server)), run.cluster.summary()
    assert summary.startswith("3 with 2 workers, ")
    assert run.totals()[DRIVER]["updates"] == 0
    [optimizer] = run.server.optimizers
    state = optimizer.state[run.server.parameter]
    assert 0 < state["step"] <= max(total["updates"] for total in run.totals().values())
    assert state["exp_avg"].any()
    line = messages.progress(run.server, figures, summary)
    _, speed, behind, traffic = map(float, two_machines.PROGRESS.search(line).groups())
    assert min(speed, traffic) > 0.0 <= behind < 10.0
    assert run.best >= 0.9
    run.assert_one_set_of_weights()
    assert run.server.steps == sum(totals["steps"] for totals in run.totals().values())
    games = sum(totals["games"] for totals in run.totals().values())
    assert run.server.figures["games"].sum() == games > 0
    assert [line for line in run.lines if "lost" in line or "died" in line] == []


def test_two_machines_learn_recall_though_the_server_and_one_of_them_die(machines, monkeypatch):
    """Both stand still, too; in the end one has other packages, and may no longer take part."""
    machines(2)
    import ray

    import cluster
    import exchange

    monkeypatch.setattr(exchange, "SILENT_SECONDS", 10)
    monkeypatch.setattr(cluster, "SILENT_SECONDS", 10)
    with RecallRun() as run:
        run.server.parameter.detach()[7] = torch.nan
        run.wait_for_line("diverged; what was changed since the last exchange is dropped")
        before = run.server.steps
        for number in (signal.SIGKILL, signal.SIGSTOP):
            run.lines.clear()
            cluster_faults.kill("ray::ParameterServer", number)
            run.wait_for_line("the parameter server died; another goes on")
            others = run.updates_of_others()
            run.wait_for(lambda n=others: run.updates_of_others() > n)
        assert "the parameter server is silent for 10 s; killing it" in run.lines
        assert run.server.steps > before
        # See Hogwild.push. On a slow machine one may just be replaced: it was silent for too long.
        run.wait_for(lambda: run.server.figures["workers"].tolist() == [1, 1])
        for number in (signal.SIGKILL, signal.SIGSTOP):
            victim = len(run.cluster.names) - 1
            cluster_faults.kill("ray::Machine", number)
            run.wait_for_line(f"machine {victim} (127.0.0.1) failed: ")
            run.wait_for(lambda n=victim: run.updates_after(n) > 0)
        assert f"machine {victim} (127.0.0.1) is silent for 10 s; killing it" in run.lines
        assert any("what it had not yet sent is lost; starting it anew" in s for s in run.lines)
        run.wait_for(run.has_learned)
        run.cluster.versions = {**run.cluster.versions, "ray": "2.0"}
        for member in list(run.cluster.members.values()):
            ray.kill(member.actor)
        run.wait_for_line(" is lost: ")
        assert (
            f"machine {len(run.cluster.names) - 1} (127.0.0.1) is lost: it has ray "
            f"{ray.__version__}, but the driver's machine ray 2.0; the run goes on with 1 machine"
        ) in run.lines
    assert run.best >= 0.9
    run.assert_one_set_of_weights()
    assert least_updates(run) > 0
    assert run.server.steps == sum(totals["steps"] for totals in run.totals().values())


@pytest.mark.skipif(not importlib.util.find_spec("ray"), reason="ray is not installed")
def test_a_cluster_of_this_machine_listens_here_alone_and_ends_with_the_run(tmp_path, monkeypatch):
    folder = tempfile.mkdtemp()
    monkeypatch.setenv("RAY_TMPDIR", folder)
    run = Command(tmp_path, *SMALL, "--ray", "--driver-workers", "1")
    try:
        run.wait_for(run.learning, 120)
        listening = subprocess.run(["ss", "-ltnp"], capture_output=True, text=True, check=True)
        ids = [f"pid={pid}," for pid in run.children()]
        lines = [line for line in listening.stdout.splitlines() if any(i in line for i in ids)]
        assert lines
        assert {line.split()[3].rpartition(":")[0].strip("[]") for line in lines} <= {
            "127.0.0.1", "::ffff:127.0.0.1",
        }  # fmt: skip
        assert run.interrupt() < 15
        assert run.process.returncode == 0
        run.wait_for(lambda: not run.children(), 10)
        assert "error" not in run.text()
        continued = next(line for line in run.text().splitlines() if line.startswith("continue: "))
        assert continued.endswith(" --ray --driver-workers 1")
    finally:
        for pid in [*run.children(), *([run.process.pid] if run.process.poll() is None else [])]:
            os.kill(pid, signal.SIGKILL)
        run.process.wait()
        shutil.rmtree(folder, ignore_errors=True)
    saved = checkpoint.load_checkpoint(tmp_path / "trained_models/Pong-v0.ckpt")
    assert saved["steps"] > 0


WRONG = {
    "--ray 127.0.0.1:1": "127.0.0.1:1: no Ray cluster answers there",
    "--ray ray://127.0.0.1:10001": "ray://127.0.0.1:10001: an address of Ray Client; give HOST",
    "--machines 2": "--machines counts those of a Ray cluster; add --ray",
    "--driver-workers 1": "--driver-workers is for a run on a Ray cluster; add --ray",
    "--exchange-updates 64": "--exchange-updates is for a run on a Ray cluster; add --ray",
    "--ray --machines 1 --driver-workers 0": "--driver-workers 0: nobody would train; give --mach",
    "--ray --driver-workers 0": "--driver-workers 0: this machine is in no Ray cluster; see",
    "--ray --machines 2": "--machines 2: this machine is in no Ray cluster; see `ray start`, or",
}


@pytest.mark.parametrize("given", WRONG)
def test_a_wrong_option_is_one_line(tmp_path, given):
    run = Command(tmp_path, *SMALL, *given.split(), "--quiet")
    assert run.process.wait(timeout=120) == 2
    assert run.text().startswith(f"main.py: error: {WRONG[given]}")
    assert run.text().count("\n") == 1


@pytest.mark.skipif(not importlib.util.find_spec("ray"), reason="ray is not installed")
def test_ctrl_c_ends_the_wait_for_an_answer_of_the_head(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as other:  # no head
        address = f"127.0.0.1:{other.getsockname()[1]}"
        run = Command(tmp_path, *SMALL, "--ray", address)
        run.wait_for(lambda: "within 5 seconds" in run.text(), 120)  # Ray says so, and waits on
        assert run.interrupt() < 5
    assert run.process.returncode == 0
    assert f"\njoining the Ray cluster at {address}\n" in run.text()
    assert run.text().endswith("\nstopped before anything had begun\n")
    assert not (tmp_path / "trained_models").exists()


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("head:6379", "cannot join the Ray cluster: nothing at head:6379 answers as the head of"),
        ("", "cannot start a Ray cluster: Failed to connect"),
    ],
)
def test_a_head_that_does_not_answer_has_the_name_that_was_typed(
    ray, monkeypatch, address, message
):
    def init(**options):
        raise ConnectionError("Failed to connect to Ray cluster at 192.0.2.1:6379")

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(ValueError, match=f"^{message}"):
        connection.connect(address)


def test_local_is_a_cluster_of_ones_own(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "local")
    assert connection._joined() == ""


@pytest.mark.parametrize("platform", ["linux", "darwin", "win32"])
@pytest.mark.parametrize("given", [{}, {"TMPDIR": "/a"}, {"TMPDIR": "/a", "RAY_TMPDIR": "/b"}])
def test_the_cluster_of_this_machine_is_looked_for_where_ray_keeps_it(
    ray, monkeypatch, platform, given
):
    from ray._common.utils import get_default_system_temp_dir

    monkeypatch.setattr(os, "environ", {"TMP": "/c", **given})
    monkeypatch.setattr(sys, "platform", platform)
    assert connection._temporary() == get_default_system_temp_dir()


def test_the_cluster_that_this_machine_has_joined_is_found_there(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "environ", {"RAY_TMPDIR": str(tmp_path)})
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    (tmp_path / "ray").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as head:
        address = f"127.0.0.1:{head.getsockname()[1]}"
        (tmp_path / "ray" / "ray_current_cluster").write_text(address)
        assert connection._joined() == address
    assert connection._joined() == ""  # from before a restart


@pytest.mark.parametrize(("length", "stays"), [(30, True), (36, False), (70, False)])
def test_a_cluster_of_ones_own_has_room_for_the_names_of_its_sockets(
    ray, monkeypatch, length, stays
):
    from ray._private.utils import validate_socket_filepath

    folder = "/" + "f" * (length - 1)
    monkeypatch.setattr(os, "environ", {})
    monkeypatch.setattr(tempfile, "tempdir", folder)
    assert connection.find("local", None) == ""
    assert (os.environ["RAY_TMPDIR"] == folder) == stays
    session = "session_2026-01-01_10-00-00_123456_1234567"
    monkeypatch.setattr(sys, "platform", "darwin")  # where names are shorter
    validate_socket_filepath(f"{os.environ['RAY_TMPDIR']}/ray/{session}/sockets/plasma_store")


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("ray://10.0.0.1:10001", "RAY_ADDRESS ray://10.0.0.1:10001: an address of Ray Client"),
        ("127.0.0.1:1", "RAY_ADDRESS 127.0.0.1:1: no Ray cluster answers there"),
    ],
)
def test_a_wrong_address_in_the_environment_is_said_to_be_from_there(monkeypatch, address, message):
    monkeypatch.setattr(os, "environ", {"RAY_ADDRESS": address})
    with pytest.raises(ValueError, match=f"^{message}"):
        connection.find("", None)


@pytest.mark.parametrize(
    ("file", "given", "told"),
    [
        (None, {}, None),
        ("5e" * 32, {}, "token"),
        ("\n", {}, None),  # Ray would say that there is none
        (None, {"RAY_AUTH_TOKEN": "5e" * 32}, "token"),
        ("5e" * 32, {"RAY_AUTH_MODE": "disabled"}, "disabled"),
    ],
)
def test_a_cluster_is_told_the_token_that_this_machine_has(
    tmp_path, monkeypatch, file, given, told
):
    monkeypatch.setattr(connection, "require", lambda module, need: None)  # see the fixture `ray`
    if file:
        (tmp_path / ".ray").mkdir()
        (tmp_path / ".ray" / "auth_token").write_text(file)
    monkeypatch.setattr(os, "environ", {"HOME": str(tmp_path), **given})
    with socket.create_server(("127.0.0.1", 0)) as cluster:
        address = f"127.0.0.1:{cluster.getsockname()[1]}"
        assert connection.find(address, None) == address
    assert os.environ.get("RAY_AUTH_MODE") == told
    assert connection.JOINING.items() <= os.environ.items()  # or a wrong port costs 14 minutes
