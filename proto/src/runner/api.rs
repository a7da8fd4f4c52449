//! Shapes of the runner HTTP API that are not job payloads.
