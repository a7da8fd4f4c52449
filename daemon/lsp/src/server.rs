//! One running server: its process, its documents, its end.

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use pinfold_spawn::{Exit, Process, Sandbox};
use serde_json::{Value, json};
use tokio::sync::{Mutex, watch};

use crate::client::Client;
use crate::document::{self, Stamp};
use crate::error::LspError;
use crate::language::Language;

/// Servers load themselves and index a project before they answer for the first time: seconds, and a minute where several begin on a busy machine.
const START: Duration = Duration::from_secs(180);
/// Any other request.
pub(crate) const REQUEST: Duration = Duration::from_secs(60);
/// Time for an orderly end, and from then until the kill.
const FAREWELL: Duration = Duration::from_secs(3);
const GRACE: Duration = Duration::from_secs(5);

/// A running server.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) language: &'static Language,
    client: Client,
    process: Process,
    capabilities: Value,
    /// What the server has open. Held while it is told of a change, so that it hears of changes in order.
    open: Mutex<BTreeMap<PathBuf, Stamp>>,
}

impl Drop for Server {
    /// However it is let go of: nothing of it stays behind.
    fn drop(&mut self) {
        if self.process.exited().is_none() {
            self.process.kill_tree();
        }
    }
}

impl Server {
    /// Starts the server and greets it.
    pub(crate) async fn start(
        sandbox: &Sandbox,
        language: &'static Language,
        project: &Path,
    ) -> Result<Self, LspError> {
        let mut command = Command::new(language.command[0]);
        sandbox.environment.apply(&mut command, []);
        command.args(&language.command[1..]).current_dir(&sandbox.work_dir).process_group(0);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        sandbox.spawner.look(&sandbox.work_dir).await?;
        let mut process = sandbox.spawner.spawn(command)?;
        let (Some(stdin), Some(stdout)) = (process.stdin.take(), process.stdout.take()) else {
            return Err(LspError::Start("it has no pipes".to_owned()));
        };
        let client = Client::start(stdin, stdout).map_err(|error| LspError::Start(error.to_string()))?;
        tokio::spawn(bury(process.exit(), process.pid()));
        let mut server =
            Self { language, client, process, capabilities: Value::Null, open: Mutex::default() };
        let greeting = server.client.request("initialize", greeting(project), START).await;
        let mut greeting = greeting.map_err(|error| LspError::Start(error.to_string()))?;
        server.capabilities = greeting["capabilities"].take();
        server.client.notify("initialized", json!({})).await?;
        Ok(server)
    }

    /// Whether it still answers.
    pub(crate) fn is_alive(&self) -> bool {
        self.process.exited().is_none() && !self.client.is_over()
    }

    /// Whether it says it can do something.
    pub(crate) fn can(&self, capability: &str) -> bool {
        !matches!(self.capabilities[capability], Value::Null | Value::Bool(false))
    }

    pub(crate) async fn request(&self, method: &'static str, params: Value) -> Result<Value, LspError> {
        self.client.request(method, params, REQUEST).await
    }

    /// Opens a document with the file's present text; one that is open is closed before.
    pub(crate) async fn open(&self, path: &Path) -> Result<(), LspError> {
        let (stamp, text) = document::read(path).await?;
        let mut open = self.open.lock().await;
        if open.remove(path).is_some() {
            self.tell_closed(path).await?;
        }
        let document =
            json!({"uri": document::uri(path), "languageId": self.language.id, "version": 1, "text": text});
        self.client.notify("textDocument/didOpen", json!({"textDocument": document})).await?;
        open.insert(path.to_owned(), stamp);
        Ok(())
    }

    /// Closes a document; one that is not open stays so.
    pub(crate) async fn close(&self, path: &Path) -> Result<(), LspError> {
        let mut open = self.open.lock().await;
        if open.remove(path).is_some() { self.tell_closed(path).await } else { Ok(()) }
    }

    async fn tell_closed(&self, path: &Path) -> Result<(), LspError> {
        let document = json!({"textDocument": {"uri": document::uri(path)}});
        self.client.notify("textDocument/didClose", document).await
    }

    /// The documents that are open.
    pub(crate) async fn documents(&self) -> Vec<PathBuf> {
        self.open.lock().await.keys().cloned().collect()
    }

    /// Asks about a document, which the server has open with its present text meanwhile.
    pub(crate) async fn ask(
        &self,
        method: &'static str,
        path: &Path,
        mut params: Value,
    ) -> Result<Value, LspError> {
        let known = self.open.lock().await.get(path).copied();
        if known != Some(document::stamp(path).await?) {
            self.open(path).await?;
        }
        params["textDocument"] = json!({"uri": document::uri(path)});
        let answer = self.request(method, params).await;
        if known.is_none() && self.is_alive() {
            self.close(path).await?;
        }
        answer
    }

    /// Ends the server: asks, then tells, then kills. Its whole process tree is gone afterwards.
    pub(crate) async fn stop(&self) {
        if self.is_alive() && self.client.request("shutdown", Value::Null, FAREWELL).await.is_ok() {
            // A server that does not take this is killed below.
            let _ = self.client.notify("exit", Value::Null).await;
            let _ = tokio::time::timeout(GRACE, self.process.wait()).await;
        }
        if self.process.exited().is_none() {
            self.process.kill_tree();
            self.process.wait().await;
        }
    }
}

/// When the server ends, however it does, ends the helpers it leaves behind. That closes its output, so that whoever waits for an answer
/// learns that none will come.
async fn bury(mut exit: watch::Receiver<Option<Exit>>, leader: Pid) {
    if exit.wait_for(Option::is_some).await.is_ok() {
        // At once, before the number can be another group's. No such group: no helpers.
        let _ = killpg(leader, Signal::SIGKILL);
    }
}

/// Parameters of `initialize`. Without hierarchical document symbols servers answer flat ones, as the contract has them.
fn greeting(project: &Path) -> Value {
    let uri = document::uri(project);
    let name = project.file_name().unwrap_or_default().to_string_lossy();
    let kinds: Vec<u32> = (1..=26).collect();
    json!({
        "processId": std::process::id(),
        "clientInfo": {"name": "pinfold-daemon", "version": env!("CARGO_PKG_VERSION")},
        "rootUri": uri,
        "rootPath": project,
        "workspaceFolders": [{"uri": uri, "name": name}],
        "capabilities": {
            "textDocument": {
                "synchronization": {},
                "completion": {
                    "completionItem": {"snippetSupport": true, "documentationFormat": ["markdown", "plaintext"]},
                    "contextSupport": true,
                },
                "documentSymbol": {"symbolKind": {"valueSet": kinds}},
            },
            "workspace": {"symbol": {"symbolKind": {"valueSet": kinds}}, "workspaceFolders": true, "configuration": true},
        },
    })
}
