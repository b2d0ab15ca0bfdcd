"""The assortment of the embedded catalogue: its categories, and the values of their properties."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Category:
    """A class of products: its silhouette, its own nouns in titles, its model lines."""

    name: str
    silhouette: str
    nouns: tuple[str, ...]
    series: tuple[str, ...]
    mark: str = ""


@dataclasses.dataclass(frozen=True)
class Family:
    """Two categories that are easily confused, and the properties that they share.

    Either both look alike and the second has a mark, or titles use the same `nouns` for both.
    `detail` is a property that pictures show, `measure` one that they don't.
    """

    department: str
    detail: str
    details: tuple[str, ...]
    measure: str
    measures: tuple[str, ...]
    materials: tuple[str, ...]
    categories: tuple[Category, Category]
    nouns: tuple[str, ...] = ()


_SIZES = ("M", "L", "S", "XL", "XS", "XXL", "3XL")
_FABRICS = ("cotton", "polyester", "linen", "viscose", "bamboo", "wool", "mesh", "silk")
_CUPS = ("ceramic", "glass", "steel", "bamboo", "enamel", "plastic")
_HOME = ("oak", "steel", "birch", "rattan", "plastic", "marble")

FAMILIES = (
    Family(
        "clothing", "neckline", ("round", "v-neck", "polo", "turtle"), "size", _SIZES, _FABRICS,
        (
            Category("T-shirts", "shirt", ("t-shirt", "tee"),
                     ("meridian", "drift", "basil")),
            Category("Jerseys", "shirt", ("jersey", "sports top"),
                     ("striker", "velocity", "derby"), "side panels"),
        ),
    ),
    Family(
        "clothing", "sleeves", ("none", "short", "long"), "size", _SIZES, _FABRICS,
        (
            Category("Dresses", "dress", ("dress", "gown"),
                     ("camellia", "soiree", "riviera")),
            Category("Nightgowns", "dress", ("nightgown", "sleepwear"),
                     ("moonlit", "lullaby", "dusk"), "lace hem"),
        ),
    ),
    Family(
        "clothing", "waist", ("belted", "elastic", "drawstring"), "size", _SIZES, _FABRICS,
        (
            Category("Trousers", "trousers", ("trousers", "slacks"),
                     ("boulevard", "atlas", "tailor")),
            Category("Shorts", "shorts", ("shorts", "bermudas"),
                     ("lagoon", "sprint", "boardwalk")),
        ),
        ("pants", "bottoms"),
    ),
    Family(
        "footwear", "closure", ("laces", "velcro", "zip"), "shoe size",
        tuple(f"EU {n}" for n in (41, 39, 42, 38, 43, 37, 40, 44, 36, 45, 35)),
        ("canvas", "leather", "suede", "mesh", "rubber", "microfiber"),
        (
            Category("Sneakers", "sneaker", ("sneakers", "trainers"),
                     ("pulse", "skyline", "tempo")),
            Category("Boots", "boot", ("boots", "ankle boots"),
                     ("granite", "ranger", "tundra")),
        ),
        ("shoes", "footwear"),
    ),
    Family(
        "bags", "pockets", ("single", "double", "none"), "volume",
        tuple(f"{n} liters" for n in (20, 15, 25, 10, 30, 12, 35, 8)),
        ("leather", "canvas", "nylon", "suede", "polyester", "cork"),
        (
            Category("Handbags", "handbag", ("handbag", "tote"),
                     ("vogue", "florence", "opera")),
            Category("Backpacks", "backpack", ("backpack", "rucksack"),
                     ("summit", "campus", "nomad")),
        ),
        ("bag", "carryall"),
    ),
    Family(
        "kitchen", "rim", ("open", "banded", "lid"), "capacity",
        tuple(f"{n} ml" for n in (350, 300, 400, 250, 450, 200, 500)), _CUPS,
        (
            Category("Mugs", "mug", ("mug", "coffee mug"),
                     ("sunrise", "hearth", "barista")),
            Category("Tumblers", "tumbler", ("tumbler", "highball"),
                     ("glacier", "cascade", "tonic")),
        ),
        ("cup", "drinkware"),
    ),
    Family(
        "kitchen", "lid", ("flat", "loop", "sport"), "capacity",
        tuple(f"{n} ml" for n in (500, 750, 600, 1000, 350, 900, 1500)), _CUPS,
        (
            Category("Water bottles", "bottle", ("water bottle", "canteen"),
                     ("brook", "splash", "oasis")),
            Category("Flasks", "bottle", ("flask", "thermos"),
                     ("ember", "arctic", "kettle"), "cup lid"),
        ),
    ),
    Family(
        "storage", "closure", ("lift-off", "open", "hinged"), "volume",
        tuple(f"{n} liters" for n in (5, 10, 3, 20, 15, 2, 40)),
        ("cardboard", "plastic", "bamboo", "felt", "rattan", "birch"),
        (
            Category("Storage boxes", "crate", ("storage box", "organizer"),
                     ("tidy", "harbor", "loft")),
            Category("Gift boxes", "crate", ("gift box", "hamper"),
                     ("jubilee", "festa", "carnival"), "bow"),
        ),
    ),
    Family(
        "lighting", "lampshade", ("cone", "drum", "globe"), "power",
        tuple(f"{n} watt" for n in (9, 12, 7, 15, 5, 20)), _HOME,
        (
            Category("Table lamps", "table lamp", ("table lamp", "desk lamp"),
                     ("glow", "firefly", "study")),
            Category("Floor lamps", "floor lamp", ("floor lamp", "uplight"),
                     ("beacon", "halo", "obelisk")),
        ),
        ("lamp", "light"),
    ),
    Family(
        "furniture", "legs", ("straight", "splayed", "pedestal"), "load",
        tuple(f"{n} kg" for n in (120, 100, 150, 110, 130, 90)), _HOME,
        (
            Category("Chairs", "chair", ("chair", "dining chair"),
                     ("bistro", "manor", "lounge")),
            Category("Stools", "stool", ("stool", "bar stool"),
                     ("perch", "tavern", "anvil")),
        ),
        ("seat", "seating"),
    ),
    Family(
        "accessories", "trim", ("ribbon", "none", "badge"), "head size",
        tuple(f"{n} cm" for n in (57, 58, 56, 59, 55, 60, 54)),
        ("straw", "cotton", "wool", "felt", "linen", "polyester"),
        (
            Category("Sun hats", "sun hat", ("sun hat", "straw hat"),
                     ("capri", "meadow", "savanna")),
            Category("Caps", "cap", ("cap", "baseball cap"),
                     ("slugger", "metro", "rapper")),
        ),
        ("hat", "headwear"),
    ),
    Family(
        "electronics", "camera", ("dual", "single", "triple"), "screen",
        tuple(f"{n} inch" for n in (6.1, 6.7, 5.8, 6.4, 5.4, 6.9)),
        ("glass", "aluminium", "silicone", "plastic", "titanium", "leather"),
        (
            Category("Smartphones", "phone", ("smartphone", "mobile phone"),
                     ("quantum", "nova", "pixelite")),
            Category("Phone cases", "phone", ("phone case", "phone cover"),
                     ("armor", "shell", "cocoon"), "wrist strap"),
        ),
    ),
    Family(
        "sports", "panels", ("hexagonal", "segmented", "halved"), "diameter",
        tuple(f"{n} cm" for n in (22, 30, 20, 40, 18, 24)),
        ("rubber", "leather", "vinyl", "microfiber", "foam", "nylon"),
        (
            Category("Footballs", "ball", ("football", "match ball"),
                     ("league", "goal", "champion")),
            Category("Beach balls", "ball", ("beach ball", "pool ball"),
                     ("atoll", "bubble", "tropic"), "valve"),
        ),
    ),
    Family(
        "electronics", "dial", ("round", "square", "hexagonal"), "water resistance",
        tuple(f"{n} m" for n in (50, 30, 100, 20, 200, 10)),
        ("steel", "leather", "silicone", "titanium", "nylon", "aluminium"),
        (
            Category("Watches", "watch", ("watch", "wristwatch"),
                     ("heritage", "regent", "mariner")),
            Category("Smart watches", "watch", ("smart watch", "fitness tracker"),
                     ("vital", "cadence", "orbit"), "icons"),
        ),
    ),
)  # fmt: skip

BRANDS = (
    "norvik", "altessa", "pelmora", "quinlo", "brevanti", "zentara", "osterly", "kamido",
    "luvelle", "fennick", "tarsina", "holbrix", "veyra", "mondelux", "castino", "ryvane",
    "dorlan", "sibelle", "juniva", "arkadi", "peltonic", "wexham", "orlume", "gavotte",
    "belcanto", "yarrowby", "tinsley", "kolvara", "emberly", "nacello", "prismo", "hartwin",
    "ulvano", "cadmoor", "isolde", "maravel", "bluefern", "tocata", "ferrand", "lindqvist",
    "zephyra", "okavi",
)  # fmt: skip

COUNTRIES = (
    "China", "Italy", "Vietnam", "India", "Portugal", "Turkey", "Germany", "Japan",
    "Bangladesh", "Spain", "France", "Poland", "Mexico", "Thailand", "Indonesia", "Morocco",
    "Brazil", "Sweden", "Denmark", "Korea", "Peru", "Romania", "Tunisia", "Greece", "Canada",
    "Egypt", "Finland", "Austria", "Kenya", "Lithuania", "Malaysia", "Nepal", "Estonia",
    "Colombia",
)  # fmt: skip

CARE = {
    "machine wash": ("cotton", "polyester", "bamboo", "microfiber", "nylon", "canvas"),
    "hand wash": ("wool", "silk", "viscose", "linen", "mesh", "felt"),
    "dishwasher safe": ("ceramic", "glass", "steel", "silicone"),
    "wipe clean": ("leather", "plastic", "enamel", "vinyl", "rubber", "aluminium", "titanium",
                   "foam"),
    "keep dry": ("cardboard", "oak", "birch", "rattan", "straw", "cork", "marble"),
    "brush only": ("suede",),
}  # fmt: skip
"""How to clean each material."""

SEASONS = ("summer", "winter", "spring", "autumn")
AUDIENCES = ("women", "men", "kids", "teens", "seniors")
