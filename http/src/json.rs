//! JSON as the contract's original reads it: the first value of a body, its members' names in any case.
//!
//! Go's decoder takes `Command` for `command`, and clients have come to rely on that. serde does not, so this adapter stands between serde_json and a
//! type: where a struct is wanted, a member's name that is none of the struct's becomes the one that differs from it in case only.

use std::fmt;

use serde::de::value::StrDeserializer;
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, Error, MapAccess, SeqAccess, Visitor,
};

/// Reads the first JSON value of `bytes`. What follows it is ignored.
pub fn first_value<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    if bytes.trim_ascii().is_empty() {
        return Err("the body is empty".to_owned());
    }
    T::deserialize(AnyCase(&mut serde_json::Deserializer::from_slice(bytes)))
        .map_err(|error| error.to_string())
}

/// A deserializer that is asked for structs by names in any case.
struct AnyCase<D>(D);

/// A visitor, or what it visits, of a struct with these members; of anything else they are none.
struct Of<T> {
    inner: T,
    members: &'static [&'static str],
}

impl<T> Of<T> {
    fn any(inner: T) -> Self {
        Self { inner, members: &[] }
    }
}

macro_rules! as_it_is {
    ($($method:ident)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
            self.0.$method(visitor)
        })*
    };
}

macro_rules! with_insides {
    ($($method:ident ( $($name:ident : $kind:ty),* ))*) => {
        $(fn $method<V: Visitor<'de>>(self, $($name: $kind,)* visitor: V) -> Result<V::Value, D::Error> {
            self.0.$method($($name,)* Of::any(visitor))
        })*
    };
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for AnyCase<D> {
    type Error = D::Error;

    as_it_is! {
        deserialize_bool deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128 deserialize_u8 deserialize_u16
        deserialize_u32 deserialize_u64 deserialize_u128 deserialize_f32 deserialize_f64 deserialize_char deserialize_str deserialize_string
        deserialize_bytes deserialize_byte_buf deserialize_unit deserialize_identifier deserialize_ignored_any
    }

    with_insides! {
        deserialize_any()
        deserialize_option()
        deserialize_unit_struct(name: &'static str)
        deserialize_newtype_struct(name: &'static str)
        deserialize_seq()
        deserialize_tuple(length: usize)
        deserialize_tuple_struct(name: &'static str, length: usize)
        deserialize_map()
        deserialize_enum(name: &'static str, variants: &'static [&'static str])
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        members: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_struct(name, members, Of { inner: visitor, members })
    }
}

macro_rules! passed_on {
    ($($method:ident ( $kind:ty ))*) => {
        $(fn $method<E: Error>(self, value: $kind) -> Result<V::Value, E> {
            self.inner.$method(value)
        })*
    };
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Of<V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.expecting(f)
    }

    passed_on! {
        visit_bool(bool) visit_i64(i64) visit_i128(i128) visit_u64(u64) visit_u128(u128) visit_f64(f64) visit_str(&str)
        visit_borrowed_str(&'de str) visit_string(String) visit_bytes(&[u8]) visit_borrowed_bytes(&'de [u8]) visit_byte_buf(Vec<u8>)
    }

    fn visit_none<E: Error>(self) -> Result<V::Value, E> {
        self.inner.visit_none()
    }

    fn visit_unit<E: Error>(self) -> Result<V::Value, E> {
        self.inner.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, value: D) -> Result<V::Value, D::Error> {
        self.inner.visit_some(AnyCase(value))
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, value: D) -> Result<V::Value, D::Error> {
        self.inner.visit_newtype_struct(AnyCase(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<V::Value, A::Error> {
        self.inner.visit_seq(Of::any(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, object: A) -> Result<V::Value, A::Error> {
        self.inner.visit_map(Of { inner: object, members: self.members })
    }

    fn visit_enum<A: EnumAccess<'de>>(self, value: A) -> Result<V::Value, A::Error> {
        self.inner.visit_enum(value)
    }
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Of<A> {
    type Error = A::Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, A::Error> {
        self.inner.next_element_seed(Inside(seed))
    }

    fn size_hint(&self) -> Option<usize> {
        self.inner.size_hint()
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Of<A> {
    type Error = A::Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, A::Error> {
        match self.members {
            [] => self.inner.next_key_seed(seed),
            members => self.inner.next_key_seed(Name(Of { inner: seed, members })),
        }
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        self.inner.next_value_seed(Inside(seed))
    }

    fn size_hint(&self) -> Option<usize> {
        self.inner.size_hint()
    }
}

/// What is inside a list or an object.
struct Inside<S>(S);

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Inside<S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, value: D) -> Result<S::Value, D::Error> {
        self.0.deserialize(AnyCase(value))
    }
}

/// A member's name.
struct Name<S>(Of<S>);

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Name<S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, name: D) -> Result<S::Value, D::Error> {
        name.deserialize_str(self)
    }
}

impl<'de, S: DeserializeSeed<'de>> Visitor<'de> for Name<S> {
    type Value = S::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a member's name")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<S::Value, E> {
        let Of { inner, members } = self.0;
        let exact = members.contains(&name);
        let alike = || members.iter().find(|member| member.eq_ignore_ascii_case(name));
        let name = if exact { name } else { alike().copied().unwrap_or(name) };
        inner.deserialize(StrDeserializer::new(name))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;
    use serde_json::{Value, json};

    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Outer {
        session_id: String,
        #[serde(default)]
        envs: BTreeMap<String, String>,
        #[serde(default)]
        inner: Option<Inner>,
        #[serde(default)]
        list: Vec<Inner>,
        #[serde(default)]
        anything: Value,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    struct Inner {
        line: u32,
        #[serde(default)]
        kind: Kind,
    }

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Kind {
        #[default]
        Soft,
        Hard,
    }

    #[test]
    fn names_of_members_are_taken_in_any_case() {
        let body = json!({
            "SESSIONID": "s",
            "Envs": { "PATH": "/a", "Path": "/b" },
            "INNER": { "Line": 7, "KIND": "hard" },
            "List": [{ "LINE": 1 }],
            "Anything": { "Line": [null, 1.5, true] },
            "unknown": { "x": [1, {}] },
        });
        let found: Outer = first_value(body.to_string().as_bytes()).unwrap();
        assert_eq!(
            (found.session_id.as_str(), found.inner),
            ("s", Some(Inner { line: 7, kind: Kind::Hard }))
        );
        assert_eq!(found.list, [Inner { line: 1, kind: Kind::Soft }]);
        // The user's own names are nobody's to change.
        assert_eq!(found.envs.keys().collect::<Vec<_>>(), ["PATH", "Path"]);
        assert_eq!(found.anything, json!({ "Line": [null, 1.5, true] }));
    }

    #[test]
    fn an_exact_name_is_itself() {
        #[derive(Debug, Deserialize)]
        struct Both {
            a: u8,
            #[serde(rename = "A")]
            b: u8,
        }
        let found: Both = first_value(br#"{"A":1,"a":2}"#).unwrap();
        assert_eq!((found.a, found.b), (2, 1));
    }

    #[test]
    fn only_the_first_value_is_read_and_nonsense_is_an_error() {
        assert_eq!(first_value::<u8>(b" 1 2").unwrap(), 1);
        assert_eq!(first_value::<Option<u8>>(b"null").unwrap(), None);
        for bad in ["", " ", "{", r#"{"line":"x"}"#, r#"{"sessionId":1}"#, "[1]"] {
            assert!(first_value::<Outer>(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
