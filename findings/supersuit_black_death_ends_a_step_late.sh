#!/usr/bin/env bash
# SuperSuit 3.11.0, black_death_v3: the end of a game comes one step late, and as another one. The wrapper asks whether
# all agents have terminated *and* been truncated, as hardly any is; only when the game is over, and has no agents
# left, the empty answer to one more step is taken for it. So:
# - The step that ends the game, lost or out of time, is passed on as one that goes on. Its actions have a future: that
#   of the step that is added, with an observation that is black and a reward of 0, whose actions are nobody's.
# - At that one all agents are both terminated and truncated: whether the time was up or all was lost is gone. Learners
#   that add the value of the last observation after a time limit have a black one to value, and those that look at
#   "terminated" take a time limit for the end of the world.
# Lengths of episodes are off by one. The wrapper is what a game whose agents die needs before
# pettingzoo_env_to_vec_env_v1, and what PettingZoo's tutorials on Stable-Baselines3 put around
# knights_archers_zombies. Nothing is raised. Guess: the game ends with its last step, and each agent that lived has
# its own flags. None but a wrapper of one's own is the way around. The repository ends the game with its last step
# since July 2026, with pull request 265, but no release does.
#
# Seen, of knights_archers_zombies_v11 with random actions: "at most 100 steps, without black_death_v3: 100 steps, the
# last one: terminated {False}, truncated {True}, observations black False"; "... with black_death_v3: 101 steps, the
# last one: terminated {True}, truncated {True}, observations black True"; "at most 5000 steps, without black_death_v3:
# 197 steps, the last one: terminated {True}, truncated {False}, observations black False"; "... with black_death_v3:
# 198 steps, the last one: terminated {True}, truncated {True}, observations black True".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet supersuit==3.11.0 pettingzoo==1.27.0 gymnasium==1.2.2 numpy==2.2.6 \
  tinyscaler==1.2.8 pygame==2.6.1 pymunk==6.11.1
cat > "$folder/finding.py" <<'END'
import os

os.environ.update(SDL_VIDEODRIVER="dummy", SDL_AUDIODRIVER="dummy")
import supersuit
from pettingzoo.butterfly import knights_archers_zombies_v11


def played(most, wrapped):
    """The number of steps until the game says that it is over, and what it says at the last two of them."""
    env = knights_archers_zombies_v11.parallel_env(max_cycles=most)
    env = supersuit.black_death_v3(env) if wrapped else env
    env.reset(seed=1)
    spaces = {agent: env.action_space(agent) for agent in env.possible_agents}
    for number, space in enumerate(spaces.values()):
        space.seed(number)
    said = []
    while env.agents:
        alive = list(env.agents)
        seen, rewards, terminated, truncated, _ = env.step({agent: spaces[agent].sample() for agent in alive})
        assert set(terminated) == set(truncated) == set(alive)
        flags = [{bool(flag) for flag in flags.values()} for flags in (terminated, truncated)]
        said.append((*flags, not any(seen[agent].any() for agent in alive), sum(rewards.values())))
    return len(said), said[-2:]


for most, lost in ((100, False), (5000, True)):
    for wrapped in (False, True):
        steps, (before, last) = played(most, wrapped)
        print(
            f"at most {most} steps, {'with' if wrapped else 'without'} black_death_v3: {steps} steps, the last one: "
            f"terminated {last[0]}, truncated {last[1]}, observations black {last[2]}"
        )
        if not wrapped:
            truth = steps
            assert last[:3] == ({lost}, {not lost}, False) and (steps < most if lost else steps == most)
        else:
            assert steps == truth + 1 and last == ({True}, {True}, True, 0)
            assert before[:3] == ({False}, {False}, False)
END
cd "$folder"
"$folder/venv/bin/python" -W ignore "$folder/finding.py"
