"""What a speech language model's run shows of itself: teacher-forced accuracy by codebook, and what it says."""

from pathlib import Path

import numpy as np
import torch
from codec_evaluation import draw_spectrograms
from train_codec import to_device
from tts_batches import Utterance, begin_with_emotions, collate, continue_prompt

from hf_affectcodec.audio import write_audio


# In the middle of what training draws.
PROMPT_SHARE = 0.375
# Of the true length, that a sample may be long: an untrained model does not end.
MAX_LENGTH_RATIO = 3


@torch.no_grad()
def evaluate(model, stage: str, utterances: list[Utterance], settings) -> dict[str, float]:
    """
    Teacher-forced loss and accuracy of whole utterances, one at a time.

    Args:
        model ([`AffectCodecTTSForConditionalGeneration`]): In evaluation mode.
        stage (`str`): `"ar"` or `"nar"`.
        utterances (`list[Utterance]`): What was said.
        settings ([`tts_recipe.StageRecipe`]): With `prefix_mode` 0 the second stage is given no acoustic prompt, else the
            first three eighths of the utterance.

    Returns:
        `loss` in nats a target, and `accuracy_K` for each codebook of the stage, counted from 0; with the end of speech among
        the targets of codebook 0.
    """
    first = 0 if stage == "ar" else 1
    loss, correct, counts = 0.0, 0, 0
    for utterance in utterances:
        batch = collate(begin_with_emotions([utterance], 0.0, np.random.default_rng(0)))
        if stage == "nar" and settings.prefix_mode:
            batch = continue_prompt(batch, PROMPT_SHARE, model.config.max_prompt_frames)
        outputs = model(**to_device(batch, model.device), stage=stage, loss_reduction="sum")
        is_target = outputs.labels != -100
        is_right = (outputs.logits.argmax(-1) == outputs.labels) & is_target
        if stage == "ar":
            is_right, is_target = is_right[:, None], is_target[:, None]
        loss += float(outputs.loss)
        correct = correct + is_right.sum((0, 2)).cpu()
        counts = counts + is_target.sum((0, 2)).cpu()
    results = {"loss": loss / float(counts.sum())}
    return results | {f"accuracy_{first + k}": float(value) for k, value in enumerate(correct / counts)}


def choose_prompt(model, utterances: list[Utterance]) -> Utterance | None:
    """The longest utterance that a prompt may be as long as, `None` if there is none."""
    config = model.config
    fitting = [u for u in utterances if config.min_prompt_frames <= u.frames <= config.max_prompt_frames]
    return max(fitting, key=lambda utterance: utterance.frames, default=None)


@torch.no_grad()
def speak_samples(
    model, processor, stage: str, utterances: list[Utterance], other_is_trained: bool, recipe, folder: Path
) -> dict[str, float]:
    """
    Speaks the first utterances after the words and the codes of another, and writes what comes out, beside the codec's own
    resynthesis.

    While the other stage is untrained, the first is heard through codebook 1 alone, and the second fills in the codebooks
    above the true first one.

    Returns:
        `seconds` and `reference_seconds` (means), `reached_limit` (share of samples that were ended at thrice their true
        length), and with a transcriber `wer` and `reference_wer` (of the resynthesis), over all words.
    """
    prompt = choose_prompt(model, utterances)
    chosen = [utterance for utterance in utterances if utterance is not prompt][: recipe.evaluation_samples]
    if not chosen:
        return {}
    folder.mkdir(parents=True, exist_ok=True)
    spoken, rebuilt, limits = [], [], []
    for index, utterance in enumerate(chosen):
        truth = torch.from_numpy(utterance.codes).long()[None].to(model.device)
        reference = model.codec_model.decode(truth).audio_values[0]
        if stage == "nar" and not other_is_trained:
            waveform, reached = fill_codebooks(model, processor, utterance, prompt), False
        else:
            waveform, reached = _generate(model, processor, utterance, prompt, other_is_trained)
        spoken.append(waveform.float().cpu())
        rebuilt.append(reference.float().cpu())
        limits.append(reached)
        write_audio(folder / f"{index}_spoken.wav", spoken[-1], processor.sampling_rate)
        write_audio(folder / f"{index}_rebuilt.wav", rebuilt[-1], processor.sampling_rate)
        draw_spectrograms(folder / f"{index}.png", rebuilt[-1], spoken[-1], processor.sampling_rate)
    results = {
        "seconds": sum(item.shape[1] for item in spoken) / processor.sampling_rate / len(spoken),
        "reference_seconds": sum(item.shape[1] for item in rebuilt) / processor.sampling_rate / len(rebuilt),
        "reached_limit": sum(limits) / len(limits),
    }
    if recipe.transcriber is not None:
        results |= _word_error_rates(recipe.transcriber, chosen, spoken, rebuilt, processor.sampling_rate)
    return results


def _inputs(model, processor, utterance: Utterance, prompt: Utterance | None) -> dict:
    phonemes = utterance.phonemes
    if prompt is not None:
        phonemes = [*prompt.phonemes, processor.tokenizer.convert_tokens_to_ids(" "), *phonemes]
    if utterance.emotion is not None:
        phonemes = [utterance.emotion, *phonemes]
    inputs = {"input_ids": torch.tensor(phonemes)[None].to(model.device)}
    if prompt is not None:
        inputs["prompt_codes"] = torch.from_numpy(prompt.codes).long()[None].to(model.device)
    return inputs


def _generate(model, processor, utterance, prompt, other_is_trained):
    inputs = _inputs(model, processor, utterance, prompt)
    outputs = model.generate(**inputs, seed=0, max_new_frames=MAX_LENGTH_RATIO * utterance.frames)
    waveform = outputs.audio[0][None]
    if not other_is_trained:
        waveform = model.codec_model.decode(outputs.audio_codes[:, :1]).audio_values[0]
    return waveform, outputs.stop_reasons[0] == "limit"


def fill_codebooks(model, processor, utterance: Utterance, prompt: Utterance | None) -> torch.Tensor:
    """The waveform [1, T] of an utterance whose codebooks above the first are predicted."""
    inputs = _inputs(model, processor, utterance, prompt)
    codes = torch.from_numpy(utterance.codes).long()[None].to(model.device)
    first = 0
    if prompt is not None:
        codes, first = torch.cat((inputs["prompt_codes"], codes), dim=2), prompt.frames
    prompt_mask = torch.arange(codes.shape[2], device=codes.device)[None] < first
    for codebook in range(1, codes.shape[1]):
        logits = model.nar(inputs["input_ids"], codes, codebook, prompt_mask=prompt_mask).logits
        codes[:, codebook, first:] = logits[:, first:].argmax(-1)
    return model.codec_model.decode(codes[:, :, first:]).audio_values[0]


def _word_error_rates(transcriber, utterances, spoken, rebuilt, sampling_rate):
    from hf_affectcodec.metrics.transcription import load_transcriber
    from hf_affectcodec.metrics.word_errors import corpus_word_errors, word_errors

    transcribe = load_transcriber(transcriber)
    languages = [utterance.language.partition("-")[0] for utterance in utterances]
    results = {}
    for name, waveforms in (("wer", spoken), ("reference_wer", rebuilt)):
        texts = transcribe([waveform[0].numpy() for waveform in waveforms], sampling_rate, languages)
        errors = [word_errors(u.text, text, code) for u, text, code in zip(utterances, texts, languages, strict=True)]
        results[name] = corpus_word_errors(errors).wer
    return results
