//! Which shell runs commands (toolbox contract 6.2).

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

const PREFERRED: [&str; 4] = ["/usr/bin/zsh", "/bin/zsh", "/usr/bin/bash", "/bin/bash"];
const SHELLS: &str = "/etc/shells";
/// A longer /etc/shells is not one.
const MAX_SHELLS: u64 = 1 << 20;

static CACHE: Mutex<Option<(SystemTime, PathBuf)>> = Mutex::new(None);

/// The sandbox's shell: the first of zsh and bash that `/etc/shells` lists and that exists, else `$SHELL`, else `sh`.
///
/// Remembered until `/etc/shells` changes.
pub fn preferred(shell_variable: Option<&str>) -> PathBuf {
    let Some(changed) =
        std::fs::metadata(SHELLS).ok().filter(|m| m.len() < MAX_SHELLS).and_then(|m| m.modified().ok())
    else {
        return PathBuf::from("sh");
    };
    let mut cache = CACHE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((at, shell)) = cache.as_ref()
        && *at == changed
    {
        return shell.clone();
    }
    let listed = std::fs::read_to_string(SHELLS).unwrap_or_default();
    let shell = choose(&listed, shell_variable, |path| path.exists());
    *cache = Some((changed, shell.clone()));
    shell
}

fn choose(listed: &str, shell_variable: Option<&str>, exists: impl Fn(&Path) -> bool) -> PathBuf {
    let lines: Vec<&str> =
        listed.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')).collect();
    if lines.is_empty() {
        return PathBuf::from("sh");
    }
    let preferred = PREFERRED.iter().find(|shell| lines.contains(shell) && exists(Path::new(shell)));
    match (preferred, shell_variable) {
        (Some(shell), _) => PathBuf::from(shell),
        (None, Some(shell)) if !shell.is_empty() => PathBuf::from(shell),
        _ => PathBuf::from("sh"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefers_listed_shells_that_exist() {
        let all = |_: &Path| true;
        assert_eq!(choose("/bin/sh\n/bin/bash\n/usr/bin/bash\n", None, all), Path::new("/usr/bin/bash"));
        assert_eq!(choose("# /bin/zsh\n/bin/bash\n", None, all), Path::new("/bin/bash"));
        assert_eq!(
            choose("/bin/bash\n/bin/zsh", None, |p| p != Path::new("/bin/zsh")),
            Path::new("/bin/bash")
        );
        assert_eq!(choose("/bin/bash-static\n", Some("/bin/ash"), all), Path::new("/bin/ash"));
        assert_eq!(choose("/bin/sh\n", None, all), Path::new("sh"));
        assert_eq!(choose("", Some("/bin/ash"), all), Path::new("sh"));
    }
}
