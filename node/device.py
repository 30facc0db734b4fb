"""Who this installation is, as a device: creator of all its results."""

from __future__ import annotations

import uuid

from node.settings import Settings

NODE_NAMESPACE = uuid.UUID("8f6f8d8e-57f3-5f4a-9f0c-6f2d0c6f7a51")


def device_uid(settings: Settings) -> str:
    """UID of this installation; all machines of a site are one."""
    return f"2.25.{uuid.uuid5(NODE_NAMESPACE, f'device|{settings.site}').int}"
