"""Which filters of the convolutions are dead, and how much the others tell observations apart.

    python benchmarks/dead_filters.py                          # the published weights
    python benchmarks/dead_filters.py --env Breakout-v0 trained_models/Breakout-v0.ckpt

Sampled play, every eighth observation of it. A row per file, and one of the weights that training
begins with. Of each layer, behind its maximum and its ReLU: filters that are zero in more than
999 of 1,000 places; then the mean, and the mean deviation over time in one place.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import utils  # isort: skip  # before torch: sets the number of threads

import torch
import torch.nn.functional as F

import checkpoint
from agent import Agent
from model import make_model

EVERY = 8  # agent steps
ALIVE = 1e-3  # share of places


def observations(agent: Agent, steps: int, seed: int) -> torch.Tensor:
    """(N, 1, 80, 80) of sampled play, normalised."""
    agent.greedy = False
    env, game, seen = agent.make_env(), -1, []
    over = True
    for step in range(steps):
        if over:
            game += 1
            obs, info = env.reset(seed=agent.reset(seed, game))
        action = agent.act(obs, info)
        if step % EVERY == 0:
            seen.append(agent.obs[agent.row].clone())
        obs, _, terminated, truncated, info = env.step(action)
        over = terminated or truncated
    return torch.stack(seen)


@torch.no_grad()
def layers(model: torch.nn.Module, obs: torch.Tensor) -> list[str]:
    """A cell for each convolution."""
    cells = []
    for conv in (model.conv1, model.conv2, model.conv3, model.conv4):
        obs = F.relu(F.max_pool2d(conv(obs), 2))
        active = (obs > 0).float().mean((0, 2, 3))
        dead = int((active < ALIVE).sum())
        cells.append(f"{dead} of {len(active)}; {obs.mean():.3f}, {obs.std(0).mean():.3f}")
    return cells


def main() -> None:
    parser = utils.LineParser(prog=Path(__file__).name, description=__doc__.split("\n")[0])
    parser.add_argument("files", nargs="*", metavar="FILE", help=".dat or .ckpt of one game")
    parser.add_argument("--env", metavar="ID", help="the game; without FILE its published weights")
    parser.add_argument("--steps", type=utils.positive_int, default=600, metavar="N")
    parser.add_argument("--seed", type=utils.seed_int, default=3, metavar="S")
    args = parser.parse_args()
    if args.steps <= EVERY:
        parser.error(f"every {EVERY}th observation counts: give more than {args.steps} --steps")
    files = [Path(file) for file in args.files]
    files = files or sorted(checkpoint.PUBLISHED.glob(f"{args.env or '*'}.dat"))
    if not files:
        parser.error(f"no weights of {args.env} are published")
    print("| weights | conv1 | conv2 | conv3 | conv4 |\n|---|---|---|---|---|")
    begun = set()
    try:
        for file in files:
            agent = Agent.load(file, args.env)
            obs = observations(agent, args.steps, args.seed)
            if (env := args.env or agent.description.get("env")) not in begun:
                begun.add(env)
                torch.manual_seed(1)
                print(f"| {env}, at first |", " | ".join(layers(make_model(2), obs)), "|")
            print(f"| {file.name} |", " | ".join(layers(agent.model, obs)), "|", flush=True)
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
