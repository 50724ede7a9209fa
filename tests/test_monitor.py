"""What a run says about itself: means between two moments, and TensorBoard's curves."""

import math
import sys

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import gym_eval
import main
import monitor
import plot
from hogwild import (
    Hogwild,
)
from model import A3Clstm, flatten_parameters
from monitor import Figures, Snapshot, TensorBoard, Window
from shared_optim import SharedAdam
from stopping import StopSignal


def make_server(first_step: int = 0) -> tuple[Hogwild, A3Clstm, torch.Tensor]:
    model = A3Clstm(3, hidden_size=8)
    weights, _ = flatten_parameters(model)
    return Hogwild(weights, SharedAdam, num_workers=2, first_step=first_step), model, weights


def test_figures_are_means_over_the_updates_and_games_of_all_workers():
    server, _, _ = make_server()
    server.report(0, steps=1000, updates=50, games=9, entropy=99.0, score=-500.0)
    before = Snapshot.of(server)
    server.report(0, steps=30, updates=1, entropy=1.5, grad_norm=10.0, clipped=False)
    server.report(1, steps=50, updates=3, entropy=1.5, grad_norm=70.0, clipped=True)
    server.report(1, games=2, score=-21.0, length=1000)
    figures = Figures.between(before, Snapshot.of(server)._replace(second=before.second + 4))
    assert figures.speed == pytest.approx(20)
    assert (figures.entropy, figures.grad_norm, figures.clipped) == (0.75, 20.0, 0.25)
    assert (figures.games, figures.score, figures.length) == (2, -10.5, 500)


def test_what_did_not_happen_is_nan():
    server, _, _ = make_server()
    before = Snapshot.of(server)
    server.report(0, steps=5)
    figures = Figures.between(before, Snapshot.of(server))
    assert figures.games == 0
    assert all(math.isnan(x) for x in (figures.entropy, figures.value, figures.score))


def test_a_window_forgets_what_is_older(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(monitor.time, "monotonic", lambda: clock[0])
    server, _, _ = make_server()
    window = Window(server, seconds=10)
    for second in range(1, 31):
        clock[0] = float(second)
        server.report(0, steps=1 if second <= 15 else 5)
        figures = window.read()
    assert figures.speed == pytest.approx(5)


def read_events(folder) -> EventAccumulator:
    return EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()


def test_a_resumed_run_is_one_curve_in_tensorboard(tmp_path, monkeypatch):
    monkeypatch.setattr(monitor, "TENSORBOARD_SECONDS", 0)
    for first_step in (0, 300):  # killed at 500; its last checkpoint was at 300
        server, model, weights = make_server(first_step)
        board = TensorBoard(tmp_path, server, model, weights)
        for i in range(1, 6):
            server.report(0, steps=100, updates=2, games=1, value=i, score=first_step + i)
            server.evaluation["last_score"], server.evaluation["last_steps"] = i, server.steps
            server.evaluation["evaluations"] += 1
            board.update(last=i == 5)
    events = read_events(tmp_path)
    assert set(events.Tags()["scalars"]) == {
        "loss/policy", "loss/value", "policy/entropy", "value/mean", "gradient/norm",
        "gradient/clipped", "gradient/learning rate", "speed/agent steps per second",
        "training/score", "training/length", "evaluation/score",
    }  # fmt: skip
    points = [(e.step, e.value) for e in events.Scalars("training/score")]
    resumed = [(300 + 100 * i, 300 + i) for i in range(1, 6)]
    assert points == [(100, 1), (200, 2), (300, 3), *resumed]
    assert [e.step for e in events.Scalars("evaluation/score")] == list(range(100, 801, 100))
    assert [e.value for e in events.Scalars("value/mean")][:2] == [0.5, 1.0]
    assert set(events.Tags()["histograms"]) == {
        name.replace(".", "/") for name, _ in model.named_parameters()
    }
    assert events.Tags()["graph"]


def test_the_last_update_leaves_nothing_out(tmp_path):
    server, model, weights = make_server()
    board = TensorBoard(tmp_path, server, model, weights)
    server.report(0, steps=100, updates=1, entropy=1.25, learning_rate=0.5)
    board.update(last=True)  # TENSORBOARD_SECONDS are not over
    for name, value in (("policy/entropy", 1.25), ("gradient/learning rate", 0.5)):
        (event,) = read_events(tmp_path).Scalars(name)
        assert (event.step, event.value) == (100, value)


def test_histograms_are_of_the_newest_weights(tmp_path):
    server, model, weights = make_server()
    board = TensorBoard(tmp_path, server, model, weights)
    with torch.no_grad():
        server.parameter.fill_(3.0)
    server.evaluation["evaluations"] += 1
    board.update(last=True)
    histogram = read_events(tmp_path).Histograms("conv1/weight")[0].histogram_value
    assert (histogram.min, histogram.max) == (3.0, 3.0)
    assert histogram.num == model.conv1.weight.numel()


@pytest.fixture
def without(monkeypatch):
    """Make a module look as if it were not installed."""
    return lambda module: monkeypatch.setitem(sys.modules, module, None)


@pytest.mark.parametrize(
    ("module", "command"),
    [
        ("torch.utils.tensorboard", lambda: main.main(["--tensorboard-logger"], StopSignal())),
        ("av", lambda: gym_eval.main(["--record", "a.mp4"], StopSignal())),
        ("matplotlib.figure", lambda: plot.main(["Pong-v0.csv", "-o", "a.png"])),
    ],
)
def test_a_missing_package_is_one_line_with_the_command_that_installs_it(
    module, command, without, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    tmp_path.joinpath("Pong-v0.csv").write_text("seconds,agent_steps,score,length\n1,1,1,1\n")
    without(module)
    assert command() == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert module in error
    assert "pip install -r requirements-extra.txt" in error
    assert [path.name for path in tmp_path.iterdir()] == ["Pong-v0.csv"]


def test_snapshots_do_not_change_afterwards():
    server, _, _ = make_server()
    before = Snapshot.of(server)
    server.report(0, score=5.0)
    assert set(before.totals.values()) == {0.0}
