#!/usr/bin/env bash
# ale-py 0.12.1 on Linux: render_mode="human" where there is no screen raises nothing. SDL falls back to its offscreen
# driver, and the game runs at the speed of a television, out of anybody's sight: a program that waits for an error to
# tell "no screen" waits for the whole game. Guess: an exception when the environment is made, as pygame's window gives.
#
# Seen: "120 frames in 1.7 s, no error" (a frame without a window takes less than a millisecond).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet ale-py==0.12.1 gymnasium==1.4.0
unset DISPLAY WAYLAND_DISPLAY SDL_VIDEODRIVER
SDL_AUDIODRIVER=dummy "$folder/venv/bin/python" - <<'END'
import time
import ale_py
import gymnasium

gymnasium.register_envs(ale_py)
env = gymnasium.make("ALE/Pong-v5", render_mode="human", frameskip=1)
env.reset(seed=1)
start = time.monotonic()
for _ in range(120):
    env.step(0)
seconds = time.monotonic() - start
print(f"120 frames in {seconds:.1f} s, no error")
assert seconds > 1.5, "it no longer keeps the speed of a window"
END
