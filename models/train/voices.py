"""Which of espeak-ng's voices are heard in training and which only afterwards."""

from __future__ import annotations

UNHEARD = (
    "m5",
    "m8",
    "f3",
    "f5",
    "Andrea",
    "Andy",
    "Denis",
    "Michael",
    "Nguyen",
    "paul",
    "robert",
    "shelby",
    "steph2",
    "zac",
)
"""Variants that no training hears: what is measured is measured on them."""

HEARD = (
    "",
    *("m1", "m2", "m3", "m4", "m6", "m7", "f1", "f2", "f4"),
    *("adam", "Alex", "Alicia", "anika", "Annie", "antonio", "belinda", "benjamin", "boris", "caleb", "david", "Diogo"),
    *(
        "ed",
        "edward",
        "Gene",
        "grandma",
        "Henrique",
        "Hugo",
        "Jacky",
        "john",
        "Lee",
        "linda",
        "marcelo",
        "Marco",
        "max",
    ),
    *("michel", "Mike", "pablo", "pedro", "quincy", "rob", "steph", "steph3", "Storm", "travis", "victor"),
)
"""Variants of training; "" is the language's own voice."""

ACCENTS = {
    "gmw/en-US": 5.0,
    "gmw/en": 3.0,
    "gmw/en-GB-x-rp": 1.0,
    "gmw/en-029": 1.0,
    "gmw/en-GB-x-gbcwmd": 1.0,
    "gmw/en-GB-scotland": 1.0,
    "gmw/en-US-nyc": 1.0,
    "gmw/en-GB-x-gbclan": 1.0,
}
"""Files of languages, each with how often it is drawn. By file, and not by name: then espeak-ng never lists its voices,
of which it knows 349 at most."""

UNHEARD_ACCENTS = ("gmw/en-US", "gmw/en", "gmw/en-GB-scotland")


def voice_name(accent: str, variant: str) -> str:
    return f"{accent}+{variant}" if variant else accent
