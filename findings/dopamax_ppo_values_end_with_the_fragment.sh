#!/usr/bin/env bash
# Dopamax 0.2.1, PPO: the targets of the value network are the discounted rewards up to the end of the rollout fragment
# and nothing beyond it: rlax.discounted_returns() with a v_t of 0, though the value of the last observation has just
# been computed, for the advantages. So each cut of a rollout counts as an end of the episode, values are those of the
# next half fragment on average, whatever gamma says, and no reward that comes more than a fragment later is ever known
# to any state: values of 0 stand in the advantages too. With gamma 0.99 and the default of 128 steps, of a reward of 1
# in each step, the values are some 44 instead of 100; with short fragments and many environments, as usual on
# accelerators, next to nothing is left. "value_explained_variance", which is measured against these targets, looks
# good. Nothing is raised. Guess: as in PPO's paper and its peers, returns that the value of the last observation
# completes. Fragments much longer than the horizon of gamma are the way around.
#
# Seen, with gamma 0.99, where one action pays 1 at once and the other leads to a way of 20 steps that pays 5:
# "fragments of 8 steps: values 0.08 after the first step of the way, 0.14 half way, 5.09 before its end, right 4.13,
# 4.52, 5.00; takes it with probability 0.00"; "fragments of 64 steps: values 3.02 after the first step of the way, 4.36
# half way, 4.90 before its end, right 4.13, 4.52, 5.00; takes it with probability 1.00".
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
from dopamax.agents.anakin.ppo import PPO
from dopamax.environments.environment import Environment, EnvState, TimeStep

GAMMA, WAY, STEPS = 0.99, 20, 12800


@dataclass(frozen=True)
class State(EnvState):
    place: jnp.ndarray


@dataclass(frozen=True)
class Choice(Environment):
    """Action 0 at the start pays 1 and ends the episode; action 1 leads to WAY more steps, of which the last pays 5."""

    name = "choice"
    max_episode_length = WAY + 1
    observation_space = spaces.Box(0.0, 1.0, (WAY + 1,), jnp.float32)
    action_space = spaces.Discrete(2, jnp.int32)

    def reset(self, key):
        state = State(episode_reward=0.0, episode_length=0, place=jnp.zeros((), int))
        return TimeStep.restart(jax.nn.one_hot(state.place, WAY + 1)), state

    def step(self, key, state, action):
        quits, arrives = (state.place == 0) & (action == 0), state.place == WAY
        reward = jnp.where(arrives, 5.0, jnp.where(quits, 1.0, 0.0))
        state = State(
            episode_reward=state.episode_reward + reward,
            episode_length=state.episode_length + 1,
            place=jnp.minimum(state.place + 1, WAY),
        )
        step = TimeStep(
            observation=jax.nn.one_hot(state.place, WAY + 1),
            reward=reward,
            discount=jnp.where(quits | arrives, 0.0, 1.0),
            step_type=jnp.where(quits | arrives, StepType.LAST, StepType.MID),
        )
        return step, state


places = (1, WAY // 2, WAY)
right = [5 * GAMMA ** (WAY - place) for place in places]
for length in (8, 64):
    config = {
        "gamma": GAMMA,
        "rollout_fragment_length": length,
        "minibatch_size": 8,
        "initial_learning_rate": 1e-2,
        "final_learning_rate": 1e-2,
        "network_config": {"hidden_units": [16]},
    }
    agent = PPO(Choice(), config)
    params = agent.train(jax.random.PRNGKey(0), STEPS // length, STEPS // length)
    policy, values = agent._model.apply(params, jax.random.PRNGKey(0), jnp.eye(WAY + 1))
    seen = [float(values[place]) for place in places]
    waits = float(policy.probs[0, 1])
    print(
        f"fragments of {length} steps: values {seen[0]:.2f} after the first step of the way, {seen[1]:.2f} half way, "
        f"{seen[2]:.2f} before its end, right {right[0]:.2f}, {right[1]:.2f}, {right[2]:.2f}; takes it with "
        f"probability {waits:.2f}"
    )
    assert (seen[0] < 1 and waits < 0.05) if length == 8 else (seen[0] > 2 and waits > 0.95)
END
"$folder/venv/bin/python" -W ignore "$folder/finding.py" 2> "$folder/progress" || { cat "$folder/progress"; exit 1; }
