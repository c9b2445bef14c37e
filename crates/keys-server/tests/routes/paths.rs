//! Unknown paths, wrong methods, requests that are not HTTP.

use serde_json::Value;

use crate::dialect::{ACCOUNT, Dialect, FLAT, problem};
use crate::world::Place;

on_both_databases!(
    unknown_path_is_not_found,
    wrong_method_is_not_allowed_and_says_which_are,
    methods_are_asked_before_credentials_and_bodies,
    head_is_get_without_a_body,
    head_is_refused_where_get_is,
    request_that_is_no_http_is_refused_without_a_body,
    mount_that_is_disabled_is_not_there,
    mount_may_be_elsewhere,
);

async fn unknown_path_is_not_found(place: Place) {
    let world = place.shared().await;
    let key = world.key_on("pro").await;
    let not_found = problem(404, "not_found", "Not found");
    for path in [
        "/",
        "/nothing",
        "/api",
        "/api/",
        "/api/account",
        "/api/api-key",
        "/api/api-keysx",
        "/API/API-KEYS",
        "//api/api-keys",
        "/api//api-keys",
        "/v1",
        "/v1/",
        "/v1/key",
        "/v1/accounts/",
        "/v1/accounts/a/b",
        "/v1/accounts/a/keys/b",
        "/v2/accounts",
        "/livez/",
        "/index.html",
        "/favicon.ico",
        "/api%2Fapi-keys",
        "/%00",
        "/%ff",
        "/nothing?api_key=x",
    ] {
        for method in ["GET", "POST", "DELETE", "PUT"] {
            let request = world.request(method, path).bearer(&key);
            request.expect(404, &not_found).await;
        }
    }
    for dialect in Dialect::BOTH {
        for below in ["/", "/a/b", "/a/", "//"] {
            let path = format!("{}{below}", dialect.path());
            let body = dialect.error(404, "not_found", "Not found");
            world.get(&path).bearer(&key).expect(404, &body).await;
        }
    }
}

fn resources() -> Vec<(&'static str, &'static str, Value)> {
    const NAME: &str = "method_not_allowed";
    const MESSAGE: &str = "Method not allowed";
    let [flat, account] = Dialect::BOTH.map(|dialect| dialect.error(405, NAME, MESSAGE));
    let problem = problem(405, NAME, MESSAGE);
    vec![
        (FLAT, "GET, HEAD, POST", flat.clone()),
        ("/api/api-keys/x", "DELETE", flat),
        (ACCOUNT, "GET, HEAD, POST", account.clone()),
        ("/api/account/api-keys/x", "DELETE", account),
        ("/v1/accounts", "GET, HEAD, POST", problem.clone()),
        ("/v1/accounts/x", "GET, HEAD, PATCH", problem.clone()),
        (
            "/v1/accounts/x/sessions",
            "DELETE, GET, HEAD, POST",
            problem.clone(),
        ),
        ("/v1/accounts/x/keys", "GET, HEAD, POST", problem.clone()),
        ("/v1/keys", "GET, HEAD", problem.clone()),
        ("/v1/keys/x", "DELETE, GET, HEAD, PATCH", problem.clone()),
        ("/v1/accounts/x/sessions/y", "DELETE", problem.clone()),
        ("/v1/keys/revoke", "POST", problem.clone()),
        ("/v1/operator-keys", "GET, HEAD, POST", problem.clone()),
        ("/v1/operator-keys/x", "DELETE, GET, HEAD", problem.clone()),
        ("/v1/keys/x/rotate", "POST", problem.clone()),
        ("/v1/whoami", "DELETE, GET, HEAD", problem.clone()),
        ("/v1/whoami/rotate", "POST", problem.clone()),
        ("/livez", "GET, HEAD", problem.clone()),
        ("/readyz", "GET, HEAD", problem),
    ]
}

async fn wrong_method_is_not_allowed_and_says_which_are(place: Place) {
    let world = place.shared().await;
    let methods = [
        "GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PURGE", "get",
    ];
    for (path, allow, body) in resources() {
        for method in methods {
            if !allow.split(", ").any(|allowed| allowed == method) {
                let answer = world.request(method, path).expect(405, &body).await;
                answer.has("allow", allow).has("www-authenticate", None);
            }
        }
    }
}

async fn methods_are_asked_before_credentials_and_bodies(place: Place) {
    let world = place.shared().await;
    for (path, _, body) in resources() {
        let put = world.request("PUT", path);
        let put = put.bearer("nonsense").header("X-API-Key", "other");
        put.body("text/plain", "x".repeat(70_000))
            .expect(405, &body)
            .await;
    }
}

async fn head_is_get_without_a_body(place: Place) {
    let world = place.shared().await;
    let account = world.account("roomy").await;
    let key = world.key(&account).await;
    let account = format!("/v1/accounts/{account}");
    for (path, credential) in [
        (FLAT, &*key),
        (FLAT, "nonsense"),
        (ACCOUNT, &key),
        ("/api/account/api-keys?page=2&perPage=1", &key),
        ("/api/account/api-keys?page=0", &key),
        ("/v1/accounts", world.operator()),
        ("/v1/accounts?plan=x", world.operator()),
        (&account, world.operator()),
        ("/v1/accounts/x", world.operator()),
        ("/v1/operator-keys?limit=1", world.operator()),
        ("/v1/operator-keys/x", world.operator()),
        ("/v1/whoami", world.operator()),
        ("/v1/auth?scope=", &key),
        ("/livez", ""),
        ("/readyz", ""),
        ("/nothing", ""),
    ] {
        let asked = async |method| {
            let answer = world.request(method, path).bearer(credential).send().await;
            // Dates, buckets and the age of the last change differ.
            let moves = |name: &str| {
                let of_buckets = name.starts_with("ratelimit") || name == "retry-after";
                let is_length = name == "content-length" && path == "/readyz";
                of_buckets || name == "date" || is_length
            };
            let mut headers = answer.headers;
            for (name, value) in &mut headers {
                if moves(name) {
                    value.clear();
                }
            }
            headers.sort();
            (answer.status, headers, answer.body)
        };
        let (status, headers, body) = asked("HEAD").await;
        assert_eq!(body, "", "{path}");
        assert!(
            headers.iter().any(|(name, _)| name == "content-length"),
            "{path}: {headers:?}"
        );
        let (of_get, headers_of_get, _) = asked("GET").await;
        assert_eq!((status, headers), (of_get, headers_of_get), "{path}");
    }
}

async fn head_is_refused_where_get_is(place: Place) {
    let world = place.shared().await;
    let served = |allow: &str| allow.split(", ").any(|method| method == "HEAD");
    for (path, allow, _) in resources() {
        if served(allow) {
            continue;
        }
        let answer = world.request("HEAD", path).send().await;
        assert_eq!((answer.status, &*answer.body), (405, ""), "{answer:?}");
        answer.has("allow", allow);
    }
}

async fn request_that_is_no_http_is_refused_without_a_body(place: Place) {
    let world = place.shared().await;
    let long = "x".repeat(300_000);
    for request in [
        "GET / HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nHost: x\r\na b: c\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nHost: x\r\nX-API-Key: \u{0}\r\n\r\n".to_owned(),
        "GET  HTTP/1.1\r\n\r\n".to_owned(),
        "POST /api/api-keys HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n".to_owned(),
        "POST /api/api-keys HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx"
            .to_owned(),
        "POST /api/api-keys HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n".to_owned(),
        format!("GET / HTTP/1.1\r\nHost: x\r\nX-Long: {long}\r\n\r\n"),
        format!("GET /{long} HTTP/1.1\r\nHost: x\r\n\r\n"),
        format!(
            "GET / HTTP/1.1\r\nHost: x\r\n{}\r\n",
            "a: b\r\n".repeat(200)
        ),
    ] {
        let answer = world.raw(&request).await;
        let too_large = request.len() > 1_000;
        let status = if too_large { 431 } else { 400 };
        assert_eq!((answer.status, &*answer.body), (status, ""), "{answer:?}");
        answer.has("content-length", "0").has("content-type", None);
    }
    let alive = world.get("/livez").send().await;
    assert_eq!(alive.status, 200, "{alive:?}");
}

async fn mount_that_is_disabled_is_not_there(place: Place) {
    let world = place
        .with(|server| {
            server
                .env("KEYS_HTTP__FLAT__ENABLED", "false")
                .env("KEYS_HTTP__MANAGEMENT__ENABLED", "false")
        })
        .await;
    let not_found = problem(404, "not_found", "Not found");
    for path in [FLAT, "/api/api-keys/x", "/v1/accounts"] {
        let request = world.get(path).bearer(world.operator());
        request.expect(404, &not_found).await;
    }
    let list = world.get(ACCOUNT);
    list.expect(401, &Dialect::Account.unauthorized()).await;
}

async fn mount_may_be_elsewhere(place: Place) {
    let world = place
        .with(|server| {
            server
                .env("KEYS_HTTP__FLAT__PATH", "/keys")
                .env("KEYS_HTTP__FLAT__KEY_PREFIX", "acme")
        })
        .await;
    let key = world.key_on("pro").await;
    let list = world.get("/keys").bearer(&key).send().await;
    assert_eq!(list.status, 200, "{list:?}");
    let create = world.post("/keys").bearer(&key).text(r#"{"name":"key"}"#);
    let created = create.send().await;
    assert_eq!(created.status, 201, "{created:?}");
    assert!(created.text("/key").starts_with("acme_"));
    let old = world.get(FLAT).bearer(&key);
    old.expect(404, &problem(404, "not_found", "Not found"))
        .await;
}
