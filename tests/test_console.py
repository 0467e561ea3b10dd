"""Output reaches any console, and its end is not the command's failure."""

import io
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from spacescale import console
from spacescale.errors import UserError

REPO = Path(__file__).parents[1]
TALK = "print('\\u2026' * 3); print('x' * 200_000); open(sys.argv[1], 'w').write('done'); return 0"


def talk(path, goes_on, encoding="utf-8", **options):
    """Start a command that prints much, and then writes a file."""
    body = f"def talk():\n  {TALK}\n"
    text = f"import sys\nfrom spacescale import console\n{body}"
    call = f"sys.exit(console.run(talk, goes_on={goes_on}))"
    env = os.environ | {"PYTHONIOENCODING": encoding}
    return subprocess.Popen(
        [sys.executable, "-c", text + call, str(path)],
        cwd=REPO,
        env=env,
        stderr=subprocess.PIPE,
        **options,
    )


def test_what_an_encoding_lacks_is_escaped(tmp_path):
    process = talk(tmp_path / "file", False, encoding="latin-1", stdout=subprocess.PIPE)
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stderr) == (0, b"")
    assert stdout.startswith(b"\\u2026\\u2026\\u2026\nxxx")


@pytest.mark.parametrize(("goes_on", "status"), [(False, console.PIPE_CLOSED), (True, 0)])
def test_a_closed_pipe_ends_short_commands_quietly_and_others_not(tmp_path, goes_on, status):
    reader, writer = os.pipe()
    process = talk(tmp_path / "file", goes_on, stdout=writer)
    os.close(writer)
    os.close(reader)
    assert process.communicate(timeout=60)[1] == b""
    assert process.returncode == status
    assert (tmp_path / "file").exists() is goes_on


def test_a_full_disk_under_the_output_is_said(tmp_path):
    with Path("/dev/full").open("w") as full:
        process = talk(tmp_path / "file", False, stdout=full)
        stderr = process.communicate(timeout=60)[1]
    assert process.returncode == 2
    assert stderr == b"error: cannot write the output: No space left on device\n"


def test_a_console_closed_from_the_start_is_no_failure(tmp_path):
    process = talk(tmp_path / "file", False, preexec_fn=lambda: os.close(1))
    assert process.communicate(timeout=60)[1] == b""
    assert process.returncode == 0


def test_a_terminal_made_non_blocking_is_waited_for():
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    os.write(writer, b"x" * 65536)  # full
    with subprocess.Popen([sys.executable, "-c", SLOW], stdin=reader, stdout=subprocess.PIPE) as p:
        os.close(reader)
        console._Descriptor(writer, goes_on=False).write(b"y" * 100_000)
        os.close(writer)
        assert p.stdout.read() == b"165536\n"


SLOW = "import sys, time; time.sleep(0.3); print(len(sys.stdin.read()))"


def test_captured_streams_are_left_alone(monkeypatch):
    captured = io.StringIO()
    monkeypatch.setattr("sys.stdout", captured)
    console.prepare(goes_on=False)
    assert sys.stdout is captured


def test_bad_input_is_one_line(capsys):
    def fail():
        raise UserError("x.bed: no such file")

    assert console.run(fail) == 2
    assert capsys.readouterr().err == "error: x.bed: no such file\n"


def test_an_interrupt_says_what_became_of_the_work(capsys):
    def command():
        raise KeyboardInterrupt

    assert console.run(command, interrupted="interrupted, nothing written") == console.INTERRUPTED
    assert capsys.readouterr() == ("", "interrupted, nothing written\n")


def test_termination_undoes_what_is_half_done(tmp_path):
    half = tmp_path / "half"
    code = (
        "import sys, time; from pathlib import Path; from spacescale import console\n"
        f"half = Path({str(half)!r})\n"
        "def command():\n"
        "    half.touch()\n"
        "    try: time.sleep(60)\n"
        "    finally: half.unlink()\n"
        "sys.exit(console.run(command))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    while not half.exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.terminate()
    assert process.wait(timeout=30) == console.TERMINATED
    assert process.stderr is not None and process.stderr.read() == ""
    assert not half.exists()


def test_columns_are_aligned_and_a_row_may_be_short():
    rows = [("name", "n", "note"), ("a", "10"), ("longer", "2", "x")]
    assert console.aligned(rows, left=(0, -1)) == [
        "name     n  note",
        "a       10",
        "longer   2  x",
    ]
    assert console.aligned(rows)[2] == "longer   2     x"
