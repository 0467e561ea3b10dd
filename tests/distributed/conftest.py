"""Lines that the run shows at its end, whatever passed."""

import pytest

LINES = pytest.StashKey[list[str]]()


def pytest_configure(config):
    config.stash[LINES] = []


@pytest.fixture
def equivalence_lines(request):
    return request.config.stash[LINES]


def pytest_terminal_summary(terminalreporter, config):
    for line in config.stash[LINES]:
        terminalreporter.write_line(line)
