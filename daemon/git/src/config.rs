//! `/git/config` and `/git/config/user`.

use std::path::Path;

use axum::Json;
use axum::extract::State;
use git2::{Config, ConfigLevel, ErrorCode};
use pinfold_http::{ApiError, ApiResult, JsonBody, Query};
use pinfold_proto::toolbox::git::{ConfigResponse, ConfigScope, ConfigureUserRequest, SetConfigRequest};

use crate::error::Failure;
use crate::repository::{Context, Task};
use crate::required;

pub(crate) const SYSTEM: &str = "/etc/gitconfig";

pub(crate) async fn get(State(context): State<Context>, query: Query) -> ApiResult<Json<ConfigResponse>> {
    let key = query.required("key")?.to_owned();
    let path = query.get("path").unwrap_or_default().to_owned();
    let scope = match query.get("scope").unwrap_or_default() {
        "" | "global" => ConfigScope::Global,
        "local" => ConfigScope::Local,
        "system" => ConfigScope::System,
        other => {
            let reason = format_args!("{other:?} is no scope: global, local and system are");
            return Err(ApiError::bad_request(reason));
        }
    };
    let value = context
        .run(move |task| {
            valid_key(&key)?;
            match open(task, scope, &path)?.get_entry(&key) {
                Ok(entry) => Ok(Some(String::from_utf8_lossy(entry.value_bytes()).into_owned())),
                Err(error) if error.code() == ErrorCode::NotFound => Ok(None),
                Err(error) => Err(error.into()),
            }
        })
        .await?;
    Ok(Json(ConfigResponse { value }))
}

pub(crate) async fn set(
    State(context): State<Context>,
    JsonBody(request): JsonBody<SetConfigRequest>,
) -> ApiResult<()> {
    let SetConfigRequest { key, value, scope, path } = request;
    required(&[("key", &key), ("value", &value)])?;
    store(context, scope, path, vec![(key, value)]).await
}

pub(crate) async fn user(
    State(context): State<Context>,
    JsonBody(request): JsonBody<ConfigureUserRequest>,
) -> ApiResult<()> {
    let ConfigureUserRequest { name, email, scope, path } = request;
    required(&[("name", &name), ("email", &email)])?;
    store(context, scope, path, vec![("user.name".to_owned(), name), ("user.email".to_owned(), email)]).await
}

async fn store(
    context: Context,
    scope: ConfigScope,
    path: String,
    values: Vec<(String, String)>,
) -> ApiResult<()> {
    context
        .run(move |task| {
            let mut config = open(task, scope, &path)?;
            for (key, value) in values {
                valid_key(&key)?;
                config.set_str(&key, &value).map_err(|error| {
                    // Never with the value: it may be a token.
                    Failure::from(error).during(&format!("could not set {key}"))
                })?;
            }
            Ok(())
        })
        .await
}

/// A section, perhaps a subsection, and a name.
fn valid_key(key: &str) -> Result<(), Failure> {
    let word = |text: &str| {
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    let parts = key.split_once('.').zip(key.rsplit_once('.'));
    match parts {
        Some(((section, _), (_, name))) if word(section) && word(name) && !key.contains('\n') => Ok(()),
        _ => Err(Failure::invalid(format!("{key:?} is not a configuration key"))),
    }
}

/// One scope's file or files, without the others.
fn open(task: &Task, scope: ConfigScope, path: &str) -> Result<Config, Failure> {
    match scope {
        ConfigScope::System => Ok(Config::open(Path::new(SYSTEM))?),
        ConfigScope::Global => global(task),
        ConfigScope::Local if path.is_empty() => {
            Err(Failure::invalid("path is required for the local scope"))
        }
        ConfigScope::Local => Ok(task.open(path)?.config()?.open_level(ConfigLevel::Local)?),
    }
}

/// The user's configuration: `~/.gitconfig`, and below it the XDG file where there is one.
pub(crate) fn global(task: &Task) -> Result<Config, Failure> {
    let home = &task.sandbox.home;
    let mut config = Config::new()?;
    let xdg = task.sandbox.environment.get("XDG_CONFIG_HOME").filter(|path| path.starts_with('/'));
    let xdg = xdg.map_or_else(|| home.join(".config"), Into::into).join("git/config");
    if xdg.is_file() {
        config.add_file(&xdg, ConfigLevel::XDG, false)?;
    }
    config.add_file(&home.join(".gitconfig"), ConfigLevel::Global, false)?;
    Ok(config)
}
