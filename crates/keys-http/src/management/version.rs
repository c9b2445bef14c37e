//! The version of a key in `ETag` and `If-Match` (RFC 9110, sections 8.8.3 and 13.1.1).

use actix_web::http::header::{ETAG, HeaderMap, HeaderValue, IF_MATCH};
use actix_web::{HttpRequest, HttpResponse};
use keys_core::KeyVersion;

/// Adds the version to the headers of an answer.
pub(super) fn show(version: KeyVersion, mut response: HttpResponse) -> HttpResponse {
    // Hexadecimal digits in quotes, so this never fails.
    if let Ok(value) = HeaderValue::try_from(format!("\"{version}\"")) {
        response.headers_mut().insert(ETAG, value);
    }
    response
}

/// Returns the versions of which the key must have one. `None` if any version is fine. Tags that
/// are weak, or no version of a key, match none.
pub(super) fn if_match(request: &HttpRequest) -> Option<Vec<KeyVersion>> {
    read(request.headers())
}

fn read(headers: &HeaderMap) -> Option<Vec<KeyVersion>> {
    let mut versions = None;
    for value in headers.get_all(IF_MATCH) {
        let text = value.to_str().unwrap_or_default();
        if text.trim() == "*" {
            return None;
        }
        // A version has no comma. Parts of other tags that do are no versions either.
        let tags = text.split(',').map(str::trim);
        let tags = tags.filter_map(|tag| {
            tag.strip_prefix('"')?
                .strip_suffix('"')?
                .parse::<KeyVersion>()
                .ok()
        });
        versions.get_or_insert_with(Vec::new).extend(tags);
    }
    versions
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_strong_tags_that_are_versions_match() {
        const ONE: &str = "0123456789abcdef";
        const TWO: &str = "fedcba9876543210";
        let versions = |texts: &[&str]| {
            let versions = texts.iter().map(|text| text.parse().unwrap());
            Some(versions.collect::<Vec<KeyVersion>>())
        };
        for (values, expected) in [
            (vec![], None),
            (vec!["*".to_owned()], None),
            (vec![format!("\"{ONE}\"")], versions(&[ONE])),
            (
                vec![format!("\"{ONE}\" ,\"x\",\t\"{TWO}\"")],
                versions(&[ONE, TWO]),
            ),
            (
                vec![format!("\"{ONE}\""), format!("\"{TWO}\"")],
                versions(&[ONE, TWO]),
            ),
            (vec![String::new()], versions(&[])),
            (vec![ONE.to_owned()], versions(&[])),
            (vec![format!("W/\"{ONE}\"")], versions(&[])),
            (vec!["\"*\"".to_owned()], versions(&[])),
            (vec!["\"".to_owned()], versions(&[])),
            (vec![format!("\"{}\"", ONE.to_uppercase())], versions(&[])),
        ] {
            let mut headers = HeaderMap::new();
            for value in &values {
                headers.append(IF_MATCH, HeaderValue::from_str(value).unwrap());
            }
            assert_eq!(read(&headers), expected, "{values:?}");
        }
    }
}
