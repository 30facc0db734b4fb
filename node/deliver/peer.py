"""A destination as an association sees it: where it is and by which names both sides go."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext

from node.deliver.association import associate, close
from node.settings import Destination, DestinationTls, Settings


@dataclass(frozen=True)
class Peer:
    """Address and AE titles of a destination, and how long each of its answers is waited for."""

    host: str
    port: int
    called_ae: str
    calling_ae: str
    timeout_s: float
    tls: DestinationTls | None = None

    @classmethod
    def of(cls, destination: Destination, settings: Settings) -> Peer:
        """The destination as this node calls it."""
        return cls(
            destination.host,
            destination.port,
            destination.ae_title,
            destination.calling_ae_title or settings.receive.ae_title,
            destination.timeout_s,
            destination.tls,
        )

    def __str__(self) -> str:
        return f"{self.host}:{self.port} ({self.called_ae})"

    @contextmanager
    def association(self, contexts: Sequence[PresentationContext]) -> Iterator[Association]:
        """An association for what is asked here, not for sending; released at the end.

        Raises
        ------
        UnreachableError
            No association.
        NothingAcceptedError
            The destination takes none of the contexts.
        """
        association = associate(
            self.host, self.port, contexts, self.called_ae, self.calling_ae, self.timeout_s, self.tls
        )
        try:
            yield association
        finally:
            if association.is_established:  # release() would wait for the reactor thread, which stands still
                association.acse.negotiate_release()
            association._reactor_checkpoint.set()
            close(association)
