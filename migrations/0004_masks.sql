-- A sample may have a mask: a second file that marks a region of it. Another mask is another content of the sample.
ALTER TABLE core.sample ADD COLUMN mask_uri VARCHAR;
ALTER TABLE core.sample ADD COLUMN mask_size BIGINT;
ALTER TABLE core.sample ADD COLUMN mask_mtime_ns BIGINT;
-- SHA-256 of the mask's bytes as they were decoded; NULL until a region was extracted.
ALTER TABLE core.sample ADD COLUMN mask_hash VARCHAR;

CREATE OR REPLACE VIEW main.samples AS
SELECT
    s.sample_key, p.patient_id, s.visit_id, s.modality, d.split, s.site, p.label, s.acquired_at, s.uri,
    s.content_hash, t.name AS dataset, s.attributes, s.size, s.mask_uri
FROM core.sample s
JOIN core.patient p ON p.id = s.patient
JOIN core.dataset t ON t.id = s.dataset
LEFT JOIN core.default_split d ON d.patient = s.patient;

COMMENT ON VIEW main.samples IS 'One row a sample: an image, a slice, a text.';
COMMENT ON COLUMN main.samples.sample_key IS 'Unique, stable name: <data set>/<path below the ingested folder>[#fragment].';
COMMENT ON COLUMN main.samples.patient_id IS 'Whom it is of; text, so that "007" stays "007".';
COMMENT ON COLUMN main.samples.visit_id IS 'The study or session, where there are several.';
COMMENT ON COLUMN main.samples.modality IS 'A, P, T1, report, …';
COMMENT ON COLUMN main.samples.split IS 'The patient''s split in the scheme `default`; NULL where in none.';
COMMENT ON COLUMN main.samples.site IS 'Where it was made.';
COMMENT ON COLUMN main.samples.label IS 'The patient''s label, as text.';
COMMENT ON COLUMN main.samples.acquired_at IS 'When it was made.';
COMMENT ON COLUMN main.samples.uri IS 'Where its bytes are.';
COMMENT ON COLUMN main.samples.content_hash IS 'SHA-256 of the bytes that were decoded; NULL until extracted.';
COMMENT ON COLUMN main.samples.dataset IS 'The data set that it was ingested with.';
COMMENT ON COLUMN main.samples.attributes IS 'Layout fields and manifest columns that have no column here: attributes[''fold''].';
COMMENT ON COLUMN main.samples.size IS 'The file''s size in bytes.';
COMMENT ON COLUMN main.samples.mask_uri IS 'Where the mask of its region is; NULL where it has none.';
COMMENT ON COLUMN main.failures.stage IS 'read, decode, transform, mask or vector.';
