import sys
from pathlib import Path


ROOT = Path(__file__).resolve().parent.parent
# Scripts in training/ import each other by bare name, as `accelerate launch` runs them.
for folder in ("training", "tests/modeling"):
    sys.path.insert(0, str(ROOT / folder))
