"""What a run on several machines survives: real Ray, several of its nodes on this machine.

    python benchmarks/cluster_faults.py --times 5
    python benchmarks/cluster_faults.py --only killed

A small network plays Pong on two nodes, one worker on each; main.py is the driver of the first. The
table is that of faults.py; seconds are those until the log says that the run is whole again, or
until main.py has ended.
"""

import argparse
import contextlib
import ctypes
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from faults import SMALL, Outcome, Training, training
from two_machines import ALONE

OPTIONS = [*SMALL, "--workers", "1", "--machines", "2"]
NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
SUBREAPER = 36  # of prctl: orphans of our processes become our children


class Nodes:
    """A Ray cluster of two nodes, the second of which comes and goes."""

    def __init__(self):
        from ray.cluster_utils import Cluster

        head = {**NODE, "include_dashboard": False}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        self.join()
        catch_signals()  # Ray's node has put its own handler there, which drains

    def join(self) -> None:
        self.second = self.cluster.add_node(**NODE)

    def leave(self) -> None:
        self.cluster.remove_node(self.second, allow_graceful=False)


@contextlib.contextmanager
def nodes() -> Iterator[Nodes]:
    with tempfile.TemporaryDirectory() as folder:
        os.environ.update(ALONE, RAY_TMPDIR=folder)
        both = Nodes()
        try:
            yield both
        finally:
            both.cluster.shutdown()


def descendants(title: str) -> list[int]:
    """Ids of the living processes that come from this one, and whose title begins so."""
    parents, titles = {}, {}
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            state, parent = path.joinpath("stat").read_text().rsplit(")")[1].split()[:2]
            if state != "Z":
                parents[int(path.name)] = int(parent)
                titles[int(path.name)] = path.joinpath("cmdline").read_text()
    found = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return [pid for pid in found if titles.get(pid, "").startswith(title)]


def of_the_run() -> list[int]:
    """Ids of all processes that should end with a run, on both nodes."""
    titles = ("Train Agent", "Test Agent", "ray::Machine", "ray::ParameterServer")
    return [pid for title in titles for pid in descendants(title)]


def kill(title: str, number: int = signal.SIGKILL) -> int:
    """Send a signal to the process of this title, once there is one; its id."""
    deadline = time.monotonic() + 10
    while not (found := descendants(title)) and time.monotonic() < deadline:
        time.sleep(0.05)
    [pid] = found
    os.kill(pid, number)
    return pid


def steps_per_machines(run: Training) -> list[tuple[int, int, int]]:
    """Of each line about the speed: agent steps, machines, workers."""
    found = re.findall(r"agent steps (\d+), .* machines: (\d+) with (\d+) worker", run.text())
    return [tuple(map(int, row)) for row in found]


def learn(run: Training, machines: int = 2) -> float:
    """Seconds until so many machines, each with its worker, have made steps from now on."""
    begun = len(steps_per_machines(run))

    def learning() -> bool:
        whole = [row for row in steps_per_machines(run)[begun:] if row[1:] == (machines, machines)]
        return len(whole) > 1 and whole[-1][0] > whole[0][0]

    return run.wait_for(learning, f"{machines} machines learn")


def leftovers() -> set[str]:
    """What of a run that has ended still lives ten seconds later."""
    deadline = time.monotonic() + 10
    while of_the_run() and time.monotonic() < deadline:
        time.sleep(0.05)
    found = {f"{len(of_the_run())} processes"} if of_the_run() else set()
    return found | {path.name for path in Path("/dev/shm").glob("torch_*")}


def end(run: Training, outcome: Outcome) -> bool:
    """Ctrl-C, and what the run has left; whether it ended as it should."""
    seconds = run.end()
    well = run.process.returncode == 0 and seconds < 15 and "Traceback" not in run.text()
    if not well:
        outcome.note += f"; ended with {run.process.returncode} after {seconds:.1f} s"
    outcome.lost_files |= run.unreadable()
    outcome.leftovers |= leftovers()
    return well


def again_and_again(
    folder: Path,
    outcome: Outcome,
    times: int,
    hit: Callable[[Training, Nodes], None],
    machines: int = 2,
) -> Outcome:
    """Inject into one run that goes on; hit returns when the log has said so.

    machines: that are left then; where it is one, another joins before the next.
    """
    with nodes() as both, training(folder, *OPTIONS, "--ray", both.cluster.address) as run:
        learn(run)
        for _ in range(times):
            time.sleep(random.random())  # any moment of an exchange
            before, start = run.steps(), time.monotonic()
            outcome.injected += 1
            hit(run, both)
            outcome.seconds = max(outcome.seconds, time.monotonic() - start)
            learn(run, machines)
            outcome.lost_steps = max(outcome.lost_steps, before - run.steps())
            outcome.survived += 1
            if machines == 1:
                both.join()
                learn(run)
        outcome.survived *= end(run, outcome)
        return outcome


def wait_for_line(run: Training, text: str, inject: Callable[[], object]) -> None:
    """Inject, and wait until the log has this once more than before."""
    before = run.text().count(text)
    inject()
    run.wait_for(lambda: run.text().count(text) > before, text)


def machine_lost_and_another_joins(folder: Path, times: int) -> Outcome:
    def hit(run: Training, both: Nodes) -> None:
        wait_for_line(run, "is lost: ", both.leave)

    outcome = Outcome("a machine lost; then another joins")
    return again_and_again(folder, outcome, times, hit, machines=1)


def machine_process_killed(folder: Path, times: int) -> Outcome:
    def hit(run: Training, both: Nodes) -> None:
        wait_for_line(run, "starting it anew", lambda: kill("ray::Machine"))

    return again_and_again(folder, Outcome("kill -9 of a machine's process"), times, hit)


def server_killed(folder: Path, times: int) -> Outcome:
    def hit(run: Training, both: Nodes) -> None:
        said = "the parameter server died; another goes on"
        wait_for_line(run, said, lambda: kill("ray::ParameterServer"))

    return again_and_again(folder, Outcome("kill -9 of the parameter server"), times, hit)


def machine_stands_still(folder: Path, times: int) -> Outcome:
    """Its process; its worker goes on and is not heard of. The driver's is what is looked at."""

    def hit(run: Training, both: Nodes) -> None:
        machine = kill("ray::Machine", signal.SIGSTOP)
        before = len(steps_per_machines(run))
        time.sleep(10)
        steps = [row[0] for row in steps_per_machines(run)[before:]]
        os.kill(machine, signal.SIGCONT)
        if steps[-1] <= steps[0]:
            raise RuntimeError("the others waited for it")

    outcome = Outcome("a machine's process stopped for 10 s", note="the others go on")
    return again_and_again(folder, outcome, times, hit)


def driver_stopped(folder: Path, times: int) -> Outcome:
    outcome = Outcome("Ctrl-C", note="one cluster, run after run")
    with nodes() as both:
        for i in range(times):
            with training(folder / str(i), *OPTIONS, "--ray", both.cluster.address) as run:
                learn(run)
                before, start = run.steps(), time.monotonic()
                outcome.injected += 1
                outcome.survived += end(run, outcome)
                outcome.seconds = max(outcome.seconds, time.monotonic() - start)
                outcome.lost_steps = max(outcome.lost_steps, before - run.saved_steps())
    return outcome


def driver_killed(folder: Path, times: int) -> Outcome:
    """Nothing is written afterwards; --resume goes on."""
    outcome = Outcome("kill -9 of the driver, then --resume", note="a checkpoint each 2 s")
    resume: list[str] = []
    with nodes() as both:
        for _ in range(times + 1):
            options = [*OPTIONS, "--ray", both.cluster.address, *resume]
            with training(folder, *options) as run:
                learn(run)
                if not resume:
                    run.wait_for((folder / "trained_models/Pong-v0.ckpt").exists, "it saves")
                    resume = ["--resume"]
                else:
                    outcome.survived += 1
                if outcome.injected == times:
                    outcome.survived *= end(run, outcome)
                    return outcome
                before, start = run.steps(), time.monotonic()
                os.kill(run.process.pid, signal.SIGKILL)
                run.process.wait()
                outcome.injected += 1
                outcome.leftovers |= leftovers()
                outcome.seconds = max(outcome.seconds, time.monotonic() - start)
                written = {path: path.stat().st_mtime_ns for path in folder.rglob("Pong-v0*")}
                time.sleep(3)
                later = {path: path.stat().st_mtime_ns for path in folder.rglob("Pong-v0*")}
                if later != written:
                    outcome.note += "; files were written afterwards"
                outcome.lost_files |= run.unreadable()
                outcome.lost_steps = max(outcome.lost_steps, before - run.saved_steps())
    raise AssertionError


def head_killed(folder: Path, times: int) -> Outcome:
    outcome = Outcome("kill -9 of the cluster's head", note="the run saves and ends with one line")
    for i in range(times):
        with (
            nodes() as both,
            training(folder / str(i), *OPTIONS, "--ray", both.cluster.address) as run,
        ):
            learn(run)
            before, start = run.steps(), time.monotonic()
            outcome.injected += 1
            both.cluster.head_node.kill_gcs_server(check_alive=False)
            run.process.wait(120)
            outcome.seconds = max(outcome.seconds, time.monotonic() - start)
            outcome.lost_files |= run.unreadable()
            outcome.lost_steps = max(outcome.lost_steps, before - run.saved_steps())
            outcome.leftovers |= leftovers()
            said = "the head of the Ray cluster is silent" in run.text()
            quiet = "Traceback" not in run.text()
            outcome.survived += said and quiet and run.process.returncode == 1
    return outcome


def catch_signals() -> None:
    """No training outlives this script."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit(1))


FAULTS = [
    machine_lost_and_another_joins, machine_process_killed, server_killed, machine_stands_still,
    driver_stopped, driver_killed, head_killed,
]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--times", type=int, default=5, help="of each fault")
    parser.add_argument("--only", nargs="+", default=[], metavar="WORD", help="of their names")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    args = parser.parse_args()
    catch_signals()
    ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0)
    random.seed(args.seed)
    print("| fault | injected | survived | lost | seconds | left over | note |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for fault in FAULTS:
        if args.only and not any(word in fault.__name__ for word in args.only):
            continue
        with tempfile.TemporaryDirectory(prefix="f-") as folder:
            try:
                row = fault(Path(folder, "r"), args.times).row()
            except (RuntimeError, ValueError, subprocess.TimeoutExpired) as error:
                row = f"| {fault.__name__} | failed: {error} |"
        print(row, flush=True)


if __name__ == "__main__":
    main()
