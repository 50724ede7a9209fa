"""How processes begin and are found to hang."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import processes


def test_the_environment_of_the_fork_server_is_its_own(monkeypatch):
    """Or whatever else this process starts would find our modules, and not its own."""
    found = {}
    monkeypatch.setattr(processes.forkserver, "ensure_running", lambda: found.update(os.environ))
    monkeypatch.setenv("PYTHONPATH", "mine")
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    before = dict(os.environ)
    context = processes.child_context(plain=True)
    monkeypatch.setattr(context.Process, "start", lambda self: None)
    processes.start_child(context.Process)
    assert (found["PYTHONSAFEPATH"], found["A3C_PLAIN"]) == ("1", "1")
    assert dict(os.environ) == before


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="not Linux")
@pytest.mark.parametrize("first", ["PYTHONPATH", "LD_LIBRARY_PATH"])
def test_a_title_is_seen_whatever_is_changed_in_the_environment(first):
    """OpenCV changes the second; setproctitle goes by where the first of all variables lies."""
    program = "import main, os, setproctitle; os.environ['PYTHONPATH'] = 'a'\n"
    program += "setproctitle.setproctitle('b'); print(open('/proc/self/cmdline').read())"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=Path(processes.__file__).parent,
        env={first: "", **os.environ}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.startswith("b\0")


FORKS = """
import multiprocessing, os, signal, sys, threading, types
sys.path.insert(0, sys.argv[1])
import processes

def nothing():
    pass

def look():
    nested = multiprocessing.get_context("forkserver").Process(target=nothing)
    nested.start()  # no lock of the main process is held here
    nested.join()
    files = {os.path.realpath(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")}
    handled = callable(signal.getsignal(signal.SIGTSTP))
    print("loaded" in sys.modules, __file__ in files, handled, os.getppid())

if __name__ == "__main__":
    threading.Thread(target=threading.Event().wait, daemon=True).start() if sys.argv[2:] else None
    sys.modules["loaded"] = types.ModuleType("loaded")  # by this process alone
    held = open(__file__)  # as a lock would be
    signal.signal(signal.SIGTSTP, lambda number, frame: None)
    context = processes.child_context(plain=True)
    processes.fork_fork_server()
    child = processes.start_child(lambda: context.Process(target=look))
    child.join()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it loads everything anew")
@pytest.mark.parametrize("threads", [False, True])
def test_the_fork_server_has_what_the_main_process_has_loaded_but_no_file_of_it(tmp_path, threads):
    """Unless there is another thread, which a fork would leave half done."""
    script = tmp_path / "script.py"
    script.write_text(FORKS)
    command = [sys.executable, str(script), str(Path(processes.__file__).parent)]
    done = subprocess.run(
        [*command, *["thread"] * threads], capture_output=True, text=True, timeout=120, check=True
    )  # fmt: skip
    loaded, has_file, handles_ctrl_z, server = done.stdout.split()
    assert (loaded, has_file, handles_ctrl_z) == (str(not threads), "False", "False")
    deadline = time.monotonic() + 20
    while Path("/proc", server).exists():  # it ends with the main process
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_process_that_cannot_be_started_at_once_is_tried_again_while_it_is_wanted(monkeypatch):
    class Stubborn:
        tries, name = 0, "worker 0"

        def start(self):
            Stubborn.tries += 1
            if Stubborn.tries < 3:
                raise ConnectionRefusedError

    assert isinstance(processes.start_child(Stubborn), Stubborn)
    assert Stubborn.tries == 3
    Stubborn.tries = -1000
    assert processes.start_child(Stubborn, stopped=lambda: Stubborn.tries > -995) is None
    assert Stubborn.tries == -994
    monkeypatch.setattr(processes, "START_SECONDS", 0)
    Stubborn.tries = -1000
    with pytest.raises(OSError, match="cannot start worker 0: ConnectionRefusedError"):
        processes.start_child(Stubborn)


def test_a_process_hangs_if_its_counter_stands_still_while_somebody_watches():
    pulse, now = processes.Pulse(), 0.0
    for beat in (0.0, 1.0):  # it has begun to move
        assert not pulse.stands_still(beat, now)
    for _ in range(processes.HANG_SECONDS):
        now += 1
        assert not pulse.stands_still(1.0, now)
    now += 10_000  # the machine slept
    assert pulse.stands_still(1.0, now) == (pulse.still > processes.HANG_SECONDS)
    assert pulse.still == processes.HANG_SECONDS + 1
    assert not pulse.stands_still(2.0, now + 1)  # it moves again


def test_a_process_that_has_not_begun_may_take_longer():
    pulse, now = processes.Pulse(), 0.0
    seconds = 0
    while not pulse.stands_still(7.0, now):
        now, seconds = now + 1, seconds + 1
    assert seconds == processes.FIRST_STEP_SECONDS + 1


def test_a_stop_while_signals_are_blocked_does_not_wait_for_another_fork_server(monkeypatch):
    class Process:
        def start(self):
            raise AssertionError("it would make a fork server in the place of the one just ended")

    asked = []
    monkeypatch.setattr(processes, "START_METHOD", "forkserver")
    monkeypatch.setattr(processes.forkserver, "ensure_running", lambda: asked.append("to stop"))
    assert processes.start_child(Process, stopped=lambda: bool(asked)) is None


def test_the_end_of_a_process_is_in_words():
    assert processes.how(3) == "exit code 3"
    assert processes.how(-9) == "killed by SIGKILL, as by a system that runs out of memory"
    assert processes.how(-35) == "killed by signal 35"  # a real-time one, which has no name
