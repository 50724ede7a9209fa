#!/usr/bin/env bash
# The moving pictures of the README, from the published weights. Other weights play other games.
set -euo pipefail
cd "$(dirname "$0")/.."
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
# Breakout: the ball gets behind the wall (95 to 299 points), and the value knew.
python gym_eval.py --env Breakout-v0 --published --num-episodes 1 --log-dir "$logs" \
    --record demo/Breakout.gif --record-from 75.5 --record-seconds 12.5
# Pong: from 3 : 0 to the end of the point that makes it 5 : 0.
python gym_eval.py --env Pong-v0 --published --num-episodes 1 --log-dir "$logs" \
    --record demo/Pong.gif --record-from 20 --record-seconds 10
# The others: ten seconds of the best of the first 24 games, of Seaquest-v0 of the first;
# PongDeterministic-v4 has only one.
clip() { # id, game, seconds from its start
    python gym_eval.py --env "$1" --published --num-episodes "$(($2 + 1))" --log-dir "$logs" \
        --record "demo/${1%-*}.gif" --record-game "$2" --record-from "$3" --record-seconds 10
}
clip PongDeterministic-v4 0 20
clip SpaceInvaders-v0 0 42
clip BeamRider-v0 8 140
clip MsPacman-v0 17 27
clip Asteroids-v0 1 20
# It shoots all that comes, sees its air go (the value falls from 4.6 to 0.8) and does not come up.
clip Seaquest-v0 0 29
