-- The ledger: what arrived, what became of it, what was sent where. The queue only wakes workers; this is the truth.

CREATE TABLE instance (
    id                bigserial PRIMARY KEY,
    spool_name        text NOT NULL UNIQUE,          -- relative to the spool, unique per reception
    received_at       timestamptz NOT NULL,
    calling_ae        text NOT NULL,
    called_ae         text NOT NULL,
    transfer_syntax   text NOT NULL,
    sop_class_uid     text NOT NULL,
    sop_instance_uid  text NOT NULL,
    study_uid         text NOT NULL,                 -- '' where the object names none
    series_uid        text NOT NULL,
    patient_id        text NOT NULL,
    modality          text NOT NULL,
    bytes             bigint NOT NULL,
    sha256            text NOT NULL,
    duplicate_of      bigint REFERENCES instance (id),   -- same UID and same bytes as an earlier reception
    erased_at         timestamptz                        -- the file is gone (retention, erasure); the row stays
);
CREATE INDEX instance_of_study ON instance (study_uid, series_uid);
CREATE INDEX instance_by_uid ON instance (sop_instance_uid);
CREATE INDEX instance_by_age ON instance (received_at) WHERE erased_at IS NULL;

CREATE TABLE study (
    study_uid         text PRIMARY KEY,
    last_instance_at  timestamptz NOT NULL,          -- the quiet time counts from here
    instances         bigint NOT NULL DEFAULT 0,
    evaluated_at      timestamptz,
    evaluated_up_to   bigint,                        -- highest instance id that the last evaluation saw
    attempts          integer NOT NULL DEFAULT 0,    -- evaluations begun since the last one that ended
    parked            text                           -- why no worker takes it any more
);

CREATE TABLE series (
    study_uid         text NOT NULL REFERENCES study (study_uid),
    series_uid        text NOT NULL,
    modality          text NOT NULL,
    description       text NOT NULL,
    instances         integer NOT NULL,
    outcome           text NOT NULL CHECK (outcome IN ('not_eligible', 'not_chosen', 'answered')),
    reason_code       text,
    reason            text,
    better_series_uid text,
    decided_at        timestamptz NOT NULL,
    PRIMARY KEY (study_uid, series_uid)
);

CREATE TABLE answer (
    id                    bigserial PRIMARY KEY,
    study_uid             text NOT NULL REFERENCES study (study_uid),
    pipeline              text NOT NULL,
    series_uid            text NOT NULL,
    revision              integer NOT NULL,
    input_sha256          text NOT NULL,
    configuration_sha256  text NOT NULL,
    software_version      text NOT NULL,
    started_at            timestamptz NOT NULL,       -- pinned: dates of the results
    attempt               integer NOT NULL DEFAULT 0, -- the fence: only the newest attempt may finish
    state                 text NOT NULL CHECK (state IN ('working', 'done', 'superseded')),
    status                text,                       -- evaluated | not_evaluable
    sent                  boolean,                    -- false: not evaluable and no spine was expected
    flag                  boolean,
    provider              text,
    reason_code           text,
    timings_s             jsonb NOT NULL DEFAULT '{}',
    predecessor           bigint REFERENCES answer (id),
    finished_at           timestamptz
);
CREATE UNIQUE INDEX one_answer_per_input
    ON answer (study_uid, pipeline, series_uid, input_sha256) WHERE state <> 'superseded';
CREATE UNIQUE INDEX one_sent_answer_per_revision
    ON answer (study_uid, pipeline, series_uid, revision) WHERE state <> 'superseded' AND sent IS NOT false;

CREATE TABLE result (
    id                bigserial PRIMARY KEY,
    answer_id         bigint NOT NULL REFERENCES answer (id),
    position          integer NOT NULL,              -- order of sending
    kind              text NOT NULL,
    sop_class_uid     text NOT NULL,
    sop_instance_uid  text NOT NULL UNIQUE,
    series_uid        text NOT NULL,
    outbox_name       text NOT NULL,                 -- relative to the outbox
    bytes             bigint NOT NULL,
    sha256            text NOT NULL,
    erased_at         timestamptz,                   -- the outbox file is gone; UID and digest stay
    UNIQUE (answer_id, position)
);

CREATE TABLE delivery (
    id                bigserial PRIMARY KEY,
    result_id         bigint NOT NULL REFERENCES result (id),
    destination       text NOT NULL,
    state             text NOT NULL DEFAULT 'pending'
        CHECK (state IN ('pending', 'stored', 'confirmed', 'parked', 'cancelled')),
    attempts          integer NOT NULL DEFAULT 0,
    unclear_failures  integer NOT NULL DEFAULT 0,
    first_try_at      timestamptz,
    last_try_at       timestamptz,
    next_try_at       timestamptz,
    status_code       integer,                       -- DIMSE status of the last answer
    reason            text,                          -- a sentence that a person can act on
    stored_at         timestamptz,
    confirmed_at      timestamptz,                   -- storage commitment
    UNIQUE (result_id, destination)
);
CREATE INDEX delivery_outstanding ON delivery (destination, state) WHERE state = 'pending';

CREATE TABLE event (
    id        bigserial PRIMARY KEY,
    at        timestamptz NOT NULL DEFAULT now(),
    kind      text NOT NULL,
    subject   text NOT NULL DEFAULT '',
    detail    jsonb NOT NULL DEFAULT '{}'
);
CREATE INDEX event_by_time ON event (at);
