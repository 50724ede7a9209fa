"""The live display: what it draws, and that it leaves the terminal as it was."""

import contextlib
import fcntl
import io
import math
import os
import pty
import re
import select
import shlex
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console
from test_gym_eval import lively_weights, save
from test_main import PROJECT, SMALL

import checkpoint
import display
from display import Display, beats_first, draw_curve, in_tenths, number, read_lines
from hogwild import (
    Hogwild,
)
from model import A3Clstm, flatten_parameters
from options import build_parser, complete
from shared_optim import SharedAdam

ENTER_SCREEN, LEAVE_SCREEN = b"\x1b[?1049h", b"\x1b[?1049l"
HIDE_CURSOR, SHOW_CURSOR = b"\x1b[?25l", b"\x1b[?25h"


class Screen(io.StringIO):
    """A terminal that keeps what is written to it."""

    def isatty(self):
        return True


# ---------------------------------------------------------------------------------------------
# What it draws


def test_a_curve_has_a_column_per_value_from_lowest_to_highest():
    assert draw_curve([0, 1, 2, 3, 4, 5, 6, 7], width=8, height=1) == ["▁▂▃▄▅▆▇█"]
    assert draw_curve([0, 15, 7], width=8, height=2) == [" █ ", "▁██"]
    assert draw_curve([3, 3], width=8, height=2) == ["  ", "▁▁"]


def test_a_long_curve_shows_means_of_neighbours():
    assert draw_curve([0, 0, 7, 7], width=2, height=1) == ["▁█"]
    assert len(draw_curve(list(range(1000)), width=30, height=1)[0]) == 30


def test_numbers():
    assert (number(-1.234), number(math.nan), number(2.0, "g")) == ("-1.23", "-", "2")


def test_scores_have_a_tenth_where_it_is_not_zero():
    words = ["-21", "-21", "1,234.5", "-"]
    assert [in_tenths(x) for x in (-21.0, -20.96, 1234.5, math.nan)] == words


@pytest.mark.parametrize(
    ("scores", "answer"),
    [
        ([], False),
        ([[-21, -21]], False),
        ([[-21, -21], [-21, -20]], False),  # 0.5 +- 0.5 above
        ([[-21, -21], [-17, -18], [-21, -21]], True),  # 3.5 +- 0.5
        ([[60, 300], [240, 400]], False),
        ([[0], [0]], False),
        ([[0], [1]], True),  # single games
    ],
)
def test_an_evaluation_clearly_above_the_first(scores, answer):
    rows = [(9.0, step, score, 9) for step, games in enumerate(scores) for score in games]
    assert beats_first(checkpoint.by_evaluation(rows)) == answer


def test_lines_of_a_log_from_a_byte_on(tmp_path):
    log = tmp_path / "log"
    assert read_lines(log, 0) == []
    log.write_text("".join(f"line {i}\n" for i in range(1000)))
    assert read_lines(log, 0) == [f"line {i}" for i in range(1000)]
    assert read_lines(log, 7) == [f"line {i}" for i in range(1, 1000)]
    assert read_lines(log, 0, at_most=25) == ["line 998", "line 999"]


def make_display(tmp_path, width: int, height: int, *options: str, loaded=None) -> Display:
    args = complete(build_parser().parse_args(["--workers", "2", *options]))
    weights, _ = flatten_parameters(A3Clstm(3, hidden_size=8))
    run = SimpleNamespace(
        server=Hogwild(weights, SharedAdam, num_workers=2, first_step=1000),
        args=args, files=checkpoint.Files.of("Pong-v0", str(tmp_path), str(tmp_path)),
        has_saved=True, saved_at=time.monotonic(),
        description={"loaded": loaded, "policy": "greedy"},
    )  # fmt: skip
    processes = SimpleNamespace(workers_alive=lambda: 1)
    console = Console(
        file=Screen(), force_terminal=True, width=width, height=height, color_system=None
    )
    return Display(run, processes, console)


def shown(view: Display) -> str:
    view.console.file.truncate(0)
    view.console.print(view._screen())
    return view.console.file.getvalue()


def test_the_display_shows_what_the_run_does(tmp_path):
    checkpoint.append_csv(tmp_path / "Pong-v0.csv", [(9.0, 900, -20.0, 9), (9.0, 900, -10.0, 9)])
    view = make_display(tmp_path, 100, 40, "--max-steps", "3000", "--max-grad-norm", "30")
    server = view.server
    server.report(0, steps=500, updates=4, games=2, entropy=6.0, value=-2.0, score=-30.0)
    server.report(0, policy_deviation=0.05, cell=3.0)
    server.report(1, grad_norm=100.0, clipped=3)
    server.evaluation["last_score"], server.evaluation["best_score"] = -5, -4.5
    server.evaluation["evaluations"] = 1
    view.next_update = math.inf
    view.scores.append(-5.0)
    view.run.description["policy"] = "sampled"
    text = shown(view)
    for words in (
        "1,500 of 3,000", "remaining", "last -5 ", "mean of 2 -10 ", "best -4.5", "score -15.00",
        "8 sampled games each",
        "entropy 1.50", "deviation 0.0125", "value -0.50", "mean |cx| 0.75",
        "norm 25.0", "75 % clipped at 30", "1 of 2 alive",
        "-15.0", "0 s ago",
    ):  # fmt: skip
        assert words in text, f"{words} not in\n{text}"


def test_the_display_of_a_cluster_shows_its_machines(tmp_path):
    view = make_display(tmp_path, 80, 24)
    assert "machines" not in shown(view)
    view.cluster = SimpleNamespace(summary=lambda: "2 with 3 workers, 0.1 s behind, 42.0 MB/s")
    assert re.search(r"machines +2 with 3 workers, 0\.1 s behind, 42\.0 MB/s", shown(view))


def test_the_mean_is_of_the_last_ten_evaluations(tmp_path):
    view = make_display(tmp_path, 80, 24, "--eval-episodes", "1", "--envs-per-worker", "1")
    view.scores = [100.0, *[2.0] * 5, *[4.0] * 5]
    text = shown(view)
    assert "last 4   mean of 10 3   best -   1 greedy game each" in text
    assert "alive, 1 game each" in text
    assert "none yet" in shown(make_display(tmp_path, 80, 24))


def test_a_new_agent_is_excused_until_an_evaluation_clearly_beats_the_first(tmp_path):
    excuse = "a new agent plays as by chance"
    view = make_display(tmp_path, 80, 24)
    assert excuse in shown(view)
    for evaluation, (score, excused) in enumerate([(-21.0, True), (-21.0, True), (-15.0, False)]):
        rows = [(9.0, 1000 + evaluation, score, 9)] * 8
        checkpoint.append_csv(tmp_path / "Pong-v0.csv", rows)
        view.server.count_evaluation(1000 + evaluation, score)
        view.next_update = 0
        view.update()
        assert (f"{excuse}, here near -21" in shown(view)) == excused
    assert excuse not in shown(make_display(tmp_path, 80, 24))  # resumed
    (tmp_path / "Pong-v0.csv").unlink()
    assert excuse not in shown(make_display(tmp_path, 80, 24, loaded={}))


def test_lines_of_the_log_are_broken_between_words(tmp_path):
    view = make_display(tmp_path, 80, 40)
    words = "Time 00h 00m 38s, " + "episode reward -20.25, " * 12
    view.run.files.log.write_text(f"2026-01-02 03:04:05,678 : {words}\n" * 2)
    text = shown(view).partition("03:04:05 ")[2]
    assert [line.split() for line in text.split("03:04:05 ")] == [words.split()] * 2
    assert "\n         episode reward" in text or "\n         reward -20.25" in text


def test_an_evaluation_adds_to_the_curve(tmp_path):
    view = make_display(tmp_path, 80, 24)
    for scores in ([1], [2, 3]):
        for score in scores:
            view.server.count_evaluation(100 * score, score)
        view.next_update = 0
        view.update()
        view.next_update = 0
        view.update()
    assert view.scores == [1, 2, 3]


@pytest.mark.parametrize(("width", "height"), [(80, 24), (160, 50), (30, 10), (10, 5), (3, 2)])
def test_the_display_fits_the_terminal(tmp_path, width, height):
    view = make_display(tmp_path, width, height)
    view.scores = [float(i) for i in range(500)]
    view.run.files.log.write_text("a line that is longer than any terminal " * 20 + "\n")
    view.run.files.log.open("a").write("[/red] no markup\n" * 100)
    lines = shown(view).splitlines()
    assert max(map(len, lines)) <= width
    if height >= 24:
        assert len(lines) == height
        assert lines[-1].strip() == "[/red] no markup"


# ---------------------------------------------------------------------------------------------
# The real thing in a pseudo-terminal


class Terminal:
    """main.py in a terminal of its own."""

    def __init__(self, folder: Path, *options: str, size=(24, 80), script="main.py"):
        self.master, slave = pty.openpty()
        self.resize(*size)
        self.attributes = termios.tcgetattr(slave)
        self.slave = slave
        self.output = b""
        self.process = subprocess.Popen(
            [sys.executable, str(PROJECT / script), *options],
            cwd=folder, stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
            env={**os.environ, "TERM": "xterm-256color", "PYTHONUTF8": "1"},
        )  # fmt: skip

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def read(self) -> None:
        while select.select([self.master], [], [], 0.02)[0]:
            self.output += os.read(self.master, 65536)

    def left(self) -> str:
        """What stays on the ordinary screen, its blanks as single spaces.

        A character may be cut: with PYTHONUNBUFFERED, Python drops what a signal left unwritten.
        """
        after = self.output[self.output.rfind(LEAVE_SCREEN) :]
        return re.sub(r"\s+", " ", after.decode(errors="replace"))

    def wait_for(self, condition, seconds: float = 60):
        end = time.monotonic() + seconds
        while not condition():
            self.read()
            assert time.monotonic() < end, self.output.decode(errors="replace")

    def interrupt(self) -> None:
        os.killpg(self.process.pid, signal.SIGINT)

    def ended(self) -> bool:
        return self.process.poll() is not None

    def is_as_it_was(self) -> bool:
        """Ordinary screen, visible cursor, no colour left on, the line discipline untouched."""
        self.read()
        pairs = ((LEAVE_SCREEN, ENTER_SCREEN), (SHOW_CURSOR, HIDE_CURSOR))
        restored = all(self.output.rfind(a) > self.output.rfind(b) for a, b in pairs)
        colours = re.findall(rb"\x1b\[([\d;]*)m", self.output)
        plain = not colours or colours[-1] in (b"", b"0")
        return restored and plain and termios.tcgetattr(self.slave) == self.attributes

    def close(self) -> None:
        if not self.ended():
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        os.close(self.master)
        os.close(self.slave)


@pytest.fixture
def terminal(tmp_path):
    started = []

    def start(*options: str, **keywords) -> Terminal:
        started.append(Terminal(tmp_path, *options, **keywords))
        return started[-1]

    yield start
    for one in started:
        one.close()


def test_ctrl_c_leaves_the_terminal_as_it_was(terminal, tmp_path):
    run = terminal(*SMALL, "--eval-interval", "0", size=(24, 80))
    run.wait_for(lambda: (tmp_path / "logs/Pong-v0.csv").exists())
    run.wait_for(lambda: ENTER_SCREEN in run.output)
    for size in (30, 60), (12, 100), (10, 20):
        run.resize(*size)
    seen = len(run.output)
    run.wait_for(lambda: len(run.output) > seen)
    run.interrupt()
    run.wait_for(run.ended)
    assert run.process.returncode == 0
    assert run.is_as_it_was()
    assert "Pong-v0" in run.left()
    assert "stopped, saved" in run.left()
    assert b"Traceback" not in run.output


def test_a_second_ctrl_c_leaves_the_terminal_as_it_was_too(terminal, tmp_path):
    run = terminal(*SMALL)
    run.wait_for(lambda: (tmp_path / "logs/Pong-v0.csv").exists())
    for pid in Path("/proc").glob("[0-9]*"):  # a worker that does not stop: main.py waits for it
        line = (pid / "cmdline").read_text() if (pid / "cmdline").exists() else ""
        if line.startswith("Train Agent: 0") and os.getsid(int(pid.name)) == run.process.pid:
            os.kill(int(pid.name), signal.SIGSTOP)
    run.interrupt()
    run.wait_for(lambda: b"stopping" in run.output)
    end = time.monotonic() + 10
    while not run.ended() and time.monotonic() < end:
        run.interrupt()
        time.sleep(0.1)
    assert run.ended()
    assert run.process.returncode == 128 + signal.SIGINT
    assert run.is_as_it_was()


def test_what_went_wrong_is_in_the_log_and_stays_in_the_terminal(terminal, tmp_path):
    run = terminal(*SMALL, "--lr", "1e30")
    run.wait_for(run.ended)
    assert run.process.returncode == 1
    assert run.is_as_it_was()
    assert "giving up" in run.left() or "not finite" in run.left()
    assert "the gradient's norm is" in (tmp_path / "logs/Pong-v0_log").read_text()


def test_a_terminal_that_is_closed_costs_no_training(terminal, tmp_path):
    run = terminal(*SMALL)
    run.wait_for(lambda: (tmp_path / "logs/Pong-v0.csv").exists())
    os.close(run.slave)
    os.close(run.master)
    run.slave, run.master = os.open(os.devnull, os.O_RDWR), os.open(os.devnull, os.O_RDWR)
    os.killpg(run.process.pid, signal.SIGHUP)
    run.process.wait(timeout=30)
    log = (tmp_path / "logs/Pong-v0_log").read_text()
    assert "stopped, saved" in log
    steps = checkpoint.load_checkpoint(tmp_path / "trained_models/Pong-v0.ckpt")["steps"]
    assert f"agent steps {steps}, stopped" in log


class Shell(Terminal):
    """A shell with job control, as a person has it; `command` runs the script with the options."""

    def __init__(self, folder: Path, *options: str, script="main.py"):
        self.master, slave = pty.openpty()
        self.resize(24, 80)
        self.slave, self.output = os.dup(slave), b""
        self.command = shlex.join([sys.executable, str(PROJECT / script), *options])
        self.process = subprocess.Popen(
            ["bash", "--norc", "--noediting", "-i"], cwd=folder,
            preexec_fn=lambda: os.login_tty(slave), start_new_session=False,
            env={**os.environ, "TERM": "xterm-256color", "PYTHONUTF8": "1", "PS1": "ready> "},
        )  # fmt: skip
        os.close(slave)

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def on_ordinary_screen(self) -> bool:
        pairs = ((LEAVE_SCREEN, ENTER_SCREEN), (SHOW_CURSOR, HIDE_CURSOR))
        return all(self.output.rfind(a) >= self.output.rfind(b) for a, b in pairs)

    def kill_jobs(self) -> None:
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if os.getsid(int(folder.name)) == self.process.pid:
                    os.kill(int(folder.name), signal.SIGKILL)
        self.process.wait()
        os.close(self.master)
        os.close(self.slave)

    def leave_with_ctrl_z(self) -> None:
        self.type("\x1a")
        self.wait_for(lambda: b"Stopped" in self.output)
        assert self.on_ordinary_screen()


@pytest.fixture
def start_shell(tmp_path):
    started = []

    def start(*options: str, **keywords) -> Shell:
        started.append(Shell(tmp_path, *options, **keywords))
        return started[-1]

    yield start
    for one in started:
        one.kill_jobs()


@pytest.fixture
def shell(start_shell):
    return start_shell(*SMALL)


def test_ctrl_z_gives_the_screen_back_until_the_run_is_in_front_again(shell, tmp_path):
    shell.type(f"{shell.command}\n")
    shell.wait_for(lambda: b"steps/s" in shell.output)
    shell.leave_with_ctrl_z()
    shell.type("bg\n")
    csv = tmp_path / "logs/Pong-v0_log"
    size = csv.stat().st_size
    shell.wait_for(lambda: csv.stat().st_size > size)  # it trains
    assert shell.on_ordinary_screen()
    shell.type("fg\n")
    shell.wait_for(lambda: shell.output.rfind(ENTER_SCREEN) > shell.output.rfind(LEAVE_SCREEN))
    shell.type("\x03")
    shell.wait_for(lambda: b"stopped, saved" in shell.output)
    assert shell.on_ordinary_screen()


def test_a_background_job_leaves_the_shell_its_screen(shell):
    shell.type(f"{shell.command} &\n")
    shell.wait_for(lambda: b"episode reward" in shell.output)
    assert ENTER_SCREEN not in shell.output


def test_only_a_terminal_of_its_own_that_can_redraw_itself_gets_the_display(monkeypatch):
    def can_show(file, environment=None, force=True):
        console = Console(file=file, force_terminal=force, _environ=environment or {})
        return display.can_show(console)

    assert can_show(Screen())
    assert not can_show(io.StringIO())  # FORCE_COLOR with a pipe
    assert not can_show(Screen(), {"TERM": "dumb"})
    latin = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    latin.isatty = lambda: True
    assert not can_show(latin)
    monkeypatch.setattr(display, "in_foreground", lambda console: False)  # started with &
    assert not can_show(Screen())


EVALUATION = ("-lmd", ".", "-lgd", ".", "-evc", str(PROJECT / "config.json"), "-mel", "300")


def test_gym_eval_leaves_the_terminal_as_it_was(terminal, tmp_path):
    save(tmp_path, "Pong-v0", lively_weights(6))
    run = terminal(*EVALUATION, "-ne", "16", size=(24, 60), script="gym_eval.py")
    run.wait_for(run.ended)
    assert run.process.returncode == 0
    run.read()
    assert run.output.rfind(SHOW_CURSOR) > run.output.rfind(HIDE_CURSOR) > 0
    for line in (tmp_path / "Pong-v0_mon_log").read_text().splitlines():
        # Not broken into several, and on a line of its own: the bar is taken away before.
        assert re.search(rb"(^|\n|\x1b\[2K)" + re.escape(line.encode()), run.output), line
    stopped = terminal(*EVALUATION, "-ne", "1000", script="gym_eval.py")
    stopped.wait_for(lambda: b"game 1" in stopped.output)
    stopped.interrupt()
    stopped.wait_for(stopped.ended)
    assert stopped.process.returncode == 130
    assert b"interrupted after" in stopped.output
    assert stopped.output.rfind(SHOW_CURSOR) > stopped.output.rfind(HIDE_CURSOR)


def test_ctrl_z_gives_the_cursor_back_while_gym_eval_plays(start_shell, tmp_path):
    save(tmp_path, "Pong-v0", lively_weights(6))
    shell = start_shell(*EVALUATION, "-ne", "1000", script="gym_eval.py")
    shell.type(f"{shell.command}\n")
    shell.wait_for(lambda: b"game 1" in shell.output)
    shell.leave_with_ctrl_z()
    left = len(shell.output)
    shell.type("bg\n")
    shell.wait_for(lambda: shell.output[left:].count(b"reward sum") > 9)
    bars = shell.output[left:].count(b"remaining")  # one below each line, and no other
    assert bars <= shell.output[left:].count(b"reward sum") + 1
    shell.type("fg\n")
    played = shell.output.count(b"reward sum")
    shell.wait_for(lambda: shell.output.count(b"reward sum") > played)
    shell.type("\x03")
    shell.wait_for(lambda: b"interrupted after" in shell.output)


def test_ctrl_z_leaves_the_runs_of_an_experiment_at_work(start_shell, tmp_path):
    options = ("--env", "Pong-v0", "--seeds", "1", "--max-steps", "1M", "--", "--workers", "1")
    shell = start_shell(*options, "--envs-per-worker", "1", script="experiment.py")
    shell.type(f"{shell.command}\n")
    log = tmp_path / "runs/experiment/Pong-v0/base/seed-1/Pong-v0_log"
    shell.wait_for(lambda: log.exists() and "first update" in log.read_text())
    shell.leave_with_ctrl_z()
    shell.wait_for(lambda: b"the runs at work go on" in shell.output)
    left = len(shell.output)
    shell.type("bg\n")
    games = log.with_name("Pong-v0.training.csv")
    size = games.stat().st_size if games.exists() else 0
    shell.wait_for(lambda: games.exists() and games.stat().st_size > size)
    assert b"at work" not in shell.output[left:]  # the table
    shell.type("fg\n")
    shell.wait_for(lambda: b"at work" in shell.output[left:])  # it draws again
    shell.type("\x03")
    shell.wait_for(lambda: b"1 run not finished" in shell.output)
    assert "stopped, saved" in log.read_text()


def test_quiet_prints_nothing(tmp_path):
    command = [sys.executable, str(PROJECT / "main.py"), *SMALL, "--quiet", "--max-steps", "200"]
    for _ in range(2):  # the second one sets files aside
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=120)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert "stopped, saved" in (tmp_path / "logs/Pong-v0_log").read_text()
    assert list((tmp_path / "logs").glob("*.old-1"))


def test_the_picture_of_the_display_is_of_a_real_run(tmp_path):
    picture = tmp_path / "display.svg"
    script = str(PROJECT / "benchmarks/picture_of_display.py")
    options = ("--evaluations", "1", "-o", str(picture), "--", *SMALL, "--eval-interval", "100")
    subprocess.run([sys.executable, script, *options], check=True, timeout=120)
    svg = picture.read_text()
    text = re.sub(r"<[^>]*>", "", svg).replace("&#160;", " ")
    assert re.search(r"mean of 1 \S+ +best \S+ +2 greedy games each", text)
    assert "2 of 2 alive, 1 game each" in text
    assert "url(http" not in svg
    assert len(svg) < 60_000
