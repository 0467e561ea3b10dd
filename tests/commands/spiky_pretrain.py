"""pretrain.py with targets a hundred times too large in the steps of SPIKES, counted from 0."""

import os
import sys
from dataclasses import replace

from spacescale import pretrain


def add_spikes():
    from spacescale.train.trainer import Trainer

    steps = {int(step) for step in os.environ["SPIKES"].split()}
    sound_step, sound_micro_step = Trainer._optimiser_step, Trainer._forward_and_backward

    def optimiser_step(self, step):
        self.spikes = step in steps
        return sound_step(self, step)

    def micro_step(self, batch, report, step):
        if self.spikes:
            batch = {
                name: replace(part, targets=100 * part.targets) for name, part in batch.items()
            }
        sound_micro_step(self, batch, report, step)

    Trainer._optimiser_step, Trainer._forward_and_backward = optimiser_step, micro_step


if __name__ == "__main__":
    add_spikes()
    sys.exit(pretrain.main(sys.argv[1:]))
