//! Keeps web pages out. A browser can reach more than a person thinks (a page on another port of localhost does send
//! strict same-site cookies), so a request that a page could have caused is refused before anything reads it.

use axum::extract::Request;
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use super::types::{Code, Problem};

/// Refuses what a foreign page caused.
pub(super) async fn refuse_foreign(request: Request, next: Next) -> Response {
    match check(request.headers()) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

fn check(headers: &HeaderMap) -> Result<(), Problem> {
    let mut hosts = headers.get_all(header::HOST).iter();
    match (hosts.next().map(axum::http::HeaderValue::as_bytes), hosts.next()) {
        (Some(b"flair" | b"localhost"), None) => {}
        _ => return Err(foreign("Host")),
    }
    if headers.contains_key(header::ORIGIN) {
        return Err(foreign("Origin"));
    }
    match headers.get("sec-fetch-site").map(axum::http::HeaderValue::as_bytes) {
        None | Some(b"none") => Ok(()),
        Some(_) => Err(foreign("Sec-Fetch-Site")),
    }
}

fn foreign(header: &str) -> Problem {
    Problem::new(
        Code::Denied,
        format!("the request came from somewhere else: its {header} is not this node's"),
    )
    .help("use `flair`, or a program of your own with `Host: flair` and no Origin")
}

#[cfg(test)]
mod tests {
    use super::super::HOST;
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn what_a_web_page_could_send_is_refused() {
        assert!(check(&headers(&[("host", HOST)])).is_ok());
        assert!(check(&headers(&[("host", "localhost")])).is_ok());
        assert!(check(&headers(&[("host", HOST), ("sec-fetch-site", "none")])).is_ok());
        for bad in [
            &[][..],
            &[("host", "localhost:3000")],
            &[("host", "evil.example")],
            &[("host", HOST), ("origin", "http://localhost:3000")],
            &[("host", HOST), ("origin", "null")],
            &[("host", HOST), ("sec-fetch-site", "same-site")],
            &[("host", HOST), ("sec-fetch-site", "cross-site")],
        ] {
            assert_eq!(check(&headers(bad)).unwrap_err().code, Code::Denied, "{bad:?}");
        }
        let mut twice = headers(&[("host", HOST)]);
        twice.append(header::HOST, "evil.example".parse().unwrap());
        assert!(check(&twice).is_err());
    }
}
