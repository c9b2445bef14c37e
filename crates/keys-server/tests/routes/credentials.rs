//! Credentials: 401 and its challenge, schemes, conflicting credentials, the form of a key, kinds.

use serde_json::{Value, json};

use crate::dialect::{ACCOUNT, Dialect, FLAT, NOBODYS_KEY, problem};
use crate::exchange::Request;
use crate::world::Place;

on_both_databases!(
    nothing_presented_is_challenged_without_an_error,
    credential_in_the_query_string_is_not_there,
    whatever_is_presented_and_unknown_is_challenged_with_an_error,
    empty_credential_is_missing_and_ignored_beside_another_one,
    any_changed_character_of_a_key_is_refused,
    shown_prefix_opens_nothing,
    two_different_credentials_are_refused_whichever_is_good,
    conflict_is_not_counted_as_a_failure,
    scheme_is_read_in_any_case_and_x_api_key_as_well,
    same_credential_twice_is_one,
    operators_key_manages_no_account_and_accounts_key_no_operators_surface,
    accounts_key_with_operators_scopes_is_no_operators_key,
    revoked_operators_key_is_unknown,
    disabled_account_is_refused_as_long_as_it_is_disabled,
);

const NO_ERROR: &str = r#"Bearer realm="keys""#;
const INVALID_TOKEN: &str = r#"Bearer realm="keys", error="invalid_token""#;

/// Returns every guarded route, with the body of its 401.
fn routes() -> Vec<(&'static str, String, Value)> {
    const ID: &str = "AAAAAAAAAAAAAAAAAAAAAA";
    let mut routes = Vec::new();
    for dialect in Dialect::BOTH {
        let path = dialect.path().to_owned();
        routes.push(("GET", path.clone(), dialect.unauthorized()));
        routes.push(("POST", path, dialect.unauthorized()));
        routes.push(("DELETE", dialect.path_of(ID), dialect.unauthorized()));
    }
    let problem = problem(401, "unauthorized", "Unauthorized");
    for (method, path) in [
        ("GET", "/v1/accounts"),
        ("POST", "/v1/accounts"),
        ("GET", "/v1/accounts/AAAAAAAAAAAAAAAAAAAAAA"),
        ("PATCH", "/v1/accounts/AAAAAAAAAAAAAAAAAAAAAA"),
        ("POST", "/v1/accounts/AAAAAAAAAAAAAAAAAAAAAA/sessions"),
        ("POST", "/v1/accounts/AAAAAAAAAAAAAAAAAAAAAA/keys"),
        ("PATCH", "/v1/keys/AAAAAAAAAAAAAAAAAAAAAA"),
    ] {
        routes.push((method, path.to_owned(), problem.clone()));
    }
    routes
}

async fn nothing_presented_is_challenged_without_an_error(place: Place) {
    let world = place.shared().await;
    for (method, path, body) in routes() {
        let answer = world.request(method, &path).expect(401, &body).await;
        answer.has("www-authenticate", NO_ERROR);
        // Cookies are not credentials here.
        let cookie = world.request(method, &path).header("Cookie", "session=x");
        let answer = cookie.expect(401, &body).await;
        answer.has("www-authenticate", NO_ERROR);
    }
}

async fn credential_in_the_query_string_is_not_there(place: Place) {
    let world = place.shared().await;
    let key = world.key_on("pro").await;
    for (method, path, body) in routes() {
        let credential = if path.starts_with("/v1") {
            world.operator()
        } else {
            &key
        };
        for name in [
            "api_key",
            "apikey",
            "access_token",
            "token",
            "key",
            "Authorization",
        ] {
            let path = format!("{path}?{name}={credential}");
            let answer = world.request(method, &path).expect(401, &body).await;
            answer.has("www-authenticate", NO_ERROR);
        }
    }
}

async fn whatever_is_presented_and_unknown_is_challenged_with_an_error(place: Place) {
    let world = place.shared().await;
    let key = world.key_on("pro").await;
    let session = world.session(&world.account("pro").await).await;
    for (method, path, body) in routes() {
        for (name, value) in [
            (
                "Authorization",
                format!("Bearer {NOBODYS_KEY}").into_bytes(),
            ),
            ("Authorization", b"Bearer nonsense".into()),
            ("Authorization", key.clone().into()),
            ("Authorization", format!("Bearer{key}").into()),
            ("Authorization", format!("Bearer\t{key}").into()),
            ("Authorization", format!("Bearer: {key}").into()),
            ("Authorization", format!("Bearer \"{key}\"").into()),
            ("Authorization", format!("Bearer {key} x").into()),
            ("Authorization", format!("Bearer {key},").into()),
            ("Authorization", format!("Basic {key}").into()),
            ("Authorization", format!("Token {key}").into()),
            ("Authorization", b"Basic YTpi".into()),
            (
                "Authorization",
                format!("Bearer {}", key.to_uppercase()).into(),
            ),
            ("Authorization", format!("Bearer {key}\u{e9}").into()),
            ("Authorization", b"Bearer \xff\xfe".into()),
            (
                "Authorization",
                format!("Bearer {}", "k".repeat(5_000)).into(),
            ),
            ("X-API-Key", NOBODYS_KEY.into()),
            ("X-API-Key", format!("Bearer {key}").into()),
            ("X-API-Key", format!("{key}{key}").into()),
            ("X-API-Key", session[1..].into()),
        ] {
            let request = world.request(method, &path).header(name, &value);
            let answer = request.expect(401, &body).await;
            answer.has("www-authenticate", INVALID_TOKEN);
        }
    }
}

async fn empty_credential_is_missing_and_ignored_beside_another_one(place: Place) {
    const EMPTY: [(&str, &str); 5] = [
        ("Authorization", "Bearer"),
        ("Authorization", "bearer "),
        ("Authorization", ""),
        ("X-API-Key", ""),
        ("X-API-Key", "  "),
    ];
    let world = place.shared().await;
    for (method, path, body) in routes() {
        for (name, empty) in EMPTY {
            let alone = world.request(method, &path).header(name, empty);
            let answer = alone.expect(401, &body).await;
            answer.has("www-authenticate", NO_ERROR);
        }
    }
    let key = world.key_on("roomy").await;
    for dialect in Dialect::BOTH {
        for (name, empty) in EMPTY {
            let beside = |request: Request| request.header(name, empty);
            for request in [
                beside(world.get(dialect.path())).bearer(&key),
                beside(world.get(dialect.path()).bearer(&key)),
                beside(world.get(dialect.path()).header("X-API-Key", &key)),
            ] {
                let answer = request.send().await;
                assert_eq!(answer.status, 200, "{name}: {empty:?}: {answer:?}");
            }
        }
    }
}

async fn any_changed_character_of_a_key_is_refused(place: Place) {
    let world = place.shared().await;
    let key = world.key_on("roomy").await;
    assert_eq!(world.status(&key).await, 200);
    for index in 0..key.len() {
        let mut changed = key.clone();
        let other = if &key[index..=index] == "a" { "b" } else { "a" };
        changed.replace_range(index..=index, other);
        for dialect in Dialect::BOTH {
            let list = world.get(dialect.path()).bearer(&changed);
            let answer = list.expect(401, &dialect.unauthorized()).await;
            answer.has("www-authenticate", INVALID_TOKEN);
        }
    }
    for other in [
        format!("{key}a"),
        format!("a{key}"),
        key[..key.len() - 1].to_owned(),
        key.replace("sk_live", "sk_test"),
        key.replace("sk_live", "xyp"),
        key.replace("sk_live_", ""),
        key.replace("sk_live", "operator"),
    ] {
        assert_eq!(world.status(&other).await, 401, "{other}");
    }
}

async fn shown_prefix_opens_nothing(place: Place) {
    let world = place.shared().await;
    let key = world.key_on("pro").await;
    let created = world.create(Dialect::Flat, &key, "key").await;
    for shown in [created.text("/keyPrefix"), created.text("/id")] {
        let list = world.get(FLAT).bearer(&shown);
        let answer = list.expect(401, &Dialect::Flat.unauthorized()).await;
        answer.has("www-authenticate", INVALID_TOKEN);
    }
}

async fn two_different_credentials_are_refused_whichever_is_good(place: Place) {
    const MESSAGE: &str = "Two different credentials were presented";
    let world = place.shared().await;
    let (key, other) = (world.key_on("pro").await, world.key_on("pro").await);
    let bodies = [
        (
            FLAT,
            Dialect::Flat.error(400, "conflicting_credentials", MESSAGE),
        ),
        (
            ACCOUNT,
            Dialect::Account.error(400, "conflicting_credentials", MESSAGE),
        ),
        (
            "/v1/accounts",
            problem(400, "conflicting_credentials", MESSAGE),
        ),
    ];
    for (path, body) in bodies {
        let request = || world.get(path);
        for request in [
            request().bearer(&key).header("X-API-Key", &other),
            request().bearer(&other).header("X-API-Key", &key),
            request().bearer(&key).header("X-API-Key", NOBODYS_KEY),
            request().bearer("nonsense").header("X-API-Key", &key),
            request().bearer(&key).bearer(&other),
            request()
                .header("X-API-Key", &key)
                .header("X-API-Key", &other),
            request()
                .header("Authorization", "Basic YTpi")
                .header("X-API-Key", &key),
            request().header("Authorization", "Basic YTpi").bearer(&key),
            request().bearer(&key).header("X-API-Key", b"\xff"),
        ] {
            request
                .expect(400, &body)
                .await
                .has("www-authenticate", None);
        }
    }
}

async fn conflict_is_not_counted_as_a_failure(place: Place) {
    let world = place.shared().await;
    let conflict = world.get(FLAT).bearer("a").header("X-API-Key", "b");
    let answer = conflict.send().await;
    assert_eq!(answer.status, 400);
    answer.has("ratelimit", None);
}

async fn scheme_is_read_in_any_case_and_x_api_key_as_well(place: Place) {
    let world = place.shared().await;
    let account = world.account("roomy").await;
    let credentials = [world.key(&account).await, world.session(&account).await];
    let accepted = |path: &str, credential: &str| {
        [
            ("Authorization", format!("Bearer {credential}")),
            ("authorization", format!("bearer {credential}")),
            ("AUTHORIZATION", format!("BEARER {credential}")),
            ("Authorization", format!("bEaReR {credential}")),
            ("Authorization", format!("Bearer   {credential}")),
            ("X-API-Key", credential.to_owned()),
            ("x-api-key", credential.to_owned()),
        ]
        .map(|(name, value)| world.get(path).header(name, value))
    };
    for credential in &credentials {
        for dialect in Dialect::BOTH {
            for request in accepted(dialect.path(), credential) {
                let answer = request.send().await;
                assert_eq!(answer.status, 200, "{answer:?}");
            }
        }
    }
    for request in accepted("/v1/accounts?limit=1", world.operator()) {
        let answer = request.send().await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
}

async fn same_credential_twice_is_one(place: Place) {
    let world = place.shared().await;
    let key = world.key_on("pro").await;
    for request in [
        world.get(FLAT).bearer(&key).header("X-API-Key", &key),
        world.get(FLAT).bearer(&key).bearer(&key),
        world
            .get(FLAT)
            .bearer(&key)
            .header("authorization", format!("bearer  {key}")),
        world
            .get(FLAT)
            .header("X-API-Key", &key)
            .header("X-API-Key", &key),
    ] {
        let answer = request.send().await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
}

fn wrong_kind() -> Value {
    problem(
        403,
        "kind_not_allowed",
        "This kind of credential cannot be used here",
    )
}

async fn operators_key_manages_no_account_and_accounts_key_no_operators_surface(place: Place) {
    let world = place.shared().await;
    let account = world.account("pro").await;
    let credentials = [world.key(&account).await, world.session(&account).await];
    for (method, path, _) in routes() {
        if path.starts_with("/v1/keys/") {
            // Accounts manage their own keys there.
            continue;
        }
        if path.starts_with("/v1") {
            for credential in &credentials {
                let request = world.request(method, &path).bearer(credential);
                let answer = request.expect(403, &wrong_kind()).await;
                answer.has("www-authenticate", None);
            }
        } else {
            let dialect = if path.starts_with(FLAT) {
                Dialect::Flat
            } else {
                Dialect::Account
            };
            let request = world.request(method, &path).bearer(world.operator());
            let answer = request.expect(403, &dialect.wrong_kind()).await;
            answer.has("www-authenticate", None);
        }
    }
}

async fn accounts_key_with_operators_scopes_is_no_operators_key(place: Place) {
    let world = place.shared().await;
    let account = world.account("pro").await;
    let scopes = [
        "accounts:read",
        "accounts:write",
        "keys:read",
        "keys:write",
        "keys:verify",
    ];
    let key = world.issue(&account, &json!({ "scopes": scopes })).await;
    let key = key.text("/key");
    for path in ["/v1/accounts", "/v1/accounts/x"] {
        world
            .get(path)
            .bearer(&key)
            .expect(403, &wrong_kind())
            .await;
    }
    assert_eq!(world.status(&key).await, 200);
}

async fn revoked_operators_key_is_unknown(place: Place) {
    let world = place.shared().await;
    let arguments = ["operator-key", "create", "--name", "short-lived", "--json"];
    let created: Value = serde_json::from_str(&world.command(&arguments)).unwrap();
    let (id, key) = (
        created["id"].as_str().unwrap(),
        created["key"].as_str().unwrap(),
    );
    let list = || world.get("/v1/accounts?limit=1").bearer(key);
    assert_eq!(list().send().await.status, 200);
    world.command(&["key", "revoke", id]);
    let body = problem(401, "unauthorized", "Unauthorized");
    list()
        .expect(401, &body)
        .await
        .has("www-authenticate", INVALID_TOKEN);
}

async fn disabled_account_is_refused_as_long_as_it_is_disabled(place: Place) {
    let world = place.shared().await;
    let account = world.account("pro").await;
    let credentials = [world.key(&account).await, world.session(&account).await];
    world.change(&account, &json!({ "disabled": true })).await;
    for credential in &credentials {
        for dialect in Dialect::BOTH {
            let body = dialect.error(403, "account_disabled", "The account is disabled");
            for request in [
                world.get(dialect.path()),
                world.post(dialect.path()).json(&dialect.draft("key")),
                world.delete(&dialect.path_of("x")),
            ] {
                let answer = request.bearer(credential).expect(403, &body).await;
                answer.has("www-authenticate", None);
            }
        }
    }
    world.change(&account, &json!({ "disabled": false })).await;
    for credential in &credentials {
        assert_eq!(world.status(credential).await, 200);
    }
}
