"""Beside the program das-cuda: rewards in Python for it, and its records for Python.

    from das_cuda import serve

    serve(lambda images, prompts: images[:, 0].mean((1, 2)))     # as redness.py

    das-cuda sample -p "a star" --reward "exec:python redness.py"
"""

from ._records import Run, load_run
from ._serve import protect_stdout, serve

__all__ = ["Run", "load_run", "protect_stdout", "serve"]
