//! What SSH clients and operators hand in: connection messages, a terminal's modes, key lines, token-like names.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    pinfold_ssh::fuzzing::message(data);
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = text.parse::<pinfold_ssh::AuthorizedKeys>();
        let _ = pinfold_ssh_relay::parse_authorized_line(text);
    }
});
