"""ZeroGPU lends its GPU to functions that ask for it; anywhere else they run as they are."""

from collections.abc import Callable


try:
    # By name: run from the repository's root, `import spaces` would find the folder of that name.
    from spaces import GPU
except ImportError:

    def on_gpu(function: Callable) -> Callable:
        return function

else:

    def on_gpu(function: Callable) -> Callable:
        return GPU(function, duration=60)
