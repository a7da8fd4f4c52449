//! `pinfold snapshot …`

use clap::Subcommand;
use serde_json::{Value, json};

use crate::api::{Api, segment};
use crate::exit::Failure;
use crate::table::{cell, print_json, print_line, print_table};

/// What to do with snapshots.
#[derive(Debug, Subcommand)]
pub(crate) enum SnapshotCommand {
    /// List snapshots
    Ls {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Register an image as a snapshot
    Create {
        /// The snapshot's name
        name: String,
        /// The image, with a tag other than `latest`
        image: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Delete snapshots
    Rm {
        /// Names or ids
        #[arg(required = true)]
        snapshots: Vec<String>,
    },
}

/// Runs the command.
pub(crate) async fn run(command: SnapshotCommand) -> Result<(), Failure> {
    let api = Api::from_env()?;
    match command {
        SnapshotCommand::Ls { json } => {
            let items = api.snapshots().await?;
            if json {
                print_json(&Value::Array(items));
                return Ok(());
            }
            let columns = ["name", "id", "state", "imageName", "cpu", "mem", "disk", "size", "errorReason"];
            let rows: Vec<_> = items.iter().map(|s| columns.iter().map(|c| cell(s, c)).collect()).collect();
            print_table(
                &["name", "id", "state", "image", "cpu", "mem GiB", "disk GiB", "size GiB", "reason"],
                &rows,
            );
        }
        SnapshotCommand::Create { name, image, json } => {
            let snapshot = api.post("/snapshots", json!({ "name": name, "imageName": image })).await?;
            if json {
                print_json(&snapshot);
            } else {
                print_line(&cell(&snapshot, "id"));
            }
        }
        SnapshotCommand::Rm { snapshots } => {
            for name in snapshots {
                let snapshot = api.get(&format!("/snapshots/{}", segment(&name))).await?;
                api.delete(&format!("/snapshots/{}", cell(&snapshot, "id"))).await?;
                print_line(&name);
            }
        }
    }
    Ok(())
}
