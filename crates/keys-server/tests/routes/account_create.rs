//! `POST /api/account/api-keys`

use serde_json::{Value, json};

use crate::dialect::{ACCOUNT, Dialect, account_created, account_fault};
use crate::world::Place;

on_both_databases!(
    documented_credential_is_nobodys,
    documented_request_names_an_expiry_that_has_passed,
    unusable_memo_is_refused,
    unusable_list_of_addresses_is_refused,
    unusable_address_is_refused_by_its_index,
    unusable_expiry_is_refused,
    everything_that_is_wrong_is_said_at_once,
    documented_request_with_a_future_expiry_creates_a_key_as_documented,
    absence_is_written_in_several_ways,
    memo_is_kept_as_it_is,
    addresses_are_shown_in_canonical_form,
    as_many_addresses_as_allowed_are_kept_in_order,
    expiry_may_have_any_offset,
    members_of_the_other_dialect_are_ignored,
);

const ADDRESS: &str = "must be an IPv4 or IPv6 address or CIDR network";
const TIME: &str = "must be an RFC 3339 time with an offset, such as 2030-12-31T23:59:59Z";

async fn documented_credential_is_nobodys(place: Place) {
    let world = place.shared().await;
    world
        .post(ACCOUNT)
        .header("Authorization", "Bearer YOUR_API_KEY")
        .text(documented("2025-12-31T23:59:59Z"))
        .expect(401, &Dialect::Account.unauthorized())
        .await
        .has(
            "www-authenticate",
            r#"Bearer realm="keys", error="invalid_token""#,
        );
}

/// Returns the documented body, byte for byte, except for the expiry.
fn documented(expires_at: &str) -> String {
    format!(
        r#"{{
"memo": "Development API Key",
"allowedIps": ["192.168.1.100"],
"expiresAt": "{expires_at}"
}}"#
    )
}

async fn documented_request_names_an_expiry_that_has_passed(place: Place) {
    let world = place.shared().await;
    let key = world.key_on("pro").await;
    world
        .post("/api/account/api-keys")
        .bearer(&key)
        .text(documented("2025-12-31T23:59:59Z"))
        .expect(400, &account_fault("expiresAt", "must be in the future"))
        .await;
    assert_eq!(world.names(&key).await, [""]);
}

async fn refusals(place: Place, rows: Vec<(Value, String, &str)>) {
    let world = place.shared().await;
    let key = world.key_on("roomy").await;
    for (body, field, message) in rows {
        let create = world.post(ACCOUNT).bearer(&key).json(&body);
        create.expect(400, &account_fault(&field, message)).await;
    }
    assert_eq!(world.names(&key).await, [""]);
}

async fn unusable_memo_is_refused(place: Place) {
    let rows = [
        (json!(1), "must be a string"),
        (json!(false), "must be a string"),
        (json!([]), "must be a string"),
        (json!({}), "must be a string"),
        (json!("\u{0}"), "must not contain control characters"),
        (json!("a\tb"), "must not contain control characters"),
        (json!("é".repeat(501)), "must be at most 500 characters"),
    ];
    let rows = rows.map(|(memo, message)| (json!({ "memo": memo }), "memo".to_owned(), message));
    refusals(place, rows.into()).await;
}

async fn unusable_list_of_addresses_is_refused(place: Place) {
    let many: Vec<_> = (0..129).map(|number| format!("10.0.0.{number}")).collect();
    let rows = [
        (json!("10.0.0.1"), "must be a list of strings"),
        (json!({}), "must be a list of strings"),
        (json!(false), "must be a list of strings"),
        (json!(many), "must have at most 128 entries"),
        (
            json!(vec!["10.0.0.1"; 129]),
            "must have at most 128 entries",
        ),
    ];
    let field = "allowedIps".to_owned();
    let rows = rows.map(|(list, message)| (json!({ "allowedIps": list }), field.clone(), message));
    refusals(place, rows.into()).await;
}

async fn unusable_address_is_refused_by_its_index(place: Place) {
    let mut rows = Vec::new();
    for address in [
        "",
        " ",
        "localhost",
        "example.com",
        "*",
        "10.0.0.1:80",
        "[::1]",
        "[::1]:80",
        "fe80::1%eth0",
        "fe80::1%25eth0",
        "010.0.0.1",
        "10.0.0.01",
        " 10.0.0.1",
        "10.0.0.1 ",
        "10.0.0.1\n",
        "10.0.0",
        "167772161",
        "0x0a000001",
        "10.0.0.256",
        "10.0.0.1/33",
        "10.0.0.1/",
        "/8",
        "10.0.0.1/08",
        "10.0.0.1/+8",
        "10.0.0.1/-1",
        "10.0.0.1/255.0.0.0",
        "10.0.0.1/8/8",
        "10.0.0.0-10.0.0.9",
        "10.0.0.1,10.0.0.2",
        "::1/129",
        ":::1",
        "1::2::3",
    ] {
        let body = json!({ "allowedIps": ["10.0.0.1", "2001:db8::/32", address] });
        rows.push((body, "allowedIps.2".to_owned(), ADDRESS));
    }
    for entry in [json!(null), json!(1), json!(["10.0.0.1"]), json!({})] {
        let body = json!({ "allowedIps": [entry] });
        rows.push((body, "allowedIps.0".to_owned(), "must be a string"));
    }
    refusals(place, rows).await;
}

async fn unusable_expiry_is_refused(place: Place) {
    let rows = [
        (json!(4_102_444_800_i64), "must be a string"),
        (json!([]), "must be a string"),
        (json!(""), TIME),
        (json!("tomorrow"), TIME),
        (json!("2125-12-31"), TIME),
        (json!("2125-12-31T23:59:59"), TIME),
        (json!("2125-12-31T23:59"), TIME),
        (json!("2125-12-31T23:59Z"), TIME),
        (json!("2125-12-31 23:59:59Z"), TIME),
        (json!(" 2125-12-31T23:59:59Z"), TIME),
        (json!("2125-02-29T00:00:00Z"), TIME),
        (json!("2125-12-31T24:00:00Z"), TIME),
        (json!("2125-12-31T23:59:59+24:00"), TIME),
        (json!("2125-12-31T23:59:59 UTC"), TIME),
        (json!("+02125-12-31T23:59:59Z"), TIME),
        (json!("12125-12-31T23:59:59Z"), TIME),
        (json!("4102444800"), TIME),
        (json!("2020-01-01T00:00:00Z"), "must be in the future"),
        (json!("1969-12-31T23:59:59Z"), "must be in the future"),
        (json!("0000-01-01T00:00:00Z"), "must be in the future"),
        // The current time is not in the future any more when it arrives.
        (
            json!(crate::world::exactly(crate::world::in_millis(0))),
            "must be in the future",
        ),
    ];
    let field = "expiresAt".to_owned();
    let rows = rows.map(|(time, message)| (json!({ "expiresAt": time }), field.clone(), message));
    refusals(place, rows.into()).await;
}

async fn everything_that_is_wrong_is_said_at_once(place: Place) {
    let world = place.shared().await;
    let key = world.key_on("pro").await;
    world
        .post(ACCOUNT)
        .bearer(&key)
        .json(&json!({ "expiresAt": "never", "allowedIps": ["a", "10.0.0.1", 2], "memo": 1 }))
        .expect(
            400,
            &json!({
                "statusCode": 400,
                "message": "memo must be a string",
                "errors": [
                    { "field": "memo", "message": "must be a string" },
                    { "field": "allowedIps.0", "message": ADDRESS },
                    { "field": "allowedIps.2", "message": "must be a string" },
                    { "field": "expiresAt", "message": TIME },
                ],
            }),
        )
        .await;
}

async fn documented_request_with_a_future_expiry_creates_a_key_as_documented(place: Place) {
    let world = place.shared().await;
    let key = world.key_on("pro").await;
    let created = world
        .post("/api/account/api-keys")
        .bearer(&key)
        .text(documented("2125-12-31T23:59:59Z"))
        .expect(
            201,
            &account_created(&json!("Development API Key"), &json!(["192.168.1.100"])),
        )
        .await
        .has("content-type", "application/json")
        .has("cache-control", "no-store");
    let token = created.text("/meta/secret_token");
    assert_eq!(token.len(), "xyp_".len() + 32);
    // It may be used from 192.168.1.100, and from no other address.
    for dialect in Dialect::BOTH {
        let list = world.get(dialect.path()).bearer(&token);
        list.expect(403, &dialect.wrong_address()).await;
    }
}

async fn absence_is_written_in_several_ways(place: Place) {
    let world = place.shared().await;
    let key = world.key_on("roomy").await;
    for body in [
        json!({}),
        json!({ "memo": null, "allowedIps": null, "expiresAt": null }),
        json!({ "memo": "", "allowedIps": [] }),
    ] {
        let create = world.post(ACCOUNT).bearer(&key).json(&body);
        let expected = account_created(&json!(null), &json!([]));
        let created = create.expect(201, &expected).await;
        let token = created.text("/meta/secret_token");
        assert_eq!(world.names(&token).await[0], "");
    }
}

async fn memo_is_kept_as_it_is(place: Place) {
    let world = place.shared().await;
    let key = world.key_on("roomy").await;
    for memo in [
        "🔑".repeat(500),
        " a ".to_owned(),
        " ".to_owned(),
        "twin".to_owned(),
        "twin".to_owned(),
    ] {
        world.create(Dialect::Account, &key, &memo).await;
        let listed = world.get(ACCOUNT).bearer(&key).send().await;
        assert_eq!(listed.text("/data/0/description"), memo);
        assert_eq!(world.names(&key).await[0], memo);
    }
}

async fn addresses_are_shown_in_canonical_form(place: Place) {
    let world = place.shared().await;
    let key = world.key_on("roomy").await;
    for (sent, shown) in [
        ("192.168.1.1", "192.168.1.1"),
        ("192.168.1.1/32", "192.168.1.1"),
        ("192.168.1.77/24", "192.168.1.0/24"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("255.255.255.255", "255.255.255.255"),
        ("2001:0DB8:0000:0000:0000:0000:0000:0001", "2001:db8::1"),
        ("2001:db8:0:0:1:0:0:1", "2001:db8::1:0:0:1"),
        ("2001:db8::1/128", "2001:db8::1"),
        ("2001:db8::1/64", "2001:db8::/64"),
        ("::", "::"),
        ("::/0", "::/0"),
        ("::1", "::1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("::FFFF:C000:0201", "192.0.2.1"),
        ("::ffff:192.0.2.1/120", "192.0.2.0/24"),
        ("64:ff9b::192.0.2.1", "64:ff9b::c000:201"),
    ] {
        let create = world.post(ACCOUNT).bearer(&key);
        let create = create.json(&json!({ "allowedIps": [sent] }));
        let expected = account_created(&json!(null), &json!([shown]));
        create.expect(201, &expected).await;
        // And again from the database.
        let listed = world.get(ACCOUNT).bearer(&key).send().await;
        assert_eq!(listed.json()["data"][0]["allowed_ips"], json!([shown]));
    }
}

async fn as_many_addresses_as_allowed_are_kept_in_order(place: Place) {
    let world = place.shared().await;
    let key = world.key_on("pro").await;
    let most: Vec<_> = (0..128)
        .rev()
        .map(|number| format!("10.0.{number}.1"))
        .collect();
    let create = world.post(ACCOUNT).bearer(&key);
    let create = create.json(&json!({ "allowedIps": most }));
    let expected = account_created(&json!(null), &json!(most));
    create.expect(201, &expected).await;
    let listed = world.get(ACCOUNT).bearer(&key).send().await;
    assert_eq!(listed.json()["data"][0]["allowed_ips"], json!(most));
}

async fn expiry_may_have_any_offset(place: Place) {
    let world = place.shared().await;
    let key = world.key_on("roomy").await;
    for expiry in [
        "2125-12-31T23:59:59Z",
        "2125-12-31t23:59:59z",
        "2125-12-31T23:59:59.999999999Z",
        "2125-12-31T23:59:59+05:30",
        "2125-12-31T23:59:59-08:00",
        "2125-12-31T23:59:59-00:00",
        "9999-12-31T23:59:59Z",
    ] {
        let create = world.post(ACCOUNT).bearer(&key);
        let create = create.json(&json!({ "expiresAt": expiry }));
        let expected = account_created(&json!(null), &json!([]));
        let token = create
            .expect(201, &expected)
            .await
            .text("/meta/secret_token");
        assert_eq!(world.status(&token).await, 200, "{expiry}");
    }
}

async fn members_of_the_other_dialect_are_ignored(place: Place) {
    let world = place.shared().await;
    let key = world.key_on("pro").await;
    let body = json!({
        "name": 1,
        "description": 2,
        "allowed_ips": ["nowhere"],
        "expires_at": "never",
        "last_used_at": "2020-01-01T00:00:00.000Z",
        "identifier": "AAAAAAAAAAAAAAAAAAAAAA",
        "meta": { "secret_token": "xyp_0" },
    });
    let create = world.post(ACCOUNT).bearer(&key).json(&body);
    create
        .expect(201, &account_created(&json!(null), &json!([])))
        .await;
}
