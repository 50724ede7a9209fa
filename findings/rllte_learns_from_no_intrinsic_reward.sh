#!/usr/bin/env bash
# rllte-core 1.0.1: an intrinsic reward (RND, ICM, RE3 and the rest of rllte.xplore.reward, or one's own) that an agent
# is given by set(reward=...) is computed, trains its own networks, and never reaches the agent. On-policy agents make
# returns and advantages first and add it to the stored rewards then, of which nobody makes returns any more; off-policy
# agents store a copy of the reward first and add it to the original then. So a comparison of exploration
# methods compares one and the same agent, with other random numbers at most. And with pretraining=True, which takes the
# rewards of the environment away and insists on an intrinsic one, the agent learns from rewards of 0. The log tells the
# module's name, nothing is raised, and the stored rewards look right. Guess: what is given to train() as a reward is
# learned from. To make the returns once more, in an update() of one's own, is the way around for on-policy agents.
#
# Seen, of a module that pays 1 for the second of two actions and draws no random numbers: "PPO chooses the second
# action in 100% where the environment pays for it, 24% where the module does, 24% where nobody does; the module has
# paid 1535; the network is the same as without it, bit for bit: True; with the returns made again 100%"; "A2C: 100%,
# 0%, 0%; 811; True"; "SACDiscrete: 100%, 83%, 83%; 1024; True"; "pre-training of PPO with RE3 and discount 0: stored
# rewards of at least 0.47, returns of at most 0.00" (the percentages may vary with the processor).
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
import contextlib
import io
import os
import tempfile

import gymnasium
import numpy as np
import torch
from rllte.agent import A2C, PPO, SACDiscrete
from rllte.common.prototype import BaseReward
from rllte.env.utils import make_rllte_env
from rllte.xplore.reward import RE3

torch.set_num_threads(1)
HERE = os.getcwd()


class Choice(gymnasium.Env):
    """Ten steps of two actions. The environment pays for the second one, or nothing."""

    def __init__(self, pay=0.0):
        self.observation_space = gymnasium.spaces.Box(-1, 1, (2,))
        self.action_space = gymnasium.spaces.Discrete(2)
        self.pay = pay

    def observation(self):
        return self.np_random.uniform(-1, 1, 2).astype(np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self.observation(), {}

    def step(self, action):
        self.steps += 1
        return self.observation(), self.pay * int(action), self.steps == 10, False, {}


class Second(BaseReward):
    """An intrinsic reward of 1 for the second action."""

    paid = 0.0

    def compute(self, samples, sync=True):
        super().compute(samples, sync)
        rewards = samples["actions"].reshape(samples["rewards"].shape).float()
        self.paid += rewards.sum().item()
        return rewards

    def update(self, samples):
        pass


class Mended(PPO):
    def update(self):
        with torch.no_grad():
            values = self.policy.get_value(self.storage.observations[-1])
        self.storage.compute_returns_and_advantages(values)
        super().update()


class Watched(PPO):
    def update(self):
        self.seen = self.storage.rewards.clone(), self.storage.returns.clone()
        super().update()


def train(agent, steps):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        agent.train(steps, log_interval=10**9, save_interval=10**9)


def trained(kind, pay=0.0, intrinsic=False):
    """How often the second action is chosen after training, the network, and what the module has paid."""
    os.chdir(tempfile.mkdtemp(dir=HERE))
    alone = kind is SACDiscrete
    env = make_rllte_env(Choice, 1 if alone else 4, asynchronous=False, env_kwargs={"pay": pay})
    with contextlib.redirect_stdout(io.StringIO()):
        own = {"num_init_steps": 400} if alone else {"num_steps": 32}
        agent = kind(env, seed=1, lr=3e-3, hidden_dim=64, batch_size=64, **own)
        module = Second(env, obs_norm_type="none")
        if intrinsic:
            agent.set(reward=module)
    train(agent, 1500 if alone else 4000)
    with torch.no_grad():
        actions = agent.policy(torch.rand(1000, 2) * 2 - 1, training=False)
    actions = actions if alone else actions[0]
    return actions.float().mean().item(), torch.nn.utils.parameters_to_vector(agent.policy.parameters()), module.paid


for kind in (PPO, A2C, SACDiscrete):
    outer, _, _ = trained(kind, pay=1.0)
    inner, with_module, paid = trained(kind, intrinsic=True)
    none, without, _ = trained(kind)
    same = torch.equal(with_module, without)
    print(
        f"{kind.__name__} chooses the second action in {outer:.0%} where the environment pays for it, {inner:.0%} "
        f"where the module does, {none:.0%} where nobody does; the module has paid {paid:.0f}; the network is the same "
        f"as without it, bit for bit: {same}"
    )
    assert same and paid > 100 and outer > 0.95 and inner < 0.9
mended, _, _ = trained(Mended, intrinsic=True)
print(f"PPO with the returns made again: {mended:.0%}")
assert mended > 0.95

os.chdir(tempfile.mkdtemp(dir=HERE))
env = make_rllte_env(Choice, 4, asynchronous=False)
with contextlib.redirect_stdout(io.StringIO()):
    agent = Watched(env, num_steps=32, discount=0.0, hidden_dim=64, pretraining=True)  # each return is its own reward
    agent.set(reward=RE3(env, obs_norm_type="none"))
train(agent, 2000)
rewards, returns = agent.seen
print(
    f"pre-training of PPO with RE3 and discount 0: stored rewards of at least {rewards.min():.2f}, returns of at most "
    f"{returns.abs().max():.2f}"
)
assert rewards.min() > 0.1 and returns.abs().max() < 1e-5
END
cd "$folder"
PYTHONPATH="$folder" "$folder/venv/bin/python" -W ignore "$folder/finding.py"
