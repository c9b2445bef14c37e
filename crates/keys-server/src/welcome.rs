//! What a first start on an embedded database prints: the first operator key, and commands to try.

use std::net::SocketAddr;

use keys_core::{AllowedNetworks, KeyName};
use keys_service::issue::OPERATOR_PREFIX;
use keys_service::{Actor, KeyOwner, KeyService, OperatorKeyDraft};

use crate::commands::operator_scopes;
use crate::config::Http;
use crate::listen::Endpoint;
use crate::output;

/// Makes the first operator key and prints it, with commands that work when pasted.
pub(crate) async fn print(
    service: &KeyService,
    endpoints: &[Endpoint],
    http: &Http,
) -> anyhow::Result<()> {
    let draft = OperatorKeyDraft {
        name: KeyName::from_name("first operator")?,
        allowed_networks: AllowedNetworks::default(),
        scopes: operator_scopes(&[])?,
        expires_at: None,
    };
    let issued = service.issue_operator_key(&Actor::system(), draft).await?;
    let text = text(issued.secret.expose(), &reachable(endpoints), http);
    output::line(&text)?;
    Ok(())
}

/// Says what to do where there is no operator key yet.
pub(crate) async fn hint(service: &KeyService, embedded: bool) -> anyhow::Result<()> {
    let operators = service.list_keys(KeyOwner::Operators, 0, 1).await?;
    if operators.total == 0 {
        let whose = if embedded {
            ""
        } else {
            ", with the same settings"
        };
        tracing::warn!(
            "there is no {OPERATOR_PREFIX} key: make one with `keys-server operator-key create --name NAME`{whose}"
        );
    }
    Ok(())
}

/// The first address as a client on this machine writes it: one that listens everywhere is reached at localhost.
fn reachable(endpoints: &[Endpoint]) -> String {
    let address = endpoints.iter().find_map(Endpoint::tcp);
    let address = address.unwrap_or(SocketAddr::from(([127, 0, 0, 1], 8080)));
    if address.ip().is_unspecified() {
        format!("http://localhost:{}", address.port())
    } else {
        format!("http://{address}")
    }
}

fn text(operator_key: &str, url: &str, http: &Http) -> String {
    let (flat, account) = (&http.flat.path, &http.account.path);
    format!(
        r#"
The first operator key. It is shown this once; keep it.

    {operator_key}

To try things out, paste these into a shell.

# Who you are, and where
OPERATOR_KEY={operator_key}
URL={url}

# Create an account on the Pro plan, and its first key
ACCOUNT=$(curl -s -X POST $URL/v1/accounts -H "Authorization: Bearer $OPERATOR_KEY" \
  -H "Content-Type: application/json" -d '{{"plan":"pro"}}' | grep -o '"id":"[^"]*' | cut -d'"' -f4)
KEY=$(curl -s -X POST $URL/v1/accounts/$ACCOUNT/keys -H "Authorization: Bearer $OPERATOR_KEY" \
  -H "Content-Type: application/json" -d '{{"name":"First key"}}' | grep -o '"key":"[^"]*' | cut -d'"' -f4)
echo "account $ACCOUNT has the key $KEY"

# With that key: create another, list them, through either contract
curl -s -X POST $URL{flat} -H "Authorization: Bearer $KEY" \
  -H "Content-Type: application/json" -d '{{"name":"Production Server"}}'; echo
curl -s $URL{flat} -H "Authorization: Bearer $KEY"; echo
curl -s -X POST "$URL{account}" -H "Authorization: Bearer $KEY" -H "Content-Type: application/json" \
  -d '{{"memo":"Development API Key","allowedIps":["192.168.1.100"],"expiresAt":"2099-12-31T23:59:59Z"}}'; echo
curl -s "$URL{account}?page=1&limit=50" -H "Authorization: Bearer $KEY"; echo

# Revoke the first key; from then on it opens nothing
ID=$(curl -s $URL{flat} -H "Authorization: Bearer $KEY" | grep -o '"id":"[^"]*","name":"First key"' | cut -d'"' -f4)
curl -s -X DELETE $URL{flat}/$ID -H "Authorization: Bearer $KEY"; echo
curl -s $URL{flat} -H "Authorization: Bearer $KEY"; echo
"#
    )
}
