"""pretrain.py with a FAULT in the third micro-step of rank FAULT_RANK: bug, damage, sleep, limit
(no file may grow beyond 100 kB), disk (it does not answer while step 4 is saved), or an overflow
that the loss betrays or hides. Or pause in FAULT_PLACE, which stops the process before that."""

import os
import pkgutil
import resource
import signal
import sys
import time

from spacescale import pretrain

CALLS = []


def scale_activations(model, factor):
    """Once: multiply what the first BatchNorm sees."""

    def scale(module, inputs):
        hook.remove()
        return (inputs[0] * factor,)

    hook = model.stem[1].block.register_forward_pre_hook(scale)


def add_fault():
    from spacescale.errors import UserError
    from spacescale.train.trainer import Trainer

    sound = Trainer._forward_and_backward

    def micro_step(self, batch, report, step):
        CALLS.append(batch)
        if len(CALLS) == 3 and os.environ["RANK"] == os.environ["FAULT_RANK"]:
            print("here comes the fault", flush=True)
            match os.environ["FAULT"]:
                case "bug":
                    raise KeyError("a bug")
                case "damage":
                    raise UserError("shard 7 is damaged")
                case "sleep":
                    time.sleep(3600)
                case "disk":
                    hold_writing()
                case "limit":
                    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
                case "overflow":
                    scale_activations(self.engine.module, float("inf"))
                case "hidden overflow":  # of the variance, by which activations are divided
                    scale_activations(self.engine.module, 1e25)
        sound(self, batch, report, step)

    Trainer._forward_and_backward = micro_step


def hold_writing():
    from spacescale.checkpoint import manager

    sound = manager.save_tensors

    def save_tensors(tensors, path, progress):
        if path.parent.name.startswith("step-00000004"):
            path.write_bytes(b"the beginning")
            time.sleep(3600)
        return sound(tensors, path, progress)

    manager.save_tensors = save_tensors


def add_pause():
    module, _, name = os.environ["FAULT_PLACE"].rpartition(".")
    sound = pkgutil.resolve_name(f"{module}.{name}")

    def paused(*arguments):
        if os.environ["RANK"] == os.environ["FAULT_RANK"]:
            print("here comes the fault", flush=True)
            os.kill(os.getpid(), signal.SIGSTOP)
        return sound(*arguments)

    setattr(pkgutil.resolve_name(module), name, paused)


if __name__ == "__main__":
    (add_pause if os.environ["FAULT"] == "pause" else add_fault)()
    sys.exit(pretrain.main(sys.argv[1:]))
