r"""Units and nouns at the end of an answer: "5 \text{ m/s}", "12 km h^{-1}", "240 ways".

A unit is read with a table of real units, so that "4 ninths" or "3 factorial" is never "4" or "3"
with a unit. Units are compared by what they measure and by their size (m s^{-1} is m/s, and mL is
cm^3); values are never converted. A plain noun in the plural ("apples") is dropped like a unit; a
word that may change the value is not."""

import re
from collections import Counter
from fractions import Fraction
from typing import NamedTuple


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


class Unit(NamedTuple):
    """A size, and powers of what it measures: km/h is 1000/3600 of (("m", 1), ("s", -1))."""

    size: Fraction
    powers: tuple[tuple[str, int], ...]


class Noun(NamedTuple):
    """The words of a plain noun, in the singular; none for "in total"."""

    words: frozenset[str]


PERCENT = Unit(Fraction(1, 100), (("percent", 1),))


# --- The table of units ---

# Spellings | size | what it measures. Where there is a "/", spellings before it are symbols that
# take k, m, ... as prefixes, and those after it are words that take kilo, milli, ...
# A "pound" in words may be a weight or money, while lb is a weight and £ is money: see same_unit.
_TABLE = r"""
m / meter metre | 1 | m
g gm / gram gramme | 1/1000 | kg
s / second | 1 | s
A amp / ampere | 1 | A
K / kelvin | 1 | K
mol / mole | 1 | mol
cd / candela | 1 | cd
N / newton | 1 | kg m s-2
J / joule | 1 | kg m2 s-2
W / watt | 1 | kg m2 s-3
Pa / pascal | 1 | kg m-1 s-2
Hz / hertz | 1 | s-1
V / volt | 1 | kg m2 s-3 A-1
C / coulomb | 1 | s A
F / farad | 1 | kg-1 m-2 s4 A2
H / henry henries | 1 | kg m2 s-2 A-2
T / tesla | 1 | kg s-2 A-1
Wb / weber | 1 | kg m2 s-2 A-1
Ω \Omega / ohm | 1 | kg m2 s-3 A-2
L l / liter litre | 1/1000 | m3
eV / electronvolt | 1 | eV
pc / parsec | 1 | parsec
cal / calorie | 1 | calorie
Wh / | 3600 | kg m2 s-2
bar / | 100000 | kg m-1 s-2
Bq / becquerel | 1 | becquerel
bit / | 1 | bit
byte | 8 | bit
dyn dyne | 1/100000 | kg m s-2
erg | 1/10000000 | kg m2 s-2
atm atmosphere | 101325 | kg m-1 s-2
torr Torr mmHg | 1 | torr
psi | 1 | psi
Å \AA \r{A} angstrom | 1/10000000000 | m
min minute mins | 60 | s
h hr hour hrs | 3600 | s
sec secs | 1 | s
day | 86400 | s
wk week | 604800 | s
fortnight | 1209600 | s
month mo | 1 | month
yr year yrs | 1 | year
decade | 10 | year
century centuries | 100 | year
am a.m. | 1 | am
pm p.m. | 1 | pm
in inch inches ins | 254/10000 | m
ft foot feet | 3048/10000 | m
yd yard yds | 9144/10000 | m
mi mile | 1609344/1000 | m
nmi | 1852 | m
ly light-year light-years lightyear | 1 | lightyear
AU au | 1 | AU
acre | 40468564224/10000000 | m2
ha hectare | 10000 | m2
gal gallon gals | 1 | gallon
qt quart qts | 1/4 | gallon
pt pint pts | 1/8 | gallon
cup | 1/16 | gallon
tbsp tablespoon | 1/256 | gallon
tsp teaspoon | 1/768 | gallon
lb lbs | 1 | lb
pound | 1 | pound
oz ounce | 1/16 | lb
floz | 1/128 | gallon
ton tons | 2000 | lb
tonne | 1000 | kg
stone | 14 | lb
amu Da dalton | 1 | dalton
mph | 1609344/3600000 | m s-1
kph kmh kmph | 1000/3600 | m s-1
fps | 3048/10000 | m s-1
knot kn | 1852/3600 | m s-1
rpm | 1/60 | revolution s-1
rev revolution | 1 | revolution
hp horsepower | 1 | horsepower
rad radian | 1 | rad
sr steradian | 1 | sr
degree deg ° \circ | 1 | degree
arcmin arcminute | 1/60 | degree
arcsec arcsecond | 1/3600 | degree
celsius Celsius centigrade °C \circ_C | 1 | celsius
fahrenheit Fahrenheit °F \circ_F | 1 | fahrenheit
dB decibel | 1 | dB
dollar USD usd \$ buck | 1 | dollar
cent ¢ | 1 | cent
euro EUR € | 1 | euro
yen JPY ¥ | 1 | yen
rupee Rs INR ₹ | 1 | rupee
yuan RMB CNY | 1 | yuan
ruble rouble ₽ | 1 | ruble
peso | 1 | peso
franc CHF | 1 | franc
GBP £ | 1 | sterling
unit units | 1 | unit
"""

_PREFIXES = {
    "T": 12,
    "G": 9,
    "M": 6,
    "k": 3,
    "h": 2,
    "d": -1,
    "c": -2,
    "m": -3,
    "μ": -6,  # a Greek letter
    "µ": -6,  # and the sign for micro
    "\\mu": -6,
    "u": -6,
    "n": -9,
    "p": -12,
    "f": -15,
}
_PREFIX_WORDS = {
    "tera": 12,
    "giga": 9,
    "mega": 6,
    "kilo": 3,
    "hecto": 2,
    "deci": -1,
    "centi": -2,
    "milli": -3,
    "micro": -6,
    "nano": -9,
    "pico": -12,
    "femto": -15,
}
# Spelled in other cases, these are no units of their own: KM, Kg.
_ANY_CASE = _words("cm mm km kg ml ft in lb mi hr oz yd mph min sec")


def _read_table() -> tuple[dict[str, Unit], dict[str, Unit]]:
    """Every symbol as it is spelled, and every word in small letters."""
    symbols: dict[str, Unit] = {}
    words: dict[str, Unit] = {}
    for line in _TABLE.strip().splitlines():
        spellings, size, measure = (part.strip() for part in line.split("|"))
        powers = re.findall(r"([a-zA-Z]+)(-?\d)?", measure)
        unit = Unit(Fraction(size), tuple(sorted((name, int(n or 1)) for name, n in powers)))
        short_names, has_prefixes, long_names = spellings.partition("/")

        for name in short_names.split() + long_names.split():
            symbols[name] = unit
            if len(name) > 2 and name.islower():
                words[name] = unit
        if not has_prefixes:
            continue
        for prefix, exponent in _PREFIXES.items():
            prefixed = Unit(unit.size * Fraction(10) ** exponent, unit.powers)
            for name in short_names.split():
                symbols.setdefault(prefix + name, prefixed)
        for prefix, exponent in _PREFIX_WORDS.items():
            prefixed = Unit(unit.size * Fraction(10) ** exponent, unit.powers)
            for name in long_names.split():
                words[prefix + name] = prefixed
    for name in _ANY_CASE:
        symbols.setdefault(name.upper(), symbols[name])
        symbols.setdefault(name.capitalize(), symbols[name])
    return symbols, words


_SYMBOLS, _WORDS = _read_table()


def _lookup(word: str) -> Unit | None:
    """One unit: a symbol as it is spelled, or a word in the singular or the plural."""
    if word in _SYMBOLS:
        return _SYMBOLS[word]
    small = word.lower()
    for single in (small, small.removesuffix("s"), small.removesuffix("es")):
        if len(single) > 2 and single in _WORDS:
            return _WORDS[single]
    return None


# --- Reading a unit ---


def flat(text: str) -> str:
    r"""Text and mathematics in one line.

    >>> flat(r"\text{ m} \cdot \text{s}^{-1}")
    'm * s ^-1'
    """
    text = re.sub(r"\\(?:text|mathrm) ?\{", "{ ", text)
    for _ in range(4):  # fractions in fractions
        text = re.sub(r"\\frac ?\{([^{}]*)\} ?\{([^{}]*)\}", r" (\1)/(\2) ", text)
        text = re.sub(r"\^ ?\{ ?(-?\d+) ?\}", r" ^\1 ", text)
        text = re.sub(r"(?<!\\)\{([^{}]*)\}", r"\1 ", text)
    text = re.sub(r"\\(?:cdot|times|ast)(?![a-zA-Z])|\*|·|•|⋅", " * ", text)
    text = re.sub(r"\^ ?\\circ ?\\?(?:text)? ?([CF])(?![a-zA-Z])", r" \\circ_\1 ", text)
    text = re.sub(r"\^ ?\\circ(?![a-zA-Z_])", r" \\circ ", text)
    return " ".join(re.sub(r"[~{}]|\\[,;:! ]", " ", text).split())


_ADJECTIVES_AFTER = _words(
    "long wide tall high deep thick old away apart later earlier ago each total altogether only"
    " left"
)
# One spelling for what units in words have many of. In order: the periods of "a.m." go first.
_SPELLINGS = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (rf" (?:{'|'.join(sorted(_ADJECTIVES_AFTER))})$", ""),  # 5 years old
        (r"(?i)^([ap])(?:\. ?)?m\.?$", lambda match: f"{match[1].lower()}m"),  # 5 P.M.
        (r"\b([ap])\. ?m\b\.?", r"\1m"),
        (r"(?<=[a-zA-Z])\.(?![a-zA-Z])", ""),  # 5 sq. ft.
        (r"(?<=[a-zA-Z])\.(?=[a-zA-Z])", " * "),  # kg.m
        (r"(?i)\bdeg(?:rees?)? (?=celsius|fahrenheit|centigrade)", ""),
        (r"(?i)\bdeg(?:rees?)? (?=[CF]$)", "°"),
        (r"(?i)\b(?:fluid|fl) (?:ounces?|oz)", "floz"),
        (r"\bper\b|\ba(?= (?:second|minute|hour|day|week|month|year)\b)", "/"),
        (r"\b(?:U\.?S\.? |US )(?=dollars?\b)", ""),
        (r"(?i)\bpounds? sterling\b", "GBP"),
        (r"\\mu ?(?=[a-zA-Z])", "μ"),
        (r"\\Omega", "Ω"),
        (r"(?<![a-zA-Z])([kMGmμ]) (?=Ω)", r"\1"),
        (r"(?i)\b(?:cu|cubic) ([a-z]+)", r"\1 ^3"),
        (r"(?i)\b(?:sq|square) ([a-z]+)", r"\1 ^2"),
        (r"(?i)(?<=[a-z]) cubed\b", " ^3"),
        (r"(?i)(?<=[a-z]) squared\b", " ^2"),
    )
]
_TOKEN = re.compile(
    r"\\[A-Za-z]+(?:_[CF])?|\^ ?-?\d+|[A-Za-zΩμµÅ°€£¥₹¢₽]+(?:-years?)?|\\\$|-?\d|[*/()]|\S"
)
_POWER = re.compile(r"\^ ?-?\d+|-?\d")
_MOST_CHARACTERS = 80


class _Product:
    """The units read so far, multiplied."""

    def __init__(self) -> None:
        self.size = Fraction(1)
        self.powers: Counter[str] = Counter()
        self.factors = 0

    def multiply(self, unit: Unit, exponent: int) -> None:
        self.size *= unit.size**exponent
        for name, power in unit.powers:
            self.powers[name] += power * exponent

    def unit(self) -> Unit:
        return Unit(self.size, tuple(sorted((n, p) for n, p in self.powers.items() if p)))


def read_unit(text: str) -> Unit | None:
    r"""The unit that a text is as a whole, or None.

    >>> read_unit(r"\text{ m s}^{-2}") == read_unit("m/s^2")
    True
    >>> read_unit("square inches") == read_unit("in^2")
    True
    >>> read_unit("ninths"), read_unit("m!")
    (None, None)
    """
    text = flat(text)
    if len(text) > _MOST_CHARACTERS:
        return None
    for pattern, replacement in _SPELLINGS:
        text = pattern.sub(replacement, text)
    return _read_product(_TOKEN.findall(text.strip()))


def _read_product(tokens: list[str]) -> Unit | None:
    """A product of units in their order: kg m / (s^2 K)."""
    product = _Product()
    sign = 1  # of the next unit's exponent: -1 after a slash
    group_signs = [1]  # of the brackets around it
    last: tuple[Unit, int] | None = None  # the unit that a power would belong to, with its sign
    for token in tokens:
        if token == "/":
            sign = -1
            last = None
        elif token == "*":
            last = None
        elif token == "(":
            group_signs.append(group_signs[-1] * sign)
            sign = 1
            last = None
        elif token == ")" and len(group_signs) > 1:
            group_signs.pop()
            sign = 1
            last = None
        elif last and _POWER.fullmatch(token):  # m^2, m2, s^-1
            power = int(token.lstrip("^ "))
            if not 0 < abs(power) < 10:
                return None
            product.multiply(last[0], last[1] * (power - 1))
            last = None
        elif unit := _lookup(token):
            last = (unit, group_signs[-1] * sign)
            product.multiply(*last)
            product.factors += 1
            sign = 1
        elif token != "1" or product.factors:  # 1/s
            return None
    is_whole = product.factors and len(group_signs) == 1 and sign == 1
    return product.unit() if is_whole else None


# Without \text, two letters may be two variables: only these are units, and words of three letters
# and more.
_TWO_LETTERS = _words(
    "cm mm km kg mg ml mL ft in yd mi hr lb oz Hz kHz MHz MPa kPa kN kJ kW kV Pa eV keV MeV Wb nm"
)
_BETWEEN_UNITS = _words("per square sq cubic cu squared cubed fl fluid a")


def is_bare_unit(text: str, single_letters: bool) -> bool:
    r"""Whether letters without \text, which may be variables, are meant as a unit: "cm", "m/s",
    "square feet".

    A single letter counts only in a quotient (m/s), or where the caller knows that it is no
    variable."""
    unread = []
    for word in re.findall(r"[A-Za-z]+", re.sub(r"[kMGmμ]? ?\\Omega|\\[a-zA-Z]+", "", text)):
        is_unit = word in _TWO_LETTERS or (len(word) > 2 and _lookup(word))
        if not is_unit and word.lower() not in _BETWEEN_UNITS:
            unread.append(word)
    if not unread:
        return True
    are_units = single_letters or "/" in text or "^-" in text
    return are_units and all(len(word) == 1 for word in unread)


# --- Nouns ---

# Words that make another value of the number before them, or another answer: never dropped.
_CHANGES_VALUE = _words("""
above add added adds among and another anything are as at backwards bar base bases because below
between billion billions both but by choose chooses chosen complex conjugate conjugates cos cosine
cosines could couple couples crore crores cube cubed debt debts decimal decimals decreased deficit
deficits digit divide divided divides double doubled doubles down dozen dozens e eight eighteen
eighties eights eighty either eleven elevens else equal equals equivalent except excepting
excludes excluding exponent exponential exponents factorial factorials false fewer fifteen fifties
fifty first five fives fold forties forty four fours fourteen fraction greater gross guess guesses
half halves hence hundred hundreds if imaginaries imaginary incorrect increased infinite
infinities infinity inverse inverses is kth lakh lakhs last least less lesser log logarithm
logarithms logs loss losses lots maxima may maybe might million millions minima minus minuses mod
modulo modulus more most multiplied multiplies multiply negated negation negative negatives
neither never nine nines nineteen nineties ninety no non none nor not nth odds once one ones
opposite opposites or other others otherwise over overline percent percentage percentages
percentile percents perhaps permil permille permute permutes pi pick picks plus pluses plusminus
point positive positives possibly power powers ppb ppm primorial primorials probably promille
quadrillion quadruple quadrupled quarter quarters quotient radical radicals raised ratio
reciprocal reciprocals recurring recurs reduced remainder repeated repeating repeats reversed root
score scores seven sevens seventeen seventies seventy short shortage should sin since sine sines
six sixes sixteen sixties sixty so something sqrt square squared subfactorial subfactorials
subtract subtracted subtracts tan tangent tangents tau ten tens than third thirds thirteen
thirties thirty thousand thousands three threes thrice thus time times trillion trillions triple
tripled triples twelve twelves twenties twenty twice two twos undefined under unknown unless
unsure up versus vs was when whenever while within without would wrong zero zeroes zeros
""")
_ORDINAL = re.compile(
    r"(?:fif|six|seven|eigh|nin|ten|eleven|twelf|(?:thir|four|fif|six|seven|eigh|nine)teen"
    r"|(?:twen|thir|for|fif|six|seven|eigh|nine)tie|four|hundred|thousand|(?:m|b|tr)illion)ths?"
    r"|\w+fold"
)
# Before a plain noun these are harmless: "3 positive integers".
_ADJECTIVES = _words("positive negative complex imaginary odd square infinite equal more other")
_PLURALS = _words("""
aircraft alumni axes bacteria bread cattle children criteria data deer dice feet fish foci
formulae fruit furniture geese hair homework indices loci matrices men mice money oxen people
phenomena police radii rice salmon series sheep shrimp spacecraft species squid staff teeth trout
vertices women
""")
_SMALL_WORDS = _words(
    "of the a an in on per for to from with that who which her his their our its them this these"
    " those"
)
_ADVERB = re.compile(r"(?i)(?:in (?:total|all)|each|only|altogether|exactly)")
_NO_WORDS = Noun(frozenset())


def _changes_value(word: str) -> bool:
    is_letter = len(word) == 1 and word != "a"
    return bool(word in _CHANGES_VALUE or _ORDINAL.fullmatch(word) or is_letter)


def _is_plural(word: str) -> bool:
    if word in _PLURALS:
        return True
    return len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is"))


def read_noun(text: str, value: Fraction | None) -> Noun | None:
    r"""A plain noun phrase after a number, or None where a word may change the value.

    >>> sorted(read_noun("red balls", Fraction(4)).words)
    ['ball', 'red']
    >>> sorted(read_noun("ways to sit", Fraction(4)).words)
    ['way']
    >>> read_noun("ninths", Fraction(4)) is None
    True
    """
    text = flat(text).strip(" .")
    if _ADVERB.fullmatch(text):
        return _NO_WORDS
    if len(text) > 120 or not re.fullmatch(r"[A-Za-z][A-Za-z' -]*", text):
        return None
    words = text.lower().replace("-", " ").replace("'", "").split()
    if not words:
        return None
    words = [word for word in words[:-1] if word not in _ADJECTIVES] + words[-1:]
    if words[-1] in _SMALL_WORDS or any(map(_changes_value, words)):
        return None
    if words[0] == "of" and value is not None and abs(value) < 1:
        return _NO_WORDS  # 2/3 of the total

    # The noun ends before the first small word: "ways" of "ways to sit".
    end = next((i for i, word in enumerate(words) if word in _SMALL_WORDS), len(words))
    phrase = [word for word in words[:end] if word not in _ADJECTIVES_AFTER]
    if not phrase:
        return None
    one_or_less = value is not None and abs(value) <= 1
    if not _is_plural(phrase[-1]) and not (one_or_less and len(phrase[-1]) > 2):
        return None
    return Noun(frozenset(word.removesuffix("s") if len(word) > 3 else word for word in phrase))


# --- Comparing ---

_DEGREES = {Unit(Fraction(1), ((name, 1),)) for name in ("degree", "celsius", "fahrenheit")}
_DEGREE = Unit(Fraction(1), (("degree", 1),))


def _with_pounds(unit: Unit, kind: str) -> Unit:
    """The unit with its pounds read as a weight (lb) or as money (sterling)."""
    powers: Counter[str] = Counter()
    for name, power in unit.powers:
        powers[kind if name == "pound" else name] += power
    return Unit(unit.size, tuple(sorted((name, power) for name, power in powers.items() if power)))


def same_unit(one: Unit | Noun, other: Unit | Noun) -> bool:
    """Whether two units or nouns agree.

    A plain degree may be Celsius, a pound in words may be lb or £, and "red balls" are balls."""
    if isinstance(one, Noun) and isinstance(other, Noun):
        return one.words <= other.words or other.words <= one.words
    if isinstance(one, Noun) or isinstance(other, Noun):
        return False
    if one == other or (_DEGREE in (one, other) and {one, other} <= _DEGREES):
        return True
    return any(_with_pounds(one, kind) == _with_pounds(other, kind) for kind in ("lb", "sterling"))
