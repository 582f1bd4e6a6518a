"""The page of the Space: Emotion recall."""

import functools

from hf_affectcodec.metric_space import SAMPLING_RATE, audio_input, build_page, read_clip
from hf_affectcodec.metrics.emotion2vec import emotion2vec_probabilities, load_emotion2vec
from hf_affectcodec.metrics.emotion_recall import EmotionRecall


load = functools.cache(load_emotion2vec)


def measure(original_path, path):
    """The class that the recogniser hears in each, and its probability."""
    model = load()
    rows = {}
    for label, clip in (("Original", original_path), ("To be measured", path)):
        probabilities = emotion2vec_probabilities(model, read_clip(clip, label), SAMPLING_RATE)
        best = int(probabilities.argmax())
        rows[label] = f"{model.labels[best]} ({probabilities[best]:.2f})"
    return rows


page = build_page("Emotion recall", EmotionRecall, [audio_input("Original"), audio_input("To be measured")], measure)

if __name__ == "__main__":
    page.launch()
