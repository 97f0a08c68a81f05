"""Letters of other scripts that look like Latin ones: a part of Unicode's table (UTS 39, `confusables.txt`)."""

_CYRILLIC = "аеорсухіјѕһԁԛԝвкмнтьАВЕЗІЈКМНОРСТУХЅԌԚԜүҮӏ"
_LATIN_C = "aeopcyxijshdqwbkmhtbABE3IJKMHOPCTYXSGQWyYl"
_GREEK = "αβγεηικνορτυχωΑΒΕΖΗΙΚΜΝΟΡΤΥΧ"
_LATIN_G = "aByenikvoptuxwABEZHIKMNOPTYX"
_ARMENIAN = "աոսցօզհյ"
_LATIN_A = "wnugoqhj"
_OTHERS = "ɑɡɩʀıᴀᴄᴅᴇᴊᴋᴍɴᴏᴘᴛᴜᴠᴡᴢ"
_LATIN_O = "agiRiacdejkmnoptuvwz"

LOOKALIKES = str.maketrans(_CYRILLIC + _GREEK + _ARMENIAN + _OTHERS, _LATIN_C + _LATIN_G + _LATIN_A + _LATIN_O)
"""For `str.translate`; only for words that mix scripts, as Russian and Greek are written in these letters too."""

FOREIGN = "".join(chr(code) for code in LOOKALIKES)
"""The letters themselves."""
