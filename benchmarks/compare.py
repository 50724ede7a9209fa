"""Agent steps per second of two builds of the suite, by turns in one run.

    python benchmarks/compare.py OTHER --env Pong-v0 --workers 2 --envs-per-worker 8 --load FOLDER

OTHER is the folder of the other build. The workers of both start once, worker k of each on core k;
those whose turn it is not are stopped. FOLDER has ENV.dat and ENV.json to begin with. Two rates are
given: by the clock, and by the CPU time of the workers, which other processes disturb less. Quote
the ratio of medians.
"""

import argparse
import contextlib
import functools
import json
import multiprocessing
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path


def cpu_seconds(pids: list[int]) -> float:
    fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
    return sum(int(x[11]) + int(x[12]) for x in fields) / os.sysconf("SC_CLK_TCK")


def serve(args) -> None:
    """One build, whose folder is in front of sys.path: a measurement per line of input."""
    import throughput  # isort: skip  # the build's own, and with it all of its modules
    import torch

    parser = throughput.main if hasattr(throughput.main, "build_parser") else throughput
    options = ["--env", args.env, "--envs-per-worker", str(args.envs_per_worker)]
    own = parser.complete(parser.build_parser().parse_args(options))
    counts = torch.zeros(args.workers, dtype=torch.int64).share_memory_()
    make = functools.partial(throughput.counted_env, args.env, counts)
    model = throughput.A3Clstm(int(make(0).action_space.n), own.hidden_size)
    weights = Path(args.load) / f"{args.env}.dat"
    model.load_state_dict(torch.load(weights, weights_only=True))
    server = throughput.Hogwild(
        throughput.flatten_parameters(model)[0], throughput.SharedAdam, args.workers
    )
    statistic = json.loads(weights.with_suffix(".json").read_text())["normalizer"]
    server.normalizers[:] = torch.tensor([statistic[key] for key in ("count", "mean", "std")])
    targets = [
        functools.partial(throughput.suite_worker, rank, own, server.for_process(rank), make)
        for rank in range(args.workers)
    ]
    with throughput.running(targets):
        pids = [child.pid for child in multiprocessing.active_children()]
        for i, pid in enumerate(pids):
            os.sched_setaffinity(pid, {i % os.cpu_count()})
        while int(counts.min()) < 3 * own.num_steps * args.envs_per_worker:
            time.sleep(0.05)
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        print("ready", flush=True)
        for _ in sys.stdin:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)
            start, cpu, steps = time.perf_counter(), cpu_seconds(pids), int(counts.sum())
            time.sleep(args.seconds)
            steps = int(counts.sum()) - steps
            seconds, cpu = time.perf_counter() - start, cpu_seconds(pids) - cpu
            for pid in pids:
                os.kill(pid, signal.SIGSTOP)
            cores = min(len(pids), os.cpu_count())
            print(json.dumps([steps / seconds, steps / cpu * cores]), flush=True)


def run(args) -> None:
    builds = {"other": Path(args.other).resolve(), "this": Path(__file__).resolve().parent.parent}
    rates: dict[str, list[list[float]]] = {name: [] for name in builds}
    with contextlib.ExitStack() as stack:
        servers = {}
        for name, folder in builds.items():
            load = str(Path(args.load).resolve())  # the build has another current folder
            command = [sys.executable, __file__, *sys.argv[1:], "--load", load, "--serve"]
            servers[name] = stack.enter_context(
                subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=folder,
                    env=os.environ
                    | {"PYTHONPATH": str(folder / "benchmarks"), "PYTHONSAFEPATH": "1"},
                )
            )  # fmt: skip
            if servers[name].stdout.readline() != "ready\n":
                sys.exit(f"{folder} does not start")
        for _ in range(args.rounds):
            for name, server in servers.items():
                server.stdin.write("go\n")
                server.stdin.flush()
                rates[name].append(json.loads(server.stdout.readline()))
    print(f"{args.env}, {args.workers} x {args.envs_per_worker}, {args.rounds} rounds")
    for i, what in enumerate(("by the clock", "by CPU time")):
        other, this = ([rate[i] for rate in rates[name]] for name in ("other", "this"))
        medians = [statistics.median(x) for x in (other, this)]
        print(
            f"{what}: other {medians[0]:.0f} ({min(other):.0f} to {max(other):.0f}), "
            f"this {medians[1]:.0f} ({min(this):.0f} to {max(this):.0f}) steps/s, "
            f"ratio {medians[1] / medians[0]:.2f}",
            flush=True,
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("other", help="folder of the other build")
    parser.add_argument("--env", default="Pong-v0", metavar="ID")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--envs-per-worker", type=int, default=8)
    parser.add_argument("--load", required=True, metavar="FOLDER", help="of weights")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each side in a round")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    (serve if arguments.serve else run)(arguments)
