//! Running `nft`. A script is one transaction: it applies whole or not at all.

use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::Endpoint;

/// Longest time for one transaction.
const DEADLINE: Duration = Duration::from_secs(10);

/// Why a transaction did not apply.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// The program is missing or may not run.
    #[error("could not run nft: {0}; install the package nftables")]
    Run(#[source] std::io::Error),
    /// The kernel or nft refused.
    #[error("nft refused the rules: {0}")]
    Refused(String),
    /// The kernel refused a sandbox's rules.
    #[error("the kernel refused the rules: {0}")]
    Kernel(#[source] std::io::Error),
    /// It did not answer.
    #[error("nft did not answer within {DEADLINE:?}")]
    Deadline,
}

/// Applies `script`.
pub(crate) async fn apply(script: &str) -> Result<(), NftError> {
    run(&["-f", "-"], script).await.map(drop)
}

/// A known sandbox in the kernel: the chain that judges it, its hardware address and its IP address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) chain: String,
    pub(crate) mac: String,
    pub(crate) ip: std::net::Ipv4Addr,
}

impl Known {
    /// The key of the sandbox, and where it is.
    pub(crate) fn place(&self) -> Option<(String, Endpoint)> {
        let key = self.chain.strip_prefix("sb_").filter(|k| k.bytes().all(|b| b.is_ascii_hexdigit()))?;
        Some((key.to_owned(), Endpoint { ip: self.ip, mac: parse_mac(&self.mac)? }))
    }
}

/// The sandboxes that the kernel knows, from this run or an earlier one.
pub(crate) async fn known() -> Result<Vec<Known>, NftError> {
    run(&["-j", "list", "map", "inet", "pinfold", "sandboxes"], "").await.map(|json| parse_known(&json))
}

/// What a listed map or set has in it, in nft's JSON (libnftables-json(5)).
fn elements(json: &str, kind: &str) -> Vec<Value> {
    let listing: Value = serde_json::from_str(json).unwrap_or_default();
    let objects = listing["nftables"].as_array().into_iter().flatten();
    objects.filter_map(|object| object[kind]["elem"].as_array()).flatten().cloned().collect()
}

/// A map's elements are pairs of a concatenation and a verdict.
fn parse_known(json: &str) -> Vec<Known> {
    elements(json, "map")
        .iter()
        .filter_map(|pair| {
            let (mac, ip) = (&pair[0]["concat"][0], &pair[0]["concat"][1]);
            let chain = pair[1]["jump"]["target"].as_str()?.to_owned();
            Some(Known { chain, mac: mac.as_str()?.to_owned(), ip: ip.as_str()?.parse().ok()? })
        })
        .collect()
}

/// The pinned hardware addresses and the names of their ports, from an earlier run.
pub(crate) async fn pinned() -> Result<Vec<([u8; 6], String)>, NftError> {
    run(&["-j", "list", "set", "bridge", "pinfold", "ports"], "").await.map(|json| parse_pinned(&json))
}

/// A set's elements are its concatenations.
fn parse_pinned(json: &str) -> Vec<([u8; 6], String)> {
    let pin = |element: &Value| {
        let (mac, port) = (element["concat"][0].as_str()?, element["concat"][1].as_str()?);
        Some((parse_mac(mac)?, port.to_owned()))
    };
    elements(json, "set").iter().filter_map(pin).collect()
}

fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    for (byte, text) in mac.iter_mut().zip(text.split(':')) {
        *byte = u8::from_str_radix(text, 16).ok()?;
    }
    Some(mac)
}

async fn run(arguments: &[&str], input: &str) -> Result<String, NftError> {
    let mut command = Command::new("nft");
    command
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let mut child = command.spawn().map_err(NftError::Run)?;
    let stdin = child.stdin.take();
    let talk = async {
        if let Some(mut stdin) = stdin {
            stdin.write_all(input.as_bytes()).await.map_err(NftError::Run)?;
        }
        child.wait_with_output().await.map_err(NftError::Run)
    };
    let output = tokio::time::timeout(DEADLINE, talk).await.map_err(|_| NftError::Deadline)??;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(NftError::Refused(String::from_utf8_lossy(&output.stderr).trim().replace('\n', " | ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_kernels_answer_and_survives_nonsense() {
        let json = r#"{"nftables":[{"metainfo":{}},{"map":{"name":"sandboxes","elem":[
            [{"concat":["02:42:0a:09:00:02","10.9.0.2"]},{"jump":{"target":"sb_aa"}}],
            [{"concat":["02:42:0a:09:00:03"]},{"drop":null}]]}}]}"#;
        let known = parse_known(json);
        assert_eq!(known.len(), 1);
        assert_eq!((known[0].chain.as_str(), known[0].ip.octets()[3]), ("sb_aa", 2));
        let json = r#"{"nftables":[{"set":{"name":"ports","elem":[{"concat":["02:42:0a:09:00:02","veth1"]},"x",{"concat":["z","y"]}]}}]}"#;
        assert_eq!(parse_pinned(json), [([2, 0x42, 10, 9, 0, 2], "veth1".to_owned())]);
        assert!(parse_pinned("").is_empty());
        assert!(parse_known("").is_empty() && parse_known("[1]").is_empty());
    }
}
