"""Analysis of listening tests; `python -m hf_affectcodec.benchmarks.listening` is the command."""
