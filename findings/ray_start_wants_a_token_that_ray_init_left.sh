#!/usr/bin/env bash
# Ray 2.60.0: ray.init() for a cluster of this machine alone writes ~/.ray/auth_token. From then on `ray start --head`, which needed
# no token before, makes a cluster that demands one; and ray.init(address) on the very same machine, with that file there, does not
# use it: "Failed to connect to Ray cluster". RAY_AUTH_MODE=token makes it use it, and does no harm where the cluster wants none.
# Guess: a cluster that was started without a word about tokens can be joined without one, at least by whoever has the file.
#
# Seen: "before: joined"; "after a local ray.init(): Failed to connect"; "RAY_AUTH_MODE=token: joined"; "a token too many: joined".
set -euo pipefail
folder=$(mktemp -d)
export HOME=$folder RAY_TMPDIR=$folder RAY_USAGE_STATS_ENABLED=0
unset RAY_AUTH_MODE RAY_AUTH_TOKEN RAY_AUTH_TOKEN_PATH RAY_ADDRESS
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet ray==2.60.0
cat > "$folder/join.py" <<'END'
import logging
import os
import sys

import ray

address = sys.argv[1]
options = {"num_cpus": 1, "object_store_memory": 10**8} if address == "local" else {}
try:
    ray.init(address, logging_level=logging.ERROR, log_to_driver=False, **options)
    print("joined")
except ConnectionError as error:
    print(str(error)[:17])
os._exit(0)
END
port=$("$folder/venv/bin/python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
pids=""
finish() {
  kill $pids 2> /dev/null || true
  pids=""
}
trap 'finish; sleep 3; rm -rf "$folder"' EXIT
start() {
  setsid env "$@" "$folder/venv/bin/ray" start --head --block --node-ip-address 127.0.0.1 --port "$port" --num-cpus 1 \
    --object-store-memory 100000000 --include-dashboard false > "$folder/start" 2>&1 &
  pids=$!
  for _ in $(seq 60); do grep -q "runtime started" "$folder/start" && return; sleep 1; done
  cat "$folder/start"
  exit 1
}
expect() {
  echo "$1: $2"
  [ "$2" = "$3" ]
}
join() { "$@" "$folder/venv/bin/python" "$folder/join.py" "127.0.0.1:$port" 2> /dev/null; }

start
expect before "$(join env)" joined
[ ! -e "$HOME/.ray/auth_token" ]
finish
sleep 5
"$folder/venv/bin/python" "$folder/join.py" local > /dev/null 2>&1
[ -e "$HOME/.ray/auth_token" ]
start
expect "after a local ray.init()" "$(join env)" "Failed to connect"
expect RAY_AUTH_MODE=token "$(join env RAY_AUTH_MODE=token)" joined
finish
sleep 5
start RAY_AUTH_MODE=disabled
expect "a token too many" "$(join env RAY_AUTH_MODE=token)" joined
