"""The things in the artists' pictures: everyday ones, common ones, or all."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Literal

from data.artist_sets import Drawing
from data.openmoji_splits import Emoji

COMMON_STYLES = 6
"""The least number of artists who have drawn a common thing."""
# Words that tell many pictures apart by a detail: people, flags, clocks, buttons.
_UNCOMMON = re.compile(r"\b(woman|women|man|men|person|people|button|keycap|o'clock|thirty|moon)\b")
_UNCOMMON_GROUPS = ("flags", "people-body", "component", "extras-openmoji", "extras-unicode")


Subset = Literal["things", "common", "all"]


THINGS = frozenset(
    """red apple|banana|strawberry|pizza|hamburger|doughnut|birthday cake|ice cream|watermelon
avocado|carrot|grapes|cherries|lemon|pineapple|bread|cat|dog face|pig face|cow face|panda|fox|frog
lion|penguin|owl|fish|octopus|butterfly|snail|turtle|whale|unicorn|rabbit face|elephant|monkey face
bear|koala|red heart|blue heart|green heart|yellow heart|purple heart|black heart|broken heart
grinning face|crying face|angry face|sleeping face|clown face|smiling face with sunglasses
smiling face with heart-eyes|robot|ghost|alien|skull|rocket|airplane|automobile|bus|bicycle|sailboat
helicopter|locomotive|taxi|ambulance|tractor|house|castle|tent|church|umbrella|guitar|trumpet|violin
drum|balloon|wrapped gift|crown|gem stone|light bulb|key|candle|scissors|hammer|telephone|camera
television|books|basketball|soccer ball|sunflower|tulip|rose|cactus|palm tree|evergreen tree
mushroom|rainbow|snowflake|sun|cloud|full moon|star|volcano|snowman|hourglass done""".replace(
        "\n", "|"
    ).split("|")
)
"""Everyday things that nearly all artists have drawn."""


def choose(drawings: Sequence[Drawing], subset: Subset) -> list[Drawing]:
    """The drawings of a subset, in order."""
    if subset == "all":
        return list(drawings)
    if subset == "things":
        return [one for one in drawings if one.emoji.name in THINGS]
    styles = Counter(one.emoji.hexcode for one in drawings)
    return [
        one
        for one in drawings
        if styles[one.emoji.hexcode] >= COMMON_STYLES and is_common(one.emoji)
    ]


def is_common(emoji: Emoji) -> bool:
    """True for things with a name of one word or two."""
    return (
        not emoji.tone and emoji.group not in _UNCOMMON_GROUPS and not _UNCOMMON.search(emoji.name)
    )
