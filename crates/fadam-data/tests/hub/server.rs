//! A hub on loopback: enough of the protocol, and every way in which it goes wrong.
//!
//! As the real one does, it answers `GET /<repo>/resolve/<revision>/<file>` with the headers
//! `x-repo-commit` and `etag` (`x-linked-etag` for a large file, which it redirects to another
//! address), takes ranges, and redirects renamed repositories by a relative `Location`.

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// What every answer says the revision is.
pub(crate) const COMMIT: &str = "1ddc917116b730e1859edef32896ec5c16be51d0";

/// What the hub does instead of answering.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fault {
    /// Another status, to whatever is asked of the file.
    Status(u16),
    /// So many bytes of what was asked for, then the end of the connection.
    CutAfter(usize),
    /// The whole file where its rest was asked for.
    WholeFile,
    /// Nothing, until the client goes.
    Silence,
    /// What was asked for, in ten parts with so many milliseconds between them.
    Slow(u64),
    /// A redirect to where the client is already, time and again.
    Circle,
    /// A size of the whole that it does not have.
    Says(usize),
    /// So many bytes of what was asked for, then nothing, until the client goes.
    Stall(usize),
    /// Bytes behind those that the headers speak of.
    Tail,
    /// The whole file, compressed though nobody asked for that.
    Gzip,
    /// A page of a network that wants a login: another server's answer, with status 200.
    Page,
}

/// A request, as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) path: String,
    pub(crate) range: Option<String>,
    pub(crate) authorization: Option<String>,
    pub(crate) accept_encoding: Option<String>,
}

#[derive(Default)]
struct State {
    files: BTreeMap<String, Vec<u8>>,
    large: Vec<String>,
    renamed: BTreeMap<String, String>,
    /// Another server that has the large files.
    elsewhere: Option<String>,
    faults: BTreeMap<String, VecDeque<Fault>>,
    /// Repositories that ask for this token.
    gated: BTreeMap<String, String>,
    requests: Vec<Request>,
}

/// The server; it lives as long as the test's process.
#[derive(Clone)]
pub(crate) struct Server {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl Server {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = Self { address, state: Arc::default() };
        let serving = server.clone();
        thread::spawn(move || {
            for connection in listener.incoming() {
                let server = serving.clone();
                // A client that goes away is no failure of the server.
                thread::spawn(move || drop(server.answer(connection.unwrap())));
            }
        });
        server
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Has a file, of a repository such as `datasets/allenai/c4`, that is answered directly.
    pub(crate) fn put(&self, repo: &str, file: &str, bytes: impl Into<Vec<u8>>) {
        self.state.lock().unwrap().files.insert(format!("{repo}/{file}"), bytes.into());
    }

    /// Has a file that is redirected to where large ones are.
    pub(crate) fn put_large(&self, repo: &str, file: &str, bytes: impl Into<Vec<u8>>) {
        self.put(repo, file, bytes);
        self.state.lock().unwrap().large.push(format!("{repo}/{file}"));
    }

    /// Sends those who ask for the repository `old` to `new`.
    pub(crate) fn rename(&self, old: &str, new: &str) {
        self.state.lock().unwrap().renamed.insert(old.to_owned(), new.to_owned());
    }

    /// Redirects to another server for large files.
    pub(crate) fn keep_large_at(&self, other: &Server) {
        self.state.lock().unwrap().elsewhere = Some(other.endpoint());
    }

    /// Asks for a token.
    pub(crate) fn gate(&self, repo: &str, token: &str) {
        self.state.lock().unwrap().gated.insert(repo.to_owned(), token.to_owned());
    }

    /// Does this, once each and in this order, when the file is asked for. A connection is only cut,
    /// and a range only overlooked, where more than the first byte is asked for.
    pub(crate) fn fail(&self, repo: &str, file: &str, faults: impl IntoIterator<Item = Fault>) {
        let mut state = self.state.lock().unwrap();
        state.faults.entry(format!("{repo}/{file}")).or_default().extend(faults);
    }

    /// Does no more of what [`fail`](Self::fail) asked for.
    pub(crate) fn forgive(&self, repo: &str, file: &str) {
        self.state.lock().unwrap().faults.remove(&format!("{repo}/{file}"));
    }

    fn fail_again(&self, key: &str, fault: Fault) {
        self.state.lock().unwrap().faults.entry(key.to_owned()).or_default().push_front(fault);
    }

    /// What was asked for so far.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.state.lock().unwrap().requests.clone()
    }

    fn answer(&self, connection: TcpStream) -> std::io::Result<()> {
        let mut reader = BufReader::new(connection.try_clone()?);
        let request = read_request(&mut reader)?;
        let mut state = self.state.lock().unwrap();
        state.requests.push(request.clone());
        let (moved, key) = match request.path.split_once("/resolve/main/") {
            Some((repo, file)) => {
                let repo = repo.trim_start_matches('/');
                if let Some(new) = state.renamed.get(repo) {
                    let to = format!("Location: /{new}/resolve/main/{file}\r\n");
                    return status(connection, 307, &to);
                }
                if let Some(token) = state.gated.get(repo) {
                    match &request.authorization {
                        None => return status(connection, 401, ""),
                        Some(given) if *given != format!("Bearer {token}") => {
                            return status(connection, 403, "");
                        }
                        Some(_) => {}
                    }
                }
                (false, format!("{repo}/{file}"))
            }
            None => (true, request.path.trim_start_matches("/lfs/").to_owned()),
        };
        let Some(bytes) = state.files.get(&key).cloned() else {
            return status(connection, 404, "");
        };
        let redirected = state.large.contains(&key) && !moved;
        let whole = request.range.as_deref() != Some("bytes=0-0") && !redirected;
        let faults = state.faults.entry(key.clone()).or_default();
        let fault = match faults.front() {
            Some(Fault::CutAfter(_) | Fault::WholeFile | Fault::Stall(_)) if !whole => None,
            _ => faults.pop_front(),
        };
        let place = state.elsewhere.clone().unwrap_or_else(|| self.endpoint());
        drop(state);
        match fault {
            Some(Fault::Circle) => {
                self.fail_again(&key, Fault::Circle);
                status(connection, 302, &format!("Location: {}\r\n", request.path))
            }
            Some(Fault::Status(code)) => status(connection, code, ""),
            Some(Fault::Silence) => reader.read_line(&mut String::new()).map(drop),
            Some(Fault::Page) => page(connection),
            Some(Fault::Gzip) if !redirected => gzip(connection, &bytes),
            _ if redirected => {
                let etag = etag(&bytes);
                let to = format!("{place}/lfs/{key}");
                let headers = format!(
                    "x-repo-commit: {COMMIT}\r\nx-linked-etag: \"{etag}\"\r\nx-linked-size: {}\r\n\
                     ETag: \"other\"\r\nLocation: {to}\r\n",
                    bytes.len()
                );
                status(connection, 302, &headers)
            }
            fault => send(connection, &bytes, request.range.as_deref(), fault),
        }
    }
}

fn read_request(reader: &mut impl BufRead) -> std::io::Result<Request> {
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut request = Request { path, range: None, authorization: None, accept_encoding: None };
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { return Ok(request) };
        match name.to_lowercase().as_str() {
            "range" => request.range = Some(value.to_owned()),
            "accept-encoding" => request.accept_encoding = Some(value.to_owned()),
            "authorization" => request.authorization = Some(value.to_owned()),
            _ => {}
        }
    }
}

fn status(mut connection: TcpStream, code: u16, headers: &str) -> std::io::Result<()> {
    write!(
        connection,
        "HTTP/1.1 {code} .\r\nContent-Length: 0\r\nConnection: close\r\n{headers}\r\n"
    )
}

fn page(mut connection: TcpStream) -> std::io::Result<()> {
    let page = "<html>Who are you?</html>";
    let length = page.len();
    let headers = format!("Content-Type: text/html\r\nETag: \"page\"\r\nContent-Length: {length}");
    write!(connection, "HTTP/1.1 200 .\r\nConnection: close\r\n{headers}\r\n\r\n{page}")
}

fn gzip(mut connection: TcpStream, bytes: &[u8]) -> std::io::Result<()> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes)?;
    let body = encoder.finish()?;
    write!(
        connection,
        "HTTP/1.1 200 .\r\nContent-Length: {}\r\nConnection: close\r\nETag: \"{}\"\r\n\
         x-repo-commit: {COMMIT}\r\nContent-Encoding: gzip\r\n\r\n",
        body.len(),
        etag(bytes)
    )?;
    connection.write_all(&body)
}

/// The part of `bytes` that `range` asks for.
fn send(
    mut connection: TcpStream,
    bytes: &[u8],
    range: Option<&str>,
    fault: Option<Fault>,
) -> std::io::Result<()> {
    let range = range.filter(|_| !matches!(fault, Some(Fault::WholeFile)));
    let (from, to) = match range.and_then(|range| range.strip_prefix("bytes=")?.split_once('-')) {
        None => (0, bytes.len()),
        Some((from, "")) => (from.parse().unwrap(), bytes.len()),
        Some((from, to)) => (from.parse().unwrap(), to.parse::<usize>().unwrap() + 1),
    };
    if from >= bytes.len() {
        return status(connection, 416, "");
    }
    let part = &bytes[from..to.min(bytes.len())];
    let size = if let Some(Fault::Says(size)) = fault { size } else { bytes.len() };
    let code = if range.is_some() { 206 } else { 200 };
    write!(
        connection,
        "HTTP/1.1 {code} .\r\nContent-Length: {}\r\nConnection: close\r\nETag: \"{}\"\r\n\
         x-repo-commit: {COMMIT}\r\nContent-Range: bytes {from}-{}/{size}\r\n\r\n",
        part.len(),
        etag(bytes),
        from + part.len() - 1,
    )?;
    match fault {
        Some(Fault::CutAfter(count)) => connection.write_all(&part[..count.min(part.len())]),
        Some(Fault::Slow(ms)) => part.chunks(part.len().div_ceil(10)).try_for_each(|bytes| {
            thread::sleep(Duration::from_millis(ms));
            connection.write_all(bytes)
        }),
        Some(Fault::Stall(count)) => {
            connection.write_all(&part[..count.min(part.len())])?;
            connection.read(&mut [0]).map(drop)
        }
        Some(Fault::Tail) => connection.write_all(&[part, b"and more"].concat()),
        _ => connection.write_all(part),
    }
}

/// Some name of the contents.
fn etag(bytes: &[u8]) -> String {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    format!("{:08x}{:x}", crc.sum(), bytes.len())
}
