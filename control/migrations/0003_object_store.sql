-- Volumes that are buckets take time to go; images in our own registry that nobody needs are removed there; sandboxes of a warm pool get their
-- environment late.

ALTER TABLE volumes ADD COLUMN state TEXT NOT NULL DEFAULT 'ready';
ALTER TABLE volumes ADD COLUMN error_reason TEXT;
ALTER TABLE sandboxes ADD COLUMN late_env BIGINT NOT NULL DEFAULT 0;

CREATE TABLE registry_leftovers (
    reference TEXT PRIMARY KEY,
    created_at BIGINT NOT NULL
);
