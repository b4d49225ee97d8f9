"""Lists of things that the artists have drawn: about a hundred, everyday ones, common ones, all."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Literal

from data.builtin.artist_sets import Drawing
from data.builtin.openmoji_splits import Emoji

COMMON_STYLES = 6
"""The least number of artists who have drawn a common thing."""
# Words that tell many pictures apart by a detail: people, flags, clocks, buttons.
_UNCOMMON = re.compile(r"\b(woman|women|man|men|person|people|button|keycap|o'clock|thirty|moon)\b")
_UNCOMMON_GROUPS = ("flags", "people-body", "component", "extras-openmoji", "extras-unicode")


Subset = Literal["things", "everyday", "common", "all"]


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

EVERYDAY = THINGS | frozenset(
    """green apple|pear|peach|melon|tangerine|kiwi fruit|tomato|eggplant|potato|ear of corn
hot pepper|cucumber|peanuts|croissant|baguette bread|pancakes|cheese wedge|meat on bone
poultry leg|bacon
french fries|hot dog|taco|burrito|egg|cooking|green salad|popcorn|spaghetti|sushi|soft ice cream
cookie|shortcake|chocolate bar|candy|lollipop|honey pot|baby bottle|glass of milk|hot beverage
bottle with popping cork|wine glass|cocktail glass|tropical drink|beer mug|fork and knife|spoon
kitchen knife|monkey|gorilla|dog|poodle|wolf|cat face|tiger face|tiger|leopard|horse face|horse
deer|cow|pig|ewe|goat|camel|rhinoceros|mouse face|mouse|hamster|rabbit|chipmunk|bat|paw prints
turkey|chicken|rooster|hatching chick|baby chick|bird|dove|eagle|duck|crocodile|lizard|snake
dragon face|dragon|spouting whale|dolphin|tropical fish|blowfish|shark|crab|shrimp|squid|bug|ant
honeybee|lady beetle|spider|spider web|scorpion|spiral shell|bouquet|cherry blossom|hibiscus
blossom|seedling|deciduous tree|four leaf clover|maple leaf|fallen leaf|two hearts|heart with arrow
love letter|winking face|face with tears of joy|thinking face|loudly crying face
face with medical mask|nerd face|cowboy hat face|kissing face|face with tongue
face screaming in fear|smiling face with halo|smiling face with horns|pile of poo|alien monster
globe showing europe-africa|snow-capped mountain|beach with umbrella|desert island
house with garden|office building|hospital|school|factory|mosque|fountain|cityscape
sunrise over mountains|sunset|ferris wheel|roller coaster|circus tent|high-speed train|train|tram
fire engine|police car|oncoming automobile|delivery truck|racing car|motorcycle|motor scooter
kick scooter|fuel pump|vertical traffic light|stop sign|anchor|canoe|speedboat|ship|satellite|watch
alarm clock|thermometer|sun with face|shooting star|sun behind cloud|cloud with rain
cloud with snow|cloud with lightning|tornado|umbrella with rain drops|high voltage|comet|fire
droplet|water wave|crescent moon|jack-o-lantern|christmas tree|fireworks|sparkles|party popper
ribbon|trophy|sports medal|baseball|volleyball|american football|tennis|bowling|boxing glove
ice skate|fishing pole|skis|pool 8 ball|crystal ball|video game|game die|framed picture
artist palette|glasses|sunglasses|necktie|t-shirt|jeans|dress|kimono|bikini|handbag|backpack
running shoe|high-heeled shoe|top hat|graduation cap|lipstick|ring|loudspeaker|megaphone|bell
musical note|microphone|headphone|radio|saxophone|musical keyboard|mobile phone|battery
electric plug|laptop|desktop computer|printer|keyboard|computer mouse|floppy disk|optical disk
movie camera|magnifying glass tilted left|flashlight|closed book|open book|notebook|scroll
newspaper|money bag|dollar banknote|credit card|envelope|package|postbox|pencil|pen|paintbrush
crayon|briefcase|file folder|calendar|bar chart|pushpin|paperclip|straight ruler|wastebasket|locked
dagger|crossed swords|bomb|bow and arrow|shield|wrench|nut and bolt|gear|balance scale|microscope
telescope|syringe|pill|door|bed|couch and lamp|toilet|bathtub|shopping cart|cigarette
baby|boy|girl|man|woman|old man|old woman|prince|princess|santa claus|superhero|mage|fairy|vampire
mermaid|zombie|ninja|astronaut|firefighter|police officer|detective|cook|farmer|health worker
construction worker|baby angel|person with veil|person running|person swimming|person surfing
person biking|woman dancing|man dancing|skier|woman and man holding hands|family|footprints
thumbs up|waving hand|clapping hands|victory hand|raised fist|ok hand|flexed biceps|handshake
folded hands|raised hand|eyes|eye|ear|nose|mouth|tooth|bone
star-struck|zany face|exploding head|partying face|hot face|cold face|nauseated face|yawning face
smiling face with hearts|astonished face|goblin|see-no-evil monkey
raccoon|black cat|moose|zebra|bison|giraffe|hippopotamus|beaver|hedgehog|polar bear|sloth|otter
kangaroo|swan|flamingo|peacock|parrot|goose|seal|jellyfish|lobster|beetle|mosquito|sauropod|t-rex
llama|skunk|rat|lotus|potted plant|mango|blueberries|olive|coconut|bell pepper|broccoli|garlic
onion|pretzel|waffle|sandwich|cupcake|pie|cooked rice|steaming bowl|dumpling|fried shrimp|bento box
clinking beer mugs|bubble tea|teapot|ice|chopsticks|salt|butter|mountain|camping|stadium|bank
wedding|statue of liberty|tokyo tower|moai|carousel horse|pickup truck|wheel|skateboard|parachute
flying saucer|ringed planet|luggage|stopwatch|compass|world map|teddy bear|kite|magnet|ladder
toothbrush|bucket|soap|broom|basket|mirror|window|chair|screwdriver|carpentry saw|boomerang
test tube|stethoscope|yarn|scarf|socks|gloves|coat|shorts|billed cap|slot machine|puzzle piece
yo-yo|joystick|accordion|banjo|flute|clapper board|video camera|coin|safety pin|fire extinguisher
red circle|blue circle|green circle|yellow circle|red square|blue square|green square|yellow square
red triangle pointed up|check mark|red question mark|peace symbol|speech balloon""".replace(
        "\n", "|"
    ).split("|")
)
"""Things that people ask for first: food, animals, people, plants, weather, vehicles, clothes,
tools, simple shapes."""


def choose(drawings: Sequence[Drawing], subset: Subset) -> list[Drawing]:
    """The drawings of a subset, in order."""
    if subset == "all":
        return list(drawings)
    named = {"things": THINGS, "everyday": EVERYDAY}.get(subset)
    if named:
        return [drawing for drawing in drawings if drawing.emoji.name in named]
    styles = Counter(drawing.emoji.hexcode for drawing in drawings)
    return [
        drawing
        for drawing in drawings
        if styles[drawing.emoji.hexcode] >= COMMON_STYLES and is_common(drawing.emoji)
    ]


def is_common(emoji: Emoji) -> bool:
    """True for things with a name of one word or two."""
    return (
        not emoji.tone and emoji.group not in _UNCOMMON_GROUPS and not _UNCOMMON.search(emoji.name)
    )
