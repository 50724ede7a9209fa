#!/usr/bin/env bash
# Shimmy 2.0.1 with dm_control 1.0.50: DmControlMultiAgentCompatibilityV0, by which dm_control's soccer is played in
# PettingZoo, has the two ends of an episode the wrong way round. A goal, where dm_control's discount is 0, comes as
# truncated, and the time limit, where it is 1, as terminated. So who does as one ought to adds the value of a game that
# goes on to the goal, of which there is none, and nothing at the time limit; info has the discount, rightly. Shimmy's
# wrapper for one agent, in the same library, does it rightly. And the actions are taken in the order in which the
# caller's dict happens to have them, not by their names: if player_1's stands first, as where one policy plays one side
# and the dict is made policy by policy, each player does what the other one wanted, while observations and rewards are
# by name. Nothing is raised. Guess: terminated and truncated mean what they mean in the sister wrapper, and a dict of
# actions by player is looked up by player. To exchange the flags, and to sort the dict, is the way around.
#
# Seen: "soccer: a goal, discount 0, is truncated, the time limit, discount 1, is terminated; in the wrapper for one
# agent discount 0 is terminated, 1 is truncated"; "player_0 shall run: it gets 1.7 m, player_1 0.0 m; with player_1
# first in the dict 0.0 m, and player_1 1.7 m".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet shimmy==2.0.1 dm_control==1.0.50 mujoco==3.17.0 pettingzoo==1.27.0 \
    gymnasium==1.4.0 numpy==2.4.6 imageio==2.38.1 glfw==2.11.0 packaging==26.4
cat > "$folder/finding.py" <<'END'
import dm_env
import numpy as np
from dm_control.locomotion import soccer
from shimmy.dm_control_multiagent_compatibility import DmControlMultiAgentCompatibilityV0
from shimmy.utils.dm_env import dm_env_step2gym_step

NAMES = {(True, False): "terminated", (False, True): "truncated"}
still = np.zeros(3)


def end(time_limit, goal):
    """How a game of one against one ends, and dm_control's discount there."""
    game = soccer.load(team_size=1, time_limit=time_limit, terminate_on_goal=True)
    env = DmControlMultiAgentCompatibilityV0(game)
    env.reset(seed=1)
    if goal:
        net = game.task.arena.away_goal
        game.task.ball.set_pose(game.physics, (net.upper + net.lower) / 2)
    while env.agents:
        _, rewards, terminated, truncated, infos = env.step({"player_0": still, "player_1": still})
    assert {float(reward) for reward in rewards.values()} == ({1.0, -1.0} if goal else {0.0})
    flags = NAMES[terminated["player_0"], truncated["player_0"]]
    return flags, float(infos["player_0"]["timestep.discount"])


def ways(order):
    """How far each player gets where player_0 shall run and player_1 shall stand."""
    game = soccer.load(team_size=1, time_limit=10.0)
    env = DmControlMultiAgentCompatibilityV0(game)
    env.reset(seed=1)
    actions = {"player_0": np.array([1.0, 0, 0]), "player_1": still}
    actions = {player: actions[player] for player in order}

    def places():
        return np.array([game.physics.bind(player.walker.root_body).xpos for player in game.task.players])

    before = places()
    for _ in range(40):
        env.step(actions)
    return np.linalg.norm((places() - before)[:, :2], axis=1)


goal, limit = end(10.0, True), end(0.25, False)
observation = np.zeros(1)
single = [NAMES[dm_env_step2gym_step(step)[2:4]]
          for step in (dm_env.termination(1.0, observation), dm_env.truncation(0.0, observation, discount=1.0))]
print(f"soccer: a goal, discount {goal[1]:.0f}, is {goal[0]}, the time limit, discount {limit[1]:.0f}, is {limit[0]}; "
      f"in the wrapper for one agent discount 0 is {single[0]}, 1 is {single[1]}")
forth, back = ways(["player_0", "player_1"]), ways(["player_1", "player_0"])
print(f"player_0 shall run: it gets {forth[0]:.1f} m, player_1 {forth[1]:.1f} m; with player_1 first in the dict "
      f"{back[0]:.1f} m, and player_1 {back[1]:.1f} m")
assert goal == ("truncated", 0) and limit == ("terminated", 1) and single == ["terminated", "truncated"]
assert forth[0] > 3 * forth[1] and back[1] > 3 * back[0]
END
MUJOCO_GL=disable "$folder/venv/bin/python" -W ignore "$folder/finding.py"
