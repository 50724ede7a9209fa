"""Memory of a run and the time it takes to start and to stop: `python benchmarks/memory.py`.

Starts main.py for each pair of workers and games per worker, waits until every worker has
learned, adds up the proportional set size (PSS: shared pages are divided among those that share
them; Linux, /proc/PID/smaps_rollup), presses Ctrl-C and takes the time until all have ended.
"""

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent


def processes(session: int) -> dict[str, list[float]]:
    """PSS in MB of the session's processes, by title: "Train", "Test" or another first word."""
    found: dict[str, list[float]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            stat = folder.joinpath("stat").read_text().rsplit(")")[1].split()
            rollup = folder.joinpath("smaps_rollup").read_text()
            title = folder.joinpath("cmdline").read_text()
        except OSError:
            continue  # it has ended meanwhile
        if int(stat[3]) == session and (pss := re.search(r"^Pss:\s+(\d+)", rollup, re.M)):
            found.setdefault(title.split()[0].split("\0")[0], []).append(int(pss[1]) * 1024 / 1e6)
    return found


def measure(env_id: str, workers: int, envs_per_worker: int, seconds: float) -> str:
    """One row of the table."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        run = subprocess.Popen(
            [
                sys.executable, str(PROJECT / "main.py"), "--env", env_id,
                "--workers", str(workers), "--envs-per-worker", str(envs_per_worker),
            ],
            cwd=folder, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        while len(processes(run.pid).get("Train", [])) < workers:
            time.sleep(0.5)
        ready = time.perf_counter() - started
        time.sleep(seconds)
        sizes = processes(run.pid)
        os.killpg(run.pid, signal.SIGINT)
        stopped = time.perf_counter()
        output, _ = run.communicate()
        took = time.perf_counter() - stopped
        if run.returncode or ", saved " not in output:
            raise SystemExit(f"{workers} workers: exit code {run.returncode}\n{output}")
    per_worker = sum(sizes["Train"]) / workers
    total = sum(map(sum, sizes.values())) / 1e3
    start = f"| {workers} | {envs_per_worker} "
    return start + f"| {per_worker:.0f} | {total:.2f} | {ready:.1f} | {took:.1f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--env", default="Pong-v0")
    parser.add_argument(
        "--pairs", nargs="+", default=["1x1", "2x1", "8x1", "32x1", "2x8", "2x16"],
        metavar="WxE", help="workers x games per worker",
    )
    parser.add_argument(
        "--seconds", type=float, default=20.0, help="of training before memory is read"
    )
    args = parser.parse_args()
    print("| workers | games each | MB per worker | GB in all | s until all run | s to stop |")
    print("|---|---|---|---|---|---|", flush=True)
    for pair in args.pairs:
        workers, envs_per_worker = map(int, pair.split("x"))
        seconds = args.seconds * max(1.0, workers * envs_per_worker / 8)
        print(measure(args.env, workers, envs_per_worker, seconds), flush=True)


if __name__ == "__main__":
    main()
