//! Settings of a sandbox that change without its runner, or by one small job (control-plane contract 7, 10, 16.5).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Path;
use axum::routing::{post, put};
use http::StatusCode;
use pinfold_http::{ApiError, ApiResult, JsonBody, OptionalJsonBody};
use pinfold_proto::control::sandbox::SandboxState;
use pinfold_proto::runner::job::JobKind;
use serde::Deserialize;
use serde_json::Value;

use super::auth::User;
use super::call::{Answer, Call};
use super::{not_for_containers, not_supported};
use crate::core::Core;
use crate::store::sandboxes::Record;
use crate::time::now;

/// Longest time until a stopped sandbox is archived: 30 days, in minutes.
pub(super) const MAX_AUTO_ARCHIVE: i64 = 43_200;
const WRITE: &str = "write:sandboxes";
/// How long a caller waits for a policy to be in force.
const POLICY_WAIT: Duration = Duration::from_secs(30);

pub(super) fn routes() -> Router<Arc<Core>> {
    Router::new()
        .route("/sandbox/{id}/labels", put(labels))
        .route("/sandbox/{id}/autostop/{minutes}", post(auto_stop))
        .route("/sandbox/{id}/autoarchive/{minutes}", post(auto_archive))
        .route("/sandbox/{id}/autodelete/{minutes}", post(auto_delete))
        .route("/sandbox/{id}/autopause/{minutes}", post(auto_pause))
        .route("/sandbox/{id}/ttl/{minutes}", post(ttl))
        .route("/sandbox/{id}/public/{flag}", post(public))
        .route("/sandbox/{id}/last-activity", post(last_activity))
        .route("/sandbox/{id}/network-settings", post(network))
        .route("/sandbox/{id}/secrets", put(secrets).get(secrets))
}

/// 0 means as long as possible, and so does more than that.
pub(super) fn clamp_archive(minutes: i64) -> i64 {
    if minutes == 0 { MAX_AUTO_ARCHIVE } else { minutes.min(MAX_AUTO_ARCHIVE) }
}

#[derive(Deserialize)]
struct Labels {
    #[serde(default, deserialize_with = "pinfold_proto::null::as_default")]
    labels: BTreeMap<String, Value>,
}

async fn labels(call: Call, JsonBody(body): JsonBody<Labels>) -> Answer {
    let text = |value: Value| match value {
        Value::String(text) => text,
        other => other.to_string(),
    };
    let labels = body.labels.into_iter().map(|(name, value)| (name, text(value))).collect();
    set(call, move |r| r.labels = labels).await
}

async fn set(call: Call, set: impl FnOnce(&mut Record) + Send + 'static) -> Answer {
    let change = |r: &mut Record| {
        set(r);
        Ok(())
    };
    call.apply(WRITE, change).await
}

fn minutes(text: &str, least: i64) -> ApiResult<i64> {
    let parsed = text.parse::<i64>().ok().filter(|minutes| *minutes >= least);
    parsed.ok_or_else(|| {
        ApiError::bad_request(format_args!("{text:?} is not a number of minutes that can be set here"))
    })
}

/// The sandbox, which [`Call`] has found, and the value.
type Setting = Path<(String, String)>;

async fn auto_stop(Path((_, text)): Setting, call: Call) -> Answer {
    let minutes = minutes(&text, 0)?;
    set(call, move |r| r.auto_stop = minutes).await
}

async fn auto_archive(Path((_, text)): Setting, call: Call) -> Answer {
    let minutes = clamp_archive(minutes(&text, 0)?);
    set(call, move |r| r.auto_archive = minutes).await
}

async fn auto_delete(Path((_, text)): Setting, call: Call) -> Answer {
    let minutes = minutes(&text, i64::MIN)?.max(-1);
    let change = move |r: &mut Record| {
        if r.gpu > 0 && minutes != 0 {
            return Err(ApiError::bad_request("a sandbox with a GPU stays ephemeral"));
        }
        r.auto_delete = minutes;
        Ok(())
    };
    call.apply(WRITE, change).await
}

async fn ttl(Path((_, text)): Setting, call: Call) -> Answer {
    let minutes = minutes(&text, i64::MIN)?;
    let at = (minutes > 0).then(|| now().saturating_add(minutes.saturating_mul(60_000)));
    set(call, move |r| r.destroy_at = at).await
}

async fn auto_pause(Path((_, text)): Setting, call: Call) -> Answer {
    if minutes(&text, 0)? > 0 {
        return Err(not_for_containers("pausing"));
    }
    set(call, |_| ()).await
}

async fn public(Path((_, flag)): Setting, call: Call) -> Answer {
    let public = match flag.as_str() {
        "true" => true,
        "false" => false,
        _ => return Err(ApiError::bad_request("public is either true or false")),
    };
    set(call, move |r| r.public = public).await
}

async fn last_activity(call: Call) -> StatusCode {
    call.core.touch(&call.handle);
    StatusCode::CREATED
}

async fn secrets(_user: User) -> ApiError {
    not_supported("mapping secrets into a sandbox")
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Network {
    network_block_all: Option<bool>,
    network_allow_list: Option<String>,
    domain_allow_list: Option<String>,
}

async fn network(call: Call, OptionalJsonBody(body): OptionalJsonBody<Network>) -> Answer {
    if body.network_block_all.is_none()
        && body.network_allow_list.is_none()
        && body.domain_allow_list.is_none()
    {
        return Err(ApiError::bad_request(
            "give at least one of networkBlockAll, networkAllowList and domainAllowList",
        ));
    }
    check_network(body.network_allow_list.as_deref(), body.domain_allow_list.as_deref())?;
    let applied = call.handle.outcome_of(JobKind::UpdateSandboxNetworkSettings)?;
    let record = call.change(WRITE, move |r| set_network(r, body)).await?;
    if record.task.network && record.job.is_some() {
        // A policy is only answered as set when it is in force.
        match tokio::time::timeout(POLICY_WAIT, applied).await {
            Ok(Ok(Err(why))) => {
                return Err(ApiError::internal(format_args!(
                    "the runner could not apply the network settings, which are tried again: {why}"
                )));
            }
            Ok(_) => {}
            Err(_) => tracing::warn!(
                sandbox = record.id,
                "network settings are stored, and not yet confirmed by the runner"
            ),
        }
    }
    Ok(call.answer_now())
}

fn set_network(r: &mut Record, body: Network) -> ApiResult<()> {
    let given = |list: String| Some(list).filter(|list| !list.trim().is_empty());
    if let Some(block) = body.network_block_all {
        r.network_block_all = block;
        // Everything or nothing of the address list, as recorded. Of the domains' list, too, when all is to be blocked.
        r.network_allow_list = None;
        r.domain_allow_list = r.domain_allow_list.take().filter(|_| !block);
    }
    if let Some(list) = body.network_allow_list {
        r.network_allow_list = given(list);
        // A list together with block-all: the list wins.
        r.network_block_all &= r.network_allow_list.is_none();
    }
    if let Some(list) = body.domain_allow_list {
        r.domain_allow_list = given(list);
        r.network_block_all &= r.domain_allow_list.is_none();
    }
    // Without a container there is nothing to tell: the next create carries the policy.
    let placed = r.runner_id.is_some();
    let contained = !matches!(
        r.state,
        SandboxState::Archived
            | SandboxState::PendingBuild
            | SandboxState::BuildingSnapshot
            | SandboxState::PullingSnapshot
    );
    r.task.network = placed && contained;
    r.task.network_held = false;
    Ok(())
}

/// At most ten IPv4 networks with prefix lengths, and at most ten host names.
pub(super) fn check_network(cidrs: Option<&str>, domains: Option<&str>) -> ApiResult<()> {
    let items = |list: &str| -> Vec<String> {
        list.split(',').map(|item| item.trim().to_owned()).filter(|item| !item.is_empty()).collect()
    };
    let cidrs = items(cidrs.unwrap_or_default());
    let domains = items(domains.unwrap_or_default());
    if cidrs.len() > 10 || domains.len() > 10 {
        return Err(ApiError::bad_request("a network or domain allow list has at most ten entries"));
    }
    for cidr in cidrs {
        let valid = cidr.split_once('/').is_some_and(|(address, prefix)| {
            address.parse::<std::net::Ipv4Addr>().is_ok()
                && prefix.bytes().all(|b| b.is_ascii_digit())
                && prefix.parse::<u8>().is_ok_and(|prefix| prefix <= 32)
        });
        if !valid {
            return Err(ApiError::bad_request(format_args!(
                "{cidr:?} is not an IPv4 network such as 10.0.0.0/8"
            )));
        }
    }
    for domain in domains {
        let name = domain.strip_prefix("*.").unwrap_or(&domain);
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        if name.len() > 253 || !name.split('.').all(label) {
            return Err(ApiError::bad_request(format_args!("{domain:?} is not a host name")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allow_lists_are_checked() {
        assert!(check_network(Some("10.0.0.0/8, 1.2.3.4/32"), Some("*.example.com,pypi.org")).is_ok());
        for bad in ["10.0.0.0", "10.0.0.0/33", "::1/128", "x/8", "10.0.0.0/+8"] {
            assert!(check_network(Some(bad), None).is_err(), "{bad}");
        }
        for bad in ["*", "a..b", "-a.b", "a b", "http://a"] {
            assert!(check_network(None, Some(bad)).is_err(), "{bad}");
        }
        assert!(check_network(Some(&["1.1.1.1/32"; 11].join(",")), None).is_err());
    }
}
