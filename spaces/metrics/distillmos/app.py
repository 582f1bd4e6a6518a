"""The page of the Space: DistillMOS."""

import sys
from pathlib import Path


# distillmos.py beside this file would hide the package of the same name.
HERE = Path(__file__).resolve().parent
sys.path = [path for path in sys.path if Path(path or ".").resolve() != HERE]

from hf_affectcodec.metric_space import build_clip_page  # noqa: E402
from hf_affectcodec.metrics.distillmos import distillmos  # noqa: E402


page = build_clip_page("DistillMOS", distillmos, {"DistillMOS (1 to 5)": distillmos})

if __name__ == "__main__":
    page.launch()
