"""Run independent jobs here, in processes of this machine, or wherever an executor takes them."""

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import (
    active_children,
    connection,
    get_context,
    parent_process,
    resource_tracker,
)
from typing import TypeVar

from tqdm import tqdm

from spacescale.errors import UserError

_Result = TypeVar("_Result")
Notify = Callable[[str], None]


@contextmanager
def local_workers(workers: int) -> Iterator[Executor | None]:
    """Give an executor over that many processes of this machine; None stands for one.

    An error waits for the jobs that are running; Ctrl-C and exit end them at once. Raises
    UserError when a process dies, as it does when the system runs out of memory.
    """
    if workers == 1:
        yield None
        return
    others = set(active_children())
    # zarr's thread may be running here: no fork
    pool = ProcessPoolExecutor(workers, get_context("spawn"), initializer=_prepare_worker)
    try:
        yield pool
    except BrokenProcessPool:
        raise UserError(
            "a worker process died; was it ended for lack of memory? The same command continues, "
            "with fewer --workers too"
        ) from None
    except (KeyboardInterrupt, SystemExit):
        for process in set(active_children()) - others:
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _prepare_worker() -> None:
    """Leave Ctrl-C to the parent, and end when it does, even if it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


@contextmanager
def _ctrl_c_kept_from_children() -> Iterator[None]:
    """Processes started here inherit a mask under which Ctrl-C does not reach them: it would end
    those that still import, with a traceback.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        resource_tracker.ensure_running()  # else the workers' start begins with its own …
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # … which lifts the mask
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def run_jobs(
    executor: Executor | None, function: Callable[..., _Result], jobs: Iterable[tuple]
) -> Iterator[_Result]:
    """Yield the results of function(*job), in the order in which jobs end.

    executor: None runs the jobs here, in order. The first job that raises ends the others: those
    that are running end before its error appears, so that what they write may be removed.
    """
    if executor is None:
        for job in jobs:
            yield function(*job)
        return
    with _ctrl_c_kept_from_children():
        futures = [executor.submit(function, *job) for job in jobs]
    try:
        for future in as_completed(futures):
            yield future.result()
    except Exception:
        wait([future for future in futures if not future.cancel()])
        raise
    finally:
        for future in futures:
            future.cancel()


def run_rest(
    executor: Executor | None,
    function: Callable[..., None],
    jobs: Sequence[tuple],
    total: int,
    what: str,
    notify: Notify,
) -> None:
    """Run the jobs that are left of `total`, and show how far they are and the time left.

    what: such as "tracks are read". notify: called with a line when some were done before.
    """
    done = total - len(jobs)
    if done:
        notify(f"continuing: {done:,} of {total:,} {what}")
    results = run_jobs(executor, function, jobs)
    name = what.split()[0]
    with tqdm(desc=name, unit=name[:-1], total=total, initial=done, disable=None) as progress:
        for _ in results:
            progress.update()
