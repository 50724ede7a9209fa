"""What uniformly random actions score, to compare an agent with: 100 games of each id.

    python benchmarks/random_play.py --env Pong-v0 Breakout-v0

The games are those of `gym_eval.py --seed 1`: the same chance in each, FIRE pressed at the start
where a game waits for it. After a lost life the random actions have to press it, which costs
nothing: 400 games of Breakout-v0 have 1.26 either way.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import utils  # isort: skip  # before torch: sets the number of threads

import numpy as np

from environment import CROP_TABLE, game_config, make_env, read_config
from player import Game, env_seed


def play(env_id: str, seed: int, episodes: int) -> list[float]:
    """Raw scores of the games, in order."""
    config = game_config(read_config(CROP_TABLE), env_id)
    scores = []
    for i in range(episodes):
        chance = utils.game_seed(seed, utils.EVALUATE, i)
        game = Game(make_env(env_id, config, seed=env_seed(chance)), None)
        game.start(chance)
        while not game.over:
            game.act(int(game.rng.integers(game.env.action_space.n)))
        game.env.close()
        scores.append(game.score)
    return scores


def main() -> None:
    parser = utils.LineParser(prog=Path(__file__).name, description=__doc__.split("\n")[0])
    parser.add_argument("--env", nargs="+", default=["Pong-v0"], metavar="ID", help="ids to play")
    parser.add_argument("--num-episodes", type=utils.positive_int, default=100, help="of each")
    parser.add_argument("--seed", type=utils.seed_int, default=1, help="random seed")
    args = parser.parse_args()
    for env_id in args.env:
        try:
            scores = play(env_id, args.seed, args.num_episodes)
        except ValueError as error:
            parser.error(str(error))
        error = np.std(scores, ddof=1) / len(scores) ** 0.5 if len(scores) > 1 else np.nan
        print(f"{env_id}: {np.mean(scores):.2f} ± {error:.2f}, best {max(scores):g}", flush=True)


if __name__ == "__main__":
    main()
