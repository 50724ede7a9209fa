#!/usr/bin/env bash
# MushroomRL 1.10.2, Rainbow (by the source, all of its memories with n_steps_return): n-step returns are made within
# the steps of one fit, and are carried over to no other. Of n_steps_per_fit=k steps the last n - 1 are dropped, not as
# the last part of a return but as its beginning: their states and actions never come into the memory. With k=4, as in
# the library's Atari example, and n=3, as in Rainbow's paper, half of what is played is not learned from, and always
# the same steps of each four. With k=1 nothing is stored at all: where the memory was filled beforehand, as is
# the custom, the agent learns for ever from these first steps, which it played at random, and from none of its own;
# where the steps that were dropped there too leave it one short of initial_replay_size, it never learns. The scores are
# poor, and nothing is raised. In the same way the last n - 1 steps of each episode are never stored, whatever k is.
# Guess: a return reaches into the steps of the next fit, or at least is shorter, and all steps are stored, as with
# n_steps_return=1. To take k large against n is the way around, and to fill in more than initial_replay_size.
#
# Seen, in a corridor of 12 steps, with 240 steps before and 2400 after them: "n=1, a fit each 1 step(s),
# initial_replay_size 100: 240 steps stored before, 2400 new ones, of [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]; it
# learns"; "n=3, a fit each 1 step(s), initial_replay_size 100: 200 steps stored before, 0 new ones, of []; it learns";
# "n=3, a fit each 1 step(s), initial_replay_size 240: 200 steps stored before, 0 new ones, of []; it never learns";
# "n=3, a fit each 4 step(s), initial_replay_size 100: 200 steps stored before, 1200 new ones, of [0, 1, 4, 5, 8, 9]; it
# learns".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
# Where the index has builds for GPUs: --index-url of pytorch.org's CPU builds saves gigabytes.
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==1.26.4 scipy==1.15.2 scikit-learn==1.6.1 \
  matplotlib==3.10.1 joblib==1.4.2 tqdm==4.67.1 pygame==2.6.1 opencv-python-headless==4.11.0.86 setuptools==79.0.1 \
  wheel==0.45.1
"$folder/venv/bin/pip" install --quiet --no-deps --no-build-isolation mushroom-rl==1.10.2  # it asks for an older torch
cat > "$folder/finding.py" <<'END'
import numpy as np
import torch
from mushroom_rl.algorithms.value import Rainbow
from mushroom_rl.core import Core, Environment, MDPInfo
from mushroom_rl.policy import EpsGreedy
from mushroom_rl.utils.parameters import Parameter
from mushroom_rl.utils.spaces import Box, Discrete

torch.set_num_threads(1)
LENGTH, BEFORE, STEPS = 12, 240, 2400


class Corridor(Environment):
    """Twelve steps, whatever is done, and then the end. The state is the number of the step."""

    def __init__(self):
        super().__init__(MDPInfo(Box(0, LENGTH, shape=(1,)), Discrete(2), 0.9, 100))

    def reset(self, state=None):
        self.steps = 0
        return np.zeros(1, np.float32)

    def step(self, action):
        self.steps += 1
        return np.full(1, self.steps, np.float32), 1.0, self.steps == LENGTH, {}


class Features(torch.nn.Module):
    def __init__(self, input_shape, output_shape, n_features, **kwargs):
        super().__init__()
        self.layer = torch.nn.Linear(input_shape[0], n_features)

    def forward(self, state):
        return torch.relu(self.layer(state.float()))


def played(n, per_fit, initial=100):
    """What is in the memory after the steps before, what is added by the others, and whether something was learned."""
    torch.manual_seed(1)
    np.random.seed(1)
    env = Corridor()
    network = dict(
        network=Features, n_features=8, input_shape=(1,), output_shape=(2,), n_actions=2, use_cuda=False, quiet=True,
        optimizer={"class": torch.optim.Adam, "params": {"lr": 1e-3}},
    )
    agent = Rainbow(
        env.info, EpsGreedy(Parameter(0.1)), network, n_atoms=11, v_min=0, v_max=12, n_steps_return=n, alpha_coeff=0.6,
        beta=Parameter(0.4), batch_size=16, target_update_frequency=50, initial_replay_size=initial,
        max_replay_size=10_000,
    )
    core, tree = Core(agent, env), agent._replay_memory._tree
    core.learn(n_steps=BEFORE, n_steps_per_fit=BEFORE, quiet=True)
    filled, weights = tree.size, agent.approximator.get_weights()
    core.learn(n_steps=STEPS, n_steps_per_fit=per_fit, quiet=True)
    new = [int(step[0][0]) for step in tree._data[filled : tree.size]]
    learns = not np.array_equal(weights, agent.approximator.get_weights())
    print(
        f"n={n}, a fit each {per_fit} step(s), initial_replay_size {initial}: {filled} steps stored before, {len(new)} "
        f"new ones, of {sorted(set(new))}; {'it learns' if learns else 'it never learns'}"
    )
    return filled, len(new), sorted(set(new)), learns


assert played(1, 1) == (BEFORE, STEPS, list(range(LENGTH)), True)
assert played(3, 1) == (BEFORE - 2 * BEFORE // LENGTH, 0, [], True)
assert played(3, 1, BEFORE) == (BEFORE - 2 * BEFORE // LENGTH, 0, [], False)
assert played(3, 4) == (BEFORE - 2 * BEFORE // LENGTH, STEPS // 2, [0, 1, 4, 5, 8, 9], True)
END
"$folder/venv/bin/python" -W ignore "$folder/finding.py"
