"""Usernames: which are valid, and when two are the same."""

import re
import unicodedata

USERNAME_LENGTHS = range(3, 65)
MAX_FOLDED = 512  # longer than any username; normalising takes the square of a long run of combining marks
MAX_MARKS = 4  # on one letter: more than any language needs; a pile of them would cover the lines around
# Default_Ignorable_Code_Point in letters and marks (Unicode's DerivedCoreProperties): invisible.
INVISIBLE = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0000-\U000e0fff]")


def fold(name: str) -> str:
    """A name as it is compared, so that `ＡＤＭＩＮ`, `Admin` and `admin` are one (RFC 8265 §3.3, with NFKC)."""
    name = name[:MAX_FOLDED]
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


def is_invisible(character: str) -> bool:
    return unicodedata.category(character) == "Cf" or INVISIBLE.match(character) is not None


def username_fault(username: str) -> str:
    """What is wrong with a username, '' when nothing is. Lengths are those of the composed and of the folded name."""
    if len(username) > MAX_FOLDED:
        return "must have 3 to 64 characters"
    composed, key = unicodedata.normalize("NFC", username), fold(username)
    if len(composed) not in USERNAME_LENGTHS or len(key) not in USERNAME_LENGTHS:
        return "must have 3 to 64 characters"
    if not _is_made_of_words(composed) or not _is_made_of_words(key):
        return "must be made of letters, digits, '.', '_' and '-'"
    return ""


def _is_made_of_words(name: str) -> bool:
    """Marks belong to the letter before them, as the vowels of हिन्दी and the tones of สมศรี do."""
    marks = MAX_MARKS
    for character in name:
        if _is_mark(character):
            marks += 1
        elif _is_letter_or_digit(character):
            marks = 0
        elif character in "._-":
            marks = MAX_MARKS
        else:
            return False
        if marks > MAX_MARKS:
            return False
    return True


def _is_letter_or_digit(character: str) -> bool:
    return unicodedata.category(character)[0] in "LN" and not is_invisible(character)


def _is_mark(character: str) -> bool:
    return unicodedata.category(character) in ("Mn", "Mc") and not is_invisible(character)
