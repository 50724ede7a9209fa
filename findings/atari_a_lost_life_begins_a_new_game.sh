#!/usr/bin/env bash
# ale-py 0.12.1 and Gymnasium 1.4.0: where a lost life ends the episode (episodic_life of ALE's vector environment,
# terminal_on_life_loss of AtariPreprocessing), the reset begins a new game, with all its lives and a score of 0. So
# nothing that comes after the first life is seen in the whole training, and the score of an episode is one life's.
# EnvPool 1.2.5, whose option has the same name, plays on. ALE's life_loss_info plays on, too, but in the default mode,
# NEXT_STEP, it breaks that mode's rule: the step after the end is no reset but is played, four frames with the action
# that was given. Who leaves it out as a reset, as Gymnasium's RecordEpisodeStatistics does, lacks a step of each life.
# With AutoresetMode.SAME_STEP none is lacking: that is how the episodes of lives of one game are had from ALE.
# Guess: the next episode is the next life of the same game, until there is none left.
#
# Seen, lives at the starts of 7 episodes of Breakout: "terminal_on_life_loss [5, 5, 5, 5, 5, 5, 5]"; "episodic_life [5,
# 5, 5, 5, 5, 5, 5]"; "EnvPool's episodic_life [5, 4, 3, 2, 1, 5, 4]"; "life_loss_info [5, 4, 3, 2, 1, 5, 4]; in
# SAME_STEP [5, 4, 3, 2, 1, 5, 4]"; "steps after the end of a life: 5 of 5 play 4 frames; of 217 steps of 7 episodes
# RecordEpisodeStatistics counts 211; in SAME_STEP of 217 it counts 217".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet ale-py==0.12.1 gymnasium==1.4.0 envpool==1.2.5 \
  opencv-python-headless==5.0.0.93 numpy==2.4.6
cat > "$folder/finding.py" <<'END'
import ale_py
import envpool
import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers import AtariPreprocessing
from gymnasium.wrappers.vector import RecordEpisodeStatistics

ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
gymnasium.register_envs(ale_py)
EPISODES = 7


def single():
    """The lives at the start of each episode."""
    env = AtariPreprocessing(gymnasium.make("BreakoutNoFrameskip-v4"), terminal_on_life_loss=True)
    rng, lives = np.random.default_rng(0), []
    for episode in range(EPISODES):
        lives.append(env.reset(seed=1 if episode == 0 else None)[1]["lives"])
        over = False
        while not over:
            _, _, terminated, truncated, _ = env.step(int(rng.integers(4)))
            over = terminated or truncated
    return lives


def vector(env, mode):
    """The lives at the start of each episode; the step after each end of one but the last, as info; and all steps."""
    rng, lives, after, infos = np.random.default_rng(0), [], [], [env.reset()[1]]
    ends, over = 0, True
    while ends < EPISODES:
        if over and mode == AutoresetMode.NEXT_STEP and ends:  # by the rule the step that resets
            infos.append(env.step(rng.integers(4, size=1))[4])
            after.append((infos[-2], infos[-1]))
        if over:
            lives.append(int(infos[-1]["lives"][0]))
        _, _, terminated, truncated, info = env.step(rng.integers(4, size=1))
        infos.append(info)
        over = bool(terminated[0] or truncated[0])
        ends += over
    return lives, after, infos[1:]


def ale(mode=AutoresetMode.NEXT_STEP, **options):
    env = gymnasium.make_vec("ALE/Breakout-v5", 1, repeat_action_probability=0, autoreset_mode=mode, **options)
    env.reset(seed=1)
    return vector(RecordEpisodeStatistics(env), mode)


def counted(infos):
    return sum(int(info["episode"]["l"][0]) for info in infos if "episode" in info)


all_lives, same_game = [5] * EPISODES, [5, 4, 3, 2, 1, 5, 4]
lives = single()
print("terminal_on_life_loss", lives)
assert lives == all_lives
lives, _, _ = ale(episodic_life=True)
print("episodic_life", lives)
assert lives == all_lives
pool = envpool.make_gymnasium("Breakout-v5", num_envs=1, episodic_life=True, seed=1)
lives, _, _ = vector(pool, AutoresetMode.NEXT_STEP)
print("EnvPool's episodic_life", lives)
assert lives == same_game
lives, after, infos = ale(life_loss_info=True)
same_lives, _, same_infos = ale(AutoresetMode.SAME_STEP, life_loss_info=True)
print(f"life_loss_info {lives}; in SAME_STEP {same_lives}")
assert lives == same_lives == same_game
played = [int(new["frame_number"][0] - old["frame_number"][0]) for old, new in after if old["lives"][0] > 0]
steps, count = len(infos), counted(infos)
same_steps, same_count = len(same_infos), counted(same_infos)
print(
    f"steps after the end of a life: {played.count(4)} of {len(played)} play 4 frames; of {steps} steps of {EPISODES} "
    f"episodes RecordEpisodeStatistics counts {count}; in SAME_STEP of {same_steps} it counts {same_count}"
)
assert played == [4] * 5 and count == steps - len(after) and same_count == same_steps
END
"$folder/venv/bin/python" "$folder/finding.py"
