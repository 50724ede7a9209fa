#!/usr/bin/env bash
# RLlib of Ray 2.60.0, PPO on the new API stack: its MeanStdFilter, which shall bring each observation to mean 0 and
# spread 1, is right with num_env_runners=0 and in the first iteration, and wrong with remote runners ever after. What
# a runner reports to be merged is by how much its mean has moved since the last time, and the merge takes that for the
# mean of the new observations: it pulls the mean towards 0 at each iteration, and counts the way there as spread. So a
# sensor that reads 100 give or take 1 reaches the network as the same number, its signal pressed to a sixtieth of
# what it was in the first iteration, and the scale of what was learned is another in each. The number of observations is
# right, nothing is raised, and where the mean is 0 already, all is right. PPO has two runners unless it is told
# otherwise, and a test with none sees nothing. Guess: the runners' statistics, merged, are those of all observations.
# merge_env_runner_states=False with broadcast_env_runner_states=False, each runner with statistics of its own, is a
# way around.
#
# Seen, of observations of mean 100 and spread 1, as mean and spread of the filter in iterations 1, 2, 5 and 10: "no
# runners: 100 0.9, 100 1.0, 100 1.0, 100 1.0; 1: 100 1.0, 50 50.0, 29 53.9, 19 63.6; 2: 100 1.0, 50 50.0, 25 58.0, 15
# 68.8; 2 with statistics of their own: 100 1.0, 100 1.0, 100 1.0, 100 1.0"; "2 runners: 5050 observations in 10
# iterations, the signal is pressed to 1 of 68".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
# Where the index has builds for GPUs: --index-url of pytorch.org's CPU builds saves gigabytes.
"$folder/venv/bin/pip" install --quiet "ray[rllib]==2.60.0" torch==2.13.0 gymnasium==1.2.2 numpy==2.4.6
cat > "$folder/finding.py" <<'END'
import logging
import sys

import gymnasium
import numpy as np
import ray
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.connectors.env_to_module import MeanStdFilter

MEAN, SPREAD, ITERATIONS, STEPS = 100, 1, 10, 500


class Sensor(gymnasium.Env):
    """Reads 100, give or take 1, whatever is done."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, config=None):
        pass

    def read(self):
        return self.np_random.normal(MEAN, SPREAD, 1).astype(np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self.read(), {}

    def step(self, action):
        self.steps += 1
        return self.read(), 0.0, False, self.steps == 100, {}


def filter_of(runner):
    """Mean and spread by which a runner makes its observations, and of how many these are."""
    connectors = runner._env_to_module.connectors
    (found,) = [connector for connector in connectors if isinstance(connector, MeanStdFilter)]
    stats = found._filters[None].running_stats
    return float(stats.mean[0]), float(stats.std[0]), stats.n


def training(runners, **options):
    """After each iteration, what all the runners that play have."""
    config = PPOConfig().environment(Sensor).debugging(seed=1)
    config.env_runners(
        num_env_runners=runners, env_to_module_connector=lambda env, spaces, device: MeanStdFilter(), **options
    )
    config.training(train_batch_size_per_learner=STEPS, minibatch_size=STEPS, num_epochs=1)
    algorithm = config.build_algo()
    history = []
    for _ in range(ITERATIONS):
        algorithm.train()
        history.append(algorithm.env_runner_group.foreach_env_runner(filter_of, local_env_runner=runners == 0))
    algorithm.stop()
    return history


def shown(history):
    return ", ".join(f"{history[n - 1][0][0]:.0f} {history[n - 1][0][1]:.1f}" for n in (1, 2, 5, 10))


def right(history):
    return all(
        abs(mean - MEAN) < 0.3 and abs(spread - SPREAD) < 0.2 for runners in history for mean, spread, _ in runners
    )


ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR, _temp_dir=sys.argv[1])
none, one, two = training(0), training(1), training(2)
own = training(2, merge_env_runner_states=False, broadcast_env_runner_states=False)
print(f"no runners: {shown(none)}; 1: {shown(one)}; 2: {shown(two)}; 2 with statistics of their own: {shown(own)}")
mean, spread, count = two[-1][0]
pressed = spread / two[0][0][1]
print(f"2 runners: {count} observations in {ITERATIONS} iterations, the signal is pressed to 1 of {pressed:.0f}")
assert right(none) and right(own) and right(one[:1]) and right(two[:1])
for history in one, two:
    assert not right(history[1:2]) and history[-1][0][0] < MEAN / 2 and history[-1][0][1] > 30 * SPREAD
assert ITERATIONS * STEPS <= count < 1.1 * ITERATIONS * STEPS
END
export HOME="$folder" RAY_USAGE_STATS_ENABLED=0
"$folder/venv/bin/python" -W ignore "$folder/finding.py" "$folder/ray" 2> "$folder/errors" ||
  { cat "$folder/errors"; exit 1; }
