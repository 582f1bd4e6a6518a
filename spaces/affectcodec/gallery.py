"""Prompts to speak in, by mood: short recordings in a folder, each with its words in a text file of the same name."""

from dataclasses import dataclass
from pathlib import Path


SHIPPED = Path(__file__).parent / "gallery"
SUFFIXES = (".wav", ".flac")


@dataclass(frozen=True)
class GalleryPrompt:
    """
    Args:
        mood (`str`): What the file's name says before the first underscore.
        path (`Path`): The recording.
        words (`str`): What is said in it.
    """

    mood: str
    path: Path
    words: str

    @property
    def label(self) -> str:
        return f"{self.mood}: “{self.words}”"


def read_gallery(folder: "str | Path" = SHIPPED) -> list[GalleryPrompt]:
    """
    Args:
        folder (`str` or `Path`, *optional*): With `MOOD_NAME.wav` or `.flac` and `MOOD_NAME.txt`. Default: four telephone
            prompts of one voice and four synthetic ones, see ATTRIBUTION.md beside them.

    Returns:
        `list[GalleryPrompt]`: In the order of the files' names, and so by mood.

    Raises:
        ValueError: There is no such folder, it has no recordings, or one of them has no mood or no words.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"`gallery` must be a folder that exists, got {str(folder)!r}")
    prompts = []
    for path in sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES):
        mood, underscore, _ = path.stem.partition("_")
        if not mood or not underscore:
            raise ValueError(f"`gallery`: {path.name} must be named MOOD_NAME{path.suffix}")
        words = path.with_suffix(".txt")
        text = " ".join(words.read_text(encoding="utf-8").split()) if words.is_file() else ""
        if not text:
            raise ValueError(f"`gallery`: {path.name} needs its words in {words.name}")
        prompts.append(GalleryPrompt(mood, path, text))
    if not prompts:
        raise ValueError(f"`gallery`: {folder} has no recordings ({', '.join(SUFFIXES)})")
    return prompts
