//! The data types of RFC 4251, section 5, which SSH's connection protocol and SFTP share: reading without copying, writing without growing twice.
//!
//! A [`Reader`] never reads past its input and never allocates by a length that the peer chose.

use bytes::{Buf, Bytes};

/// The message ends before a field does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the message is cut short")]
pub(crate) struct Truncated;

/// Takes fields off the front of a message.
#[derive(Debug)]
pub(crate) struct Reader(Bytes);

impl Reader {
    pub(crate) fn new(message: Bytes) -> Self {
        Self(message)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Truncated> {
        self.0.try_get_u8().map_err(|_| Truncated)
    }

    pub(crate) fn bool(&mut self) -> Result<bool, Truncated> {
        Ok(self.u8()? != 0)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Truncated> {
        self.0.try_get_u32().map_err(|_| Truncated)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Truncated> {
        self.0.try_get_u64().map_err(|_| Truncated)
    }

    /// A length-prefixed byte string; shares the message's memory.
    pub(crate) fn string(&mut self) -> Result<Bytes, Truncated> {
        let length = self.u32()? as usize;
        if length > self.0.len() { Err(Truncated) } else { Ok(self.0.split_to(length)) }
    }

    /// A string that should be text; what is not UTF-8 in it is replaced.
    pub(crate) fn text(&mut self) -> Result<String, Truncated> {
        Ok(String::from_utf8_lossy(&self.string()?).into_owned())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Appends fields to a message.
#[derive(Debug, Clone, Default)]
pub(crate) struct Writer(Vec<u8>);

impl Writer {
    /// An empty message with room for `capacity` bytes.
    pub(crate) fn with_capacity(capacity: usize) -> Self {
        Self(Vec::with_capacity(capacity))
    }

    /// A message of this type.
    pub(crate) fn message(kind: u8) -> Self {
        Self::with_capacity(64).u8(kind)
    }

    pub(crate) fn u8(mut self, value: u8) -> Self {
        self.0.push(value);
        self
    }

    pub(crate) fn bool(self, value: bool) -> Self {
        self.u8(value.into())
    }

    pub(crate) fn u32(mut self, value: u32) -> Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    pub(crate) fn u64(mut self, value: u64) -> Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    /// A length-prefixed byte string. Ours are all far shorter than 4 GiB.
    pub(crate) fn string(mut self, value: impl AsRef<[u8]>) -> Self {
        let value = value.as_ref();
        self = self.u32(u32::try_from(value.len()).unwrap_or(u32::MAX));
        self.0.extend_from_slice(value);
        self
    }

    pub(crate) fn raw(mut self, value: impl AsRef<[u8]>) -> Self {
        self.0.extend_from_slice(value.as_ref());
        self
    }

    pub(crate) fn finish(self) -> Bytes {
        self.0.into()
    }

    pub(crate) fn into_vec(self) -> Vec<u8> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn reads_back_what_it_writes(a: u8, b: bool, c: u32, d: u64, s: Vec<u8>, rest: Vec<u8>) {
            let message = Writer::message(a).bool(b).u32(c).u64(d).string(&s).raw(&rest).finish();
            let mut reader = Reader::new(message);
            prop_assert_eq!(reader.u8(), Ok(a));
            prop_assert_eq!(reader.bool(), Ok(b));
            prop_assert_eq!(reader.u32(), Ok(c));
            prop_assert_eq!(reader.u64(), Ok(d));
            prop_assert_eq!(reader.string().map(|s| s.to_vec()), Ok(s));
            prop_assert_eq!(reader.0.to_vec(), rest);
        }

        #[test]
        fn never_reads_past_the_end(bytes: Vec<u8>) {
            let mut reader = Reader::new(bytes.clone().into());
            let mut taken = 0;
            while let Ok(s) = reader.string() {
                taken += 4 + s.len();
            }
            prop_assert!(taken <= bytes.len());
        }
    }
}
