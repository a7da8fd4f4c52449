//! `pinfold key …`

use clap::Subcommand;
use serde_json::json;

use crate::api::{Api, segment};
use crate::exit::Failure;
use crate::table::{cell, print_json, print_line, print_table};

/// What to do with API keys.
#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// List API keys, masked
    Ls {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Create an API key and print it; it is shown only this once
    Create {
        /// A name for it
        name: String,
        /// What it may do, such as write:sandboxes; may be given again. Everything that the key in use may, if not given
        #[arg(long = "permission")]
        permissions: Vec<String>,
        /// When it ends, RFC 3339; never if not given
        #[arg(long)]
        expires_at: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Revoke API keys
    Rm {
        /// Their names
        #[arg(required = true)]
        names: Vec<String>,
    },
}

/// Runs the command.
pub(crate) async fn run(command: KeyCommand) -> Result<(), Failure> {
    let api = Api::from_env()?;
    match command {
        KeyCommand::Ls { json } => {
            let keys = api.get("/api-keys").await?;
            if json {
                print_json(&keys);
                return Ok(());
            }
            let columns = ["name", "value", "createdAt", "lastUsedAt", "expiresAt"];
            let rows: Vec<_> = keys
                .as_array()
                .into_iter()
                .flatten()
                .map(|k| columns.iter().map(|c| cell(k, c)).collect())
                .collect();
            print_table(&["name", "key", "created", "last used", "expires"], &rows);
        }
        KeyCommand::Create { name, permissions, expires_at, json } => {
            let permissions = match permissions.as_slice() {
                [] => api.get("/api-keys/current").await?["permissions"].take(),
                named => named.into(),
            };
            let body = json!({ "name": name, "permissions": permissions, "expiresAt": expires_at });
            let key = api.post("/api-keys", body).await?;
            if json {
                print_json(&key);
            } else {
                print_line(&cell(&key, "value"));
            }
        }
        KeyCommand::Rm { names } => {
            for name in names {
                api.delete(&format!("/api-keys/{}", segment(&name))).await?;
                print_line(&name);
            }
        }
    }
    Ok(())
}
