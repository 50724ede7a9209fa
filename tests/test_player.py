"""Who plays: the account of a game, FIRE, the LSTM's memory, sampling, whole evaluations."""

from pathlib import Path
from typing import NamedTuple

import gymnasium as gym
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from games import unseeded
from torch import nn

import environment
from environment import Normalizer, game_config, make_env, read_config
from model import A3Clstm
from network import PlainNetwork
from player import BLOCK, FIRE_PRESSES, Game, Player, Result, play_games, stray
from utils import game_seed

CONFIG = Path(environment.__file__).with_name("config.json")
NOOP, FIRE = 0, 1


class Event(NamedTuple):
    """What one step brings; the lives are those after it."""

    reward: float = 0.0
    lives: int = 3
    terminated: bool = False
    truncated: bool = False


STARTED = [Event()] * FIRE_PRESSES  # nothing comes of the FIRE at the start


class Scripted(gym.Env):
    """The same course of events in every game, whatever the actions; needs FIRE if told so.

    actions: all that were taken, one list per game.
    """

    action_space = gym.spaces.Discrete(3)

    def __init__(self, *events: Event, fire: bool = True):
        self.events = events
        self.fire_action = FIRE if fire else None
        self.actions: list[list[int]] = []

    def reset(self, *, seed=None, options=None):
        self.actions.append([])
        return self.picture(), {"lives": 3}

    def picture(self):
        noise = np.random.default_rng(len(self.actions[-1]))  # another one at every step
        return noise.integers(0, 256, (80, 80), dtype=np.uint8)

    def step(self, action):
        event = self.events[len(self.actions[-1])]
        self.actions[-1].append(int(action))
        return (
            self.picture(),
            event.reward,
            event.terminated,
            event.truncated,
            {"lives": event.lives},
        )


class Dice(gym.Env):
    """A game of chance: lives and length are drawn, rewards and pictures depend on the actions."""

    action_space = gym.spaces.Discrete(4)
    fire_action = None

    def __init__(self, seed=None):
        pass

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.lives = 3
        return self.picture(0), {"lives": 3}

    def picture(self, action: int):
        return self.np_random.integers(0, 60 * (action + 1), (80, 80), dtype=np.uint8)

    def step(self, action):
        if self.np_random.random() < 0.25:
            self.lives -= 1
        reward = float((action + 1) * self.np_random.integers(-1, 3))
        return self.picture(int(action)), reward, self.lives == 0, False, {"lives": self.lives}


class SmallNetwork(nn.Module):
    """A cheap network with the interface of A3Clstm and an LSTM that has a long memory."""

    def __init__(self, num_actions: int, hidden_size: int = 16):
        super().__init__()
        self.hidden_size = hidden_size
        self.lstm = nn.LSTMCell(16, hidden_size)
        self.critic = nn.Linear(hidden_size, 1)
        self.actor = nn.Linear(hidden_size, num_actions)
        generator = torch.Generator().manual_seed(1)
        for p in self.parameters():
            p.data = torch.randn(p.shape, generator=generator)  # biases too

    def forward(self, inputs):
        x, (hx, cx) = inputs
        hx, cx = self.lstm(F.avg_pool2d(x, 20).flatten(1), (hx, cx))
        return self.critic(hx), self.actor(hx), (hx, cx)


class FixedPolicy(nn.Module):
    """Row i always plays by the probabilities given for it; (E, actions)."""

    hidden_size = 1

    def __init__(self, probability: torch.Tensor):
        super().__init__()
        self.logit = nn.Parameter(probability.log())

    def forward(self, inputs):
        x, state = inputs
        return x[:, 0, 0, :1] * 0, self.logit.detach()[: len(x)], state


def seed(i: int) -> np.random.SeedSequence:
    return game_seed(5, 9, i)


def player_of(*envs, count_lives: bool = True) -> Player:
    torch.manual_seed(0)
    games = [Game(env, Normalizer()) for env in envs]
    player = Player(PlainNetwork(SmallNetwork(3), len(envs), 0), games, count_lives)
    for row in range(len(envs)):
        player.start(row, seed(row))
    return player


# ---------------------------------------------------------------------------------------------
# The account of a game; FIRE


def test_fire_at_the_start_counts_in_score_length_and_steps():
    env = Scripted(Event(reward=2.0), Event(reward=1.0), Event(reward=5.0))
    player = player_of(env)
    game = player.games[0]
    assert env.actions == [[FIRE] * FIRE_PRESSES]
    assert (game.score, game.length, player.steps, game.over) == (3.0, 2, 2, False)
    step = player.step(greedy=True)
    assert (game.score, game.length, player.steps) == (8.0, 3, 3)
    assert step.reward.tolist() == [5.0]


def test_a_game_without_fire_starts_with_the_players_own_action():
    env = Scripted(Event(), Event(lives=2), Event(), fire=False)
    player = player_of(env)
    assert env.actions == [[]]
    assert player.steps == 0
    for _ in range(3):
        player.step(greedy=True)
    assert len(env.actions[0]) == player.steps == player.games[0].length == 3


@pytest.mark.parametrize("end", ["terminated", "truncated"])
def test_a_game_that_ends_with_the_fire_at_its_start_is_over(end):
    env = Scripted(Event(reward=3.0, **{end: True}))
    player = player_of(env)
    assert player.games[0].over
    step = player.step(greedy=True)  # nothing more happens in it
    assert env.actions == [[FIRE]]
    assert step.reward.tolist() == [0.0]
    player.start(0, seed(1))
    assert env.actions == [[FIRE], [FIRE]]
    results = play_games(player.network.model, lambda seed: env, [seed(2)], None, True)
    assert [(r.score, r.length) for r in results] == [(3.0, 1)]


@pytest.mark.parametrize("count_lives", [True, False])
def test_fire_after_a_lost_life_counts_in_score_length_and_steps(count_lives):
    lost = Event(lives=2)
    env = Scripted(*STARTED, Event(1.0, lives=2), Event(10.0, lives=2), lost, lost)
    player = player_of(env, count_lives=count_lives)
    game = player.games[0]
    step = player.step(greedy=True)
    assert len(env.actions[0]) == 5
    assert env.actions[0][3:] == [FIRE] * FIRE_PRESSES
    assert (game.score, game.length, player.steps, game.over) == (11.0, 5, 5, False)
    assert step.terminated.tolist() == [count_lives]
    assert step.truncated.tolist() == [False]
    # With counted lives the training episode ended before FIRE earned anything.
    assert step.reward.tolist() == [1.0 if count_lives else 11.0]
    player.step(greedy=True)  # the life that was lost is not lost again
    assert len(env.actions[0]) == 6
    assert game.length == player.steps == 6


@pytest.mark.parametrize("count_lives", [True, False])
@pytest.mark.parametrize("end", ["terminated", "truncated"])
def test_the_end_that_fire_after_a_lost_life_meets_is_not_dropped(count_lives, end):
    env = Scripted(*STARTED, Event(lives=2), Event(reward=4.0, lives=2, **{end: True}))
    player = player_of(env, count_lives=count_lives)
    step = player.step(greedy=True)
    game = player.games[0]
    assert (game.over, game.score, game.length) == (True, 4.0, 4)
    # A counted life ended the training episode one step earlier.
    cut = end == "truncated" and not count_lives
    assert step.truncated.tolist() == [cut]
    assert step.terminated.tolist() == [not cut]
    assert (step.cut_value.item() != 0) == cut
    results = play_games(player.network.model, lambda seed: env, [seed(0)], None, count_lives)
    assert [(r.score, r.length) for r in results] == [(4.0, 4)]


def test_fire_is_not_pressed_into_a_game_that_is_over():
    env = Scripted(*STARTED, Event(reward=1.0, lives=2, terminated=True))
    player = player_of(env)
    player.step(greedy=True)
    assert len(env.actions[0]) == 3
    assert (player.games[0].over, player.games[0].length) == (True, 3)


def test_a_life_gained_ends_nothing():
    env = Scripted(*STARTED, Event(lives=4), Event(lives=3), Event(lives=3), Event(lives=3))
    player = player_of(env)
    assert not player.step(greedy=True).terminated
    assert len(env.actions[0]) == 3
    assert player.step(greedy=True).terminated  # back to 3 is a loss
    assert len(env.actions[0]) == 6


@pytest.mark.parametrize("count_lives", [True, False])
def test_a_game_goes_on_over_all_of_its_lives(count_lives):
    events = [Event(reward=1.0, lives=n, terminated=n == 0) for n in (3, 3, 2, 2, 1, 1, 0)]
    env = Scripted(*events, fire=False)
    player = player_of(env, count_lives=count_lives)
    ends = []
    while not player.games[0].over:
        ends.append(bool(player.step(greedy=False).terminated))
    assert (player.games[0].score, player.games[0].length) == (7.0, 7)
    assert len(env.actions) == 1
    counted = [False, False, True, False, True, False, True]
    assert ends == (counted if count_lives else [False] * 6 + [True])


def test_an_end_and_a_time_limit_at_once_are_an_end():
    env = Scripted(Event(terminated=True, truncated=True), fire=False)
    step = player_of(env).step(greedy=True)
    assert step.terminated.tolist() == [True]
    assert step.truncated.tolist() == [False]
    assert step.cut_value.tolist() == [0.0]


def test_a_result_says_whether_a_limit_cut_the_game():
    last = [Event(truncated=True), Event(terminated=True), Event(terminated=True, truncated=True)]
    envs = iter([Scripted(Event(), event, fire=False) for event in last])
    seeds = [seed(i) for i in range(3)]
    results = play_games(
        SmallNetwork(3), lambda seed: next(envs), seeds, None, True, side_by_side=3
    )
    assert [result.cut for result in sorted(results)] == [True, False, False]


def test_the_value_at_a_cut_is_of_the_last_picture_with_the_memory_that_led_there():
    events = [Event(), Event(), Event(truncated=True)]
    player = player_of(Scripted(*events, fire=False), Scripted(*[Event()] * 3, fire=False))
    twin = SmallNetwork(3)
    state = (torch.zeros(2, 16), torch.zeros(2, 16))
    for _ in range(3):
        with torch.no_grad():
            state = twin((player.obs, state))[2]
        step = player.step(greedy=False)
    with torch.no_grad():
        expected = twin((player.obs, state))[0][0, 0]
    assert step.truncated.tolist() == [True, False]
    torch.testing.assert_close(step.cut_value, torch.tensor([float(expected), 0.0]))
    assert expected.abs() > 1e-3


def test_each_call_for_an_observation_is_normalised_by_the_games_own_normaliser():
    env = Scripted(Event(), Event(), fire=False)
    shared, expected = Normalizer(), Normalizer()
    game = Game(env, shared)
    game.start(seed(0))
    assert np.array_equal(game.observation(), expected.observe(game.frame[None])[0])
    game.act(0)
    assert np.array_equal(game.observation(), expected.observe(game.frame[None])[0])
    assert shared.state[0] == 2


def test_a_rollout_sees_with_the_statistics_of_its_beginning():
    """Its first observation, too, which was made in the rollout before."""
    env = make_env("Pong-v0", game_config(read_config(CONFIG), "Pong-v0"))
    normalizer = Normalizer()
    network = PlainNetwork(SmallNetwork(6), 1, 5)
    player = Player(network, [Game(env, normalizer)], True, learning=True)
    player.start(0, seed(0))
    for _ in range(110):  # statistics that are younger are not held
        player.step(greedy=False)
    for _ in range(2):
        player.begin()
        mean, std = normalizer.state[1:]
        for _ in range(5):
            expected = (player.games[0].frame - mean) / (std + 1e-8)
            np.testing.assert_allclose(player.obs[0, 0], expected, rtol=1e-4, atol=1e-5)
            player.step(greedy=False)
        assert abs(normalizer.state[1] - mean) > 1e-4
    assert normalizer.state[0] == 121  # each frame was taken in once


class Recorder(gym.Wrapper):
    """Writes down the actions, rewards and lives of a real game."""

    def __init__(self, env):
        super().__init__(env)
        self.fire_action = env.fire_action
        self.steps: list[tuple[int, float, int]] = []

    def step(self, action):
        obs, reward, terminated, truncated, info = self.env.step(action)
        self.steps.append((int(action), float(reward), info["lives"]))
        return obs, reward, terminated, truncated, info


def test_real_breakout_gets_fire_at_the_start_and_after_each_lost_life():
    env_id = "BreakoutDeterministic-v4"
    env = Recorder(make_env(env_id, game_config(read_config(CONFIG), env_id)))
    fire = env.fire_action
    probability = torch.ones(1, env.action_space.n)
    probability[0, fire] = 1e-30  # the policy itself never presses it
    game = Game(env, Normalizer())
    player = Player(PlainNetwork(FixedPolicy(probability), 1, 0), [game], True)
    player.start(0, seed(0))
    ends = 0
    while not game.over:
        ends += bool(player.step(greedy=False).terminated)
    actions, rewards, lives = zip(*env.steps, strict=True)
    lost = [t for t in range(1, len(lives)) if lives[t] < lives[t - 1]]
    pressed = [t for t, action in enumerate(actions) if action == fire]
    assert lives[0] == 5
    assert len(lost) == ends == 5
    assert pressed == [0, 1] + [t + n for t in lost[:-1] for n in (1, 2)]
    assert game.length == player.steps == len(actions)
    assert game.score == sum(rewards)


# ---------------------------------------------------------------------------------------------
# The LSTM's memory


class Watched(SmallNetwork):
    """Keeps the LSTM state that each call began with."""

    def __init__(self, num_actions: int):
        super().__init__(num_actions)
        self.seen: list[torch.Tensor] = []  # (E, 2 * hidden) each

    def forward(self, inputs):
        self.seen.append(torch.cat(inputs[1], 1).detach().clone())
        return super().forward(inputs)


LIVES = [Event(lives=n, terminated=n == 0) for n in (3, 3, 2, 2, 1, 0)]
LONG = [Event() for _ in range(6)]


def begins_with_zero(seen: torch.Tensor) -> list[list[bool]]:
    """Per call, which rows had a zero state."""
    return [(~state.any(1)).tolist() for state in seen]


def test_the_lstm_state_is_zero_at_the_start_of_each_training_episode():
    player = player_of(Scripted(*LIVES, fire=False), Scripted(*LONG, fire=False))
    player.network.model = Watched(3)
    for _ in range(6):
        player.step(greedy=False)
    # Lives are lost with steps 3, 5 and 6; the other row remembers all the time.
    assert begins_with_zero(player.network.model.seen) == [
        [True, True], [False, False], [False, False], [True, False], [False, False], [True, False]
    ]  # fmt: skip
    assert not player.hx[0].any()
    assert not player.cx[0].any()
    assert player.hx[1].any()


def test_without_counted_lives_the_lstm_remembers_until_the_game_ends():
    player = player_of(Scripted(*LIVES, fire=False), count_lives=False)
    player.network.model = Watched(3)
    for _ in range(6):
        player.step(greedy=False)
    assert begins_with_zero(player.network.model.seen) == [[True]] + [[False]] * 5
    assert not player.hx.any()


@pytest.mark.parametrize("count_lives", [True, False])
def test_an_evaluation_begins_each_training_episode_with_a_zero_state_too(count_lives):
    model = Watched(3)
    results = play_games(
        model, lambda seed: Scripted(*LIVES, fire=False), [seed(0), seed(1)], None, count_lives
    )
    assert [result.length for result in results] == [6, 6]
    # One game after the other: game 0 in row 0, then game 1 in row 1.
    found = [zero[row] for row in (0, 1) for zero in begins_with_zero(model.seen)[6 * row :][:6]]
    lost = [True, False, False, True, False, True] if count_lives else [True] + [False] * 5
    assert found == 2 * lost


def test_a_time_limit_clears_the_lstm_state():
    events = [Event(), Event(truncated=True)]
    player = player_of(Scripted(*events, fire=False), Scripted(*LONG, fire=False))
    for _ in range(2):
        player.step(greedy=False)
    assert not player.hx[0].any()
    assert not player.cx[0].any()
    assert player.hx[1].any()


def test_a_row_whose_game_is_over_stands_still():
    short = Scripted(Event(reward=1.0), Event(reward=1.0, terminated=True), fire=False)
    player = player_of(short, Scripted(*LONG, fire=False))
    for _ in range(2):
        player.step(greedy=False)
    game = player.games[0]
    chance = game.rng.bit_generator.state
    for _ in range(3):
        step = player.step(greedy=False)
        assert step.reward.tolist()[0] == 0
        assert not step.terminated[0]
        assert not step.truncated[0]
    assert len(short.actions[0]) == game.length == 2
    assert game.score == 2.0
    assert game.rng.bit_generator.state == chance
    assert player.steps == 2 + 5
    assert player.hx[0].any()  # biases have moved it meanwhile
    player.start(0, seed(1))
    assert not player.hx[0].any()
    assert not player.cx[0].any()
    assert player.hx[1].any()


# ---------------------------------------------------------------------------------------------
# Sampling


def endless(number: int) -> list[Game]:
    return [Game(Scripted(*[Event()] * 1000, fire=False), Normalizer()) for _ in range(number)]


def sampled(probability, seeds, number: int) -> np.ndarray:
    """(number, E) actions of one endless game per seed."""
    games = endless(len(seeds))
    player = Player(PlainNetwork(FixedPolicy(probability), len(games), 0), games, True)
    for row, game_seed_ in enumerate(seeds):
        player.start(row, game_seed_)
    with torch.no_grad():
        return np.array([player.step(greedy=False).action.numpy() for _ in range(number)])


def test_actions_are_sampled_with_the_policys_probabilities():
    probability = torch.tensor(
        [[0.7, 0.2, 0.1], [0.05, 0.05, 0.9], [1 / 3] * 3, [0.5, 1e-30, 0.5], [1e-9, 1.0, 1e-9]]
    )
    number = 800
    actions = sampled(probability, [seed(i) for i in range(5)], number)
    for row, expected in enumerate(probability.numpy()):
        count = np.bincount(actions[:, row], minlength=3)
        possible = expected > 1e-6
        assert not count[~possible].any()
        chi_square = (count - number * expected)[possible] ** 2 / (number * expected[possible])
        # 2 degrees of freedom exceed 13.8 once in 1000 times; the seeds are fixed.
        assert chi_square.sum() < 13.8
    # and the rows are independent of each other: 0.7 * 0.9 of all steps
    both = ((actions[:, 0] == 0) & (actions[:, 1] == 2)).mean()
    assert both == pytest.approx(0.63, abs=0.06)


def test_a_game_samples_from_its_own_stream_only():
    probability = torch.full((3, 3), 1 / 3)
    torch.manual_seed(1)
    np.random.seed(1)
    first = sampled(probability, [seed(0), seed(1), seed(2)], 40)
    torch.manual_seed(2)
    np.random.seed(2)
    second = sampled(probability, [seed(2), seed(0), seed(7)], 40)
    assert (first[:, 0] == second[:, 1]).all()  # another row, other neighbours
    assert (first[:, 2] == second[:, 0]).all()
    assert (first[:, 0] != first[:, 1]).any()
    assert (first[:, 1] != second[:, 2]).any()


def test_a_greedy_player_draws_nothing_and_takes_the_most_probable_action():
    games = endless(2)
    policy = FixedPolicy(torch.tensor([[0.3, 0.4, 0.3], [0.2, 0.2, 0.6]]))
    player = Player(PlainNetwork(policy, 2, 0), games, True)
    for row in range(2):
        player.start(row, seed(row))
    before = [game.rng.bit_generator.state for game in games]
    assert [player.step(greedy=True).action.tolist() for _ in range(5)] == [[1, 2]] * 5
    assert [game.rng.bit_generator.state for game in games] == before


def test_epsilon_is_the_share_of_actions_that_are_drawn_from_all_alike():
    """Each row's are a matter of its own game, whatever runs beside it."""
    policy = FixedPolicy(torch.tensor([[0.3, 0.4, 0.3], [0.2, 0.2, 0.6]]))
    player = Player(PlainNetwork(policy, 2, 0), endless(2), True)
    for row in range(2):
        player.start(row, seed(row))
    number = 999
    chosen = np.array([player.step(True, 0.3).action.numpy() for _ in range(number)])
    for row, best in ((0, 1), (1, 2)):
        shares = np.bincount(chosen[:, row], minlength=3) / number
        expected = np.full(3, 0.1)
        expected[best] = 0.8
        np.testing.assert_allclose(shares, expected, atol=4 * (0.16 / number) ** 0.5)
    drawn = np.array([np.random.default_rng(seed(0)).random() for _ in range(1)])
    assert chosen[0, 0] == stray(np.array([1]), 3, drawn, 0.3)[0]


def test_a_random_action_is_never_outside_of_the_actions():
    drawn = np.array([0.0, np.nextafter(1, 0), np.nextafter(0.01, 0), 0.01, 0.5])
    assert stray(np.full(5, 7), 9, drawn, 1.0).tolist() == [0, 8, 0, 0, 4]
    assert stray(np.full(5, 7), 9, drawn, 0.01).tolist() == [0, 7, 8, 7, 7]
    assert stray(np.full(5, 7), 9, drawn, 1e-9).tolist() == [0, 7, 7, 7, 7]


# ---------------------------------------------------------------------------------------------
# Whole evaluations

SIDE_BY_SIDE = (1, 3, 100)


def sensitive_network(num_actions: int) -> A3Clstm:
    """Far from uniform, and chaotic: small differences soon show in the actions.

    The biases are not zero, so that a row without a game has a state of its own, too.
    """
    torch.manual_seed(3)
    model = A3Clstm(num_actions, 64)
    with torch.no_grad():
        model.actor_linear.weight *= 100
        model.lstm.weight_hh *= 7
        for name, parameter in model.named_parameters():
            if name.endswith(("bias", "bias_ih", "bias_hh")):
                parameter += 0.1 * torch.randn_like(parameter)
    return model


@pytest.fixture(scope="module")
def pong():
    """Results of 9 short games of Pong, for each number of games side by side, and again."""
    torch.set_num_threads(1)
    model = sensitive_network(6)
    config = game_config(read_config(CONFIG), "Pong-v0")
    # More than one block of rows; made once, because loading the ROM is what takes long.
    envs = [make_env("Pong-v0", config, max_episode_length=8) for _ in range(9)]
    seeds = [seed(i) for i in range(9)]
    normalizer = Normalizer(np.array([1000.0, 100.0, 5.0]), frozen=True)

    def play(side_by_side):
        make = unseeded(iter(envs).__next__)
        return list(play_games(model, make, seeds, normalizer, True, side_by_side=side_by_side))

    return [play(n) for n in (*SIDE_BY_SIDE, SIDE_BY_SIDE[-1])]


def test_real_games_do_not_depend_on_how_many_run_side_by_side(pong):
    one_by_one = pong[0]
    assert [result.index for result in one_by_one] == list(range(9))
    for results in pong[1:]:
        assert sorted(results) == one_by_one


def test_the_real_games_of_an_evaluation_differ(pong):
    assert len({result.action_hash for result in pong[0]}) >= 3
    assert {result.length for result in pong[0]} == {8}


@pytest.mark.parametrize("greedy", [True, False])
@pytest.mark.parametrize("frozen", [True, False])
def test_games_of_many_lengths_do_not_depend_on_how_many_run_side_by_side(greedy, frozen):
    normalizer = Normalizer(np.array([100.0, 60.0, 40.0]), frozen=True) if frozen else None

    def play(side_by_side):
        return sorted(
            play_games(
                SmallNetwork(4), Dice, [seed(i) for i in range(30)], normalizer, True,
                greedy=greedy, side_by_side=side_by_side,
            )
        )  # fmt: skip

    one_by_one = play(1)
    assert [result.index for result in one_by_one] == list(range(30))
    assert len({result.action_hash for result in one_by_one}) > 10
    assert len({result.length for result in one_by_one}) > 5
    assert len({result.score for result in one_by_one}) > 5
    for side_by_side in (1, 3, 8, 20, 100):
        assert play(side_by_side) == one_by_one


@pytest.mark.parametrize("side_by_side", [1, 3, 8, 20])
def test_every_batch_of_an_evaluation_has_the_same_size(side_by_side):
    """Another size would change the last bits of each row, and some game's course with them."""
    sizes = set()
    model = SmallNetwork(4)
    model.register_forward_pre_hook(lambda module, inputs: sizes.add(len(inputs[0][0])))
    seeds = [seed(i) for i in range(20)]
    list(play_games(model, Dice, seeds, None, True, side_by_side=side_by_side))
    assert sizes == {BLOCK}


def test_a_game_does_not_depend_on_the_games_around_it():
    """Game i of a longer evaluation is game i of a shorter one."""
    many = play_games(SmallNetwork(4), Dice, [seed(i) for i in range(9)], None, True, False, 4)
    few = play_games(SmallNetwork(4), Dice, [seed(i) for i in range(3)], None, True, False, 2)
    assert sorted(many)[:3] == sorted(few)


def test_greedy_and_sampled_games_differ():
    def play(greedy):
        return sorted(play_games(SmallNetwork(4), Dice, [seed(0), seed(1)], None, True, greedy))

    assert [r.action_hash for r in play(True)] != [r.action_hash for r in play(False)]


def test_without_a_normaliser_each_game_starts_one_of_its_own():
    class Bright(Scripted):
        """Game g shows pictures of brightness 10 * g + 10 and 50 more."""

        def picture(self):
            picture = np.full((80, 80), 10 * len(self.actions), dtype=np.uint8)
            picture[:40] += 50
            return picture

    seen = []
    model = SmallNetwork(3)
    model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0][0].clone()))
    env = Bright(Event(), Event(terminated=True), fire=False)
    list(play_games(model, lambda seed: env, [seed(i) for i in range(3)], None, True))
    assert len(seen) == 6
    for i in range(3):
        expected = np.repeat([1.0, -1.0], 40)  # by this game's own mean and deviation
        for t in range(2):
            np.testing.assert_allclose(seen[2 * i + t][i, 0, :, 0], expected, atol=1e-5)


def test_a_frozen_normaliser_is_left_as_it_was():
    state = np.array([100.0, 60.0, 40.0])
    list(play_games(SmallNetwork(4), Dice, [seed(0)], Normalizer(state, frozen=True), True))
    assert state.tolist() == [100.0, 60.0, 40.0]


def test_should_stop_leaves_out_the_games_that_are_not_finished():
    lengths = iter([[Event()] * 2, [Event()] * 9, [Event()] * 3, [Event()] * 9])
    envs = []

    def make(seed=None):
        events = next(lengths)
        envs.append(Scripted(*events[:-1], Event(reward=1.0, terminated=True), fire=False))
        return envs[-1]

    results = list(
        play_games(
            SmallNetwork(3), make, [seed(i) for i in range(4)], None, True,
            side_by_side=4, should_stop=lambda: any(len(env.actions[0]) == 4 for env in envs),
        )
    )  # fmt: skip
    assert sorted(result.length for result in results) == [2, 3]
    assert all(isinstance(result, Result) and result.score == 1.0 for result in results)
    assert max(len(env.actions[0]) for env in envs) == 4  # and not a step more


def test_a_stop_while_games_begin_does_not_wait_for_the_others():
    made = []

    def make(seed=None):
        made.append(Dice())
        return made[-1]

    games = play_games(
        SmallNetwork(4), make, [seed(i) for i in range(7)], None, True,
        side_by_side=7, should_stop=lambda: len(made) == 3,
    )  # fmt: skip
    assert list(games) == []
    assert len(made) == 3


def test_no_more_environments_are_made_than_run_side_by_side():
    made = []

    def make(seed=None):
        made.append(Dice())
        return made[-1]

    list(play_games(SmallNetwork(4), make, [seed(i) for i in range(7)], None, True, True, 3))
    assert len(made) == 3
