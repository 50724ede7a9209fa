#!/usr/bin/env bash
# cpprb 11.0.0: with Nstep, what ReplayBuffer and PrioritizedReplayBuffer give back around the end of an episode is wrong
# in three ways, and nothing is raised:
# - A return whose n-th step is the one that terminates has done 0: its target goes on with the value of the end.
# - Of the shorter ones, which on_episode_end() adds, done is a sum, not a flag: up to 6 with 10 steps, so that
#   (1 - done), which all targets have, takes five values of the next state away where none is to be added.
# - The next_obs of all these is an array of ones. Where done is 1 nobody looks at it, but after a time limit, where done
#   is 0, the target is the value of an observation that there never was: of a frame that is black all over.
# Away from the ends all is right, and the rewards are right everywhere. Guess: as the page on Nstep says, next_obs is
# that of the last step, and done is 1 if one of the steps is the end. To add up the n steps oneself, and to add them to
# a buffer without Nstep, is the way around.
#
# Seen, for both: "3 steps: returns that end exactly with the game: 58 of 58 with done 0; shorter ones: done [1], next_obs
# of ones after a time limit 84 of 84"; "10 steps: returns that end exactly with the game: 57 of 57 with done 0; shorter
# ones: done [1, 2, 3, 4, 5, 6], next_obs of ones after a time limit 378 of 378".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet cpprb==11.0.0 gymnasium==1.4.0 numpy==2.4.6
cat > "$folder/finding.py" <<'END'
import gymnasium
import numpy as np
from cpprb import PrioritizedReplayBuffer, ReplayBuffer

EPISODES = 100


def played(kind, n):
    """What the buffer holds after some games of CartPole of at most 20 steps, and what n-step returns are."""
    parts = {"obs": {"shape": 4}, "act": {}, "rew": {}, "next_obs": {"shape": 4}, "done": {}}
    buffer = kind(10_000, parts, Nstep={"size": n, "gamma": 0.5, "rew": "rew", "next": "next_obs"})
    env = gymnasium.make("CartPole-v1", max_episode_steps=20)
    env.action_space.seed(1)
    truth = []
    for seed in range(EPISODES):
        obs, _ = env.reset(seed=seed)
        steps, over = [], False
        while not over:
            action = env.action_space.sample()
            next_obs, reward, terminated, truncated, _ = env.step(action)
            buffer.add(obs=obs, act=action, rew=reward, next_obs=next_obs, done=terminated)
            steps.append((obs, reward, next_obs, terminated))
            obs, over = next_obs, terminated or truncated
        buffer.on_episode_end()
        for i in range(len(steps)):
            part = steps[i : i + n]
            rewards = sum(0.5**k * step[1] for k, step in enumerate(part))
            truth.append((steps[i][0], rewards, *part[-1][2:], len(part)))
    return buffer.get_all_transitions(), [np.array(column) for column in zip(*truth)]


def report(kind, n):
    stored, (obs, rewards, next_obs, done, length) = played(kind, n)
    assert (stored["obs"] == obs).all() and np.allclose(stored["rew"][:, 0], rewards)
    flags = stored["done"][:, 0]
    same, ones = (stored["next_obs"] == next_obs).all(1), (stored["next_obs"] == 1).all(1)
    whole, cut = length == n, (length < n) & ~done
    exact, short = whole & done, ~whole & done
    going_on = (flags == 0)[exact].sum()
    sums = sorted({int(flag) for flag in flags[short]})
    print(
        f"{kind.__name__}, {n} steps: returns that end exactly with the game: {going_on} of {exact.sum()} with done 0; "
        f"shorter ones: done {sums}, next_obs of ones after a time limit {ones[cut].sum()} of {cut.sum()}"
    )
    assert same[whole].all() and not same[~whole].any() and ones[~whole].all() and (flags == done)[whole & ~done].all()
    assert going_on == exact.sum() > 0 and ones[cut].sum() == cut.sum() > 0 and not flags[cut].any()
    assert sums == {3: [1], 10: [1, 2, 3, 4, 5, 6]}[n]


for kind in (ReplayBuffer, PrioritizedReplayBuffer):
    for n in (3, 10):
        report(kind, n)
END
"$folder/venv/bin/python" "$folder/finding.py"
