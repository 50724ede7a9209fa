#!/usr/bin/env bash
# rich 15.0.0 on Linux, CPython 3.11.7, 3.12.1 and 3.13.0, with PYTHONUNBUFFERED=1, as container images like to set it:
# where a signal that the program handles arrives while the terminal or pipe is slow, the rest of that write is lost.
# write(2) says how much it took, and with no buffer below it Python's text stream does not look, so rich is one victim
# of many. No error, and without PYTHONUNBUFFERED nothing is lost. Whoever handles SIGINT, SIGTERM or SIGUSR1 to save a
# run loses lines of its log so, and its display is torn.
# Guess: unbuffered output comes sooner and is otherwise the same; Python goes on after a signal since PEP 475.
#
# Seen: "buffered: 300 of 300 lines arrive whole; unbuffered: 166 of 300" (the second number varies).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet rich==15.0.0
cat > "$folder/log.py" <<'END'
import signal
import sys

from rich.console import Console

signal.signal(signal.SIGUSR1, lambda number, frame: None)
console = Console(file=sys.stdout, width=3100, no_color=True)
for number in range(300):
    console.print(f"{number:05d}" + 3000 * "─")
END
cat > "$folder/finding.py" <<'END'
import os
import signal
import subprocess
import sys
import time

LINES = {f"{number:05d}" + 3000 * "─" for number in range(300)}


def whole_lines(unbuffered):
    """How many arrive whole at a slow reader, while the program gets harmless signals."""
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered, "PYTHONUTF8": "1"}
    command = [sys.executable, sys.argv[1]]
    program = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, bufsize=0)
    output = program.stdout.read(7)  # it has begun: it handles the signal by now
    for _ in range(150):
        time.sleep(0.01)  # the pipe is full by now, and the program waits in a write
        program.send_signal(signal.SIGUSR1)
        output += program.stdout.read(7000)
    while part := program.stdout.read(7000):
        output += part
    assert program.wait() == 0
    lines = output.decode(errors="replace").splitlines()
    return len(LINES & set(lines))


buffered, unbuffered = whole_lines(""), whole_lines("1")
print(f"buffered: {buffered} of 300 lines arrive whole; unbuffered: {unbuffered} of 300")
assert buffered == 300
assert unbuffered < 300
END
"$folder/venv/bin/python" "$folder/finding.py" "$folder/log.py"
