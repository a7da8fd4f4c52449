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

/// A map of strings in which `null` values are dropped, and which itself may be `null`.
pub fn string_map<'de, D>(deserializer: D) -> Result<std::collections::BTreeMap<String, String>, D::Error>
where
    D: Deserializer<'de>,
{
    let map = Option::<std::collections::BTreeMap<String, Option<String>>>::deserialize(deserializer)?
        .unwrap_or_default();
    Ok(map.into_iter().filter_map(|(k, v)| Some((k, v?))).collect())
}
