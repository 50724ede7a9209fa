"""One thread per process, as in the suite itself: import utils before torch."""

import utils  # noqa: F401, I001

import torch

torch.set_num_threads(1)
