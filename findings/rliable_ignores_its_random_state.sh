#!/usr/bin/env bash
# rliable 1.2.0: the random_state of get_interval_estimates, "If specified, ensures reproducibility", does nothing. Its
# bootstraps draw from numpy's global random numbers: with one and the same random_state each call gives another
# interval, with np.random.seed before it different random_states give the same one, and each call moves the global
# numbers on, by which an evaluation within a training changes the training. Guess: as with arch, whose bootstrap it
# derives from, and which obeys the same argument. Only np.random.seed before each call makes the intervals of a table
# come out again. (It needs pandas 2: with pandas 3 arch 7.2.0, which pip takes, can't be imported.)
#
# Seen: "random_state 1, 1, 1: 3 intervals of rliable, 1 of arch; np.random.seed(7) and random_state 1, 2, none: 1 of
# rliable; the global numbers moved: True".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet rliable==1.2.0 arch==7.2.0 pandas==2.3.3 scipy==1.17.1 numpy==2.4.6
cat > "$folder/finding.py" <<'END'
import numpy as np
from arch.bootstrap import IIDBootstrap
from rliable import library, metrics

scores = {"A3C": np.random.default_rng(0).normal(1, 0.3, (5, 26))}  # 5 runs of 26 games


def iqm(array):
    return np.array([metrics.aggregate_iqm(array)])


def interval(random_state):
    estimates = library.get_interval_estimates(scores, iqm, reps=500, random_state=random_state)
    return tuple(estimates[1]["A3C"].ravel())


def interval_after_seed(random_state):
    np.random.seed(7)
    return interval(random_state)


def interval_of_arch(random_state):
    return tuple(IIDBootstrap(scores["A3C"], seed=random_state).conf_int(iqm, 500, method="percentile").ravel())


same = {interval(np.random.RandomState(1)) for _ in range(3)}
arch = {interval_of_arch(np.random.RandomState(1)) for _ in range(3)}
seeded = {interval_after_seed(state) for state in (np.random.RandomState(1), np.random.RandomState(2), None)}
np.random.seed(7)
before = np.random.random()
np.random.seed(7)
interval(np.random.RandomState(1))
moved = np.random.random() != before
print(
    f"random_state 1, 1, 1: {len(same)} intervals of rliable, {len(arch)} of arch; np.random.seed(7) and random_state "
    f"1, 2, none: {len(seeded)} of rliable; the global numbers moved: {moved}"
)
assert (len(same), len(arch), len(seeded), moved) == (3, 1, 1, True)
END
"$folder/venv/bin/python" -W ignore "$folder/finding.py"
