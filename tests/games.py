"""Small games for tests: 80x80 uint8 pictures, as environment.make_env gives, and known answers.

Everything here pickles, so that it can be sent to worker processes.
"""

import functools
import os
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import gymnasium as gym
import numpy as np


def unseeded(make: Callable[[], gym.Env]) -> Callable[..., gym.Env]:
    """`make` as play_games and train call it, with the seed of the first game."""
    return functools.partial(_make_unseeded, make)


def _make_unseeded(make, seed=None):
    return make()


class Game(gym.Env):
    """Base of the games below: their spaces, and pictures of noise that never repeat."""

    observation_space = gym.spaces.Box(0, 255, (80, 80), np.uint8)

    def __init__(self, num_actions: int):
        self.action_space = gym.spaces.Discrete(num_actions)
        self.action_meanings = [f"ACTION{i}" for i in range(num_actions)]


def noise(*key: int) -> np.ndarray:
    """(80, 80) uint8 picture, another one for each key."""
    return np.random.default_rng(key).integers(0, 256, (80, 80), dtype=np.uint8)


class Event(NamedTuple):
    """What one step of a scripted game brings; the lives are those after the step."""

    reward: float = 0.0
    lives: int = 3
    terminated: bool = False
    truncated: bool = False


class Scripted(Game):
    """Plays the same sequence of games over and over, whatever the actions.

    Picture t of the g-th game played is noise(key, g, t); t = 0 is what the reset shows.
    """

    def __init__(self, key: int, games: Sequence[Sequence[Event]], num_actions: int = 3):
        super().__init__(num_actions)
        self.key = key
        self.games = games
        self.game = -1

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.game += 1
        self.time = 0
        return noise(self.key, self.game, 0), {"lives": Event().lives}

    def step(self, action):
        event = self.games[self.game % len(self.games)][self.time]
        self.time += 1
        picture = noise(self.key, self.game, self.time)
        return picture, event.reward, event.terminated, event.truncated, {"lives": event.lives}


class Endless(Game):
    """Reward 1 at every step for ever; cut, not ended, after `limit` steps."""

    def __init__(self, limit: int):
        super().__init__(num_actions=2)
        self.limit = limit

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return noise(0), {}

    def step(self, action):
        self.time += 1
        return noise(0), 1.0, False, self.time == self.limit, {}


class Recall(Game):
    """A cue says which action will be right, some steps later; only memory can tell.

    A game has TRIALS trials. A trial: the cue, one bright quarter of the picture; 1 or 2 empty
    pictures; the question, which looks the same after both cues. The answer scores 1 if right and
    -1 if wrong; all other actions do nothing. The best score is TRIALS; by chance it is 0.
    """

    TRIALS = 8

    def __init__(self):
        super().__init__(num_actions=2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.pictures = []  # one per step: (cue shown or None, is it the question, cue)
        for cue in self.np_random.integers(0, 2, self.TRIALS):
            delay = self.np_random.integers(1, 3)
            self.pictures += [(cue, False, cue)] + [(None, False, cue)] * delay
            self.pictures += [(None, True, cue)]
        self.time = 0
        return self.picture(), {}

    def picture(self) -> np.ndarray:
        cue_shown, question, _ = self.pictures[min(self.time, len(self.pictures) - 1)]
        picture = np.zeros((80, 80), np.uint8)
        if cue_shown is not None:  # upper left or lower right
            picture[40 * cue_shown :, 40 * cue_shown :][:40, :40] = 255
        if question:
            picture[36:44, 36:44] = 255
        return picture

    def step(self, action):
        _, question, cue = self.pictures[self.time]
        self.time += 1
        reward = (1.0 if action == cue else -1.0) if question else 0.0
        return self.picture(), reward, self.time == len(self.pictures), False, {}


class Generous(Recall):
    """Recall that pays 1 at every step, but -1 for a wrong answer, and is cut, not ended.

    With gamma 0.97 the return of right answers is 33 in every state.
    """

    def step(self, action):
        picture, answer, over, _, info = super().step(action)
        return picture, answer or 1.0, False, over, info


class Diary:
    """Appends what it is called with to a file of the calling process; see read_diaries."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __call__(self, entry: tuple) -> None:
        with open(self.folder / f"{os.getpid()}.diary", "ab") as file:
            pickle.dump(entry, file)


def read_diaries(folder: Path) -> list[list[tuple]]:
    """The entries of each process, in the order in which it wrote them."""
    diaries = []
    for path in sorted(folder.glob("*.diary")):
        diaries.append([])
        with open(path, "rb") as file:
            while file.peek(1):
                diaries[-1].append(pickle.load(file))
    return diaries


class Recorded(gym.Wrapper):
    """Writes down all that happens in an environment:

    ("reset", which, picture, lives) and
    ("step", which, action, picture, reward, lives, terminated, truncated).
    """

    def __init__(self, env: gym.Env, write: Callable[[tuple], None]):
        super().__init__(env)
        self.write = write

    def reset(self, *, seed=None, options=None):
        picture, info = self.env.reset(seed=seed, options=options)
        self.write(("reset", id(self), picture, info.get("lives", 0)))
        return picture, info

    def step(self, action):
        picture, reward, terminated, truncated, info = self.env.step(action)
        lives = info.get("lives", 0)
        self.write(("step", id(self), action, picture, reward, lives, terminated, truncated))
        return picture, reward, terminated, truncated, info


def recorded_scripted(write, key: int, games, num_actions: int = 3) -> Recorded:
    return Recorded(Scripted(key, games, num_actions), write)
