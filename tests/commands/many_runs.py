"""A command again and again in one process: many_runs.py MODULE CALLS OUTCOMES.

MODULE: with a `main`, as spacescale.pretrain. CALLS: JSON list of argument lists. OUTCOMES: JSON
list of (exit status, stderr).
"""

import contextlib
import importlib
import io
import json
import os
import sys
import traceback
from pathlib import Path

from spacescale.parallel import engine


def outcome(main, arguments):
    err = io.StringIO()
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
        try:
            status = main(arguments)
        except SystemExit as end:
            status = end.code
        except BaseException:
            traceback.print_exc()
            status = 1
    return status, err.getvalue()


if __name__ == "__main__":
    os._exit = sys.exit  # what is no refusal must not end the cases after it
    leave, engine.leave = engine.leave, lambda: None  # the ranks meet once for all calls
    main = importlib.import_module(sys.argv[1]).main
    calls, outcomes = map(Path, sys.argv[2:])
    outcomes.write_text(json.dumps([outcome(main, call) for call in json.loads(calls.read_text())]))
    leave()
