//! `POST /files/replace`: a literal text becomes another one, file by file.

use std::io::{self, BufWriter, Read, Seek, Write};
use std::path::Path;

use axum::Json;
use axum::extract::State;
use memchr::memmem::Finder;
use pinfold_http::{ApiError, ApiResult, JsonBody};
use pinfold_proto::toolbox::files::{ReplaceRequest, ReplaceResult};
use pinfold_spawn::Sandbox;

use crate::blocking;
use crate::error::reason;
use crate::source::open_regular;
use crate::target::Target;

/// Bytes looked at in one step, besides what the text itself needs.
const BLOCK: usize = 256 << 10;

/// Replaces in every file; one that fails does not keep the others from being changed.
pub(crate) async fn replace(
    State(sandbox): State<Sandbox>,
    JsonBody(request): JsonBody<ReplaceRequest>,
) -> ApiResult<Json<Vec<ReplaceResult>>> {
    if request.pattern.is_empty() {
        return Err(ApiError::invalid_body("pattern must not be empty"));
    }
    let run = move || {
        let replacement =
            Replacement { old: Finder::new(&request.pattern), new: request.new_value.as_bytes() };
        let one = |file: &String| {
            let error = replacement.apply(&sandbox.resolve(file)).err().map(|error| reason(&error));
            ReplaceResult { file: file.clone(), success: error.is_none(), error }
        };
        Ok(request.files.iter().map(one).collect())
    };
    blocking(run).await.map(Json)
}

struct Replacement<'a> {
    old: Finder<'a>,
    new: &'a [u8],
}

impl Replacement<'_> {
    /// Changes the file at `path`. One without the text is not touched, so that its time stays.
    fn apply(&self, path: &Path) -> io::Result<()> {
        let (mut file, _) = open_regular(path)?;
        if self.old.needle() == self.new || self.copy(&mut file, &mut io::sink())? == 0 {
            return Ok(());
        }
        file.rewind()?;
        if let Some(mut target) = Target::open_atomic(path)? {
            self.copy(&mut file, &mut BufWriter::with_capacity(BLOCK, &mut target))?;
            return target.finish();
        }
        // Written in place, the old content is lost with the first write: the new one must be complete before.
        let mut changed = tempfile::tempfile()?;
        self.copy(&mut file, &mut BufWriter::with_capacity(BLOCK, &mut changed))?;
        changed.rewind()?;
        let mut target = Target::open(path)?;
        io::copy(&mut changed, &mut target)?;
        target.finish()
    }

    /// Copies with every occurrence replaced, from left to right. Returns how many there were.
    fn copy(&self, source: &mut impl Read, target: &mut impl Write) -> io::Result<u64> {
        let length = self.old.needle().len();
        let mut buffer = vec![0; BLOCK + 2 * length];
        let (mut held, mut count) = (0, 0);
        loop {
            let (filled, over) = fill(source, &mut buffer, held)?;
            let mut position = 0;
            while let Some(hit) = self.old.find(&buffer[position..filled]) {
                target.write_all(&buffer[position..position + hit])?;
                target.write_all(self.new)?;
                position += hit + length;
                count += 1;
            }
            // Shorter than the text by one: the beginning of an occurrence whose end has not been read yet.
            let kept = if over { 0 } else { (filled - position).min(length - 1) };
            target.write_all(&buffer[position..filled - kept])?;
            if over {
                target.flush()?;
                return Ok(count);
            }
            buffer.copy_within(filled - kept..filled, 0);
            held = kept;
        }
    }
}

fn fill(source: &mut impl Read, buffer: &mut [u8], held: usize) -> io::Result<(usize, bool)> {
    let mut filled = held;
    while filled < buffer.len() {
        match source.read(&mut buffer[filled..]) {
            Ok(0) => return Ok((filled, true)),
            Ok(n) => filled += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok((filled, false))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn replaced(content: &str, old: &str, new: &str) -> (String, u64) {
        let mut target = Vec::new();
        let replacement = Replacement { old: Finder::new(old), new: new.as_bytes() };
        let count = replacement.copy(&mut content.as_bytes(), &mut target).unwrap();
        (String::from_utf8(target).unwrap(), count)
    }

    #[test]
    fn occurrences_across_blocks_are_found() {
        for offset in 0..6 {
            let content = "x".repeat(BLOCK + offset) + "abcabc" + &"y".repeat(BLOCK);
            let (text, count) = replaced(&content, "abc", "-");
            assert_eq!(count, 2, "{offset}");
            assert_eq!(text, content.replace("abc", "-"));
        }
    }

    proptest! {
        #[test]
        fn agrees_with_str_replace(content in "[ab]{0,40}", old in "[ab]{1,4}", new in "[abc]{0,4}") {
            let (text, count) = replaced(&content, &old, &new);
            prop_assert_eq!(count, content.matches(&old).count() as u64);
            prop_assert_eq!(text, content.replace(&old, &new));
        }
    }
}
