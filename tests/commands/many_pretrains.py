"""pretrain.py again and again in one process: many_pretrains.py CALLS OUTCOMES.

CALLS: JSON list of argument lists. OUTCOMES: JSON list of (exit status, stderr).
"""

import contextlib
import io
import json
import os
import sys
import traceback
from pathlib import Path

from spacescale import pretrain
from spacescale.parallel import comm


def outcome(arguments):
    err = io.StringIO()
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
        try:
            status = pretrain.main(arguments)
        except SystemExit as end:
            status = end.code
        except BaseException:
            traceback.print_exc()
            status = 1
    return status, err.getvalue()


if __name__ == "__main__":
    os._exit = sys.exit  # what is no refusal must not end the cases after it
    leave, comm.leave = comm.leave, lambda: None  # DeepSpeed keeps its first groups for ever
    calls, outcomes = map(Path, sys.argv[1:])
    outcomes.write_text(json.dumps([outcome(call) for call in json.loads(calls.read_text())]))
    leave()
