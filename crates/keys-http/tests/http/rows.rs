//! Every row of both contracts and of the management surface that a client can see without moving
//! the clock.
//!
//! Needs only an operator key with every scope and the documented plans, so the same rows run over
//! any server. Each row uses an account of its own, because limits are per account.

use super::exchange::{Answer, Exchange, Request, delete, get, patch, post};

pub(crate) const FLAT: &str = "/api/api-keys";
pub(crate) const ACCOUNT: &str = "/api/account/api-keys";

pub(crate) const FLAT_401: &str = r#"{"message":"Unauthorized","code":"unauthorized"}"#;
pub(crate) const ACCOUNT_401: &str = r#"{"statusCode":401,"message":"Unauthorized","errors":[]}"#;
pub(crate) const PROBLEM_401: &str =
    r#"{"title":"Unauthorized","status":401,"code":"unauthorized","detail":"Unauthorized"}"#;
pub(crate) const FLAT_404: &str = r#"{"message":"API key not found","code":"key_not_found"}"#;
pub(crate) const ACCOUNT_404: &str =
    r#"{"statusCode":404,"message":"API key not found","errors":[]}"#;
pub(crate) const SUCCESS: &str = r#"{"success":true}"#;
pub(crate) const PLAN_403: &str =
    r#"{"message":"API keys not available on your plan","code":"plan_forbidden"}"#;
pub(crate) const ACCOUNT_PLAN_403: &str =
    r#"{"statusCode":403,"message":"API keys not available on your plan","errors":[]}"#;
pub(crate) const FLAT_CREATED: &str = r#"{"id":"*","name":"Production Server","key":"sk_live_*","keyPrefix":"sk_live_*","createdAt":"*Z"}"#;

/// A well-formed key that does not exist.
pub(crate) const NOBODYS_KEY: &str = "sk_live_000000000000000000000000003vSKjy";

/// Runs every row.
pub(crate) async fn every_row(server: &impl Exchange, operator: &str) {
    let rows = Rows { server, operator };
    rows.health().await;
    rows.unknown_paths_and_methods().await;
    rows.credentials().await;
    rows.first_document().await;
    rows.second_document().await;
    rows.either_dialect_shows_the_keys_of_both().await;
    rows.unusable_bodies().await;
    rows.unusable_names().await;
    rows.unusable_members().await;
    rows.absent_members_and_spellings().await;
    rows.pages().await;
    rows.someone_elses_key_is_an_unknown_key().await;
    rows.the_eleventh_key().await;
    rows.too_many_requests().await;
    rows.plan_without_keys().await;
    rows.keys_never_make_wider_keys().await;
    rows.repetitions().await;
    rows.accounts().await;
    rows.account_at_fault().await;
    rows.sessions().await;
    rows.keys_of_accounts().await;
}

struct Rows<'a, E> {
    server: &'a E,
    operator: &'a str,
}

impl<E: Exchange> Rows<'_, E> {
    async fn account(&self, plan: &str) -> String {
        let body = format!(r#"{{"plan":"{plan}"}}"#);
        let answer = self.operate(post("/v1/accounts").json(body)).await;
        assert_eq!(answer.status, 201, "{}", answer.body);
        answer.text("/id")
    }

    async fn key(&self, account: &str) -> String {
        let path = format!("/v1/accounts/{account}/keys");
        let answer = self.operate(post(path).json("{}")).await;
        assert_eq!(answer.status, 201, "{}", answer.body);
        answer.text("/key")
    }

    async fn session(&self, account: &str) -> String {
        let path = format!("/v1/accounts/{account}/sessions");
        let answer = self.operate(post(path).json(r#"{"ttl_seconds":60}"#)).await;
        assert_eq!(answer.status, 201, "{}", answer.body);
        answer.text("/token")
    }

    async fn pro_key(&self) -> String {
        self.key(&self.account("pro").await).await
    }

    async fn operate(&self, request: Request) -> Answer {
        self.server.exchange(request.bearer(self.operator)).await
    }

    async fn health(&self) {
        get("/livez")
            .expect(self.server, 200, r#"{"status":"ok"}"#)
            .await;
        let ready = self.server.exchange(get("/readyz")).await;
        assert_eq!((ready.status, &*ready.text("/status")), (200, "ok"));
    }

    async fn unknown_paths_and_methods(&self) {
        const NOT_FOUND: &str =
            r#"{"title":"Not Found","status":404,"code":"not_found","detail":"Not found"}"#;
        for path in [
            "/",
            "/nothing",
            "/v1",
            "/v1/nothing",
            "/v1/accounts/a/b",
            "/v1/keys/verify/x",
            "/v1/auth/",
            "/v1/auth/x",
            "/api",
        ] {
            get(path).expect(self.server, 404, NOT_FOUND).await;
        }
        for path in ["/api/api-keys/", "/api/api-keys/a/b"] {
            let body = r#"{"message":"Not found","code":"not_found"}"#;
            get(path).expect(self.server, 404, body).await;
        }
        for path in ["/api/account/api-keys/", "/api/account/api-keys/a/b"] {
            let body = r#"{"statusCode":404,"message":"Not found","errors":[]}"#;
            get(path).expect(self.server, 404, body).await;
        }
        // The method is checked before a credential or a body.
        let flat = r#"{"message":"Method not allowed","code":"method_not_allowed"}"#;
        let account = r#"{"statusCode":405,"message":"Method not allowed","errors":[]}"#;
        let problem = r#"{"title":"Method Not Allowed","status":405,"code":"method_not_allowed","detail":"Method not allowed"}"#;
        for (method, path, allow, body) in [
            ("PUT", "/api/api-keys", "GET, HEAD, POST", flat),
            ("GET", "/api/api-keys/x", "DELETE", flat),
            (
                "DELETE",
                "/api/account/api-keys",
                "GET, HEAD, POST",
                account,
            ),
            ("PATCH", "/api/account/api-keys/x", "DELETE", account),
            ("DELETE", "/v1/accounts", "GET, HEAD, POST", problem),
            ("DELETE", "/v1/accounts/x", "GET, HEAD, PATCH", problem),
            (
                "PUT",
                "/v1/accounts/x/sessions",
                "DELETE, GET, HEAD, POST",
                problem,
            ),
            ("PUT", "/v1/accounts/x/keys", "GET, HEAD, POST", problem),
            ("GET", "/v1/keys/verify", "POST", problem),
            ("PUT", "/v1/keys/verify-batch", "POST", problem),
            ("POST", "/livez", "GET, HEAD", problem),
            ("POST", "/readyz", "GET, HEAD", problem),
        ] {
            let answer = Request::new(method, path)
                .expect(self.server, 405, body)
                .await;
            assert_eq!(answer.header("allow"), Some(allow), "{path}");
        }
    }

    async fn credentials(&self) {
        let key = self.pro_key().await;
        for (path, unauthorized) in [
            (FLAT, FLAT_401),
            (ACCOUNT, ACCOUNT_401),
            ("/v1/accounts", PROBLEM_401),
        ] {
            let answer = get(path).expect(self.server, 401, unauthorized).await;
            let challenge = answer.header("www-authenticate");
            assert_eq!(challenge, Some(r#"Bearer realm="keys""#));
            let in_query = get(format!("{path}?api_key={key}&access_token={key}"));
            in_query.expect(self.server, 401, unauthorized).await;

            for empty in [
                get(path).header("Authorization", "Bearer"),
                get(path).header("X-API-Key", ""),
            ] {
                let answer = empty.expect(self.server, 401, unauthorized).await;
                let challenge = answer.header("www-authenticate");
                assert_eq!(challenge, Some(r#"Bearer realm="keys""#));
            }

            let mut changed = key.clone();
            changed.replace_range(12..13, if &key[12..13] == "A" { "B" } else { "A" });
            for presented in [
                get(path).header("Authorization", "Basic YTpi"),
                get(path).bearer("nonsense"),
                get(path).bearer(&changed),
                get(path).bearer(NOBODYS_KEY),
                get(path).header("X-API-Key", NOBODYS_KEY),
            ] {
                let answer = presented.expect(self.server, 401, unauthorized).await;
                let challenge = answer.header("www-authenticate");
                assert_eq!(
                    challenge,
                    Some(r#"Bearer realm="keys", error="invalid_token""#)
                );
            }
        }
        for (path, body) in [
            (
                FLAT,
                r#"{"message":"Two different credentials were presented","code":"conflicting_credentials"}"#,
            ),
            (
                ACCOUNT,
                r#"{"statusCode":400,"message":"Two different credentials were presented","errors":[]}"#,
            ),
        ] {
            let both = get(path).bearer(&key).header("X-API-Key", NOBODYS_KEY);
            both.expect(self.server, 400, body).await;
        }
        for accepted in [
            get(FLAT).header("authorization", format!("bEARER {key}")),
            get(FLAT).header("x-api-key", &key),
            get(FLAT).header("X-API-Key", &key).bearer(&key),
            get(FLAT).header("X-API-Key", "").bearer(&key),
            get(FLAT).header("X-API-Key", &key).bearer(""),
            Request::new("HEAD", FLAT).bearer(&key),
        ] {
            assert_eq!(self.server.exchange(accepted).await.status, 200);
        }
        // An operator key is not an account's, nor the other way round.
        get(FLAT)
            .bearer(self.operator)
            .expect(
                self.server,
                403,
                r#"{"message":"This kind of credential cannot be used here","code":"kind_not_allowed"}"#,
            )
            .await;
        get("/v1/accounts")
            .bearer(&key)
            .expect(
                self.server,
                403,
                r#"{"title":"Forbidden","status":403,"code":"kind_not_allowed","detail":"This kind of credential cannot be used here"}"#,
            )
            .await;
    }

    async fn first_document(&self) {
        let key = self.pro_key().await;
        let created = post(FLAT)
            .bearer(&key)
            .json(r#"{"name": "Production Server"}"#)
            .expect(self.server, 201, FLAT_CREATED)
            .await;
        assert_eq!(created.header("cache-control"), Some("no-store"));
        let (id, new_key) = (created.text("/id"), created.text("/key"));
        assert_eq!(new_key.len(), "sk_live_".len() + 32);
        assert_eq!(new_key[..12], created.text("/keyPrefix"));

        let listed = get(FLAT).bearer(&key).expect(
            self.server,
            200,
            r#"[{"id":"*","name":"Production Server","keyPrefix":"sk_live_*","lastUsedAt":null,"createdAt":"*Z"},{"id":"*","name":"","keyPrefix":"sk_live_*","lastUsedAt":null,"createdAt":"*Z"}]"#,
        );
        let listed = listed.await;
        assert_eq!(listed.text("/0/id"), id);
        assert_eq!(listed.text("/0/createdAt"), created.text("/createdAt"));
        assert!(!listed.body.contains(&new_key));

        let documented = delete("/api/api-keys/kJx9mP2qLn4vRt7bYw3cZ").bearer(&key);
        documented.expect(self.server, 404, FLAT_404).await;
        let path = format!("{FLAT}/{id}");
        let first = delete(&path).bearer(&key);
        first.expect(self.server, 200, SUCCESS).await;
        let second = delete(&path).bearer(&key);
        second.expect(self.server, 404, FLAT_404).await;
        get(FLAT)
            .bearer(&new_key)
            .expect(self.server, 401, FLAT_401)
            .await;
    }

    async fn second_document(&self) {
        let key = self.pro_key().await;
        let created = post(ACCOUNT)
            .bearer(&key)
            .json(
                r#"{
"memo": "Development API Key",
"allowedIps": ["192.168.1.100"],
"expiresAt": "2125-12-31T23:59:59Z"
}"#,
            )
            .expect(
                self.server,
                201,
                r#"{"data":{"identifier":"*","description":"Development API Key","allowed_ips":["192.168.1.100"],"last_used_at":null,"created_at":"*Z"},"meta":{"secret_token":"xyp_*"}}"#,
            )
            .await;
        assert_eq!(created.header("cache-control"), Some("no-store"));
        let token = created.text("/meta/secret_token");
        assert_eq!(token.len(), "xyp_".len() + 32);

        let listed = get("/api/account/api-keys?page=1&limit=50")
            .bearer(&key)
            .expect(
                self.server,
                200,
                r#"{"data":[{"identifier":"*","description":"Development API Key","allowed_ips":["192.168.1.100"],"last_used_at":null,"created_at":"*Z"},{"identifier":"*","description":null,"allowed_ips":[],"last_used_at":null,"created_at":"*Z"}],"pagination":{"page":1,"perPage":50,"total":2,"totalPages":1}}"#,
            )
            .await;
        let id = created.text("/data/identifier");
        assert_eq!(listed.text("/data/0/identifier"), id);

        // The new key may only be used from an address that no client here has.
        get(ACCOUNT)
            .bearer(&token)
            .expect(
                self.server,
                403,
                r#"{"statusCode":403,"message":"This API key cannot be used from this address","errors":[]}"#,
            )
            .await;
        let documented = delete("/api/account/api-keys/clx1a2b3c4d5e6f7g8h9i0j1").bearer(&key);
        documented.expect(self.server, 404, ACCOUNT_404).await;
        let path = format!("{ACCOUNT}/{id}");
        let first = delete(&path).bearer(&key);
        first.expect(self.server, 200, SUCCESS).await;
        let second = delete(&path).bearer(&key);
        second.expect(self.server, 404, ACCOUNT_404).await;
    }

    async fn either_dialect_shows_the_keys_of_both(&self) {
        let key = self.pro_key().await;
        let flat = post(FLAT).bearer(&key).json(r#"{"name":" Tom "}"#);
        let flat = self.server.exchange(flat).await.text("/id");
        let account = post(ACCOUNT).bearer(&key).json(r#"{"memo":""}"#);
        let account = self.server.exchange(account).await;
        let account = account.text("/data/identifier");

        let listed = self.server.exchange(get(FLAT).bearer(&key)).await;
        assert_eq!(listed.text("/0/id"), account);
        assert_eq!(listed.text("/0/name"), "");
        assert_eq!(listed.text("/1/id"), flat);
        assert_eq!(listed.text("/1/name"), "Tom");
        let listed = self.server.exchange(get(ACCOUNT).bearer(&key)).await;
        assert_eq!(listed.text("/data/0/identifier"), account);
        assert!(listed.json()["data"][0]["description"].is_null());
        assert_eq!(listed.text("/data/1/description"), "Tom");

        for path in [format!("{FLAT}/{account}"), format!("{ACCOUNT}/{flat}")] {
            let crosswise = delete(path).bearer(&key);
            crosswise.expect(self.server, 200, SUCCESS).await;
        }
    }

    async fn unusable_bodies(&self) {
        let account = self.account("business").await;
        let key = self.key(&account).await;
        let sessions = format!("/v1/accounts/{account}/sessions");
        let keys = format!("/v1/accounts/{account}/keys");
        for (method, path, credential) in [
            ("POST", FLAT, &*key),
            ("POST", ACCOUNT, &key),
            ("POST", "/v1/accounts", self.operator),
            ("POST", &sessions, self.operator),
            ("POST", &keys, self.operator),
        ] {
            let request = || Request::new(method, path).bearer(credential);
            let long = format!(r#"{{"x":"{}"}}"#, "x".repeat(64 * 1024));
            let deep = format!(r#"{{"x":{}}}"#, "[".repeat(60_000));
            for (status, code, message, request) in [
                (
                    413,
                    "body_too_large",
                    "The body must not be longer than 64 KiB",
                    request().json(long),
                ),
                (
                    415,
                    "unsupported_media_type",
                    "The body must be sent as application/json",
                    request().body("text/plain", "{}"),
                ),
                (
                    415,
                    "unsupported_media_type",
                    "The body must be sent as application/json",
                    request().body("application/x-www-form-urlencoded", "name=x"),
                ),
                (
                    415,
                    "unsupported_media_type",
                    "The body must be sent as application/json",
                    request().json("{}").header("Content-Encoding", "gzip"),
                ),
                (400, "malformed_body", "A body is required", request()),
                (
                    400,
                    "malformed_body",
                    "A body is required",
                    request().json(" "),
                ),
                (
                    400,
                    "malformed_body",
                    "The body is not valid JSON: line *, column *",
                    request().json("{\"name\""),
                ),
                (
                    400,
                    "malformed_body",
                    "The body is not UTF-8",
                    request().json(b"{\"name\":\"\xff\"}".as_slice()),
                ),
                (
                    400,
                    "malformed_body",
                    "The body is not valid JSON: line *, column *",
                    request().json(deep),
                ),
                (
                    400,
                    "malformed_body",
                    "The body must be a JSON object",
                    request().json(r#"["Production Server"]"#),
                ),
                (
                    400,
                    "malformed_body",
                    "The body must be a JSON object",
                    request().json("null"),
                ),
            ] {
                let template = match path {
                    FLAT => format!(r#"{{"message":"{message}","code":"{code}"}}"#),
                    ACCOUNT => {
                        format!(r#"{{"statusCode":{status},"message":"{message}","errors":[]}}"#)
                    }
                    _ => format!(
                        r#"{{"title":"*","status":{status},"code":"{code}","detail":"{message}"}}"#
                    ),
                };
                request.expect(self.server, status, &template).await;
            }
        }
        let accepted = post(FLAT).bearer(&key).body(
            "Application/JSON; charset=utf-8",
            r#"{"name":"Production Server","key":"sk_live_x","id":"x","deep":{"a":[1]}}"#,
        );
        accepted.expect(self.server, 201, FLAT_CREATED).await;
    }

    async fn unusable_names(&self) {
        let key = self.key(&self.account("business").await).await;
        for (body, message) in [
            ("{}", "is required"),
            (r#"{"name":null}"#, "is required"),
            (r#"{"name":""}"#, "must not be empty"),
            (r#"{"name":"  "}"#, "must not be empty"),
            (r#"{"name":7}"#, "must be a string"),
            (
                r#"{"name":"a\u0000b"}"#,
                "must not contain control characters",
            ),
            (
                &format!(r#"{{"name":"{}"}}"#, "é".repeat(256)),
                "must be at most 255 characters",
            ),
        ] {
            let body_of_error =
                format!(r#"{{"message":"name {message}","code":"invalid_request"}}"#);
            let request = post(FLAT).bearer(&key).json(body);
            request.expect(self.server, 400, &body_of_error).await;
        }
        for body in [r#"{"name":"a","name":"b"}"#, r#"{"name":"\ud800"}"#] {
            let request = post(FLAT).bearer(&key).json(body);
            let answer = self.server.exchange(request).await;
            let code = answer.text("/code");
            assert_eq!((answer.status, &*code), (400, "malformed_body"), "{body}");
        }
    }

    async fn unusable_members(&self) {
        let key = self.key(&self.account("business").await).await;
        let address = "must be an IPv4 or IPv6 address or CIDR network";
        let time = "must be an RFC 3339 time with an offset, such as 2030-12-31T23:59:59Z";
        let many = format!(
            r#"{{"allowedIps":[{}"10.0.0.1"]}}"#,
            r#""10.0.0.1","#.repeat(128)
        );
        for (body, field, message) in [
            (
                &*format!(r#"{{"memo":"{}"}}"#, "x".repeat(501)),
                "memo",
                "must be at most 500 characters",
            ),
            (r#"{"memo":{}}"#, "memo", "must be a string"),
            (
                r#"{"memo":"\n"}"#,
                "memo",
                "must not contain control characters",
            ),
            (
                r#"{"allowedIps":"10.0.0.1"}"#,
                "allowedIps",
                "must be a list of strings",
            ),
            (
                r#"{"allowedIps":["10.0.0.1","localhost"]}"#,
                "allowedIps.1",
                address,
            ),
            (r#"{"allowedIps":["10.0.0.1:80"]}"#, "allowedIps.0", address),
            (
                r#"{"allowedIps":["fe80::1%eth0"]}"#,
                "allowedIps.0",
                address,
            ),
            (r#"{"allowedIps":["010.0.0.1"]}"#, "allowedIps.0", address),
            (r#"{"allowedIps":[" 10.0.0.1"]}"#, "allowedIps.0", address),
            (r#"{"allowedIps":["10.0.0.1/33"]}"#, "allowedIps.0", address),
            (
                r#"{"allowedIps":["10.0.0.1",null]}"#,
                "allowedIps.1",
                "must be a string",
            ),
            (&many, "allowedIps", "must have at most 128 entries"),
            (r#"{"expiresAt":"2125-12-31"}"#, "expiresAt", time),
            (r#"{"expiresAt":"2125-12-31T23:59:59"}"#, "expiresAt", time),
            (r#"{"expiresAt":"tomorrow"}"#, "expiresAt", time),
            (
                r#"{"expiresAt":4102444800}"#,
                "expiresAt",
                "must be a string",
            ),
            (
                r#"{"expiresAt":"2020-12-31T23:59:59Z"}"#,
                "expiresAt",
                "must be in the future",
            ),
        ] {
            let body_of_error = format!(
                r#"{{"statusCode":400,"message":"{field} {message}","errors":[{{"field":"{field}","message":"{message}"}}]}}"#
            );
            let request = post(ACCOUNT).bearer(&key).json(body);
            request.expect(self.server, 400, &body_of_error).await;
        }
        // All errors are returned at once.
        post(ACCOUNT)
            .bearer(&key)
            .json(r#"{"memo":1,"allowedIps":["a","10.0.0.1","b"]}"#)
            .expect(
                self.server,
                400,
                &format!(r#"{{"statusCode":400,"message":"memo must be a string","errors":[{{"field":"memo","message":"must be a string"}},{{"field":"allowedIps.0","message":"{address}"}},{{"field":"allowedIps.2","message":"{address}"}}]}}"#),
            )
            .await;
    }

    async fn absent_members_and_spellings(&self) {
        let key = self.pro_key().await;
        // A missing value can be written in several ways.
        for body in [
            "{}",
            r#"{"memo":null,"allowedIps":null,"expiresAt":null}"#,
            r#"{"memo":"","allowedIps":[]}"#,
        ] {
            let created = r#"{"data":{"identifier":"*","description":null,"allowed_ips":[],"last_used_at":null,"created_at":"*Z"},"meta":{"secret_token":"xyp_*"}}"#;
            let request = post(ACCOUNT).bearer(&key).json(body);
            request.expect(self.server, 201, created).await;
        }
        // Any legal spelling is shown in the canonical one.
        post(ACCOUNT)
            .bearer(&key)
            .json(r#"{"allowedIps":["2001:0DB8::0:1","192.168.1.77/24","::ffff:192.0.2.1","10.0.0.1/32"]}"#)
            .expect(
                self.server,
                201,
                r#"{"data":{"identifier":"*","description":null,"allowed_ips":["2001:db8::1","192.168.1.0/24","192.0.2.1","10.0.0.1"],"last_used_at":null,"created_at":"*Z"},"meta":{"secret_token":"xyp_*"}}"#,
            )
            .await;
    }

    async fn pages(&self) {
        let key = self.key(&self.account("business").await).await;
        for memo in ["first", "second"] {
            let body = format!(r#"{{"memo":"{memo}"}}"#);
            let request = post(ACCOUNT).bearer(&key).json(body);
            assert_eq!(self.server.exchange(request).await.status, 201);
        }
        for (query, page, per_page, pages, shown) in [
            ("", "1", 50, 1, vec!["second", "first", ""]),
            ("?page=1&limit=2", "1", 2, 2, vec!["second", "first"]),
            ("?limit=2&page=2", "2", 2, 2, vec![""]),
            ("?page=3&limit=2", "3", 2, 2, vec![]),
            (
                "?page=18446744073709551615&limit=100",
                "18446744073709551615",
                100,
                1,
                vec![],
            ),
            ("?unknown=1&limit=1&page=03", "3", 1, 3, vec![""]),
        ] {
            let request = get(format!("{ACCOUNT}{query}")).bearer(&key);
            let answer = self.server.exchange(request).await;
            let json = answer.json();
            let data = json["data"].as_array().expect("data is a list");
            let memos: Vec<_> = data
                .iter()
                .map(|key| key["description"].as_str().unwrap_or_default())
                .collect();
            assert_eq!((answer.status, memos), (200, shown), "{query}");
            let end = format!(
                r#""pagination":{{"page":{page},"perPage":{per_page},"total":3,"totalPages":{pages}}}}}"#
            );
            assert!(answer.body.ends_with(&end), "{query}: {}", answer.body);
        }
        let page = "must be a whole number of at least 1";
        let limit = "must be a whole number from 1 to 100";
        for (query, field, message) in [
            ("page=0", "page", page),
            ("page=-1", "page", page),
            ("page=1.5", "page", page),
            ("page=", "page", page),
            ("page=%2B1", "page", page),
            ("page=one", "page", page),
            ("page=99999999999999999999", "page", page),
            ("limit=0", "limit", limit),
            ("limit=101", "limit", limit),
            ("limit=all", "limit", limit),
            ("page=1&page=1", "page", "must be given once"),
        ] {
            let body = format!(
                r#"{{"statusCode":400,"message":"{field} {message}","errors":[{{"field":"{field}","message":"{message}"}}]}}"#
            );
            let request = get(format!("{ACCOUNT}?{query}")).bearer(&key);
            request.expect(self.server, 400, &body).await;
        }
    }

    async fn someone_elses_key_is_an_unknown_key(&self) {
        let (mine, theirs) = (self.pro_key().await, self.pro_key().await);
        let listed = self.server.exchange(get(FLAT).bearer(&theirs)).await;
        let id = listed.text("/0/id");
        for (path, body) in [(FLAT, FLAT_404), (ACCOUNT, ACCOUNT_404)] {
            let request = delete(format!("{path}/{id}")).bearer(&mine);
            request.expect(self.server, 404, body).await;
        }
        assert_eq!(
            self.server.exchange(get(FLAT).bearer(&theirs)).await.status,
            200
        );
    }

    async fn the_eleventh_key(&self) {
        let account = self.account("business").await;
        let key = self.key(&account).await;
        let mut last = String::new();
        for _ in 0..9 {
            let request = post(FLAT)
                .bearer(&key)
                .json(r#"{"name":"Production Server"}"#);
            let answer = request.expect(self.server, 201, FLAT_CREATED).await;
            last = answer.text("/id");
        }
        post(FLAT)
            .bearer(&key)
            .json(r#"{"name":"one too many"}"#)
            .expect(
                self.server,
                403,
                r#"{"message":"Maximum 10 API keys per account","code":"key_limit_reached"}"#,
            )
            .await;
        post(ACCOUNT)
            .bearer(&key)
            .json("{}")
            .expect(
                self.server,
                403,
                r#"{"statusCode":403,"message":"Maximum 10 API keys per account","errors":[]}"#,
            )
            .await;
        self.operate(post(format!("/v1/accounts/{account}/keys")).json("{}"))
            .await
            .assert(403, r#"{"title":"Forbidden","status":403,"code":"key_limit_reached","detail":"Maximum 10 API keys per account"}"#);
        // Errors of the body come first, and a revoked key makes room at once.
        let wrong = post(FLAT).bearer(&key).json("{}");
        assert_eq!(self.server.exchange(wrong).await.status, 400);
        let revoke = delete(format!("{FLAT}/{last}")).bearer(&key);
        revoke.expect(self.server, 200, SUCCESS).await;
        let again = post(FLAT)
            .bearer(&key)
            .json(r#"{"name":"Production Server"}"#);
        again.expect(self.server, 201, FLAT_CREATED).await;
    }

    async fn too_many_requests(&self) {
        let account = self.account("pro").await;
        let (key, other) = (self.key(&account).await, self.key(&account).await);
        // Refused requests count, through either contract and with any key of the account.
        for number in 0..10 {
            let path = if number % 2 == 0 { FLAT } else { ACCOUNT };
            let credential = if number % 3 == 0 { &key } else { &other };
            let request = post(path).bearer(credential).body("text/plain", "x");
            let answer = self.server.exchange(request).await;
            assert_eq!(answer.status, 415);
            assert_eq!(
                answer.header("ratelimit-policy"),
                Some(r#""create";q=10;w=60"#)
            );
            let state = answer.header("ratelimit").unwrap_or_default();
            assert!(state.starts_with(r#""create";r="#), "{state}");
        }
        for (path, body) in [
            (
                FLAT,
                r#"{"message":"Too many requests","code":"rate_limited"}"#,
            ),
            (
                ACCOUNT,
                r#"{"statusCode":429,"message":"Too many requests","errors":[]}"#,
            ),
        ] {
            let request = post(path).bearer(&key).body("text/plain", "x");
            let answer = request.expect(self.server, 429, body).await;
            let seconds: u32 = answer
                .header("retry-after")
                .unwrap_or_default()
                .parse()
                .expect("whole seconds");
            assert!((1..=6).contains(&seconds), "{seconds}");
            assert_eq!(
                answer.header("ratelimit-policy"),
                Some(r#""create";q=10;w=60"#)
            );
            let state = answer.header("ratelimit").unwrap_or_default();
            assert!(state.starts_with(r#""create";r=0;t="#), "{state}");
        }
        // The other operations have buckets of their own.
        let listed = self.server.exchange(get(FLAT).bearer(&key)).await;
        assert_eq!(
            (listed.status, listed.header("ratelimit-policy")),
            (200, Some(r#""list";q=30;w=60"#))
        );
        let deleted = self
            .server
            .exchange(delete(format!("{FLAT}/x")).bearer(&key))
            .await;
        assert_eq!(
            (deleted.status, deleted.header("ratelimit-policy")),
            (404, Some(r#""delete";q=10;w=60"#))
        );
    }

    async fn plan_without_keys(&self) {
        let account = self.account("business").await;
        let (key, session) = (self.key(&account).await, self.session(&account).await);
        let listed = self.server.exchange(get(FLAT).bearer(&key)).await;
        let id = listed.text("/0/id");
        let path = format!("/v1/accounts/{account}");
        let downgraded = self.operate(patch(&path).json(r#"{"plan":"free"}"#)).await;
        assert_eq!(downgraded.status, 200);

        for (path, body) in [(FLAT, PLAN_403), (ACCOUNT, ACCOUNT_PLAN_403)] {
            get(path).bearer(&key).expect(self.server, 403, body).await;
            // The plan is checked before the body.
            let create = post(path).bearer(&key).body("text/plain", "");
            create.expect(self.server, 403, body).await;
            let create = post(path).bearer(&session).json("{}");
            create.expect(self.server, 403, body).await;
            let remove = delete(format!("{path}/{id}")).bearer(&key);
            remove.expect(self.server, 403, body).await;
        }
        self.operate(post(format!("{path}/keys")).json("{}"))
            .await
            .assert(403, r#"{"title":"Forbidden","status":403,"code":"plan_forbidden","detail":"API keys not available on your plan"}"#);
        // Nothing is deleted: a session still sees it, and an upgrade restores it.
        let listed = self.server.exchange(get(FLAT).bearer(&session)).await;
        assert_eq!((listed.status, listed.text("/0/id")), (200, id.clone()));
        let upgraded = self.operate(patch(&path).json(r#"{"plan":"pro"}"#)).await;
        assert_eq!(upgraded.status, 200);
        assert_eq!(
            self.server.exchange(get(FLAT).bearer(&key)).await.status,
            200
        );
        // A session of an account on a plan without keys may delete existing ones.
        let downgraded = self.operate(patch(&path).json(r#"{"plan":"free"}"#)).await;
        assert_eq!(downgraded.status, 200);
        let remove = delete(format!("{ACCOUNT}/{id}")).bearer(&session);
        remove.expect(self.server, 200, SUCCESS).await;
    }

    async fn keys_never_make_wider_keys(&self) {
        let account = self.account("business").await;
        let issued = self
            .operate(post(format!("/v1/accounts/{account}/keys")).json(
                r#"{"allowed_ips":["0.0.0.0/1","128.0.0.0/1","::/1","8000::/1"],"expires_at":"2125-01-01T00:00:00Z"}"#,
            ))
            .await;
        let key = issued.text("/key");
        for (body, field, message) in [(
            r#"{"expiresAt":"2125-01-01T00:00:01Z"}"#,
            "expiresAt",
            "must not be later than the expiry of the key that creates it",
        )] {
            let body_of_error = format!(
                r#"{{"statusCode":400,"message":"{field} {message}","errors":[{{"field":"{field}","message":"{message}"}}]}}"#
            );
            let request = post(ACCOUNT).bearer(&key).json(body);
            request.expect(self.server, 400, &body_of_error).await;
        }
        // A field that is left out is inherited from the creator, and shown.
        post(ACCOUNT)
            .bearer(&key)
            .json("{}")
            .expect(
                self.server,
                201,
                r#"{"data":{"identifier":"*","description":null,"allowed_ips":["0.0.0.0/1","128.0.0.0/1","::/1","8000::/1"],"last_used_at":null,"created_at":"*Z"},"meta":{"secret_token":"xyp_*"}}"#,
            )
            .await;
    }

    async fn repetitions(&self) {
        let account = self.account("business").await;
        let key = self.key(&account).await;
        for (path, body, other) in [
            (FLAT, r#"{"name":"a"}"#, r#"{"name":"b"}"#),
            (ACCOUNT, r#"{"memo":"a"}"#, r#"{"memo":"b"}"#),
        ] {
            let request = |body: &str| {
                post(path)
                    .bearer(&key)
                    .header("Idempotency-Key", "once")
                    .json(body)
            };
            let first = self.server.exchange(request(body)).await;
            assert_eq!(first.status, 201, "{}", first.body);
            let second = self.server.exchange(request(body)).await;
            assert_eq!((second.status, second.body), (201, first.body));
            let template = match path {
                FLAT => {
                    r#"{"message":"This Idempotency-Key was used with another body","code":"idempotency_body_differs"}"#
                }
                _ => {
                    r#"{"statusCode":422,"message":"This Idempotency-Key was used with another body","errors":[]}"#
                }
            };
            request(other).expect(self.server, 422, template).await;
        }
        let listed = self.server.exchange(get(FLAT).bearer(&key)).await;
        assert_eq!(listed.json().as_array().map(Vec::len), Some(3));
        for header in [vec!["a", "b"], vec![""], vec!["a b"]] {
            let request = post(FLAT).bearer(&key).json(r#"{"name":"a"}"#);
            let request = header.iter().fold(request, |request, value| {
                request.header("Idempotency-Key", value)
            });
            request
                .expect(
                    self.server,
                    400,
                    r#"{"message":"Idempotency-Key must be one value of 1 to 255 visible ASCII characters","code":"invalid_idempotency_key"}"#,
                )
                .await;
        }
        for (path, body) in [
            ("/v1/accounts".to_owned(), r#"{"plan":"pro"}"#),
            (
                format!("/v1/accounts/{account}/sessions"),
                r#"{"ttl_seconds":60}"#,
            ),
            (format!("/v1/accounts/{account}/keys"), "{}"),
        ] {
            let request = || post(&path).header("Idempotency-Key", &account).json(body);
            let first = self.operate(request()).await;
            assert_eq!(first.status, 201, "{}", first.body);
            let second = self.operate(request()).await;
            assert_eq!((second.status, second.body), (201, first.body));
        }
    }

    async fn accounts(&self) {
        // Unique over all runs against the same database.
        let unique = self.account("pro").await;
        let body = format!(r#"{{"external_id":"user {unique}","plan":"pro"}}"#);
        let created = self.operate(post("/v1/accounts").json(&*body)).await;
        let id = created.text("/id");
        let created_at = created.text("/created_at");
        let view = |external_id: &str, plan: &str, disabled: bool| {
            format!(
                r#"{{"id":"{id}","external_id":{external_id},"plan":"{plan}","disabled":{disabled},"created_at":"{created_at}"}}"#
            )
        };
        let external_id = format!(r#""user {unique}""#);
        created.assert(201, &view(&external_id, "pro", false));
        self.operate(post("/v1/accounts").json(body)).await.assert(
            409,
            r#"{"title":"Conflict","status":409,"code":"external_id_taken","detail":"Another account has this external_id"}"#,
        );

        let path = format!("/v1/accounts/{id}");
        self.operate(get(&path))
            .await
            .assert(200, &view(&external_id, "pro", false));
        let query = format!("/v1/accounts?external_id=user%20{unique}");
        let page = format!(
            r#"{{"data":[{}],"next_cursor":null}}"#,
            view(&external_id, "pro", false)
        );
        self.operate(get(query)).await.assert(200, &page);

        for (body, external_id, plan, disabled) in [
            ("{}", &*external_id, "pro", false),
            (r#"{"plan":"business"}"#, &external_id, "business", false),
            (r#"{"disabled":true}"#, &external_id, "business", true),
            (r#"{"external_id":null}"#, "null", "business", true),
            (r#"{"disabled":false,"plan":"pro"}"#, "null", "pro", false),
        ] {
            let answer = self.operate(patch(&path).json(body)).await;
            let view = view(external_id, plan, disabled);
            let (account, _) = view.split_at(view.len() - 1);
            let updated = format!(r#"{account},"effective_everywhere_by":"*Z"}}"#);
            answer.assert(200, &updated);
            let by = answer.text("/effective_everywhere_by");
            assert_eq!(answer.header("effective-everywhere-by"), Some(&*by));
        }

        let first = self.operate(get("/v1/accounts?limit=1")).await;
        assert_eq!(first.json()["data"].as_array().map(Vec::len), Some(1));
        let cursor = first.text("/next_cursor");
        let second = self
            .operate(get(format!("/v1/accounts?limit=1&cursor={cursor}")))
            .await;
        assert_eq!(second.status, 200);
        assert_ne!(second.json()["data"], first.json()["data"]);
    }

    async fn account_at_fault(&self) {
        let invalid = |field: &str, message: &str| {
            format!(
                r#"{{"title":"Bad Request","status":400,"code":"invalid_request","detail":"{field} {message}","errors":[{{"field":"{field}","message":"{message}"}}]}}"#
            )
        };
        let id = self.account("pro").await;
        let account = format!("/v1/accounts/{id}");
        let external_id = "must be 1 to 255 characters, none of them a control character";
        let limit = "must be a whole number from 1 to 100";
        for (request, field, message) in [
            (post("/v1/accounts").json("{}"), "plan", "is required"),
            (
                post("/v1/accounts").json(r#"{"plan":1}"#),
                "plan",
                "must be a string",
            ),
            (
                post("/v1/accounts").json(r#"{"plan":"pro","external_id":""}"#),
                "external_id",
                external_id,
            ),
            (
                post("/v1/accounts").json(r#"{"plan":"pro","external_id":1}"#),
                "external_id",
                "must be a string",
            ),
            (get("/v1/accounts?limit=0"), "limit", limit),
            (get("/v1/accounts?limit=101"), "limit", limit),
            (
                get("/v1/accounts?cursor=x"),
                "cursor",
                "must be a next_cursor of another page",
            ),
            (get("/v1/accounts?external_id="), "external_id", external_id),
            (
                get("/v1/accounts?cursor=a&cursor=a"),
                "cursor",
                "must be given once",
            ),
            (
                patch(&account).json(r#"{"plan":null}"#),
                "plan",
                "must be a string",
            ),
            (
                patch(&account).json(r#"{"disabled":null}"#),
                "disabled",
                "must be true or false",
            ),
            (
                patch(&account).json(r#"{"disabled":"yes"}"#),
                "disabled",
                "must be true or false",
            ),
            (
                patch(&account).json(r#"{"external_id":""}"#),
                "external_id",
                external_id,
            ),
        ] {
            self.operate(request)
                .await
                .assert(400, &invalid(field, message));
        }
        for plan in ["gold", "No Plan"] {
            let body = format!(r#"{{"plan":"{plan}"}}"#);
            for request in [
                post("/v1/accounts").json(&*body),
                patch(&account).json(&*body),
            ] {
                self.operate(request).await.assert(
                    400,
                    r#"{"title":"Bad Request","status":400,"code":"unknown_plan","detail":"plan is not the name of a plan","errors":[{"field":"plan","message":"is not the name of a plan"}]}"#,
                );
            }
        }
        for unknown in ["x", "AAAAAAAAAAAAAAAAAAAAAA"] {
            let path = format!("/v1/accounts/{unknown}");
            for request in [
                get(&path),
                patch(&path).json("{}"),
                post(format!("{path}/sessions")).json(r#"{"ttl_seconds":60}"#),
                post(format!("{path}/keys")).json("{}"),
            ] {
                self.operate(request).await.assert(
                    404,
                    r#"{"title":"Not Found","status":404,"code":"account_not_found","detail":"Account not found"}"#,
                );
            }
        }
    }

    async fn sessions(&self) {
        let account = self.account("pro").await;
        let path = format!("/v1/accounts/{account}/sessions");
        for (body, message) in [
            ("{}", "is required"),
            (
                r#"{"ttl_seconds":0}"#,
                "must be a whole number from 1 to 86400",
            ),
            (
                r#"{"ttl_seconds":86401}"#,
                "must be a whole number from 1 to 86400",
            ),
            (
                r#"{"ttl_seconds":1.5}"#,
                "must be a whole number from 1 to 86400",
            ),
            (
                r#"{"ttl_seconds":"60"}"#,
                "must be a whole number from 1 to 86400",
            ),
        ] {
            let answer = self.operate(post(&path).json(body)).await;
            assert_eq!(
                (answer.status, &*answer.text("/errors/0/message")),
                (400, message)
            );
            assert_eq!(answer.text("/errors/0/field"), "ttl_seconds");
        }
        let opened = self
            .operate(post(&path).json(r#"{"ttl_seconds":86400}"#))
            .await;
        opened.assert(201, r#"{"id":"*","token":"session_*","expires_at":"*Z"}"#);
        assert_eq!(opened.header("cache-control"), Some("no-store"));
        let token = opened.text("/token");
        // Used like a key on both contracts, and neither listed nor counted.
        get(FLAT)
            .bearer(&token)
            .expect(self.server, 200, "[]")
            .await;
        let empty = r#"{"data":[],"pagination":{"page":1,"perPage":50,"total":0,"totalPages":0}}"#;
        get(ACCOUNT)
            .bearer(&token)
            .expect(self.server, 200, empty)
            .await;
        let create = post(FLAT)
            .bearer(&token)
            .json(r#"{"name":"Production Server"}"#);
        create.expect(self.server, 201, FLAT_CREATED).await;
    }

    async fn keys_of_accounts(&self) {
        let account = self.account("pro").await;
        let path = format!("/v1/accounts/{account}/keys");
        let issued = self
            .operate(post(&path).json(
                r#"{"name":" CI ","prefix":"acme_test","allowed_ips":["10.1.2.3/8"],"scopes":["b:c","a","a"],"expires_at":"2125-01-01T01:00:00+01:00"}"#,
            ))
            .await;
        issued.assert(
            201,
            &format!(r#"{{"id":"*","account_id":"{account}","name":"CI","key":"acme_test_*","key_prefix":"acme_test_*","allowed_ips":["10.0.0.0/8"],"scopes":["a","b:c"],"expires_at":"2125-01-01T00:00:00.000Z","limits":{{}},"metadata":{{}},"last_used_at":null,"created_at":"*Z"}}"#),
        );
        assert_eq!(issued.header("cache-control"), Some("no-store"));
        self.operate(post(&path).json(r#"{"name":null,"prefix":null,"allowed_ips":null,"scopes":null,"expires_at":null}"#))
            .await
            .assert(
                201,
                &format!(r#"{{"id":"*","account_id":"{account}","name":null,"key":"sk_live_*","key_prefix":"sk_live_*","allowed_ips":[],"scopes":[],"expires_at":null,"limits":{{}},"metadata":{{}},"last_used_at":null,"created_at":"*Z"}}"#),
            );
        for (body, field) in [
            (r#"{"name":""}"#, "name"),
            (r#"{"prefix":"Sk-Live"}"#, "prefix"),
            (r#"{"prefix":"operator"}"#, "prefix"),
            (r#"{"prefix":"session"}"#, "prefix"),
            (r#"{"allowed_ips":["10.0.0.1","nowhere"]}"#, "allowed_ips.1"),
            (r#"{"scopes":["a","B"]}"#, "scopes.1"),
            (r#"{"scopes":[1]}"#, "scopes.0"),
            (r#"{"scopes":"a"}"#, "scopes"),
            (r#"{"expires_at":"2020-01-01T00:00:00Z"}"#, "expires_at"),
            (r#"{"expires_at":"2125-01-01"}"#, "expires_at"),
        ] {
            let answer = self.operate(post(&path).json(body)).await;
            assert_eq!(
                (answer.status, &*answer.text("/code")),
                (400, "invalid_request"),
                "{body}"
            );
            assert_eq!(answer.text("/errors/0/field"), field, "{body}");
        }
        // A disabled account is refused, and nothing is created for it.
        let disabled = self
            .operate(patch(format!("/v1/accounts/{account}")).json(r#"{"disabled":true}"#))
            .await;
        assert_eq!(disabled.status, 200);
        self.operate(post(&path).json("{}")).await.assert(
            403,
            r#"{"title":"Forbidden","status":403,"code":"account_disabled","detail":"The account is disabled"}"#,
        );
    }
}

impl Answer {
    fn assert(&self, status: u16, template: &str) {
        assert!(
            self.status == status && super::exchange::matches(template, &self.body),
            "expected {status} {template}\n     got {} {}",
            self.status,
            self.body
        );
    }
}
