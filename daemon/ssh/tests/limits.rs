//! What a stranger may take of the server's time (weakness H5). The other limits are tried with a whole daemon, in `tests/toolbox`.

#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use pinfold_testing::DEADLINE;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

#[tokio::test]
async fn who_does_not_log_in_is_shown_out() {
    let home = tempfile::tempdir().unwrap();
    let sandbox = pinfold_testing::sandbox(home.path(), home.path(), &[]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let grace = Duration::from_millis(400);
    let config = pinfold_ssh::Config { login_grace: grace, ..pinfold_ssh::Config::default() };
    let server = tokio::spawn(pinfold_ssh::serve(listener, sandbox, config));
    let began = Instant::now();
    let mut stranger = TcpStream::connect(address).await.unwrap();
    let mut said = Vec::new();
    // A reset is an end as well.
    let _ = timeout(DEADLINE, stranger.read_to_end(&mut said)).await.expect("the end of the connection");
    assert!(said.starts_with(b"SSH-2.0-"), "{said:?}");
    assert!(began.elapsed() >= grace, "{:?}", began.elapsed());
    server.abort();
}
