-- Who kills the processes that send: a death among several deliveries says nothing of any of them, a death alone does.

CREATE TABLE sender_death (
    answer_id     bigint NOT NULL REFERENCES answer (id),
    destination   text NOT NULL,
    among_others  integer NOT NULL DEFAULT 0,  -- processes that died with this delivery and others under way
    alone         integer NOT NULL DEFAULT 0,  -- processes that died with nothing else under way; both 0: parked for it
    PRIMARY KEY (answer_id, destination)
);
