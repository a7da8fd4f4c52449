//! Computer use (toolbox contract 16.1): the virtual desktop is an optional part that this daemon does not bring. Each of its routes says so.

use axum::Router;
use axum::routing::{MethodFilter, on};
use pinfold_http::ApiError;

const GET: [&str; 13] = [
    "status",
    "process-status",
    "process/{name}/status",
    "process/{name}/logs",
    "process/{name}/errors",
    "screenshot",
    "screenshot/region",
    "screenshot/compressed",
    "screenshot/region/compressed",
    "mouse/position",
    "display/info",
    "display/windows",
    "a11y/tree",
];
const POST: [&str; 18] = [
    "start",
    "stop",
    "process/{name}/restart",
    "mouse/move",
    "mouse/click",
    "mouse/drag",
    "mouse/scroll",
    "mouse/down",
    "mouse/up",
    "keyboard/type",
    "keyboard/key",
    "keyboard/hotkey",
    "keyboard/down",
    "keyboard/up",
    "a11y/find",
    "a11y/node/focus",
    "a11y/node/invoke",
    "a11y/node/value",
];

pub(crate) fn router() -> Router {
    let get = GET.iter().map(|path| (MethodFilter::GET, path));
    let post = POST.iter().map(|path| (MethodFilter::POST, path));
    get.chain(post).fold(Router::new(), |router, (method, path)| {
        let code = if path.starts_with("a11y/") { "A11Y_UNAVAILABLE" } else { "SERVICE_UNAVAILABLE" };
        router.route(&format!("/computeruse/{path}"), on(method, async move || unavailable().code(code)))
    })
}

fn unavailable() -> ApiError {
    ApiError::unavailable("computer use is not available in this sandbox")
        .with("details", "no virtual desktop is installed beside the daemon")
        .with("solution", "use a sandbox image whose daemon has the computer-use part")
}
