#!/usr/bin/env bash
# RLlib of Ray 2.60.0, new API stack, with several environments per runner (num_envs_per_env_runner): evaluate() plays
# them all at once, takes the episodes that end first, ten unless it is told otherwise, and throws away those that are
# still running; the next evaluation resets all. So long episodes are missing from the score. Where falling early is
# bad, an agent is better than its score; where arriving early is good, it is worse: of a way that takes 10 or 100
# steps, each half of the time, ten environments report about -25 in place of -55. batch_mode="complete_episodes" does
# the same to the training, where steps of long episodes are missing; its documentation says the opposite, that steps
# are kept until the episode is complete. The evaluation takes the number of environments from the training's config,
# so that a score moves when the training is made faster. Nothing is raised, and the count of episodes is right. Guess:
# the mean of ten episodes is that of ten episodes, however many environments played them, as in Stable-Baselines3,
# which shares them out. evaluation_config={"num_envs_per_env_runner": 1}, which needs an evaluation_interval to be
# heeded, and "truncate_episodes" are the way around.
#
# Seen: "the way: 1 environment -52, 10 environments -24, 10 and 1 for the evaluation -54"; "steps of the long way in
# the training: 1 environment 91%, 10 environments 74%" (in truth -55 and 10 of 11; the numbers vary).
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

EVALUATIONS = 40


class Way(gymnasium.Env):
    """Takes 10 or 100 steps, as a coin has it, and each costs 1: -55 on average, and 10 of 11 steps are of the long."""

    observation_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, config=None):
        pass

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = self.np_random.choice([10, 100])
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.left -= 1
        return np.zeros(1, np.float32), -1.0, bool(self.left == 0), False, {}


def built(environments, **options):
    config = PPOConfig().environment(Way)
    config.evaluation(evaluation_interval=1000, evaluation_num_env_runners=0, **options)
    config.env_runners(
        num_env_runners=0, num_envs_per_env_runner=environments, batch_mode="complete_episodes", explore=True
    )
    config.training(train_batch_size_per_learner=20000, minibatch_size=20000, num_epochs=1)
    return config.build_algo()


def score(environments, **options):
    """The mean score of many evaluations of an agent that has learned nothing."""
    algorithm = built(environments, **options)
    results = [algorithm.evaluate()["env_runners"] for _ in range(EVALUATIONS)]
    algorithm.stop()
    assert {result["num_episodes"] for result in results} == {10}
    return np.mean([result["episode_return_mean"] for result in results])


def long_share(environments):
    """How many of the steps that are learned from are of the long way."""
    lengths = []
    algorithm = built(environments)
    runner = algorithm.env_runner_group.local_env_runner
    while sum(lengths) < 12000:
        lengths += [len(episode) for episode in runner.sample()]
    algorithm.stop()
    assert set(lengths) == {10, 100}
    return sum(length for length in lengths if length == 100) / sum(lengths)


ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR, _temp_dir=sys.argv[1])
one, ten = score(1), score(10)
around = score(10, evaluation_config={"num_envs_per_env_runner": 1})
few, many = long_share(1), long_share(10)
print(f"the way: 1 environment {one:.0f}, 10 environments {ten:.0f}, 10 and 1 for the evaluation {around:.0f}")
print(f"steps of the long way in the training: 1 environment {few:.0%}, 10 environments {many:.0%}")
assert abs(one + 55) < 11 and abs(around + 55) < 11 and ten > -40 and few > 0.86 and many < 0.84
END
export HOME="$folder" RAY_USAGE_STATS_ENABLED=0
"$folder/venv/bin/python" -W ignore "$folder/finding.py" "$folder/ray" 2> "$folder/errors" ||
  { cat "$folder/errors"; exit 1; }
