//! `POST /git/credentials`, and git's plaintext credential store (git-credential-store(1)).
//!
//! The file has one URL a line, `https://user:password@host`, percent-encoded, readable by its owner alone.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use axum::extract::State;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use pinfold_http::{ApiResult, JsonBody};
use pinfold_proto::toolbox::git::AuthenticateRequest;

use crate::config;
use crate::error::Failure;
use crate::remote::Login;
use crate::repository::Context;
use crate::required;

const FILE: &str = ".git-credentials";
/// More than any store holds.
const LARGEST: u64 = 1 << 20;
/// All but the unreserved characters of RFC 3986, as git writes them.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

pub(crate) async fn authenticate(
    State(context): State<Context>,
    JsonBody(request): JsonBody<AuthenticateRequest>,
) -> ApiResult<()> {
    required(&[("username", &request.username), ("password", request.password.expose())])?;
    context
        .run(move |task| {
            let or = |value: &str, default: &str| {
                if value.is_empty() { default.to_owned() } else { value.to_owned() }
            };
            let (host, protocol) = (or(&request.host, "github.com"), or(&request.protocol, "https"));
            let word = |text: &str, more: &[u8]| {
                text.bytes().all(|b| b.is_ascii_alphanumeric() || more.contains(&b))
            };
            if !word(&host, b".-:[]_") || !word(&protocol, b"+-.") {
                return Err(Failure::invalid("host or protocol is malformed"));
            }
            save(
                &task.sandbox.home.join(FILE),
                &protocol,
                &host,
                &request.username,
                request.password.expose(),
            )?;
            let mut global = config::global(task)?;
            // An empty value, which git takes for "forget the helpers so far", is no helper.
            let helpers: Vec<_> = {
                let mut values = global.multivar("credential.helper", None)?;
                std::iter::from_fn(|| {
                    values
                        .next()
                        .map(|entry| entry.map(|e| String::from_utf8_lossy(e.value_bytes()).into_owned()))
                })
                .collect::<Result<_, _>>()?
            };
            if !helpers.iter().any(|helper| helper == "store") {
                global.set_multivar("credential.helper", "^store$", "store")?;
            }
            Ok(())
        })
        .await
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, ENCODED).to_string()
}

/// One line of the store.
struct Entry {
    protocol: String,
    username: String,
    password: String,
    host: String,
}

impl Entry {
    /// Nothing for a line that is no login for a host.
    fn parse(line: &str) -> Option<Self> {
        let (protocol, rest) = line.split_once("://")?;
        let (login, place) = rest.rsplit_once('@')?;
        let (username, password) = login.split_once(':')?;
        let host = place.split('/').next()?;
        let decode = |text| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let (username, password, host) = (decode(username), decode(password), decode(host));
        Some(Self { protocol: protocol.to_owned(), username, password, host })
    }

    fn is_for(&self, protocol: &str, host: &str, username: &str) -> bool {
        self.protocol == protocol
            && self.host.eq_ignore_ascii_case(host)
            && (username.is_empty() || username == self.username)
    }
}

fn read(path: &Path) -> Option<String> {
    std::fs::metadata(path).ok().filter(|file| file.is_file() && file.len() <= LARGEST)?;
    std::fs::read_to_string(path).ok()
}

/// Puts the entry first and drops those of the same protocol, host and user, as git does.
fn save(path: &Path, protocol: &str, host: &str, username: &str, password: &str) -> Result<(), Failure> {
    let old = read(path).unwrap_or_default();
    let mut text = format!("{protocol}://{}:{}@{}\n", encoded(username), encoded(password), encoded(host));
    for line in old.lines() {
        if !Entry::parse(line).is_some_and(|entry| entry.is_for(protocol, host, username)) {
            text.push_str(line);
            text.push('\n');
        }
    }
    let directory = path.parent().unwrap_or(Path::new("/"));
    let mut file = tempfile::Builder::new().prefix(".git-credentials").tempfile_in(directory)?;
    file.as_file().set_permissions(std::fs::Permissions::from_mode(0o600))?;
    file.write_all(text.as_bytes())?;
    file.persist(path).map(drop).map_err(|error| error.error.into())
}

/// The stored login for a URL's protocol and host (with its port), and its user if the URL names one.
pub(crate) fn stored(home: &Path, protocol: &str, host: &str, username: &str) -> Option<Login> {
    let text = read(&home.join(FILE))?;
    let entry = text.lines().filter_map(Entry::parse).find(|entry| entry.is_for(protocol, host, username))?;
    Some(Login::new(entry.username, entry.password))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_new_login_replaces_the_users_old_one_and_no_other() {
        let home = tempfile::tempdir().expect("a directory");
        let file = home.path().join(FILE);
        save(&file, "https", "github.com", "ann", "old").expect("saved");
        save(&file, "https", "example.org:8443", "ann", "x").expect("saved");
        save(&file, "https", "github.com", "a@b/c", "p:w d").expect("saved");
        save(&file, "https", "github.com", "ann", "new").expect("saved");
        let text = std::fs::read_to_string(&file).expect("text");
        let lines = "https://ann:new@github.com\nhttps://a%40b%2Fc:p%3Aw%20d@github.com\nhttps://ann:x@example.org%3A8443\n";
        assert_eq!(text, lines);
        assert_eq!(file.metadata().expect("a file").permissions().mode() & 0o777, 0o600);
        assert_eq!(stored(home.path(), "http", "github.com", "").map(|login| login.basic()), None);
    }

    proptest! {
        #[test]
        fn what_is_saved_is_found(user in "[ -~é]{1,12}", password in "[ -~é]{1,12}") {
            let home = tempfile::tempdir().expect("a directory");
            save(&home.path().join(FILE), "https", "github.com", &user, &password).expect("saved");
            let found = stored(home.path(), "https", "GitHub.com", &user).expect("found");
            prop_assert_eq!(found.basic(), Login::new(user, password).basic());
        }
    }
}
