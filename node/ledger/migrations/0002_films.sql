-- Radiographs are decided and answered one by one: '' stands for the whole series.

ALTER TABLE series ADD COLUMN sop_instance_uid text NOT NULL DEFAULT '';
ALTER TABLE series DROP CONSTRAINT series_pkey, ADD PRIMARY KEY (study_uid, series_uid, sop_instance_uid);

ALTER TABLE answer ADD COLUMN sop_instance_uid text NOT NULL DEFAULT '';
DROP INDEX one_answer_per_input;
CREATE UNIQUE INDEX one_answer_per_input
    ON answer (study_uid, pipeline, series_uid, sop_instance_uid, input_sha256) WHERE state <> 'superseded';
DROP INDEX one_sent_answer_per_revision;
CREATE UNIQUE INDEX one_sent_answer_per_revision
    ON answer (study_uid, pipeline, series_uid, sop_instance_uid, revision)
    WHERE state <> 'superseded' AND sent IS NOT false;
