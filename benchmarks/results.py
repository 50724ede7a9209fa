"""The table of results in the README, from the evaluations of the published models.

    python benchmarks/results.py                            # print the table
    python benchmarks/results.py --add logs/Pong-v0_eval.json   # first add an evaluation of a model

An evaluation is what gym_eval.py wrote about one of the published models. It is copied into the
folder `evaluations` beside those weights, in place of an earlier one with the same policy and seed;
what lies there of weights that are gone is deleted.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import utils  # isort: skip  # before torch: sets the number of threads

import argparse
import itertools
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
KEYS = {  # of an evaluation that is added
    "policy": str,
    "seed": int,
    "episodes": int,
    "mean": float,
    "standard_error": float | None,
    "scores": list,
    "action_hashes": list,
    "versions": dict,
}
HEADER = """\
| id | random play | greedy | sampled | classic (days, 16 to 32 cores) | agent steps | hours |
|---|---|---|---|---|---|---|"""


def published(pattern: str = "*.dat") -> list[Path]:
    """The descriptions of these models; by default of those in the table, without further seeds."""
    return sorted(path.with_suffix(".json") for path in checkpoint.PUBLISHED.glob(pattern))


def read(path: Path) -> dict:
    """ValueError: one line that names the file, if it is no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def evaluations(path: Path, description: dict) -> list[dict]:
    """Those of the model that is described in this file, by policy and seed."""
    found = [read(one) for one in path.parent.glob(f"evaluations/{path.stem}.*.json")]
    own = [one for one in found if one.get("sha256") == description["sha256"]]
    return sorted(own, key=lambda one: (one["policy"], one["seed"]))


def add(paths: Sequence[Path]) -> None:
    """ValueError: one line, if one of them cannot be added; none is, then."""
    descriptions = {path: read(path) for path in published("**/*.dat")}
    targets = [_target(path, descriptions) for path in paths]
    # What is there of weights that are gone.
    known = {description["sha256"] for description in descriptions.values()}
    there = {path for target in targets for path in target.parent.glob("*.json")}
    gone = {path for path in there if read(path).get("sha256") not in known}
    for path, target in zip(paths, targets, strict=True):
        target.parent.mkdir(exist_ok=True)
        checkpoint.write_atomically(target, lambda file, p=path: file.write(p.read_bytes()))
    for path in gone - {*targets}:
        path.unlink()


def _target(evaluation: Path, descriptions: dict[Path, dict]) -> Path:
    """Where it belongs, beside its model.

    ValueError: one line, if it is no evaluation of a published model, or not by its protocol.
    """
    try:
        found = read(evaluation)
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
    if not len(result["scores"]) == len(result["action_hashes"]) == result["episodes"] == games:
        raise ValueError(f"{evaluation}: {result['episodes']} games in place of {games}")
    expected = {"env": description["env"], **protocol(description, spec)}
    for key, value in expected.items():
        if found.get(key) != value:
            raise ValueError(f"{evaluation}: {key} is {found.get(key)}, in place of {value}")
    return gym_eval.published_path(path, result["policy"], result["seed"])


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
    """Two decimals below 100, one below 1,000, none above, nor with an error of 10 or more.

    error: None, it is one single game.
    """
    decimals = sum(abs(mean) < limit for limit in (100, 1000)) if (error or 0) < 10 else 0
    if error is None:
        return f"{mean:,.{decimals}f} (one game)"
    return f"{mean:,.{decimals}f} ± {error:,.{decimals}f}"


def hours(description: dict | None) -> float:
    """Training time down the chain of "loaded"."""
    seconds = 0.0
    while description:
        seconds, description = seconds + description["seconds"], description["loaded"]
    return seconds / 3600


def row(description: dict, results: Sequence[dict], references: dict) -> list[str]:
    """The model's row, and that of the default recipe where the model had another.

    results: evaluations of the model.
    """
    env_id = description["env"]

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
    order, rows = list(references["random"]), {}
    for path in published():
        description = read(path)
        results = evaluations(path, description)
        if description["env"] not in order:
            raise ValueError(f"{REFERENCES}: random play of {description['env']} is missing")
        if not results:
            raise ValueError(f"{path}: no evaluation was added yet")
        rows[order.index(description["env"])] = row(description, results, references)
    return [*HEADER.split("\n"), *itertools.chain(*(rows[place] for place in sorted(rows)))]


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
