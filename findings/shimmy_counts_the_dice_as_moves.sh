#!/usr/bin/env bash
# Shimmy 2.0.1 with OpenSpiel 2.0.2: OpenSpielCompatibilityV0 cuts a game that is longer than max_game_length(), and
# counts each card that is dealt and each throw of the dice as a move of it, and one more; OpenSpiel's length is that of
# the players' moves alone, and no game is ever longer. So Kuhn poker is over after the first action, always, with 0 for
# both; hearts, spades, euchre and skat end before the hand does, goofspiel and yacht as well, and nobody ever gets a
# reward. Leduc poker is worse, as it looks right: only the longest games are cut, those in which much was raised, and
# they are the ones with the largest pots. Who loses them pays nothing, and the mean of what is won is too small. The
# end is flagged as truncated, as by any time limit; nothing is raised. Guess: a limit that the game itself tells cuts
# no game that is played by its rules. A subclass that forgets what chance counted, as below, is the way around.
#
# Seen: "cut: kuhn_poker 20 of 20, goofspiel 20 of 20, euchre 20 of 20, hearts 20 of 20, skat 20 of 20, spades 20 of 20,
# yacht 20 of 20; with the subclass 0 of 140"; "leduc_poker: cut 80 of 500; won or lost on average in those that are
# played to their end 2.7, in those that are cut 7.3; moves at most 8, allowed 8; with the subclass cut 0".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet shimmy==2.0.1 open_spiel==2.0.2 pettingzoo==1.27.0 gymnasium==1.4.0 numpy==2.4.6
cat > "$folder/finding.py" <<'END'
import numpy as np
import pyspiel
from shimmy import OpenSpielCompatibilityV0

GAMES = 500


class Whole(OpenSpielCompatibilityV0):
    def _execute_chance_node(self):
        length = self.game_length
        super()._execute_chance_node()
        self.game_length = length


def random_games(name, games, wrapper=OpenSpielCompatibilityV0):
    """Games of random actions: how many Shimmy cuts, what is at stake when it does, and how they go on."""
    env = wrapper(game_name=name)
    limit = pyspiel.load_game(name).max_game_length()
    whole, cut, longest = [], [], 0
    for seed in range(games):
        env.reset(seed=seed)
        random = np.random.default_rng(seed)
        moves = 0
        while env.agents and not any(env.terminations.values()) and not any(env.truncations.values()):
            mask = env.infos[env.agent_selection]["action_mask"]
            env.step(int(random.choice(np.flatnonzero(mask))))
            moves += 1
        state = env.game_state
        stopped = not state.is_terminal()
        if stopped:
            assert all(env.truncations.values()) and not any(env.rewards.values())
        while not state.is_terminal():  # played on by OpenSpiel itself
            if state.is_chance_node():
                state.apply_action(int(random.choice([action for action, _ in state.chance_outcomes()])))
            elif state.is_simultaneous_node():
                players = range(state.num_players())
                state.apply_actions([int(random.choice(state.legal_actions(player))) for player in players])
                moves += state.num_players()
            else:
                state.apply_action(int(random.choice(state.legal_actions())))
                moves += 1
        (cut if stopped else whole).append(max(abs(value) for value in state.returns()))
        longest = max(longest, moves)
    return whole, cut, longest, limit


NAMES = ["kuhn_poker", "goofspiel", "euchre", "hearts", "skat", "spades", "yacht"]
counts = [len(random_games(name, 20)[1]) for name in NAMES]
repaired = sum(len(random_games(name, 20, Whole)[1]) for name in NAMES)
text = ", ".join(f"{name} {count} of 20" for name, count in zip(NAMES, counts))
print(f"cut: {text}; with the subclass {repaired} of {20 * len(NAMES)}")
assert set(counts) == {20} and repaired == 0
whole, cut, longest, limit = random_games("leduc_poker", GAMES)
repaired = len(random_games("leduc_poker", GAMES, Whole)[1])
print(
    f"leduc_poker: cut {len(cut)} of {GAMES}; won or lost on average in those that are played to their end "
    f"{np.mean(whole):.1f}, in those that are cut {np.mean(cut):.1f}; moves at most {longest}, allowed {limit}; with "
    f"the subclass cut {repaired}"
)
assert 50 < len(cut) < 250 and np.mean(cut) > 1.5 * np.mean(whole) and longest <= limit and repaired == 0
END
"$folder/venv/bin/python" -W ignore "$folder/finding.py"
