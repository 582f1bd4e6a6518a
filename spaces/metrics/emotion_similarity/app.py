"""The page of the Space: Emotion similarity."""

from hf_affectcodec.metric_space import build_pair_page
from hf_affectcodec.metrics.egemaps import egemaps_embedding
from hf_affectcodec.metrics.emotion_similarity import emotion_similarity


def egemaps_similarity(reference, degraded, sampling_rate):
    return emotion_similarity(reference, degraded, sampling_rate, egemaps_embedding)


page = build_pair_page(
    "Emotion similarity", emotion_similarity, {"cosine of eGeMAPS functionals": egemaps_similarity}, aligned=False
)

if __name__ == "__main__":
    page.launch()
