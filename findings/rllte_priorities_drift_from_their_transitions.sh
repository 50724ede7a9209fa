#!/usr/bin/env bash
# rllte-core 1.0.1: PrioritizedReplayStorage keeps the transitions in a deque, where all move up by one place when a new
# one comes into a full storage, and their priorities in a ring, where they stay. From the first step after it is full
# each priority is that of another transition, and of yet another at each step: what has a large error is sampled less
# often than by chance, the largest priority that a new one shall begin with goes to an old one, and the weights that
# correct the bias correct what isn't there. While the storage fills all is right, so a test sees nothing, and from then
# on a training is worse off than with uniform sampling. Nothing is raised. Guess: an index means the same transition in
# both. A list that is written like a ring, put in the place of the deque, is the way around.
#
# Seen, where one of ten transitions has an error a thousand times as large, as the share of these in what is sampled:
# "1000 transitions, just full: 87%; 1 step later 2%; 2000 steps later 8%; with a ring 87%, 88%, 86%" (uniform sampling
# has 10%, and 87.5% is right; the second number varies).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
# Where the index has builds for GPUs: --index-url of pytorch.org's CPU builds saves gigabytes.
"$folder/venv/bin/pip" install --quiet torch==2.13.0 gymnasium==0.29.1 numpy==1.26.4 matplotlib==3.9.4 pynvml==11.5.0 \
    termcolor==2.4.0
"$folder/venv/bin/pip" install --quiet --no-deps rllte-core==1.0.1
# One augmentation wants a class of torchvision, which there is for one kind of torch only; it isn't used here.
mkdir "$folder/torchvision"
touch "$folder/torchvision/__init__.py"
echo "class ColorJitter: pass" > "$folder/torchvision/transforms.py"
cat > "$folder/finding.py" <<'END'
import gymnasium
import numpy as np
import torch
from rllte.xploit.storage import PrioritizedReplayStorage

SIZE = 1000


class Ring(list):
    next = 0

    def append(self, item):
        if len(self) < SIZE:
            super().append(item)
        else:
            self[self.next] = item
        self.next = (self.next + 1) % SIZE


def error(number):
    return np.where(number % 10 == 0, 1.0, 0.001)


def learn(storage):
    """A sample, whose priorities are then the errors of its transitions; the share of those with a large error."""
    batch = storage.sample()
    errors = error(batch.observations.numpy()[:, 0].round().astype(int))
    storage.update({"indices": batch.indices, "priorities": errors})
    return (errors == 1).mean()


def look(storage):
    """As above, for some samples, and without any change."""
    numbers = [storage.sample().observations.numpy()[:, 0].round().astype(int) for _ in range(100)]
    return (error(np.concatenate(numbers)) == 1).mean()


def shares(ring):
    np.random.seed(1)
    space = gymnasium.spaces.Box(-np.inf, np.inf, (1,))
    storage = PrioritizedReplayStorage(space, gymnasium.spaces.Discrete(2), storage_size=SIZE, batch_size=32)
    if ring:
        storage.transitions = Ring()
    zero, seen = torch.zeros(1), {}
    for number in range(SIZE + 2000):
        obs = torch.tensor([[float(number)]])
        storage.add(obs, zero, zero, zero, zero, {}, obs + 1)
        if number == SIZE - 1:
            for _ in range(1000):
                learn(storage)
        if number in (SIZE - 1, SIZE):
            seen[number] = look(storage)
        share = learn(storage)
        if number >= SIZE + 1900:
            seen.setdefault("later", []).append(share)
    return seen[SIZE - 1], seen[SIZE], np.mean(seen["later"])


full, one, later = shares(ring=False)
ring = shares(ring=True)
print(
    f"{SIZE} transitions, just full: {full:.0%}; 1 step later {one:.0%}; 2000 steps later {later:.0%}; with a ring "
    f"{ring[0]:.0%}, {ring[1]:.0%}, {ring[2]:.0%}"
)
assert full > 0.8 and one < 0.3 and later < 0.12 and min(ring) > 0.8
END
cd "$folder"
PYTHONPATH="$folder" "$folder/venv/bin/python" -W ignore "$folder/finding.py"
