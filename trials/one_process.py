"""Runs of train.py in this process, one after the other, with shared compiled programs."""

import contextlib
import traceback
from collections.abc import Sequence
from pathlib import Path

from command_line.parser import parse_config
from common import terminal
from config import Config, from_yaml
from recipe import make_recipe
from starting.text_encoder import with_text_encoder
from training import exits
from training.session import train
from training.update.shared import Programs


def train_here(flags: Sequence[str], log: Path, programs: Programs | None = None) -> int:
    """Run train.py with these flags in this process, and return its exit code. Output is appended
    to `log`. Runs with the same `programs` share compiled programs."""
    with (
        log.open("a", encoding="utf-8") as file,
        contextlib.redirect_stdout(file),
        contextlib.redirect_stderr(file),
    ):
        try:
            config = with_text_encoder(parse_config(Config, flags))
            train(config, make_recipe, from_yaml, programs)
        except SystemExit as end:
            return end.code if isinstance(end.code, int) else exits.FAULT
        except Exception as error:
            if (line := terminal.explain(error)) is None:
                traceback.print_exc()
                return exits.FAULT
            print(line)
            return exits.REFUSED
    return exits.FINISHED
