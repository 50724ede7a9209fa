"""A trained agent for a program of your own: it takes pictures and answers with actions.

    agent = Agent.load("Pong-v0")
    env = agent.make_env()
    obs, info = env.reset(seed=agent.reset(seed=1, game=0))
    action = agent.act(obs, info)

Import this before torch: it sets the number of threads, on which last bits depend.
"""

import utils  # noqa: F401, I001  # before torch

import functools
from collections.abc import Callable
from pathlib import Path

import cv2
import gymnasium as gym
import numpy as np
import torch

import checkpoint
import kernels
from environment import (
    CROP_TABLE,
    FIRE_PRESSES,
    OBS_SHAPE,
    SIZE,
    SKIP_RATE,
    Normalizer,
    as_trained,
    check_skip_rate,
    file_name,
    game_config,
    idle_limit,
    known_env_ids,
    make_env,
    parse_env_id,
    read_config,
    shrink,
)
from model import make_model
from network import make_network, why_plain
from player import BLOCK, choose, env_seed
from utils import EVALUATE, game_seed, say


class Agent:
    """One player of one game at a time: network, LSTM state, normaliser, and FIRE where it is due.

    It does not touch the environment: the caller steps it, with the actions that act() returns.
    In an environment of make_env, with the seed that reset() returns, game i is game i of
    gym_eval.py, step by step and bit by bit.

    model: the network, with its weights.
    make_env: environment.make_env for this game, without its seed.
    normalizer: frozen; None starts a fresh one in each game.
    count_lives: a lost life sets the LSTM's state to zero.
    greedy: take the most probable action, instead of drawing one from the policy.
    description: what ENV.json says of the weights, if anything does.
    plain: compute in plain PyTorch, several times slower.
    path: the file of the weights; load() knows it.

    epsilon: share of greedy actions that any one at random stands in place of; 0 until you set it.
        ValueError: it is not in [0, 1].
    actions: names of the actions, in the order of their numbers.
    game_config: the crops and FIRE that it plays with, and flicker if it sees two frames at once.
    policy: (actions,) probabilities for the observation of the last act(); None if that was FIRE,
        for which the network is not asked.
    value: the discounted return that it expects from there, of rewards clipped to [-1, 1], not a
        score; None likewise.
    slow_because: why plain PyTorch computes although nobody asked for it; empty if it does not.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        make_env: Callable[..., gym.Env],
        normalizer: Normalizer | None,
        count_lives: bool,
        greedy: bool,
        description: dict | None = None,
        plain: bool = False,
        path: Path | None = None,
    ):
        self.model, self.make_env, self.normalizer = model, make_env, normalizer
        self.count_lives, self.greedy, self.epsilon = count_lives, greedy, 0.0
        self.description, self.path = description or {}, path
        with kernels.announced(say):
            self.slow_because = "" if plain else why_plain(model)
        self.plain = plain or bool(self.slow_because)
        screen = make_env()
        self.shrink = functools.partial(shrink, top=screen.top, bottom=screen.bottom)
        self.screen_shape = screen.unwrapped.observation_space.shape
        self.actions, self.fire_action = screen.action_meanings, screen.fire_action
        self.game_config = screen.game_config
        self.presses = 0 if self.fire_action is None else FIRE_PRESSES
        # As in evaluation: last bits depend on the size of the batch and on the place in it.
        self.network = make_network(model, BLOCK, 0, self.plain)
        self.obs = torch.zeros(BLOCK, *OBS_SHAPE)
        self.reset()

    @classmethod
    def load(
        cls,
        source: str | Path,
        env_id: str | None = None,
        *,
        env_config: str | Path | None = None,
        skip_rate: int | None = None,
        max_episode_length: int | None = None,
        max_idle_steps: int | None = None,
        hidden_size: int | None = None,
        greedy: bool | None = None,
        plain: bool = False,
    ) -> "Agent":
        """The agent of a file of weights, .dat or .ckpt, or of an environment id.

        source: for an id, its own weights in trained_models/ if there are any, else the published;
            the agent's `path` says which.
        env_id: the game to play; None: that of the training.
        env_config: crop table; None: crops and FIRE are those of the training, and where its
            description does not say them, those of config.json.
        skip_rate, max_episode_length: see environment.make_env; None: that of the training and
            that of the id.
        max_idle_steps: see environment.idle_limit.
        hidden_size: what the weights must have; None: whatever they have.
        greedy: None: as the weights' description says.

        ValueError: one line about what is wrong.
        """
        if not isinstance(source, (str, Path)):
            raise ValueError(f"an agent is loaded from a file or for an id, not from {source!r}")
        if not isinstance(greedy, bool | None):
            raise ValueError(f"greedy is True, False or None, not {greedy!r}")
        if not isinstance(plain, bool):
            raise ValueError(f"plain is True or False, not {plain!r}")
        crops = read_config(CROP_TABLE if env_config is None else env_config)
        if isinstance(source, Path) or source.endswith((".dat", ".ckpt")):
            path = Path(source)
        else:
            file = Path(source.removeprefix("ALE/"))  # of an id, its name alone
            if source not in known_env_ids() and (
                len(file.parts) > 1 or file.suffix or Path(source).exists()
            ):
                raise ValueError(f"{source}: weights are a .dat or .ckpt file")
            name = file_name(parse_env_id(source).env_id)
            path, env_id = checkpoint.find_model(None, name), env_id or source
        state_dict, description = checkpoint.load_any(path)
        trained = description or {}
        env_id = env_id or checkpoint.trained_on(path, description)
        config = game_config(crops, env_id)
        if env_config is None and not checkpoint.of_another_game(trained, env_id):
            config = as_trained(config, trained.get("game_config"))
        normalizer = None
        if description:
            # The actions that it was trained with, whatever the crop table says now.
            config = config | {"actions": trained["actions"]}
            state = np.array(checkpoint.normalizer_state(path, description))
            normalizer = Normalizer(state, frozen=True)
        if greedy is None:
            greedy = trained.get("policy") != "sampled"
        spec = parse_env_id(env_id)
        check_skip_rate(spec, skip_rate)
        if skip_rate is None:
            skip_rate = trained.get("skip_rate", SKIP_RATE)
        make = functools.partial(make_env, env_id, config, skip_rate, max_episode_length)
        actions = trained.get("actions") or make().action_meanings
        idle = idle_limit(max_idle_steps, spec, actions)
        make = functools.partial(make, max_idle_steps=idle)
        model = build_model(path, state_dict, description, actions, hidden_size)
        count_lives = trained.get("count_lives", True)
        return cls(model, make, normalizer, count_lives, greedy, description, plain, path)

    @property
    def epsilon(self) -> float:
        return self._epsilon

    @epsilon.setter
    def epsilon(self, share: float) -> None:
        if not 0 <= share <= 1:
            raise ValueError(f"epsilon is a share from 0 to 1, not {share}")
        self._epsilon = share

    def reset(self, seed: int = 1, game: int = 0) -> int:
        """Begin a new game: game `game` of `gym_eval.py --seed seed`.

        Returns the seed with which the environment is to be reset, if it is to be that very game.
        """
        source = game_seed(seed, EVALUATE, game)
        self.rng = np.random.default_rng(source)  # sampling of actions
        self.row = game % BLOCK
        self.observer = self.normalizer or Normalizer()
        self.lives = 0
        self.policy, self.value = None, None
        self.fire_due = self.presses
        self._forget()
        return env_seed(source)

    def act(self, obs: np.ndarray, info: dict) -> int:
        """The action for what the environment's reset or step has just returned.

        It begins no new game by itself: each reset of the environment needs reset() here, too.

        obs: uint8, (80, 80) of make_env's environments, or ale-py's whole screen, (height, 160)
            grey or (height, 160, 3) colour; where `game_config` has flicker, the maximum of the
            last two. ValueError for any other. A whole screen shrunk to (80, 80) is taken for a
            crop, and not played well: AtariPreprocessing wants screen_size=(160, 210).
        info: its "lives" are those left, in games that have them.
        """
        screen = self._picture(np.asarray(obs))  # (80, 80)
        lives = info.get("lives", 0)
        # As in Player: what is lost while FIRE is pressed does not count.
        if self.policy is not None and lives < self.lives:
            self.fire_due = self.presses
            if self.count_lives:
                self._forget()
        self.lives = lives
        if self.fire_due:
            self.fire_due -= 1
            self.policy, self.value = None, None
            return self.fire_action
        picture = self.observer.observe(screen[None])  # (1, 80, 80)
        self.obs[self.row] = torch.from_numpy(picture)
        value, logit, self.hx, self.cx = self.network.evaluate(
            self.obs, self.hx, self.cx, [self.row]
        )
        policy = torch.softmax(logit, 1)  # (BLOCK, actions)
        self.policy, self.value = policy[self.row].numpy(), float(value[self.row])
        action = choose(
            logit, self.greedy, self.epsilon, lambda: np.full(BLOCK, self.rng.random())
        )
        return int(action[self.row])

    def _forget(self) -> None:
        self.hx = torch.zeros(BLOCK, self.model.hidden_size)
        self.cx = torch.zeros_like(self.hx)

    def _picture(self, obs: np.ndarray) -> np.ndarray:
        """(80, 80) of whatever act() takes."""
        if obs.dtype == np.uint8:
            if obs.shape == (SIZE, SIZE):
                return obs
            if obs.shape == self.screen_shape:
                return self.shrink(obs)
            if obs.shape == (*self.screen_shape, 3):  # gives ale-py's own grey
                return self.shrink(cv2.cvtColor(obs, cv2.COLOR_RGB2GRAY))
        height, width = self.screen_shape
        raise ValueError(
            f"an observation is uint8, ({SIZE}, {SIZE}), ({height}, {width}) or "
            f"({height}, {width}, 3), not {obs.dtype}, {obs.shape}"
        )


def build_model(
    path: Path,
    state_dict: dict,
    description: dict | None,
    actions: list[str],
    hidden_size: int | None = None,
):
    """The network with these weights. ValueError: one line, if they are for something else."""
    # What an A3Clstm's weights say for themselves; another network's tensors have other names.
    checkpoint.check_actions(path, state_dict, description, actions)
    said = (description or {}).get("hidden_size") or hidden_size
    _, found_size = checkpoint.matrix_shapes(state_dict).get("lstm.weight_hh", (None, said))
    if hidden_size not in (None, found_size):
        raise ValueError(f"{path}: has {found_size} LSTM units, not the {hidden_size} asked for")
    model = make_model(len(actions), *([found_size] if found_size else []))
    checkpoint.load_weights(path, model, state_dict)
    return model.eval()
