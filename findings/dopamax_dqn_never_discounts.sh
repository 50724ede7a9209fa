#!/usr/bin/env bash
# Dopamax 0.2.1, DQN: the setting gamma, "The discount factor.", 0.99 unless one says otherwise, is accepted, stands in
# the configuration, and is never read. The targets take the discount of the time step as it is, which is 1 in the midst
# of an episode, so that nothing is ever discounted: with a gamma of 0.1 and of 0.99 the weights after training are the
# same to the last bit. An agent that shall prefer 1 now to 2 later does not, time costs nothing, a sweep over gamma
# finds nothing, and where episodes are long or cut by time limits that are told as such (a discount of 1, which the
# library itself recommends) the values have no bound and grow as long as one trains. PPO, DDPG, TD3 and SAC of the same
# library multiply by gamma. Nothing is raised. Guess: reward + gamma * discount * next value. An environment that tells
# gamma as its discount of each step is the way around.
#
# Seen, where action 0 pays 1 at once and action 1 pays 2 a step later: "gamma=0.1: values of the two actions 1.00 and
# 2.00, right 1.00 and 0.20"; "gamma=0.99: values of the two actions 1.00 and 2.00, right 1.00 and 1.98"; "the weights
# differ by up to 0.0".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.4.38 jaxlib==0.4.38 flax==0.10.2 optax==0.2.4 chex==0.1.88 numpy==2.2.6 \
  scipy==1.15.2 tensorflow-probability==0.25.0 setuptools==79.0.1 dm-haiku==0.0.13 distrax==0.1.5 rlax==0.1.6 \
  flashbax==0.1.2 mctx==0.0.5 ml-collections==1.0.0 einops==0.8.0 tqdm==4.67.1 dm-env==1.6 jaxopt==0.8.5 etils \
  mujoco==3.2.7 mujoco-mjx==3.2.7 trimesh==4.5.3 pillow gymnasium==1.3.0 matplotlib==3.11.2 seaborn==0.13.2 \
  svgwrite==1.4.3
# What it imports of these, without what they ask for to show windows and films.
"$folder/venv/bin/pip" install --quiet --no-deps dopamax==0.2.1 brax==0.12.1 pgx==2.4.2 gymnax==0.0.9
cat > "$folder/finding.py" <<'END'
import jax
import jax.numpy as jnp
from chex import dataclass
from dm_env import StepType
from dopamax import spaces
from dopamax.agents.anakin.dqn import DQN
from dopamax.environments.environment import Environment, EnvState, TimeStep
from jax.flatten_util import ravel_pytree

STEPS = 3000


@dataclass(frozen=True)
class State(EnvState):
    waiting: jnp.ndarray


@dataclass(frozen=True)
class Choice(Environment):
    """Action 0 pays 1 and ends the episode; action 1 pays nothing, but the step after it pays 2 and ends it."""

    name = "choice"
    max_episode_length = 2
    observation_space = spaces.Box(0.0, 1.0, (2,), jnp.float32)
    action_space = spaces.Discrete(2, jnp.int32)

    def reset(self, key):
        state = State(episode_reward=0.0, episode_length=0, waiting=jnp.zeros((), int))
        return TimeStep.restart(jax.nn.one_hot(state.waiting, 2)), state

    def step(self, key, state, action):
        waits = (state.waiting == 0) & (action == 1)
        reward = jnp.where(waits, 0.0, jnp.where(state.waiting == 1, 2.0, 1.0))
        state = State(
            episode_reward=state.episode_reward + reward,
            episode_length=state.episode_length + 1,
            waiting=waits.astype(int),
        )
        step = TimeStep(
            observation=jax.nn.one_hot(state.waiting, 2),
            reward=reward,
            discount=jnp.where(waits, 1.0, 0.0),
            step_type=jnp.where(waits, StepType.MID, StepType.LAST),
        )
        return step, state


weights = []
for gamma in (0.1, 0.99):
    config = {
        "gamma": gamma,
        "learning_rate": 1e-2,
        "learning_starts": 100,
        "target_update_freq": 50,
        "epsilon_decay_steps": STEPS,
        "final_epsilon": 1.0,
        "network_config": {"hidden_units": [16]},
    }
    agent = DQN(Choice(), config)
    assert agent.config.gamma == gamma
    params = agent.train(jax.random.PRNGKey(0), STEPS, STEPS)
    now, later = map(float, agent._model.apply(params["online"], None, jnp.eye(2)[:1])[0])
    print(f"gamma={gamma}: values of the two actions {now:.2f} and {later:.2f}, right 1.00 and {2 * gamma:.2f}")
    assert abs(now - 1) < 0.05 and abs(later - 2) < 0.05
    weights.append(ravel_pytree(params)[0])
difference = float(jnp.abs(weights[0] - weights[1]).max())
print(f"the weights differ by up to {difference}")
assert difference == 0
END
"$folder/venv/bin/python" -W ignore "$folder/finding.py" 2> "$folder/progress" || { cat "$folder/progress"; exit 1; }
