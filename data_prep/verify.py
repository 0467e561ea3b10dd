"""Check species datasets: every file, window, base and target. Exits with 1 if one is unfit."""

import argparse
import json
import sys
import time
from itertools import chain
from pathlib import Path

from spacescale import console
from spacescale.arguments import path_option
from spacescale.errors import UserError
from spacescale.verify.check import verify
from spacescale.verify.findings import Finding, as_text, has_errors

EPILOG = """exit status: 0 when there is no error (warnings may be), 1 with errors, 2 when there is
no dataset to check. spacescale/dataset/README.md lists the checks.
"""


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line; see `--help`."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("path", type=path_option, help="a species folder, or a folder of species folders")
    add("--workers", type=int, default=1, metavar="N", help="processes, default %(default)s")
    add("--json", action="store_true", help="print every finding, for programs")
    return parser.parse_args(arguments)


def main() -> int:
    """Run the command; returns the exit status."""
    args = parse_arguments()
    start = time.perf_counter()
    if args.workers < 1:
        raise UserError(f"--workers {args.workers}: must be at least 1")
    found = verify(args.path, args.workers)
    findings = list(chain.from_iterable(found.values()))
    if args.json:
        print_json(found)
    else:
        print_text(found, time.perf_counter() - start)
    return 1 if has_errors(findings) else 0


def print_json(found: dict[Path, list[Finding]]) -> None:
    """Print {species folder: findings} as JSON."""
    plain = {str(folder): [each.as_plain() for each in found[folder]] for folder in found}
    print(json.dumps(plain, indent=1))


def print_text(found: dict[Path, list[Finding]], seconds: float) -> None:
    """Print the findings of each species and a verdict."""
    for folder, findings in found.items():
        verdict = "unfit" if has_errors(findings) else "sound"
        warnings = sum(finding.severity == "warning" for finding in findings)
        errors = len(findings) - warnings
        print(f"{folder}: {verdict}, {errors} errors, {warnings} warnings")
        if findings:
            print(as_text(findings))
    print(f"checked {len(found)} datasets in {seconds:.1f} s")


if __name__ == "__main__":
    sys.exit(console.run(main))
