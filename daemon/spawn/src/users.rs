//! The sandbox's users and groups, parsed from its own files: a static binary must not ask a dynamic loader for them.

use std::io::Read;
use std::path::PathBuf;

/// The largest file that is read as a user database.
const MAX_DATABASE: u64 = 4 << 20;

/// One line of `/etc/passwd`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Login name.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Home directory.
    pub home: PathBuf,
}

/// The user with this name.
pub fn by_name(name: &str) -> Option<User> {
    read("/etc/passwd").lines().filter_map(parse_user).find(|u| u.name == name)
}

/// The user with this id.
pub fn by_uid(uid: u32) -> Option<User> {
    read("/etc/passwd").lines().filter_map(parse_user).find(|u| u.uid == uid)
}

/// The id of the group with this name.
pub fn gid_by_name(name: &str) -> Option<u32> {
    read("/etc/group")
        .lines()
        .map(|l| l.split(':').collect::<Vec<_>>())
        .find(|f| f[0] == name)?
        .get(2)?
        .parse()
        .ok()
}

/// The name of the group with this id.
pub fn group_name(gid: u32) -> Option<String> {
    let group = read("/etc/group");
    let mut lines = group.lines().map(|l| l.split(':').collect::<Vec<_>>());
    lines.find(|f| f.get(2).and_then(|g| g.parse().ok()) == Some(gid)).map(|f| f[0].to_owned())
}

fn parse_user(line: &str) -> Option<User> {
    let fields: Vec<&str> = line.split(':').collect();
    let [name, _, uid, gid, _, home, ..] = fields[..] else { return None };
    Some(User { name: name.to_owned(), uid: uid.parse().ok()?, gid: gid.parse().ok()?, home: home.into() })
}

fn read(path: &str) -> String {
    let mut text = Vec::new();
    if let Ok(file) = std::fs::File::open(path) {
        let _ = file.take(MAX_DATABASE).read_to_end(&mut text);
    }
    String::from_utf8_lossy(&text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_and_skips_nonsense() {
        let user = parse_user("daytona:x:1000:1001:,,,:/home/daytona:/bin/bash").unwrap();
        assert_eq!((user.uid, user.gid, user.home.to_str().unwrap()), (1000, 1001, "/home/daytona"));
        for bad in ["", "#", "a:b:c", "a:x:-1:0::/:"] {
            assert_eq!(parse_user(bad), None, "{bad}");
        }
    }
}
