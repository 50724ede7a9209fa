"""A video of one evaluation game: every emulator frame and, beside it, what the network thinks."""

import os
from collections import deque
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import cv2
import gymnasium as gym
import numpy as np
import torch

from environment import Normalizer
from network import make_network
from player import BLOCK, Game, Player

EMULATOR_RATE = 60  # frames per second of game time
GIF_STRIDE = 3  # a GIF shows every third frame: its times are whole hundredths of a second
SCALE = 2  # of the screen
PANEL_WIDTH = 400
NAME_WIDTH = 78  # of an action
PICTURE_SCALE = 3  # of the network's 80x80 picture
CURVE_STEPS = 300  # agent steps in the curve of the value
GREY_LEVELS = 64  # of that picture: with the screen's colours it must fit a GIF's 256
BACKGROUND, FRAME, TEXT, BAR, CHOSEN = (  # RGB
    (16, 16, 16), (72, 72, 72), (220, 220, 220), (86, 180, 233), (230, 159, 0)
)  # fmt: skip


class FrameTap:
    """ale-py's interface, which also hands each new screen (210, 160, 3) to `on_frame`."""

    def __init__(self, ale, on_frame: Callable[[np.ndarray], None]):
        self.ale, self.on_frame = ale, on_frame

    def __getattr__(self, name: str):
        return getattr(self.ale, name)

    def act(self, *arguments):
        reward = self.ale.act(*arguments)
        self.on_frame(self.ale.getScreenRGB())
        return reward


class Video:
    """An .mp4 with EMULATOR_RATE frames per second, or a .gif with every GIF_STRIDE-th of them.

    Written aside and renamed when it is complete.
    """

    def __init__(self, path: Path, height: int, width: int):
        import av

        self.av, self.path = av, path
        self.aside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        self.gif = path.suffix == ".gif"
        self.container = av.open(str(self.aside), "w", format=path.suffix[1:])
        rate = Fraction(EMULATOR_RATE, GIF_STRIDE if self.gif else 1)
        self.stream = self.container.add_stream("gif" if self.gif else "libx264", rate=rate)
        self.stream.height, self.stream.width = height, width
        self.stream.pix_fmt = "pal8" if self.gif else "yuv420p"
        if not self.gif:
            self.stream.options = {"crf": "18", "preset": "fast"}
        self.palette = Palette()
        self.frames = 0  # of the emulator

    def add(self, picture: np.ndarray) -> None:
        """One emulator frame, (height, width, 3) uint8."""
        self.frames += 1
        if self.gif and (self.frames - 1) % GIF_STRIDE:
            return
        if self.gif:
            indexed = self.palette.index(picture), self.palette.colours
            frame = self.av.VideoFrame.from_ndarray(indexed, format="pal8")
        else:
            frame = self.av.VideoFrame.from_ndarray(picture, format="rgb24")
        self.container.mux(self.stream.encode(frame))

    def close(self) -> None:
        self.container.mux(self.stream.encode())
        self.container.close()
        os.replace(self.aside, self.path)

    def discard(self) -> None:
        self.container.close()
        self.aside.unlink(missing_ok=True)


class Palette:
    """Up to 256 colours, in the order in which pictures bring them; later ones take the nearest.

    colours: (256, 4) uint8: alpha, red, green, blue.
    """

    def __init__(self):
        self.colours = np.zeros((256, 4), np.uint8)
        self.colours[:, 0] = 255
        self.count = 0
        self.table = np.full(2**24, -1, np.int16)  # RGB as one number: index

    def index(self, picture: np.ndarray) -> np.ndarray:
        """(height, width) uint8 of a picture (height, width, 3) uint8."""
        red, green, blue = picture.astype(np.int32).transpose(2, 0, 1)
        codes = red << 16 | green << 8 | blue
        found = self.table[codes]
        if (found < 0).any():
            for code in np.unique(codes[found < 0]).tolist():
                self.table[code] = self._add(code)
            found = self.table[codes]
        return found.astype(np.uint8)

    def _add(self, code: int) -> int:
        colour = np.array([code >> 16, code >> 8 & 255, code & 255])
        if self.count == 256:
            return int(((self.colours[:, 1:].astype(int) - colour) ** 2).sum(1).argmin())
        self.colours[self.count, 1:] = colour
        self.count += 1
        return self.count - 1


class Mind:
    """Draws what the network sees, its policy and the value it expected, (height, PANEL_WIDTH, 3).

    actions: their names.  height: of the panel, in pixels.
    """

    def __init__(self, actions: list[str], height: int):
        self.actions, self.height = actions, height
        self.values: deque[float] = deque(maxlen=CURVE_STEPS)

    def draw(self, picture: np.ndarray, policy: np.ndarray, action: int, value: float):
        """picture: (80, 80) uint8; policy: (actions,) probabilities; action: the chosen one."""
        self.values.append(value)
        panel = np.full((self.height, PANEL_WIDTH, 3), BACKGROUND, np.uint8)
        size = 80 * PICTURE_SCALE
        grey = picture // (256 // GREY_LEVELS) * (256 // GREY_LEVELS)
        shown = cv2.resize(grey, (size, size), interpolation=cv2.INTER_NEAREST)
        write(panel, "input", 8, 14)
        panel[20 : 20 + size, 8 : 8 + size] = shown[..., None]
        left, top = size + 20, 20
        write(panel, "policy", left, 14)
        for i, (name, p) in enumerate(zip(self.actions, policy, strict=True)):
            y = top + i * size // max(len(self.actions), 10)
            width = round(p * (PANEL_WIDTH - left - NAME_WIDTH - 8))
            bar = (left + NAME_WIDTH, y + 2), (left + NAME_WIDTH + width, y + 9)
            cv2.rectangle(panel, *bar, CHOSEN if i == action else BAR, -1)
            write(panel, name.lower(), left, y + 10)
        self._draw_values(panel, top + size + 12)
        return panel

    def _draw_values(self, panel: np.ndarray, top: int) -> None:
        left, right, bottom = 8, PANEL_WIDTH - 8, self.height - 10
        low, high = min(*self.values, 0.0), max(*self.values, 0.0)
        high = max(high, low + 0.1)
        write(panel, f"value {self.values[-1]:+.2f}   from {low:.2f} to {high:.2f}", left, top + 8)
        top += 16
        cv2.rectangle(panel, (left, top), (right, bottom), FRAME, 1)
        values = np.array(self.values)
        x = left + np.arange(len(values)) * (right - left) / (CURVE_STEPS - 1)
        y = bottom - (values - low) * (bottom - top) / (high - low)
        points = np.rint(np.stack([x, y], 1)).astype(np.int32)
        cv2.polylines(panel, [points], False, BAR, 1)


def write(panel: np.ndarray, text: str, x: int, y: int) -> None:
    cv2.putText(panel, text, (x, y), cv2.FONT_HERSHEY_PLAIN, 0.8, TEXT, 1)  # plain: few colours


def record_game(
    path: Path,
    model,
    env: gym.Env,
    index: int,
    seed: np.random.SeedSequence,
    normalizer: Normalizer | None,
    count_lives: bool,
    greedy: bool,
    panel: bool,
    on_step: Callable[[], None] = lambda: None,
    should_stop: Callable[[], bool] = lambda: False,
    plain: bool = False,
) -> tuple[float, int, int] | None:
    """Play game `index` of an evaluation once more, as play_games plays it, into a video.

    env: made with this game's seed.  panel: whether the network's mind is shown.
    Returns score, agent steps and emulator frames; None, and no file, if it was stopped.
    """
    frames: list[np.ndarray] = []
    env.unwrapped.ale = FrameTap(env.unwrapped.ale, frames.append)
    games = [Game(None, None)] * BLOCK
    row = index % BLOCK  # a row's last bits depend on its place
    games[row] = game = Game(env, normalizer)
    player = Player(make_network(model, BLOCK, 0, plain), games, count_lives)
    player.start(row, seed)
    height, width = (SCALE * side for side in env.unwrapped.ale.getScreenDims())
    mind = Mind(env.get_wrapper_attr("action_meanings"), height)
    video = Video(path, height, width + panel * PANEL_WIDTH)
    try:
        drawn = np.full((height, PANEL_WIDTH, 3), BACKGROUND, np.uint8)  # for frames of the reset
        while True:
            for frame in frames:
                screen = frame.repeat(SCALE, 0).repeat(SCALE, 1)
                video.add(np.concatenate([screen, drawn], 1) if panel else screen)
            frames.clear()
            if game.over or should_stop():
                break
            seen = game.frame
            step = player.step(greedy)
            on_step()
            if panel:
                policy = torch.softmax(step.logit[row], 0).numpy()
                drawn = mind.draw(seen, policy, int(step.action[row]), float(step.value[row]))
        if not game.over:
            return None
        video.close()
        return game.score, game.length, video.frames
    finally:
        video.discard()
