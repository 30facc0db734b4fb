"""What the capture says in sentences: what was seen, how it was counted, how to read it, what is doubtful, limits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from inference.findings import Findings, Quality, VertebraFinding
from node.results import film_notes, wording
from node.results.drawing import DIM, TEXT, Line, broken, lines_height
from node.results.pictures import Shown
from node.results.table import COLUMNS, DENSITY, FRONT_RATIO, MIDDLE_RATIO, UNSAFE_DENSITY, Column, density_text

LARGEST, SMALLEST = 20, 14
"""Size of the letters in pixels; the notes that come first are larger by 2."""
CUT = " ... (more in the details)"
LEAST_CHARACTERS = 150
"""A shorter note is not cut."""


@dataclass(frozen=True)
class Caption:
    """What the picture says beside the findings: source series, software, and the day of the analysis."""

    source: str
    software: str
    date: str


class Note(NamedTuple):
    """A paragraph; bright ones are read first."""

    text: str
    bright: bool = False


def notes(findings: Findings, pictures: Shown, caption: Caption, columns: Sequence[Column] = COLUMNS) -> list[Note]:
    """The paragraphs of the page, in ASCII; what has no column among ``columns`` for want of room stands here."""
    said = [Note(f"{wording.seen_text(findings)}; {wording.graded_text(findings)}.", True)]
    if (numbering := wording.numbering_text(findings)) is not None:
        said.append(Note(f"{numbering}.", True))
    if (calibration := film_notes.calibration(findings)) is not None:
        said.append(Note(f"{calibration}.", film_notes.is_uncalibrated(findings)))
    for paragraph in (
        _heights(findings),
        film_notes.own_ratios(findings, listed=not {FRONT_RATIO, MIDDLE_RATIO} <= set(columns)),
        film_notes.compression(findings) if findings.pixel_size is not None else "",
        _lines(findings, pictures),
        _density(findings, listed={DENSITY, UNSAFE_DENSITY}.isdisjoint(columns)),
        _answer(findings),
        _doubts(findings),
        wording.LIMITS_SENTENCE + (f" {film_notes.LIMITS}" if findings.pixel_size is not None else ""),
        f"Source: {caption.source.rstrip('.')}. {caption.software}, {caption.date}.",
    ):
        if paragraph:
            said.append(Note(paragraph))
    return [Note(wording.ascii_text(text), bright) for text, bright in said]


def note_lines(said: Sequence[Note], width: int, height: int) -> list[Line]:
    """The notes in lines of ``width``; the type shrinks until they fit ``height``, then the longest are cut short."""
    for size in range(LARGEST, SMALLEST - 1, -1):
        lines = _lines_of(said, size, width)
        if lines_height(lines) <= height:
            return lines
    notes = list(said)
    while lines_height(lines) > height:
        longest = max((i for i, note in enumerate(notes) if not note.bright), key=lambda i: len(notes[i].text))
        text = notes[longest].text.removesuffix(CUT)
        if len(text) < LEAST_CHARACTERS:
            break
        notes[longest] = Note(text[: int(0.9 * len(text))].rpartition(" ")[0] + CUT)
        lines = _lines_of(notes, SMALLEST, width)
    return lines


def _lines_of(said: Sequence[Note], size: int, width: int) -> list[Line]:
    lines: list[Line] = []
    for text, bright in said:
        letters, colour = (size + 2, TEXT) if bright else (size, DIM)
        lines += [(part, letters, colour) for part in broken(text, letters, width)]
    return lines


def shows_expected(vertebra: VertebraFinding) -> bool:
    """Whether the expected body is drawn: where the score is notable; elsewhere the two outlines would coincide."""
    return vertebra.abnormality_score is not None and vertebra.abnormality_score >= wording.NOTABLE_SCORE


def _heights(findings: Findings) -> str:
    those = wording.told(findings)
    if not those:
        return ""
    uncertain = [v.height_uncertainty_mm for v in findings.vertebrae if v.height_uncertainty_mm is not None]
    heights = "Ha, Hm, Hp: anterior, middle, posterior height in mm"
    if film_notes.is_uncalibrated(findings):
        heights = film_notes.RELATIVE_HEIGHTS
    if not wording.measured(findings):
        heights = film_notes.without_side_text(findings)
    if uncertain:
        least, most = f"{min(uncertain):.1f}", f"{max(uncertain):.1f}"
        heights += f" (+/- {least if least == most else f'{least} to {most}'} mm, one SD)"
    flag = wording.flag_text(findings.patient, coarse=Quality.COARSE_SPACING in findings.quality)
    return (
        f"{heights}; loss against neighbours, rule {findings.patient.rule}; {flag}. "
        "G = smallest / largest height; published cut-offs 0.80 and 0.74."
    )


def _lines(findings: Findings, pictures: Shown) -> str:
    """The legend of the outlines, and how to read the score."""
    said = []
    if pictures.masks is not None and pictures.masks.any():
        said.append("Thin lines: outlines of the body masks.")
    if pictures.anchor is not None:
        said.append(f"Violet dashes: what was taken for S1, from which {_counted(findings)}.")
    if pictures.expected is not None and any(shows_expected(v) for v in findings.vertebrae):
        said.append(f"Blue dashes: the body that the neighbours predict (score {wording.NOTABLE_SCORE:.0f} and above).")
    if any(v.abnormality_score is not None for v in findings.vertebrae):
        said.append(f"{wording.SCORE_SENTENCE}.")
    return " ".join(said)


def _counted(findings: Findings) -> str:
    """Which levels the anchor gave their names."""
    named = [v for v in findings.vertebrae if v.level is not None]
    return f"{wording.names_text(named)} {'are' if len(named) > 1 else 'is'} counted"


def _density(findings: Findings, listed: bool) -> str:
    """How attenuation came about; with ``listed`` each vertebra's too, first, so that it is not what is cut off."""
    those = [v for v in findings.vertebrae if v.trabecular_mean_hu is not None]
    if not those:
        return ""
    heading = "HU*" if wording.DENSITY_FLAGS.intersection(findings.quality) else "HU"
    values = f"{heading}: {', '.join(f'{v.name} {density_text(v)}' for v in those)}. " if listed else ""
    flags = set(findings.quality).union(*(v.quality for v in findings.vertebrae))
    unsafe = wording.DENSITY_FLAGS.intersection(flags)
    return f"{values}{wording.DENSITY_SENTENCE}; {wording.acquisition_text(findings.acquisition)}." + (
        " *: unsafe to compare." if unsafe else ""
    )


def _doubts(findings: Findings) -> str:
    return " ".join(f"{said}." for _, said in wording.doubts(findings))


def _answer(findings: Findings) -> str:
    """What is doubtful of the whole answer."""
    of_vertebrae = {flag for vertebra in findings.vertebrae for flag in vertebra.quality}
    whole = [
        wording.quality_sentence(flag)
        for flag in wording.answer_quality(findings)
        if flag not in (Quality.LEVELS_UNKNOWN, Quality.UNCALIBRATED) and flag not in of_vertebrae
    ]
    return f"Note: {'; '.join(whole)}." if whole else ""
