//! Bodies of requests: sizes, types, JSON, and ignored fields.

use serde_json::{Value, json};

use crate::dialect::{ACCOUNT, Dialect, FLAT, problem};
use crate::exchange::Request;
use crate::world::{Place, World};

on_both_databases!(
    body_over_64_kib_is_too_large,
    body_over_64_kib_without_a_length_is_too_large,
    body_of_another_type_is_unsupported,
    missing_body_is_refused,
    malformed_body_is_refused,
    body_that_is_no_object_is_refused,
    body_of_exactly_64_kib_is_read,
    type_is_read_in_any_spelling,
    bodies_of_requests_that_need_none_are_not_looked_at,
);

/// Writes a refusal: status, code and message.
type Refusal = dyn Fn(u16, &str, &str) -> Value;

/// A route that reads a body, and its form of refusals.
struct Route {
    path: String,
    method: &'static str,
    credential: String,
    /// A field that it reads.
    member: &'static str,
    error: Box<Refusal>,
}

impl Route {
    fn request(&self, world: &World) -> Request {
        world
            .request(self.method, &self.path)
            .bearer(&self.credential)
    }
}

async fn routes(world: &World) -> Vec<Route> {
    let account = world.account("roomy").await;
    let key = world.key(&account).await;
    let mut routes = Vec::new();
    for dialect in Dialect::BOTH {
        routes.push(Route {
            path: dialect.path().to_owned(),
            method: "POST",
            credential: key.clone(),
            member: match dialect {
                Dialect::Flat => "name",
                Dialect::Account => "allowedIps",
            },
            error: Box::new(move |status, code, message| dialect.error(status, code, message)),
        });
    }
    for (method, path, member) in [
        ("POST", "/v1/accounts".to_owned(), "plan"),
        ("PATCH", format!("/v1/accounts/{account}"), "disabled"),
        (
            "POST",
            format!("/v1/accounts/{account}/sessions"),
            "ttl_seconds",
        ),
        ("POST", format!("/v1/accounts/{account}/keys"), "prefix"),
    ] {
        routes.push(Route {
            path,
            method,
            credential: world.operator().to_owned(),
            member,
            error: Box::new(problem),
        });
    }
    routes
}

async fn body_over_64_kib_is_too_large(place: Place) {
    let world = place.shared().await;
    for route in routes(&world).await {
        let body = (route.error)(
            413,
            "body_too_large",
            "The body must not be longer than 64 KiB",
        );
        for length in [64 * 1024 + 1, 200 * 1024] {
            let long = format!(
                r#"{{"name":"key","plan":"pro","x":"{}"}}"#,
                "x".repeat(length)
            );
            let request = route.request(&world).text(long[..length].to_owned());
            request.expect(413, &body).await;
        }
    }
}

async fn body_over_64_kib_without_a_length_is_too_large(place: Place) {
    let world = place.shared().await;
    for route in routes(&world).await {
        let chunk = format!("2000\r\n{}\r\n", "x".repeat(0x2000)).repeat(9);
        let request = format!(
            "{} {} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: Bearer {}\r\n\
             Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}0\r\n\r\n",
            route.method, route.path, route.credential
        );
        let body = (route.error)(
            413,
            "body_too_large",
            "The body must not be longer than 64 KiB",
        );
        world.raw(request).await.is(413, &body);
    }
}

async fn body_of_another_type_is_unsupported(place: Place) {
    let world = place.shared().await;
    for route in routes(&world).await {
        let message = "The body must be sent as application/json";
        let body = (route.error)(415, "unsupported_media_type", message);
        let request = || route.request(&world);
        for request in [
            request().body("text/plain", r#"{"name":"key"}"#),
            request().body("text/json", r#"{"name":"key"}"#),
            request().body("application/x-www-form-urlencoded", "name=key"),
            request().body("multipart/form-data; boundary=x", "--x--"),
            request().body("application/jsonp", r#"{"name":"key"}"#),
            request().body("application/octet-stream", r#"{"name":"key"}"#),
            request().body("nonsense", r#"{"name":"key"}"#),
            request().body("", r#"{"name":"key"}"#),
            request().body("*/*", r#"{"name":"key"}"#),
            request().unannounced(r#"{"name":"key"}"#),
            request().body("text/plain", "x".repeat(70_000)),
            request().body("text/plain", ""),
            request().text("{}").header("Content-Type", "text/plain"),
            request().text("{}").header("Content-Encoding", "gzip"),
            request().text("{}").header("Content-Encoding", "br"),
        ] {
            request.expect(415, &body).await;
        }
    }
}

async fn missing_body_is_refused(place: Place) {
    let world = place.shared().await;
    for route in routes(&world).await {
        let body = (route.error)(400, "malformed_body", "A body is required");
        let request = || route.request(&world);
        for request in [request(), request().text(""), request().text(" \r\n\t ")] {
            request.expect(400, &body).await;
        }
    }
}

async fn malformed_body_is_refused(place: Place) {
    let world = place.shared().await;
    let invalid = |line: usize, column: usize| {
        format!("The body is not valid JSON: line {line}, column {column}")
    };
    for route in routes(&world).await {
        for (sent, message) in [
            (b"{".to_vec(), invalid(1, 1)),
            (b"{\"name\":\"key\"".into(), invalid(1, 13)),
            (b"{\"name\":\n\"key\",}".into(), invalid(2, 7)),
            (b"{'name':'key'}".into(), invalid(1, 2)),
            (b"{name:\"key\"}".into(), invalid(1, 2)),
            (b"{\"name\":\"key\"} x".into(), invalid(1, 16)),
            (b"{\"name\":\"key\"}{}".into(), invalid(1, 15)),
            (b"{\"x\":NaN}".into(), invalid(1, 6)),
            (b"{\"x\":01}".into(), invalid(1, 7)),
            (b"name=key".into(), invalid(1, 2)),
            (b"\xef\xbb\xbf{}".into(), invalid(1, 1)),
            (b"{\"x\":\"\n\"}".into(), invalid(1, 6)),
            (
                b"{\"x\":\"\xff\"}".into(),
                "The body is not UTF-8".to_owned(),
            ),
            (b"\xff".into(), "The body is not UTF-8".to_owned()),
        ] {
            let body = (route.error)(400, "malformed_body", &message);
            route.request(&world).text(sent).expect(400, &body).await;
        }
        // As deep as 64 KiB allow.
        let deep = format!("{{\"x\":{}", "[".repeat(60_000));
        let answer = route.request(&world).text(deep).send().await;
        assert_eq!(answer.status, 400, "{answer:?}");
        let member = route.member;
        let twice = format!(r#"{{"{member}":"a","{member}":"b"}}"#);
        let column = twice.rfind(':').unwrap();
        let message = format!("The body has a member twice: line 1, column {column}");
        let body = (route.error)(400, "malformed_body", &message);
        route.request(&world).text(twice).expect(400, &body).await;
    }
    for lone in [r#"{"name":"\ud800"}"#, r#"{"name":"\udc00\ud800"}"#] {
        let route = &routes(&world).await[0];
        let answer = route.request(&world).text(lone).send().await;
        assert_eq!(
            (answer.status, answer.text("/code")),
            (400, "malformed_body".to_owned())
        );
    }
}

async fn body_that_is_no_object_is_refused(place: Place) {
    let world = place.shared().await;
    for route in routes(&world).await {
        let body = (route.error)(400, "malformed_body", "The body must be a JSON object");
        for sent in [
            "null",
            "[]",
            "[\"key\"]",
            "\"key\"",
            "7",
            "true",
            " [{\"name\":\"key\"}]",
        ] {
            route.request(&world).text(sent).expect(400, &body).await;
        }
    }
}

async fn body_of_exactly_64_kib_is_read(place: Place) {
    let world = place.shared().await;
    let key = world.key_on("pro").await;
    for dialect in Dialect::BOTH {
        let mut draft = dialect.draft("key");
        draft["padding"] = json!("");
        let padding = 64 * 1024 - draft.to_string().len();
        draft["padding"] = json!("x".repeat(padding));
        assert_eq!(draft.to_string().len(), 65_536);
        let create = world.post(dialect.path()).bearer(&key).json(&draft);
        create.expect(201, &dialect.created("key")).await;
    }
}

async fn type_is_read_in_any_spelling(place: Place) {
    let world = place.shared().await;
    let key = world.key_on("roomy").await;
    for dialect in Dialect::BOTH {
        for content_type in [
            "application/json",
            "Application/JSON",
            "application/json; charset=utf-8",
            "application/json;charset=UTF-8",
            // RFC 9110, section 5.6.6: blanks are allowed on both sides of a semicolon.
            "application/json ;charset=utf-8",
            "application/json\t ; charset=\"utf-8\" ;",
            "application/vnd.api+json ; charset=utf-8",
        ] {
            let create = world.post(dialect.path()).bearer(&key);
            let create = create.body(content_type, dialect.draft("key").to_string());
            create.expect(201, &dialect.created("key")).await;
        }
        let create = world.post(dialect.path()).bearer(&key);
        let create = create.json(&dialect.draft("key"));
        let create = create.header("Content-Encoding", "identity");
        create.expect(201, &dialect.created("key")).await;
    }
}

async fn bodies_of_requests_that_need_none_are_not_looked_at(place: Place) {
    let world = place.shared().await;
    let key = world.key_on("pro").await;
    for path in [FLAT, ACCOUNT] {
        let list = world.get(path).bearer(&key).body("text/plain", "{");
        let answer = list.send().await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    let delete = world.delete("/api/api-keys/x").bearer(&key).text("{");
    delete.expect(404, &Dialect::Flat.key_not_found()).await;
}
