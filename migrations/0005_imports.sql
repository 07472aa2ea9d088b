-- Vectors may come from elsewhere, by featstore import: what the columns say then.
COMMENT ON COLUMN main.failures.stage IS 'read, decode, transform, mask, vector, or import.';
COMMENT ON COLUMN main.samples.uri IS 'Where its bytes are: a path or URL, with #fragment for a part; imported:… where only vectors came.';
COMMENT ON COLUMN main.samples.attributes IS 'Layout fields, manifest columns and what the file says, where they have no column here: attributes[''fold''].';
