//! `GET /swagger/*`: what the toolbox can do, as an OpenAPI 2.0 description and a page that shows it (route 7 of the toolbox contract's index).
//!
//! `toolbox.json` is the vendor's published description, under the Apache licence; `ours.json` holds the routes beyond it. The build puts them together.

use std::io::Read;

use axum::Router;
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use flate2::read::GzDecoder;
use http::HeaderMap;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, VARY};
use pinfold_http::{ApiError, ApiResult};

const DESCRIPTION: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/description.json.gz"));
const PAGE: &str = include_str!("index.html");

pub(crate) fn router() -> Router {
    Router::new()
        .route("/swagger/", get(async || Redirect::permanent("index.html")))
        .route("/swagger/index.html", get(async || ([(CONTENT_TYPE, "text/html; charset=utf-8")], PAGE)))
        .route("/swagger/doc.json", get(description))
}

async fn description(headers: HeaderMap) -> ApiResult<Response> {
    let takes = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    let vary = [(CONTENT_TYPE, "application/json"), (VARY, "accept-encoding")];
    if takes.flat_map(|value| value.split(',')).any(|encoding| encoding.trim() == "gzip") {
        return Ok((vary, [(CONTENT_ENCODING, "gzip")], DESCRIPTION).into_response());
    }
    let mut text = Vec::new();
    GzDecoder::new(DESCRIPTION).read_to_end(&mut text).map_err(ApiError::internal)?;
    Ok((vary, text).into_response())
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use http::Request;
    use http_body_util::BodyExt;
    use serde_json::Value;
    use tower::ServiceExt;

    use super::*;

    async fn ask(encoding: &str) -> (HeaderMap, Vec<u8>) {
        let request = Request::get("/swagger/doc.json").header(ACCEPT_ENCODING, encoding);
        let response = router().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        let headers = response.headers().clone();
        (headers, response.into_body().collect().await.unwrap().to_bytes().to_vec())
    }

    #[tokio::test]
    async fn the_description_is_whole_with_and_without_compression() {
        let (headers, plain) = ask("identity").await;
        assert!(!headers.contains_key(CONTENT_ENCODING));
        let described: Value = serde_json::from_slice(&plain).unwrap();
        assert_eq!(described["info"]["version"], crate::VERSION);
        for path in ["/process/execute", "/system/metrics", "/process/tree"] {
            assert!(described["paths"][path].is_object(), "{path}");
        }
        let (headers, packed) = ask("br, gzip").await;
        assert_eq!(headers[CONTENT_ENCODING], "gzip");
        let mut unpacked = Vec::new();
        GzDecoder::new(packed.as_slice()).read_to_end(&mut unpacked).unwrap();
        assert_eq!(unpacked, plain);
        assert!(packed.len() < 24 << 10, "every sandbox carries these {} bytes", packed.len());
    }
}
