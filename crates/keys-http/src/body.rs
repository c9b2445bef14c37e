//! Bodies of requests: read only once the sender may send one, and never longer than any request needs.

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

/// The longest body in KiB. The longest legal one, 128 networks and a memo of 500 characters, stays well below.
const KIB_MAX: usize = 64;

/// How long a body may take to arrive. Whoever sends 64 KiB more slowly holds a connection hostage.
const TIME_MAX: Duration = Duration::from_secs(15);

/// Reads the whole body.
pub(crate) async fn read(
    headers: &HeaderMap,
    payload: impl Stream<Item = Chunk>,
) -> Result<Bytes, Rejection> {
    read_up_to(KIB_MAX, headers, payload).await
}

/// Reads the whole body, which may be longer or shorter than others.
pub(crate) async fn read_up_to(
    kib_max: usize,
    headers: &HeaderMap,
    payload: impl Stream<Item = Chunk>,
) -> Result<Bytes, Rejection> {
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
        (Ok(bytes), true) => Ok(bytes),
        (Err(Unread::Broken), _) => Err(Rejection::MalformedBody(
            "The body could not be read".into(),
        )),
        (Err(Unread::TooLong), true) => Err(Rejection::BodyTooLarge { kib_max }),
        // A body that is not there has no type either.
        (Ok(bytes), false) if bytes.is_empty() => Err(missing()),
        (_, false) => Err(Rejection::UnsupportedMediaType),
    }
}

/// A part of a body, as it came.
type Chunk = Result<Bytes, PayloadError>;

/// Why there is no body.
enum Unread {
    TooLong,
    Broken,
}

/// All chunks. The only one, as of nearly every body, is not copied, and no room is set aside for more.
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

/// Waits for a body, but not for ever.
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
    // A short body comes along with its head and is there at the second look, before it costs a timer.
    match early.await {
        Some(done) => Ok(done),
        None => rt::time::timeout(TIME_MAX, body).await,
    }
}

/// Reads the members of a JSON object. Members that `T` does not have are ignored.
pub(crate) fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Rejection> {
    // What is ignored is not decoded, so this has to be asked of the whole.
    let text = std::str::from_utf8(body)
        .map_err(|_| Rejection::MalformedBody("The body is not UTF-8".into()))?;
    match text.trim_ascii_start().bytes().next() {
        None => return Err(missing()),
        // A struct is also read from an array, which no document speaks of.
        Some(b'{') => {}
        Some(_) => {
            // Syntax is judged before shape.
            serde_json::from_str::<IgnoredAny>(text).map_err(malformed)?;
            return Err(Rejection::MalformedBody(
                "The body must be a JSON object".into(),
            ));
        }
    }
    serde_json::from_str(text).map_err(|error| match error.classify() {
        // Syntax is judged before shape here too, and what follows the member at fault was not read.
        Category::Data => malformed(
            serde_json::from_str::<IgnoredAny>(text)
                .err()
                .unwrap_or(error),
        ),
        _ => malformed(error),
    })
}

/// Reads the members of a JSON object, as [`parse`], and refuses members that `T` does not have. `T` must be marked with
/// `#[serde(deny_unknown_fields)]`, so that the common case is one pass.
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

/// Says where, but nothing of what is there.
#[expect(clippy::needless_pass_by_value, reason = "for `map_err`")]
fn malformed(error: serde_json::Error) -> Rejection {
    let (line, column) = (error.line(), error.column());
    let message = match error.classify() {
        Category::Data => format!("The body has a member twice: line {line}, column {column}"),
        _ => format!("The body is not valid JSON: line {line}, column {column}"),
    };
    Rejection::MalformedBody(message.into())
}

/// Whether the body is announced as JSON; an error if it is announced as anything else.
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
    // What nearly everybody sends needs no taking apart.
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

/// RFC 9110, section 5.6.6, allows blanks before a `;`, which the parser refuses. Within quotes nothing is changed.
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
