#!/usr/bin/env bash
# DI-engine 0.5.3: nstep_reward_enhancer, the middleware for n-step returns in its own examples (dqn_nstep, c51_nstep,
# qrdqn_nstep, iqn_nstep and others) and in its bonus agents, puts the rewards of n steps and gamma ** n into each
# transition, and leaves next_obs and done those of the very next step. So the rewards of the later steps count again
# in the value of next_obs, and that value is discounted n times per step: with 3 steps gamma 0.97 is 0.91, and an agent
# takes a small reward at hand before a larger one further off. It stops before the step that ends the episode, whose
# reward no other step sees, and the last step goes on into the next episode. And it knows nothing of environments: as
# the examples have it, 8 steps of 8 environments, each return is made of the rewards that three environments got at
# the same moment. In CartPole, the examples' task, each reward is 1, and nothing of that is seen. Nothing is raised.
# Guess: r1 + gamma r2 + gamma ** 2 r3, and the value of the observation three steps on, of one episode. nstep=1
# without the middleware is right.
#
# Seen: "8 environments that give 1, 10, 100 and so on: returns of 3 steps of the first two [[1, 10, 100], [10, 100,
# 1000]]"; "one environment: next_obs and number of rewards [(1, 3)], gamma to the power of {1, 2, 3}"; "rewards of 1 in
# the returns of the last steps of episodes [3, 3, 3, 3, 3, 3, 3, 1]"; "values of the short and of the long way: nstep=1
# 0.69, 0.77; nstep=3 0.70, 0.56; in truth 0.70, 0.81".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
# Where the index has builds for GPUs: --index-url of pytorch.org's CPU builds saves gigabytes.
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==1.26.4 setuptools==79.0.1 gym==0.25.1 gymnasium==1.2.2 \
  DI-treetensor==0.5.0 DI-toolkit==0.3.0 treevalue==1.5.0 trueskill==0.4.5 tensorboardX==2.6.5 wandb==0.19.0 \
  matplotlib easydict==1.14 pyyaml enum-tools==0.13.0 cloudpickle==3.1.3 hickle==5.0.3 tabulate==0.10.0 click \
  flask==2.0.3 werkzeug==2.0.3 requests responses==0.26.3 URLObject==3.0.0 pynng==0.9.0 sniffio redis==8.1.0 \
  mpire==2.10.2 einops==0.8.2
"$folder/venv/bin/pip" install --quiet --no-deps DI-engine==0.5.3  # asks for an older setuptools than PyTorch does
cat > "$folder/finding.py" <<'END'
import sys
from copy import deepcopy

import gym
import numpy as np
import torch
from ding.config import compile_config
from ding.data import DequeBuffer
from ding.envs import BaseEnvManagerV2, DingEnvWrapper
from ding.framework import OnlineRLContext, task
from ding.framework.middleware import (
    OffPolicyLearner,
    StepCollector,
    data_pusher,
    eps_greedy_handler,
    nstep_reward_enhancer,
)
from ding.model import DQN
from ding.policy import DQNPolicy
from ding.utils import set_pkg_seed
from dizoo.classic_control.cartpole.config.cartpole_dqn_config import create_config, main_config

LENGTH, SHORT = 8, 0.7
result = open(sys.argv[2], "w")


class Numbered(gym.Env):
    """Each step of environment k gives 10 ** k."""

    observation_space = gym.spaces.Box(0, 1, (LENGTH,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, number):
        self.number = number

    def see(self):
        return np.eye(LENGTH, dtype=np.float32)[min(self.place, LENGTH - 1)]

    def reset(self, **options):
        self.place = 0
        return self.see()

    def step(self, action):
        self.place += 1
        return self.see(), 10.0**self.number, self.place == LENGTH, {}


class Fork(Numbered):
    """At the start, action 0 gives 0.7 and ends; action 1 is the first of 8 steps, the last of which gives 1."""

    def step(self, action):
        short = self.place == 0 and action == 0
        _, _, end, info = super().step(action)
        return self.see(), SHORT if short else float(end), bool(short or end), info


def run(environment, count, samples, nstep, rounds, learn):
    """As in ding/example/dqn_nstep.py; what is stored, and the values of the actions in each place."""
    main = deepcopy(main_config)
    main.exp_name, main.env.collector_env_num, main.policy.nstep = sys.argv[1], count, nstep
    main.policy.model.update(obs_shape=LENGTH, dueling=False, encoder_hidden_size_list=[64])
    main.policy.learn.update(update_per_collect=20, learning_rate=0.003, target_update_freq=20)
    main.policy.collect.n_sample = samples
    main.policy.other.eps.update(start=1.0, end=1.0)
    cfg = compile_config(main, create_cfg=deepcopy(create_config), auto=True, save_cfg=False)
    with task.start(async_mode=False, ctx=OnlineRLContext()):
        environments = [lambda number=number: DingEnvWrapper(environment(number)) for number in range(count)]
        manager = BaseEnvManagerV2(env_fn=environments, cfg=cfg.env.manager)
        set_pkg_seed(1, use_cuda=False)
        buffer = DequeBuffer(size=20000)
        policy = DQNPolicy(cfg.policy, model=DQN(**cfg.policy.model))
        task.use(eps_greedy_handler(cfg))
        task.use(StepCollector(cfg, policy.collect_mode, manager))
        if nstep > 1:
            task.use(nstep_reward_enhancer(cfg))
        task.use(data_pusher(cfg, buffer))
        if learn:
            task.use(OffPolicyLearner(cfg, policy.learn_mode, buffer))
        task.run(max_step=rounds)
    with torch.no_grad():
        values = policy._learn_model.forward(torch.eye(LENGTH))["logit"]
    return [item.data for item in buffer.storage], values


eight, _ = run(Numbered, 8, 8, 3, 1, False)
mixed = [[int(reward) for reward in step.reward] for step in eight]
one, _ = run(Numbered, 1, 64, 3, 1, False)
places = [(int(step.obs.argmax()), int(step.next_obs.argmax()), len(step.reward)) for step in one if not step.done]
steps = sorted({(after - before, count) for before, after, count in places})
exponents = {round(float(torch.log(step.value_gamma) / np.log(0.97))) for step in one if not step.done}
last = [int(step.reward.sum()) for step in one if step.done]
values = {nstep: run(Fork, 1, 32, nstep, 60, True)[1][0].tolist() for nstep in (1, 3)}
truth = [SHORT, 0.97 ** (LENGTH - 1)]
print(f"8 environments that give 1, 10, 100 and so on: returns of 3 steps of the first two {mixed[:2]}", file=result)
print(f"one environment: next_obs and number of rewards {steps}, gamma to the power of {exponents}", file=result)
print(f"one environment: rewards of 1 in the returns of the last steps of episodes {last}", file=result)
said = "; ".join(f"nstep={nstep} {short:.2f}, {far:.2f}" for nstep, (short, far) in values.items())
print(f"values of the short and of the long way: {said}; in truth {truth[0]:.2f}, {truth[1]:.2f}", file=result)
assert mixed[0] == [1, 10, 100] and mixed[1] == [10, 100, 1000]
assert steps == [(1, 3)] and exponents == {1, 2, 3} and last == [3] * 7 + [1]
assert np.allclose(values[1], truth, atol=0.08) and values[1][1] > values[1][0]
assert abs(values[3][0] - SHORT) < 0.05 and values[3][1] < values[3][0] - 0.05
END
(cd "$folder" && venv/bin/python -W ignore finding.py "$folder/training" "$folder/result" > errors 2>&1) ||
  { cat "$folder/errors" "$folder/result"; exit 1; }
cat "$folder/result"
