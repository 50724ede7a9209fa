#!/usr/bin/env bash
# Dopamine 4.1.2, JaxDQNAgent: the last step of an episode, the one that wins or falls, is in no memory. It stores
# a state, its action, the reward of that and whether it ended the game; the replay's accumulator reads the end as if it
# belonged to the state itself. So the step before the last is stored as the one that ends, and with one-step returns
# the reward of the last is nobody's: where only the end pays, DQN's targets, computed here from what is stored, say
# that nothing pays at all. With three steps some returns have it, and still the last step is in none as its first. And
# with a stack of 4 frames, as for Atari, that wrong end is stored up to four times, with black frames in the place of
# those that were seen. Nothing is raised. By their source the agents of Rainbow and of quantiles use the same.
# Guess: what is stored is (state, action, reward, end), and each step of a game can be learned from, once. The last
# observation given to step(), and only then end_episode(0), brings back what is lost, and not the copies away.
#
# Seen, for the three steps to a goal that pays 1, in short: with returns of 1 step no last step of 50 is in the memory,
# rewards 0, values of going right [0, 0, 0], in truth [0.81, 0.9, 1.0]; with end_episode(0) 50, 50 and the truth. Of 3
# steps: 0, and 50. With a stack of 4 each end is there 3.86 times, 1.46 times with frames that were seen (an episode of
# three steps has but three, and some blackened ones look like the start of another).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-deps dopamine-rl==4.1.2
"$folder/venv/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2 flax==0.12.8 optax==0.2.8 orbax-checkpoint==0.12.8 \
  gin-config==0.5.0 absl-py==2.5.1 python-snappy==0.7.3 gymnasium==1.4.0 numpy==2.4.6 2> "$folder/errors" ||
  { cat "$folder/errors" >&2; exit 1; }
cat > "$folder/finding.py" <<'END'
import sys
from unittest.mock import MagicMock

# What Dopamine imports and this agent has no use for: summaries, Atari, the networks of others.
for name in ("tensorflow", "tensorflow_probability.substrates", "ale_py", "baselines.common", "cv2", "gym"):
    sys.modules[name] = sys.modules[name.split(".")[0]] = MagicMock()

import gin
import gymnasium
import jax.numpy as jnp
import numpy as np
from dopamine.discrete_domains.atari_lib import DQNNetworkType
from dopamine.jax.agents.dqn.dqn_agent import JaxDQNAgent
from flax import linen

GAMES, GAMMA, RIGHT, PLACES = 50, 0.9, 2, np.eye(4, dtype=np.float32)
gin.parse_config(["ReplayBuffer.batch_size = 32", "ReplayBuffer.max_capacity = 100000"])


class Table(linen.Module):
    """A value for each place and action."""

    num_actions: int

    @linen.compact
    def __call__(self, x):
        return DQNNetworkType(x[:, -1] @ self.param("table", linen.initializers.zeros, (4, self.num_actions)))


def played(horizon, stack, around):
    """What is in the memory after games at random, in a row of four places with the goal at its end, and what was."""
    env = gymnasium.make("FrozenLake-v1", desc=["SFFG"], is_slippery=False, max_episode_steps=10_000)
    agent = JaxDQNAgent(
        num_actions=4,
        observation_shape=(4,),
        observation_dtype=jnp.float32,
        stack_size=stack,
        network=Table,
        gamma=GAMMA,
        update_horizon=horizon,
        min_replay_history=10**9,
        epsilon_fn=lambda *_: 1.0,
        seed=1,
    )
    states, score = set(), 0
    for seed in range(GAMES):
        place, _ = env.reset(seed=seed)
        action, over = agent.begin_episode(PLACES[place]), False
        while not over:
            states.add(agent.state.astype(np.float32).tobytes())
            place, reward, over, truncated, _ = env.step(int(action))
            assert not truncated
            score += reward
            if not over or around:
                action = agent.step(reward, PLACES[place])
        agent.end_episode(0 if around else reward, True)
    assert score == GAMES
    return [element.unpack() for element in agent._replay._memory.values()], states


def learned(memory, horizon):
    """The values of going right, by the targets of DQN."""
    table = np.zeros((4, 4))
    for _ in range(300):
        targets = {}
        for e in memory:
            future = 0 if e.is_terminal else GAMMA**horizon * table[e.next_state[:, -1].argmax()].max()
            targets.setdefault((e.state[:, -1].argmax(), int(e.action)), []).append(e.reward + future)
        for key, of_it in targets.items():
            table[key] += 0.5 * (np.mean(of_it) - table[key])
    return [round(float(value), 2) for value in table[:3, RIGHT]]


def report(horizon, around):
    memory, _ = played(horizon, 1, around)
    last = sum(bool(e.state[2, -1] == 1 and e.action == RIGHT) for e in memory)
    return learned(memory, horizon), last, sum(float(e.reward) for e in memory)


seen = {}
for horizon in (1, 3):
    for around in (False, True):
        seen[horizon, around] = values, last, rewards = report(horizon, around)
        print(
            f"{horizon} step(s), end_episode(0) {around}: of {GAMES} last steps in the memory {last}, "
            f"rewards {rewards:.0f}"
            + (f", value of going right, in truth [0.81, 0.9, 1.0]: {values}" if horizon == 1 else "")
        )
memory, states = played(1, 4, False)
ends = [e.state.astype(np.float32).tobytes() in states for e in memory if e.is_terminal]
print(f"a stack of 4: copies of each end {len(ends) / GAMES}, with the frames that were seen {sum(ends) / GAMES}")
assert seen[1, False] == ([0.0, 0.0, 0.0], 0, 0.0)
assert seen[1, True] == ([0.81, 0.9, 1.0], GAMES, GAMES)
assert len(ends) > 3.5 * GAMES and sum(ends) < 2 * GAMES
assert seen[3, False][1] == 0 and seen[3, True][1] == GAMES
END
JAX_PLATFORMS=cpu "$folder/venv/bin/python" -W ignore "$folder/finding.py"
