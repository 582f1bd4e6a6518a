"""
What stands behind a column: the paper's models by Hub id, or stand-ins that need no download. Each function loads one
backend, once a run.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Backend:
    """
    Args:
        call (`Callable`): The function of waveforms that the columns want.
        title (`str`): What the table calls it.
        protocol (`dict`): All that its values depend on, fit for JSON.
        class_names (sequence of `str`, *optional*): Of a classifier.
    """

    call: Callable
    title: str
    protocol: dict
    class_names: Sequence[str] = field(default=())


def _public_name(source) -> str:
    """A Hub id as it is, of a folder the last part: where a folder lies is nobody's business, and its weights say more."""
    return Path(source).name if Path(source).is_dir() else str(source)


# ----- emotion


def egemaps() -> Backend:
    """Stand-in for emotion embeddings: 88 functionals of the voice, z-scored."""
    from hf_affectcodec.metrics.egemaps import egemaps_embedding

    return Backend(
        egemaps_embedding,
        "stand-in: eGeMAPSv02 functionals",
        {"emotion": "eGeMAPSv02 functionals, z-scored with fixed statistics", "opensmile": version("opensmile")},
    )


@functools.cache
def _emotion2vec(source: str, revision: str, device: str):
    from hf_affectcodec.metrics.emotion2vec import load_emotion2vec

    return load_emotion2vec(source, revision, device)


def emotion2vec(
    source: str = "emotion2vec/emotion2vec_plus_large", revision: str = "main", device: str = "cpu"
) -> Backend:
    """The paper's emotion embeddings."""
    from hf_affectcodec.metrics.emotion2vec import emotion2vec_embedding
    from hf_affectcodec.teachers.frozen import weights_sha256

    model = _emotion2vec(str(source), revision, device)
    protocol = {"emotion": f"emotion2vec {_public_name(source)}", "emotion_weights_sha256": weights_sha256(model)}
    return Backend(functools.partial(emotion2vec_embedding, model), f"emotion2vec, {_public_name(source)}", protocol)


EMOTION = {"egemaps": egemaps, "emotion2vec": emotion2vec}


# ----- recall


def emotion2vec_recall(
    source: str = "emotion2vec/emotion2vec_plus_large", revision: str = "main", device: str = "cpu"
) -> Backend:
    """The paper's recogniser. Classes that the checkpoint does not use are not among its classes here."""
    from hf_affectcodec.metrics.emotion2vec import emotion2vec_probabilities
    from hf_affectcodec.teachers.frozen import weights_sha256

    model = _emotion2vec(str(source), revision, device)
    protocol = {
        "recogniser": f"emotion2vec {_public_name(source)}",
        "recogniser_weights_sha256": weights_sha256(model),
    }
    call = functools.partial(emotion2vec_probabilities, model)
    return Backend(call, f"emotion2vec, {_public_name(source)}", protocol, tuple(model.labels))


def audio_classifier(source: str, revision: str = "main", device: str = "cpu") -> Backend:
    """Any emotion recogniser that `AutoModelForAudioClassification` loads from a waveform at 16 kHz."""
    import torch
    from transformers import AutoFeatureExtractor, AutoModelForAudioClassification

    from hf_affectcodec.metrics.waveforms import check_audible, check_waveform
    from hf_affectcodec.teachers.frozen import load_frozen, weights_sha256

    model = load_frozen(AutoModelForAudioClassification, source, revision, device)
    extractor = AutoFeatureExtractor.from_pretrained(source, revision=revision)

    @torch.inference_mode()
    def classify(waveform, sampling_rate: int) -> np.ndarray:
        waveform = check_audible(check_waveform(waveform, "waveform"), "waveform").astype(np.float32)
        inputs = extractor(waveform, sampling_rate=sampling_rate, return_tensors="pt").to(device)
        try:
            logits = model(**inputs).logits[0]
        except RuntimeError as error:  # too short for a kernel
            raise ValueError(f"`waveform`: the recogniser cannot take it ({str(error).splitlines()[0]})") from error
        return logits.softmax(dim=-1).double().cpu().numpy()

    names = tuple(model.config.id2label[index] for index in range(model.config.num_labels))
    protocol = {"recogniser": _public_name(source), "recogniser_weights_sha256": weights_sha256(model)}
    return Backend(classify, _public_name(source), protocol, names)


RECALL = {"emotion2vec": emotion2vec_recall, "classifier": audio_classifier}


# ----- prosody


def prosody_features() -> Backend:
    """Stand-in for AutoPCP: pitch, energy and timing of the clip in eleven numbers."""
    from hf_affectcodec.metrics.prosody_similarity import prosody_similarity

    protocol = {"prosody": "exp(-RMS difference of 11 features of pitch, energy and timing)"}
    return Backend(prosody_similarity, "stand-in: pitch, energy and timing", protocol)


def autopcp(comparator: str, encoder: str = "facebook/wav2vec2-large-xlsr-53", device: str = "cpu") -> Backend:
    """The paper's prosody similarity; `comparator` is the folder that its authors' zip unpacks to."""
    from hf_affectcodec.metrics.autopcp import autopcp as score
    from hf_affectcodec.metrics.autopcp import load_autopcp
    from hf_affectcodec.teachers.frozen import weights_sha256

    model = load_autopcp(comparator, encoder, device=device)
    protocol = {
        "prosody": f"AutoPCP on {_public_name(encoder)}",
        "comparator_sha256": weights_sha256(model.comparator),
        "encoder_sha256": weights_sha256(model.encoder),
    }
    return Backend(functools.partial(score, model=model), f"AutoPCP on {_public_name(encoder)}", protocol)


PROSODY = {"features": prosody_features, "autopcp": autopcp}


# ----- words


def transcriber(source: str = "openai/whisper-large-v3", revision: str = "main", device: str = "cpu") -> Backend:
    """Whisper, or any CTC model, by Hub id or folder."""
    from hf_affectcodec.metrics.transcription import load_transcriber

    model = load_transcriber(source, revision, device)
    protocol = {key: value for key, value in model.description.items() if key not in ("source", "revision")}
    return Backend(
        model, f"{type(model).__name__}, {_public_name(source)}", {"source": _public_name(source)} | protocol
    )


WORDS = {"transcriber": transcriber}


# ----- speaker


def ge2e(device: str = "cpu") -> Backend:
    """Stand-in: a small speaker encoder whose weights a package carries."""
    from hf_affectcodec.metrics.ge2e import GE2EEncoder, load_model

    load_model(device)
    encoder = GE2EEncoder(device)
    return Backend(encoder, "stand-in: GE2E", {"speaker": "GE2E, resemblyzer 0.1.4"})


def xvector(source: str = "microsoft/wavlm-base-plus-sv", revision: str = "main", device: str = "cpu") -> Backend:
    """A speaker-verification model of transformers."""
    from hf_affectcodec.metrics.speaker_similarity import XVectorEncoder

    encoder = XVectorEncoder.from_pretrained(source, revision, device)
    protocol = {"speaker": _public_name(source), "speaker_weights_sha256": encoder.description["weights_sha256"]}
    return Backend(encoder, _public_name(source), protocol)


SPEAKER = {"ge2e": ge2e, "xvector": xvector}


# ----- predicted opinion scores; the keys of what they return are the columns


def utmos(source: str = "Blinorot/UTMOS-PyTorch", revision: str = "main", device: str = "cpu") -> Backend:
    """The paper's."""
    from hf_affectcodec.metrics.utmos import UTMOS

    model = UTMOS.from_pretrained(source, revision, device)
    protocol = {"utmos": _public_name(source), "utmos_revision": model.description["revision"]}
    return Backend(lambda waveform, rate: {"utmos": model(waveform, rate)}, "UTMOS", protocol)


def dnsmos() -> Backend:
    """From the weights in its wheel."""
    from hf_affectcodec.metrics.dnsmos import dnsmos as score
    from hf_affectcodec.metrics.dnsmos import load_model

    load_model()

    def rate(waveform, sampling_rate: int) -> dict:
        scores = score(waveform, sampling_rate)
        return {"dnsmos_overall": scores.overall, "dnsmos_signal": scores.signal, "dnsmos_p808": scores.p808}

    return Backend(rate, "DNSMOS", {"dnsmos": "speechmos", "speechmos": version("speechmos")})


def distillmos(device: str = "cpu") -> Backend:
    """From the weights in its wheel."""
    from hf_affectcodec.metrics.distillmos import distillmos as score
    from hf_affectcodec.metrics.distillmos import load_model

    load_model(device)
    return Backend(
        lambda waveform, rate: {"distillmos": score(waveform, rate, device)},
        "DistillMOS",
        {"distillmos": version("distillmos")},
    )


RATINGS = {"utmos": utmos, "dnsmos": dnsmos, "distillmos": distillmos}
RATING_LABELS = {
    "utmos": {"utmos": "UTMOS ↑"},
    "dnsmos": {"dnsmos_overall": "DNSMOS OVRL ↑", "dnsmos_signal": "DNSMOS SIG ↑", "dnsmos_p808": "DNSMOS P.808 ↑"},
    "distillmos": {"distillmos": "DistillMOS ↑"},
}
