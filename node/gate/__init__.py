"""The gate: instances on disk to a volume in Hounsfield units or to a radiograph, or to the reason why not.

In the order in which it works: :mod:`~node.gate.headers` reads, :mod:`~node.gate.eligibility` sorts out what is no
candidate, :mod:`~node.gate.geometry` builds a regular grid, :mod:`~node.gate.assessment` judges a series by all of
that, :mod:`~node.gate.choice` picks the series that is answered, :mod:`~node.gate.volume` decodes its pixels.
Radiographs go their own way: :mod:`~node.gate.projection` reads what their header says of view and scale,
:mod:`~node.gate.region` of which region they are, :mod:`~node.gate.radiograph` judges and loads one image,
:mod:`~node.gate.presentation` shows it as a reader sees it.
"""

from node.gate.choice import SeriesDecision, choose
from node.gate.headers import HeaderReading, InstanceHeader, Unreadable, read_headers
from node.gate.policy import GatePolicy
from node.gate.radiograph import LoadedFilm, load_film, unevaluable_film
from node.gate.receptions import latest
from node.gate.volume import LoadedSeries, SliceReference, Unevaluable, load_volume

__all__ = [
    "GatePolicy",
    "HeaderReading",
    "InstanceHeader",
    "LoadedFilm",
    "LoadedSeries",
    "SeriesDecision",
    "SliceReference",
    "Unevaluable",
    "Unreadable",
    "choose",
    "latest",
    "load_film",
    "load_volume",
    "read_headers",
    "unevaluable_film",
]
