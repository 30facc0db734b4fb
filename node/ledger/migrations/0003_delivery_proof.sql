-- Delivery that is a fact: what proves that a destination has a result, what was taken back, what was erased.

ALTER TABLE delivery
    DROP CONSTRAINT delivery_state_check,
    ADD CONSTRAINT delivery_state_check
        CHECK (state IN ('pending', 'stored', 'confirmed', 'parked', 'cancelled', 'withdrawn')),
    ADD COLUMN proof_due_at    timestamptz,                 -- a proof is asked for then; NULL: none is outstanding
    ADD COLUMN proof_requests  integer NOT NULL DEFAULT 0,  -- proofs asked for since it was last stored
    ADD COLUMN proof_failures  integer NOT NULL DEFAULT 0,  -- times in a row that nobody could be asked
    ADD COLUMN proved_by       text CHECK (proved_by IN ('storage_commitment', 'find')),
    ADD COLUMN resent          integer NOT NULL DEFAULT 0;  -- times that it was stored and not kept
CREATE INDEX delivery_unproven ON delivery (destination) WHERE state = 'stored' AND proof_due_at IS NOT NULL;

CREATE TABLE commitment (
    transaction_uid  text PRIMARY KEY,
    answer_id        bigint NOT NULL REFERENCES answer (id),
    destination      text NOT NULL,
    requested_at     timestamptz NOT NULL DEFAULT now(),   -- entered before the request is sent
    accepted_at      timestamptz,                          -- the destination took the request
    reported_at      timestamptz                           -- the destination's last report
);

CREATE TABLE commitment_item (
    transaction_uid  text NOT NULL REFERENCES commitment (transaction_uid) ON DELETE CASCADE,
    delivery_id      bigint NOT NULL REFERENCES delivery (id),
    outcome          text CHECK (outcome IN ('committed', 'failed')),
    failure_reason   integer,                              -- PS3.3 C.14.1.1
    PRIMARY KEY (transaction_uid, delivery_id)
);
CREATE INDEX commitment_item_of_delivery ON commitment_item (delivery_id);

ALTER TABLE result
    ADD COLUMN retracted_at  timestamptz,
    ADD COLUMN retracted_by  bigint REFERENCES result (id);  -- the rejection note

ALTER TABLE answer
    ADD COLUMN provenance jsonb NOT NULL DEFAULT '{}';       -- models, rule, and the last reception it rests on

CREATE TABLE erasure (
    id            bigserial PRIMARY KEY,
    at            timestamptz NOT NULL DEFAULT now(),
    patient_hash  text NOT NULL,                             -- salted and slow: proves a name, does not give one
    counts        jsonb NOT NULL                             -- studies, images, results, files
);
CREATE INDEX study_by_age ON study (last_instance_at) WHERE study_uid NOT LIKE 'erased:%';
