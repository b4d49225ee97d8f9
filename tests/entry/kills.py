"""Simulates a run that is killed in the middle of its loop."""

import contextlib
from collections.abc import Iterator

import pytest

from training import session

BATCH = 7


@contextlib.contextmanager
def killed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Inside, a run must end, as if killed, when it asks for batch 7; else the test fails. Rows up
    to 7 are written, and the newest checkpoint is an earlier one."""
    original = session.fit

    def fit_until_batch(step, state, batch_at, *rest):
        def broken(n: int):
            if n == BATCH:
                raise KeyboardInterrupt
            return batch_at(n)

        return original(step, state, broken, *rest)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):  # noqa: PT012
        patch.setattr(session, "fit", fit_until_batch)
        yield
