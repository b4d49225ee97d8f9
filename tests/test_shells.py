"""Each command line in README, docs/ and the other pages can be pasted into bash and macOS's
zsh."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.test_readme import PAGES, shell_lines

PROGRAMS = ("python", "make", "tmux", "pip", "jupyter", "nvidia-smi", "wandb")
FILES = (".venv/bin/python", ".venv/bin/activate", "benchmarks/race/make_peers")
STUB = """#!/bin/sh
for one in "${0##*/}" "$@"; do printf "%s\\n" "$one"; done >> "$LOG"
echo >> "$LOG"
"""
SHELLS = {
    name: command
    for name, command in {"bash": ["bash", "--norc", "-i"], "zsh": ["zsh", "-f", "-i"]}.items()
    if shutil.which(name)
}
WITH_LINES = [page for page in PAGES if shell_lines(page)]


def run_lines(shell: list[str], lines: list[str], folder: Path) -> list[str]:
    """The words of every command that the lines start in an interactive shell. The shell finds only
    stubs, which note their words."""
    for name in (*(f"bin/{program}" for program in PROGRAMS), *FILES):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("" if path.name == "activate" else STUB)
        path.chmod(0o755)
    log = folder / "log"
    log.unlink(missing_ok=True)
    env = {"PATH": f"{folder / 'bin'}:/usr/bin:/bin", "LOG": str(log), "HOME": str(folder)}
    text = "".join(f"{line}\n" for line in lines)
    done = subprocess.run(
        shell, input=text, cwd=folder, env=env, capture_output=True, text=True, check=False
    )
    assert "not found" not in done.stderr, done.stderr
    assert "no matches" not in done.stderr, done.stderr
    return log.read_text().split("\n\n")[:-1]


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("page", WITH_LINES)
def test_an_interactive_shell_runs_every_line(page: str, shell: str, tmp_path: Path) -> None:
    lines = shell_lines(page)
    ran = run_lines(SHELLS[shell], lines, tmp_path)
    script = [re.sub(r"^source ", ". ./", line) for line in lines]
    assert len(ran) >= sum(not line.startswith("source ") for line in lines)
    assert ran == run_lines(["sh"], script, tmp_path), "a script would run other words"


TRAPS = {
    "a bare bracket, star or question mark is a pattern of file names": r"[\[\]*?]",
    "zsh has no comments at its prompt": r"(^|\s)#",
    "= at the start of a word is a program's path": r"(^|\s)=",
    "bare parentheses are patterns or subshells": r"[()]",
    "a tilde or caret may be expanded": r"(^|\s)[~^]",
}


def traps(line: str) -> list[str]:
    """The parts of a line that zsh reads differently from bash, or refuses."""
    unquoted = re.sub(r"'[^']*'|\"[^\"]*\"", "q", line)
    found = [told for told, pattern in TRAPS.items() if re.search(pattern, unquoted)]
    not_single = re.sub(r"'[^']*'", "q", line)
    return found + ["! recalls an older command"] * ("!" in not_single)


@pytest.mark.parametrize(
    "line",
    [
        *("train.py --data.records=[a,b]", "make quickstart # minutes", "echo =python", "ls *.png"),
        *('echo "done!"', "train.py --f=(a)", "ls what?", "ls ~/x"),
    ],
)
def test_each_trap_is_seen(line: str) -> None:
    assert len(traps(line)) == 1


def test_quotes_take_the_traps_away() -> None:
    assert not traps("""train.py --a='[x/*, y!]' --b="[c:3, (d)]" --c=gs://e/f > g.json""")


@pytest.mark.parametrize("page", PAGES)
def test_no_line_holds_a_trap(page: str) -> None:
    assert not [(line, traps(line)) for line in shell_lines(page) if traps(line)]


@pytest.mark.parametrize("page", PAGES)
def test_no_command_within_a_sentence_holds_a_trap(page: str) -> None:
    """Checks inline code that starts with a program or a flag."""
    code = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", PAGES[page], flags=re.DOTALL))
    started = [
        words for words in code if re.match(r"(python|make|pip|train\.py|generate\.py|--\w)", words)
    ]
    starless = [
        words.replace("*", "x") for words in started
    ]  # a star in a sentence means several files
    assert not [(words, traps(words)) for words in starless if traps(words)]
