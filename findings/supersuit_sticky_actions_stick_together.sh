#!/usr/bin/env bash
# SuperSuit 3.11.0, sticky_actions_v0: a seed makes all agents stick together, and is forgotten after one episode.
# - After reset(seed=...) each agent of a game has a generator of its own, and all of them have the same seed: whether
#   actions are repeated is decided once for all. With a probability of 0.25 all agents stick in a quarter of the steps,
#   and in the others none does. A "different seed" for each, as a comment says, is made for agents that join later.
# - A reset() without a seed, as all after the first are, and as the vector environments of SuperSuit call it when a
#   game is over, seeds the generators anew, from the operating system: from the second episode on two runs of one seed
#   are two different runs. All the rest goes on with the generators that it has, as is the custom of Gymnasium.
# Without any seed each agent sticks by itself. PettingZoo's page on Atari games tells to use this wrapper. Nothing is
# raised. Guess: each agent sticks by itself, and what is seeded at the first reset() is the same run again. A seed of
# its own for each episode helps against the second, not the first; for Atari games of one player the way around is
# repeat_action_probability of the environment.
#
# Seen: "seed 1: the agents stick in [239, 239, 239] of 1000 steps, all three in 239, at least one in 239"; "seed None:
# the agents stick in [223, 266, 249] of 1000 steps, all three in 12, at least one in 575"; "two runs of seed 1, with
# the wrapper, are the same in episode 1 to 5: [True, False, False, False, False]"; "two runs of seed 1, without the
# wrapper, are the same in episode 1 to 5: [True, True, True, True, True]" (what is not seeded varies).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet supersuit==3.11.0 pettingzoo==1.27.0 gymnasium==1.2.2 numpy==2.2.6 \
  tinyscaler==1.2.8
cat > "$folder/finding.py" <<'END'
import gymnasium
import numpy as np
import supersuit
from gymnasium.spaces import Box, Discrete
from pettingzoo import ParallelEnv

STEPS, STICKY = 1000, 0.25


class Three(ParallelEnv):
    """Three agents, and a list of the actions that arrive."""

    metadata, render_mode, possible_agents = {"name": "three"}, None, ["a", "b", "c"]

    def observation_space(self, agent):
        return Box(0, 1, (1,), np.float32)

    def action_space(self, agent):
        return Discrete(STEPS)

    def every(self, value):
        return {agent: value for agent in self.possible_agents}

    def reset(self, seed=None, options=None):
        self.agents, self.arrived = self.possible_agents[:], []
        return self.every(np.zeros(1, np.float32)), self.every({})

    def step(self, actions):
        self.arrived.append([actions[agent] for agent in self.possible_agents])
        over = len(self.arrived) == STEPS
        self.agents = [] if over else self.agents
        return self.every(np.zeros(1, np.float32)), self.every(0.0), self.every(False), self.every(over), self.every({})


def stuck(seed):
    game = Three()
    env = supersuit.sticky_actions_v0(game, STICKY)
    env.reset(seed=seed)
    for step in range(STEPS):  # an action that differs from the one before, and the same for all
        env.step({agent: step for agent in env.agents})
    return np.array(game.arrived) != np.arange(STEPS)[:, None]


for seed in (1, None):
    sticks = stuck(seed)
    each, all_, some = sticks.sum(0).tolist(), sticks.all(1).sum(), sticks.any(1).sum()
    print(f"seed {seed}: the agents stick in {each} of {STEPS} steps, all three in {all_}, at least one in {some}")
    assert all(abs(n - STICKY * STEPS) < 70 for n in each)
    if seed is None:
        assert all_ < 50 and some > 450
    else:
        assert all_ == some == each[0]


def played(sticky):
    env = gymnasium.make("CartPole-v1")
    env = supersuit.sticky_actions_v0(env, STICKY) if sticky else env
    env.action_space.seed(1)
    episodes = []
    for episode in range(5):
        seen, over = [env.reset(seed=None if episode else 1)[0]], False
        while not over:
            obs, _, terminated, truncated, _ = env.step(env.action_space.sample())
            seen.append(obs)
            over = terminated or truncated
        episodes.append(np.array(seen))
    return episodes


for sticky in (True, False):
    same = [np.array_equal(one, other) for one, other in zip(played(sticky), played(sticky))]
    print(f"two runs of seed 1, {'with' if sticky else 'without'} the wrapper, are the same in episode 1 to 5: {same}")
    assert same[0] and (all(same) if not sticky else sum(same) < 4)
END
cd "$folder"
"$folder/venv/bin/python" -W ignore "$folder/finding.py"
