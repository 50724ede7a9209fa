"""What every worker needs, loaded once: the fork server imports this and all others fork from it.

They then share its memory instead of filling their own, and start at once.
"""

import utils  # noqa: F401, I001  # before torch: sets the number of threads

import gc
import os

import torch

import network
import test  # noqa: F401
import train  # noqa: F401

torch.set_num_threads(1)  # a thread would not survive the fork
if not os.environ.get("A3C_PLAIN"):
    network.compile_kernels()
# The collector marks every object that it visits, and each mark is a page of one's own.
gc.collect()
gc.freeze()
