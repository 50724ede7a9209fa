#!/usr/bin/env bash
# EnvPool 1.2.5: its Atari environments take the first 210 lines of the screen, whatever the game. 13 of its 104 games
# have more, up to 250, and what is below is missing in the observation and in render(), while the lines above are
# stretched over all 84 rows. In KingKong that is the lowest floor, where the player begins: it is not in the picture
# until it has climbed to the next one, and runs left or right unseen. In MrDo and SirLancelot it is the lives that are
# left, in Pacman the score, in LaserGates an indicator. The vector environment of ale-py 0.12.1, with the same options,
# has the whole screen. So scores of these games are of another task than those they are compared with, and a model of
# the one is shown by the other what it never saw. Nothing is raised. Guess: the observation is the screen, scaled
# down, as it is for games of 210 lines.
#
# Seen: "the first 210 lines of more, 13 of 104 games: Adventure 250, AirRaid 250, Carnival 214, JourneyEscape 230,
# KeystoneKapers 250, KingKong 250, Klax 250, LaserGates 250, MrDo 250, Pacman 250, Pooyan 220, SirLancelot 250,
# SpaceWar 250; whole: Breakout, MsPacman, Pong"; "KingKong, left or right: 20 of 20 steps look the same in EnvPool, 1
# in ALE's vector environment".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet envpool==1.2.5 ale-py==0.12.1 gymnasium==1.4.0 numpy==2.4.6 \
    opencv-python-headless==5.0.0.93
cat > "$folder/finding.py" <<'END'
import cv2
import envpool
import numpy as np
from ale_py import Action, ALEInterface, AtariVectorEnv, LoggerMode, roms
from envpool.atari.registration import atari_game_list

NOOP, RIGHT, LEFT = 0, 3, 4  # of KingKong
OPTIONS = {"noop_max": 1, "use_fire_reset": True}


def pool(game, **options):
    name = "".join(part.capitalize() for part in game.split("_"))
    return name, envpool.make_gymnasium(f"{name}-v5", **OPTIONS, **options)


def loaded(game):
    ale = ALEInterface()
    ale.loadROM(roms.get_rom_path(game))
    return ale


def screens(game):
    """The gray screens of ALE after what EnvPool does at a reset, FIRE or a no-op: several, as chance is at work."""
    ale = loaded(game)
    for _ in range(30):
        ale.reset_game()
        ale.act(Action.FIRE if Action.FIRE in ale.getMinimalActionSet() else Action.NOOP)
        yield ale.getScreenGrayscale()


def small(screen):
    return cv2.resize(screen, (84, 84), interpolation=cv2.INTER_AREA)


def unseen(env):
    """In how many of 20 steps of KingKong one who runs left and one who runs right look the same."""
    env.reset(**({"seed": np.array([5, 5])} if isinstance(env, AtariVectorEnv) else {}))
    for _ in range(155):  # as long as the ape climbs up
        obs = env.step(np.array([NOOP, NOOP]))[0]
    assert (obs[0] == obs[1]).all()
    steps = [env.step(np.array([LEFT, RIGHT]))[0] for _ in range(20)]
    return sum(bool((obs[0] == obs[1]).all()) for obs in steps)


ALEInterface.setLoggerMode(LoggerMode.Error)
lines = {game: loaded(game).getScreenDims()[0] for game in atari_game_list}
tall, cut, whole = [game for game in lines if lines[game] > 210], [], []
for game in tall + ["breakout", "ms_pacman", "pong"]:
    name, env = pool(game, num_envs=1, render_mode="rgb_array")
    obs = env.reset()[0][0, -1]
    assert env.render()[0].shape == (210, 160, 3)
    for screen in screens(game):
        if (obs == small(screen)).all():
            whole.append(name)
            break
        if (obs == small(screen[:210])).all():
            cut.append(f"{name} {lines[game]}")
            break
print(f"the first 210 lines of more, {len(cut)} of {len(lines)} games: {', '.join(cut)}; whole: {', '.join(whole)}")
assert len(cut) == len(tall) == 13 and whole == ["Breakout", "MsPacman", "Pong"]
steps = unseen(pool("king_kong", num_envs=2, seed=[5, 5])[1]), unseen(AtariVectorEnv("king_kong", 2, **OPTIONS))
same = f"{steps[0]} of 20 steps look the same in EnvPool, {steps[1]} in ALE's vector environment"
print(f"KingKong, left or right: {same}")
assert steps[0] == 20 and steps[1] < 3
END
"$folder/venv/bin/python" "$folder/finding.py"
