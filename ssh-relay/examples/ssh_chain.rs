//! A sandbox's SSH server behind gateways, for tests with real clients: `ssh_chain ADDRESS WORK_DIR HOPS`. Prints the address of the outermost gateway.
//!
//! Some user names mean something to it: `bad-token` is refused at login, `stopped` when it asks for something, `gone` leads where nobody listens.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use pinfold_spawn::{Environment, Sandbox, Spawner};
use pinfold_ssh_relay::{
    Credential, Decision, Limits, MethodKind, Policy, PrivateKey, Proof, RefusalReason, Target,
};
use tokio::net::TcpListener;

struct Open {
    upstream: SocketAddr,
    credential: Credential,
}

impl Policy for Open {
    type Grant = String;

    fn methods(&self) -> &[MethodKind] {
        &[MethodKind::None, MethodKind::PublicKey, MethodKind::Password]
    }

    async fn admit(&self, user: &str, _proof: Proof<'_>, _peer: SocketAddr) -> Decision<String> {
        match user {
            "bad-token" => {
                Decision::Refuse(RefusalReason::new("this access token is not valid or has expired"))
            }
            user => Decision::Accept(user.to_owned()),
        }
    }

    async fn target(&self, user: &String) -> Result<Target, RefusalReason> {
        let address = match user.as_str() {
            "stopped" => return Err(RefusalReason::new("sandbox s1 is stopped; start it first")),
            "gone" => "127.0.0.1:1".to_owned(),
            _ => self.upstream.to_string(),
        };
        Ok(Target {
            address,
            user: user.clone(),
            credentials: vec![self.credential.clone()],
            name: "sandbox s1".to_owned(),
        })
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().ok_or("an address is needed")?;
    let work_dir = PathBuf::from(arguments.next().ok_or("a work directory is needed")?);
    let hops: usize = arguments.next().ok_or("a number of hops is needed")?.parse()?;
    let home = PathBuf::from(std::env::var_os("HOME").ok_or("HOME is not set")?);
    let sandbox = Sandbox {
        spawner: Spawner::start()?,
        environment: Environment::inherited(&[]),
        work_dir: work_dir.into(),
        home: home.clone().into(),
    };
    let daemon = TcpListener::bind("127.0.0.1:0").await?;
    let mut upstream = daemon.local_addr()?;
    tokio::spawn(pinfold_ssh::serve(daemon, sandbox, pinfold_ssh::Config::default()));
    let key: PrivateKey = pinfold_ssh_relay::load_or_create(&home.join("gateway_key"))?;
    for hop in 0..hops {
        // Only the outermost listens where it was told to; only the innermost talks to the daemon, which takes the password.
        let listener =
            TcpListener::bind(if hop + 1 == hops { address.as_str() } else { "127.0.0.1:0" }).await?;
        let credential = match hop {
            0 => Credential::Password("sandbox-ssh".to_owned()),
            _ => Credential::Key(Arc::new(key.clone())),
        };
        let policy = Arc::new(Open { upstream, credential });
        upstream = listener.local_addr()?;
        tokio::spawn(pinfold_ssh_relay::serve(listener, key.clone(), policy, Limits::default()));
    }
    eprintln!("listening on {upstream}");
    std::future::pending().await
}
