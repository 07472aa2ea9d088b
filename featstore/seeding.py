"""Random numbers that somebody's code draws: by a seed, and nobody else's afterwards."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Run the block under a seed: torch's numbers on the CPU, NumPy's global ones and Python's; all are put back.

    ::

        with seeded(request.seed):
            network = Net()

    Build networks on the CPU: the generators of other devices are left alone.
    """
    import numpy as np
    import torch

    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
