"""Lines that the run shows at its end, whatever passed."""

from collections.abc import Callable

import pytest

LINE = "line at the end"


@pytest.fixture
def say_at_the_end(request) -> Callable[[str], None]:
    """Also from another process, as pytest-xdist's workers are: it travels with the report."""
    return lambda line: request.node.user_properties.append((LINE, line))


def pytest_terminal_summary(terminalreporter):
    for reports in terminalreporter.stats.values():
        for report in reports:
            for name, line in getattr(report, "user_properties", []):
                if name == LINE and report.when == "call":
                    terminalreporter.write_line(line)
