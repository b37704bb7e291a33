//! The console's files, embedded when the manager was built, with the right headers.
//!
//! Paths that are no file get `index.html`, since the console routes in the browser. When the
//! console was not built, a plain page says how to.
//!
//! Not for: the API, which answers its own 404s.

use axum::{
    http::{HeaderMap, HeaderValue, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};

/// One embedded file.
#[derive(Debug, Clone, Copy)]
struct Asset {
    /// Its path below `/`, without a slash in front.
    path: &'static str,
    /// Its bytes.
    bytes: &'static [u8],
    /// Its bytes by gzip, where that makes it smaller; else empty.
    gzip: &'static [u8],
    /// A hash of its bytes, for `ETag`.
    etag: &'static str,
}

// `static ASSETS: &[Asset]`, ordered by path; made by build.rs from console/dist.
include!(concat!(env!("OUT_DIR"), "/assets.rs"));

/// The page when the console was not built.
const NOT_BUILT: &str = "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\">\
    <title>Tributary</title><h1>The console is not built into this manager</h1>\
    <p>Run <code>make console</code> and build the manager again. The API works: \
    <a href=\"/api/v1/topics\">/api/v1/topics</a>, \
    <a href=\"/api/openapi.json\">/api/openapi.json</a>.</p></html>\n";

/// What the console may load and do: only what this server gives. Ant Design and `ECharts` write
/// `style` attributes and elements, so inline styles are allowed; inline scripts are not.
const POLICY: &str = "default-src 'self'; style-src 'self' 'unsafe-inline'; \
    img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; object-src 'none'; \
    base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

fn find(path: &str) -> Option<&'static Asset> {
    let index = ASSETS.binary_search_by(|asset| asset.path.cmp(path)).ok()?;
    ASSETS.get(index)
}

fn content_type(path: &str) -> &'static str {
    match path.rsplit_once('.').map_or("", |(_, extension)| extension) {
        "html" => "text/html; charset=utf-8",
        "js" | "mjs" => "text/javascript; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "json" | "map" => "application/json",
        "webmanifest" => "application/manifest+json",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "ico" => "image/x-icon",
        "jpg" | "jpeg" => "image/jpeg",
        "webp" => "image/webp",
        "woff2" => "font/woff2",
        "woff" => "font/woff",
        "txt" => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}

/// Files below `assets/` have a hash of their content in their names.
fn cache_control(path: &str) -> &'static str {
    if path.starts_with("assets/") {
        "public, max-age=31536000, immutable"
    } else {
        "no-cache"
    }
}

/// Headers that every answer of the manager has.
pub(crate) fn security_headers(headers: &mut HeaderMap) {
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "same-origin"),
    ] {
        headers
            .entry(name)
            .or_insert(HeaderValue::from_static(value));
    }
}

fn accepts_gzip(headers: &HeaderMap) -> bool {
    let accepted = headers
        .get(header::ACCEPT_ENCODING)
        .and_then(|value| value.to_str().ok());
    accepted.unwrap_or_default().split(',').any(|coding| {
        let mut parts = coding.split(';').map(str::trim);
        let named = parts
            .next()
            .is_some_and(|name| name.eq_ignore_ascii_case("gzip"));
        named && !parts.any(|part| matches!(part, "q=0" | "q=0.0" | "q=0.00" | "q=0.000"))
    })
}

/// A file of the console, or its index for every path without a file.
pub(crate) async fn serve(uri: Uri, headers: HeaderMap) -> Response {
    let path = uri.path().trim_start_matches('/');
    let asset = match find(path) {
        Some(asset) => asset,
        // A hashed file that is gone is an old page's; its index would be no script.
        None if path.starts_with("assets/") => return StatusCode::NOT_FOUND.into_response(),
        None => match find("index.html") {
            Some(index) => index,
            None => {
                let kind = [(header::CONTENT_TYPE, content_type("index.html"))];
                return (StatusCode::NOT_FOUND, kind, NOT_BUILT).into_response();
            }
        },
    };
    answer(asset, &headers)
}

fn answer(asset: &'static Asset, headers: &HeaderMap) -> Response {
    let fixed = [
        (header::CONTENT_TYPE, content_type(asset.path)),
        (header::CACHE_CONTROL, cache_control(asset.path)),
        (header::ETAG, asset.etag),
        (header::VARY, "accept-encoding"),
    ];
    let known = headers
        .get(header::IF_NONE_MATCH)
        .and_then(|value| value.to_str().ok());
    if known.is_some_and(|known| known.split(',').any(|tag| tag.trim() == asset.etag)) {
        return (StatusCode::NOT_MODIFIED, fixed).into_response();
    }
    if !asset.gzip.is_empty() && accepts_gzip(headers) {
        return (fixed, [(header::CONTENT_ENCODING, "gzip")], asset.gzip).into_response();
    }
    (fixed, asset.bytes).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_is_sent_only_to_who_takes_it() {
        for (value, expected) in [
            ("gzip", true),
            ("br, gzip;q=0.8", true),
            ("GZIP", true),
            ("", false),
            ("br", false),
            ("gzip;q=0", false),
        ] {
            let headers =
                HeaderMap::from_iter([(header::ACCEPT_ENCODING, HeaderValue::from_static(value))]);
            assert_eq!(accepts_gzip(&headers), expected, "{value}");
        }
    }

    #[test]
    fn embedded_files_are_in_order() {
        assert!(ASSETS.is_sorted_by(|a, b| a.path < b.path));
    }

    #[test]
    fn hashed_files_are_kept_for_ever_and_others_are_asked_for() {
        assert!(cache_control("assets/index-1a2b.js").contains("immutable"));
        assert_eq!(cache_control("index.html"), "no-cache");
        assert_eq!(
            content_type("assets/index-1a2b.js"),
            "text/javascript; charset=utf-8"
        );
    }
}
