"""What one parameter server can add, and what that carries.

    python benchmarks/cluster.py                         # exchanges per second, simulated machines
    python benchmarks/cluster.py --machines 1 2 4 --seconds 10 --hidden-size 512

A cluster of this machine alone, with an actor for each simulated machine, which sends a difference
of the real size as fast as it can and copies what it is given. All of them share these cores and
memory; over a network its bandwidth comes on top, 2 vectors for each exchange.
"""

import argparse
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

import connection
from model import make_model
from parameter_server import ParameterServer, Report

UPDATES = 5.7  # per second and worker with 8 games, benchmarks/README.md
WORKERS = 16  # of a machine


class Feeder:
    """A simulated machine: exchanges without a pause."""

    def feed(self, server, machine: int, size: int, seconds: float) -> int:
        """How often it exchanged."""
        import ray

        change = np.full(size, 1e-9, np.float32)
        known = np.empty_like(change)
        report = Report({"workers": 1.0}, np.zeros(3), 1, [])
        number, end = 0, time.monotonic() + seconds
        while time.monotonic() < end:
            number += 1
            reply = ray.get(server.exchange.remote(machine, number, report, change))
            np.copyto(known, reply.weights)
        return number


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--machines", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--hidden-size", type=int, default=512)
    args = parser.parse_args()
    size = sum(p.numel() for p in make_model(6, args.hidden_size).parameters())
    server = ParameterServer(np.zeros(size, np.float32))
    change = np.full(size, 1e-9, np.float32)
    report = Report({"workers": 1.0}, np.zeros(3), 1, [])
    times = []
    for number in range(1, 51):
        start = time.perf_counter()
        server.exchange(1, number, report, change)
        times.append(time.perf_counter() - start)
    print(f"{size} weights, {4 * size / 1e6:.1f} MB; adding alone {1e3 * np.median(times):.1f} ms")

    # This file's folder, for Feeder, which the machines of a run do not get.
    connection.FILES["env_vars"] = {"PYTHONPATH": os.path.dirname(os.path.abspath(__file__))}
    connection.connect(connection.find("", None))
    import ray

    print("| simulated machines | exchanges/s | MB/s | machines of 16 workers, K = 8 | K = 64 |")
    print("|---|---|---|---|---|")
    for machines in args.machines:
        server = ray.remote(ParameterServer).options(num_cpus=0).remote(
            np.zeros(size, np.float32), {}
        )  # fmt: skip
        feeders = [ray.remote(Feeder).options(num_cpus=0).remote() for _ in range(machines)]
        ray.get([f.feed.remote(server, i + 1, size, 0.1) for i, f in enumerate(feeders)])
        counts = ray.get(
            [f.feed.remote(server, 100 + i, size, args.seconds) for i, f in enumerate(feeders)]
        )
        rate = sum(counts) / args.seconds
        carried = [rate * k / (UPDATES * WORKERS) for k in (8, 64)]
        print(
            f"| {machines} | {rate:.1f} | {rate * 8 * size / 1e6:.0f} | "
            + " | ".join(f"{n:.1f}" for n in carried) + " |"
        )  # fmt: skip
        for actor in (server, *feeders):
            ray.kill(actor)
    ray.shutdown()


if __name__ == "__main__":
    main()
