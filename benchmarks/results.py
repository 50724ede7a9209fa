"""The table of results in the README, from the descriptions of the published models.

    python benchmarks/results.py                            # print the table
    python benchmarks/results.py --add logs/Pong-v0_eval.json   # first add an evaluation of a model

An evaluation is what gym_eval.py wrote about one of the published models. It is added to the
description beside those weights (key "results"), in place of an earlier one with the same policy
and seed.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import utils  # isort: skip  # before torch: sets the number of threads

import argparse
import json
import math
import tomllib
from collections.abc import Sequence

import checkpoint
import gym_eval
from environment import (
    CROP_TABLE,
    EnvSpec,
    as_trained,
    game_config,
    has_chance,
    idle_limit,
    make_env,
    parse_env_id,
    read_config,
)

REFERENCES = Path(__file__).with_name("references.toml")
EPISODES = 100
KEYS = {  # of an evaluation, that a description keeps
    "policy": str,
    "seed": int,
    "episodes": int,
    "mean": float,
    "standard_error": float | None,
}
HEADER = """\
| id | random play | greedy | sampled | classic (days, 16 to 32 cores) | agent steps | hours |
|---|---|---|---|---|---|---|"""


def published() -> list[Path]:
    """The descriptions of the models in the table; further seeds lie in folders below."""
    return sorted(checkpoint.PUBLISHED.glob("*.json"))


def add(evaluations: Sequence[Path]) -> None:
    """ValueError: one line, if one of them cannot be added; none is, then."""
    descriptions = {path: json.loads(path.read_text(encoding="utf-8")) for path in published()}
    changed = {_add(evaluation, descriptions) for evaluation in evaluations}
    for path in changed:
        text = json.dumps(descriptions[path], indent=2) + "\n"
        checkpoint.write_atomically(path, lambda file, t=text: file.write(t.encode()))


def _add(evaluation: Path, descriptions: dict[Path, dict]) -> Path:
    """Put it into the description of its model, whose path is returned.

    ValueError: one line, if it is no evaluation of a published model, or not by its protocol.
    """
    try:
        found = json.loads(evaluation.read_text(encoding="utf-8"))
        result = {key: found[key] for key in KEYS}
        sha256 = found["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{evaluation}: no evaluation of gym_eval.py ({error!r})") from None
    for key, types in KEYS.items():
        value = result[key]
        if not isinstance(value, types) or (isinstance(value, float) and not math.isfinite(value)):
            raise ValueError(f"{evaluation}: no evaluation of gym_eval.py ({key} is {value!r})")
    path = next((p for p, known in descriptions.items() if known["sha256"] == sha256), None)
    if path is None:
        raise ValueError(f"{evaluation}: of weights that are not published")
    description = descriptions[path]
    if result["policy"] not in checkpoint.POLICIES:
        raise ValueError(f"{evaluation}: {result['policy']}, which the table has no column for")
    spec = parse_env_id(description["env"])
    games = episodes(description["env"], description["actions"], result["policy"])
    if result["episodes"] not in (games, EPISODES):
        raise ValueError(f"{evaluation}: {result['episodes']} games in place of {games}")
    expected = {"env": description["env"], **protocol(description, spec)}
    for key, value in expected.items():
        if found.get(key) != value:
            raise ValueError(f"{evaluation}: {key} is {found.get(key)}, in place of {value}")
    others = [
        other
        for other in description.get("results", [])
        if (other["policy"], other["seed"]) != (result["policy"], result["seed"])
    ]
    description["results"] = sorted([*others, result], key=lambda r: (r["policy"], r["seed"]))
    return path


def protocol(description: dict, spec: EnvSpec) -> dict:
    """How the games of the table are played: as the model was trained, cut by the id alone."""
    by_id = argparse.Namespace(max_episode_length=None)
    # make_env checks the crops of a description that has them, and knows those of others.
    config = game_config(read_config(CROP_TABLE), spec.env_id)
    config = as_trained(config, description.get("game_config"))
    screen = make_env(spec.env_id, config | {"actions": description["actions"]})
    idle = idle_limit(None, spec, description["actions"])
    return gym_eval.protocol(
        by_id, spec, description["skip_rate"], description["count_lives"], idle, screen.game_config
    )


def episodes(env_id: str, actions: list[str], policy: str) -> int:
    """Games of an evaluation in the table: one says all where there is no chance."""
    return EPISODES if has_chance(parse_env_id(env_id), actions, policy == "greedy") else 1


def score(mean: float, error: float | None) -> str:
    """Two decimals below 100, one below 1,000, none above. error: None, it is one single game."""
    decimals = sum(abs(mean) < limit for limit in (100, 1000))
    if error is None:
        return f"{mean:,.{decimals}f} (one game)"
    return f"{mean:,.{decimals}f} ± {error:,.{decimals}f}"


def hours(description: dict | None) -> float:
    """Training time down the chain of "loaded"."""
    seconds = 0.0
    while description:
        seconds, description = seconds + description["seconds"], description["loaded"]
    return seconds / 3600


def row(description: dict, references: dict) -> list[str]:
    """The model's row, and that of the default recipe where the model had another."""
    env_id, results = description["env"], description["results"]

    def of(policy: str) -> str:
        found = [r for r in results if r["policy"] == policy]
        text = ", ".join(score(r["mean"], r["standard_error"]) for r in found)
        return f"**{text}**" if policy == description["policy"] else text

    def reference(kind: str) -> str:
        return score(*references[kind][env_id]) if env_id in references[kind] else ""

    def line(name: str, greedy: str, sampled: str, steps: int, hours: float) -> str:
        figures = reference("random"), greedy, sampled, reference("classic")
        return "| " + " | ".join((name, *figures, f"{steps / 1e6:.1f} M", f"{hours:.1f}")) + " |"

    steps, took = checkpoint.all_steps(description), hours(description)
    found = references["default"].get(env_id)
    if found is None:
        return [line(env_id, of("greedy"), of("sampled"), steps, took)]
    return [
        line(f"{env_id}, defaults", found["greedy"], "", found["agent_steps"], found["hours"]),
        line(f"{env_id}, tuned", of("greedy"), of("sampled"), steps, took),
    ]


def table() -> list[str]:
    """ValueError: one line, if a model or its reference lacks what the table says."""
    references = tomllib.loads(REFERENCES.read_text(encoding="utf-8"))
    descriptions = [json.loads(path.read_text(encoding="utf-8")) for path in published()]
    order = list(references["random"])
    for path, description in zip(published(), descriptions, strict=True):
        if description["env"] not in order:
            raise ValueError(f"{REFERENCES}: random play of {description['env']} is missing")
        if not description.get("results"):
            raise ValueError(f"{path}: no evaluation was added yet")
    descriptions.sort(key=lambda d: order.index(d["env"]))
    return [*HEADER.split("\n"), *(line for d in descriptions for line in row(d, references))]


def main() -> None:
    parser = utils.LineParser(prog=Path(__file__).name, description=__doc__.split("\n")[0])
    parser.add_argument("--add", type=Path, nargs="+", default=[], metavar="ENV_eval.json")
    args = parser.parse_args()
    try:
        add(args.add)
        lines = table()
    except (ValueError, OSError) as error:
        parser.error(str(error))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
