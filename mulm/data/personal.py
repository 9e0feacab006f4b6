"""Personal data replaced by placeholders: mail addresses, telephone numbers, IP addresses.

Called by `mulm.data.clean.Cleaner` if a recipe asks for it. Patterns are bounded and begin where a
word begins, so that a line of any length takes time in proportion to it. Telephone numbers are
those with a country code and those of North America: without either, a number could be anything.
Addresses of loopback and private networks name nobody and stay.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from ipaddress import AddressValueError, IPv6Address

from mulm.data.rules import PersonalData

PLACEHOLDERS: dict[PersonalData, str] = {"mail": "<mail>", "phone": "<phone>", "ip": "<ip>"}

_MAIL = re.compile(
    r"(?<![\w.%+-])[A-Za-z0-9_%+-][A-Za-z0-9._%+-]{0,63}@"
    r"(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}(?![\w-])"
)
_PHONE = re.compile(
    r"(?<![\w+.,/-])(?:\+[1-9][0-9]{0,2}(?:[ .-]?\([0-9]{1,4}\))?(?:[ ./-]?[0-9]{1,5}){2,6}"
    r"|(?:1[ .-])?(?:\([2-9][0-9]{2}\) ?|[2-9][0-9]{2}[.-])[0-9]{3}[ .-][0-9]{4})"
    r"(?![\w/-]|[.,][0-9])"
)
_PHONE_DIGITS = range(8, 16)
_OCTET = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_IP4 = re.compile(rf"(?<![\w.-])(?:{_OCTET}\.){{3}}{_OCTET}(?![\w-]|\.[0-9])")
_IP4_PRIVATE = re.compile(r"(?:0|10|127|192\.168|172\.(?:1[6-9]|2[0-9]|3[01]))\.")
_IP6 = re.compile(r"(?<![\w:.])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}(?![\w:])")
_IP6_MIN_GROUPS = 4
_HAS_DOTTED_DIGITS = re.compile(r"\.[0-9]")
_HAS_INNER_COLON = re.compile(r":[0-9A-Fa-f:]")
_DIGITS = "0123456789"


def mask(text: str, kinds: Sequence[PersonalData]) -> str:
    """A text with a placeholder for each piece of such data."""
    for kind in PLACEHOLDERS:
        if kind in kinds:
            text = _MASKS[kind](text)
    return text


def _without_mail(text: str) -> str:
    return _MAIL.sub(PLACEHOLDERS["mail"], text) if "@" in text else text


def _without_ip(text: str) -> str:
    if _HAS_DOTTED_DIGITS.search(text):
        text = _IP4.sub(_ip4_placeholder, text)
    return _IP6.sub(_ip6_placeholder, text) if _HAS_INNER_COLON.search(text) else text


def _without_phone(text: str) -> str:
    has_digit = any(digit in text for digit in _DIGITS)
    return _PHONE.sub(_phone_placeholder, text) if has_digit else text


def _ip4_placeholder(match: re.Match[str]) -> str:
    return match[0] if _IP4_PRIVATE.match(match[0]) else PLACEHOLDERS["ip"]


def _ip6_placeholder(match: re.Match[str]) -> str:
    # Few groups are as likely a name in a program (`ace::bad`) or a time.
    if sum(map(bool, match[0].split(":"))) < _IP6_MIN_GROUPS:
        return match[0]
    try:
        IPv6Address(match[0])
    except AddressValueError:
        return match[0]
    return PLACEHOLDERS["ip"]


def _phone_placeholder(match: re.Match[str]) -> str:
    n_digits = sum(character in _DIGITS for character in match[0])
    return PLACEHOLDERS["phone"] if n_digits in _PHONE_DIGITS else match[0]


_MASKS: dict[PersonalData, Callable[[str], str]] = {
    "mail": _without_mail,
    "phone": _without_phone,
    "ip": _without_ip,
}
