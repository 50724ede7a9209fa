#!/usr/bin/env bash
# Memorax 1.0.1, NormalizeObservationWrapper: it averages each observation over its first axis. Its own algorithms step
# environments one by one, under jax.vmap, where that axis is not the environments but the entries of one observation.
# So all entries share one mean and one deviation over entries and time: position and speed, angle and distance. What is
# small beside the largest entry stays as small, and what has an offset keeps it. Nothing is raised. Guess: each entry
# is brought to a mean of 0 and a deviation of 1, as the wrappers of gymnasium and of Stable-Baselines3 do, which the
# formulas are those of. A wrapper of one's own that takes a mean of the observation itself is the way around.
#
# Seen, MountainCar-v0 in 64 environments, 2,000 random actions in each, the last 1,000 of them: "position: mean -0.98,
# deviation 0.30", "velocity: mean 0.98, deviation 0.03", "statistics of each environment are 1 number".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet memorax==1.0.1 jax==0.8.1 jaxlib==0.8.1 gymnax==0.0.9
cat > "$folder/finding.py" <<'END'
import jax
import jax.numpy as jnp
import memorax
from memorax.utils.wrappers import NormalizeObservationWrapper

ENVS, STEPS = 64, 2000
env, params = memorax.make("gymnax::MountainCar-v0")
env = NormalizeObservationWrapper(env)
keys = jax.random.split(jax.random.key(0), ENVS)
_, state = jax.vmap(env.reset, in_axes=(0, None))(keys, params)  # as memorax.algorithms do


def step(state, key):
    action_key, step_key = jax.random.split(key)
    actions = jax.random.randint(action_key, (ENVS,), 0, 3)
    keys = jax.random.split(step_key, ENVS)
    obs, state, *_ = jax.vmap(env.step, in_axes=(0, 0, 0, None))(keys, state, actions, params)
    return state, obs


state, seen = jax.lax.scan(step, state, jax.random.split(jax.random.key(1), STEPS))
seen = seen[STEPS // 2 :].reshape(-1, 2)
numbers = len(set(jnp.asarray(state.mean)[0].tolist()))
means, deviations = seen.mean(0), seen.std(0)
for name, mean, deviation in zip(("position", "velocity"), means, deviations):
    print(f"{name}: mean {mean:.2f}, deviation {deviation:.2f}")
print(f"statistics of each environment are {numbers} number")
assert numbers == 1 and abs(means[0]) > 0.5 and deviations[1] < 0.2
END
"$folder/venv/bin/python" "$folder/finding.py"
