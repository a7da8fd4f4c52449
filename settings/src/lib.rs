//! Configuration from environment variables, read through a trait so that tests feed a map.
//!
//! A binary declares each variable once with [`Reader`], which parses it, applies its default and remembers what was wrong.
//! Nothing is acted on until [`Reader::finish`] has reported **all** mistakes together.

mod duration;
mod log;
mod networks;
mod reader;

pub use duration::{ParseDurationError, format_duration, parse_duration};
pub use log::{LogFormat, LogObserver, init_logging, is_loggable, level_of};
pub use networks::{Networks, ParseNetworksError};
pub use reader::{Invalid, InvalidSettings, Reader};

use std::collections::HashMap;

/// Where settings come from.
pub trait Env {
    /// The value of `name`, if it is set. An empty value counts as unset, as shells and unit files cannot tell them apart.
    fn get(&self, name: &str) -> Option<String>;
}

/// The environment of this process.
#[derive(Debug, Clone, Copy, Default)]
pub struct ProcessEnv;

impl Env for ProcessEnv {
    fn get(&self, name: &str) -> Option<String> {
        std::env::var(name).ok().filter(|v| !v.is_empty())
    }
}

impl Env for HashMap<String, String> {
    fn get(&self, name: &str) -> Option<String> {
        HashMap::get(self, name).filter(|v| !v.is_empty()).cloned()
    }
}

impl Env for &[(&str, &str)] {
    fn get(&self, name: &str) -> Option<String> {
        self.iter().find(|(k, v)| *k == name && !v.is_empty()).map(|(_, v)| (*v).to_owned())
    }
}
