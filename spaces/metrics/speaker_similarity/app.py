"""The page of the Space: Speaker similarity."""

import functools

from hf_affectcodec.metric_space import build_pair_page
from hf_affectcodec.metrics.speaker_similarity import XVectorEncoder, speaker_similarity


load = functools.cache(XVectorEncoder.from_pretrained)


def wavlm_similarity(reference, degraded, sampling_rate):
    return speaker_similarity(reference, degraded, sampling_rate, load())


page = build_pair_page(
    "Speaker similarity", speaker_similarity, {"cosine, wavlm-base-plus-sv": wavlm_similarity}, aligned=False
)

if __name__ == "__main__":
    page.launch()
