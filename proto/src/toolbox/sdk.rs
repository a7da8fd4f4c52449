//! Which shape a client expects, by the version its SDK announces (toolbox contract 2.5).

/// How a client wants a command's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SdkClass {
    /// Raw text with markers.
    #[default]
    Raw,
    /// Old clients: text without markers.
    Combined,
    /// Current clients: standard output and standard error apart, as JSON.
    Split,
}

/// What follows from a client's version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SdkProfile {
    /// How it wants logs.
    pub class: SdkClass,
    /// Whether its sessions start in the home directory rather than the work directory.
    pub starts_at_home: bool,
}

impl SdkProfile {
    /// `version` is what the client announced, `split_output` whether it sent `X-Daytona-Split-Output: true`.
    pub fn of(version: Option<&str>, split_output: bool) -> Self {
        let at_work = |class| Self { class, starts_at_home: false };
        let Some(version) = version.map(str::trim).filter(|v| !v.is_empty()) else {
            return at_work(if split_output { SdkClass::Raw } else { SdkClass::Combined });
        };
        if version.contains("dev") {
            return at_work(SdkClass::Split);
        }
        let Some(version) = release(version) else { return at_work(SdkClass::Raw) };
        // A pre-release of a threshold counts as the threshold, so releases alone are compared.
        match version {
            v if v < (0, 27, 0) => Self { class: SdkClass::Combined, starts_at_home: true },
            v if v < (0, 103, 0) => Self { class: SdkClass::Raw, starts_at_home: true },
            v if v < (0, 167, 0) => at_work(SdkClass::Raw),
            _ => at_work(SdkClass::Split),
        }
    }
}

/// Whether a client fails on members that it does not know: the Go SDK did before 0.188.0. `0.0.0` is one that was built without a version, from newer
/// sources.
pub fn decodes_strictly(source: Option<&str>, version: Option<&str>) -> bool {
    let version = version.and_then(|version| release(version.trim()));
    source == Some("sdk-go") && version.is_some_and(|version| version != (0, 0, 0) && version < (0, 188, 0))
}

/// The release part of `1.2.3`, `v1.2.3`, `1.2.3-rc1`, `1.2.3rc1` or `1.2.3+build`.
fn release(version: &str) -> Option<(u64, u64, u64)> {
    let version = version.strip_prefix('v').unwrap_or(version);
    let mut parts = version.splitn(3, '.');
    let (major, minor, rest) = (parts.next()?, parts.next()?, parts.next()?);
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    let (patch, suffix) = rest.split_at(digits);
    let suffix_is_sound =
        suffix.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'+'))
            && suffix.bytes().next().is_none_or(|b| b != b'.');
    let number = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten();
    suffix_is_sound.then(|| Some((number(major)?, number(minor)?, number(patch)?))).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_old_go_clients_are_strict() {
        let table = [
            ("sdk-go", "0.187.9", true),
            ("sdk-go", "v0.100.0", true),
            ("sdk-go", "0.188.0", false),
            ("sdk-go", "0.0.0", false),
            ("sdk-go", "?", false),
            ("sdk-python", "0.187.0", false),
        ];
        for (source, version, strict) in table {
            assert_eq!(decodes_strictly(Some(source), Some(version)), strict, "{source} {version}");
        }
        assert!(!decodes_strictly(None, Some("0.1.0")) && !decodes_strictly(Some("sdk-go"), None));
    }

    #[test]
    fn follows_the_contracts_table() {
        use SdkClass::{Combined, Raw, Split};
        let table = [
            (None, false, Combined, false),
            (None, true, Raw, false),
            (Some(""), false, Combined, false),
            (Some("0.26.9"), false, Combined, true),
            (Some("0.26.0-dev"), false, Split, false),
            (Some("0.27.0"), false, Raw, true),
            (Some("0.27.0a1"), false, Raw, true),
            (Some("0.102.99"), false, Raw, true),
            (Some("0.103.0rc1"), false, Raw, false),
            (Some("0.166.3"), true, Raw, false),
            (Some("0.167.0-alpha.1"), false, Split, false),
            (Some("0.167.0"), false, Split, false),
            (Some("0.226.1"), false, Split, false),
            (Some("1.0.0"), false, Split, false),
            (Some("v0.190.0"), false, Split, false),
            (Some("0.0.0-dev"), false, Split, false),
            (Some("latest"), false, Raw, false),
            (Some("1.2"), true, Raw, false),
            (Some("1.2.x"), false, Raw, false),
        ];
        for (version, split, class, starts_at_home) in table {
            assert_eq!(
                SdkProfile::of(version, split),
                SdkProfile { class, starts_at_home },
                "{version:?} {split}"
            );
        }
    }
}
