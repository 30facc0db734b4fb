"""The elements that are kept of every header: what the gate decides from, and what results copy from their source.

Grouped by the modules of PS3.3. Whole module tables of Patient, General Study and Patient Study are kept, because
results carry them verbatim; of the image only what places, scales and shows its pixels.
"""
# ruff: noqa: SIM905 - word lists read better as words than as quoted literals

from __future__ import annotations

PATIENT = tuple(
    """
    PatientName PatientID IssuerOfPatientID IssuerOfPatientIDQualifiersSequence TypeOfPatientID PatientBirthDate
    PatientBirthTime PatientSex OtherPatientIDsSequence OtherPatientIDs OtherPatientNames EthnicGroup PatientComments
    QualityControlSubject PatientSpeciesDescription PatientSpeciesCodeSequence PatientBreedDescription
    PatientBreedCodeSequence ResponsiblePerson ResponsiblePersonRole ResponsibleOrganization PatientIdentityRemoved
    DeidentificationMethod DeidentificationMethodCodeSequence ReferencedPatientSequence
    """.split()
)
"""C.7.1.1."""

STUDY = tuple(
    """
    StudyInstanceUID StudyDate StudyTime ReferringPhysicianName ReferringPhysicianIdentificationSequence
    ConsultingPhysicianName StudyID AccessionNumber IssuerOfAccessionNumberSequence StudyDescription PhysiciansOfRecord
    NameOfPhysiciansReadingStudy RequestingServiceCodeSequence ReferencedStudySequence ProcedureCodeSequence
    ReasonForPerformedProcedureCodeSequence
    """.split()
)
"""C.7.2.1."""

PATIENT_STUDY = tuple(
    """
    AdmittingDiagnosesDescription AdmittingDiagnosesCodeSequence PatientAge PatientSize PatientWeight
    PatientBodyMassIndex PatientSizeCodeSequence MedicalAlerts Allergies SmokingStatus PregnancyStatus
    LastMenstrualDate PatientState Occupation AdditionalPatientHistory AdmissionID IssuerOfAdmissionIDSequence
    ServiceEpisodeID IssuerOfServiceEpisodeIDSequence ServiceEpisodeDescription PatientSexNeutered
    ReasonForVisit ReasonForVisitCodeSequence
    """.split()
)
"""C.7.2.2."""

CLINICAL_TRIAL = tuple(
    """
    ClinicalTrialSponsorName ClinicalTrialProtocolID ClinicalTrialProtocolName IssuerOfClinicalTrialProtocolID
    ClinicalTrialSiteID ClinicalTrialSiteName IssuerOfClinicalTrialSiteID ClinicalTrialSubjectID
    IssuerOfClinicalTrialSubjectID ClinicalTrialSubjectReadingID IssuerOfClinicalTrialSubjectReadingID
    ClinicalTrialProtocolEthicsCommitteeName ClinicalTrialProtocolEthicsCommitteeApprovalNumber ClinicalTrialTimePointID
    IssuerOfClinicalTrialTimePointID ClinicalTrialTimePointDescription ConsentForClinicalTrialUseSequence
    """.split()
)
"""C.7.1.3, C.7.2.3."""

SERIES = tuple(
    """
    Modality SeriesInstanceUID SeriesNumber SeriesDate SeriesTime SeriesDescription ProtocolName BodyPartExamined
    PatientPosition Laterality AnatomicRegionSequence RequestedProcedureDescription RequestAttributesSequence
    PerformedProcedureStepDescription
    """.split()
)
"""C.7.3.1."""

EQUIPMENT = tuple(
    """
    Manufacturer ManufacturerModelName DeviceSerialNumber SoftwareVersions DeviceUID StationName
    ContributingEquipmentSequence
    """.split()
)
"""C.7.5.1, C.12.1."""

INSTANCE = tuple(
    """
    SpecificCharacterSet SOPClassUID SOPInstanceUID InstanceCreatorUID TimezoneOffsetFromUTC InstanceNumber ContentDate
    ContentTime AcquisitionDate AcquisitionTime AcquisitionDateTime AcquisitionNumber TemporalPositionIdentifier
    TemporalPositionIndex NominalPercentageOfCardiacPhase TriggerTime EchoTime ContrastBolusAgent KVP ConvolutionKernel
    SliceThickness SpacingBetweenSlices GantryDetectorTilt ContentQualification
    """.split()
)

IMAGE = tuple(
    """
    ImageType SamplesPerPixel PhotometricInterpretation NumberOfFrames Rows Columns PixelSpacing ImagePositionPatient
    ImageOrientationPatient FrameOfReferenceUID PositionReferenceIndicator BitsAllocated BitsStored HighBit
    PixelRepresentation PixelPaddingValue PixelPaddingRangeLimit RescaleSlope RescaleIntercept RescaleType
    ModalityLUTSequence LossyImageCompression LossyImageCompressionRatio LossyImageCompressionMethod BurnedInAnnotation
    PresentationIntentType SharedFunctionalGroupsSequence PerFrameFunctionalGroupsSequence DimensionOrganizationSequence
    DimensionIndexSequence DimensionOrganizationType
    """.split()
)

PROJECTION = tuple(
    """
    ViewPosition ViewCodeSequence PatientOrientation ImagerPixelSpacing PixelSpacingCalibrationType PixelAspectRatio
    EstimatedRadiographicMagnificationFactor PresentationLUTShape
    PixelIntensityRelationship PixelIntensityRelationshipSign WindowCenter WindowWidth VOILUTFunction
    AcquisitionDeviceProcessingDescription ConversionType IrradiationEventUID
    ShutterShape ShutterLeftVerticalEdge ShutterRightVerticalEdge ShutterUpperHorizontalEdge ShutterLowerHorizontalEdge
    CenterOfCircularShutter RadiusOfCircularShutter VerticesOfThePolygonalShutter
    """.split()
)
"""C.7.6.11, C.8.1, C.8.11, C.11.2, 10.7: how large a radiograph's pixels are, what it shows, how it is to be shown."""

FILM_SEQUENCES = ("VOILUTSequence", "SourceImageSequence")
"""Read of radiographs only: derived slices of a CT may list every slice that they were made from."""

HEADER_KEYWORDS: tuple[str, ...] = (
    *PATIENT,
    *STUDY,
    *PATIENT_STUDY,
    *CLINICAL_TRIAL,
    *SERIES,
    *EQUIPMENT,
    *INSTANCE,
    *IMAGE,
    *PROJECTION,
)
