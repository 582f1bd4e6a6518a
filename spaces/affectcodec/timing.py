"""
How soon the page is there, and how soon it answers:

    python -m hf_affectcodec.space.timing [--model FOLDER] [--runs N]

starts it in a process of its own, asks for it until it answers, then has it rebuild the shipped clip twice.
"""

import argparse
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request

from gradio_client import Client, handle_file

from hf_affectcodec.shipped import demo_clip_path


MAX_WAIT = 600.0  # seconds


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_for(url: str, server: subprocess.Popen) -> None:
    """Returns as soon as the address answers; RuntimeError if the server ends, or takes `MAX_WAIT`."""
    end = time.monotonic() + MAX_WAIT
    while time.monotonic() < end and server.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                answer.read()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    raise RuntimeError("the page did not come up")


def measure_start(model: str | None = None) -> dict[str, float]:
    """Seconds from the start of the process: `page`, until it answers; and of the `first` and the `second` reconstruction."""
    port = free_port()
    command = [sys.executable, "-m", "hf_affectcodec.space.app", "--port", str(port)]
    command += [] if model is None else ["--model", model]
    start = time.monotonic()
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        url = f"http://127.0.0.1:{port}/"
        wait_for(url, server)
        times = {"page": time.monotonic() - start}
        client = Client(url, verbose=False)
        for name in ("first", "second"):
            start = time.monotonic()
            client.predict(handle_file(str(demo_clip_path())), 8, "none", api_name="/reconstruct")
            times[name] = time.monotonic() - start
        return times
    finally:
        server.terminate()
        server.wait()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Times the start of the page.")
    parser.add_argument("--model", help="folder or Hub id (default: the checkpoint shipped in the package)")
    parser.add_argument("--runs", type=int, default=3, help="default: %(default)s; medians and extremes are printed")
    options = parser.parse_args(arguments)
    runs = [measure_start(options.model) for _ in range(options.runs)]
    labels = {"page": "page answers after", "first": "first reconstruction", "second": "second reconstruction"}
    for name, label in labels.items():
        values = [run[name] for run in runs]
        print(f"{label:<22} {statistics.median(values):6.2f} s  ({min(values):.2f} to {max(values):.2f})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
