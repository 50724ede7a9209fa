#!/usr/bin/env bash
# DI-engine 0.5.3, serial_pipeline (`ding -m serial`): with nstep above 1, DQN and all that get their returns from
# get_nstep_return_data discount the values of the last steps of each piece of a trajectory once too seldom. Such a
# step has the rewards of the k steps that are left, and gamma ** (k - 1) for the value after them: of the last step
# that is 1. A piece ends where an episode does, and there it does no harm, but also after n_sample steps of all
# environments together, and the fewer these are, the larger is the share: with n_sample equal to the number of
# environments each piece is one step, and the agent learns with a discount of 1, whatever discount_factor says. Where
# there is no end, values grow for ever; a reward far off is worth as much as one at hand, so that the agent takes the
# longer way to it, or puts it off. DI-engine's own settings of D4PG for MuJoCo have two steps a piece and nstep=5, so
# that no return has more than two rewards; those of DQN for Pong have 12 and 3. In CartPole, with rewards of 1, nothing
# is seen but larger values. Nothing is raised. Guess: gamma ** k, as for the steps before; and n_sample, the pace of
# collecting, has no part in the discount. nstep=1 is right; a large n_sample makes it less wrong.
#
# Seen, with a discount of 0.9 and 8 environments: "a reward of 1 for ever, n_sample 8, nstep 1: 9.6, in truth 10;
# n_sample 64, nstep 3: 11.6; n_sample 8, nstep 3: 25.3" (and rising); "the short and the long way, n_sample 8, nstep 1:
# 0.70, 0.48, in truth 0.70, 0.48; nstep 3: 0.70, 1.01".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
# Where the index has builds for GPUs: --index-url of pytorch.org's CPU builds saves gigabytes.
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==1.26.4 setuptools==79.0.1 gym==0.25.1 gymnasium==1.2.2 \
  DI-treetensor==0.5.0 DI-toolkit==0.3.0 treevalue==1.5.0 trueskill==0.4.5 tensorboardX==2.6.5 wandb==0.19.0 \
  matplotlib easydict==1.14 pyyaml enum-tools==0.13.0 cloudpickle==3.1.3 hickle==5.0.3 tabulate==0.10.0 click \
  flask==2.0.3 werkzeug==2.0.3 requests responses==0.26.3 URLObject==3.0.0 pynng==0.9.0 sniffio redis==8.1.0 \
  mpire==2.10.2 einops==0.8.2 yapf==0.29.0
"$folder/venv/bin/pip" install --quiet --no-deps DI-engine==0.5.3  # asks for an older setuptools than PyTorch does
cat > "$folder/finding.py" <<'END'
import sys
from copy import deepcopy

import gym
import numpy as np
import torch
from ding.entry import serial_pipeline
from ding.envs import DingEnvWrapper
from dizoo.classic_control.cartpole.config.cartpole_dqn_config import create_config, main_config

torch.set_num_threads(1)
LENGTH, SHORT, GAMMA = 8, 0.7, 0.9
result = open(sys.argv[1], "w")


class Fork(gym.Env):
    """At the start, action 0 gives 0.7 and ends; action 1 is the first of 8 steps, the last of which gives 1."""

    observation_space = gym.spaces.Box(0, 1, (LENGTH,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, length=LENGTH):
        self.length = length

    def see(self):
        return np.eye(LENGTH, dtype=np.float32)[min(self.place, LENGTH - 1)]

    def reset(self, **options):
        self.place = 0
        return self.see()

    def step(self, action):
        self.place += 1
        short = self.place == 1 and action == 0
        end = self.place == self.length
        return self.see(), SHORT if short else float(end), short or end, {}


class Endless(gym.Env):
    """Each step gives 1, and there is no end but in the evaluation."""

    observation_space = gym.spaces.Box(0, 1, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, length=None):
        self.length = length

    def reset(self, **options):
        self.place = 0
        return np.eye(2, dtype=np.float32)[0]

    def step(self, action):
        self.place += 1
        return np.eye(2, dtype=np.float32)[0], 1.0, self.place == self.length, {}


def values(environment, size, samples, nstep):
    """The values of both actions at the start, by serial_pipeline, which is what `ding -m serial` runs."""
    main, create = deepcopy(main_config), deepcopy(create_config)
    main.exp_name = f"{environment.__name__}-{samples}-{nstep}"
    main.env.update(collector_env_num=8, evaluator_env_num=2, n_evaluator_episode=2, stop_value=1000)
    del main.policy.load_path
    main.policy.update(nstep=nstep, discount_factor=GAMMA)
    main.policy.model.update(obs_shape=size, dueling=False, encoder_hidden_size_list=[32])
    main.policy.learn.update(update_per_collect=max(1, samples // 8), batch_size=32, learning_rate=0.01)
    main.policy.learn.target_update_freq = 20
    main.policy.collect.n_sample = samples
    main.policy.eval.evaluator.eval_freq = 10**9
    main.policy.other.eps.update(start=1.0, end=1.0)
    policy = serial_pipeline(
        (main, create),
        seed=1,
        env_setting=[lambda cfg: DingEnvWrapper(environment(**cfg)), [{}] * 8, [{"length": LENGTH}] * 2],
        max_train_iter=600,
    )
    with torch.no_grad():
        return np.array(policy._learn_model.forward(torch.eye(size)[:1])["logit"][0])


learned = {}
for samples, nstep in ((8, 1), (64, 3), (8, 3)):
    learned[samples, nstep] = value = values(Endless, 2, samples, nstep).max()
    print(f"a reward of 1 for ever, n_sample {samples}, nstep {nstep}: {value:.1f}, in truth 10", file=result)
assert 9 < learned[8, 1] < 10.1 and 11 < learned[64, 3] < 12.5 and learned[8, 3] > 15
for nstep in (1, 3):
    learned[nstep] = short, far = values(Fork, LENGTH, 8, nstep)
    truth = f"in truth {SHORT:.2f}, {GAMMA ** (LENGTH - 1):.2f}"
    print(f"the short and the long way, n_sample 8, nstep {nstep}: {short:.2f}, {far:.2f}, {truth}", file=result)
assert np.allclose(learned[1], [SHORT, GAMMA ** (LENGTH - 1)], atol=0.08)
assert np.allclose(learned[3], [SHORT, 1], atol=0.12)
END
(cd "$folder" && venv/bin/python -W ignore finding.py "$folder/result" > errors 2>&1) ||
  { cat "$folder/errors" "$folder/result"; exit 1; }
cat "$folder/result"
