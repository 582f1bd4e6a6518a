"""The page of the Space: STOI."""

from hf_affectcodec.metric_space import build_pair_page
from hf_affectcodec.metrics.stoi import stoi


page = build_pair_page("STOI", stoi, {"STOI (0 to 1)": stoi}, aligned=True)

if __name__ == "__main__":
    page.launch()
