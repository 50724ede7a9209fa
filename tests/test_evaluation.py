"""evaluation.py: games spread over processes, whatever becomes of these."""

import functools
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from games import Recall
from test_gym_eval import CONFIG, PONG_ACTIONS, lively_weights, save
from test_main import command  # noqa: F401

import gym_eval
import options
from environment import Normalizer
from evaluation import play_in_processes
from model import A3Clstm
from player import BLOCK, play_games
from utils import EVALUATE, game_seed

GAMES = 20


def make_recall(folder: Path, processes: int, seed=None) -> Recall:
    """Leaves a mark of this process; the game begins when all processes have left theirs."""
    (folder / str(os.getpid())).touch()
    end = time.monotonic() + 60
    while len(list(folder.iterdir())) < processes:
        assert time.monotonic() < end
        time.sleep(0.02)
    return Recall()


def play(folder: Path, processes: int, side_by_side: int, steps: list) -> list:
    """Sorted results of GAMES games with sampled actions.

    Each process marks the folder; steps gets what on_step gets.
    """
    torch.manual_seed(1)
    arguments = (
        A3Clstm(2, 16),
        functools.partial(make_recall, folder, processes),
        [game_seed(1, EVALUATE, i) for i in range(GAMES)],
        Normalizer(np.array([1000.0, 100.0, 5.0]), frozen=True),
        True,
        False,
    )
    games = functools.partial(play_games, *arguments)

    def on_step(*counts: int) -> None:
        steps.append(counts)

    return sorted(play_in_processes(games, GAMES, processes, side_by_side, on_step=on_step))


def test_results_do_not_depend_on_processes_and_games_side_by_side(tmp_path):
    found = {}
    for processes, side_by_side in ((1, 1), (2, 2), (2, 16), (3, 20)):
        folder = tmp_path / f"{processes} {side_by_side}"
        folder.mkdir()
        steps = []
        found[folder] = play(folder, processes, side_by_side, steps)
        assert max(running for running, _ in steps) <= side_by_side
        assert 0 < steps[-1][1] <= sum(result.length for result in found[folder])
        assert len(list(folder.iterdir())) == processes
    alone, *others = found.values()
    assert [result.index for result in alone] == list(range(GAMES))
    assert len({result[3] for result in alone}) == GAMES
    assert others == [alone] * 3


def test_by_default_each_core_has_a_process_and_each_process_a_block(monkeypatch):
    def division(*arguments):
        return gym_eval.division(options.build_eval_parser().parse_args(arguments))

    monkeypatch.setattr(gym_eval, "available_cores", lambda: 4)
    assert division() == (4, 4 * BLOCK)
    assert division("--workers", "100") == (4, 100)
    assert division("--workers", "1") == (1, 1)
    assert division("--processes", "2") == (2, 2 * BLOCK)
    assert division("--processes", "99") == (13, 100)  # blocks of 100 games
    assert division("--num-episodes", "8") == (1, 8)
    assert division("--num-episodes", "9") == (2, 9)
    assert division("--render") == (1, 1)


LONG = ("--env", "Pong-v0", "-ne", "10000", "-mel", "30", "--processes", "2")


@pytest.fixture
def evaluation(tmp_path, command):  # noqa: F811
    """gym_eval.py with two processes and an end that is far away; some games are over."""
    save(tmp_path, "Pong-v0", lively_weights(PONG_ACTIONS))
    folders = ("-lmd", str(tmp_path), "-lgd", str(tmp_path), "-evc", str(CONFIG))
    run = command(*LONG, *folders, script="gym_eval.py")
    run.wait_for(lambda: ": game " in run.text(), 120)
    assert len(run.children("Evaluate Agent: ")) == 2
    return run


def test_ctrl_c_stops_all_processes_and_sums_up_the_games_that_are_over(evaluation):
    assert evaluation.interrupt() < 10
    assert evaluation.process.returncode == 130
    games = evaluation.text().count(": game ")
    assert f"interrupted after {games} of 10000, the shortest: {games} games" in evaluation.text()
    assert "Traceback" not in evaluation.text()
    evaluation.wait_for(lambda: not evaluation.children(), 10)


def test_a_process_that_dies_is_one_line(evaluation):
    os.kill(evaluation.children("Evaluate Agent: 1")[0], signal.SIGKILL)
    assert evaluation.process.wait(timeout=30) == 2
    text = evaluation.text()
    assert "gym_eval.py: error: evaluation process 1 died, killed by SIGKILL" in text
    assert "Traceback" not in text
    evaluation.wait_for(lambda: not evaluation.children(), 10)


def test_without_its_main_process_no_process_lives_or_complains(evaluation):
    evaluation.process.kill()
    evaluation.process.wait()
    evaluation.wait_for(lambda: not evaluation.children(), 10)
    assert "Traceback" not in evaluation.text()
