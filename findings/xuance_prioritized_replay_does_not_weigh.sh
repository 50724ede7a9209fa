#!/usr/bin/env bash
# XuanCe 1.4.4, PerDQN: the importance weights, by which prioritized replay makes up for drawing surprising transitions
# more often, are nowhere in the loss, though its page says that importance sampling is used. PER_beta0 and its way to
# 1 change nothing: runs with 0.4 and with 1 end with the same network to the bit. So wherever a reward or a next state
# is a matter of chance, the values are not the means of what comes, as rare surprises are drawn too often for ever. A
# lottery that pays 1 in 15 of 100 tries is held to be worth more than a sure 0.2, and the greedy agent plays it; the
# same library's DQN doesn't. And who takes the "weights" of the buffer's sample() for a loss of one's own makes it
# worse: they grow with the priority, where they ought to fall, as only the size of the buffer is raised to the power
# of -beta, and that cancels in the division by the largest. Nothing is raised, and in games without chance, as
# CartPole, nothing is seen. Guess: with beta 1 there is no bias, as in the paper. PER_alpha near 0, which is DQN, or
# a learner and weights of one's own are the way around.
#
# Seen: "lottery and sure reward: DQN 0.15, 0.19, the lottery's mean in its memory 0.14; PerDQN with beta 0.4 0.22,
# 0.19, with 1.0 0.22, 0.19, mean 0.14; the same network with both: True"; "weights of the buffer for beta 1: as 1 / p
# False, as p True".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
# Where the index has builds for GPUs: --index-url of pytorch.org's CPU builds saves gigabytes.
"$folder/venv/bin/pip" install --quiet torch==2.13.0 gymnasium==1.2.3 numpy==1.26.4 scipy==1.17.1 \
    PyYAML==6.0.4 tqdm tensorboard==2.21.0 wandb==0.31.0 pyglet==1.5.15 setuptools==79.0.1
"$folder/venv/bin/pip" install --quiet --no-deps xuance==1.4.4
cat > "$folder/finding.py" <<'END'
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import torch
import xuance
import yaml
from gymnasium.spaces import Box, Discrete
from xuance.environment import REGISTRY_ENV, RawEnvironment, make_envs
from xuance.torch.agents import DQN_Agent, PerDQN_Agent

PRIZE, SURE = 0.15, 0.2
torch.set_num_threads(1)


class Lottery(RawEnvironment):
    """One step: action 0 gives 1 now and then, action 1 always 0.2."""

    def __init__(self, config):
        super().__init__()
        self.observation_space, self.action_space, self.max_episode_steps = Box(0, 1, (1,)), Discrete(2), 1
        self.random = np.random.default_rng(config.env_seed)

    def reset(self, **options):
        return np.ones(1, np.float32), {}

    def step(self, action):
        reward = float(self.random.random() < PRIZE) if action == 0 else SURE
        return np.ones(1, np.float32), reward, True, False, {"episode_step": 1, "episode_score": reward}

    def render(self, *options):
        pass

    def close(self):
        pass


REGISTRY_ENV["Lottery"] = Lottery
configs = Path(xuance.__file__).parent / "configs"


def trained(agent_class, name, **options):
    """An agent with XuanCe's own settings for CartPole, but for what is said here; it explores all the time."""
    settings = yaml.safe_load((configs / "basic.yaml").read_text())
    settings.update(yaml.safe_load((configs / name / "classic_control/CartPole-v1.yaml").read_text()))
    settings.update(env_name="Lottery", env_id="Lottery", parallels=4, start_greedy=1.0, end_greedy=1.0)
    settings.update(buffer_size=20_000, training_frequency=4, log_dir=sys.argv[1], model_dir=sys.argv[1], **options)
    config = Namespace(**settings)
    agent = agent_class(config, make_envs(config))
    agent.train(2000)
    with torch.no_grad():
        values = agent.policy(np.ones((1, 1), np.float32))[2][0].tolist()
    memory = agent.memory
    lottery = memory.actions[:, : memory.size] == 0
    return agent, values, memory.rewards[:, : memory.size][lottery].mean()


def network(agent):
    return torch.cat([parameter.detach().flatten() for parameter in agent.policy.parameters()])


_, dqn, dqn_mean = trained(DQN_Agent, "dqn")
agent, per, mean = trained(PerDQN_Agent, "perdqn", PER_beta0=0.4)
other, other_per, _ = trained(PerDQN_Agent, "perdqn", PER_beta0=1.0)
alike = torch.equal(network(agent), network(other))
sample = other.memory.sample(1.0)
probabilities = [[tree[int(step)] / tree.sum() for step in steps]
                 for tree, steps in zip(other.memory._it_sum, sample["step_choices"])]
products = [np.array(sample["weights"]) * np.array(probabilities) ** power for power in (1, -1)]
constant = [bool(np.allclose(product, product[:, :1])) for product in products]
print(
    f"lottery and sure reward: DQN {dqn[0]:.2f}, {dqn[1]:.2f}, the lottery's mean in its memory {dqn_mean:.2f}; PerDQN "
    f"with beta 0.4 {per[0]:.2f}, {per[1]:.2f}, with 1.0 {other_per[0]:.2f}, {other_per[1]:.2f}, mean {mean:.2f}; the "
    f"same network with both: {alike}"
)
print(f"weights of the buffer for beta 1: as 1 / p {constant[0]}, as p {constant[1]}")
assert agent.PER_beta != other.PER_beta == 1.0 and alike and constant == [False, True]
assert dqn[0] < 0.18 < dqn[1] and per[0] > per[1] and max(mean, dqn_mean) < 0.17
END
"$folder/venv/bin/python" -W ignore "$folder/finding.py" "$folder/logs" 2> "$folder/errors" ||
  { cat "$folder/errors"; exit 1; }
