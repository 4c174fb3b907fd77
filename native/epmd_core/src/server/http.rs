//! The HTTP that probes speak: one `GET`, one response. Pure functions on bytes.

use percent_encoding::percent_decode_str;

use crate::health::Question;
use crate::node::NodeName;

/// The longest head of a request.
pub(crate) const MAX_HEAD: usize = 4 * 1024;
/// The most header fields of a request.
const MAX_FIELDS: usize = 64;

const TEXT: &str = "text/plain; charset=utf-8";
/// Prometheus' text format.
const EXPOSITION: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// About the VM of this node or, without a name, the VM that owns the port.
    Health(Question, Option<NodeName>),
    Metrics,
}

/// The first line of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    Ok,
    BadRequest,
    NotFound,
    Unavailable,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Response {
    pub(crate) status: Status,
    media_type: &'static str,
    body: String,
}

/// Whether a connection that begins so has an HTTP request and no other: to EPMD these bytes are a length of 18,245,
/// which is above any that is allowed.
pub(crate) fn begins(bytes: &[u8]) -> bool {
    bytes.starts_with(b"GE")
}

/// What a request asks for; `None` while its head is not whole. The error is the response to one that asks for nothing
/// that there is. Bytes behind the head are not looked at.
pub(crate) fn decode(bytes: &[u8]) -> Result<Option<Asked>, Response> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut request = httparse::Request::new(&mut fields);
    let head = &bytes[..bytes.len().min(MAX_HEAD)];
    match request.parse(head) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) if bytes.len() < MAX_HEAD => return Ok(None),
        Ok(httparse::Status::Partial) => {
            return Err(Response::bad_request(format!("the head of the request is longer than {MAX_HEAD} bytes")));
        }
        Err(error) => return Err(Response::bad_request(format!("this is not a request of HTTP/1.0 or 1.1: {error}"))),
    }
    match (request.method, request.path) {
        (Some("GET"), Some(target)) => {
            asked(target).map(Some).ok_or_else(|| Response::not_found("there are /live, /ready and /metrics"))
        }
        _ => Err(Response::bad_request("only GET is answered")),
    }
}

fn asked(target: &str) -> Option<Asked> {
    let path = target.split('?').next()?.strip_prefix('/')?;
    let (what, name) = path.split_once('/').map_or((path, None), |(what, name)| (what, Some(name)));
    let name = match name {
        None => None,
        Some(name) => Some(NodeName::new(&percent_decode_str(name).collect::<Vec<_>>()).ok()?),
    };
    match what {
        "live" => Some(Asked::Health(Question::Live, name)),
        "ready" => Some(Asked::Health(Question::Ready, name)),
        "metrics" if name.is_none() => Some(Asked::Metrics),
        _ => None,
    }
}

impl Status {
    fn line(self) -> &'static str {
        match self {
            Self::Ok => "200 OK",
            Self::BadRequest => "400 Bad Request",
            Self::NotFound => "404 Not Found",
            Self::Unavailable => "503 Service Unavailable",
        }
    }
}

impl Response {
    /// One line of text.
    pub(crate) fn text(status: Status, line: impl Into<String>) -> Self {
        let mut body = line.into();
        body.push('\n');
        Self { status, media_type: TEXT, body }
    }

    /// Metrics in Prometheus' text format.
    pub(crate) fn metrics(body: String) -> Self {
        Self { status: Status::Ok, media_type: EXPOSITION, body }
    }

    pub(crate) fn not_found(line: &str) -> Self {
        Self::text(Status::NotFound, line)
    }

    fn bad_request(line: impl Into<String>) -> Self {
        Self::text(Status::BadRequest, line)
    }

    /// Encodes the response.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let Self { status, media_type, body } = self;
        let (status, length) = (status.line(), body.len());
        format!(
            "HTTP/1.1 {status}\r\nContent-Type: {media_type}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
        )
        .into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn get(target: &str) -> Result<Option<Asked>, Response> {
        decode(format!("GET {target} HTTP/1.1\r\nHost: host:4369\r\nUser-Agent: kube-probe/1.33\r\n\r\n").as_bytes())
    }

    fn about(question: Question, name: Option<&str>) -> Result<Option<Asked>, Response> {
        Ok(Some(Asked::Health(question, name.map(|name| NodeName::new(name.as_bytes()).expect("a valid name")))))
    }

    fn status(decoded: Result<Option<Asked>, Response>) -> Status {
        decoded.expect_err("it asks for nothing").status
    }

    #[test]
    fn what_can_be_asked_for() {
        assert_eq!(get("/live"), about(Question::Live, None));
        assert_eq!(get("/ready"), about(Question::Ready, None));
        assert_eq!(get("/metrics"), Ok(Some(Asked::Metrics)));
        assert_eq!(get("/live?verbose"), about(Question::Live, None));
        assert_eq!(get("/live/app"), about(Question::Live, Some("app")));
        assert_eq!(get("/ready/app%2F1%c3%a9"), about(Question::Ready, Some("app/1é")));
        assert_eq!(decode(b"GET /live HTTP/1.0\r\n\r\n"), about(Question::Live, None));
    }

    #[test]
    fn what_is_not_there_is_not_found() {
        for target in
            ["/", "/lively", "/live/", "/live/a%20b", "/live/%ff", "/live/a%0d%0ab", "/metrics/app", "*", "live"]
        {
            assert_eq!(status(get(target)), Status::NotFound, "{target}");
        }
    }

    #[test]
    fn what_is_no_get_of_http_is_a_bad_request() {
        for bytes in [
            &b"GET /live\r\n\r\n"[..],
            b"GET /live HTTP/2.0\r\n\r\n",
            b"GEX /live HTTP/1.1\r\n\r\n",
            b"GE\0\0",
            b"GET /live HTTP/1.1\r\nno field\r\n\r\n",
        ] {
            assert_eq!(status(decode(bytes)), Status::BadRequest, "{:?}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn a_head_is_bounded() {
        let with_field = |length: usize| {
            let head = "GET /live HTTP/1.1\r\nField: ";
            [head.as_bytes(), &vec![b'x'; length - head.len() - 4], b"\r\n\r\n"].concat()
        };
        assert_eq!(decode(&with_field(MAX_HEAD)), about(Question::Live, None));
        assert_eq!(decode(&with_field(MAX_HEAD + 1)[..MAX_HEAD - 1]), Ok(None));
        assert_eq!(status(decode(&with_field(MAX_HEAD + 1))), Status::BadRequest);
        let fields = "A: b\r\n".repeat(MAX_FIELDS + 1);
        let many = format!("GET /live HTTP/1.1\r\n{fields}\r\n");
        assert_eq!(status(decode(many.as_bytes())), Status::BadRequest);
    }

    #[test]
    fn a_response_says_how_long_it_is_and_that_it_is_the_last() {
        let response = Response::text(Status::Unavailable, "no");
        assert_eq!(
            String::from_utf8(response.encode()).expect("text"),
            "HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 3\r\n\
             Connection: close\r\n\r\nno\n"
        );
    }

    proptest! {
        #[test]
        fn the_outcome_does_not_depend_on_how_the_bytes_come(bytes in vec(any::<u8>(), 0..60), valid: bool) {
            let bytes = if valid { [b"GET /live HTTP/1.1\r\n\r\n", &bytes[..]].concat() } else { [b"GET ", &bytes[..]].concat() };
            let first = (0..=bytes.len()).map(|end| decode(&bytes[..end])).find(|outcome| *outcome != Ok(None));
            prop_assert_eq!(first.unwrap_or(Ok(None)), decode(&bytes));
        }
    }
}
