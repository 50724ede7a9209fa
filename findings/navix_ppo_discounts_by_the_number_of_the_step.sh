#!/usr/bin/env bash
# Navix 0.7.4, its PPO: the discount of each step is gamma to the power of the number of that step in its episode, where
# gamma was meant. rlax multiplies the discounts of the steps up itself, so that what comes k steps after step t counts
# gamma^(t + (t + 1) + ... + (t + k - 1)) and not gamma^k: early in an episode next to nothing is discounted, and after
# 70 steps, with 0.99, a reward of the next step counts for half and one that is ten steps away for 0.0006. The player
# is not shown the time, so that the value learned for what it sees is a mixture of all of these. Seen from its
# beginning the end of an episode of T steps is worth 0.99^((T - 1) (T - 2) / 2) and not 0.99^(T - 1): 0.05 of 26 steps
# and 2e-10 of 68. So what takes longer is worth nothing to the agent, whatever gamma is, and with gae_lambda below 1
# the sooner. Nothing is raised, small rooms are learned all the same, and the returns that are logged are without a
# discount. Guess: gamma^k. To override evaluate_experience() in a subclass is the way around.
#
# Seen, with values of 0 and gae_lambda=1, so that targets are discounted returns, of players at random that reach the
# goal of Navix-Empty-5x5-v0: "target k steps before the goal (and 0.99^k), in an episode of 19 steps: k=1 0.84 (0.99),
# k=5 0.47 (0.95), k=10 0.28 (0.90)"; "... of 98 steps: k=1 0.38 (0.99), k=5 0.01 (0.95), k=10 0.00 (0.90)"; "targets
# that are 0.99^k: 16 of 1022, those of the last steps of 16 episodes".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.4.38 jaxlib==0.4.38 flax==0.10.2 optax==0.2.4 chex==0.1.88 numpy==2.2.6 \
  scipy==1.15.2 tensorflow-probability==0.25.0 dm-env==1.6 pillow==11.2.1 wandb==0.19.11 setuptools==79.0.1
# They ask for linters, and for a nightly build. With jax 0.10.2, rlax 0.1.9 and distrax 0.1.9 it is the same.
"$folder/venv/bin/pip" install --quiet --no-deps navix==0.7.4 distrax==0.1.5 rlax==0.1.6
cat > "$folder/finding.py" <<'END'
import distrax
import jax
import jax.numpy as jnp
import navix
import numpy as np
import optax
from navix.agents import PPO, ActorCritic, PPOHparams
from navix.agents.ppo import TrainingState

STEPS = 4000
env = navix.make("Navix-Empty-5x5-v0")
actions = env.action_space.n
agent = PPO(PPOHparams(num_envs=1, num_steps=STEPS, gae_lambda=1.0), ActorCritic(actions), env)
key = jax.random.PRNGKey(1)
state = TrainingState.create(
    apply_fn=None, params={}, tx=optax.sgd(0.0), env_state=jax.vmap(env.reset)(key[None]), rng=key,
    frames=jnp.asarray(0), epoch=jnp.asarray(0),
    policy=lambda params, seen: distrax.Categorical(logits=jnp.zeros((len(seen), actions))),
    value_fn=lambda params, seen: jnp.zeros(len(seen)),
)
state, played = agent.collect_experience(state)
targets = agent.evaluate_experience(state, played, jnp.zeros(1))[2]
done, reward, times, targets = (np.asarray(x)[:, 0] for x in (played.done, played.reward, played.t, targets))
goals = np.flatnonzero(reward)
assert env.gamma == 0.99 and len(goals) > 5 and (reward[goals] == 1).all() and done[goals].all()

lengths = times[goals] + 1
right = 0
for end, length in zip(goals, lengths):
    k = np.arange(length)
    seen = targets[end - k]
    truth = env.gamma**k
    # What it is instead: the product of gamma**t over the steps from there on, without the last one.
    assert np.allclose(seen, env.gamma ** np.cumsum(np.r_[0, length - 1 - k[1:]]), rtol=1e-3, atol=1e-9)
    right += np.isclose(seen, truth, rtol=1e-3).sum()
for i in (lengths.argmin(), lengths.argmax()):
    seen = ", ".join(f"k={k} {targets[goals[i] - k]:.2f} ({env.gamma**k:.2f})" for k in (1, 5, 10))
    print(f"target k steps before the goal (and 0.99^k), in an episode of {lengths[i]} steps: {seen}")
print(f"targets that are 0.99^k: {right} of {lengths.sum()}, those of the last steps of {len(goals)} episodes")
assert lengths.min() > 10 and right <= 2 * len(goals) and targets[goals[lengths.argmax()] - 10] < 0.1
END
"$folder/venv/bin/python" -W ignore "$folder/finding.py"
