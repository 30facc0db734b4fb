"""DICOM in: the Storage SCP, the spool that makes an acknowledgement true, the registrar that tells the ledger."""
