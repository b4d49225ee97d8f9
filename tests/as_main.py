"""Runs a module as `python -m` does, without the seconds that a process takes to import jax."""

import runpy
import warnings
from unittest import mock


def run_as_main(module: str, *words: object) -> int:
    """The exit code of `python -m module words`, run in this process."""
    argv = [module, *map(str, words)]
    with mock.patch("sys.argv", argv), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the module may have been imported before
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        except SystemExit as end:
            return int(end.code or 0)
    return 0
