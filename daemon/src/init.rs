//! `POST /init` (toolbox contract 4): the platform hands over the token that telemetry is sent with.

use axum::extract::State;
use axum::routing::post;
use axum::{Json, Router};
use pinfold_http::OptionalJsonBody;
use pinfold_proto::toolbox::system::{Init, Message};
use tokio::sync::watch;

/// The latest token; telemetry starts anew whenever it changes.
pub(crate) type Token = watch::Sender<Option<String>>;

pub(crate) fn router(token: Token) -> Router {
    Router::new().route("/init", post(init)).with_state(token)
}

async fn init(State(token): State<Token>, OptionalJsonBody(body): OptionalJsonBody<Init>) -> Json<Message> {
    token.send_replace(Some(body.token));
    Json(Message { message: "initialized".to_owned() })
}
