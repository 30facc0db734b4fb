"""The last look before sending: is the study at the destination still that of the patient whose name the object bears?

A study may have been given to another patient, or the patient corrected, since the images came. An object that bears
the former name must not go there: it is parked, and the images sent again under the right name make a revision.
"""

from __future__ import annotations

from pathlib import Path

from pydicom import dcmread

from node.deliver.association import NothingAcceptedError, UnreachableError
from node.deliver.peer import Peer
from node.deliver.query import PATIENT_KEYS, Person, QueryRefusedError, studies
from node.deliver.status import Reply, Verdict


def patient_objection(peer: Peer, study_uid: str, path: Path) -> Reply | None:
    """Why an object must not be sent now; ``None`` where nothing speaks against it.

    Nothing does where the destination does not know the study. The sentence names nobody: it is logged.

    Parameters
    ----------
    path
        The object, in the outbox.
    """
    try:
        known = studies(peer, study_uid)
    except NothingAcceptedError:
        sentence = f"{peer} takes no queries: allow them there, or switch the destination's `patient_check` off"
        return Reply(Verdict.PERMANENT, sentence)
    except QueryRefusedError as error:
        return Reply(Verdict.UNCLEAR, f"whose study it is could not be asked: {error}")
    except UnreachableError as error:
        return Reply(Verdict.PASSING, str(error))
    ours = Person.of(dcmread(path, stop_before_pixels=True, specific_tags=list(PATIENT_KEYS)))
    for study in known:
        difference = ours.differs_from(Person.of(study))
        if difference is not None:
            sentence = (
                f"not sent: the destination has the study under {difference}. Send the corrected images to this node, "
                "or correct the study there and retry"
            )
            return Reply(Verdict.PERMANENT, sentence)
    return None
