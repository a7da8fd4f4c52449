//! Reading: a message is a series of fields, in any order, of which a reader picks those it knows.

/// A field's number and value.
pub type Field<'a> = (u64, Value<'a>);

/// A field's value, by how it travels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value<'a> {
    /// An integer, boolean or enumeration.
    Number(u64),
    /// A `fixed64`, `sfixed64` or the bits of a `double`.
    Fixed(u64),
    /// A `fixed32`, `sfixed32` or the bits of a `float`.
    Fixed32(u32),
    /// A string, bytes, or a message within this one.
    Bytes(&'a [u8]),
}

impl<'a> Value<'a> {
    /// The bytes; none when the value is a number.
    pub fn bytes(self) -> &'a [u8] {
        match self {
            Self::Bytes(bytes) => bytes,
            _ => &[],
        }
    }

    /// The text, with what is no UTF-8 replaced; none when the value is a number.
    pub fn text(self) -> String {
        String::from_utf8_lossy(self.bytes()).into_owned()
    }

    /// The integer; zero when the value is something else.
    pub fn number(self) -> u64 {
        match self {
            Self::Number(value) | Self::Fixed(value) => value,
            Self::Fixed32(value) => value.into(),
            Self::Bytes(_) => 0,
        }
    }
}

/// The fields of a message. They end where the message does, or where it stops making sense.
pub fn fields(message: &[u8]) -> impl Iterator<Item = Field<'_>> {
    let mut rest = message;
    std::iter::from_fn(move || field(&mut rest))
}

fn field<'a>(rest: &mut &'a [u8]) -> Option<Field<'a>> {
    let key = varint(rest)?;
    let value = match key & 7 {
        0 => Value::Number(varint(rest)?),
        1 => Value::Fixed(u64::from_le_bytes(take(rest, 8)?.try_into().ok()?)),
        2 => {
            let length = usize::try_from(varint(rest)?).ok()?;
            Value::Bytes(take(rest, length)?)
        }
        5 => Value::Fixed32(u32::from_le_bytes(take(rest, 4)?.try_into().ok()?)),
        _ => return None,
    };
    Some((key >> 3, value))
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(length)?;
    *rest = left;
    Some(taken)
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for (at, byte) in rest.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f).checked_shl(u32::try_from(7 * at).ok()?)?;
        if byte & 0x80 == 0 {
            *rest = &rest[at + 1..];
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Message;

    #[test]
    fn what_was_written_is_read() {
        let inner = Message::default().text(1, "x");
        let message = Message::default().number(1, u64::MAX).fixed(2, 7).bytes(3, b"").message(300, &inner);
        let bytes = message.into_bytes();
        let all: Vec<_> = fields(&bytes).collect();
        let expected = [
            (1, Value::Number(u64::MAX)),
            (2, Value::Fixed(7)),
            (3, Value::Bytes(b"")),
            (300, Value::Bytes(b"\x0a\x01x")),
        ];
        assert_eq!(all, expected);
    }

    #[test]
    fn what_makes_no_sense_ends_the_message() {
        let too_long = [0xff; 11];
        for (bytes, count) in
            [(&b"\x08"[..], 0), (b"\x0a\x05x", 0), (b"\x08\x01\x0b", 1), (&too_long, 0), (b"\x09\0", 0)]
        {
            assert_eq!(fields(bytes).count(), count, "{bytes:?}");
        }
    }
}
