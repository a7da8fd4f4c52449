//! `Content-Disposition`: any header can be asked for its parameters, and a name that we write is the name that is read.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pinfold_files::fuzzing::{disposition, range, written_name};

fuzz_target!(|data: &[u8]| {
    for parameter in ["name", "filename", "filename*", "boundary"] {
        if let Some(value) = disposition(data, parameter) {
            assert!(value.len() <= data.len());
        }
    }
    range(data, 1000);
    if let Ok(name) = std::str::from_utf8(data) {
        let header = written_name(name);
        assert!(!header.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)), "a name can end the header");
        assert_eq!(disposition(&header, "name").as_deref(), Some(&b"file"[..]));
        let latin: Vec<u8> = name
            .chars()
            .filter(|c| !matches!(c, '\r' | '\n' | '\0'))
            .map(|c| if c.is_ascii_control() { b'_' } else { u8::try_from(u32::from(c)).unwrap_or(b'_') })
            .collect();
        assert_eq!(disposition(&header, "filename"), Some(latin), "the name is not read as it was written");
    }
});
