"""The catalog: DuckDB connections, migrations, the SQL sandbox, and one module per noun's queries."""
