r"""Whether two expressions, equations or inequalities have the same value: math-verify and sympy.

This may take long and much memory, so it runs in a worker with limits on both. Nothing is evaluated
as code: the grammar of math-verify (latex2sympy2_extended) is called directly, since math-verify's
`parse` is an eval for plain expressions."""

import re


class BadGold(Exception):
    """The gold answer is not LaTeX that math-verify's grammar knows."""


# What the grammar misreads, in spellings that it reads as they are meant.
_FOR_GRAMMAR = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"([\d.]+) ?\^\\circ", r"(\1\\pi/180)"),
        (r"\\text\{ ?(\w) ?\}", r"\1"),
        (r"(\\?[a-zA-Z]+)'", r"\1_{p}"),
        (r"(?<![\\a-zA-Z])C\((\d+), ?(\d+)\)", r"\\binom{\1}{\2}"),
        # \cos^3(x) stays; 2(3) is a product, which the grammar reads as 2 + 3
        (r"(\\[a-z]+ ?\^ ?(?:\d|\{[^{}]*\})) ?\(", r"\1("),
        (r"((?<![\d_^])\d+(?<!\^\d)|\)) ?\(", r"\1\\cdot ("),
        # E with a subscript is a variable, which the grammar takes for the base of the logarithm
        (r"(?<![\\a-zA-Z])E(?= ?_)", r"\\Xi "),
        # \gamma is a variable, which the grammar takes for a function without an argument;
        # \Gamma(n) is that function
        (r"\\gamma(?![a-z])(?= ?_)", r"\\varsigma"),
        (r"\\gamma(?![a-z])", r"\\varsigma_{g}"),
        (r"\\Gamma(?![a-z])(?! ?_| ?\()", r"\\varsigma_{G}"),
    )
]
_NOT_AN_EXPRESSION = re.compile(r"(?<![_^\d])\d+ +\d|'|\*$")  # the grammar reads 3 4 as 7


def _parse(text: str):
    """A cleaned expression, equation or inequality as sympy's."""
    from latex2sympy2_extended.latex2sympy2 import ConversionConfig, latex2sympy
    from sympy import Derivative, I, Symbol, nan, zoo

    for pattern, replacement in _FOR_GRAMMAR:
        text = pattern.sub(replacement, text)
    if _NOT_AN_EXPRESSION.search(text):
        raise ValueError("not an expression")
    config = ConversionConfig(lowercase_symbols=False)
    expression = latex2sympy(
        text, is_real=None, normalization_config=None, conversion_config=config
    )
    if expression.has(nan, zoo):
        raise ValueError("no value")  # with which anything may be equal: zoo - 1 is zoo - 2

    def is_opaque(part) -> bool:
        # Evaluating dv/dt would give 0, and math-verify takes R for r.
        return isinstance(part, Derivative) or (part.is_Symbol and part.name.isupper())

    opaque = expression.replace(is_opaque, lambda part: Symbol(f"{part}_opaque"))
    return opaque.subs(Symbol("i"), I)


# --- Roots and logarithms ---


def _has_roots(one, other) -> bool:
    r"""Whether both have roots or logarithms of variables, or one has |x| and one has roots.

    sympy keeps \sqrt{1/n} apart from 1/\sqrt{n}, since they differ where n < 0 in the complex
    plane."""
    from sympy import Abs, Expr, Pow, log

    def has(expression) -> bool:
        roots = [
            power
            for power in expression.atoms(Pow)
            if power.base.free_symbols and power.exp.is_Rational and not power.exp.is_Integer
        ]
        return bool(roots) or any(part.free_symbols for part in expression.atoms(log))

    if not (isinstance(one, Expr) and isinstance(other, Expr)):
        return False
    if has(one) and has(other):
        return True
    return bool(one.atoms(Abs) or other.atoms(Abs)) and (has(one) or has(other))


# --- Numbers to 1,000 digits ---

DIGITS = 1000  # compared by number: 2 - 2^{-2023} is not 2 - 2^{-2024}
DIGITS_OF_FACTORIALS = 100  # (n - 1)! to 1,000 digits takes seconds
POINTS = 8  # at which expressions with variables are compared,
ENOUGH_POINTS = 3  # and at how many of them both must be real and equal


def _point(symbols: list, index: int, signed: bool) -> dict:
    """Values of the variables: fractions that no one chooses, large and small, of both signs where
    signs matter."""
    from sympy import Rational

    point = {}
    for j, symbol in enumerate(symbols):
        top = (7919 * (index + 3 * j + 1)) % 1009 + 1
        bottom = 97 + (index * 389 + j * 61) % 211 * (index % 3)
        negative = signed and (index >> (j % 3)) & 1
        point[symbol] = Rational(-top if negative else top, bottom)
    return point


def _agree(one, other) -> bool | None:
    """Whether two expressions have equal values to 1,000 digits; with variables, at several points
    where both are real.

    Under roots and logarithms variables are taken to be positive, unless |x| shows that signs
    matter. None: can't say."""
    import sympy
    from sympy.functions.combinatorial.factorials import CombinatorialFunction

    pair = (one, other)
    if not all(isinstance(side, sympy.Expr) for side in pair):
        return None
    unevaluated = (
        sympy.Integral,
        sympy.Sum,
        sympy.Product,
        sympy.Limit,
        sympy.Derivative,
        sympy.UnevaluatedExpr,
    )
    if any(side.has(*unevaluated) for side in pair):
        return None
    one, other = (
        side.xreplace({n: sympy.Rational(str(n)) for n in side.atoms(sympy.Float)}) for side in pair
    )
    symbols = sorted(one.free_symbols | other.free_symbols, key=str)
    if not symbols:
        return _equal_numbers(one, other)

    signed = one.has(sympy.Abs) or other.has(sympy.Abs) or not _has_roots(one, other)
    factorials = one.atoms(CombinatorialFunction) or other.atoms(CombinatorialFunction)
    digits = DIGITS_OF_FACTORIALS if factorials else DIGITS
    agreed = 0
    for index in range(POINTS):
        point = _point(symbols, index, signed)
        try:
            left, right = one.subs(point).evalf(digits), other.subs(point).evalf(digits)
        except (ValueError, TypeError, ZeroDivisionError, AttributeError):
            return None
        if not (_is_finite(left) and _is_finite(right) and left.is_real and right.is_real):
            continue
        if not _close(left, right, digits):
            return False
        agreed += 1
    return True if agreed >= ENOUGH_POINTS else None


def _equal_numbers(one, other) -> bool | None:
    if one.is_Rational and other.is_Rational:
        return bool(one == other)
    try:
        left, right = one.evalf(DIGITS), other.evalf(DIGITS)
    except (ValueError, TypeError, ZeroDivisionError, AttributeError):
        return None
    if not (_is_finite(left) and _is_finite(right)):
        return None
    return _close(left, right, DIGITS)


def _is_finite(value) -> bool:
    return bool(value.is_number and value.is_finite)


def _close(left, right, digits: int) -> bool:
    from sympy import Rational

    scale = max(abs(left), abs(right))
    return bool(scale == 0 or abs(left - right) <= scale * Rational(1, 10 ** (digits - 50)))


# --- Both ---


def same_value(answer: str, gold: str) -> bool:
    """Whether two cleaned expressions, equations or inequalities are equal.

    Raises:
        BadGold: no grammar reads the gold answer.
    """
    from math_verify import verify

    try:
        expected = _parse(gold)
    except MemoryError:
        raise
    except Exception as error:  # the grammar raises bare Exception
        raise BadGold(gold) from error
    try:
        given = _parse(answer)
        if expected == given:
            return True
        # Its own time limits work on the main thread only; the worker's replace them.
        if verify(expected, given, float_rounding=30, numeric_precision=50, timeout_seconds=None):
            return _agree(expected, given) is not False
        return _has_roots(expected, given) and _agree(expected, given) is True
    except MemoryError:
        raise
    except Exception:  # not LaTeX that can be read: not an answer
        return False
