#!/usr/bin/env bash
# d3rlpy 2.8.1 with Minari 0.5.4: get_minari lays the actions and rewards of a dataset beside the wrong observations.
# An episode of Minari has one observation more than actions, the last one; d3rlpy puts the observations of all
# episodes in one row, these too, and the actions in another, and cuts both at the same places. So the second episode
# begins with the last observation of the first, and the n-th n - 1 steps too early: after some dozens of episodes an
# action belongs to a state of long before it, or to one of another episode, and tells no more of it than a coin. The
# counts of episodes and steps are right, the returns are right, nothing is raised, and the first episode, which one
# looks at, or a dataset of one episode in a test, is right. Guess: the loader of the library for the format of the
# field gives the transitions of the dataset. MDPDataset, given observations[:-1] of each episode, has them.
#
# Seen: "30 episodes, 631 steps; CartPole's speed goes where the action pushes: 100 % of Minari's steps, 50 % of
# get_minari's, 100 % of MDPDataset's; episodes that begin with their first observation: 1; episode 30 begins 29
# observations too early".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet d3rlpy==2.8.1 minari==0.5.4 gymnasium==1.0.0 gym==0.26.2 torch==2.13.0 \
    h5py==3.16.0 jax==0.10.2 pillow==13.0.0 numpy==2.4.6
export MINARI_DATASETS_PATH="$folder/datasets"
cat > "$folder/finding.py" <<'END'
import contextlib
import io
import warnings

import gymnasium
import minari
import numpy as np

warnings.simplefilter("ignore")  # Minari asks for an author of each dataset
with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):  # gym's farewell
    import d3rlpy
    from d3rlpy.datasets import get_minari


def collected(name, episodes):
    env = minari.DataCollector(gymnasium.make("CartPole-v1"))
    env.action_space.seed(1)
    for seed in range(episodes):
        env.reset(seed=seed)
        over = False
        while not over:
            _, _, terminated, truncated, _ = env.step(env.action_space.sample())
            over = terminated or truncated
    return env.create_dataset(name)


def follows(before, action, after):
    """Whether the cart's speed changed in the direction in which the action pushes."""
    return (after[1] > before[1]) == bool(action)


def percent(truths):
    return round(100 * float(np.mean(truths)))


def of_d3rlpy(dataset):
    steps = [
        dataset.transition_picker(episode, index)
        for episode in dataset.episodes
        for index in range(episode.size() - 1)  # the last has no next observation
    ]
    return percent([follows(step.observation, step.action[0], step.next_observation) for step in steps])


data = collected("cartpole-v0", 30)
episodes = list(data)
own = percent(
    [follows(o[i], a[i], o[i + 1]) for o, a in ((e.observations, e.actions) for e in episodes) for i in range(len(a))]
)
with contextlib.redirect_stdout(io.StringIO()):
    loaded, _ = get_minari("cartpole-v0")
    mended = d3rlpy.dataset.MDPDataset(
        observations=np.concatenate([episode.observations[:-1] for episode in episodes]),
        actions=np.concatenate([episode.actions for episode in episodes]),
        rewards=np.concatenate([episode.rewards for episode in episodes]),
        terminals=np.concatenate([episode.terminations for episode in episodes]),
        timeouts=np.concatenate([episode.truncations for episode in episodes]),
    )
assert [len(e) for e in loaded.episodes] == [len(e) for e in mended.episodes] == [len(e) for e in episodes]
assert all((one.actions[:, 0] == two.actions).all() for one, two in zip(loaded.episodes, episodes))

begins = [(one.observations[0] == two.observations[0]).all() for one, two in zip(loaded.episodes, episodes)]
row = np.concatenate([episode.observations for episode in episodes])
last = len(row) - len(episodes[-1].observations)
found = [i for i in range(len(row)) if (row[i] == loaded.episodes[-1].observations[0]).all()]
assert len(found) == 1
print(
    f"{len(loaded.episodes)} episodes, {data.total_steps} steps; CartPole's speed goes where the action pushes: {own} % "
    f"of Minari's steps, {of_d3rlpy(loaded)} % of get_minari's, {of_d3rlpy(mended)} % of MDPDataset's; episodes that "
    f"begin with their first observation: {sum(begins)}; episode {len(episodes)} begins {last - found[0]} observations "
    "too early"
)
assert own == of_d3rlpy(mended) == 100 and of_d3rlpy(loaded) < 75
assert begins == [True] + 29 * [False] and last - found[0] == 29
END
"$folder/venv/bin/python" "$folder/finding.py"
