"""Compares prompts with training captions: unknown words, and the nearest captions."""

import difflib
import itertools
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence, Set

from common.split_names import TRAIN
from data.records import Records
from data.text.tokens import clean

MAX_CAPTIONS = 300_000
"""Most captions of records that are read for their words; more would take seconds."""
FAR = 0.5
"""A prompt is far from a caption that has a smaller share of its words."""
NEARLY = 0.75
"""Similarity by difflib from which two words count as the same, such as plural and singular."""
SHOWN, NEAREST, LINES = 20, 3, 5  # most unknown words, near captions, lines that are printed
ARTICLES = frozenset(("a", "an", "the"))
"""Words that are ignored in comparisons."""
WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")


def words_of(text: str) -> list[str]:
    """The words of a text in their order, in lower case."""
    return WORD.findall(clean(text).lower().replace("’", "'").replace("‘", "'"))


def captions_of(records: Records, rows: Iterable[int]) -> list[list[str]] | None:
    """The captions of each of these examples, decoded from their tokens. None if the tokenizer has
    no tokenizer.json."""
    import tokenizers

    file = records.tokenizer_folder / "tokenizer.json"
    if not file.is_file():
        return None
    tokenizer = tokenizers.Tokenizer.from_file(str(file))
    offsets, lengths = records.caption_offsets, records.text_lengths.tolist()
    spans = [range(offsets[row], offsets[row + 1]) for row in rows]
    tokens = [records.text_tokens[i, : lengths[i]].tolist() for span in spans for i in span]
    texts = iter(tokenizer.decode_batch(tokens))
    return [[next(texts) for _ in span] for span in spans]


def training_captions(records: Records) -> list[str] | None:
    """The distinct training captions, decoded from their tokens, in their order. None if there are
    too many, or if the tokenizer has no tokenizer.json."""
    if len(records.text_tokens) > MAX_CAPTIONS:
        return None
    captions = captions_of(records, records.rows(TRAIN))
    return None if captions is None else list(dict.fromkeys(itertools.chain(*captions)))


def training_words(records: Records) -> set[str] | None:
    """All words of the training captions; None if `training_captions` returns None."""
    captions = training_captions(records)
    return None if captions is None else {word for text in captions for word in words_of(text)}


def unknown_words(prompts: Iterable[str], known: Set[str]) -> list[str]:
    """The unknown words of the prompts, each once, in their order, without articles."""
    words = (word for prompt in prompts for word in words_of(prompt))
    return [word for word in dict.fromkeys(words) if word not in known and word not in ARTICLES]


def describe_unknown(words: Sequence[str]) -> str:
    """A sentence such as "no training caption has these words: zebra, xylophone"."""
    more = f" and {len(words) - SHOWN} more" if words[SHOWN:] else ""
    shown = ", ".join(words[:SHOWN]) + more
    these = "this word" if len(words) == 1 else "these words"
    return f"no training caption has {these}: {shown}"


class Captions:
    """Captions, with their words. The captions nearest to a prompt share the most words with it;
    rare words count more."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = list(texts)
        self._words = [frozenset(words_of(text)) for text in self.texts]
        self._counts = Counter(word for words in self._words for word in words)

    @property
    def words(self) -> Set[str]:
        """All words of the captions."""
        return self._counts.keys()

    def find(self, prompt: str) -> tuple[float, list[str]]:
        """The share of the prompt's words in the nearest caption, weighted by rarity, in 0..1; and
        the nearest captions, best first. A word with nearly the spelling of a caption's counts
        half. An empty prompt is near to all: 1 and no captions."""
        words = words_of(prompt)
        asked = dict.fromkeys(w for w in words if w in self._counts or w not in ARTICLES)
        whole = sum(self._weight(word) for word in asked)
        if not whole:
            return 1.0, []
        gains = {word: self._weight(word) for word in asked if word in self._counts}
        for word in asked:
            if word not in gains:
                for other in difflib.get_close_matches(word, self._counts, n=3, cutoff=NEARLY):
                    gains.setdefault(other, self._weight(word) / 2)
        scored = [
            (sum(gains[word] for word in words & gains.keys()), -len(words), -place)
            for place, words in enumerate(self._words)
        ]
        best = [score for score in sorted(scored, reverse=True)[:NEAREST] if score[0] > 0]
        share = best[0][0] / whole if best else 0.0
        return min(share, 1.0), [self.texts[-place] for _, _, place in best]

    def some(self, most: int = 3) -> list[str]:
        """A few captions, evenly chosen."""
        count = min(most, len(self.texts))
        return [self.texts[i * len(self.texts) // count] for i in range(count)]

    def _weight(self, word: str) -> float:
        return math.log1p(len(self.texts) / (1 + self._counts[word]))


def describe_unlike(prompts: Iterable[str], known: Captions) -> list[str]:
    """One line, at most LINES in all, for each prompt that shares less than half of its words with
    every caption; it names the nearest captions."""
    lines = []
    for prompt in dict.fromkeys(prompts):
        share, captions = known.find(prompt)
        if share >= FAR:
            continue
        near = f"the nearest are: {_quoted(captions)}"
        hint = near if captions else f"it was trained on such as: {_quoted(known.some())}"
        lines.append(f"no training caption is near {clean(prompt)!r:.80}; {hint}")
    more = len(lines) - LINES
    return lines[:LINES] + ([f"{more} more prompts are as far"] if more > 0 else [])


def _quoted(captions: Iterable[str]) -> str:
    return ", ".join(f'"{caption.strip():.80}"' for caption in captions)
