"""A procedural phantom: patients with exact truth, and how a scanner would see them."""

from onnx_models.training.phantom.acquire import acquire, render
from onnx_models.training.phantom.bodies import VertebraTruth
from onnx_models.training.phantom.cases import (
    demo_patient,
    demo_volume,
    gibbus_patient,
    kyphotic_patient,
    sample_negative,
    scoliotic_patient,
)
from onnx_models.training.phantom.fields import Grid, SliceTruth, canonical_grid, sample_grid, slice_truth
from onnx_models.training.phantom.patient import Patient, sample_patient
from onnx_models.training.phantom.ranges import EVALUATION, TRAINING, Ranges
from onnx_models.training.phantom.spine import Plan

__all__ = [
    "EVALUATION",
    "TRAINING",
    "Grid",
    "Patient",
    "Plan",
    "Ranges",
    "SliceTruth",
    "VertebraTruth",
    "acquire",
    "canonical_grid",
    "demo_patient",
    "demo_volume",
    "gibbus_patient",
    "kyphotic_patient",
    "render",
    "sample_grid",
    "sample_negative",
    "sample_patient",
    "scoliotic_patient",
    "slice_truth",
]
