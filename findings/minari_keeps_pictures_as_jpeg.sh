#!/usr/bin/env bash
# Minari 0.5.4 with ale-py 0.12.1: what a dataset holds of uint8 observations of at least 32 x 32 is a JPEG of each,
# though data_format is hdf5. A quarter of the values of Breakout's screens are others after it, and a third of those
# of the 84 x 84 gray ones, off by up to 29 of 255. The order of a stack's axes decides: (4, 84, 84) is kept to the
# bit, (84, 84, 3) is taken for red, green and blue, whose colors JPEG blurs over four pixels, so that the present
# shines through in the past, and (84, 84, 4) cannot be saved at all. A model that learns from these never sees them
# when it plays, and an episode that is played again from its seed and its actions, which is how one tests a dataset,
# differs from it at the first observation. jpeg_encoding=False keeps them, until combine_datasets makes JPEGs of
# those, too. Guess: an array of bytes in HDF5 is the array, compressed without loss.
#
# Seen: "screens: 25 % others, by up to 97; gray 84 x 84: 38 %, 29; stack first: 0 %, 0; stack of 3 last: 39 %, 129;
# stack of 4 last: cannot write mode RGBA as JPEG; jpeg_encoding=False: 0 %; two such, combined: 25 %".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet minari==0.5.4 gymnasium==1.4.0 ale-py==0.12.1 numpy==2.4.6 h5py==3.16.0 \
    jax==0.10.2 pillow==13.0.0 opencv-python-headless==5.0.0.93
export MINARI_DATASETS_PATH="$folder/datasets"
cat > "$folder/finding.py" <<'END'
import warnings

import ale_py
import gymnasium
import minari
import numpy as np
from gymnasium.wrappers import AtariPreprocessing, FrameStackObservation, TransformObservation

warnings.simplefilter("ignore")  # Minari asks for an author of each dataset
ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
gymnasium.register_envs(ale_py)


def screens():
    return gymnasium.make("ALE/Breakout-v5")


def gray():
    return AtariPreprocessing(gymnasium.make("ALE/Breakout-v5", frameskip=1))


def stack_first():
    return FrameStackObservation(gray(), 4)


def stack_last(frames):
    space = gymnasium.spaces.Box(0, 255, (84, 84, frames), np.uint8)
    stack = FrameStackObservation(gray(), frames)
    return TransformObservation(stack, lambda observation: np.moveaxis(observation, 0, -1), space)


def collected(name, env, **options):
    """The dataset of one episode, and the observations that the agent saw."""
    env = minari.DataCollector(env, data_format="hdf5", **options)
    env.action_space.seed(1)
    seen = [env.reset(seed=1)[0].copy()]
    for _ in range(60):
        seen.append(env.step(env.action_space.sample())[0].copy())
    data = env.create_dataset(f"{name}-v0")
    env.close()
    return data, np.stack(seen)


def difference(data, seen):
    kept = data[0].observations
    assert kept.shape == seen.shape and kept.dtype == seen.dtype == np.uint8
    apart = np.abs(kept.astype(int) - seen)
    return round(100 * float((apart > 0).mean())), int(apart.max())


of_screens = difference(*collected("screens", screens()))
of_gray = difference(*collected("gray", gray()))
of_first = difference(*collected("first", stack_first()))
of_three = difference(*collected("three", stack_last(3)))
try:
    collected("four", stack_last(4))
    error = None
except OSError as raised:
    error = raised
exact, seen = collected("exact", screens(), jpeg_encoding=False)
of_exact = difference(exact, seen)
of_combined = difference(minari.combine_datasets([exact, exact], "combined-v0"), seen)

print(
    f"screens: {of_screens[0]} % others, by up to {of_screens[1]}; gray 84 x 84: {of_gray[0]} %, {of_gray[1]}; stack "
    f"first: {of_first[0]} %, {of_first[1]}; stack of 3 last: {of_three[0]} %, {of_three[1]}; stack of 4 last: {error}; "
    f"jpeg_encoding=False: {of_exact[0]} %; two such, combined: {of_combined[0]} %"
)
assert of_screens[0] > 10 and of_gray[0] > 20 and of_three[0] > 20 and of_three[1] > 64
assert of_first == of_exact == (0, 0) and of_combined == of_screens and "JPEG" in str(error)
END
"$folder/venv/bin/python" "$folder/finding.py"
