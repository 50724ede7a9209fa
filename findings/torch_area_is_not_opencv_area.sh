#!/usr/bin/env bash
# PyTorch 2.13.0, OpenCV 5.0.0.93, Pillow 11.3.0: neither PyTorch nor Pillow has a mode that makes the 84 x 84 pixels
# that OpenCV's INTER_AREA makes of a screen of 210 x 160, from which Gymnasium's, ALE's and Stable-Baselines3's agents
# learn. The mode "area" of PyTorch's interpolate weighs whole pixels alone, and takes those at an edge fully into both
# of its sides; Pillow's BOX takes them into one. Where the size divides, as for 105 x 80, all three are alike, which
# is what a test with round numbers sees. A preprocessing that moves to the GPU, or loses its OpenCV, changes what the
# models of before see. INTER_AREA is the product of the screen with two matrices of shares, on any device, to a level.
# Guess: the mean of an area is one number, and they differ by rounding.
#
# Seen, the largest difference in levels of 255, and how many pixels of a screen differ by more than 8: "84 x 84: torch
# area 54, 520; torch bilinear with antialias 43, 386; Pillow BOX 65, 674; matrices 1, 0"; "105 x 80: torch area 1, 0;
# torch bilinear with antialias 52, 1111; Pillow BOX 1, 0; matrices 1, 0".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
# Where the index has builds for GPUs: --index-url of pytorch.org's CPU builds saves gigabytes.
"$folder/venv/bin/pip" install --quiet torch==2.13.0 opencv-python-headless==5.0.0.93 pillow==11.3.0 \
  ale-py==0.12.1 numpy==2.4.6
cat > "$folder/finding.py" <<'END'
import ale_py.roms
import cv2
import numpy as np
import torch
from PIL import Image
from torch.nn.functional import interpolate

ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
torch.set_num_threads(1)


def screens(game):
    """Each fiftieth screen, in gray."""
    ale = ale_py.ALEInterface()
    ale.setInt("random_seed", 1)
    ale.setFloat("repeat_action_probability", 0)
    ale.loadROM(ale_py.roms.get_rom_path(game))
    rng = np.random.default_rng(0)
    for frame in range(1000):
        ale.act(rng.choice(ale.getMinimalActionSet()))
        if frame % 50 == 49:
            yield ale.getScreenGrayscale()


def shares(size, new_size):
    """The share of each pixel in each of the new ones."""
    edges = np.arange(new_size + 1) * size / new_size
    pixels = np.arange(size)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return torch.from_numpy(overlap.clip(0) * new_size / size)  # (new_size, size)


def resized(screen, height, width):
    x = torch.from_numpy(screen)[None, None].double()
    yield "torch area", interpolate(x, (height, width), mode="area")
    yield "torch bilinear with antialias", interpolate(x, (height, width), mode="bilinear", antialias=True)
    yield "Pillow BOX", torch.from_numpy(np.array(Image.fromarray(screen).resize((width, height), Image.BOX)))
    yield "matrices", shares(210, height) @ x @ shares(160, width).T


for height, width in ((84, 84), (105, 80)):
    largest, many = {}, {}
    for game in ("pong", "breakout", "space_invaders", "ms_pacman"):
        for screen in screens(game):
            area = cv2.resize(screen, (width, height), interpolation=cv2.INTER_AREA)
            for name, new in resized(screen, height, width):
                difference = np.abs(new.reshape(height, width).double().round().numpy() - area)
                largest[name] = max(largest.get(name, 0), int(difference.max()))
                many.setdefault(name, []).append((difference > 8).sum())
    print(f"{height} x {width}:", "; ".join(f"{name} {largest[name]}, {np.mean(many[name]):.0f}" for name in largest))
    alike = {name for name in largest if largest[name] <= 1}
    assert alike == ({"matrices"} if height == 84 else {"torch area", "Pillow BOX", "matrices"}), alike
    assert height != 84 or all(np.mean(many[name]) > 200 for name in largest if name != "matrices")
END
"$folder/venv/bin/python" "$folder/finding.py"
