//! The reader that parses variables and collects every mistake.

use std::fmt::{self, Display};
use std::str::FromStr;
use std::time::Duration;

use crate::{Env, parse_duration};

/// One variable that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid {
    /// The variable's name.
    pub name: String,
    /// What is wrong with it, and what would be right.
    pub reason: String,
}

/// All mistakes of one configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct InvalidSettings(pub Vec<Invalid>);

impl Display for InvalidSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the configuration has {} mistake(s):", self.0.len())?;
        for invalid in &self.0 {
            write!(f, "\n  {}: {}", invalid.name, invalid.reason)?;
        }
        Ok(())
    }
}

/// Reads variables from an [`Env`] and remembers what was wrong with them.
pub struct Reader<'a> {
    env: &'a dyn Env,
    invalid: Vec<Invalid>,
}

impl fmt::Debug for Reader<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("invalid", &self.invalid).finish_non_exhaustive()
    }
}

impl<'a> Reader<'a> {
    /// A reader over `env`.
    pub fn new(env: &'a dyn Env) -> Self {
        Self { env, invalid: Vec::new() }
    }

    /// Records a mistake found by the caller, for example a rule between two variables.
    pub fn reject(&mut self, name: &str, reason: impl Display) {
        self.invalid.push(Invalid { name: name.to_owned(), reason: reason.to_string() });
    }

    /// A text, if set.
    pub fn text(&mut self, name: &str) -> Option<String> {
        self.env.get(name)
    }

    /// A text that has to be set under the first name or one of its `fallbacks`.
    pub fn required(&mut self, name: &str, fallbacks: &[&str]) -> String {
        let found = std::iter::once(&name).chain(fallbacks).find_map(|n| self.env.get(n));
        found.unwrap_or_else(|| {
            self.reject(name, "is required and not set");
            String::new()
        })
    }

    /// A boolean: `true`, `false`, `1`, `0`, `t` or `f`, in any case.
    pub fn bool(&mut self, name: &str, default: bool) -> bool {
        let Some(text) = self.env.get(name) else { return default };
        match text.to_ascii_lowercase().as_str() {
            "true" | "1" | "t" => true,
            "false" | "0" | "f" => false,
            _ => {
                self.reject(name, format!("{text:?} is not a boolean; write true or false"));
                default
            }
        }
    }

    /// Anything that parses from text, checked by `valid`; `expected` completes the sentence "must be …".
    pub fn parse<T>(&mut self, name: &str, default: T, expected: &str, valid: impl Fn(&T) -> bool) -> T
    where
        T: FromStr,
    {
        let Some(text) = self.env.get(name) else { return default };
        match text.trim().parse::<T>() {
            Ok(value) if valid(&value) => value,
            _ => {
                self.reject(name, format!("{text:?} must be {expected}"));
                default
            }
        }
    }

    /// A duration of at least `min`.
    pub fn duration(&mut self, name: &str, default: Duration, min: Duration) -> Duration {
        let Some(text) = self.env.get(name) else { return default };
        match parse_duration(&text) {
            Ok(value) if value >= min => value,
            Ok(_) => {
                self.reject(name, format!("{text:?} must be at least {}", crate::format_duration(min)));
                default
            }
            Err(error) => {
                self.reject(name, error);
                default
            }
        }
    }

    /// `settings` if nothing was wrong, else every mistake.
    pub fn finish<T>(self, settings: T) -> Result<T, InvalidSettings> {
        if self.invalid.is_empty() { Ok(settings) } else { Err(InvalidSettings(self.invalid)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_all_mistakes_at_once() {
        let env: &[(&str, &str)] = &[("PORT", "x"), ("WAIT", "5"), ("ON", "maybe")];
        let mut r = Reader::new(&env);
        let port: u16 = r.parse("PORT", 8080, "a port number", |p| *p > 0);
        let wait = r.duration("WAIT", Duration::from_secs(1), Duration::ZERO);
        let on = r.bool("ON", true);
        let url = r.required("URL", &["OLD_URL"]);
        assert_eq!((port, wait, on, url.as_str()), (8080, Duration::from_secs(1), true, ""));
        let InvalidSettings(all) = r.finish(()).unwrap_err();
        assert_eq!(all.iter().map(|i| i.name.as_str()).collect::<Vec<_>>(), ["PORT", "WAIT", "ON", "URL"]);
    }

    #[test]
    fn falls_back_and_defaults() {
        let env: &[(&str, &str)] = &[("OLD_URL", "http://a"), ("EMPTY", "")];
        let mut r = Reader::new(&env);
        assert_eq!(r.required("URL", &["OLD_URL"]), "http://a");
        assert_eq!(r.text("EMPTY"), None);
        assert!(r.finish(()).is_ok());
    }
}
