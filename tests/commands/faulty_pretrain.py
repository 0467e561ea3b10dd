"""pretrain.py with a FAULT (bug, damage or sleep) in the third micro-step of rank FAULT_RANK."""

import os
import sys
import time

from spacescale import pretrain

CALLS = []


def add_fault():
    from spacescale.errors import UserError
    from spacescale.train.trainer import Trainer

    sound = Trainer._micro_step

    def micro_step(self, batch, report):
        CALLS.append(batch)
        if len(CALLS) == 3 and os.environ["RANK"] == os.environ["FAULT_RANK"]:
            if os.environ["FAULT"] == "bug":
                raise KeyError("a bug")
            if os.environ["FAULT"] == "damage":
                raise UserError("shard 7 is damaged")
            time.sleep(3600)
        sound(self, batch, report)

    Trainer._micro_step = micro_step


if __name__ == "__main__":
    add_fault()
    sys.exit(pretrain.main(sys.argv[1:]))
