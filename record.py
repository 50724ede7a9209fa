"""A video of one evaluation game: every emulator frame and, beside it, what the network thinks."""

import math
import os
import zlib
from collections import deque
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np

from agent import Agent

EMULATOR_RATE = 60  # frames per second of game time
GIF_STRIDE = 3  # a GIF shows every third frame: its times are whole hundredths of a second
SCALE = 2  # of the screen
PANEL_WIDTH = 400
NAME_WIDTH = 78  # of an action
PICTURE_SCALE = 3  # of the network's 80x80 picture
FONT = cv2.FONT_HERSHEY_PLAIN, 0.8  # plain: few colours
CURVE_STEPS = 300  # agent steps in the curve of the value
COLOURS = 255  # of a GIF; one more is transparent
GREY_LEVELS = 64  # of that picture: with the screen's colours it must fit into those
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
        over = self.ale.game_over()  # the rest of a frame skip: the emulator stands still
        reward = self.ale.act(*arguments)
        if not over:
            self.on_frame(self.ale.getScreenRGB())
        return reward


class Video:
    """An .mp4 with EMULATOR_RATE frames per second, or a .gif with every GIF_STRIDE-th of them.

    Written aside and renamed when it is complete. A GIF is encoded at the end: only with one
    palette for all its pictures does the encoder leave out what has not changed (a fifth remains).
    """

    def __init__(self, path: Path, height: int, width: int):
        import av

        self.av, self.path = av, path
        self.aside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        form = path.suffix[1:].lower()
        self.gif = form == "gif"
        self.container = av.open(str(self.aside), "w", format=form)
        rate = Fraction(EMULATOR_RATE, GIF_STRIDE if self.gif else 1)
        self.stream = self.container.add_stream("gif" if self.gif else "libx264", rate=rate)
        self.stream.height, self.stream.width = height, width
        self.stream.pix_fmt = "pal8" if self.gif else "yuv420p"
        if not self.gif:
            self.stream.options = {"crf": "18", "preset": "fast"}
        self.palette = Palette()
        self.pictures: list[bytes] = []  # of a GIF, packed
        self.frames = 0  # of the emulator

    def add(self, picture: np.ndarray) -> None:
        """One emulator frame, (height, width, 3) uint8."""
        self.frames += 1
        if not self.gif:
            frame = self.av.VideoFrame.from_ndarray(picture, format="rgb24")
            self.container.mux(self.stream.encode(frame))
        elif (self.frames - 1) % GIF_STRIDE == 0:
            self.pictures.append(zlib.compress(self.palette.index(picture), level=1))

    def close(self, should_stop: Callable[[], bool] = lambda: False) -> bool:
        """Whether the file is written, and not stopped before."""
        shape = self.stream.height, self.stream.width
        for packed in self.pictures:
            if should_stop():
                return False
            index = np.frombuffer(zlib.decompress(packed), np.uint8).reshape(shape)
            frame = self.av.VideoFrame.from_ndarray((index, self.palette.colours), format="pal8")
            self.container.mux(self.stream.encode(frame))
        self.container.mux(self.stream.encode())
        self.container.close()
        os.replace(self.aside, self.path)
        return True

    def discard(self) -> None:
        try:
            self.container.close()  # writes the rest, or fails on a full disk
        finally:
            self.aside.unlink(missing_ok=True)


class Palette:
    """Up to COLOURS, in the order in which pictures bring them; later ones take the nearest.

    colours: (256, 4) uint8: alpha, red, green, blue. The last one is transparent: the encoder puts
        it where nothing has changed.
    """

    def __init__(self):
        self.colours = np.zeros((256, 4), np.uint8)
        self.colours[:COLOURS, 0] = 255
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
        if self.count == COLOURS:
            return int(((self.colours[:COLOURS, 1:].astype(int) - colour) ** 2).sum(1).argmin())
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
    cv2.putText(panel, text, (x, y), *FONT, TEXT, 1)


def record_game(
    path: Path,
    agent: Agent,
    seed: int,
    index: int,
    panel: bool,
    start: float = 0.0,
    seconds: float | None = None,
    on_step: Callable[[], None] = lambda: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> tuple[float, int, int] | None:
    """Play game `index` of an evaluation with that seed once more, into a video.

    panel: whether the network's mind is shown.
    start, seconds: the part that is shown, in seconds of the emulator's time; None: to the end.
    Returns score, agent steps and the video's emulator frames; None, and no file, if it was
    stopped. ValueError: the game ends before `start`.
    """
    begin = round(start * EMULATOR_RATE)
    end = math.inf if seconds is None else begin + max(1, round(seconds * EMULATOR_RATE))
    game_seed = agent.reset(seed, index)
    env = agent.make_env(seed=game_seed)
    screens: list[np.ndarray] = []
    env.unwrapped.ale = FrameTap(env.unwrapped.ale, screens.append)
    obs, info = env.reset(seed=game_seed)
    height, width = (SCALE * side for side in env.unwrapped.ale.getScreenDims())
    mind = Mind(agent.actions, height)
    video = Video(path, height, width + panel * PANEL_WIDTH)
    score, steps, frames, over = 0.0, 0, 0, False
    try:
        drawn = np.full((height, PANEL_WIDTH, 3), BACKGROUND, np.uint8)  # before the first thought
        while True:
            for screen in screens:
                if begin <= frames < end:
                    picture = screen.repeat(SCALE, 0).repeat(SCALE, 1)
                    video.add(np.concatenate([picture, drawn], 1) if panel else picture)
                frames += 1
            screens.clear()
            if over or should_stop():
                break
            action = agent.act(obs, info)
            if panel and agent.policy is not None:
                drawn = mind.draw(obs, agent.policy, action, agent.value)
            obs, reward, terminated, truncated, info = env.step(action)
            score, steps, over = score + float(reward), steps + 1, terminated or truncated
            on_step()
        if not over:
            return None
        if not video.frames:
            raise ValueError(
                f"game {index} ends after {frames / EMULATOR_RATE:.1f} seconds: nothing to record "
                f"from second {start:g} on"
            )
        return (score, steps, video.frames) if video.close(should_stop) else None
    finally:
        video.discard()
