r"""Unicode and HTML as LaTeX: "½" is "\frac{1}{2}", and "x &lt; 5" is "x < 5"."""

import html
import re
import unicodedata

# --- Unicode ---

_SYMBOLS = {
    # signs and operators
    **dict.fromkeys("−–‒‐‑", "-"),
    **dict.fromkeys("×✕", r"\times "),
    **dict.fromkeys("·⋅∙•", r"\cdot "),
    **dict.fromkeys("÷⁄∕", "/"),
    "∗": "*",
    "±": r"\pm ",
    "∑": r"\sum ",
    "∏": r"\prod ",
    "∫": r"\int ",
    "∂": r"\partial ",
    "∞": r"\infty ",
    **dict.fromkeys("°º˚", r"^\circ "),
    # relations
    **dict.fromkeys("≤≦⩽", r"\le "),
    **dict.fromkeys("≥≧⩾", r"\ge "),
    "≠": r"\ne ",
    "≈": r"\approx ",
    "≡": r"\equiv ",
    # sets and logic
    "∪": r"\cup ",
    "∩": r"\cap ",
    "∈": r"\in ",
    "∉": r"\notin ",
    "∖": r"\setminus ",
    **dict.fromkeys("∅⌀", r"\emptyset "),
    "ℝ": r"\R ",
    "ℤ": r"\mathbb{Z} ",
    "ℕ": r"\mathbb{N} ",
    "ℚ": r"\mathbb{Q} ",
    "ℂ": r"\mathbb{C} ",
    "∨": r"\vee ",
    "∧": r"\wedge ",
    "∀": r"\forall ",
    "⇒": r"\Rightarrow ",
    "→": r"\to ",
    "∴": r"\therefore ",
    # brackets and bars
    "⌊": r"\lfloor ",
    "⌋": r"\rfloor ",
    "⌈": r"\lceil ",
    "⌉": r"\rceil ",
    **dict.fromkeys("⟨〈", r"\langle "),
    **dict.fromkeys("⟩〉", r"\rangle "),
    "∣": "|",
    "∥": r"\|",
    # geometry
    "∠": r"\angle ",
    "△": r"\triangle ",
    "∆": r"\Delta ",
    "ᵀ": "^{T}",
    # punctuation and the rest
    **dict.fromkeys("…⋯", r"\ldots "),
    **dict.fromkeys("′’ʹ", "'"),
    **dict.fromkeys("“”", ""),
    "∶": ":",
    "，": ",",
    "、": ", ",
    "。": ".",
    "％": "%",
    "￥": "¥",
    "ℓ": "l",
}


def _greek_letters() -> dict[str, str]:
    r"""Each small letter as "\alpha ", and the capitals that LaTeX has as "\Gamma "."""
    letters = {}
    for code in range(ord("α"), ord("ω") + 1):
        letter = chr(code)
        if letter not in "ος":  # omicron is an o, and LaTeX has no final sigma
            name = unicodedata.name(letter).split()[-1].lower().replace("lamda", "lambda")
            letters[letter] = f"\\{name} "
    for letter in "γδθλξπσφψω":
        letters[letter.upper()] = f"\\{letters[letter][1:].capitalize()}"
    return letters


_INVISIBLE = dict.fromkeys("\u200b\u200c\u200d\u200e\u200f\u2060\u2061\u2062\ufeff\xad", "")
_TABLE = str.maketrans(_SYMBOLS | _greek_letters() | _INVISIBLE)

_ROOT_SIGNS = {"√": r"\sqrt", "∛": r"\sqrt[3]", "∜": r"\sqrt[4]"}
_SUPERSCRIPT = "[\u2070\u00b9\u00b2\u00b3\u2074-\u207b\u207f\u2071]"
_SUBSCRIPT = "[\u2080-\u208e\u2090-\u209c\u1d62-\u1d65\u2c7c]"
_ROOT = re.compile(
    rf"((?<![\w)}}\]]){_SUPERSCRIPT}+)?([√∛∜])\s*"
    r"(\d+(?:\.\d+)?|[a-zA-Zα-ω](?![a-zA-Z])|(?=[({\\]))?"
)
_FRACTION = re.compile("[¼-¾⅐-⅞]")


def _root(match: re.Match) -> str:
    r"""√20x is \sqrt{20}x, and ³√27 is a cube root; √(...) waits for the rule for brackets."""
    index = unicodedata.normalize("NFKC", match[1] or "")
    command = f"\\sqrt[{index}]" if index else _ROOT_SIGNS[match[2]]
    return command + (f"{{{match[3]}}}" if match[3] else "")


def _fraction(match: re.Match) -> str:
    top, bottom = unicodedata.normalize("NFKC", match[0]).split("⁄")
    return rf"\frac{{{top}}}{{{bottom}}}"


def _overline(match: re.Match) -> str:
    return rf"\overline{{{re.sub('[^0-9]', '', match[0])}}}"


def without_unicode(text: str) -> str:
    r"""Unicode characters as LaTeX.

    >>> without_unicode("x² ≥ ½"), without_unicode("3√2 ± π")
    ('x^{2} \\ge  \\frac{1}{2}', '3\\sqrt{2} \\pm  \\pi ')
    """
    text = _ROOT.sub(_root, text)
    text = re.sub(r"(?:\d[\u0304\u0305])+", _overline, text)  # 0.3̅
    text = re.sub(r"(\d)\u0307", r"\\dot{\1}", text)  # 0.3̇
    text = re.sub(f"{_SUPERSCRIPT}+", r"^{\g<0>}", text)
    text = re.sub(f"{_SUBSCRIPT}+", r"_{\g<0>}", text)
    text = re.sub("[①-⑳]", r" \g<0> ", text)  # ①③ is not 13
    text = _FRACTION.sub(_fraction, text)
    # NFKC turns wide, bold and circled characters into plain ones, some of them into symbols.
    return unicodedata.normalize("NFKC", text.translate(_TABLE)).translate(_TABLE)


# --- HTML ---

_ENTITY = re.compile(r"&(?:#\d{1,6}|#[xX][0-9a-fA-F]{1,6}|[a-zA-Z]{2,8}\d{0,2});")
_TAG = re.compile(
    r"<(b|i|em|strong|u|span|p|div|code|font|mark|small|big|sup|sub)(?:\s[^<>]*)?>([^<>]*)</\1\s*>"
    r"|<br\s*/?>()",
    re.IGNORECASE,
)


def _tag(match: re.Match) -> str:
    name, content = (match[1] or "br").lower(), match[2] or " "
    if name == "sup":
        return f"^{{{content}}}"
    return f"_{{{content}}}" if name == "sub" else content


def without_html(text: str) -> str:
    """Entities and tags as LaTeX.

    >>> without_html("x<sup>2</sup> &lt; 5")
    'x^{2} < 5'
    """
    for _ in range(2):  # &amp;lt;
        text = _ENTITY.sub(lambda entity: html.unescape(entity[0]), text)
    for _ in range(2):  # tags in tags
        text = _TAG.sub(_tag, text)
    return text
