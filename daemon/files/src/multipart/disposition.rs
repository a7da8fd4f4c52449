//! `Content-Disposition` values (toolbox contract 5.5) and their parameters.

use http::HeaderValue;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};

/// What stays as it is in `filename*`: RFC 8187's `attr-char`.
const EXTENDED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'!')
    .remove(b'#')
    .remove(b'$')
    .remove(b'&')
    .remove(b'+')
    .remove(b'-')
    .remove(b'.')
    .remove(b'^')
    .remove(b'_')
    .remove(b'`')
    .remove(b'|')
    .remove(b'~');

/// `attachment` with the file's name.
pub(crate) fn attachment(name: &str) -> Option<HeaderValue> {
    HeaderValue::from_bytes(&[b"attachment; ", filename(name).as_slice()].concat()).ok()
}

/// `form-data` with the part's name and the file's, in the order that browser-side parsers need.
pub(crate) fn form_data(part: &str, file: &str) -> Vec<u8> {
    [b"form-data; name=\"", part.as_bytes(), b"\"; ", &filename(file)].concat()
}

fn filename(name: &str) -> Vec<u8> {
    let mut value = b"filename=\"".to_vec();
    for character in name.chars() {
        match character {
            '\\' | '"' => value.extend([b'\\', character as u8]),
            '\r' | '\n' | '\0' => {}
            '\u{1}'..='\u{1f}' | '\u{7f}' => value.push(b'_'),
            _ => value.push(u8::try_from(u32::from(character)).unwrap_or(b'_')),
        }
    }
    value.extend_from_slice(b"\"; filename*=utf-8''");
    value.extend_from_slice(percent_encode(name.as_bytes(), EXTENDED).to_string().as_bytes());
    value
}

/// The value of a parameter of a header such as `form-data; name="a"; filename=b`.
pub(crate) fn parameter(header: &[u8], wanted: &str) -> Option<Vec<u8>> {
    let mut rest = &header[memchr::memchr(b';', header)? + 1..];
    loop {
        let equals = memchr::memchr2(b'=', b';', rest)?;
        let name = rest[..equals].trim_ascii();
        if rest[equals] == b';' {
            rest = &rest[equals + 1..];
            continue;
        }
        let (value, after) = value(&rest[equals + 1..]);
        if name.eq_ignore_ascii_case(wanted.as_bytes()) {
            return Some(value);
        }
        rest = &after[memchr::memchr(b';', after)? + 1..];
    }
}

/// A token or a quoted string, and what follows it.
fn value(text: &[u8]) -> (Vec<u8>, &[u8]) {
    let text = text.trim_ascii_start();
    if text.first() != Some(&b'"') {
        let end = memchr::memchr(b';', text).unwrap_or(text.len());
        return (text[..end].trim_ascii_end().to_vec(), &text[end..]);
    }
    let mut value = Vec::new();
    let mut position = 1;
    while let Some(&byte) = text.get(position) {
        match (byte, text.get(position + 1)) {
            (b'"', _) => return (value, &text[position + 1..]),
            // Only what must be escaped counts as escaped: some clients send Windows paths as they are.
            (b'\\', Some(&next @ (b'"' | b'\\'))) => {
                value.push(next);
                position += 2;
            }
            _ => {
                value.push(byte);
                position += 1;
            }
        }
    }
    (value, &[])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_are_written_as_the_contract_says() {
        let cases: [(&str, &[u8]); 5] = [
            ("/srv/a.txt", b"filename=\"/srv/a.txt\"; filename*=utf-8''%2Fsrv%2Fa.txt"),
            ("a\"b\\c", b"filename=\"a\\\"b\\\\c\"; filename*=utf-8''a%22b%5Cc"),
            ("\r\n\0\t\x7f.", b"filename=\"__.\"; filename*=utf-8''%0D%0A%00%09%7F."),
            ("\u{e9}\u{20ac}", b"filename=\"\xe9_\"; filename*=utf-8''%C3%A9%E2%82%AC"),
            (
                "!#$&+-.^_`|~ *'%()@",
                b"filename=\"!#$&+-.^_`|~ *'%()@\"; filename*=utf-8''!#$&+-.^_`|~%20%2A%27%25%28%29%40",
            ),
        ];
        for (name, expected) in cases {
            assert_eq!(filename(name), expected, "{name:?}");
        }
        assert!(form_data("file", "x").starts_with(b"form-data; name=\"file\"; filename=\"x\"; filename*="));
    }

    #[test]
    fn parameters_are_found_in_any_form() {
        let header = b"form-data; filename=\"a;\\\"name=x\\\".txt\" ; Name=\"files[0].path\"; other";
        assert_eq!(parameter(header, "name").unwrap(), b"files[0].path");
        assert_eq!(parameter(header, "filename").unwrap(), b"a;\"name=x\".txt");
        assert_eq!(parameter(header, "other"), None);
        assert_eq!(parameter(b"form-data; name=plain ; x=y", "name").unwrap(), b"plain");
        assert_eq!(parameter(b"form-data; name=\"C:\\dir\\f\"", "name").unwrap(), b"C:\\dir\\f");
        assert_eq!(parameter(b"form-data", "name"), None);
    }

    proptest! {
        #[test]
        fn any_name_makes_a_header_that_decodes_to_it(name in "\\PC*|[\\x00-\\xff]*") {
            let header = form_data("file", &name);
            prop_assert!(HeaderValue::from_bytes(&header).is_ok());
            prop_assert!(attachment(&name).is_some());
            let extended = parameter(&header, "filename*").unwrap();
            let encoded = extended.strip_prefix(b"utf-8''").unwrap();
            prop_assert!(encoded.iter().all(|b| b.is_ascii_graphic()));
            prop_assert_eq!(percent_encoding::percent_decode(encoded).decode_utf8().unwrap(), name.as_str());
            if name.chars().all(|c| matches!(c, ' '..='~')) {
                prop_assert_eq!(parameter(&header, "filename").unwrap(), name.as_bytes());
            }
        }

        #[test]
        fn parameters_of_anything_never_panic(header in prop::collection::vec(any::<u8>(), 0..80)) {
            parameter(&header, "name");
        }
    }
}
