"""data.artists on small packages that are made here: joining, splits, captions, licences."""

import io
import json
import shutil
import tarfile
from collections import defaultdict
from pathlib import Path

import pytest

from data.artists import captions_of, main, own_keywords
from data.builtin.artist_config import ArtistsConfig, digest_of_code
from data.builtin.artist_sets import (
    SHIPPED,
    STYLES,
    Drawing,
    IconSet,
    fetch_packages,
    join,
    licenses,
    open_sets,
    plain_hexcode,
    read_shipped,
    squash,
    write_shipped,
)
from data.builtin.artist_splits import assign_splits
from data.builtin.artist_things import EVERYDAY, THINGS, Subset, choose
from data.builtin.artist_words import WORDS, common_names
from data.builtin.drawings import read_table
from data.builtin.openmoji_splits import Emoji
from data.builtin.wording import article, plural
from data.sources import open_source

LICENSES = {"fluent-emoji": "MIT", "openmoji": "CC-BY-SA-4.0"}


def slug_of(emoji: Emoji) -> str:
    return "-".join("".join(c if c.isalnum() else " " for c in emoji.name).split())


def write_package(folder: Path, name: str, emojis: list[Emoji], with_code_points: bool) -> None:
    """Write an icon set like npm's, in which every drawing has a different colour."""
    package = folder / name / "package"
    package.mkdir(parents=True)
    icons = {}
    for number, emoji in enumerate(emojis):
        colour = f"#{(list(STYLES).index(name) * 4096 + number * 7919) % 0xFFFFFF:06x}"
        icons[slug_of(emoji)] = {"body": f'<path fill="{colour}" d="M2 2h{8 + number % 9}v12H2z"/>'}
    content = {
        "prefix": name,
        "icons": icons,
        "width": 16,
        "height": 16,
        "info": {
            "license": {"spdx": LICENSES.get(name, "Apache-2.0")},
            "author": {"name": f"drawer of {name}"},
        },
    }
    about = {"name": f"@iconify-json/{name}", "version": "1.0.0"}
    (package / "icons.json").write_text(json.dumps(content))
    (package / "package.json").write_text(json.dumps(about))
    if with_code_points:
        codes = {emoji.hexcode.lower(): slug_of(emoji) for emoji in emojis}
        (package / "chars.json").write_text(json.dumps(codes))


@pytest.fixture(scope="module")
def emojis() -> list[Emoji]:
    return read_table()


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory, emojis: list[Emoji]) -> Path:
    """Packages of eight artists: drawings of the things, some hands in all tones, and a rude
    gesture."""
    folder = tmp_path_factory.mktemp("packages")
    chosen = [e for e in emojis if e.name in THINGS or e.name.startswith(("waving", "middle"))]
    for name in STYLES:
        write_package(folder, name, chosen, with_code_points=name in ("noto", "openmoji"))
    return folder


@pytest.fixture(scope="module")
def drawings(packages: Path, emojis: list[Emoji]) -> list[Drawing]:
    return join(open_sets(packages), emojis)


@pytest.fixture(scope="module")
def splits(drawings: list[Drawing]) -> dict[str, str]:
    return assign_splits(drawings, {drawing.key: drawing.key for drawing in drawings})


def test_all_things_are_names_of_the_table(emojis: list[Emoji]) -> None:
    assert {emoji.name for emoji in emojis} >= THINGS


def test_sets_are_joined_by_code_point_and_by_name(drawings: list[Drawing]) -> None:
    styles = defaultdict(set)
    for drawing in drawings:
        styles[drawing.emoji.name].add(drawing.style)
    assert set(styles) >= THINGS
    assert {name for name, drawn in styles.items() if drawn != set(STYLES.values())} == set()


def test_names_are_compared_without_what_slugs_leave_out() -> None:
    assert squash("waving hand: medium-dark skin tone") == squash("waving-hand-medium-dark")
    assert squash("admission tickets") == "admissiontickets"
    assert plain_hexcode("2764-fe0f") == "2764"


def test_no_offensive_gesture_is_drawn(drawings: list[Drawing], emojis: list[Emoji]) -> None:
    assert any(emoji.name.startswith("middle finger") for emoji in emojis)
    assert not [drawing for drawing in drawings if "middle finger" in drawing.emoji.name]


def test_a_held_out_pair_s_thing_and_artist_are_both_trained_apart(
    drawings: list[Drawing], splits: dict[str, str]
) -> None:
    trained = [drawing for drawing in drawings if splits[drawing.key] == "train"]
    things, styles = (
        {drawing.emoji.concept for drawing in trained},
        {drawing.style for drawing in trained},
    )
    pairs = {(drawing.emoji.concept, drawing.style) for drawing in trained}
    held = [drawing for drawing in drawings if splits[drawing.key] == "style"]
    assert len(held) > 0.05 * len(drawings)
    for drawing in held:
        assert drawing.emoji.concept in things
        assert drawing.style in styles
        assert (drawing.emoji.concept, drawing.style) not in pairs


def test_a_held_out_thing_is_trained_by_nobody(
    drawings: list[Drawing], splits: dict[str, str]
) -> None:
    unknown = {drawing.emoji.concept for drawing in drawings if splits[drawing.key] == "concept"}
    assert unknown
    for drawing in drawings:
        if drawing.emoji.concept in unknown:
            assert splits[drawing.key] in ("concept", "gallery")


def test_a_held_out_tone_s_siblings_are_trained(
    drawings: list[Drawing], splits: dict[str, str]
) -> None:
    by_pair = defaultdict(list)
    for drawing in drawings:
        by_pair[drawing.emoji.concept, drawing.style].append(splits[drawing.key])
    toned = [found for found in by_pair.values() if "tone" in found]
    assert toned
    for found in toned:
        assert found.count("tone") == 1
        assert found.count("train") == 5


def test_a_held_out_picture_that_equals_a_training_picture_is_not_asked(
    drawings: list[Drawing],
) -> None:
    splits = assign_splits(drawings, {drawing.key: "the same" for drawing in drawings})
    assert set(splits.values()) == {"train", "gallery"}


def test_splits_do_not_depend_on_which_packages_or_things_there_are(
    drawings: list[Drawing], splits: dict[str, str]
) -> None:
    some = drawings[::3]
    again = assign_splits(some[::-1], {drawing.key: drawing.key for drawing in some})
    assert again == {drawing.key: splits[drawing.key] for drawing in some}


def emoji_named(emojis: list[Emoji], name: str) -> Emoji:
    return next(emoji for emoji in emojis if emoji.name == name)


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("red apple", "a red apple, noto style"),
        ("owl", "an owl, noto style"),
        ("cherries", "cherries, noto style"),
        ("flag: japan", "flag: japan, noto style"),
        ("grinning face with smiling eyes", "a grinning face with smiling eyes, noto style"),
        ("glass of milk", "a glass of milk, noto style"),
        ("octopus", "an octopus, noto style"),
    ],
)
def test_the_prompt_of_the_exam_names_the_thing_and_the_style(
    emojis: list[Emoji], name: str, first: str
) -> None:
    captions = captions_of(Drawing(emoji_named(emojis, name), "noto", "", ""), (), ())
    assert captions[0][0] == first
    assert sum(weight for _, weight in captions) == pytest.approx(1)
    assert len({text for text, _ in captions}) == len(captions)


def test_synonyms_are_keywords_that_no_other_thing_has(emojis: list[Emoji]) -> None:
    rocket, cat = emoji_named(emojis, "rocket"), emoji_named(emojis, "cat")
    other = emoji_named(emojis, "cat face")
    found = own_keywords([rocket, cat, other])
    assert "space" in found[rocket.hexcode]
    assert not set(found[cat.hexcode]) & set(other.tags)
    for emoji in (rocket, cat):
        assert emoji.name not in found[emoji.hexcode]


def test_people_s_own_words_for_a_thing_are_a_third_of_its_captions(emojis: list[Emoji]) -> None:
    captions = captions_of(Drawing(emoji_named(emojis, "automobile"), "noto", "", ""), (), ())
    assert {"car", "a car", "a car, noto style"} < {text for text, _ in captions}
    share = sum(weight for text, weight in captions if "car" in text.split(",")[0].split())
    assert share == pytest.approx(1 / 3)
    assert set(WORDS) <= EVERYDAY


def test_a_face_has_the_animal_s_name_only_where_no_whole_animal_is_drawn() -> None:
    assert "dog" in common_names("dog face", {"dog face", "cat"})
    assert common_names("dog face", {"dog face", "dog"}) == ("happy dog",)
    assert common_names("rocket", {"rocket"}) == ()


def test_plurals() -> None:
    words = ["cat", "fox", "berry", "monkey", "glasses", "flag: japan", "red heart"]
    found = [[*plural(word)] for word in words]
    assert found == [["cats"], ["foxes"], ["berries"], ["monkeys"], [], [], ["red hearts"]]
    assert article(Emoji("1", "flags", "", "pirate flag", (), "", "1")) == ""


def test_the_tars_carry_captions_splits_styles_and_licences(
    packages: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = ArtistsConfig(str(tmp_path / "a"), str(packages), "things", 16)
    main(config)
    output = capsys.readouterr().out
    assert output.startswith(f"{tmp_path / 'a'}: {len(THINGS)} things by 8 artists: ")
    source = open_source(tmp_path / "a")
    examples = [source[i] for i in range(len(source))]
    assert len(examples) == 8 * len(THINGS)
    assert {e.attributes["style"] for e in examples} == set(STYLES.values())
    for example in examples:
        prefix = {style: name for name, style in STYLES.items()}[example.attributes["style"]]
        assert example.attributes["license"] == LICENSES.get(prefix, "Apache-2.0")
        assert example.captions[0][0].endswith(f", {example.attributes['style']} style")
    page = (tmp_path / "a" / "LICENSES.md").read_text()
    assert "| openmoji | @iconify-json/openmoji 1.0.0 | drawer of openmoji | CC-BY-SA-4.0 |" in page
    main(config)  # the second call finds the finished folder
    main(ArtistsConfig(str(tmp_path / "b"), str(packages), "things", 16))
    tars = [(tmp_path / name / "00000.tar").read_bytes() for name in ("a", "b")]
    assert tars[0] == tars[1]


def test_the_shipped_drawings_are_the_things_by_eight_artists(emojis: list[Emoji]) -> None:
    sets = read_shipped()
    assert SHIPPED.stat().st_size < 2_000_000
    found = choose(join(sets, emojis), "things")
    assert len(found) == sum(len(one.icons) for one in sets) == 824
    assert {one.emoji.name for one in found} == THINGS
    assert [one.style for one in sets] == [*STYLES.values()]
    page = SHIPPED.with_name("THINGS_LICENSES.md").read_text()
    assert page == licenses(sets)


def test_things_need_no_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")  # no npm
    main(ArtistsConfig(str(tmp_path / "a"), image_size=16))
    about = json.loads((tmp_path / "a" / "artists.json").read_text())
    assert about["num_concepts"] == len(THINGS)
    assert about["counts"] == {"concept": 32, "style": 90, "train": 702}
    with pytest.raises(ValueError, match="npm is not installed"):
        main(ArtistsConfig(str(tmp_path / "b"), subset="common"))


def test_shipped_drawings_equal_those_of_the_packages(
    packages: Path, emojis: list[Emoji], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sets = open_sets(packages)
    chosen = choose(join(sets, emojis), "things")
    monkeypatch.setattr("data.builtin.artist_sets.SHIPPED", tmp_path / "things.json.gz")
    write_shipped(sets, chosen, tmp_path / "things.json.gz")
    again = join(read_shipped(), emojis)
    assert [(d.key, d.svg) for d in again] == [(d.key, d.svg) for d in chosen]


def test_another_subset_does_not_replace_what_is_there(packages: Path, tmp_path: Path) -> None:
    main(ArtistsConfig(str(tmp_path / "a"), str(packages), "things", 16))
    with pytest.raises(ValueError, match="holds something else"):
        main(ArtistsConfig(str(tmp_path / "a"), str(packages), "all", 16))


def test_pictures_of_an_earlier_version_are_kept_and_it_is_said(
    packages: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An update of Pastel must not stop `make quickstart` at the pictures that are there."""
    out = tmp_path / "a"
    config = ArtistsConfig(str(out), str(packages), "things", 16)
    main(config)
    assert "another version" not in capsys.readouterr().err
    about = json.loads((out / "artists.json").read_text())
    (out / "artists.json").write_text(json.dumps({**about, "recipe": "of an earlier version"}))
    before = (out / "00000.tar").stat().st_mtime_ns
    main(config)
    assert "was made by another version of Pastel" in capsys.readouterr().err
    assert (out / "00000.tar").stat().st_mtime_ns == before
    (out / "artists.json").write_text(
        json.dumps({**about, "composed": "pictures of data.composed"})
    )
    with pytest.raises(ValueError, match="holds something else"):
        main(config)


def test_subsets_hold_one_another(drawings: list[Drawing]) -> None:
    names: tuple[Subset, ...] = ("things", "everyday", "common", "all")
    keys = {name: {d.key for d in choose(drawings, name)} for name in names}
    assert keys["things"] <= keys["everyday"] < keys["all"]
    assert keys["common"] < keys["all"]
    assert not [d for d in choose(drawings, "common") if d.emoji.tone]


def test_packed_packages_are_read_like_unpacked_ones(packages: Path, tmp_path: Path) -> None:
    for name in STYLES:
        with tarfile.open(tmp_path / f"{name}.tgz", "w:gz") as tar:
            tar.add(packages / name / "package", "package")
    assert open_sets(tmp_path) == open_sets(packages)


def test_drawings_keep_their_place_in_a_square() -> None:
    icons = {"wide": {"body": "<path/>", "width": 32}, "moved": {"body": "<path/>", "left": -4}}
    sides = {"left": 0.0, "top": 0.0, "width": 16.0, "height": 16.0}
    icon_set = IconSet("p", "1", "noto", "MIT", "a", icons, sides, {})
    assert 'viewBox="0 -8 32 32"' in icon_set.svg("wide")
    assert 'viewBox="-4 0 16 16"' in icon_set.svg("moved")


def test_missing_packages_are_named(packages: Path, tmp_path: Path) -> None:
    for name in list(STYLES)[:-1]:
        shutil.copytree(packages / name, tmp_path / name)
    with pytest.raises(ValueError, match=r"does not hold @iconify-json/fxemoji; .*npm pack"):
        open_sets(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"), [("icons.json", "{"), ("icons.json", "[]"), ("icons.json", "{}")]
)
def test_a_damaged_package_is_named(
    packages: Path, tmp_path: Path, name: str, content: str
) -> None:
    package = tmp_path / "x"
    package.mkdir()
    (package / "package.json").write_text(json.dumps({"name": "@iconify-json/noto"}))
    (package / name).write_text(content)
    with pytest.raises(ValueError, match=r"x.* fetch it again"):
        open_sets(tmp_path)


def test_a_cut_off_download_is_named(tmp_path: Path) -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        member = tarfile.TarInfo("package/icons.json")
        member.size = 100_000
        tar.addfile(member, io.BytesIO(bytes(range(250)) * 400))
    (tmp_path / "noto.tgz").write_bytes(file.getvalue()[:-100])
    with pytest.raises(ValueError, match=r"noto\.tgz is damaged: .*fetch it again"):
        open_sets(tmp_path)


def test_without_npm_the_way_out_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match="npm is not installed; .*--packages"):
        fetch_packages(tmp_path / "p")


def test_npm_s_refusal_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\necho 'no network' >&2\nexit 1\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    with pytest.raises(ValueError, match=r"npm pack .*@iconify-json/noto failed: no network; "):
        fetch_packages(tmp_path / "p")


def test_a_comment_or_docstring_more_leaves_drawn_pictures_as_they_are(tmp_path: Path) -> None:
    code = '\nFROM = "a"\n\n\ndef f(x: int) -> str:\n    return f"{x!r}  #"\n'
    words = f'"""What it is\nfor: #."""\n{code}"""Two\nlines."""  # and more\n'
    words = words.replace("    return", '    # why "this"\n    """Returns x."""\n    return')
    digests = []
    for number, text in enumerate((code, words, code.replace("!r", "!s"), code + "FROM")):
        path = tmp_path / f"{number}.py"
        path.write_text(text, encoding="utf-8")
        digests.append(digest_of_code([path]))
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3
