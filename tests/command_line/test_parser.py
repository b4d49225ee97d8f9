"""The command line: repeated flags are refused, missing quotes are named, ~ is expanded, and
control characters are never printed."""

import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from command_line.parser import parse_config, run
from common.settings import to_yaml
from common.terminal import command, printable
from config import Config, from_yaml
from data.check import CheckConfig
from generate import GenerateConfig
from release import ReleaseConfig, release
from vqgan.pretrained import ConvertConfig


@dataclass(frozen=True)
class Data:
    """Where data is."""

    source: tuple[str, ...] = field(default=("all",), metadata={"nargs": "*"})
    """One or more sources."""
    folder: str = ""
    """A folder."""


@dataclass(frozen=True)
class Settings:
    """A command's settings."""

    tars: tuple[str, ...] = field(default=("t",), metadata={"nargs": "*", "help": "Tars."})
    """Tars."""
    prompts: tuple[str, ...] = field(default=(), metadata={"nargs": "*", "help": "Prompts."})
    """Prompts."""
    data: Data = field(default_factory=Data)
    """Data."""
    seed: int = 0
    """A number."""
    out: str | None = None
    """A folder."""


@pytest.mark.parametrize(
    "words",
    [
        ["--seed=1", "--seed=2"],
        ["--seed", "1", "--seed=1"],
        ["--data.folder=0.tar", "--data.folder=1.tar"],
        ["--out=a", "--tars", "x", "--out", "b"],
    ],
)
def test_a_flag_given_twice_is_refused(words: list[str]) -> None:
    with pytest.raises(ValueError, match=r"--\S+ is given 2 times .*put quotes around"):
        parse_config(Settings, words)


@pytest.mark.parametrize(
    "words",
    [
        ["--data.folder=a", '--data={"folder": "b"}'],
        ["--data", '{"folder": "b"}', "--data.folder", "a"],
    ],
)
def test_a_section_and_a_part_of_it_are_not_given_together(words: list[str]) -> None:
    with pytest.raises(ValueError, match=r"--data\.folder is a part of --data, which is given too"):
        parse_config(Settings, words)


def test_a_key_twice_in_a_section_on_the_command_line_is_refused() -> None:
    assert parse_config(Settings, ['--data={"folder": "a"}']).data.folder == "a"
    with pytest.raises(ValueError, match="'folder' appears twice"):
        parse_config(Settings, ['--data={"folder": "a", "folder": "b"}'])


def test_an_empty_path_is_not_the_working_folder() -> None:
    for words in (["--tars="], ["--tars", "a", ""], ["--data.source="]):
        with pytest.raises(ValueError, match=r"^--(tars|data\.source) is empty; name something"):
            parse_config(Settings, words)
    found = parse_config(Settings, ["--prompts", "", "--out=", "--data.folder="])
    assert (found.prompts, found.out, found.data.folder) == (("",), "", "")


@pytest.mark.parametrize("flag", ["--tars", "--data.source"])
@pytest.mark.parametrize(
    "words",
    [
        ["{}=0.tar", "{}=1.tar", "--seed=3", "{}=2.tar"],
        ["{}", "0.tar", "1.tar", "2.tar", "--seed=3"],
        ["{}=0.tar", "--seed", "3", "{}", "1.tar", "2.tar"],
    ],
)
def test_a_flag_that_takes_several_uses_all_that_it_is_given(flag: str, words: list[str]) -> None:
    found = parse_config(Settings, [word.format(flag) for word in words])
    values = found.tars if flag == "--tars" else found.data.source
    assert values == ("0.tar", "1.tar", "2.tar")
    assert found.seed == 3


def test_several_values_keep_their_letters() -> None:
    odd = ["[0-3].tar", "{0..3}.tar", "é 😀", "null", "007", "a\udc80"]
    assert parse_config(Settings, [f"--data.source={value}" for value in odd]).data.source == tuple(
        odd
    )
    assert parse_config(Settings, [f"--prompts={value}" for value in odd]).prompts == tuple(odd)
    assert parse_config(Settings, ["--data.source=['a', b]"]).data.source == ("a", "b")
    assert parse_config(Settings, []).data.source == ("all",)


@pytest.mark.parametrize("dash", ["\u2014", "\u2013", "\u2212\u2212"])
def test_a_flag_behind_a_dash_of_typography_is_no_prompt(dash: str) -> None:
    for words in ([f"{dash}seed=3"], [f"{dash}seed", "3"]):
        with pytest.raises(ValueError, match="begins with another dash .*; type --seed"):
            parse_config(Settings, ["--prompts", "a", *words])
    assert parse_config(Settings, ["--prompts", f"{dash} a", f"{dash}b"]).prompts[1] == f"{dash}b"


def test_a_word_without_a_flag_asks_for_quotes() -> None:
    with pytest.raises(
        ValueError, match=r"^shards/1.tar shards/2.tar follows no flag that takes it; put quotes"
    ):
        parse_config(Settings, ["--data.folder", "shards/0.tar", "shards/1.tar", "shards/2.tar"])


def test_a_home_is_written_out_in_paths_and_not_in_texts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "x.yaml").write_text("data: {source: ['~/a', b~]}\n")
    words = ["--config=~/x.yaml", "--out=~/o", "--tars=~/t", "--prompts=~/p", "--data.folder", "~"]
    found = parse_config(Settings, words)
    assert found.out == f"{tmp_path}/o"
    assert found.tars == (f"{tmp_path}/t",)
    assert found.data == Data((f"{tmp_path}/a", "b~"), str(tmp_path))
    assert found.prompts == ("~/p",)


def test_flags_override_files_wherever_they_stand(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 2)):
        (tmp_path / name).write_text(f"seed: {seed}\nprompts: [x]\n")
    files = [f"--config={tmp_path}/a", "--config", f"{tmp_path}/b"]
    assert parse_config(Settings, files).seed == 2
    assert parse_config(Settings, ["--seed=3", "--prompts", "y", *files]).seed == 3
    assert parse_config(Settings, ["--prompts", "y", *files]).prompts == ("y",)


def test_documented_words_work_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("training: {on_spike: off}\ntracker: {wandb: off}\noptim: {epsilon: 1e-6}\n")
    found = parse_config(Config, [f"--config={path}"])
    assert (found.training.on_spike, found.tracker.wandb, found.optim.epsilon) == (
        "off",
        "off",
        1e-6,
    )


def test_an_error_in_a_run_s_settings_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    for text in ("model: {dim: 0}", "model: {dim: -.inf}", "model: {dim: a}", "model: []", "a: 1"):
        path.write_text(text)
        with pytest.raises(ValueError, match=f"^{path}: .*(model|'a')") as caught:
            from_yaml(Config, path)
        assert "\n" not in str(caught.value)


def test_sequences_of_a_terminal_are_spelled() -> None:
    assert printable("a\x1b[2J\x07b\x9b1m\u202e") == r"a\x1b[2J\x07b\x9b1m\u202e"
    assert printable("bad\rgood") == r"bad\rgood"
    assert printable("\r 50 % é 日本 🫀\n\tx") == "\r 50 % é 日本 🫀\n\tx"


def test_no_message_of_a_command_holds_them(capsys: pytest.CaptureFixture[str]) -> None:
    with command("a command"):
        print("\x1b]0;title\x07")
        print("\x1b[31m", file=sys.stderr)
    assert capsys.readouterr() == ("\\x1b]0;title\\x07\n", "\\x1b[31m\n")


def test_a_command_shows_no_sequence_of_a_name(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["-m", "--checkpoint=a\x1b[31m", "--out=/nowhere/b"])
    with pytest.raises(SystemExit, match="2"):
        run(release, ReleaseConfig, prog="python -m release", about="")
    output = capsys.readouterr().err
    assert "\x1b" not in output
    assert r"a\x1b[31m" in output


def test_a_flag_that_is_required_is_named() -> None:
    with pytest.raises(ValueError, match="required: checkpoint"):
        parse_config(ReleaseConfig, ["--out=a"])


@pytest.mark.parametrize("seed", [1 << 32, -(1 << 31) - 1, 10**23])
def test_a_seed_of_which_bits_would_be_lost_is_refused(seed: int) -> None:
    assert parse_config(Config, [f"--seed={(1 << 32) - 1}"]).seed == (1 << 32) - 1
    with pytest.raises(ValueError, match="seed .* has more than 32 bits"):
        parse_config(Config, [f"--seed={seed}"])


@pytest.mark.parametrize("name", ["a/b", "../x", "a\nb", "a\0b", "é" * 101])
def test_a_run_s_name_can_be_part_of_a_folder_s(name: str) -> None:
    assert parse_config(Config, ["--name=été 2.0"]).name == "été 2.0"
    with pytest.raises(ValueError, match="^name .* cannot be part of a folder's name"):
        parse_config(Config, [f"--name={name}"])


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--training.steps=1:30", "--training.steps must be a number, not '1:30'"),
        ("--checkpoint.minutes=1:30", "--checkpoint.minutes must be a number, not '1:30'"),
        ("--seed=190:20:30", "--seed must be a number"),
        (
            "--training.steps=1e3",
            "--training.steps must be a whole number, not '1000.0'; write 1000",
        ),
        ("--seed=", "--seed must be a whole number, not ''"),
        ("--optim.learning_rate=", "--optim.learning_rate must be a number, not ''"),
        ("--optim.name=adamm", "--optim.name must be one of sgd, adam, .*, not 'adamm'"),
        ("--data.window=x", "--data.window must be a whole number, not 'x'"),
        ("--grids.prompts=red", r"--grids.prompts takes a list, not 'red'; write --grids.prompts="),
        ("--optim.learning_rate=1e300", r"optim.learning_rate is 1e\+300; numbers of 32 bits end"),
        ("--training.steps=1" + "0" * 30, "training.steps is 1,000,.* at most 4,611,686,"),
    ],
)
def test_a_value_that_is_no_such_number_is_refused_in_words(flag: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        parse_config(Config, [flag])
    with pytest.raises(ValueError, match=f"^{message}"):
        parse_config(Config, flag.split("="))


def test_a_flag_that_may_be_omitted_asks_for_its_kind_of_value() -> None:
    for words, message in (
        (["--temperature=0,5"], "--temperature must be a number, not '0,5'"),
        (["--guidance_scale=inf"], "--guidance_scale must be a number, not 'inf'"),
        (["--top_k=2.5"], "--top_k must be a whole number, not '2.5'"),
    ):
        with pytest.raises(ValueError, match=f"^{message}$"):
            parse_config(GenerateConfig, ["--prompts=a", *words])


@pytest.mark.parametrize(
    "words", [["--_wandb={'cli_version': '0.13.2', 't': {'1': [1]}}"], ["--_wandb", "{'t': 1}"]]
)
def test_what_wandb_s_agent_adds_when_it_resumes_a_run_is_named_and_not_read(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert parse_config(Config, [*words, "--seed=3"]).seed == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("--_wandb is not read: ")


def test_one_of_several_words_that_may_be_omitted_is_asked_for_by_these_words() -> None:
    message = "^--dtype must be one of float32, float16, not 'int8'$"
    with pytest.raises(ValueError, match=message):
        parse_config(ConvertConfig, ["a", "b", "--dtype=int8"])


def test_names_that_may_be_omitted_have_their_default() -> None:
    assert parse_config(CheckConfig, []).records == ("records/things",)
    assert parse_config(CheckConfig, ["a", "b"]).records == ("a", "b")


def test_print_config_prints_defaults_and_files_and_flags(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "some.yaml"
    file.write_text("training: {steps: 7}\n")
    with pytest.raises(SystemExit):
        parse_config(Config, [f"--config={file}", "--seed=3", "--print_config"])
    file.write_text(capsys.readouterr().out)
    expected = parse_config(Config, ["--training.steps=7", "--seed=3"])
    assert parse_config(Config, [f"--config={file}"]) == expected


def test_what_one_command_line_is_given_does_not_reach_the_next() -> None:
    given = parse_config(Config, ['--optim.freeze=["a"]', "--allow_changes", "seed"])
    assert (given.optim.freeze, given.allow_changes) == (("a",), ("seed",))
    assert parse_config(Config, []) == Config()


def test_a_file_of_all_settings_is_read_as_their_types(tmp_path: Path) -> None:
    given = ['--optim.freeze=["a"]', "--optim.learning_rate=1", "--allow_changes", "seed"]
    config = parse_config(Config, given)
    (tmp_path / "all.yaml").write_text(to_yaml(config))
    assert repr(parse_config(Config, [f"--config={tmp_path}/all.yaml"])) == repr(config)
