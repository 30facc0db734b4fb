-- A study that is put off says for what, and since when one of its images cannot be read: that is not waited for for ever.

ALTER TABLE study
    ADD COLUMN waits_for         text,         -- why its last evaluation was put off; NULL: it was not
    ADD COLUMN unreadable_since  timestamptz;  -- so long each evaluation has failed at an image of the spool
