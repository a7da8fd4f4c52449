//! `pinfold up`: a whole cloud on one machine.
//!
//! Nothing special: the control plane starts, makes a token, and a runner registers with it over loopback, as any other would.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;

use pinfold_runner::SshGateway;
use pinfold_settings::{ProcessEnv, Reader};

use crate::exit::Failure;
use crate::run::runner_failure;
use crate::service;
use crate::table::print_line;
use crate::whereabouts::Whereabouts;

/// Runs until a signal.
pub(crate) async fn up() -> Result<u8, Failure> {
    let env = ProcessEnv;
    let mut reader = Reader::new(&env);
    let control = pinfold_control::Config::read(&mut reader);
    let port =
        reader.parse("PINFOLD_RUNNER_PORT", 0, "a port number, or 0 for any that is free", |_: &u16| true);
    let runner_dir = control.data_dir.join("runner");
    let builder = pinfold_runner::config::builder(&mut reader);
    let engine_wait = pinfold_runner::config::engine_wait(&mut reader);
    let runtime = reader.text("CONTAINER_RUNTIME");
    let gateway = SshGateway::new(&mut reader, 0, String::new(), &runner_dir);
    // The process has begun with it; here its mistakes are reported.
    let telemetry = pinfold_runner::telemetry::Settings::read(&mut reader);
    let control = reader.finish(control).map_err(Failure::usage)?;
    let s3 = control.s3.clone();
    let silence = control.runner_silence;
    let mut settings = control.shown();
    let login = if gateway.sandboxes_take_key { "key" } else { "password" };
    settings.push(("PINFOLD_SANDBOX_SSH", login.to_owned()));
    settings.push(("PINFOLD_RUNNER_PORT", if port == 0 { "any".to_owned() } else { port.to_string() }));
    settings.push(("BUILD_ENGINE", builder.to_string()));
    settings.push(("PINFOLD_ENGINE_WAIT", pinfold_settings::format_duration(engine_wait)));
    settings.extend(runtime.clone().map(|runtime| ("CONTAINER_RUNTIME", runtime)));
    settings.extend(telemetry.map(|telemetry| ("OTEL_EXPORTER_OTLP_ENDPOINT", telemetry.endpoint)));

    let stop = service::stop_on_signals()?;
    let control = pinfold_control::start(control, stop.clone()).await;
    let control = control.map_err(|error| Failure::of_class(error.exit_status(), error))?;
    let api = format!("http://{}/api", loopback(control.address));
    let mut runner = pinfold_runner::Config::local(api, control.runner_token.clone(), port, &runner_dir);
    runner.builder = builder;
    runner.engine_wait = engine_wait;
    runner.runtime = runtime;
    runner.ssh_gateway =
        control.ssh_public_key.clone().map(|public_key| SshGateway { public_key, ..gateway });
    runner.healthcheck_interval = runner.healthcheck_interval.min(silence / 3);
    if let Some(s3) = s3 {
        use_object_store(&mut runner, s3, runner_dir.join("buckets"));
    }
    let shown = shown(&control, &settings);
    let whereabouts = Whereabouts::of(&runner);
    let node = pinfold_runner::run(runner, stop.clone(), |address| whereabouts.tell(address));
    let announce = async {
        control.runner_reported().await;
        shown.iter().for_each(|line| print_line(line));
        service::ready(&shown[0]);
        std::future::pending::<Infallible>().await
    };
    let result = tokio::select! {
        result = node => result,
        never = announce => match never {},
    };
    stop.cancel();
    control.join().await;
    result.map_err(runner_failure)?;
    Ok(0)
}

/// The runner's half of an object store: it reads build contexts there, and mounts buckets as volumes for as long as sandboxes use them.
fn use_object_store(runner: &mut pinfold_runner::Config, s3: pinfold_control::S3Config, bucket_dir: PathBuf) {
    runner.object_store = Some(pinfold_runner::ObjectStore {
        endpoint: s3.endpoint,
        region: s3.region,
        access_key: s3.access_key,
        secret_key: s3.secret_key,
        bucket: Some(s3.bucket),
    });
    runner.bucket_dir = Some(bucket_dir);
    runner.volume_cleanup_dry_run = false;
}

/// The address at which we reach ourselves.
fn loopback(address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        SocketAddr::new([127, 0, 0, 1].into(), address.port())
    } else {
        address
    }
}

/// What a person needs to know once it is up: where it is, and every setting as it is now.
fn shown(control: &pinfold_control::Running, settings: &[(&str, String)]) -> Vec<String> {
    let mut lines = vec![
        format!("pinfold is up: {}", control.api_url()),
        format!("  export DAYTONA_API_URL={}", control.api_url()),
        key_line(control),
    ];
    lines.extend(
        control.ssh_address.map(|address| format!("  ssh -p {} <token>@{}", address.port(), address.ip())),
    );
    lines.push("settings, each an environment variable (docs/configuration.md):".to_owned());
    lines.extend(settings.iter().map(|(name, value)| format!("  {name:<28}{value}")));
    lines
}

/// How to get at the API key: the key itself, but not into a journal.
fn key_line(control: &pinfold_control::Running) -> String {
    if service::speaks_to_journal() {
        "  the API key is in the file api-key of the data directory".to_owned()
    } else {
        format!("  export DAYTONA_API_KEY={}", control.api_key.expose())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn we_reach_ourselves_wherever_we_listen() {
        let at = |text: &str| loopback(text.parse().unwrap()).to_string();
        assert_eq!(at("0.0.0.0:3000"), "127.0.0.1:3000");
        assert_eq!(at("[::]:3000"), "127.0.0.1:3000");
        assert_eq!(at("10.0.0.5:3000"), "10.0.0.5:3000");
    }
}
