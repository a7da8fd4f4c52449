//! Listening TCP ports (toolbox contract 14), read from the kernel when somebody asks and not before.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
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
    Json(Ports { ports: listening().into_iter().collect() })
}

async fn in_use(Path(port): Path<String>) -> ApiResult<Json<PortInUse>> {
    let range = || ApiError::bad_request(format_args!("{port:?} is not a port from 3000 to 9999"));
    let port = port.parse::<u16>().ok().filter(|p| PROBED.contains(p)).ok_or_else(range)?;
    Ok(Json(PortInUse { is_in_use: listening().contains(&port) || answers(port).await }))
}

/// Whether something accepts connections there: a listener that this mount of `/proc` does not show.
async fn answers(port: u16) -> bool {
    let probe = |address: SocketAddr| async move {
        matches!(tokio::time::timeout(PROBE, TcpStream::connect(address)).await, Ok(Ok(_)))
    };
    let v4 = probe((Ipv4Addr::LOCALHOST, port).into());
    let v6 = probe((Ipv6Addr::LOCALHOST, port).into());
    let (v4, v6) = tokio::join!(v4, v6);
    v4 || v6
}

/// Every listening port, both families.
fn listening() -> BTreeSet<u16> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"];
    tables.iter().filter_map(|path| std::fs::read_to_string(path).ok()).flat_map(|t| parse(&t)).collect()
}

/// The local ports of the rows in state 0A, `TCP_LISTEN`.
fn parse(table: &str) -> Vec<u16> {
    listeners(table).filter_map(|local| u16::from_str_radix(local.rsplit_once(':')?.1, 16).ok()).collect()
}

/// The local addresses of the listening rows, as the kernel writes them.
fn listeners(table: &str) -> impl Iterator<Item = &str> {
    let rows = table.lines().skip(1).map(|row| row.split_ascii_whitespace());
    rows.filter_map(|mut fields| {
        let local = fields.nth(1)?;
        let state = fields.nth(1)?;
        (state == "0A").then_some(local)
    })
}

/// Where a server listens that cannot be reached by a loopback address: one bound to another address of the sandbox alone. IPv4 only.
///
/// Looked up at most once a second for each port: the table may be long, and a page makes dozens of requests.
pub(crate) fn address_of(port: u16) -> Option<SocketAddr> {
    static CACHE: Mutex<BTreeMap<u16, (Instant, Option<SocketAddr>)>> = Mutex::new(BTreeMap::new());
    let mut cache = CACHE.lock().unwrap_or_else(PoisonError::into_inner);
    cache.retain(|_, (at, _)| at.elapsed() < Duration::from_secs(1));
    cache.entry(port).or_insert_with(|| (Instant::now(), look_up(port))).1
}

fn look_up(port: u16) -> Option<SocketAddr> {
    specific(&std::fs::read_to_string("/proc/net/tcp").ok()?, port)
        .filter(|_| !reachable_by_loopback_v6(port))
}

fn specific(table: &str, port: u16) -> Option<SocketAddr> {
    let mut found = None;
    for local in listeners(table) {
        let (address, text) = local.split_once(':')?;
        if u16::from_str_radix(text, 16).ok()? != port {
            continue;
        }
        let address = Ipv4Addr::from(u32::from_str_radix(address, 16).ok()?.to_ne_bytes());
        if address.is_loopback() || address.is_unspecified() {
            return None;
        }
        found = Some(SocketAddr::from((address, port)));
    }
    found
}

fn reachable_by_loopback_v6(port: u16) -> bool {
    std::fs::read_to_string("/proc/net/tcp6").is_ok_and(|table| parse(&table).contains(&port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_listeners_of_both_families() {
        let v4 = "  sl  local_address rem_address   st\n   0: 0100007F:0BB8 00000000:0000 0A 0:0 0\n   1: 0100007F:1F90 0100007F:A1B2 01 0:0 0\n";
        assert_eq!(parse(v4), [3000]);
        let v6 = "  sl\n 0: 00000000000000000000000000000000:1F90 00000000000000000000000000000000:0000 0A 0\n garbage\n";
        assert_eq!(parse(v6), [8080]);
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn finds_servers_of_one_address() {
        let table = " sl\n 0: 0200110A:0BB8 0:0 0A 0\n 1: 00000000:1F90 0:0 0A 0\n 2: 0100007F:0BB9 0:0 0A 0\n 3: 0200110A:0BB9 0:0 0A 0\n";
        assert_eq!(specific(table, 3000), Some("10.17.0.2:3000".parse().unwrap()));
        assert_eq!((specific(table, 8080), specific(table, 3001), specific(table, 1)), (None, None, None));
    }

    #[tokio::test]
    async fn sees_listeners_of_both_families_at_once() {
        let v4 = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let v6 = tokio::net::TcpListener::bind("[::1]:0").await.unwrap();
        let (v4, v6) = (v4.local_addr().unwrap().port(), v6.local_addr().unwrap().port());
        let found = listening();
        assert!(found.contains(&v4) && found.contains(&v6), "{v4} {v6} {found:?}");
        assert!(answers(v4).await && answers(v6).await);
    }
}
