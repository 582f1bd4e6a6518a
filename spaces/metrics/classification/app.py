"""The page of the Space: Macro-F1, UA and WA."""

import gradio as gr

from hf_affectcodec.metric_space import build_page
from hf_affectcodec.metrics.classification import classification_scores


def measure(text):
    rows = [[cell.strip() for cell in line.split(",")] for line in text.splitlines() if line.strip()]
    if not rows or any(len(row) != 2 for row in rows):
        raise ValueError("give one item a line: true class, predicted class")
    references, predictions = (list(column) for column in zip(*rows, strict=True))
    scores = classification_scores(references, predictions, sorted({*references, *predictions}))
    return {
        "macro-F1": scores.macro_f1,
        "UA": scores.unweighted_accuracy,
        "WA": scores.weighted_accuracy,
        **{f"F1 of {name}": value for name, value in scores.f1.items()},
        "classes that do not occur": ", ".join(scores.absent) or "none",
    }


example = "happy, happy\nhappy, neutral\nsad, sad\nneutral, neutral"
inputs = [gr.Textbox(example, lines=8, label="One item a line: true class, predicted class")]
page = build_page("Macro-F1, UA and WA", classification_scores, inputs, measure)

if __name__ == "__main__":
    page.launch()
