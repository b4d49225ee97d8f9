"""Names of things in 13 languages besides English: those that every emoji has, by the `emoji`
package. A model whose captions are English is asked in any of them."""

import re
from collections.abc import Collection
from functools import cache

from data.words import words_of

ARTICLE = re.compile(
    r"(?:an?|the|eine?n?|der|die|das|une?|les?|la|un[ao]?|el|il|lo|l'|um[a]?|o|bir|sebuah|seekor)\s*"
    r"(?<=[\s'])",
    re.IGNORECASE,
)


@cache
def english_names() -> dict[str, str]:
    """English names by their names in the other languages, in small letters.

    Of several English names for one word the shortest is taken: 猫 is a cat, not a cat's face.
    English words are not in it: pie is Spanish for foot, too.
    """
    import emoji

    for language in emoji.LANGUAGES:
        emoji.config.load_language(language)
    names: dict[str, str] = {}
    own = {
        _plain(name) for e in emoji.EMOJI_DATA.values() for name in (e["en"], *e.get("alias", ()))
    }
    for about in emoji.EMOJI_DATA.values():
        english = _plain(about["en"])
        for language in emoji.LANGUAGES:
            if language != "en" and (name := about.get(language)):
                known = names.setdefault(_plain(name), english)
                names[_plain(name)] = min(known, english, key=lambda name: (len(name), name))
    return {name: english for name, english in names.items() if name not in own}


def to_english(prompt: str, words: Collection[str]) -> str:
    """The prompt with the name of its thing in English, if a word of it is not among the captions'
    `words` and all of its English name are. Otherwise the prompt as it is. What stands behind a
    comma, such as a style, stays."""
    thing, comma, rest = prompt.partition(",")
    if all(word in words for word in words_of(thing)):
        return prompt
    plain = " ".join(thing.casefold().split())
    for name in (plain, ARTICLE.sub("", plain, count=1) if ARTICLE.match(plain) else plain):
        english = english_names().get(name)
        if english and all(word in words for word in words_of(english)):
            return english + comma + rest
    return prompt


def _plain(name: str) -> str:
    """A name without the signs that the package puts around and between its words."""
    return " ".join(name.strip(":").replace("_", " ").casefold().split())
