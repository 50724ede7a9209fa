"""What every worker needs, loaded once: the fork server imports this and all others fork from it.

They then share its memory instead of filling their own, and start at once. The fork server outlives
them and the main process, and clears up if that was killed.
"""
# ruff: noqa: E402

import utils  # noqa: F401, I001  # before torch: sets the number of threads

import gc

gc.disable()  # as in main.py

import atexit
import os
import shutil

import torch

import network
import processes
import test  # noqa: F401
import train  # noqa: F401

atexit.register(shutil.rmtree, os.environ["A3C_SOCKET_FOLDER"], ignore_errors=True)
processes.offer_to_die(250)  # a child, until it says more, and this before the main process
torch.set_num_threads(1)  # a thread would not survive the fork
if not os.environ.get("A3C_PLAIN"):
    network.compile_kernels()
# The collector marks every object that it visits, and each mark is a page of one's own.
gc.enable()
gc.collect()
gc.freeze()
