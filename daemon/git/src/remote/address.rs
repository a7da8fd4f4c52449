//! A remote's address: URLs, scp-like addresses, and paths.

use std::path::PathBuf;

use crate::error::Failure;
use crate::repository::Task;

/// An address that some engine can reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Address {
    /// `http`, `https`.
    Http(String),
    /// The unencrypted `git` protocol.
    Git(String),
    /// A URL, or `user@host:path`.
    Ssh(String),
    /// A path or a `file` URL.
    Local(String),
}

impl Address {
    /// Reads what a client calls a remote. Relative paths start at the work directory.
    pub(crate) fn of(text: &str, task: &Task) -> Result<Self, Failure> {
        Self::parse(text, |path| task.sandbox.resolve(path))
    }

    fn parse(text: &str, resolve: impl Fn(&str) -> PathBuf) -> Result<Self, Failure> {
        if text.starts_with('-') || text.contains(['\n', '\r', '\0']) {
            return Err(Failure::invalid("the URL is malformed"));
        }
        if let Some((scheme, _)) = text.split_once("://") {
            return match scheme.to_ascii_lowercase().as_str() {
                "http" | "https" => Ok(Self::Http(text.to_owned())),
                "git" => Ok(Self::Git(text.to_owned())),
                "ssh" | "git+ssh" | "ssh+git" => Ok(Self::Ssh(text.to_owned())),
                "file" => Ok(Self::Local(text.to_owned())),
                other => Err(Failure::invalid(format!("remotes over {other:?} are not supported"))),
            };
        }
        let path = resolve(text);
        let local = text.starts_with(['/', '.']) || path.exists();
        if local {
            return Ok(Self::Local(path.to_string_lossy().into_owned()));
        }
        let first = text.split('/').next().unwrap_or_default();
        if first.contains(':') && !first.starts_with(':') {
            return Ok(Self::Ssh(text.to_owned()));
        }
        // `github.com/owner/name`, as people write it.
        if first.contains('.') && text.contains('/') {
            return Ok(Self::Http(format!("https://{text}")));
        }
        Ok(Self::Local(path.to_string_lossy().into_owned()))
    }

    /// The address as an engine takes it.
    pub(crate) fn url(&self) -> &str {
        match self {
            Self::Http(url) | Self::Git(url) | Self::Ssh(url) | Self::Local(url) => url,
        }
    }

    pub(crate) fn is_local(&self) -> bool {
        matches!(self, Self::Local(_))
    }

    pub(crate) fn is_ssh(&self) -> bool {
        matches!(self, Self::Ssh(_))
    }
}

/// `text` without the `user:password@` of any URL in it.
pub(crate) fn without_logins(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("://") {
        clean.push_str(before);
        clean.push_str("://");
        let end = after
            .find(|c: char| c == '/' || c.is_whitespace() || c == '\'' || c == '"')
            .unwrap_or(after.len());
        match after[..end].rfind('@') {
            Some(at) => {
                clean.push_str("***");
                rest = &after[at..];
            }
            None => rest = after,
        }
    }
    clean.push_str(rest);
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_told_apart() {
        let parse = |text| Address::parse(text, |path| PathBuf::from("/work").join(path)).ok();
        let cases = [
            ("https://a.b/c", Some(Address::Http("https://a.b/c".into()))),
            ("HTTP://a.b/c", Some(Address::Http("HTTP://a.b/c".into()))),
            ("github.com/o/r", Some(Address::Http("https://github.com/o/r".into()))),
            ("git@github.com:o/r", Some(Address::Ssh("git@github.com:o/r".into()))),
            ("ssh://h/r", Some(Address::Ssh("ssh://h/r".into()))),
            ("git://h/r", Some(Address::Git("git://h/r".into()))),
            ("/srv/r", Some(Address::Local("/srv/r".into()))),
            ("../r", Some(Address::Local("/work/../r".into()))),
            ("ext::sh -c id", Some(Address::Ssh("ext::sh -c id".into()))),
            ("ftp://h/r", None),
            ("--upload-pack=x", None),
        ];
        for (text, address) in cases {
            assert_eq!(parse(text), address, "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_login_survives(before in "[ -~]{0,20}", user in "[a-z@:%]{0,9}", password in "[A-Z0-9@:%!]{6,12}", after in "[ -~]{0,20}") {
            let text = format!("{before} https://{user}:{password}@host.example/{after}");
            proptest::prop_assert!(!without_logins(&text).contains(&format!("{password}@host")), "{text}");
        }

        #[test]
        fn any_text_is_an_address_or_refused(text in ".{0,40}") {
            let _ = Address::parse(&text, |path| PathBuf::from("/work").join(path));
        }
    }

    #[test]
    fn logins_are_taken_out_of_texts() {
        let text = "could not read 'https://ann:s3cret@h/r' and ssh://bob@h:22/x, see http://h/a@b";
        let clean = "could not read 'https://***@h/r' and ssh://***@h:22/x, see http://h/a@b";
        assert_eq!(without_logins(text), clean);
    }
}
