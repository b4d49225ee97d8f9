"""Retrieval features and questions, on small pictures drawn with numpy."""

import numpy as np
import pytest

from data.exams.gallery import Gallery, distinct_pictures, picture_features

TONES = [60, 100, 140, 180, 220]


def draw(shape: str, shade: int, size: int = 64) -> np.ndarray:
    """A picture of a square, disc or bar in a brown shade on white."""
    y, x = np.mgrid[:size, :size] / size - 0.5
    inside = {
        "square": (abs(x) < 0.3) & (abs(y) < 0.3),
        "disc": np.hypot(x, y) < 0.35,
        "bar": abs(x - y) < 0.12,
    }[shape]
    return np.where(inside[..., None], [shade, shade // 2, 40], 255).astype(np.uint8)


@pytest.fixture(scope="module")
def gallery() -> Gallery:
    """A gallery of three shapes in five shades. The third shade of each is held out."""
    rows = [(shape, tone) for shape in ("square", "disc", "bar") for tone in range(1, 6)]
    pictures = np.stack([draw(shape, TONES[tone - 1]) for shape, tone in rows])
    genders = {"square": "woman", "disc": "man", "bar": "person"}
    attributes = [
        {"concept": shape, "tone": str(tone), "gender": genders[shape], "role": "r"}
        for shape, tone in rows
    ]
    return Gallery(pictures, attributes, np.array([tone != 3 for _, tone in rows]))


HELD_OUT = np.array([2, 7, 12])


def means(answers: dict[str, np.ndarray]) -> dict[str, float]:
    return {name: float(answer.mean()) for name, answer in answers.items()}


def test_the_real_picture_finds_itself(gallery: Gallery) -> None:
    scores = means(gallery.judge(gallery.pictures[HELD_OUT], HELD_OUT))
    assert scores.pop("nn_is_train") == 0
    others = {"style", "both", "colour", "number"}
    asked = {name: score for name, score in scores.items() if name not in others}
    assert set(asked.values()) == {1.0}


def test_a_copied_training_sibling_shows_the_concept_but_is_not_the_picture(
    gallery: Gallery,
) -> None:
    scores = means(gallery.judge(gallery.pictures[HELD_OUT + 1], HELD_OUT))
    assert scores["concept"] == scores["all_top5"] == scores["gender3way"] == 1
    assert scores["nn_is_train"] == 1
    assert scores["all_top1"] == scores["tone5way"] == 0


def test_identical_pictures_are_one_target_with_both_concepts() -> None:
    pictures = np.stack([draw("square", 100), draw("disc", 100), draw("square", 100)])
    attributes = [{"concept": "student"}, {"concept": "disc"}, {"concept": "man student"}]
    gallery = Gallery(pictures, attributes, np.array([False, True, False]))
    assert distinct_pictures(pictures).tolist() == [0, 1, 0]
    scores = gallery.judge(pictures[[0]], np.array([2]))
    assert scores["all_top1"] == scores["concept"] == 1
    assert scores["nn_is_train"] == 0
    assert gallery.chance(np.array([2]))["all_top1"] == pytest.approx(1 / 2)


def test_without_itself_a_picture_is_right_by_a_sibling_and_never_by_a_copy() -> None:
    """The second disc has one sibling, the first. The square has none: its copy is the same
    picture."""
    pictures = np.stack([draw("disc", 100), draw("disc", 110), draw("square", 100)])
    pictures = np.concatenate([pictures, pictures[2:]])
    attributes = [{"concept": name} for name in ("disc", "disc", "square", "square")]
    gallery = Gallery(pictures, [*attributes[:3], {}], np.array([True, False, False, True]))
    found = gallery.without_itself(np.array([1, 2, 3]))["concept"]
    np.testing.assert_array_equal(found, [1, 0, np.nan])
    assert gallery.nearest(pictures[[1, 3]]).tolist() == [1, 2]


def test_questions_without_columns_are_not_asked() -> None:
    pictures = np.stack([draw("square", 100), draw("disc", 100)])
    gallery = Gallery(pictures, [{}, {}], np.array([True, False]))
    scores = gallery.judge(pictures[[1]], np.array([1]))
    assert scores["all_top1"] == 1
    assert all(np.isnan(scores[name]).all() for name in ("concept", "tone5way", "gender3way"))
    chance = gallery.chance(np.array([1]))
    assert np.isnan(chance["concept"]).all()
    assert chance["nn_is_train"] == pytest.approx(1 / 2)


def test_a_forced_choice_needs_all_its_siblings(gallery: Gallery) -> None:
    fewer = Gallery(gallery.pictures[1:], gallery.attributes[1:], gallery.in_training[1:])
    scores = fewer.judge(gallery.pictures[[2, 7]], np.array([1, 6]))
    assert np.isnan(scores["tone5way"]).tolist() == [True, False]


def test_a_forced_choice_is_about_the_target_and_not_its_namesake(gallery: Gallery) -> None:
    namesake = draw("square", TONES[2])[::-1, ::-1].copy()
    namesake[:8] = 0  # another picture of the same concept and tone, after the first
    more = Gallery(
        np.concatenate([gallery.pictures, namesake[None]]),
        [*gallery.attributes, gallery.attributes[2]],
        np.append(gallery.in_training, False),
    )
    drawn = more.pictures[[2, 15]]
    for name in ("tone5way", "gender3way"):
        assert more.judge(drawn, np.array([2, 15]))[name].tolist() == [1, 1]


def test_chance_is_what_random_real_pictures_score(gallery: Gallery) -> None:
    every = np.arange(len(gallery.pictures))
    targets, drawn = (grid.ravel() for grid in np.meshgrid(every, every))
    scores = means(gallery.judge(gallery.pictures[drawn], targets))
    chance = means(gallery.chance(targets))
    for name in ("all_top1", "all_top5", "concept", "nn_is_train"):
        assert scores[name] == pytest.approx(chance[name], abs=1e-6)
    assert chance["tone5way"] == pytest.approx(1 / 5)


def styled(styles: str, held_out: int) -> Gallery:
    """A gallery of a square, a disc and a bar, each in the named shades. 12345 stand for five
    artists."""
    rows = [(shape, tone) for shape in ("square", "disc", "bar") for tone in map(int, styles)]
    pictures = np.stack([draw(shape, TONES[tone - 1]) for shape, tone in rows])
    attributes = [{"concept": shape, "style": f"artist {tone}"} for shape, tone in rows]
    return Gallery(pictures, attributes, np.arange(len(rows)) != held_out)


def test_style_is_a_choice_among_the_artists_that_drew_the_thing() -> None:
    gallery, target = styled("135", 1), np.array([1])
    right, other_style, other_thing = gallery.pictures[[1]], *gallery.pictures[[[0], [4]]]
    answers = {
        name: [gallery.judge(drawn, target)[name].item() for name in ("concept", "style", "both")]
        for name, drawn in {"right": right, "style": other_style, "thing": other_thing}.items()
    }
    assert answers == {"right": [1, 1, 1], "style": [1, 0, 0], "thing": [0, 1, 0]}


def test_style_has_the_chance_of_the_number_of_artists() -> None:
    for styles in ("13", "135", "12345"):
        gallery = styled(styles, 0)
        every = np.arange(len(gallery.pictures))
        targets, drawn = (grid.ravel() for grid in np.meshgrid(every, every))
        scores = means(gallery.judge(gallery.pictures[drawn], targets))
        chance = means(gallery.chance(targets))
        assert chance["style"] == pytest.approx(1 / len(styles))
        assert chance["both"] == pytest.approx(scores["both"], abs=1e-6)


@pytest.mark.parametrize("attribute", ["colour", "number"])
def test_colours_and_numbers_are_choices_among_one_artist_s_pictures_of_a_thing(
    attribute: str,
) -> None:
    shades = styled("135", 1)
    attributes = [
        {"concept": one["concept"], "style": "noto", attribute: one["style"]}
        for one in shades.attributes
    ]
    gallery, target = Gallery(shades.pictures, attributes, shades.in_training), np.array([1])
    right, other = gallery.pictures[[1]], gallery.pictures[[0]]
    assert gallery.judge(right, target)[attribute] == 1
    assert gallery.judge(other, target)[attribute] == 0
    assert gallery.chance(target)[attribute] == pytest.approx(1 / 3)
    assert np.isnan(gallery.judge(right, target)["style"]).all()  # there is only one artist


def test_style_is_not_asked_where_one_artist_drew_the_thing(gallery: Gallery) -> None:
    alone = styled("3", 0)
    for name in ("style", "both"):
        assert np.isnan(alone.judge(alone.pictures[[0]], np.array([0]))[name]).all()
        assert np.isnan(gallery.judge(gallery.pictures[[0]], np.array([0]))[name]).all()


def test_enlarging_a_picture_does_not_change_its_features() -> None:
    small = draw("disc", 140, 64)
    large = small.repeat(3, axis=0).repeat(3, axis=1)
    both = picture_features(small[None]), picture_features(large[None])
    np.testing.assert_allclose(*both, atol=1e-6)


@pytest.mark.parametrize("size", [32, 48, 100])
def test_pictures_of_any_size_find_their_like(size: int) -> None:
    shapes = ["square", "disc", "bar"]
    references = picture_features(np.stack([draw(shape, 140) for shape in shapes]))
    features = picture_features(np.stack([draw(shape, 140, size) for shape in shapes]))
    assert (features @ references.T).argmax(axis=1).tolist() == [0, 1, 2]


def test_features_follow_their_definition() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3)).astype(np.uint8)
    colour = 1 - (picture[0] / 255).reshape(16, 4, 16, 4, 3).mean(axis=(1, 3))
    features = picture_features(picture)[0]
    expected = colour.ravel() / np.linalg.norm(colour)
    np.testing.assert_allclose(features[: 16 * 16 * 3], expected, atol=1e-6)
    assert np.linalg.norm(features[16 * 16 * 3 :]) == pytest.approx(1, abs=1e-5)


def test_upright_stripes_fill_the_bin_of_level_gradients() -> None:
    stripes = np.full((1, 64, 64, 3), 255, np.uint8)
    stripes[:, :, ::8] = 0
    shape = picture_features(stripes)[0, 16 * 16 * 3 :].reshape(8, 8, 6)
    assert shape[..., 0].sum() > 0
    assert np.abs(shape[..., 1:]).max() == 0


def test_a_blank_picture_has_no_features() -> None:
    assert not picture_features(np.full((1, 64, 64, 3), 255, np.uint8)).any()


def test_lists_of_unequal_length_are_refused() -> None:
    with pytest.raises(ValueError, match="got 2, 1 and 2"):
        Gallery(np.zeros((2, 64, 64, 3), np.uint8), [{}], np.zeros(2, bool))
