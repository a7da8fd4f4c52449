//! `null` means "absent" for every field of every job and request body (runner contract, section 0.4).

use serde::{Deserialize, Deserializer};

/// Use as `#[serde(default, deserialize_with = "null::as_default")]`: a `null` becomes the type's default.
pub fn as_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// A list in which `null` members are dropped, and which itself may be `null`.
pub fn list<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    let list = Option::<Vec<Option<T>>>::deserialize(deserializer)?.unwrap_or_default();
    Ok(list.into_iter().flatten().collect())
}

/// A list, or a single value in its place; `null` is the empty list.
pub fn one_or_many<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either<T> {
        One(T),
        Many(Vec<T>),
    }
    Ok(match Option::<Either<T>>::deserialize(deserializer)? {
        None => Vec::new(),
        Some(Either::One(one)) => vec![one],
        Some(Either::Many(many)) => many,
    })
}

/// A map of strings in which `null` values are dropped, and which itself may be `null`.
pub fn string_map<'de, D>(deserializer: D) -> Result<std::collections::BTreeMap<String, String>, D::Error>
where
    D: Deserializer<'de>,
{
    let map = Option::<std::collections::BTreeMap<String, Option<String>>>::deserialize(deserializer)?
        .unwrap_or_default();
    Ok(map.into_iter().filter_map(|(k, v)| Some((k, v?))).collect())
}
