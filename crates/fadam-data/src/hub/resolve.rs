//! Where the hub has a file, and what it says about it.
//!
//! `GET <hub>/<repo>/resolve/<revision>/<file>` is answered with the bytes of a small file, or with a
//! redirect: to a renamed repository, and from there to the server that keeps large files, by an
//! address that is signed. The answer of the hub has `x-repo-commit`, `x-linked-etag` or `etag` (what
//! the contents are called), and `x-linked-size` where it redirects; otherwise the one byte that is
//! asked for says in its `Content-Range` how many there are.
//!
//! Redirects are followed here and not by ureq, so that the headers of each answer are seen, and that
//! the token is shown to the hub alone: to its scheme, host and port.

use std::time::Duration;

use ureq::http::{HeaderMap, HeaderValue, Response, StatusCode, Uri, header};
use ureq::{Agent, Body};

use super::failure::Failure;

/// The hub, unless `HF_ENDPOINT` has another.
const HUB: &str = "https://huggingface.co";

/// Redirects that are followed before they are a circle.
const REDIRECTS: usize = 10;

/// The header that only a hub has.
const COMMIT: &str = "x-repo-commit";

/// What the contents are called where they are elsewhere.
const LINKED_ETAG: &str = "x-linked-etag";

type Answer = Response<Body>;

/// Asks the hub, and whom it redirects to.
pub(super) struct Client {
    agent: Agent,
    hub: Uri,
    bearer: Option<HeaderValue>,
}

/// What the hub says of a file.
#[derive(Debug)]
pub(super) struct About {
    /// The commit that the revision is at.
    pub(super) commit: String,
    /// What the contents are called.
    pub(super) etag: String,
    pub(super) size: u64,
    /// Where the bytes are; signed, and good for some time only.
    pub(super) url: Uri,
}

impl Client {
    /// Waits `patience` for a name, for a connection, and for each read and write. Proxies are those of
    /// the environment.
    pub(super) fn new(
        endpoint: &str,
        token: Option<&str>,
        patience: Duration,
    ) -> Result<Self, Failure> {
        let endpoint = if endpoint.is_empty() { HUB } else { endpoint };
        let hub: Uri = endpoint.parse().map_err(|_| Failure::Endpoint)?;
        if !is_web(&hub) {
            return Err(Failure::Endpoint);
        }
        let bearer = token.map(|token| {
            let mut bearer = HeaderValue::from_str(&format!("Bearer {token}"))
                .map_err(|_| Failure::Nonsense("a token with characters that none has".into()))?;
            bearer.set_sensitive(true);
            Ok(bearer)
        });
        let config = Agent::config_builder()
            .max_redirects(0)
            .timeout_resolve(Some(patience))
            .timeout_connect(Some(patience))
            .timeout_per_read(Some(patience))
            .timeout_per_write(Some(patience))
            .accept_encoding("identity")
            .user_agent(concat!("fadam-data/", env!("CARGO_PKG_VERSION")));
        Ok(Self { agent: config.build().into(), hub, bearer: bearer.transpose()? })
    }

    /// What the hub says of the file at this path.
    pub(super) fn about(&self, path: &str) -> Result<About, Failure> {
        let url = format!("{}{path}", self.hub.to_string().trim_end_matches('/'));
        let url = url.parse().map_err(|_| Failure::Endpoint)?;
        // Of the server that knows the commit: its last answer, or the one that links to a large file.
        let mut told: Option<(Uri, HeaderMap)> = None;
        let (url, answer) = self.follow(url, "bytes=0-0", |url, headers| {
            let more = told.as_ref().is_none_or(|(teller, told)| {
                same_server(teller, url) && !told.contains_key(LINKED_ETAG)
            });
            if more && headers.contains_key(COMMIT) {
                told = Some((url.clone(), headers.clone()));
            }
        })?;
        let Some((teller, told)) = told else {
            let what = "an answer without x-repo-commit; is it the login page of a network?";
            return Err(Failure::Nonsense(what.to_owned()));
        };
        let size = match (text(&told, "x-linked-size"), content_range(answer.headers())) {
            (Some(size), _) => size.parse().ok(),
            (None, Some((_, total))) => total,
            // A page of whoever else answers has a length too.
            (None, None) if teller == url => answer.body().content_length(),
            (None, None) => None,
        };
        let size = size.ok_or_else(|| Failure::Nonsense("the size is not told".to_owned()))?;
        let etag = if told.contains_key(LINKED_ETAG) { LINKED_ETAG } else { "etag" };
        Ok(About { commit: name(&told, COMMIT)?, etag: name(&told, etag)?, size, url })
    }

    /// The answer behind all redirects, and where it is. Everyone's headers are shown to `look`.
    pub(super) fn follow(
        &self,
        mut url: Uri,
        range: &str,
        mut look: impl FnMut(&Uri, &HeaderMap),
    ) -> Result<(Uri, Answer), Failure> {
        for _ in 0..=REDIRECTS {
            let answer = self.get(&url, range)?;
            look(&url, answer.headers());
            if !answer.status().is_redirection() {
                return Ok((url, answer));
            }
            let location = text(answer.headers(), header::LOCATION.as_str());
            url = redirected(&url, location.unwrap_or_default())?;
        }
        Err(Failure::Nonsense(format!("more than {REDIRECTS} redirects")))
    }

    /// Without the token; with it where that is not enough, and where it is the hub that asks.
    fn get(&self, url: &Uri, range: &str) -> Result<Answer, Failure> {
        let of_hub = same_server(&self.hub, url);
        let get = || self.agent.get(url).header(header::RANGE, range);
        let answer = match (get().call(), &self.bearer) {
            (Err(ureq::Error::StatusCode(401 | 403 | 429)), Some(bearer)) if of_hub => {
                get().header(header::AUTHORIZATION, bearer).call()
            }
            (answer, _) => answer,
        };
        answer.map_err(|error| Failure::of_request(&error, of_hub))
    }
}

/// The first byte that an answer has, and how many there are in all if that is told; `None` where all
/// are sent.
pub(super) fn content_range(headers: &HeaderMap) -> Option<(u64, Option<u64>)> {
    let range = text(headers, header::CONTENT_RANGE.as_str())?.strip_prefix("bytes ")?;
    let (part, total) = range.split_once('/')?;
    Some((part.split('-').next()?.parse().ok()?, total.parse().ok()))
}

/// Whether an answer is the part that was asked for.
pub(super) fn is_part(answer: &Answer) -> bool {
    answer.status() == StatusCode::PARTIAL_CONTENT
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok().map(str::trim)
}

/// A header that becomes the name of a file or folder: `"a1"` and `W/"a1"` are `a1`, as in Python.
fn name(headers: &HeaderMap, header: &str) -> Result<String, Failure> {
    let value = text(headers, header).unwrap_or_default();
    let value = value.trim_start_matches("W/").trim_matches('"');
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if value.is_empty() || !value.chars().all(plain) {
        return Err(Failure::Nonsense(format!("{header} {value:?}")));
    }
    Ok(value.to_owned())
}

/// Where `location` is, seen from `from`.
fn redirected(from: &Uri, location: &str) -> Result<Uri, Failure> {
    let nonsense = |what: &str| Failure::Nonsense(format!("a redirect {what}"));
    let location = location.split('#').next().unwrap_or_default();
    let scheme = from.scheme_str().unwrap_or_default();
    let server = from.authority().map_or("", |server| server.as_str());
    let to = match location.as_bytes() {
        [] => return Err(nonsense("to nowhere")),
        [b'/', b'/', ..] => format!("{scheme}:{location}"),
        [b'/', ..] => format!("{scheme}://{server}{location}"),
        _ if location.contains("://") && !location.starts_with('?') => location.to_owned(),
        [b'?', ..] => format!("{scheme}://{server}{}{location}", from.path()),
        _ => {
            let folder = from.path().rsplit_once('/').map_or("", |(folder, _)| folder);
            format!("{scheme}://{server}{folder}/{location}")
        }
    };
    let to: Uri = to.parse().map_err(|_| nonsense("to what is no address"))?;
    match to.scheme_str() {
        _ if !is_web(&to) => Err(nonsense("to what is no address of the web")),
        Some("http") if scheme == "https" => Err(nonsense("from https to http")),
        _ => Ok(to),
    }
}

/// Whether it is `http://` or `https://`, with a host.
fn is_web(uri: &Uri) -> bool {
    matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some_and(|h| !h.is_empty())
}

/// Whether scheme, host and port are the same.
fn same_server(a: &Uri, b: &Uri) -> bool {
    let port = |uri: &Uri| uri.port_u16().or((uri.scheme_str() == Some("https")).then_some(443));
    let host = |uri: &Uri| uri.host().unwrap_or_default().to_ascii_lowercase();
    a.scheme() == b.scheme() && host(a) == host(b) && port(a).unwrap_or(80) == port(b).unwrap_or(80)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(text: &str) -> Uri {
        text.parse().unwrap()
    }

    #[test]
    fn a_token_is_for_one_scheme_host_and_port() {
        let hub = uri("https://hub.example/mirror");
        for same in ["https://hub.example/a", "https://HUB.example:443/b?c=d"] {
            assert!(same_server(&hub, &uri(same)), "{same}");
        }
        for other in [
            "http://hub.example/a",
            "http://hub.example:443/a",
            "https://hub.example:8443/a",
            "https://hub.example.evil.example/a",
            "https://evil.example/hub.example",
            "https://hub.example@evil.example/a",
        ] {
            assert!(!same_server(&hub, &uri(other)), "{other}");
        }
        assert!(same_server(&uri("http://a:80/"), &uri("http://a/")));
    }

    #[test]
    fn redirects_are_relative_or_not_and_never_from_https_to_http() {
        let from = uri("https://hub.example:8443/a/resolve/main/b?c");
        for (location, to) in [
            ("/new/b#part", "https://hub.example:8443/new/b"),
            ("other", "https://hub.example:8443/a/resolve/main/other"),
            ("?d=https://x", "https://hub.example:8443/a/resolve/main/b?d=https://x"),
            ("//cdn.example/b?s=1%2F2", "https://cdn.example/b?s=1%2F2"),
            ("HTTPS://cdn.example/b", "https://cdn.example/b"),
        ] {
            assert_eq!(redirected(&from, location).unwrap(), uri(to), "{location}");
        }
        for wrong in
            ["", "#", "http://hub.example:8443/b", "ftp://a/b", "https://", "a b", "file:///a"]
        {
            let failure = redirected(&from, wrong).unwrap_err();
            assert!(matches!(failure, Failure::Nonsense(_)), "{wrong}: {failure:?}");
        }
        let up = redirected(&uri("http://hub.example/a"), "https://cdn.example/b");
        assert_eq!(up.unwrap(), uri("https://cdn.example/b"));
    }

    #[test]
    fn headers_that_become_names() {
        let mut headers = HeaderMap::new();
        let mut name_of = |value: &'static str| {
            headers.insert("etag", HeaderValue::from_static(value));
            name(&headers, "etag")
        };
        for value in ["\"a1-2\"", "W/\"a1-2\"", "a1-2"] {
            assert_eq!(name_of(value).unwrap(), "a1-2");
        }
        for value in ["", "\"\"", "\"..\"", "\"../../b\"", "\"/etc/b\"", "\"a b\""] {
            assert!(matches!(name_of(value), Err(Failure::Nonsense(_))), "{value}");
        }
    }
}
