#!/usr/bin/env bash
# Stoa 0.1.2 (the environments of Stoix): AutoResetWrapper starts each episode but the first with the default parameters
# of the environment, whatever env_params step() is called with. It hands them on to the step and forgets them at the
# reset that follows an end. What a reset makes of parameters, where the goal and the player are or which task it is, is
# as asked for in the first episode, and the default's in all others, while the rules that step() applies remain those
# asked for: a mixture that nobody asked for. With VmapWrapper(vectorize_over_env_params=True), which is there for
# "environments that support domain randomization", eight environments of eight sizes are eight of one size after their
# first episode, and an agent learns, and is evaluated, next to only on that. Nothing is raised. Gymnax's own reset at
# an end, without the wrapper, keeps the parameters. Guess: the parameters of step() hold for all that step() does. A
# default that is given to the adapter, GymnaxToStoa(env, env_params), is kept, so that one environment for each set of
# parameters is a way around.
#
# Seen, the distance of the goal in episodes 1 to 4, which is the parameter circle_radius: "asked for: 1 2 3 4 5 6 7 8";
# "with AutoResetWrapper: 1 2 3 4 5 6 7 8; 1 1 1 1 1 1 1 1; 1 1 1 1 1 1 1 1; 1 1 1 1 1 1 1 1"; "Gymnax alone: 1 2 3 4 5
# 6 7 8; 1 2 3 4 5 6 7 8; 1 2 3 4 5 6 7 8; 1 2 3 4 5 6 7 8".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2 flax==0.12.8 chex==0.1.92 numpy==2.4.6 \
  gymnasium==1.3.0 matplotlib==3.11.2 seaborn==0.13.2 six==1.17.0
"$folder/venv/bin/pip" install --quiet --no-deps stoa-env==0.1.2 gymnax==0.0.9
cat > "$folder/finding.py" <<'END'
import gymnax
import jax
import jax.numpy as jnp
import numpy as np
from stoa import AutoResetWrapper, GymnaxToStoa
from stoa.core_wrappers.vmap import VmapWrapper

EPISODES, STEPS = 4, 10
SIZES = np.arange(1.0, 9.0)
game, default = gymnax.make("PointRobot-misc")
assert default.circle_radius == 1
asked = default.replace(max_steps_in_episode=STEPS)
asked = jax.tree.map(lambda value: jnp.full(len(SIZES), value), asked).replace(circle_radius=jnp.array(SIZES))


def goals(wrapped):
    """The distance of the goal from the middle, in each episode, for each environment."""
    env = GymnaxToStoa(game)
    env = VmapWrapper(AutoResetWrapper(env) if wrapped else env, len(SIZES), vectorize_over_env_params=True)
    step = jax.jit(env.step)
    state, _ = env.reset(jax.random.PRNGKey(1), asked)
    seen = []
    for _ in range(EPISODES):
        seen.append(np.linalg.norm(state.base_env_state.goal, axis=1))
        for left in reversed(range(STEPS)):
            state, timestep = step(state, jnp.zeros((len(SIZES), 2)), asked)
            assert (timestep.done() == (left == 0)).all()
    return np.array(seen)


print("asked for:", *SIZES.astype(int))
for wrapped in (True, False):
    seen = goals(wrapped)
    shown = "; ".join(" ".join(f"{distance:.0f}" for distance in episode) for episode in seen)
    print(f"{'with AutoResetWrapper' if wrapped else 'Gymnax alone'}: {shown}")
    assert np.allclose(seen[0], SIZES)
    assert np.allclose(seen[1:], 1 if wrapped else SIZES)
END
cd "$folder"
"$folder/venv/bin/python" -W ignore "$folder/finding.py"
