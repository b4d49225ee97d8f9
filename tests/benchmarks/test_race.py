"""A race: contestants in separate processes are timed in turns and printed in one table."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.race import configs, driver, worker
from benchmarks.race.contestants import FAMILIES, read_contestant
from benchmarks.race.driver import FIGURES, RaceConfig, choose, main, make_order
from command_line.parser import parse_config

ADAPTER = """
import configs, numpy as np, os

def make_train_step(c):
    print("a library's chatter")
    data = configs.batches(c)
    return (lambda index: float(data[index % 4]["image"].mean())), {"params": c["d_model"]}

def make_sampler(c):
    shape, top = (c["batch"], c["image_len"]), c.get("top", c["image_vocab"])
    return (lambda index: np.full(shape, top)), {"params": 0}

def make_encoder(c):
    os._exit(1)
"""
PLAIN = RaceConfig("train", contestants=("hf_bart", "taming:d_model=3"), sizes="tiny", rounds=2)


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RaceConfig:
    """A race of two peers. Both have the adapter above."""
    python = tmp_path / "torch/bin/python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    adapters = tmp_path / "adapters"
    adapters.mkdir()
    for name in FAMILIES:
        (adapters / f"{name}.py").write_text(ADAPTER)
    monkeypatch.setattr("benchmarks.race.contestants.HERE", tmp_path)
    monkeypatch.setenv("PYTHONPATH", ":".join(p for p in sys.path if "site-packages" in p))
    return replace(PLAIN, peers=str(tmp_path), out=str(tmp_path / "out"))


def test_contestants_are_timed_in_turns(
    config: RaceConfig, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    main(config)
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split("|")[1].strip() for line in lines if line.startswith("|")]
    assert set(rows) == {"contestant", "---", "hf_bart", "taming:d_model=3"}
    results = [json.loads(line) for line in (tmp_path / "out/results.jsonl").open()]
    assert [result["contestant"] for result in results] == ["hf_bart", "taming:d_model=3"]
    assert [result["info"]["params"] for result in results] == [64, 3]
    expected = configs.batches(configs.get("tiny"))[1]["image"].mean()  # the second warm-up run
    assert {result["check"] for result in results} == {expected}
    assert all(len(result["runs"]) == 2 for result in results)
    assert "a library's chatter" in (tmp_path / "out/hf_bart.log").read_text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"figure": "sample", "contestants": ("hf_bart:top=65",)}, "65 to 65, not 0 to 64"),
        (
            {"figure": "encode", "contestants": ("hf_bart",), "sizes": "vq-tiny"},
            "hf_bart ended without an answer; see ",
        ),
        ({"figure": "decode", "contestants": ("hf_bart",), "sizes": "vq-tiny"}, "make_decoder"),
        ({"contestants": ("dalle_mini",)}, "run benchmarks/race/make_peers"),
        ({"contestants": ("hf_brat",)}, "no contestant 'hf_brat'; there are: pastel, dalle_mini"),
        ({"contestants": ("hf_bart:fast",)}, "'fast' of the contestant 'hf_bart:fast' is not of"),
        ({"contestants": ()}, "needs contestants"),
        ({"sizes": "huge"}, "no sizes 'huge'; there are: bench-S"),
        ({"settings": ("batch",)}, "'batch' is not of the form key=value"),
        ({"figure": "drawings"}, "no figure or job 'drawings'; there are: drawing, "),
        ({"rounds": 0}, "rounds must be at least 1, not 0"),
    ],
)
def test_an_impossible_race_is_refused_in_one_line(
    config: RaceConfig, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        main(replace(config, **changes))  # type: ignore[arg-type]


def test_a_contestant_that_hangs_is_given_up(config: RaceConfig) -> None:
    with pytest.raises(ValueError, match=r"hf_bart gave no answer in 0 s; raise --timeout"):
        main(replace(config, timeout=0.0))


def test_a_contestant_has_its_own_settings_on_top_of_the_races(
    config: RaceConfig, tmp_path: Path
) -> None:
    race = choose(replace(config, settings=("batch=4", "top_k=8"), cpus=(0, 1)))
    text = "hf_bart:batch=1,use_scan=false,dtype=bf16,env.XLA_FLAGS=--a=b+--c,malloc=tuned"
    contestant = read_contestant(text, tmp_path)
    order = make_order(race, contestant, 3)
    sizes = order["sizes"]
    assert (sizes["batch"], sizes["top_k"], sizes["use_scan"], sizes["dtype"]) == (
        1,
        8,
        False,
        "bf16",
    )
    assert (order["cpus"], order["warm_up"]) == ([0, 1], 3)
    assert contestant.environment["XLA_FLAGS"] == "--a=b --c"
    assert contestant.environment["MALLOC_ARENA_MAX"] == "1"


@pytest.mark.parametrize("figure", FIGURES)
def test_every_figure_names_contestants_and_sizes_that_are_there(figure: str) -> None:
    race = choose(parse_config(RaceConfig, [figure]))
    configs.get(race.sizes)
    for text in race.contestants:
        name = text.partition(":")[0]
        adapter = driver.__file__.replace("driver.py", f"adapters/{name}.py")
        assert name == "pastel" or Path(adapter).is_file()
        maker = f"def {worker.MAKERS[race.job]}("
        assert name == "pastel" or maker in Path(adapter).read_text()


def test_flops_are_those_of_the_products() -> None:
    c = configs.get("tiny")
    d, f, text, image = 64, 96, 8, 16
    attention = 4 * d * d
    encoder = text * (attention + 3 * d * f + 2 * text * d)
    decoder = image * (attention + 2 * image * d + 3 * d * f)  # to itself, and feed-forward
    decoder += image * (2 * d * d + 2 * text * d) + text * 2 * d * d  # to the text
    assert configs.job_flops(c, "train") == 3 * 2 * 2 * (encoder + decoder + image * d * 64)
    unguided = configs.get("tiny", cond_scale=1)
    assert configs.job_flops(c, "sample") == 2 * configs.job_flops(unguided, "sample")
    large, small = 8 * 8, 4 * 4  # a VQGAN of 32 channels, on two levels
    block, attention = 2 * 9 * 32 * 32, 4 * 32 * 32 + 2 * small * 32
    encoder = large * (9 * 3 * 32 + block) + small * 9 * 32 * 32  # and halve it
    encoder += small * (3 * block + 2 * attention + 9 * 32 * 8 + 8 * 8 + 8 * 16)
    assert configs.job_flops(configs.get("vq-tiny"), "encode") == 2 * 2 * encoder


def test_all_contestants_get_the_same_data() -> None:
    c = configs.get("tiny")
    first, again = configs.batches(c), configs.batches(c)
    assert all(np.array_equal(a[k], b[k]) for a, b in zip(first, again, strict=True) for k in a)
    text, mask, empty, empty_mask = configs.prompts(c, 3)
    assert ((text > 2) == (mask == 1)).all()
    assert mask.sum(1).min() >= 2
    assert (empty[:, 0] == 2).all()
    assert empty_mask.sum() == 3
