-- Backups of their own, credentials of image registries, and kinds of GPU.

ALTER TABLE sandboxes ADD COLUMN backup TEXT;
ALTER TABLE sandboxes ADD COLUMN gpu_type TEXT;
ALTER TABLE snapshots ADD COLUMN gpu_type TEXT;

-- Passwords are kept as they are: runners have to present them.
CREATE TABLE registries (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    url TEXT NOT NULL,
    username TEXT NOT NULL,
    password TEXT NOT NULL,
    project TEXT NOT NULL,
    kind TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
