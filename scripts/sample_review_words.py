"""Word lists of the sample film reviews; commoner words stand first in each list."""

from typing import Final

Words = tuple[str, ...]


def _split(text: str) -> Words:
    """Cut a comma separated list into its stripped entries."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


ASPECTS: Final = _split(
    "plot, script, story, acting, cast, lead, score, dialogue, pacing, villain, direction,"
    "ending, humour, soundtrack, premise, photography, editing, romance, opening, twist,"
    "animation, setting, ensemble, camera work, finale, narration, chase, costume work,"
    "screenplay, middle act, production design, voice work, prologue, supporting cast"
)
KINDS: Final = _split(
    "film, comedy, thriller, drama, picture, western, debut, mystery, musical, sequel, fable,"
    "remake, documentary, satire, biography, melodrama, adventure, caper, ghost story, farce"
)
# Adjectives and nouns by (sign, strength).
ADJECTIVES: Final[dict[tuple[int, int], Words]] = {
    (1, 2): _split(
        "wonderful, brilliant, superb, dazzling, hilarious, stunning, thrilling, riveting,"
        "magnificent, unforgettable, masterful, glorious, exquisite, spellbinding, sublime,"
        "electrifying, ravishing, triumphant, breathtaking, incandescent, bewitching, peerless,"
        "transcendent, sumptuous, resplendent, virtuosic"
    ),
    (1, 1): _split(
        "good, funny, charming, clever, pleasant, warm, solid, lively, fresh, likeable, decent,"
        "graceful, amusing, sincere, tidy, gentle, thoughtful, sharp, agreeable, capable, witty,"
        "nimble, tender, inventive, breezy, sturdy, sprightly, winsome, deft, beguiling, wry,"
        "unforced, cheery, humane, limber, sunlit"
    ),
    (-1, 1): _split(
        "dull, flat, bland, thin, uneven, stale, clumsy, tired, muddled, routine, shallow, tepid,"
        "forgettable, sluggish, vague, awkward, dreary, listless, hollow, murky, wooden, mawkish,"
        "patchy, stilted, plodding, threadbare, laboured, soggy, glib, pallid, rickety, wan, twee,"
        "ponderous, leaden, shopworn"
    ),
    (-1, 2): _split(
        "awful, terrible, dreadful, lifeless, unbearable, idiotic, painful, abysmal, atrocious,"
        "insufferable, ghastly, excruciating, disastrous, repulsive, witless, incoherent, inept,"
        "appalling, deplorable, moronic, execrable, stupefying, woeful, odious, calamitous,"
        "wretched"
    ),
}
# Sign of an adjective that says nothing until the noun is known.
AMBIGUOUS: Final[dict[str, tuple[Words, Words]]] = {
    "predictable": (_split("delight, pleasure, joy"), _split("plot, twist, ending, mess")),
    "slow": (_split("romance, score, prologue"), _split("pacing, chase, dialogue, editing")),
    "loud": (_split("soundtrack, finale, chase"), _split("humour, villain, narration, acting")),
    "simple": (_split("premise, story, setting"), _split("dialogue, villain, animation")),
    "cold": (_split("villain, setting, photography"), _split("romance, lead, ending, script")),
    "familiar": (_split("ensemble, cast, pleasure"), _split("plot, twist, premise, humour")),
    "ruthless": (_split("editing, villain, satire"), _split("romance, narration, humour")),
    "quiet": (_split("lead, ending, delight, drama"), _split("soundtrack, finale, chase")),
    "unpredictable": (_split("plot, twist, villain"), _split("pacing, editing, mess")),
    "dark": (_split("humour, villain, satire, twist"), _split("photography, romance, musical")),
    "long": (_split("pleasure, chase"), _split("opening, middle act, prologue, bore")),
    "cheap": (_split("joy, thrill"), _split("animation, costume work, twist, trick")),
    "strange": (_split("setting, premise, delight"), _split("pacing, direction, ending")),
    "old-fashioned": (_split("romance, adventure, joy"), _split("humour, animation, bore")),
}
QUALITIES: Final[dict[int, Words]] = {
    1: _split(
        "charm, wit, warmth, energy, heart, imagination, tension, grace, style, wonder, invention,"
        "conviction, sparkle, mischief, poise, verve, panache, pluck, finesse"
    ),
    -1: _split(
        "noise, cliche, confusion, tedium, padding, boredom, laziness, gloom, self-pity, contempt,"
        "smugness, bombast, drivel, clutter, drudgery, treacle, waffle, squalor, humbug"
    ),
}
# Third person and plain form.
VERBS: Final[dict[int, tuple[tuple[str, str], ...]]] = {
    1: (
        ("works", "work"),
        ("shines", "shine"),
        ("delights", "delight"),
        ("soars", "soar"),
        ("surprises", "surprise"),
        ("sparkles", "sparkle"),
        ("pays off", "pay off"),
        ("grips", "grip"),
        ("lingers", "linger"),
        ("holds together", "hold together"),
        ("enchants", "enchant"),
        ("crackles", "crackle"),
        ("beguiles", "beguile"),
    ),
    -1: (
        ("drags", "drag"),
        ("bores", "bore"),
        ("falls apart", "fall apart"),
        ("stumbles", "stumble"),
        ("sinks", "sink"),
        ("goes nowhere", "go nowhere"),
        ("annoys", "annoy"),
        ("collapses", "collapse"),
        ("wears thin", "wear thin"),
        ("misfires", "misfire"),
        ("grates", "grate"),
        ("meanders", "meander"),
        ("fizzles", "fizzle"),
    ),
}
SIMILES: Final[dict[int, Words]] = {
    1: _split(
        "a summer fair, a brass band, a first kiss, a warm kitchen, a well-told joke,"
        "a day by the sea, fresh bread, a carnival at dusk, a kite in a good wind"
    ),
    -1: _split(
        "a tax form, a wet sunday, cold porridge, watching paint dry, a flat tyre, a blocked drain,"
        "a dentist 's waiting room, an empty fridge, a parking fine, a week-old sandwich"
    ),
}
REACTIONS: Final[dict[int, Words]] = {
    1: _split(
        "i loved, i admired, i enjoyed, i would gladly revisit, you will cherish, everyone praised,"
        "my sister adored, i was grateful for, children will treasure, i could not resist"
    ),
    -1: _split(
        "i regretted, i endured, i loathed, i was tired of, you will resent, everyone mocked,"
        "my sister hated, i could not stand, few will forgive, i have already forgotten"
    ),
}
DEGREES: Final[tuple[tuple[str, float], ...]] = (
    ("", 1.0),
    ("", 1.0),
    ("", 1.0),
    ("very", 1.2),
    ("rather", 0.8),
    ("quite", 0.9),
    ("truly", 1.2),
    ("a little", 0.6),
    ("fairly", 0.7),
    ("utterly", 1.3),
    ("consistently", 1.1),
    ("at times", 0.6),
)
PLACES: Final = _split(
    "a fishing village, the alps, a border town, a night train, an old hotel, a war winter,"
    "a travelling circus, a lighthouse, a sugar factory, a suburb, a flooded valley,"
    "a boarding school, a moon base, a desert garage, the old harbour, a mountain clinic,"
    "a bakery, a tram depot"
)
SUBJECTS: Final = _split(
    "two brothers, a retired boxer, a lost dog, a widow and her lodger, a stolen violin,"
    "a chess prodigy, a clockmaker, twin sisters, a failed magician, a night nurse, a forger,"
    "a stubborn farmer, a rookie detective, three cousins, a radio host, a cartographer,"
    "an ageing spy, a choir"
)
TITLES: Final = _split(
    "the salt road, harbour lights, nine bells, a winter debt, the glass orchard, paper tigers,"
    "the tin crown, last ferry home, goodnight marlow, red gravel, the beekeeper, silent acre"
)
ASIDES: Final = _split(
    "as far as i can tell, at least in the version i saw, to be fair, in the end, once again,"
    "by the way, on a second viewing, from start to finish, for the most part, say what you like,"
    "scene after scene, two hours later, if memory serves, in its own way"
)
