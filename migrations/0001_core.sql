-- Base tables. Integer surrogate ids (id) are for joins; people use the views of 0002.
-- Times are UTC. Nothing here may hold BEGIN or COMMIT: each file runs in one transaction with its record.
CREATE SCHEMA core;
CREATE SCHEMA tabular;

CREATE TABLE core.run (
    id          INTEGER PRIMARY KEY,
    run_id      VARCHAR NOT NULL UNIQUE,
    kind        VARCHAR NOT NULL,
    state       VARCHAR NOT NULL CHECK (state IN ('running', 'done', 'abandoned')),
    started_at  TIMESTAMP NOT NULL,
    finished_at TIMESTAMP,
    done        BIGINT NOT NULL DEFAULT 0,
    failed      BIGINT NOT NULL DEFAULT 0,
    request     JSON,
    provenance  JSON
);

CREATE TABLE core.dataset (
    id   INTEGER PRIMARY KEY,
    name VARCHAR NOT NULL,
    root VARCHAR NOT NULL,
    run  INTEGER NOT NULL REFERENCES core.run (id)
);
CREATE UNIQUE INDEX dataset_name ON core.dataset (lower(name));

-- patient_id is text, always: "007" is not 7. A label is text with its type, and comes back typed.
CREATE TABLE core.patient (
    id         INTEGER PRIMARY KEY,
    patient_id VARCHAR NOT NULL UNIQUE CHECK (patient_id <> ''),
    label      VARCHAR,
    label_type VARCHAR CHECK (label_type IN ('int', 'float', 'str')),
    CHECK ((label IS NULL) = (label_type IS NULL))
);

-- `content` counts what the sample's bytes have been: a vector of an older content is never served.
CREATE TABLE core.sample (
    id           BIGINT PRIMARY KEY,
    sample_key   VARCHAR NOT NULL UNIQUE,
    dataset      INTEGER NOT NULL,
    patient      INTEGER NOT NULL,
    visit_id     VARCHAR,
    modality     VARCHAR NOT NULL,
    site         VARCHAR,
    acquired_at  TIMESTAMP,
    uri          VARCHAR NOT NULL,
    size         BIGINT,
    mtime_ns     BIGINT,
    content_hash VARCHAR,
    content      INTEGER NOT NULL DEFAULT 1,
    attributes   MAP(VARCHAR, VARCHAR) NOT NULL,
    run          INTEGER NOT NULL
);

-- A patient is in one split of a scheme: the primary key says so.
CREATE TABLE core.scheme (
    id      INTEGER PRIMARY KEY,
    name    VARCHAR NOT NULL,
    version INTEGER NOT NULL CHECK (version >= 1),
    recipe  JSON NOT NULL,
    run     INTEGER NOT NULL REFERENCES core.run (id)
);
CREATE UNIQUE INDEX scheme_name ON core.scheme (lower(name), version);

CREATE TABLE core.split (
    scheme  INTEGER NOT NULL REFERENCES core.scheme (id),
    patient INTEGER NOT NULL REFERENCES core.patient (id),
    split   VARCHAR NOT NULL CHECK (split <> ''),
    PRIMARY KEY (scheme, patient)
);

CREATE TABLE core.feature_set (
    id            INTEGER PRIMARY KEY,
    name          VARCHAR NOT NULL,
    version       INTEGER NOT NULL CHECK (version >= 1),
    fingerprint   VARCHAR NOT NULL,
    config        JSON NOT NULL,
    backbone      VARCHAR NOT NULL,
    model_version VARCHAR NOT NULL,
    layer         VARCHAR NOT NULL,
    facet         VARCHAR,
    pooler        VARCHAR NOT NULL,
    shape         INTEGER[] NOT NULL,
    dtype         VARCHAR NOT NULL CHECK (dtype IN ('float16', 'float32')),
    created_at    TIMESTAMP NOT NULL,
    run           INTEGER NOT NULL REFERENCES core.run (id)
);
CREATE UNIQUE INDEX feature_set_name ON core.feature_set (lower(name), version);
CREATE UNIQUE INDEX feature_set_fingerprint ON core.feature_set (lower(name), fingerprint);

CREATE TABLE core.segment (
    id          INTEGER PRIMARY KEY,
    feature_set INTEGER NOT NULL REFERENCES core.feature_set (id),
    run         INTEGER NOT NULL REFERENCES core.run (id),
    path        VARCHAR NOT NULL UNIQUE,
    size        BIGINT NOT NULL CHECK (size > 0),
    chunk_rows  INTEGER NOT NULL CHECK (chunk_rows > 0)
);

-- Which chunks of a run's journal are in the catalog: makes absorbing a receipt twice harmless.
CREATE TABLE core.chunk (
    run   INTEGER NOT NULL,
    chunk INTEGER NOT NULL,
    PRIMARY KEY (run, chunk)
);

-- The big pointer table: no key and no index, which would cost 17 s instead of 0.6 s for 5 million rows. One writer,
-- the commit, keeps it free of duplicates. Only vectors of valid rows are here.
CREATE TABLE core.vector (
    sample       BIGINT NOT NULL,
    feature_set  INTEGER NOT NULL,
    segment      INTEGER NOT NULL,
    "row"        BIGINT NOT NULL,
    content      INTEGER NOT NULL,
    extracted_at TIMESTAMP NOT NULL
);

-- Counters kept at commit: how many samples of a patient and modality have a current vector.
CREATE TABLE core.coverage (
    feature_set INTEGER NOT NULL,
    patient     INTEGER NOT NULL,
    modality    VARCHAR NOT NULL,
    extracted   BIGINT NOT NULL,
    PRIMARY KEY (feature_set, patient, modality)
);

-- `content` and `file_state` say of which bytes: an input that failed is tried again when its file has changed.
CREATE TABLE core.failure (
    run         INTEGER NOT NULL,
    sample      BIGINT NOT NULL,
    content     INTEGER NOT NULL,
    file_state  VARCHAR NOT NULL,
    stage       VARCHAR NOT NULL,
    error       VARCHAR NOT NULL,
    message     VARCHAR NOT NULL,
    failed_at   TIMESTAMP NOT NULL,
    resolved_at TIMESTAMP
);

CREATE TABLE core.tabular (
    name         VARCHAR PRIMARY KEY,
    row_count    BIGINT NOT NULL,
    content_hash VARCHAR NOT NULL,
    run          INTEGER NOT NULL REFERENCES core.run (id)
);

CREATE TABLE core.training_table (
    id          INTEGER PRIMARY KEY,
    name        VARCHAR NOT NULL,
    version     INTEGER NOT NULL CHECK (version >= 1),
    label       VARCHAR,
    scheme      INTEGER REFERENCES core.scheme (id),
    row_count   BIGINT NOT NULL,
    path        VARCHAR NOT NULL,
    data_hash   VARCHAR NOT NULL,
    recipe      JSON NOT NULL,
    report      JSON NOT NULL,
    created_at  TIMESTAMP NOT NULL,
    run         INTEGER NOT NULL REFERENCES core.run (id)
);
CREATE UNIQUE INDEX training_table_name ON core.training_table (lower(name), version);

CREATE TABLE core.table_input (
    training_table INTEGER NOT NULL REFERENCES core.training_table (id),
    position       INTEGER NOT NULL,
    alias          VARCHAR NOT NULL,
    feature_set    INTEGER REFERENCES core.feature_set (id),
    tabular        VARCHAR,
    modality       VARCHAR,
    aggregation    VARCHAR,
    runs           INTEGER[] NOT NULL,
    PRIMARY KEY (training_table, position)
);

CREATE TABLE core.metric (
    training_table INTEGER NOT NULL REFERENCES core.training_table (id),
    split          VARCHAR NOT NULL,
    metric         VARCHAR NOT NULL,
    value          DOUBLE NOT NULL,
    logged_at      TIMESTAMP NOT NULL
);
