"""Species datasets -> the vocabulary that a model of tokens reads: a BPE of them, and k-mers."""

import argparse
import sys
from pathlib import Path

from spacescale import console
from spacescale.arguments import path_option
from spacescale.prepare.vocabulary import make_vocabulary
from spacescale.tokens.vocabulary import FILE, KMER

EPILOG = f"""Only sequence that may train is read (sequence.bed): what is held out leaves no trace.
BPE takes about 1.5 s of one core and 60 MB of memory per Mb. The same data give the same bytes.

output: OUT/{FILE}, whose sha256 training keeps in checkpoints and exports.

example:
  python data_prep/vocabulary.py --data datasets/yeast datasets/human --out vocab
"""


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the arguments of the command line; see `--help`."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", nargs="+", type=path_option, required=True, metavar="DIR",
        help="dataset, or folder of datasets")  # fmt: skip
    add("--out", type=path_option, required=True, help="folder to make")
    add("--size", type=int, default=4096,
        help="tokens of the BPE, 5 specials among them, default %(default)s")  # fmt: skip
    add("--kmer", type=int, default=KMER, help="bases of a k-mer, default %(default)s")
    add("--max-bp", type=int, default=100_000_000,
        help="of training sequence read, about, evenly of all species, default "
        "%(default)s")  # fmt: skip
    return parser.parse_args(arguments)


def main() -> int:
    """Run the command; returns the exit status."""
    given = parse_arguments()
    vocabulary = make_vocabulary(
        given.data, given.out, size=given.size, kmer=given.kmer, max_bp=given.max_bp
    )
    file: Path = given.out / FILE
    print(f"{file}: {len(vocabulary):,} tokens, sha256 {vocabulary.sha256}")
    return 0


if __name__ == "__main__":
    sys.exit(console.run(main, goes_on=True))
