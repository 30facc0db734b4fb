"""DICOM out: results to their destinations, retried until the destination has them or a person must act."""
