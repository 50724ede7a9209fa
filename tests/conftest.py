"""One thread per process, as in the suite itself: import utils before torch."""

import utils  # noqa: F401, I001

import signal

import torch

torch.set_num_threads(1)
# The suite leaves SIGHUP ignored under nohup; its tests want the default there, too.
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
