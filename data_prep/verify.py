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

EPILOG = """exit status: 0 when there is no error (warnings may be), 1 with errors, 2 when a path
holds no dataset to check; of several paths the worst. The datasets of one path are also compared
with each other, as they may be trained on together. spacescale/dataset/README.md lists the checks.
"""


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line; see `--help`."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("paths", nargs="+", type=path_option, metavar="PATH",
        help="a species folder, or a folder of species folders")  # fmt: skip
    add("--workers", type=int, default=1, metavar="N", help="processes, default %(default)s")
    add("--json", action="store_true", help="print every finding, for programs")
    return parser.parse_args(arguments)


def main() -> int:
    """Run the command; returns the exit status."""
    args = parse_arguments()
    start = time.perf_counter()
    if args.workers < 1:
        raise UserError(f"--workers {args.workers}: must be at least 1")
    found: dict[Path, list[Finding]] = {}
    status = 0
    for path in dict.fromkeys(args.paths):
        try:
            here = verify(path, args.workers)
        except UserError as error:  # of one path: the others are checked all the same
            print(f"error: {error}", file=sys.stderr)
            status = 2
            continue
        if not args.json:
            print_text(here)
        for folder, findings in here.items():  # maybe checked before, alone or among others
            found[folder] = list(dict.fromkeys([*found.get(folder, []), *findings]))
    if args.json:
        print_json(found)
    elif found:
        print(f"checked {len(found)} datasets in {time.perf_counter() - start:.1f} s")
    if has_errors(chain.from_iterable(found.values())):
        status = max(status, 1)
    return status


def print_json(found: dict[Path, list[Finding]]) -> None:
    """Print {species folder: findings} as JSON."""
    plain = {str(folder): [each.as_plain() for each in found[folder]] for folder in found}
    print(json.dumps(plain, indent=1))


def print_text(found: dict[Path, list[Finding]]) -> None:
    """Print the findings of each species and a verdict."""
    for folder, findings in found.items():
        verdict = "unfit" if has_errors(findings) else "sound"
        warnings = sum(finding.severity == "warning" for finding in findings)
        errors = len(findings) - warnings
        print(f"{folder}: {verdict}, {errors} errors, {warnings} warnings")
        if findings:
            print(as_text(findings))


if __name__ == "__main__":
    sys.exit(console.run(main))
