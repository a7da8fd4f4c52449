//! Why a request could not be forwarded, told apart by what a caller would answer.

use std::error::Error as StdError;
use std::io;

use hyper_util::client::legacy;

use crate::Upstream;

/// No response of the upstream's can be passed on.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// Nobody answers at the address: refused, unreachable, or out of descriptors.
    #[error("could not connect to {0}")]
    Connect(Upstream, #[source] legacy::Error),
    /// The connection was not established in time.
    #[error("connecting to {0} took too long")]
    ConnectTimeout(Upstream, #[source] legacy::Error),
    /// The client's request body ended in an error, so the request could not be completed. Usually the client is gone.
    #[error("the request body could not be read")]
    RequestBody(#[source] legacy::Error),
    /// The upstream took the request and closed the connection, or answered with something that is not HTTP.
    #[error("{0} gave no valid response")]
    Upstream(Upstream, #[source] legacy::Error),
    /// The upstream switched protocols although the request did not ask for it.
    #[error("{0} switched protocols unasked")]
    UnaskedUpgrade(Upstream),
    /// The path and query handed over by the caller cannot be a request target.
    #[error("invalid request target")]
    Path(#[source] http::Error),
}

impl ProxyError {
    pub(crate) fn of(upstream: Upstream, error: legacy::Error) -> Self {
        if error.is_connect() {
            return match io_kind(&error) {
                Some(io::ErrorKind::TimedOut) => Self::ConnectTimeout(upstream, error),
                _ => Self::Connect(upstream, error),
            };
        }
        match cause::<hyper::Error>(&error) {
            Some(cause) if cause.is_user() => Self::RequestBody(error),
            _ => Self::Upstream(upstream, error),
        }
    }
}

fn io_kind(error: &(dyn StdError + 'static)) -> Option<io::ErrorKind> {
    cause::<io::Error>(error).map(io::Error::kind)
}

fn cause<'a, T: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = error.source();
    }
    None
}
