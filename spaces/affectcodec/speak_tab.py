"""Speak: a text in the voice and the mood of a short recording."""

import secrets
import tempfile
from collections.abc import Sequence
from pathlib import Path

import gradio as gr

from hf_affectcodec.audio import load_audio, write_audio
from hf_affectcodec.modeling.modeling_affectcodec_tts import AffectCodecTTSForConditionalGeneration
from hf_affectcodec.modeling.processing_affectcodec_tts import AffectCodecTTSProcessor
from hf_affectcodec.space.gallery import GalleryPrompt
from hf_affectcodec.space.shared import CONCURRENCY, samples, sentence, sound
from hf_affectcodec.space.zero_gpu import on_gpu
from hf_affectcodec.speak import join_pieces, speak_live


FOLDER = Path(__file__).parent
MAX_CHARACTERS = 400
PIECE_CHARACTERS = 60  # what has to be spoken before anything is heard
STOPPED = {"state": "stopped", "text": "Stopped.", "share": 0, "run": None, "pieces": []}


def speak_tab(
    model: AffectCodecTTSForConditionalGeneration,
    processor: AffectCodecTTSProcessor,
    gallery: Sequence[GalleryPrompt],
) -> None:
    """
    Args:
        model, processor: Of [`~hf_affectcodec.speak.load_tts`].
        gallery (sequence of [`GalleryPrompt`]): Prompts to choose from, none or more.
    """
    rate = processor.sampling_rate
    shortest, longest = processor.min_prompt_seconds, processor.max_prompt_seconds

    @on_gpu
    def run(*arguments, **options):
        yield from speak_live(model, processor, *arguments, max_characters=PIECE_CHARACTERS, **options)

    def read_prompt(path, words):
        if path is None:
            return None, None
        if not words.strip():
            raise sentence("write down what is said in the prompt")
        try:
            prompt = load_audio(path, rate, stop=longest + 1, name="The prompt")
        except ValueError as error:
            raise sentence(error) from error
        if not shortest <= prompt.shape[-1] / rate <= longest:
            raise sentence(f"the prompt must have {shortest:g} to {longest:g} seconds; the scissors below it cut it")
        return prompt, words

    def say(text, prompt_path, prompt_text, temperature, seconds, seed, top_p, emotion=None, strength=1.0):
        if not text.strip():
            raise sentence("write a text first")
        if len(text) > MAX_CHARACTERS:
            raise sentence(f"this page speaks up to {MAX_CHARACTERS} characters")
        prompt, words = read_prompt(prompt_path, prompt_text)
        options = {"temperature": temperature, "top_p": top_p} if temperature > 0 else {"do_sample": False}
        if emotion:
            options |= {"emotion": emotion, "emotion_guidance": strength}
        name, spoken, files, cut = secrets.token_hex(8), [], [], False

        def live(state, share, text):
            return {"state": state, "share": share, "text": text, "run": name, "pieces": files.copy()}

        with tempfile.TemporaryDirectory(prefix="affectcodec-") as folder:
            try:
                for at in run(text, prompt, words, max_seconds=seconds, seed=int(seed), **options):
                    count = len(at.pieces)
                    if at.audio is not None:
                        spoken.append(at.audio)
                        cut |= at.stop_reason == "limit"
                        path = Path(folder) / f"{at.index + 1}.wav"
                        write_audio(path, at.audio, rate)
                        files.append(gr.FileData(path=str(path), mime_type="audio/wav").model_dump())
                    part = f"part {at.index + 1} of {count}: " if count > 1 else ""
                    # How long a part will be is not known before it ends: the bar counts parts.
                    share = (at.index + (at.audio is not None)) / count if count > 1 else None
                    yield None, live("speaking", share, f"Speaking, {part}{at.seconds:.1f} s so far")
            except (ValueError, ImportError) as error:
                raise sentence(error) from error
            whole = join_pieces(spoken, rate)
            end = " The limit of seconds cut it off." if cut else ""
            yield samples(whole, rate), live("done", 1, f"{whole.shape[-1] / rate:.1f} s of synthetic speech.{end}")

    text = gr.Textbox(label="What to say", lines=3, max_length=MAX_CHARACTERS)
    with gr.Row():
        with gr.Column():
            prompt = gr.Audio(
                sources=["upload", "microphone"],
                type="filepath",
                label=f"Voice and mood to speak in ({shortest:g} to {longest:g} s; ask whose voice it is)",
                buttons=[],
            )
            prompt_text = gr.Textbox(label="What is said in it")
            if gallery:
                gr.Examples(
                    [[str(item.path), item.words] for item in gallery],
                    inputs=[prompt, prompt_text],
                    label="or one of these, by mood",
                    example_labels=[item.label for item in gallery],
                )
        with gr.Column():
            controls = [text, prompt, prompt_text]
            drawing = model.generation_config
            temperature = gr.Slider(
                0, 1.5, value=drawing.temperature, step=0.05, label="Temperature", info="0: the likeliest always"
            )
            seconds = gr.Slider(1, 20, value=10, step=1, label="Longest speech of a part, s")
            seed = gr.Number(0, precision=0, minimum=0, label="Seed")
            top_p = gr.Slider(
                0.05, 1, value=drawing.top_p, step=0.05, label="Top p", info="drawn among the likeliest of this share"
            )
            controls += [temperature, seconds, seed, top_p]
            if processor.emotions:
                controls += [
                    gr.Dropdown([("as the prompt", ""), *processor.emotions], value="", label="Emotion"),
                    gr.Slider(1, 4, value=1, step=0.25, label="Strength of the emotion"),
                ]
    with gr.Row():
        button = gr.Button("Speak", variant="primary")
        stop = gr.Button("Stop")
    live = gr.HTML(
        None,
        html_template='<p role="status"></p><progress max="1" aria-label="Speaking" hidden></progress>'
        '<audio controls aria-label="Part by part" hidden></audio>',
        css_template=(FOLDER / "speech.css").read_text(encoding="utf-8"),
        js_on_load=(FOLDER / "speech.js").read_text(encoding="utf-8"),
        apply_default_css=False,
    )
    spoken = sound("Spoken")
    event = button.click(say, controls, [spoken, live], api_name="speak", show_progress="hidden", **CONCURRENCY)
    stop.click(lambda: STOPPED, None, live, cancels=[event], api_visibility="private", show_progress="hidden")
