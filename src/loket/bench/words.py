"""Text for benchmarks: what people tell and ask, varied like speech and the same in every run.

Sentences come from patterns whose blanks are filled by Zipf's law (the k-th word of a list about 1/k as often as the
first; G. K. Zipf, 1935), with a long tail of rare words such as brands, villages and family names.
"""

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence

_SEED = 1987
_RARE = 8_000
"""Rare words in all."""

_LISTS: Mapping[str, str] = {
    "name": (
        "Ana,Ben,Chitra,Daan,Elif,Farid,Greta,Hadi,Ines,Jonas,Kezia,Lukas,Mira,Nadia,Omar,"
        "Putri,Quinn,Rosa,Sari,Tomas,Uma,Viktor,Wulan,Xenia,Yusuf,Zoe,Anton,Bagus,Clara,Dewi,"
        "Emil,Fatma,Gijs,Hana,Ilse,Joko,Karin,Leo,Maya,Nico"
    ),
    "place": (
        "Utrecht,Jakarta,Lisbon,Ghent,Bandung,Oslo,Kyoto,Porto,Leiden,Surabaya,Turin,Malmo,Delft,"
        "Medan,Seville,Graz,Arnhem,Lombok,Dresden,Bergen,Zwolle,Bali,Krakow,Nantes,Haarlem,Solo,"
        "Basel,Galway,Breda,Ubud"
    ),
    "activity": (
        "swimming,running,painting,baking bread,learning Spanish,choir practice,a pottery class,"
        "repairing bicycles,birdwatching,playing chess,gardening,yoga,climbing,writing poems,"
        "volunteering at the shelter,fishing,photography,dancing,reading novels,playing the cello,"
        "woodwork,sailing,cooking for friends,astronomy"
    ),
    "thing": (
        "book,bicycle,camera,recipe,guitar,contract,garden,laptop,painting,letter,coat,map,puppy,"
        "boat,kitchen,ticket,necklace,tent,piano,report,invoice,lamp,blanket,telescope,violin,"
        "cupboard,passport,suitcase,engine,fence"
    ),
    "feeling": (
        "happy,tired,excited,worried,proud,calm,curious,grateful,nervous,relieved,lonely,hopeful,annoyed,surprised"
    ),
    "relative": "sister,brother,mother,father,neighbour,colleague,friend,daughter,son,boss,aunt,teacher",
    "day": "Monday,Tuesday,Wednesday,Thursday,Friday,Saturday,Sunday,today,yesterday,tomorrow",
    "month": "May,June,July,March,April,August,September,October,January,December,February,November",
}

_TOLD = (
    "My {relative} {name} is moving to {place} in {month}, close to the {rare} market.",
    "I started {activity} last {day} and it made me {feeling}.",
    "{name} gave me a {thing} from {place}; it is a {rare}, which I had wanted for years.",
    "We met {name} and her {relative} in {place} on {day} and talked about {activity} until late.",
    "The {thing} broke again. The man at {rare} wants {number} euros to repair it.",
    "For my birthday I want to go to {place} with {name}, and maybe try {activity}.",
    "I felt {feeling} after the talk with my {relative} about the {thing} and the house in {place}.",
    "Remember that the {rare} {thing} has to be returned to {name} before {number} {month}.",
    "{name} says that {activity} helped her when she was {feeling}, so I signed up at {rare} too.",
    "That sounds wonderful! I am {feeling} for you and {name}.",
    "Our flight to {place} leaves at {number}, and {name} brings the {thing}.",
    "I read a {thing} by {rare} about {activity} in {place}. It was long, and I liked it.",
    "The code of the {thing} shed is {number}, my {relative} has the other key.",
    "Yes, exactly. {name} would have been {feeling} to see it.",
)

_ASKED = (
    "When did {name} go to {place}?",
    "What is my {relative}'s name?",
    "Who gave me the {thing} from {place}?",
    "What does {name} think about {activity}?",
    "How much did the repair of the {thing} cost at {rare}?",
    "Why was {name} {feeling} in {month}?",
    "Where did we talk about {activity} and the {thing}?",
    "What did I tell you about {rare}?",
)

_STARTS = "b br d dr f fl g h j k kl l m n p pr r s st t tr v w z"
_VOWELS = "a e i o u aa ee ie oo ui"
_ENDS = "k l m n ng nd r rs s st t"


def memories(n: int) -> Iterator[str]:
    """`n` things that people said, one or two sentences each."""
    speech = _Speech(random.Random(_SEED))  # noqa: S311 - no secret, the same text in every run
    return (speech.say(_TOLD, speech.chance.choice((1, 1, 2))) for _ in range(n))


def questions(n: int) -> list[str]:
    """`n` questions about such things."""
    speech = _Speech(random.Random(_SEED + 1))  # noqa: S311 - no secret, the same text in every run
    return [speech.say(_ASKED, 1) for _ in range(n)]


def messages(n: int) -> list[str]:
    """`n` messages of a conversation: every third one is a question."""
    told, asked = memories(n), iter(questions(n))
    return [next(asked) if number % 3 == 2 else text for number, text in enumerate(told)]  # noqa: PLR2004


class _Speech:
    """Fills patterns."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        lists = {name: words.split(",") for name, words in _LISTS.items()} | {"rare": _rare_words()}
        self._words = {name: (words, _zipf(len(words))) for name, words in lists.items()}

    def say(self, patterns: Sequence[str], sentences: int) -> str:
        return " ".join(pattern.format_map(self._filled()) for pattern in self.chance.choices(patterns, k=sentences))

    def _filled(self) -> dict[str, str]:
        chosen = {
            name: self.chance.choices(words, cum_weights=weights)[0] for name, (words, weights) in self._words.items()
        }
        return {**chosen, "number": str(self.chance.randint(2, 2_000))}


def _zipf(n: int) -> list[float]:
    """Cumulated weights 1/1, 1/2, 1/3, ..."""
    return list(itertools.accumulate(1 / rank for rank in range(1, n + 1)))


def _rare_words() -> list[str]:
    """The long tail: words of two syllables that no language has in this number."""
    chance = random.Random(_SEED)  # noqa: S311 - no secret, the same words in every run
    starts, vowels, ends = _STARTS.split(), _VOWELS.split(), _ENDS.split()
    found: dict[str, None] = {}
    while len(found) < _RARE:
        syllables = "".join(chance.choice(starts) + chance.choice(vowels) for _ in range(2))
        found[(syllables + chance.choice(ends)).capitalize()] = None
    return list(found)
