"""
Text to phonemes in the International Phonetic Alphabet, by espeak-ng: stress and punctuation are kept, money is written out
by num2words first, and abbreviations lose the full stop that would be read as the end of a sentence.
"""

import functools
import re
import unicodedata

from transformers.utils import logging


logger = logging.get_logger(__name__)

# What espeak-ng calls languages that have several of its voices.
ESPEAK_VOICES = {"en": "en-us", "fr": "fr-fr", "zh": "cmn"}
# Voices without a dictionary in the wheel of espeak-ng 1.52, and one (kl) that crashes the process on numbers.
UNUSABLE_VOICES = frozenset({"fo", "kaa", "kl", "xex"})
PUNCTUATION = ';:,.!?¡¿—…"«»“”(){}[]'
# Pulmonic and other consonants and vowels of the chart of 2020, with the letters that espeak-ng adds to it.
LETTERS = (
    "abcdefghijklmnopqrstuvwxyz"
    "ɐɑɒɓɔɕɖɗɘəɚɛɜɝɞɟɠɡɢɣɤɥɦɧɨɩɪɫɬɭɮɯɰɱɲɳɴɵɶɷɸɹɺɻɼɽɾɿʀʁʂʃʄʅʆʇʈʉʊʋʌʍʎʏʐʑʒʓʔʕʖʗʘʙʚʛʜʝʞʟʠʡʢʣʤʥʦʧʨ"
    "æðøħŋœƈƙƛƥƫǀǁǂǃθβχεᵻⱱ"
)
# Stress, length, breaks, ties, tones, secondary articulations, and the marks below and above letters.
MARKS = (
    "ˈˌːˑ|‖‿↗↘ꜛꜜ˥˦˧˨˩ˇˆ˞ʰʲʷˠˤʱⁿˡʼˀᵝᶣ-'^_*%&@0123456789"
    "\u0300\u0301\u0302\u0303\u0304\u0306\u0308\u030a\u030b\u030c\u030f\u0311\u0318\u0319\u031a\u031c\u031d\u031e\u031f"
    "\u0320\u0321\u0322\u0323\u0324\u0325\u0327\u0329\u032a\u032c\u032f\u0330\u0334\u0339\u033a\u033b\u033c\u033d\u0346\u0348"
    "\u0349\u035c\u035d\u0361"
)
SYMBOLS = (" ", *PUNCTUATION, *LETTERS, *(mark for mark in MARKS if mark not in LETTERS))

CURRENCIES = {"$": "USD", "€": "EUR", "£": "GBP", "¥": "JPY", "₽": "RUB"}
# Languages whose numbers have a point for the fraction; the others here write a comma.
POINT_LANGUAGES = frozenset({"en", "zh", "ja", "ko", "he", "th", "hi"})
# A full stop after these does not end a sentence; espeak-ng knows what they stand for.
ABBREVIATIONS = {
    "en": "Mr Mrs Ms Dr Prof Sr Jr St vs etc No Mt Ave Lt Col Gen Sgt Capt",
    "fr": "M MM Mme Mlle Dr Pr etc",
    "es": "Sr Sra Srta Dr Dra Ud Uds etc",
    "it": "Sig Dott Prof Dr ecc",
    "de": "Hr Fr Dr Prof bzw usw ca Nr",
    "pt": "Sr Sra Dr Dra etc",
}
# Quotes, dashes and full-width punctuation to the forms of the vocabulary; the soft hyphen is no sound.
PLAIN = str.maketrans("‘’ʼ„–―，。！？：；、（）", "'''“——,.!?:;,()", "\u00ad")
# Controls, spaces and pictures; espeak-ng would read out the names of pictures.
NOT_SPOKEN = frozenset({"Cc", "Cf", "Zs", "Zl", "Zp", "So", "Co", "Cn"})
SPOKEN_SIGNS = frozenset("°№")


def normalize_text(text: str, language: str) -> str:
    """
    Writes out what espeak-ng alone reads wrongly: money (`$12.50`: "twelve dollars fifty cents"), thousands, times of day,
    initials and abbreviations with full stops; quotes, dashes and spaces get one form each. Plain numbers, ordinals, per cent
    and abbreviations without full stop stay as they are: espeak-ng reads them.

    Args:
        text (`str`): Of any length.
        language (`str`): ISO 639-1 code, or that of one of espeak-ng's voices (`"en-gb"`).

    Raises:
        ImportError: num2words is missing.
    """
    code = language.partition("-")[0]
    text = unicodedata.normalize("NFC", text).translate(PLAIN)
    text = re.sub(r"\s*--+\s*", " — ", text)
    text = "".join(" " if unicodedata.category(c) in NOT_SPOKEN and c not in SPOKEN_SIGNS else c for c in text)
    group = "," if code in POINT_LANGUAGES else r"[. ]"
    text = re.sub(rf"(?<![\d.,])\d{{1,3}}(?:{group}\d{{3}})+(?!\d)", lambda m: re.sub(r"\D", "", m[0]), text)
    sign, number = f"([{''.join(CURRENCIES)}])", r"(\d+(?:[.,]\d{1,2})?)(?![.,]?\d)"
    scale = r"(?: (million|billion|trillion)\b)?" if code == "en" else "()"
    text = re.sub(rf"{sign}\s?{number}{scale}", lambda m: _money(m[2], m[3], m[1], code), text)
    text = re.sub(rf"(?<![\d.,]){number}\s?{sign}", lambda m: _money(m[1], None, m[2], code), text)
    text = re.sub(r"(?<=\d):00(?!\d)", "", text)
    text = re.sub(r"(?<=\d):(?=\d\d)", " ", text)
    # U.S.A. -> USA
    text = re.sub(r"\b(?:[^\W\d_]\.){2,}", lambda m: m[0].replace(".", ""), text)
    if code in ABBREVIATIONS:
        text = re.sub(rf"\b({'|'.join(ABBREVIATIONS[code].split())})\.(?=\s+\S)", r"\1", text)
    return " ".join(text.split())


def _money(number: str, scale: str | None, sign: str, code: str) -> str:
    try:
        from num2words import num2words
    except ImportError as error:
        raise ImportError("phonemes need the package `num2words`: pip install 'hf-affectcodec[tts]'") from error

    amount = float(number.replace(",", "."))
    try:
        # The separator is ours, to tell the whole units from the hundredths.
        words = num2words(
            2.0 if scale else amount, lang=code, to="currency", currency=CURRENCIES[sign], separator=" |"
        )
    except NotImplementedError:
        # It has no such language or currency: espeak-ng names sign and number.
        return f"{number} {sign}"
    whole, _, hundredths = words.partition(" |")
    if scale:
        return f"{number} {scale} {whole.partition(' ')[2]}"
    return whole if amount == int(amount) else f"{whole}{hundredths}"


@functools.cache
def _espeak(voice: str):
    try:
        import espeakng_loader
        from phonemizer.backend import EspeakBackend
        from phonemizer.backend.espeak.wrapper import EspeakWrapper
    except ImportError as error:
        raise ImportError(
            "phonemes need the packages `phonemizer` and `espeakng-loader`: pip install 'hf-affectcodec[tts]'"
        ) from error

    EspeakWrapper.set_library(espeakng_loader.get_library_path())
    EspeakWrapper.set_data_path(espeakng_loader.get_data_path())
    if voice in UNUSABLE_VOICES or not EspeakBackend.is_supported_language(voice):
        raise ValueError(f"`language` must be one that espeak-ng speaks well, got {voice!r}")
    return EspeakBackend(
        voice,
        with_stress=True,
        preserve_punctuation=True,
        punctuation_marks=PUNCTUATION,
        language_switch="remove-flags",
        logger=_quiet(),
    )


def _quiet():
    # It warns that it counted other words than before wherever a number becomes several.
    import logging as python_logging

    quiet = python_logging.getLogger("hf_affectcodec.phonemizer")
    quiet.setLevel(python_logging.ERROR)
    return quiet


def phonemize(text: str, language: str = "en-us") -> str:
    """
    Phonemes of a text, each letter of the alphabet and each mark one symbol of [`SYMBOLS`], words parted by spaces.

    Args:
        text (`str`): Any text; see [`normalize_text`].
        language (`str`, *optional*, defaults to `"en-us"`): Code of an espeak-ng voice, or `"en"`, `"fr"`, `"zh"`.

    Raises:
        ImportError: The extra `[tts]` is missing.
        ValueError: The language is unknown, or the text holds nothing to speak.
    """
    backend = _espeak(ESPEAK_VOICES.get(language, language))
    normalized = normalize_text(text, language)
    spoken = backend.phonemize([normalized], strip=True)[0] if any(map(str.isalnum, normalized)) else ""
    return check_phonemes(spoken, "text")


def check_phonemes(phonemes: str, name: str) -> str:
    """
    Phonemes in the form and the symbols of the vocabulary; what it does not have is left out and warned of.

    Raises:
        ValueError: Nothing to speak is left.
    """
    phonemes = " ".join(unicodedata.normalize("NFD", phonemes).split())
    known = frozenset(SYMBOLS)
    unknown = sorted(set(phonemes) - known)
    if unknown:
        shown = " ".join(f"{symbol!r} (U+{ord(symbol):04X})" for symbol in unknown)
        logger.warning(f"`{name}`: left out what the vocabulary does not have: {shown}")
    phonemes = "".join(symbol for symbol in phonemes if symbol in known)
    if not any(symbol in LETTERS for symbol in phonemes):
        raise ValueError(f"`{name}` holds nothing to speak")
    return phonemes


def split_text(text: str, max_characters: int = 200) -> list[str]:
    """
    Cuts a long text into pieces that are spoken one by one: at ends of sentences, else at commas and the like, else between
    words, else within a word; each piece is as long as fits. White space apart, the pieces together are the text.

    Args:
        text (`str`): Of any length.
        max_characters (`int`, *optional*, defaults to 200): Length of a piece, 1 or more.
    """
    if max_characters < 1:
        raise ValueError(f"`max_characters` must be at least 1, got {max_characters}")
    rest, pieces = " ".join(text.split()), []
    while len(rest) > max_characters:
        end = _cut(rest[: max_characters + 1])
        pieces.append(rest[:end].rstrip())
        rest = rest[end:].lstrip()
    return [*pieces, rest] if rest else pieces


def _cut(window: str) -> int:
    """Where to cut a text that is one character too long."""
    for pattern in (r"[.!?…]+[\"'»”)\]]* |[。！？]+", r"[,;:—)]+ |[、，；：]+", " "):
        ends = [match.end() for match in re.finditer(pattern, window)]
        ends = [end for end in ends if len(window[:end].rstrip()) < len(window)]
        if ends:
            return ends[-1]
    return len(window) - 1
