"""How main.py becomes the driver of a Ray cluster. Ray is imported here, when a run wants it."""

import contextlib
import logging
import os
import secrets
import socket
import sys
import tempfile
from pathlib import Path

from monitor import require
from processes import short_folder

PROJECT = Path(__file__).parent
STORE = 256 * 2**20  # bytes for objects, of which one exchange needs 26 MB
REACH_SECONDS = 5
# What the other machines get of this folder: no model, but the compiled kernels, which serve on the
# same kind of processor. The folder itself is ".", which * excludes.
OF_THE_SUITE = (".", "*.py", "*.json", "*.toml", "__pycache__", "*.nbi", "*.nbc")
FILES = {"working_dir": str(PROJECT), "excludes": ["*", *("!" + name for name in OF_THE_SUITE)]}

# Of Ray, by default.
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # or it warns about GPUs
    # What dies is in our own log; Ray would print it over the display.
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".*",
    # FILES decides alone: __pycache__ would be left out for two reasons.
    "RAY_OVERRIDE_RUNTIME_ENV_DEFAULT_EXCLUDES": "",
    "RAY_RUNTIME_ENV_IGNORE_GITIGNORE": "1",
}
# Of a cluster of this machine alone. Its servers listen on 127.0.0.1 if several machines are ruled
# out, an option that is named after the systems where they are; else on every address. And whoever
# connects needs a token.
ALONE = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "token"}
# Of one that is there: attempts to join, and seconds of each, with some ten more of Ray's own. By
# default they are 20 and 30, as a head may still be starting; but something answers here already.
JOINING = {"RAY_gcs_server_port_wait_time_s": "2", "RAY_py_gcs_connect_timeout_s": "15"}
# Bytes of a folder's name in which Ray's sockets have room, with 68 of their own, of 103 on macOS.
SOCKET_FOLDER = 34


def find(address: str, machines: int | None, driver_workers: int | None = None) -> str:
    """The address of the Ray cluster that is meant; "" if this machine has to make one of its own.

    address: "" for the cluster of this machine, if it is in one.  machines: as many are wanted.
    driver_workers: workers of this machine, if they are to be others than those of the rest.
    ValueError: one line about why there is none.
    """
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    where = address
    if address in ("", "auto"):
        asked, address = address, _joined()
        where = f"RAY_ADDRESS {address}" if address == os.environ.get("RAY_ADDRESS") else address
        if asked and not address:
            raise ValueError("auto: this machine is in no Ray cluster; see `ray start`")
    elif address == "local":  # Ray's word for a cluster of one's own
        address = ""
    if address.startswith("ray://"):
        raise ValueError(f"{where}: an address of Ray Client; give HOST:PORT of the head")
    if address and not _answers(address):
        raise ValueError(f"{where}: no Ray cluster answers there; see `ray start`")
    if address:
        for name, value in JOINING.items():
            os.environ.setdefault(name, value)
        if _has_token():
            # `ray start --head` asks for it then, ray.init does not tell it unasked. It may be told
            # to clusters that do not want it.
            os.environ.setdefault("RAY_AUTH_MODE", "token")
    else:
        wants_others = "--driver-workers 0" if driver_workers == 0 else ""
        if machines and machines > 1:
            wants_others = f"--machines {machines}"
        if wants_others:
            raise ValueError(
                f"{wants_others}: this machine is in no Ray cluster; see `ray start`, or give the "
                "address of one to --ray"
            )
        # To be said before Ray is imported; the token lies in no file.
        os.environ.update(ALONE, RAY_AUTH_TOKEN=secrets.token_hex(32))
        os.environ.setdefault("RAY_worker_niceness", "0")  # 15, or others' programs would be first
        if sys.platform != "win32":
            os.environ.setdefault("RAY_TMPDIR", short_folder(SOCKET_FOLDER))
    require("ray", "--ray needs Ray")
    return address


def connect(address: str) -> None:
    """Join this cluster, as `find` names it, or make one.

    Replaces the handler of SIGTERM.  ValueError: one line about why that cannot be.
    """
    import ray

    options = {"address": address}
    if not address:
        options = {"address": "local", "object_store_memory": STORE, "include_dashboard": False}
    try:
        ray.init(
            **options, runtime_env=FILES, log_to_driver=False, logging_level=logging.ERROR
        )  # fmt: skip
    except Exception as error:  # of versions that differ, of a token, of the network: Ray has many
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = "; ".join(lines) or repr(error)
        if address and "No node info" in reason:
            reason = f"this machine is not part of it; first ray start --address={address}"
        elif address and "Failed to connect" in reason:  # to the address as Ray has it
            reason = (
                f"nothing at {address} answers as the head of one does; is the port right? If the "
                "cluster wants a token, ~/.ray/auth_token has to be the one of its head"
            )
        what = "join the Ray cluster" if address else "start a Ray cluster"
        raise ValueError(f"cannot {what}: {reason}") from None


def _has_token() -> bool:
    """Whether this machine has the token that clusters may want, where Ray looks for it."""
    if token := os.environ.get("RAY_AUTH_TOKEN"):
        return bool(token.strip())
    path = os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home().joinpath(".ray", "auth_token")
    with contextlib.suppress(OSError, ValueError):  # ValueError: no text
        return bool(Path(path).read_text().strip())
    return False


def _joined() -> str:
    """Address of the cluster that this machine is part of; "" if there is none."""
    address = os.environ.get("RAY_ADDRESS", "")
    if address == "local":
        return ""
    if address not in ("", "auto"):
        return address
    with contextlib.suppress(OSError):
        address = Path(_temporary(), "ray", "ray_current_cluster").read_text().strip()
        return address if _answers(address) else ""  # it may be from before a restart
    return ""


def _temporary() -> str:
    """The folder in which `ray start` has its own; not always the one of Python."""
    if "RAY_TMPDIR" in os.environ:
        return os.environ["RAY_TMPDIR"]
    if sys.platform == "linux" and "TMPDIR" in os.environ:
        return os.environ["TMPDIR"]
    return tempfile.gettempdir() if sys.platform == "win32" else "/tmp"


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), REACH_SECONDS).close()
    except (OSError, ValueError, OverflowError):
        return False
    return True
