"""An instance that came more than once: which reception holds now?"""

from __future__ import annotations

from collections.abc import Iterable

from node.gate.headers import InstanceHeader
from node.gate.identity import identifiers


def latest(headers: Iterable[InstanceHeader]) -> list[InstanceHeader]:
    """Receptions without those that a correction replaced.

    Where an instance came again with other identifiers of patient or study, only the receptions that agree with the
    last one stay: an archive sent corrected demographics. Receptions with equal identifiers all stay, because whether
    they are the same image is for :func:`node.gate.volume.load_volume` to see.

    Parameters
    ----------
    headers
        In order of arrival.
    """
    received = list(headers)
    now = {h.sop_instance_uid: identifiers(h) for h in received}
    return [h for h in received if not h.sop_instance_uid or identifiers(h) == now[h.sop_instance_uid]]
