"""One series judged by its headers: which images can be used, on which grid, or why not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from inference.refusal import Refusal, RefusalCode
from node.gate.eligibility import NOT_ELIGIBLE, commonest, image_refusal, instance_refusal
from node.gate.expectation import spine_expected
from node.gate.geometry import Grid, Slice, arrange
from node.gate.headers import InstanceHeader
from node.gate.identity import age_years
from node.gate.kernels import sharpness
from node.gate.policy import GatePolicy
from node.gate.values import items, text


@dataclass(frozen=True, eq=False)
class Assessment:
    """What the headers of one series say.

    Attributes
    ----------
    grid
        The block of images that would be analysed; ``None`` where they form none.
    refusal
        Why the series is not eligible or not evaluable, ``None`` where its headers allow everything.
    candidates
        Images that are not localizers, derived or the like, also those outside the grid.
    repeated
        Instances whose SOP instance UID was there already; their pixels still have to be compared.
    """

    headers: tuple[InstanceHeader, ...]
    candidates: tuple[Slice, ...]
    repeated: tuple[InstanceHeader, ...]
    grid: Grid | None
    refusal: Refusal | None
    spine_expected: bool
    age_years: float | None
    primary: bool
    sharpness: int

    @property
    def eligible(self) -> bool:
        """Whether the series may be answered at all."""
        return self.refusal is None or self.refusal.code not in NOT_ELIGIBLE

    @property
    def evaluable(self) -> bool:
        """Whether nothing in the headers stands against measuring."""
        return self.refusal is None


def assess(headers: Sequence[InstanceHeader], policy: GatePolicy) -> Assessment:
    """Judge the headers of one series. Nothing in them makes this raise."""
    candidates, repeated, refusals = _candidates(headers, policy)
    grid: Grid | None = None
    refusal: Refusal | None
    if candidates:
        arranged = arrange(candidates, policy)
        grid, refusal = (arranged, None) if isinstance(arranged, Grid) else (None, arranged)
    else:
        refusal = commonest(refusals) or Refusal(RefusalCode.NOT_AN_IMAGE)
    used = grid.slices if grid is not None else candidates
    age = age_years(used)
    if refusal is None:
        refusal = _not_hounsfield(used) or _too_young(age, policy)
    return Assessment(
        headers=tuple(headers),
        candidates=tuple(candidates),
        repeated=tuple(repeated),
        grid=grid,
        refusal=refusal,
        spine_expected=spine_expected((p.header for p in used), policy),
        age_years=age,
        primary=all(p.image.image_type[1:2] in ((), ("PRIMARY",)) for p in used),
        sharpness=sharpness(used[0].image.kernel, text(used[0].header.dataset, "Manufacturer"), policy.kernel_rules)
        if used
        else 0,
    )


def _candidates(
    headers: Sequence[InstanceHeader], policy: GatePolicy
) -> tuple[list[Slice], list[InstanceHeader], list[Refusal]]:
    """Usable images, instances seen before, and the refusals of all other images; by SOP instance UID, then path."""
    candidates: list[Slice] = []
    repeated: list[InstanceHeader] = []
    refusals: list[Refusal] = []
    seen: set[str] = set()
    for header in sorted(headers, key=lambda h: (h.sop_instance_uid, str(h.path))):
        refused = instance_refusal(header, policy)
        if refused is not None:
            refusals.append(refused)
            continue
        if header.sop_instance_uid in seen:
            repeated.append(header)
            continue
        seen.add(header.sop_instance_uid)
        for image in header.images:
            refused = image_refusal(header, image, policy)
            if refused is None:
                candidates.append(Slice(header, image))
            else:
                refusals.append(refused)
    return candidates, repeated, refusals


def _not_hounsfield(parts: Sequence[Slice]) -> Refusal | None:
    """Whether each image's rescale leads to Hounsfield units (C.8.2.1: an absent Rescale Type means HU)."""
    for part in parts:
        image = part.image
        if image.slope is None or image.intercept is None:
            detail = "(Rescale Slope or Rescale Intercept is missing.)"
        elif not 1e-6 <= abs(image.slope) <= 1e3 or abs(image.intercept) > 1e5:
            detail = "(Rescale Slope or Rescale Intercept is not plausible.)"
        elif image.rescale_type.upper() not in ("", "HU"):
            detail = "(Rescale Type is not HU.)"
        elif items(part.header.dataset, "ModalityLUTSequence"):
            detail = "(A modality lookup table takes the place of the rescale.)"
        else:
            continue
        return Refusal(RefusalCode.NOT_HOUNSFIELD, detail)
    return None


def _too_young(age: float | None, policy: GatePolicy) -> Refusal | None:
    return Refusal(RefusalCode.AGE_BELOW_18) if age is not None and age < policy.min_age_years else None
