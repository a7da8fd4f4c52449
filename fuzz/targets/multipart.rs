//! Multipart bodies: no body makes the reader fail otherwise than by an error, none gives more than it has, and none is read differently when
//! it comes in other pieces.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pinfold_files::fuzzing::multipart;

fuzz_target!(|data: &[u8]| {
    let [cut, boundary, body @ ..] = data else { return };
    let (boundary, body) = body.split_at(usize::from(boundary % 4).min(body.len()));
    if boundary.is_empty() {
        return;
    }
    let whole = futures_executor::block_on(multipart(body, boundary, body.len().max(1)));
    let cut = futures_executor::block_on(multipart(body, boundary, usize::from(*cut % 32) + 1));
    assert_eq!(whole, cut, "the parts depend on how the body was cut");
    let size: usize = whole.parts.iter().map(|(_, content)| content.len()).sum();
    assert!(size <= body.len());
});
