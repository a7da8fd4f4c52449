//! Git's smart HTTP protocol (gitprotocol-http(5)) as a libgit2 subtransport.
//!
//! libgit2 calls from a blocking thread; requests run on the daemon's runtime, so that each wait ends when the client goes away or
//! the remote falls silent. libgit2's factories know nothing but the URL: the operation's [`Session`] is found in a thread-local that
//! [`Session::enter`] sets. Bodies stream: a pack is never held, whichever way it goes.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use git2::transport::{Service, SmartSubtransport, SmartSubtransportStream, Transport};
use hickory_resolver::TokioResolver;
use pinfold_proto::error::chain;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, LOCATION};
use reqwest::{Client, NoProxy, Proxy, Response, StatusCode, Url};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::Login;
use super::stream::{Answer, Exchange};
use super::tls;
use crate::credentials;
use crate::error::{Failure, Kind};
use crate::repository::Task;

const CONNECT: Duration = Duration::from_secs(15);
/// Longest silence of a remote that is expected to speak.
pub(super) const SILENCE: Duration = Duration::from_secs(60);
/// Longest wait for the answer to a request: the remote may have a pack to make or to check.
pub(super) const ANSWER: Duration = Duration::from_secs(300);
/// As many as git follows.
const REDIRECTS: usize = 20;

thread_local! {
    static SESSION: RefCell<Option<Arc<Session>>> = const { RefCell::new(None) };
}

/// Registers the transport with libgit2.
///
/// # Safety
/// Call before any other thread uses libgit2.
#[expect(unsafe_code, reason = "libgit2's registry of transports has no lock")]
pub(crate) unsafe fn register() -> Result<(), git2::Error> {
    for prefix in ["http", "https"] {
        // SAFETY: the caller's promise.
        unsafe {
            git2::transport::register(prefix, |remote| {
                let session = SESSION.with_borrow(Clone::clone);
                let session = session.ok_or_else(|| git2::Error::from_str("HTTP outside of an operation"))?;
                Transport::smart(remote, true, Http { session })
            })?;
        }
    }
    Ok(())
}

/// One operation's HTTP side.
pub(crate) struct Session {
    pub(super) runtime: Handle,
    pub(super) cancel: CancellationToken,
    task: Task,
    pub(super) insecure: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    client: Option<Client>,
    login: Option<Login>,
    /// Where redirects led to: the repository's real URL.
    base: Option<Url>,
    failure: Option<Failure>,
}

/// Leaves the session when dropped.
pub(crate) struct Entered;

impl Drop for Entered {
    fn drop(&mut self) {
        SESSION.set(None);
    }
}

impl Session {
    pub(crate) fn new(task: &Task, login: Option<Login>, insecure: bool) -> Self {
        let state = Mutex::new(State { login, ..State::default() });
        Self {
            runtime: task.runtime.clone(),
            cancel: task.cancel.clone(),
            task: task.clone(),
            insecure,
            state,
        }
    }

    /// Makes this the session of what libgit2 does next on this thread.
    pub(crate) fn enter(self: &Arc<Self>) -> Entered {
        SESSION.set(Some(Arc::clone(self)));
        Entered
    }

    /// Why the last transfer failed, if it failed here.
    pub(crate) fn failure(&self) -> Option<Failure> {
        self.lock().failure.take()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps the failure for [`Session::failure`]; libgit2 carries only its text.
    pub(super) fn fail(&self, failure: Failure) -> io::Error {
        let text = failure.message.clone();
        self.lock().failure.get_or_insert(failure);
        io::Error::other(text)
    }

    /// Waits for `future` on the runtime, no longer than `limit` and as long as anybody wants its result.
    pub(super) fn wait<T>(
        &self,
        limit: Duration,
        what: &str,
        future: impl Future<Output = T>,
    ) -> Result<T, Failure> {
        self.runtime.block_on(async {
            tokio::select! {
                biased;
                () = self.cancel.cancelled() => Err(Failure::cancelled()),
                result = tokio::time::timeout(limit, future) => result.map_err(|_| {
                    Failure::new(Kind::Transport, format!("{what}: no answer for {} s", limit.as_secs()))
                }),
            }
        })
    }

    fn client(&self) -> Result<Client, Failure> {
        if let Some(client) = self.lock().client.clone() {
            return Ok(client);
        }
        let environment = &self.task.sandbox.environment;
        let failed = |error: &dyn std::fmt::Display| {
            Failure::new(Kind::Transport, format!("could not set up TLS: {error}"))
        };
        let tls = tls::config(environment, self.insecure).map_err(|error| failed(&error))?;
        let mut builder = Client::builder()
            .user_agent(concat!("git/2.0 (pinfold ", env!("CARGO_PKG_VERSION"), ")"))
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT)
            .tls_backend_preconfigured(tls)
            .dns_resolver(Names)
            .no_proxy();
        let variable =
            |names: [&str; 2]| names.iter().find_map(|name| environment.get(name)).filter(|v| !v.is_empty());
        let exceptions = variable(["no_proxy", "NO_PROXY"]).and_then(|list| NoProxy::from_string(&list));
        let proxies = [
            (variable(["http_proxy", "HTTP_PROXY"]), Proxy::http as fn(String) -> reqwest::Result<Proxy>),
            (variable(["https_proxy", "HTTPS_PROXY"]), Proxy::https),
            (variable(["all_proxy", "ALL_PROXY"]), Proxy::all),
        ];
        for (url, make) in proxies {
            let Some(url) = url else { continue };
            // The variable may hold a password: its value is not repeated.
            let proxy =
                make(url).map_err(|_| Failure::new(Kind::Transport, "the proxy variable is not a URL"))?;
            builder = builder.proxy(proxy.no_proxy(exceptions.clone()));
        }
        let client = builder.build().map_err(|error| failed(&error))?;
        self.lock().client = Some(client.clone());
        Ok(client)
    }

    /// The URL without its login, which becomes the session's if it has none.
    fn target(&self, url: &str) -> Result<Url, Failure> {
        let malformed = |_| Failure::invalid("the remote's URL is malformed");
        let mut url = Url::parse(url).map_err(malformed)?;
        if !url.username().is_empty() || url.password().is_some() {
            let decode =
                |text: &str| percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned();
            let (username, password) = (decode(url.username()), decode(url.password().unwrap_or_default()));
            let mut state = self.lock();
            if state.login.is_none() && !password.is_empty() {
                state.login = Some(Login::new(username, password));
            }
            // Neither fails for a URL with a host, which http URLs have.
            let _ = (url.set_username(""), url.set_password(None));
        }
        Ok(url)
    }

    /// `GET <base>/info/refs`, following redirects and answering one demand for credentials.
    fn discover(&self, base: &str, service: &str) -> Result<Response, Failure> {
        let client = self.client()?;
        let named = self.target(base)?;
        let mut url = join(&named, "info/refs");
        url.query_pairs_mut().append_pair("service", service);
        let mut asked = false;
        for _ in 0..REDIRECTS {
            let mut request = client.get(url.clone()).header(ACCEPT, "*/*").header("Pragma", "no-cache");
            if let Some(login) = &self.lock().login {
                request = request.header(AUTHORIZATION, login.basic());
            }
            let response =
                self.wait(SILENCE, "connecting", request.send())?.map_err(|error| broken(&error))?;
            let status = response.status();
            if status.is_redirection() {
                let next = self.redirected(&url, &response)?;
                if next.origin() != url.origin() && next.host_str() != url.host_str() {
                    // Another host is not shown this one's password.
                    self.lock().login = None;
                }
                url = next;
                continue;
            }
            if status == StatusCode::UNAUTHORIZED && !asked && self.lock().login.is_none() {
                asked = true;
                let user = Url::parse(base).map(|url| url.username().to_owned()).unwrap_or_default();
                let host = url.host_str().unwrap_or_default();
                let host = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
                if let Some(login) = credentials::stored(&self.task.sandbox.home, url.scheme(), &host, &user)
                {
                    self.lock().login = Some(login);
                    continue;
                }
            }
            self.accept(&response, &format!("application/x-{service}-advertisement"))?;
            let mut real = url.clone();
            real.set_query(None);
            if let Some(path) = url.path().strip_suffix("/info/refs") {
                real.set_path(path);
                self.lock().base = Some(real);
            }
            return Ok(response);
        }
        Err(Failure::new(Kind::Transport, "the remote redirects without end"))
    }

    fn redirected(&self, from: &Url, response: &Response) -> Result<Url, Failure> {
        let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
        let next = location.and_then(|location| from.join(location).ok());
        let next = next.ok_or_else(|| Failure::new(Kind::Transport, "the remote redirects to nowhere"))?;
        if next.scheme() != "https" && (from.scheme() == "https" || next.scheme() != "http") {
            return Err(Failure::new(
                Kind::Transport,
                "the remote redirects away from HTTPS, which is not followed",
            ));
        }
        Ok(next)
    }

    /// A request for `service`, at the place where discovery ended.
    pub(super) fn request(&self, base: &str, service: &str) -> Result<reqwest::RequestBuilder, Failure> {
        let client = self.client()?;
        let real = self.lock().base.clone();
        let url = join(&real.map_or_else(|| self.target(base), Ok)?, service);
        let mut request = client
            .post(url)
            .header(CONTENT_TYPE, format!("application/x-{service}-request"))
            .header(ACCEPT, format!("application/x-{service}-result"));
        if let Some(login) = &self.lock().login {
            request = request.header(AUTHORIZATION, login.basic());
        }
        Ok(request)
    }

    /// What the status means (toolbox contract 12.4), and whether it is git that speaks.
    pub(super) fn accept(&self, response: &Response, kind: &str) -> Result<(), Failure> {
        let status = response.status();
        let (class, text) = match status {
            StatusCode::OK => {
                let found = response
                    .headers()
                    .get(CONTENT_TYPE)
                    .and_then(|value| value.to_str().ok())
                    .unwrap_or_default();
                if found.split(';').next().is_some_and(|found| found.trim() == kind) {
                    return Ok(());
                }
                (
                    Kind::RepositoryNotFound,
                    format!("there is no git repository at the URL: it answers with {found:?}"),
                )
            }
            StatusCode::UNAUTHORIZED => {
                let login = self.lock().login.is_some();
                let text = if login {
                    "the remote rejected the credentials"
                } else {
                    "the remote requires credentials"
                };
                (Kind::Auth, format!("authentication failed: {text}"))
            }
            StatusCode::FORBIDDEN => (Kind::Forbidden, "the remote refused access (403)".to_owned()),
            StatusCode::NOT_FOUND | StatusCode::GONE => {
                (Kind::RepositoryNotFound, format!("repository not found: the remote answered {status}"))
            }
            StatusCode::PAYLOAD_TOO_LARGE | StatusCode::UNPROCESSABLE_ENTITY => {
                (Kind::RemoteRejected, format!("the remote rejected the request: {status}"))
            }
            _ => (Kind::Transport, format!("the remote answered {status}")),
        };
        Err(Failure::new(class, text))
    }
}

/// Looks names up without the C library's resolver, which a static binary must not use.
struct Names;

impl Resolve for Names {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            // Read anew each time: the sandbox's resolv.conf and hosts file may change, and a lookup is rare.
            let resolver = TokioResolver::builder_tokio().and_then(|builder| builder.build())?;
            let found = resolver.lookup_ip(name.as_str()).await?;
            let addresses: Vec<_> = found.iter().map(|address| SocketAddr::new(address, 0)).collect();
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

/// `base` with one more step in its path.
fn join(base: &Url, step: &str) -> Url {
    let mut url = base.clone();
    let path = format!("{}/{step}", base.path().trim_end_matches('/'));
    url.set_path(&path);
    url
}

/// A failed exchange, with its causes and without its URL: that is in the outermost error alone.
pub(super) fn broken(error: &reqwest::Error) -> Failure {
    let causes = std::error::Error::source(error).map(|cause| format!(": {}", chain(cause)));
    Failure::new(Kind::Transport, format!("could not reach the remote{}", causes.unwrap_or_default()))
}

struct Http {
    session: Arc<Session>,
}

impl SmartSubtransport for Http {
    fn action(&self, url: &str, action: Service) -> Result<Box<dyn SmartSubtransportStream>, git2::Error> {
        let discover = |service| {
            let response = self.session.discover(url, service);
            let response =
                response.map_err(|failure| git2::Error::from_str(&self.session.fail(failure).to_string()))?;
            Ok(Box::new(Answer::new(Arc::clone(&self.session), response)) as Box<dyn SmartSubtransportStream>)
        };
        let exchange = |service| Box::new(Exchange::new(Arc::clone(&self.session), url.to_owned(), service));
        match action {
            Service::UploadPackLs => discover("git-upload-pack"),
            Service::ReceivePackLs => discover("git-receive-pack"),
            Service::UploadPack => Ok(exchange("git-upload-pack")),
            Service::ReceivePack => Ok(exchange("git-receive-pack")),
        }
    }

    fn close(&self) -> Result<(), git2::Error> {
        Ok(())
    }
}
