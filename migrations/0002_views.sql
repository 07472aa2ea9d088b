-- The public SQL interface. Columns are only ever added. `split` is that of the scheme `default`.

CREATE VIEW main.splits AS
SELECT c.name AS scheme, p.patient_id, s.split
FROM core.split s
JOIN core.scheme c ON c.id = s.scheme
JOIN core.patient p ON p.id = s.patient
WHERE c.version = (SELECT max(o.version) FROM core.scheme o WHERE lower(o.name) = lower(c.name));

CREATE VIEW core.default_split AS
SELECT s.patient, s.split
FROM core.split s
WHERE s.scheme = (SELECT arg_max(id, version) FROM core.scheme WHERE lower(name) = 'default');

CREATE VIEW main.samples AS
SELECT
    s.sample_key, p.patient_id, s.visit_id, s.modality, d.split, s.site, p.label, s.acquired_at, s.uri,
    s.content_hash, t.name AS dataset, s.attributes, s.size
FROM core.sample s
JOIN core.patient p ON p.id = s.patient
JOIN core.dataset t ON t.id = s.dataset
LEFT JOIN core.default_split d ON d.patient = s.patient;

-- A patient of several sites has them all, joined by '+': a NULL there would slip through `site <> 'X'`.
CREATE VIEW main.patients AS
SELECT
    p.patient_id, d.split, s.sites AS site, p.label, p.label_type, coalesce(s.modalities, []) AS modalities,
    coalesce(s.samples, 0) AS samples, coalesce(s.visits, 0) AS visits
FROM core.patient p
LEFT JOIN (
    SELECT
        patient, array_to_string(list_sort(list(DISTINCT site) FILTER (site IS NOT NULL)), '+') AS sites,
        list_sort(list(DISTINCT modality)) AS modalities, count(*) AS samples, count(DISTINCT visit_id) AS visits
    FROM core.sample GROUP BY patient
) s ON s.patient = p.id
LEFT JOIN core.default_split d ON d.patient = p.id;

CREATE VIEW main.features AS
SELECT
    s.sample_key, p.patient_id, s.visit_id, s.modality, d.split, s.site, p.label,
    f.name AS feature_set, f.version, f.backbone, f.model_version, f.layer, f.facet, f.pooler,
    f.shape[-1] AS dim, f.shape, f.dtype, r.run_id, g.path AS segment, v."row", v.extracted_at
FROM core.vector v
JOIN core.sample s ON s.id = v.sample AND s.content = v.content
JOIN core.patient p ON p.id = s.patient
JOIN core.feature_set f ON f.id = v.feature_set
JOIN core.segment g ON g.id = v.segment
JOIN core.run r ON r.id = g.run
LEFT JOIN core.default_split d ON d.patient = s.patient;

CREATE VIEW main.feature_sets AS
SELECT
    f.name, f.version, f.backbone, f.model_version, f.layer, f.facet, f.pooler, f.shape[-1] AS dim, f.shape, f.dtype,
    coalesce(c.vectors, 0) AS vectors, coalesce(c.patients, 0) AS patients, f.created_at, f.fingerprint, f.config,
    r.run_id
FROM core.feature_set f
JOIN core.run r ON r.id = f.run
LEFT JOIN (
    SELECT feature_set, sum(extracted)::BIGINT AS vectors, count(DISTINCT patient) AS patients
    FROM core.coverage WHERE extracted > 0 GROUP BY feature_set
) c ON c.feature_set = f.id;

CREATE VIEW main.coverage AS
SELECT
    p.patient_id, s.modality, f.name AS feature_set, f.version, s.samples, coalesce(c.extracted, 0) AS extracted
FROM (SELECT patient, modality, count(*) AS samples FROM core.sample GROUP BY ALL) s
JOIN core.patient p ON p.id = s.patient
CROSS JOIN core.feature_set f
LEFT JOIN core.coverage c ON c.feature_set = f.id AND c.patient = s.patient AND c.modality = s.modality;

CREATE VIEW main.runs AS
SELECT
    run_id, kind, state, started_at, finished_at, epoch(finished_at - started_at) AS seconds, done, failed,
    request, provenance
FROM core.run;

CREATE VIEW main.failures AS
SELECT
    r.run_id, s.sample_key, f.stage, f.error, f.message, f.failed_at, f.resolved_at IS NOT NULL AS resolved,
    p.patient_id, s.modality, s.uri
FROM core.failure f
JOIN core.run r ON r.id = f.run
JOIN core.sample s ON s.id = f.sample
JOIN core.patient p ON p.id = s.patient;

CREATE VIEW main.tables AS
SELECT
    t.name, t.version, t.label, c.name AS scheme, c.version AS scheme_version, t.row_count AS "rows", t.path,
    t.data_hash, t.created_at, t.recipe, t.report, r.run_id
FROM core.training_table t
JOIN core.run r ON r.id = t.run
LEFT JOIN core.scheme c ON c.id = t.scheme;

CREATE VIEW main.metrics AS
SELECT t.name AS "table", t.version, m.split, m.metric, m.value, m.logged_at
FROM core.metric m
JOIN core.training_table t ON t.id = m.training_table;

-- One row per table, input and run that contributed to it.
CREATE VIEW main.lineage AS
SELECT
    t.name AS "table", t.version AS table_version, i.alias, f.name AS feature_set, f.version AS feature_set_version,
    i.tabular, i.modality, i.aggregation, f.backbone, f.model_version, r.run_id
FROM (SELECT *, unnest(runs) AS run FROM core.table_input) i
JOIN core.training_table t ON t.id = i.training_table
JOIN core.run r ON r.id = i.run
LEFT JOIN core.feature_set f ON f.id = i.feature_set;
