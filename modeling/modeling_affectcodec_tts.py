"""Text-to-speech by a language model over AffectCodec's tokens (arXiv 2605.11098, section 3.4)."""

import copy
import os
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from transformers import GenerationConfig, GenerationMixin, LogitsProcessorList
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from .alignment_affectcodec_tts import ALIGNMENT_SETTINGS, AffectCodecTTSAlignment
from .ar_affectcodec_tts import AffectCodecTTSForCausalLM
from .cache_affectcodec_tts import AffectCodecTTSCache
from .configuration_affectcodec_tts import AffectCodecTTSConfig
from .inputs_affectcodec_tts import check_codes, check_frames, check_mask, check_text, prompt_sequence, speech_sequence
from .layers_affectcodec_tts import AffectCodecTTSPreTrainedModel
from .modeling_affectcodec import AffectCodecModel
from .nar_affectcodec_tts import AffectCodecTTSNonAutoregressiveModel
from .sampling_affectcodec_tts import (
    AffectCodecTTSClassifierFreeGuidance,
    AffectCodecTTSCodeStreamer,
    AffectCodecTTSRepetitionAwareSampling,
)


# Plain sampling, as in the public VALL-E (transformers' own default is the 50 likeliest ids), for twenty seconds at most:
# longer than the utterances that such models are trained on.
GENERATION_DEFAULTS = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "max_new_tokens": 1000}


@contextmanager
def seeded(seed: int | None, device: torch.device):
    """Draws in here depend on `seed` alone and leave the random state as it was; `None` changes nothing."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


@dataclass
class AffectCodecTTSOutput(ModelOutput):
    """
    Args:
        loss (`torch.FloatTensor` of shape `()`): Cross-entropy of the targets.
        logits (`torch.FloatTensor`):
            Stage `"ar"`: `(batch, frames + 1, codebook_size + 1)`, of every code of codebook 1 and the end of speech.
            Stage `"nar"`: `(batch, len(codebooks), frames, codebook_size)`.
        labels (`torch.LongTensor`): The targets, as the logits without their last axis; -100 where none is.
        attentions (`tuple[torch.FloatTensor]`):
            With `output_attentions`, one a layer. Stage `"ar"`: `(batch, heads, length, length)` over the sequence
            [text ; beginning ; codes ; end]. Stage `"nar"`: `(batch, len(codebooks), heads, length, length)` over
            [text ; frames]. In both row `text_length + i` is what predicts frame `i`.
    """

    loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    labels: torch.LongTensor | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


@dataclass
class AffectCodecTTSGenerateOutput(ModelOutput):
    """
    Args:
        audio (`list[torch.FloatTensor]`):
            Waveforms `(frames * hop_length,)` without the prompt, at the codec's sampling rate, in about [-1, 1].
        audio_codes (`torch.LongTensor` of shape `(batch, num_quantizers, frames)`): The new codes, 0 at padding.
        audio_codes_mask (`torch.BoolTensor` of shape `(batch, frames)`): True at frames.
        lengths (`torch.LongTensor` of shape `(batch,)`): New frames of each item.
        stop_reasons (`list[str]`): `"eos"` where the model ended an item, `"limit"` where the limit of frames did.
    """

    audio: list[torch.FloatTensor] | None = None
    audio_codes: torch.LongTensor | None = None
    audio_codes_mask: torch.BoolTensor | None = None
    lengths: torch.LongTensor | None = None
    stop_reasons: list[str] | None = None


class AffectCodecTTSForConditionalGeneration(AffectCodecTTSPreTrainedModel, GenerationMixin):
    """
    Text-to-speech in the voice and the mood of an acoustic prompt. `ar` predicts codebook 1 from phonemes, frame by frame;
    `nar` predicts the other codebooks from those below, all frames at once; `codec_model` turns codes into a waveform.

    Text enters as ids of phonemes, those of the prompt's words before those to be spoken.
    """

    def __init__(self, config: AffectCodecTTSConfig):
        super().__init__(config)
        # The codec has no attention that could be switched, and refuses one that is asked for.
        config.codec_config._attn_implementation = "eager"
        self.ar = AffectCodecTTSForCausalLM(config)
        self.nar = AffectCodecTTSNonAutoregressiveModel(config)
        self.codec_model = AffectCodecModel._from_config(config.codec_config)
        if config.codec_model_id is not None:
            self._keys_to_ignore_on_load_missing = [r"^codec_model\."]
        self.generation_config.update(**GENERATION_DEFAULTS)
        # What is marked so loses settings that transformers does not know when it is loaded.
        self.generation_config._from_model_config = False
        self.post_init()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
        """
        As in transformers. Where the checkpoint's `codec_model_id` says so, the codec's weights come from there.

        Raises:
            ValueError: `codec_model_id` is relative, but the checkpoint is no folder; or names a codec that does not fit.
        """
        loaded = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        if model.config.codec_model_id is not None:
            # How to reach the Hub is the same for both; a revision is of one repository.
            hub = {name: kwargs[name] for name in ("cache_dir", "local_files_only", "token") if name in kwargs}
            model._load_codec(pretrained_model_name_or_path, hub)
        return loaded

    def _load_codec(self, checkpoint, hub):
        source = self.config.codec_model_id
        if source.startswith("."):
            if not os.path.isdir(checkpoint):
                raise ValueError(
                    f"`codec_model_id` {source!r} is seen from the checkpoint's folder, but {str(checkpoint)!r} is none"
                )
            source = os.path.normpath(os.path.join(checkpoint, source))
        codec = AffectCodecModel.from_pretrained(source, dtype=torch.float32, **hub)
        try:
            self.codec_model.load_state_dict(codec.state_dict())
        except RuntimeError as error:
            raise ValueError(f"`codec_model_id` {source!r} is another codec than `codec_config` describes") from error
        self.config.codec_model_id = None

    def set_attn_implementation(self, attn_implementation, **kwargs):
        """As in transformers, for `ar` and `nar`."""
        if isinstance(attn_implementation, str):
            attn_implementation = {"": attn_implementation, "codec_config": "eager"}
        super().set_attn_implementation(attn_implementation, **kwargs)

    def get_input_embeddings(self):
        return self.ar.get_input_embeddings()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor,
        audio_codes: torch.LongTensor,
        attention_mask: torch.Tensor | None = None,
        audio_codes_mask: torch.Tensor | None = None,
        stage: str = "ar",
        codebooks: tuple[int, ...] | None = None,
        prompt_mask: torch.Tensor | None = None,
        loss_mask: torch.Tensor | None = None,
        hidden_text: torch.Tensor | None = None,
        loss_reduction: str = "mean",
        num_items_in_batch: torch.Tensor | int | None = None,
        output_attentions: bool = False,
    ) -> AffectCodecTTSOutput:
        r"""
        The training loss of one of the two stages, which share no weights.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch, text_length)`): Text symbols, `0..text_vocab_size - 1`.
            audio_codes (`torch.LongTensor` of shape `(batch, num_quantizers, frames)`): The codec's codes.
            attention_mask (`torch.Tensor` of shape `(batch, text_length)`, *optional*):
                1 at text, 0 at padding, on whichever side.
            audio_codes_mask (`torch.Tensor` of shape `(batch, frames)`, *optional*): 1 at frames, 0 at padding on the right.
            stage (`str`, *optional*, defaults to `"ar"`): `"ar"` (codebook 1 and the end of speech) or `"nar"`.
            codebooks (`tuple[int]`, *optional*):
                `"nar"`: which codebooks to predict, counted from 0; default: all but the first. USLM trains
                `(1, k)` with one random `k > 1` a batch.
            prompt_mask (`torch.Tensor` of shape `(batch, frames)`, *optional*):
                `"nar"`: 1 at frames whose codes of all codebooks are given and which are no targets.
            loss_mask (`torch.Tensor` of shape `(batch, frames)`, *optional*):
                0 at frames that are no targets. The end of speech always is one, in stage `"ar"`.
            hidden_text (`torch.Tensor` of shape `(batch,)`, *optional*):
                1 at items that are spoken without their text being seen, which `guidance_scale` of
                [`~AffectCodecTTSForConditionalGeneration.generate`] needs to be trained now and then.
            loss_reduction (`str`, *optional*, defaults to `"mean"`):
                `"mean"` over targets, or their `"sum"` (as in the public VALL-E recipes).
            num_items_in_batch (`int` or `torch.Tensor`, *optional*):
                Divide the summed loss by this in place of the number of targets here.
            output_attentions (`bool`, *optional*, defaults to `False`):
                Return the attention weights; needs `set_attn_implementation("eager")`.

        Returns:
            [`AffectCodecTTSOutput`]

        Raises:
            ValueError: naming the argument that is malformed.

        Example:

        ```python
        >>> import torch
        >>> from hf_affectcodec import AffectCodecTTSConfig, AffectCodecTTSForConditionalGeneration

        >>> config = AffectCodecTTSConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
        >>> model = AffectCodecTTSForConditionalGeneration(config)
        >>> phonemes, codes = torch.randint(512, (2, 7)), torch.randint(1024, (2, 8, 20))
        >>> model(phonemes, codes).logits.shape
        torch.Size([2, 21, 1025])
        >>> model(phonemes, codes, stage="nar", codebooks=(1, 4)).logits.shape
        torch.Size([2, 2, 20, 1024])
        ```"""
        attention_mask = check_text(self.config, input_ids, attention_mask)
        audio_codes_mask = check_codes(self.config, audio_codes, audio_codes_mask, len(input_ids), "audio_codes")
        loss_mask = check_mask(loss_mask, audio_codes_mask, "loss_mask")
        prompt_mask = check_mask(prompt_mask, audio_codes_mask, "prompt_mask")
        hidden_text = check_mask(hidden_text, input_ids[:, 0], "hidden_text")
        if hidden_text is not None:
            seen = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask
            attention_mask = seen & ~hidden_text[:, None]
        options = {"loss_reduction": loss_reduction, "num_items_in_batch": num_items_in_batch}
        if output_attentions:
            options["output_attentions"] = True
        if stage == "ar":
            if codebooks is not None or prompt_mask is not None:
                raise ValueError("`codebooks` and `prompt_mask` belong to `stage='nar'`")
            return self._autoregressive_loss(
                input_ids, audio_codes, attention_mask, audio_codes_mask, loss_mask, options
            )
        if stage != "nar":
            raise ValueError(f"`stage` must be 'ar' or 'nar', got {stage!r}")
        if codebooks is None:
            codebooks = tuple(range(1, self.config.num_quantizers))
        upper = range(1, self.config.num_quantizers)
        if not codebooks or any(type(codebook) is not int or codebook not in upper for codebook in codebooks):
            raise ValueError(f"`codebooks` must be integers in {upper[0]}..{upper[-1]}, got {codebooks!r}")
        targets = audio_codes_mask if loss_mask is None else audio_codes_mask & loss_mask
        targets = targets if prompt_mask is None else targets & ~prompt_mask
        outputs, labels = [], []
        for codebook in codebooks:
            labels.append(audio_codes[:, codebook].masked_fill(~targets, -100))
            outputs.append(
                self.nar(
                    input_ids,
                    audio_codes,
                    codebook,
                    attention_mask=attention_mask,
                    audio_codes_mask=audio_codes_mask,
                    prompt_mask=prompt_mask,
                    labels=labels[-1],
                    **options,
                )
            )
        loss = torch.stack([output.loss for output in outputs])
        attentions = [output.attentions for output in outputs] if output_attentions else []
        return AffectCodecTTSOutput(
            loss=loss.mean() if loss_reduction == "mean" and num_items_in_batch is None else loss.sum(),
            logits=torch.stack([output.logits for output in outputs], dim=1),
            labels=torch.stack(labels, dim=1),
            attentions=tuple(torch.stack(layer, dim=1) for layer in zip(*attentions, strict=True)) or None,
        )

    def _autoregressive_loss(self, input_ids, audio_codes, attention_mask, audio_codes_mask, loss_mask, options):
        sequence, mask, labels = speech_sequence(
            self.config, input_ids, attention_mask, audio_codes[:, 0], audio_codes_mask, loss_mask
        )
        outputs = self.ar(
            input_ids=sequence,
            attention_mask=mask,
            labels=labels,
            logits_to_keep=audio_codes.shape[-1] + 2,
            use_cache=False,
            **options,
        )
        return AffectCodecTTSOutput(
            loss=outputs.loss,
            logits=outputs.logits[:, :-1, : self.config.codebook_size + 1],
            labels=labels[:, input_ids.shape[1] + 1 :],
            attentions=outputs.attentions,
        )

    @torch.no_grad()
    def generate(
        self,
        input_ids: torch.LongTensor,
        attention_mask: torch.Tensor | None = None,
        prompt_codes: torch.LongTensor | None = None,
        prompt_codes_mask: torch.Tensor | None = None,
        prompt_values: torch.FloatTensor | None = None,
        prompt_padding_mask: torch.Tensor | None = None,
        max_new_frames: int | None = None,
        max_seconds: float | None = None,
        min_new_frames: int = 1,
        repetition_window: int | None = None,
        repetition_threshold: float = 0.1,
        emotion_mask: torch.Tensor | None = None,
        emotion_guidance: float = 1.0,
        prompt_text_mask: torch.Tensor | None = None,
        prompt_guidance: float | None = 1.0,
        seed: int | None = None,
        codes_callback: Callable[[torch.LongTensor], None] | None = None,
        generation_config: GenerationConfig | None = None,
        **kwargs,
    ) -> AffectCodecTTSGenerateOutput:
        r"""
        Speaks. With `do_sample=False` an item of a batch gets the codes that it gets alone.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch, text_length)`):
                Text symbols: those of the prompt's words, then those to be spoken.
            attention_mask (`torch.Tensor` of shape `(batch, text_length)`, *optional*):
                1 at text, 0 at padding, on whichever side.
            prompt_codes (`torch.LongTensor` of shape `(batch, num_quantizers, frames)`, *optional*):
                The acoustic prompt, `min_prompt_frames..max_prompt_frames` of the configuration. Without prompt codes
                or prompt audio the model speaks in some voice.
            prompt_codes_mask (`torch.Tensor` of shape `(batch, frames)`, *optional*): 1 at frames, 0 at padding on the right.
            prompt_values (`torch.FloatTensor` of shape `(batch, 1, samples)`, *optional*):
                The acoustic prompt as a waveform in [-1, 1], in place of codes.
            prompt_padding_mask (`torch.Tensor` of shape `(batch, samples)`, *optional*):
                1 at samples, 0 at padding on the right.
            max_new_frames (`int`, *optional*): Limit of new frames; default: `max_new_tokens` of the generation config.
            max_seconds (`float`, *optional*): The same limit in seconds.
            min_new_frames (`int`, *optional*, defaults to 1): The speech does not end before.
            repetition_window (`int`, *optional*):
                Turns on repetition-aware sampling over so many last codes (VALL-E 2 uses 10); needs `do_sample`.
            repetition_threshold (`float`, *optional*, defaults to 0.1): Share of the window that one code may fill.
            emotion_mask (`torch.Tensor` of shape `(batch, text_length)`, *optional*):
                1 at symbols of emotion, as the processor gives it.
            emotion_guidance (`float`, *optional*, defaults to 1.0):
                Scale of classifier-free guidance of codebook 1 towards the symbols of `emotion_mask`; 1: none, and no
                second run of the model. Only for models that were trained with emotions and, now and then, without.
            prompt_text_mask (`torch.Tensor` of shape `(batch, text_length)`, *optional*):
                1 at symbols of the prompt's words, as the processor gives it.
            prompt_guidance (`float`, *optional*, defaults to 1.0):
                Scale of classifier-free guidance of all codebooks towards the acoustic prompt, away from the text spoken without
                one; 1 or `None`: none, and no further run of the model. Needs a prompt and `prompt_text_mask`.
            seed (`int`, *optional*): Makes sampling repeatable; leaves torch's own random state as it was.
            codes_callback (`Callable`, *optional*):
                Called for every frame with its new codes of codebook 1, a long tensor `(batch,)`, -1 for ended items.
            generation_config (`GenerationConfig`, *optional*): In place of the model's own.
            kwargs:
                Entries of the generation config, as for every model of transformers: `do_sample`, `temperature`,
                `top_k`, `top_p`, `repetition_penalty`, `cache_implementation`, `max_new_tokens`, ... `guidance_scale` is
                the scale of classifier-free guidance of all codebooks towards the text, emotions among it; 1 or `None`: none,
                and no second run of the model. Only for models that were trained with text and, now and then, without.
                `alignment_window`, two numbers, holds the heads of `alignment_heads` (pairs of layer and head, as in Whisper's
                generation config) to so many symbols before and after the place in the text that is being said, see
                [`AffectCodecTTSAlignment`]; only for models trained with guided attention. With a prompt it needs
                `prompt_text_mask`.

        Returns:
            [`AffectCodecTTSGenerateOutput`]

        Raises:
            ValueError: naming the argument that is malformed.
        """
        generation_config = self._generation_config(
            generation_config, kwargs, max_new_frames, max_seconds, min_new_frames
        )
        processors = self._repetition_processors(generation_config, repetition_window, repetition_threshold)
        attention_mask = check_text(self.config, input_ids, attention_mask)
        prompt_codes, prompt_mask = self._prompt(
            len(input_ids), prompt_codes, prompt_codes_mask, prompt_values, prompt_padding_mask
        )
        sequence, mask = prompt_sequence(self.config, input_ids, attention_mask, prompt_codes[:, 0], prompt_mask)
        guidance_scale = generation_config.guidance_scale
        # transformers' own guidance would know nothing of what is text.
        generation_config.guidance_scale = None
        prompt_guidance = 1 if prompt_guidance is None else prompt_guidance
        text_length = input_ids.shape[1]
        beginnings, scales = [], []
        if guidance_scale not in (None, 1):
            is_text = torch.arange(mask.shape[1], device=mask.device) < text_length
            beginnings.append((sequence, mask.masked_fill(is_text, 0)))
            scales.append(guidance_scale)
        if emotion_guidance != 1:
            is_emotion = self._symbols(emotion_mask, input_ids, "emotion_mask", "emotion_guidance")
            is_emotion = torch.nn.functional.pad(is_emotion, (0, mask.shape[1] - text_length))
            beginnings.append((sequence, mask.masked_fill(is_emotion, 0)))
            scales.append(emotion_guidance)
        own_text = None
        if prompt_guidance != 1:
            if not prompt_codes.shape[-1]:
                raise ValueError("`prompt_guidance` needs a prompt")
            is_prompt_text = self._symbols(prompt_text_mask, input_ids, "prompt_text_mask", "prompt_guidance")
            own_text = ~is_prompt_text if attention_mask is None else attention_mask & ~is_prompt_text
            if not own_text.any(-1).all():
                raise ValueError("`prompt_text_mask` leaves no symbols to be spoken")
            nothing = prompt_codes[:, 0, :0], prompt_mask[:, :0]
            padding = (prompt_codes.shape[-1], 0)
            unprompted = prompt_sequence(self.config, input_ids, own_text, *nothing)
            beginnings.append(tuple(torch.nn.functional.pad(part, padding) for part in unprompted))
            scales.append(prompt_guidance)
        if scales:
            guidance = AffectCodecTTSClassifierFreeGuidance(self.ar, beginnings, scales)
            processors = LogitsProcessorList([guidance, *(processors or ())])
        streamer = None
        if codes_callback is not None:
            streamer = AffectCodecTTSCodeStreamer(codes_callback, self.config.eos_token_id)
        alignment = self._alignment(
            generation_config, input_ids, attention_mask, prompt_text_mask, emotion_mask, bool(prompt_codes.shape[-1])
        )
        # Only where there is one: it is no input of the model's that `generate` would know.
        aligned = {} if alignment is None else {"alignment": alignment}
        cache = None
        if generation_config.use_cache is not False and generation_config.cache_implementation is None:
            cache = AffectCodecTTSCache(self.config)
        with seeded(seed, self.device):
            generated = self.ar.generate(
                input_ids=sequence,
                attention_mask=mask,
                past_key_values=cache,
                **aligned,
                generation_config=generation_config,
                logits_processor=processors,
                streamer=streamer,
            )
        new_codes = generated[:, sequence.shape[1] :]
        ended = new_codes == self.config.eos_token_id
        lengths = (ended.cumsum(-1) == 0).sum(-1)
        codes, codes_mask = self._fill_codebooks(
            input_ids,
            attention_mask,
            prompt_codes,
            prompt_mask.sum(-1),
            new_codes,
            lengths,
            1.0 if guidance_scale is None else guidance_scale,
            own_text,
            prompt_guidance,
        )
        decoded = self.codec_model.decode(codes, codes_mask).audio_values[:, 0]
        samples = (lengths * self.codec_model.hop_length).tolist()
        return AffectCodecTTSGenerateOutput(
            audio=[waveform[:length].float() for waveform, length in zip(decoded, samples, strict=True)],
            audio_codes=codes,
            audio_codes_mask=codes_mask,
            lengths=lengths,
            stop_reasons=["eos" if has_ended else "limit" for has_ended in ended.any(-1).tolist()],
        )

    def _generation_config(self, generation_config, changes, max_new_frames, max_seconds, min_new_frames):
        limits = {
            "max_new_frames": max_new_frames,
            "max_seconds": None if max_seconds is None else int(max_seconds * self.config.frame_rate + 1e-6),
            "max_new_tokens": changes.get("max_new_tokens"),
        }
        limits = {name: value for name, value in limits.items() if value is not None}
        # A pipeline passes `max_new_tokens` whether its user asked for it or not.
        if "max_new_frames" in limits and "max_seconds" in limits:
            raise ValueError("only one of `max_new_frames` and `max_seconds` may be given")
        config = copy.deepcopy(self.generation_config if generation_config is None else generation_config)
        for name in ALIGNMENT_SETTINGS:
            if not hasattr(config, name):
                setattr(config, name, None)
        unknown = config.update(**changes)
        if unknown:
            raise ValueError(
                f"`{next(iter(unknown))}` is no argument of generate and no entry of the generation config"
            )
        if config.num_beams not in (None, 1) or config.num_return_sequences not in (None, 1):
            raise ValueError("`num_beams` and `num_return_sequences` must be 1")
        if config.max_length is not None:
            raise ValueError("`max_length` would count the text too: give `max_new_frames`")
        for name, value in GENERATION_DEFAULTS.items():
            if getattr(config, name) is None:
                setattr(config, name, value)
        if not config.do_sample:
            # Without effect, and transformers warns of them.
            config.update(temperature=1.0, top_k=50, top_p=1.0)
        if limits:
            name, value = next(iter(limits.items()))
            if value < 1:
                raise ValueError(f"`{name}` must allow at least one frame of {1 / self.config.frame_rate} s")
            config.max_new_tokens = value
        if not 1 <= min_new_frames <= config.max_new_tokens:
            raise ValueError(
                f"`min_new_frames` must lie in 1..{config.max_new_tokens} (the limit of frames), got {min_new_frames}"
            )
        config.update(max_length=None, min_new_tokens=min_new_frames, return_dict_in_generate=False)
        config.update(
            **{name: getattr(self.config, name) for name in ("eos_token_id", "bos_token_id", "pad_token_id")}
        )
        return config

    def _repetition_processors(self, generation_config, window, threshold):
        if window is None:
            return None
        if not generation_config.do_sample:
            raise ValueError("`repetition_window` needs `do_sample=True`")
        config = generation_config
        sampling = AffectCodecTTSRepetitionAwareSampling(
            window,
            threshold,
            self.config.codebook_size,
            temperature=config.temperature,
            top_k=config.top_k,
            top_p=config.top_p,
        )
        # They have done their work in there; transformers would apply them to the mixture once more.
        config.update(temperature=1.0, top_k=0, top_p=1.0)
        return LogitsProcessorList([sampling])

    def _alignment(self, generation_config, input_ids, attention_mask, prompt_text_mask, emotion_mask, has_prompt):
        """Of the settings `alignment_window` and `alignment_heads`, or `None`."""
        window, heads = generation_config.alignment_window, generation_config.alignment_heads
        if window is None:
            return None
        if len(window) != 2 or any(type(size) is not int or size < 0 for size in window) or not window[1]:
            raise ValueError(f"`alignment_window` must be two numbers of symbols, the second at least 1, got {window}")
        if not heads:
            raise ValueError(
                "`alignment_window` needs `alignment_heads` in the generation config: guided heads of the model"
            )
        sizes = self.config.num_hidden_layers, self.config.num_attention_heads
        for pair in heads:
            if len(pair) != 2 or not all(0 <= index < size for index, size in zip(pair, sizes, strict=True)):
                raise ValueError(
                    f"`alignment_heads` must be pairs of a layer below {sizes[0]} and a head below {sizes[1]}"
                )
        if generation_config.use_cache is False:
            raise ValueError("`alignment_window` needs `use_cache`")
        if self.ar.config._attn_implementation not in ("eager", "sdpa"):
            raise ValueError("`alignment_window` needs `set_attn_implementation` with 'eager' or 'sdpa'")
        # A place that moves is no part of a graph.
        generation_config.disable_compile = True
        seen = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask
        own = seen
        if has_prompt:
            own = seen & ~self._symbols(prompt_text_mask, input_ids, "prompt_text_mask", "alignment_window")
        if emotion_mask is not None:
            # It stands before the prompt's words.
            own = own & ~self._symbols(emotion_mask, input_ids, "emotion_mask", "alignment_window")
        if not own.any(-1).all():
            raise ValueError("`prompt_text_mask` leaves no symbols to be spoken")
        return AffectCodecTTSAlignment(heads, seen, own.int().argmax(-1) - 1, tuple(window))

    @staticmethod
    def _symbols(mask, input_ids, name, wanted_by):
        """A mask of symbols as booleans [B, L]."""
        if not isinstance(mask, torch.Tensor) or mask.shape != input_ids.shape:
            raise ValueError(
                f"`{name}` must be a tensor of shape {tuple(input_ids.shape)}, as the processor gives it, with `{wanted_by}`"
            )
        return mask.bool()

    def _prompt(self, batch_size, codes, codes_mask, values, padding_mask):
        """The prompt as codes [B, Q, P] and mask [B, P]; P = 0 without a prompt."""
        if codes is not None and values is not None:
            raise ValueError("only one of `prompt_codes` and `prompt_values` may be given")
        if values is not None:
            return self._encode_prompt(batch_size, values, padding_mask)
        if codes is None:
            empty = torch.zeros(batch_size, self.config.num_quantizers, 0, dtype=torch.long, device=self.device)
            return empty, empty[:, 0].bool()
        codes_mask = check_codes(self.config, codes, codes_mask, batch_size, "prompt_codes")
        check_frames(self.config, codes_mask.sum(-1), "prompt_codes")
        return codes.long(), codes_mask

    def _encode_prompt(self, batch_size, values, padding_mask):
        if not isinstance(values, torch.Tensor) or values.dim() != 3 or values.shape[:2] != (batch_size, 1):
            shape = tuple(values.shape) if isinstance(values, torch.Tensor) else type(values).__name__
            raise ValueError(f"`prompt_values` must be a tensor of shape ({batch_size}, 1, samples), got {shape}")
        if padding_mask is None:
            padding_mask = torch.ones(batch_size, values.shape[-1], dtype=torch.bool, device=values.device)
        # Before the codec runs: the prompt may be an hour long.
        check_frames(self.config, self.codec_model.get_audio_codes_mask(padding_mask).sum(-1), "prompt_values")
        try:
            encoded = self.codec_model.encode(values, padding_mask)
        except ValueError as error:
            message = str(error).replace("`input_values`", "`prompt_values`")
            raise ValueError(message.replace("`padding_mask`", "`prompt_padding_mask`")) from None
        return encoded.audio_codes, encoded.audio_codes_mask

    def _fill_codebooks(
        self,
        input_ids,
        attention_mask,
        prompt_codes,
        prompt_lengths,
        new_codes,
        lengths,
        guidance_scale,
        own_text,
        prompt_guidance,
    ):
        """New codes of codebook 1 [B, N] -> new codes of all codebooks [B, Q, max length], mask [B, max length]."""
        batch = len(new_codes)
        frames = torch.arange(int((prompt_lengths + lengths).max()), device=new_codes.device)
        prompt_mask = frames < prompt_lengths[:, None]
        codes_mask = frames < (prompt_lengths + lengths)[:, None]
        targets = codes_mask & ~prompt_mask
        codes = new_codes.new_zeros(batch, self.config.num_quantizers, len(frames))
        for row, (prompt, new) in enumerate(zip(prompt_lengths.tolist(), lengths.tolist(), strict=True)):
            codes[row, :, :prompt] = prompt_codes[row, :, :prompt]
            codes[row, 0, prompt : prompt + new] = new_codes[row, :new]
        options = {"audio_codes_mask": codes_mask, "prompt_mask": prompt_mask}
        for codebook in range(1, self.config.num_quantizers):
            logits = self.nar(input_ids, codes, codebook, attention_mask=attention_mask, **options).logits
            guided = logits
            if guidance_scale != 1:
                no_text = torch.zeros_like(input_ids, dtype=torch.bool)
                hidden = self.nar(input_ids, codes, codebook, attention_mask=no_text, **options).logits
                guided = guided + (guidance_scale - 1) * (logits - hidden)
            if prompt_guidance != 1:
                hidden = self._without_prompt(input_ids, own_text, codes, codebook, prompt_lengths, lengths)
                guided = guided + (prompt_guidance - 1) * (logits - hidden)
            codes[:, codebook] = torch.where(targets, guided.argmax(-1), codes[:, codebook])
        spoken = new_codes.new_zeros(batch, self.config.num_quantizers, int(lengths.max()))
        for row, (prompt, new) in enumerate(zip(prompt_lengths.tolist(), lengths.tolist(), strict=True)):
            spoken[row, :, :new] = codes[row, :, prompt : prompt + new]
        return spoken, torch.arange(spoken.shape[-1], device=spoken.device) < lengths[:, None]

    def _without_prompt(self, input_ids, own_text, codes, codebook, prompt_lengths, lengths):
        """Logits [B, F, C] of a codebook as they are without the prompt, at the frames of `codes` [B, Q, F]; 0 in the prompt."""
        new = torch.arange(int(lengths.max()), device=codes.device)
        places = (prompt_lengths[:, None] + new).clamp(max=codes.shape[-1] - 1)
        moved = codes.gather(2, places[:, None].expand(-1, codes.shape[1], -1))
        is_new = new < lengths[:, None]
        logits = self.nar(input_ids, moved, codebook, attention_mask=own_text, audio_codes_mask=is_new).logits
        restored = logits.new_zeros(*codes.shape[::2], logits.shape[-1])
        # Added, as places beyond an item's end coincide.
        return restored.scatter_add(1, places[..., None].expand_as(logits), logits.masked_fill(~is_new[..., None], 0))


__all__ = [
    "AffectCodecTTSForConditionalGeneration",
    "AffectCodecTTSGenerateOutput",
    "AffectCodecTTSOutput",
]
