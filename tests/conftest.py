"""One thread per process, as in the suite itself: import utils before torch."""

import utils  # noqa: F401, I001

import signal

import torch

from utils import available_cores

torch.set_num_threads(1)
# The suite leaves SIGHUP ignored under nohup; its tests want the default there, too.
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_xdist_auto_num_workers(config) -> int:
    """One more than cores: a test of processes waits for half of its time."""
    return available_cores() + 1
