-- What the keepers of all machines ask every few seconds costs the same, however many studies the ledger remembers.

ALTER TABLE study
    ADD COLUMN evaluated_until timestamptz;  -- the last evaluation saw whatever had come before; NULL: not known

UPDATE study s SET evaluated_until = last_instance_at + interval '1 microsecond'
 WHERE evaluated_up_to >= (SELECT max(id) FROM instance i WHERE i.study_uid = s.study_uid AND duplicate_of IS NULL);

-- A superset of the studies with instances that no evaluation has seen: a worker of the version before leaves
-- evaluated_until as it is, and the exact question is asked of these alone.
CREATE INDEX study_with_news ON study (study_uid)
    WHERE parked IS NULL AND (evaluated_until IS NULL OR last_instance_at >= evaluated_until);
CREATE INDEX result_kept ON result (answer_id) WHERE erased_at IS NULL;
CREATE INDEX answer_of_study ON answer (study_uid);  -- the unique ones leave out what was superseded
