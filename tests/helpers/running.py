"""Training runs in the background, under any launcher, to be killed and looked at."""

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path

from commands import BIN, REPO, SCRIPT, arguments, deepspeed_command, environment

from spacescale.metrics.history import read_history, runs
from spacescale.parallel.comm import free_port

FAULTY = Path("tests/commands/faulty_pretrain.py")
ENDLESS = ["optim.max_steps=100000", "run.valid_every=100000", "run.save_every=100000"]
LAUNCH = "deepspeed.launcher.launch"
SOON_S = 15  # from the fault to the end of every rank; a hang is noticed 5 s later
START_S = 120


@dataclass
class Running:
    """A started run: its commands, and the files their output goes to."""

    output: Path
    commands: list[subprocess.Popen] = field(default_factory=list)
    texts: list[Path] = field(default_factory=list)
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)  # in every process's environment

    def text(self):
        return "".join(path.read_text() for path in self.texts)

    def processes(self):
        """Pid → (words of the command line, environment), of the living that belong to it."""
        found = {}
        for folder in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError):
                settings = (folder / "environ").read_bytes().decode().split("\0")
                env = dict(s.split("=", 1) for s in settings if "=" in s)
                if env.get("TEST_RUN") == self.mark:
                    words = (folder / "cmdline").read_bytes().decode().split("\0")
                    found[int(folder.name)] = words, env
        return found

    def ranks(self):
        """Rank → pid, of the living; that of a reader process where its rank is gone."""
        found = {}
        for pid, (words, env) in self.processes().items():
            if {Path(word).name for word in words[1:3]} & {SCRIPT.name, FAULTY.name}:
                place = int(env.get("RANK", env.get("PMI_RANK", 0)))
                found[place] = min(pid, found.get(place, pid))
        return found

    def launcher(self):
        """Pid of DeepSpeed's launcher, between the command and the ranks; None where it is not."""
        return next((pid for pid, (words, _) in self.processes().items() if LAUNCH in words), None)

    def wait_until(self, condition):
        deadline = time.monotonic() + START_S
        while not condition():
            assert time.monotonic() < deadline, self.text()
            assert all(c.poll() is None for c in self.commands), self.text()
            time.sleep(0.02)

    def wait_for_steps(self, n=2):
        log = self.output / "metrics.jsonl"
        self.wait_until(lambda: log.exists() and log.read_text().count("\n") >= n)

    def wait_for_fault(self):
        deadline = time.monotonic() + START_S
        while "here comes the fault" not in self.text():
            assert time.monotonic() < deadline, self.text()
            time.sleep(0.1)

    def wait_for_end(self, within=SOON_S):
        """Exit codes once the commands and all they started have ended; fails where one lives."""
        start = time.monotonic()
        while any(c.poll() is None for c in self.commands) or self.processes():
            took = time.monotonic() - start
            assert took < within, f"alive after {took:.0f} s: {self.processes()}\n{self.text()}"
            time.sleep(0.2)
        print(f"all ended after {time.monotonic() - start:.1f} s")
        return [command.returncode for command in self.commands]

    def end(self):
        for command in self.commands:
            command.kill()
            command.wait()
        while living := self.processes():
            for pid in living:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)

    def errors(self):
        return [line for line in self.text().splitlines() if line.startswith("error")]

    def last_run(self):
        """Its start and end in the history."""
        return runs(read_history(self.output))[-1]


def start_running(data, output, launcher, *more, script=SCRIPT, of_rank=lambda rank: [], **env):
    """Start the tiny run under "deepspeed", "torchrun" or "python" (two plain processes)."""
    run = Running(output)
    rest = [str(part) for part in arguments(data, run.output, *ENDLESS, *more)]
    if launcher == "deepspeed":
        command = deepspeed_command(*rest)
        commands = [[script if part == SCRIPT else part for part in command]]
    elif launcher == "torchrun":
        port = free_port()
        commands = [[BIN / "torchrun", "--nproc-per-node", 2, "--master-port", port, script, *rest]]
    else:
        commands = [[sys.executable, script, *rest, *of_rank(rank)] for rank in range(2)]
        env |= {"WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    for number, command in enumerate(commands):
        of_process = {"RANK": number, "LOCAL_RANK": number} if launcher == "python" else {}
        run.texts.append(output.with_name(f"{output.name}-{number}.txt"))
        with run.texts[-1].open("w") as text:
            process = subprocess.Popen(
                [str(part) for part in command],
                stdout=text,
                stderr=subprocess.STDOUT,
                cwd=REPO,
                env=environment(TEST_RUN=run.mark, **env, **of_process),
                start_new_session=True,
            )
        run.commands.append(process)
    return run
