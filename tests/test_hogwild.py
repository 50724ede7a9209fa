"""hogwild.py: each finished training game reaches the main process once, in its place."""

import random

import pytest
import torch

import hogwild
from hogwild import EVALUATIONS_KEPT, FinishedGames, Hogwild
from shared_optim import SharedAdam

FIRST_STEP = 1000


def small_server(num_workers: int) -> Hogwild:
    return Hogwild(torch.zeros(1), SharedAdam, num_workers, first_step=FIRST_STEP)


@pytest.mark.parametrize("own", [0, 1])
def test_the_normalizer_of_a_resumed_run_is_there_before_another_machine_reports(own):
    """own: workers of this machine, which have begun if there are any."""
    server = Hogwild(torch.zeros(1), SharedAdam, own, several_machines=True)
    server.normalizers[:] = torch.tensor([1000.0, 0.5, 0.2], dtype=torch.float64)
    assert server.normalizer().tolist() == pytest.approx([1000, 0.5, 0.2])
    server.normalizers[-1] = torch.tensor([500.0, 0.1, 0.1], dtype=torch.float64)
    server.figures["workers"][-1] = 3
    expected = [500, 0.1, 0.1] if own == 0 else [625, 0.2, 0.125]
    assert server.normalizer().tolist() == pytest.approx(expected)


@pytest.mark.parametrize("num_optimizers", [1, 3])
def test_as_much_shared_memory_is_asked_for_as_the_large_tensors_take(monkeypatch, num_optimizers):
    asked = []
    monkeypatch.setattr(hogwild, "require_shared_memory", asked.append)
    server = Hogwild(torch.zeros(1000), SharedAdam, 3, num_optimizers, several_machines=True)
    shared = [server.parameter, server.finished.values]
    for optimizer in server.optimizers:
        shared += optimizer.state[server.parameter].values()
    assert asked == [sum(tensor.nbytes for tensor in shared)]


class Delayed:
    """A tensor whose writes wait in `writes`, in their order."""

    def __init__(self, values: torch.Tensor, writes: list):
        self.values, self.writes = values, writes

    def __getitem__(self, key):
        return self.values[key].clone()

    def __setitem__(self, key, new):
        self.writes.append((self.values, key, new - self.values[key]))


class Interleaved:
    """Workers that stop between any two writes to shared memory, and a diary of what is true.

    ended: the score of each game, which is its number, by the (worker, its steps) of its end.
    """

    def __init__(self, server: Hogwild, seed: int):
        self.server = server
        self.random = random.Random(seed)
        self.ended: dict[tuple[int, int], int] = {}
        self.workers = [self.play(rank) for rank in range(len(server.normalizers))]

    def play(self, rank: int):
        """One worker, as train.collect: steps of several games at once, some of which end."""
        steps = 0
        while True:
            new = 0
            for _ in range(self.random.randint(1, 3)):
                new += self.random.randint(1, 4)
                if self.random.random() < 0.4:
                    number = len(self.ended)
                    self.ended[rank, steps + new] = number
                    yield from self.between_writes(rank, number, new)
                    yield
            steps += new
            self.server.report(rank, steps=new)
            yield

    def between_writes(self, rank: int, number: int, new: int):
        """report_game with a pause between its two writes."""
        writes, tables = [], (self.server.figures, self.server.finished)
        values = [table.values for table in tables]
        for table in tables:
            table.values = Delayed(table.values, writes)
        self.server.report_game(rank, float(number), number + 5, new)
        for table, before in zip(tables, values, strict=True):
            table.values = before
        first, second = writes
        for at, key, difference in (first, second):
            at[key] += difference
            if at is first[0]:
                yield

    def go_on(self) -> None:
        for _ in range(self.random.randint(0, 4)):
            next(self.random.choice(self.workers))

    def counted(self) -> set[int]:
        """Games whose last step has been reported."""
        steps = self.server.figures["steps"].tolist()
        return {n for (rank, end), n in self.ended.items() if end <= steps[rank]}


@pytest.mark.parametrize("seed", range(20))
def test_after_any_interleaving_exactly_the_games_that_count_were_given_in_order(seed, monkeypatch):
    server = small_server(3)
    workers, games = Interleaved(server, seed), FinishedGames(server)
    look = games._new

    def look_meanwhile(rank: int):
        workers.go_on()
        found = look(rank)
        workers.go_on()
        return found

    monkeypatch.setattr(games, "_new", look_meanwhile)
    rows = []
    for _ in range(150):
        workers.go_on()
        before, steps, counted = games.steps, server.steps, workers.counted()
        new = games.collect()
        assert games.steps == steps
        assert all(before < row[1] <= steps for row in new)
        rows += new
        assert {int(row[2]) for row in rows} == counted
        assert len(rows) == len(counted)
    monkeypatch.undo()
    rows += games.collect(last=True)
    assert games.steps == server.steps >= rows[-1][1]
    begun = {int(row[2]) for row in rows} ^ set(workers.ended.values())
    assert len(begun) <= 3  # written, but not yet counted as finished
    assert len({row[2] for row in rows}) == len(rows) == int(server.figures["games"].sum()) > 100
    assert [row[1] for row in rows] == sorted(row[1] for row in rows)
    assert all(row[3] == row[2] + 5 for row in rows)
    assert games.lost == 0


def test_a_collection_in_the_middle_of_a_workers_steps_leaves_the_game_for_the_next():
    server = small_server(2)
    games = FinishedGames(server)
    server.report_game(0, -21.0, 30, steps=30)
    server.report(1, steps=100)  # the other one goes on
    assert games.collect() == []
    assert games.steps == FIRST_STEP + 100  # a checkpoint of this step is without that game
    server.report(0, steps=30)
    [(seconds, *row)] = games.collect()
    assert row == [FIRST_STEP + 101, -21.0, 30]
    assert 0 <= seconds < 60


def test_a_game_of_a_worker_that_was_killed_is_given_once_its_replacement_has_gone_on():
    server = small_server(1)
    games = FinishedGames(server)
    server.report_game(0, 5.0, 8, steps=8)  # killed here
    assert games.collect() == []
    server.report(0, steps=8)  # by the replacement
    server.report_game(0, 6.0, 9, steps=9)
    server.report(0, steps=9)
    assert [row[2] for row in games.collect()] == [5.0, 6.0]


def test_the_last_collection_gives_a_game_of_a_worker_that_was_killed_all_the_same():
    server = small_server(1)
    games = FinishedGames(server)
    server.report(0, steps=3)
    server.report_game(0, 5.0, 8, steps=8)
    [row] = games.collect(last=True)
    assert row[1:] == (FIRST_STEP + 3, 5.0, 8)  # not beyond the steps of the run


@pytest.mark.parametrize("number", [6, 7, 8, 20, 21, 22])
def test_games_that_were_overwritten_are_counted_and_the_others_are_given(monkeypatch, number):
    monkeypatch.setattr(hogwild, "GAMES_KEPT", 8)
    server = small_server(2)
    games = FinishedGames(server)
    for i in range(5):
        server.report_game(0, float(i), 1, steps=1)
        server.report(0, steps=1)
    assert len(games.collect()) == 5
    for i in range(5, 5 + number):
        server.report_game(0, float(i), 1, steps=1)
        server.report(0, steps=1)
    scores = [row[2] for row in games.collect()]
    # The place of the oldest of 8 is that of the next game, which may be half written.
    assert scores == [float(i) for i in range(5, 5 + number)][-7:]
    assert games.lost == number - len(scores)
    server.report(1, steps=1)
    assert games.collect() == []


def test_a_game_that_is_overwritten_while_it_is_read_is_not_given(monkeypatch):
    monkeypatch.setattr(hogwild, "GAMES_KEPT", 8)
    server = small_server(1)
    games = FinishedGames(server)

    def finish(first: int, number: int) -> None:
        for i in range(first, first + number):
            server.report_game(0, float(i), 1, steps=1)
            server.report(0, steps=1)

    finish(0, 7)
    modulo = torch.Tensor.__mod__

    def interrupted(places, kept):  # between the count and the copy
        monkeypatch.setattr(torch.Tensor, "__mod__", modulo)
        finish(7, 3)
        return modulo(places, kept)

    monkeypatch.setattr(torch.Tensor, "__mod__", interrupted)
    scores = [row[2] for row in games.collect()]
    scores += [row[2] for row in games.collect()]
    assert scores == [3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]
    assert games.lost == 3


def test_each_evaluation_is_given_once_and_the_newest_of_too_many():
    server = Hogwild(torch.zeros(2), SharedAdam, num_workers=1)
    assert server.evaluations_after(0) == (0, [])
    for i in range(3):
        server.count_evaluation(10 * i, -i)
    assert server.evaluations_after(1) == (3, [(10, -1.0), (20, -2.0)])
    for i in range(3, 300):
        server.count_evaluation(10 * i, -i)
    number, found = server.evaluations_after(3)
    assert number == 300
    assert found == [(10 * i, -i) for i in range(300 - EVALUATIONS_KEPT, 300)]
    assert server.evaluations_after(300) == (300, [])
