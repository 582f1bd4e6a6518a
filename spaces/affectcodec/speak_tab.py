"""Speak: a text in the voice and the mood of a short recording."""

import gradio as gr
import torch

from hf_affectcodec.audio import load_audio
from hf_affectcodec.modeling.modeling_affectcodec_tts import AffectCodecTTSForConditionalGeneration
from hf_affectcodec.modeling.phonemes_affectcodec_tts import split_text
from hf_affectcodec.modeling.processing_affectcodec_tts import AffectCodecTTSProcessor
from hf_affectcodec.space.shared import CONCURRENCY, samples, sentence, sound
from hf_affectcodec.space.zero_gpu import on_gpu
from hf_affectcodec.speak import PAUSE_SECONDS, speak


MAX_CHARACTERS = 400
PIECE_CHARACTERS = 120  # what is spoken between two looks at the stop button


def speak_tab(model: AffectCodecTTSForConditionalGeneration, processor: AffectCodecTTSProcessor) -> None:
    """
    Args:
        model, processor: Of [`~hf_affectcodec.speak.load_tts`].
    """
    rate = processor.sampling_rate
    run_piece = on_gpu(lambda *arguments, **options: speak(model, processor, *arguments, **options).audio)

    def say(text, prompt_path, prompt_text, temperature, seconds, seed, progress=gr.Progress()):  # noqa: B008
        prompt = None
        if prompt_path is not None:
            if not prompt_text.strip():
                raise sentence("write down what is said in the prompt")
            try:
                prompt = load_audio(prompt_path, rate, stop=processor.max_prompt_seconds + 1, name="The prompt")
            except ValueError as error:
                raise sentence(error) from error
        if len(text) > MAX_CHARACTERS:
            raise sentence(f"this page speaks up to {MAX_CHARACTERS} characters")
        pieces = split_text(text, PIECE_CHARACTERS)
        if not pieces:
            raise sentence("write a text first")
        spoken, pause = [], torch.zeros(1, round(PAUSE_SECONDS * rate))
        for index, piece in enumerate(pieces):
            progress(index / len(pieces), desc=f"Speaking part {index + 1} of {len(pieces)}")
            try:
                audio = run_piece(
                    piece,
                    prompt,
                    None if prompt is None else prompt_text,
                    **({"temperature": temperature} if temperature > 0 else {"do_sample": False}),
                    max_seconds=seconds,
                    seed=int(seed),
                )
            except (ValueError, ImportError) as error:
                raise sentence(error) from error
            spoken += [audio, pause]
            yield samples(torch.cat(spoken[:-1], dim=-1), rate)

    text = gr.Textbox(label="What to say", lines=3, max_length=MAX_CHARACTERS)
    with gr.Row():
        prompt = gr.Audio(
            sources=["upload", "microphone"],
            type="filepath",
            label=f"Voice and mood to speak in (up to {processor.max_prompt_seconds:g} s; ask whose voice it is)",
        )
        with gr.Column():
            prompt_text = gr.Textbox(label="What is said in it")
            temperature = gr.Slider(0, 1.5, value=1.0, step=0.05, label="Temperature", info="0: the likeliest always")
            seconds = gr.Slider(1, 20, value=10, step=1, label="Longest speech of a part, s")
            seed = gr.Number(0, precision=0, minimum=0, label="Seed")
    with gr.Row():
        button = gr.Button("Speak", variant="primary")
        stop = gr.Button("Stop")
    spoken = sound("Spoken")
    controls = [text, prompt, prompt_text, temperature, seconds, seed]
    event = button.click(say, controls, spoken, api_name="speak", **CONCURRENCY)
    stop.click(None, cancels=[event], api_visibility="private")
