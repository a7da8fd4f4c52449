//! `pinfold sandbox …`

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::api::{Api, segment};
use crate::exit::Failure;
use crate::table::{cell, print_json, print_line, print_table};

/// How long a create that was interrupted may take to be known, so that it can be undone.
const UNDO: Duration = Duration::from_secs(20);
/// Exit status of a command that a Ctrl-C ended and that has cleaned up.
const INTERRUPTED: u8 = 130;

/// What to do with sandboxes.
#[derive(Debug, Subcommand)]
pub(crate) enum SandboxCommand {
    /// List sandboxes
    Ls {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Create a sandbox and wait until it runs
    Create(Create),
    /// Run a command in a sandbox; its exit status becomes ours
    Exec {
        /// Name or id
        sandbox: String,
        /// Seconds after which the command is killed
        #[arg(long)]
        timeout: Option<u32>,
        /// The command and its arguments; quote it to use shell syntax
        #[arg(trailing_var_arg = true, required = true)]
        command: Vec<String>,
    },
    /// Print what a sandbox's entrypoint has written, its errors on standard error
    Logs {
        /// Name or id
        sandbox: String,
        /// Go on until the entrypoint ends, or Ctrl-C
        #[arg(long, short)]
        follow: bool,
    },
    /// Open a shell in a sandbox over SSH
    Ssh {
        /// Name or id
        sandbox: String,
    },
    /// Start a stopped sandbox
    Start {
        /// Name or id
        sandbox: String,
    },
    /// Stop a sandbox
    Stop {
        /// Name or id
        sandbox: String,
        /// Kill instead of asking first
        #[arg(long)]
        force: bool,
    },
    /// Delete sandboxes
    Rm {
        /// Names or ids
        #[arg(required = true)]
        sandboxes: Vec<String>,
    },
}

/// What to create.
#[derive(Debug, Args)]
pub(crate) struct Create {
    /// A name, unique among your sandboxes; one is made up otherwise
    #[arg(long)]
    name: Option<String>,
    /// The snapshot to start from; the server's default otherwise
    #[arg(long)]
    snapshot: Option<String>,
    /// An image to start from instead of a snapshot
    #[arg(long, conflicts_with = "snapshot")]
    image: Option<String>,
    /// Environment, NAME=VALUE; may be given again
    #[arg(long = "env", short = 'e', value_parser = key_value)]
    env: Vec<(String, String)>,
    /// Labels, NAME=VALUE; may be given again
    #[arg(long = "label", short = 'l', value_parser = key_value)]
    labels: Vec<(String, String)>,
    /// Minutes of inactivity after which it stops; 0 means never
    #[arg(long)]
    auto_stop: Option<u32>,
    /// Nothing may be reached from the sandbox
    #[arg(long)]
    block_network: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or_else(|| format!("{text:?} is not NAME=VALUE"))?;
    Ok((key.to_owned(), value.to_owned()))
}

/// Runs the command. The result is the exit status of `exec`, 0 for everything else.
pub(crate) async fn run(command: SandboxCommand) -> Result<u8, Failure> {
    let api = Api::from_env()?;
    match command {
        SandboxCommand::Ls { json } => list(&api, json).await?,
        SandboxCommand::Create(create) => make(&api, create).await?,
        SandboxCommand::Exec { sandbox, timeout, command } => {
            return exec(&api, &sandbox, timeout, &command).await;
        }
        SandboxCommand::Logs { sandbox, follow } => super::logs::print(&api, &sandbox, follow).await?,
        SandboxCommand::Ssh { sandbox } => return Err(ssh(&api, &sandbox).await?),
        SandboxCommand::Start { sandbox } => {
            drop(api.post(&format!("/sandbox/{}/start", segment(&sandbox)), json!({})).await?)
        }
        SandboxCommand::Stop { sandbox, force } => {
            drop(api.post(&format!("/sandbox/{}/stop?force={force}", segment(&sandbox)), json!({})).await?);
        }
        SandboxCommand::Rm { sandboxes } => {
            for sandbox in sandboxes {
                api.delete(&format!("/sandbox/{}", segment(&sandbox))).await?;
                print_line(&sandbox);
            }
        }
    }
    Ok(0)
}

async fn list(api: &Api, as_json: bool) -> Result<(), Failure> {
    let items = api.sandboxes().await?;
    if as_json {
        print_json(&Value::Array(items));
        return Ok(());
    }
    let columns = ["name", "id", "state", "snapshot", "cpu", "memory", "disk", "createdAt", "errorReason"];
    let rows: Vec<_> = items.iter().map(|item| columns.iter().map(|c| cell(item, c)).collect()).collect();
    print_table(
        &["name", "id", "state", "snapshot", "cpu", "mem GiB", "disk GiB", "created", "reason"],
        &rows,
    );
    Ok(())
}

/// Creates a sandbox. A Ctrl-C meanwhile deletes it: nobody would know of what was made for nobody.
async fn make(api: &Api, mut create: Create) -> Result<(), Failure> {
    // What an interrupt deletes must be what we make, so a sandbox that has the name already is found out before.
    if let Some(name) = &create.name
        && api.get(&format!("/sandbox/{}", segment(name))).await.is_ok()
    {
        return Err(Failure::refused(409, format!("a sandbox named {name:?} exists already")));
    }
    let name = create.name.get_or_insert_with(a_name).clone();
    let as_json = create.json;
    // Listened to before anything is asked for: an interrupt that nobody hears ends this process, and leaves what it asked for.
    let mut interrupt = signal(SignalKind::interrupt())
        .map_err(|error| Failure::runtime(format!("could not watch for signals: {error}")))?;
    let sandbox = {
        let mut made = std::pin::pin!(started(api, create));
        tokio::select! {
            sandbox = &mut made => sandbox?,
            // Not dropped but left: the request stays open, so the server has it, and the delete comes after it.
            _ = interrupt.recv() => return Err(undo(api, &name, &mut interrupt).await),
        }
    };
    if as_json {
        print_json(&sandbox);
    } else {
        print_line(&cell(&sandbox, "name"));
    }
    Ok(())
}

/// A name that is easier to type than an id.
fn a_name() -> String {
    // The standard library's only source of randomness is good enough for what the server checks again.
    format!("sandbox-{:08x}", RandomState::new().build_hasher().finish() >> 32)
}

async fn undo(api: &Api, name: &str, interrupt: &mut Signal) -> Failure {
    let deadline = tokio::time::Instant::now() + UNDO;
    let deleted = async {
        while let Err(failure) = api.delete(&format!("/sandbox/{}", segment(name))).await {
            // The create may not have come as far as having a record.
            if !failure.not_found() || tokio::time::Instant::now() > deadline {
                return Err(failure);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    };
    let said = tokio::select! {
        deleted = deleted => match deleted {
            Ok(()) => format!("interrupted; the sandbox {name} is deleted"),
            Err(failure) if failure.not_found() => "interrupted; no sandbox was made".to_owned(),
            Err(failure) => format!("interrupted, and the sandbox {name} could not be deleted: {failure}"),
        },
        _ = interrupt.recv() => format!("interrupted; the sandbox {name} may be there"),
    };
    Failure::of_class(INTERRUPTED, said)
}

/// The sandbox, once it runs.
async fn started(api: &Api, create: Create) -> Result<Value, Failure> {
    let object = |pairs: Vec<(String, String)>| {
        Value::Object(pairs.into_iter().map(|(k, v)| (k, v.into())).collect::<Map<_, _>>())
    };
    let mut body = json!({ "env": object(create.env), "labels": object(create.labels) });
    for (member, value) in [("name", create.name), ("snapshot", create.snapshot)] {
        if let Some(value) = value {
            body[member] = value.into();
        }
    }
    if let Some(image) = create.image {
        body["buildInfo"] = json!({ "dockerfileContent": format!("FROM {image}\n") });
    }
    if let Some(minutes) = create.auto_stop {
        body["autoStopInterval"] = minutes.into();
    }
    if create.block_network {
        body["networkBlockAll"] = true.into();
    }
    let mut sandbox = api.post("/sandbox", body).await?;
    let id = cell(&sandbox, "id");
    // A snapshot create answers when the sandbox runs; an image that has to be built or pulled first takes as long as it takes.
    while !matches!(sandbox["state"].as_str(), Some("started" | "error" | "build_failed")) {
        tokio::time::sleep(Duration::from_secs(1)).await;
        sandbox = api.get(&format!("/sandbox/{id}")).await?;
    }
    if sandbox["state"] == "started" {
        return Ok(sandbox);
    }
    let (state, reason) = (cell(&sandbox, "state"), cell(&sandbox, "errorReason"));
    Err(Failure::runtime(format!("sandbox {id} is in state {state}: {reason}")))
}

async fn exec(api: &Api, name: &str, timeout: Option<u32>, command: &[String]) -> Result<u8, Failure> {
    let sandbox = api.get(&format!("/sandbox/{}", segment(name))).await?;
    let text = match command {
        [one] => one.clone(),
        many => many.iter().map(|word| quote(word)).collect::<Vec<_>>().join(" "),
    };
    let mut body = json!({ "command": text });
    if let Some(seconds) = timeout {
        body["timeout"] = seconds.into();
    }
    let result = api.toolbox(&sandbox, "/process/execute", body).await?;
    let out = result["stdout"].as_str().or(result["result"].as_str()).unwrap_or_default();
    let _ = std::io::stdout().write_all(out.as_bytes());
    let _ = std::io::stderr().write_all(result["stderr"].as_str().unwrap_or_default().as_bytes());
    Ok(result["exitCode"].as_i64().and_then(|c| u8::try_from(c).ok()).unwrap_or(255))
}

/// One shell word that means exactly `word`.
fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Replaces this process by `ssh`; returns only if that failed.
async fn ssh(api: &Api, name: &str) -> Result<Failure, Failure> {
    let access =
        api.post(&format!("/sandbox/{}/ssh-access?expiresInMinutes=1440", segment(name)), json!({})).await?;
    let command = cell(&access, "sshCommand");
    let mut words = command.split_ascii_whitespace();
    let program = words.next().unwrap_or("ssh");
    let error = std::process::Command::new(program).args(words).exec();
    Ok(Failure::runtime(format!("could not run {program}: {error}; install an SSH client")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_survive_the_shell() {
        for word in ["a b", "it's", "$HOME", "", "a\nb", "\\"] {
            let output = std::process::Command::new("sh")
                .args(["-c", &format!("printf %s {}", quote(word))])
                .output()
                .unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), word);
        }
    }

    #[test]
    fn labels_need_an_equals_sign() {
        assert_eq!(key_value("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert!(key_value("a").is_err());
    }
}
