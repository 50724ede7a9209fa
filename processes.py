"""How the processes of a run or an evaluation begin, end, and are found to hang.

Nothing here knows what they do; group.py and evaluation.py start and watch them.
"""

import atexit
import contextlib
import multiprocessing
import multiprocessing.util
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import forkserver, resource_tracker
from pathlib import Path

import setproctitle

from stopping import STOP_SIGNALS

# fork can hang once torch has started threads; spawn imports torch once for every process.
START_METHOD = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
START_SECONDS = 20  # to start one process; the fork server may just have been killed
HANG_SECONDS = 300  # without a step, after which a process counts as dead
FIRST_STEP_SECONDS = 900  # the same before its first step: many start slowly on few cores
_ENVIRONMENT: dict[str, str] = {}  # of the fork server; see child_context
SOCKET_FOLDER = 75  # bytes of a temporary folder's name; a socket's whole name has at most 107


def child_context(plain: bool) -> multiprocessing.context.BaseContext:
    """Makes processes; what they need is loaded once, by the fork server.

    plain: they do without the kernels.
    OSError: one line, if the fork server has no place for its socket.
    """
    context = multiprocessing.get_context(START_METHOD)
    if START_METHOD == "forkserver":
        context.set_forkserver_preload(["preload"])
        # Where the fork server looks for `preload`: here and, since it runs as `python -c`, not in
        # the current folder, which may hold modules with the names of ours.
        _ENVIRONMENT["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), *sys.path])
        _ENVIRONMENT["PYTHONSAFEPATH"] = "1"
        _ENVIRONMENT["A3C_PLAIN"] = "1" if plain else ""  # for `preload`
        tempfile.tempdir = short_folder(SOCKET_FOLDER)
        _ENVIRONMENT["A3C_SOCKET_FOLDER"] = multiprocessing.util.get_temp_dir()  # for `preload`
    return context


def short_folder(room: int) -> str:
    """The temporary folder, or another one if its name has more than so many bytes.

    For sockets, whose whole name has little room. OSError: one line, if there is none.
    """
    folder = tempfile.gettempdir()
    if len(os.fsencode(folder)) <= room:
        return folder
    for short in ("/tmp", "/var/tmp", "/dev/shm"):
        if os.access(short, os.W_OK):
            return short
    raise OSError(f"{folder}: too long a name for a temporary folder; set TMPDIR")


def fork_fork_server() -> None:
    """Make the fork server of child_context from this process, with all that is loaded here.

    Where that is safe: on Linux, with no other thread yet. Elsewhere, and in the place of one that
    was killed, start_child makes one that loads everything anew.
    """
    threads = Path("/proc/self/task")
    if START_METHOD != "forkserver" or not threads.is_dir() or len(os.listdir(threads)) > 1:
        return
    exec_it = multiprocessing.util.spawnv_passfds
    with _environment_of_the_fork_server(), _stop_signals_blocked():
        multiprocessing.util.spawnv_passfds = _fork
        try:
            forkserver.ensure_running()
        finally:
            multiprocessing.util.spawnv_passfds = exec_it


def _fork(path: str, command: list[str], passfds: Sequence[int]) -> int:
    """multiprocessing.util.spawnv_passfds for `python -c TEXT`, without a new Python."""
    with contextlib.suppress(OSError):  # nobody may read it any more
        multiprocessing.util._flush_std_streams()  # or every child prints what is left in there
    if pid := os.fork():
        return pid
    status = 1
    try:
        for file in {int(name) for name in os.listdir("/proc/self/fd")} - {0, 1, 2, *passfds}:
            with contextlib.suppress(OSError):  # of the list itself
                os.close(file)
        signal.set_wakeup_fd(-1)
        for number in signal.valid_signals():  # what main does with them, Ctrl-Z, too, is not ours
            if callable(signal.getsignal(number)):
                signal.signal(number, signal.SIG_DFL)
        atexit._clear()  # what the main process will do
        for own in (forkserver._forkserver, resource_tracker._resource_tracker):
            own.__init__()  # it is in use right now, locks and all
        setproctitle.setproctitle("multiprocessing.forkserver")
        exec(command[-1], {})
    except SystemExit:  # the main process has ended
        atexit._run_exitfuncs()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def start_child(
    make: Callable[[], multiprocessing.Process], stopped: Callable[[], bool] = lambda: False
) -> multiprocessing.Process | None:
    """Start a process that Ctrl-C and the like do not reach, not even before it can ignore them.

    The signals are blocked where its ancestor is made; it inherits that.
    stopped: whether it is no longer wanted, and None is returned; asked before it waits for the
        fork server to load, and if it could not be started.
    OSError: it could not be started within START_SECONDS.
    """
    deadline = time.monotonic() + START_SECONDS
    while True:
        process = make()
        try:
            if START_METHOD == "forkserver":
                with _environment_of_the_fork_server(), _stop_signals_blocked():
                    forkserver.ensure_running()
                if stopped():  # by a signal that was blocked: process.start would make another
                    return None
                process.start()  # waits until the fork server has loaded what it needs
            else:
                with _stop_signals_blocked():
                    process.start()
            return process
        except (OSError, EOFError) as error:  # the fork server is ending or has just ended
            if stopped():
                return None
            if time.monotonic() > deadline:
                raise OSError(f"cannot start {process.name}: {error!r}") from None
        time.sleep(0.1)


def end_fork_server() -> None:
    """End it, so that a start_child that waits for it need not wait until it has loaded."""
    if forkserver._forkserver._forkserver_pid:  # else there is none
        os.kill(forkserver._forkserver._forkserver_pid, signal.SIGKILL)


@contextlib.contextmanager
def _environment_of_the_fork_server() -> Iterator[None]:
    """For as long as it is started; other programs that this one starts have no use for it."""
    before = {name: os.environ.get(name) for name in _ENVIRONMENT}
    os.environ.update(_ENVIRONMENT)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _stop_signals_blocked() -> Iterator[None]:
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # it unblocks signals when it starts
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)


def offer_to_die(score: int) -> None:
    """Where memory runs out, the system is to end this process before those with a lower score.

    The main process has 0, so it is not the first, although the largest. On Linux alone.
    """
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(score))


def become_child(title: str, errors_to: str | None = None) -> None:
    """What a child process does first.

    errors_to: file that gets what it would write to the terminal.

    Stopping is for the main process to decide, through shared memory: a Ctrl-C reaches every
    process of the terminal. If the main process is gone, this one ends at once and writes nothing.
    """
    import torch

    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    setproctitle.setproctitle(title)
    offer_to_die(500)
    if errors_to is not None:
        file = os.open(errors_to, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        for terminal in (1, 2):
            os.dup2(file, terminal)
        os.close(file)
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


def how(exitcode: int) -> str:
    """What an exit code says about the end of a process."""
    if exitcode >= 0:
        return f"exit code {exitcode}"
    try:
        name = signal.Signals(-exitcode).name
    except ValueError:  # most of the real-time ones have none
        name = f"signal {-exitcode}"
    text = f"killed by {name}"
    return f"{text}, as by a system that runs out of memory" if exitcode == -9 else text


class Pulse:
    """Tells from a counter that a process moves whether it still does.

    limit: seconds without a move.
    """

    def __init__(self):
        self.beat: float | None = None
        self.limit = FIRST_STEP_SECONDS
        self.still = 0.0  # seconds
        self.read = 0.0  # when

    def stands_still(self, beat: float, now: float) -> bool:
        """beat: the counter; now: seconds. To be called about five times a second.

        A time in which nobody called, such as a machine's sleep, counts for one second.
        """
        if beat == self.beat:
            self.still += min(now - self.read, 1.0)
        else:
            if self.beat is not None:
                self.limit = HANG_SECONDS
            self.beat, self.still = beat, 0.0
        self.read = now
        return self.still > self.limit
