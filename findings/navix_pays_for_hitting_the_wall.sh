#!/usr/bin/env bash
# Navix 0.7.4: rewards.wall_hit_cost, "a negative value when the agent hits a wall, paying a cost of `cost` for each
# wall hit", pays the agent: it is +cost. By the source, action_cost and time_cost have the minus. And it is paid not for
# each hit but at every step after the first one, until the episode ends, because the events that rewards are made of
# are never taken back: state.events.wall_hit, once happened, has happened at each later step. So an agent that bumps
# into the wall once and then turns on the spot until the time is over earns as much as its way to the goal does, with
# a larger cost more, and is taught to do so. A reward of one's own that is made of events.on_wall_hit(), or of the
# events key_pickup and door_opening, is, by the source, paid at all later steps too. Nothing is raised. Guess: -cost, at the steps that
# end at a wall. The way around is to compare the positions of prev_state and state by oneself.
# The sign was reported as issue 212, in September 2026, and no release has been made since.
#
# Seen, with compose(on_goal_reached, wall_hit_cost) in Navix-Empty-5x5-v0: "to the goal: steps 5, hits 0, goal True,
# return 1.00, where 1.00 was to be expected"; "into the wall once, and then turning: steps 100, hits 1, goal False,
# return 0.99, where -0.01 was to be expected"; "into the wall at each step: steps 100, hits 99, goal False, return
# 0.99, where -0.99 was to be expected".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.4.38 jaxlib==0.4.38 flax==0.10.2 optax==0.2.4 chex==0.1.88 numpy==2.2.6 \
  scipy==1.15.2 tensorflow-probability==0.25.0 dm-env==1.6 pillow==11.2.1 wandb==0.19.11 setuptools==79.0.1
# They ask for linters, and for a nightly build. With jax 0.10.2, rlax 0.1.9 and distrax 0.1.9 it is the same.
"$folder/venv/bin/pip" install --quiet --no-deps navix==0.7.4 distrax==0.1.5 rlax==0.1.6
cat > "$folder/finding.py" <<'END'
from itertools import chain, repeat

import jax
import navix
import numpy as np
from navix import rewards

LEFT, RIGHT, FORWARD, COST = 0, 1, 2, 0.01
names = [action.__name__ for action in navix.actions.DEFAULT_ACTION_SET]
assert names[:3] == ["rotate_ccw", "rotate_cw", "forward"]
both = rewards.compose(rewards.on_goal_reached, rewards.wall_hit_cost)
env = navix.make("Navix-Empty-5x5-v0", reward_fn=both)
step = jax.jit(env.step)


def played(name, actions):
    """The return, and how often a step forward ended where it began."""
    now, hits, total, steps = env.reset(jax.random.PRNGKey(1)), 0, 0.0, 0
    while not now.is_done():
        action = next(actions)
        before, now = now, step(now, action)
        stays = np.array_equal(before.state.get_player().position, now.state.get_player().position)
        hits += action == FORWARD and stays
        total += float(now.reward)
        steps += 1
    reached = bool(now.state.events.goal_reached.happened)
    print(
        f"{name}: steps {steps}, hits {hits}, goal {reached}, return {total:.2f}, where {reached - COST * hits:.2f} "
        "was to be expected"
    )
    return steps, hits, reached, round(total, 4)


way = [FORWARD, FORWARD, RIGHT, FORWARD, FORWARD]
assert played("to the goal", iter(way)) == (5, 0, True, 1.0)
assert played("into the wall once, and then turning", chain([LEFT, FORWARD], repeat(LEFT))) == (100, 1, False, 0.99)
assert played("into the wall at each step", chain([LEFT], repeat(FORWARD))) == (100, 99, False, 0.99)
END
"$folder/venv/bin/python" -W ignore "$folder/finding.py"
