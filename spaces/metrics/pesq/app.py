"""The page of the Space: PESQ."""

import sys
from pathlib import Path


# pesq.py beside this file would hide the package of the same name.
HERE = Path(__file__).resolve().parent
sys.path = [path for path in sys.path if Path(path or ".").resolve() != HERE]

from hf_affectcodec.metric_space import build_pair_page  # noqa: E402
from hf_affectcodec.metrics.pesq import pesq  # noqa: E402


page = build_pair_page("PESQ", pesq, {"PESQ-WB (1.0 to 4.64)": pesq}, aligned=True)

if __name__ == "__main__":
    page.launch()
