"""Common names of things, where Unicode's table has another one: car, not automobile."""

from collections.abc import Container

_WORDS = """automobile: car
oncoming automobile: car
racing car: race car
locomotive: steam train
delivery truck: truck, lorry
fire engine: fire truck
sailboat: boat
motor scooter: scooter
bicycle: bike
airplane: plane
high-speed train: bullet train
vertical traffic light: traffic light
snowman: snow man
dog face: dog, happy dog
cat face: cat
pig face: pig
cow face: cow
rabbit face: rabbit, bunny
monkey face: monkey
mouse face: mouse
tiger face: tiger
horse face: horse
dragon face: dragon
honeybee: bee
lady beetle: ladybug
hatching chick: chick
baby chick: chick
ewe: sheep
tropical fish: fish
blowfish: pufferfish
red apple: apple
green apple: apple
tangerine: orange, mandarin
ear of corn: corn
hot pepper: chili
kiwi fruit: kiwi
meat on bone: meat
poultry leg: chicken leg, drumstick
hamburger: burger
doughnut: donut
french fries: fries, chips
green salad: salad
cheese wedge: cheese
baguette bread: baguette
soft ice cream: ice cream cone
shortcake: cake, slice of cake
birthday cake: cake
chocolate bar: chocolate
honey pot: honey
glass of milk: milk
hot beverage: coffee, cup of coffee, tea
beer mug: beer
wine glass: wine, red wine
cocktail glass: cocktail
red heart: heart, love
grinning face: happy face, smiley
crying face: sad face
angry face: mad face
face with tears of joy: laughing face
smiling face with sunglasses: cool face
smiling face with heart-eyes: love face
smiling face with halo: angel
smiling face with horns: devil
pile of poo: poop
alien monster: space invader
hourglass done: hourglass
globe showing europe-africa: earth, globe, planet
snow-capped mountain: mountain
beach with umbrella: beach
desert island: island
house with garden: house, home
office building: building
cityscape: city
evergreen tree: tree, pine tree
deciduous tree: tree
full moon: moon
crescent moon: moon
high voltage: lightning
cloud with rain: rain
cloud with snow: snow
cloud with lightning: thunderstorm
sun with face: sun
droplet: drop of water
water wave: wave, sea
jack-o-lantern: halloween pumpkin, pumpkin
blossom: flower
cherry blossom: flower, pink flower
hibiscus: flower
gem stone: diamond
wrapped gift: present, gift
television: tv
telephone: phone
mobile phone: phone, smartphone
desktop computer: computer
computer mouse: mouse
optical disk: cd
light bulb: lamp
soccer ball: football
american football: football
baseball: ball
game die: dice
video game: game controller
pool 8 ball: billiard ball
framed picture: painting
artist palette: palette
paintbrush: brush
t-shirt: shirt
jeans: trousers
running shoe: shoe, sneaker
high-heeled shoe: high heels
top hat: hat
necktie: tie
party popper: party
musical note: music
musical keyboard: piano
magnifying glass tilted left: magnifying glass
dollar banknote: money
envelope: letter, mail
package: box
postbox: mailbox
wastebasket: trash can, bin
straight ruler: ruler
locked: lock, padlock
couch and lamp: sofa, couch
crossed swords: swords
dagger: knife
old man: grandfather, old person
old woman: grandmother
mage: wizard
health worker: doctor, nurse
cook: chef
baby angel: angel
person with veil: bride
person running: runner, running man
person swimming: swimmer
person surfing: surfer
person biking: cyclist
woman dancing: dancer
woman and man holding hands: two people holding hands, couple, two people
waving hand: hand, hello, hi
raised hand: hand, open hand
victory hand: peace sign
flexed biceps: muscle, strong arm
folded hands: praying hands, thank you
raised fist: fist
clapping hands: applause
see-no-evil monkey: shy monkey
sauropod: dinosaur
t-rex: dinosaur
steaming bowl: soup, noodle soup, ramen
cooked rice: rice
clinking beer mugs: cheers
camping: tent and tree
flying saucer: ufo, spaceship
ringed planet: saturn, planet
luggage: suitcase
billed cap: cap, baseball cap
carpentry saw: saw
clapper board: film, movie
speech balloon: speech bubble
red triangle pointed up: red triangle, triangle
red circle: circle
red square: square
red question mark: question mark
moai: stone face
star-struck: starry eyes"""

WORDS: dict[str, tuple[str, ...]] = {
    name: tuple(words.split(", "))
    for name, words in (line.split(": ") for line in _WORDS.splitlines())
}
"""Unicode's name of a thing → its common names. Several things may share one, as two apples do."""


def common_names(name: str, things: Container[str]) -> tuple[str, ...]:
    """The common names of a thing, without those that are another thing's own among `things`: the
    face of a dog is called a dog only where no whole dog is drawn."""
    return tuple(word for word in WORDS.get(name, ()) if word not in things)
