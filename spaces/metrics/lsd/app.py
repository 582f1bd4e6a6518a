"""The page of the Space: Log-spectral distance."""

from hf_affectcodec.metric_space import build_pair_page
from hf_affectcodec.metrics.lsd import lsd


page = build_pair_page("Log-spectral distance", lsd, {"LSD (decades)": lsd}, aligned=True)

if __name__ == "__main__":
    page.launch()
