"""Environment ids, the emulator, its wrappers, the crop table and the normaliser.

The ids keep the semantics of the gym releases that made them (0.8-0.9), on today's ale-py:

    id                          frame skip        sticky     time limit
    X-v0                        2, 3 or 4         0.25       10 000 agent steps
    X-v3, X-v4                  2, 3 or 4         0          100 000 agent steps
    XDeterministic-v0/-v3/-v4   4                 0.25/0/0   100 000 agent steps
    XNoFrameskip-v0/-v3/-v4     1, suite skips    0.25/0/0   400 000 frames
    ALE/X-v5                    4                 0.25       27 000 agent steps

SpaceInvaders skips 3 instead of 4, because 4 hides its lasers: 300 000 frames.
"""

import difflib
import json
import os
import re
import sys
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import ale_py
import cv2
import gymnasium as gym
import numpy as np
from ale_py import roms
from ale_py.env import AtariEnv
from ale_py.registration import rom_id_to_name
from gymnasium.wrappers import TimeLimit

# The ROMs of ale-py whose games want several players.
MULTI_PLAYER = ("combat", "joust", "maze_craze", "warlords")
IDLE_STEPS = 10_000  # agent steps, 11 minutes of play; see idle_limit
SKIP_RATE = 4  # frames per agent step of NoFrameskip ids, if nothing else is said
STICKY = 0.25  # probability, per frame, that the emulator repeats the last action
WINDOW = 160  # rows; the crop of the table is crop1 : crop2 + WINDOW
SIZE = 80  # pixels, height and width of an observation
OBS_SHAPE = (1, SIZE, SIZE)  # of what a network sees
MAX_NOOPS = 30  # frames, at the start of a NoFrameskip game
FIRE_PRESSES = 2  # a sticky action swallows one press in 40; two did in each of 60 games
DECAY = 0.9999  # per frame, of the normaliser's running statistics
HELD_FROM = 100  # frames; see Normalizer.hold
NO_WINDOW = "--record FILE writes a video instead"
CONFIG_KEYS = {"crop1", "crop2", "dimension2", "fire", "flicker", "actions"}


# ---------------------------------------------------------------------------------------------
# Ids


class EnvSpec(NamedTuple):
    """Everything that an id says."""

    env_id: str
    game: str  # ale-py's name of the ROM: "space_invaders"
    frame_skip: int | tuple[int, int]  # (2, 5) is uniform on {2, 3, 4}, as in gymnasium
    repeat_action_probability: float  # per frame
    time_limit: int  # agent steps; frames if no_frameskip
    no_frameskip: bool


@lru_cache(1)
def _specs() -> dict[str, EnvSpec]:
    """Every known id; needs ale-py's list of ROMs, loads none."""
    specs = []
    for game in sorted(set(roms.get_all_rom_ids()) - set(MULTI_PLAYER)):
        name = rom_id_to_name(game)
        skip = 3 if game == "space_invaders" else 4
        for version, sticky in (("v0", STICKY), ("v3", 0.0), ("v4", 0.0)):
            limit = 10_000 if version == "v0" else 100_000
            specs += [
                EnvSpec(f"{name}-{version}", game, (2, 5), sticky, limit, False),
                EnvSpec(f"{name}Deterministic-{version}", game, skip, sticky, 100_000, False),
                EnvSpec(f"{name}NoFrameskip-{version}", game, 1, sticky, skip * 100_000, True),
            ]
        # ale-py's limit is 108 000 frames.
        specs.append(EnvSpec(f"ALE/{name}-v5", game, 4, STICKY, 108_000 // 4, False))
    return {spec.env_id: spec for spec in specs}


def known_env_ids() -> list[str]:
    """Every id of every family, for every single-player game."""
    return list(_specs())


def parse_env_id(env_id: str) -> EnvSpec:
    """What `env_id` says. ValueError, before any ROM is loaded, if it cannot be played."""
    if env_id in _specs():
        return _specs()[env_id]
    with_screen = env_id.replace("-ram", "")
    name = re.match(r"(?:ALE/)?(.*?)(?:Deterministic|NoFrameskip)?-v\d+$", with_screen)
    if name and name[1] in map(rom_id_to_name, MULTI_PLAYER):
        raise ValueError(f"{env_id!r} needs several players; ale-py cannot play it alone")
    if with_screen != env_id and with_screen in _specs():
        raise ValueError(f"{env_id!r} has no screen: use {with_screen!r}")
    if env_id in gym.registry:
        raise ValueError(f"{env_id!r} is not an Atari game; this suite plays those of ale-py alone")
    by_lower_case = {known.lower(): known for known in _specs()}
    near = difflib.get_close_matches(env_id.lower(), by_lower_case, n=3, cutoff=0.7)
    nearest = ", ".join(by_lower_case[known] for known in near)
    hint = f"; the nearest known are {nearest}" if near else ""
    raise ValueError(f"unknown environment {env_id!r}{hint}")


def check_skip_rate(spec: EnvSpec, skip_rate: int | None) -> None:
    """ValueError: a skip rate was asked for, and this id skips by itself."""
    if skip_rate and not spec.no_frameskip:
        raise ValueError(f"--skip-rate is for NoFrameskip ids; {spec.env_id} skips by itself")


def has_chance(spec: EnvSpec, actions: list[str], greedy: bool) -> bool:
    """Whether games can differ: by skip, stickiness, no-ops at the start, or sampled actions."""
    noops = spec.no_frameskip and "NOOP" in actions
    skips = not isinstance(spec.frame_skip, int)
    return noops or skips or spec.repeat_action_probability > 0 or not greedy


def idle_limit(asked: int | None, spec: EnvSpec, actions: list[str]) -> int | None:
    """Agent steps without a reward after which a game of an evaluation is cut; None: never.

    asked: what --max-idle-steps says. By default only ids without chance have a limit: there, an
    agent may fall into a cycle that it never leaves.
    """
    if asked is None and not has_chance(spec, actions, greedy=True):
        return IDLE_STEPS
    return asked or None


def file_name(env_id: str) -> str:
    """The id as part of a file name: 'ALE/Pong-v5' is 'ALE-Pong-v5'."""
    return env_id.replace("/", "-")


# ---------------------------------------------------------------------------------------------
# The crop table


def _check_entry(entry) -> None:
    """ValueError with the reason if `entry` is not what the crop table says of one game."""
    if not isinstance(entry, dict):
        raise ValueError("must be an object")
    if unknown := sorted(entry.keys() - CONFIG_KEYS):
        raise ValueError(f"unknown key {unknown[0]!r}")
    for key in ("crop1", "crop2"):
        crop = entry.get(key)
        if type(crop) is not int or crop < 0:
            raise ValueError(f"{key!r} must be a row number, 0 or more, not {crop!r}")
    for key in ("fire", "flicker"):
        if not isinstance(entry.get(key, False), bool):
            raise ValueError(f"{key!r} must be true or false, not {entry[key]!r}")
    if "actions" in entry:
        actions = entry["actions"]
        if not isinstance(actions, list) or not actions:
            raise ValueError(f"'actions' must be a list of action names, not {actions!r}")
        for action in actions:
            if action not in list(ale_py.Action.__members__)[:18]:
                raise ValueError(f"unknown action {action!r}")
        if len(set(actions)) < len(actions):
            raise ValueError("an action appears twice in 'actions'")


CROP_TABLE = Path(__file__).with_name("config.json")


def read_config(path) -> dict:
    """The crop table of the JSON file `path`. ValueError if it is missing or is something else."""
    try:
        with open(path, encoding="utf-8") as file:
            config = json.load(file)
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:  # broken JSON, or not even text
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(config, dict) or "Default" not in config:
        raise ValueError(f"{path} is not a crop table: it must be an object with a 'Default' entry")
    games = {rom_id_to_name(spec.game) for spec in _specs().values()}
    for name, entry in config.items():
        try:
            if name not in games and name != "Default":
                bare = re.sub(r"^ALE/|-v\d+$", "", name)
                near = difflib.get_close_matches(bare, {*games, "Default"}, n=1, cutoff=0.7)
                hint = f"the nearest is {near[0]!r}" if near else "'Pong' is the one of Pong-v0"
                raise ValueError(f"no game is called so; {hint}")
            _check_entry(entry)
        except ValueError as error:
            raise ValueError(f"{path}: {name!r}: {error}") from error
    return config


def game_name(env_id: str) -> str:
    """'Pong' for 'PongDeterministic-v4'. ValueError if this id cannot be played."""
    return rom_id_to_name(parse_env_id(env_id).game)


def game_config(config: dict, env_id: str) -> dict:
    """The entry of this id's game, else of 'Default'; NoFrameskip ids have no flicker."""
    entry = config.get(game_name(env_id), config["Default"])
    if not parse_env_id(env_id).no_frameskip:
        return entry
    return {key: value for key, value in entry.items() if key != "flicker"}


def picture(game_config: dict) -> dict:
    """The crops, FIRE, and flicker if it is set, as descriptions and evaluations say them."""
    flicker = {"flicker": True} if game_config.get("flicker") else {}
    return {key: game_config.get(key, False) for key in ("crop1", "crop2", "fire")} | flicker


def as_trained(entry: dict, saved: dict | None) -> dict:
    """This entry of the crop table with the picture of a training.

    saved: the `picture` of that; None if nothing says it. Without flicker unless it does: earlier
    versions did not know it.
    """
    return entry | {"flicker": False} | (saved or {})


# ---------------------------------------------------------------------------------------------
# The emulator and its wrappers


class Emulator(AtariEnv):
    """ale-py's environment with grey screens, no frame limit, and a seed for the power-on state.

    `actions`: names of the actions to offer; None is ale-py's minimal set.
    `seed`: of the first game. To load the ROM takes 0.2 s: a first `reset` with this seed does not
    load it again.
    `flicker`: the game draws objects every other frame, so that a step's last frame lacks some; its
    screen is then the maximum of its last two frames (Mnih et al. 2015).
    """

    def __init__(
        self,
        spec: EnvSpec,
        actions: list[str] | None,
        render_mode: str | None,
        seed: int | None = None,
        flicker: bool = False,
    ):
        self.first_seed, self.flicker = seed, flicker
        # Before the first interface is made: it prints a banner, in every process.
        ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
        try:
            super().__init__(
                game=spec.game,
                obs_type="grayscale",
                frameskip=spec.frame_skip,
                repeat_action_probability=spec.repeat_action_probability,
                max_num_frames_per_episode=0,  # none: TimeLimit knows the id's limit
                render_mode=render_mode,
            )
        except RuntimeError as error:  # of SDL
            if render_mode != "human":
                raise
            raise ValueError(f"ale-py cannot open its window: {error}; {NO_WINDOW}") from error
        # What a copy or a pickle makes anew; ale-py has just noted its own arguments.
        gym.utils.EzPickle.__init__(self, spec, actions, render_mode, seed, flicker)
        if actions is not None:
            self._action_set = [ale_py.Action[name] for name in actions]
            self.action_space = gym.spaces.Discrete(len(actions))

    def seed_game(self, seed: int | None = None) -> tuple[int, int]:
        """Seed frame skips, stickiness and, which ale-py leaves alone, the power-on state.

        The emulator takes seeds only when the ROM is loaded, which follows at once.
        """
        np_seed, ale_seed = super().seed_game(self.first_seed if seed is None else seed)
        # A stream of its own, not the one of stickiness again; 31 bits: the setting is signed.
        system_seed = np.random.SeedSequence(int(ale_seed)).generate_state(1)[0] >> 1
        self.ale.setInt("system_random_seed", int(system_seed))
        return np_seed, ale_seed

    def step(self, action):
        if not self.flicker:
            return super().step(action)
        skip = self._frameskip
        frames = skip if isinstance(skip, int) else int(self.np_random.integers(*skip))
        try:
            self._frameskip = frames - 1
            before, reward, *_ = super().step(action)
            self._frameskip = 1
            screen, last_reward, *rest = super().step(action)
        finally:
            self._frameskip = skip
        return np.maximum(before, screen), reward + last_reward, *rest

    def reset(self, *, seed=None, options=None):
        fresh = seed is not None and seed == self.first_seed
        self.first_seed = None
        return super().reset(seed=None if fresh else seed, options=options)


def require_screen() -> None:
    """Before ale-py opens its window, which is SDL's. ValueError: there is no screen for it.

    Without one SDL draws where nobody sees it, at the speed of play, and tells nobody.
    """
    if sys.platform in ("win32", "darwin"):
        return
    if "SDL_VIDEODRIVER" not in os.environ:
        if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            raise ValueError(f"there is no screen for ale-py's window; {NO_WINDOW}")
        # No other way of drawing, should the screen not answer: ale-py then says so.
        os.environ["SDL_VIDEODRIVER"] = "x11,wayland"
    if sys.platform == "linux" and not Path("/proc/asound").exists():  # no sound card
        os.environ.setdefault("SDL_AUDIODRIVER", "dummy")


class NoopStart(gym.Wrapper):
    """Starts each game with 1 to MAX_NOOPS no-ops (uniform); `action` is the NOOP."""

    def __init__(self, env: gym.Env, action: int):
        super().__init__(env)
        self.action = action

    def reset(self, *, seed=None, options=None):
        obs, info = self.env.reset(seed=seed, options=options)
        for _ in range(self.np_random.integers(1, MAX_NOOPS + 1)):
            obs, _, terminated, truncated, info = self.env.step(self.action)
            if terminated or truncated:
                obs, info = self.env.reset(options=options)
        return obs, info


class SkipFrames(gym.Wrapper):
    """Repeats each action for `skip_rate` frames, or to the end of the game.

    The reward is the sum; the observation is the maximum of the last two frames of this action
    (its only frame if there was but one), because some games draw sprites every other frame.
    """

    def __init__(self, env: gym.Env, skip_rate: int):
        super().__init__(env)
        self.skip_rate = skip_rate

    def step(self, action):
        frame, total = None, 0.0
        for _ in range(self.skip_rate):
            previous = frame
            frame, reward, terminated, truncated, info = self.env.step(action)
            total += reward
            if terminated or truncated:
                break
        obs = frame if previous is None else np.maximum(previous, frame)
        return obs, total, terminated, truncated, info


class IdleLimit(gym.Wrapper):
    """Cuts a game after `limit` steps in a row without a reward."""

    def __init__(self, env: gym.Env, limit: int):
        super().__init__(env)
        self.limit = limit

    def reset(self, *, seed=None, options=None):
        self.idle = 0
        return self.env.reset(seed=seed, options=options)

    def step(self, action):
        screen, reward, terminated, truncated, info = self.env.step(action)
        self.idle = 0 if reward else self.idle + 1
        return screen, reward, terminated, truncated or self.idle >= self.limit, info


class Screen(gym.Wrapper):
    """Cuts the grey screen to rows crop1 : crop2+160 and shrinks it to (80, 80) uint8.

    `action_meanings` are the names of the actions; `fire_action` is the index of FIRE if the game
    does not start without it, else None: whoever plays presses it, the environment never does.
    `game_config` says both crops, `fire` and `flicker`, as descriptions and evaluations do.
    An end of the game that falls on the time limit is `terminated` alone.
    """

    def __init__(self, env: gym.Env, game_config: dict):
        super().__init__(env)
        self.game_config = picture(game_config)
        self.top, self.bottom = game_config["crop1"], game_config["crop2"] + WINDOW
        height = env.observation_space.shape[0]
        if not self.top < self.bottom <= height:
            raise ValueError(
                f"crop of rows {self.top}:{self.bottom}, from 'crop1' to 'crop2' + {WINDOW} of the "
                f"crop table, leaves the screen of {height} rows"
            )
        self.observation_space = gym.spaces.Box(0, 255, (SIZE, SIZE), np.uint8)
        self.action_meanings = env.unwrapped.get_action_meanings()
        fire = game_config.get("fire", False)
        if fire and "FIRE" not in self.action_meanings:
            raise ValueError("'fire' is set, but the game has no action FIRE")
        self.fire_action = self.action_meanings.index("FIRE") if fire else None

    def reset(self, *, seed=None, options=None):
        screen, info = self.env.reset(seed=seed, options=options)
        return shrink(screen, self.top, self.bottom), info

    def step(self, action):
        screen, reward, terminated, truncated, info = self.env.step(action)
        obs = shrink(screen, self.top, self.bottom)
        return obs, reward, terminated, truncated and not terminated, info


def shrink(screen: np.ndarray, top: int, bottom: int) -> np.ndarray:
    """(80, 80) of these rows of a whole grey screen."""
    return cv2.resize(screen[top:bottom], (SIZE, SIZE), interpolation=cv2.INTER_AREA)


def make_env(
    env_id: str,
    game_config: dict,
    skip_rate: int = SKIP_RATE,
    max_episode_length: int | None = None,
    render_mode: str | None = None,
    seed: int | None = None,
    max_idle_steps: int | None = None,
) -> gym.Env:
    """The game of `env_id`: observations (80, 80) uint8, raw rewards, ends apart from time limits.

    game_config: this game's entry of the crop table
    skip_rate: frames per agent step of a NoFrameskip id; the other ids have their own skip
    max_episode_length: agent steps; replaces the id's time limit, lower or higher
    render_mode: None, "human" (ale-py's window) or "rgb_array" (`render()` is the colour screen)
    seed: of the first game, which then starts 0.2 s sooner; say it to `reset` as well
    max_idle_steps: agent steps without a reward after which a game is cut; None: never

    Give each game its own seed: `reset(seed=)` loads the ROM anew and fixes all chance in the game.
    ValueError, one line, for an id, crop, action set or number that cannot be played.
    """
    spec = parse_env_id(env_id)
    if skip_rate < 1:
        raise ValueError(f"the skip rate must be 1 or more, not {skip_rate}")
    if max_episode_length is not None and max_episode_length < 1:
        raise ValueError(f"the episode length must be 1 or more, not {max_episode_length}")
    if max_idle_steps is not None and max_idle_steps < 1:
        raise ValueError(f"the steps without a reward must be 1 or more, not {max_idle_steps}")
    try:
        _check_entry(game_config)
        if spec.no_frameskip:  # SkipFrames takes the maximum of two frames, where a step has two
            game_config = game_config | {"flicker": False}
        flicker = game_config.get("flicker", False)
        emulator = Emulator(spec, game_config.get("actions"), render_mode, seed, flicker)
        return _wrap(emulator, spec, game_config, skip_rate, max_episode_length, max_idle_steps)
    except ValueError as error:
        raise ValueError(f"{env_id}: {error}") from error


def _wrap(env, spec, game_config, skip_rate, max_episode_length, max_idle_steps) -> gym.Env:
    meanings = env.get_action_meanings()
    if max_episode_length is None:  # inside the skipping: a NoFrameskip limit counts frames
        env = TimeLimit(env, spec.time_limit)
    if spec.no_frameskip:
        # Two board games (Backgammon, VideoCheckers) have no NOOP and start without.
        if "NOOP" in meanings:
            env = NoopStart(env, meanings.index("NOOP"))
        env = SkipFrames(env, skip_rate)
    if max_episode_length is not None:
        if game_config.get("fire") and max_episode_length <= FIRE_PRESSES:
            raise ValueError(f"the first {FIRE_PRESSES} steps of a game press FIRE; allow more")
        env = TimeLimit(env, max_episode_length)
    if max_idle_steps is not None:
        env = IdleLimit(env, max_idle_steps)
    return Screen(env, game_config)


# ---------------------------------------------------------------------------------------------
# Normalisation


class Normalizer:
    """Running mean and standard deviation of whole frames, one scalar each.

    Exponential averages with bias correction, m_n = sum_i a^(n-i) (1-a) x_i / (1 - a^n), kept in
    the equivalent incremental form m_n = m_(n-1) + w_n (x_n - m_(n-1)), w_n = (1-a) / (1 - a^n),
    so that the state is what is used, now or as it was at the last hold().

    state: float64 array or tensor of 3: count, mean, std (grey levels, 0 to 255); used in place,
        so that it may live in shared memory that one worker writes. None: a zero one of its own.
    frozen: never changes the state; ValueError if there is nothing in it.
    """

    def __init__(self, state=None, frozen: bool = False):
        if state is None:
            state = np.zeros(3)
        self.state = state if isinstance(state, np.ndarray) else state.numpy()
        if self.state.shape != (3,) or self.state.dtype != np.float64:
            raise ValueError("the normaliser's state must be 3 numbers in float64")
        if frozen and not self.state[0] > 0:
            raise ValueError("a frozen normaliser needs statistics, but its count is 0")
        self.frozen = frozen
        self.held: tuple[float, float] | None = None  # mean, std

    def hold(self) -> None:
        """Normalise by the present statistics until the next hold(); frames are still taken in.

        Young statistics are not held, nor those of flat pictures, with which some games begin.
        """
        count, mean, std = self.state.tolist()
        self.held = (mean, std) if count >= HELD_FROM and std > 1 else None

    def observe(self, frames: np.ndarray) -> np.ndarray:
        """(N, 80, 80) uint8 to float32: takes in each frame in order, then normalises all."""
        if not self.frozen:
            for frame in frames:
                self._take_in(frame)
        return self.normalize(frames)

    def normalize(self, frames: np.ndarray) -> np.ndarray:
        """(N, 80, 80) uint8 to float32, taking nothing in."""
        mean, std = self.held or self.state[1:]
        normalized = frames.astype(np.float32)  # (N, 80, 80)
        normalized -= np.float32(mean)
        normalized *= np.float32(1 / (std + 1e-8))
        return normalized

    def _take_in(self, frame):
        count, mean, std = self.state.tolist()
        count += 1
        weight = (1 - DECAY) / (1 - DECAY**count)
        frame_mean, frame_std = cv2.meanStdDev(frame)  # 16 times faster than numpy
        mean += weight * (frame_mean.item() - mean)
        std += weight * (frame_std.item() - std)
        self.state[:] = count, mean, std
