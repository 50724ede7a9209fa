#!/usr/bin/env bash
# CPython 3.11, multiprocessing with "forkserver": when the fork server is killed (by a kernel that runs out of memory,
# say), each of its children counts as dead at once, is_alive() False and exit code 255, while it goes on running. Who
# replaces "the dead" has two of each. The old ones end only when their Process object is closed or collected.
# Guess: the children are watched themselves, or die with their server.
#
# Seen: "counts as dead with exit code 255, and is running; after close() it learns that its parent is gone".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/finding.py" <<'END'
import multiprocessing
import os
import signal
import time
from multiprocessing import forkserver


def child(path):
    multiprocessing.parent_process().join()  # until its parent is gone
    open(path, "w").close()


def running(pid):
    try:
        return open(f"/proc/{pid}/stat").read().rsplit(")")[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


if __name__ == "__main__":
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "told")
    process = multiprocessing.get_context("forkserver").Process(target=child, args=(path,))
    process.start()
    time.sleep(1)
    os.kill(forkserver._forkserver._forkserver_pid, signal.SIGKILL)
    process.join(10)
    assert (process.is_alive(), process.exitcode) == (False, 255), process
    assert running(process.pid) and not os.path.exists(path)
    pid = process.pid
    process.close()
    for _ in range(100):
        if os.path.exists(path):
            break
        time.sleep(0.1)
    assert os.path.exists(path)
    print("counts as dead with exit code 255, and is running; after close() it learns that its parent is gone")
END
python3 "$folder/finding.py"
