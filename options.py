"""The command lines of main.py, gym_eval.py and experiment.py, which are there before torch is.

Of main.py also the recipes behind the defaults and what --resume keeps.
"""

import argparse
import difflib
import functools
import operator
import re
import shlex
import sys
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from environment import (
    CROP_TABLE,
    IDLE_STEPS,
    SKIP_RATE,
    check_skip_rate,
    game_config,
    game_name,
    known_env_ids,
    parse_env_id,
    picture,
    read_config,
)
from schedule import FOR_EVER, is_schedule, needs_length, number_or_schedule, value_at
from utils import (
    LineParser,
    add_truth,
    available_cores,
    few_int,
    finite_float,
    named,
    natural_float,
    natural_int,
    natural_time,
    or_none,
    positive_float,
    positive_int,
    positive_time,
    seed_int,
    share,
    unit_interval,
)

ENVS_PER_WORKER = 8  # by measurement, see benchmarks/README.md
RECIPES = Path(__file__).with_name("recipes.toml")
OPTIMIZERS = ("Adam", "RMSprop")
# The tables of a recipe file, as recipes.toml explains them, and what the help says of each.
TABLES = {
    "every_run": "",
    "one_game": " with one game per worker",
    "several_games": " with several games per worker",
    **{optimizer: f" with {optimizer}" for optimizer in OPTIMIZERS},
}
WITH_GAMES = ("one_game", "several_games")  # those that hold tables of games
TARGET_GAMES = 100  # training games
TRACKERS = ("wandb", "trackio")
# Of main.py, but not of the runs of an experiment: it gives them itself, or all end alike.
OF_EXPERIMENT = ("env", "seed", "max_steps", "save_model_dir", "log_dir", "resume", "quiet")
OF_EXPERIMENT += ("max_minutes", "target_score", "ray", "machines", "driver_workers")
# Of a session of main.py, not of its run.
OF_SESSION = ("resume", "load", "published", "recipe", "max_minutes", "save_model_dir", "quiet")
OF_SESSION += ("plain", "ray", "machines", "driver_workers")
SCHEDULED = ("lr", "gamma", "entropy_coef")  # may be schedules


def build_parser() -> LineParser:
    """The options of main.py. Those of a recipe are missing from what it parses if not given."""
    parser = _bare_parser()
    try:
        tables = _default_recipes()
    except ValueError as error:
        parser.error(str(error))
    for name, action in _of_recipe(parser).items():
        action.help += _in_help(tables, name)
    return parser


def recipe_options() -> dict[str, argparse.Action]:
    """The options that a recipe can have, by name."""
    return _of_recipe(_bare_parser())


def _of_recipe(parser: LineParser) -> dict[str, argparse.Action]:
    """They have no default in the parser."""
    actions = {action.dest: action for action in parser._actions if action.dest != "help"}
    return {name: a for name, a in actions.items() if a.default is argparse.SUPPRESS}


def _bare_parser() -> LineParser:
    parser = LineParser(prog="main.py", description="Train an A3C-LSTM agent on an Atari game.")
    absent = argparse.SUPPRESS  # the default of what a recipe says
    run = parser.add_argument_group("run")
    run.add_argument("-ev", "--env", default="Pong-v0", metavar="ID", help="environment id")
    run.add_argument(
        "-w", "--workers", type=few_int, default=available_cores(), metavar="N",
        help="training processes, by default one per core (those of gym_eval.py are games)",
    )
    run.add_argument(
        "--envs-per-worker", type=few_int, metavar="N",
        help="games that a worker steps together as one batch "
        f"(default: {ENVS_PER_WORKER}, or 1 with more workers than cores)",
    )
    run.add_argument(
        "-s", "--seed", type=seed_int, default=1, metavar="S",
        help="random seed; with one worker the same weights come again, with several they do not, "
        "as these step on shared weights in an order that nothing fixes",
    )
    run.add_argument(
        "--recipe", type=named, metavar="FILE",
        help="options by game that beat those of recipes.toml, where the form is explained",
    )
    run.add_argument(
        "--max-steps", type=or_none(positive_int), default=absent, metavar="N",
        help="stop after N agent steps over all workers, earlier sessions included; "
        "none lifts the limit of a resumed run",
    )
    run.add_argument(
        "--max-minutes", type=positive_time, metavar="M", help="stop after M minutes"
    )
    run.add_argument(
        "--target-score", type=or_none(finite_float), metavar="S",
        help="stop when a mean score reaches S; see --target; none lifts it",
    )
    run.add_argument(
        "--target", choices=("evaluation", "training", "either"), default="either",
        help="whose mean score --target-score means: that of an evaluation, that of the last "
        f"{TARGET_GAMES} training games, or whichever reaches it first",
    )
    add_truth(run, "--resume", default=False, help="continue the run of --save-model-dir")
    add_plain(run)
    add_truth(
        run, "-ld", "--load", default=False,
        help="start from the weights of an earlier run, else from the published ones, with a new "
        "optimizer at step 0",
    )

    machines = parser.add_argument_group("several machines")
    machines.add_argument(
        "--ray", nargs="?", const="", metavar="HOST:PORT",
        help="train on the machines of this Ray cluster; without an address, of the one that "
        "`ray start` joined, or else in a cluster of this machine alone",
    )
    machines.add_argument(
        "--machines", type=few_int, metavar="N",
        help="how many machines take part, this one included (default: all, those too that join "
        "later); each has --workers, or one worker per core if this one has",
    )
    machines.add_argument(
        "--driver-workers", type=natural_int, metavar="N",
        help="workers of this machine, where they are to be others than --workers; with 0 it only "
        "evaluates, saves and keeps the weights for the others",
    )
    machines.add_argument(
        "--exchange-updates", type=positive_int, default=64, metavar="K",
        help="updates of a machine after which it exchanges weights with the others; with 16 cores "
        "and the default, that is 19 MB a second each way; with 1, as much as the network takes, "
        "two machines learned PongDeterministic-v4 as soon as one, with 8 or 64 0.1M steps later",
    )

    learning = parser.add_argument_group("learning", argument_default=absent)
    learning.add_argument(
        "-l", "--lr", type=number_or_schedule(positive_float, last=natural_float), metavar="LR",
        help="learning rate, a number or a schedule: values at agent steps with straight lines "
        "between, as 3e-4@0,3e-5@10M, or at shares of the run, as 3e-4@0%%,0@100%%",
    )
    learning.add_argument(
        "--anneal-steps", type=natural_int, metavar="N",
        help="agent steps of the run over which a constant learning rate falls to a tenth, where "
        "it stays; 0 keeps it as it is",
    )
    learning.add_argument(
        "--schedule-steps", type=or_none(positive_int), metavar="N",
        help="agent steps that the shares of schedules are of; none, the default, is --max-steps "
        "as the run begins, or as --resume gives a new schedule",
    )
    learning.add_argument(
        "-g", "--gamma", type=number_or_schedule(unit_interval), metavar="G",
        help="discount factor, a number or a schedule",
    )
    add_truth(
        learning, "--reward-ends-return", default=absent,
        help="what follows a reward counts for nothing that was done before it; for games where "
        "each reward decides a rally, such as Pong, with a --gamma of 0.998 or more; elsewhere it "
        "makes short-sighted",
    )
    learning.add_argument(
        "-t", "--tau", type=unit_interval, metavar="T",
        help="lambda of generalised advantage estimation",
    )
    learning.add_argument(
        "-ec", "--entropy-coef", type=number_or_schedule(natural_float), metavar="EC",
        help="weight of the policy's entropy, a number or a schedule",
    )
    learning.add_argument(
        "-vc", "--value-coef", type=natural_float, metavar="VC", help="weight of the value loss"
    )
    learning.add_argument(
        "--value-mean-step", type=unit_interval, metavar="S",
        help="share of its way to the mean of the returns that the bias of the value head goes in "
        "an update; the rest of the network then learns how values differ between the games of a "
        "worker, so that large returns do not saturate the LSTM; 0: all of it learns all; wants "
        "several games per worker",
    )
    add_truth(
        learning, "--gradient-centralization", default=absent,
        help="take off each unit's gradient its mean over the unit's inputs, which keeps filters "
        "alive",
    )
    learning.add_argument(
        "--max-grad-norm", type=positive_float, metavar="N",
        help="a gradient with a larger norm is scaled down to it",
    )
    learning.add_argument(
        "-ns", "--num-steps", type=few_int, metavar="N",
        help="agent steps in a rollout, per game",
    )
    learning.add_argument(
        "-dss", "--distributed-step-size", type=few_int, nargs="+", metavar="N",
        help="agent steps in a rollout, dealt out to the workers in turn; not together with "
        "--num-steps",
    )
    learning.add_argument("-o", "--optimizer", choices=OPTIMIZERS, help="optimizer")
    learning.add_argument(
        "--adam-eps", type=positive_float, metavar="E",
        help="added to the root of Adam's second moment, for Adam alone",
    )
    add_truth(learning, "-a", "--amsgrad", default=absent, help="AMSGrad variant of Adam")
    add_truth(
        learning, "-so", "--shared-optimizer", default=absent,
        help="one optimizer with shared statistics; False gives each worker its own",
    )
    learning.add_argument(
        "-hs", "--hidden-size", type=few_int, metavar="N", help="LSTM units"
    )

    game = parser.add_argument_group("environment")
    game.add_argument(
        "-evc", "--env-config", type=named, metavar="FILE",
        help="crop table in place of all of config.json beside main.py: rows of the screen, fire, "
        "flicker and actions by game",
    )
    game.add_argument(
        "-mel", "--max-episode-length", type=or_none(positive_int), metavar="N",
        help="agent steps after which a game is cut; none, the default, is the limit of the id",
    )
    add_max_idle_steps(game)
    add_truth(
        game, "--count-lives", default=True, help="a lost life ends the training episode"
    )
    game.add_argument(
        "--skip-rate", type=positive_int, metavar="N",
        help=f"frames per agent step of NoFrameskip ids, and of no others (default: {SKIP_RATE})",
    )

    evaluation = parser.add_argument_group("evaluation", argument_default=absent)
    evaluation.add_argument(
        "--eval-interval", type=or_none(natural_time), metavar="SECONDS",
        help="pause between evaluations; none, the default, is 4 times the processor time of the "
        "last one, and 60 at least",
    )
    evaluation.add_argument(
        "--eval-episodes", type=few_int, metavar="N", help="games per evaluation"
    )
    evaluation.add_argument(
        "--save-score-level", type=or_none(finite_float), metavar="S",
        help="mean score below which no evaluation counts as the best; none, the default, is no "
        "level",
    )
    add_truth(
        evaluation, "-sm", "--save-max", default=absent,
        help="keep every new best as ENV.step-N.dat beside ENV.dat",
    )
    files = parser.add_argument_group("files and output")
    source = files.add_mutually_exclusive_group()
    add_load_model_dir(source, "for --load, folder of the weights, ENV.dat")
    add_truth(source, "--published", default=False, help="for --load, the published weights")
    files.add_argument(
        "-smd", "--save-model-dir", type=named, default="trained_models/", metavar="DIR",
        help="for weights and checkpoint",
    )
    add_log_dir(files)
    add_truth(
        files, "-tl", "--tensorboard-logger", default=False,
        help="write curves, weight histograms, graph and options to LOG_DIR/tensorboard",
    )
    files.add_argument(
        "--track", type=or_none(str), choices=(*TRACKERS, None), metavar="|".join(TRACKERS),
        help="record the same curves, the options and the version of the suite with this tracker: "
        "wandb in LOG_DIR/wandb, offline unless WANDB_MODE says else; trackio where TRACKIO_DIR "
        "says; none ends it in a resumed run",
    )
    add_truth(
        files, "-q", "--quiet", default=False,
        help="print nothing but errors; the log has everything",
    )
    return parser


def add_load_model_dir(group, help: str) -> None:
    group.add_argument(
        "-lmd", "--load-model-dir", type=named, metavar="DIR",
        help=f"{help} (default: trained_models/, and the published ones where it has none)",
    )  # fmt: skip


def add_log_dir(group) -> None:
    group.add_argument(  # the classic's main.py has -lg, its gym_eval.py -lgd
        "-lg", "-lgd", "--log-dir", type=named, default="logs/", metavar="DIR", help="for logs"
    )


def add_plain(group) -> None:
    add_truth(
        group, "--plain", default=False,
        help="compute in plain PyTorch, several times slower, instead of with the kernels",
    )


def add_max_idle_steps(group) -> None:
    group.add_argument(
        "--max-idle-steps", type=or_none(natural_int), metavar="N",
        help="agent steps without a reward after which a game of an evaluation is cut; 0 is never; "
        f"none, the default, is {IDLE_STEPS} on ids without any chance, such as "
        "PongDeterministic-v4, and never on the others",
    )  # fmt: skip


def build_eval_parser() -> LineParser:
    parser = LineParser(prog="gym_eval.py", description="Evaluate a saved A3C-LSTM model.")
    run = parser.add_argument_group("run")
    run.add_argument(
        "-ev", "--env", metavar="ID",
        help="environment id (default: Pong-v0; that of the training with --load-model)",
    )
    run.add_argument(
        "--workers", type=few_int, metavar="N",
        help="games side by side, in all processes together (those of main.py are processes); the "
        "scores do not depend on it (default: 8 for each process, the fastest)",
    )
    run.add_argument(
        "--processes", type=few_int, metavar="N",
        help="processes that share these games, one for a core; never more than one for every 8 "
        "games to play; the scores do not depend on it (default: as many as cores)",
    )
    run.add_argument("-s", "--seed", type=seed_int, default=1, metavar="S", help="random seed")
    add_plain(run)

    environment = parser.add_argument_group("environment")
    environment.add_argument(
        "-evc", "--env-config", type=named, metavar="FILE",
        help="crop table (default: crops, FIRE and flicker of the training, or, where the weights' "
        ".json does not say them, crops and FIRE of config.json beside gym_eval.py)",
    )
    environment.add_argument(
        "-mel", "--max-episode-length", type=positive_int, metavar="N",
        help="agent steps after which a game is cut (default: the limit of the id)",
    )
    add_max_idle_steps(environment)
    environment.add_argument(
        "-sk", "--skip-rate", type=positive_int, metavar="N",
        help="frames per agent step of NoFrameskip ids, and of no others (default: that of the "
        "training)",
    )

    evaluation = parser.add_argument_group("evaluation")
    evaluation.add_argument(
        "-ne", "--num-episodes", type=few_int, default=100, metavar="N",
        help="games to play",
    )
    add_truth(
        evaluation, "--greedy", default=None,
        help="take the most probable action (default: the policy that the weights were chosen "
        "for); together with --stochastic or --epsilon each of them plays all games",
    )
    add_truth(
        evaluation, "--stochastic", default=None,
        help="draw actions from the policy (default: likewise)",
    )
    evaluation.add_argument(
        "--epsilon", type=share, metavar="E",
        help="take the most probable action, but with this probability any one at random",
    )

    files = parser.add_argument_group("files and output")
    source = files.add_mutually_exclusive_group()
    add_load_model_dir(source, "folder of the weights, ENV.dat")
    add_truth(source, "--published", default=False, help="play the published weights")
    source.add_argument(
        "--load-model", type=lambda text: Path(named(text)), metavar="FILE",
        help="play this file, whatever it is called: weights with their .json beside them, such "
        "as --save-max keeps, or a checkpoint, .ckpt",
    )
    add_truth(
        files, "--last", default=False,
        help="play the last weights of the run, those of ENV.ckpt, instead of the best",
    )
    files.add_argument(
        "-hs", "--hidden-size", type=few_int, metavar="N",
        help="LSTM units that the weights must have (default: whatever they have)",
    )
    add_log_dir(files)

    watching = parser.add_argument_group("watching")
    add_truth(
        watching, "-r", "--render", default=False,
        help="show the games in ale-py's window, one after the other",
    )
    watching.add_argument(
        "-rf", "--render-freq", type=positive_int, metavar="N",
        help="with --render, show every Nth game (default: 1)",
    )
    watching.add_argument(
        "--record", type=video_path, metavar="FILE",
        help="write a video of one game, with every emulator frame: .mp4, or .gif with every third",
    )
    watching.add_argument(
        "--record-game", type=which_game, metavar="N|first|best",
        help="which game --record shows; the first is game 0 (default: first)",
    )
    watching.add_argument(
        "--record-from", type=natural_time, metavar="SECONDS",
        help="where the video begins, in seconds of this game at 60 frames each (default: 0)",
    )
    watching.add_argument(
        "--record-seconds", type=positive_time, metavar="SECONDS",
        help="how much of the game the video shows (default: all the rest)",
    )
    add_truth(
        watching, "--record-panel", default=None,
        help="show beside the game what the network sees, its policy and its value (default: True)",
    )
    return parser


def build_experiment_parser() -> LineParser:
    parser = LineParser(
        prog="experiment.py", usage="experiment.py [options] [-- options of main.py]",
        description="Train many agents: each game, seed and variant of the options of main.py, "
        "which follow a bare -- and hold for all runs. The same command goes on with a folder.",
    )  # fmt: skip
    parser.add_argument(
        "--env", nargs="+", default=["Pong-v0"], metavar="ID", help="environment ids"
    )
    parser.add_argument(
        "--seeds", type=few_int, default=3, metavar="N", help="runs of each, seeds 1 to N"
    )
    parser.add_argument(
        "--variant", nargs="+", action="append", default=[], metavar="NAME:OPTIONS",
        help="a name, and the options of main.py that make the variant, as low:--lr 1e-4, or none, "
        "as base:; in quotes if there are several; may be repeated (default: one variant, base:)",
    )
    parser.add_argument(
        "--max-steps", type=positive_int, required=True, metavar="N", help="agent steps of each run"
    )
    parser.add_argument(
        "--jobs", type=few_int, default=1, metavar="N",
        help="runs at once; each has a worker per core unless --workers, after the --, says else",
    )
    parser.add_argument(
        "--folder", type=Path, default=Path("runs/experiment"), metavar="DIR",
        help="for all files of the experiment",
    )
    return parser


def parse_experiment(argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments of experiment.py; `options` are those of main.py for all runs, `variant` has
    those of each variant by its name.

    ValueError: one line about what is wrong with either.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    split = argv.index("--") if "--" in argv else len(argv)
    parser = build_experiment_parser()
    args, unknown = parser.parse_known_args(argv[:split])
    if unknown and _of_main(unknown[0]):
        raise ValueError(
            f"{unknown[0]} is an option of main.py: for all runs it follows a bare --, and for one "
            'variant it is in quotes with its name, as --variant "low:--lr 1e-4 --gamma 0.9"'
        )
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    args.options = argv[split + 1 :]
    variants = {}
    for text in map(" ".join, args.variant or [["base:"]]):
        name, colon, given = text.partition(":")
        if not colon or not re.fullmatch(r"[\w.+-]+", name) or set(name) == {"."}:
            raise ValueError(f"--variant {text!r} is not of the form NAME:OPTIONS")
        for other in variants:
            if name == other:
                raise ValueError(f"--variant {name}: is there twice")
            if name.casefold() == other.casefold():  # one folder where a disk ignores case
                raise ValueError(f"--variant {name} and {other} differ only in case")
        try:
            variants[name] = shlex.split(given)
        except ValueError as error:
            raise ValueError(f"--variant {name}: {str(error).lower()}") from None
    args.variant = variants
    for given in (args.options, *variants.values()):
        for name in _given(given):
            if name in OF_EXPERIMENT:
                raise ValueError(f"{as_typed(name)} is not for the runs of an experiment")
    return args


def _given(argv: Sequence[str] | None) -> dict[str, Any]:
    """The options of main.py that a command line gives; None is this process's."""
    parser = build_parser()
    for action in parser._actions:
        action.default = argparse.SUPPRESS
    return vars(parser.parse_args(argv))


def _of_main(text: str) -> bool:
    """Whether this argument of a command line is an option for the runs of an experiment."""
    known = _bare_parser()._option_string_actions
    short = text[:2] if text[:2] in known else ""  # with its value behind it, as -w4
    action = known.get(text.partition("=")[0]) or known.get(short)
    return action is not None and action.dest not in OF_EXPERIMENT


class Policy(NamedTuple):
    """How an evaluation chooses actions."""

    greedy: bool | None  # the most probable one, or one drawn; None: as the weights were chosen for
    epsilon: float = 0.0  # share of greedy actions that any one at random stands in place of


def policies(args: argparse.Namespace) -> list[Policy]:
    """Those that the options of gym_eval.py ask for. ValueError: they contradict each other."""
    if args.greedy is False and args.stochastic is False:
        raise ValueError("--greedy False is --stochastic; leave out --stochastic False")
    greedy = args.greedy or args.stochastic is False
    sampled = args.stochastic or args.greedy is False
    found = [Policy(True)] if greedy else []
    found += [Policy(False)] if sampled else []
    found += [Policy(True, args.epsilon)] if args.epsilon else []
    return found or [Policy(None)]


def video_path(text: str) -> Path:
    if Path(text).suffix.lower() not in (".mp4", ".gif"):
        raise argparse.ArgumentTypeError(f"{text!r} ends neither in .mp4 nor in .gif")
    return Path(text)


def _in_help(tables: dict[str, dict[str, Any]], name: str) -> str:
    """The defaults of an option, by the tables of recipes.toml."""
    games_of: dict[str, list[str]] = {}
    for table, values in tables.items():
        kind, _, game = table.partition(".")
        if values.get(name) not in (None, []):
            text = f"{values[name]}{TABLES[kind]}{' in ' if game else ''}"
            games_of.setdefault(text, []).append(game)
    texts = "; ".join(text + ", ".join(games) for text, games in games_of.items())
    return f" (default: {texts})".replace("%", "%%") if texts else ""


def read_recipes(path: Path | str) -> dict[str, dict[str, Any]]:
    """The tables of a recipe file by name, "several_games.Pong" for that of a game or an id.

    ValueError: one line about what is wrong, with the names of file, table and key.
    """
    try:
        with open(path, "rb") as file:
            content = tomllib.load(file)
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:  # broken TOML, or not even text
        raise ValueError(f"{path} is not TOML: {error}") from None
    tables: dict[str, dict] = {}
    for name, table in content.items():
        if not isinstance(table, dict):
            raise ValueError(f"{path}: {name}: is in no table; its place is below one")
        games = {key: value for key, value in table.items() if isinstance(value, dict)}
        tables[name] = {key: table[key] for key in table if key not in games}
        tables |= {f"{name}.{game}": values for game, values in games.items()}
    options = recipe_options()
    return {name: _check_table(path, name, table, options) for name, table in tables.items()}


def _check_table(path, name: str, table: dict, options: dict[str, argparse.Action]) -> dict:
    """The values of a table of a recipe file, as the command line would give them."""
    where, values = f"{path}: [{name}]", {}
    kind, dot, game = name.partition(".")
    if kind not in TABLES:
        raise ValueError(f"{where}: no table of a recipe; the nearest is {_nearest(kind, TABLES)}")
    if dot:
        if kind not in WITH_GAMES:
            raise ValueError(f"{where}: games have their tables in {' and '.join(WITH_GAMES)}")
        ids = known_env_ids()
        games = {*ids, *map(game_name, ids)}
        if game not in games:
            raise ValueError(f"{where}: no game and no id; the nearest is {_nearest(game, games)}")
    for key, value in table.items():
        if key not in options:
            near = difflib.get_close_matches(key, options, n=1)
            hint = f"; the nearest is {near[0]}" if near else ""
            raise ValueError(f"{where} {key}: no option of a recipe{hint}")
        others = ("optimizer", *(() if name == "Adam" else ("adam_eps", "amsgrad")))
        if name in OPTIMIZERS and key in others:
            raise ValueError(f"{where} {key}: this table is for {name}")
        try:
            values[key] = _option_value(options[key], value)
            _check_together(values)
        except (ValueError, argparse.ArgumentTypeError) as error:
            raise ValueError(f"{where} {key}: {error}") from None
    return values


def _nearest(name: str, names: Iterable[str]) -> str:
    return difflib.get_close_matches(name, sorted(names), n=1, cutoff=0.0)[0]


def _in_text(value: Any) -> str:
    """A value of TOML, where 1e7 is a float, as one writes it on the command line."""
    whole = isinstance(value, float) and value.is_integer()
    return value if isinstance(value, str) else repr(int(value) if whole else value)


def _option_value(action: argparse.Action, value: Any) -> Any:
    """A value of a recipe file as the command line would give it."""
    if action.nargs == "+":
        if not isinstance(value, list):
            raise ValueError(f"{value!r} is not a list")
        return [action.type(_in_text(item)) for item in value]
    text = _in_text(value)
    result = action.type(text) if action.type else text
    # A number or a truth value in quotes, or one for the other.
    if isinstance(value, str) != isinstance(result, str | None) or (
        isinstance(value, bool) != isinstance(result, bool)
    ):
        raise ValueError(f"{value!r} is of the wrong type")
    if action.choices and result not in action.choices:
        raise ValueError(f"{value!r} is not one of {', '.join(action.choices)}")
    return result


def _is_parsed(action: argparse.Action, value: Any) -> bool:
    """Whether the command line can give that value."""
    if value == action.default:
        return True
    try:
        return value == (action.type("none") if value is None else _option_value(action, value))
    except (ValueError, TypeError, argparse.ArgumentTypeError):
        return False


def _check_together(values: dict[str, Any], sources: dict[str, str] | None = None) -> None:
    """ValueError: there are two options of which one stands in place of the other.

    sources: where they are from, unless all are from where the caller says.
    """
    if is_schedule(values.get("lr")) and values.get("anneal_steps"):
        lr, anneal_steps = (
            f"{as_typed(name)} {values[name]}" + (f" ({sources[name]})" if sources else "")
            for name in ("lr", "anneal_steps")
        )
        raise ValueError(
            f"the schedule {lr} stands in place of {anneal_steps}; leave this out, or give a "
            "constant --lr with it"
        )
    if values.get("distributed_step_size") and values.get("num_steps"):
        raise ValueError(
            "--distributed-step-size stands in place of --num-steps; leave out one of them"
        )


def as_typed(name: str) -> str:
    """The option of this name, as the command line has it."""
    return "--" + name.replace("_", "-")


def _layered(tables: Sequence[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    """The options of tables, each with where it is from, of which each beats those before it.

    What stands in place of another option beats that one, too: a schedule of the rate ends the
    annealing that tables up to its own ask for, for as long as no later one has another rate.
    ValueError: see _check_together.
    """
    values = _united(tables)
    latest = {name: i for i, (_, table) in enumerate(tables) for name in table if table[name]}
    if is_schedule(values.get("lr")) and latest.get("anneal_steps", -1) < latest["lr"]:
        values["anneal_steps"] = 0
    num_steps, lengths = latest.get("num_steps", -1), latest.get("distributed_step_size", -1)
    if lengths > num_steps:
        values["num_steps"] = None
    elif num_steps > lengths:
        values["distributed_step_size"] = []
    _check_together(values, {name: tables[i][0] for name, i in latest.items()})
    return values


def _united(tables: Sequence[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    return functools.reduce(operator.or_, (table for _, table in tables))


def recipe(
    env_id: str,
    envs_per_worker: int,
    optimizer: str | None = None,
    path: Path | str | None = None,
    given: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The options of learning and evaluation by the recipes: of the file, over recipes.toml.

    optimizer: if it is not for the recipe to say.  given: what beats the recipes.
    ValueError: as read_recipes, or see _check_together.
    """
    which = "one_game" if envs_per_worker == 1 else "several_games"
    files = [(RECIPES.name, _default_recipes()), (path, read_recipes(path) if path else {})]

    def tables(*names: str) -> list[tuple[str, dict[str, Any]]]:
        found = [(f"{file} [{name}]", t.get(name, {})) for file, t in files for name in names]
        return [*found, ("the command line", given or {})]

    names = ("every_run", which, f"{which}.{game_name(env_id)}", f"{which}.{env_id}")
    optimizer = optimizer or _united(tables(*names))["optimizer"]
    if optimizer != "Adam" and not any(optimizer in table for _, table in files):
        raise ValueError(f"{RECIPES.name} has no table [{optimizer}] with its learning rate")
    result = _layered(tables(*names, optimizer))
    if optimizer != "Adam":
        result["adam_eps"] = None
    return result


def _default_recipes() -> dict[str, dict[str, Any]]:
    tables = read_recipes(RECIPES)
    for name in recipe_options():
        if name not in tables.get("every_run", {}):
            raise ValueError(f"{RECIPES}: [every_run] {name}: is missing")
    return tables


def which_game(text: str) -> int | str:
    if text in ("first", "best"):
        return text
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is neither first nor best nor a game's number")
    return int(text)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options of a run that begins; with --resume, no more than what was given.

    ValueError: one line, if they do not go together.
    """
    args = build_parser().parse_args(argv)
    if args.resume and args.load:
        raise ValueError("--resume brings back its own weights; leave out --load")
    if args.published and not args.load:
        raise ValueError("--published says which weights --load starts from; add --load")
    if args.load_model_dir and not args.load:
        raise ValueError("--load-model-dir says which weights --load starts from; add --load")
    if args.machines and args.ray is None:
        raise ValueError("--machines counts those of a Ray cluster; add --ray")
    if args.driver_workers is not None and args.ray is None:
        raise ValueError("--driver-workers is for a run on a Ray cluster; add --ray")
    if args.driver_workers == 0 and args.machines == 1:
        raise ValueError("--driver-workers 0: nobody would train; give --machines 2 or more")
    if "exchange_updates" in _given(argv) and args.ray is None:
        raise ValueError("--exchange-updates is for a run on a Ray cluster; add --ray")
    if args.resume and args.recipe:
        raise ValueError("--resume goes on with what the run had; leave out --recipe")
    check_skip_rate(parse_env_id(args.env), args.skip_rate)
    return args if args.resume else _with_target(argv, complete(args))


def parse_resumed(argv: Sequence[str] | None, path: Path, resumed: dict) -> argparse.Namespace:
    """The options of a run that goes on: the command line beats the saved ones, these the defaults.

    resumed: content of the checkpoint `path`. ValueError: one line about what cannot change.
    """
    parser = build_parser()
    given = vars(parser.parse_args(argv))
    # Older checkpoints come from a constant rate, from values that learned all of the return and
    # from whole gradients.
    older = {"anneal_steps": 0, "value_mean_step": 0.0, "gradient_centralization": False}
    saved = {**older, **resumed["args"]}
    lengths = saved.get("distributed_step_size")
    if isinstance(lengths, list) and any(isinstance(length, float) for length in lengths):
        # Earlier versions dealt out learning rates.
        if "lr" not in given:
            rates = " ".join(map(str, lengths))
            raise ValueError(
                f"{path}: the run dealt out the learning rates {rates} to its workers, which is no "
                "more; give --lr, for all of them"
            )
        saved["distributed_step_size"] = []
    if saved.get("optimizer") != "Adam":
        saved.pop("adam_eps", None)  # earlier versions took it with any optimizer
    if saved.get("distributed_step_size"):
        saved.pop("num_steps", None)
    actions = {a.dest: a for a in parser._actions if a.dest not in ("help", *OF_SESSION)}
    for name in sorted((actions.keys() & saved.keys()) - _given(argv).keys()):
        if not _is_parsed(actions[name], saved[name]):
            raise ValueError(
                f"{path}: its 'args' have {saved[name]!r} for {as_typed(name)}; give it anew"
            )
    both = _layered([(str(path), saved), ("the command line", given)])
    saved |= {k: v for k, v in both.items() if k not in given}
    if is_schedule(saved.get("lr")) and "lr" in given and not is_schedule(given["lr"]):
        del saved["anneal_steps"]  # 0, as a schedule stood in its place: the recipe says it now
    _renew_length(saved, given, resumed["steps"])
    parser.set_defaults(**{name: value for name, value in saved.items() if name in actions})
    args = parser.parse_args(argv)
    for name in ("optimizer", "amsgrad", "shared_optimizer", "hidden_size"):
        if getattr(args, name, None) != saved.get(name):
            raise ValueError(
                f"{path}: the run has {as_typed(name)} {saved.get(name)}; that cannot change"
            )
    args = _with_target(argv, complete(args))
    steps = resumed["steps"]
    if args.max_steps and args.max_steps <= steps:
        raise ValueError(f"{path}: the run is at {steps} agent steps; give a larger --max-steps")
    # Only the last value of a schedule may be 0. What a run was begun with may say so of a part of
    # it; what is said when it goes on is rather a mistake.
    new = given.keys() & {"lr", "max_steps", "schedule_steps"}
    last = max(steps, (args.max_steps or FOR_EVER) - 1)
    if new and value_at(args.lr, last, args.schedule_steps) == 0:
        raise ValueError(
            f"{path}: the run is at {steps} agent steps, and its learning rate ({args.lr}) comes "
            "to 0 before the end; give more --schedule-steps, or another --lr (with --anneal-steps "
            "0 a number stays as it is)"
        )
    return args


def _renew_length(saved: dict, given: dict, steps: int) -> None:
    """Shares of a new schedule are of a new --max-steps, or of the saved length if not yet over.

    ValueError: a saved schedule has shares of that length.
    """
    if "schedule_steps" in given:
        return
    if "max_steps" not in given and steps < (saved.get("schedule_steps") or 0):
        return
    kept = {name: value for name, value in saved.items() if name not in given}
    new, old = (
        [name for name in SCHEDULED if needs_length(values.get(name, 0.0))]
        for values in (given, kept)
    )
    if not new:
        return
    if old:
        raise ValueError(
            f"{as_typed(new[0])} has shares of a run, and those of {as_typed(old[0])} are of "
            f"{saved['schedule_steps']} agent steps; give --schedule-steps for both"
        )
    saved["schedule_steps"] = None


def unlike(saved: dict, argv: Sequence[str], weights: str | None) -> str:
    """In which option the run of a checkpoint is not the planned one, in words; "" if it is that.

    saved: content of the checkpoint.  argv: the command line of the planned run.
    weights: sha256 of what that one loads, if known.

    A crop table and weights are what they hold, whatever their files are called. As many --workers
    as there are cores are not the same on every machine: where the plan says none, any number is.
    """
    planned = parse(argv)
    # What went on has forgotten --load, but not what it had loaded.
    trained = {**saved["args"], "load": saved.get("loaded") is not None}
    for name in {*OF_SESSION, "log_dir"} - {"load"}:
        trained.pop(name, None)
    if "workers" not in _given(argv):
        trained.pop("workers", None)
    if seen := (saved.get("description") or {}).get("game_config"):
        trained.pop("env_config", None)
        config = game_config(read_config(planned.env_config or CROP_TABLE), planned.env)
        if seen != picture(config):
            return f"trained with {seen}, not with {picture(config)} of the crop table"
    loaded = (saved.get("loaded") or {}).get("sha256")
    if loaded and weights:
        trained.pop("load_model_dir", None)
        if loaded != weights:
            return "began with other weights than --load has now"
    for name, value in vars(planned).items():
        if trained.get(name, value) != value:
            return f"trained with {as_typed(name)} {trained[name]}, not with {value}"
    return ""


def _with_target(argv: Sequence[str] | None, args: argparse.Namespace) -> argparse.Namespace:
    """ValueError: --target was given, and there is no score that it could mean."""
    if args.target_score is None and "target" in _given(argv):
        raise ValueError("--target says whose mean score --target-score means; add --target-score")
    return args


def workers_here(args: argparse.Namespace) -> int:
    """Of this machine, which may have others than the rest of a cluster."""
    return args.workers if args.driver_workers is None else args.driver_workers


def complete(args: argparse.Namespace) -> argparse.Namespace:
    """Fill in what was not given, by the recipes and by other options."""
    if args.envs_per_worker is None:
        # Of all machines alike, so not by the workers of the driver's alone.
        crowded = max(args.workers, workers_here(args)) > available_cores()
        args.envs_per_worker = 1 if crowded else ENVS_PER_WORKER
    args.skip_rate = args.skip_rate or SKIP_RATE
    given = vars(args)
    asked = {name: given[name] for name in recipe_options() if name in given}
    values = recipe(args.env, args.envs_per_worker, asked.get("optimizer"), args.recipe, asked)
    given.update(values | asked)  # asked: what recipe() took back, for the checks below to see
    if args.value_mean_step and args.envs_per_worker == 1:
        raise ValueError("--value-mean-step compares games; give 0 or --envs-per-worker 2 or more")
    for option, is_set in (("--amsgrad", args.amsgrad), ("--adam-eps", args.adam_eps)):
        if is_set and args.optimizer != "Adam":
            raise ValueError(
                f"{option} belongs to Adam; leave it out with --optimizer {args.optimizer}"
            )
    if any(needs_length(given[name]) for name in SCHEDULED):
        args.schedule_steps = args.schedule_steps or args.max_steps
        if args.schedule_steps is None:
            raise ValueError("a schedule by shares of a run wants --max-steps or --schedule-steps")
    return args
