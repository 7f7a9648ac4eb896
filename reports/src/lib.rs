//! What a run found: data model, JSON, JUnit, terminal.
