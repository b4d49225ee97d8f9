"""Each way a process ends has its own exit code. Whole runs are in tests/entry."""

import pytest

from training import exits


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ValueError(), 2),
        (FileExistsError(), 2),
        (KeyboardInterrupt(), 130),
        (TypeError(), 1),
        (exits.StoppedError(), 75),
    ],
)
def test_an_error_keeps_its_exit_code(error: BaseException, status: int) -> None:
    assert exits.status_of(error) == status
