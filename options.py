"""The command lines of main.py and gym_eval.py, which are there before torch is.

Of main.py also the recipes behind the defaults and what --resume keeps.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from environment import SKIP_RATE, check_skip_rate, game_name, parse_env_id
from utils import (
    LineParser,
    add_truth,
    available_cores,
    finite_float,
    natural_float,
    natural_int,
    or_none,
    positive_float,
    positive_int,
    seed_int,
    true_or_false,
    unit_interval,
)

ENVS_PER_WORKER = 8  # by measurement, see benchmarks/README.md
# Defaults with one game per worker, those of the classic suite; with several, where a larger batch
# carries a longer step and has a larger gradient; and in games where other values were seen to
# learn, see benchmarks/README.md. A rate of 3e-4 is only where it was: in MsPacman it saturates the
# LSTM within 0.2 M steps, and nothing is learned then.
ONE_GAME = {
    "lr": 1e-4,
    "anneal_steps": 0,
    "tau": 1.0,
    "entropy_coef": 0.01,
    "max_grad_norm": 40.0,
}
SEVERAL_GAMES = ONE_GAME | {"anneal_steps": 10_000_000, "max_grad_norm": 200.0}
LITTLE_ENTROPY = {"lr": 3e-4, "tau": 0.95, "entropy_coef": 0.001}
OF_GAME = {  # with several games per worker
    "Pong": {"lr": 3e-4},
    "Breakout": LITTLE_ENTROPY,
    "SpaceInvaders": LITTLE_ENTROPY,
    "BeamRider": LITTLE_ENTROPY,
}
RMSPROP_LR = 7e-4
ADAM_EPS = 1e-3


def recipe(env_id: str, envs_per_worker: int) -> dict[str, float]:
    """The defaults of learning that depend on the game and on how many of it a worker plays."""
    if envs_per_worker == 1:
        return ONE_GAME
    return SEVERAL_GAMES | OF_GAME.get(game_name(env_id), {})


def defaults(name: str) -> str:
    """What the help says about an option of a recipe."""
    text = str(ONE_GAME[name])
    if SEVERAL_GAMES[name] != ONE_GAME[name]:
        text += f" with one game per worker, {SEVERAL_GAMES[name]} with several"
    games: dict[float, list[str]] = {}
    for game, values in OF_GAME.items():
        if name in values:
            games.setdefault(values[name], []).append(game)
    for value, those in games.items():
        text += f"; {value} with several games per worker in {', '.join(those)}"
    return text


def build_parser() -> LineParser:
    parser = LineParser(prog="main.py", description="Train an A3C-LSTM agent on an Atari game.")
    run = parser.add_argument_group("run")
    run.add_argument("-ev", "--env", default="Pong-v0", metavar="ID", help="environment id")
    run.add_argument(
        "-w", "--workers", type=positive_int, default=available_cores(), metavar="N",
        help="training processes, by default one per core (those of gym_eval.py are games)",
    )
    run.add_argument(
        "--envs-per-worker", type=positive_int, metavar="N",
        help="games that a worker steps together as one batch "
        f"(default: {ENVS_PER_WORKER}, or 1 with more workers than cores)",
    )
    run.add_argument("-s", "--seed", type=seed_int, default=1, metavar="S", help="random seed")
    run.add_argument(
        "--max-steps", type=or_none(positive_int), metavar="N",
        help="stop after N agent steps over all workers, earlier sessions included; "
        "none lifts the limit of a resumed run",
    )
    run.add_argument(
        "--max-minutes", type=positive_float, metavar="M", help="stop after M minutes"
    )
    run.add_argument(
        "--target-score", type=or_none(finite_float), metavar="S",
        help="stop when the mean score of an evaluation reaches S; none lifts it",
    )
    add_truth(run, "--resume", default=False, help="continue the run of --save-model-dir")
    add_plain(run)
    add_truth(
        run, "-ld", "--load", default=False,
        help="start from the weights of an earlier run, else from the published ones, with a new "
        "optimizer at step 0",
    )

    learning = parser.add_argument_group("learning")
    learning.add_argument(
        "-l", "--lr", type=positive_float, metavar="LR",
        help=f"learning rate (default: {defaults('lr')}; {RMSPROP_LR} with RMSprop)",
    )
    learning.add_argument(
        "--anneal-steps", type=natural_int, metavar="N",
        help="agent steps of the run over which every learning rate falls to a tenth, where it "
        f"stays; 0 keeps it as it is (default: {defaults('anneal_steps')})",
    )
    learning.add_argument(
        "-g", "--gamma", type=unit_interval, default=0.99, metavar="G", help="discount factor"
    )
    add_truth(
        learning, "--reward-ends-return", default=False,
        help="what follows a reward counts for nothing that was done before it; for games where "
        "each reward decides a rally, such as Pong, with a --gamma of 0.998 or more; elsewhere it "
        "makes short-sighted",
    )
    learning.add_argument(
        "-t", "--tau", type=unit_interval, metavar="T",
        help=f"lambda of generalised advantage estimation (default: {defaults('tau')})",
    )
    learning.add_argument(
        "-ec", "--entropy-coef", type=natural_float, metavar="EC",
        help=f"weight of the policy's entropy (default: {defaults('entropy_coef')})",
    )
    learning.add_argument(
        "-vc", "--value-coef", type=natural_float, default=0.5, metavar="VC",
        help="weight of the value loss",
    )
    learning.add_argument(
        "--max-grad-norm", type=positive_float, metavar="N",
        help="a gradient with a larger norm is scaled down to it "
        f"(default: {defaults('max_grad_norm')})",
    )
    learning.add_argument(
        "-ns", "--num-steps", type=positive_int, default=20, metavar="N",
        help="agent steps in a rollout, per game",
    )
    learning.add_argument(
        "-o", "--optimizer", choices=("Adam", "RMSprop"), default="Adam", help="optimizer"
    )
    learning.add_argument(
        "--adam-eps", type=positive_float, metavar="E",
        help=f"added to the root of Adam's second moment, for Adam alone (default: {ADAM_EPS:g})",
    )
    add_truth(learning, "-a", "--amsgrad", default=False, help="AMSGrad variant of Adam")
    add_truth(
        learning, "-so", "--shared-optimizer", default=True,
        help="one optimizer with shared statistics; False gives each worker its own",
    )
    learning.add_argument(
        "-dss", "--distributed-step-size", type=positive_float, nargs="+", default=[], metavar="LR",
        help="learning rates dealt out to the workers in turn; not together with --lr",
    )
    learning.add_argument(
        "-hs", "--hidden-size", type=positive_int, default=512, metavar="N", help="LSTM units"
    )

    game = parser.add_argument_group("environment")
    game.add_argument(
        "-evc", "--env-config", metavar="FILE",
        help="crop table (default: config.json beside main.py)",
    )
    game.add_argument(
        "-mel", "--max-episode-length", type=or_none(positive_int), metavar="N",
        help="agent steps after which a game is cut; none, the default, is the limit of the id",
    )
    add_truth(
        game, "--count-lives", default=True, help="a lost life ends the training episode"
    )
    game.add_argument(
        "--skip-rate", type=positive_int, metavar="N",
        help=f"frames per agent step of NoFrameskip ids, and of no others (default: {SKIP_RATE})",
    )

    evaluation = parser.add_argument_group("evaluation")
    evaluation.add_argument(
        "--eval-interval", type=or_none(natural_float), metavar="SECONDS",
        help="pause between evaluations; none, the default, is 4 times the processor time of the "
        "last one, and 60 at least",
    )
    evaluation.add_argument(
        "--eval-episodes", type=positive_int, default=8, metavar="N", help="games per evaluation"
    )
    evaluation.add_argument(
        "--save-score-level", type=or_none(finite_float), metavar="S",
        help="mean score below which no evaluation counts as the best; none, the default, is no "
        "level",
    )
    add_truth(
        evaluation, "-sm", "--save-max", default=False,
        help="keep every new best as ENV.step-N.dat beside ENV.dat",
    )
    files = parser.add_argument_group("files and output")
    source = files.add_mutually_exclusive_group()
    add_load_model_dir(source, "for --load, folder of the weights, ENV.dat")
    add_truth(source, "--published", default=False, help="for --load, the published weights")
    files.add_argument(
        "-smd", "--save-model-dir", default="trained_models/", metavar="DIR",
        help="for weights and checkpoint",
    )
    add_log_dir(files)
    add_truth(
        files, "-tl", "--tensorboard-logger", default=False,
        help="write curves, weight histograms and the graph to LOG_DIR/tensorboard",
    )
    add_truth(
        files, "-q", "--quiet", default=False,
        help="print nothing but errors; the log has everything",
    )
    return parser


def add_load_model_dir(group, help: str) -> None:
    group.add_argument(
        "-lmd", "--load-model-dir", metavar="DIR",
        help=f"{help} (default: trained_models/, and the published ones where it has none)",
    )  # fmt: skip


def add_log_dir(group) -> None:
    group.add_argument(  # the classic's main.py has -lg, its gym_eval.py -lgd
        "-lg", "-lgd", "--log-dir", default="logs/", metavar="DIR", help="for logs"
    )


def add_plain(group) -> None:
    add_truth(
        group, "--plain", default=False,
        help="compute in plain PyTorch, several times slower, instead of with the kernels",
    )


def build_eval_parser() -> LineParser:
    parser = LineParser(prog="gym_eval.py", description="Evaluate a saved A3C-LSTM model.")
    run = parser.add_argument_group("run")
    run.add_argument("-ev", "--env", default="Pong-v0", metavar="ID", help="environment id")
    run.add_argument(
        "--workers", type=positive_int, default=8, metavar="N",
        help="games side by side, in one process (those of main.py are processes); the scores do "
        "not depend on it",
    )
    run.add_argument("-s", "--seed", type=seed_int, default=1, metavar="S", help="random seed")
    add_plain(run)

    environment = parser.add_argument_group("environment")
    environment.add_argument(
        "-evc", "--env-config", metavar="FILE",
        help="crop table (default: config.json beside gym_eval.py)",
    )
    environment.add_argument(
        "-mel", "--max-episode-length", type=positive_int, metavar="N",
        help="agent steps after which a game is cut (default: the limit of the id)",
    )
    environment.add_argument(
        "-sk", "--skip-rate", type=positive_int, metavar="N",
        help="frames per agent step of NoFrameskip ids, and of no others (default: that of the "
        "training)",
    )

    evaluation = parser.add_argument_group("evaluation")
    evaluation.add_argument(
        "-ne", "--num-episodes", type=positive_int, default=100, metavar="N",
        help="games to play",
    )
    policy = evaluation.add_mutually_exclusive_group()
    policy.add_argument(
        "--greedy", type=true_or_false, nargs="?", const=True, metavar="True|False",
        help="take the most probable action (default: the policy that the weights were chosen for)",
    )
    policy.add_argument(
        "--stochastic", dest="greedy", nargs="?", const=False, metavar="True|False",
        type=lambda text: not true_or_false(text),
        help="draw actions from the policy (default: likewise)",
    )

    files = parser.add_argument_group("files and output")
    source = files.add_mutually_exclusive_group()
    add_load_model_dir(source, "folder of the weights, ENV.dat")
    add_truth(source, "--published", default=False, help="play the published weights")
    source.add_argument(
        "--load-model", type=Path, metavar="FILE",
        help="play this file, whatever it is called: weights with their .json beside them, such "
        "as --save-max keeps, or a checkpoint, .ckpt",
    )
    add_truth(
        files, "--last", default=False,
        help="play the last weights of the run, those of ENV.ckpt, instead of the best",
    )
    files.add_argument(
        "-hs", "--hidden-size", type=positive_int, metavar="N",
        help="LSTM units that the weights must have (default: whatever they have)",
    )
    add_log_dir(files)

    watching = parser.add_argument_group("watching")
    add_truth(
        watching, "-r", "--render", default=False,
        help="show the games in ale-py's window, one after the other",
    )
    watching.add_argument(
        "-rf", "--render-freq", type=positive_int, default=1, metavar="N",
        help="with --render, show every Nth game",
    )
    watching.add_argument(
        "--record", type=video_path, metavar="FILE",
        help="write a video of one game, with every emulator frame: .mp4, or .gif with every third",
    )
    watching.add_argument(
        "--record-game", choices=("first", "best"), default="first",
        help="which game --record shows",
    )
    add_truth(
        watching, "--record-panel", default=True,
        help="show beside the game what the network sees, its policy and its value",
    )
    return parser


def video_path(text: str) -> Path:
    if Path(text).suffix not in (".mp4", ".gif"):
        raise argparse.ArgumentTypeError(f"{text!r} ends neither in .mp4 nor in .gif")
    return Path(text)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options of a run that begins. ValueError: one line, if they do not go together."""
    args = build_parser().parse_args(argv)
    if args.lr is not None and args.distributed_step_size:
        raise ValueError("--distributed-step-size stands in place of --lr; leave out one of them")
    if args.resume and args.load:
        raise ValueError("--resume brings back its own weights; leave out --load")
    if args.published and not args.load:
        raise ValueError("--published says which weights --load starts from; add --load")
    check_skip_rate(parse_env_id(args.env), args.skip_rate)
    return complete(args)


def parse_resumed(argv: Sequence[str] | None, path: Path, resumed: dict) -> argparse.Namespace:
    """The options of a run that goes on: the command line beats the saved ones, these the defaults.

    resumed: content of the checkpoint `path`. ValueError: one line about what cannot change.
    """
    parser = build_parser()
    saved = {"anneal_steps": 0, **resumed["args"]}  # older checkpoints come from a constant rate
    if parser.parse_args(argv).lr is not None:  # it stands in place of a saved list of rates
        saved["distributed_step_size"] = []
    if saved.get("optimizer") != "Adam":
        saved.pop("adam_eps", None)  # earlier versions took it with any optimizer
    # Of the session, not of the run:
    session = ("resume", "load", "published", "max_minutes", "save_model_dir", "quiet", "plain")
    options = vars(parser.parse_args([]))
    parser.set_defaults(**{k: v for k, v in saved.items() if k in options and k not in session})
    args = parser.parse_args(argv)
    for name in ("optimizer", "amsgrad", "shared_optimizer", "hidden_size"):
        if getattr(args, name) != saved.get(name):
            option = "--" + name.replace("_", "-")
            raise ValueError(f"{path}: the run has {option} {saved.get(name)}; that cannot change")
    args = complete(args)
    if args.max_steps and args.max_steps <= resumed["steps"]:
        raise ValueError(
            f"{path}: the run is at {resumed['steps']} agent steps; give a larger --max-steps"
        )
    return args


def complete(args: argparse.Namespace) -> argparse.Namespace:
    """Fill in the defaults that depend on other options."""
    if args.envs_per_worker is None:
        args.envs_per_worker = 1 if args.workers > available_cores() else ENVS_PER_WORKER
    if args.amsgrad and args.optimizer != "Adam":
        raise ValueError("--amsgrad is a variant of Adam; leave it out with --optimizer RMSprop")
    if args.adam_eps and args.optimizer != "Adam":
        raise ValueError("--adam-eps belongs to Adam; leave it out with --optimizer RMSprop")
    if args.adam_eps is None and args.optimizer == "Adam":
        args.adam_eps = ADAM_EPS
    args.skip_rate = args.skip_rate or SKIP_RATE
    if args.lr is None and args.optimizer == "RMSprop":
        args.lr = RMSPROP_LR
    for name, value in recipe(args.env, args.envs_per_worker).items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    return args
