"""common/terminal.py: exit codes, terminals with other encodings, closed pipes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from common import terminal
from common.terminal import explain

ROOT = Path(__file__).parents[2]
SAYS = """
import sys
from common import terminal
terminal.open_standard_streams()
with terminal.command("prog"):
    {body}
"""


def say(body: str, shell: str = "", **environment: str) -> subprocess.CompletedProcess:
    """Run a command with this body in a shell; `shell` is appended to its command line."""
    code = SAYS.format(body=body)
    command = f'"{sys.executable}" -c "$CODE" {shell}'
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        cwd=ROOT,
        env=os.environ | {"CODE": code} | environment,
        capture_output=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        ("pass", 0, ""),
        ("raise ValueError('two\\nlines')", 2, "prog: two lines\n"),
        ("open('nowhere')", 2, "prog: [Errno 2] No such file or directory: 'nowhere'\n"),
        ("raise MemoryError", 2, "prog: out of memory\n"),
        ("raise KeyboardInterrupt", 130, ""),
        ("sys.exit(75)", 75, ""),
    ],
)
def test_exit_codes(body: str, code: int, message: str) -> None:
    done = say(body)
    assert (done.returncode, done.stderr.decode()) == (code, message)


def test_a_fault_of_ours_keeps_its_traceback() -> None:
    done = say("{}['x']")
    assert done.returncode == 1
    assert b"KeyError" in done.stderr


@pytest.mark.parametrize("encoding", ["cp437", "cp932", "ascii", "latin-1"])
def test_a_terminal_without_a_letter_gets_a_plain_one(encoding: str) -> None:
    body = "print('2 × 3 – “猫”…'); print('é ≥ 猫', file=sys.stderr)"
    done = say(body, PYTHONIOENCODING=encoding)
    assert done.returncode == 0, done.stderr
    text = done.stdout.decode(encoding)
    assert text.startswith(("2 x 3 - ", "2 × 3 "))
    assert len(done.stderr.decode(encoding).split()) == 3


def test_undecodable_file_names_are_printed() -> None:
    done = say("print('\\udcff ok')", PYTHONIOENCODING="utf-8:strict")
    assert (done.returncode, done.stdout) == (0, b"? ok\n")


@pytest.mark.parametrize("pipe", ["| true", "2>&1 | true", "2>&1 >/dev/null | true"])
def test_a_reader_that_goes_away_changes_nothing(pipe: str, tmp_path: Path) -> None:
    mark = tmp_path / "done"
    body = (
        "import time; time.sleep(0.3)\n"
        "    for i in range(2000): print(i, flush=i % 2); print(i, file=sys.stderr)\n"
        f"    open({str(mark)!r}, 'w').write('done')"
    )
    assert say(body, pipe).returncode == 0
    assert mark.read_text() == "done"


def test_a_result_that_cannot_be_written_is_a_mistake_and_a_message_is_not() -> None:
    done = say("print('the result')", ">/dev/full")
    assert done.returncode == 2
    assert done.stderr == b"prog: [Errno 28] No space left on device: 'standard output'\n"
    assert say("print('a message', file=sys.stderr)", "2>/dev/full").returncode == 0


def test_closed_streams_are_nobody_elses_file(tmp_path: Path) -> None:
    body = f"f = open({str(tmp_path / 'f')!r}, 'w'); print(f.fileno()); print(1, file=sys.stderr)"
    done = say(body, "2>&- 0<&-")
    assert done.returncode == 0
    assert int(done.stdout) > 2
    assert (tmp_path / "f").read_text() == ""
    assert say("print(1)", ">&-").returncode == 0


def test_out_of_memory_is_one_line_with_the_flags_that_help() -> None:
    class JaxRuntimeError(RuntimeError):
        pass

    line = explain(JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory\nallocating 9 bytes"))
    assert line
    assert "--rows_per_call" in line
    assert "micro_batch_size=auto" in line
    assert "\n" not in line
    assert explain(JaxRuntimeError("INTERNAL: a fault")) is None
    assert explain(AssertionError()) is None
    assert terminal.is_out_of_memory(MemoryError())


def test_devices_that_are_not_there_are_one_line() -> None:
    message = explain(RuntimeError("Unable to initialize backend 'x'"))
    assert message
    assert message.startswith("there are no such devices as JAX_PLATFORMS=cpu asks for (Unable")
    done = say("import jax; jax.devices()", JAX_PLATFORMS="cuda")
    assert done.returncode == 2
    assert b"prog: there are no such devices as JAX_PLATFORMS=cuda asks for" in done.stderr
    assert b"Traceback" not in done.stderr


def test_a_logbook_is_written_in_any_locale_and_of_any_name(tmp_path: Path) -> None:
    """Under LC_ALL=C, whose encoding has neither the × of "2 × cpu" nor the folder's name."""
    script = (
        "import os, sys; from pathlib import Path; from training.reports.logbook import Logbook; "
        "folder = Path(sys.argv[1]); folder.mkdir(); "
        "Logbook(folder).note('start', 0, 'on 2 \\u00d7 cpu')"
    )
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": str(ROOT)}
    words: list[str | bytes] = [
        sys.executable,
        "-c",
        script,
        os.fsencode(tmp_path) + b"/\xc3\xa9\xff",
    ]
    subprocess.run(words, env={**os.environ, **plain}, check=True)
    (folder,) = tmp_path.iterdir()
    text = (folder / "LOGBOOK.md").read_bytes()
    assert text.startswith(b"# Logbook of \xc3\xa9\xff\n")
    assert "on 2 × cpu".encode() in text


def test_a_name_that_is_not_utf_8_is_shown_and_not_the_place_of_its_byte() -> None:
    with pytest.raises(UnicodeEncodeError) as caught:
        "output_dir: /data/d\udce9monstration\n".encode()
    line = explain(caught.value)
    assert line is not None
    assert line.startswith(r"'output_dir: /data/d\udce9monstration\n' has bytes that are not UTF-8")
