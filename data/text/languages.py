"""Prompts in 13 other languages: names of things → English, by the `emoji` package's names."""

import re
from functools import cache

from data.text.words import Captions, words_of

ARTICLE = re.compile(
    r"^(?:an?|the|eine?n?|der|die|das|un[aeo]?|l[aeo]s?|el|il|l'|uma?|o|bir|sebuah|seekor)\s*"
    r"(?<=[\s'])"
)
"""An article at the start of a lower-case name, with the space after it."""


@cache
def english_names() -> dict[str, str]:
    """Name in another language → English name, in lower case.

    Of several English names the shortest is taken: 猫 is a cat, not a cat's face. English words are
    not in it: pie is Spanish for foot, too.
    """
    import emoji

    for language in emoji.LANGUAGES:
        emoji.config.load_language(language)
    names: dict[str, str] = {}
    ambiguous = {
        _plain(name) for e in emoji.EMOJI_DATA.values() for name in (e["en"], *e.get("alias", ()))
    }
    for about in emoji.EMOJI_DATA.values():
        english = _plain(about["en"])
        for language in emoji.LANGUAGES:
            if language != "en" and (name := about.get(language)):
                known = names.setdefault(_plain(name), english)
                names[_plain(name)] = min(known, english, key=lambda name: (len(name), name))
    return {name: english for name, english in names.items() if name not in ambiguous}


class English:
    """Translates names of things in prompts into the words of a model's captions."""

    def __init__(self, known: Captions) -> None:
        self._captions = frozenset(map(_plain, known.texts))
        self._words = known.words

    def read(self, prompt: str) -> str:
        """The prompt, with the name of its thing in the captions' words: "sun" for "the sun", "cat"
        for "eine Katze". It is unchanged if it is a caption, or if no caption has the name. Text
        after a comma, such as a style, is kept."""
        thing, comma, rest = prompt.partition(",")
        plain = _plain(thing)
        bare = ARTICLE.sub("", plain, count=1)
        if plain in self._captions:
            return prompt
        if bare in self._captions:
            return bare + comma + rest
        if self._words >= set(words_of(bare)):
            return prompt
        english = english_names().get(plain) or english_names().get(bare)
        if english and self._words >= set(words_of(english)):
            return english + comma + rest
        return prompt


def _plain(name: str) -> str:
    """A name without the signs that the package puts around and between its words."""
    return " ".join(name.strip(":").replace("_", " ").casefold().split())
