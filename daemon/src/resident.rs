//! Giving back the pages of code that only the start needed.
//!
//! The kernel maps sixteen pages of a file around each one that is touched, so a start leaves nearly all of the binary mapped, in every sandbox. Code
//! that runs again is mapped again from the page cache: a minor fault, no read.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::io;
use std::ptr::NonNull;
use std::time::Duration;

use nix::sys::mman::{MmapAdvise, madvise};

/// By then the runner has asked for the version, and nothing of the start is left to do.
const AFTER: Duration = Duration::from_millis(250);

/// Unmaps the daemon's code once, a moment after the start. Best effort: a daemon that stays larger is no failure.
pub(crate) async fn settle() {
    tokio::time::sleep(AFTER).await;
    if let Err(error) = std::fs::read_to_string("/proc/self/maps").and_then(|maps| unmap_code(&maps)) {
        tracing::debug!(%error, "the pages of the start stay resident");
    }
}

fn unmap_code(maps: &str) -> io::Result<()> {
    for (start, length) in maps.lines().filter_map(code_of_a_file) {
        // SAFETY: the mapping is read-only, private and of a file, so it holds nothing that the file does not: what is touched next is mapped
        // again as it was. Relocations are in mappings that were writable, which are never executable.
        unsafe { madvise(start, length, MmapAdvise::MADV_DONTNEED) }?;
    }
    Ok(())
}

/// Where a line of `/proc/self/maps` says that executable pages of a file are, and how many bytes.
fn code_of_a_file(line: &str) -> Option<(NonNull<c_void>, usize)> {
    let mut fields = line.split_ascii_whitespace();
    let (range, mode) = (fields.next()?, fields.next()?);
    let file = fields.nth(3)?;
    if mode != "r-xp" || !file.starts_with('/') {
        return None;
    }
    let (start, end) = range.split_once('-')?;
    let (start, end) = (usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
    Some((NonNull::new(std::ptr::with_exposed_provenance_mut(start))?, end.checked_sub(start)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resident(maps: &str) -> usize {
        let code = maps.lines().find_map(code_of_a_file).unwrap().0.addr();
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let ours = smaps.lines().skip_while(|line| !line.starts_with(&format!("{code:x}-")));
        let kib = ours.skip(1).find_map(|line| line.strip_prefix("Rss:")).unwrap();
        kib.trim().trim_end_matches(" kB").parse().unwrap()
    }

    #[test]
    fn only_code_of_files_is_given_back() {
        let line = |mode: &str, file: &str| format!("7f00-8f00 {mode} 00001000 fd:00 42    {file}");
        assert!(code_of_a_file(&line("r-xp", "/bin/daemon")).is_some_and(|(_, length)| length == 0x1000));
        for (mode, file) in
            [("r--p", "/bin/daemon"), ("rw-p", "/bin/daemon"), ("r-xp", "[vdso]"), ("r-xp", "")]
        {
            assert_eq!(code_of_a_file(&line(mode, file)), None, "{mode} {file}");
        }
    }

    #[test]
    fn the_code_goes_on_working_with_fewer_pages() {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let before = resident(&maps);
        unmap_code(&maps).unwrap();
        let after = resident(&maps);
        assert!(after < before, "{before} KiB before, {after} KiB after");
    }
}
