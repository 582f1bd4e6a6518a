"""The page of the Space: Prosody similarity."""

from hf_affectcodec.metric_space import build_pair_page
from hf_affectcodec.metrics.prosody_similarity import prosody_similarity


METRICS = {"prosody similarity (0 to 1)": prosody_similarity}
page = build_pair_page("Prosody similarity", prosody_similarity, METRICS, aligned=False)

if __name__ == "__main__":
    page.launch()
