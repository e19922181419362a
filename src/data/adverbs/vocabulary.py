"""Closed classes of English that the rules of `rules.py` speak of.

Each is a class that grammars list in full, or nearly (Huddleston and Pullum, *The Cambridge Grammar of the
English Language*, 2002, chapters 6, 7 and 9): these words are few and take in no new ones. All in lower case.
"""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


DETERMINERS = _words(
    "a an the this these those my your his her its our their some any no each every another either "
    "neither both all several few many such what which whose"
)
ARTICLES = _words("a an the")
BE = _words(
    "be is are was were am been being isn't aren't wasn't weren't isnt arent wasnt it's that's there's "
    "he's she's they're we're i'm"
)
AUXILIARIES = BE | _words(
    "has have had having do does did can could will would may might must shall should doesn't don't "
    "didn't can't cannot couldn't won't wouldn't hasn't haven't hadn't"
)
# Verbs whose complement describes the subject: what follows them is an adjective, not an adverb.
LINKING_VERBS = BE | _words(
    "look looks looked looking seem seems seemed seeming appear appears appeared appearing become "
    "becomes became becoming feel feels felt feeling sound sounds sounded smell smells taste tastes "
    "stay stays stayed staying remain remains remained remaining keep keeps kept keeping get gets got "
    "getting"
)
# "Stand still", "hold still".
POSTURE_VERBS = _words(
    "stand stands stood standing sit sits sat sitting lie lies lay lying laying hold holds held holding "
    "stay stays stayed staying keep keeps kept keeping remain remains remained remaining"
)
# What "left", "right" and the points of the compass can tell the direction of.
TURNING_VERBS = _words("turn look face lean point go head veer swerve steer bank glance gaze step move shift")

PREPOSITIONS = _words(
    "about above across after against along alongside amid among amongst around as at atop before "
    "behind below beneath beside besides between beyond by despite down during except for from in "
    "inside into like near of off on onto out outside over past per round since than through throughout "
    "to toward towards under underneath unlike until unto up upon via with within without"
)
# Directions that belong to their verb ("sits down", "puts on", "turns away"): never removed.
PARTICLES = _words(
    "up down out off on over back away around along by past through across about in aside round"
)
COORDINATORS = _words("and but or nor &")
CONJUNCTIONS = COORDINATORS | _words(
    "that because while if though although as so since unless until whereas whether than when where why "
    "how who which what whom whose"
)
# The approximate ones are in: to drop "hardly" turns a caption into its opposite.
NEGATIONS = _words("not n't never no nor neither none nothing nowhere hardly scarcely barely rarely seldom")
# What negates the words that follow it.
NEGATORS = (NEGATIONS - _words("no none nothing nowhere")) | _words(
    "cannot isnt arent wasnt werent doesnt dont didnt cant couldnt wont hasnt havent"
)
# Degree words: they say how much of a property there is, and the property is the same without them. Of a
# boundless one ("very tall"), and of one that is there whole or not ("fully visible").
BOOSTERS = _words(
    "very really so too extremely particularly especially terribly overly exceptionally incredibly highly"
)
MAXIMIZERS = _words("fully completely entirely totally quite absolutely perfectly wholly")
QUANTITIES = _words("many much few little")
SUBJECT_PRONOUNS = _words("i you he she it we they one")
INDEFINITE_PRONOUNS = _words("nobody everybody somebody anybody everyone someone anyone nothing everything")
# Adjectives that only ever follow their noun or verb; taggers take them for adverbs.
PREDICATIVE_ADJECTIVES = _words(
    "ablaze abed adrift afire afloat afraid agape aghast aglow aground ajar akin alight alive alone "
    "amiss asleep askew astray awake awash aware awry"
)
# What stays whatever a tagger says.
NEVER_ADVERBS = (
    NEGATIONS
    | PARTICLES
    | PREDICATIVE_ADJECTIVES
    | _words("home all both each either such else ago whenever wherever however")
    | _words("o'clock circa prior regardless irrespective enroute kinda yes aye whatsoever")
    | CONJUNCTIONS
)

# Adverbs wherever they stand.
PLAIN_ADVERBS = _words(
    "very quite almost also too together again often perhaps maybe now always sometimes usually already "
    "soon afterwards afterward beforehand meanwhile otherwise somehow somewhat somewhere everywhere "
    "anywhere elsewhere rather just nearly ever forever altogether twice apart instead thus hence "
    "therefore moreover furthermore nonetheless nevertheless indeed alike likewise afresh anew abroad "
    "ashore aloft overboard abreast anymore anyway nowadays today tonight tomorrow yesterday"
)
# What may come between a verb, or an article, and the word in question.
DEGREE_ADVERBS = _words(
    "very so too quite rather pretty fairly really extremely somewhat slightly just right still already"
)
# Adverbs, unless they stand before a noun ("a backwards cap", "an uphill road").
DIRECTION_ADVERBS = _words(
    "forward forwards backward backwards upward upwards downward downwards inward inwards outward "
    "outwards onward onwards eastward westward northward southward homeward skyward uphill downhill "
    "upstream downstream upstairs downstairs overseas upright barefoot indoors outdoors underwater "
    "underground offshore inland onstage backstage sideways lengthwise crosswise clockwise halfway "
    "midway"
)
# Prepositions, or adverbs when they have no object.
PLACE_WORDS = _words(
    "inside outside above below behind beneath underneath alongside beyond overhead nearby ahead aboard "
    "downtown"
)
# Adverbs of the same form as an adjective.
FLAT_ADVERBS = _words(
    "hard harder fast faster early earlier late later high higher low lower straight close closer deep "
    "deeper wide wider slow slower loud louder tight tighter far farther further long longer quick "
    "quicker daily weekly monthly yearly nightly hourly"
)
# Those of them that follow a noun as an adverb only ("the ball hard", but "the sun low in the sky").
ADVERBS_AFTER_NOUNS = _words("hard fast early late close")
# What a flat adverb can stand before whatever the rest: "close together", "wide open", "high above".
AFTER_FLAT_ADVERBS = _words(
    "together open awake asleep apart behind beneath above below beside overhead away ahead inside"
)
# Verbs that say nothing without what they link to.
COPULAS = BE | _words("seem seems seemed become becomes became")
SIDES = _words("left right north south east west")
# Complements of "be": a dog can be outside, and not just be.
COMPLEMENTS = (
    DIRECTION_ADVERBS
    | PLACE_WORDS
    | _words("here there together apart upside down out close far everywhere somewhere elsewhere anywhere")
)

# "Six feet high", "three days later".
UNITS = _words(
    "inch inches foot feet ft yard yards mile miles meter meters metre metres cm centimeters story "
    "stories storey storeys knee waist ankle shoulder neck hip year years month months week weeks day "
    "days hour hours minute minutes"
)
# Adjectives that have no degrees, so that "pretty" before them is no adverb.
COLOURS = _words("black white red green blue yellow brown pink purple orange gray grey silver teal tan beige")
# What "about" after it speaks of, whatever the number.
TOPIC_WORDS = _words(
    "talk talks talked talking think thinks thinking thought write writes writing written read reads "
    "reading learn learns learning tell tells telling told story stories book books movie movies film "
    "joke jokes sign signs article articles poster posters information something message how what"
)
# Adjectives and nouns in -ly that TextBlob's lexicon lacks or has wrong.
NOT_ADVERBS_IN_LY = _words(
    "likely unlikely early bristly crinkly wrinkly sparkly squiggly wiggly wooly pebbly knobbly gnarly "
    "googly kingly queenly sisterly neighbourly dragonfly potbelly doily holly homily italy july"
)
# Adverbs in -ly whose stem is no adjective.
ADVERBS_IN_LY = _words("mostly nearly partly overly namely")
