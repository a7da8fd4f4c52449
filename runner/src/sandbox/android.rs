//! Android devices (runner contract 5.10): the image's own program, an emulator, without a daemon. One is ready when its debug bridge takes connections.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use pinfold_engine::ContainerStatus;
use pinfold_proto::id::SandboxId;
use pinfold_proto::runner::payload::CreateSandbox;
use tokio::net::TcpStream;
use tracing::Instrument;

use super::readiness::last_output;
use crate::error::{Class, OpError, OpResult};
use crate::node::Node;
use crate::spans;

/// The label of a container that is an Android device.
pub(super) const LABEL: &str = "daytona.android_device";
/// Acceleration for the emulator.
pub(super) const KVM: &str = "/dev/kvm";

const CONNECT: Duration = Duration::from_millis(500);
const PAUSE: Duration = Duration::from_millis(250);

/// Whether a device is asked for.
pub(super) fn is_wanted(request: &CreateSandbox) -> bool {
    request.sandbox_class.as_deref() == Some("android")
}

/// Whether a container is a device.
pub(super) fn is_one(labels: &BTreeMap<String, String>) -> bool {
    labels.get(LABEL).is_some_and(|value| value == "true")
}

/// Waits until the device's debug bridge takes connections.
pub(super) async fn wait(node: &Node, id: &SandboxId, address: Ipv4Addr) -> OpResult<()> {
    let limit = node.config.android_boot_timeout;
    let span = spans::waiting("wait_for_adb_running", address.into(), limit);
    let mut retries = 0;
    let address = SocketAddr::from((address, node.config.adb_port));
    let booted = until_booted(node, id, address, limit, &mut retries).instrument(span.clone()).await;
    span.record("retries", retries);
    if let Err(error) = &booted {
        span.record("error", error.to_string());
    }
    booted
}

async fn until_booted(
    node: &Node,
    id: &SandboxId,
    address: SocketAddr,
    limit: Duration,
    retries: &mut u64,
) -> OpResult<()> {
    let began = Instant::now();
    let ended = node.index.wait(id, |s| match s {
        Some(s) if matches!(s.status, ContainerStatus::Exited | ContainerStatus::Dead) => Some(()),
        _ => None,
    });
    let mut ended = std::pin::pin!(ended);
    while began.elapsed() < limit {
        if matches!(tokio::time::timeout(CONNECT, TcpStream::connect(address)).await, Ok(Ok(_))) {
            return Ok(());
        }
        *retries += 1;
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => {}
            () = &mut ended => {
                let output = last_output(node, id).await;
                let message = format!("the device's container ended while it booted{output}");
                return Err(OpError::new(Class::Internal, message));
            }
        }
    }
    let output = last_output(node, id).await;
    let message = format!("no debug bridge took a connection on {address} within {limit:?}{output}");
    Err(OpError::new(Class::Internal, message))
}
