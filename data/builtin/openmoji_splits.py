"""Held-out OpenMoji pictures: unseen skin tones, couples, genders and concepts.

They are chosen by crc32 of names, so no random generator, platform or order of rows changes them. A
held-out picture that equals a training picture is not evaluated.
"""

import zlib
from dataclasses import dataclass

from common.split_names import GALLERY, TRAIN


@dataclass(frozen=True)
class Emoji:
    """One drawing. `tone` is "" or "1" (light) … "5" (dark), or "2,5" for two people; `concept` is
    the hexcode of the drawing without skin tone."""

    hexcode: str
    group: str
    subgroup: str
    name: str
    tags: tuple[str, ...]
    tone: str
    concept: str


def assign_splits(emojis: list[Emoji], digests: dict[str, str]) -> dict[str, str]:
    """Split of each hexcode: train, tone, tone2, gender or random; or "gallery" for a held-out
    picture whose pixels (`digests`, by hexcode) equal a training picture's."""
    women = held_out_women(emojis)
    splits = {e.hexcode: _rule(e, women) for e in emojis}
    trained = {digests[name] for name, split in splits.items() if split == TRAIN}
    return {
        name: GALLERY if split != TRAIN and digests[name] in trained else split
        for name, split in splits.items()
    }


def _rule(emoji: Emoji, women: set[str]) -> str:
    tones = [int(tone) for tone in emoji.tone.split(",") if tone]
    if emoji.concept in women:
        return "gender"
    if len(tones) == 1 and tones[0] == 1 + crc(emoji.concept) % 5:
        return "tone"
    if len(tones) == 2 and (5 * tones[0] + tones[1] + crc(emoji.concept)) % 10 == 0:
        return "tone2"
    # People are the bases of the skin tones and components their parts: both are needed to learn.
    needed = tones or emoji.group in ("people-body", "component")
    return "random" if not needed and crc("r:" + emoji.hexcode) % 20 == 0 else TRAIN


def gender_triples(emojis: list[Emoji]) -> dict[str, tuple[str, str]]:
    """(gender, role) by concept, for each role drawn as a woman, a man and a person: woman artist,
    man artist, artist → ("woman", "artist"), ("man", "artist"), ("person", "artist")."""
    people = {e.name: e.concept for e in emojis if e.group == "people-body" and not e.tone}
    role_of: dict[str, tuple[str, str]] = {}
    for name in people:
        gender, _, role = name.partition(" ")
        person = people.get(role) or people.get(f"person {role}")
        if gender == "woman" and person and f"man {role}" in people:
            role_of[people[name]] = ("woman", role)
            role_of[people[f"man {role}"]] = ("man", role)
            role_of[person] = ("person", role)
    return role_of


def held_out_women(emojis: list[Emoji]) -> set[str]:
    """Concepts "woman X" of the 10 % of roles X with the smallest crc32."""
    triples = gender_triples(emojis)
    women = {role: concept for concept, (gender, role) in triples.items() if gender == "woman"}
    roles = sorted(women, key=lambda role: crc("g:" + role))
    return {women[role] for role in roles[: round(len(roles) / 10)]}


def crc(text: str) -> int:
    """crc32 of the UTF-8 bytes."""
    return zlib.crc32(text.encode())
