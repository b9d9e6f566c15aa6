"""Averaged weights of a training run, from its first steps on.

An exponential average of decay 0.9999 still holds 82 % of its first value after 2,000 steps; validation, which takes
the average, and whatever is exported would hardly have moved.  So the decay rises with the number of averaged steps
(Abadi et al. 2016, tf.train.ExponentialMovingAverage): the average reaches back over about a ninth of the run until
`decay` bounds it.
"""

from __future__ import annotations

from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor


class EMA(WeightAveraging):
    """Exponential moving average of weights and buffers with decay min(decay, (1 + n) / (10 + n)).

    n counts the updates so far.  The first one, n = 0, copies the weights after the first step: nothing of the
    initialisation is left.  Lightning validates with the average, leaves it in the module when training ends, and
    writes it into checkpoints as "state_dict", n as "averaging_state" and the current weights as
    "current_model_state", so that a resumed run goes on with all three.
    """

    def __init__(self, decay: float = 0.9999) -> None:
        def average(averaged: Tensor, current: Tensor, n: Tensor) -> Tensor:
            share = (9.0 / (10.0 + n)).clamp_min(1.0 - decay)  # 1 - the decay
            return averaged + share.to(averaged) * (current - averaged)  # this form leaves constant buffers as they are

        super().__init__(avg_fn=average)
