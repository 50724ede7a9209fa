#!/usr/bin/env bash
# TensorBoard 2.21.0: the window (by its data server, the default where that is installed) and EventAccumulator, from
# which scripts take their plots, have opposite rules for a run that was resumed from an earlier step. The window cuts
# a curve that goes back to an earlier step, and ignores the event that a writer's purge_step leaves, SessionLog.START;
# EventAccumulator cuts at that event only, and keeps both branches of a curve without it. So a resumed training looks
# right in the window and goes back in the plot, or the other way round. Guess: both show the same points of the same
# file. Only this is cut in both: purge_step, and a first point at or before the first step that was lost.
#
# Seen: "goes back: window [0, 2, 3], EventAccumulator [0, 2, 4, 6, 3]"; "purge_step: window [0, 2, 4, 6, 7],
# EventAccumulator [0, 2, 7]"; "both: window [0, 2, 3], EventAccumulator [0, 2, 3]".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet tensorboard==2.21.0 tensorboard-data-server==0.7.2
cat > "$folder/finding.py" <<'END'
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from urllib.parse import quote

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

logs = sys.argv[1]
# All went on from step 3: whether the writer had purge_step=3, the next point, and what is shown then.
runs = {
    "goes back": (False, 3, [0, 2, 3], [0, 2, 4, 6, 3]),
    "purge_step": (True, 7, [0, 2, 4, 6, 7], [0, 2, 7]),
    "both": (True, 3, [0, 2, 3], [0, 2, 3]),
}


def add(writer, step):
    value = Summary.Value(tag="score", simple_value=float(step))
    writer.add_event(Event(step=step, wall_time=time.time(), summary=Summary(value=[value])))


def in_window():
    """Steps of each run's curve."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    command = [os.path.join(os.path.dirname(sys.executable), "tensorboard"), "--logdir", logs]
    command += ["--host", "127.0.0.1", "--port", str(port), "--load_fast", "true"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}/data/plugin/scalars/scalars?tag=score&run="
    try:
        for attempt in range(120):
            time.sleep(1)
            try:
                answers = {run: json.load(urllib.request.urlopen(url + quote(run))) for run in runs}
            except OSError:  # it starts, or has not read them yet
                continue
            return {run: [step for _, step, _ in points] for run, points in answers.items()}
        sys.exit("TensorBoard does not answer")
    finally:
        server.terminate()
        server.wait()


for run, (purge, following, *_) in runs.items():
    writer = EventFileWriter(os.path.join(logs, run))
    for step in (0, 2, 4, 6):
        add(writer, step)
    if purge:  # as torch.utils.tensorboard writes it
        writer.add_event(Event(step=3, session_log=SessionLog(status=SessionLog.START)))
    add(writer, following)
    writer.close()
window = in_window()
for run, (_, _, *expected) in runs.items():
    accumulator = EventAccumulator(os.path.join(logs, run))
    accumulator.Reload()
    read = [point.step for point in accumulator.Scalars("score")]
    print(f"{run}: window {window[run]}, EventAccumulator {read}")
    assert [window[run], read] == expected
END
"$folder/venv/bin/python" "$folder/finding.py" "$folder/logs" 2> /dev/null
