//! Answers that clients get.

use std::fmt;

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

/// An answer of the gateway. If the request reached the application, the body is the request as the
/// application saw it.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Answer {
    /// Parses the bytes received so far. `None` if the answer is incomplete.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(bytes);
        let (head, body) = text.split_once("\r\n\r\n")?;
        let mut lines = head.lines();
        let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
        let pairs = lines.filter_map(|line| line.split_once(": "));
        let pairs = pairs.map(|(name, value)| {
            let name: HeaderName = name.parse().ok()?;
            Some((name, HeaderValue::from_str(value).ok()?))
        });
        let headers: HeaderMap = pairs.collect::<Option<_>>()?;
        let length: usize = headers.get("content-length")?.to_str().ok()?.parse().ok()?;
        (body.len() >= length).then(|| Self {
            status,
            headers,
            body: body.to_owned(),
        })
    }

    /// Asserts the status.
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{self:?}");
        self
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        Some(self.headers.get(name)?.to_str().unwrap())
    }

    /// Returns all values of a header that the application saw, under each name that some
    /// application reads as that header.
    pub(crate) fn seen(&self, name: &str) -> Vec<&str> {
        let lines = self.body.lines().skip(1);
        let pairs = lines.filter_map(|line| line.split_once(':'));
        let alike = |known: &str| {
            let known = known.chars();
            let known = known.map(|c| if c.is_ascii_alphanumeric() { c } else { '-' });
            known.collect::<String>().eq_ignore_ascii_case(name)
        };
        pairs
            .filter(|(known, _)| alike(known))
            .map(|(_, value)| value.trim_ascii())
            .collect()
    }

    /// Returns the path that the application saw.
    pub(crate) fn seen_path(&self) -> &str {
        self.body.split(' ').nth(1).unwrap()
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            status, headers, ..
        } = self;
        // Some bodies are long.
        let body: String = self.body.chars().take(2_000).collect();
        write!(f, "{status} {headers:?}\n{body}")
    }
}
