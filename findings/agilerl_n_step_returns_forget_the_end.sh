#!/usr/bin/env bash
# AgileRL 2.58.0: MultiStepReplayBuffer, from which its RainbowDQN learns, looks for an end of the episode in all steps
# of an n-step return but the first. So the last step of each episode, the one that falls or wins, goes on into the next
# episode: it gets no "done", and its value is that of a new start. On a way of four steps
# with 1 at its end, no state is worth more than 1, and the start, whose return of three steps goes on from the last
# state, comes out at almost 2. And of several environments the first that ends cuts the returns of all: theirs have
# fewer steps then, but no "done", and by its source RainbowDQN discounts by gamma ** n all the same. Nothing is raised.
# Guess: an n-step return ends with its own episode, and with no other. n_step=1 is right.
#
# Seen: "value of the start: 1.893 by the buffer's returns, 0.970 in truth; last steps that are stored with an end: 0 of
# 59 with n_step=3, 60 of 60 with n_step=1; 8 CartPoles: 28 % of the returns without an end have 2 steps in place of 3".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 gymnasium==1.4.0 numpy==2.4.6 accelerate==1.15.0 pydantic==2.14.4 \
    lazy-loader==0.6 dill==0.4.1 fastrand==3.1.0 flatten-dict==0.5.0 omegaconf==2.4.0 orjson==3.13.0 pyvers==0.2.3 \
    importlib_metadata==10.2.0
"$folder/venv/bin/pip" install --quiet --no-deps agilerl==2.58.0 agilerl-arena==1.29.0 tensordict==0.13.0
cat > "$folder/finding.py" <<'END'
import gymnasium
import numpy as np
import torch
from agilerl.components import MultiStepReplayBuffer
from agilerl.components.data import Transition

GAMMA = 0.99


def played(env, steps, n_step):
    """What a buffer holds after some steps, added as train_off_policy does, and for each step: seen, next and ended."""
    memory = MultiStepReplayBuffer(100_000, n_step=n_step, gamma=GAMMA)
    env.action_space.seed(1)
    obs, _ = env.reset(seed=1)
    truth = []
    for _ in range(steps):
        action = env.action_space.sample()
        next_obs, reward, terminated, truncated, _ = env.step(action)
        step = Transition(obs=obs, action=action, reward=reward, next_obs=next_obs, done=terminated).to_tensordict()
        step.batch_size = torch.Size([env.num_envs])
        memory.add(step)
        truth.append((obs, next_obs, terminated | truncated))
        obs = next_obs
    stored = {name: values.numpy() for name, values in memory.storage[: len(memory)].items()}
    assert len(memory) == (steps - n_step + 1) * env.num_envs
    return stored, [np.array(column) for column in zip(*truth)]


def way(n_step):
    """A way of four steps to the goal, which gives 1. The one action that is used goes on."""
    env = gymnasium.make_vec("FrozenLake-v1", 1, vectorization_mode="sync", desc=["SFFFG"], is_slippery=False)
    env.action_space = gymnasium.spaces.MultiDiscrete([1], start=[2])
    stored, (_, _, ended) = played(env, 300, n_step)
    done = stored["done"][:, 0].astype(bool)
    last = ended[: len(done), 0]
    obs, next_obs = stored["obs"][:, 0].astype(int), stored["next_obs"][:, 0].astype(int)
    values = np.zeros(5)
    for _ in range(2000):
        targets = stored["reward"][:, 0] + GAMMA**n_step * ~done * values[next_obs]
        values = np.array([targets[obs == state].mean() for state in range(5)])
    return values[0], int((done & last).sum()), int(last.sum())


value, ends, episodes = way(3)
true_value, true_ends, true_episodes = way(1)

envs = gymnasium.make_vec("CartPole-v1", 8, vectorization_mode="sync")
stored, (_, next_obs, ended) = played(envs, 1000, 3)
windows = len(ended) - 2
endless = ~(ended[:-2] | ended[1:-1] | ended[2:])  # (windows, environments): no end of its own in its three steps
after = stored["next_obs"].reshape(windows, 8, 4)
two, three = ((after == next_obs[k : k + windows]).all(2) for k in (1, 2))
assert (two | three)[endless].all() and not stored["done"].reshape(windows, 8)[endless].any()
short = round(100 * two[endless].mean())
print(
    f"value of the start: {value:.3f} by the buffer's returns, {true_value:.3f} in truth; last steps that are stored "
    f"with an end: {ends} of {episodes} with n_step=3, {true_ends} of {true_episodes} with n_step=1; 8 CartPoles: "
    f"{short} % of the returns without an end have 2 steps in place of 3"
)
assert round(true_value, 3) == round(GAMMA**3, 3) and value > 1.8
assert ends == 0 and true_ends == true_episodes == 60 and episodes > 50 and short > 20
END
"$folder/venv/bin/python" -W ignore "$folder/finding.py"
