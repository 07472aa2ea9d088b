-- Training tables of visits and samples, of folds and of dated tables; what they were fitted on, and what was excepted
-- from refusal. Split schemes of folds. Metrics of probes.

ALTER TABLE core.training_table ADD COLUMN entity VARCHAR;
ALTER TABLE core.training_table ADD COLUMN folds INTEGER;

-- One row a fitted object: `fold` is '' where there are no folds. train_hash is SHA-256 of the train rows' keys.
CREATE TABLE core.fit (
    training_table INTEGER NOT NULL REFERENCES core.training_table (id),
    fold           VARCHAR NOT NULL,
    train_rows     BIGINT NOT NULL,
    train_hash     VARCHAR NOT NULL,
    PRIMARY KEY (training_table, fold)
);

-- A leak that was found, and allowed with a reason.
CREATE TABLE core.allowed (
    training_table INTEGER NOT NULL REFERENCES core.training_table (id),
    kind           VARCHAR NOT NULL,
    reason         VARCHAR NOT NULL CHECK (reason <> ''),
    found          BIGINT NOT NULL,
    PRIMARY KEY (training_table, kind)
);

-- Whom an encoder's weights were trained, fine-tuned or fitted on, as far as somebody said so; also who isn't here yet.
CREATE TABLE core.trained_on (
    model_version VARCHAR NOT NULL,
    patient_id    VARCHAR NOT NULL,
    run           INTEGER NOT NULL REFERENCES core.run (id),
    PRIMARY KEY (model_version, patient_id)
);

-- Of a dated table, with several rows a patient: the column that says when.
ALTER TABLE core.tabular ADD COLUMN time_column VARCHAR;

-- low and high: the bootstrap interval. fold is '' where there are no folds.
ALTER TABLE core.metric ADD COLUMN model VARCHAR;
ALTER TABLE core.metric ADD COLUMN parameters JSON;
ALTER TABLE core.metric ADD COLUMN fold VARCHAR;
ALTER TABLE core.metric ADD COLUMN low DOUBLE;
ALTER TABLE core.metric ADD COLUMN high DOUBLE;
ALTER TABLE core.metric ADD COLUMN run INTEGER;

CREATE VIEW main.schemes AS
SELECT
    c.name AS scheme, c.version, c.version = max(c.version) OVER (PARTITION BY lower(c.name)) AS "current",
    n.patients, n.splits, c.recipe, t.tables, r.run_id
FROM core.scheme c
JOIN core.run r ON r.id = c.run
LEFT JOIN (
    SELECT scheme, sum(patients)::BIGINT AS patients, map_from_entries(list((split, patients) ORDER BY split)) AS splits
    FROM (SELECT scheme, split, count(*) AS patients FROM core.split GROUP BY ALL) GROUP BY scheme
) n ON n.scheme = c.id
LEFT JOIN (
    SELECT scheme, list(name || '@v' || version ORDER BY name, version) AS tables FROM core.training_table
    WHERE scheme IS NOT NULL GROUP BY scheme
) t ON t.scheme = c.id;

CREATE VIEW main.trained_on AS
SELECT t.model_version, t.patient_id, r.run_id
FROM core.trained_on t
JOIN core.run r ON r.id = t.run;

CREATE VIEW main.allowed AS
SELECT t.name AS "table", t.version, a.kind, a.reason, a.found
FROM core.allowed a
JOIN core.training_table t ON t.id = a.training_table;

CREATE VIEW core.stale AS
SELECT training_table, array_to_string(list(DISTINCT because ORDER BY because), '; ') AS because
FROM (
    SELECT t.id AS training_table, 'the scheme ' || c.name || ' has a version ' || max(n.version) AS because
    FROM core.training_table t
    JOIN core.scheme c ON c.id = t.scheme
    JOIN core.scheme n ON lower(n.name) = lower(c.name) AND n.version > c.version
    WHERE NOT coalesce(contains(json_extract_string(t.recipe, '$.scheme'), '@v'), false)
    GROUP BY t.id, c.name
    UNION ALL
    SELECT i.training_table, 'the feature set ' || f.name || ' has a version ' || max(n.version)
    FROM core.table_input i
    JOIN core.feature_set f ON f.id = i.feature_set
    JOIN core.feature_set n ON lower(n.name) = lower(f.name) AND n.version > f.version
    WHERE n.id IN (SELECT feature_set FROM core.coverage WHERE extracted > 0)
    GROUP BY i.training_table, f.name
    UNION ALL
    SELECT i.training_table, 'the table ' || i.tabular || ' was taken in anew'
    FROM core.table_input i
    JOIN core.tabular b ON b.name = i.tabular
    WHERE NOT list_contains(i.runs, b.run)
    UNION ALL
    -- Those that had a vector when the table was made, and have other bytes now. Few samples ever change.
    SELECT training_table, 'samples of ' || alias || ' have changed'
    FROM (
        SELECT i.training_table, i.alias, s.id, s.content
        FROM core.table_input i
        JOIN core.training_table t ON t.id = i.training_table
        JOIN core.sample s ON s.modality = i.modality AND s.content > 1
        JOIN core.vector v ON v.sample = s.id AND v.feature_set = i.feature_set AND v.extracted_at <= t.created_at
        GROUP BY ALL HAVING max(v.content) < s.content
    )
    GROUP BY training_table, alias
)
GROUP BY training_table;

CREATE OR REPLACE VIEW main.tables AS
SELECT
    t.name, t.version, t.label, c.name AS scheme, c.version AS scheme_version, t.row_count AS "rows", t.path,
    t.data_hash, t.created_at, t.recipe, t.report, r.run_id, coalesce(t.entity, 'patient') AS entity, t.folds,
    s.because AS stale
FROM core.training_table t
JOIN core.run r ON r.id = t.run
LEFT JOIN core.scheme c ON c.id = t.scheme
LEFT JOIN core.stale s ON s.training_table = t.id;

CREATE OR REPLACE VIEW main.metrics AS
SELECT
    t.name AS "table", t.version, m.split, m.metric, m.value, m.logged_at, m.model, m.parameters,
    coalesce(m.fold, '') AS fold, m.low, m.high, r.run_id
FROM core.metric m
JOIN core.training_table t ON t.id = m.training_table
LEFT JOIN core.run r ON r.id = m.run;

COMMENT ON VIEW main.schemes IS 'One row a split scheme and version.';
COMMENT ON COLUMN main.schemes.scheme IS 'The split scheme.';
COMMENT ON COLUMN main.schemes.version IS 'Its version; a change makes another one.';
COMMENT ON COLUMN main.schemes.current IS 'Whether this is the latest, which new tables take.';
COMMENT ON COLUMN main.schemes.patients IS 'How many patients it assigns.';
COMMENT ON COLUMN main.schemes.splits IS 'Patients by split.';
COMMENT ON COLUMN main.schemes.recipe IS 'How it was made, as JSON.';
COMMENT ON COLUMN main.schemes.tables IS 'The training tables that use it.';
COMMENT ON COLUMN main.schemes.run_id IS 'The run that made it.';

COMMENT ON VIEW main.trained_on IS 'One row an encoder and patient that its weights were trained on, as somebody said.';
COMMENT ON COLUMN main.trained_on.model_version IS 'SHA-256 of the weights, as in feature_sets; NAME@vK where nobody knows them, or there are none.';
COMMENT ON COLUMN main.trained_on.patient_id IS 'The patient, who need not be in the store.';
COMMENT ON COLUMN main.trained_on.run_id IS 'The run that says so.';

COMMENT ON VIEW main.allowed IS 'One row a leak that was found in a training table, and allowed.';
COMMENT ON COLUMN main.allowed.table IS 'The training table.';
COMMENT ON COLUMN main.allowed.version IS 'Its version.';
COMMENT ON COLUMN main.allowed.kind IS 'What leaks: same-content, fine-tuned, ….';
COMMENT ON COLUMN main.allowed.reason IS 'Why it was allowed.';
COMMENT ON COLUMN main.allowed.found IS 'How many cases there were.';

COMMENT ON VIEW main.tables IS 'One row a training table and version.';
COMMENT ON COLUMN main.tables.name IS 'Its name.';
COMMENT ON COLUMN main.tables.version IS 'Its version.';
COMMENT ON COLUMN main.tables.label IS 'Where its labels are from: label, TABLE.COLUMN, a time and an event, or none.';
COMMENT ON COLUMN main.tables.scheme IS 'The split scheme.';
COMMENT ON COLUMN main.tables.scheme_version IS 'The scheme''s version that was used.';
COMMENT ON COLUMN main.tables.rows IS 'How many rows it has.';
COMMENT ON COLUMN main.tables.path IS 'Its folder below the store''s: data.parquet, recipe.yaml, fitted.skops, report.json, card.md.';
COMMENT ON COLUMN main.tables.data_hash IS 'SHA-256 of data.parquet; of folds, of all of theirs.';
COMMENT ON COLUMN main.tables.created_at IS 'UTC.';
COMMENT ON COLUMN main.tables.recipe IS 'What was asked for, as JSON.';
COMMENT ON COLUMN main.tables.report IS 'The alignment report, as JSON.';
COMMENT ON COLUMN main.tables.run_id IS 'The run that made it.';
COMMENT ON COLUMN main.tables.entity IS 'What a row is: patient, visit or sample.';
COMMENT ON COLUMN main.tables.folds IS 'How many folds it has, each with its own data and fitted steps; NULL where none.';
COMMENT ON COLUMN main.tables.stale IS 'What has changed since it was made; NULL where nothing has.';

COMMENT ON VIEW main.metrics IS 'Metrics of models that were trained on a table.';
COMMENT ON COLUMN main.metrics.table IS 'The training table.';
COMMENT ON COLUMN main.metrics.version IS 'Its version.';
COMMENT ON COLUMN main.metrics.split IS 'The split that was measured.';
COMMENT ON COLUMN main.metrics.metric IS 'Such as auc.';
COMMENT ON COLUMN main.metrics.value IS 'Its value.';
COMMENT ON COLUMN main.metrics.logged_at IS 'UTC.';
COMMENT ON COLUMN main.metrics.model IS 'What was trained, such as logistic.';
COMMENT ON COLUMN main.metrics.parameters IS 'Its parameters, as JSON.';
COMMENT ON COLUMN main.metrics.fold IS 'The fold; empty where there are none.';
COMMENT ON COLUMN main.metrics.low IS 'Lower end of the 95 % bootstrap interval.';
COMMENT ON COLUMN main.metrics.high IS 'Upper end of the 95 % bootstrap interval.';
COMMENT ON COLUMN main.metrics.run_id IS 'The run that measured it.';
COMMENT ON COLUMN main.runs.kind IS 'ingest, ingest-table, import, split, trained-on, extract, materialize, probe.';
COMMENT ON COLUMN main.splits.split IS 'train, val, test, fold0, …: one a patient, by primary key.';
