"""What a run survives: real processes, real signals, the real emulator.

    python benchmarks/faults.py --quick                 # each fault once or twice, minutes
    python benchmarks/faults.py                         # as often as a table for print wants
    python benchmarks/faults.py --only worker disk      # faults with one of these words
    python benchmarks/faults.py --soak 60 --picture soak.png
    python benchmarks/faults.py --stops 20

A small network plays Pong with two workers. Each fault is one function below. The table says how
often it was injected and survived, what was lost (agent steps that had been counted, files that can
no longer be read), the longest time until the run was whole again, and what was left over
(processes, temporary files). What this system gives no permission for is skipped, and the table
says so.

The soak trains with the real network; a worker is killed every five minutes.
"""

import argparse
import contextlib
import os
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from memory import PROJECT
from memory import processes as memory_by_title

import checkpoint

SMALL = [
    "--workers", "2", "--envs-per-worker", "1", "--num-steps", "5", "--hidden-size", "16",
    "--max-episode-length", "40", "--eval-episodes", "2", "--eval-interval", "1",
]  # fmt: skip
PATIENCE = 120  # seconds for whatever should happen; the machine may be busy
HANG_SECONDS = 10  # where a fault needs them short; a busy machine is not hanging
# main.py in a hurry: a line about the speed each half second, a checkpoint each two seconds, and
# no end of replacements. Children run these lines, too.
HURRY = f"""
import sys; sys.path.insert(0, {str(PROJECT)!r})
from stopping import StopSignal
import group, main, network, processes, run
main.PROGRESS_SECONDS = (0.5, 0.5)
group.MAX_REPLACEMENTS = 1000
run.CHECKPOINT_SECONDS = 2
%s
if __name__ == "__main__":
    sys.exit(main.main(sys.argv[1:], StopSignal(at_once=True).install()))
"""
SHORT_PATIENCE = f"""
processes.HANG_SECONDS = {HANG_SECONDS}
processes.FIRST_STEP_SECONDS = 60
"""
SAVE_ALWAYS = "run.CHECKPOINT_SECONDS = 0"
# The next gradient is not a number, as soon as there is a file of this name, which it takes away.
NAN = "next-gradient-is-nan"
INJECT_NAN = f"""
def backward(self, *arguments, original=network.FastNetwork.backward):
    original(self, *arguments)
    try:
        os.unlink({NAN!r})
    except FileNotFoundError:
        return
    self.model.conv1.bias.grad[0] = float("nan")

import os
network.FastNetwork.backward = backward
"""


@dataclass
class Outcome:
    """One row of the table."""

    fault: str
    injected: int = 0
    survived: int = 0
    lost_steps: int = 0  # the most at once
    lost_files: set[str] = field(default_factory=set)
    seconds: float = 0.0  # the longest
    leftovers: set[str] = field(default_factory=set)
    note: str = ""

    def row(self) -> str:
        lost = f"{self.lost_steps} steps" + "".join(f", {name}" for name in sorted(self.lost_files))
        cells = (
            self.fault, self.injected, self.survived, lost, f"{self.seconds:.1f}",
            ", ".join(sorted(self.leftovers)) or "none", self.note,
        )  # fmt: skip
        return "| " + " | ".join(map(str, cells)) + " |"


class Skip(Exception):
    """Why a fault could not be injected here."""


class Training:
    """main.py in a session of its own, with temporary files of its own."""

    def __init__(self, folder: Path, *options: str, patches: str = "", wrap: str = "", **variables):
        """wrap: shell commands to run before; they end with `exec "$@"`."""
        self.folder = folder
        for name in ("tmp", "outputs"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        script = folder / f"hurry{len(list((folder / 'outputs').iterdir()))}.py"
        script.write_text(HURRY % textwrap.dedent(patches))
        self.output = folder / "outputs" / script.stem
        command = [sys.executable, str(script), *options]
        if wrap:
            command = ["sh", "-c", wrap, "sh", *command]
        with open(self.output, "wb") as file:
            self.process = subprocess.Popen(
                command, cwd=folder, stdin=subprocess.DEVNULL, stdout=file,
                stderr=subprocess.STDOUT, start_new_session=True,
                env={**os.environ, "TMPDIR": str(folder / "tmp"), **variables},
            )  # fmt: skip

    def text(self) -> str:
        return self.output.read_text(errors="replace")

    def steps(self) -> int:
        """Agent steps of the run, as far as it has said."""
        found = re.findall(r"agent steps? (\d+)", self.text())
        return max(map(int, found), default=0)

    def alive(self) -> bool:
        return self.process.poll() is None

    def children(self, title: str = "") -> list[int]:
        """Ids of the living processes of the session whose title begins so."""
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # it has ended meanwhile
                stat = path.joinpath("stat").read_text().rsplit(")")[1].split()
                line = path.joinpath("cmdline").read_text()
                own = int(stat[3]) == self.process.pid != int(path.name)
                if own and stat[0] != "Z" and line.startswith(title):
                    found.append(int(path.name))
        return found

    def fork_server(self) -> int:
        return min(
            pid
            for pid in self.children()
            if "multiprocessing.forkserver" in Path(f"/proc/{pid}/cmdline").read_text()
        )

    def whole(self) -> bool:
        return len(self.children("Train Agent: ")) == 2 and len(self.children("Test Agent")) == 1

    def wait_for(self, condition: Callable[[], object], what: str) -> float:
        """Seconds until condition() is true. RuntimeError: never, or the run has ended."""
        start = time.monotonic()
        while not condition():
            if not self.alive() or time.monotonic() - start > PATIENCE:
                raise RuntimeError(f"never: {what}\n{self.text()[-3000:]}")
            time.sleep(0.05)
        return time.monotonic() - start

    def learn(self) -> float:
        """Seconds until all processes are there and have learned something more."""
        before = self.steps()
        return self.wait_for(
            lambda: self.whole() and self.steps() > before and "first update" in self.text(),
            "it learns",
        )

    def end(self, number: int | None = signal.SIGINT) -> float:
        """Send a signal to the session, as a terminal does; seconds until main has ended."""
        start = time.monotonic()
        if number is not None:
            os.killpg(self.process.pid, number)
        self.process.wait(PATIENCE)
        return time.monotonic() - start

    def saved_steps(self) -> int:
        """Agent steps of the checkpoint."""
        return checkpoint.load_checkpoint(self.folder / "trained_models/Pong-v0.ckpt")["steps"]

    def unreadable(self) -> set[str]:
        """Files of the run that it could not go on with."""
        found = set()
        models, logs = self.folder / "trained_models", self.folder / "logs"
        for path, read in (
            (models / "Pong-v0.ckpt", checkpoint.load_checkpoint),
            (models / "Pong-v0.dat", checkpoint.load_model),
            (logs / "Pong-v0.csv", checkpoint.read_csv),
            (logs / "Pong-v0.training.csv", checkpoint.read_csv),
        ):
            try:
                read(path)
            except (ValueError, OSError) as error:
                found.add(f"{path.name}: {error}")
        return found

    def leftovers(self) -> set[str]:
        """What lives or lies about although the run has ended."""
        deadline = time.monotonic() + 10
        while self.children() and time.monotonic() < deadline:
            time.sleep(0.05)
        found = {f"{len(self.children())} processes"} if self.children() else set()
        found |= {path.name for path in self.folder.rglob("*.tmp")}
        for path in (self.folder / "tmp").glob("pymp-*"):
            found.add("folder of a socket")
            shutil.rmtree(path)
        return found

    def kill(self) -> None:
        """Whatever is left of it."""
        for pid in [*self.children(), *([self.process.pid] if self.alive() else [])]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()


@contextlib.contextmanager
def training(folder: Path, *options: str, **keywords) -> Iterator[Training]:
    run = Training(folder, *options, **keywords)
    try:
        yield run
    finally:
        run.kill()


def one_line(run: Training) -> bool:
    """Whether main.py has refused to run, for a reason in one line."""
    return run.process.returncode == 2 and "Traceback" not in run.text()


# ---------------------------------------------------------------------------------------------
# Faults of processes: fault(folder, times) -> Outcome


def strike(run: Training, outcome: Outcome, hit: Callable[[], Callable[[], bool] | None]) -> None:
    """Inject once into a run that goes on.

    hit: injects; returns what has to come true before the run counts as whole.
    """
    before = run.steps()
    healed = hit()
    start = time.monotonic()
    outcome.injected += 1
    if healed:
        run.wait_for(healed, "it is replaced")
    run.learn()
    outcome.seconds = max(outcome.seconds, time.monotonic() - start)
    outcome.lost_steps = max(outcome.lost_steps, before - run.steps())
    outcome.survived += 1


def finish(run: Training, outcome: Outcome) -> Outcome:
    """End the run and see what it has left."""
    seconds = run.end()
    if run.process.returncode or seconds > 10 or "Traceback" in run.text():
        outcome.note += f"; ended with {run.process.returncode} after {seconds:.1f} s"
        outcome.survived = 0
    outcome.lost_files |= run.unreadable()
    outcome.leftovers |= run.leftovers()
    return outcome


def kill_children(folder: Path, title: str, outcome: Outcome, times: int) -> Outcome:
    def hit():
        victim = random.choice(run.children(title))
        os.kill(victim, signal.SIGKILL)
        return lambda: victim not in run.children()

    with training(folder, *SMALL) as run:
        run.learn()
        for _ in range(times):
            strike(run, outcome, hit)
            time.sleep(random.random())
        return finish(run, outcome)


def worker_killed(folder: Path, times: int) -> Outcome:
    return kill_children(folder, "Train Agent: ", Outcome("kill -9 of a worker"), times)


def test_process_killed(folder: Path, times: int) -> Outcome:
    return kill_children(folder, "Test Agent", Outcome("kill -9 of the test process"), times)


def fork_server_killed(folder: Path, times: int) -> Outcome:
    def hit():
        before = set(run.children())
        os.kill(run.fork_server(), signal.SIGKILL)
        return lambda: not before & set(run.children("T"))

    outcome = Outcome("kill -9 of the fork server")
    with training(folder, *SMALL) as run:
        run.learn()
        for _ in range(times):
            strike(run, outcome, hit)
        return finish(run, outcome)


def worker_hangs(folder: Path, times: int) -> Outcome:
    def hit():
        victim = random.choice(run.children("Train Agent: "))
        os.kill(victim, signal.SIGSTOP)
        return lambda: victim not in run.children()

    note = f"patience {HANG_SECONDS} s, 60 s before a first step"
    outcome = Outcome("SIGSTOP of a worker", note=note)
    with training(folder, *SMALL, patches=SHORT_PATIENCE) as run:
        run.learn()
        for _ in range(times):
            strike(run, outcome, hit)
        assert run.text().count("hangs, no step for") == times
        return finish(run, outcome)


def main_suspended(folder: Path, times: int) -> Outcome:
    def hit():
        os.kill(run.process.pid, signal.SIGSTOP)
        time.sleep(HANG_SECONDS + 2)
        os.kill(run.process.pid, signal.SIGCONT)

    outcome = Outcome("main stopped and continued")
    with training(folder, *SMALL, patches=SHORT_PATIENCE) as run:
        run.learn()
        for _ in range(times):
            strike(run, outcome, hit)
        if "hangs" in run.text():
            outcome.note = "processes were killed for it"
        return finish(run, outcome)


def main_killed(folder: Path, times: int) -> Outcome:
    outcome = Outcome("kill -9 of main, then --resume", note="a checkpoint each 2 s")
    resume: list[str] = []
    for _ in range(times + 1):
        with training(folder, *SMALL, *resume) as run:
            seconds = run.learn()
            if resume:
                outcome.seconds = max(outcome.seconds, seconds)
                outcome.survived += 1
            else:
                run.wait_for((folder / "trained_models/Pong-v0.ckpt").exists, "it saves")
                resume = ["--resume"]
            if outcome.injected == times:
                return finish(run, outcome)
            time.sleep(random.uniform(0, 4))
            before = run.steps()
            os.kill(run.process.pid, signal.SIGKILL)
            run.process.wait()
            outcome.injected += 1
            outcome.leftovers |= run.leftovers()
            outcome.lost_files |= run.unreadable()
            outcome.lost_steps = max(outcome.lost_steps, before - run.saved_steps())
    raise AssertionError


def gradient_not_a_number(folder: Path, times: int) -> Outcome:
    def hit():
        (folder / NAN).touch()
        return lambda: not (folder / NAN).exists() and run.text().count("worker") > count

    outcome = Outcome("a gradient that is not a number")
    with training(folder, *SMALL, patches=INJECT_NAN) as run:
        run.learn()
        for _ in range(times):
            count = run.text().count("worker")
            strike(run, outcome, hit)
        run.end()
        outcome.lost_files |= run.unreadable()
        outcome.leftovers |= run.leftovers()
        return outcome


# ---------------------------------------------------------------------------------------------
# Faults of a stop


def stopped(folder: Path, outcome: Outcome, times: int, stop: Callable[[Training], float], **keys):
    """Runs of their own, each stopped by `stop` once it learns."""
    for i in range(times):
        with training(folder / str(i), *SMALL, **keys) as run:
            run.learn()
            run.wait_for((run.folder / "trained_models/Pong-v0.ckpt").exists, "it saves")
            before = run.steps()
            outcome.injected += 1
            seconds = stop(run)
            outcome.seconds = max(outcome.seconds, seconds)
            outcome.lost_files |= run.unreadable()
            outcome.lost_steps = max(outcome.lost_steps, before - run.saved_steps())
            outcome.leftovers |= run.leftovers()
            quiet = "Traceback" not in run.text()
            outcome.survived += run.process.returncode == 0 and quiet and seconds < 10
    return outcome


def sigterm_during_a_save(folder: Path, times: int) -> Outcome:
    def stop(run: Training) -> float:
        run.wait_for(lambda: list((run.folder / "trained_models").glob("*.tmp")), "it saves")
        return run.end(signal.SIGTERM)

    return stopped(folder, Outcome("SIGTERM during a save"), times, stop, patches=SAVE_ALWAYS)


def two_quick_sigints(folder: Path, times: int) -> Outcome:
    def stop(run: Training) -> float:
        os.killpg(run.process.pid, signal.SIGINT)
        time.sleep(0.01)
        return run.end()

    return stopped(folder, Outcome("two SIGINTs, 10 ms apart"), times, stop)


def sigint_during_start(folder: Path, times: int) -> Outcome:
    outcome = Outcome("SIGINT during start")
    for i in range(times):
        with training(folder / str(i), *SMALL) as run:
            run.wait_for(lambda r=run: handles_sigterm(r), "Python has begun")
            time.sleep(random.uniform(0, 6))
            outcome.injected += 1
            seconds = run.end()
            outcome.seconds = max(outcome.seconds, seconds)
            outcome.leftovers |= run.leftovers()
            quiet = "Traceback" not in run.text()
            outcome.survived += run.process.returncode == 0 and quiet and seconds < 10
    return outcome


def handles_sigterm(run: Training) -> bool:
    """Whether main.py has installed its handlers; before that, Python itself has only begun."""
    status = Path(f"/proc/{run.process.pid}/status").read_text()
    caught = int(re.search(r"SigCgt:\s*(\w+)", status)[1], 16)
    return bool(caught & 1 << (signal.SIGTERM - 1))


# ---------------------------------------------------------------------------------------------
# Faults of the disk


def disk_full(folder: Path, times: int) -> Outcome:
    outcome = Outcome("disk full, and free again")
    models = folder / "trained_models"
    models.mkdir(parents=True)
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", models], capture_output=True
    ).returncode:
        raise Skip("no permission to mount")
    ballast, path = models / "ballast", models / "Pong-v0.ckpt"

    def hit():
        with contextlib.suppress(OSError), open(ballast, "wb", buffering=0) as file:
            while file.write(b"x" * 4096):
                pass
        failed = run.text().count("cannot save")
        run.wait_for(lambda: run.text().count("cannot save") > failed, "the disk is full")
        ballast.unlink()
        freed = time.time_ns()
        return lambda: path.stat().st_mtime_ns > freed

    try:
        with training(folder, *SMALL) as run:
            run.learn()
            run.wait_for(path.exists, "it saves")
            for _ in range(times):
                strike(run, outcome, hit)
            return finish(run, outcome)
    finally:
        subprocess.run(["umount", models], check=True)


def folder_gone(folder: Path, times: int) -> Outcome:
    outcome = Outcome("save folder gone, and back")
    models = folder / "trained_models"
    path = models / "Pong-v0.ckpt"

    def hit():
        models.rename(folder / "gone")
        failed = run.text().count("cannot save")
        # With a lock file in it, a new folder is made; before that, a save may fail.
        run.wait_for(
            lambda: models.exists() or run.text().count("cannot save") > failed, "it notices"
        )
        if models.exists():
            shutil.rmtree(models)
        (folder / "gone").rename(models)
        back = time.time_ns()
        return lambda: path.stat().st_mtime_ns > back

    with training(folder, *SMALL) as run:
        run.learn()
        run.wait_for(path.exists, "it saves")
        for _ in range(times):
            strike(run, outcome, hit)
        return finish(run, outcome)


def damaged(folder: Path, outcome: Outcome, damages: list[Callable[[bytes], bytes]]) -> Outcome:
    """--resume from a damaged checkpoint: refused in one line, the file as it was."""
    with training(folder, *SMALL, "--max-steps", "500") as run:
        run.end(None)
    path = folder / "trained_models/Pong-v0.ckpt"
    sound = path.read_bytes()
    for i, damage in enumerate(damages):
        path.write_bytes(damage(sound))
        outcome.injected += 1
        try:
            checkpoint.load_checkpoint(path)
        except ValueError as error:
            outcome.survived += "\n" not in str(error)
        if i == 0:  # the whole program, once
            with training(folder, "--resume", "--max-steps", "none") as run:
                outcome.seconds = run.end(None)
                outcome.survived -= not one_line(run)
                outcome.leftovers |= run.leftovers()
    return outcome


def checkpoint_cut(folder: Path, times: int) -> Outcome:
    shares = [random.random() for _ in range(times)]
    cuts = [lambda data, s=s: data[: int(s * len(data))] for s in shares]
    return damaged(folder, Outcome("checkpoint cut", note="survived: refused in one line"), cuts)


def checkpoint_changed(folder: Path, times: int) -> Outcome:
    def change(data: bytes) -> bytes:
        at = random.randrange(len(data))
        return data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]

    outcome = Outcome("a byte of the checkpoint changed", note="survived: refused in one line")
    return damaged(folder, outcome, [change] * times)


# ---------------------------------------------------------------------------------------------
# Faults of the surroundings


@contextlib.contextmanager
def control_group(kind: str, **limits: int) -> Iterator[Path]:
    """A cgroup (version 1) below our own."""
    groups = Path("/proc/self/cgroup").read_text().splitlines()
    own = [line.split(":")[2] for line in groups if line.split(":")[1] == kind]
    if not own:
        raise Skip("no cgroups of version 1")
    group = Path(f"/sys/fs/cgroup/{kind}{own[0]}", f"faults-{os.getpid()}")
    try:
        group.mkdir()
        for name, value in limits.items():
            (group / f"{kind}.{name}").write_text(str(value))
    except OSError as error:
        raise Skip(f"no cgroup: {error.strerror}") from None
    try:
        yield group
    finally:
        deadline = time.monotonic() + 10
        while (group / "cgroup.procs").read_text() and time.monotonic() < deadline:
            time.sleep(0.1)
        group.rmdir()


ENTER = 'echo $$ > "{}/cgroup.procs" && exec "$@"'
HOG = "import sys, time; x = b'x' * int(sys.argv[1]); time.sleep(5)"


def half_a_core(folder: Path, times: int) -> Outcome:
    outcome = Outcome("a quota of half a core")
    for i in range(times):
        with (
            control_group("cpu", cfs_period_us=100_000, cfs_quota_us=50_000) as group,
            training(folder / str(i), *SMALL, wrap=ENTER.format(group)) as run,
        ):
            outcome.injected += 1
            outcome.seconds = max(outcome.seconds, run.learn())
            outcome.survived += 1
            finish(run, outcome)
    return outcome


def memory_runs_out(folder: Path, times: int) -> Outcome:
    outcome = Outcome("a memory limit that kills", note="by something else in the same container")

    def hit():
        deaths = run.text().count("killed by SIGKILL")
        used = int((group / "memory.usage_in_bytes").read_text())
        (group / "memory.limit_in_bytes").write_text(str(used + 2**26))
        hog = ["sh", "-c", ENTER.format(group), "sh", sys.executable, "-c", HOG, str(2**27)]
        subprocess.run(hog, check=False)
        (group / "memory.limit_in_bytes").write_text("-1")
        outcome.note = f"{run.text().count('killed by SIGKILL') - deaths} processes killed at once"
        return lambda: run.text().count("killed by SIGKILL") > deaths

    with (
        control_group("memory") as group,
        training(folder, *SMALL, wrap=ENTER.format(group)) as run,
    ):
        run.learn()
        for _ in range(times):
            strike(run, outcome, hit)
        return finish(run, outcome)


def refused(folder: Path, outcome: Outcome, times: int, wrap: str) -> Outcome:
    """Where a run is not possible, one line says why."""
    for i in range(times):
        with training(folder / str(i), *SMALL, "--max-steps", "200", wrap=wrap) as run:
            outcome.injected += 1
            outcome.seconds = max(outcome.seconds, run.end(None))
            if run.process.returncode == 77:
                raise Skip("no permission to mount")
            outcome.survived += run.process.returncode == 0 or one_line(run)
            refusal = run.text().strip().splitlines()[-1]
            outcome.note = refusal if run.process.returncode else "it runs"
            outcome.leftovers |= run.leftovers()
    return outcome


def small_shared_memory(folder: Path, times: int) -> Outcome:
    inner = 'mount -t tmpfs -o size=1m tmpfs /dev/shm || exit 77; exec "$@"'
    wrap = f"exec unshare --mount sh -c '{inner}' sh \"$@\""
    return refused(folder, Outcome("/dev/shm of 1 MB"), times, wrap)


def few_open_files(folder: Path, times: int) -> Outcome:
    return refused(folder, Outcome("32 open files"), times, 'ulimit -n 32; exec "$@"')


def unwritable_home(folder: Path, times: int) -> Outcome:
    outcome = Outcome("a home that cannot be written")
    nowhere = {"HOME": "/proc", "XDG_CACHE_HOME": "/proc/none", "NUMBA_CACHE_DIR": "/proc/none"}
    for i in range(times):
        with training(folder / str(i), *SMALL, "--max-steps", "200", **nowhere) as run:
            outcome.injected += 1
            outcome.seconds = max(outcome.seconds, run.end(None))
            outcome.survived += run.process.returncode == 0
            outcome.lost_files |= run.unreadable()
            outcome.leftovers |= run.leftovers()
    return outcome


def two_runs_on_the_same_files(folder: Path, times: int) -> Outcome:
    def hit():
        with training(folder, *SMALL) as second:
            second.end(None)
            assert one_line(second), second.text()

    outcome = Outcome("a second run on the same files", note="survived: the second is refused")
    with training(folder, *SMALL) as run:
        run.learn()
        for _ in range(times):
            strike(run, outcome, hit)
        return finish(run, outcome)


def clock_set(folder: Path, times: int) -> Outcome:
    used = [path.name for path in PROJECT.glob("*.py") if "time.time(" in path.read_text()]
    raise Skip(f"it would be set for all; read by {', '.join(used) or 'nothing but the log'}")


# How often without and with --quick.
FAULTS: dict[Callable[[Path, int], Outcome], tuple[int, int]] = {
    worker_killed: (50, 2),
    test_process_killed: (10, 1),
    fork_server_killed: (10, 1),
    main_killed: (10, 1),
    worker_hangs: (5, 1),
    main_suspended: (3, 1),
    gradient_not_a_number: (5, 1),
    sigterm_during_a_save: (8, 1),
    two_quick_sigints: (5, 1),
    sigint_during_start: (20, 1),
    disk_full: (3, 1),
    folder_gone: (3, 1),
    checkpoint_cut: (20, 20),
    checkpoint_changed: (20, 20),
    half_a_core: (1, 1),
    memory_runs_out: (3, 1),
    small_shared_memory: (1, 1),
    few_open_files: (1, 1),
    unwritable_home: (1, 1),
    two_runs_on_the_same_files: (2, 1),
    clock_set: (1, 1),
}


def table(quick: bool, words: list[str]) -> bool:
    """Print it, a row after each fault; False if something was not survived."""
    print("| fault | injected | survived | lost | s | left over | note |")
    print("|---|---|---|---|---|---|---|", flush=True)
    well = True
    for fault, times in FAULTS.items():
        if words and not any(word in fault.__name__ for word in words):
            continue
        name = fault.__name__.replace("_", " ")
        with tempfile.TemporaryDirectory(prefix="f-") as folder:
            try:
                outcome = fault(Path(folder, "r"), times[quick])
            except Skip as reason:
                print(Outcome(name, note=f"not injected: {reason}").row(), flush=True)
                continue
            except RuntimeError as error:
                reason, _, output = str(error).partition("\n")
                print(output, file=sys.stderr)
                outcome = Outcome(name, injected=1, note=reason)
        print(outcome.row(), flush=True)
        well &= outcome.survived == outcome.injected and not outcome.lost_files
    return well


# ---------------------------------------------------------------------------------------------
# Soak

TITLES = ("main", "Train", "Test")  # of processes, their first words


@dataclass
class Sample:
    """A moment of the soak."""

    minutes: float
    speed: float  # agent steps per second since the last one
    megabytes: dict[str, float]  # PSS per process, by the first word of its title
    files: int  # open ones, of all processes
    threads: int


def sample(run: Training, start: float, last: tuple[float, int]) -> Sample:
    now, files, threads = time.monotonic(), 0, 0
    for pid in [run.process.pid, *run.children()]:
        with contextlib.suppress(OSError):  # it has ended meanwhile
            files += len(os.listdir(f"/proc/{pid}/fd"))
            threads += len(os.listdir(f"/proc/{pid}/task"))
    sizes = {
        ("main" if title.startswith("/") else title): sum(found) / len(found)
        for title, found in memory_by_title(run.process.pid).items()
    }
    speed = (run.steps() - last[1]) / (now - last[0])
    return Sample((now - start) / 60, speed, sizes, files, threads)


def soak(minutes: float, kill_every: float, picture: Path | None) -> None:
    """Train, kill a worker now and then, and say what has grown."""
    samples: list[Sample] = []
    with tempfile.TemporaryDirectory(prefix="f-") as folder:
        options = ("--workers", "2", "--envs-per-worker", "8")
        with training(Path(folder, "r"), *options) as run:
            run.learn()
            start = time.monotonic()
            last, kill_at = (start, run.steps()), start + kill_every
            while time.monotonic() < start + 60 * minutes:
                time.sleep(10)
                if not run.alive():
                    raise SystemExit(run.text()[-3000:])
                samples.append(sample(run, start, last))
                last = (time.monotonic(), run.steps())
                if time.monotonic() > kill_at:
                    os.kill(random.choice(run.children("Train Agent: ")), signal.SIGKILL)
                    kill_at += kill_every
            kills = run.text().count("killed by SIGKILL")
            seconds = run.end()
            print(f"{kills} workers killed; exit code {run.process.returncode} in {seconds:.1f} s")
    few = max(1, len(samples) // 10)  # the first and the last tenth
    print("| | start | end |\n|---|---|---|")
    for name, read in [
        ("steps/s", lambda one: one.speed),
        *((f"MB, {t}", lambda one, t=t: one.megabytes.get(t, 0)) for t in TITLES),
        ("open files", lambda one: one.files),
        ("threads", lambda one: one.threads),
    ]:
        ends = [sum(map(read, part)) / len(part) for part in (samples[:few], samples[-few:])]
        print(f"| {name} | {ends[0]:.0f} | {ends[1]:.0f} |")
    if picture:
        draw(samples, picture)


def stops(times: int) -> None:
    """From Ctrl-C to the end of the program, with the real network."""
    print("| workers | stops | median, s | worst, s |\n|---|---|---|---|")
    for workers in (2, 32):
        seconds = []
        for _ in range(times):
            with (
                tempfile.TemporaryDirectory(prefix="f-") as folder,
                training(Path(folder, "r"), "--workers", str(workers)) as run,
            ):
                run.wait_for(
                    lambda run=run, n=workers: len(run.children("Train Agent: ")) == n
                    and "first update" in run.text(),
                    "it learns",
                )
                time.sleep(random.uniform(0, 2))  # any moment of a rollout
                seconds.append(run.end())
                if run.process.returncode or "saved" not in run.text():
                    raise SystemExit(run.text()[-3000:])
        median, worst = statistics.median(seconds), max(seconds)
        print(f"| {workers} | {times} | {median:.1f} | {worst:.1f} |", flush=True)


def draw(samples: list[Sample], path: Path) -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    minutes = [one.minutes for one in samples]
    figure, axes = plt.subplots(3, 1, sharex=True, figsize=(8, 7), layout="constrained")
    axes[0].plot(minutes, [one.speed for one in samples])
    axes[0].set_ylabel("agent steps/s")
    for title in TITLES:
        axes[1].plot(minutes, [one.megabytes.get(title) for one in samples], label=title)
    axes[1].set_ylabel("MB per process (PSS)")
    axes[2].plot(minutes, [one.files for one in samples], label="open files")
    axes[2].plot(minutes, [one.threads for one in samples], label="threads")
    axes[2].set_xlabel("minutes")
    for axis in axes:
        axis.set_ylim(bottom=0)
    for axis in axes[1:]:
        axis.legend()
    figure.savefig(path, dpi=100)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="each fault once or twice")
    parser.add_argument("--only", nargs="+", default=[], metavar="WORD", help="of their names")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and the victims")
    parser.add_argument("--soak", type=float, metavar="MINUTES", help="train so long instead")
    parser.add_argument("--kill-every", type=float, default=300.0, help="seconds, in the soak")
    parser.add_argument("--picture", type=Path, help="of the soak, a .png")
    parser.add_argument("--stops", type=int, metavar="N", help="time Ctrl-C so often instead")
    args = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):  # no training outlives this script
        signal.signal(number, lambda *_: sys.exit(1))
    random.seed(args.seed)
    if args.soak:
        soak(args.soak, args.kill_every, args.picture)
        return 0
    if args.stops:
        stops(args.stops)
        return 0
    return 0 if table(args.quick, args.only) else 1


if __name__ == "__main__":
    sys.exit(main())
