//! Requests and answers, and invariants of every answer.

use std::fmt;
use std::time::Duration;

use reqwest::RequestBuilder;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::shape;

/// A request that is being built.
#[must_use = "nothing happens before it is sent"]
pub(crate) struct Request {
    builder: RequestBuilder,
    shown: String,
    path: String,
}

impl Request {
    pub(crate) fn new(client: &reqwest::Client, method: &str, server: &str, path: &str) -> Self {
        let name = method.parse().unwrap();
        Self {
            builder: client.request(name, format!("{server}{path}")),
            shown: format!("{method} {path}"),
            path: path.to_owned(),
        }
    }

    /// Adds `Authorization: Bearer` with this credential.
    pub(crate) fn bearer(self, credential: &str) -> Self {
        self.header("Authorization", format!("Bearer {credential}"))
    }

    /// Adds a header, of any bytes that a header can have.
    pub(crate) fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.builder = self.builder.header(name, value.as_ref());
        self
    }

    pub(crate) fn idempotency_key(self, key: &str) -> Self {
        self.header("Idempotency-Key", key)
    }

    /// Sets this body, as JSON.
    pub(crate) fn json(self, body: &Value) -> Self {
        self.text(body.to_string())
    }

    /// Sets this body unchanged, as JSON.
    pub(crate) fn text(self, body: impl Into<Vec<u8>>) -> Self {
        self.body("application/json", body)
    }

    /// Sets this body unchanged, with this content type.
    pub(crate) fn body(self, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        self.header("Content-Type", content_type).unannounced(body)
    }

    /// Sets this body unchanged, without a content type.
    pub(crate) fn unannounced(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.builder = self.builder.body(body.into());
        self
    }

    /// Sends it and reads the whole answer.
    pub(crate) async fn send(self) -> Answer {
        let response = self.builder.send().await.unwrap();
        let headers = response.headers().iter().map(|(name, value)| {
            let value = value.to_str().unwrap().to_owned();
            (name.as_str().to_owned(), value)
        });
        let (status, headers) = (response.status().as_u16(), headers.collect());
        let body = String::from_utf8(response.bytes().await.unwrap().into()).unwrap();
        let answer = Answer {
            shown: self.shown,
            status,
            headers,
            body,
        };
        answer.insist(&self.path);
        answer
    }

    /// Sends it, and asserts status and body.
    pub(crate) async fn expect(self, status: u16, body: &Value) -> Answer {
        self.send().await.is(status, body)
    }
}

/// A complete answer.
#[derive(Clone)]
pub(crate) struct Answer {
    shown: String,
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Answer {
    /// Asserts status and body.
    pub(crate) fn is(self, status: u16, body: &Value) -> Self {
        assert_eq!(self.status, status, "{self:?}");
        if let Some(difference) = shape::difference(body, &self.json()) {
            panic!("{difference}\n{self:?}");
        }
        self
    }

    /// Returns the only header of that name, in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(known, _)| known == name);
        let value = values.next().map(|(_, value)| value.as_str());
        assert!(values.next().is_none(), "{name} is there twice: {self:?}");
        value
    }

    /// Asserts a header, or its absence.
    pub(crate) fn has(self, name: &str, value: impl Into<Option<&'static str>>) -> Self {
        assert_eq!(self.header(name), value.into(), "{name}: {self:?}");
        self
    }

    /// Returns a header that holds a whole number.
    pub(crate) fn seconds(&self, name: &str) -> u64 {
        let value = self.header(name).unwrap_or_default();
        let seconds = value.parse();
        seconds.unwrap_or_else(|_| panic!("{name} is no whole number: {self:?}"))
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Returns the text at a JSON pointer, such as `/meta/secret_token`.
    pub(crate) fn text(&self, pointer: &str) -> String {
        let json = self.json();
        let text = json.pointer(pointer).and_then(Value::as_str);
        text.unwrap_or_else(|| panic!("no text at {pointer}: {self:?}"))
            .to_owned()
    }

    /// Asserts the invariants of every answer.
    fn insist(&self, path: &str) {
        // Only one contract has that field, and only in refusals.
        let problem = self.status >= 400 && self.body.contains(r#""title":"#);
        let content_type = if problem {
            "application/problem+json"
        } else {
            "application/json"
        };
        let has_body = !self.shown.starts_with("HEAD ") && !path.starts_with("/v1/auth");
        if has_body {
            assert_eq!(self.header("content-type"), Some(content_type), "{self:?}");
        }
        assert_ne!(self.status, 500, "{self:?}");
        let shows = shape::has_whole_key(&self.body);
        assert_eq!(shows, self.issues_a_key(path), "{self:?}");
        for (name, value) in &self.headers {
            assert!(!shape::has_whole_key(value), "{name}: {self:?}");
        }
        // Every answer about keys must not be cached, not only those that create.
        if [
            "/api/api-keys",
            "/api/account/api-keys",
            "/v1/",
            "/livez",
            "/readyz",
        ]
        .iter()
        .any(|start| path.starts_with(start))
            && ![404, 405].contains(&self.status)
        {
            assert_eq!(self.header("cache-control"), Some("no-store"), "{self:?}");
        }
    }

    fn issues_a_key(&self, path: &str) -> bool {
        let path = path.split('?').next().unwrap_or_default();
        self.status == 201 && path != "/v1/accounts"
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            shown,
            status,
            headers,
            body,
        } = self;
        write!(f, "{shown} answered {status} {body}\n{headers:?}")
    }
}

/// Sends these bytes unchanged over a connection of their own, and reads until the server closes
/// it.
pub(crate) async fn raw(server: &str, request: &[u8]) -> Answer {
    const PATIENCE: Duration = Duration::from_secs(20);
    let exchange = async {
        let address = server.strip_prefix("http://").unwrap();
        let mut stream = TcpStream::connect(address).await.unwrap();
        // A server that has read enough may close before everything was written.
        let _ = stream.write_all(request).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8(answer).unwrap()
    };
    let answer = tokio::time::timeout(PATIENCE, exchange).await.unwrap();
    let shown = String::from_utf8_lossy(&request[..request.len().min(100)]).into_owned();
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .unwrap_or_else(|| panic!("no answer to {shown:?}: {answer:?}"));
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1));
    let headers = lines.filter_map(|line| line.split_once(": "));
    Answer {
        status: status.unwrap().parse().unwrap(),
        headers: headers
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect(),
        body: body.to_owned(),
        shown,
    }
}
