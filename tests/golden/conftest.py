"""Which fixtures are tested, and the worst deviation of each kind of figure at the end."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
from our_figures import evaluate, train_once
from reference_fixtures import find_fixtures, read_fixture

OWN = Path(__file__).with_name("data")
# More of them lie beside the repository where it is developed.
BESIDE = Path(__file__).resolve().parents[3] / "shared" / "fixtures"
FOLDERS = pytest.StashKey[dict[Path, str]]()  # and the names they are shown by


def pytest_addoption(parser):
    parser.addoption(
        "--reference-fixtures",
        action="append",
        type=Path,
        metavar="DIR",
        help="also test the fixtures in DIR, or DIR itself (layout: tests/golden/data/README.md); "
        f"may be repeated; default: {BESIDE}, if there",
    )


def pytest_configure(config):
    given = config.getoption("reference_fixtures", None)
    roots = given or ([BESIDE] if BESIDE.is_dir() else [])
    folders: dict[Path, str] = {}
    for root in (path.resolve() for path in [OWN, *roots]):
        try:
            found = find_fixtures(root)
        except ValueError as error:
            raise pytest.UsageError(f"--reference-fixtures {error}") from None
        folders |= {folder: str(folder.relative_to(root.parent)) for folder in found}
    config.stash[FOLDERS] = folders


def pytest_generate_tests(metafunc):
    if "reference" in metafunc.fixturenames:
        folders = metafunc.config.stash[FOLDERS]
        metafunc.parametrize(
            "reference", folders.items(), ids=folders.values(), indirect=True, scope="module"
        )


@pytest.fixture(scope="module")
def reference(request):
    return read_fixture(*request.param)


@pytest.fixture(scope="module")
def evaluated(reference):
    return evaluate(reference)


@pytest.fixture(scope="module", params=["bn_eval", "bn_batch"])
def mode(request):
    return request.param


@pytest.fixture(scope="module")
def trained(reference, mode):
    return train_once(reference, mode)


Check = Callable[[str, dict[str, float], float], None]


@pytest.fixture
def check(request, reference) -> Check:
    """Report the worst of the errors, by name, of one kind of figure; fail above the tolerance."""

    def report_and_assert(kind: str, errors: dict[str, float], tolerance: float) -> None:
        if not errors:
            pytest.skip(f"{reference.name} has no {kind}")
        size = {name: math.inf if math.isnan(error) else error for name, error in errors.items()}
        name = max(size, key=size.__getitem__)
        found = kind, size[name], tolerance, f"{reference.name} {name}"
        request.node.user_properties.append(("worst", found))
        beyond = {name: error for name, error in size.items() if error > tolerance}
        assert not beyond, f"{kind}: more than {tolerance:.0e} off: {beyond}"

    return report_and_assert


def pytest_unconfigure(config):
    """After pytest's own last line, so that the end of a log shows them."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None:
        return
    worst: dict[str, tuple] = {}
    for report in (r for reports in reporter.stats.values() for r in reports):
        for key, found in getattr(report, "user_properties", []):
            if key == "worst" and found[1] >= worst.get(found[0], found)[1]:
                worst[found[0]] = found
    for kind, error, tolerance, where in worst.values():
        reporter.write_line(f"worst {kind} {error:.1e} of {tolerance:.0e} ({where})")
