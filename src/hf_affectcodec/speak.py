"""Text to speech in the voice and the mood of a short recording: `affectcodec speak`."""

import argparse
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from transformers import AutoConfig

from .audio import WRITE_FORMATS, load_audio, write_audio
from .inference import _one_line, _quiet_transformers
from .modeling.modeling_affectcodec_tts import AffectCodecTTSForConditionalGeneration
from .modeling.phonemes_affectcodec_tts import split_text
from .modeling.processing_affectcodec_tts import AffectCodecTTSProcessor
from .shipped import pretrained_path


SHIPPED = "affectcodec-tts-mini"
PAUSE_SECONDS = 0.2  # between the pieces of a long text
SEARCH_SECONDS = 1.0  # at the end of a prompt that is too long, where a pause to cut at is looked for


@dataclass(frozen=True)
class Speech:
    """
    Args:
        audio (`torch.Tensor` of shape `(1, samples)`): At the model's sampling rate, on the CPU.
        pieces (`list[str]`): What was spoken one by one, with `PAUSE_SECONDS` between.
        stop_reasons (`list[str]`): Of each piece, `"eos"` or `"limit"`, see [`AffectCodecTTSGenerateOutput`].
        prompt_text (`str`, *optional*): The words of the prompt, given or heard.
    """

    audio: torch.Tensor
    pieces: list[str]
    stop_reasons: list[str]
    prompt_text: str | None


@dataclass(frozen=True)
class SpeechProgress:
    """
    Where [`speak_live`] is.

    Args:
        index (`int`): Of the piece, from 0.
        pieces (`list[str]`): All that are to be spoken.
        seconds (`float`): Of this piece, drawn so far. How long it will be is known at its end.
        audio (`torch.Tensor` of shape `(1, samples)`, *optional*): The piece, once it is spoken.
        stop_reason (`str`, *optional*): Then also `"eos"` or `"limit"`, see [`AffectCodecTTSGenerateOutput`].
    """

    index: int
    pieces: list[str]
    seconds: float
    audio: torch.Tensor | None = None
    stop_reason: str | None = None


def load_tts(
    source: "str | os.PathLike | None" = None, device: str | None = None
) -> tuple[AffectCodecTTSForConditionalGeneration, AffectCodecTTSProcessor]:
    """
    Loads a trained speech language model and its processor, for inference.

    Args:
        source (`str` or `os.PathLike`, *optional*): Folder or Hub id. Default: the checkpoint shipped in the package.
        device (`str`, *optional*): Where it runs. Default: `"cuda"` if there is one, else `"cpu"`.

    Raises:
        FileNotFoundError: No `source` is given and none is shipped.
        ValueError: `source` cannot be loaded, is another model or lacks weights; or `device` cannot be used.
    """
    source = pretrained_path(SHIPPED) if source is None else source
    if not Path(source).is_dir():
        try:
            validate_repo_id(str(source))
        except HFValidationError as error:
            raise ValueError(f"`model` must be a folder that exists or a Hub id, got {str(source)!r}") from error
    with _quiet_transformers():
        # Foreign and damaged files make transformers and safetensors raise nearly anything, over many lines.
        try:
            config = AutoConfig.from_pretrained(source)
            if config.model_type == "affectcodec_tts":
                model, report = AffectCodecTTSForConditionalGeneration.from_pretrained(
                    source, config=config, dtype=torch.float32, use_safetensors=True, output_loading_info=True
                )
                processor = AffectCodecTTSProcessor.from_pretrained(source)
        except Exception as error:
            raise ValueError(f"`model` {str(source)!r} cannot be loaded: {_one_line(error)}") from error
    if config.model_type != "affectcodec_tts":
        raise ValueError(f"`model` {str(source)!r} is of type {config.model_type!r}, not 'affectcodec_tts'")
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise ValueError(f"`model` {str(source)!r}: weights missing: {len(missing)}, as {missing[0]}")
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        model = model.eval().requires_grad_(False).to(torch.device(device))
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # each backend has its own
        raise ValueError(f"`device` {device!r} cannot be used: {_one_line(error)}") from error
    return model, processor


def cut_prompt(waveform: torch.Tensor, max_seconds: float, sampling_rate: int) -> torch.Tensor:
    """The beginning of a waveform [T], cut at a pause where it is longer than `max_seconds`."""
    from .metrics.transcription import split_at_pauses

    pieces = split_at_pauses(waveform.numpy(), int(max_seconds * sampling_rate), int(SEARCH_SECONDS * sampling_rate))
    return torch.from_numpy(pieces[0])


def speak(
    model: AffectCodecTTSForConditionalGeneration,
    processor: AffectCodecTTSProcessor,
    text: str,
    prompt: torch.Tensor | None = None,
    prompt_text: str | None = None,
    language: str | None = None,
    emotion: str | None = None,
    transcribe: Callable[[Sequence, int, Sequence[str]], list[str]] | None = None,
    max_characters: int = 200,
    **generate,
) -> Speech:
    """
    Speaks a text of any length: piece by piece, see [`~hf_affectcodec.modeling.phonemes_affectcodec_tts.split_text`], each
    after the same prompt.

    Args:
        model ([`AffectCodecTTSForConditionalGeneration`]), processor ([`AffectCodecTTSProcessor`]): See [`load_tts`].
        text (`str`): What is to be spoken.
        prompt (`torch.Tensor` of shape `(1, samples)`, *optional*):
            The voice and the mood to speak in, at the processor's sampling rate. `None`: some voice.
        prompt_text (`str`, *optional*): Its words. The prompt must not be longer than the processor's limit then.
        language (`str`, *optional*): Code of the language of both texts. Default: the processor's.
        emotion (`str`, *optional*): One of the processor's `emotions`, for models that have some.
        transcribe (`Callable`, *optional*):
            Hears the words of a prompt that comes without them, see [`~hf_affectcodec.metrics.transcription.load_transcriber`].
            A prompt that is too long is cut at a pause first.
        max_characters (`int`, *optional*, defaults to 200): Longest piece.
        generate: Passed on to the model's `generate`: `seed`, `temperature`, `max_seconds`,
            `prompt_guidance`, ...

    Raises:
        ImportError: The extra `[tts]` is missing.
        ValueError: naming the argument that is malformed.
    """
    pieces, inputs, prompt_text = _inputs(
        processor, text, prompt, prompt_text, language, emotion, transcribe, max_characters
    )
    waveforms, stop_reasons = [], []
    for item in inputs:
        outputs = model.generate(**item.to(model.device), **generate)
        waveforms.append(outputs.audio[0].cpu())
        stop_reasons += outputs.stop_reasons
    return Speech(join_pieces(waveforms, processor.sampling_rate)[None], pieces, stop_reasons, prompt_text)


def speak_live(
    model: AffectCodecTTSForConditionalGeneration,
    processor: AffectCodecTTSProcessor,
    text: str,
    prompt: torch.Tensor | None = None,
    prompt_text: str | None = None,
    language: str | None = None,
    emotion: str | None = None,
    transcribe: Callable[[Sequence, int, Sequence[str]], list[str]] | None = None,
    max_characters: int = 200,
    interval: float = 0.3,
    **generate,
) -> Iterator[SpeechProgress]:
    """
    [`speak`] that can be heard before the end, and stopped. Audio comes piece by piece: codebooks 2 and up of a frame
    are predicted from all frames of its piece, so nothing of a piece sounds before the last of them is drawn.

    Args:
        interval (`float`, *optional*, defaults to 0.3): Seconds between two signs of life.
        The others: As of [`speak`].

    Yields:
        [`SpeechProgress`]: every `interval` while a piece is drawn, and with `audio` when it is done. Closing the
        iterator (`close()`, or leaving the loop) stops the model at its next frame.

    Raises:
        ImportError, ValueError: As of [`speak`], before the first item.
    """
    pieces, inputs, _ = _inputs(processor, text, prompt, prompt_text, language, emotion, transcribe, max_characters)
    for index, item in enumerate(inputs):
        stopped, drawn = threading.Event(), []

        def count(codes, stopped=stopped, drawn=drawn):
            if stopped.is_set():
                raise _StoppedError
            drawn.append(1)

        # Not as a context manager: its end waits for the model, which then has to know already that it is to stop.
        pool = ThreadPoolExecutor(1, thread_name_prefix="speak_live")
        try:
            future = pool.submit(model.generate, **item.to(model.device), codes_callback=count, **generate)
            while wait([future], timeout=interval).not_done:
                yield SpeechProgress(index, pieces, len(drawn) / model.config.frame_rate)
            outputs = future.result()
        finally:
            stopped.set()
            pool.shutdown(wait=True)
        audio = outputs.audio[0].cpu()[None]
        yield SpeechProgress(index, pieces, audio.shape[-1] / processor.sampling_rate, audio, outputs.stop_reasons[0])


def join_pieces(waveforms: Sequence[torch.Tensor], sampling_rate: int) -> torch.Tensor:
    """Pieces `[..., T]` one after the other, with `PAUSE_SECONDS` of silence between."""
    pause = waveforms[0].new_zeros(*waveforms[0].shape[:-1], round(PAUSE_SECONDS * sampling_rate))
    parts = [part for waveform in waveforms for part in (waveform, pause)]
    return torch.cat(parts[:-1], dim=-1)


class _StoppedError(Exception):
    """Ends `generate` from within, where nobody listens any more."""


def _inputs(processor, text, prompt, prompt_text, language, emotion, transcribe, max_characters):
    """The pieces of a text, the model's inputs for each, and the words of the prompt. All is checked before any is spoken."""
    pieces = split_text(text, max_characters)
    if not pieces:
        raise ValueError("`text` is empty")
    language = language or processor.language
    prompted = {}
    if prompt is not None:
        if prompt_text is None:
            if transcribe is None:
                raise ValueError("`prompt_text` (the words of `prompt`) or `transcribe` must be given with `prompt`")
            prompt = cut_prompt(prompt[0], processor.max_prompt_seconds, processor.sampling_rate)[None]
            (prompt_text,) = transcribe([prompt[0].numpy()], processor.sampling_rate, [language.partition("-")[0]])
            if not prompt_text.strip():
                raise ValueError("`prompt`: no words are heard in it; give `prompt_text`")
        prompted = {"prompt": prompt, "prompt_text": prompt_text, "sampling_rate": processor.sampling_rate}
    elif prompt_text is not None:
        raise ValueError("`prompt_text` is given without a `prompt`")
    inputs = [processor(piece, language=language, emotion=emotion, **prompted) for piece in pieces]
    return pieces, inputs, prompt_text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `affectcodec speak`."""
    parser.add_argument("text", metavar="TEXT", help="what to say; -: read it from standard input")
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="OUT", help="file to write")
    parser.add_argument(
        "--model", help="folder or Hub id of a speech language model (default: the checkpoint shipped in the package)"
    )
    parser.add_argument("--prompt", type=Path, metavar="AUDIO", help="the voice and the mood to speak in, 0.5 to 3 s")
    parser.add_argument(
        "--prompt-text", metavar="WORDS", help="what is said in it (default: what --transcriber hears)"
    )
    parser.add_argument(
        "--transcriber", default="openai/whisper-base", help="Hub id or folder of a recogniser (default: %(default)s)"
    )
    parser.add_argument("--language", help="code of the language, as en, fr or en-gb (default: the model's)")
    parser.add_argument("--emotion", help="one of the labels that the model knows, if any")
    parser.add_argument("--emotion-guidance", type=float, metavar="SCALE", help="above 1: more of that emotion")
    parser.add_argument(
        "--guidance-scale", type=float, metavar="SCALE", help="above 1: closer to the text (default: the model's)"
    )
    parser.add_argument(
        "--prompt-guidance", type=float, metavar="SCALE", help="above 1: closer to the prompt's voice and mood"
    )
    parser.add_argument(
        "--temperature", type=float, help="of sampling; 0: the likeliest code always (default: the model's)"
    )
    parser.add_argument("--top-k", type=int, help="sample among the K likeliest codes (default: the model's)")
    parser.add_argument("--top-p", type=float, help="sample among the likeliest codes of this probability")
    parser.add_argument("--repetition-window", type=int, metavar="N", help="repetition-aware sampling over N codes")
    parser.add_argument("--max-seconds", type=float, help="limit of a piece of text (default: the model's)")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--device", help="where to run (default: cuda if there is one, else cpu)")
    parser.add_argument("--overwrite", action="store_true", help="replace a file that exists")


def run(arguments: argparse.Namespace) -> int:
    """
    Runs `affectcodec speak`; exit status 0.

    Raises:
        ImportError, OSError, ValueError: What is wrong, in one line.
    """
    output = arguments.output
    if output.suffix.lower() not in WRITE_FORMATS:
        raise ValueError(f"`OUT` must end in one of {' '.join(sorted(WRITE_FORMATS))}, got {str(output)!r}")
    if output.exists() and not arguments.overwrite:
        raise FileExistsError(f"{output} exists; --overwrite replaces it")
    if not output.parent.is_dir():
        raise FileNotFoundError(f"{output.parent} is no folder")
    if arguments.temperature is not None and arguments.temperature < 0:
        raise ValueError(f"--temperature must be at least 0, got {arguments.temperature}")
    text = sys.stdin.read() if arguments.text == "-" else arguments.text
    model, processor = load_tts(arguments.model, arguments.device)
    prompt = None if arguments.prompt is None else load_audio(arguments.prompt, processor.sampling_rate)
    transcribe = None
    if prompt is not None and arguments.prompt_text is None:
        from .metrics.transcription import load_transcriber

        transcribe = load_transcriber(arguments.transcriber, device=str(model.device))
    generate = {"seed": arguments.seed}
    if arguments.temperature == 0:
        generate["do_sample"] = False
        arguments.temperature = None
    for name in (
        "temperature",
        "top_k",
        "top_p",
        "max_seconds",
        "repetition_window",
        "emotion_guidance",
        "guidance_scale",
        "prompt_guidance",
    ):
        if getattr(arguments, name) is not None:
            generate[name] = getattr(arguments, name)
    spoken = speak(
        model,
        processor,
        text,
        prompt,
        arguments.prompt_text,
        arguments.language,
        arguments.emotion,
        transcribe,
        **generate,
    )
    write_audio(output, spoken.audio, processor.sampling_rate)
    for piece, reason in zip(spoken.pieces, spoken.stop_reasons, strict=True):
        if reason == "limit":
            print(f"affectcodec: the limit of seconds ended {piece[:40]!r} before the model did", file=sys.stderr)
    return 0


def main(argv: "list[str] | None" = None) -> int:
    """Runs the command by itself: `python -m hf_affectcodec.speak`."""
    parser = argparse.ArgumentParser(prog="affectcodec speak", description=__doc__)
    add_arguments(parser)
    try:
        return run(parser.parse_args(argv))
    except (ValueError, OSError, ImportError) as error:
        print(f"affectcodec: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
