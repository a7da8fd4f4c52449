//! A user name and password, which nothing prints.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use pinfold_proto::id::Secret;

/// Credentials for HTTP's basic scheme.
#[derive(Clone)]
pub(crate) struct Login {
    username: String,
    password: Secret,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Login(…)")
    }
}

impl Login {
    pub(crate) fn new(username: String, password: impl Into<Secret>) -> Self {
        Self { username, password: password.into() }
    }

    pub(crate) fn none() -> Option<Self> {
        None
    }

    /// A login needs both halves.
    pub(crate) fn given(username: Option<String>, password: Option<Secret>) -> Option<Self> {
        Some(Self { username: username?, password: password? })
    }

    /// The value of an `Authorization` header.
    pub(crate) fn basic(&self) -> String {
        format!("Basic {}", STANDARD.encode(format!("{}:{}", self.username, self.password.expose())))
    }

    /// What a credential helper prints. Nothing when a line break would forge another line.
    pub(crate) fn helper_lines(&self) -> Option<String> {
        let broken = |text: &str| text.contains(['\n', '\0']);
        let lines = format!("username={}\npassword={}\n", self.username, self.password.expose());
        (!broken(&self.username) && !broken(self.password.expose())).then_some(lines)
    }

    /// `text` without the password and the user name.
    pub(crate) fn hide(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for secret in [self.basic().as_str(), self.password.expose(), &self.username] {
            if !secret.is_empty() {
                text = text.replace(secret, "***");
            }
        }
        text
    }
}
