//! Requests and answers as plain values, so that the same expectations apply to an application
//! inside the test and to a server behind a socket.

use std::future::Future;

use serde_json::Value;

/// A program that answers requests.
pub(crate) trait Exchange {
    /// Sends one request and reads the whole answer.
    fn exchange(&self, request: Request) -> impl Future<Output = Answer>;
}

/// A request.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: &'static str,
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, Vec<u8>)>,
    pub(crate) body: Vec<u8>,
}

/// An answer.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

pub(crate) fn get(path: impl Into<String>) -> Request {
    Request::new("GET", path)
}

pub(crate) fn post(path: impl Into<String>) -> Request {
    Request::new("POST", path)
}

pub(crate) fn patch(path: impl Into<String>) -> Request {
    Request::new("PATCH", path)
}

pub(crate) fn delete(path: impl Into<String>) -> Request {
    Request::new("DELETE", path)
}

impl Request {
    pub(crate) fn new(method: &'static str, path: impl Into<String>) -> Self {
        Self {
            method,
            path: path.into(),
            headers: Vec::new(),
            body: Vec::new(),
        }
    }

    pub(crate) fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.headers
            .push((name.to_owned(), value.as_ref().to_vec()));
        self
    }

    pub(crate) fn bearer(self, credential: &str) -> Self {
        self.header("Authorization", format!("Bearer {credential}"))
    }

    /// Sets a body unchanged, as JSON.
    pub(crate) fn json(self, body: impl Into<Vec<u8>>) -> Self {
        self.body("application/json", body)
    }

    pub(crate) fn body(self, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        let mut request = self.header("Content-Type", content_type);
        request.body = body.into();
        request
    }

    /// Sends it, and asserts status and body.
    pub(crate) async fn expect(
        self,
        exchange: &impl Exchange,
        status: u16,
        template: &str,
    ) -> Answer {
        let shown = format!("{} {}", self.method, self.path);
        let answer = exchange.exchange(self).await;
        assert!(
            answer.status == status && matches(template, &answer.body),
            "{shown}\nexpected {status} {template}\n     got {} {}",
            answer.status,
            answer.body
        );
        assert!(answer.is_json(), "{shown}: {:?}", answer.headers);
        answer
    }
}

impl Answer {
    /// Returns the only header of that name.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let named = |(known, _): &&(String, String)| known.eq_ignore_ascii_case(name);
        let mut values = self.headers.iter().filter(named);
        let value = values.next().map(|(_, value)| value.as_str());
        assert!(values.next().is_none(), "{name} is there twice");
        value
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    /// Returns the text at a JSON pointer, such as `/meta/secret_token`.
    pub(crate) fn text(&self, pointer: &str) -> String {
        let json = self.json();
        let text = json.pointer(pointer).and_then(Value::as_str);
        text.unwrap_or_else(|| panic!("no text at {pointer}: {}", self.body))
            .to_owned()
    }

    fn is_json(&self) -> bool {
        let content_type = self.header("content-type");
        content_type == Some("application/json")
            || (content_type == Some("application/problem+json") && self.status >= 400)
    }
}

/// Returns whether `text` is `template`, byte for byte, where `*` matches any part of one string.
pub(crate) fn matches(template: &str, text: &str) -> bool {
    let Some((before, after)) = template.split_once('*') else {
        return template == text;
    };
    let Some(rest) = text.strip_prefix(before) else {
        return false;
    };
    let end = rest.find('"').unwrap_or(rest.len());
    (0..=end)
        .filter(|index| rest.is_char_boundary(*index))
        .any(|index| matches(after, &rest[index..]))
}

#[test]
fn wildcards_stay_within_one_string() {
    assert!(matches(r#"{"id":"*"}"#, r#"{"id":"abc"}"#));
    assert!(matches(r#""sk_*_*""#, r#""sk_live_a""#));
    assert!(!matches(r#"{"id":"*"}"#, r#"{"id":"abc","key":"x"}"#));
    assert!(!matches(r#"{"id":"*"}"#, r#"{"id":"abc"} "#));
}
