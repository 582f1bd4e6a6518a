"""The page of the Space: WER and WIL."""

import gradio as gr

from hf_affectcodec.metric_space import build_page
from hf_affectcodec.metrics.word_errors import normalize, word_errors


def measure(reference, hypothesis, language):
    errors = word_errors(reference, hypothesis, language)
    return {
        "WER": errors.wer,
        "WIL": errors.wil,
        "substitutions, deletions, insertions": f"{errors.substitutions}, {errors.deletions}, {errors.insertions}",
        "reference as compared": " ".join(normalize(reference, language)),
        "transcript as compared": " ".join(normalize(hypothesis, language)),
    }


inputs = [gr.Textbox(label="What was said"), gr.Textbox(label="Transcript"), gr.Textbox("en", label="Language (code)")]
page = build_page("WER and WIL", word_errors, inputs, measure)

if __name__ == "__main__":
    page.launch()
