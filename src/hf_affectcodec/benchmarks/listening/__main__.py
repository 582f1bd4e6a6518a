"""
What listeners' answers show: MUSHRA, MOS, Emotion-MOS, AB preference and CMOS.

    python -m hf_affectcodec.benchmarks.listening answers.jsonl --out DIR

reads answers in the form of [`~.answers`], leaves out listeners by [`~.screening`], and writes
`DIR/listening.md`, `DIR/listening.json` and `DIR/listening.png`.
"""

import argparse
import sys
from pathlib import Path

from ..rows import dump
from .analysis import analyse
from .answers import read_answers
from .report import markdown, picture
from .screening import MIN_ATTENTION


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m hf_affectcodec.benchmarks.listening", description=__doc__.strip().split("\n\n")[0]
    )
    parser.add_argument(
        "answers", type=Path, nargs="+", help="JSON lines, or .parquet; several files are taken together"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write into")
    parser.add_argument(
        "--min-attention",
        type=float,
        default=MIN_ATTENTION,
        help="share of attention checks that a listener has to pass (default %(default)s)",
    )
    parser.add_argument(
        "--min-agreement", type=float, help="least correlation with the other listeners (default: no such rule)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of bootstraps and permutations")
    options = parser.parse_args(arguments)
    answers = [answer for path in options.answers for answer in read_answers(path)]
    analysis = analyse(answers, options.min_attention, options.min_agreement, options.seed)
    options.out.mkdir(parents=True, exist_ok=True)
    text = markdown(analysis)
    (options.out / "listening.json").write_text(dump(analysis, indent=1) + "\n", encoding="utf-8")
    (options.out / "listening.md").write_text(text, encoding="utf-8")
    picture(analysis).savefig(options.out / "listening.png")
    sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
