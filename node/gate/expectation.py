"""Was a spine to be expected in these images? Only then a *not evaluable* answer goes to the PACS."""

from __future__ import annotations

import re
from collections.abc import Iterable

from node.gate.headers import InstanceHeader
from node.gate.policy import GatePolicy
from node.gate.values import items, text

_OF_THE_SERIES = ("SeriesDescription", "ProtocolName")
_OF_THE_STUDY = ("StudyDescription", "RequestedProcedureDescription", "PerformedProcedureStepDescription")


def spine_expected(headers: Iterable[InstanceHeader], policy: GatePolicy) -> bool:
    """Whether body part, descriptions or a site's rule say that a spine is in view; any image is enough.

    The body part decides where it is known. Where it names another region, only the series' own description and
    protocol count (one study holds head and chest); where it says nothing, those of the study count too.
    """
    seen = set()
    for header in headers:
        facts = _facts(header)
        if facts not in seen:
            seen.add(facts)
            if _expected(facts, policy):
                return True
    return False


def _facts(header: InstanceHeader) -> tuple[str, str, str]:
    """(body part as letters, texts of the series, texts of the study)."""
    dataset = header.dataset
    body_part = re.sub(r"[^A-Z]", "", text(dataset, "BodyPartExamined").upper())
    regions = [text(i, "CodeMeaning") for i in items(dataset, "AnatomicRegionSequence")]
    series = " | ".join([*(text(dataset, k) for k in _OF_THE_SERIES), *regions])
    return body_part, series, " | ".join(text(dataset, k) for k in _OF_THE_STUDY)


def _expected(facts: tuple[str, str, str], policy: GatePolicy) -> bool:
    body_part, series, study = facts
    if any(re.search(p, " | ".join(facts), re.IGNORECASE) for p in policy.site_spine_words):
        return True
    if body_part in policy.spine_body_parts:
        return True
    words = series if body_part in policy.other_body_parts else f"{series} | {study}"
    words = re.sub(r"[_/\\.,;:+()-]", " ", words)
    return any(re.search(p, words, re.IGNORECASE) for p in policy.spine_words)
