"""The `affectcodec` command. Everything heavy is imported once a sub-command runs."""

import argparse
import sys
from importlib.metadata import version
from pathlib import Path


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line; the usage is what `--help` is for."""

    def error(self, message):
        self.exit(2, f"affectcodec: error: {' '.join(message.split())}\n")


def _count(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be an integer of at least 1, got {text!r}")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="affectcodec", description="Speech to 4 kbps codes and back.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {version('hf-affectcodec')}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, target, summary in (
        ("reconstruct", "OUT", "encode audio and decode it again"),
        ("encode", "CODES", "audio to codes (safetensors)"),
        ("decode", "OUT", "codes to audio"),
    ):
        source = "CODES" if name == "decode" else "IN"
        command = commands.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
        command.add_argument("source", metavar=source, type=Path, help="a file, or a folder taken at any depth")
        command.add_argument("target", metavar=target, type=Path, help="a file, or a folder (made if it is not there)")
        command.add_argument("--model", help="folder or Hub id (default: the checkpoint shipped in the package)")
        command.add_argument("--num-quantizers", type=_count, metavar="N", help="codebooks to use (default: all)")
        command.add_argument("--device", help="where to run (default: cuda if there is one, else cpu)")
        command.add_argument("--overwrite", action="store_true", help="replace files that exist")
        if name != "encode":
            command.add_argument(
                "--suffix", default=".wav", help="format of files written into a folder (default: %(default)s)"
            )
    demo = commands.add_parser("demo", help="the codec in a browser", description="Serves the codec as a web page.")
    demo.add_argument("--model", help="folder or Hub id (default: the checkpoint shipped in the package)")
    demo.add_argument(
        "--tts",
        nargs="?",
        const="",
        metavar="MODEL",
        help="the tab Speak, by the shipped speech language model or that in a folder or of a Hub id",
    )
    demo.add_argument(
        "--recogniser",
        action="append",
        default=[],
        help="folder or Hub id of an emotion recogniser, for the tab Recognise; may be given several times",
    )
    demo.add_argument(
        "--gallery", type=Path, help="folder of prompts to speak in: MOOD_NAME.wav or .flac, and MOOD_NAME.txt"
    )
    demo.add_argument("--port", type=_count, help="default: 7860, or the next one that is free")
    commands.add_parser("corpora", help="the catalogue of corpora", description="The catalogue of corpora (Markdown).")
    evaluate = commands.add_parser(
        "evaluate",
        help="the paper's tables on any data",
        description="Measure codecs, recognition on coded speech, or TTS.",
    )
    evaluate.add_argument("table", choices=("codec", "ser", "tts"), help="which table")
    evaluate.add_argument(
        "options", nargs=argparse.REMAINDER, metavar="...", help="`affectcodec evaluate codec --help` says which"
    )
    classify = commands.add_parser(
        "classify", help="the emotion of recordings", description="Classes with their probabilities, a line a file."
    )
    classify.add_argument("files", metavar="IN", nargs="+", type=Path, help="files, or folders taken at any depth")
    classify.add_argument("--model", required=True, help="folder or Hub id of a recogniser")
    classify.add_argument("--device", help="where to run (default: cuda if there is one, else cpu)")
    classify.add_argument("--json", action="store_true", help="one JSON object a line")
    # `main` hands what follows to `speak.main`, whose arguments are too many to stand here twice.
    commands.add_parser("speak", help="text to speech in the voice and mood of a prompt", add_help=False)
    publish = commands.add_parser(
        "publish", help="upload a staged folder", description="Check and upload a staged folder."
    )
    publish.add_argument("folder", metavar="DIR", type=Path, help="what `python -m hf_affectcodec.hub stage` made")
    publish.add_argument("repo_id", metavar="REPO", help="org/name on the Hub")
    publish.add_argument("--private", action="store_true", help="make the repository private")
    return parser


def _corpora(arguments: argparse.Namespace) -> int:
    from .data.corpora import corpora_table

    sys.stdout.write(corpora_table())
    return 0


def _demo(arguments: argparse.Namespace) -> int:
    from .inference import load_codec

    try:
        from .space.app import serve
        from .space.gallery import SHIPPED, read_gallery
    except ModuleNotFoundError as error:
        raise ImportError(f"the page needs `{error.name}`: pip install 'hf-affectcodec[eval,space]'") from error
    tts, recognisers = None, {}
    if arguments.tts is not None:
        from .speak import load_tts

        tts = load_tts(arguments.tts or None)
    if arguments.recogniser:
        from .classify import load_classifier

        recognisers = {Path(source).name: load_classifier(source) for source in arguments.recogniser}
    gallery = read_gallery(SHIPPED if arguments.gallery is None else arguments.gallery)
    serve(load_codec(arguments.model), arguments.port, tts, recognisers, gallery)
    return 0


def _evaluate(arguments: argparse.Namespace) -> int:
    if arguments.table == "codec":
        from .benchmarks.evaluate_codec import main
    elif arguments.table == "ser":
        from .benchmarks.evaluate_ser import main
    else:
        from .benchmarks.evaluate_tts import main
    return main(arguments.options)


def _classify(arguments: argparse.Namespace) -> int:
    from .classify import main

    return main(arguments)


def _publish(arguments: argparse.Namespace) -> int:
    from .hub import publish

    print(publish(arguments.folder, arguments.repo_id, private=arguments.private))
    return 0


def _convert(arguments: argparse.Namespace) -> int:
    from .audio import WRITE_FORMATS
    from .codes_file import CODES_SUFFIX
    from .conversion import convert
    from .inference import load_codec

    suffix = CODES_SUFFIX if arguments.command == "encode" else arguments.suffix
    if arguments.command != "encode" and suffix not in WRITE_FORMATS:
        raise ValueError(f"--suffix must be one of {' '.join(sorted(WRITE_FORMATS))}, got {suffix!r}")
    complete = convert(
        arguments.command,
        arguments.source,
        arguments.target,
        load=lambda: load_codec(arguments.model, arguments.device),
        num_quantizers=arguments.num_quantizers,
        suffix=suffix,
        overwrite=arguments.overwrite,
    )
    return 0 if complete else 2


def main(argv: "list[str] | None" = None) -> int:
    """
    Runs the command.

    Args:
        argv (`list[str]`, *optional*): Arguments. Default: the process's.

    Returns:
        `int`: Exit status; 2 where anything was wrong, which one line a problem on stderr names.
    """
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["speak"]:
        from .speak import main as speak

        return speak(argv[1:])
    arguments = _parser().parse_args(argv)
    commands = {
        "classify": _classify,
        "corpora": _corpora,
        "demo": _demo,
        "evaluate": _evaluate,
        "publish": _publish,
    }
    try:
        return commands.get(arguments.command, _convert)(arguments)
    except (ValueError, OSError, ImportError) as error:
        print(f"affectcodec: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("affectcodec: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
