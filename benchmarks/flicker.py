"""Which games draw objects in alternate frames, so that the last frame of a step lacks some.

    python benchmarks/flicker.py                    # all games, 300 steps of random play each
    python benchmarks/flicker.py --game ms_pacman

A step blinks if a spot of at least 12 pixels differs between its last two frames by more than 20
grey levels and not between the last one and the one two before: it was drawn and is not, or the
other way round, and has not moved. Printed is the share of such steps, and how many pixels blink in
one, on average. `"flicker": true` of the crop table shows both frames at once.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import utils  # isort: skip  # before torch: sets the number of threads

import ale_py
import cv2
import numpy as np
from ale_py import roms

from environment import known_env_ids, parse_env_id

SPOT = 12  # pixels
GREY = 20  # levels
FRAMES = 3  # of a step; that of a -v0 id has 2 to 4


def blinking(frames: list[np.ndarray]) -> int:
    """Pixels in spots that blink in these three frames, grey, in order."""
    before, between, last = (frame.astype(np.int16) for frame in frames)
    mask = (np.abs(between - last) > GREY) & (np.abs(before - last) <= GREY)
    areas = cv2.connectedComponentsWithStats(mask.astype(np.uint8))[2][1:, cv2.CC_STAT_AREA]
    return int(areas[areas >= SPOT].sum())


def look(game: str, steps: int, seed: int = 1) -> tuple[float, float]:
    """Share of steps that blink, and pixels that do in one that does; random play."""
    ale = ale_py.ALEInterface()
    ale.setInt("random_seed", seed)
    ale.setFloat("repeat_action_probability", 0.0)
    ale.loadROM(roms.get_rom_path(game))
    random, actions = np.random.default_rng(seed), ale.getMinimalActionSet()
    found = []
    for _ in range(steps):
        action, frames = actions[random.integers(len(actions))], []
        for _ in range(FRAMES):
            if ale.game_over():
                ale.reset_game()
            ale.act(action)
            frames.append(ale.getScreenGrayscale())
        found.append(blinking(frames))
    blinks = [pixels for pixels in found if pixels]
    return len(blinks) / steps, float(np.mean(blinks)) if blinks else 0.0


def main() -> None:
    parser = utils.LineParser(prog=Path(__file__).name, description=__doc__.split("\n")[0])
    parser.add_argument("--game", nargs="+", metavar="NAME", help="ale-py's names (default: all)")
    parser.add_argument("--steps", type=utils.positive_int, default=300, help="of each game")
    args = parser.parse_args()
    known = {parse_env_id(env_id).game for env_id in known_env_ids()}
    if unknown := sorted(set(args.game or ()) - known):
        parser.error(f"{unknown[0]}: no game of ale-py that this suite plays")
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    shares = {game: look(game, args.steps) for game in sorted(args.game or known)}
    for game, (share, pixels) in sorted(shares.items(), key=lambda item: -item[1][0]):
        print(f"{game}: {100 * share:.0f} % of the steps, {pixels:.0f} pixels", flush=True)


if __name__ == "__main__":
    main()
