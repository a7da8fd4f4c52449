//! The environment that children get: an explicit map, so that it can be changed at run time without touching the process's own.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, PoisonError, RwLock};

use zeroize::Zeroize;

/// A name that is not a portable variable name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a variable name: it must match [A-Za-z_][A-Za-z0-9_]*")]
pub struct InvalidName(pub String);

/// Whether `name` matches `[A-Za-z_][A-Za-z0-9_]*` (toolbox contract 6.1).
pub fn is_valid_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// Variables by name. They may hold secrets: values are not shown, and wiped when nobody needs them any more.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Variables(BTreeMap<String, String>);

impl Deref for Variables {
    type Target = BTreeMap<String, String>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl fmt::Debug for Variables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Drop for Variables {
    fn drop(&mut self) {
        self.0.values_mut().for_each(Zeroize::zeroize);
    }
}

/// What the next child's environment will be. Running children keep theirs.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    variables: Arc<RwLock<Arc<Variables>>>,
}

impl Environment {
    /// Starts from the process's own environment, without the names in `private`; variables that are not UTF-8 are left out.
    pub fn inherited(private: &[&str]) -> Self {
        let all =
            std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)));
        Self::from_map(all.filter(|(name, _)| !private.contains(&name.as_str())).collect())
    }

    /// Starts from `variables`.
    pub fn from_map(variables: BTreeMap<String, String>) -> Self {
        Self { variables: Arc::new(RwLock::new(Arc::new(Variables(variables)))) }
    }

    /// The environment as it is now.
    pub fn snapshot(&self) -> Arc<Variables> {
        Arc::clone(&self.variables.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// One variable.
    pub fn get(&self, name: &str) -> Option<String> {
        self.snapshot().get(name).cloned()
    }

    /// Removes the names in `unset`, then every variable whose *value* starts with `unset_value_prefix` and whose name is not in `set`, then applies
    /// `set`: in one step, as the contract (section 4) has it.
    pub fn update(
        &self,
        set: &BTreeMap<String, String>,
        unset: &[String],
        unset_value_prefix: Option<&str>,
    ) -> Result<(), InvalidName> {
        if let Some(bad) = set.keys().chain(unset).find(|name| !is_valid_name(name)) {
            return Err(InvalidName(bad.clone()));
        }
        let mut current = self.variables.write().unwrap_or_else(PoisonError::into_inner);
        let mut next = Variables::clone(&current);
        next.0.retain(|name, _| !unset.contains(name));
        if let Some(prefix) = unset_value_prefix.filter(|p| !p.is_empty()) {
            next.0.retain(|name, value| set.contains_key(name) || !value.starts_with(prefix));
        }
        next.0.extend(set.iter().map(|(k, v)| (k.clone(), v.clone())));
        *current = Arc::new(next);
        Ok(())
    }

    /// Gives `command` exactly this environment and `extra` over it.
    pub fn apply<'a>(
        &self,
        command: &mut std::process::Command,
        extra: impl IntoIterator<Item = (&'a String, &'a String)>,
    ) {
        command.env_clear().envs(self.snapshot().iter()).envs(extra);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn updates_in_the_contracts_order() {
        let env = Environment::from_map(map(&[("A", "1"), ("B", "sec_x"), ("C", "sec_y"), ("D", "4")]));
        env.update(&map(&[("C", "sec_new"), ("E", "5")]), &["A".to_owned()], Some("sec_")).unwrap();
        assert_eq!(**env.snapshot(), map(&[("C", "sec_new"), ("D", "4"), ("E", "5")]));
    }

    #[test]
    fn values_are_not_shown() {
        let shown = format!("{:?}", Environment::from_map(map(&[("TOKEN", "s3cret")])));
        assert!(shown.contains("TOKEN") && !shown.contains("s3cret"), "{shown}");
    }

    #[test]
    fn refuses_bad_names_and_changes_nothing() {
        let env = Environment::from_map(map(&[("A", "1")]));
        assert!(env.update(&map(&[("1X", "")]), &["A".to_owned()], None).is_err());
        assert_eq!(env.get("A").as_deref(), Some("1"));
        for (name, ok) in
            [("_", true), ("aZ9_", true), ("", false), ("9a", false), ("a-b", false), ("a=b", false)]
        {
            assert_eq!(is_valid_name(name), ok, "{name}");
        }
    }
}
