//! Bodies of requests: read only once the sender is allowed to send one, and limited in size.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use actix_web::error::PayloadError;
use actix_web::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap};
use actix_web::mime::{self, Mime};
use actix_web::rt;
use actix_web::web::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt as _};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::error::Category;

use crate::rejection::Rejection;
use crate::unknown;

/// Maximum size of a body in KiB. The longest legal one, 128 networks and a memo of 500 characters,
/// is well below.
const KIB_MAX: usize = 64;

/// Time limit for a body to arrive, because a slow sender occupies a connection.
const TIME_MAX: Duration = Duration::from_secs(15);

/// Reads the whole body.
pub(crate) async fn read(
    headers: &HeaderMap,
    payload: impl Stream<Item = Chunk>,
) -> Result<Bytes, Rejection> {
    read_up_to(KIB_MAX, headers, payload).await
}

/// Reads the whole body of a request that may have none.
pub(crate) async fn read_optional(
    headers: &HeaderMap,
    payload: impl Stream<Item = Chunk>,
) -> Result<Option<Bytes>, Rejection> {
    let body = receive(KIB_MAX, headers, payload).await?;
    Ok(body.filter(|body| !body.is_empty()))
}

/// Reads the whole body, with a maximum size of its own.
pub(crate) async fn read_up_to(
    kib_max: usize,
    headers: &HeaderMap,
    payload: impl Stream<Item = Chunk>,
) -> Result<Bytes, Rejection> {
    receive(kib_max, headers, payload)
        .await?
        .ok_or_else(missing)
}

/// Reads the whole body. `None` if there is none, and no type of one either.
async fn receive(
    kib_max: usize,
    headers: &HeaderMap,
    payload: impl Stream<Item = Chunk>,
) -> Result<Option<Bytes>, Rejection> {
    let len_max = kib_max * 1024;
    let announced = is_json(headers)?;
    if content_length(headers).is_some_and(|length| length > len_max as u64) {
        return Err(if announced {
            Rejection::BodyTooLarge { kib_max }
        } else {
            Rejection::UnsupportedMediaType
        });
    }
    let bytes = in_time(gather(payload, len_max))
        .await
        .map_err(|_| Rejection::BodyTimeout)?;
    match (bytes, announced) {
        (Ok(bytes), true) => Ok(Some(bytes)),
        (Err(Unread::Broken), _) => Err(Rejection::MalformedBody(
            "The body could not be read".into(),
        )),
        (Err(Unread::TooLong), true) => Err(Rejection::BodyTooLarge { kib_max }),
        (Ok(bytes), false) if bytes.is_empty() => Ok(None),
        (_, false) => Err(Rejection::UnsupportedMediaType),
    }
}

/// A part of a body, as it arrived.
type Chunk = Result<Bytes, PayloadError>;

/// Reason why there is no body.
enum Unread {
    TooLong,
    Broken,
}

/// Collects all chunks. A single one, as in nearly every body, is not copied, and nothing is
/// allocated for more.
async fn gather(payload: impl Stream<Item = Chunk>, len_max: usize) -> Result<Bytes, Unread> {
    let mut payload = pin!(payload);
    let mut first = Bytes::new();
    let mut all = BytesMut::new();
    while let Some(chunk) = payload.next().await {
        let chunk = chunk.map_err(|_| Unread::Broken)?;
        if first.len().max(all.len()) + chunk.len() > len_max {
            return Err(Unread::TooLong);
        }
        if first.is_empty() {
            first = chunk;
            continue;
        }
        if all.is_empty() {
            all.extend_from_slice(&first);
        }
        all.extend_from_slice(&chunk);
    }
    Ok(if all.is_empty() { first } else { all.freeze() })
}

/// Waits for a body, with a time limit.
async fn in_time<T>(body: impl Future<Output = T>) -> Result<T, tokio::time::error::Elapsed> {
    let mut body = pin!(body);
    let mut is_second_look = false;
    let early = poll_fn(|context| match body.as_mut().poll(context) {
        Poll::Ready(done) => Poll::Ready(Some(done)),
        Poll::Pending if is_second_look => Poll::Ready(None),
        Poll::Pending => {
            is_second_look = true;
            context.waker().wake_by_ref();
            Poll::Pending
        }
    });
    // A short body arrives with its head and is available at the second poll, before it costs a
    // timer.
    match early.await {
        Some(done) => Ok(done),
        None => rt::time::timeout(TIME_MAX, body).await,
    }
}

/// Reads the fields of a JSON object. Fields that `T` does not have are ignored.
pub(crate) fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Rejection> {
    // Ignored parts are not decoded, so the whole text is checked here.
    let text = std::str::from_utf8(body)
        .map_err(|_| Rejection::MalformedBody("The body is not UTF-8".into()))?;
    match text.trim_ascii_start().bytes().next() {
        None => return Err(missing()),
        // serde also reads a struct from an array, which is not documented.
        Some(b'{') => {}
        Some(_) => {
            // Syntax errors take priority over wrong fields.
            serde_json::from_str::<IgnoredAny>(text).map_err(malformed)?;
            return Err(Rejection::MalformedBody(
                "The body must be a JSON object".into(),
            ));
        }
    }
    serde_json::from_str(text).map_err(|error| match error.classify() {
        // Syntax errors take priority here too, and the text after the wrong field was not read.
        Category::Data => malformed(
            serde_json::from_str::<IgnoredAny>(text)
                .err()
                .unwrap_or(error),
        ),
        _ => malformed(error),
    })
}

/// Reads the fields of a JSON object like [`parse`], and refuses fields that `T` does not have. `T`
/// must be marked with `#[serde(deny_unknown_fields)]`, so that the common case is one pass.
pub(crate) fn parse_strict<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Rejection> {
    parse(body).map_err(|rejection| {
        let text = std::str::from_utf8(body).unwrap_or_default();
        match unknown::members::<T>(text, "") {
            Some(faults) => Rejection::Invalid(faults),
            None => rejection,
        }
    })
}

fn missing() -> Rejection {
    Rejection::MalformedBody("A body is required".into())
}

/// Returns the position of the error, without any of the text.
#[expect(clippy::needless_pass_by_value, reason = "for `map_err`")]
fn malformed(error: serde_json::Error) -> Rejection {
    let (line, column) = (error.line(), error.column());
    let message = match error.classify() {
        Category::Data => format!("The body has a member twice: line {line}, column {column}"),
        _ => format!("The body is not valid JSON: line {line}, column {column}"),
    };
    Rejection::MalformedBody(message.into())
}

/// Returns whether the body is declared as JSON. An error if it is declared as anything else.
fn is_json(headers: &HeaderMap) -> Result<bool, Rejection> {
    let plain = headers
        .get_all(CONTENT_ENCODING)
        .all(|coding| coding.as_bytes().eq_ignore_ascii_case(b"identity"));
    let mut content_types = headers.get_all(CONTENT_TYPE);
    let content_type = content_types.next();
    if !plain || content_types.next().is_some() {
        return Err(Rejection::UnsupportedMediaType);
    }
    let Some(content_type) = content_type else {
        return Ok(false);
    };
    // The most frequent value needs no parsing.
    if content_type == "application/json" {
        return Ok(true);
    }
    let media_type = content_type.to_str().ok();
    let media_type = media_type.map(|text| without_blanks_around_semicolons(text).parse::<Mime>());
    let Some(Ok(media_type)) = media_type else {
        return Err(Rejection::UnsupportedMediaType);
    };
    let json = media_type.type_() == mime::APPLICATION
        && (media_type.subtype() == mime::JSON || media_type.suffix() == Some(mime::JSON));
    if json {
        Ok(true)
    } else {
        Err(Rejection::UnsupportedMediaType)
    }
}

/// RFC 9110, section 5.6.6, allows blanks before a `;`, which the parser refuses. Quoted text is
/// not changed.
fn without_blanks_around_semicolons(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let (mut is_quoted, mut is_escaped) = (false, false);
    for c in text.trim_matches(BLANKS).chars() {
        if !is_quoted {
            if c == ';' {
                out.truncate(out.trim_end_matches(BLANKS).len());
            } else if BLANKS.contains(&c) && out.ends_with(';') {
                continue;
            }
        }
        out.push(c);
        let is_quote = c == '"' && !is_escaped;
        is_escaped = is_quoted && c == '\\' && !is_escaped;
        is_quoted ^= is_quote;
    }
    out
}

const BLANKS: [char; 2] = [' ', '\t'];

fn content_length(headers: &HeaderMap) -> Option<u64> {
    let length = headers.get(CONTENT_LENGTH)?;
    length.to_str().ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blanks_around_semicolons_are_dropped_outside_of_quotes_alone() {
        for (text, expected) in [
            ("application/json", "application/json"),
            ("a/b \t; \tc=d ; ", "a/b;c=d;"),
            (r#"a/b ; c="d ; \" ; e" ; f=g"#, r#"a/b;c="d ; \" ; e";f=g"#),
            (r#"a/b; c="\\" ; d"#, r#"a/b;c="\\";d"#),
            ("a /b", "a /b"),
        ] {
            assert_eq!(without_blanks_around_semicolons(text), expected, "{text}");
        }
    }
}
