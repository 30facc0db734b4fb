"""Codes and words by which the header of a radiograph tells its region, in the languages of consoles met so far.

Patterns are searched in lower case, with spaces for punctuation (:func:`node.gate.values.plain`).
"""
# ruff: noqa: SIM905 - word lists read better as words than as quoted literals

from __future__ import annotations

SPINE_PARTS = frozenset(
    """SPINE TSPINE LSPINE TLSPINE LSSPINE DSPINE DLSPINE THORACICSPINE DORSALSPINE LUMBARSPINE WHOLESPINE FULLSPINE
    TOTALSPINE LUMBOSACRALSPINE LUMBOSACSPINE THORACOLUMBARSPINE THORACOLUMBAR SPINECOLUMN""".split()
)
CHEST_PARTS = frozenset("CHEST THORAX LUNG LUNGS RIB RIBS HEART STERNUM".split())
OTHER_PARTS = frozenset(
    """CSPINE CERVICALSPINE CERVICAL CTSPINE CERVICOTHORACIC COCCYX SACRUM SSPINE SACRALSPINE SACROILIACJOINT SIJOINT
    HANDS FEET TOES FINGERS WRISTS KNEES ANKLES HIPS SHOULDERS ELBOWS LEGS ARMS UPPERARM LOWERARM UPPERLEG LOWERLEG
    UPPERLIMB LOWERLIMB LOWERLIMBS UPPEREXTREMITY LOWEREXTREMITY LOWEREXTREMITIES EXTREMITIES CALCANEUS PATELLA TIBIA
    FIBULA TIBFIB RADIUS ULNA SCAPULA HEADANDNECK TEETH DENTAL NOSE NASALBONES FACIALBONES LARYNX BREASTS""".split()
)
"""Values of Body Part Examined (letters only). An abdomen or a pelvis says nothing: consoles without a better word for
a lumbar spine use them."""

LEVEL_WORDS = "|".join(
    (
        r"lumb|lomb|lenden|lende\w* ?wervel|\bl[bw][sk]\b|\b[bltd]w[sk]\b|dorso ?lum",
        r"\b(l ?s|t ?l|d ?l|[tld]) ?spine|dorsal spine|th?orac\w* ?(spine|vertebra|wervel)|vertebra\w* (dors|th?ora)",
        r"(columna|coluna|colonna|rachi\w*|col) (vertebral\w* )?(dors|th?ora)|brust ?wirbel|borst ?wervel|rygg",
        r"(whole|full|total|entire) ?spine|ganz\w* ?wirbel|wirbel\w* ganz|s[ck]olio|[ck]ypho|kyfo|cifo",
        r"\b[tld]h? ?1?\d [tlds]?h? ?1?\d\b",
    )
)
"""Of the thoracic or lumbar spine: "T4-12", "L5/S1" too. "Lumbosacral" is lumbar."""
SPINE_WORDS = r"\bspin(e|al)\b|spine\b|vertebra|wirbel|\bws\b|rachi[sd]|colonn|columna|coluna|wervel"
"""Of a spine in general. "Dorsal" alone is none: hands and feet are dorsal, too."""
SPURIOUS_SPINES = r"\b(iliac|scapula\w*|tibial?|nasal|calcaneal|heel|ischial) spines?\b"
NECK_WORDS = "|".join(
    (
        r"\bcervi[ck]o? ?th?orac\w*( spine)?|\b[ck]ervi[ck]al\w*( spine| vertebra\w*)?|\b[hc]w[sk]\b|\bct? ?spine\b",
        r"\bc sp\b|hals ?wirbel\w*|nek ?wervel\w*|(hals|nakke|nack)rygg\w*|halskot\w*|\bneck\b|\bcou\b|\bcuello\b",
        r"\bcollo\b|odontoid\w*|\bdens\b|\bc ?[1-7] (c ?)?[1-7]\b|swimmer\w*",
    )
)
"""Taken out before words of the thoracic or lumbar spine are sought."""
CHEST_WORDS = r"\bchest|\blungs?\b|\blungen?\b|\bth?orax|\bpulm|poumon|\bribs?\b|rippen|sternum|\bcostal|\bcor\b"
OTHER_WORDS = "|".join(
    (
        r"\bhands?\b|\bh(ä|ae)nde\b|\bmano\b|\bmain\b|\bm[ãa]o\b|\bfingers?\b|\bdaumen\b|\bthumb\b|\bpouce\b",
        r"\bwrists?\b|handgelenk|handwurzel|poignet|\bmu[nñ]eca\b|\bpolso?\b",
        r"\bfoot\b|\bfeet\b|fu(ss|ß)|\bvoet|\bpied|\bpiede?\b|\bpie\b|\bfot\b|\btoes?\b|zehe|\borteil|\bheel\b|calcane",
        r"ferse|\bankles?\b|sprunggelenk|cheville|tobillo|caviglia",
        r"\bknees?\b|\bknie|\bgenou|\brodilla|ginocchi|patell|\bhips?\b|\bh(ü|u|ue)ft|\bhanche|\bcadera|\banca\b",
        r"f[ée]mur|tibia|fibula|schenkel|\blegs?\b|\bbeine?\b",
        r"shoulder|schulter|[ée]paule|hombro|spalla|clavic|scapula|elbow|ell[be]n?bogen|\bcoude\b|\bcodo\b|gomito",
        r"forearm|unterarm|oberarm|humer|\bradius\b|\bulna\b",
        r"\bskull|sch(ä|ae)del|cr[aâ]n[eio]|\bhead\b|\bkopf|\bsinus|\bnnh\b|\bnasal|\bnose\b|\bjaw\b|mandib|kiefer",
        r"\bteeth\b|\bmamm|larynx|adenoid|epiphar",
        r"\bsacr|\bsakr|kreuzbein|coccy|stei(ss|ß)bein|\bisg\b|\bsi joint",
    )
)
"""Of other regions. A sacrum or coccyx alone is one: hardly a vertebra that is measured is in view."""
