#!/usr/bin/env bash
# RLlib of Ray 2.60.0, new API stack: with debugging(seed=...) and batch_mode="complete_episodes" each call of sample()
# gives the seed to the environment's reset() once more, and a call is one episode for each environment. So a training
# of one environment plays the same start from its beginning to its end, and one of four plays few more than four. What
# it never met it never learns, and its curve, of that one start too, looks as if it had. RLlib demands complete
# episodes of data that is recorded for offline training, and these come, by the source, from the same calls. And each
# evaluate() of some episodes, in either mode, plays the starts of the one before, so that many evaluations are of ten
# starts. The comment in the source says that only the first reset is seeded. Nothing is raised. Without a seed all is
# right, and so is the training with "truncate_episodes". Guess: a seed makes a run come out again, it doesn't make its
# episodes begin alike.
#
# Seen: "complete_episodes, seed 1: score 0.99, 1 of 8 doors; complete_episodes, seed None: score 0.95, 8 of 8 doors;
# truncate_episodes, seed 1: score 1.0, 8 of 8 doors"; "CartPole's starts, different ones of all: seed 1 1 of 21, 4
# environments 6 of 32; no seed 23 of 23; seed 1, truncate_episodes 20 of 20"; "5 evaluations of 10 episodes: seed 1 10
# of 50, no seed 50 of 50".
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
import torch
from ray.rllib.algorithms.ppo import PPOConfig

DOORS, ITERATIONS = 8, 20
starts = []


def note(*, episode, **kwargs):
    starts.append(tuple(np.asarray(episode.get_observations(0)).tolist()))


class Doors(gymnasium.Env):
    """One of eight doors is open, which one is seen, and who takes it gets 1."""

    observation_space = gymnasium.spaces.Box(0, 1, (DOORS,), np.float32)
    action_space = gymnasium.spaces.Discrete(DOORS)

    def __init__(self, config=None):
        pass

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.open = self.np_random.integers(DOORS)
        return np.eye(DOORS, dtype=np.float32)[self.open], {}

    def step(self, action):
        return np.zeros(DOORS, np.float32), float(action == self.open), True, False, {}


def built(environment, seed, mode, environments=1):
    starts.clear()
    config = PPOConfig().environment(environment).debugging(seed=seed).callbacks(on_episode_end=note)
    config.env_runners(num_env_runners=0, num_envs_per_env_runner=environments, batch_mode=mode)
    config.training(train_batch_size_per_learner=128, minibatch_size=64, num_epochs=6, lr=0.005)
    config.evaluation(evaluation_num_env_runners=0)
    return config.build_algo()


def doors(seed, mode):
    """What a training reports at its end, and how many of the doors it has learned."""
    algorithm = built(Doors, seed, mode)
    for _ in range(ITERATIONS):
        score = algorithm.train()["env_runners"]["episode_return_mean"]
    module = algorithm.get_module()
    with torch.no_grad():
        chosen = module.forward_inference({"obs": torch.eye(DOORS)})["action_dist_inputs"].argmax(-1)
    algorithm.stop()
    return round(score, 2), int((chosen == torch.arange(DOORS)).sum())


def poles(seed, mode, environments):
    """How many starts of CartPole are different."""
    algorithm = built("CartPole-v1", seed, mode, environments)
    for _ in range(5):
        algorithm.train()
    algorithm.stop()
    return len(set(starts)), len(starts)


def evaluations(seed):
    algorithm = built("CartPole-v1", seed, "truncate_episodes")
    for _ in range(5):
        assert algorithm.evaluate()["env_runners"]["num_episodes"] == 10
    algorithm.stop()
    return len(set(starts)), len(starts)


ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR, _temp_dir=sys.argv[1])
seen = {
    f"{mode}, seed {seed}": doors(seed, mode)
    for seed, mode in ((1, "complete_episodes"), (None, "complete_episodes"), (1, "truncate_episodes"))
}
print("; ".join(f"{key}: score {score}, {right} of {DOORS} doors" for key, (score, right) in seen.items()))
one, four = poles(1, "complete_episodes", 1), poles(1, "complete_episodes", 4)
none, cut = poles(None, "complete_episodes", 1), poles(1, "truncate_episodes", 1)
print(
    f"CartPole's starts, different ones of all: seed 1 {one[0]} of {one[1]}, 4 environments {four[0]} of {four[1]}; "
    f"no seed {none[0]} of {none[1]}; seed 1, truncate_episodes {cut[0]} of {cut[1]}"
)
again, new = evaluations(1), evaluations(None)
print(f"5 evaluations of 10 episodes: seed 1 {again[0]} of {again[1]}, no seed {new[0]} of {new[1]}")
wrong, *others = seen.values()
assert wrong[0] > 0.9 and wrong[1] <= 2 and all(right == DOORS for _, right in others)
assert one[0] == 1 and four[0] < four[1] / 2 and none[0] == none[1] > 10 and cut[0] == cut[1] > 10
assert again == (10, 50) and new == (50, 50)
END
export HOME="$folder" RAY_USAGE_STATS_ENABLED=0
"$folder/venv/bin/python" -W ignore "$folder/finding.py" "$folder/ray" 2> "$folder/errors" ||
  { cat "$folder/errors"; exit 1; }
