//! The SSH server alone, for tests with real clients: `ssh_serve ADDRESS [WORK_DIR [REKEY_BYTES [MAX_SFTP]]]`. Prints the address it listens on.

use std::path::PathBuf;

use pinfold_spawn::{Environment, Sandbox, Spawner};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    if std::env::var_os("RUST_LOG").is_some() {
        tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .with_writer(std::io::stderr)
            .init();
    }
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().unwrap_or_else(|| "127.0.0.1:22220".to_owned());
    let work_dir = arguments.next().map_or_else(std::env::current_dir, |path| Ok(PathBuf::from(path)))?;
    let home = PathBuf::from(std::env::var_os("HOME").ok_or("HOME is not set")?);
    let sandbox = Sandbox {
        spawner: Spawner::start()?,
        environment: Environment::inherited(&[]),
        work_dir: work_dir.into(),
        home: home.into(),
    };
    let listener = tokio::net::TcpListener::bind(address.as_str()).await?;
    eprintln!("listening on {}", listener.local_addr()?);
    let mut config = pinfold_ssh::Config::default();
    if let Some(bytes) = arguments.next() {
        config.rekey_bytes = bytes.parse()?;
    }
    if let Some(sessions) = arguments.next() {
        config.max_sftp = sessions.parse()?;
    }
    Ok(pinfold_ssh::serve(listener, sandbox, config).await?)
}
