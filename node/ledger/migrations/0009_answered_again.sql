-- An input may be answered again after another one was: a patient's name is corrected, and the correction taken back.

DROP INDEX one_answer_per_input;
CREATE UNIQUE INDEX one_claim_per_input
    ON answer (study_uid, pipeline, series_uid, sop_instance_uid, input_sha256) WHERE state = 'working';
