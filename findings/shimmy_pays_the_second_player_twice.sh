#!/usr/bin/env bash
# Shimmy 2.0.1 with OpenSpiel 2.0.2 and PettingZoo 1.27.0: in OpenSpielCompatibilityV0 the reward at the end of a game
# is right for the player who is asked first, twice as large for the second, three times for the third, and so on. When
# a game is over, each player is given a last turn, in which it acts with None and leaves; Shimmy adds the rewards of
# the end to those of all who are still there at each of these turns, where PettingZoo's own games clear them. So
# PettingZoo's loop, agent_iter() and last(), pays 1 and -2 for a win at tic-tac-toe, -1 and 2 for a loss. Games of zero
# sum aren't, the same strategy is worth more in the second seat, a table of scores by seats or the money that is won at
# poker is wrong, and so is the welfare of games with common interests. One network for all seats learns values of two
# scales. Who wins is right, the rewards before the end are right, and so is env.rewards; nothing is raised. Guess: a
# wrapper of another library's games pays what these pay, which game_state.returns() tells. To take env.rewards after
# each step, and not last(), is the way around.
#
# Seen, of 100 random games each, what last() pays in all and in brackets what OpenSpiel says: "connect_four: 11 (11),
# -22 (-11)"; "leduc_poker: -24 (-24), 48 (24)"; "matching_pennies_3p: 0 (0), 12 (6), 30 (10)"; "crazy_eights, the
# players are paid [1, 2, 3, 4, 5] times what they have won"; "sum of both players 0: PettingZoo's own connect_four 100
# of 100 games, Shimmy's 1 of 100, of these 1 draws".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet shimmy==2.0.1 open_spiel==2.0.2 pettingzoo==1.27.0 gymnasium==1.4.0 \
    numpy==2.4.6 pygame==2.6.1
cat > "$folder/finding.py" <<'END'
import numpy as np
from pettingzoo.classic import connect_four_v3
from shimmy import OpenSpielCompatibilityV0

GAMES = 100


def paid(env, seed):
    """What last() pays to each player in a game of random actions, as in PettingZoo's own loop."""
    env.reset(seed=seed)
    random = np.random.default_rng(seed)
    sums = dict.fromkeys(env.possible_agents, 0.0)
    for agent in env.agent_iter():
        observation, reward, termination, truncation, info = env.last()
        sums[agent] += reward
        mask = info["action_mask"] if "action_mask" in info else observation["action_mask"]
        over = termination or truncation
        env.step(None if over else int(random.choice(np.flatnonzero(mask))))
    return np.array(list(sums.values()))


def played(game):
    """What is paid and what OpenSpiel says, for each game that came to its end."""
    env = OpenSpielCompatibilityV0(game_name=game)
    both = [(paid(env, seed), env.game_state) for seed in range(GAMES)]
    both = [(sums, np.array(state.returns())) for sums, state in both if state.is_terminal()]
    return [np.array(column) for column in zip(*both)]


for game in ("connect_four", "leduc_poker", "matching_pennies_3p"):
    sums, truth = played(game)
    print(f"{game}: " + ", ".join(f"{p:.0f} ({t:.0f})" for p, t in zip(sums.sum(0), truth.sum(0))))
    assert (sums == truth * np.arange(1, 1 + truth.shape[1])).all() and truth.any(1).sum() > 50

sums, truth = played("crazy_eights")
times = np.nanmax(sums / np.where(truth == 0, np.nan, truth), axis=0).astype(int).tolist()
print(f"crazy_eights, the players are paid {times} times what they have won")
assert times == [1, 2, 3, 4, 5] and np.allclose(sums, truth * np.array(times))

own = connect_four_v3.env()
zero = sum(paid(own, seed).sum() == 0 for seed in range(GAMES))
sums, truth = played("connect_four")
print(f"sum of both players 0: PettingZoo's own connect_four {zero} of {GAMES} games, Shimmy's "
      f"{(sums.sum(1) == 0).sum()} of {GAMES}, of these {(truth == 0).all(1).sum()} draws")
assert zero == GAMES and (sums.sum(1) == 0).sum() == (truth == 0).all(1).sum() < 5
END
"$folder/venv/bin/python" -W ignore "$folder/finding.py"
