"""Pixels in, findings out. Knows nothing of DICOM networking, the database or pydicom."""
