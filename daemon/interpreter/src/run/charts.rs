//! Charts: programs that use matplotlib run inside a wrapper, which reports what they show over a socket of its own.

use std::io;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::time::Duration;

use pinfold_proto::toolbox::interpreter::Chart;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::language::Prepared;
use crate::python::{BOOT, CHARTS};

/// The most that all charts of a program may take together.
const MAX_CHARTS: usize = 64 << 20;
/// After the program's end: how long a child that it left behind may keep the channel open without a word.
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
    let (over, ended) = watch::channel(false);
    let collecting = tokio::spawn(collect(channel, script, ended));
    Ok(Prepared { charts: Some(Charts { over, collecting }), ..Prepared::new(command) })
}

/// The charts of a running program.
#[derive(Debug)]
pub(super) struct Charts {
    /// Tells of the program's end.
    over: watch::Sender<bool>,
    collecting: JoinHandle<Vec<Chart>>,
}

impl Charts {
    /// All charts, once the program has ended.
    pub(super) async fn collected(self) -> Vec<Chart> {
        self.over.send_replace(true);
        self.collecting.await.unwrap_or_default()
    }
}

async fn collect(mut channel: UnixStream, script: Vec<u8>, mut ended: watch::Receiver<bool>) -> Vec<Chart> {
    let mut charts = Vec::new();
    let mut left = MAX_CHARTS;
    let written = tokio::select! {
        written = channel.write_all(&script) => written,
        () = silence(&mut ended) => return charts,
    };
    if let Err(error) = written {
        tracing::debug!(%error, "the program ended before it was read");
        return charts;
    }
    loop {
        let json = tokio::select! {
            // What is there is taken, however late it is.
            biased;
            json = next(&mut channel, &mut left) => json,
            () = silence(&mut ended) => None,
        };
        let Some(json) = json else { return charts };
        match serde_json::from_slice(&json) {
            Ok(chart) => charts.push(chart),
            Err(error) => tracing::warn!(%error, "a chart does not fit the contract and is left out"),
        }
    }
}

/// The next chart; nothing at the end, or if it is too large.
async fn next(channel: &mut UnixStream, left: &mut usize) -> Option<Vec<u8>> {
    let length = usize::try_from(channel.read_u32().await.ok()?).unwrap_or(usize::MAX);
    if length > *left {
        tracing::warn!(length, "the program's charts are too large; the rest is left out");
        return None;
    }
    *left -= length;
    let mut json = vec![0; length];
    channel.read_exact(&mut json).await.ok()?;
    Some(json)
}

/// Resolves some time after the program's end.
async fn silence(ended: &mut watch::Receiver<bool>) {
    let _ = ended.wait_for(|ended| *ended).await;
    tokio::time::sleep(GRACE).await;
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
