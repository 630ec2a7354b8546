//! Network cameras: MJPEG over plain HTTP.

use std::{
    io::{self, Read},
    time::{Duration, Instant},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use percent_encoding::percent_decode_str;
use ureq::{
    Agent, Body, Error,
    http::{Response, StatusCode, Uri, header},
};

use super::{
    PictureError, SourceError, SourceOptions, jpeg,
    live::{Feed, Limits, Outlet},
    mjpeg::{Found, MAX_JPEG, Splitter},
    multipart::{MediaType, Part, Parts},
};

const LIMITS: Limits = Limits { first: Duration::from_secs(10), next: Duration::from_secs(5) };
/// How often a camera that gives single pictures is asked for one, unless `--fps` says.
const POLL_FPS: u32 = 5;

const ADVICE: &str = "check its address, power and network; `curl -v ADDRESS` shows what it answers";

/// A network camera.
pub struct Http {
    /// Without user, password and query, which may hold secrets too.
    name: String,
    url: Uri,
    /// The value of the header `Authorization`.
    authorization: Option<String>,
    fps: u32,
}

impl Http {
    /// `address` is `http://[USER:PASSWORD@]HOST[:PORT]/PATH`.
    pub fn new(address: &str, options: &SourceOptions) -> Result<Self, SourceError> {
        let invalid = || {
            let advice = "give http://HOST/PATH or http://USER:PASSWORD@HOST:PORT/PATH; a special character in a \
                          password is written as %40 for @";
            SourceError::new("--source http:…", "not a valid address", advice)
        };
        let (user, url) = split_user(address).ok_or_else(invalid)?;
        let url: Uri = url.parse().map_err(|_| invalid())?;
        if url.host().is_none_or(str::is_empty) {
            return Err(invalid());
        }
        let authorization = user.map(|user| {
            let user: Vec<u8> = percent_decode_str(user).collect();
            format!("Basic {}", BASE64_STANDARD.encode(user))
        });
        Ok(Self { name: shown(address), url, authorization, fps: options.fps.unwrap_or(POLL_FPS) })
    }

    fn get(&self, agent: &Agent) -> Result<Response<Body>, SourceError> {
        let mut request =
            agent.get(&self.url).header(header::ACCEPT, "multipart/x-mixed-replace, image/jpeg");
        if let Some(authorization) = &self.authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        let response = request.call().map_err(|error| self.unreachable(error))?;
        match response.status() {
            status if status.is_success() => Ok(response),
            StatusCode::UNAUTHORIZED => Err(self.unauthorized(&response)),
            status => {
                let advice = match status {
                    StatusCode::NOT_FOUND => "look in the camera's manual for the path of its MJPEG stream",
                    StatusCode::SERVICE_UNAVAILABLE => {
                        "close other viewers: many cameras serve only one or two"
                    }
                    _ => ADVICE,
                };
                Err(self.error(format!("it answers {status}"), advice))
            }
        }
    }

    fn error(&self, reason: impl ToString, advice: &str) -> SourceError {
        SourceError::new(&self.name, reason, advice)
    }

    fn unreachable(&self, error: Error) -> SourceError {
        let reason = match &error {
            Error::Io(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                "the connection is refused: nothing listens there".to_owned()
            }
            Error::Io(error) => format!("the connection fails: {error}"),
            Error::Timeout(_) => format!("no answer within {} s", LIMITS.next.as_secs()),
            Error::HostNotFound => "no such host".to_owned(),
            Error::RequireHttpsOnly(_) | Error::TlsRequired => return encrypted(&self.name),
            Error::Protocol(error) => format!("it does not speak HTTP: {error}"),
            // The rest may quote the address.
            _ => "the request fails".to_owned(),
        };
        self.error(reason, ADVICE)
    }

    fn unauthorized(&self, response: &Response<Body>) -> SourceError {
        let asked = response.headers().get_all(header::WWW_AUTHENTICATE);
        let asks_for = |scheme: &str| {
            asked.iter().filter_map(|value| value.to_str().ok()).any(|value| {
                value.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme))
            })
        };
        if asks_for("digest") && !asks_for("basic") {
            let advice = "allow Basic authentication in the camera's settings, or use --source 'exec:curl -sN --digest \
                          -u USER:PASSWORD ADDRESS'";
            return self.error("it wants Digest authentication (401), which is not supported", advice);
        }
        match self.authorization {
            Some(_) => self.error("it refuses the user or the password (401)", "correct them"),
            None => self.error(
                "it wants a user and a password (401)",
                "give them in the address: http://USER:PASSWORD@HOST/PATH",
            ),
        }
    }

    /// Takes pictures from one response after another.
    fn poll(&self, agent: &Agent, first: Response<Body>, outlet: &Outlet) -> Result<(), SourceError> {
        let mut response = first;
        loop {
            let body = response.body_mut().with_config().limit(MAX_JPEG as u64).read_to_vec();
            let bytes = body.map_err(|error| self.unreachable(error))?;
            outlet.put(Instant::now(), move || jpeg::decode(jpeg::trim(&bytes)?));
            if !outlet.pause(Duration::from_secs(1) / self.fps) {
                return Ok(());
            }
            response = self.get(agent)?;
        }
    }

    fn parts(&self, input: impl Read, boundary: &str, outlet: &Outlet) -> Result<(), SourceError> {
        let mut parts = Parts::new(input, boundary);
        while let Some(part) = parts.next_part().map_err(|error| self.broke_off(&error))? {
            match part {
                Part::Whole { media_type: Some(kind), .. } if !kind.starts_with("image/") => {}
                Part::Whole { body, .. } => {
                    let bytes = body.to_vec();
                    outlet.put(Instant::now(), move || jpeg::decode(jpeg::trim(&bytes)?));
                }
                Part::Broken(reason) => {
                    outlet.put(Instant::now(), move || Err(PictureError::CutShort(reason)));
                }
            }
        }
        Err(self.error("it has ended the stream", ADVICE))
    }

    fn pictures(&self, input: impl Read, outlet: &Outlet) -> Result<(), SourceError> {
        let mut splitter = Splitter::new(input);
        while let Some(found) = splitter.next_picture().map_err(|error| self.broke_off(&error))? {
            match found {
                Found::Jpeg(bytes) => {
                    let bytes = bytes.to_vec();
                    outlet.put(Instant::now(), move || jpeg::decode(&bytes));
                }
                Found::Broken(reason) => {
                    outlet.put(Instant::now(), move || Err(PictureError::CutShort(reason)));
                }
            }
        }
        Err(self.error("it has ended the stream", ADVICE))
    }

    fn broke_off(&self, error: &io::Error) -> SourceError {
        match error.kind() {
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => {
                self.error(format!("no picture for {} s", LIMITS.next.as_secs()), ADVICE)
            }
            _ => self.error(format!("the connection broke off: {error}"), ADVICE),
        }
    }
}

impl Feed for Http {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn limits(&self) -> Limits {
        LIMITS
    }

    fn run(&mut self, outlet: &Outlet) -> Result<(), SourceError> {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .proxy(None)
            .user_agent(concat!("mien/", env!("CARGO_PKG_VERSION")))
            .timeout_resolve(Some(LIMITS.next))
            .timeout_connect(Some(LIMITS.next))
            .timeout_recv_response(Some(LIMITS.next))
            .timeout_per_read(Some(LIMITS.next))
            .build();
        let agent = Agent::from(config);
        let response = self.get(&agent)?;
        let content_type = response.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let kind = MediaType::parse(content_type.unwrap_or("video/x-motion-jpeg"));
        outlet.describe(format!("{}, live MJPEG", self.name));
        let result = match (kind.essence.as_str(), kind.boundary) {
            ("image/jpeg" | "image/jpg", _) => {
                outlet.describe(format!("{}, single pictures, {} a second", self.name, self.fps));
                return self.poll(&agent, response, outlet);
            }
            (essence, Some(boundary)) if essence.starts_with("multipart/") => {
                self.parts(Watched { input: response.into_body().into_reader(), outlet }, &boundary, outlet)
            }
            ("video/x-motion-jpeg" | "video/x-mjpeg" | "video/mjpeg" | "application/octet-stream", _) => {
                self.pictures(Watched { input: response.into_body().into_reader(), outlet }, outlet)
            }
            (essence, _) if essence.starts_with("multipart/") => {
                self.pictures(Watched { input: response.into_body().into_reader(), outlet }, outlet)
            }
            (essence, _) => {
                let advice = "look in the camera's manual for the path of its MJPEG stream; of other kinds of video, \
                              ffmpeg makes one: --source 'exec:ffmpeg -i ADDRESS -f mjpeg -'";
                Err(self.error(format!("it sends {essence}, not pictures"), advice))
            }
        };
        match outlet.goes_on() {
            Ok(false) => Ok(()),
            _ => result,
        }
    }
}

/// A connection that ends when nothing more is wanted or the next picture is overdue, even if bytes still trickle in.
struct Watched<'a, R> {
    input: R,
    outlet: &'a Outlet,
}

impl<R: Read> Read for Watched<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.outlet.goes_on() {
            Ok(true) => self.input.read(buffer),
            Ok(false) => Ok(0),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

/// `USER:PASSWORD` and the address without them.
fn split_user(address: &str) -> Option<(Option<&str>, String)> {
    let (scheme, rest) = address.split_once("://")?;
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    match authority.rsplit_once('@') {
        Some((user, host)) => Some((Some(user), format!("{scheme}://{host}{path}"))),
        None => Some((None, format!("{scheme}://{authority}{path}"))),
    }
}

/// A source as it may be shown to anybody: without the user, the password and the query of an address.
pub fn shown(source: &str) -> String {
    match split_user(source).filter(|_| source.starts_with("http")) {
        Some((_, url)) => url.split(['?', '#']).next().unwrap_or_default().to_owned(),
        None => source.to_owned(),
    }
}

/// The refusal of an encrypted stream.
pub fn encrypted(address: &str) -> SourceError {
    SourceError::new(
        shown(address),
        "encrypted streams (https) are not read",
        "use the camera's http:// address in a network that you trust, or --source 'exec:curl -sN ADDRESS'",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_shown() {
        assert_eq!(shown("http://me:se@cret@cam:81/a/b.mjpg?user=me&pwd=x#y"), "http://cam:81/a/b.mjpg");
        assert_eq!(shown("http://cam"), "http://cam/");
        assert_eq!(shown("http://cam?pwd=x"), "http://cam/");
        assert_eq!(shown("photos/a.jpg"), "photos/a.jpg");
        assert!(!encrypted("https://me:secret@cam/").to_string().contains("secret"));
    }

    #[test]
    fn addresses_are_taken_apart() {
        let http = |address| Http::new(address, &SourceOptions::default());
        let camera = http("http://me:p%40ss@cam:81/v?x=1").unwrap();
        assert_eq!(camera.url, "http://cam:81/v?x=1");
        assert_eq!(camera.authorization.as_deref(), Some("Basic bWU6cEBzcw=="));
        assert_eq!(http("http://cam").unwrap().authorization, None);
        for wrong in ["http:", "http://", "http:///x", "http://me:secret@", "http://a b/"] {
            let error = http(wrong).err().unwrap_or_else(|| panic!("{wrong}")).to_string();
            assert!(error.contains("not a valid address") && !error.contains("secret"), "{error}");
        }
    }
}
