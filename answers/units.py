r"""Units and nouns at the end of an answer: "5 \text{ m/s}", "12 km h^{-1}", "240 ways".

A unit is read with a table of real units, so that "4 ninths" or "3 factorial" is never "4" or "3"
with a unit. Units are compared by what they measure and by their size (m s^{-1} is m/s, and mL is
cm^3); values are never converted. A plain noun in the plural ("apples") is dropped like a unit; a
word that may change the value is not."""

import re
from fractions import Fraction


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Spellings | size | what it measures. Where there is a "/", spellings before it are symbols that take k, m, .. as
# prefixes, and those after it are words that take kilo, milli, ..
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
lb pound lbs £ | 1 | pound
oz ounce | 1/16 | pound
floz | 1/128 | gallon
ton tons | 2000 | pound
tonne | 1000 | kg
stone | 14 | pound
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
GBP | 1 | pound
unit units | 1 | unit
"""
_PREFIXES = {
    "k": 3,
    "M": 6,
    "G": 9,
    "T": 12,
    "h": 2,
    "d": -1,
    "c": -2,
    "m": -3,
    "μ": -6,
    "µ": -6,
    "\\mu": -6,
    "u": -6,
    "n": -9,
    "p": -12,
    "f": -15,
}
_PREFIX_WORDS = {
    "kilo": 3,
    "mega": 6,
    "giga": 9,
    "tera": 12,
    "hecto": 2,
    "deci": -1,
    "centi": -2,
    "milli": -3,
    "micro": -6,
    "nano": -9,
    "pico": -12,
    "femto": -15,
}
# Without \text, two letters may be two variables: only these are units, and words of three letters
# and more.
_BARE = _words(
    "cm mm km kg mg ml mL ft in yd mi hr lb oz Hz kHz MHz MPa kPa kN kJ kW kV Pa eV keV MeV Wb nm"
)

_Size = tuple[Fraction, tuple[tuple[str, int], ...]]


def _read_table() -> tuple[dict[str, _Size], dict[str, _Size]]:
    """Size and dimensions of every symbol, and of every word (in small letters)."""
    symbols, words = {}, {}
    for line in _TABLE.strip().splitlines():
        spellings, size, measure = (part.strip() for part in line.split("|"))
        dimensions = tuple(
            sorted((m[1], int(m[2] or 1)) for m in re.finditer(r"([a-zA-Z]+)(-?\d)?", measure))
        )
        names, slash, long_names = spellings.partition("/")
        value = Fraction(size)
        for name in names.split() + long_names.split():
            symbols[name] = value, dimensions
            if len(name) > 2 and name.islower():
                words[name] = value, dimensions
        if slash:
            for prefix, exponent in _PREFIXES.items():
                for name in names.split():
                    symbols.setdefault(
                        prefix + name, (value * Fraction(10) ** exponent, dimensions)
                    )
            for prefix, exponent in _PREFIX_WORDS.items():
                for name in long_names.split():
                    words[prefix + name] = value * Fraction(10) ** exponent, dimensions
    for name in (
        "cm",
        "mm",
        "km",
        "kg",
        "ml",
        "ft",
        "in",
        "lb",
        "mi",
        "hr",
        "oz",
        "yd",
        "mph",
        "min",
        "sec",
    ):
        for spelling in (name.upper(), name.capitalize()):  # KM, Kg: no unit of their own
            symbols.setdefault(spelling, symbols[name])
    return symbols, words


_SYMBOLS, _WORDS = _read_table()


def _lookup(word: str) -> _Size | None:
    """One unit: a symbol as it is spelled, or a word in the singular or the plural."""
    if word in _SYMBOLS:
        return _SYMBOLS[word]
    small = word.lower()
    for single in (small, small.removesuffix("s"), small.removesuffix("es")):
        if len(single) > 2 and single in _WORDS:
            return _WORDS[single]
    return None


def flat(text: str) -> str:
    r"""Text and mathematics in one line: `\text{ m} \cdot \text{s}^{-1}` is "m * s ^-1"."""
    text = re.sub(r"\\(?:text|mathrm) ?\{", "{ ", text)
    for _ in range(4):  # fractions in fractions
        text = re.sub(r"\\frac ?\{([^{}]*)\} ?\{([^{}]*)\}", r" (\1)/(\2) ", text)
        text = re.sub(r"\^ ?\{ ?(-?\d+) ?\}", r" ^\1 ", text)
        text = re.sub(r"(?<!\\)\{([^{}]*)\}", r"\1 ", text)
    text = re.sub(r"\\(?:cdot|times|ast)(?![a-zA-Z])|\*|·|•|⋅", " * ", text)
    text = re.sub(r"\^ ?\\circ ?\\?(?:text)? ?([CF])(?![a-zA-Z])", r" \\circ_\1 ", text)
    text = re.sub(r"\^ ?\\circ(?![a-zA-Z_])", r" \\circ ", text)
    return " ".join(re.sub(r"[~{}]|\\[,;:! ]", " ", text).split())


_TOKEN = re.compile(
    r"\\[A-Za-z]+(?:_[CF])?|\^ ?-?\d+|[A-Za-zΩμµÅ°€£¥₹¢₽]+(?:-years?)?|\\\$|-?\d|[*/()]|\S"
)


def read_unit(text: str) -> str | None:
    r"""One name for a unit, or None where the text is not a unit.

    >>> read_unit(r"\text{ m s}^{-2}") == read_unit("m/s^2"), read_unit("square inches") == read_unit("in^2")
    (True, True)
    >>> read_unit("ninths"), read_unit("m!")
    (None, None)
    """
    text = flat(text)
    if len(text) > 80:
        return None
    text = re.sub(rf" (?:{'|'.join(_ADJECTIVES_AFTER)})$", "", text)  # 5 years old
    text = re.sub(
        r"\b([ap])\. ?m\b\.?",
        r"\1m",
        text.lower() if re.fullmatch(r"[AaPp]\.? ?[Mm]\.?", text) else text,
    )
    text = re.sub(
        r"(?<=[a-zA-Z])\.(?=[a-zA-Z])", " * ", re.sub(r"(?<=[a-zA-Z])\.(?![a-zA-Z])", "", text)
    )
    text = re.sub(r"(?i)\bdeg(?:rees?)? (?=celsius|fahrenheit|centigrade)", "", text)
    text = re.sub(r"(?i)\bdeg(?:rees?)? (?=[CF]$)", "°", text)
    text = re.sub(r"(?i)\b(?:fluid|fl) (?:ounces?|oz)", "floz", text)
    text = re.sub(r"\bper\b|\ba(?= (?:second|minute|hour|day|week|month|year)\b)", "/", text)
    text = re.sub(r"\b(?:U\.?S\.? |US )(?=dollars?\b)", "", text)
    text = re.sub(r"\\mu ?(?=[a-zA-Z])", "μ", text).replace("\\Omega", "Ω")
    text = re.sub(r"(?<![a-zA-Z])([kMGmμ]) (?=Ω)", r"\1", text)
    text = re.sub(
        r"(?i)\b(?:sq|square) ([a-z]+)",
        r"\1 ^2",
        re.sub(r"(?i)\b(?:cu|cubic) ([a-z]+)", r"\1 ^3", text),
    )
    text = re.sub(
        r"(?i)(?<=[a-z]) squared\b", " ^2", re.sub(r"(?i)(?<=[a-z]) cubed\b", " ^3", text)
    )
    size, powers = Fraction(1), {}
    sign, group, last, factors = 1, [1], None, 0
    for token in _TOKEN.findall(text.strip()):
        if token == "/":
            sign, last = -1, None
        elif token == "*":
            last = None
        elif token == "(":
            group.append(group[-1] * sign)
            sign, last = 1, None
        elif token == ")" and len(group) > 1:
            group.pop()
            sign, last = 1, None
        elif re.fullmatch(r"\^ ?-?\d+|-?\d", token) and last:  # m^2, m2, s^-1
            power = int(token.lstrip("^ "))
            if not 0 < abs(power) < 10:
                return None
            (one_size, dimensions), direction = last
            size *= one_size ** (direction * (power - 1))
            for name, exponent in dimensions:
                powers[name] += exponent * direction * (power - 1)
            last = None
        elif (unit := _lookup(token)) is not None:
            direction = group[-1] * sign
            size *= unit[0] ** direction
            for name, exponent in unit[1]:
                powers[name] = powers.get(name, 0) + exponent * direction
            last, sign, factors = (unit, direction), 1, factors + 1
        elif not (token == "1" and not factors):  # 1/s
            return None
    if not factors or len(group) > 1 or sign < 0:
        return None
    return f"{size} " + " ".join(
        f"{name}^{power}" for name, power in sorted(powers.items()) if power
    )


def is_bare_unit(text: str, single_letters: bool) -> bool:
    r"""Whether letters without \text, which may be variables, are meant as a unit: "cm", "m/s",
    "square feet".

    A single letter counts only in a quotient (m/s), or where the caller knows that it is no
    variable."""
    words = re.findall(r"[A-Za-z]+", re.sub(r"[kMGmμ]? ?\\Omega|\\[a-zA-Z]+", "", text))
    known = [word in _BARE or (len(word) > 2 and _lookup(word) is not None) for word in words]
    filler = {"per", "square", "sq", "cubic", "cu", "squared", "cubed", "fl", "fluid", "a"}
    rest = [word for word, good in zip(words, known) if not good and word.lower() not in filler]
    return not rest or (
        (single_letters or "/" in text or "^-" in text) and all(len(word) == 1 for word in rest)
    )


def same_unit(one: str, other: str) -> bool:
    """Whether two names of units or nouns agree: a plain degree may be Celsius; "red balls" are
    balls."""
    if one == other or (
        "1 degree^1" in (one, other) and re.match("1 (?:celsius|fahrenheit|degree)", one + other)
    ):
        return one == other or {one, other} <= {"1 degree^1", "1 celsius^1", "1 fahrenheit^1"}
    if one[:1].isdigit() or other[:1].isdigit():
        return False
    few, many = sorted((set(one.split()), set(other.split())), key=len)
    return few <= many


# --- Nouns ---

# Words that make another value of the number before them, or another answer: never dropped.
_CHANGES_VALUE = _words("""
above add added adds among and another anything are as at backwards bar base bases because below between billion
billions both but by choose chooses chosen complex conjugate conjugates cos cosine cosines could couple couples crore
crores cube cubed debt debts decimal decimals decreased deficit deficits digit divide divided divides double doubled
doubles down dozen dozens e eight eighteen eighties eights eighty either eleven elevens else equal equals equivalent
except excepting excludes excluding exponent exponential exponents factorial factorials false fewer fifteen fifties
fifty first five fives fold forties forty four fours fourteen fraction greater gross guess guesses half halves hence
hundred hundreds if imaginaries imaginary incorrect increased infinite infinities infinity inverse inverses is kth
lakh lakhs last least less lesser log logarithm logarithms logs loss losses lots maxima may maybe might million
millions minima minus minuses mod modulo modulus more most multiplied multiplies multiply negated negation negative
negatives neither never nine nines nineteen nineties ninety no non none nor not nth odds once one ones opposite
opposites or other others otherwise over overline percent percentage percentages percentile percents perhaps permil
permille permute permutes pi pick picks plus pluses plusminus point positive positives possibly power powers ppb ppm
primorial primorials probably promille quadrillion quadruple quadrupled quarter quarters quotient radical radicals
raised ratio reciprocal reciprocals recurring recurs reduced remainder repeated repeating repeats reversed root score
scores seven sevens seventeen seventies seventy short shortage should sin since sine sines six sixes sixteen sixties
sixty so something sqrt square squared subfactorial subfactorials subtract subtracted subtracts tan tangent tangents
tau ten tens than third thirds thirteen thirties thirty thousand thousands three threes thrice thus time times
trillion trillions triple tripled triples twelve twelves twenties twenty twice two twos undefined under unknown unless
unsure up versus vs was when whenever while within without would wrong zero zeroes zeros
""")
_ORDINAL = re.compile(
    r"(?:fif|six|seven|eigh|nin|ten|eleven|twelf|(?:thir|four|fif|six|seven|eigh|nine)teen|"
    r"(?:twen|thir|for|fif|six|seven|eigh|nine)tie|four|hundred|thousand|(?:m|b|tr)illion)ths?|\w+fold"
)
# Before a plain noun these are harmless: "3 positive integers".
_ADJECTIVES = {
    "positive",
    "negative",
    "complex",
    "imaginary",
    "odd",
    "square",
    "infinite",
    "equal",
    "more",
    "other",
}
_PLURALS = _words("""
aircraft alumni axes bacteria bread cattle children criteria data deer dice feet fish foci formulae fruit furniture
geese hair homework indices loci matrices men mice money oxen people phenomena police radii rice salmon series sheep
shrimp spacecraft species squid staff teeth trout vertices women
""")
_ADJECTIVES_AFTER = _words(
    "long wide tall high deep thick old away apart later earlier ago each total altogether only left"
)
_SMALL_WORDS = _words(
    "of the a an in on per for to from with that who which her his their our its them this these those"
)


def read_noun(text: str, value: Fraction | None) -> str | None:
    r"""The words of a plain noun phrase after a number, in the singular, or None where a word may
    change the value.

    >>> read_noun("red balls", Fraction(4)), read_noun("ways to sit", Fraction(4)), read_noun("ninths", Fraction(4))
    ('ball red', 'way', None)
    """
    text = flat(text).strip(" .")
    if re.fullmatch(r"(?i)(?:in (?:total|all)|each|only|altogether|exactly)", text):
        return ""
    if len(text) > 120 or not re.fullmatch(r"[A-Za-z][A-Za-z' -]*", text):
        return None
    words = text.lower().replace("-", " ").replace("'", "").split()
    words = [word for word in words[:-1] if word not in _ADJECTIVES] + words[-1:]
    if (
        not words
        or words[-1] in _SMALL_WORDS
        or any(
            word in _CHANGES_VALUE or _ORDINAL.fullmatch(word) or (len(word) == 1 and word != "a")
            for word in words
        )
    ):
        return None
    if words[0] == "of" and value is not None and abs(value) < 1:
        return ""  # 2/3 of the total
    stop = next((i for i, word in enumerate(words) if word in _SMALL_WORDS), len(words))
    head = [word for word in words[:stop] if word not in _ADJECTIVES_AFTER]
    if not head:
        return None
    last = head[-1]
    plural = last in _PLURALS or (
        len(last) > 3 and last.endswith("s") and not re.search(r"(?:ss|us|is)$", last)
    )
    one_or_less = value is not None and abs(value) <= 1
    if not plural and not (one_or_less and len(last) > 2):
        return None
    return " ".join(sorted({word.removesuffix("s") if len(word) > 3 else word for word in head}))
