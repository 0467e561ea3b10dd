"""What to run on aligned reads, which are no coverage yet."""

import shlex
from pathlib import Path


def coverage_of_reads(path: Path) -> dict[str, str]:
    """Return {kind of file: the commands that make coverage of it}, for BAM, CRAM and SAM.

    They write zeros where no read lies, so that a base without reads counts as measured.
    """
    file, bam = shlex.quote(str(path)), path.with_suffix(".bam")
    as_bam = shlex.quote(str(bam))
    return {
        "bam": _commands(path),
        "sam": f"samtools sort -o {as_bam} {file}, then {_commands(bam)}",
        "cram": f"samtools view -b -T GENOME.fa -o {as_bam} {file}, then {_commands(bam)}",
    }


def _commands(path: Path) -> str:
    bam = shlex.quote(str(path))
    # Into the working directory: that of the reads is often no place to write into.
    bigwig, bedgraph = (shlex.quote(path.stem + end) for end in (".bw", ".bedGraph"))
    return (
        "make a BigWig of it with deepTools: "
        f"samtools index {bam} && bamCoverage --binSize 1 -b {bam} -o {bigwig} "
        "(paired ChIP and ATAC: add --extendReads; stranded RNA: once with --filterRNAstrand "
        "forward and once with reverse, two tracks that name each other in strand_pair); or a "
        f"bedGraph with bedtools: bedtools genomecov -bga -split -ibam {bam} > {bedgraph} "
        "(single reads by strand: add -strand + or -strand -)"
    )
