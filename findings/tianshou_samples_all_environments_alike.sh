#!/usr/bin/env bash
# tianshou 2.0.1: each ReplayBuffer draws with random numbers of its own, seeded with 42 unless it is told otherwise,
# and VectorReplayBuffer, which has one for each environment, gives all of them the same seed. So a step of one
# environment that is in a batch is in it of the next environments, too: the 256 transitions of the first batch from 8
# environments are of 39 different moments, where independent draws have some 240. Later the numbers of the buffers run
# apart, as each gives a few more or less to a batch, and a thousand batches later there are still fewer than 200.
# Environments that start together and have a limit of steps are then seen in the same phase of the game. And the seed
# of the run, np.random.seed, torch's or random's, changes nothing: five trainings with five seeds draw the same
# places, so that their spread, from which a confidence interval is made, lacks that of the replay. random_seed= of the
# buffer gives other places, and they are as much alike; tianshou's own high-level experiments give none. Guess: a
# batch is drawn from all transitions independently, and the seed of the program decides it. ReplayBuffers with a
# random_seed each, in a ReplayBufferManager, are the way around.
#
# Seen: "moments among 256 transitions: 39 in the first batch, 172 on average of 1000; random_seed=7: 39; a seed for
# each: 241; the same indices with np.random.seed(1) and (2): True".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet tianshou==2.0.1 torch==2.13.0 gymnasium==1.0.0 numpy==2.4.6
cat > "$folder/finding.py" <<'END'
import random

import numpy as np
import torch
from tianshou.data import Batch, ReplayBuffer, ReplayBufferManager, VectorReplayBuffer

STEPS, ENVIRONMENTS, BATCH = 2000, 8, 256


def seeded(seed):
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def filled(buffer):
    """The buffer, full of the steps of 8 environments, which tell their number in the observation."""
    no = np.zeros(ENVIRONMENTS, bool)
    for step in range(STEPS):
        now = np.full((ENVIRONMENTS, 1), step)
        buffer.add(
            Batch(obs=now, act=no, rew=no.astype(float), terminated=no, truncated=no, obs_next=now + 1, info=Batch())
        )
    return buffer


def moments(buffer):
    """Of how many different moments the transitions of a batch are, and their indices."""
    batch, indices = buffer.sample(BATCH)
    assert len(batch) == BATCH and {index // STEPS for index in indices.tolist()} == set(range(ENVIRONMENTS))
    return len(set(batch.obs[:, 0].tolist())), indices.tolist()


def vector(**options):
    return filled(VectorReplayBuffer(STEPS * ENVIRONMENTS, ENVIRONMENTS, **options))


seeded(1)
buffer = vector()
first, places = moments(buffer)
average = round((first + sum(moments(buffer)[0] for _ in range(999))) / 1000)
seeded(2)
same = moments(vector())[1] == places
other, other_places = moments(vector(random_seed=7))
apart, _ = moments(filled(ReplayBufferManager([ReplayBuffer(STEPS, random_seed=n) for n in range(ENVIRONMENTS)])))
print(
    f"moments among {BATCH} transitions: {first} in the first batch, {average} on average of 1000; random_seed=7: "
    f"{other}; a seed for each: {apart}; the same indices with np.random.seed(1) and (2): {same}"
)
assert first < 60 and other < 60 and average < 200 and apart > 225 and same and other_places != places
END
"$folder/venv/bin/python" -W ignore "$folder/finding.py"
