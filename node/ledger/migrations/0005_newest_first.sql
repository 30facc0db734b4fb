-- "The newest reception of this UID" and "the newest image of this study" are asked for with every image that arrives and
-- in every round of the keeper: one step into an index each, however many images a study has, with or without statistics.

DROP INDEX instance_by_uid;
CREATE INDEX instance_by_uid ON instance (sop_instance_uid, id);
DROP INDEX instance_of_study;
CREATE INDEX instance_of_study ON instance (study_uid, id);
