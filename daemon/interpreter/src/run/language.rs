//! What each language starts: which interpreter, how it gets the program, what its arguments look like.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::str::FromStr;

use nix::sys::memfd::{MFdFlags, memfd_create};
use pinfold_proto::toolbox::interpreter::CodeRun;
use pinfold_spawn::Sandbox;

use super::charts::{self, Charts};
use super::typescript;

/// Removes the script's own name, so that the program's arguments begin at index 1. On the program's first line, so that line numbers stay.
const NODE_ARGUMENTS: &str = "process.argv.splice(1, 1); ";

/// What code-run runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Language {
    Python,
    JavaScript,
    TypeScript,
}

impl FromStr for Language {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "python" => Ok(Self::Python),
            "javascript" => Ok(Self::JavaScript),
            "typescript" => Ok(Self::TypeScript),
            other => {
                Err(format!("the language {other:?} is not supported: python, javascript and typescript are"))
            }
        }
    }
}

/// A program that can be started.
#[derive(Debug)]
pub(super) struct Prepared {
    pub command: Command,
    /// Beneath those of the request.
    pub variables: Vec<(&'static str, &'static str)>,
    /// What collects the program's charts.
    pub charts: Option<Charts>,
    /// Goes when the program has ended.
    pub _directory: Option<tempfile::TempDir>,
}

impl Prepared {
    pub(super) fn new(command: Command) -> Self {
        Self { command, variables: Vec::new(), charts: None, _directory: None }
    }
}

impl Language {
    pub(super) async fn prepare(self, sandbox: &Sandbox, request: &CodeRun) -> io::Result<Prepared> {
        let mut prepared = match self {
            Self::Python if charts::wanted(&request.code) => charts::prepare(&request.code)?,
            Self::Python => {
                // The program is its own standard input: once it is read, input is at its end, for its children too.
                let mut command = Command::new("python3");
                command.args(["-u", "-"]).stdin(in_memory(&request.code)?);
                Prepared::new(command)
            }
            Self::JavaScript => {
                let mut command = Command::new("node");
                command.arg("-").stdin(in_memory(&node_program(&request.code))?);
                Prepared::new(command)
            }
            Self::TypeScript => {
                let path = sandbox.environment.get("PATH").unwrap_or_default();
                let runner = typescript::Runner::find(sandbox, &path).await;
                runner.prepare(Path::new("/tmp"), &node_program(&request.code))?
            }
        };
        prepared.command.args(&request.argv);
        Ok(prepared)
    }
}

/// `text` as a standard input that exists in memory only.
pub(super) fn in_memory(text: &str) -> io::Result<Stdio> {
    let mut file = File::from(memfd_create("program", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(text.as_bytes())?;
    file.rewind()?;
    Ok(Stdio::from(file))
}

/// The program with its arguments put right; a leading directive stays one, and a leading `#!` stays a comment.
fn node_program(code: &str) -> String {
    if let Some(rest) = code.strip_prefix("#!") {
        // The statement comes after that line, which cannot hold it.
        let (line, rest) = rest.split_once('\n').unwrap_or((rest, ""));
        return format!("//{line}\n{NODE_ARGUMENTS}{rest}");
    }
    let strict =
        ["'use strict'", "\"use strict\""].iter().any(|directive| code.trim_start().starts_with(directive));
    let directive = if strict { "'use strict'; " } else { "" };
    format!("{directive}{NODE_ARGUMENTS}{code}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_keep_their_lines_and_directives() {
        assert_eq!(node_program("a\nb"), "process.argv.splice(1, 1); a\nb");
        assert_eq!(
            node_program("'use strict'\nb"),
            "'use strict'; process.argv.splice(1, 1); 'use strict'\nb"
        );
        assert_eq!(
            node_program("#!/usr/bin/env node\nb"),
            "///usr/bin/env node\nprocess.argv.splice(1, 1); b"
        );
    }

    #[test]
    fn knows_three_languages() {
        assert_eq!("python".parse(), Ok(Language::Python));
        assert!("ruby".parse::<Language>().unwrap_err().contains("ruby"));
    }
}
