"""One machine of two cores against two machines of one core: what is learned, and how fast.

    python benchmarks/two_machines.py learn --env PongDeterministic-v4 --max-steps 1M --seeds 1 2
    python benchmarks/two_machines.py speed --env Pong-v0 --rounds 5

Whole runs of main.py with the same two workers in all. The two machines are nodes of a Ray cluster,
all of whose processes are held to one core each; between them is loopback, not a network. `learn`
prints a row per run as it ends, `speed` takes turns and prints medians.
"""

import argparse
import contextlib
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import checkpoint
import connection

PROJECT = Path(__file__).resolve().parent.parent

LAST_GAMES = 100  # training games whose mean is the score
FIRST = 2  # line about the speed that counts, of one per minute: until then machines join
ALONE = {  # as connection.find
    **connection.SETTINGS, **connection.ALONE, "RAY_AUTH_TOKEN": "5e" * 32,
    "RAY_worker_niceness": "0",
}  # fmt: skip
PROGRESS = re.compile(
    r"agent steps (\d+), ([\d.]+) steps/s, .* training games"
    r".*?(?:, ([\d.]+) s behind, ([\d.]+) MB/s)?$"
)


@contextlib.contextmanager
def two_nodes():
    """Address of a Ray cluster of two nodes; this process is held to the core of the first."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        os.environ.update(ALONE, RAY_TMPDIR=folder)
        from ray.cluster_utils import Cluster

        cores = sorted(os.sched_getaffinity(0))
        stack.callback(os.sched_setaffinity, 0, cores)
        small = {"num_cpus": 1, "object_store_memory": 256 * 2**20}
        os.sched_setaffinity(0, cores[:1])
        cluster = Cluster(
            initialize_head=True, head_node_args={**small, "include_dashboard": False}
        )
        stack.callback(cluster.shutdown)
        os.sched_setaffinity(0, cores[1:2])
        cluster.add_node(**small)
        os.sched_setaffinity(0, cores[:1])
        yield cluster.address


def train(folder: Path, env: str, every: int, *options: str) -> Path:
    """A run of main.py to its end; where its files are.

    every: updates between exchanges of two machines; 0: one machine.
    """
    shutil.rmtree(folder, ignore_errors=True)
    with contextlib.ExitStack() as stack:
        own = ["--workers", "2"]
        if every:
            address = stack.enter_context(two_nodes())
            own = ["--workers", "1", "--ray", address, "--machines", "2"]
            own += ["--exchange-updates", str(every)]
        command = [sys.executable, str(PROJECT / "main.py"), "--env", env, "--quiet", *own]
        command += ["--save-model-dir", str(folder), "--log-dir", str(folder), *options]
        subprocess.run(command, check=True)
    return folder


def progress(folder: Path, env: str) -> list[tuple[int, float, float, float]]:
    """Of each line about the speed that counts: agent steps, steps/s, seconds behind, MB/s.

    The last two are nan for one machine.
    """
    lines = (folder / f"{env}_log").read_text().splitlines()
    found = filter(None, map(PROGRESS.search, lines))
    rows = [tuple(float(x or "nan") for x in match.groups()) for match in found][FIRST:]
    return rows or sys.exit(f"{folder}: the run was over after two minutes; let it go on")


def name(every: int) -> str:
    return f"two machines, every {every}" if every else "one machine"


def learn(args) -> None:
    print("| K | seed | agent steps | training games | steps/s | s behind | MB/s | bytes/step |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for seed in args.seeds:
        for every in args.exchange_updates:
            folder = args.folder / f"{args.env}.every-{every}.seed-{seed}"
            given = ["--max-steps", args.max_steps, "--seed", str(seed), *args.rest]
            train(folder, args.env, every, *given)
            rows = checkpoint.read_csv(folder / f"{args.env}.training.csv")
            score = statistics.mean(row[2] for row in rows[-LAST_GAMES:])
            lines = progress(folder, args.env)
            _, *measured = zip(*lines, strict=True)
            speed, behind, traffic = map(statistics.median, measured)
            print(
                f"| {every or 'one machine'} | {seed} | {lines[-1][0]:.0f} | {score:.2f} | "
                f"{speed:.0f} | {behind:.1f} | {traffic:.1f} | {1e6 * traffic / speed:.0f} |",
                flush=True,
            )  # fmt: skip


def speed(args) -> None:
    rates: dict[int, list[float]] = {every: [] for every in args.exchange_updates}
    for _ in range(args.rounds):
        for every in rates:
            folder = args.folder / f"{args.env}.speed"
            train(folder, args.env, every, "--max-minutes", "2.4", *args.rest)
            rates[every].append(progress(folder, args.env)[0][1])
            print(f"{name(every)}: {rates[every][-1]:.0f} steps/s", flush=True)
    alone = statistics.median(rates[0])
    for every, found in rates.items():
        print(
            f"{name(every)}: "
            f"{statistics.median(found):.0f} ({min(found):.0f} to {max(found):.0f}) steps/s, "
            f"ratio {statistics.median(found) / alone:.2f}"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=["learn", "speed"])
    parser.add_argument("--env", default="PongDeterministic-v4", metavar="ID")
    parser.add_argument(
        "--exchange-updates", type=int, nargs="+", default=[0, 1, 8, 64], metavar="K",
        help="0: one machine",
    )  # fmt: skip
    parser.add_argument("--max-steps", default="1M")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5, help="of 160 s for each setup")
    parser.add_argument("--folder", type=Path, default=Path("runs/two_machines"))
    arguments, arguments.rest = parser.parse_known_args()
    if arguments.what == "speed" and 0 not in arguments.exchange_updates:
        parser.error("speed compares with one machine: give --exchange-updates 0, too")
    {"learn": learn, "speed": speed}[arguments.what](arguments)
