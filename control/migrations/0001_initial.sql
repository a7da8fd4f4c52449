-- Times are milliseconds since 1970 in UTC, booleans are 0 or 1, JSON is text: all of it reads the same in PostgreSQL.

CREATE TABLE meta (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
);

CREATE TABLE api_keys (
    name TEXT PRIMARY KEY,
    hash TEXT NOT NULL UNIQUE,
    masked TEXT NOT NULL,
    permissions TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT
);

CREATE TABLE runners (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    region TEXT NOT NULL,
    token_hash TEXT NOT NULL UNIQUE,
    token TEXT NOT NULL,
    tags TEXT NOT NULL,
    unschedulable BIGINT NOT NULL,
    draining BIGINT NOT NULL,
    health TEXT,
    last_checked BIGINT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);

CREATE TABLE sandboxes (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    region TEXT NOT NULL,
    runner_id TEXT,
    snapshot TEXT,
    image TEXT NOT NULL,
    entrypoint TEXT,
    build_ref TEXT,
    os_user TEXT NOT NULL,
    env TEXT NOT NULL,
    labels TEXT NOT NULL,
    volumes TEXT NOT NULL,
    public BIGINT NOT NULL,
    network_block_all BIGINT NOT NULL,
    network_allow_list TEXT,
    domain_allow_list TEXT,
    cpu BIGINT NOT NULL,
    gpu BIGINT NOT NULL,
    memory BIGINT NOT NULL,
    disk BIGINT NOT NULL,
    state TEXT NOT NULL,
    desired TEXT NOT NULL,
    error_reason TEXT,
    recoverable BIGINT NOT NULL,
    job TEXT,
    task TEXT,
    backup_image TEXT,
    backup_at BIGINT,
    auto_stop BIGINT NOT NULL,
    auto_archive BIGINT NOT NULL,
    auto_delete BIGINT NOT NULL,
    destroy_at BIGINT,
    auth_token TEXT NOT NULL,
    signing_key TEXT,
    linked_sandbox_id TEXT,
    warm_pool_id TEXT,
    daemon_version TEXT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    last_activity_at BIGINT NOT NULL
);
CREATE UNIQUE INDEX sandboxes_name ON sandboxes (name) WHERE desired <> 'destroyed';

CREATE TABLE jobs (
    id TEXT PRIMARY KEY,
    seq BIGINT NOT NULL,
    runner_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    status TEXT NOT NULL,
    resource_type TEXT NOT NULL,
    resource_id TEXT NOT NULL,
    payload TEXT,
    result_metadata TEXT,
    error_message TEXT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE INDEX jobs_open ON jobs (runner_id, status, seq);

CREATE TABLE snapshots (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    image_name TEXT,
    reference TEXT NOT NULL,
    build_ref TEXT,
    general BIGINT NOT NULL,
    state TEXT NOT NULL,
    error_reason TEXT,
    entrypoint TEXT,
    image_entrypoint TEXT,
    size_gib DOUBLE PRECISION,
    cpu BIGINT NOT NULL,
    gpu BIGINT NOT NULL,
    memory BIGINT NOT NULL,
    disk BIGINT NOT NULL,
    runner_id TEXT,
    source_sandbox_id TEXT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    last_used_at BIGINT
);

CREATE TABLE builds (
    reference TEXT PRIMARY KEY,
    dockerfile TEXT NOT NULL,
    context_hashes TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    last_used_at BIGINT NOT NULL
);

-- Which images are where; a row in state 'working' has a job under way.
CREATE TABLE runner_images (
    runner_id TEXT NOT NULL,
    reference TEXT NOT NULL,
    state TEXT NOT NULL,
    job_id TEXT,
    error TEXT,
    size_gib DOUBLE PRECISION,
    entrypoint TEXT,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (runner_id, reference)
);

CREATE TABLE volumes (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    last_used_at BIGINT
);

-- SSH credentials ('ssh') and signed preview links ('preview').
CREATE TABLE tokens (
    hash TEXT PRIMARY KEY,
    id TEXT NOT NULL,
    kind TEXT NOT NULL,
    sandbox_id TEXT NOT NULL,
    port BIGINT,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL
);
CREATE INDEX tokens_sandbox ON tokens (sandbox_id, kind);

CREATE TABLE warm_pools (
    id TEXT PRIMARY KEY,
    snapshot TEXT NOT NULL,
    region TEXT NOT NULL,
    pool BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
