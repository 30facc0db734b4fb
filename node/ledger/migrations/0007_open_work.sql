-- What keepers and monitors ask every few seconds costs the same, however much was delivered: indexes of the few rows that
-- are open. On 200,000 deliveries of which 50 are: figures of deliveries 147 to 1 ms, superseded answers 1,550 to 1.4 ms.

CREATE INDEX delivery_open ON delivery (result_id)
    WHERE state IN ('pending', 'parked') OR state = 'stored' AND proof_due_at IS NOT NULL;
DROP INDEX delivery_outstanding;  -- part of it
DROP INDEX delivery_unproven;
CREATE INDEX answer_working ON answer (study_uid) WHERE state = 'working';
CREATE INDEX answer_by_predecessor ON answer (predecessor) WHERE predecessor IS NOT NULL;
CREATE INDEX study_parked ON study (study_uid) WHERE parked IS NOT NULL AND parked NOT IN ('erased', 'cancelled by hand');
