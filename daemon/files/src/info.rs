//! What is said about a file: the mode and time texts of the contract (5.1), from what the kernel says.

use std::collections::HashMap;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};
use pinfold_proto::toolbox::files::FileInfo;
use pinfold_spawn::users;

use crate::path;

/// Describes files; remembers time zone and names for as long as one request takes.
#[derive(Debug)]
pub(crate) struct Describer {
    zone: TimeZone,
    users: HashMap<u32, Option<String>>,
    groups: HashMap<u32, Option<String>>,
}

impl Describer {
    pub(crate) fn new() -> Self {
        // An image without zone data runs in UTC.
        let zone = TimeZone::try_system().unwrap_or(TimeZone::UTC);
        Self { zone, users: HashMap::new(), groups: HashMap::new() }
    }

    /// The entry at `path`, an absolute path; a link that leads nowhere is described itself.
    pub(crate) fn at(&mut self, path: &Path) -> io::Result<FileInfo> {
        let metadata = match std::fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => std::fs::symlink_metadata(path)?,
            other => other?,
        };
        Ok(self.describe(path, &metadata))
    }

    /// The entry at `path` of which `metadata` is known.
    pub(crate) fn describe(&mut self, path: &Path, metadata: &Metadata) -> FileInfo {
        let nanoseconds = i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec());
        let modified = Timestamp::from_nanosecond(nanoseconds).unwrap_or(Timestamp::UNIX_EPOCH);
        let (uid, gid) = (metadata.uid(), metadata.gid());
        let user = self.users.entry(uid).or_insert_with(|| users::by_uid(uid).map(|u| u.name)).clone();
        let group = self.groups.entry(gid).or_insert_with(|| users::group_name(gid)).clone();
        FileInfo {
            name: path::base_name(path).to_string_lossy().into_owned(),
            path: Some(path::text(&path::clean(path))),
            size: metadata.len(),
            mode: mode_text(metadata.mode()),
            mod_time: time_text(&modified.to_zoned(self.zone.clone())),
            modified_at: modified.to_string(),
            is_dir: metadata.is_dir(),
            owner: uid.to_string(),
            group: gid.to_string(),
            permissions: format!("{:04o}", metadata.mode() & 0o777),
            owner_name: user,
            group_name: group,
        }
    }
}

/// `drwxr-xr-x`: letters of the type and of the special bits, then the permissions.
fn mode_text(mode: u32) -> String {
    let letters = match mode & 0o170_000 {
        0o040_000 => "d",
        0o120_000 => "L",
        0o060_000 => "D",
        0o010_000 => "p",
        0o140_000 => "S",
        0o020_000 => "D",
        _ => "",
    };
    let mut text = letters.to_owned();
    for (set, letter) in [
        (mode & 0o4000 != 0, 'u'),
        (mode & 0o2000 != 0, 'g'),
        (mode & 0o170_000 == 0o020_000, 'c'),
        (mode & 0o1000 != 0, 't'),
    ] {
        if set {
            text.push(letter);
        }
    }
    if text.is_empty() {
        text.push('-');
    }
    for shift in (0..9).rev() {
        let letter = ['x', 'w', 'r'][shift % 3];
        text.push(if mode >> shift & 1 == 1 { letter } else { '-' });
    }
    text
}

/// `2026-05-04 10:11:12.5 +0200 CEST`.
fn time_text(time: &Zoned) -> String {
    let mut text = time.strftime("%Y-%m-%d %H:%M:%S").to_string();
    if time.subsec_nanosecond() != 0 {
        let fraction = format!(".{:09}", time.subsec_nanosecond());
        text.push_str(fraction.trim_end_matches('0'));
    }
    text + &time.strftime(" %z %Z").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_read_as_the_contract_writes_them() {
        let cases = [
            (0o100_755, "-rwxr-xr-x"),
            (0o041_777, "dtrwxrwxrwx"),
            (0o020_620, "Dcrw--w----"),
            (0o060_660, "Drw-rw----"),
            (0o104_755, "urwxr-xr-x"),
            (0o102_755, "grwxr-xr-x"),
            (0o140_755, "Srwxr-xr-x"),
            (0o010_644, "prw-r--r--"),
            (0o120_777, "Lrwxrwxrwx"),
            (0o100_000, "----------"),
        ];
        for (mode, expected) in cases {
            assert_eq!(mode_text(mode), expected, "{mode:o}");
        }
    }

    #[test]
    fn times_lose_their_trailing_zeros() {
        let at = |ns: i128| Timestamp::from_nanosecond(1_777_889_472_000_000_000 + ns).unwrap();
        assert_eq!(
            time_text(&at(123_456_789).to_zoned(TimeZone::UTC)),
            "2026-05-04 10:11:12.123456789 +0000 UTC"
        );
        assert_eq!(time_text(&at(500_000_000).to_zoned(TimeZone::UTC)), "2026-05-04 10:11:12.5 +0000 UTC");
        let berlin = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        assert_eq!(time_text(&at(0).to_zoned(berlin)), "2026-05-04 12:11:12 +0200 CEST");
    }
}
