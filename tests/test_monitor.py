"""What a run says about itself: means between two moments, and TensorBoard's curves."""

import contextlib
import itertools
import json
import math
import resource
import sys
import threading
import time
import urllib.parse
import urllib.request

import pytest
import torch
from tensorboard import program
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import checkpoint
import gym_eval
import main
import messages
import monitor
import plot
from hogwild import (
    Hogwild,
)
from model import A3Clstm, flatten_parameters
from monitor import Figures, Snapshot, TensorBoard, Window, watch_policy, watch_sight
from run import Run, load_options
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


def test_the_time_until_the_first_step_slows_no_speed(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(monitor.time, "monotonic", lambda: clock[0])
    server, _, _ = make_server(first_step=7000)
    window = Window(server, seconds=30)
    for second in range(1, 21):
        clock[0] = float(second)
        server.report(0, steps=100 if second > 15 else 0)
        figures = window.read()
    assert figures.speed == pytest.approx(100)


@pytest.mark.parametrize(
    ("deviation", "cell", "said_at"),
    [
        (5e-5, 0.5, 200_000),
        (1e-3, 15.0, 200_000),  # saturated
        (7e-4, 0.01, 750_000),  # Breakout-v0 at 9e-4, for 1 M agent steps: closed
        (3e-3, 0.5, None),
        (5e-3, 7.5, None),
        (2e-2, 15.0, None),
    ],
)
def test_a_policy_that_hardly_differs_is_said_by_what_its_lstm_is_like(deviation, cell, said_at):
    server, _, _ = make_server()
    policies, last, said = watch_policy(server.steps, 160), Snapshot.of(server), {}
    for _ in range(18):
        server.report(0, steps=50_000, updates=1, policy_deviation=deviation, cell=cell)
        now = Snapshot.of(server)
        if steps := policies.check(server.steps, Figures.between(last, now)):
            said[server.steps] = steps
        last = now
    assert said == ({said_at: said_at} if said_at else {})


def test_a_policy_that_is_the_same_in_all_observations_for_long_is_said_once():
    server, _, _ = make_server()
    policies, last = watch_policy(server.steps, 160), Snapshot.of(server)
    said = []
    for deviation in (3e-2, *[1e-6] * 12, 3e-2, *[1e-6] * 3, math.nan, *[1e-6] * 6):
        updates = 0 if math.isnan(deviation) else 4
        deviations = 4 * deviation if updates else 0.0
        server.report(0, steps=40_000, updates=updates, policy_deviation=deviations, cell=160.0)
        now = Snapshot.of(server)
        figures, last = Figures.between(last, now), now
        if steps := policies.check(server.steps, figures):
            said.append((server.steps, messages.same_policy(steps, figures)))
    (first, line), (second, _) = said
    assert (first, second) == (40_000 * 6, 40_000 * 19)  # a window without an update ends nothing
    assert "200,000 agent steps (deviation 1e-06, mean |cx| of the LSTM 40.0)" in line
    assert "\n" not in line


@pytest.mark.parametrize(
    ("sequence", "expected"),
    [
        # One death with two signs is said once, and for as long as the longer of them holds.
        ([(5e-3, 15.0)] * 6 + [(1e-3, 5.0)] * 12, {200_000: 200_000}),
        ([(5e-5, 0.5)] * 6 + [(1e-3, 0.5)] * 12, {200_000: 200_000}),
        ([(1.5e-3, 0.5)] * 12 + [(5e-5, 0.5)] * 6, {750_000: 750_000}),
        ([(1.5e-3, 0.5)] * 11 + [(5e-5, 0.5)] * 7, {750_000: 750_000}),  # both at once
        # Boxing-v0 with the mean step begins late.
        ([(2e-4, 0.03)] * 5 + [(7e-4, 0.05)] * 7 + [(2.2e-3, 0.09)] * 2 + [(5e-3, 0.1)] * 4, {}),
        ([(1e-3, 15.0), (1e-3, 15.0), (1e-3, 15.0), (math.nan, 0.0)] * 3, {250_000: 250_000}),
        # It comes back to life and dies again.
        (
            [(5e-5, 0.5)] * 5 + [(3e-2, 0.5)] + [(5e-5, 0.5)] * 5,
            {200_000: 200_000, 500_000: 200_000},
        ),
    ],
)
def test_a_death_is_said_once_however_its_signs_follow_each_other(sequence, expected):
    policies, said = watch_policy(0, 160), {}
    empty = Figures._make([math.nan] * len(Figures._fields))
    for n, (deviation, cell) in enumerate(sequence, 1):
        figures = empty._replace(policy_deviation=deviation, cell=cell, blind=0.0)
        if steps := policies.check(50_000 * n, figures):
            said[50_000 * n] = steps
    assert said == expected


@pytest.mark.parametrize(("share", "said_at"), [(1.0, 60_000), (0.75, 60_000), (0.25, None)])
def test_an_agent_that_sees_next_to_nothing_is_called_blind_whatever_its_policy_does(
    share, said_at
):
    server, _, _ = make_server()
    sight, policy = watch_sight(server.steps), watch_policy(server.steps, 160)
    last, said = Snapshot.of(server), {}
    for _ in range(9):
        server.report(0, steps=20_000, updates=4, policy_deviation=0.4, cell=2.0, blind=4 * share)
        figures, last = Figures.between(last, Snapshot.of(server)), Snapshot.of(server)
        assert policy.check(server.steps, figures) == 0
        if steps := sight.check(server.steps, figures):
            said[server.steps] = messages.blind(steps, figures)
    assert list(said) == ([said_at] if said_at else [])
    for line in said.values():
        begin = f"the agent has seen next to nothing for 60,000 agent steps: in {share:.0%} of the "
        assert line.startswith(begin)
        assert "--gradient-centralization" in line


def test_an_agent_that_sees_again_is_no_longer_blind():
    server, _, _ = make_server()
    sight, last, said = watch_sight(server.steps), Snapshot.of(server), []
    for share in (1, 1, 0, 1, 1, 1, 1):
        server.report(0, steps=20_000, updates=1, policy_deviation=0.4, cell=2.0, blind=share)
        figures, last = Figures.between(last, Snapshot.of(server)), Snapshot.of(server)
        said.append(sight.check(server.steps, figures))
    assert said == [0, 0, 0, 0, 0, 60_000, 0]


def test_the_policy_of_one_observation_is_no_policy_that_does_not_differ():
    server, _, _ = make_server()
    many, one, first = watch_policy(0, 2), watch_policy(0, 1), Snapshot.of(server)
    server.report(0, steps=300_000, updates=1, policy_deviation=0.0, cell=0.5)
    figures = Figures.between(first, Snapshot.of(server))
    assert (many.check(300_000, figures), one.check(300_000, figures)) == (300_000, 0)


def read_events(folder) -> EventAccumulator:
    return EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()


def served(folder, tags: list[str], until) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """What TensorBoard's server, started as people start it, shows: {run: {tag: points}}.

    until(runs): whether it has loaded everything, which takes it seconds.
    """
    server = program.TensorBoard()
    server.configure(argv=["tensorboard", "--logdir", str(folder), "--port", "0"])
    url = f"{server.launch()}data/plugin/scalars"
    end = time.monotonic() + 60
    while True:
        with urllib.request.urlopen(f"{url}/tags", timeout=20) as answer:
            found = json.load(answer)
        runs = {}
        for run, tag in itertools.product(found, tags):
            if tag in found[run]:
                query = urllib.parse.urlencode({"run": run, "tag": tag})
                with urllib.request.urlopen(f"{url}/scalars?{query}", timeout=20) as answer:
                    points = [(step, value) for _, step, value in json.load(answer)]
                runs.setdefault(run, {})[tag] = points
        if until(runs):
            return runs
        assert time.monotonic() < end, runs
        time.sleep(0.1)


def test_the_server_shows_each_session_of_a_run_and_none_hides_points_of_another(
    tmp_path, monkeypatch
):
    """The second one goes on from a checkpoint before the last evaluations, and has none yet."""
    monkeypatch.setattr(monitor, "CURVE_SECONDS", 0)
    for first_step, evaluations in ((0, 5), (300, 0), (300, 1)):
        server, model, weights = make_server(first_step)
        board = TensorBoard(tmp_path / "Pong-v0", server, model, weights, {})
        for i in range(1, 6):
            server.report(0, steps=100, updates=2, games=1, value=i, score=first_step + i)
            if i <= evaluations:
                server.count_evaluation(server.steps, i)
            board.update(last=i == 5)
    score = "training/score"
    runs = served(
        tmp_path, [score, "evaluation/score"],
        lambda runs: len(runs) == 3 and all(len(run[score]) == 5 for run in runs.values()),
    )  # fmt: skip
    first = [(100 * i, i) for i in range(1, 6)]
    later = [(300 + 100 * i, 300 + i) for i in range(1, 6)]
    assert runs == {
        "Pong-v0": {score: first, "evaluation/score": first},
        "Pong-v0/session-2": {score: later},
        "Pong-v0/session-3": {score: later, "evaluation/score": [(400, 1)]},
    }
    events = read_events(tmp_path / "Pong-v0/session-3")
    assert set(events.Tags()["scalars"]) == {
        "loss/policy", "loss/value", "policy/entropy", "policy/deviation", "lstm/mean abs cx",
        "value/mean", "gradient/norm",
        "gradient/clipped", "gradient/learning rate", "gradient/blind",
        "speed/agent steps per second",
        "training/score", "training/length", "evaluation/score",
    }  # fmt: skip
    assert [e.value for e in events.Scalars("value/mean")][:2] == [0.5, 1.0]
    assert set(events.Tags()["histograms"]) == {
        name.replace(".", "/") for name, _ in model.named_parameters()
    }
    assert events.Tags()["graph"]


def test_the_last_update_leaves_nothing_out(tmp_path):
    server, model, weights = make_server()
    board = TensorBoard(tmp_path, server, model, weights, {})
    server.report(0, steps=100, updates=1, entropy=1.25, learning_rate=0.5)
    board.update(last=True)  # CURVE_SECONDS are not over
    for name, value in (("policy/entropy", 1.25), ("gradient/learning rate", 0.5)):
        (event,) = read_events(tmp_path).Scalars(name)
        assert (event.step, event.value) == (100, value)


def test_the_options_of_each_session_are_a_table_in_tensorboard(tmp_path):
    run = Run(*load_options([
        "--env", "Pong-v0", "--hidden-size", "8", "--gamma", "0.75", "--tensorboard-logger",
        "--save-model-dir", str(tmp_path), "--log-dir", str(tmp_path),
    ]))  # fmt: skip
    run.description["command"] = "python main.py | tee log"
    for _ in range(2):
        board = run.boards.makers["TensorBoard"]()
        board.update(last=True)
        (event,) = read_events(board.session).Tensors("options/text_summary")
        lines = event.tensor_proto.string_val[0].decode().splitlines()
        assert lines[:2] == ["| option | value |", "|---|---|"]
        assert {"| env | Pong-v0 |", "| gamma | 0.75 |"} < set(lines)
        assert "| command | python main.py \\| tee log |" in lines
        assert f"'suite': '{checkpoint.commit()}'" in lines[-1]


@contextlib.contextmanager
def full_disk():
    """No file grows any more: what is written is an OSError, as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_full_disk_costs_the_curves_no_point_and_gets_one_file(tmp_path, monkeypatch):
    monkeypatch.setattr(monitor, "CURVE_SECONDS", 0)
    server, model, weights = make_server()
    board = TensorBoard(tmp_path, server, model, weights, {})
    expected = []
    for i in range(1, 7):
        server.report(0, steps=100, updates=1, value=i)
        server.count_evaluation(server.steps, i)
        expected.append((100 * i, i))
        with full_disk() if 2 <= i <= 5 else contextlib.nullcontext():
            if 2 <= i <= 5:
                with pytest.raises(OSError, match="File too large"):
                    board.update()
            else:
                board.update(last=i == 6)
    assert len(list(tmp_path.glob("events.*"))) == 2
    events = read_events(tmp_path)
    for name in ("value/mean", "evaluation/score"):
        # Sorted: files of one second go by a number of the process, the tenth before the ninth.
        assert sorted((e.step, e.value) for e in events.Scalars(name)) == expected


@pytest.mark.parametrize("method", ["add_scalar", "add_graph"])
def test_what_cannot_be_written_costs_the_curves_no_more_than_that(tmp_path, monkeypatch, method):
    monkeypatch.setattr(monitor, "CURVE_SECONDS", 0)
    server, model, weights = make_server()
    board = TensorBoard(tmp_path, server, model, weights, {})

    def fail(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(board.writer, method, fail)
    before = threading.active_count()
    server.report(0, steps=100, updates=1, entropy=1.0)
    with pytest.raises(OSError, match="No space left"):
        board.update()
    assert threading.active_count() == before - 1  # that of the writer
    server.report(0, steps=100, updates=1, entropy=2.0)
    board.update(last=True)
    events = read_events(tmp_path).Scalars("policy/entropy")
    assert [(e.step, e.value) for e in events] == [(100, 1.0), (200, 2.0)]
    assert threading.active_count() == before - 1


def test_histograms_are_of_the_newest_weights(tmp_path):
    server, model, weights = make_server()
    board = TensorBoard(tmp_path, server, model, weights, {})
    with torch.no_grad():
        server.parameter.fill_(3.0)
    server.count_evaluation(0, 0.0)
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
    assert before.totals["score"] == 0.0
