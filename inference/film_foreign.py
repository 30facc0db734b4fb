"""Which bodies of a film hold cement or metal: told by a network from the crops that the six points are found on.

Such a body is measured, but not graded, and no other is compared with it (``grading.UNGRADED``): its end plates are
covered, and its shape is not that of its bone alone.

Contract of the network: input "crops" as `inference.film_points`; output "foreign" float32 (bodies,), probability of
cement or metal in the body.
"""

from __future__ import annotations

from dataclasses import dataclass

from inference.film_points import BodyCrops
from inference.runtime import Models


@dataclass(frozen=True)
class ForeignSettings:
    """Cement and metal.

    Attributes
    ----------
    network
        Name in the manifest.
    likely
        From this probability on: ``FOREIGN_MATERIAL``.
    """

    network: str = "film_foreign"
    likely: float = 0.95


def foreign_material(crops: BodyCrops, models: Models, settings: ForeignSettings) -> list[bool]:
    """Whether each body holds cement or metal.

    Raises
    ------
    ModelRunError
        When the network fails.
    """
    if not crops.outlined:
        return []
    said = models.run(settings.network, {"crops": crops.shown})["foreign"]
    return [bool(p >= settings.likely) for p in said]
