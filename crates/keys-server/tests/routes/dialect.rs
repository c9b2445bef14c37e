//! The two contracts side by side, and the form of refusals on all surfaces.

use serde_json::{Value, json};

use crate::exchange::Answer;
use crate::shape::{ID, NOW, shown_prefix, whole_key};

pub(crate) const FLAT: &str = "/api/api-keys";
pub(crate) const ACCOUNT: &str = "/api/account/api-keys";

/// A well-formed key that does not exist.
pub(crate) const NOBODYS_KEY: &str = "sk_live_000000000000000000000000003vSKjy";

/// One of the two contracts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    Flat,
    Account,
}

impl Dialect {
    pub(crate) const BOTH: [Self; 2] = [Self::Flat, Self::Account];

    /// Returns the path to create and list keys.
    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::Flat => FLAT,
            Self::Account => ACCOUNT,
        }
    }

    /// Returns the path to delete one key.
    pub(crate) fn path_of(self, id: &str) -> String {
        format!("{}/{id}", self.path())
    }

    /// Returns the body of a request for a key with this name.
    pub(crate) fn draft(self, name: &str) -> Value {
        match self {
            Self::Flat => json!({ "name": name }),
            Self::Account => json!({ "memo": name }),
        }
    }

    /// Returns the answer to it.
    pub(crate) fn created(self, name: &str) -> Value {
        match self {
            Self::Flat => json!({
                "id": ID,
                "name": name,
                "key": whole_key("sk_live"),
                "keyPrefix": shown_prefix("sk_live"),
                "createdAt": NOW,
            }),
            Self::Account => account_created(&json!(name), &json!([])),
        }
    }

    /// Returns the key in that answer.
    pub(crate) fn key(self, created: &Answer) -> String {
        created.text(match self {
            Self::Flat => "/key",
            Self::Account => "/meta/secret_token",
        })
    }

    /// Returns the id in that answer.
    pub(crate) fn id(self, created: &Answer) -> String {
        created.text(match self {
            Self::Flat => "/id",
            Self::Account => "/data/identifier",
        })
    }

    /// Returns the keys in a list.
    pub(crate) fn listed(self, list: &Answer) -> Vec<Value> {
        let json = list.json();
        let keys = match self {
            Self::Flat => &json,
            Self::Account => &json["data"],
        };
        keys.as_array().unwrap().clone()
    }

    /// Returns the fields of the id, the name and the last use of a listed key.
    pub(crate) fn members(self) -> [&'static str; 3] {
        match self {
            Self::Flat => ["id", "name", "lastUsedAt"],
            Self::Account => ["identifier", "description", "last_used_at"],
        }
    }

    /// Returns a refusal that is not about a field of the request.
    pub(crate) fn error(self, status: u16, code: &str, message: &str) -> Value {
        match self {
            Self::Flat => json!({ "message": message, "code": code }),
            Self::Account => json!({ "statusCode": status, "message": message, "errors": [] }),
        }
    }

    pub(crate) fn unauthorized(self) -> Value {
        self.error(401, "unauthorized", "Unauthorized")
    }

    pub(crate) fn plan_forbidden(self) -> Value {
        self.error(403, "plan_forbidden", "API keys not available on your plan")
    }

    pub(crate) fn key_not_found(self) -> Value {
        self.error(404, "key_not_found", "API key not found")
    }

    pub(crate) fn rate_limited(self) -> Value {
        self.error(429, "rate_limited", "Too many requests")
    }

    pub(crate) fn cap_reached(self, max: u32) -> Value {
        let message = format!("Maximum {max} API keys per account");
        self.error(403, "key_limit_reached", &message)
    }

    pub(crate) fn wrong_address(self) -> Value {
        self.error(
            403,
            "ip_not_allowed",
            "This API key cannot be used from this address",
        )
    }

    pub(crate) fn wrong_kind(self) -> Value {
        self.error(
            403,
            "kind_not_allowed",
            "This kind of credential cannot be used here",
        )
    }
}

/// Returns the answer to a create through the account contract.
pub(crate) fn account_created(description: &Value, allowed_ips: &Value) -> Value {
    json!({
        "data": {
            "identifier": ID,
            "description": description,
            "allowed_ips": allowed_ips,
            "last_used_at": null,
            "created_at": NOW,
        },
        "meta": { "secret_token": whole_key("xyp") },
    })
}

/// Returns the answer to a delete through either contract.
pub(crate) fn success() -> Value {
    json!({ "success": true })
}

/// Returns a refusal of the flat contract that names a field.
pub(crate) fn flat_fault(field: &str, message: &str) -> Value {
    json!({ "message": format!("{field} {message}"), "code": "invalid_request" })
}

/// Returns a refusal of the account contract that names a field.
pub(crate) fn account_fault(field: &str, message: &str) -> Value {
    json!({
        "statusCode": 400,
        "message": format!("{field} {message}"),
        "errors": [{ "field": field, "message": message }],
    })
}

/// Returns a refusal of all other surfaces.
pub(crate) fn problem(status: u16, code: &str, detail: &str) -> Value {
    let title = match status {
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        409 => "Conflict",
        412 => "Precondition Failed",
        413 => "Payload Too Large",
        415 => "Unsupported Media Type",
        422 => "Unprocessable Entity",
        429 => "Too Many Requests",
        503 => "Service Unavailable",
        _ => panic!("{status} is no refusal"),
    };
    json!({ "title": title, "status": status, "code": code, "detail": detail })
}

/// Returns a refusal of the management surface that names a field.
pub(crate) fn problem_fault(field: &str, message: &str) -> Value {
    let mut problem = problem(400, "invalid_request", &format!("{field} {message}"));
    problem["errors"] = json!([{ "field": field, "message": message }]);
    problem
}
