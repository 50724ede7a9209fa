#!/usr/bin/env bash
# ale-py 0.12.1 with Gymnasium 1.4.0: no observation of ALE/Asteroids-v5, made as it is registered, shows an asteroid.
# The game draws its rocks in one frame and the ship with its shots in the next, in turn; the id plays four frames a
# step and shows the last one alone, so whole games are seen of which every picture has the ship at most. (Where an odd
# number of frames is played, three or two to four at random, the pictures show now the one and now the other, never
# both.) An agent without a memory cannot see what it is to shoot and to avoid, and one with a memory cannot, either;
# scores, rewards and the picture's type are as ever, and random play scores a thousand points. Wrappers that take the
# maximum of two frames (AtariPreprocessing over frameskip=1) show both. Guess: something flickers here and there, and
# what a picture lacks is in the next one.
#
# Seen, of the same five games of random actions: "ALE/Asteroids-v5: 6034 observations, with the ship 2033, with rocks
# 0, with both 0; with the maximum of two frames, of 6034: ship 2032, rocks 5983, both 2021".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet ale-py==0.12.1 gymnasium==1.4.0 numpy==2.4.6
cat > "$folder/finding.py" <<'END'
import ale_py
import gymnasium
import numpy as np

ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
gymnasium.register_envs(ale_py)
FIELD = slice(20, 190)  # rows of the screen below the score
SHIP = np.array([240, 128, 128])  # rocks have other colours, and more than ten pixels, as a shot has not


class TwoFrames(gymnasium.Wrapper):
    """Four frames a step, shown as the maximum of the last two."""

    def step(self, action):
        screens, total = [], 0.0
        for _ in range(4):
            screen, reward, terminated, truncated, info = self.env.step(action)
            screens.append(screen)
            total += reward
            if terminated or truncated:
                break
        return np.max(screens[-2:], axis=0), total, terminated, truncated, info


def seen(env):
    """Observations of five games of random actions; of them with the ship, with rocks, with both."""
    counts = np.zeros(4, int)
    for seed in range(1, 6):
        env.reset(seed=seed)
        random, over = np.random.default_rng(seed), False
        while not over:
            screen, _, terminated, truncated, _ = env.step(int(random.integers(env.action_space.n)))
            over = terminated or truncated
            pixels = screen[FIELD].reshape(-1, 3)
            of_ship = (pixels == SHIP).all(1)
            ship, rocks = of_ship.any(), (pixels.any(1) & ~of_ship).sum() > 10
            counts += 1, ship, rocks, ship and rocks
    return counts.tolist()


steps, ship, rocks, both = seen(gymnasium.make("ALE/Asteroids-v5"))
print(f"ALE/Asteroids-v5: {steps} observations, with the ship {ship}, with rocks {rocks},")
print(f"with both {both}; ", end="")
assert ship > 1000 and rocks == both == 0, "the rocks are seen"
steps, ship, rocks, both = seen(TwoFrames(gymnasium.make("ALE/Asteroids-v5", frameskip=1)))
print(f"with the maximum of two frames, of {steps}: ship {ship}, rocks {rocks}, both {both}")
assert rocks > 4000 and both > 1000
END
"$folder/venv/bin/python" "$folder/finding.py"
