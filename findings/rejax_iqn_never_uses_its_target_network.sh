#!/usr/bin/env bash
# Rejax 0.1.3, IQN: keeps a target network, moves it along as polyak and target_update_freq say, and never asks it. The
# targets are made by the network that learns, at its present state, so that it chases itself: what target networks were
# invented against in deep Q-learning, and what IQN has them for in its paper. The two settings are accepted, stand in
# the configuration that one saves, and do nothing: with polyak of 0 (the target is the network), 0.99 or 1 (the target
# is the network of the beginning, for ever) the weights after training are the same to the last bit, and a sweep over
# them that varies the seed too finds noise alone. Rejax's DQN, with the same settings, uses its own. Nothing is raised.
# Guess: the targets come from q_target_params. To override update() in a subclass is the way around.
#
# Seen: "dqn: the weights after training differ from those of polyak=0 by up to 0.82 with polyak=0.99, 0.80 with
# polyak=1.0; those of the target network by 0.81, 0.81"; "iqn: the weights after training differ from those of polyak=0
# by up to 0.00 with polyak=0.99, 0.00 with polyak=1.0; those of the target network by 0.04, 0.58".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.4.38 jaxlib==0.4.38 flax==0.10.2 optax==0.2.4 chex==0.1.88 numpy==2.2.6 \
  scipy==1.15.2 tensorflow-probability==0.25.0 gymnasium==1.3.0 matplotlib==3.11.2 seaborn==0.13.2 setuptools==79.0.1
# They ask for a nightly build. With jax 0.10.2, flax 0.12.8, optax 0.2.8 and distrax 0.1.9 it is the same; Gymnax 1
# returns one value more from step() than Rejax takes.
"$folder/venv/bin/pip" install --quiet --no-deps rejax==0.1.3 distrax==0.1.5 gymnax==0.0.9
cat > "$folder/finding.py" <<'END'
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from rejax import get_algo

STEPS = 1000


@jax.jit
def trained(algorithm):
    """The weights of the network and of its target network after training."""
    state, _ = algorithm.train(jax.random.PRNGKey(0))
    return ravel_pytree(state.q_ts.params)[0], ravel_pytree(state.q_target_params)[0]


for name in ("dqn", "iqn"):
    algorithm = get_algo(name).create(
        env="CartPole-v1",
        total_timesteps=STEPS,
        eval_freq=STEPS,
        skip_initial_evaluation=True,
        fill_buffer=100,
        buffer_size=STEPS,
        batch_size=32,
        learning_rate=1e-3,
    )
    algorithm = algorithm.replace(eval_callback=lambda *_: ())  # it takes the time to compile
    zero, *others = [trained(algorithm.replace(polyak=polyak)) for polyak in (0.0, 0.99, 1.0)]
    network, target = [[float(jnp.abs(one[i] - zero[i]).max()) for one in others] for i in (0, 1)]
    print(
        f"{name}: the weights after training differ from those of polyak=0 by up to {network[0]:.2f} with polyak=0.99, "
        f"{network[1]:.2f} with polyak=1.0; those of the target network by {target[0]:.2f}, {target[1]:.2f}"
    )
    assert min(target) > 0.01  # what the settings are for does happen
    assert (min(network) > 0.1) if name == "dqn" else (max(network) == 0)
END
cd "$folder"
"$folder/venv/bin/python" -W ignore "$folder/finding.py"
