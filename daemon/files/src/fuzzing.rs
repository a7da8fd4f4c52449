//! The parsers of this crate for the fuzz targets in `fuzz/`, which are outside of it. No part of its interface.

#![allow(missing_docs)]

use std::convert::Infallible;
use std::time::SystemTime;

use axum::body::Bytes;
use futures_util::stream;
use http::header::{HeaderMap, HeaderValue, RANGE};

use crate::glob::Glob;
use crate::multipart::{Multipart, form_data, parameter};
use crate::needle::Needle;
use crate::range;
use crate::scan::{Line, lines};

/// A multipart body as it was read: each part's name and content, and whether it ended in an error.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Parts {
    pub parts: Vec<(String, Vec<u8>)>,
    pub failed: bool,
}

pub async fn multipart(body: &[u8], boundary: &[u8], cut: usize) -> Parts {
    let pieces = body.chunks(cut).map(|piece| Ok::<_, Infallible>(Bytes::copy_from_slice(piece)));
    let mut multipart = Multipart::new(stream::iter(pieces), boundary);
    let mut read = Parts::default();
    loop {
        match multipart.part().await {
            Ok(Some(part)) => read.parts.push((part.name, Vec::new())),
            Ok(None) => return read,
            Err(_) => return Parts { failed: true, ..read },
        }
        loop {
            match (multipart.content().await, read.parts.last_mut()) {
                (Ok(Some(content)), Some((_, whole))) => whole.extend_from_slice(&content),
                (Ok(_), _) => break,
                (Err(_), _) => return Parts { failed: true, ..read },
            }
        }
    }
}

pub fn disposition(header: &[u8], wanted: &str) -> Option<Vec<u8>> {
    parameter(header, wanted)
}

pub fn written_name(name: &str) -> Vec<u8> {
    form_data("file", name)
}

/// Whether the header asks for a part of a file of this size; the part lies within the file.
pub fn range(header: &[u8], size: u64) -> bool {
    let Ok(value) = HeaderValue::from_bytes(header) else { return false };
    let headers = HeaderMap::from_iter([(RANGE, value)]);
    match range::wanted(&headers, size, SystemTime::UNIX_EPOCH) {
        range::Wanted::Range(first, last) => {
            assert!(first <= last && last < size, "{first}-{last} of {size}");
            true
        }
        _ => false,
    }
}

/// Whether the name matches; `None` for a malformed pattern.
pub fn glob(pattern: &str, name: &str) -> Option<bool> {
    Glob::parse(pattern).map(|glob| glob.matches(name))
}

/// The lines that an expression matches in, from 1, in a text that comes in two blocks of whole lines; `None` if the expression is refused.
pub fn matching(pattern: &str, any_case: bool, (first, second): (&[u8], &[u8])) -> Option<Vec<u64>> {
    let needle = Needle::expression(pattern, any_case).ok()?;
    let mut found = Vec::new();
    let mut keep = |line: Line| {
        found.push(line.number);
        Ok(())
    };
    let mut finder = needle.finder();
    let number = lines(first, 1, true, &mut finder, &mut keep).ok()?;
    lines(second, number, false, &mut finder, &mut keep).ok()?;
    Some(found)
}
