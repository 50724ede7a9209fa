#!/usr/bin/env bash
# Stable-Baselines3 2.9.2: Monitor(env, path, override_existing=False) "appends to file if filename exists", so that a
# training that is resumed goes on with its file. But a row's time is counted from when its own Monitor was made, while
# the file has the header, with the time it began, of the first Monitor alone, and load_results sorts by that time. So
# the episodes of the resumed training lie between those of the first, as if both had run at once: a score that rises
# from run to run becomes a sawtooth, and the steps on the axis, which are the sum of the lengths in that order, are of
# no training. The rows of the file are in the right order, and pandas.read_csv(path, skiprows=1) has them so. And
# where there is no file yet, as in the first of the runs that all pass False, none of them writes a header: the
# episodes are in the file, and load_results refuses it. Guess: the curve of a resumed training is the first curve and
# then the second, and appending to no file makes a whole one, as open(path, "a") would. A file for each part, in one
# folder, is the way around: load_results takes each with a header of its own.
#
# Seen: "scores of 3 runs in the file: [1, 1, 1, 2, 2, 2, 3, 3, 3], by load_results: [1, 2, 3, 1, 2, 3, 1, 2, 3]; in a
# file each: [1, 1, 1, 2, 2, 2, 3, 3, 3]; without a file before: the rows [1, 1, 1], no header, AssertionError".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet stable-baselines3==2.9.2 torch==2.13.0 gymnasium==1.4.0 pandas==3.1.1 numpy==2.4.6
cat > "$folder/finding.py" <<'END'
import sys
import time
from pathlib import Path

import gymnasium
import pandas
from stable_baselines3.common.monitor import Monitor, load_results

folder = Path(sys.argv[1])


class Wait(gymnasium.Env):
    """An environment whose n-th episode is one step, which ends n / 2 s, and a bit for its score, after it was made."""

    observation_space = action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, score):
        self.score, self.begin, self.episodes = score, time.monotonic(), 0

    def reset(self, seed=None, options=None):
        self.episodes += 1
        return 0, {}

    def step(self, action):
        end = self.begin + self.episodes / 2 + self.score / 10
        time.sleep(max(0, end - time.monotonic()))
        return 0, self.score, True, False, {}


def train(path, score, **options):
    env = Monitor(Wait(score), str(path), **options)
    for _ in range(3):
        env.reset()
        env.step(0)
    env.close()


def loaded(name):
    return load_results(str(folder / name)).r.astype(int).tolist()


for score in (1, 2, 3):
    train(folder / "one" / "run", score, override_existing=score == 1)
    train(folder / "each" / f"run{score}", score)
rows = pandas.read_csv(folder / "one" / "run.monitor.csv", skiprows=1).r.astype(int).tolist()
one, each = loaded("one"), loaded("each")

train(folder / "none" / "run", 1, override_existing=False)
first, *others = (folder / "none" / "run.monitor.csv").read_text().splitlines()
bare = [int(float(line.split(",")[0])) for line in [first, *others]]
try:
    error = loaded("none")
except AssertionError as raised:
    error = type(raised).__name__

print(
    f"scores of 3 runs in the file: {rows}, by load_results: {one}; in a file each: {each}; without a file before: the "
    f"rows {bare}, no header, {error}"
)
assert rows == each == [1, 1, 1, 2, 2, 2, 3, 3, 3] and bare == [1, 1, 1] and error == "AssertionError"
assert sorted(one) == rows != one
END
"$folder/venv/bin/python" "$folder/finding.py" "$folder"
