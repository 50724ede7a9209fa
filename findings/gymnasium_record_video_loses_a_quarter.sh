#!/usr/bin/env bash
# Gymnasium 1.4.0's RecordVideo with moviepy 2.2.1, by which it writes, and ale-py 0.12.1: a quarter of an episode's
# frames are not in the video. In place of each the one before is shown once more, so that the length looks right; of
# some lengths the very last is missing, too. moviepy finds each frame anew by comparing two sums of 1 / fps, which
# round apart, the more the longer the video is. Who looks for what the agent saw when it died, takes videos as data for
# imitation, or lays actions or values beside them, has pairs that do not belong together. And ALE says 30 frames per
# second whatever the frame skip: Pong-v5's video, of each fourth frame of 60, runs at twice the speed of the game, that
# of PongNoFrameskip-v4 at half of it; fps= corrects this, and does not bring the frames back. Guess: what was rendered
# is in the video, once, in its order, and at 30 or 60 frames per second there is nothing to round.
#
# Seen, of 601 frames that were rendered and numbered: "ALE/Pong-v5: 601 in the video, 445 different, lost [74, 89, 104,
# 119, 134, 149, 164, 179] and more; 40.0 s of the game in 20.0 s"; "PongNoFrameskip-v4: 601 in the video, 445
# different, lost [74, 89, 104, 119, 134, 149, 164, 179] and more; 10.0 s of the game in 20.0 s"; "with fps=60: 601 in
# the video, 433 different".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet gymnasium==1.4.0 moviepy==2.2.1 imageio-ffmpeg==0.8.1 ale-py==0.12.1 \
  numpy==2.4.6 av==18.1.0
cat > "$folder/finding.py" <<'END'
import os
import sys

import ale_py
import av
import gymnasium
from gymnasium.wrappers import RecordVideo

ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
gymnasium.register_envs(ale_py)
STEPS, BITS, SIDE = 600, 10, 16


class Numbered(gymnasium.Wrapper):
    """Paints the count of the steps over the top of the picture, a square for each bit."""

    def reset(self, **options):
        self.count = 0
        return self.env.reset(**options)

    def step(self, action):
        self.count += 1
        return self.env.step(action)

    def render(self):
        picture = self.env.render().copy()
        for bit in range(BITS):
            picture[:SIDE, bit * SIDE : (bit + 1) * SIDE] = 255 * (self.count >> bit & 1)
        return picture


def number(picture):
    middle = SIDE // 2
    return sum(int(picture[middle, bit * SIDE + middle] > 128) << bit for bit in range(BITS))


def recorded(name, fps=None):
    """The numbers of the frames in the video, its seconds, and those of the game at 60 frames per second."""
    folder = os.path.join(sys.argv[1], f"{os.path.basename(name)}-{fps}")
    env = gymnasium.make(name, render_mode="rgb_array")
    env = RecordVideo(Numbered(env), folder, fps=fps, disable_logger=True)
    env.reset(seed=1)
    for _ in range(STEPS):
        _, _, terminated, truncated, info = env.step(0)
        assert not terminated and not truncated
    env.close()
    (file,) = os.listdir(folder)
    with av.open(os.path.join(folder, file)) as video:
        numbers = [number(frame.to_ndarray(format="gray")) for frame in video.decode(video=0)]
        seconds = len(numbers) / video.streams.video[0].average_rate
    return numbers, round(float(seconds), 1), round(info["episode_frame_number"] / 60, 1)


for name, played in ("ALE/Pong-v5", 40.0), ("PongNoFrameskip-v4", 10.0):
    numbers, seconds, of_game = recorded(name)
    lost = sorted(set(range(STEPS + 1)) - set(numbers))
    print(
        f"{name}: {len(numbers)} in the video, {len(set(numbers))} different, lost {lost[:8]} and more; "
        f"{of_game} s of the game in {seconds} s"
    )
    assert len(numbers) in (STEPS, STEPS + 1) and numbers == sorted(numbers)
    assert len(lost) > STEPS / 5 and all(n - 1 in numbers for n in lost)
    assert (of_game, seconds) == (played, 20.0)
numbers, _, _ = recorded("PongNoFrameskip-v4", fps=60)
print(f"with fps=60: {len(numbers)} in the video, {len(set(numbers))} different")
assert len(set(numbers)) < STEPS * 4 / 5
END
"$folder/venv/bin/python" -W ignore "$folder/finding.py" "$folder"
