"""What the display in the terminal costs: CPU time of the main process with it and with --quiet.

    python benchmarks/display.py --seconds 60

Runs main.py in a pseudo-terminal, by turns; prints CPU seconds of the main process, of the whole
run, and the share of the difference.
"""

import argparse
import fcntl
import os
import pty
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from pathlib import Path

MAIN = Path(__file__).parents[1] / "main.py"


def cpu_seconds(session: int) -> dict[int, float]:
    """User and system time of each process of the session."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rsplit(")")[1].split()
        except OSError:
            continue  # it has ended
        if int(fields[3]) == session:
            ticks = int(fields[11]) + int(fields[12])
            found[int(folder.name)] = ticks / os.sysconf("SC_CLK_TCK")
    return found


def drain(terminal: int) -> None:
    try:
        while os.read(terminal, 65536):
            pass
    except OSError:
        pass  # the other side was closed


def measure(seconds: float, rows: int, columns: int, *options: str) -> tuple[float, float]:
    """CPU seconds per second, of the main process and of the whole run, once it learns."""
    master, slave = pty.openpty()
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    threading.Thread(target=drain, args=(master,), daemon=True).start()
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [sys.executable, str(MAIN), *options],
            cwd=folder, stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
            env={**os.environ, "TERM": "xterm-256color"},
        )  # fmt: skip
        while not Path(folder, "logs/Pong-v0.csv").exists():
            if process.poll() is not None:
                sys.exit(f"main.py has ended with exit code {process.returncode}")
            time.sleep(0.1)
        before, start = cpu_seconds(process.pid), time.monotonic()
        time.sleep(seconds)
        after, elapsed = cpu_seconds(process.pid), time.monotonic() - start
        os.killpg(process.pid, signal.SIGINT)
        process.wait()
    os.close(slave)
    own = (after[process.pid] - before[process.pid]) / elapsed
    return own, (sum(after.values()) - sum(before.values())) / elapsed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="of each measurement")
    parser.add_argument("--alternations", type=int, default=2)
    parser.add_argument("--rows", type=int, default=24)
    parser.add_argument("--columns", type=int, default=80)
    args = parser.parse_args()
    shown, quiet, whole = [], [], []
    options = ("--max-episode-length", "200", "--eval-interval", "5")
    for _ in range(args.alternations):
        own, run = measure(args.seconds, args.rows, args.columns, *options)
        shown.append(own)
        whole.append(run)
        quiet.append(measure(args.seconds, args.rows, args.columns, *options, "--quiet")[0])
    cost = statistics.median(shown) - statistics.median(quiet)
    print(f"CPU seconds per second of the main process: {shown} with the display, {quiet} without")
    print(f"the display costs {100 * cost / statistics.median(whole):.2f} % of the run")


if __name__ == "__main__":
    main()
