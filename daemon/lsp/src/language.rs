//! Which program serves which language.

use std::path::Path;

use crate::error::LspError;

/// A language with a server.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Language {
    /// Its id in the protocol.
    pub(crate) id: &'static str,
    /// The server's program, looked up in the sandbox's `PATH`, and its arguments.
    pub(crate) command: &'static [&'static str],
    extensions: &'static [&'static str],
}

const LANGUAGES: &[Language] = &[
    Language { id: "python", command: &["pylsp"], extensions: &["py", "pyi"] },
    Language {
        id: "typescript",
        command: &["typescript-language-server", "--stdio"],
        extensions: &["ts", "tsx", "mts", "cts"],
    },
    Language {
        id: "javascript",
        command: &["typescript-language-server", "--stdio"],
        extensions: &["js", "jsx", "mjs", "cjs"],
    },
];

impl Language {
    pub(crate) fn find(id: &str) -> Result<&'static Self, LspError> {
        LANGUAGES
            .iter()
            .find(|language| language.id == id)
            .ok_or_else(|| LspError::UnknownLanguage(id.to_owned()))
    }

    /// Whether a file's name says that it is in this language.
    pub(crate) fn owns(&self, path: &Path) -> bool {
        path.extension().and_then(|end| end.to_str()).is_some_and(|end| self.extensions.contains(&end))
    }
}
