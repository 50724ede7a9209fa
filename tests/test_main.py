"""The run as a person sees it: real processes, real signals, real files."""

import argparse
import contextlib
import errno
import json
import logging
import math
import multiprocessing as mp
import os
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import filelock
import numpy as np
import pytest
import torch
from games import Recall
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import checkpoint
import connection
import group
import gym_eval
import main
import messages
import monitor
import options
import processes
from hogwild import GAMES_KEPT
from messages import too_little_memory, what_next
from run import Run, load_options, make_folders
from stopping import REPEAT_SECONDS, StopSignal
from utils import close_logger, setup_logger

PROJECT = Path(main.__file__).parent
SMALL = ["--workers", "2", "--envs-per-worker", "1", "--num-steps", "5", "--hidden-size", "16"]
SMALL += ["--max-episode-length", "40", "--eval-episodes", "2"]
SMALL += ["--env-config", str(PROJECT / "config.json")]
TWO = ["--envs-per-worker", "2"]  # games, with whose ends a rollout does not end


class Command:
    """main.py in a session of its own, so that signals and orphans are this test's only."""

    def __init__(self, folder: Path, *options: str, script: str = "main.py"):
        self.output = folder / f"output-{time.monotonic_ns()}"
        with open(self.output, "wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, str(PROJECT / script), *options],
                cwd=folder, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
                # First, as `PYTHONPATH=... python main.py` has it; see utils.py, setproctitle.
                env={"PYTHONPATH": "", **os.environ}, start_new_session=True,
            )  # fmt: skip

    def text(self) -> str:
        return self.output.read_text()

    def wait_for(self, condition, seconds: float = 60):
        """The first true value of condition(); fails after so many seconds."""
        end = time.monotonic() + seconds
        while not (value := condition()):
            assert time.monotonic() < end, f"{seconds} s have passed; output:\n{self.text()}"
            time.sleep(0.02)
        return value

    def children(self, title: str = "") -> list[int]:
        """Ids of the living processes of the session whose title begins so."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                stat = folder.joinpath("stat").read_text().rsplit(")")[1]
                line = folder.joinpath("cmdline").read_text()
            except OSError:
                continue  # it has ended meanwhile
            state, _, _, session = stat.split()[:4]
            pid = int(folder.name)
            if int(session) == self.process.pid and state != "Z" and line.startswith(title):
                found.append(pid)
        return [pid for pid in found if pid != self.process.pid]

    def learning(self) -> bool:
        """Whether the run is well under way: an evaluation is in its log."""
        return "episode reward" in self.text()

    def handles_sigterm(self) -> bool:
        """Whether main.py has installed its signal handlers."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        caught = int(re.search(r"SigCgt:\s*(\w+)", status)[1], 16)
        return bool(caught & 1 << (signal.SIGTERM - 1))

    def interrupt(self, number: int = signal.SIGINT) -> float:
        """Send a signal to the whole session, as a terminal does; seconds until main has ended."""
        os.killpg(self.process.pid, number)
        start = time.monotonic()
        self.process.wait(timeout=30)
        return time.monotonic() - start


@pytest.fixture
def command(tmp_path):
    started = []

    def start(*options: str, **keywords) -> Command:
        started.append(Command(tmp_path, *options, **keywords))
        return started[-1]

    yield start
    for one in started:
        for pid in [*one.children(), *([one.process.pid] if one.process.poll() is None else [])]:
            os.kill(pid, signal.SIGKILL)
        one.process.wait()


@pytest.fixture(scope="module")
def short_run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("short_run")
    options = ("--max-steps", "1000", "--eval-interval", "0", "--tensorboard-logger")
    run = Command(folder, *SMALL, *options)
    assert run.process.wait(timeout=120) == 0, run.text()
    assert "episode reward" in run.text()
    assert "\x1b" not in run.text()  # no terminal, no control characters
    return folder


@pytest.fixture
def trained(short_run, tmp_path) -> Path:
    """A folder with the files of a short run that was evaluated at least once."""
    shutil.copytree(short_run, tmp_path, dirs_exist_ok=True)
    return tmp_path


def output_of(folder: Path) -> str:
    """What the run of short_run has printed."""
    return next(folder.glob("output-*")).read_text()


def test_a_run_says_at_once_that_it_starts_and_when_it_learns(short_run):
    lines = output_of(short_run).splitlines()
    assert lines[0] == "main.py: Pong-v0, 2 workers x 1 game; starting"
    assert sum(" : first update after " in line for line in lines) == 1


def test_the_first_line_does_not_wait_for_torch(tmp_path):
    (tmp_path / "torch.py").write_text("raise SystemExit(3)")
    done = subprocess.run(
        [sys.executable, str(PROJECT / "main.py"), "--env", "Breakout-v0", "--resume"],
        cwd=tmp_path, capture_output=True, text=True, timeout=60,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 3
    assert done.stdout == "main.py: Breakout-v0, resuming\n"


def test_no_process_of_a_run_imports_what_only_torch_compile_wants(tmp_path):
    first = (*SMALL, "--optimizer", "RMSprop", "--tensorboard-logger", "--max-steps", "100")
    for given in (first, ("--resume", "--max-steps", "200")):
        done = subprocess.run(
            [sys.executable, str(PROJECT / "main.py"), *given],
            cwd=tmp_path, capture_output=True, text=True, timeout=120, check=True,
            env={**os.environ, "PYTHONPROFILEIMPORTTIME": "1"},
        )  # fmt: skip
        imported = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
        assert {"torch.optim.adam", "shared_optim"} <= imported
        assert not {"torch._dynamo", "sympy"} & imported


def test_the_commands_that_a_run_prints_at_its_end_work(trained, command):
    pattern = r"^(continue|play the best|play the last): +(.*)$"
    commands = dict(re.findall(pattern, output_of(trained), re.MULTILINE))
    assert len(commands) == 3
    python, script, *options = shlex.split(commands["continue"])
    assert (python, script) == (sys.executable, str(PROJECT / "main.py"))
    run = command(*options)
    run.wait_for(lambda: "first update" in run.text())
    assert run.interrupt() < 10
    assert run.process.returncode == 0
    steps = checkpoint.load_checkpoint(trained / "trained_models/Pong-v0.ckpt")["steps"]
    assert steps > 1000
    play = commands["play the last"] + " --num-episodes 1 --max-episode-length 4"
    subprocess.run(play, shell=True, cwd=trained, check=True, timeout=60)
    assert json.loads((trained / "logs/Pong-v0_eval.json").read_text())["agent_steps"] == steps


def test_the_end_of_a_run_says_what_the_best_weights_are(trained, monkeypatch):
    monkeypatch.chdir(trained)
    Path("trained_models").rename("my models")
    options = ["--resume", "--max-steps", "9000", "--save-model-dir", "my models", "--log-dir", "l"]
    run = Run(*load_options(options))
    description = checkpoint.load_model(run.files.model)[1]
    steps, server = description["agent_steps"], run.server
    server.report(0, steps=9000 - server.steps)
    held, go_on, play, last = what_next(run)
    best = (
        f"my models/Pong-v0.dat has the best weights: mean score {description['score']:g} of 2 "
        f"games, agent step {steps}, {9000 - steps} before the last; "
    )
    assert held == f"{best}nothing was evaluated since"
    run.files.csv.parent.mkdir()
    checkpoint.append_csv(run.files.csv, [(9.0, steps, -21.0, 9), (99.0, steps + 1, -21.0, 9)])
    assert what_next(run)[0] == f"{best}none as good was evaluated since"
    assert go_on.endswith("--resume --save-model-dir 'my models' --log-dir l --max-steps none")
    crops = f"--env-config {PROJECT / 'config.json'}"
    assert play.endswith(f"--env Pong-v0 --load-model-dir 'my models' --log-dir l {crops}")
    assert last.endswith(f"--env Pong-v0 --last --load-model-dir 'my models' --log-dir l {crops}")
    checkpoint.save_model(run.files.model, run.model.state_dict(), description | {"score": None})
    held, _, last = what_next(run)
    assert held == "my models/Pong-v0.dat has the last weights: no evaluation counts yet"
    assert "--last" in last


@pytest.mark.parametrize("length", [(), ("--schedule-steps", "1000")])
def test_what_next_asks_for_a_rate_where_the_schedule_would_come_to_zero(tmp_path, length):
    model = ("--hidden-size", "16", "--save-model-dir", str(tmp_path), "--log-dir", str(tmp_path))
    schedule = ("--lr", "1e-3@0%,0@100%", "--max-steps", "900", *length)
    run = Run(*load_options([*model, *schedule, "--plain"]))
    run.save(last=True)
    assert what_next(run)[1].endswith(f"--log-dir {tmp_path} --plain")  # it is not at its end
    run.server.report(0, steps=900)
    assert what_next(run)[1].endswith("--max-steps none --lr RATE --anneal-steps 0 --plain")


# Gigabytes that were measured, see benchmarks/README.md.
MEASURED = {"1x1": 0.91, "2x1": 1.00, "8x1": 1.31, "32x1": 3.38, "2x8": 1.15, "2x16": 1.29}


@pytest.mark.parametrize("pair", MEASURED)
def test_a_run_for_which_the_memory_does_not_suffice_says_so(pair, monkeypatch):
    workers, games = pair.split("x")
    args, _ = load_options(["--workers", workers, "--envs-per-worker", games])
    monkeypatch.setattr("messages.memory_limit", lambda: 1.2e9 * MEASURED[pair])
    assert too_little_memory(args) == ""
    monkeypatch.setattr("messages.memory_limit", lambda: 0.8e9 * MEASURED[pair])
    assert re.search(r"need about \d.\d GB of memory, but there are", too_little_memory(args))


def test_the_memory_is_that_of_the_longest_rollouts(monkeypatch):
    args, _ = load_options(["--workers", "2", "--distributed-step-size", "20", "2000"])
    monkeypatch.setattr("messages.memory_limit", lambda: 2e9)
    assert too_little_memory(args)


def test_more_workers_than_cores_are_told_what_is_faster_and_no_command_that_begins_anew(
    trained, monkeypatch
):
    monkeypatch.chdir(trained)
    monkeypatch.setattr("messages.available_cores", lambda: 2)
    options = ["--resume", "--max-steps", "9000", "--workers", "5"]
    hint = messages.beginning(Run(*load_options(options)))[-1]
    assert hint == (
        "5 workers are more than 2 cores: faster with as many games is --workers 2 "
        "--envs-per-worker 3"
    )


def test_training_time_begins_when_the_processes_start(tmp_path, monkeypatch):
    runs = []

    def compile_for_an_hour(args, model):
        runs[0].server.started -= 3600
        return ""

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(main, "Run", lambda *options: runs.append(Run(*options)) or runs[0])
    monkeypatch.setattr(main, "choose_network", compile_for_an_hour)
    assert main.main([*SMALL, "--max-steps", "100"], StopSignal()) == 0
    assert 0 < checkpoint.load_checkpoint(Path("trained_models/Pong-v0.ckpt"))["seconds"] < 600


def test_a_line_about_the_speed_follows_the_first_update(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(main, "PROGRESS_SECONDS", (0, 600))
    assert main.main([*SMALL, "--max-steps", "1000"], StopSignal()) == 0
    lines = capsys.readouterr().out.splitlines()
    learning = next(i for i, line in enumerate(lines) if "first update after" in line)
    assert re.search(r"agent steps \d+, [\d.]+ steps/s, \d+ training games", lines[learning + 1])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_all_processes_and_everything_is_saved(tmp_path, command, number):
    run = command(*SMALL)
    run.wait_for(run.learning)
    assert len(run.children("Train Agent: ")) == 2
    assert len(run.children("Test Agent")) == 1
    assert run.interrupt(number) < 10
    assert run.process.returncode == 0
    run.wait_for(lambda: not run.children(), 5)
    assert "Traceback" not in run.text()
    saved = checkpoint.load_checkpoint(tmp_path / "trained_models/Pong-v0.ckpt")
    assert saved["steps"] > 0
    _, description = checkpoint.load_model(tmp_path / "trained_models/Pong-v0.dat")
    assert description["agent_steps"] <= saved["steps"]
    assert f"agent steps {saved['steps']}, stopped" in (tmp_path / "logs/Pong-v0_log").read_text()


def test_further_signals_do_not_disturb_the_stop(tmp_path, command):
    """A closing terminal hangs up, its session manager terminates; both may come twice."""
    run = command(*SMALL)
    run.wait_for(run.learning)
    for number in (signal.SIGHUP, signal.SIGHUP, signal.SIGTERM):
        os.killpg(run.process.pid, number)
        time.sleep(0.01)
    assert run.interrupt(signal.SIGTERM) < 10
    assert run.process.returncode == 0
    assert checkpoint.load_checkpoint(tmp_path / "trained_models/Pong-v0.ckpt")["steps"] > 0


def test_tensorboard_gets_the_scores_of_the_csv_and_a_new_run_its_own_folder(trained, command):
    folder = trained / "logs/tensorboard/Pong-v0"
    scores = {}
    for _, steps, score, _ in checkpoint.read_csv(trained / "logs/Pong-v0.csv"):
        scores.setdefault(steps, []).append(score)
    events = EventAccumulator(str(folder), {"scalars": 0}).Reload().Scalars("evaluation/score")
    assert {e.step: e.value for e in events} == pytest.approx(
        {steps: np.mean(values) for steps, values in scores.items()}
    )
    run = command(*SMALL, "--max-steps", "40")
    assert run.process.wait(timeout=60) == 0
    assert not folder.exists()
    assert list((folder.with_name("Pong-v0.old-1")).glob("events.*"))


def test_a_run_goes_on_without_tensorboard_if_it_cannot_be_written(tmp_path, monkeypatch, capsys):
    def fail(board, last=False):
        raise ValueError("a fault")  # not only of the disk

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(monitor.TensorBoard, "update", fail)
    argv = [*SMALL, "--max-steps", "200", "--tensorboard-logger"]
    assert main.main(argv, StopSignal()) == 0
    output = capsys.readouterr().out
    assert output.count("cannot write for TensorBoard") == 1
    assert checkpoint.load_checkpoint(tmp_path / "trained_models/Pong-v0.ckpt")["steps"] >= 200


def test_a_tensorboard_that_cannot_begin_is_tried_once(tmp_path, monkeypatch, capsys):
    tries = []

    def fail(*args):
        tries.append(args)  # each would leave a folder and a thread
        raise ValueError("a fault")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(monitor.TensorBoard, "__init__", fail)
    argv = [*SMALL, "--max-steps", "2000", "--tensorboard-logger"]
    assert main.main(argv, StopSignal()) == 0
    assert len(tries) == capsys.readouterr().out.count("cannot write for TensorBoard") == 1


def test_a_tensorboard_that_failed_is_tried_again_and_a_tracker_is_not(monkeypatch, caplog):
    class Board:
        def __init__(self, kind):
            self.calls, self.recovers = 0, kind.recovers

        def update(self, last):
            self.calls += 1
            if self.calls == 1:
                raise OSError("no space\nand more")

    kinds = {"TensorBoard": Board(monitor.TensorBoard), "wandb": Board(monitor.Tracker)}
    makers = {name: lambda board=board: board for name, board in kinds.items()}
    boards = monitor.Boards(argparse.Namespace(has_learned=True), makers)

    def calls(last=False):
        boards.write(logging.getLogger("test"), last)
        return [board.calls for board in kinds.values()]

    assert [calls(), calls(), calls(last=True)] == [[1, 1], [1, 1], [2, 1]]
    monkeypatch.setattr("monitor.BOARD_SECONDS", -1)
    boards.leave_until["TensorBoard"] -= 61
    assert [calls(), calls()] == [[3, 1], [4, 1]]
    assert caplog.messages == [
        f"cannot write for {name}: OSError: no space; the run goes on" for name in kinds
    ]


def test_a_fault_of_the_main_process_costs_no_training(tmp_path, monkeypatch, capsys):
    def fail(*arguments):
        raise ZeroDivisionError

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(messages, "progress", fail)
    monkeypatch.setattr(main, "PROGRESS_SECONDS", (10, 10))
    assert main.main(SMALL, StopSignal()) == 1
    assert "ZeroDivisionError" in capsys.readouterr().out
    assert checkpoint.load_checkpoint(tmp_path / "trained_models/Pong-v0.ckpt")["steps"] > 0


def test_a_display_that_fails_costs_no_training(tmp_path, monkeypatch, capsys):
    def fail(display):
        if display.server.has_learned:
            raise ZeroDivisionError
        return ""

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(main.Display, "_view", fail)
    monkeypatch.setattr(main, "can_show", lambda console: True)
    assert main.main(SMALL, StopSignal()) == 1
    assert "saved" in capsys.readouterr().out
    assert checkpoint.load_checkpoint(tmp_path / "trained_models/Pong-v0.ckpt")["steps"] > 0


def test_a_run_that_fails_before_it_has_learned_anything_leaves_its_log_alone(trained, command):
    before = {path.name for path in trained.rglob("Pong*")}
    run = command(*SMALL, "--value-coef", "1e38")
    assert run.process.wait(timeout=120) == 1
    assert "giving up" in (trained / "logs/Pong-v0_log.failed").read_text()
    assert "the log is now logs/Pong-v0_log.failed" in run.text()
    assert {path.name for path in trained.rglob("Pong*")} == before | {"Pong-v0_log.failed"}


def test_a_run_that_diverges_leaves_the_checkpoint_and_the_best_weights_of_before(trained, command):
    """Its weights are finite: it is their gradients that are not."""
    kept = [trained / "trained_models" / f"Pong-v0.{ending}" for ending in ("ckpt", "dat", "json")]
    before = {path: path.read_bytes() for path in kept}
    steps = checkpoint.load_checkpoint(kept[0])["steps"]
    run = command("--resume", "--lr", "1e9", "--max-steps", "none", "--eval-interval", "0")
    assert run.process.wait(timeout=120) == 1
    assert "Traceback" not in run.text()
    end = f"--resume goes on from agent step {steps}, trained_models/Pong-v0.ckpt\n"
    assert re.search(r"not saved: the training has diverged, .* \(try a lower --lr\); ", run.text())
    assert run.text().endswith(end)
    assert {path: path.read_bytes() for path in kept} == before


def test_nothing_is_saved_while_the_newest_gradient_of_a_worker_is_not_finite(trained, monkeypatch):
    monkeypatch.chdir(trained)
    run = Run(*load_options(["--resume", "--max-steps", "9000"]))
    before = run.files.checkpoint.read_bytes()
    logger = setup_logger(run.files.log.name, run.files.log)
    for norm in (math.nan, 40.0):
        with contextlib.suppress(FloatingPointError):
            run.server.report_gradient(1, norm)
        run.server.report(1, steps=1, updates=1)
        run.saved_at -= 3600
        run.save_when_due(logger)
        saved = run.files.checkpoint.read_bytes() != before
        assert saved == math.isfinite(norm)
    close_logger(logger)
    assert run.files.log.read_text().count("cannot save: the training has diverged") == 1


def test_an_evaluation_that_ends_during_a_save_is_in_the_next_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = Run(*load_options([*SMALL, "--quiet"]))
    make_folders("trained_models", "logs")
    run.server.report(0, steps=100, updates=1)
    write, written = checkpoint.write_atomically, []

    def write_slowly(path, content):
        if not written:
            run.server.count_evaluation(100, 5.0)
        written.append(path)
        write(path, content)

    monkeypatch.setattr(checkpoint, "write_atomically", write_slowly)
    run.server.count_evaluation(50, 3.0)
    for _ in range(3):
        run.save_when_due(logging.getLogger("unused"))
    assert written == [run.files.checkpoint] * 2


def test_a_stop_while_the_disk_is_full_is_one_line_about_what_is_there(
    trained, monkeypatch, capsys
):
    finish, saved = main.finish, Path("trained_models/Pong-v0.ckpt")

    def finish_on_a_full_disk(*arguments):
        before.append(saved.read_bytes())
        unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, unlimited[1]))
        try:
            return finish(*arguments)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)

    monkeypatch.chdir(trained)
    monkeypatch.setattr(main, "finish", finish_on_a_full_disk)
    before: list[bytes] = []
    options = ["--resume", "--max-steps", "1300", "--eval-interval", "600"]
    assert main.main(options, StopSignal()) == 1
    shown = capsys.readouterr()
    assert shown.err == ""
    steps = checkpoint.load_checkpoint(saved)["steps"]
    assert shown.out.splitlines()[-1].endswith(
        f"stopped, not saved: [Errno 27] File too large: '{saved}'; "
        f"--resume goes on from agent step {steps}, {saved}"
    )
    assert [saved.read_bytes()] == before


def test_a_disk_that_fills_between_checkpoint_and_weights_leaves_what_is_there(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    run = Run(*load_options([*SMALL, "--quiet"]))
    make_folders("trained_models", "logs")

    def fail(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "trained_models/Pong-v0.dat")

    monkeypatch.setattr(checkpoint, "save_model", fail)
    run.server.report(0, steps=100, updates=1)
    logger = setup_logger("full", os.devnull)
    assert not main.finish(run, logger, healthy=True)
    where = "--resume goes on from agent step 100, trained_models/Pong-v0.ckpt"
    assert where in capsys.readouterr().out
    assert checkpoint.load_checkpoint(run.files.checkpoint)["steps"] == 100


def test_a_full_disk_keeps_no_file_from_its_old_name(trained, monkeypatch):
    """What --resume took out of a CSV stays in ENV.dropped.csv then."""
    monkeypatch.chdir(trained)
    run = Run(*load_options(["--resume", "--max-steps", "9000"]))
    path = run.files.training_csv
    run.csv_before = {path: b"more"}
    aside = run.files.model.with_name("Pong-v0.old-1.dat")
    run.files.model.rename(aside)
    run.set_aside = [(run.files.model, aside)]

    def fail(path, write):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(checkpoint, "write_atomically", fail)
    run.undo_prepare_files()
    assert run.files.model.exists()
    assert not aside.exists()


def test_the_log_stays_when_a_run_whose_workers_die_is_stopped(tmp_path, command):
    run = command(*SMALL, *TWO, "--num-steps", "2000")  # no update before the stop
    run.wait_for(lambda: run.children("Train Agent: "))
    os.kill(run.children("Train Agent: ")[0], signal.SIGKILL)
    run.wait_for(lambda: "starting another" in run.text())
    run.interrupt()
    assert run.process.returncode == 0
    assert "starting another" in (tmp_path / "logs/Pong-v0_log.failed").read_text()


@pytest.mark.parametrize(
    "unusable", ["logs/Pong-v0.csv", "logs/Pong-v0.training.csv", "logs/Pong-v0_log"]
)
def test_files_that_cannot_be_used_end_a_resumed_run_with_one_line(
    trained, monkeypatch, capsys, unusable
):
    monkeypatch.chdir(trained)
    Path(unusable).unlink()
    Path(unusable).mkdir()
    assert main.main(["--resume", "--max-steps", "9000"], StopSignal()) == 2
    output = capsys.readouterr()
    assert output.err.startswith("main.py: error: ")
    assert unusable in output.err
    assert output.err.count("\n") == 1


@pytest.mark.parametrize("resume", [[], ["--resume"]])
@pytest.mark.parametrize("fails", ["to make processes", "to prepare the files", "to use Ray"])
def test_an_error_before_the_run_begins_leaves_all_files_as_they_were(
    trained, monkeypatch, capsys, resume, fails
):
    def fail(*arguments):
        raise OSError("no place")

    monkeypatch.chdir(trained)
    csvs = [Path("logs/Pong-v0.csv"), Path("logs/Pong-v0.training.csv")]
    for path in csvs:
        checkpoint.append_csv(path, [(9.0, 10**6, 1, 9)])
    mend, begun = checkpoint.mend_csv, []

    def fail_at_the_second(path, up_to_step):
        begun.append(path)
        return mend(path, up_to_step) if path == csvs[0] else fail()

    reason, ray = "no place", []
    if fails == "to make processes":
        monkeypatch.setattr(main, "child_context", fail)
    elif fails == "to use Ray":
        reason, ray = "cannot start the parameter server: no place", ["--ray"]
        monkeypatch.setattr(connection, "connect", lambda address: None)
        monkeypatch.setattr(main, "make_cluster", fail)
    elif resume:
        monkeypatch.setattr(checkpoint, "mend_csv", fail_at_the_second)
    else:
        monkeypatch.setattr(Path, "rename", fail)
    before = {path: path.read_bytes() for path in trained.rglob("Pong*") if path.is_file()}
    assert main.main([*SMALL, *resume, *ray, "--max-steps", "9000"], StopSignal()) == 2
    assert capsys.readouterr().err == f"main.py: error: {reason}\n"
    after = {path: path.read_bytes() for path in trained.rglob("Pong*") if path.is_file()}
    if resume and ray:  # the run had begun to write its log
        log = trained / "logs/Pong-v0_log"
        assert after[log].startswith(before[log])
        del after[log], before[log]
    assert after == before
    assert begun == (csvs if resume and fails == "to prepare the files" else [])


@pytest.mark.parametrize("resume", [[], ["--resume"]])
def test_a_log_that_cannot_be_opened_is_one_line_and_leaves_all_files_as_they_were(
    trained, monkeypatch, capsys, resume
):
    monkeypatch.chdir(trained)
    log = Path("logs/Pong-v0_log")
    log.unlink()
    log.symlink_to("gone/Pong-v0_log")  # on a disk that is not there
    before = {path: path.read_bytes() for path in trained.rglob("Pong*") if path.is_file()}
    assert main.main([*SMALL, *resume, "--max-steps", "9000"], StopSignal()) == 2
    error = "[Errno 2] No such file or directory: 'logs/Pong-v0_log'"
    assert capsys.readouterr().err == f"main.py: error: {error}\n"
    after = {path: path.read_bytes() for path in trained.rglob("Pong*") if path.is_file()}
    assert after == before


def test_a_resumed_run_with_less_than_a_rollout_left_comes_to_its_end(trained, monkeypatch, capsys):
    monkeypatch.chdir(trained)
    path = Path("trained_models/Pong-v0.ckpt")
    before = checkpoint.load_checkpoint(path)
    end = before["steps"] + 2
    assert main.main(["--resume", "--max-steps", str(end)], StopSignal()) == 0
    assert "--resume --max-steps none" in capsys.readouterr().out  # what one may do now
    after = checkpoint.load_checkpoint(path)
    assert after["steps"] >= end
    for name, weights in before["model"].items():
        assert torch.equal(after["model"][name], weights), name


def test_a_checkpoint_that_another_run_wrote_meanwhile_is_not_resumed(trained, monkeypatch, capsys):
    monkeypatch.chdir(trained)
    path = Path("trained_models/Pong-v0.ckpt")

    def end_of_another_run(args, model):
        torch.save(checkpoint.load_checkpoint(path) | {"steps": 5000}, path)

    monkeypatch.setattr(main, "choose_network", end_of_another_run)
    assert main.main(["--resume", "--max-steps", "9000"], StopSignal()) == 2
    assert "written anew meanwhile; try again" in capsys.readouterr().err
    assert checkpoint.load_checkpoint(path)["steps"] == 5000


def test_a_run_of_one_worker_comes_to_the_same_weights_again(tmp_path, command):
    one = [*SMALL, *TWO, "--workers", "1", "--max-steps", "300"]
    seeds = {"first": "7", "again": "7", "other": "8"}
    runs = [command(*one, "-smd", name, "-lg", name, "-s", seed) for name, seed in seeds.items()]
    assert [run.process.wait(timeout=120) for run in runs] == [0, 0, 0]
    first, again, other = (
        checkpoint.load_checkpoint(tmp_path / name / "Pong-v0.ckpt")["model"] for name in seeds
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["lstm.weight_hh"], other["lstm.weight_hh"])


def test_a_run_ends_at_its_target_score(tmp_path, command):
    run = command(*SMALL, "--target-score", "-30", "--eval-episodes", "3", "--target", "evaluation")
    assert run.process.wait(timeout=60) == 0
    assert run.text().count("episode reward") == 1
    assert len(checkpoint.read_csv(tmp_path / "logs/Pong-v0.csv")) == 3


def test_a_resumed_run_with_other_rules_keeps_its_best_aside_and_ends_by_its_training_games(
    trained, command
):
    best = (trained / "trained_models/Pong-v0.dat").read_bytes()
    other = ("--max-episode-length", "4", "--max-steps", "none")
    run = command("--resume", *other, "--target-score", "-30", "--target", "training")
    assert run.process.wait(timeout=120) == 0
    assert (
        "no longer counts: max_episode_length was 40 and is 4; those weights are now "
        "trained_models/Pong-v0.old-1.dat" in run.text()
    )
    assert (trained / "trained_models/Pong-v0.old-1.dat").read_bytes() == best
    assert (trained / "trained_models/Pong-v0.dat").read_bytes() != best
    assert re.search(
        r"target score -30 reached: \S+, mean of the last 100 training games", run.text()
    )
    # Its training games are still that good: to go on with it wants another target.
    again = command("--resume", *other, "--target-score", "-30", "--target", "training")
    assert again.process.wait(timeout=60) == 2
    assert "give another --target-score, or none" in again.text()
    assert "--target-score none" in re.search(r"continue: .*", run.text())[0]


def test_a_run_ends_after_max_minutes_and_pauses_between_evaluations(tmp_path, command):
    run = command(*SMALL, "--max-minutes", "0.15", "--eval-interval", "600")
    assert run.process.wait(timeout=60) == 0
    assert len(checkpoint.read_csv(tmp_path / "logs/Pong-v0.csv")) == 2  # one evaluation
    seconds = checkpoint.load_checkpoint(tmp_path / "trained_models/Pong-v0.ckpt")["seconds"]
    assert 9 <= seconds < 20


def test_a_stop_before_the_first_update_leaves_nothing(tmp_path, command):
    run = command(*SMALL, *TWO, "--num-steps", "2000")
    run.wait_for(lambda: run.children("Train Agent: "))
    assert run.interrupt() < 10
    assert run.process.returncode == 0
    assert "before anything was learned" in run.text()
    assert [p.name for p in tmp_path.rglob("Pong*") if p.suffix != ".lock"] == []


def test_a_resumed_run_that_is_stopped_before_the_first_update_drops_no_row(trained, command):
    csv = trained / "logs/Pong-v0.csv"
    csv.write_bytes(csv.read_bytes() + b"99.0,99999999,5.0,10\r\n\xff\xfe\r\n")
    training = trained / "logs/Pong-v0.training.csv"
    training.unlink()  # as if of a version that did not write it
    before = {path: path.read_bytes() for path in trained.glob("logs/*.csv")}
    run = command("--resume", "--max-steps", "none", "--num-steps", "2000", *TWO)
    run.wait_for(training.exists)  # games end before the first update
    assert run.interrupt() < 10
    assert "before anything was learned" in run.text()
    assert {path: path.read_bytes() for path in trained.glob("logs/*.csv")} == before


def test_nobody_reads_the_output_any_more(tmp_path):
    """As with `| head -1`: the run goes on and ends without complaint."""
    reader, writer = os.pipe()
    process = subprocess.Popen(
        [sys.executable, str(PROJECT / "main.py"), *SMALL, "--max-steps", "100"],
        cwd=tmp_path, stdin=subprocess.DEVNULL, stdout=writer, stderr=subprocess.PIPE,
    )  # fmt: skip
    os.close(writer)
    os.close(reader)
    _, error = process.communicate(timeout=60)
    assert error == b""
    assert process.returncode == 0
    assert "stopped, saved" in (tmp_path / "logs/Pong-v0_log").read_text()


@pytest.mark.parametrize("delay", [0.0, 0.5, 2.5])  # seconds: any moment, none to wait for
def test_ctrl_c_during_start_up_stops_without_traceback(trained, command, delay):
    before = (trained / "trained_models/Pong-v0.dat").read_bytes()
    run = command(*SMALL)
    run.wait_for(run.handles_sigterm)  # before that, Python itself has only begun
    time.sleep(delay)
    assert run.interrupt() < 10
    assert run.process.returncode == 0
    assert "Traceback" not in run.text()
    assert "stopped" in run.text()
    run.wait_for(lambda: not run.children(), 5)
    if ", saved " not in run.text():  # a slip of the keyboard costs nothing
        assert (trained / "trained_models/Pong-v0.dat").read_bytes() == before


def test_a_second_ctrl_c_ends_at_once(command):
    run = command(*SMALL)
    run.wait_for(run.learning)
    os.kill(run.children("Test Agent")[0], signal.SIGSTOP)  # this one cannot end by itself
    run.process.send_signal(signal.SIGINT)
    run.wait_for(lambda: not run.children("Train Agent: "))  # the first one has arrived
    time.sleep(REPEAT_SECONDS)  # sooner, it would count as the same one
    assert run.interrupt() < 2
    assert run.process.returncode == 128 + signal.SIGINT
    run.wait_for(lambda: not run.children(), 5)


def test_a_second_ctrl_c_ends_at_once_while_a_process_is_replaced(monkeypatch):
    def leave(code):
        raise SystemExit(code)

    replaced = mp.get_context("spawn").Process()
    replaced.close()
    stop_signal = StopSignal()
    stop_signal.children = [replaced]
    monkeypatch.setattr(os, "_exit", leave)
    stop_signal._handle(signal.SIGINT, None)
    stop_signal.first -= 2 * REPEAT_SECONDS
    with pytest.raises(SystemExit) as end:
        stop_signal._handle(signal.SIGINT, None)
    assert end.value.code == 128 + signal.SIGINT


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a mutex begins otherwise")
@pytest.mark.parametrize("at_once", [True, False])
def test_ctrl_c_is_heard_while_the_main_thread_waits_in_code_that_is_not_pythons(at_once):
    script = (
        "import ctypes, signal, stopping\n"
        f"signals = stopping.StopSignal(at_once={at_once}).install()\n"
        "signal.signal(signal.SIGWINCH, lambda *_: None)\n"
        "lock = ctypes.CDLL(None).pthread_mutex_lock\n"
        "mutex = ctypes.create_string_buffer(64)\n"
        "lock(mutex)\n"
        "with signals.heard_anywhere():\n"
        "    print('waits', flush=True)\n"
        "    lock(mutex)\n"  # for ever, and no signal interrupts it
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        assert process.stdout.readline() == b"waits\n"
        time.sleep(0.2)
        process.send_signal(signal.SIGWINCH)
        time.sleep(2 * REPEAT_SECONDS)
        process.send_signal(signal.SIGINT)
        if not at_once:  # and the size of the window is no request to stop
            time.sleep(2 * REPEAT_SECONDS)
            assert process.poll() is None
            process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == (0 if at_once else 128 + signal.SIGINT)
    finally:
        process.kill()
        error = process.communicate()[1]
    assert error == (b"stopped before anything had begun\n" if at_once else b"")


def test_an_ignored_hang_up_stays_ignored(command):
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        run = command(*SMALL)
    finally:
        signal.signal(signal.SIGHUP, previous)
    run.wait_for(lambda: len(run.children("Train Agent: ")) == 2)
    run.process.send_signal(signal.SIGHUP)
    run.wait_for(run.learning)
    assert run.process.poll() is None


def test_a_killed_worker_and_a_killed_test_process_are_replaced(command):
    run = command(*SMALL)
    run.wait_for(run.learning)
    for title in ("Train Agent: 1", "Test Agent"):
        victims = run.children(title)
        assert len(victims) == 1
        os.kill(victims[0], signal.SIGKILL)
        run.wait_for(lambda t=title, v=victims: run.children(t) not in ([], v))
    assert re.search("worker 1 died, killed by SIGKILL, [^;]*; starting another", run.text())
    assert run.interrupt() < 10
    assert run.process.returncode == 0


def test_a_run_whose_processes_keep_dying_saves_and_ends_with_an_error(tmp_path, command):
    run = command(*SMALL)
    run.wait_for(run.learning)
    killed = set()

    def kill_again():
        for pid in set(run.children("Train Agent: 0")) - killed:
            killed.add(pid)
            os.kill(pid, signal.SIGKILL)
        return run.process.poll() is not None

    run.wait_for(kill_again, 120)
    assert run.process.returncode == 1
    assert len(killed) == group.MAX_REPLACEMENTS + 1
    deaths = group.MAX_REPLACEMENTS + 1
    assert re.search(
        rf"worker 0 died, killed by SIGKILL, [^;]*; giving up after {deaths} deaths in \d+ s "
        rf"\(worker 0: {deaths}\); why is above, the log in logs/Pong-v0_log\n",
        run.text(),
    )
    assert checkpoint.load_checkpoint(tmp_path / "trained_models/Pong-v0.ckpt")["steps"] > 0


def test_a_killed_fork_server_is_replaced_with_everything_that_came_from_it(command):
    """Whichever moment it dies at; the deaths that go with it count once."""
    run = command(*SMALL)
    for kills in range(1, 5):  # of three processes each: more deaths than may be
        run.wait_for(run.learning)
        before = run.children("Train Agent: ") + run.children("Test Agent")
        # What it has just made has its name, too.
        server = min(pid for pid in run.children() if "forkserver" in command_line(pid))
        assert command_line(server).startswith("multiprocessing.forkserver") == (kills == 1)
        # Where memory runs out, the system takes workers before it, and it before main.
        scores = [
            int(Path(f"/proc/{pid}/oom_score_adj").read_text())
            for pid in (run.process.pid, server, before[0])
        ]
        assert scores == sorted(set(scores))
        os.kill(server, signal.SIGKILL)
        run.wait_for(lambda n=kills: run.text().count("worker 1 died") == n)
        run.wait_for(lambda old=before: not set(run.children()) & set(old))
        run.wait_for(lambda: len(run.children("Train Agent: ")) == 2)
    assert run.interrupt() < 10
    assert run.process.returncode == 0
    assert "Traceback" not in run.text()


def test_a_memory_game_is_learned_while_a_worker_is_killed_every_few_seconds(tmp_path):
    """main.py with tests/games.py's Recall for Pong; by chance a player scores 0."""
    best = Recall.TRIALS
    script = tmp_path / "recall.py"
    script.write_text(
        f"import sys; sys.path[:0] = [{str(PROJECT)!r}, {str(Path(__file__).parent)!r}]\n"
        "from stopping import StopSignal\n"
        "import games, group, main, run\n"
        "def make_env(*_, seed=None, max_idle_steps=None, render_mode=None):\n"
        "    return games.Recall()\n"
        "group.MAX_REPLACEMENTS = 1000\n"
        "run.make_env = make_env\n"
        "if __name__ == '__main__':\n"
        "    sys.exit(main.main(sys.argv[1:], StopSignal(at_once=True).install()))\n"
    )
    options = "--workers 2 --envs-per-worker 4 --num-steps 5 --hidden-size 64 --seed 3 --lr 1e-3"
    options += " --gamma 0.2 --value-coef 0.1 --eval-episodes 16 --eval-interval 0"
    run = Command(tmp_path, *options.split(), script=script)
    kills = 0
    try:
        run.wait_for(run.learning)

        def steps_and_score() -> tuple[int, float]:
            found = re.findall(r"episode reward ([-\d.]+), .*agent steps (\d+)", run.text())
            return int(found[-1][1]), float(found[-1][0])

        while kills < 5 or steps_and_score()[1] < 0.9 * best:
            workers = run.children("Train Agent: ")
            os.kill(workers[kills % len(workers)], signal.SIGKILL)
            kills += 1
            steps, _ = steps_and_score()
            run.wait_for(lambda: len(run.children("Train Agent: ")) == 2)
            run.wait_for(lambda before=steps: steps_and_score()[0] > before + 300)
        assert run.interrupt() < 10
        assert run.process.returncode == 0
    finally:
        for pid in [*run.children(), run.process.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        run.process.wait()


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""  # it has ended


def test_a_worker_that_hangs_is_named_and_replaced(tmp_path):
    """main.py with a shorter patience; the worker is stopped for ever."""
    script = tmp_path / "patient.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(PROJECT)!r})\n"
        "from stopping import StopSignal\n"
        "import main\n"
        "import processes\n"
        "processes.HANG_SECONDS = 3\n"
        "if __name__ == '__main__':\n"
        "    sys.exit(main.main(sys.argv[1:], StopSignal(at_once=True).install()))\n"
    )
    run = Command(tmp_path, *SMALL, script=script)
    try:
        run.wait_for(run.learning)
        for title in ("Train Agent: 1", "Test Agent"):
            (victim,) = run.children(title)
            os.kill(victim, signal.SIGSTOP)
            run.wait_for(lambda t=title, v=victim: run.children(t) not in ([], [v]))
        assert "worker 1 hangs, no step for 3 s; killing it" in run.text()
        assert "test process hangs, no step for 3 s; killing it" in run.text()
        assert run.interrupt() < 10
        assert run.process.returncode == 0
    finally:
        for pid in [*run.children(), run.process.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        run.process.wait()


def test_ctrl_c_does_not_wait_for_a_fork_server_that_loads_for_long(tmp_path):
    tmp_path.joinpath("for_long.py").write_text("import time; time.sleep(100)")
    script = tmp_path / "slow.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(PROJECT)!r})\n"
        "from stopping import StopSignal\n"
        "import main\n"
        "def child_context(plain, make=main.child_context):\n"
        "    context = make(plain)\n"
        "    context.set_forkserver_preload(['for_long'])\n"
        "    return context\n"
        "main.child_context = child_context\n"
        "if __name__ == '__main__':\n"
        "    sys.exit(main.main(sys.argv[1:], StopSignal(at_once=True).install()))\n"
    )
    run = Command(tmp_path, *SMALL, script=script)
    try:
        run.wait_for(lambda: any("forkserver" in command_line(pid) for pid in run.children()))
        assert run.interrupt() < 10
        assert run.process.returncode == 0
        assert "before anything was learned" in run.text()
        run.wait_for(lambda: not run.children(), 5)
    finally:
        for pid in [*run.children(), run.process.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        run.process.wait()


def test_nothing_is_started_anew_once_a_stop_is_asked_for(monkeypatch):
    """Nobody waits until a fork server has made sixty processes."""

    class Dead:
        name, exitcode = "worker", -9

        def is_alive(self):
            return False

        def close(self):
            pass

    def start(maker, stopped):
        started.append(maker)
        stop.received = len(started) == 2
        return Dead()

    stop, started = StopSignal(), []
    monkeypatch.setattr(group, "start_child", start)
    some = object.__new__(group.Processes)
    some.stop_signal, some.makers, some.running, some.pulses = stop, range(60), [], []
    some.server = argparse.Namespace(stopped=False)
    some.start()
    assert started == [0, 1]
    stop.received, started[:] = False, []
    some.running, some.pulses, some.replaced = [Dead() for _ in range(60)], [None] * 60, []
    monkeypatch.setattr(some, "_kill_hanging", lambda logger: None)
    assert some.replace_dead(logging.getLogger("test"))
    assert started == [0, 1]


def test_ctrl_c_ends_a_fork_server_that_is_replaced_and_no_other(monkeypatch):
    class Process:
        name, exitcode = "worker", 255

        def __init__(self, alive):
            self.alive = alive

        def is_alive(self):
            return self.alive

        def close(self):
            pass

    def start(maker, stopped):
        seen.append(some.stop_signal.on_stop)
        return Process(True)

    monkeypatch.setattr(group, "start_child", start)
    some = object.__new__(group.Processes)
    some.stop_signal, some.makers = StopSignal(), range(2)
    some.server = argparse.Namespace(stopped=False)
    monkeypatch.setattr(some, "_kill_hanging", lambda logger: None)
    for alive, expected in (
        ((False, False), [group.end_fork_server, None]),  # as when the fork server has died
        ((True, False), [None]),
    ):
        some.running, some.pulses, some.replaced = [*map(Process, alive)], [None] * 2, []
        seen = []
        assert some.replace_dead(logging.getLogger("test"))
        assert seen == expected
        assert some.stop_signal.on_stop is None


def test_a_warning_of_a_batch_system_stops_and_saves(command):
    run = command(*SMALL)
    run.wait_for(run.learning)
    assert run.interrupt(signal.SIGUSR1) < 10
    assert run.process.returncode == 0
    assert ", saved " in run.text()


def test_a_long_name_of_the_temporary_folder_does_no_harm(tmp_path, monkeypatch, command):
    folder = tmp_path / ("x" * 90)
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    run = command(*SMALL, "--max-steps", "40")
    assert run.process.wait(timeout=60) == 0, run.text()


def test_without_its_main_process_no_child_lives_or_writes(tmp_path, command):
    run = command(*SMALL, "--eval-interval", "0")
    run.wait_for(lambda: "episode reward" in run.text())
    run.process.kill()
    run.process.wait()
    run.wait_for(lambda: not run.children("T"), 10)

    def files():
        return {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}

    before = files()
    run.wait_for(lambda: not run.children(), 10)
    assert files() == before


def test_a_second_run_on_the_same_files_is_refused(tmp_path, command):
    first = command(*SMALL)
    first.wait_for(first.learning)
    second = command(*SMALL)
    assert second.process.wait(timeout=30) == 2
    assert second.text().count("\n") == 2  # the first says that it starts
    assert "another run is writing" in second.text()
    assert first.interrupt() < 10
    assert first.process.returncode == 0


def test_locks_and_logs_that_are_removed_come_back(tmp_path, command):
    run = command(*SMALL, "--eval-interval", "0")
    run.wait_for(run.learning)
    locks = [tmp_path / "trained_models/Pong-v0.lock", tmp_path / "logs/Pong-v0.lock"]
    locks[0].unlink()
    shutil.rmtree(tmp_path / "logs")
    (tmp_path / "logs").mkdir()
    run.wait_for(lambda: all(lock.exists() for lock in locks))
    second = command(*SMALL)
    assert second.process.wait(timeout=30) == 2
    assert "another run is writing" in second.text()
    log = tmp_path / "logs/Pong-v0_log"
    run.wait_for(lambda: log.exists() and "episode reward" in log.read_text())
    assert run.interrupt() < 10
    assert run.process.returncode == 0
    assert "stopped, saved" in log.read_text()
    assert run.text().count("error: ") <= 1  # "cannot write", if it came in that moment


def test_a_run_whose_files_another_run_has_taken_over_writes_no_more(tmp_path, command):
    run = command(*SMALL, "--eval-interval", "600")
    run.wait_for(run.learning)
    lock, log = tmp_path / "trained_models/Pong-v0.lock", tmp_path / "logs/Pong-v0_log"
    model = tmp_path / "trained_models/Pong-v0.ckpt"
    run.wait_for(model.exists)
    run.process.send_signal(signal.SIGSTOP)
    lock.unlink()
    with filelock.FileLock(lock):
        before = {path: path.read_bytes() for path in (log, model)}
        run.process.send_signal(signal.SIGCONT)
        assert run.process.wait(timeout=30) == 2
    assert "was removed and another run has it now" in run.text()
    assert {path: path.read_bytes() for path in (log, model)} == before
    run.wait_for(lambda: not run.children(), 10)


def test_a_fresh_run_renames_the_files_of_the_one_before(trained, command):
    models, logs = trained / "trained_models", trained / "logs"
    before = {
        new: (folder / old).read_bytes()
        for folder, old, new in [
            (models, "Pong-v0.dat", "Pong-v0.old-1.dat"),
            (models, "Pong-v0.json", "Pong-v0.old-1.json"),
            (models, "Pong-v0.ckpt", "Pong-v0.old-1.ckpt"),
            (logs, "Pong-v0_log", "Pong-v0_log.old-1"),
            (logs, "Pong-v0.csv", "Pong-v0.old-1.csv"),
            (logs, "Pong-v0.training.csv", "Pong-v0.old-1.training.csv"),
        ]
    }
    run = command(*SMALL, "--max-steps", "100")
    assert run.process.wait(timeout=120) == 0
    assert "is now Pong-v0.old-1.dat" in run.text()
    for name, content in before.items():
        folder = models if (models / name).exists() else logs
        assert (folder / name).read_bytes() == content


def test_the_last_weights_can_be_evaluated(trained, monkeypatch):
    monkeypatch.chdir(trained)
    path = Path("trained_models/Pong-v0.ckpt")
    saved = checkpoint.load_checkpoint(path)
    weights, description = checkpoint.load_last(path)
    for name, tensor in saved["model"].items():
        assert torch.equal(weights[name], tensor)
    assert description["agent_steps"] == saved["steps"]
    assert description["score"] is None
    best = checkpoint.load_model(path.with_suffix(".dat"))[1]
    same = best.keys() - {"agent_steps", "seconds", "score", "normalizer", "sha256"}
    assert {"workers", "envs_per_worker", "sessions"} <= same
    assert {key: description[key] for key in same} == {key: best[key] for key in same}
    games = ["--num-episodes", "1", "--max-episode-length", "4", "--env-config"]
    assert gym_eval.main([*games, str(PROJECT / "config.json"), "--last"], StopSignal()) == 0
    assert json.loads(Path("logs/Pong-v0_eval.json").read_text())["agent_steps"] == saved["steps"]


def test_a_description_says_what_each_session_was_started_with(trained, monkeypatch):
    monkeypatch.chdir(trained)
    model = Path("trained_models/Pong-v0.json")
    steps, first = [0], json.loads(model.read_text())["sessions"]
    for gamma in (0.8, 0.7):
        monkeypatch.setattr(sys, "argv", ["main.py", "--resume", f"--gamma={gamma}"])
        run = Run(*load_options(["--resume", f"--gamma={gamma}", "--max-steps", "none"]))
        steps.append(run.server.steps)
        run.server.report(0, steps=100)
        run.server.evaluation["best_score"] = math.nan  # so that the last weights are described
        run.save(last=True)
    described = json.loads(model.read_text())
    sessions = described["sessions"]
    assert sessions[:1] == first
    assert [one["first_step"] for one in sessions] == steps
    assert [one["options"]["gamma"] for one in sessions] == [0.99, 0.8, 0.7]
    assert [one["command"] for one in sessions[1:]] == [
        "python main.py --resume --gamma=0.8", "python main.py --resume --gamma=0.7"
    ]  # fmt: skip
    assert all(one["versions"]["suite"] == checkpoint.commit() for one in sessions)
    assert described["workers"] == sessions[-1]["workers"] == run.args.workers
    # A checkpoint of an earlier version has the last session alone.
    path = Path("trained_models/Pong-v0.ckpt")
    saved = checkpoint.load_checkpoint(path)
    for key in ("sessions", "workers", "envs_per_worker"):
        del saved["description"][key]
    torch.save(saved, path)
    before, now = Run(*load_options(["--resume"])).description["sessions"]
    assert (before["first_step"], before["command"]) == (None, described["command"])
    assert before["workers"] is None
    assert now["first_step"] == saved["steps"]


def test_resume_restores_everything_exactly(trained, monkeypatch):
    monkeypatch.chdir(trained)
    saved = checkpoint.load_checkpoint(Path("trained_models/Pong-v0.ckpt"))
    args, resumed = load_options(["--resume", "--max-steps", "9000"])
    assert (args.hidden_size, args.num_steps, args.max_steps) == (16, 5, 9000)
    run = Run(args, resumed)
    assert run.server.steps == saved["steps"] >= 1000
    assert float(run.server.evaluation["best_score"]) == saved["best_score"]
    run.save()
    again = checkpoint.load_checkpoint(Path("trained_models/Pong-v0.ckpt"))
    for key in ("steps", "best_score", "normalizer"):
        assert again[key] == saved[key]
    assert again["seconds"] == pytest.approx(saved["seconds"], abs=30)
    assert again["seconds"] >= saved["seconds"]
    for name, tensor in saved["model"].items():
        assert torch.equal(again["model"][name], tensor)
    assert saved["optimizer"]["state"][0]["exp_avg_sq"].count_nonzero() > 0
    for name, tensor in saved["optimizer"]["state"][0].items():
        assert torch.equal(again["optimizer"]["state"][0][name], tensor)


def test_a_resumed_run_can_be_given_back_the_defaults(trained, monkeypatch):
    monkeypatch.chdir(trained)
    path = Path("trained_models/Pong-v0.ckpt")
    saved = checkpoint.load_checkpoint(path)
    saved["args"] |= {
        "distributed_step_size": [4, 6], "num_steps": None, "save_score_level": 3.0
    }  # fmt: skip
    torch.save(saved, path)
    resume = ["--resume", "--max-steps", "9000"]
    args, _ = load_options(resume)
    assert (args.distributed_step_size, args.num_steps) == ([4, 6], None)
    assert (args.max_episode_length, args.save_score_level) == (40, 3.0)
    none = ["--max-episode-length", "none", "--save-score-level", "none"]
    args, _ = load_options([*resume, *none, "--num-steps", "20"])
    assert (args.distributed_step_size, args.num_steps) == ([], 20)
    assert args.max_episode_length is args.save_score_level is None
    args, _ = load_options([*resume, "--distributed-step-size", "8"])
    assert (args.distributed_step_size, args.num_steps) == ([8], None)


def test_a_run_that_dealt_out_learning_rates_is_refused_with_the_way_out(trained, monkeypatch):
    monkeypatch.chdir(trained)
    path = Path("trained_models/Pong-v0.ckpt")
    saved = checkpoint.load_checkpoint(path)
    saved["args"] |= {"distributed_step_size": [0.1, 0.2]}  # as earlier versions wrote it
    torch.save(saved, path)
    resume = ["--resume", "--max-steps", "9000"]
    with pytest.raises(ValueError, match=r"learning rates 0\.1 0\.2 .* give --lr"):
        load_options([*resume, "--distributed-step-size", "8"])
    args, _ = load_options([*resume, "--lr", "0.3"])
    assert (args.lr, args.distributed_step_size, args.num_steps) == (0.3, [], 5)


def test_a_checkpoint_from_before_annealing_keeps_its_rate(trained, monkeypatch):
    monkeypatch.chdir(trained)
    path = Path("trained_models/Pong-v0.ckpt")
    saved = checkpoint.load_checkpoint(path)
    assert saved["args"].pop("anneal_steps") is not None
    torch.save(saved, path)
    assert load_options(["--resume", "--max-steps", "9000"])[0].anneal_steps == 0
    given = ["--resume", "--max-steps", "9000", "--anneal-steps", "7"]
    assert load_options(given)[0].anneal_steps == 7


@pytest.mark.parametrize(
    ("option", "older", "other"),
    [("value_mean_step", 0, 0.2), ("gradient_centralization", False, True)],
)
def test_a_checkpoint_from_before_an_option_goes_on_without_it(trained, option, older, other):
    saved = checkpoint.load_checkpoint(trained / "trained_models/Pong-v0.ckpt")
    saved["args"] |= {"env": "MsPacman-v0", "envs_per_worker": 8, option: other}
    given = ["--env", "MsPacman-v0", "--resume", "--max-steps", "9000"]
    assert vars(options.parse_resumed(given, Path("any"), saved))[option] == other
    del saved["args"][option]
    assert vars(options.parse_resumed(given, Path("any"), saved))[option] == older


@pytest.mark.parametrize("in_checkpoint", [None, 1.0, 3.0])
@pytest.mark.parametrize("in_description", [2.0, "of other weights", "no weights"])
def test_the_best_score_is_that_of_the_weights_on_disk(
    trained, monkeypatch, in_checkpoint, in_description
):
    """The test process saves by itself, between two checkpoints."""
    monkeypatch.chdir(trained)
    model, path = Path("trained_models/Pong-v0.dat"), Path("trained_models/Pong-v0.ckpt")
    torch.save(checkpoint.load_checkpoint(path) | {"best_score": in_checkpoint}, path)
    weights, description = checkpoint.load_model(model)
    checkpoint.save_model(model, weights, description | {"score": 2.0})
    if in_description == "of other weights":
        torch.save(weights, model)
    elif in_description == "no weights":
        model.unlink()
    run = Run(*load_options(["--resume", "--max-steps", "9000"]))
    expected = {
        2.0: max(in_checkpoint or 2.0, 2.0),
        "of other weights": math.nan,
        "no weights": math.nan,
    }[in_description]
    assert float(run.server.evaluation["best_score"]) == pytest.approx(expected, nan_ok=True)


def test_best_weights_of_which_others_are_described_do_not_count(trained, monkeypatch):
    monkeypatch.chdir(trained)
    model = Path("trained_models/Pong-v0.dat")
    torch.save(checkpoint.load_model(model)[0] | {"another": torch.ones(1)}, model)
    run = Run(*load_options(["--resume", "--max-steps", "9000"]))
    assert math.isnan(run.server.evaluation["best_score"])
    assert "Pong-v0.json: describes other weights than" in run.outdated


def test_best_weights_that_cannot_be_used_are_kept_aside_and_replaced(trained, command):
    model = trained / "trained_models/Pong-v0.dat"
    model.write_bytes(model.read_bytes()[:5000])
    before = model.read_bytes()
    path = model.with_suffix(".ckpt")
    torch.save(checkpoint.load_checkpoint(path) | {"best_score": 1000.0}, path)
    run = command("--resume", "--max-steps", "none")
    run.wait_for(run.learning)
    assert run.interrupt() < 10
    assert f"the best weights so far cannot be used: {model.parent.name}" in run.text()
    assert "not a readable PyTorch file" in run.text()
    assert "those weights are now trained_models/Pong-v0.old-1.dat" in run.text()
    assert (model.parent / "Pong-v0.old-1.dat").read_bytes() == before
    assert checkpoint.load_model(model)[1]["score"] < 1000


def test_a_resumed_run_appends_to_log_and_csv_and_drops_newer_rows(trained, command):
    csv, log = trained / "logs/Pong-v0.csv", trained / "logs/Pong-v0_log"
    rows, lines = csv.read_text(), log.read_text()
    steps = checkpoint.load_checkpoint(trained / "trained_models/Pong-v0.ckpt")["steps"]
    newer = f"99.0,{steps + 1},5.0,10\r\n"
    csv.write_text(rows + newer + f"7.5,{steps}")  # torn
    run = command("--resume", "--max-steps", str(steps + 200), "--workers", "1")
    assert run.process.wait(timeout=120) == 0, run.text()
    assert csv.read_text().startswith(rows)
    assert newer not in csv.read_text()
    dropped = trained / "logs/Pong-v0.dropped.csv"
    assert dropped.read_bytes() == b"seconds,agent_steps,score,length\r\n" + newer.encode()
    told = "logs/Pong-v0.csv had 1 row newer than the checkpoint; they are now in "
    assert told + dropped.name in run.text()
    assert log.read_text().startswith(lines)
    resumed = log.read_text()[len(lines) :]
    assert f"resumed at agent step {steps}" in resumed
    assert "num_steps: 5" in lines
    assert "num_steps: 5" in resumed
    again = checkpoint.load_checkpoint(trained / "trained_models/Pong-v0.ckpt")
    assert steps + 200 <= again["steps"] <= steps + 210


def test_a_copied_run_does_not_touch_the_logs_of_the_run_that_it_came_from(
    trained, monkeypatch, capsys
):
    monkeypatch.chdir(trained)
    shutil.copytree("trained_models", "branch")
    before = {path: path.read_bytes() for path in Path("logs").glob("*") if path.is_file()}
    branch = ["--resume", "--max-steps", "none", "--save-model-dir", "branch"]
    assert main.main(branch, StopSignal()) == 2
    error = capsys.readouterr().err
    assert "branch/Pong-v0.ckpt: a copy of trained_models/Pong-v0.ckpt" in error
    assert error.count("\n") == 1
    assert {path: path.read_bytes() for path in before} == before
    assert load_options([*branch, "--log-dir", "other"])[0].log_dir == "other"
    Path("trained_models").rename("moved")
    assert Path(load_options(branch)[0].log_dir) == Path("logs")


@pytest.mark.parametrize("resumes", [1, 2])
def test_rows_that_are_dropped_again_and_again_are_all_kept(trained, monkeypatch, resumes):
    monkeypatch.chdir(trained)
    files, newer = [Path("logs/Pong-v0.csv"), Path("logs/Pong-v0.training.csv")], (9.0, 10**6, 1, 9)
    rows = {path: checkpoint.read_csv(path) for path in files}
    for _ in range(resumes):
        for path in files:
            checkpoint.append_csv(path, [newer])
        args, resumed = load_options(["--resume", "--max-steps", "none"])
        run = Run(args, resumed)
        run.prepare_files(resumed)
    for path in files:
        assert checkpoint.read_csv(path) == rows[path]
        assert checkpoint.read_csv(checkpoint.dropped(path)) == [newer] * resumes
    assert {path for path, _, _ in run.dropped} == set(files)
    run.undo_prepare_files()
    for path in files:
        assert checkpoint.read_csv(path) == [*rows[path], newer]
        assert checkpoint.read_csv(checkpoint.dropped(path)) == [newer] * (resumes - 1)


def test_every_training_game_of_the_steps_that_count_is_in_its_csv_once(
    tmp_path, command, monkeypatch
):
    """Through an end, a kill -9 of the main process and two resumes. Games of 40 steps."""
    temporary = tmp_path / "t"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    csv, path = tmp_path / "logs/Pong-v0.training.csv", tmp_path / "trained_models/Pong-v0.ckpt"

    def saved() -> int:
        return checkpoint.load_checkpoint(path)["steps"]

    def ends() -> list[int]:
        return [row[1] for row in checkpoint.read_csv(csv)]

    first = command(*SMALL, "--workers", "1", "--eval-interval", "600", "--max-steps", "300")
    assert first.process.wait(timeout=120) == 0, first.text()
    ended = saved()
    expected = list(range(40, ended + 1, 40))
    assert ends() == expected

    second = command("--resume", "--max-steps", "none")
    second.wait_for(lambda: saved() > ended and ends()[-1] > saved(), 120)
    second.process.kill()
    second.process.wait()
    killed = saved()
    expected += range(ended + 40, killed + 1, 40)
    assert [end for end in ends() if end <= killed] == expected
    second.wait_for(lambda: not second.children(), 10)
    assert list(temporary.glob("pymp-*")) == []  # the folder of the fork server's socket

    third = command("--resume", "--max-steps", str(killed + 300))
    assert third.process.wait(timeout=120) == 0, third.text()
    expected += range(killed + 40, saved() + 1, 40)
    assert ends() == expected
    rows = checkpoint.read_csv(csv)
    seconds = [row[0] for row in rows]
    assert seconds == sorted(seconds)
    assert all(row[2] <= 0 and row[3] == 40 for row in rows)


def test_no_training_game_is_lost_however_short_they_are(tmp_path, monkeypatch):
    finish, runs = main.finish, []

    def remember(run, *others):
        runs.append(run)
        return finish(run, *others)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(main, "finish", remember)
    options = ["--max-episode-length", "2", "--envs-per-worker", "4", "--max-steps", "3000"]
    assert main.main([*SMALL, *options], StopSignal()) == 0
    rows = checkpoint.read_csv(Path("logs/Pong-v0.training.csv"))
    assert len(rows) == int(runs[0].server.figures["games"].sum()) > 1000
    steps = [row[1] for row in rows]
    assert steps == sorted(steps)
    assert steps[-1] <= checkpoint.load_checkpoint(runs[0].files.checkpoint)["steps"]
    assert "lacks" not in Path("logs/Pong-v0_log").read_text()


def test_games_that_were_not_collected_in_time_are_an_error_in_the_log(trained, monkeypatch):
    monkeypatch.chdir(trained)
    run = Run(*load_options(["--resume", "--max-steps", "9000"]))
    before = len(checkpoint.read_csv(run.files.training_csv))
    for _ in range(GAMES_KEPT + 99):
        run.server.report_game(1, -1.0, 1, steps=1)
        run.server.report(1, steps=1)
    logger = setup_logger(run.files.log.name, run.files.log)
    run.write_games(logger)
    run.write_games(logger)
    close_logger(logger)
    assert len(checkpoint.read_csv(run.files.training_csv)) == before + GAMES_KEPT - 1
    assert run.files.log.read_text().count("lacks 100 games") == 1


def test_training_games_that_cannot_be_written_are_written_later(tmp_path, monkeypatch, capsys):
    append, failed = checkpoint.append_csv, []

    def fail_at_first(path, rows):
        if len(failed) < 3:
            failed.append(rows)
            raise OSError(28, "No space left on device")
        append(path, rows)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(checkpoint, "append_csv", fail_at_first)  # the test process has its own
    assert main.main([*SMALL, "--workers", "1", "--max-steps", "600"], StopSignal()) == 0
    assert capsys.readouterr().out.count("cannot save training games") == 1
    steps = checkpoint.load_checkpoint(Path("trained_models/Pong-v0.ckpt"))["steps"]
    rows = checkpoint.read_csv(Path("logs/Pong-v0.training.csv"))
    assert [row[1] for row in rows] == list(range(40, steps + 1, 40))


def test_training_games_that_a_full_disk_kept_from_the_csv_are_in_it_after_a_resumption(
    trained, monkeypatch
):
    monkeypatch.chdir(trained)
    run = Run(*load_options(["--resume", "--max-steps", "9000"]))
    before = checkpoint.read_csv(run.files.training_csv)
    run.server.report_game(1, -1.0, 1, steps=1)
    run.server.report(1, steps=1)
    with monkeypatch.context() as full:
        full.setattr(checkpoint, "append_csv", lambda path, rows: checkpoint.read_csv(Path()))
        run.write_games(logging.getLogger("test"))
        run.save()
    assert checkpoint.read_csv(run.files.training_csv) == before
    (row,) = run.unwritten
    for _ in range(2):  # the second checkpoint is from before they were written
        args, resumed = load_options(["--resume", "--max-steps", "9000"])
        run = Run(args, resumed)
        run.prepare_files(resumed)
        run.write_games(logging.getLogger("test"))
        assert checkpoint.read_csv(run.files.training_csv) == [*before, row]
        assert run.earlier_games == len(before) + 1
        now = monitor.Snapshot.of(run.server)
        figures = monitor.Figures.between(now, now)
        line = messages.progress(run.server, figures, "", run.earlier_games)
        assert f"{len(before) + 1} training games" in line


def test_a_csv_with_bytes_that_are_no_text_does_not_end_a_resumed_run(trained, monkeypatch, capsys):
    monkeypatch.chdir(trained)
    damaged = {}
    for path in (Path("logs/Pong-v0.csv"), Path("logs/Pong-v0.training.csv")):
        header, *rows = path.read_bytes().splitlines(keepends=True)
        damaged[path] = header + rows[0] + b"\xff\xfe\0\r\n" + b"".join(rows[1:])
        path.write_bytes(damaged[path])
    rows = {path: checkpoint.read_csv(path) for path in damaged}
    options = ["--resume", "--max-steps", "none", "--target-score", "-30"]
    assert main.main(options, StopSignal()) == 0  # it was evaluated
    output = capsys.readouterr().out
    assert "starting another" not in output
    for path, content in damaged.items():
        kept = path.with_name(path.name.replace("v0", "v0.damaged-1"))
        assert kept.read_bytes() == content
        assert f"{path} had lines that are no rows; as it was, it is now {kept.name}" in output
        again = checkpoint.read_csv(path)
        assert again[: len(rows[path])] == rows[path]
        assert len(again) > len(rows[path])


def test_each_worker_s_own_optimizer_is_saved_and_resumed_as_a_list(tmp_path, monkeypatch, command):
    run = command(*SMALL, "--max-steps", "200", "--shared-optimizer", "False")
    assert run.process.wait(timeout=120) == 0, run.text()
    monkeypatch.chdir(tmp_path)
    saved = checkpoint.load_checkpoint(Path("trained_models/Pong-v0.ckpt"))["optimizer"]
    assert len(saved) == 2
    assert not torch.equal(saved[0]["state"][0]["exp_avg"], saved[1]["state"][0]["exp_avg"])
    resumed = Run(*load_options(["--resume", "--max-steps", "9000"]))
    for optimizer, state in zip(resumed.server.optimizers, saved, strict=True):
        own = optimizer.state_dict()["state"][0]
        assert all(torch.equal(own[name], state["state"][0][name]) for name in own)


def test_the_suite_works_where_processes_can_only_be_spawned(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(processes, "START_METHOD", "spawn")
    stop = StopSignal()

    def stop_when_saved():
        while not list(Path().rglob("Pong-v0.dat")):
            time.sleep(0.05)
        stop.received = True

    threading.Thread(target=stop_when_saved, daemon=True).start()
    assert main.main(SMALL, stop) == 0
    assert checkpoint.load_checkpoint(Path("trained_models/Pong-v0.ckpt"))["steps"] > 0


def test_a_worker_that_is_being_replaced_is_not_alive_for_whoever_asks():
    """A thread of a cluster's driver may ask while the main thread has closed it."""
    ended, closed = mp.Process(target=int), mp.Process(target=int)
    for process in (ended, closed):
        process.start()
        process.join()
    closed.close()
    some = object.__new__(group.Processes)
    some.tests, some.running = 0, [ended, closed]
    assert some.workers_alive() == 0
