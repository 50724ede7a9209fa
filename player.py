"""Who plays: environment, network and LSTM state, in training and in evaluation alike."""

import hashlib
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from environment import FIRE_PRESSES, OBS_SHAPE, Normalizer
from network import Network, make_network


def env_seed(seed: np.random.SeedSequence) -> int:
    """What `reset` gets for the game whose chance comes from `seed`."""
    return int(seed.generate_state(1)[0])


class Game:
    """One environment and the account of the game that is played in it.

    Presses FIRE where the game needs it to start, through ordinary steps that count and score.

    reseed: whether each game starts the environment's chance anew, so that it can be played again
    by itself. Otherwise the first game does and the others continue its streams, which saves
    loading the ROM (0.2 s).

    score: sum of raw rewards.  length: agent steps.  over: no game is running.  cut: the last
    one was cut by a limit.
    """

    def __init__(self, env: gym.Env | None, normalizer: Normalizer | None, reseed: bool = True):
        self.env = env
        self.normalizer = normalizer  # None: a fresh one for every game
        self.reseed = reseed
        self.seeded = False
        has_fire = env is not None and env.has_wrapper_attr("fire_action")
        self.fire_action = env.get_wrapper_attr("fire_action") if has_fire else None
        self.score = 0.0
        self.length = 0
        self.over = True
        self.cut = False

    def start(self, seed: np.random.SeedSequence) -> None:
        """Begin a new game whose chance comes from `seed`."""
        self.rng = np.random.default_rng(seed)  # sampling of actions
        anew = self.reseed or not self.seeded
        self.frame, info = self.env.reset(seed=env_seed(seed) if anew else None)  # (80, 80) uint8
        self.seeded = True
        self.observer = self.normalizer or Normalizer()
        self.lives = info.get("lives", 0)
        self.score = 0.0
        self.length = 0
        self.over = False
        self.press_fire()

    def act(self, action: int) -> tuple[float, bool, bool]:
        """One agent step: raw reward, terminated, truncated. Sets `over` at the end of the game."""
        self.frame, reward, terminated, truncated, info = self.env.step(action)
        self.lives = info.get("lives", 0)
        self.score += float(reward)
        self.length += 1
        self.over, self.cut = terminated or truncated, truncated and not terminated
        return float(reward), terminated, self.cut

    def press_fire(self) -> tuple[float, bool, bool]:
        """Start the ball, if this game wants that: as `act`; nothing happens in other games."""
        reward, terminated, truncated = 0.0, False, False
        if self.fire_action is not None:
            for _ in range(FIRE_PRESSES):
                if not self.over:
                    more, terminated, truncated = self.act(self.fire_action)
                    reward += more
        return reward, terminated, truncated

    def observation(self) -> np.ndarray:
        """(80, 80) float32: the newest frame, normalised; each call counts for the statistics."""
        return self.observer.observe(self.frame[None])[0]


def sample(policy: Tensor, drawn: np.ndarray) -> np.ndarray:
    """(E,) actions of the probabilities (E, actions), from numbers drawn in [0, 1), (E,)."""
    # Inverse of the cumulative distribution; dividing by its end makes that exactly 1.
    cumulative = policy.double().numpy().cumsum(1)
    return (cumulative / cumulative[:, -1:] <= drawn[:, None]).sum(1)


def stray(greedy: np.ndarray, num_actions: int, drawn: np.ndarray, epsilon: float) -> np.ndarray:
    """(E,) actions: where the number drawn in [0, 1), (E,), is below epsilon, any one at random."""
    anything = np.minimum(drawn / epsilon * num_actions, num_actions - 1)  # uniform where < epsilon
    return np.where(drawn < epsilon, anything.astype(np.int64), greedy)


def choose(
    logit: Tensor, greedy: bool, epsilon: float, draw: Callable[[], np.ndarray]
) -> np.ndarray:
    """(E,) actions for logits (E, actions); see Player.step.

    draw: gives (E,) numbers in [0, 1); called only where there is chance.
    """
    if not greedy:
        return sample(torch.softmax(logit, 1), draw())
    best = logit.argmax(1).numpy()
    return stray(best, logit.shape[1], draw(), epsilon) if epsilon else best


class Step(NamedTuple):
    """What E games went through in one step; see Player.step."""

    value: Tensor  # (E,) of the observation before the step
    logit: Tensor  # (E, actions)
    action: Tensor  # (E,)
    reward: Tensor  # (E,) raw
    terminated: Tensor  # (E,) the training episode ended: nothing follows
    truncated: Tensor  # (E,) it was cut by a limit: `cut_value` follows
    cut_value: Tensor  # (E,) value of the last observation where truncated, otherwise 0


class Player:
    """A batch of E games, the network that plays them and its LSTM state.

    The batch has a fixed number of rows; a row whose game is over stands still until it is
    started again.

    network: for E games, see network.make_network.
    count_lives: a lost life ends the training episode, and with it the LSTM's memory.
    learning: whether the network keeps what the gradient of a rollout needs.
    """

    def __init__(
        self, network: Network, games: Sequence[Game], count_lives: bool, learning: bool = False
    ):
        self.network = network
        self.learning = learning
        self.games = games
        self.count_lives = count_lives
        self.obs = torch.zeros(len(games), *OBS_SHAPE)
        self.hx = torch.zeros(len(games), network.model.hidden_size)
        self.cx = torch.zeros_like(self.hx)
        self.steps = 0  # agent steps played in all rows, FIRE included

    def begin(self) -> None:
        """A rollout begins, with the newest weights and the newest statistics; both stay until
        the next one. A game must have been started in every row.

        The network reuses what it computed from pixels that have not changed since, and when the
        statistics move, all change.
        """
        self.network.begin()
        for row, game in enumerate(self.games):
            game.observer.hold()
            obs = game.observer.normalize(game.frame[None])  # (1, 80, 80)
            self.obs[row] = torch.from_numpy(obs)

    def start(self, row: int, seed: np.random.SeedSequence) -> None:
        """Begin a new game in this row, with an LSTM state of zero."""
        game = self.games[row]
        game.start(seed)
        self.steps += game.length
        self.obs[row, 0] = torch.from_numpy(game.observation())
        self._forget(torch.arange(len(self.games)) == row)

    def value(self) -> Tensor:
        """(E,) value of the present observation."""
        return self.network.evaluate(self.obs, self.hx, self.cx)[0]

    def step(self, greedy: bool, epsilon: float = 0.0) -> Step:
        """Act once in every running game, by the most probable action or by sampling.

        epsilon: share of the most probable actions that any one at random stands in place of.
        Ends inside the batch set the LSTM state of their rows to zero; the caller starts games
        that are over.
        """
        value, logit, self.hx, self.cx = self._think()
        action = choose(logit, greedy, epsilon, self._draw)
        reward = np.zeros(len(self.games), dtype=np.float32)
        ended = np.zeros((2, len(self.games)), dtype=bool)  # terminated, truncated
        obs = np.zeros((len(self.games), *OBS_SHAPE), dtype=np.float32)
        for row, game in enumerate(self.games):
            if game.over:
                continue
            length = game.length
            reward[row], *ended[:, row] = self._act(game, int(action[row]))
            self.steps += game.length - length
            obs[row, 0] = game.observation()
        self.obs = torch.from_numpy(obs)
        terminated, truncated = torch.from_numpy(ended)
        # Of the last observation, with the LSTM state that led to it.
        cut_value = self.value() * truncated if ended[1].any() else torch.zeros_like(value)
        if ended.any():
            self._forget(terminated | truncated)
        return Step(
            value,
            logit,
            torch.from_numpy(action),
            torch.from_numpy(reward),
            terminated,
            truncated,
            cut_value,
        )

    def _think(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Value (E,), logit (E, actions), new hx and cx."""
        if self.learning:
            return self.network.act(self.obs, self.hx, self.cx)
        rows = [row for row, game in enumerate(self.games) if not game.over]
        return self.network.evaluate(self.obs, self.hx, self.cx, rows)

    def _draw(self) -> np.ndarray:
        """(E,) numbers in [0, 1). Each row draws from the stream of its own game."""
        return np.array([0.0 if game.over else game.rng.random() for game in self.games])

    def _act(self, game: Game, action: int) -> tuple[float, bool, bool]:
        """One step of one game, and FIRE after a lost life. Reward and ends are for learning."""
        lives = game.lives
        reward, terminated, truncated = game.act(action)
        if game.lives >= lives:
            return reward, terminated, truncated
        fire = (0.0, terminated, truncated) if game.over else game.press_fire()
        if self.count_lives:
            return reward, True, False  # what FIRE earns comes after this end
        return reward + fire[0], *fire[1:]

    def _forget(self, ended: Tensor) -> None:
        """Zero the LSTM state of the rows whose training episode ended, (E,) bool."""
        keep = (~ended).to(self.hx.dtype)[:, None]
        self.hx, self.cx = self.hx * keep, self.cx * keep


# Rows of a batch of evaluation. A row of a matrix product differs in its last bits with the size
# of the batch, so every evaluation uses blocks of this size, and game i always plays in row
# i % BLOCK: its score does not depend on how many games run beside it.
BLOCK = 8


class Result(NamedTuple):
    """One game of an evaluation."""

    index: int
    score: float  # raw
    length: int  # agent steps
    action_hash: str  # sha256 of the chosen actions, one byte each
    cut: bool  # by a limit, before its end


def in_order(num_games: int) -> Callable[[Collection[int]], int | None]:
    """Hands out each game of an evaluation once; see next_game of play_games."""
    waiting = list(range(num_games))

    def next_game(rows: Collection[int]) -> int | None:
        index = next((index for index in waiting if index % BLOCK in rows), None)
        if index is not None:
            waiting.remove(index)
        return index

    return next_game


def play_games(
    model,
    make_env: Callable[..., gym.Env],
    seeds: Sequence[np.random.SeedSequence],
    normalizer: Normalizer | None,
    count_lives: bool,
    greedy: bool = True,
    side_by_side: int = 1,
    should_stop: Callable[[], bool] = lambda: False,
    plain: bool = False,
    on_step: Callable[[int, int], None] = lambda running, steps: None,
    next_game: Callable[[Collection[int]], int | None] | None = None,
    epsilon: float = 0.0,
) -> Iterator[Result]:
    """Play one whole game per seed with one set of weights; yields each when it ends.

    normalizer: frozen; None starts a fresh one in each game.
    side_by_side: how many games may run at once; the results do not depend on it.
    should_stop: asked before every step and every game; unfinished games are then left out.
    plain: see network.make_network.
    on_step: called after every step with the running games and the agent steps of all games so far.
    next_game: says which game comes next, if not all of them are to be played here: gets the rows
        that are free and returns an index that belongs into one of them, or None if none is left.
    epsilon: see Player.step.
    """
    next_game = next_game or in_order(len(seeds))
    side_by_side = min(side_by_side, len(seeds))
    idle = Game(None, None)  # in the rows without a game
    spare: list[Game] = []  # between two games
    network = make_network(model, BLOCK, 0, plain)
    players = [
        Player(network, [idle] * BLOCK, count_lives) for _ in range(-(-side_by_side // BLOCK))
    ]
    playing: dict[tuple[int, int], tuple[int, Any]] = {}  # (player, row): (game, its hash)
    ended = True  # a game, so that another one may begin
    while True:
        while ended and len(playing) < side_by_side:
            if should_stop():  # a hundred games take seconds to begin
                return
            free = {  # row: its first player without a game there
                row: p
                for p in reversed(range(len(players)))
                for row in range(BLOCK)
                if (p, row) not in playing
            }
            index = next_game(list(free))
            if index is None:
                break
            row, seed = index % BLOCK, seeds[index]
            p = free[row]
            game = spare.pop() if spare else Game(make_env(seed=env_seed(seed)), normalizer)
            players[p].games[row] = game
            players[p].start(row, seed)
            playing[p, row] = (index, hashlib.sha256())
        if not playing:
            return
        ended = False
        for p, player in enumerate(players):
            if should_stop():
                return
            rows = [row for row in range(BLOCK) if (p, row) in playing]
            if not rows:
                continue
            action = player.step(greedy, epsilon).action
            for row in rows:
                index, digest = playing[p, row]
                digest.update(bytes([int(action[row])]))
                game = player.games[row]
                if game.over:
                    player.games[row] = idle
                    spare.append(game)
                    del playing[p, row]
                    ended = True
                    yield Result(index, game.score, game.length, digest.hexdigest(), game.cut)
            on_step(len(playing), sum(player.steps for player in players))
