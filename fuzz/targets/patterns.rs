//! Search: any pattern is parsed or refused, and matched in reasonable time; a text without special characters matches itself alone.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pinfold_files::fuzzing::glob;

fuzz_target!(|data: &[u8]| {
    let Some((&at, data)) = data.split_first() else { return };
    let Ok(text) = std::str::from_utf8(data) else { return };
    let at = (0..=usize::from(at).min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    let (pattern, name) = text.split_at(at);
    let matched = glob(pattern, name);
    if !pattern.contains(['*', '?', '[', '\\']) {
        assert_eq!(matched, Some(pattern == name));
    }
});
