//! Charts: programs that use matplotlib run inside a wrapper, which reports what they show over a socket of its own.

use std::io;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pinfold_proto::toolbox::interpreter::Chart;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::language::Prepared;
use crate::python::{BOOT, CHARTS};

/// The most that all charts of a program may take together.
const MAX_CHARTS: usize = 64 << 20;
/// After the program's end: how long a child that it left behind may keep the channel open.
const GRACE: Duration = Duration::from_millis(500);

/// Whether `code` imports matplotlib, in any of the ways the contract lists, outside of comments.
pub(super) fn wanted(code: &str) -> bool {
    code.lines().any(|line| {
        let line = line.split('#').next().unwrap_or_default().replace(';', " ");
        imports(&line) || {
            let dense: String = line
                .chars()
                .filter(|c| !c.is_whitespace())
                .map(|c| if c == '\'' { '"' } else { c })
                .collect();
            CALLS.iter().any(|call| dense.contains(call))
        }
    })
}

/// The other ways, without spaces and with double quotes.
const CALLS: [&str; 4] = [
    "__import__(\"matplotlib",
    "importlib.import_module(\"matplotlib",
    "loader.load_module(\"matplotlib",
    "sys.modules[\"matplotlib\"]",
];

/// `import matplotlib…`, `import numpy, matplotlib…` or `from matplotlib…`.
fn imports(line: &str) -> bool {
    let words: Vec<&str> = line.split_whitespace().collect();
    words.iter().enumerate().any(|(at, word)| match *word {
        "from" => words.get(at + 1).is_some_and(|next| is_matplotlib(next)),
        "import" => words[at + 1..].join(" ").split(',').any(|name| is_matplotlib(name.trim())),
        _ => false,
    })
}

fn is_matplotlib(name: &str) -> bool {
    name.strip_prefix("matplotlib")
        .is_some_and(|rest| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_'))
}

/// Python with the wrapper around `code`. Must be called on a runtime.
pub(super) fn prepare(code: &str) -> io::Result<Prepared> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    let channel = UnixStream::from_std(ours)?;
    let mut command = Command::new("python3");
    command.args(["-u", "-c", BOOT]).stdin(Stdio::from(OwnedFd::from(theirs)));
    let mut script = Vec::new();
    for part in [CHARTS, code] {
        let length = u32::try_from(part.len()).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
        script.extend_from_slice(&length.to_be_bytes());
        script.extend_from_slice(part.as_bytes());
    }
    let charts = Arc::<Mutex<Vec<Chart>>>::default();
    let collecting = tokio::spawn(collect(channel, script, Arc::clone(&charts)));
    Ok(Prepared { charts: Some(Charts { charts, collecting }), ..Prepared::new(command) })
}

/// The charts of a running program.
#[derive(Debug)]
pub(super) struct Charts {
    charts: Arc<Mutex<Vec<Chart>>>,
    collecting: JoinHandle<()>,
}

impl Charts {
    /// All charts, once the program has ended.
    pub(super) async fn collected(mut self) -> Vec<Chart> {
        if timeout(GRACE, &mut self.collecting).await.is_err() {
            self.collecting.abort();
        }
        std::mem::take(&mut self.charts.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

async fn collect(mut channel: UnixStream, script: Vec<u8>, charts: Arc<Mutex<Vec<Chart>>>) {
    if let Err(error) = channel.write_all(&script).await {
        tracing::debug!(%error, "the program ended before it was read");
        return;
    }
    let mut left = MAX_CHARTS;
    while let Ok(length) = channel.read_u32().await {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length > left {
            tracing::warn!(length, "the program's charts are too large; the rest is left out");
            return;
        }
        left -= length;
        let mut json = vec![0; length];
        if channel.read_exact(&mut json).await.is_err() {
            return;
        }
        match serde_json::from_slice(&json) {
            Ok(chart) => charts.lock().unwrap_or_else(PoisonError::into_inner).push(chart),
            Err(error) => tracing::warn!(%error, "a chart does not fit the contract and is left out"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_imports_outside_of_comments() {
        let found = [
            "import matplotlib",
            "x = 1; import matplotlib.pyplot as plt",
            "    from matplotlib import pyplot",
            "from matplotlib.pyplot import *",
            "import numpy as np, matplotlib.pyplot as plt",
            "__import__( 'matplotlib.pyplot')",
            "m = importlib.import_module(\"matplotlib\")",
            "sys.modules['matplotlib']",
        ];
        for code in found {
            assert!(wanted(&format!("import os\n{code}  # draw\n")), "{code}");
        }
        for code in [
            "# import matplotlib",
            "import matplotlibx",
            "from my import matplotlib_tools",
            "print('matplotlib')",
            "",
        ] {
            assert!(!wanted(code), "{code}");
        }
    }
}
