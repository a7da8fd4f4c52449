//! Listening TCP ports (toolbox contract 14): the kernel is asked when somebody asks us, and not before.

mod diag;
mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::Path;
use axum::routing::get;
use axum::{Json, Router};
use pinfold_http::{ApiError, ApiResult};
use pinfold_proto::toolbox::system::{PortInUse, Ports};
use tokio::net::TcpStream;

/// How long a port may take to accept the probe.
const PROBE: Duration = Duration::from_millis(50);
/// The ports that may be asked for one by one.
const PROBED: std::ops::RangeInclusive<u16> = 3000..=9999;

pub(crate) fn router() -> Router {
    Router::new().route("/port", get(list)).route("/port/{port}/in-use", get(in_use))
}

async fn list() -> Json<Ports> {
    Json(Ports {
        ports: listeners().into_iter().map(|l| l.port).collect::<BTreeSet<_>>().into_iter().collect(),
    })
}

async fn in_use(Path(port): Path<String>) -> ApiResult<Json<PortInUse>> {
    let range = || ApiError::bad_request(format_args!("{port:?} is not a port from 3000 to 9999"));
    let port = port.parse::<u16>().ok().filter(|p| PROBED.contains(p)).ok_or_else(range)?;
    Ok(Json(PortInUse { is_in_use: listeners().iter().any(|l| l.port == port) || answers(port).await }))
}

/// Whether something accepts connections there: a listener that the kernel does not name, as in some emulations.
async fn answers(port: u16) -> bool {
    let probe = |address: SocketAddr| async move {
        matches!(tokio::time::timeout(PROBE, TcpStream::connect(address)).await, Ok(Ok(_)))
    };
    let v4 = probe((Ipv4Addr::LOCALHOST, port).into());
    let v6 = probe((Ipv6Addr::LOCALHOST, port).into());
    let (v4, v6) = tokio::join!(v4, v6);
    v4 || v6
}

/// A TCP socket that listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Listener {
    address: IpAddr,
    port: u16,
}

/// Everything that listens, both families.
fn listeners() -> Vec<Listener> {
    diag::listeners().unwrap_or_else(|error| {
        tracing::debug!(%error, "the kernel cannot be asked which sockets listen");
        table::listeners()
    })
}

/// Where a server listens that cannot be reached by a loopback address: one bound to another address of the sandbox alone. IPv4 only.
///
/// Looked up at most once a second for each port: a page makes dozens of requests.
pub(crate) fn address_of(port: u16) -> Option<SocketAddr> {
    static CACHE: Mutex<BTreeMap<u16, (Instant, Option<SocketAddr>)>> = Mutex::new(BTreeMap::new());
    let mut cache = CACHE.lock().unwrap_or_else(PoisonError::into_inner);
    cache.retain(|_, (at, _)| at.elapsed() < Duration::from_secs(1));
    cache.entry(port).or_insert_with(|| (Instant::now(), look_up(port))).1
}

fn look_up(port: u16) -> Option<SocketAddr> {
    specific(&listeners(), port)
}

fn specific(listeners: &[Listener], port: u16) -> Option<SocketAddr> {
    let here = || listeners.iter().filter(|l| l.port == port).map(|l| l.address);
    let by_loopback =
        |address: IpAddr| address.is_ipv6() || address.is_loopback() || address.is_unspecified();
    if here().any(by_loopback) { None } else { here().next_back().map(|address| (address, port).into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_servers_of_one_address() {
        let listener = |text: &str| {
            text.parse::<SocketAddr>().map(|a| Listener { address: a.ip(), port: a.port() }).unwrap()
        };
        let all = [
            "10.17.0.2:3000",
            "0.0.0.0:8080",
            "127.0.0.1:3001",
            "10.17.0.2:3001",
            "10.17.0.2:3002",
            "[::]:3002",
        ];
        let all: Vec<_> = all.into_iter().map(listener).collect();
        assert_eq!(specific(&all, 3000), Some("10.17.0.2:3000".parse().unwrap()));
        for port in [8080, 3001, 3002, 1] {
            assert_eq!(specific(&all, port), None, "{port}");
        }
    }

    #[tokio::test]
    async fn sees_listeners_of_both_families_at_once() {
        let v4 = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let v6 = tokio::net::TcpListener::bind("[::1]:0").await.unwrap();
        let (v4, v6) = (v4.local_addr().unwrap().port(), v6.local_addr().unwrap().port());
        for found in [listeners(), table::listeners()] {
            let has = |port| found.iter().any(|l| l.port == port && l.address.is_loopback());
            assert!(has(v4) && has(v6), "{v4} {v6} {found:?}");
        }
        assert!(answers(v4).await && answers(v6).await);
    }
}
